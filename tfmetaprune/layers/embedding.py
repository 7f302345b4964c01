"""Embedding."""

from tfmetaprune._keras import keras
from tfmetaprune.layers.spec import Axes, Frozen, LayerSpec, register


@register(keras.layers.Embedding)
class EmbeddingSpec(LayerSpec):
    """A table with a row for every word; it is looked up, so it costs no MACs. The words stay, and so does `mask_zero`."""

    axes = {"embeddings": "vocab out"}
    width_arg = "output_dim"

    def flow(self, call):
        return Frozen("makes a sparse tensor") if call.layer.sparse else Axes("b ... -> b ... out")
