"""Merges: sums, products and the like tie channels; Concatenate lines them up, Dot sums over them."""

from tfmetaprune._keras import keras
from tfmetaprune.layers.patterns import silence
from tfmetaprune.layers.spec import Axes, Concat, Elementwise, Frozen, LayerSpec, register


@register(
    keras.layers.Add, keras.layers.Subtract, keras.layers.Multiply, keras.layers.Average,
    keras.layers.Maximum, keras.layers.Minimum,
)  # fmt: skip
class ElementwiseMergeSpec(LayerSpec):
    """Channel i of every input meets channel i of the others (squeeze-and-excite: broadcast over positions)."""

    def flow(self, call):
        return Elementwise()


@register(keras.layers.Concatenate)
class ConcatenateSpec(LayerSpec):
    """On the channel axis the channels line up; on another axis they are tied."""

    def flow(self, call):
        return Concat(call.layer.axis)


@register(keras.layers.Dot)
class DotSpec(LayerSpec):
    """Sums of products over one axis of each input, which are tied; the other axes pass."""

    def flow(self, call):
        axes = self._summed_axes(call.layer, map(len, call.input_shapes))
        if 0 in axes:
            return Frozen("sums over the batch axis")
        names = [
            [name if axis != summed else "c" for axis, name in enumerate(f"{prefix}{i}" for i in range(len(shape)))]
            for prefix, shape, summed in zip("xy", call.input_shapes, axes, strict=True)
        ]
        left = [name for axes in names for name in axes[1:] if name != "c"] or ["one"]
        inputs = ", ".join(" ".join(["b", *axes[1:]]) for axes in names)
        return Axes(f"{inputs} -> {' '.join(['b', *left])}", sums=("c",))

    def call_masked(self, layer, masks, inputs):
        """The first input is silent where channels are gone; a norm is taken of the second as well."""
        if layer.normalize:
            first, second = inputs
            axis = self._summed_axes(layer, (len(first.shape), len(second.shape)))[1]
            inputs = [first, silence(second, masks.get("c"), axis)]
        return layer(inputs)

    @staticmethod
    def _summed_axes(layer, ranks):
        axes = layer.axes if isinstance(layer.axes, (list, tuple)) else (layer.axes,) * 2
        return tuple(axis % rank for axis, rank in zip(axes, ranks, strict=True))
