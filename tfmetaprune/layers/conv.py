"""Conv1D and Conv2D."""

from tfmetaprune._keras import keras
from tfmetaprune.layers.spec import Fresh, Frozen, LayerSpec, register


class _ConvSpec(LayerSpec):
    width_arg = "filters"

    def weights(self, layer):
        return super().weights(layer) if layer.groups == 1 else {}

    def flow(self, call):
        if call.layer.groups != 1:
            return Frozen(f"a grouped convolution (groups={call.layer.groups})")
        return Fresh()


@register(keras.layers.Conv1D)
class Conv1DSpec(_ConvSpec):
    """Convolution over one axis, causal, strided and dilated included."""

    axes = {"kernel": "k in out", "bias": "out"}


@register(keras.layers.Conv2D)
class Conv2DSpec(_ConvSpec):
    """Convolution over two axes, strided and dilated included."""

    axes = {"kernel": "kh kw in out", "bias": "out"}


@register(keras.layers.Conv2DTranspose, keras.layers.Conv1DTranspose)
class ConvTransposeSpec(LayerSpec):
    """Transposed convolutions subclass Conv in Keras but lay their kernel out differently: their channels stay."""

    def flow(self, call):
        return Frozen("a transposed convolution")
