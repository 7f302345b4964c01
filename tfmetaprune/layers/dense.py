"""Dense."""

from tfmetaprune._keras import keras
from tfmetaprune.layers.spec import Fresh, LayerSpec, register


@register(keras.layers.Dense)
class DenseSpec(LayerSpec):
    """Every output unit reads every input channel; after a Flatten the positions are taps of the edge."""

    axes = {"kernel": "in out", "bias": "out"}
    width_arg = "units"

    def flow(self, call):
        return Fresh()
