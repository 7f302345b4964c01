"""Convolutional LSTMs."""

from tfmetaprune._keras import keras
from tfmetaprune.layers.recurrent import inputs_of
from tfmetaprune.layers.spec import Axes, Frozen, LayerSpec, is_channelwise, register


class _ConvLSTMSpec(LayerSpec):
    """A recurrent layer over feature maps: both kernels are convolutions."""

    aliases = {"state": "out"}
    width_arg = "filters"

    def flow(self, call):
        layer = call.layer
        if layer.stateful:
            return Frozen("keeps its state from call to call")
        if not is_channelwise(layer.cell.recurrent_activation):
            return Frozen("its activation mixes the channels")
        series, states, masks = inputs_of(call)
        if series is None:
            return Frozen("is called with constants")
        first = layer.data_format == "channels_first"
        spatial = {prefix: [f"{prefix}{axis}" for axis in range(len(call.input_shapes[0]) - 3)] for prefix in "sxp"}

        def tensor(prefix, channel, steps=""):
            axes = [channel, *spatial[prefix]] if first else [*spatial[prefix], channel]
            return " ".join(["b", *steps, *axes])

        made = [
            tensor("p", "out", "u" if layer.return_sequences else ""),
            *[tensor("p", "out")] * (len(call.outputs) - 1),
        ]
        read = [tensor("s", "in", "t"), *[tensor("x", "out")] * states, *masks]
        return Axes(f"{', '.join(read)} -> {', '.join(made)}")

    def positions(self, call, weight, names):
        return {"t": call.input_shapes[0][1], **{name: length for name, length in names.items() if name != "u"}}


@register(keras.layers.ConvLSTM1D)
class ConvLSTM1DSpec(_ConvLSTMSpec):
    """Over one axis."""

    axes = {"cell.kernel": "k in gate*out", "cell.recurrent_kernel": "k state gate*out", "cell.bias": "gate*out"}


@register(keras.layers.ConvLSTM2D)
class ConvLSTM2DSpec(_ConvLSTMSpec):
    """Over two axes."""

    axes = {
        "cell.kernel": "kh kw in gate*out",
        "cell.recurrent_kernel": "kh kw state gate*out",
        "cell.bias": "gate*out",
    }


@register(keras.layers.ConvLSTM3D)
class ConvLSTM3DSpec(_ConvLSTMSpec):
    """Over three axes."""

    axes = {
        "cell.kernel": "kd kh kw in gate*out", "cell.recurrent_kernel": "kd kh kw state gate*out", "cell.bias": "gate*out"
    }  # fmt: skip
