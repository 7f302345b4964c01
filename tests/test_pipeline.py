"""The main job on small models, the ways in and out of the graph, and the arguments that cannot be used."""

import json
import pathlib
import random

import numpy as np
import pytest
from zoo import ZOO, random_inputs

import tfmetaprune
from tfmetaprune import choosing, pipeline, ways
from tfmetaprune._keras import keras, tf
from tfmetaprune.errors import (
    ArgumentError,
    DataError,
    MetaNetworkError,
    NothingToPruneError,
    UnsupportedModelError,
)
from tfmetaprune.finetuning import evaluate_model, finetune_model
from tfmetaprune.metanet import pretrained
from tfmetaprune.pruning import make_plan, rebuild_model
from tfmetaprune.trace import trace_model

NOTHING = {"metanetwork": None, "finetune": None, "repair": None}


@pytest.fixture(scope="module")
def model():
    model = ZOO["residual_projection"]()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.01, momentum=0.9), loss, metrics=["accuracy"])
    model.fit(*make_data(64), verbose=0)
    return model


@pytest.fixture(scope="module")
def metanetwork():
    """An untrained metanetwork whose decoders do something."""
    keras.utils.set_random_seed(1)
    network = tfmetaprune.MetaNetwork(tfmetaprune.MetaNetConfig(hidden=4, num_layers=1))
    for variable in network.trainable_variables:
        if not np.any(variable.numpy()):
            variable.assign(0.3 * tf.random.normal(variable.shape))
    return network


def make_data(count, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, 8, 8, 3)).astype("float32"), rng.integers(0, 5, count)


def state(model):
    """Everything of a model that must not change: weights, optimizer, compile state, trainable flags."""
    return (
        [weight.tobytes() for weight in model.get_weights()],
        [variable.numpy().tobytes() for variable in model.optimizer.variables],
        model.get_compile_config(),
        [layer.trainable for layer in model.layers],
        [len(layer.inbound_nodes) for layer in model.layers],
        model.get_config(),
    )


def same_weights(first, second):
    return all(np.array_equal(a, b) for a, b in zip(first.get_weights(), second.get_weights(), strict=True))


def test_whole_job(model, metanetwork):
    before = state(model)
    generators = random.getstate(), np.random.get_state()[1].tolist()
    result = tfmetaprune.prune(
        model, make_data(96), validation_data=make_data(40, 1), speedup=2.0, metanetwork=metanetwork, finetune=2, seed=3
    )
    assert state(model) == before
    assert (random.getstate(), np.random.get_state()[1].tolist()) == generators

    report = json.loads(json.dumps(result.report))
    assert report["speedup"]["target"] == 2.0 and report["speedup"]["reached"] == result.plan.speedup >= 2.0
    assert report["before"]["macs"] / report["pruned"]["macs"] == pytest.approx(result.plan.speedup)
    assert report["pruned"]["parameters"] == result.model.count_params() < report["before"]["parameters"]
    for step in ("before", "pruned", "repaired", "finetuned"):
        assert report[step]["loss"] > 0 and 0 <= report[step]["accuracy"] <= 1
    assert report["metanetwork"] == metanetwork.name
    assert sum(width["before"] - width["after"] for width in report["widths"].values()) == (~result.plan.keep).sum()
    assert report["frozen"] == {"model input": 3, "model output": 5} and report["unknown_layers"] == []
    assert [len(result.history[name]) for name in ("loss", "accuracy", "val_loss")] == [2, 2, 2]

    values = result.model.evaluate(*make_data(40, 1), verbose=0, return_dict=True)  # compiled as the caller's was
    assert values["loss"] == pytest.approx(report["finetuned"]["loss"], rel=1e-4)
    assert values["accuracy"] == pytest.approx(report["finetuned"]["accuracy"])
    assert type(result.model.optimizer).__name__ == "SGD"
    assert result.model.get_compile_config()["loss"] == model.get_compile_config()["loss"]


def test_networks_made_after_a_pruning_are_not_all_alike(model, monkeypatch):
    def kernel():
        return keras.Sequential([keras.Input([4]), keras.layers.Dense(3)]).get_weights()[0]

    def kernel_after_pruning():
        tfmetaprune.prune(model, **NOTHING)
        return kernel()

    monkeypatch.setattr(keras.src.backend._SEED_GENERATOR, "generator", None, raising=False)  # nobody has set a seed
    assert not np.array_equal(kernel_after_pruning(), kernel_after_pruning())
    keras.utils.set_random_seed(1)
    expected = kernel()
    keras.utils.set_random_seed(1)
    np.testing.assert_array_equal(kernel_after_pruning(), expected)  # the caller's seeds go on where they were


def test_numbers_of_numpy_make_a_report_of_json(model):
    report = tfmetaprune.prune(
        model, make_data(32), speedup=np.float32(1.5), metanetwork=None, round_to=np.int64(1), finetune=np.int64(1), seed=np.int64(3)
    ).report
    assert {"round_to": 1, "finetune": 1, "seed": 3}.items() <= json.loads(json.dumps(report)).items()


def test_same_seed_same_result(model, metanetwork):
    first, second = (
        tfmetaprune.prune(model, make_data(64), metanetwork=metanetwork, finetune=1, seed=5).model for _ in range(2)
    )
    for a, b in zip(first.get_weights(), second.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_metanetwork_changes_weights_and_plan(model, metanetwork, monkeypatch):
    monkeypatch.setattr(ways, "STRENGTHS", (ways.FULL,))
    options = {"speedup": 2.0, "finetune": None, "repair": None}
    with_it = tfmetaprune.prune(model, make_data(64), metanetwork=metanetwork, **options)
    identity = tfmetaprune.prune(model, make_data(64), metanetwork=tfmetaprune.MetaNetwork(), **options)
    assert with_it.plan.dropped != identity.plan.dropped
    one_shot = make_plan(trace_model(model), speedup=2.0, step=1.0)  # as wherever a metanetwork scores the channels
    assert identity.plan.dropped == one_shot.dropped
    assert same_weights(identity.model, rebuild_model(trace_model(model), one_shot))
    options["speedup"] = 1
    identity = tfmetaprune.prune(model, make_data(64), metanetwork=tfmetaprune.MetaNetwork(), **options)
    assert same_weights(identity.model, model)
    changed = tfmetaprune.prune(model, make_data(64), metanetwork=metanetwork, **options)
    assert not same_weights(changed.model, model)


@pytest.mark.parametrize("name", sorted(ZOO))
def test_speedup_one_and_nothing_else_changes_nothing(name):
    original = ZOO[name]()
    result = tfmetaprune.prune(original, speedup=1, **NOTHING)
    assert same_weights(original, result.model)
    inputs = random_inputs(original)
    for a, b in zip(tf.nest.flatten(original(inputs)), tf.nest.flatten(result.model(inputs)), strict=True):
        np.testing.assert_array_equal(a, b)
    assert result.history is None and result.plan.keep.all()
    json.dumps(result.report)


@pytest.mark.parametrize("name", sorted(ZOO))
def test_encode_decode_is_exact(name):
    original = ZOO[name]()
    copy = tfmetaprune.decode(tfmetaprune.encode(original), original)
    assert copy is not original and same_weights(original, copy)


def test_repair_alone_changes_statistics_alone(model):
    result = tfmetaprune.prune(model, make_data(64)[0], speedup=1, metanetwork=None, finetune=None, repair="bn")
    changed = {
        weight.name.split("/")[-1].split(":")[0]
        for weight, a, b in zip(model.weights, model.get_weights(), result.model.get_weights(), strict=True)
        if not np.array_equal(a, b)
    }
    assert changed == {"moving_mean", "moving_variance"}


def test_callable_finetune_gets_the_callers_data(model):
    train, seen = make_data(32), []

    def finetune(small, train_data, validation_data):
        seen.append((small.count_params(), train_data is train, validation_data))
        return small.fit(*train_data, verbose=0)

    result = tfmetaprune.prune(model, train, metanetwork=None, repair=None, finetune=finetune)
    assert seen == [(result.model.count_params(), True, None)]
    assert set(result.history) == {"loss", "accuracy"} and result.report["finetune"] == "finetune"


def test_unlabelled_validation_data_give_no_metrics(model):
    report = tfmetaprune.prune(model, validation_data=make_data(8)[0], **NOTHING).report
    assert set(report["before"]) == {"macs", "parameters"}


def test_callable_criterion(model):
    result = tfmetaprune.prune(model, criterion=lambda trace: np.arange(1.0, trace.channels.num_units + 1), **NOTHING)
    for dropped in result.plan.dropped.values():
        assert dropped == list(range(len(dropped)))  # the first of each group are the least important


def test_fisher_criterion_needs_no_metanetwork(model):
    result = tfmetaprune.prune(model, make_data(32), criterion="fisher", **NOTHING)
    assert result.plan.speedup >= 2


def test_several_inputs_and_outputs_from_a_dataset():
    original = ZOO["two_inputs_outputs"]()
    image, vector = random_inputs(original, 32)
    labels = np.arange(32) % 3, np.linspace(-1, 1, 64, dtype="float32").reshape(32, 2)
    data = tf.data.Dataset.from_tensor_slices(((image, vector), labels)).batch(16)
    result = tfmetaprune.prune(original, data, validation_data=data, speedup=1.5, metanetwork=None, finetune=1)
    assert set(result.report["finetuned"]) == {"loss"}
    assert getattr(result.model, "optimizer", None) is None  # the caller's was not compiled either


@pytest.mark.parametrize(
    "activation, units, labels, loss",
    [
        (None, 3, np.arange(8) % 3, "sparse_categorical_crossentropy"),
        ("softmax", 3, (np.arange(8) % 3).reshape(8, 1), "sparse_categorical_crossentropy"),
        ("softmax", 3, np.eye(8, 3, dtype="float32"), "categorical_crossentropy"),
        (None, 3, np.eye(8, 3, dtype="int32"), "categorical_crossentropy"),
        ("sigmoid", 1, np.arange(8).reshape(8, 1) % 2, "binary_crossentropy"),
        (None, 1, np.arange(8, dtype="float32"), "mean_squared_error"),
        (None, 3, np.ones((8, 3), "float32"), "mean_squared_error"),
    ],
)
def test_usual_loss_fits_outputs_and_labels(activation, units, labels, loss):
    inputs = np.random.default_rng(0).normal(size=(8, 4)).astype("float32")
    model = keras.Sequential([keras.layers.Dense(units, activation, input_shape=(4,))])
    data = tf.data.Dataset.from_tensor_slices((inputs, labels)).batch(4)
    outputs = model(inputs).numpy()
    options = {} if loss.startswith(("mean", "binary")) else {"from_logits": activation is None}
    targets = labels.reshape(8, -1) if loss.startswith("mean") else labels
    expected = np.mean(getattr(keras.losses, loss)(targets, outputs, **options))
    measured = evaluate_model(model, data)
    assert measured["loss"] == pytest.approx(float(expected), rel=1e-5)
    assert ("accuracy" in measured) == ("crossentropy" in loss)


def test_finetuning_lowers_the_loss_and_keeps_the_compile_state(model):
    network = tfmetaprune.decode(tfmetaprune.encode(model), model)
    config = network.get_compile_config()
    data = tf.data.Dataset.from_tensor_slices(make_data(64)).batch(16)
    history = finetune_model(network, data, epochs=6)
    assert history["loss"][-1] < history["loss"][0] and len(history["loss"]) == 6
    assert network.get_compile_config() == config


def test_endless_and_empty_datasets(model):
    data = tf.data.Dataset.from_tensor_slices(make_data(8)).batch(4)
    with pytest.raises(DataError, match="expected a finite dataset, got one that repeats forever"):
        tfmetaprune.prune(model, data.repeat(), metanetwork=None)
    with pytest.raises(DataError, match="expected a finite dataset, got one that repeats forever"):
        tfmetaprune.prune(model, validation_data=data.repeat(), **NOTHING)
    with pytest.raises(DataError, match="finetune: expected a dataset with batches, got an empty one"):
        finetune_model(model, data.filter(lambda x, y: False))


def test_inspect():
    inspection = tfmetaprune.inspect(ZOO["unknown_layer"]())
    values = json.loads(json.dumps(inspection.to_dict()))
    assert values["unknown_layers"] == ["'shift' (ChannelShift)"]
    assert any("'shift' (ChannelShift)" in reason for reason in values["frozen"])
    assert values["prunable_macs_share"] == 1.0  # every kernel reads or makes such a channel
    inputs = keras.Input((6,))
    softmax = keras.layers.Dense(5, activation="softmax")(keras.layers.Dense(5, activation="softmax")(inputs))
    frozen = keras.Model(inputs, keras.layers.Dense(2)(keras.layers.Dense(4)(softmax)))
    assert tfmetaprune.inspect(frozen).prunable_macs_share == (5 * 4 + 4 * 2) / (6 * 5 + 5 * 5 + 5 * 4 + 4 * 2)
    assert {group["name"] for group in values["groups"] if group["prunable"]} == {"stem_conv", "after_conv", "body_conv"}


def test_inspect_nothing_to_prune_is_no_error():
    inspection = tfmetaprune.inspect(keras.Sequential([keras.layers.Dense(2, input_shape=(3,))]))
    assert inspection.prunable_macs_share == 0 and not any(group["prunable"] for group in inspection.groups)
    assert (inspection.macs, inspection.parameters) == (6, 8)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"speedup": 0.5}, "expected speedup to be a number >= 1, got 0.5"),
        ({"speedup": float("nan")}, "expected speedup"),
        ({"speedup": "2"}, "expected speedup"),
        ({"method": "n:m"}, "expected method to be one of structured, .* or N:M, got 'n:m'"),
        ({"criterion": "l3"}, "expected criterion to be 'default', one of group_l2, .* got 'l3'"),
        ({"criterion": ["group_l2"]}, "expected criterion"),
        ({"metanetwork": 3}, "expected metanetwork to be a name"),
        ({"finetune": 0}, "expected finetune .* got 0"),
        ({"finetune": True}, "expected finetune .* got True"),
        ({"finetune": "sgd"}, "expected finetune .* got 'sgd'"),
        ({"repair": "ridge"}, "expected repair to be one of default, least_squares, .* got 'ridge'"),
        ({"seed": -1}, "expected seed"),
        ({"seed": 0.5}, "expected seed"),
    ],
)
def test_wrong_arguments(model, options, message):
    before = state(model)
    with pytest.raises(ValueError, match=message) as error:
        tfmetaprune.prune(model, **{**NOTHING, **options})
    assert isinstance(error.value, ArgumentError)
    assert state(model) == before


@pytest.mark.parametrize(
    "options, message",
    [
        ({"metanetwork": "digits"}, "train_data for metanetwork='digits', finetune='default'.* set metanetwork=None, finetune=None"),
        ({}, "train_data for finetune='default', got None. .* or set finetune=None"),
        ({**NOTHING, "repair": "bn"}, "train_data for repair='bn', got None. .* or set repair=None"),
        ({**NOTHING, "repair": "least_squares"}, "train_data for repair='least_squares', got None."),
        ({"metanetwork": None, "repair": None, "finetune": 3}, "train_data for finetune=3, .* or set finetune=None"),
        ({**NOTHING, "criterion": "fisher"}, "train_data for criterion='fisher'"),
    ],
)
def test_missing_train_data(model, options, message):
    with pytest.raises(ArgumentError, match=message):
        tfmetaprune.prune(model, **options)


def test_data_that_do_not_fit(model):
    images, labels = make_data(16)
    with pytest.raises(DataError, match="expected labels in 0..4"):
        tfmetaprune.prune(model, (images, labels + 3), metanetwork=None)
    with pytest.raises(DataError, match="expected input 'image' of shape"):
        tfmetaprune.prune(model, (images[:, 1:], labels), metanetwork=None)
    with pytest.raises(DataError, match="expected labels, got inputs alone"):
        tfmetaprune.prune(model, images, metanetwork=None)
    with pytest.raises(DataError, match="expected input 'image' of shape"):
        tfmetaprune.prune(model, validation_data=images[:, 1:], **NOTHING)


def test_models_that_cannot_be_pruned(model, tmp_path):
    with pytest.raises(NothingToPruneError, match="expected prunable channels, got none"):
        tfmetaprune.prune(keras.Sequential([keras.layers.Dense(2, input_shape=(3,))]), **NOTHING)
    with pytest.raises(NothingToPruneError, match="expected a speed-up of 1000 to be reachable, got at most"):
        tfmetaprune.prune(model, speedup=1000, **NOTHING)
    with pytest.raises(UnsupportedModelError, match="expected a built model"):
        tfmetaprune.prune(keras.Sequential([keras.layers.Dense(2)]), **NOTHING)
    broken = tfmetaprune.decode(tfmetaprune.encode(model), model)
    broken.weights[0].assign(np.nan * broken.weights[0])
    with pytest.raises(UnsupportedModelError, match="expected finite numbers, got NaN"):
        tfmetaprune.prune(broken, **NOTHING)
    with pytest.raises(UnsupportedModelError, match="expected a Keras model, got PosixPath"):
        tfmetaprune.inspect(pathlib.Path(tmp_path))


@pytest.mark.parametrize("repair", ["default", "bn", "data_free", None])
def test_default_is_the_way_whose_outputs_stay_nearest(model, metanetwork, monkeypatch, repair):
    """Each way is what it is when it is asked for, and the one with the smallest error is what comes out."""
    loaded = []
    monkeypatch.setattr(pretrained, "load_metanetwork", lambda asked: loaded.append(asked) or metanetwork)
    x = make_data(96)[0]
    data = tf.data.Dataset.from_tensor_slices(x).batch(32)  # in the same order each time, as statistics depend on it
    found = tfmetaprune.prune(model, data, finetune=None, repair=repair)
    candidates = json.loads(json.dumps(found.report))["ways"]
    assert loaded == ["universal"] and found.report["metanetwork_note"] is None
    strengths = ways.STRENGTHS[: 1 if repair == "default" else None]
    tried = [("group_l2", None, None), ("group_l2_fisher", None, None), *(("group_l2", "universal", each._asdict()) for each in strengths)]
    assert [(each["criterion"], each["metanetwork"], each["strength"]) for each in candidates] == tried
    wanted = model(x).numpy()
    spread = np.mean((wanted - wanted.mean(0)) ** 2)
    results = []
    for criterion, name, strength in tried:
        monkeypatch.setattr(ways, "STRENGTHS", (ways.Strength(**strength or {}),))
        results.append(tfmetaprune.prune(model, data, finetune=None, repair=repair, criterion=criterion, metanetwork=name))
    errors = [np.mean((result.model(x).numpy() - wanted) ** 2) / spread for result in results]
    np.testing.assert_allclose([each["error"] for each in candidates], errors, rtol=1e-3)
    best = int(np.argmin(errors))
    assert (found.report["criterion"], found.report["metanetwork"], found.report["strength"]) == tried[best]
    assert len({*np.round(errors, 6)}) >= 3
    np.testing.assert_allclose(found.model(x), results[best].model(x), atol=1e-3 * spread**0.5)


def test_a_way_that_fails_is_left_out(model, monkeypatch):
    """What goes wrong in a way that nobody asked for does not matter, in all of them it does."""
    try_way = choosing.try_way

    def some(trace, way, *args, **kwargs):
        if way.criterion == "group_l2":
            raise NothingToPruneError("expected a speed-up of 3, got 2")
        return try_way(trace, way, *args, **kwargs)

    def no_statistics(*args, **kwargs):
        raise DataError("expected finite responses, got NaN")

    data = make_data(32)[0]
    with monkeypatch.context() as patch:
        patch.setattr(choosing, "try_way", some)
        report = tfmetaprune.prune(model, data, finetune=None, repair="bn").report
    assert (report["criterion"], report["metanetwork"]) == ("group_l2_fisher", None)
    told, learnt = "expected a speed-up of 3, got 2", len(ways.STRENGTHS)
    assert [each["failure"] for each in report["ways"]] == [told, None, *[told] * learnt]
    assert [each["error"] is None for each in report["ways"]] == [True, False, *[True] * learnt]
    with monkeypatch.context() as patch:
        patch.setattr(choosing, "channel_statistics", no_statistics)
        report = tfmetaprune.prune(model, data, finetune=None, repair="bn").report
    assert (report["criterion"], report["metanetwork"]) == ("group_l2", None)
    assert [each["failure"] is None for each in report["ways"]] == [True, False, *[False] * learnt]
    with pytest.raises(NothingToPruneError, match="expected a speed-up of 1000 to be reachable, got at most"):
        tfmetaprune.prune(model, data, speedup=1000, finetune=None)


def test_one_way_where_there_is_nothing_to_choose(model):
    data = make_data(32)[0]
    untouched = tfmetaprune.prune(model, data, speedup=1, finetune=None, repair=None)
    assert untouched.report["ways"] == [] and same_weights(untouched.model, model)
    report = tfmetaprune.prune(model, data, finetune=None, criterion="random", repair="bn").report
    assert (report["criterion"], report["metanetwork"], report["ways"]) == ("random", None, [])
    assert "as a criterion was named" in report["metanetwork_note"]


def test_without_data_there_is_one_way(model):
    for repair in ("default", None):
        report = tfmetaprune.prune(model, finetune=None, repair=repair).report
        assert (report["criterion"], report["metanetwork"], report["ways"]) == ("group_l2", None, [])
        assert "as the shipped ones measure channels on train_data, and there is none" in report["metanetwork_note"]


def test_default_metanetwork_for_zeros_is_none(model):
    report = tfmetaprune.prune(model, method="unstructured", finetune=None).report
    assert report["metanetwork"] is None and "default for zeros" in report["metanetwork_note"]


def test_unknown_metanetwork(model):
    with pytest.raises(MetaNetworkError, match="'no-such-network'"):
        tfmetaprune.prune(model, make_data(8), metanetwork="no-such-network")


def test_two_losses_of_one_name_are_not_mixed_up():
    def weighted(weight):
        return lambda y, outputs: weight * tf.reduce_mean(tf.square(outputs), -1)

    inputs = keras.Input((6,))
    hidden = keras.layers.Dense(12, "relu")(inputs)
    model = keras.Model(inputs, [keras.layers.Dense(2, name=name)(hidden) for name in "ab"])
    model.compile("sgd", {"a": weighted(1.0), "b": weighted(5.0)})
    with pytest.warns(UserWarning, match="several functions or classes are called '<lambda>'. The new model is not compiled"):
        small = tfmetaprune.prune(model, speedup=1.5, finetune=None).model
    assert small.optimizer is None


def test_labels_that_do_not_fit_are_told_before_anything_is_tried(monkeypatch):
    model = ZOO["residual_projection"]()
    model.compile("sgd", "categorical_crossentropy")
    monkeypatch.setattr(pipeline, "choose_channels", None)
    with pytest.raises(DataError, match="expected labels that fit the loss of model 'residual_projection'"):
        tfmetaprune.prune(model, make_data(64), finetune=1)


class Rising(keras.optimizers.schedules.LearningRateSchedule):
    """A schedule as tutorials have it: without `get_config`."""

    def __call__(self, step):
        return 1e-3 * tf.cast(step + 1, tf.float32)


def mse(y, outputs):
    """Not what Keras calls so."""
    return tf.reduce_mean(outputs - 2 * tf.reshape(tf.cast(y, tf.float32), [-1, 1]), -1) ** 2


class Twice(keras.losses.Loss):
    """A loss that nobody has registered."""

    def call(self, y, outputs):
        return 2 * mse(y, outputs)


@pytest.mark.parametrize("loss", [mse, Twice()])
def test_a_model_is_compiled_with_functions_and_classes_of_its_own(loss):
    model, data = ZOO["residual_projection"](), make_data(64)
    model.compile("sgd", loss, metrics=[mse])
    small = tfmetaprune.prune(model, data, speedup=2.0, metanetwork=None, criterion="group_l2", finetune=None).model
    each = np.mean(mse(data[1], small(data[0])))
    values = small.evaluate(*data, batch_size=64, verbose=0)
    np.testing.assert_allclose(values, [2 * each if isinstance(loss, Twice) else each, each], rtol=1e-4)


def test_a_compile_state_that_cannot_be_copied_is_left_out_with_a_warning():
    model = ZOO["residual_projection"]()
    model.compile(keras.optimizers.Adam(Rising()), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    with pytest.warns(UserWarning, match="expected a compile state that can be copied.*compile it yourself"):
        small = tfmetaprune.prune(model, make_data(64), speedup=2.0, metanetwork=None, finetune=1)
    assert small.model.optimizer is None and np.isfinite(small.history["loss"][0])


def test_batches_of_different_lengths():
    rng = np.random.default_rng(0)
    keras.utils.set_random_seed(0)
    x = inputs = keras.Input((None, 4))
    for width in (12, 16):
        x = keras.layers.ReLU()(keras.layers.Conv1D(width, 3, padding="same")(x))
    model = keras.Model(inputs, keras.layers.Dense(3)(keras.layers.GlobalAveragePooling1D()(x)))
    batches = [(rng.normal(size=(16, length, 4)).astype(np.float32), np.arange(16) % 3) for length in (9, 14, 9)]
    data = tf.data.Dataset.from_generator(
        lambda: iter(batches), output_signature=(tf.TensorSpec((None, None, 4)), tf.TensorSpec((None,), tf.int64))
    )  # fmt: skip
    small = tfmetaprune.prune(model, data, speedup=3.0, metanetwork=None, finetune=None)
    assert small.report["repair"]["method"] == "least_squares" and small.report["repair"]["samples"] == 48
    worse = tfmetaprune.prune(model, data, speedup=3.0, metanetwork=None, criterion=small.report["criterion"], repair=None, finetune=None)

    def error(pruned):
        return np.mean([np.mean((pruned.predict(x, verbose=0) - model.predict(x, verbose=0)) ** 2) for x, _ in data])

    assert error(small.model) < 0.5 * error(worse.model)
    tfmetaprune.prune(model, data, speedup=3.0, metanetwork=None, finetune=None, search_steps=2)


def test_inputs_by_keys_that_are_not_the_names_of_layers():
    rng = np.random.default_rng(0)
    inputs = {"b": keras.Input((4,), name="a"), "a": keras.Input((3,), name="b")}
    x = keras.layers.Concatenate()([inputs["b"], inputs["a"]])
    for width in (24, 16):
        x = keras.layers.Dense(width, "relu")(x)
    model = keras.Model(inputs, keras.layers.Dense(3)(x))
    x = {"b": rng.normal(size=(64, 4)).astype(np.float32), "a": rng.normal(size=(64, 3)).astype(np.float32)}
    small = tfmetaprune.prune(model, (x, np.arange(64) % 3), speedup=2.0, finetune=1)
    assert small.report["speedup"]["reached"] >= 2 and small.model.predict(x, verbose=0).shape == (64, 3)
