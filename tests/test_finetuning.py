"""Distillation in the fine-tuning: what is measured, and that the teacher stays as it is."""

import numpy as np
import pytest

from tfmetaprune._keras import keras, tf
from tfmetaprune.finetuning import distillation, finetune_model

L = keras.layers


def classifier(activation=None, units=3, seed=0):
    keras.utils.set_random_seed(seed)
    return keras.Sequential([L.Dense(8, "relu", input_shape=(5,)), L.Dense(units, activation)])


def inputs(count=96):
    return tf.constant(np.random.default_rng(0).normal(size=(count, 5)), tf.float32)


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


@pytest.mark.parametrize("activation, loss", [("softmax", None), (None, keras.losses.SparseCategoricalCrossentropy(from_logits=True))])
def test_distance_of_classes_is_the_divergence_at_temperature_two(activation, loss):
    teacher, student, x = classifier(activation, seed=1), classifier(activation, seed=2), inputs()
    p, q = teacher(x).numpy(), student(x).numpy()
    if activation:
        p, q = np.log(p), np.log(q)
    p, q = softmax(p / 2), softmax(q / 2)
    expected = 4 * np.mean(np.sum(p * np.log(p / q), -1))
    assert float(distillation(teacher, loss)(x, student(x))) == pytest.approx(expected, rel=1e-4)
    assert float(distillation(teacher, loss)(x, teacher(x))) == pytest.approx(0, abs=1e-6)


def test_distance_of_numbers_is_the_squared_difference():
    teacher, student, x = classifier(seed=1), classifier(seed=2), inputs()
    expected = np.mean((teacher(x) - student(x)) ** 2)
    assert float(distillation(teacher, keras.losses.MeanSquaredError())(x, student(x))) == pytest.approx(expected, rel=1e-5)


def test_distance_of_sigmoids_is_smallest_at_the_teacher():
    teacher, student, x = classifier("sigmoid", 1, seed=1), classifier("sigmoid", 1, seed=2), inputs()
    distance = distillation(teacher, keras.losses.BinaryCrossentropy())
    assert distance(x, teacher(x)) < distance(x, student(x))


@pytest.mark.parametrize("activation", ["softmax", None])
def test_distillation_draws_to_the_teacher_and_leaves_it_alone(activation):
    x = inputs()
    teacher = classifier(activation, seed=1)
    before = [value.copy() for value in teacher.get_weights()]
    wrong = np.argmin(teacher(x), -1)  # labels that pull away from it
    data = tf.data.Dataset.from_tensor_slices((x, wrong)).batch(32)
    distances = {}
    for taught in (False, True):
        student = classifier(activation, seed=2)
        finetune_model(student, data, epochs=10, learning_rate=1e-2, teacher=teacher if taught else None)
        distances[taught] = float(distillation(teacher, keras.losses.SparseCategoricalCrossentropy())(x, student(x)))
        assert len(student.weights) == 4
    assert distances[True] < 0.8 * distances[False]
    for value, old in zip(teacher.get_weights(), before, strict=True):
        np.testing.assert_array_equal(value, old)


def test_what_runs_along_runs_with_distillation_after_distillation_alone():
    """Keras changes the bases of a functional model's class, which once put `Functional.call` before that of what runs along."""

    class Doubled:
        def call(self, inputs, training=None, mask=None):
            return 2 * super().call(inputs, training=training, mask=mask)

    x = inputs()
    data = tf.data.Dataset.from_tensor_slices((x, np.zeros(len(x), int))).batch(32)
    losses = keras.losses.SparseCategoricalCrossentropy(from_logits=True), None

    def first_loss(prepare):
        return finetune_model(classifier(), data, losses=losses, epochs=1, learning_rate=1e-9, teacher=classifier(seed=1), prepare=prepare)

    alone = first_loss(None)["loss"][0]
    doubled = classifier()
    doubled.layers[-1].set_weights([2 * value for value in doubled.layers[-1].get_weights()])
    expected = finetune_model(doubled, data, losses=losses, epochs=1, learning_rate=1e-9)["loss"][0]
    assert first_loss(lambda _: (Doubled, {}, ()))["loss"][0] == pytest.approx(expected, rel=1e-5) != pytest.approx(alone, rel=1e-2)
