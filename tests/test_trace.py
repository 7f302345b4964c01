"""Reading models: call events, channels, and what is refused."""

import numpy as np
import pytest
from zoo import ZOO, random_inputs

from tfmetaprune._keras import keras, tf
from tfmetaprune.errors import UnsupportedModelError
from tfmetaprune.trace import run, trace_model

L = keras.layers


@pytest.mark.parametrize("name", ZOO)
def test_running_the_trace_is_running_the_model(name):
    model = ZOO[name]()
    inputs = random_inputs(model)
    expected = tf.nest.flatten(model(inputs if len(inputs) > 1 else inputs[0]))
    for got, want in zip(run(trace_model(model), inputs), expected, strict=True):
        np.testing.assert_array_equal(got, want)


def _small(build):
    inputs = keras.Input((8, 8, 3))
    return trace_model(keras.Model(inputs, L.Dense(2)(L.GlobalAveragePooling2D()(build(inputs)))))


def _units_made_by(trace, name):
    (index,) = [i for i, call in enumerate(trace.calls) if call.layer.name == name]
    return trace.channels.unit_of_node[trace.channels.node_call == index]


def test_residual_sum_ties_channels():
    def build(x):
        first = L.Conv2D(4, 3, padding="same", name="first")(x)
        return L.Add()([first, L.Conv2D(4, 3, padding="same", name="second")(L.ReLU()(first))])

    trace = _small(build)
    np.testing.assert_array_equal(_units_made_by(trace, "first"), _units_made_by(trace, "second"))
    assert len(set(_units_made_by(trace, "first"))) == 4


def test_concat_keeps_channels_apart():
    trace = _small(lambda x: L.Concatenate()([L.Conv2D(4, 1, name="a")(x), L.Conv2D(3, 1, name="b")(x)]))
    assert not set(_units_made_by(trace, "a")) & set(_units_made_by(trace, "b"))


def test_depthwise_multiplier_keeps_the_order_of_keras():
    trace = _small(lambda x: L.DepthwiseConv2D(3, depth_multiplier=2, name="depth")(L.Conv2D(4, 1, name="a")(x)))
    np.testing.assert_array_equal(_units_made_by(trace, "depth"), np.repeat(_units_made_by(trace, "a"), 2))


def test_flatten_puts_positions_before_channels():
    inputs = keras.Input((2, 3, 3))
    x = L.Flatten()(L.Conv2D(4, 1, name="a")(inputs))
    trace = trace_model(keras.Model(inputs, L.Dense(2, name="d")(x)))
    layout = trace.channels.calls[-1].roles["in"]
    np.testing.assert_array_equal(trace.channels.units(layout), np.tile(_units_made_by(trace, "a"), 6))
    assert layout[0].taps == (2, 3)


def test_calls_of_a_shared_layer_are_tied():
    a, b = keras.Input((3,)), keras.Input((3,))
    shared = L.Dense(4, name="shared")
    trace = trace_model(keras.Model([a, b], L.Dense(2)(L.Concatenate()([shared(a), shared(b)]))))
    first, second = trace.channels.calls[0], trace.channels.calls[1]
    assert (first.is_first, second.is_first) == (True, False)
    for role in ("in", "out"):
        np.testing.assert_array_equal(
            trace.channels.units(first.roles[role]), trace.channels.units(second.roles[role])
        )


@pytest.mark.parametrize(
    "build, reason",
    [
        (lambda x: L.Lambda(lambda y: y, name="mix")(x), "'mix' (Lambda): no LayerSpec is registered for this kind"),
        (lambda x: L.Softmax(name="s")(x), "'s' (Softmax): its softmax mixes the channels"),
        (lambda x: L.Conv2D(4, 1, activation="softmax", name="c")(x), "'c' (Conv2D): its activation mixes the channels"),
    ],
)
def test_what_mixes_channels_freezes_them_and_says_why(build, reason):
    trace = _small(lambda x: build(L.Conv2D(8, 1, name="before")(x)))
    assert any(reason in why for why in trace.channels.frozen.values())


def test_broadcast_over_channels_freezes_the_single_channel():
    def build(x):
        x = L.Conv2D(8, 3, padding="same", name="wide")(x)
        return L.Multiply()([x, L.Conv2D(1, 1, activation="sigmoid", name="attention")(x)])

    trace = _small(build)
    assert set(_units_made_by(trace, "attention")) <= set(trace.channels.frozen)
    assert not set(_units_made_by(trace, "wide")) & set(trace.channels.frozen)


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = L.Dense(3)

    def call(self, x):
        return self.dense(x)


def _with_nan():
    model = keras.Sequential([L.Dense(2, input_shape=(3,), name="d")])
    model.layers[0].kernel.assign(np.full((3, 2), np.nan))
    return model


def _raw_input(**kind):
    rows = keras.Input((None,), name="rows", **kind)
    return keras.Model(rows, L.Lambda(lambda x: x)(rows))


def _keras3():
    import keras as keras3

    return keras3.Sequential([keras3.layers.Input((3,)), keras3.layers.Dense(2)])


@pytest.mark.parametrize(
    "make, message",
    [
        (Subclassed, r"got the subclassed model Subclassed with the parts 'dense\w*' \(Dense\)"),
        (lambda: _raw_input(ragged=True), "Tensor 'rows': expected a dense tensor, got a ragged one"),
        (lambda: _raw_input(sparse=True), "Tensor 'rows': expected a dense tensor, got a sparse one"),
        (lambda: keras.Sequential([L.Dense(2)]), "expected a built model, got a Sequential without an input shape"),
        (_with_nan, "Weight 'd/kernel:0' .* expected finite numbers, got NaN"),
        (_keras3, r"expected a tf_keras \(Keras 2\) model, got a Keras 3"),
        (lambda: "model", "expected a Keras model, got str"),
    ],
)
def test_models_that_are_refused(make, message):
    with pytest.raises(UnsupportedModelError, match=message):
        trace_model(make())
