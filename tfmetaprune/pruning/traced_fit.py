"""Least squares in one compiled function: what `least_squares.py` finds, for a network whose dead channels are silent.

`fit_least_squares` goes by the channels that remain, so every choice of them has shapes of its own. Here all shapes are those
of the whole network: a dead channel is a column of zeros, which ridge regression leaves as it was. One `tf.function` then
serves every choice, and every network of the architecture: some tenths of a second each for small networks. Meta-training
needs it, which asks for hundreds of thousands of repairs.
"""

import functools
from collections.abc import Mapping

import numpy as np

from tfmetaprune._keras import tf
from tfmetaprune.layers import get_weight
from tfmetaprune.pruning.least_squares import RIDGE
from tfmetaprune.pruning.linear_maps import find_maps, watching
from tfmetaprune.pruning.masking import absorbs_mean, is_batch_norm, masked_calls
from tfmetaprune.trace import ModelTrace, call_arguments

MAX_ROWS = 4096  # output positions that a kernel is fitted on


class TracedFit:
    """The repair of one architecture by least squares, to be called inside a `tf.function`.

    Layers that are called several times are left as they are, apart from the means of BatchNormalization.

    Args:
      trace: any model of the architecture.
      ridge: as for `fit_least_squares`.
      max_rows: output positions that a kernel is fitted on, drawn once from `seed`.
      only: titles of the calls whose layers are fitted, `Fitted.solved` say; None for all. Whether a layer is linear in its kernel is
        checked there, not here.
      seed: of the positions.
    """

    def __init__(self, trace: ModelTrace, *, ridge: float = RIDGE, max_rows: int = MAX_ROWS, only=None, seed: int = 0):
        self.trace, self.ridge, self.max_rows, self.seed = trace, ridge, max_rows, seed
        everything = np.ones(trace.channels.num_units, bool)
        calls = {}
        for call in trace.calls:
            calls[id(call.layer)] = calls.get(id(call.layer), 0) + 1
        self.maps = [
            find_maps(trace, channels, everything)[0]
            if calls[id(channels.call.layer)] == 1 and not is_batch_norm(channels) and (only is None or channels.call.title in only)
            else [] for channels in trace.channels.calls
        ]  # fmt: skip
        readers = {}
        for channels in trace.channels.calls:
            for tensor in channels.call.inputs:
                readers.setdefault(tensor, []).append(channels)
        self.free_mean = [
            all(tensor in readers and all(absorbs_mean(trace, one, reader) for reader in readers[tensor]) for tensor in one.call.outputs)
            for one in trace.channels.calls
        ]  # whether the mean of what is made does not matter, because BatchNormalization follows

    def __call__(self, mask, inputs, weights: Mapping) -> dict:
        """Fits the weights of a network whose dead channels are silent.

        Args:
          mask: float32 [num_units], 1 for units that remain, 0 for the others.
          inputs: list of the model's inputs, each of a fixed shape.
          weights: (layer path, weight name) -> tensor, the network's; the model's own where there is none.

        Returns:
          (layer path, weight name) -> tensor: `weights` with those that were fitted in their place.
        """
        trace = self.trace
        weights = dict(weights)
        original = dict(weights)  # stays as it is, while `weights` is filled in on the way
        call_old, call_new = masked_calls(trace, None, original), masked_calls(trace, mask, weights)
        old, new = dict(zip(trace.inputs, inputs)), dict(zip(trace.inputs, inputs))
        for index, call in enumerate(trace.calls):
            channels = trace.channels.calls[index]
            sides = [
                functools.partial(self._call, function, index, values)
                for function, values in ((call_old, old), (call_new, new))
            ]  # fmt: skip
            if is_batch_norm(channels):
                weights.update(self._mean(channels, old[call.inputs[0]], new[call.inputs[0]], original))
            for one in self.maps[index]:
                weights.update(self._kernel(one, mask, self.free_mean[index], index, *sides, weights))
            for values, side in ((old, sides[0]), (new, sides[1])):
                values.update(zip(call.outputs, tf.nest.flatten(side())))
        return weights

    def _call(self, function, index, values):
        call = self.trace.calls[index]
        args, kwargs = call_arguments(call, {tensor: values[tensor] for tensor in call.inputs})
        return function(index, call, *args, **kwargs)

    def _mean(self, channels, old, new, weights) -> dict:
        """Moves the mean of a BatchNormalization as far as what it reads has moved."""
        key = (channels.call.path, "moving_mean")
        axis = channels.input_names[0].index("io")
        others = [other for other in range(len(old.shape)) if other != axis]
        mean = weights.get(key)
        mean = tf.convert_to_tensor(channels.call.layer.moving_mean) if mean is None else mean
        return {key: mean + tf.cast(tf.reduce_mean(tf.cast(new - old, tf.float32), others), mean.dtype)}

    def _kernel(self, one, mask, free_mean, index, call_old, call_new, weights) -> dict:
        """Solves for a kernel and its bias."""
        path, layer = one.channels.call.path, one.channels.call.layer
        collected = {}

        def positions(rows):
            batch, count = rows.shape[:2]
            each = max(1, min(count, self.max_rows // batch))
            if each == count:
                return None
            draw = np.random.default_rng((self.seed, index))
            return np.stack([draw.choice(count, each, replace=False) for _ in range(batch)])

        def read_target(*arguments):
            rows = one.apply(*arguments)
            collected["target"] = one.pick(rows, positions(rows))

        def read_design(*arguments):
            rows = one.apply(*arguments)
            collected["design"] = one.design(*arguments, positions(rows))

        for read, call in ((read_target, call_old), (read_design, call_new)):
            with watching(one.watched, read):
                call()
        target, design = (tf.cast(tf.transpose(collected[name], [1, 0, 2]), tf.float32) for name in ("target", "design"))
        live = self._live_columns(one, mask)  # [columns]
        design *= live
        kernel = weights.get((path, one.kernel))
        kernel = tf.convert_to_tensor(get_weight(layer, one.kernel)) if kernel is None else kernel
        values = tf.cast(tf.transpose(_unfold(one, kernel), [1, 0, 2]), tf.float32)  # [groups, columns, slots]
        residual = target - design @ values
        means = tf.reduce_mean(design, 1, keepdims=True), tf.reduce_mean(target, 1, keepdims=True)
        if one.bias is not None or free_mean:
            design, residual = design - means[0], residual - tf.reduce_mean(residual, 1, keepdims=True)
        strength = self.ridge * tf.reduce_sum(tf.square(design), (1, 2), keepdims=True) / (tf.reduce_sum(live) + 1e-6) + 1e-9
        gram = tf.matmul(design, design, transpose_a=True) + strength * tf.eye(one.num_columns)
        values += tf.linalg.cholesky_solve(tf.linalg.cholesky(gram), tf.matmul(design, residual, transpose_a=True))
        result = {(path, one.kernel): tf.cast(_fold(one, tf.transpose(values, [1, 0, 2])), kernel.dtype)}
        if one.bias is not None:
            bias = weights.get((path, one.bias))
            bias = tf.convert_to_tensor(get_weight(layer, one.bias)) if bias is None else bias
            result[path, one.bias] = bias + tf.cast(tf.reshape(means[1] - means[0] @ values, bias.shape), bias.dtype)
        return result

    def _live_columns(self, one, mask):
        """float32 [columns], 0 where a dead channel is read."""
        channels, axes = one.channels, one.channels.weights[one.kernel]
        live = tf.ones([1])
        for axis in one.column_axes:
            role = "in/groups" if axes.grouped and axis in axes.source else axes.names[axis]
            layout = channels.roles.get(role)
            factor = tf.ones(axes.shape[axis]) if layout is None else tf.gather(mask, self.trace.channels.units(layout))
            live = tf.reshape(live[:, None] * factor, [-1])
        return live


def _unfold(one, kernel) -> tf.Tensor:
    """`LinearMap.unfold` of a tensor."""
    return tf.reshape(tf.transpose(kernel, (*one.column_axes, *one.target_axes)), [one.num_columns, one.groups, one.slots])


def _fold(one, values) -> tf.Tensor:
    """`LinearMap.fold` of a tensor."""
    order, shape = (*one.column_axes, *one.target_axes), one.channels.weights[one.kernel].shape
    return tf.transpose(tf.reshape(values, [shape[axis] for axis in order]), np.argsort(order))
