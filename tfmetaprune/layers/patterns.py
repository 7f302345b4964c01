"""Axis patterns for tensors whose channel axis is told by a layer's arguments, and the tensors' Keras masks."""

from tfmetaprune._keras import tf


def axis_names(rank: int, names=None, prefix: str = "s") -> str:
    """Names the axes of a tensor.

    Args:
      rank: number of axes, the batch axis included.
      names: axis -> name, for those that have one of their own.
      prefix: begins the names of the others.

    Example:
      >>> axis_names(4, {1: "io"})
      'b io s2 s3'
    """
    names = names or {}
    return " ".join(["b", *(names.get(axis, f"{prefix}{axis}") for axis in range(1, rank))])


def same_axes(rank: int, names=None) -> str:
    """The pattern of a layer that reads one tensor and makes one of the same axes.

    Example:
      >>> same_axes(3, {2: "io"})
      'b s1 io -> b s1 io'
    """
    return f"{axis_names(rank, names)} -> {axis_names(rank, names)}"


def silence(x, mask, axis: int):
    """Sets dead channels to 0; the tensor keeps its Keras mask (of padded steps in a series).

    Args:
      x: float tensor.
      mask: float [channels], 0 where the channel is gone; None for no such channels.
      axis: the axis of `x` that holds them.
    """
    if mask is None:
        return x
    return with_mask_of(x, x * along(mask, axis, len(x.shape), x.dtype))


def along(mask, axis: int, rank: int, dtype):
    """Returns a mask float [channels] in a shape that broadcasts along `axis` of a tensor."""
    return tf.cast(tf.reshape(mask, [-1 if other == axis % rank else 1 for other in range(rank)]), dtype)


def with_mask_of(old, new):
    """Returns `new` with the Keras mask that `old` has."""
    mask = getattr(old, "_keras_mask", None)
    if mask is not None:
        new._keras_mask = mask
    return new
