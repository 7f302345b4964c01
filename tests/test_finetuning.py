"""The loss, metrics and distillation of the fine-tuning: what is measured, and that the teacher stays as it is."""

import keras as keras3
import numpy as np
import pytest

from tfmetaprune._keras import keras, tf
from tfmetaprune.data.checking import check_data
from tfmetaprune.errors import DataError
from tfmetaprune.finetuning import check_loss, distillation, evaluate_model, finetune_model, own_losses
from tfmetaprune.interop import CarriedLoss, carry
from tfmetaprune.trace import activation_of

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


def data_of(x, y):
    return tf.data.Dataset.from_tensor_slices((x, y)).batch(32)


def test_accuracy_of_binary_logits_and_of_several_labels_is_that_of_the_threshold_their_loss_implies():
    x = inputs()
    logits = keras.losses.BinaryCrossentropy(from_logits=True)
    for units, activation, loss, threshold in ((1, None, logits, 0), (4, None, logits, 0), (4, "sigmoid", "binary_crossentropy", 0.5)):
        model = classifier(activation, units)
        y = (np.random.default_rng(1).normal(size=(len(x), units)) > 0).astype(np.float32)
        wanted = np.mean((model(x).numpy() > threshold) == y)
        assert evaluate_model(model, data_of(x, y), (loss, None))["accuracy"] == pytest.approx(wanted)
        model.compile("adam", loss)
        assert own_losses(model) == (loss, None)


@pytest.mark.parametrize("wrap", [lambda name: {name: "sparse_categorical_crossentropy"}, lambda _: ["sparse_categorical_crossentropy"]])
def test_a_loss_by_name_of_the_only_output_is_that_of_a_classifier(wrap):
    model, x = classifier("softmax"), inputs()
    loss, y = wrap(model.output_names[0]), np.random.default_rng(1).integers(0, 3, 96)
    wanted = np.mean(np.argmax(model(x), -1) == y)
    assert evaluate_model(model, data_of(x, y), (loss, None))["accuracy"] == pytest.approx(wanted)
    with pytest.raises(DataError, match=r"expected labels in 0\.\.2"):
        check_data((x, y + 1), model, loss=loss)


def test_the_usual_loss_knows_probabilities_behind_what_only_moves_them():
    x, y = inputs(), np.random.default_rng(1).integers(0, 3, 96)
    plain = classifier("softmax")
    wanted = evaluate_model(plain, data_of(x, y))
    tail = {
        "reshaped": L.Reshape((3,)), "cast": L.Activation("linear", dtype="float32"), "flat": L.Flatten()
    }  # fmt: skip
    models = [keras.Model(plain.input, layer(plain.output), name=name) for name, layer in tail.items()]
    models += [keras.Sequential([L.Input((5,)), plain, L.Reshape((3,))])]
    last = L.Dense(3, tf.nn.softmax)
    models += [keras.Model(plain.input, last(plain.layers[-2].output))]
    models += [keras.Model(plain.input, tf.nn.softmax(tf.math.log(plain.output)))]
    last.set_weights(plain.layers[-1].get_weights())
    for model in models:
        assert evaluate_model(model, data_of(x, y)) == pytest.approx(wanted, rel=1e-4)


def test_probabilities_of_keras_ops_are_known():
    x, y = inputs(), np.random.default_rng(1).integers(0, 3, 96)
    plain = classifier("softmax")
    wanted = evaluate_model(plain, data_of(x, y))
    for end in (keras3.ops.softmax, keras3.activations.softmax, lambda z: keras3.ops.reshape(keras3.ops.softmax(z), (-1, 3))):
        image = keras3.Input((5,))
        model = keras3.Model(image, end(keras3.layers.Dense(3)(keras3.layers.Dense(8, "relu")(image))))
        model.set_weights(plain.get_weights())
        assert evaluate_model(carry(model)[0], data_of(x, y)) == pytest.approx(wanted, rel=1e-4)
    other = keras3.Model(image, keras3.ops.softmax(keras3.layers.Dense(3)(image), axis=0))
    assert activation_of(carry(other)[0].layers[-1]) is None


@pytest.mark.parametrize(
    "loss",
    ["bce", keras.losses.BinaryCrossentropy(name="a"), keras3.losses.BinaryCrossentropy(name="b"), keras3.losses.BinaryFocalCrossentropy()],
)
def test_losses_are_known_by_other_names(loss):
    x = inputs()
    model = classifier("sigmoid", 4)
    y = (np.random.default_rng(1).normal(size=(len(x), 4)) > 0).astype(np.float32)
    carried = CarriedLoss(loss, 2) if isinstance(loss, keras3.losses.Loss) else loss
    assert evaluate_model(model, data_of(x, y), (carried, None))["accuracy"] == pytest.approx(np.mean((model(x).numpy() > 0.5) == y))


@pytest.mark.parametrize(
    "loss, labels",
    [("categorical_crossentropy", (96,)), ("sparse_categorical_crossentropy", (96, 3)), ("mse", (96, 4)), ({"dense_1": "mse"}, (96, 4))],
)
def test_labels_that_do_not_fit_the_loss_are_told(loss, labels):
    model = classifier()
    loss = {model.output_names[0]: "mse"} if isinstance(loss, dict) else loss
    read = []
    data = data_of(inputs(), np.zeros(labels, np.float32)).map(lambda *batch: (tf.py_function(lambda: read.append(1), (), ()), batch)[1])
    with pytest.raises(DataError, match=r"expected labels that fit the loss of model '.*', got shapes \[\(None"):
        check_loss(model, data, (loss, None))
    check_loss(model, data_of(inputs(), np.zeros((96, 3), np.float32)), ("mse", None))
    assert not read


def test_a_dataset_of_unknown_length_is_counted():
    x, y = inputs(), np.zeros(96, int)
    data = data_of(x, y).filter(lambda *_: True)
    assert int(data.cardinality()) == tf.data.UNKNOWN_CARDINALITY
    first, second = (finetune_model(classifier(), each, epochs=1) for each in (data, data_of(x, y)))
    assert first["loss"] == pytest.approx(second["loss"])


def test_a_model_compiled_without_a_loss_gets_the_usual_one():
    x, y = inputs(), np.random.default_rng(1).integers(0, 3, 96)
    model = classifier("softmax")
    wanted = evaluate_model(model, data_of(x, y))
    model.compile("adam", metrics=["accuracy"])
    assert own_losses(model) == (None, None)
    assert evaluate_model(model, data_of(x, y), own_losses(model)) == wanted
    assert finetune_model(model, data_of(x, y), losses=own_losses(model), epochs=1, teacher=classifier("softmax"))["loss"][0] > 0


def test_an_output_of_one_number_without_an_axis_is_a_regression():
    x = inputs()
    model = keras.Sequential([L.Input((5,)), L.Dense(1), L.Reshape(())])
    data = data_of(x, x[:, 0])
    assert evaluate_model(model, data)["loss"] == pytest.approx(np.mean((model(x) - x[:, 0]) ** 2), rel=1e-4)
    assert finetune_model(model, data, epochs=1, teacher=model)["loss"][0] > 0


def two_outputs():
    keras.utils.set_random_seed(0)
    x = keras.Input((5,))
    return keras.Model(x, [L.Dense(3, name="z_class")(x), L.Dense(4, name="a_box")(x)])


def test_losses_and_labels_by_name_go_to_their_outputs():
    teacher, student, x = two_outputs(), two_outputs(), inputs()
    student.set_weights([value + 0.1 * np.cos(np.arange(value.size)).reshape(value.shape) for value in teacher.get_weights()])
    losses = {"z_class": keras.losses.SparseCategoricalCrossentropy(from_logits=True), "a_box": "mse"}
    by_name = distillation(teacher, losses)(x, student(x))
    assert float(by_name) == pytest.approx(float(distillation(teacher, [losses["z_class"], "mse"])(x, student(x))))
    assert float(by_name) != pytest.approx(float(distillation(teacher, ["mse", losses["z_class"]])(x, student(x))), rel=1e-2)
    one_for_all = distillation(teacher, losses["z_class"])(x, student(x))  # Keras, too, gives it to each output
    assert float(one_for_all) == pytest.approx(float(distillation(teacher, 2 * [losses["z_class"]])(x, student(x))))
    assert float(one_for_all) != pytest.approx(float(distillation(teacher, ["mse", "mse"])(x, student(x))), rel=1e-2)

    labels = {"a_box": np.ones((96, 4), np.float32), "z_class": np.random.default_rng(1).integers(0, 3, 96)}
    found = evaluate_model(teacher, data_of(x, labels))["loss"]
    assert found == pytest.approx(evaluate_model(teacher, data_of(x, labels), (losses, None))["loss"])


def test_logits_of_independent_labels_are_drawn_to_the_teachers_probabilities():
    teacher, student, x = classifier(units=4, seed=1), classifier(units=4, seed=2), inputs()
    p, q = (1 / (1 + np.exp(-model(x).numpy())) for model in (teacher, student))
    wanted = -np.mean(p * np.log(q) + (1 - p) * np.log(1 - q))
    assert float(distillation(teacher, keras.losses.BinaryCrossentropy(from_logits=True))(x, student(x))) == pytest.approx(wanted, rel=1e-4)


def test_float16_layers_are_trained_with_a_scaled_loss():
    x, y = inputs(), np.random.default_rng(1).normal(size=(96, 1)).astype(np.float32)
    changes = {}
    for policy in ("float32", "mixed_float16"):
        keras.utils.set_random_seed(0)
        first = L.Dense(8, "relu", dtype=policy)
        model = keras.Sequential([L.Input((5,)), first, L.Dense(1, dtype="float32")])
        model.layers[-1].set_weights([np.full((8, 1), 1e-8), np.zeros(1)])  # gradients below 1e-8 are nothing in float16
        model.layers[-1].trainable = False
        before = first.get_weights()[0]
        finetune_model(model, data_of(x, y), losses=("mse", None), epochs=3, learning_rate=1e6, optimizer=keras.optimizers.SGD)
        changes[policy] = first.get_weights()[0] - before
    assert np.linalg.norm(changes["float32"]) > 1e-4
    np.testing.assert_allclose(changes["mixed_float16"], changes["float32"], atol=0.02 * np.abs(changes["float32"]).max())


class HalfSquare(keras3.losses.Loss):
    """A loss of a user of Keras 3; it puts out a number for each example."""

    def call(self, y_true, y_pred):
        return keras3.ops.mean(keras3.ops.square(y_pred - y_true), -1) / 2


@pytest.mark.parametrize("reduction", ["sum_over_batch_size", "sum"])
def test_a_keras3_users_loss_weighs_each_example(reduction):
    rng = np.random.default_rng(0)
    x, y, w = (rng.normal(size=shape).astype(np.float32) for shape in ((32, 5), (32, 2), (32,)))
    model = keras3.Sequential([keras3.Input((5,)), keras3.layers.Dense(2)])
    model.compile("sgd", HalfSquare(reduction=reduction))
    wanted = model.evaluate(x, y, sample_weight=w, batch_size=32, verbose=0)
    data = tf.data.Dataset.from_tensor_slices((x, y, w)).batch(32)
    assert evaluate_model(carry(model)[0], data, own_losses(model))["loss"] == pytest.approx(wanted, rel=1e-5)


def test_a_keras3_users_loss_is_not_taken_for_its_namesake():
    class BinaryCrossentropy(HalfSquare):
        pass

    model = keras3.Sequential([keras3.Input((5,)), keras3.layers.Dense(2)])
    model.compile("sgd", BinaryCrossentropy())
    assert isinstance(own_losses(model)[0], CarriedLoss)
