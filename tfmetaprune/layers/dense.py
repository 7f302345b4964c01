"""Dense."""

from tfmetaprune._keras import keras
from tfmetaprune.layers.spec import Axes, LayerSpec, register


@register(keras.layers.Dense)
class DenseSpec(LayerSpec):
    """A matrix product over the last axis, whatever axes stand before it."""

    axes = {"kernel": "in out", "bias": "out"}
    width_arg = "units"

    def flow(self, call):
        return Axes("b ... in -> b ... out")
