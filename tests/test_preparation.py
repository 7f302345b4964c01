"""Training before pruning: it changes what pruning leaves, on the model's own loss, in either Keras, and refuses what makes no sense."""

import json

import numpy as np
import pytest

import tfmetaprune
from tfmetaprune import preparation
from tfmetaprune._keras import keras, tf
from tfmetaprune.errors import ArgumentError, NothingToPruneError
from tfmetaprune.finetuning import evaluate_model
from tfmetaprune.preparation import MaskedOutputs, prepare_model
from tfmetaprune.pruning import make_plan, rebuild_model, reestimate_bn, run_masked
from tfmetaprune.pruning.straight_through import ChannelMasks
from tfmetaprune.trace import trace_model

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def data(count=128):
    """Images with a bright band whose place is the label."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, count)
    x = rng.normal(0, 0.5, (count, 8, 8, 1)) + (np.arange(8) // 3 == y[:, None])[:, None, :, None]
    return x.astype("float32"), y


def network(k=keras):
    k.utils.set_random_seed(0)
    x = inputs = k.Input((8, 8, 1))
    for _ in range(2):
        x = k.layers.ReLU()(k.layers.BatchNormalization(momentum=0.8)(k.layers.Conv2D(12, 3, padding="same")(x)))
    model = k.Model(inputs, k.layers.Dense(3)(k.layers.Dropout(0.1)(k.layers.GlobalAveragePooling2D()(x))))
    model.compile(k.optimizers.Adam(0.01), k.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(*data(), epochs=4, verbose=0)
    return model


@pytest.fixture(scope="module")
def model():
    return network()


def test_prune_aware_lowers_the_loss_of_what_is_left(model):
    dataset = tf.data.Dataset.from_tensor_slices(data()).batch(32)
    before = [value.copy() for value in model.get_weights()]
    losses = {}
    for distill in (None, True):
        whole = model
        if distill is not None:
            keras.utils.set_random_seed(0)
            whole, history = prepare_model(model, dataset, "prune_aware", speedup=4.0, losses=(LOSS, None), epochs=20)
            assert history["loss"][-1] < history["loss"][0] and len(history["loss"]) == 20
        trace = trace_model(whole)
        small = rebuild_model(trace, make_plan(trace, speedup=4.0, step=1.0))
        losses[distill] = evaluate_model(reestimate_bn(small, dataset), dataset, (LOSS, None))["loss"]
    assert losses[True] < 0.7 * losses[None], losses
    assert all(np.array_equal(a, b) for a, b in zip(model.get_weights(), before))


def test_masked_outputs_are_those_of_a_pruned_network(model, monkeypatch):
    trace = trace_model(model)
    masked = MaskedOutputs(trace, (3.0, 3.0))
    seen, call = [], ChannelMasks.__call__
    monkeypatch.setattr(ChannelMasks, "__call__", lambda self, *args: seen.append(call(self, *args)) or seen[-1])
    x = data(16)[0]
    outputs = masked(x)
    (expected,) = run_masked(trace, seen[0].numpy() > 0.5, [x], training_bn=True)
    np.testing.assert_allclose(outputs, expected, atol=1e-5)
    assert 0 < np.mean(seen[0].numpy()) < 1


def test_group_norm_shrinks_some_channels_more_than_others(model):
    dataset = tf.data.Dataset.from_tensor_slices(data()).batch(32)
    trained, _ = prepare_model(
        model, dataset, "group_norm", speedup=2.0, losses=(LOSS, None), epochs=4, learning_rate=0.03, regularization=0.03
    )

    def smallest(model):
        norms = np.sqrt(np.sum(model.get_weights()[0] ** 2, (0, 1, 2)))
        return norms.min() / norms.max()

    assert smallest(trained) < 0.5 * smallest(model)


@pytest.mark.parametrize("dtype", ["float64", "mixed_bfloat16"])
def test_group_norm_adds_to_a_loss_of_another_precision(dtype):
    x = inputs = keras.Input((8, 8, 1), dtype="float32")
    x = keras.layers.Conv2D(6, 3, activation="relu", dtype=dtype)(x)
    model = keras.Model(inputs, keras.layers.Dense(3, dtype=dtype)(keras.layers.GlobalAveragePooling2D(dtype=dtype)(x)))
    dataset = tf.data.Dataset.from_tensor_slices(data(32)).batch(32)
    _, history = prepare_model(model, dataset, "group_norm", speedup=2.0, losses=(LOSS, None), epochs=2)
    assert np.isfinite(history["loss"]).all()


def test_defaults_follow_the_kind_of_network_and_the_length_of_the_training(model, monkeypatch):
    found, inputs = [], keras.Input((8, 8, 1))
    bare = keras.Model(inputs, keras.layers.Dense(3)(keras.layers.Dense(6, "relu")(keras.layers.Flatten()(inputs))))

    def finetune(model, train, *, learning_rate, prepare, **options):
        found.append((learning_rate, [float(prepare(steps)[1]["penalty"]()) for steps in (100, 400)]))
        return {"loss": [1.0]}

    monkeypatch.setattr(preparation, "finetune_model", finetune)
    monkeypatch.setattr(preparation, "group_norm", lambda trace: 2.0)
    dataset = tf.data.Dataset.from_tensor_slices(data(32)).batch(32)
    for each, options in ((model, {}), (bare, {}), (bare, {"learning_rate": 0.5, "regularization": 0.1})):
        prepare_model(each, dataset, "group_norm", speedup=2.0, losses=(LOSS, None), **options)
    assert [rate for rate, _ in found] == [0.02, 0.005, 0.5]
    np.testing.assert_allclose([weights for _, weights in found], [[0.06, 0.015], [0.06, 0.015], [0.2, 0.2]])


@pytest.mark.parametrize("method", ["prune_aware", "group_norm"])
@pytest.mark.parametrize("version", [2, 3])
def test_prune_prepares_and_reports(model, method, version):
    if version == 3:
        import keras as keras3

        model = network(keras3)
    options = {"finetune": None, "prepare": method, "prepare_epochs": 1}
    result = tfmetaprune.prune(model, data(64), validation_data=data(32), **options)
    report = json.loads(json.dumps(result.report))
    assert report["prepare"]["method"] == method and report["prepare"]["epochs"] == 1
    assert len(report["prepare"]["history"]["loss"]) == 1 and report["prepared"]["accuracy"] >= 0
    assert report["metanetwork"] is None and "has learnt what goes" in report["metanetwork_note"]
    assert report["speedup"]["reached"] >= 2
    assert type(result.model).__module__.split(".")[0] == type(model).__module__.split(".")[0]


def test_models_with_several_outputs_keep_their_structure():
    inputs = {"a": keras.Input((4,), name="a"), "b": keras.Input((3,), name="b")}
    hidden = keras.layers.Dense(16, "relu")(keras.layers.Concatenate()(list(inputs.values())))
    outputs = {"one": keras.layers.Dense(2, name="one")(hidden), "two": keras.layers.Dense(1, name="two")(hidden)}
    model = keras.Model(inputs, outputs)
    model.compile("adam", {"one": "mse", "two": "mae"})
    x = {"a": np.ones((32, 4), "float32"), "b": np.ones((32, 3), "float32")}
    y = {"one": np.ones((32, 2), "float32"), "two": np.zeros((32, 1), "float32")}
    masked = MaskedOutputs(trace_model(model), (2.0, 2.0))(x)
    assert {name: value.shape.as_list() for name, value in masked.items()} == {"one": [32, 2], "two": [32, 1]}
    dataset = tf.data.Dataset.from_tensor_slices((x, y)).batch(16)
    result = tfmetaprune.prune(model, dataset, prepare="prune_aware", prepare_epochs=2, finetune=None)
    assert result.report["speedup"]["reached"] >= 2


@pytest.mark.parametrize(
    "options, message",
    [
        ({"prepare": "dense"}, "expected prepare to be one of prune_aware, group_norm or None, got 'dense'"),
        ({"prepare_epochs": 3}, "expected no prepare_epochs without prepare, got 3"),
        ({"prepare": "prune_aware", "prepare_epochs": 0}, "expected prepare_epochs to be a number of epochs >= 1"),
        ({"prepare_learning_rate": 0.1}, "expected no prepare_learning_rate without prepare, got 0.1"),
        ({"prepare": "group_norm", "prepare_learning_rate": 0}, "expected prepare_learning_rate to be a number above 0"),
        ({"prepare": "prune_aware", "metanetwork": "digits"}, "expected metanetwork=None with prepare='prune_aware'"),
        ({"prepare": "prune_aware", "latency_speedup": 2.0}, "expected a speedup above 1 .*, got a latency"),
        ({"prepare": "prune_aware", "speedup": 1}, "expected a speedup above 1 .*, got 1"),
        ({"prepare": "prune_aware", "criterion": "random"}, "expected criterion to be one of group_l2, group_l2_max with prepare"),
        ({"prepare": "group_norm", "method": "2:4"}, "expected no prepare with method='2:4'"),
    ],
)
def test_wrong_combinations(model, options, message):
    with pytest.raises(ArgumentError, match=message):
        tfmetaprune.prune(model, data(8), **options)


def test_a_training_that_breaks_is_an_error(model):
    with pytest.raises(ArgumentError, match="to keep a finite loss, got nan .* Lower prepare_learning_rate"):
        tfmetaprune.prune(model, data(64), finetune=None, prepare="group_norm", prepare_epochs=8, prepare_learning_rate=1e6)


def test_missing_data_and_targets_out_of_reach_are_told_before_training(model):
    with pytest.raises(ArgumentError, match="expected train_data for prepare='prune_aware', got None"):
        tfmetaprune.prune(model, finetune=None, prepare="prune_aware")
    with pytest.raises(NothingToPruneError, match="expected a speed-up of 1000 to be reachable"):
        tfmetaprune.prune(model, data(8), speedup=1000, prepare="group_norm")
