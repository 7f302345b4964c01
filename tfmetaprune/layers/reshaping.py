"""Layers that move numbers between axes: the core lets them move the channels' numbers and looks where they land."""

from tfmetaprune._keras import keras
from tfmetaprune.layers.spec import LayerSpec, Moves, register


@register(keras.layers.Flatten, keras.layers.Permute, keras.layers.RepeatVector)
class MovesSpec(LayerSpec):
    """Follow the shape of their input; no length stands in the config."""

    def flow(self, call):
        return Moves()


@register(keras.layers.Reshape)
class ReshapeSpec(LayerSpec):
    """The lengths that it makes stand in the config."""

    def flow(self, call):
        return Moves()

    def narrow(self, config, narrowing):
        return {
            **config,
            "target_shape": tuple(-1 if size is None else size for size in narrowing.output_shapes[0][1:]),
        }
