"""The small layers that keras.applications brings along for its own architectures."""

import inspect

from tfmetaprune._keras import keras
from tfmetaprune.layers.spec import Axes, Elementwise, LayerSpec, register

_convnext = inspect.getmodule(keras.applications.ConvNeXtTiny)
_inception_resnet = inspect.getmodule(keras.applications.InceptionResNetV2)


@register(_convnext.LayerScale)
class LayerScaleSpec(LayerSpec):
    """A learnt factor per channel."""

    axes = {"gamma": "io"}
    importance = ("gamma",)

    def flow(self, call):
        return Axes("b ... io -> b ... io")

    def narrow(self, config, narrowing):
        return {**config, "projection_dim": narrowing.widths["io"]}


@register(_convnext.StochasticDepth, _inception_resnet.CustomScaleLayer)
class ResidualSpec(LayerSpec):
    """Drop a branch in training; add a branch times one number."""

    def flow(self, call):
        return Elementwise()
