"""Runs the original network with dead channels silent, which equals running the pruned one; differentiable."""

import contextlib
from collections.abc import Mapping

from tfmetaprune._keras import tf
from tfmetaprune.trace import ModelTrace, run


def run_masked(trace: ModelTrace, keep, inputs, weights: Mapping | None = None, training_bn: bool = False) -> list:
    """Runs the model as if some of its units were gone.

    A dead channel still computes, but nobody hears it: its slices along `in` and `mid` of every kernel are set to 0.

    Args:
      trace: the traced model; it is not modified.
      keep: float or bool [num_units], 1 for units that remain; None for all. May be a soft mask.
      inputs: the model's inputs, a list in order.
      weights: (layer name, weight name) -> tensor in place of the model's own.
      training_bn: whether BatchNormalization uses the statistics of this batch; the moving ones are never updated.

    Returns:
      The model's outputs, a list; differentiable with respect to `keep`, `weights` and `inputs`.
    """
    weights = weights or {}
    keep = tf.ones(trace.channels.num_units) if keep is None else tf.cast(keep, tf.float32)

    def call_layer(index, call, *args, **kwargs):
        channels = trace.channels.calls[index]
        if not channels.weights:
            return call.layer(*args, **kwargs)
        masks = {role: tf.gather(keep, trace.channels.units(layout)) for role, layout in channels.roles.items()}
        tensors = {}
        for name, axes in channels.weights.items():
            value = weights.get((call.layer.name, name))
            read = [axis for axis, role in enumerate(axes) if role in ("in", "mid")]
            if value is None and not read:
                continue
            value = tf.convert_to_tensor(getattr(call.layer, name) if value is None else value)
            for axis in read:
                shape = [-1 if other == axis else 1 for other in range(len(axes))]
                value *= tf.cast(tf.reshape(masks[axes[axis]], shape), value.dtype)
            tensors[name] = value
        with substitute(call.layer, tensors):
            if training_bn and is_batch_norm(channels):
                return batch_normalize(call.layer, args[0])[0]
            return channels.spec.call_masked(call.layer, tf.cast(masks["in"], args[0].dtype), *args, **kwargs)

    return run(trace, inputs, call_layer)


@contextlib.contextmanager
def substitute(layer, tensors: Mapping):
    """Lets the layer compute with other tensors in place of its variables while the context lasts."""
    old = {name: layer.__dict__[name] for name in tensors}
    layer.__dict__.update(tensors)  # past Keras' __setattr__, which would track them
    try:
        yield
    finally:
        layer.__dict__.update(old)


def is_batch_norm(channels) -> bool:
    """Whether a call normalises by moving statistics per channel."""
    return {"moving_mean", "moving_variance"} <= set(channels.weights)


def batch_normalize(layer, x):
    """Normalises by the statistics of the batch, without touching the moving ones.

    Args:
      layer: a BatchNormalization layer over the last axis.
      x: float [batch, ..., channels].

    Returns:
      The normalised batch, its mean and its variance, both float [channels].
    """
    mean, variance = tf.nn.moments(x, list(range(x.shape.rank - 1)))
    return tf.nn.batch_normalization(x, mean, variance, layer.beta, layer.gamma, layer.epsilon), mean, variance
