"""Checks of every registered LayerSpec on layers of its kind, and of the registry itself; the kinds are found by themselves."""

import inspect
import math
import types

import numpy as np
import pytest
from layer_cases import cases_of, kernel_macs, model_around, step_macs
from zoo import ZOO, randomize

from tfmetaprune._keras import keras, tf
from tfmetaprune.channels import layout_positions
from tfmetaprune.errors import ArgumentError
from tfmetaprune.graph import decode_graph, encode_graph
from tfmetaprune.layers import Axes, Frozen, LayerSpec, get_weight, register, registered_kinds, spec_for
from tfmetaprune.pruning import cost, plan_from_keep, rebuild_model, run_masked
from tfmetaprune.trace import trace_model

L = keras.layers
_KERAS_2 = types.SimpleNamespace(**{**vars(tf), "keras": keras})
KINDS = [kind for kind in registered_kinds() if kind.__module__.startswith("tf_keras")]


PARAMETERS = [
    pytest.param(kind, case, id=f"{kind.__name__}-{i}") for kind in KINDS for i, case in enumerate(cases_of(kind))
]


@pytest.fixture
def computing_in():
    """A function that sets the precision of layers that are built."""
    yield keras.backend.set_floatx
    keras.backend.set_floatx("float32")


def _model(case):
    """The model around the layer of a case, with weights that the graph can hold, and the layer."""
    model, layer = model_around(case)
    randomize(model, type(layer).__name__)
    for weight in model.weights:
        if weight.dtype == tf.float64:
            weight.assign(np.asarray(weight, np.float32))  # what the graph can hold
    if isinstance(layer, L.Normalization):
        layer.finalize_state()
    return model, layer


def _batch(model):
    rng = np.random.default_rng(0)
    (tensor,) = model.inputs
    shape = (3, *tensor.shape[1:])
    return tf.constant(rng.integers(0, 9, shape) if tensor.dtype.is_integer else rng.normal(size=shape), tensor.dtype)


def _half(trace):
    """The plan that drops half the units of every prunable group, at random."""
    free = np.ones(trace.channels.num_units, bool)
    free[list(trace.channels.frozen)] = False
    for seed in range(50):
        rng, keep = np.random.default_rng(seed), np.ones(len(free), bool)
        for group in range(int(trace.channels.group_of_unit.max(initial=-1)) + 1):
            units = np.flatnonzero(free & (trace.channels.group_of_unit == group))
            keep[rng.permutation(units)[: len(units) // 2]] = False
        try:
            return plan_from_keep(trace, keep)
        except ArgumentError:  # a layer is left without a channel
            continue
    raise AssertionError("no half of the units leaves every layer a channel")


@pytest.mark.parametrize(("kind", "case"), PARAMETERS)
def test_layer_spec(kind, case, computing_in, monkeypatch):
    """Axes fit the weights, the round trip is exact, pruned equals masked, and MACs are counted right."""
    computing_in(case.floatx)
    monkeypatch.setattr(inspect.getmodule(L.SpectralNormalization), "tf", _KERAS_2)  # it takes InputSpec from tf.keras
    model, layer = _model(case)
    trace = trace_model(model)
    channels = next(channels for channels in trace.channels.calls if channels.call.layer is layer)
    _check_axes(trace, channels, case)
    for (path, weight), value in decode_graph(encode_graph(trace), trace).items():
        np.testing.assert_array_equal(value, get_weight(model.get_layer(path), weight))
    plan, batch = _half(trace), _batch(model)
    pruned = rebuild_model(trace, plan)
    assert pruned.count_params() == cost(trace, plan.keep).parameters
    if case.frozen is None and channels.roles:
        assert any(not plan.keep[trace.channels.units(layout)].all() for layout in channels.roles.values())

    def both(x):
        return tf.nest.flatten(pruned(x, training=False)), run_masked(trace, plan.keep, [x])

    both = tf.function(both, jit_compile=True) if case.jit else both
    tolerance = {"float64": 1e-9, "float32": 1e-4}[case.floatx]
    for got, expected in zip(*both(batch), strict=True):
        np.testing.assert_allclose(got, expected, rtol=tolerance, atol=tolerance * np.abs(expected).max())
    with keras.utils.custom_object_scope({kind.__name__: kind}):
        copy = keras.Model.from_config(pruned.get_config())
    assert [weight.shape for weight in copy.weights] == [weight.shape for weight in pruned.weights]
    if case.frozen is None:
        for this, macs in ((model, plan.macs_before), (pruned, plan.macs_after)):
            assert macs == _counted_macs(this, layer.name, case)
    assert spec_for(type("Sub", (kind,), {}).__new__(type("Sub", (kind,), {}))) is registered_kinds()[kind]


def _check_axes(trace, channels, case):
    layer = channels.call.layer
    if case.frozen is not None:
        reasons = " ".join([getattr(channels.flow, "reason", ""), *trace.channels.frozen.values()])
        assert case.frozen in reasons
        return
    assert not isinstance(channels.flow, Frozen), channels.flow
    for name, axes in channels.weights.items():
        weight = get_weight(layer, name)
        assert len(axes.merged) == len(weight.shape) and axes.stored_shape(axes.shape) == tuple(weight.shape)
        for axis, size in zip(axes.names, axes.shape, strict=True):
            if axis in channels.roles:
                assert len(layout_positions(channels.roles[axis])) == size
    named = {id(get_weight(layer, name)) for name in registered_kinds()[type(layer)].weights(layer)}
    left_out = [weight.name for weight in layer.weights if id(weight) not in named and weight.dtype.is_floating]
    assert not left_out, "a weight has no axes"


def _counted_macs(model, name, case):
    """Counts by shapes alone, without specs, axes or layouts."""
    total = 0
    for call in trace_model(model).calls:
        layer, x, y = call.layer, call.input_shapes[0], call.output_shapes[0]
        if layer.name == name and case.macs is not None:
            total += case.macs(layer, x, y)
        elif layer.name == name:
            first = getattr(layer, "data_format", "") == "channels_first"
            total += kernel_macs(layer, math.prod(y[2:] if first else y[1:-1]))
        elif isinstance(layer, L.Dense):
            total += kernel_macs(layer, math.prod(y[1:-1]))
        elif isinstance(layer, L.LSTM):
            total += step_macs(layer, x, y)
    return total


def test_the_zoo_uses_convolutions_and_norms():
    used = {type(layer) for build in ZOO.values() for layer in build().layers}
    kinds = {
        L.Dense,
        L.Conv1D,
        L.Conv2D,
        L.DepthwiseConv2D,
        L.SeparableConv2D,
        L.BatchNormalization,
        L.LayerNormalization,
    }
    assert kinds <= used


def test_register_checks_what_it_gets():
    with pytest.raises(ArgumentError, match="expected a subclass of LayerSpec, got 3"):
        register(L.Dense)(3)

    class Twice(LayerSpec):
        axes = {"kernel": "in in"}

        def flow(self, call):
            return Axes("b in -> b in")

    with pytest.raises(ArgumentError, match="expected different axis names in weight 'kernel', got 'in in'"):
        register(L.Dense)(Twice)
    assert registered_kinds()[L.Dense].axes["kernel"] == "in out"
