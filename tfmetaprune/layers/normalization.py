"""BatchNormalization and LayerNormalization."""

from tfmetaprune._keras import keras, tf
from tfmetaprune.layers.spec import Frozen, LayerSpec, Same, register


def _axes(layer) -> tuple[int, ...]:
    return tuple(layer.axis) if isinstance(layer.axis, (list, tuple)) else (layer.axis,)


@register(keras.layers.BatchNormalization)
class BatchNormalizationSpec(LayerSpec):
    """Scale, shift and statistics per channel."""

    axes = {"gamma": "io", "beta": "io", "moving_mean": "io", "moving_variance": "io"}
    importance = ("gamma",)

    def flow(self, call):
        if _axes(call.layer) not in ((-1,), (len(call.input_shapes[0]) - 1,)):
            return Frozen(f"normalises axis {call.layer.axis}, not the last one")
        return Same()


@register(keras.layers.LayerNormalization)
class LayerNormalizationSpec(LayerSpec):
    """Scale and shift per channel; its statistics run over the channels, so they change when channels go."""

    axes = {"gamma": "io", "beta": "io"}
    columns = {"gamma": "ln_gamma", "beta": "ln_beta"}
    importance = ("gamma",)

    def flow(self, call):
        if _axes(call.layer) not in ((-1,), (len(call.input_shapes[0]) - 1,)):
            return Frozen(f"normalises axes {call.layer.axis}, not the last one alone")
        if not (call.layer.scale or call.layer.center):
            return Frozen("normalises over the channels and has no weight that tells them apart")
        return Same()

    def call_masked(self, layer, mask, x):
        count = tf.reduce_sum(mask)
        mean = tf.reduce_sum(x * mask, -1, keepdims=True) / count
        variance = tf.reduce_sum(tf.square(x - mean) * mask, -1, keepdims=True) / count
        return tf.nn.batch_normalization(x, mean, variance, layer.beta, layer.gamma, layer.epsilon)


@register(keras.layers.Normalization)
class NormalizationSpec(LayerSpec):
    """Fixed statistics per input feature; belongs before the first trained layer, where no channel can go."""

    def flow(self, call):
        return Frozen("holds fixed statistics of every feature")
