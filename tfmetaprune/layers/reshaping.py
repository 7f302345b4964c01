"""Flatten, Reshape, Permute, RepeatVector: positions move in and out of the channel axis."""

import math

from tfmetaprune._keras import keras
from tfmetaprune.layers.spec import Frozen, LayerSpec, Repeat, Same, Unrepeat, register


@register(keras.layers.Flatten)
class FlattenSpec(LayerSpec):
    """All positions move into the channel axis."""

    def flow(self, call):
        positions = call.input_shapes[0][1:-1]
        if None in positions:
            return Frozen("flattens positions of unknown number")
        return Repeat(tuple(positions)) if positions else Same()


@register(keras.layers.Reshape)
class ReshapeSpec(LayerSpec):
    """Keeps the channel axis, moves trailing positions into it, or moves them out of it again."""

    def flow(self, call):
        source, target = call.input_shapes[0], call.output_shapes[0]
        if None in source[1:] or None in target[1:]:
            return Frozen("reshapes axes of unknown length")
        width, wanted = source[-1], target[-1]
        if wanted == width:
            return Same()
        if wanted < width:
            return Unrepeat(wanted) if width % wanted == 0 else Frozen("splits the channel axis unevenly")
        for first in range(len(source) - 2, 0, -1):
            taps = source[first:-1]
            if math.prod(taps) * width == wanted:
                return Repeat(tuple(taps))
        return Frozen("moves a part of an axis into the channel axis")

    def narrow(self, config, call, widths, output_width):
        return {**config, "target_shape": (*call.output_shapes[0][1:-1], output_width)}


@register(keras.layers.Permute)
class PermuteSpec(LayerSpec):
    """Harmless while the channel axis stays last."""

    def flow(self, call):
        dims = call.layer.dims
        return Same() if dims[-1] == len(dims) else Frozen("moves the channel axis")


@register(keras.layers.RepeatVector)
class RepeatVectorSpec(LayerSpec):
    """(batch, channels) -> (batch, n, channels)."""

    def flow(self, call):
        return Same()
