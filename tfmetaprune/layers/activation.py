"""Activations: functions of one channel at a time, and those that mix channels."""

from tfmetaprune._keras import keras
from tfmetaprune.layers.patterns import axis_names, same_axes
from tfmetaprune.layers.spec import Axes, Elementwise, Frozen, LayerSpec, is_channelwise, normalized_axes, register


@register(
    keras.layers.ReLU, keras.layers.LeakyReLU, keras.layers.ELU, keras.layers.ThresholdedReLU, keras.layers.Identity,
    keras.layers.GaussianNoise, keras.layers.GaussianDropout, keras.layers.ActivityRegularization,
)  # fmt: skip
class ElementwiseSpec(LayerSpec):
    """Activations and noises: no weights, every number on its own."""

    def flow(self, call):
        return Elementwise()


@register(
    keras.layers.Dropout, keras.layers.AlphaDropout, keras.layers.SpatialDropout1D, keras.layers.SpatialDropout2D,
    keras.layers.SpatialDropout3D,
)  # fmt: skip
class DropoutSpec(ElementwiseSpec):
    """Dropouts do nothing but in training; there the shape of the noise must fit the narrower tensor."""

    def narrow(self, config, narrowing):
        if not config.get("noise_shape"):
            return config
        lengths = zip(config["noise_shape"], narrowing.output_shapes[0])
        return {**config, "noise_shape": [old if old in (None, 1) else new for old, new in lengths]}


@register(keras.layers.Activation)
class ActivationSpec(LayerSpec):
    """Any activation function by name."""

    def flow(self, call):
        return Elementwise() if is_channelwise(call.layer.activation) else Frozen("its activation mixes the channels")


@register(keras.layers.Softmax)
class SoftmaxSpec(LayerSpec):
    """Softmax divides by a sum over its axes; over positions that is harmless, over channels it is not."""

    def flow(self, call):
        ranks = {len(shape) for shape in call.input_shapes}
        if len(ranks) > 1:
            return Frozen("its mask has other axes than its input")
        (rank,) = ranks
        mixed = {f"s{axis}": "its softmax mixes the channels" for axis in normalized_axes(call.layer.axis, rank)}
        inputs = ", ".join([axis_names(rank)] * len(call.input_shapes))
        return Axes(f"{inputs} -> {axis_names(rank)}", frozen=mixed)


@register(keras.layers.PReLU)
class PReLUSpec(LayerSpec):
    """A learnt slope per channel, and per position unless `shared_axes` names the positions' axes."""

    axes = {"alpha": "io"}

    def weights(self, layer):
        return {"alpha": axis_names(1 + len(layer.alpha.shape), self._channel_axis(layer), "tap")[2:]}

    def flow(self, call):
        own = self._channel_axis(call.layer)
        others = [axis for axis, size in enumerate(call.layer.alpha.shape, 1) if size > 1 and axis not in own]
        frozen = {f"s{axis}": "one slope a position, and another axis has the channels" for axis in others}
        return Axes(same_axes(len(call.input_shapes[0]), own), frozen=frozen)

    @staticmethod
    def _channel_axis(layer):
        """The last axis that has a slope for each position; none if one slope serves all."""
        count = len(layer.alpha.shape)
        shared = {(axis - 1) % count + 1 for axis in layer.shared_axes or ()}
        own = [axis for axis in range(1, count + 1) if axis not in shared]
        return {own[-1]: "io"} if own else {}
