"""Attention without kernels: Attention and AdditiveAttention."""

from tfmetaprune._keras import keras
from tfmetaprune.layers.patterns import axis_names, silence
from tfmetaprune.layers.spec import Axes, LayerSpec, register


class _DenseAttentionSpec(LayerSpec):
    """Queries `b t c` meet keys `b s c`; the values `b s v` are averaged. Without keys the values are the keys."""

    def flow(self, call):
        rank = len(call.input_shapes[0])
        query, value, *key = self._names(call)
        masks = [
            axis_names(len(shape), prefix=f"m{i}_") for i, shape in enumerate(call.input_shapes[len(call.args[0]) :])
        ]
        positions = {axis: f"p{axis}" for axis in range(1, rank - 1)}
        made = [axis_names(rank, {**positions, rank - 1: value[rank - 1]})]
        scores = [axis_names(rank, positions, "u")] * (len(call.output_shapes) - 1)
        inputs = [axis_names(rank, names) for names in (query, value, *key)]
        return Axes(f"{', '.join(inputs + masks)} -> {', '.join(made + scores)}", sums=("c",))

    def _names(self, call):
        """The axes of queries, values and, where there are three inputs, keys."""
        last = len(call.input_shapes[0]) - 1
        source = {axis: f"{'s' if axis == last - 1 else 't'}{axis}" for axis in range(1, last)}
        query = {**{axis: f"t{axis}" for axis in range(1, last)}, last: "c"}
        if len(call.args[0]) == 2:
            return query, {**source, last: "c"}
        return query, {**source, last: self._value_channels(call.layer)}, {**source, last: "c"}

    @staticmethod
    def _value_channels(layer):
        """Name of the values' channels, where there are keys as well."""
        del layer
        return "v"

    def products(self, call):
        rank = len(call.input_shapes[0])
        query, value, *_ = self._names(call)
        scores = (*(query[axis] for axis in range(1, rank - 1)), value[rank - 2])
        return (*scores, "c"), (*scores, value[rank - 1])


def _silence_keys(masks, inputs):
    """The queries are silent already; numbers that are added to them must be silent as well."""
    *others, keys = inputs
    return [*others, silence(keys, masks.get("c"), -1)]


@register(keras.layers.Attention)
class AttentionSpec(_DenseAttentionSpec):
    """Scores are products of queries and keys, or sums of tanh(query + key)."""

    axes = {"scale": "", "concat_score_weight": ""}

    def call_masked(self, layer, masks, inputs, *args, **kwargs):
        if layer.score_mode == "concat":
            inputs = _silence_keys(masks, inputs)
        return layer(inputs, *args, **kwargs)


@register(keras.layers.AdditiveAttention)
class AdditiveAttentionSpec(_DenseAttentionSpec):
    """Scores are sums of tanh(query + key), each times the scale of its channel."""

    axes = {"scale": "c"}

    @staticmethod
    def _value_channels(layer):
        """Keras makes the scale as wide as the values, and multiplies it with the keys."""
        return "c" if layer.use_scale else "v"

    def positions(self, call, weight, names):
        (scores, _) = super().products(call)
        return {name: self._lengths(call)[name] for name in scores if name != "c"}

    def products(self, call):
        """The scale is a kernel where the keys are no values; its MACs are those of the scores."""
        scores, averages = super().products(call)
        return (averages,) if call.layer.use_scale and averages[-1] == "v" else (scores, averages)

    @staticmethod
    def _lengths(call):
        shapes = call.input_shapes
        return {
            f"{prefix}{axis}": shape[axis] for prefix, shape in zip("ts", shapes) for axis in range(1, len(shape) - 1)
        }

    def call_masked(self, layer, masks, inputs, *args, **kwargs):
        return layer(_silence_keys(masks, inputs), *args, **kwargs)
