"""Activations: functions of one channel at a time, and those that mix channels."""

from tfmetaprune._keras import keras
from tfmetaprune.layers.spec import Frozen, LayerSpec, Same, is_channelwise, register


@register(
    keras.layers.ReLU, keras.layers.LeakyReLU, keras.layers.ELU, keras.layers.ThresholdedReLU, keras.layers.Dropout,
    keras.layers.SpatialDropout1D, keras.layers.SpatialDropout2D, keras.layers.GaussianNoise,
    keras.layers.GaussianDropout, keras.layers.ActivityRegularization,
)  # fmt: skip
class ElementwiseSpec(LayerSpec):
    """Activations, dropouts and noises: no weights, every channel on its own."""

    def flow(self, call):
        return Same()


@register(keras.layers.Activation)
class ActivationSpec(LayerSpec):
    """Any activation function by name."""

    def flow(self, call):
        return Same() if is_channelwise(call.layer.activation) else Frozen("its activation mixes the channels")


@register(keras.layers.Softmax)
class SoftmaxSpec(LayerSpec):
    """Softmax divides by a sum over its axis; over positions that is harmless, over channels it is not."""

    def flow(self, call):
        rank = len(call.input_shapes[0])
        axes = call.layer.axis if isinstance(call.layer.axis, (list, tuple)) else (call.layer.axis,)
        return Frozen("its softmax mixes the channels") if rank - 1 in [axis % rank for axis in axes] else Same()


@register(keras.layers.PReLU)
class PReLUSpec(LayerSpec):
    """A learnt slope per channel, and per position unless `shared_axes` names the positions' axes."""

    axes = {"alpha": "io"}

    def weights(self, layer):
        rank = len(layer.alpha.shape)
        return {"alpha": (*(f"position{axis}" for axis in range(rank - 1)), "io")}

    def flow(self, call):
        if call.layer.alpha.shape[-1] != call.input_shapes[0][-1]:
            return Frozen("one slope is shared by all channels")
        return Same()
