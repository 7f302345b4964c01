"""Merges: sums, products and the like tie channels; Concatenate on the channel axis lines them up."""

from tfmetaprune._keras import keras
from tfmetaprune.layers.spec import Concat, LayerSpec, Tie, register


@register(
    keras.layers.Add, keras.layers.Subtract, keras.layers.Multiply, keras.layers.Average,
    keras.layers.Maximum, keras.layers.Minimum,
)  # fmt: skip
class ElementwiseMergeSpec(LayerSpec):
    """Channel i of every input meets channel i of the others (squeeze-and-excite: broadcast over positions)."""

    def flow(self, call):
        return Tie()


@register(keras.layers.Concatenate)
class ConcatenateSpec(LayerSpec):
    """On the channel axis the channels line up; on another axis they are tied."""

    def flow(self, call):
        rank = len(call.output_shapes[0])
        return Concat() if call.layer.axis % rank == rank - 1 else Tie()
