"""Where channels end up when a layer only moves numbers: found by letting it move the channels' numbers."""

import numpy as np

from tfmetaprune._keras import tf
from tfmetaprune.layers import TensorIndex

UNKNOWN_LENGTH = 4  # stands for an axis of unknown length


def number_array(shape, axis: int, positions: np.ndarray) -> np.ndarray:
    """Returns int64 of a tensor's shape (batch size 1 if unknown) that holds `positions + 1` along `axis`; 0 is left for padding."""
    lengths = known_shape(shape)
    column = (np.asarray(positions) + 1).reshape([-1 if other == axis else 1 for other in range(len(lengths))])
    lengths[axis] = len(positions)
    return np.broadcast_to(column, lengths)


def known_shape(shape) -> list[int]:
    """Returns a shape without unknown lengths: the batch size is 1, other lengths `UNKNOWN_LENGTH`, where unknown."""
    return [shape[0] or 1, *(UNKNOWN_LENGTH if length is None else length for length in shape[1:])] if shape else []


def shape_numbers(shape, axis) -> np.ndarray:
    """Returns what a call that asks for a tensor's shape gets, int32; see `Length`."""
    lengths = np.array(known_shape(shape), np.int32)
    return lengths if axis is None else lengths[list(axis) if isinstance(axis, tuple) else axis]


def move_numbers(layer, args, kwargs, arrays: dict[int, np.ndarray]) -> list[np.ndarray]:
    """Calls a layer on arrays of numbers.

    Args:
      layer: the layer.
      args: of its call, with `TensorIndex`es.
      kwargs: of its call, likewise.
      arrays: tensor index -> array that stands there.

    Returns:
      The outputs, in order.
    """

    def replace(leaf):
        return tf.constant(arrays[leaf.index]) if isinstance(leaf, TensorIndex) else leaf

    args, kwargs = tf.nest.map_structure(replace, (args, dict(kwargs)))
    return [np.asarray(output) for output in tf.nest.flatten(layer(*args, **kwargs))]


def varying_axes(array: np.ndarray) -> list[int]:
    """Returns the axes along which numbers other than 0 change."""
    result = []
    for axis in range(array.ndim):
        rows = np.moveaxis(array, axis, 0)
        low = np.where(rows == 0, np.iinfo(np.int64).max, rows).min(0, initial=np.iinfo(np.int64).max)
        if np.any(low < rows.max(0, initial=0)):
            result.append(axis)
    return result


def rows_along(array: np.ndarray, axis: int) -> list[np.ndarray]:
    """Returns, for every position on the axis, the different numbers other than 0 that stand there, ascending."""
    rows = np.moveaxis(array, axis, 0).reshape(array.shape[axis], -1)
    return [np.unique(row[row > 0]) for row in rows]


def repeated_taps(positions, base, lengths) -> tuple[int, ...] | None:
    """Recognises a flatten: `base` repeated for the positions of the axes that came before it.

    Args:
      positions: int64 [k * n], what stands on the axis now.
      base: int64 [n], what stood on the channel axis.
      lengths: of the axes before the channel axis, without the batch axis.

    Returns:
      The lengths of the axes that were moved into the channel axis, () for none; None if it is something else.

    Example:
      >>> repeated_taps(np.array([7, 8, 7, 8, 7, 8, 7, 8]), np.array([7, 8]), (5, 2, 2))
      (2, 2)
    """
    count, rest = divmod(len(positions), len(base))
    if rest or not np.array_equal(positions, np.tile(base, count)):
        return None
    if count == 1:
        return ()
    for first in range(len(lengths) - 1, -1, -1):
        if None not in lengths[first:] and np.prod(lengths[first:]) == count:
            return tuple(lengths[first:])
    return (count,)
