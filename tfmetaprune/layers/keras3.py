"""Layers that only Keras 3 has, carried by `interop.CarriedLayer`; imported with the first Keras 3 model, not before."""

import importlib

import keras as keras3

from tfmetaprune._keras import tf
from tfmetaprune.layers.keras_applications import LayerScaleSpec, ResidualSpec
from tfmetaprune.layers.patterns import with_mask_of
from tfmetaprune.layers.spec import (
    Axes,
    Frozen,
    LayerSpec,
    TensorIndex,
    normalized_axes,
    register,
    spatial_pattern,
)  # fmt: skip

_L = keras3.layers


def _application_layers(module: str, *names: str) -> list[type]:
    """The layer classes that a module of keras.applications has for itself; Keras does not export them."""
    try:
        home = importlib.import_module(f"keras.src.applications.{module}")
    except ImportError:
        return []
    return [getattr(home, name) for name in names if hasattr(home, name)]


@register(_L.RMSNormalization)
class RMSNormalizationSpec(LayerSpec):
    """Divides by the root of the mean square over the channels; the mean is one over those that remain."""

    axes = {"scale": "io"}
    columns = {"scale": "ln_gamma"}
    importance = ("scale",)

    def flow(self, call):
        rank = len(call.input_shapes[0])
        if normalized_axes(call.layer.carried.axis, rank) != (rank - 1,):
            return Frozen("normalises over other axes than the last")
        return Axes("b ... io -> b ... io")

    def call_masked(self, layer, masks, x):
        if "io" not in masks:
            return layer(x)
        x = with_mask_of(x, tf.cast(x, layer.compute_dtype))
        dtype = x.dtype if x.dtype == tf.float64 else tf.float32
        mask, wide = tf.cast(masks["io"], dtype), tf.cast(x, dtype)
        square = tf.reduce_sum(tf.square(wide) * mask, -1, keepdims=True) / tf.reduce_sum(mask)
        scale = tf.cast(tf.convert_to_tensor(layer.scale), dtype)
        return with_mask_of(x, tf.cast(wide * tf.math.rsqrt(square + layer.carried.epsilon) * scale, x.dtype))


register(*_application_layers("convnext", "LayerScale"))(LayerScaleSpec)
register(
    *_application_layers("convnext", "StochasticDepth"), *_application_layers("inception_resnet_v2", "CustomScaleLayer")
)(ResidualSpec)


@register(*(
    getattr(_L, f"Adaptive{kind}Pooling{rank}D") for kind in ("Average", "Max") for rank in (1, 2, 3)
    if hasattr(_L, f"Adaptive{kind}Pooling{rank}D")  # new in Keras 3.12
))  # fmt: skip
class AdaptivePoolingSpec(LayerSpec):
    """Channel i of the output is channel i of the input."""

    def flow(self, call):
        pattern = spatial_pattern(call, read="c", made="c")
        if call.layer.carried.data_format == "channels_first":
            count = len(call.input_shapes[0]) - 2
            read, made = (" ".join(f"{letter}{i}" for i in range(count)) for letter in "sp")
            pattern = f"b c {read} -> b c {made}"
        return Axes(pattern)


@register(_L.GroupQueryAttention)
class GroupQueryAttentionSpec(LayerSpec):
    """Attention whose heads for queries share heads for keys and values; one of those goes with all that share it.

    The width of a head stays: one number for queries, keys and values, and it stands in the scale of the products. The
    width of the output is that of the queries, so these are tied.
    """

    axes = {
        "_query_dense.kernel": "in heads width", "_query_dense.bias": "heads width",
        "_gate_dense.kernel": "in heads width", "_gate_dense.bias": "heads width",
        "_key_dense.kernel": "in pairs width", "_key_dense.bias": "pairs width",
        "_value_dense.kernel": "in pairs width", "_value_dense.bias": "pairs width",
        "_output_dense.kernel": "heads width out", "_output_dense.bias": "out",
    }  # fmt: skip
    internal = ("heads", "pairs", "width")
    _ARGUMENTS = ("query", "value", "key")

    def flow(self, call):
        if len(call.outputs) > 1:
            return Frozen("returns the scores of every head")
        arguments = [self._ARGUMENTS[i] if i < 3 else "mask" for i, leaf in enumerate(call.args) if _is_tensor(leaf)]
        arguments += [key for key, leaf in call.kwargs.items() if _is_tensor(leaf)]
        if len(arguments) != len(call.inputs):
            return Frozen("reads nested arguments")
        sides = {"query": "b t in", "value": "b s in", "key": "b s in"}  # all of one width
        read = [
            sides.get(name) or " ".join(["b", *(f"m{i}{axis}" for axis in range(1, len(shape)))])
            for i, (name, shape) in enumerate(zip(arguments, call.input_shapes))
        ]
        pairs = call.layer.carried.num_key_value_heads
        frozen = {"width": "queries, keys and values have one number for it, which scales the products"}
        if pairs == 1:
            frozen["pairs"] = "all heads share it"
        return Axes(f"{', '.join(read)} -> b t out", groups=pairs, grouped=("pairs", "heads"), tied=(("in", "out"),), frozen=frozen)

    def positions(self, call, weight, names):
        reads_values = weight.startswith(("_key_dense", "_value_dense"))
        return {"s": self._lengths(call)[1]} if reads_values else {"t": self._lengths(call)[0]}

    def products(self, call):
        return (("t", "s", "heads", "width"),) * 2

    def narrow(self, config, narrowing):
        widths = narrowing.widths
        return {**config, "num_query_heads": widths["heads"], "num_key_value_heads": widths["pairs"]}

    @staticmethod
    def _lengths(call):
        query, value = call.input_shapes[0], call.input_shapes[min(1, len(call.input_shapes) - 1)]
        return query[1] or 1, value[1] or 1


def _is_tensor(leaf) -> bool:
    return isinstance(leaf, TensorIndex)
