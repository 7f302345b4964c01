"""MultiHeadAttention."""

import inspect
import math

from tfmetaprune._keras import keras, tf
from tfmetaprune.layers.patterns import axis_names
from tfmetaprune.layers.spec import Axes, Frozen, LayerSpec, TensorIndex, register


@register(keras.layers.MultiHeadAttention)
class MultiHeadAttentionSpec(LayerSpec):
    """Whole heads can go, and widths inside the heads: `qk` of queries and keys, `v` of values.

    `kin` is what the keys are made from: an input of its own, or else what the values are made from.
    """

    axes = {
        "_query_dense.kernel": "in head qk", "_query_dense.bias": "head qk",
        "_key_dense.kernel": "kin head qk", "_key_dense.bias": "head qk",
        "_value_dense.kernel": "vin head v", "_value_dense.bias": "head v",
    }  # fmt: skip
    internal = ("head", "qk", "v")
    aliases = {"kin": "vin"}

    def weights(self, layer):
        made = " ".join(self._made(layer))
        output = {"_output_dense.kernel": f"head v {made}", "_output_dense.bias": made}
        return {
            **super().weights(layer),
            **{name: axes for name, axes in output.items() if layer._use_bias or "kernel" in name},
        }

    def flow(self, call):
        shapes = self._shapes(call)
        if shapes is None:
            return Frozen("is called in a way that does not tell its queries from its values")
        layer, patterns = call.layer, []
        for name, shape in shapes:
            last = {"query": "in", "value": "vin", "key": "kin"}.get(name)
            patterns.append(axis_names(len(shape), {len(shape) - 1: last} if last else {}, f"{name}_"))
        shape = dict(shapes)["query"]
        made = [" ".join(["b", *(f"p{axis}" for axis in range(1, len(shape) - 1)), *self._made(layer)])]
        frozen = {}
        if len(call.output_shapes) == 2:
            made.append(axis_names(len(call.output_shapes[1]), prefix="score_"))
            frozen = {"head": "returns the scores of every head"}
        mask = dict(shapes).get("attention_mask", ())
        if len(mask) == len(shape) + len(layer._attention_axes):
            frozen = {"head": "has a mask for every head"}
        return Axes(f"{', '.join(patterns)} -> {', '.join(made)}", frozen=frozen)

    def positions(self, call, weight, names):
        name = {"_key_dense.kernel": "key", "_value_dense.kernel": "value"}.get(weight, "query")
        shapes = dict(self._shapes(call))
        name = name if name in shapes else "value"
        return {f"{name}_{axis}": shapes[name][axis] for axis in range(1, len(shapes[name]) - 1)}

    def products(self, call):
        shape = dict(self._shapes(call))["query"]
        attended = [axis % (len(shape) + 1) for axis in call.layer._attention_axes]
        scores = (
            *(f"query_{axis}" for axis in range(1, len(shape) - 1)),
            *(f"value_{axis}" for axis in attended),
            "head",
        )
        return (*scores, "qk"), (*scores, "v")

    def narrow(self, config, narrowing):
        widths, old = narrowing.widths, config["output_shape"]
        made = [widths[name] for name in self._made(narrowing.call.layer)]
        if old is None:
            made = None if made == [widths["in"]] else made[0]
        elif isinstance(old, int):
            (made,) = made
        read = {"query_shape": "in", "key_shape": "kin", "value_shape": "vin"}
        shapes = {key: tf.TensorShape([*tf.TensorShape(config[key])[:-1], widths[role]]) for key, role in read.items()}
        heads = {"num_heads": widths["head"], "key_dim": widths["qk"], "value_dim": widths["v"]}
        return {**config, **shapes, **heads, "output_shape": made}

    def adjust_weights(self, layer, values, narrowing):
        """The layer divides its queries by sqrt(key_dim): they are scaled so that the quotient stays what it was."""
        factor = math.sqrt(narrowing.widths["qk"] / layer._key_dim)
        scaled = {
            name: (value * factor).astype(value.dtype)
            for name, value in values.items()
            if name.startswith("_query_dense.")
        }
        return {**values, **scaled}

    @staticmethod
    def _made(layer):
        """Names of the output's axes behind the positions: `output_shape` may have several."""
        count = len(layer._output_dense.kernel.shape) - 2
        return ["out"] if count == 1 else [f"out{axis}" for axis in range(count)]

    @staticmethod
    def _shapes(call):
        """(parameter of the layer's call, shape) of the call's inputs, in order; None where that cannot be told."""
        parameters = list(inspect.signature(call.layer.call).parameters)
        bound = [*zip(parameters, call.args), *call.kwargs.items()]
        tensors = [(name, value.index) for name, value in bound if isinstance(value, TensorIndex)]
        names = {name for name, _ in tensors}
        if tuple(index for _, index in tensors) != call.inputs or not {"query", "value"} <= names:
            return None
        return [(name, shape) for (name, _), shape in zip(tensors, call.input_shapes)]
