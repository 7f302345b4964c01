"""Checks of every registered LayerSpec against the layers of the zoo, and of the registry itself."""

import numpy as np
import pytest
from zoo import ZOO

from tfmetaprune._keras import keras
from tfmetaprune.errors import ArgumentError
from tfmetaprune.graph import decode_graph, encode_graph
from tfmetaprune.layers import Fresh, LayerSpec, register, registered_kinds, spec_for
from tfmetaprune.trace import trace_model

L = keras.layers
IMAGE = (6, 6, 4)
# How to build one layer of a registered kind, where calling the class without arguments on an image does not do.
MAKE = {
    L.Dense: lambda: L.Dense(5),
    L.Conv1D: lambda: L.Conv1D(5, 3),
    L.Conv2D: lambda: L.Conv2D(5, 3, strides=2),
    L.Conv1DTranspose: lambda: L.Conv1DTranspose(5, 3),
    L.Conv2DTranspose: lambda: L.Conv2DTranspose(5, 3),
    L.DepthwiseConv2D: lambda: L.DepthwiseConv2D(3, depth_multiplier=2),
    L.SeparableConv2D: lambda: L.SeparableConv2D(5, 3, depth_multiplier=2),
    L.Activation: lambda: L.Activation("relu"),
    L.Dropout: lambda: L.Dropout(0.5),
    L.SpatialDropout1D: lambda: L.SpatialDropout1D(0.5),
    L.SpatialDropout2D: lambda: L.SpatialDropout2D(0.5),
    L.GaussianNoise: lambda: L.GaussianNoise(0.5),
    L.GaussianDropout: lambda: L.GaussianDropout(0.5),
    L.Rescaling: lambda: L.Rescaling(0.5),
    L.Reshape: lambda: L.Reshape((36, 4)),
    L.Permute: lambda: L.Permute((2, 1, 3)),
    L.RepeatVector: lambda: L.RepeatVector(3),
}
KINDS = [kind for kind in registered_kinds() if kind.__module__.startswith("tf_keras")]


def _input_shape(kind):
    if kind is L.RepeatVector:
        return (4,)
    return (6, 4) if "1D" in kind.__name__ else IMAGE


def _model(kind, layer):
    inputs = keras.Input(_input_shape(kind))
    hidden = L.Dense(4, name="before")(inputs)
    merging = kind.__module__.startswith("tf_keras.src.layers.merging")
    x = layer([hidden, L.Dense(4, name="other")(inputs)] if merging else hidden)
    x = L.Dense(3, name="after")(x)
    return keras.Model(inputs, x)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_layer_spec(kind):
    """Axes fit the real weights; nothing is left out; the round trip is exact; subclasses are served."""
    layer = MAKE.get(kind, kind)()
    model = _model(kind, layer)
    trace = trace_model(model)
    (channels,) = [channels for channels in trace.channels.calls if channels.call.layer is layer]
    for name, axes in channels.weights.items():
        assert len(axes) == len(getattr(layer, name).shape)
        for axis, size in zip(axes, getattr(layer, name).shape, strict=True):
            if axis in channels.roles:
                assert sum(segment.length for segment in channels.roles[axis]) == size
    if channels.weights:
        named = {id(getattr(layer, name)) for name in channels.weights}
        assert {id(weight) for weight in layer.weights} <= named, "a weight has no axes"
    for (layer_name, weight), value in decode_graph(encode_graph(trace), trace).items():
        np.testing.assert_array_equal(value, getattr(model.get_layer(layer_name), weight))
    assert spec_for(type("Sub", (kind,), {}).__new__(type("Sub", (kind,), {}))) is registered_kinds()[kind]


def test_the_zoo_uses_every_kind_with_weights():
    used = {type(layer) for build in ZOO.values() for layer in build().layers}
    missing = [kind.__name__ for kind in KINDS if registered_kinds()[kind].axes and kind not in used]
    assert not missing


def test_register_checks_what_it_gets():
    with pytest.raises(ArgumentError, match="expected a subclass of LayerSpec, got 3"):
        register(L.Dense)(3)

    class Twice(LayerSpec):
        axes = {"kernel": "in in"}

        def flow(self, call):
            return Fresh()

    with pytest.raises(ArgumentError, match="expected different axis names in weight 'kernel', got 'in in'"):
        register(L.Dense)(Twice)
    assert registered_kinds()[L.Dense].axes["kernel"] == "in out"
