"""Separable convolutions."""

from tfmetaprune._keras import keras
from tfmetaprune.layers.spec import Axes, LayerSpec, register, spatial_pattern


class _SeparableConvSpec(LayerSpec):
    """A depthwise convolution to `mid` channels, then a pointwise one to `out` channels."""

    width_arg = "filters"

    def flow(self, call):
        return Axes(spatial_pattern(call))


@register(keras.layers.SeparableConv1D)
class SeparableConv1DSpec(_SeparableConvSpec):
    """Separable convolution over one axis."""

    axes = {"depthwise_kernel": "k in mid/in", "pointwise_kernel": "k mid out", "bias": "out"}


@register(keras.layers.SeparableConv2D)
class SeparableConv2DSpec(_SeparableConvSpec):
    """Separable convolution over two axes."""

    axes = {"depthwise_kernel": "kh kw in mid/in", "pointwise_kernel": "kh kw mid out", "bias": "out"}
