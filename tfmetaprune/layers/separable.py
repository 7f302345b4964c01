"""SeparableConv2D."""

from tfmetaprune._keras import keras
from tfmetaprune.layers.spec import Fresh, LayerSpec, register


@register(keras.layers.SeparableConv2D)
class SeparableConv2DSpec(LayerSpec):
    """A depthwise convolution to `mid` channels, then a pointwise one to `out` channels."""

    axes = {"depthwise_kernel": "kh kw in mid/in", "pointwise_kernel": "kh kw mid out", "bias": "out"}
    width_arg = "filters"

    def flow(self, call):
        return Fresh()
