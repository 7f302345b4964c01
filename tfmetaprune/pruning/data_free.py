"""Repair without data: what channels that are gone made on average is put into what reads them.

What BatchNormalization makes is known without data: each channel has mean beta and standard deviation |gamma|. Numbers
drawn accordingly go through the layers behind it (activation, pooling, ...) up to the next kernel; what the dead channels
add to its outputs there is estimated on them, and moves to the bias, or to the statistics of the BatchNormalization that
follows. Channels are taken to be independent of each other.
"""

from collections.abc import Mapping

import numpy as np

from tfmetaprune._keras import tf
from tfmetaprune.layers import get_weight
from tfmetaprune.pruning.least_squares import Fitted
from tfmetaprune.pruning.linear_maps import find_maps, watching
from tfmetaprune.pruning.masking import absorbs_mean, is_batch_norm
from tfmetaprune.trace import ModelTrace, call_arguments, given_batch_size


def fold_averages(trace: ModelTrace, keep, *, weights: Mapping | None = None, num_samples: int = 64, seed: int = 0) -> Fitted:
    """Moves the average effect of dead channels into biases and BatchNormalization statistics.

    Args:
      trace: the traced model; it is not modified.
      keep: bool [num_units], which units remain.
      weights: (layer path, weight name) -> tensor in place of the model's own.
      num_samples: examples that are drawn.
      seed: of what is drawn.

    Returns:
      What was changed, as of `fit_least_squares`; `left_alone` names the layers that read dead channels of which nothing
      is known, because no BatchNormalization is in front of them, or that have no place to put an average.
    """
    keep = np.asarray(keep, bool)
    result, solved, left_alone, drawn = dict(weights or {}), [], [], {}
    for index, call in enumerate(trace.calls):
        channels = trace.channels.calls[index]
        maps = [one for one in find_maps(trace, channels, keep)[0] if one.reads_dead and channels.is_first]
        if is_batch_norm(channels):
            made = [_draw(channels, index, result, num_samples, seed)]
        elif any(drawn.get(tensor) is None for tensor in call.inputs):
            made = [None] * len(call.outputs)
            if maps:
                left_alone.append(f"{call.title}: no BatchNormalization tells what it reads")
        else:
            seen = []
            args, kwargs = call_arguments(call, drawn)
            try:
                for one in maps:
                    _watch(one, call, args, kwargs, result, seen)
                made = [_whole(trace, *pair, num_samples) for pair in zip(call.outputs, tf.nest.flatten(call.layer(*args, **kwargs)))]
            except (ValueError, TypeError, tf.errors.InvalidArgumentError):
                if given_batch_size(trace) is None:
                    raise
                seen, made = [], [None] * len(call.outputs)
                left_alone += [f"{call.title}: it takes batches of {given_batch_size(trace)} alone"] if maps else []
            for one, moments in seen:
                (solved if _absorb(trace, one, moments, result) else left_alone).append(call.title)
        drawn.update(zip(call.outputs, made))
    return Fitted(result, tuple(dict.fromkeys(solved)), tuple(dict.fromkeys(left_alone)), 0)


def _whole(trace, tensor, value, num_samples):
    """A value with its examples; None where a reshape that names the model's batch size has mixed them."""
    size = given_batch_size(trace)
    return None if size is not None and trace.shapes[tensor][:1] == (size,) and value.shape[0] != num_samples else value


def _draw(channels, index, weights, num_samples, seed):
    """Normal numbers as the BatchNormalization makes them; None where its output has no fixed shape."""
    shape = channels.call.output_shapes[0][1:]
    if None in shape:
        return None
    axis = channels.output_names[0].index("io")
    noise = np.random.default_rng((seed, index)).normal(size=(num_samples, *shape))
    broadcast = [-1 if other == axis else 1 for other in range(noise.ndim)]
    layer, path = channels.call.layer, channels.call.path
    for name, combine in (("gamma", np.multiply), ("beta", np.add)):
        if getattr(layer, name) is not None:
            value = np.asarray(weights.get((path, name), getattr(layer, name)))
            noise = combine(noise, np.reshape(value, broadcast))
    return tf.cast(noise, layer.compute_dtype)


def _watch(one, call, args, kwargs, weights, seen):
    """Appends (map, (mean, variance ratio)) of what a map makes with its dead columns and without, [groups, slots]."""
    alive = np.zeros(one.num_columns, bool)
    alive[one.columns] = True

    def read(*arguments):
        kernel = one.unfold(weights.get((call.path, one.kernel), get_weight(call.layer, one.kernel)))
        sides = [one.apply(*arguments, values) for values in (kernel, kernel * alive[:, None, None])]
        whole, rest = ([tf.cast(x, tf.float64).numpy() for x in tf.nn.moments(tf.cast(side, tf.float64), [0, 1])] for side in sides)
        seen.append((one, (rest[0] - whole[0], rest[1] / np.maximum(whole[1], 1e-30))))

    with watching(one.watched, read):
        call.layer(*args, **kwargs)


def _absorb(trace, one, moments, weights) -> bool:
    """Puts a difference of means where it belongs; returns whether there was a place."""
    call = one.channels.call
    shift, ratio = (value.reshape(-1) for value in moments)
    if one.bias is not None:
        bias = np.asarray(weights.get((call.path, one.bias), get_weight(call.layer, one.bias)))
        weights[call.path, one.bias] = (bias - shift.reshape(bias.shape)).astype(bias.dtype)
        return True
    readers = [c for c in trace.channels.calls if call.outputs[0] in c.call.inputs]
    if len(call.outputs) > 1 or not readers or not all(absorbs_mean(trace, one.channels, reader) for reader in readers):
        return False
    for reader in readers:
        layer, path = reader.call.layer, reader.call.path
        mean, variance = (np.asarray(weights.get((path, n), getattr(layer, n))) for n in ("moving_mean", "moving_variance"))
        weights[path, "moving_mean"] = (mean + shift).astype(mean.dtype)
        weights[path, "moving_variance"] = (variance * np.clip(ratio, 0.01, 1.0)).astype(variance.dtype)
    return True
