"""Normalisations; those whose moments run over channels are told which channels are gone."""

from tfmetaprune._keras import keras, tf
from tfmetaprune.layers.patterns import along, same_axes, silence, with_mask_of
from tfmetaprune.layers.spec import Axes, Frozen, LayerSpec, normalized_axes, register


class _PerChannelSpec(LayerSpec):
    """Weights per channel along the layer's one `axis`."""

    importance = ("gamma",)

    def flow(self, call):
        rank = len(call.input_shapes[0])
        axes = normalized_axes(call.layer.axis, rank)
        if len(call.input_shapes) > 1:
            return Frozen("is called with a mask of its own")
        if len(axes) > 1 or 0 in axes:
            return Frozen(f"normalises the axes {axes}, not one alone")
        return Axes(same_axes(rank, {axes[0]: "io"}))


@register(keras.layers.BatchNormalization)
class BatchNormalizationSpec(_PerChannelSpec):
    """Scale, shift and statistics per channel."""

    axes = {"gamma": "io", "beta": "io", "moving_mean": "io", "moving_variance": "io"}

    def weights(self, layer):
        return super().weights(layer) if len(normalized_axes(layer.axis, 1)) == 1 else {}


@register(keras.layers.LayerNormalization)
class LayerNormalizationSpec(_PerChannelSpec):
    """Scale and shift per channel; its moments run over the channels, so they change when channels go."""

    axes = {"gamma": "io", "beta": "io"}
    columns = {"gamma": "ln_gamma", "beta": "ln_beta"}

    def weights(self, layer):
        return super().weights(layer) if len(normalized_axes(layer.axis, 1)) == 1 else {}

    def call_masked(self, layer, masks, x):
        if "io" not in masks:
            return layer(x)
        (axis,) = normalized_axes(layer.axis, len(x.shape))
        dtype = tf.float64 if x.dtype == tf.float64 else tf.float32
        inputs, mask = tf.cast(x, dtype), along(masks["io"], axis, len(x.shape), dtype)
        beta, gamma = (
            None if value is None else along(value, axis, len(x.shape), dtype) for value in (layer.beta, layer.gamma)
        )
        mean, variance = tf.nn.weighted_moments(inputs, [axis], mask * tf.ones_like(inputs), keepdims=True)
        made = tf.nn.batch_normalization(inputs, mean, variance, beta, gamma, layer.epsilon)
        return with_mask_of(x, tf.cast(made, layer.compute_dtype))


@register(keras.layers.GroupNormalization)
class GroupNormalizationSpec(_PerChannelSpec):
    """Scale and shift per channel, moments per group and example."""

    axes = {"gamma": "io", "beta": "io"}

    def flow(self, call):
        flow = super().flow(call)
        if isinstance(flow, Frozen):
            return flow
        positions = {name: "its moments run over them" for name in flow.pattern.split(" -> ")[0].split() if name != "io"}
        return Axes(flow.pattern, groups=call.layer.groups, grouped=("io",), frozen=positions)

    def narrow(self, config, narrowing):
        return {**config, "groups": narrowing.groups} if "io" in narrowing.widths else config

    def call_masked(self, layer, masks, x):
        """Groups that go as a whole leave the moments of the others alone; else moments are weighted by the mask."""
        if "io" not in masks or (layer.groups > 1 and "io/groups" not in masks):
            return layer(x)
        (axis,) = normalized_axes(layer.axis, len(x.shape))
        inputs = tf.cast(x, layer.compute_dtype)
        made = layer.call(inputs, mask=along(masks["io"], axis, len(x.shape), inputs.dtype))
        return with_mask_of(x, made)


@register(keras.layers.UnitNormalization)
class UnitNormalizationSpec(LayerSpec):
    """Divides by the Euclidean length along its axes, to which channels that are gone add nothing."""

    def flow(self, call):
        return Axes(same_axes(len(call.input_shapes[0])))

    def call_masked(self, layer, masks, x):
        for axis in normalized_axes(layer.axis, len(x.shape)):
            x = silence(x, masks.get(f"s{axis}"), axis)
        return layer(x)


@register(keras.layers.Normalization)
class NormalizationSpec(LayerSpec):
    """Fixed statistics per input feature; belongs before the first trained layer, where no channel can go."""

    def flow(self, call):
        return Frozen("holds fixed statistics of every feature")
