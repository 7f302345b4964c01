"""Runs the original network with dead channels silent, which equals running the pruned one; differentiable."""

import contextlib
from collections.abc import Callable, Mapping

from tfmetaprune._keras import keras, tf
from tfmetaprune.layers import Axes, get_weight
from tfmetaprune.trace import ModelTrace, carry_mask, map_inputs, run


def run_masked(trace: ModelTrace, keep, inputs, weights: Mapping | None = None, training_bn: bool = False) -> list:
    """Runs the model as if some of its units were gone.

    A dead channel still computes, but nobody hears it: its slices along the axes that a kernel reads, and along those
    inside the layer, are set to 0; it is left out where products are summed over channels.

    Args:
      trace: the traced model; it is not modified.
      keep: float or bool [num_units], 1 for units that remain; None for all. May be a soft mask.
      inputs: the model's inputs, a list in order.
      weights: (layer path, weight name) -> tensor in place of the model's own.
      training_bn: whether BatchNormalization uses the statistics of this batch; the moving ones are never updated.

    Returns:
      The model's outputs, a list; differentiable with respect to `keep`, `weights` and `inputs`.
    """
    return run(trace, inputs, masked_calls(trace, keep, weights, training_bn))


def masked_calls(trace: ModelTrace, keep, weights: Mapping | None = None, training_bn: bool = False) -> Callable:
    """Makes the `call_layer` for `trace.run` that calls layers as if some units were gone; arguments as for `run_masked`.

    `weights` is read at each call, so that what is put into it meanwhile counts from then on.
    """
    weights = {} if weights is None else weights
    keep = tf.ones(trace.channels.num_units) if keep is None else tf.cast(keep, tf.float32)

    def call_layer(index, call, *args, **kwargs):
        channels = trace.channels.calls[index]
        if not channels.roles:
            return call.layer(*args, **kwargs)
        masks = {role: tf.gather(keep, trace.channels.units(layout)) for role, layout in channels.roles.items()}
        tensors = {}
        for name, axes in channels.weights.items():
            value = weights.get((call.path, name))
            silent = silenced_axes(channels, axes)
            if value is None and not silent:
                continue
            value = tf.convert_to_tensor(get_weight(call.layer, name) if value is None else value)
            for axis, role in silent.items():
                mask = tf.reshape(masks[role], [-1 if other == axis else 1 for other in range(len(axes.names))])
                value = tf.reshape(tf.reshape(value, axes.shape) * tf.cast(mask, value.dtype), value.shape)
            tensors[name] = value
        args, kwargs = _silence_sums(channels, masks, args, kwargs)
        with substitute(call.layer, tensors):
            if training_bn and is_batch_norm(channels):
                return carry_mask(args[0], batch_normalize(call.layer, args[0])[0])
            masks = {role: tf.cast(mask, call.layer.compute_dtype) for role, mask in masks.items()}
            return channels.spec.call_masked(call.layer, masks, *args, **kwargs)

    return call_layer


def silenced_axes(channels, axes) -> dict[int, str]:
    """Returns the axes of a weight along which dead channels are set to 0, those read and those inside the layer -> their roles."""
    inside = [axis for axis in axes.target if axes.names[axis] in channels.spec.internal]
    read = [axis for axis in axes.source if not axes.grouped or "in/groups" in channels.roles]
    return {axis: "in/groups" if axes.grouped and axis in axes.source else axes.names[axis] for axis in (*read, *inside)}


def _silence_sums(channels, masks, args, kwargs):
    """Sets dead channels to 0 in the first input that is summed over them."""
    names = channels.flow.sums if isinstance(channels.flow, Axes) else ()
    factors = {}  # position among the call's inputs -> (axis, mask)
    for name in names:
        if name in masks:
            position, axes = next((i, axes) for i, axes in enumerate(channels.input_names) if name in axes)
            factors.setdefault(position, []).append((axes.index(name), masks[name]))
    if not factors:
        return args, kwargs

    def silence(position, value):
        old = value
        for axis, mask in factors.get(position, ()):
            value *= tf.cast(tf.reshape(mask, [-1 if i == axis else 1 for i in range(len(value.shape))]), value.dtype)
        return carry_mask(old, value)

    return map_inputs(channels.call, silence, args, kwargs)


@contextlib.contextmanager
def substitute(layer, tensors: Mapping):
    """Lets the layer compute with other tensors in place of its variables while the context lasts.

    Args:
      layer: the layer.
      tensors: weight name, a path of attributes, -> tensor.
    """
    owners = {name: get_weight(layer, name.rpartition(".")[0]) if "." in name else layer for name in tensors}
    keys = {name: name.rpartition(".")[2] for name in tensors}
    old = {name: owners[name].__dict__[keys[name]] for name in tensors}
    for name, tensor in tensors.items():
        if hasattr(old[name], "true_dtype"):  # a variable that a mixed-precision layer casts when it reads it
            tensor = tf.cast(tensor, owners[name].compute_dtype)
        owners[name].__dict__[keys[name]] = tensor  # past Keras' __setattr__, which would track it
    try:
        yield
    finally:
        for name, variable in old.items():
            owners[name].__dict__[keys[name]] = variable


def is_batch_norm(channels) -> bool:
    """Whether a call normalises by moving statistics per channel."""
    return {"moving_mean", "moving_variance"} <= set(channels.weights)


def absorbs_mean(trace, channels, reader) -> bool:
    """Whether a BatchNormalization takes out again the mean of what a layer makes: it reads it as it is, along its channels.

    Args:
      trace: the traced model.
      channels: the `CallChannels` of the layer's call.
      reader: those of a call that reads what is made.
    """
    if not is_batch_norm(reader):
        return False
    layer, made = getattr(channels.call.layer, "layer", channels.call.layer), channels.call.outputs[0]
    axis, rank = reader.call.layer.axis, len(trace.shapes[made])
    axes = {each % rank for each in (axis if isinstance(axis, (list, tuple)) else [axis])}
    return getattr(layer, "activation", None) in (None, keras.activations.linear) and axes == set(trace.channels.tensors[made])


def batch_normalize(layer, x):
    """Normalises by the statistics of the batch, without touching the moving ones; as Keras does, without what a mask hides.

    Args:
      layer: a BatchNormalization layer over one axis.
      x: float, the layer's input.

    Returns:
      The normalised batch, its mean and its variance, both float [channels].
    """
    axis = (layer.axis[0] if isinstance(layer.axis, (list, tuple)) else layer.axis) % x.shape.rank
    others = [other for other in range(x.shape.rank) if other != axis]
    mask = getattr(x, "_keras_mask", None)
    dtype, x = x.dtype, tf.cast(x, layer.variable_dtype)
    if x.dtype == tf.float32 and x.shape.rank == 4 and axis == 3:
        return _batch_normalize_fused(layer, x, dtype)
    if mask is None:
        mean, variance = tf.nn.moments(x, others)
    else:
        mean, variance = tf.nn.weighted_moments(x, others, tf.cast(mask, x.dtype)[..., None])
    broadcast = [-1 if other == axis else 1 for other in range(x.shape.rank)]
    beta, gamma = (None if value is None else tf.reshape(value, broadcast) for value in (layer.beta, layer.gamma))
    moments = tf.reshape(mean, broadcast), tf.reshape(variance, broadcast)
    return tf.cast(tf.nn.batch_normalization(x, *moments, beta, gamma, layer.epsilon), dtype), mean, variance


def _batch_normalize_fused(layer, x, dtype):
    """`batch_normalize` of float32 [batch, height, width, channels] by one kernel, with its gradient another one."""
    ones = tf.ones(x.shape[3])
    y, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
        x=x, scale=ones if layer.gamma is None else layer.gamma, offset=0 * ones if layer.beta is None else layer.beta,
        mean=[], variance=[], epsilon=layer.epsilon, exponential_avg_factor=1.0, is_training=True,
    )  # fmt: skip
    count = tf.cast(tf.size(x) / x.shape[3], tf.float32)
    return tf.cast(y, dtype), mean, variance * (count - 1) / count  # the kernel divides by count - 1
