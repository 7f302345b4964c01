"""Repairs after pruning: BatchNormalization statistics estimated again."""

import itertools
from collections.abc import Iterator

from tfmetaprune._keras import keras, tf
from tfmetaprune.errors import DataError
from tfmetaprune.pruning.masking import batch_normalize, is_batch_norm
from tfmetaprune.pruning.rebuild import replace_weights
from tfmetaprune.trace import carry_mask, input_keys, required_batch_size, run, trace_model

SMALLEST_BATCH = 32  # inputs whose statistics are taken at once; smaller batches are put together


def reestimate_bn(model, dataset, *, num_batches: int = 50):
    """Returns a new model whose BatchNormalization statistics fit the data.

    Every BatchNormalization works with the statistics of the batch, all other layers as in inference; the new moving
    statistics are the means over the batches, weighted by their sizes. Batches of fewer than 32 are put together, since the variance
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
    if not any(is_batch_norm(channels) for channels in trace.channels.calls):
        return replace_weights(model, {})
    statistics = tf.function(lambda inputs: _batch_statistics(trace, inputs), reduce_retracing=True)
    totals, count = None, 0
    for inputs in itertools.islice(_batches(trace, dataset), num_batches):
        size = int(inputs[0].shape[0])
        try:
            new = {key: size * value.numpy() for key, value in statistics(inputs).items()}
        except (ValueError, TypeError, tf.errors.InvalidArgumentError) as error:
            shapes = [[tuple(tensor.shape) for tensor in tensors] for tensors in (model.inputs, inputs)]
            raise DataError(
                f"Data: expected inputs of shape {shapes[0]}, got {shapes[1]} ({str(error).splitlines()[0]}). "
                f"Make the data fit the model."
            ) from error
        totals = new if totals is None else {key: totals[key] + new[key] for key in totals}
        count += size
    if not count:
        raise DataError("Data: expected at least one batch, got none. Give a dataset that is not empty.")
    return replace_weights(model, {tuple(key.rsplit("/", 1)): total / count for key, total in totals.items()})


def _batches(trace, dataset) -> Iterator[list]:
    """Yields the inputs of batches, those of small ones put together as long as they are of one shape, and the model takes any number."""
    held, count, together = [], 0, None
    for batch in dataset:
        inputs = model_inputs(trace.model, batch)
        together = required_batch_size(trace, inputs) is None if together is None else together
        if not together:
            yield inputs
            continue
        if held and [value.shape[1:] for value in inputs] != [value.shape[1:] for value in held[0]]:
            yield [tf.concat(parts, 0) for parts in zip(*held)]
            held, count = [], 0
        held.append(inputs)
        count += int(inputs[0].shape[0])
        if count >= SMALLEST_BATCH:
            yield [tf.concat(parts, 0) for parts in zip(*held)]
            held, count = [], 0
    if held:
        yield [tf.concat(parts, 0) for parts in zip(*held)]


def model_inputs(model, batch) -> list:
    """Returns the model's inputs, a list of tensors in order, from a batch as `fit` takes it."""
    x = keras.utils.unpack_x_y_sample_weight(batch)[0]
    x = [x[name] for name in input_keys(model) if name in x] if isinstance(x, dict) else tf.nest.flatten(x)
    if len(x) != len(model.inputs):
        raise DataError(f"Data: expected {len(model.inputs)} inputs, got {len(x)}. Make the data fit the model.")
    return [tf.cast(value, tensor.dtype) for value, tensor in zip(x, model.inputs)]


def _batch_statistics(trace, inputs):
    """"layer/weight" -> float32 [channels], the batch's statistics; means over the calls of a shared layer."""
    seen = {}

    def call_layer(index, call, *args, **kwargs):
        if not is_batch_norm(trace.channels.calls[index]):
            return call.layer(*args, **kwargs)
        output, mean, variance = batch_normalize(call.layer, args[0])
        seen.setdefault(f"{call.path}/moving_mean", []).append(tf.cast(mean, tf.float32))
        seen.setdefault(f"{call.path}/moving_variance", []).append(tf.cast(variance, tf.float32))
        return carry_mask(args[0], output)

    run(trace, inputs, call_layer)
    return {key: tf.add_n(values) / len(values) for key, values in seen.items()}
