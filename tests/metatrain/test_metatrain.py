"""Meta-training: the mask meets its budget and carries gradients, training lowers the loss and resumes exactly."""

import numpy as np
import pytest

from tfmetaprune._keras import keras, tf
from tfmetaprune.errors import ArgumentError
from tfmetaprune.metanet import MetaNetConfig, MetaNetwork
from tfmetaprune.metatrain.evaluate import Curve, pruning_curve
from tfmetaprune.metatrain.objective import PruneAwareObjective, PublishedObjective
from tfmetaprune.metatrain.prepared import graph_arrays, perturbed
from tfmetaprune.metatrain.trainer import MetaTrainer, MetaTraining
from tfmetaprune.metatrain.zoo import accuracy, residual_cnn, train_data_model
from tfmetaprune.pruning import cost, make_plan
from tfmetaprune.trace import trace_model


@pytest.fixture(scope="module")
def dataset():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 96)
    x = rng.normal(0, 0.3, (96, 8, 8, 1)) + (np.arange(8) // 3 == y[:, None])[:, None, :, None]
    return tf.data.Dataset.from_tensor_slices((x.astype(np.float32), y.astype(np.int64))).batch(32)


@pytest.fixture(scope="module")
def model(dataset):
    model = residual_cnn((8, 8, 1), 3, widths=(4, 8), seed=0)
    train_data_model(model, dataset, epochs=8)
    return model


def _trainer(model, dataset, folder, steps):
    keras.utils.set_random_seed(0)
    metanet = MetaNetwork(MetaNetConfig(hidden=8, num_layers=1))
    settings = MetaTraining(steps=steps, batch_size=32, checkpoint_every=2, warmup=2)
    return MetaTrainer(metanet, [model], dataset, settings, folder)


@pytest.mark.parametrize("speedup", [1.2, 2.0, 3.0, 5.0])
def test_mask_meets_the_budget_with_as_few_channels_as_the_plan(model, speedup):
    trace = trace_model(model)
    ranking = np.random.default_rng(1).normal(size=trace.channels.num_units).astype(np.float32)
    mask = PruneAwareObjective(trace).masks(tf.constant(ranking), tf.constant(speedup, tf.float32)).numpy()
    keep = mask > 0.5
    np.testing.assert_allclose(mask, keep, atol=1e-6)
    assert cost(trace).macs / cost(trace, keep).macs >= speedup
    plan = make_plan(trace, ranking, speedup=speedup, step=1e-9)  # one channel a step: the same ranking in one shot
    np.testing.assert_array_equal(keep, plan.keep)


def test_gradient_moves_budget_between_channels(model):
    """Raising one score near the threshold raises its own mask and lowers the others': the budget stays."""
    trace = trace_model(model)
    objective = PruneAwareObjective(trace)
    ranking = tf.constant(np.random.default_rng(2).normal(size=trace.channels.num_units).astype(np.float32))
    with tf.GradientTape() as tape:
        tape.watch(ranking)
        mask = objective.masks(ranking, tf.constant(2.0))
    jacobian = tape.jacobian(mask, ranking).numpy()
    free = np.flatnonzero(np.abs(np.diag(jacobian)) > 1e-3)
    assert len(free) > 3
    for unit in free:
        assert jacobian[unit, unit] > 0
        assert np.all(np.delete(jacobian[free][:, unit], np.flatnonzero(free == unit)) <= 1e-7)
    assert not np.any(jacobian[list(trace.channels.frozen)])


def test_training_changes_the_metanetwork_and_resumes_to_the_same_result(model, dataset, tmp_path):
    whole = _trainer(model, dataset, tmp_path / "whole", 6)
    before = [variable.numpy() for variable in whole.metanet.trainable_variables]
    whole.train()
    after = [variable.numpy() for variable in whole.metanet.trainable_variables]
    assert any(np.any(a != b) for a, b in zip(before, after, strict=True))

    class Interrupted(Exception):
        pass

    def interrupt(step, _):
        if step == 3:
            raise Interrupted

    with pytest.raises(Interrupted):
        _trainer(model, dataset, tmp_path / "broken", 6).train(progress=interrupt)
    resumed = _trainer(model, dataset, tmp_path / "broken", 6)
    steps = []
    resumed.train(resume=True, progress=lambda step, _: steps.append(step))
    assert steps == [3, 4, 5, 6]
    for got, want in zip(resumed.metanet.trainable_variables, after, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-7)


def test_perturbed_weights_differ_by_the_share_asked_for(model, dataset):
    graph = graph_arrays(trace_model(model), dataset)
    changed = perturbed(graph, 0.1, np.random.default_rng(0))
    for name, value in graph["weights"].items():
        ratio = np.asarray(changed["weights"][name])[value != 0] / np.asarray(value)[value != 0]
        assert abs(ratio.std() - 0.1) < 0.03 and abs(ratio.mean() - 1) < 0.03
    assert changed["present"] is graph["present"] and not np.array_equal(changed["statistics"], graph["statistics"])


def test_meta_training_leaves_data_models_alone(model, dataset, tmp_path):
    before = model.get_weights()
    _trainer(model, dataset, tmp_path, 2).train()
    for got, want in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(got, want)


def test_curve_of_an_untrained_metanetwork_is_that_of_its_criterion(model, dataset):
    x, y = (np.concatenate(part) for part in zip(*[(x.numpy(), y.numpy()) for x, y in dataset]))
    metanet = MetaNetwork(MetaNetConfig(hidden=8, num_layers=1))
    curve = pruning_curve(
        [model], dataset, x, y, metanet=metanet, training_models=[model], speedups=(1.5, 2.0),
        baselines=("group_l2_one_shot",),
    )
    assert curve.accuracy["metanetwork"] == curve.accuracy["group_l2_one_shot"]
    assert curve.unpruned == [accuracy(model, x, y)]
    assert np.shape(curve.accuracy["allocation"]) == (1, 2)


def test_summary_pairs_by_model_and_takes_the_best_criterion_of_each_speedup():
    curve = Curve(
        (2.0, 4.0),
        {"group_l2": [[0.9, 0.2], [0.7, 0.2]], "random": [[0.1, 0.5], [0.1, 0.3]], "metanetwork": [[0.9, 0.8], [0.8, 0.6]]},
        [0.95, 0.97],
    )
    summary = curve.summary()
    assert summary["best_criterion"] == ["group_l2", "random"]
    np.testing.assert_allclose(summary["gain"], [0.05, 0.3])
    assert summary["models_won"] == [1, 2]


def test_published_norm_by_its_equations():
    """Two dense layers: a unit is a column of the first kernel, its bias, and a row of the second."""
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4, "relu"), keras.layers.Dense(2)])
    trace = trace_model(model)
    objective = PublishedObjective(trace, alpha=16.0, regularization=0.1)
    weights = {key: tf.convert_to_tensor(value) for key, value in objective.weights_of(trace).items()}
    with tf.GradientTape() as tape:
        tape.watch(weights)
        norm = objective.norm(weights)
    first, _, second, _ = (w.astype(np.float64) for w in model.get_weights())
    squares = (first**2).sum(0) + (second**2).sum(1)
    s = np.sqrt(squares)
    gamma = 16.0 ** ((s.max() - s) / (s.max() - s.min()))
    np.testing.assert_allclose(norm, 0.5 * np.sum(gamma * squares), rtol=1e-5)
    name = model.layers[0].name
    np.testing.assert_allclose(tape.gradient(norm, weights)[name, "kernel"], gamma * first, rtol=1e-4)  # gamma is detached


def test_published_norm_of_equal_units_is_finite():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4), keras.layers.Dense(2)])
    model.set_weights([np.ones_like(w) for w in model.get_weights()])
    objective = PublishedObjective(trace_model(model))
    weights = {key: tf.convert_to_tensor(value) for key, value in objective.weights_of(objective.trace).items()}
    np.testing.assert_allclose(objective.norm(weights), 0.5 * 4 * (3 + 2), rtol=1e-6)


def test_the_weight_of_a_published_norm_is_its_own_unless_told():
    weights = {name: MetaTraining(objective=name).regularization for name in ("published", "published_sparse", "structured")}
    assert weights == {"published": 0.1, "published_sparse": 1e-3, "structured": None}
    assert MetaTraining(objective="published", regularization=0.01).regularization == 0.01
    for options in ({"regularization": 0.1}, {"objective": "published", "regularization": -1.0}):
        with pytest.raises(ArgumentError, match="expected regularization >= 0, with objective published or published_sparse alone"):
            MetaTraining(**options)
