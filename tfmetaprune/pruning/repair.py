"""Repairs after pruning: BatchNormalization statistics estimated again."""

import itertools
import sys
from collections.abc import Iterator

from tfmetaprune._keras import keras, tf
from tfmetaprune.errors import DataError
from tfmetaprune.pruning.masking import batch_normalize, is_batch_norm
from tfmetaprune.pruning.rebuild import replace_weights
from tfmetaprune.trace import call_arguments, carry_mask, in_parts, input_keys, required_batch_size, trace_model

SMALLEST_BATCH = 32  # inputs whose statistics are taken at once


def reestimate_bn(model, dataset, *, num_batches: int = 50):
    """Returns a new model whose BatchNormalization statistics fit the data.

    Every BatchNormalization works with the statistics of the batch, all other layers as in inference; the new moving
    statistics are the means over the batches, weighted by their sizes. Batches of fewer than 32 count together as one, since the variance
    within a small batch is too low, and that of a single input 0.

    Args:
      model: a functional or Sequential model; it is not modified.
      dataset: batches of inputs, or of (inputs, labels, ...); labels are not used.
      num_batches: how many batches to use at most, each of 32 or more.

    Raises:
      DataError: the dataset is empty, or does not fit the model.
      UnsupportedModelError: the model cannot be traced.
    """
    trace = trace_model(model)
    if not any(_batch_norm_of(channels) for channels in trace.channels.calls):
        return replace_weights(model, {})
    statistics = tf.function(lambda group: _batch_statistics(trace, group), reduce_retracing=True)
    totals, count = None, 0
    for group in itertools.islice(_groups(trace, dataset), num_batches):
        size = sum(int(inputs[0].shape[0]) for inputs in group)
        try:
            new = {key: size * value.numpy() for key, value in statistics(group).items()}
        except (ValueError, TypeError, tf.errors.InvalidArgumentError) as error:
            shapes = [[tuple(tensor.shape) for tensor in tensors] for tensors in (model.inputs, group[0])]
            raise DataError(
                f"Data: expected inputs of shape {shapes[0]}, got {shapes[1]} ({str(error).splitlines()[0]}). "
                f"Make the data fit the model."
            ) from error
        totals = new if totals is None else {key: totals[key] + new[key] for key in totals}
        count += size
    if not count:
        raise DataError("Data: expected at least one batch, got none. Give a dataset that is not empty.")
    return replace_weights(model, {tuple(key.rsplit("/", 1)): total / count for key, total in totals.items()})


def _groups(trace, dataset) -> Iterator[list[list]]:
    """Yields groups of batches, all of one shape, that have `SMALLEST_BATCH` inputs or more; as one batch, if any number will do."""
    held, count, required = [], 0, None

    def group():
        return held if required else [[tf.concat(values, 0) for values in zip(*held)]]

    batches = (model_inputs(trace.model, batch) for batch in dataset)
    for number, inputs in enumerate(in_parts(trace, batches, sys.maxsize, lambda batch: len(batch[0]))):
        required = required if number else required_batch_size(trace, inputs)
        if held and [value.shape[1:] for value in inputs] != [value.shape[1:] for value in held[0]]:
            yield group()
            held, count = [], 0
        held.append(inputs)
        count += int(inputs[0].shape[0])
        if count >= SMALLEST_BATCH:
            yield group()
            held, count = [], 0
    if held:
        yield group()


def model_inputs(model, batch) -> list:
    """Returns the model's inputs, a list of tensors in order, from a batch as `fit` takes it."""
    x = keras.utils.unpack_x_y_sample_weight(batch)[0]
    x = [x[name] for name in input_keys(model) if name in x] if isinstance(x, dict) else tf.nest.flatten(x)
    if len(x) != len(model.inputs):
        raise DataError(f"Data: expected {len(model.inputs)} inputs, got {len(x)}. Make the data fit the model.")
    return [tf.cast(value, tensor.dtype) for value, tensor in zip(x, model.inputs)]


def _batch_statistics(trace, group):
    """"layer/weight" -> float32 [channels], the statistics of a group's batches taken together; means over the calls of a shared layer."""
    seen, values = {}, [dict(zip(trace.inputs, inputs)) for inputs in group]
    for call, channels in zip(trace.calls, trace.channels.calls):
        arguments = [call_arguments(call, known) for known in values]
        norm = _batch_norm_of(channels)
        if norm is not None:
            layer, prefix = norm
            made, mean, variance = _normalize(layer, [args[0] for args, _ in arguments], in_steps=bool(prefix))
            seen.setdefault(f"{call.path}/{prefix}moving_mean", []).append(tf.cast(mean, tf.float32))
            seen.setdefault(f"{call.path}/{prefix}moving_variance", []).append(tf.cast(variance, tf.float32))
        else:
            made = [call.layer(*args, **kwargs) for args, kwargs in arguments]
        for known, outputs in zip(values, made):
            known.update(zip(call.outputs, tf.nest.flatten(outputs)))
    return {key: tf.add_n(found) / len(found) for key, found in seen.items()}


def _batch_norm_of(channels):
    """Returns the BatchNormalization that a call is of, or its TimeDistributed holds, and what its weights' names begin with; or None."""
    layer = channels.call.layer
    if is_batch_norm(channels):
        return layer, ""
    is_inside = isinstance(layer, keras.layers.TimeDistributed) and {"layer.moving_mean", "layer.moving_variance"} <= set(channels.weights)
    return (layer.layer, "layer.") if is_inside else None


def _normalize(layer, batches, in_steps=False):
    """`batch_normalize` of several batches by the statistics of all; `in_steps`: of each step of a sequence, by those of all steps."""
    whole, masks = tf.concat(batches, 0), [getattr(x, "_keras_mask", None) for x in batches]
    if masks[0] is not None and not in_steps:
        whole._keras_mask = tf.concat(masks, 0)
    if in_steps:
        steps = tf.reshape(whole, tf.concat([[-1], tf.shape(whole)[2:]], 0))
        normalized, mean, variance = batch_normalize(layer, tf.ensure_shape(steps, [None, *whole.shape[2:]]))
        normalized = tf.reshape(normalized, tf.shape(whole))
    else:
        normalized, mean, variance = batch_normalize(layer, whole)
    parts = tf.split(normalized, [tf.shape(x)[0] for x in batches], num=len(batches)) if len(batches) > 1 else [normalized]
    return [carry_mask(x, part) for x, part in zip(batches, parts)], mean, variance
