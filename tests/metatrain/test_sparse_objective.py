"""The objectives for zeros: their masks are those of `prune`, carry gradients, and keep the budget."""

import numpy as np
import pytest

from tfmetaprune._keras import keras, tf
from tfmetaprune.data import load
from tfmetaprune.errors import ArgumentError
from tfmetaprune.metanet import MetaNetConfig, MetaNetwork
from tfmetaprune.metatrain.evaluate_sparse import sparsity_curve
from tfmetaprune.metatrain.prepared import graph_arrays
from tfmetaprune.metatrain.sparse_objective import NOfMObjective, PublishedSparseObjective, UnstructuredObjective
from tfmetaprune.metatrain.trainer import MetaTrainer, MetaTraining
from tfmetaprune.metatrain.zoo import dataset_arrays, residual_cnn, train_data_model
from tfmetaprune.pruning.sparse import kernel_units, plan_zeros, sparse_method, zero_out
from tfmetaprune.trace import trace_model


@pytest.fixture(scope="module")
def dataset():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(48, 8, 8, 1)).astype(np.float32)
    return tf.data.Dataset.from_tensor_slices((x, rng.integers(0, 3, 48))).batch(24)


@pytest.fixture(scope="module")
def model():
    model = residual_cnn((8, 8, 1), 3, widths=(4, 8), seed=0)
    rng = np.random.default_rng(1)
    model.set_weights([w * rng.uniform(0.5, 2) if w.ndim > 1 else w for w in model.get_weights()])  # layers differ in scale
    return model


def _masks(objective, score=None, target=1.0, noise=None):
    matrices = [kernel.to_matrix(tf.convert_to_tensor(kernel.variable)) for kernel in objective.kernels]
    zeros = tf.zeros(objective.num_units)
    return objective.masks(matrices, zeros if score is None else score, tf.constant(target), zeros if noise is None else noise)


@pytest.mark.parametrize("sparsity", [0.5, 0.8, 0.95])
@pytest.mark.parametrize("with_score", [False, True])
def test_threshold_leaves_what_the_plan_leaves(model, sparsity, with_score):
    objective = UnstructuredObjective(trace_model(model))
    score = np.random.default_rng(2).normal(size=objective.num_units).astype(np.float32) if with_score else None
    masks = _masks(objective, None if score is None else tf.constant(score), np.float32(1 - sparsity))
    plan = plan_zeros(model, sparse_method("unstructured", sparsity=sparsity), score)
    counts = [int(np.count_nonzero(mask.numpy() > 0.5)) for mask in masks]
    np.testing.assert_allclose(counts, [target.num_kept for target in plan.targets], atol=1)
    assert abs(sum(counts) - sum(target.num_kept for target in plan.targets)) <= 1
    for mask, kernel in zip(masks, objective.kernels):
        magnitude, kept = np.abs(kernel.to_matrix(kernel.variable.numpy())), mask.numpy() > 0.5
        assert magnitude[kept].min() >= magnitude[~kept].max()


def test_scores_move_the_budget_between_kernels(model):
    trace = trace_model(model)
    objective = UnstructuredObjective(trace)
    units = kernel_units(trace, objective.kernels[1])
    score = np.zeros(objective.num_units, np.float32)
    score[units] = 2.0
    before, after = (
        [int(np.count_nonzero(mask.numpy() > 0.5)) for mask in _masks(objective, tf.constant(s), 0.3)]
        for s in (np.zeros_like(score), score)
    )
    assert after[1] > before[1] and abs(sum(after) - sum(before)) <= 1


def test_gradient_keeps_the_budget(model):
    objective = UnstructuredObjective(trace_model(model))
    score = tf.constant(np.random.default_rng(3).normal(size=objective.num_units).astype(np.float32))
    with tf.GradientTape() as tape:
        tape.watch(score)
        sums = tf.stack([tf.reduce_sum(mask) for mask in _masks(objective, score, 0.3)])
    jacobian = tape.jacobian(sums, score).numpy()
    assert np.abs(jacobian).max() > 1
    np.testing.assert_allclose(jacobian.sum(0), 0, atol=1e-3 * np.abs(jacobian).max())


@pytest.mark.parametrize("name", ["2:4", "1:4", "4:8"])
def test_n_of_m_masks_are_those_of_tf_mot(model, name):
    trace = trace_model(model)
    objective = NOfMObjective(trace, name)
    method = sparse_method(name)
    _, expected = zero_out(model, plan_zeros(model, method))
    assert {kernel.key for kernel in objective.kernels} == set(expected)
    for kernel, mask in zip(objective.kernels, _masks(objective)):
        np.testing.assert_array_equal(kernel.from_matrix(mask.numpy()) > 0.5, expected[kernel.key])


def test_n_of_m_gradient_raises_what_it_keeps_and_lowers_the_next(model):
    objective = NOfMObjective(trace_model(model), "2:4")
    matrix = tf.constant([[4.0], [3.0], [2.0], [1.0]])
    with tf.GradientTape() as tape:
        tape.watch(matrix)
        (mask,) = objective.masks([matrix], None, None, None)
        second = mask[1, 0]
    gradient = tape.gradient(second, matrix).numpy()[:, 0]
    assert gradient[1] > 0 > gradient[2] and gradient[0] == gradient[3] == 0


def test_published_objective_is_cross_entropy_and_l1_norm(model, dataset):
    trace = trace_model(model)
    objective, (x, y) = PublishedSparseObjective(trace, regularization=0.01), next(iter(dataset))
    own = {key: tf.convert_to_tensor(value) for key, value in objective.weights_of(trace).items()}
    loss = objective.batch_loss(own, tf.ones(objective.num_units), x, y, {})
    logits = model(x, training=False).numpy().astype(np.float64)
    picked = logits[np.arange(len(y)), y.numpy()]
    entropy = np.mean(np.log(np.exp(logits).sum(1)) - picked)
    norm = sum(np.abs(w).sum() for w in model.get_weights() if w.ndim > 1)
    np.testing.assert_allclose(loss, entropy + 0.01 * norm, rtol=1e-5)


@pytest.mark.parametrize("objective", ["sparse", "published_sparse"])
def test_training_changes_the_metanetwork(model, dataset, tmp_path, objective):
    keras.utils.set_random_seed(0)
    metanet = MetaNetwork(MetaNetConfig(hidden=8, num_layers=1))
    before = [variable.numpy() for variable in metanet.trainable_variables]
    trainer = MetaTrainer(metanet, [model], dataset, MetaTraining(steps=3, batch_size=24, objective=objective), tmp_path)
    trainer.train()
    assert any(np.any(new != old) for new, old in zip(metanet.trainable_variables, before, strict=True))
    assert len(trainer.data_models[0].gradients) == {"sparse": 4, "published_sparse": 1}[objective]


def test_gradient_reaches_weights_and_scores(model, dataset):
    trace = trace_model(model)
    objective, arrays = UnstructuredObjective(trace, distillation=0.0), graph_arrays(trace, dataset)
    generated = arrays["parameters"], arrays["weights"], tf.zeros(len(arrays["parameters"]))
    x, y = next(iter(dataset))
    with tf.GradientTape() as tape:
        tape.watch(generated)
        decoded, mask = objective.decode(generated, tf.constant(0.2), tf.zeros(objective.num_units))
        loss = objective.batch_loss(decoded, mask, x, y, {})
    for gradient in tf.nest.flatten(tape.gradient(loss, generated)):
        assert np.any(gradient.numpy() != 0) and np.all(np.isfinite(gradient))


def test_unknown_objectives_and_models_without_kernels_are_refused(model):
    with pytest.raises(ArgumentError, match="expected objective to be one of structured.*got 'dense'"):
        MetaTraining(objective="dense")
    tiny = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    with pytest.raises(ArgumentError, match="expected kernels that method='2:4' can zero"):
        NOfMObjective(trace_model(tiny), "2:4")


def test_curve_of_an_untrained_metanetwork_is_that_of_magnitude_and_beats_random_zeros():
    digits = load("digits", batch_size=64)
    model = residual_cnn(digits.input_shape, digits.num_classes, widths=(8, 16), seed=0)
    train_data_model(model, digits.train, epochs=20)
    metanet = MetaNetwork(MetaNetConfig(hidden=8, num_layers=1))
    x, y = dataset_arrays(digits.test)
    curve = sparsity_curve([model], digits.train, x, y, metanets={"metanetwork": metanet}, columns=("0.8", "2:4"))
    # Weights that differ in their last bits alone may change places: a few of the 898 examples at most.
    np.testing.assert_allclose(curve.accuracy["metanetwork"], curve.accuracy["global_magnitude"], rtol=0, atol=0.005)
    assert np.all(np.array(curve.accuracy["random"]) < np.array(curve.accuracy["global_magnitude"]) - 0.05)
    assert curve.summary()["zeros"] == ["0.8", "2:4"]
