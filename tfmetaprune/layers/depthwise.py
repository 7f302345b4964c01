"""Depthwise convolutions."""

from tfmetaprune._keras import keras
from tfmetaprune.layers.spec import Axes, LayerSpec, register, spatial_pattern


class _DepthwiseConvSpec(LayerSpec):
    """Every channel is convolved alone and makes `depth_multiplier` channels; no width stands in the config."""

    def flow(self, call):
        return Axes(spatial_pattern(call))


@register(keras.layers.DepthwiseConv1D)
class DepthwiseConv1DSpec(_DepthwiseConvSpec):
    """Depthwise convolution over one axis."""

    axes = {"depthwise_kernel": "k in out/in", "bias": "out"}


@register(keras.layers.DepthwiseConv2D)
class DepthwiseConv2DSpec(_DepthwiseConvSpec):
    """Depthwise convolution over two axes."""

    axes = {"depthwise_kernel": "kh kw in out/in", "bias": "out"}
