"""What data say about each channel: activation statistics and label-free Fisher information."""

import numpy as np

from tfmetaprune._keras import keras, tf
from tfmetaprune.errors import ArgumentError, DataError
from tfmetaprune.graph.schema import STATISTICS_NAMES
from tfmetaprune.trace import activation_of, carry_mask, in_parts, input_keys, map_inputs, run

_CHUNK, _CHUNK_BYTES = 32, 2 * 2**30  # samples in one backward pass, and their activations, so that large networks fit into memory
_LIMIT = 10.0  # of a log ratio
_TINY = 1e-30


def channel_statistics(trace, dataset, *, num_samples=256, seed=0) -> np.ndarray:
    """Measures every unit on data; no labels are used.

    The Fisher information of a unit is the mean over samples of the squared gradient, with respect to a gate on the
    unit's activation, of <v, f>, where f are the outputs (of a softmax, its centred logits) and v is standard normal:
    that of outputs with normal errors. A network is so measured the same with its softmax and without. A gate stands
    wherever a kernel that joins all channels reads the unit (depthwise kernels have none: what they read is read
    again behind them, so each path has one gate).

    Args:
      trace: a `ModelTrace`.
      dataset: batches `x`, `(x,)` or `(x, y)`, as Keras takes them; x may be a tuple, list or dict of several inputs.
      num_samples: at most so many samples are read, see `in_parts`.
      seed: of v.

    Returns:
      float32 [num_units, 4], in the order of `STATISTICS_NAMES`: mean and standard deviation of the activation as its
      consumers read it, both over the group's root mean square; log of the Fisher information over the group's mean,
      and over the network's (within -10 .. 10). Zeros for units that no kernel reads (the model's outputs).

    Raises:
      ArgumentError: num_samples is not positive.
      DataError: there are no data, they do not fit the model's inputs, the network's response is not finite, or an operation has no
        gradient.
    """
    if num_samples < 1:
        raise ArgumentError(f"channel_statistics: expected num_samples >= 1, got {num_samples}. Leave it out for 256.")
    readers = {index: found for index, call in enumerate(trace.channels.calls) if (found := _read_axes(trace, call))}
    totals = np.zeros((4, trace.channels.num_units))  # readings, sum, sum of squares, sum of squared gradients
    num_read = 0
    for inputs in _chunks(trace, dataset, num_samples):
        totals += _measure(trace, readers, inputs, (seed, num_read))
        num_read += len(inputs[0])
    if not num_read or not np.isfinite(totals).all():
        got = "no data" if not num_read else "NaN or infinite activations or gradients"
        raise DataError(
            f"channel_statistics: expected finite responses of model {trace.model.name!r}, got {got}. "
            f"Check the dataset's values."
        )
    return _relative(trace.channels, totals, num_read)


def _chunks(trace, dataset, num_samples):
    """Yields lists of at most `_CHUNK` samples of each input, `num_samples` in all; see `in_parts`."""
    yield from in_parts(trace, _batches(trace, dataset), num_samples, lambda inputs: _chunk_size(trace, inputs))


def _batches(trace, dataset):
    """Yields the inputs of batches, lists in the model's order and of its dtypes."""
    for batch in dataset:
        x = batch[0] if isinstance(batch, (tuple, list)) else batch
        if isinstance(x, dict):
            names = input_keys(trace.model)
            missing = [name for name in names if name not in x]
            if missing:
                raise DataError(
                    f"channel_statistics: expected the inputs {missing}, got {sorted(x)}. Name them in the dataset."
                )
            x = [x[name] for name in names]
        inputs = [tf.convert_to_tensor(value) for value in tf.nest.flatten(x)]
        wanted = [trace.shapes[index] for index in trace.inputs]
        fits = len(inputs) == len(wanted) and all(value.shape[1:].is_compatible_with(shape[1:]) for value, shape in zip(inputs, wanted))
        if not fits:
            raise DataError(
                f"channel_statistics: expected batches of inputs {wanted} for model {trace.model.name!r}, "
                f"got {[tuple(value.shape) for value in inputs]}. Batch the dataset as for model.fit."
            )
        yield [tf.cast(value, tensor.dtype) for value, tensor in zip(inputs, trace.model.inputs)]


def _chunk_size(trace, inputs) -> int:
    """How many samples go through at once, as one backward pass holds all activations; unknown lengths count as the longest input's."""
    longest = max(max(value.shape[1:], default=1) for value in inputs)
    shapes = [trace.shapes[tensor][1:] for call in trace.calls for tensor in call.outputs]
    numbers = sum(int(np.prod([longest if length is None else length for length in shape])) for shape in shapes)
    return int(np.clip(_CHUNK_BYTES // (4 * max(1, numbers)), 1, _CHUNK))


def _read_axes(trace, channels) -> list[tuple[int, int, np.ndarray]]:
    """What the kernels of a call read: (position among its inputs, axis, int64 [length] units) of every axis."""
    read = {axes.names[axis] for axes in channels.weights.values() for axis in axes.source if axes.per_channel is None}
    read = {"in" if name == "in/groups" else name for name in read}
    return [
        (position, axis, trace.channels.units(channels.roles[name]))
        for position, names in enumerate(channels.input_names)
        for axis, name in enumerate(names) if name in read
    ]  # fmt: skip


def _measure(trace, readers, inputs, seed) -> np.ndarray:
    """float64 [4, num_units] of one chunk: number of readings, sum, sum of squares; sum of squared gradients."""
    gates = tf.ones([len(inputs[0]), trace.channels.num_units])
    readings = {}

    def call_layer(index, call, *args, **kwargs):
        if index in readers:

            def put_gates(position, x):
                for reader, (at, axis, units) in enumerate(readers[index]):
                    if at == position:
                        readings[index, reader] = x
                        gate = tf.gather(gates, units, axis=1)
                        if len(x) > len(gate) > 1 and len(x) % len(gate) == 0:  # a reshape has put more into the batch
                            gate = tf.repeat(gate, len(x) // len(gate), axis=0)
                        gate = tf.reshape(gate, [-1, *(gate.shape[1] if i == axis else 1 for i in range(1, len(x.shape)))])
                        x = carry_mask(x, x * tf.cast(gate, x.dtype))
                return x

            args, kwargs = map_inputs(call, put_gates, args, kwargs)
        return call.layer(*args, **kwargs)

    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(gates)
        outputs = run(trace, inputs, call_layer)
        response = tf.add_n([
            _draw(trace, index, tf.cast(output, tf.float32), (seed[0], seed[1] * len(outputs) + position))
            for position, (index, output) in enumerate(zip(trace.outputs, outputs, strict=True))
        ])  # fmt: skip
    try:
        gradient = tape.gradient(response, gates, unconnected_gradients=tf.UnconnectedGradients.ZERO)
    except LookupError as error:
        raise DataError(
            f"channel_statistics: expected gradients of every operation of model {trace.model.name!r}, got none of one ({error}). "
            f"Do without what needs statistics: metanetwork=None, criterion='group_l2'."
        ) from error
    totals = np.zeros((4, trace.channels.num_units))
    totals[3] = tf.reduce_sum(tf.square(tf.cast(gradient, tf.float64)), 0)
    for (index, reader), x in readings.items():
        _, axis, units = readers[index][reader]
        others = [other for other in range(len(x.shape)) if other != axis]
        x = tf.cast(x, tf.float32)
        count = np.full(len(units), int(tf.size(x)) // len(units))
        moments = np.stack([count, tf.reduce_sum(x, others), tf.reduce_sum(tf.square(x), others)])
        np.add.at(totals, (slice(3), units), moments)
    return totals


def _draw(trace, tensor, output, seed) -> tf.Tensor:
    """The scalar whose gradient is taken, summed over samples: <v, f> with v ~ N(0, 1)."""
    output = logits_of(trace, tensor, output)
    return tf.reduce_sum(output * tf.random.stateless_normal(tf.shape(output), seed))


def logits_of(trace, tensor, output) -> tf.Tensor:
    """Undoes the softmax of an output that has one, but for the mean of the logits, which has no effect.

    Args:
      trace: the `ModelTrace` of the model.
      tensor: index of the output, one of `trace.outputs`.
      output: its values [batch, ..., classes].

    Returns:
      The logits, their mean 0; the values themselves where there is no softmax.
    """
    if not _is_softmax(trace, tensor):
        return output
    logits = tf.math.log(output + _TINY)
    return logits - tf.reduce_mean(logits, -1, keepdims=True)


def _is_softmax(trace, tensor) -> bool:
    maker = next((call.layer for call in trace.calls if tensor in call.outputs), None)
    if isinstance(maker, keras.layers.Softmax):
        return maker.axis in (-1, len(trace.shapes[tensor]) - 1)
    return activation_of(maker) is keras.activations.softmax


def _relative(channels, totals, num_read) -> np.ndarray:
    count, total, square, fisher = totals
    read = count > 0
    group = channels.group_of_unit
    per_group = np.bincount(group, read)

    def group_mean(values):
        return (np.bincount(group, values * read) / np.maximum(per_group, 1))[group]

    mean, power = total / np.maximum(count, 1), square / np.maximum(count, 1)
    std = np.sqrt(np.maximum(power - mean**2, 0))
    scale = np.sqrt(group_mean(power)) + _TINY
    fisher = fisher / num_read + _TINY
    in_group = np.log(fisher / (group_mean(fisher) + _TINY))
    in_network = np.log(fisher / (np.sum(fisher * read) / max(read.sum(), 1) + _TINY))
    result = [mean / scale, std / scale, in_group.clip(-_LIMIT, _LIMIT), in_network.clip(-_LIMIT, _LIMIT)]
    assert len(result) == len(STATISTICS_NAMES)
    return (np.stack(result, 1) * read[:, np.newaxis]).astype(np.float32)
