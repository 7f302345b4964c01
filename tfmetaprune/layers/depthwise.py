"""DepthwiseConv2D."""

from tfmetaprune._keras import keras
from tfmetaprune.layers.spec import Fresh, LayerSpec, register


@register(keras.layers.DepthwiseConv2D)
class DepthwiseConv2DSpec(LayerSpec):
    """Each input channel makes `depth_multiplier` output channels, which live and die with it."""

    axes = {"depthwise_kernel": "kh kw in out/in", "bias": "out"}

    def flow(self, call):
        return Fresh()
