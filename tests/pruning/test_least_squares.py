"""Repair by least squares: exact where it can be, the same however it is streamed, and better than BN statistics alone."""

import contextlib

import numpy as np
import pytest
from checks import half_plan, outputs_of, random_inputs, randomize_weights, relative_difference
from random_models import Program, Step, build
from random_steps import STEPS
from zoo import ZOO

from tfmetaprune import interop
from tfmetaprune._keras import keras, tf
from tfmetaprune.analysis_numbers import activation_correlations
from tfmetaprune.data import augment, load
from tfmetaprune.errors import ArgumentError, DataError, UnsupportedModelError
from tfmetaprune.graph import channel_statistics
from tfmetaprune.metatrain.zoo import accuracy, dataset_arrays, residual_cnn, train_data_model
from tfmetaprune.output_errors import output_errors
from tfmetaprune.pruning import (
    fit_least_squares,
    fits,
    fold_averages,
    make_plan,
    plan_from_keep,
    rebuild_model,
    reestimate_bn,
    repair_model,
)
from tfmetaprune.pruning.search import search_scores
from tfmetaprune.trace import required_batch_size, trace_model

L = keras.layers
EXACT = {"ridge": 1e-9}
RANKS = {"vector": 1, "series": 2, "image": 3, "volume": 4}  # inputs of random models
CASES = {}


def case(shape, dead=(1, 4, 6)):
    """Adds a case: a function from the model's input to its output, which calls `maker`, a layer with 8 channels."""

    def decorate(build):
        CASES[build.__name__] = (build, shape, dead)
        return build

    return decorate


@case((6,))
def dense(x):
    return L.Dense(3)(L.Dense(5, "relu")(L.Dense(8, name="maker")(x)))


@case((7, 6, 3))
def conv_same(x):
    return L.Conv2D(4, 3, padding="same", activation="relu")(L.Conv2D(8, 3, name="maker")(x))


@case((9, 9, 3))
def conv_strided(x):
    return L.Conv2D(4, 3, strides=2, padding="same")(L.Conv2D(8, 1, name="maker")(x))


@case((9, 8, 3))
def conv_dilated(x):
    return L.Conv2D(4, 2, dilation_rate=3)(L.Conv2D(8, 1, name="maker")(x))


@case((7, 7, 3))
def conv_then_batch_norm(x):
    x = L.Conv2D(6, 3, use_bias=False)(L.Conv2D(8, 1, name="maker")(x))
    return L.Dense(3)(L.GlobalAveragePooling2D()(L.ReLU()(L.BatchNormalization()(x))))


@case((11, 3))
def conv1d_causal(x):
    return L.Conv1D(4, 3, padding="causal", dilation_rate=2)(L.Conv1D(8, 2, name="maker")(x))


@case((4, 5, 4, 2))
def conv3d(x):
    return L.Conv3D(3, 2)(L.Conv3D(8, 1, name="maker")(x))


@case((4, 5, 3))
def conv_transpose(x):
    return L.Conv2DTranspose(3, 3, strides=2, padding="same")(L.Conv2D(8, 1, name="maker")(x))


@case((6, 6, 3), dead=(1, 5))  # the same position of both groups
def conv_grouped(x):
    return L.Conv2D(6, 3, groups=2, padding="same")(L.Conv2D(8, 1, name="maker")(x))


@case((6, 6, 3))
def conv_depthwise(x):
    return L.Conv2D(5, 1)(L.DepthwiseConv2D(3, name="depthwise")(L.Conv2D(8, 1, name="maker")(x)))


@case((6, 6, 3))
def conv_separable(x):
    return L.SeparableConv2D(5, 3)(L.Conv2D(8, 1, name="maker")(x))


@case((5, 6))
def einsum_dense(x):
    return L.EinsumDense("btc,cde->btde", output_shape=(None, 3, 2), bias_axes="de")(L.Dense(8, name="maker")(x))


@case((5, 6))
def time_distributed(x):
    return L.TimeDistributed(L.Dense(4, "tanh"))(L.Dense(8, name="maker")(x))


@case((5, 6))
def attention(x):
    x = L.Dense(8, name="maker")(x)
    return L.MultiHeadAttention(2, 3, output_shape=4)(x, x)


@case((6, 6, 3))
def shared(x):
    consumer = L.Conv2D(5, 3, padding="same", activation="relu")
    maker = L.Conv2D(8, 1, name="maker")
    return L.Subtract()([consumer(maker(x)), consumer(maker(L.Cropping2D(((1, 1), (1, 1)))(L.ZeroPadding2D(1)(x)) * 2.0))])


@case((6, 6, 3))
def residual(x):
    x = L.Conv2D(8, 1, name="maker")(x)
    x = L.Add()([x, L.Conv2D(8, 1, name="maker2")(x)])
    return L.Conv2D(4, 3)(x)


@case((6, 6, 3))
def nested(x):
    inner_input = keras.Input((6, 6, 8))
    inner = keras.Model(inner_input, L.Conv2D(4, 3, activation="relu")(inner_input))
    return L.Dense(3)(inner(L.Conv2D(8, 1, name="maker")(x)))


@case((6, 6, 3))
def flattened(x):
    return L.Dense(3)(L.Flatten()(L.Conv2D(8, 2, strides=2, name="maker")(x)))


def make_redundant(layer, dead, seed=0):
    """Makes the dead channels of a layer linear combinations of those that are kept, group by group of 4."""
    rng, values = np.random.default_rng(seed), layer.get_weights()
    for channel in dead:
        half = [c for c in range(8) if c // 4 == channel // 4 and c not in dead]
        factors = rng.uniform(-1, 1, len(half)).astype("float32")
        for value in values:
            value[..., channel] = value[..., half] @ factors
    layer.set_weights(values)


def redundant_model(name):
    """A model of which some channels are superfluous, its trace and the plan without them."""
    build, shape, dead = CASES[name]
    keras.utils.set_random_seed(1)
    inputs = keras.Input(shape)
    model = keras.Model(inputs, build(inputs))
    rng = np.random.default_rng(2)
    for variable in model.weights:
        if "bias" in variable.name or "moving_mean" in variable.name:
            variable.assign(rng.normal(size=variable.shape))
        if "depthwise_kernel" in variable.name:  # one for all channels, so that sums of channels stay sums
            variable.assign(np.broadcast_to(rng.normal(size=variable.shape)[..., :1, :1], variable.shape))
        elif "depthwise/bias" in variable.name:
            variable.assign(np.zeros(variable.shape))
    for maker in (layer for layer in model.layers if layer.name.startswith("maker")):
        make_redundant(maker, dead)
    trace = trace_model(model)
    keep = np.ones(trace.channels.num_units, bool)
    maker = next(call for call in trace.channels.calls if call.call.path == "maker")
    keep[trace.channels.units(maker.roles["out"])[list(dead)]] = False
    return model, trace, plan_from_keep(trace, keep)


def data_for(model, count=200, seed=3):
    """A dataset of one batch, without labels."""
    inputs = random_inputs(model, count, seed)
    return [(inputs[0] if len(inputs) == 1 else tuple(inputs),)]


@pytest.mark.parametrize("name", CASES)
def test_superfluous_channels_leave_without_trace(name):
    model, trace, plan = redundant_model(name)
    inputs = random_inputs(model, 5, 4)
    expected = outputs_of(model, inputs)
    assert relative_difference(outputs_of(rebuild_model(trace, plan), inputs), expected) > 0.02
    fitted = fit_least_squares(trace, plan.keep, data_for(model), **EXACT)
    assert fitted.solved and not fitted.left_alone
    assert relative_difference(outputs_of(rebuild_model(trace, plan, fitted.weights), inputs), expected) < 2e-4


def test_superfluous_channels_of_a_keras3_model():
    import keras as keras3

    inputs = keras3.Input((6, 6, 3))
    x = keras3.layers.Conv2D(8, 1, name="maker")(inputs)
    model = keras3.Model(inputs, keras3.layers.Conv2D(4, 3, activation="relu")(x))
    make_redundant(model.get_layer("maker"), (1, 4))
    carried, back = interop.carry(model)
    trace = trace_model(carried)
    keep = np.ones(trace.channels.num_units, bool)
    keep[trace.channels.units(trace.channels.calls[0].roles["out"])[[1, 4]]] = False
    plan = plan_from_keep(trace, keep)
    small, report = repair_model(trace, plan, rebuild_model(trace, plan), data_for(carried), "least_squares")
    (x,) = random_inputs(carried, 5, 4)
    assert report["layers"] == 1 and isinstance(back(small), keras3.Model)
    np.testing.assert_allclose(back(small)(x), model(x), atol=0.1)  # the ridge draws it to the weights as they were
    assert np.abs(back(small)(x) - model(x)).max() < 0.2 * np.abs(rebuild_model(trace, plan)(x) - model(x)).max()


def test_half_precision_layers():
    keras.mixed_precision.set_global_policy("mixed_float16")
    try:
        model, trace, plan = redundant_model("conv_same")
    finally:
        keras.mixed_precision.set_global_policy(None)  # follows floatx again
    inputs = random_inputs(model, 5, 4)
    fitted = fit_least_squares(trace, plan.keep, data_for(model), ridge=1e-5)
    assert fitted.solved and not fitted.left_alone
    repaired = rebuild_model(trace, plan, fitted.weights)
    assert relative_difference(outputs_of(repaired, inputs), outputs_of(model, inputs)) < 0.02


@pytest.mark.parametrize("name", sorted(ZOO))
def test_zoo(name):
    """Every model goes through, nothing of it is modified, and its outputs come nearer to what they were."""
    model = ZOO[name]()
    before = [value.copy() for value in model.get_weights()]
    trace = trace_model(model)
    plan = half_plan(trace)
    data = data_for(model, 256)
    own_calls = [vars(call.layer).get("call") for call in trace.calls]
    fitted = fit_least_squares(trace, plan.keep, data)
    assert fitted.num_samples == 256 and fitted.left_alone == ()
    for value, old in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(value, old)
    assert [vars(call.layer).get("call") for call in trace.calls] == own_calls
    inputs = random_inputs(model, 64, 9)
    expected = outputs_of(model, inputs)

    def error(small):
        return np.mean([np.mean((a - b) ** 2) / np.var(b) for a, b in zip(outputs_of(small, inputs), expected, strict=True)])

    assert error(rebuild_model(trace, plan, fitted.weights)) < 0.9 * error(rebuild_model(trace, plan))


@pytest.mark.parametrize("name", ["residual", "shared_layer"])
def test_empty_plan_changes_nothing(name):
    model = ZOO[name]()
    trace = trace_model(model)
    plan = plan_from_keep(trace, np.ones(trace.channels.num_units, bool))
    fitted = fit_least_squares(trace, plan.keep, data_for(model))
    assert fitted.weights == {} and fitted.solved == ()


def test_layers_in_front_of_the_first_change_stay_bit_for_bit():
    model = ZOO["dense_net"]()
    trace = trace_model(model)
    keep = np.ones(trace.channels.num_units, bool)
    conv = next(call for call in trace.channels.calls if call.call.path == "b_conv")
    keep[trace.channels.units(conv.roles["out"])[1]] = False
    fitted = fit_least_squares(trace, keep, data_for(model))
    changed = {path for path, _ in fitted.weights}
    assert changed == {"transition", "logits"} and fitted.solved == ("'transition' (Conv2D)", "'logits' (Dense)")


@pytest.mark.parametrize("name", ["depthwise_separable", "shared_layer", "reshapes"])
def test_streamed_equals_unstreamed(name, monkeypatch):
    monkeypatch.setattr(fits, "MAX_ROWS", 400)  # fewer than there are, so that positions are drawn
    model = ZOO[name]()
    trace = trace_model(model)
    plan = half_plan(trace)
    one, other = (fit_least_squares(trace, plan.keep, data_for(model, 50), chunk=chunk) for chunk in (7, 50))
    assert one.weights.keys() == other.weights.keys() and one.weights
    for key, value in one.weights.items():
        np.testing.assert_allclose(value, other.weights[key], rtol=1e-3, atol=2e-4, err_msg=str(key))


def test_few_samples_are_used_where_memory_is_short():
    model = ZOO["residual"]()
    trace = trace_model(model)
    keep = half_plan(trace).keep
    fitted = fit_least_squares(trace, keep, data_for(model, 50), memory_bytes=10 * 2**12)
    assert 1 <= fitted.num_samples < 20 and fitted.solved


def _batch_of(size, flatten):
    """A CNN for batches of one size (None: of any) that `flatten` makes vectors in."""
    inputs = keras.Input((6, 6, 3), batch_size=size)
    x = L.ReLU()(L.BatchNormalization()(L.Conv2D(8, 3, padding="same")(inputs)))
    x = L.ReLU()(L.BatchNormalization()(L.Conv2D(8, 3, padding="same")(x)))
    return randomize_weights(keras.Model(inputs, L.Dense(4)(flatten(x))))


@pytest.mark.parametrize("size, named", [(1, False), (8, False), (8, True)])
def test_a_batch_size_that_a_model_requires(size, named):
    """The same repairs as of the model that takes any number of inputs."""
    free, fixed = _batch_of(None, L.Flatten()), _batch_of(size, lambda x: tf.reshape(x, (size, 288 if named else -1)))
    fixed.set_weights(free.get_weights())
    trace, other = trace_model(free), trace_model(fixed)
    x = random_inputs(free, 44)[0]
    assert required_batch_size(trace, [x]) is None and required_batch_size(other, [x]) == size
    assert required_batch_size(trace_model(_batch_of(size, L.Flatten())), [x]) is None
    keep = half_plan(trace).keep
    data = tf.data.Dataset.from_tensor_slices(x[:44]).batch(size)  # the last batch of 8 has 4
    one, two = fit_least_squares(trace, keep, data, num_samples=40), fit_least_squares(other, keep, data, num_samples=40 + size // 3)
    assert one.num_samples == two.num_samples == 40 and len(one.solved) == len(two.solved) == 3
    for value, twin in zip(one.weights.values(), two.weights.values(), strict=True):
        np.testing.assert_allclose(value, twin, rtol=1e-3, atol=1e-4)
    assert fit_least_squares(other, keep, data, memory_bytes=1).num_samples == size
    assert output_errors(other, [fixed], data) == [0.0]
    assert np.isfinite(channel_statistics(other, data)).all() and activation_correlations(other, data)
    with pytest.raises(DataError, match="at least one batch, got none" if size == 1 else "expected 8 inputs of one shape at least, got 4"):
        fit_least_squares(other, keep, data.take(0) if size == 1 else data.skip(5))
    with pytest.raises(UnsupportedModelError, match="requires batches of 1") if size == 1 else contextlib.nullcontext():
        assert search_scores(other, np.zeros(len(keep), np.float32), data, speedup=2.0, steps=1).any()
    plan = plan_from_keep(other, keep)
    for repair in ("bn", "data_free"):
        small, report = repair_model(other, plan, rebuild_model(other, plan), data, repair)
        assert report["method"] == repair and small.output_shape == (size, 4)
    with pytest.raises(DataError, match="expected batches of 8") if size == 8 else contextlib.nullcontext():
        output_errors(other, [fixed], data.unbatch().batch(4))
    assert output_errors(trace, [free], data.unbatch().batch(4).map(lambda x: x[:0]).concatenate(data)) == [0.0]  # batches may be empty
    whole = reestimate_bn(free, tf.data.Dataset.from_tensor_slices(x[:32]).batch(32))
    for value, twin in zip(reestimate_bn(fixed, data.take(32 // size)).get_weights(), whole.get_weights(), strict=True):
        np.testing.assert_allclose(value, twin, rtol=1e-3, atol=1e-5)


def test_more_examples_within_than_in_the_batch():
    """A reshape puts the steps of a series into the batch; what is behind is fitted as of single images."""
    inputs = keras.Input((5, 6, 6, 3), batch_size=4)
    x = L.Conv2D(8, 3, name="maker")(tf.reshape(inputs, (20, 6, 6, 3)))
    x = L.Conv2D(4, 3, name="reader")(x)
    model = randomize_weights(keras.Model(inputs, L.Dense(3)(tf.reshape(x, (4, 5 * 2 * 2 * 4)))))
    trace = trace_model(model)
    data = tf.data.Dataset.from_tensor_slices(np.random.default_rng(0).normal(size=(24, 5, 6, 6, 3)).astype(np.float32)).batch(4)
    statistics = channel_statistics(trace, data)
    assert np.isfinite(statistics).all() and statistics[trace.channels.units(trace.channels.calls[1].roles["out"])].any()
    fitted = fit_least_squares(trace, half_plan(trace).keep, data)
    assert fitted.solved and not fitted.left_alone


def test_fewer_rows_than_columns_are_solved_by_the_dual():
    """A dense layer that reads 288 numbers, fitted on 40 inputs, makes on these what it made."""
    inputs = keras.Input((6, 6, 3))
    model = keras.Model(inputs, L.Dense(3)(L.Flatten()(L.Conv2D(16, 3, name="maker", padding="same")(inputs))))
    trace = trace_model(model)
    keep = np.ones(trace.channels.num_units, bool)
    keep[trace.channels.units(trace.channels.calls[0].roles["out"])[:8]] = False
    data = data_for(model, 40)
    fitted = fit_least_squares(trace, keep, data, ridge=1e-9)
    small = rebuild_model(trace, plan_from_keep(trace, keep), fitted.weights)
    assert relative_difference(outputs_of(small, [*data[0]]), outputs_of(model, [*data[0]])) < 1e-4


def test_what_cannot_be_solved_for_is_named():
    inputs = keras.Input((6, 5))
    x = L.Dense(8, name="maker")(inputs)
    model = keras.Model(inputs, L.Dense(3, name="logits")(L.GRU(7, name="gru")(x)))
    trace = trace_model(model)
    plan = half_plan(trace)
    small, report = repair_model(trace, plan, rebuild_model(trace, plan), data_for(model), "default")
    assert report["method"] == "least_squares" and report["layers"] == 1
    assert len(report["left_alone"]) == 1 and report["left_alone"][0].startswith("'gru' (GRU): nothing is known")
    old, new = model.get_layer("gru").get_weights(), small.get_layer("gru").get_weights()
    assert all(np.isin(value, before).all() for value, before in zip(new, old, strict=True))


def test_metanetwork_weights_are_drawn_to():
    """With an overwhelming ridge the solution is what was passed in."""
    model, trace, plan = redundant_model("dense")
    weights = {("maker", "kernel"): 2 * model.get_layer("maker").kernel.numpy()}
    kernel = trace.calls[1].path, "kernel"
    weights[kernel] = 3 * trace.calls[1].layer.kernel.numpy()
    fitted = fit_least_squares(trace, plan.keep, data_for(model), weights=weights, ridge=1e9)
    np.testing.assert_allclose(fitted.weights[kernel], weights[kernel], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("bias", [True, False])
def test_data_free_repair_is_exact_for_constant_channels(bias):
    inputs = keras.Input((8, 8, 3))
    x = L.ReLU()(L.BatchNormalization(name="bn")(L.Conv2D(8, 3, name="maker")(inputs)))
    x = L.Conv2D(5, 3, use_bias=bias)(x)
    x = x if bias else L.BatchNormalization()(x)
    model = keras.Model(inputs, L.Dense(3)(L.GlobalAveragePooling2D()(x)))
    norm = model.get_layer("bn")
    gamma, beta = np.ones(8, "float32"), np.full(8, 0.7, "float32")
    gamma[[2, 5]] = 0
    norm.gamma.assign(gamma)
    norm.beta.assign(beta)
    trace = trace_model(model)
    keep = np.ones(trace.channels.num_units, bool)
    keep[trace.channels.units(trace.channels.calls[0].roles["out"])[[2, 5]]] = False
    plan = plan_from_keep(trace, keep)
    small, report = repair_model(trace, plan, rebuild_model(trace, plan), None, "default")
    assert report["method"] == "data_free" and report["layers"] == 1 and report["left_alone"] == []
    x = random_inputs(model, 5, 4)
    assert relative_difference(outputs_of(rebuild_model(trace, plan), x), outputs_of(model, x)) > 0.02
    assert relative_difference(outputs_of(small, x), outputs_of(model, x)) < 1e-4

    consumer = trace.calls[3]
    weights = {(consumer.path, "kernel"): 2 * consumer.layer.kernel.numpy()}  # those of a metanetwork
    whole = rebuild_model(trace, plan_from_keep(trace, np.ones_like(keep)), weights)
    small, _ = repair_model(trace, plan, rebuild_model(trace, plan, weights), None, "default", weights=weights)
    assert relative_difference(outputs_of(small, x), outputs_of(whole, x)) < 1e-4


@pytest.mark.parametrize("name", sorted(ZOO))
def test_data_free_zoo(name):
    model = ZOO[name]()
    trace = trace_model(model)
    plan = half_plan(trace)
    fitted = fold_averages(trace, plan.keep)
    outputs = outputs_of(rebuild_model(trace, plan, fitted.weights), random_inputs(model))
    assert all(np.isfinite(output).all() for output in outputs)


@pytest.fixture(scope="module")
def digits():
    splits = load("digits", batch_size=64)
    model = residual_cnn(splits.input_shape, splits.num_classes, seed=11)
    train_data_model(model, augment(splits.train, seed=11), epochs=25)
    return model, splits


def test_digits_at_three_times(digits):
    model, splits = digits
    trace, (x, y) = trace_model(model), dataset_arrays(splits.test)
    plan = make_plan(trace, speedup=3.0)
    small = rebuild_model(trace, plan)
    repaired, report = repair_model(trace, plan, small, splits.train, "default")
    assert report["samples"] == 599 and report["layers"] == 17 and report["left_alone"] == []
    whole, bn, fitted = accuracy(model, x, y), accuracy(reestimate_bn(small, splits.train), x, y), accuracy(repaired, x, y)
    assert fitted > bn + 0.05 and fitted > whole - 0.03, (whole, bn, fitted)


def test_bad_arguments():
    model = ZOO["plain_cnn"]()
    trace = trace_model(model)
    keep = half_plan(trace).keep
    data = data_for(model)
    with pytest.raises(ArgumentError, match="expected ridge > 0 and num_samples >= 1, got 0 and"):
        fit_least_squares(trace, keep, data, ridge=0)
    with pytest.raises(ArgumentError, match="got 0.01 and 0"):
        fit_least_squares(trace, keep, data, num_samples=0)
    with pytest.raises(DataError, match="at least one batch, got none"):
        fit_least_squares(trace, keep, [])
    with pytest.raises(DataError, match=r"expected inputs of shape .*, got .*\(1, 10, 10, 4\)"):
        fit_least_squares(trace, keep, [(np.zeros((5, 10, 10, 4), "float32"),)])
    with pytest.raises(DataError, match="expected 1 inputs, got 2"):
        fit_least_squares(trace, keep, [((tf.zeros((5, 10, 10, 3)),) * 2, np.zeros(5))])


@pytest.mark.parametrize("kind", STEPS)
def test_every_layer_kind_goes_through(kind):
    """Every kind of step goes through both repairs; least squares brings the outputs nearer to what they were, or leaves them."""
    inputs = next(name for name, rank in RANKS.items() if rank in STEPS[kind].ranks[-2:])
    model = build(Program((inputs,), (6,), (Step(kind, 0, (1, 2, 1, 3, 2, 1, 0)),), float64=False))
    trace = trace_model(model)
    plan = half_plan(trace)
    data = data_for(model, 64)
    batch = list(data[0][0]) if isinstance(data[0][0], tuple) else [data[0][0]]
    expected = outputs_of(model, batch)

    def error(small):
        return np.mean([np.mean((a - b) ** 2) for a, b in zip(outputs_of(small, batch), expected, strict=True)])

    repaired, report = repair_model(trace, plan, rebuild_model(trace, plan), data, "least_squares")
    recurrent = kind in ("recurrent", "recurrent_states", "bidirectional", "conv_lstm")
    assert bool(report["left_alone"]) == recurrent, report
    assert error(repaired) <= 1.1 * error(rebuild_model(trace, plan)) + 1e-9, report
    without, _ = repair_model(trace, plan, rebuild_model(trace, plan), None, "data_free")
    assert all(np.isfinite(output).all() for output in outputs_of(without, batch))
