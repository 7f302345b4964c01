"""Convolutions over one, two and three axes, grouped ones included, and the transposed ones."""

from tfmetaprune._keras import keras
from tfmetaprune.layers.spec import Axes, LayerSpec, register, spatial_pattern


class _ConvSpec(LayerSpec):
    """Strides, dilation and padding move positions alone; `groups` cuts the channels into runs."""

    width_arg = "filters"

    def weights(self, layer):
        axes = super().weights(layer)
        return axes if layer.groups == 1 else {**axes, "kernel": axes["kernel"].replace(" in ", " in/groups ")}

    def flow(self, call):
        return Axes(spatial_pattern(call), groups=call.layer.groups, grouped=("in", "out"))

    def narrow(self, config, narrowing):
        return {**super().narrow(config, narrowing), "groups": narrowing.groups}


@register(keras.layers.Conv1D)
class Conv1DSpec(_ConvSpec):
    """Convolution over one axis, causal, strided, dilated and grouped included."""

    axes = {"kernel": "k in out", "bias": "out"}


@register(keras.layers.Conv2D)
class Conv2DSpec(_ConvSpec):
    """Convolution over two axes, strided, dilated and grouped included."""

    axes = {"kernel": "kh kw in out", "bias": "out"}


@register(keras.layers.Conv3D)
class Conv3DSpec(_ConvSpec):
    """Convolution over three axes, strided, dilated and grouped included."""

    axes = {"kernel": "kd kh kw in out", "bias": "out"}


class _ConvTransposeSpec(LayerSpec):
    """Subclasses of the convolutions in Keras, but the kernel has `out` before `in` and is laid on every *input* position."""

    width_arg = "filters"

    def flow(self, call):
        return Axes(spatial_pattern(call))

    def positions(self, call, weight, names):
        shape = call.input_shapes[0]
        lengths = shape[2:] if call.layer.data_format == "channels_first" else shape[1:-1]
        return {f"s{axis}": length for axis, length in enumerate(lengths)}


@register(keras.layers.Conv1DTranspose)
class Conv1DTransposeSpec(_ConvTransposeSpec):
    """Transposed convolution over one axis."""

    axes = {"kernel": "k out in", "bias": "out"}


@register(keras.layers.Conv2DTranspose)
class Conv2DTransposeSpec(_ConvTransposeSpec):
    """Transposed convolution over two axes."""

    axes = {"kernel": "kh kw out in", "bias": "out"}


@register(keras.layers.Conv3DTranspose)
class Conv3DTransposeSpec(_ConvTransposeSpec):
    """Transposed convolution over three axes."""

    axes = {"kernel": "kd kh kw out in", "bias": "out"}
