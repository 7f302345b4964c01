"""Layer-wise least squares: the weights that remain are fitted so that each layer makes what it made before.

The original and the network without its dead channels are walked through side by side, call by call, on some hundred
inputs without labels. Where a layer reads what has changed, its kernel and bias are solved for anew: inputs as the
network repaired so far makes them, targets as the original makes them (before the activation), by ridge regression towards
the weights as they were. BatchNormalization behind it gets the means of what is made now.
"""

import dataclasses
import functools
from collections.abc import Mapping

import numpy as np

from tfmetaprune._keras import tf
from tfmetaprune.errors import ArgumentError, DataError
from tfmetaprune.pruning.fits import KernelFit, MeanFit, Sides
from tfmetaprune.pruning.linear_maps import find_maps
from tfmetaprune.pruning.masking import absorbs_mean, is_batch_norm, masked_calls
from tfmetaprune.pruning.repair import model_inputs
from tfmetaprune.trace import ModelTrace, call_arguments, required_batch_size, run

RIDGE = 0.01
NUM_SAMPLES = 1024
MEMORY_BYTES = 2**31  # of activations that are held at once
CHUNK_BYTES = 2**27  # of the activations of the inputs that a layer is called on at once


@dataclasses.dataclass(frozen=True, eq=False)
class Fitted:
    """What `fit_least_squares` returns.

    Attributes:
      weights: (layer path, weight name) -> array of the full shape, for `rebuild_model`; those that were passed in, and
        those that were solved for.
      solved: titles of the layers that were solved for, in order.
      left_alone: titles of layers that read what has changed and could not be solved for, with the reason.
      num_samples: inputs that were used.
    """

    weights: dict
    solved: tuple[str, ...]
    left_alone: tuple[str, ...]
    num_samples: int


def fit_least_squares(
    trace: ModelTrace, keep, dataset, *, weights: Mapping | None = None, ridge: float = RIDGE, num_samples: int = NUM_SAMPLES,
    memory_bytes: int = MEMORY_BYTES, chunk: int | None = None, seed: int = 0,
) -> Fitted:  # fmt: skip
    """Fits the weights that remain, layer by layer.

    Each layer is fitted on at most 16,000 output positions, drawn at random from the inputs; fewer where the layer reads more
    than 2,097 channels times taps. The inputs should be as they will be in use: on augmented ones the result is worse.
    Layers that read nothing but what is as it was keep their weights bit for bit.

    Args:
      trace: the traced model; it is not modified.
      keep: bool [num_units], which units remain.
      dataset: batches of inputs, or of (inputs, labels, ...); labels are not used.
      weights: (layer path, weight name) -> tensor that the solution is drawn to in place of the model's own.
      ridge: how strongly it is drawn there, in units of the mean square of what the layer reads; above 0.
      num_samples: at most so many inputs are used.
      memory_bytes: of activations held at once; fewer inputs are used where they need more.
      chunk: inputs in one call of a layer; the result does not depend on it. None: as many as take 128 MiB. Where the model requires its
        batch size, it is that, only whole batches are used, and one of them at least.
      seed: of the positions that are drawn.

    Raises:
      ArgumentError: a number is out of its range.
      DataError: there are no data, or they do not fit the model.
    """
    if not ridge > 0 or num_samples < 1:
        raise ArgumentError(
            f"Least squares: expected ridge > 0 and num_samples >= 1, got {ridge} and {num_samples}. Leave them out."
        )
    keep = np.asarray(keep, bool)
    if keep.all() and not weights:
        return Fitted({}, (), (), 0)
    inputs, batch_size = _read_inputs(trace, dataset, num_samples, memory_bytes, chunk)
    walk = _Walk(trace, keep, dict(weights or {}), inputs, ridge, seed, batch_size is not None)
    walk.walk()
    return Fitted(walk.weights, tuple(walk.solved), tuple(walk.left_alone), sum(walk.sizes))


def _read_inputs(trace, dataset, num_samples, memory_bytes, chunk) -> tuple[list[list[tf.Tensor]], int | None]:
    """Reads the calibration inputs: for each of the model's inputs a list of chunks; and the batch size that the model requires."""
    batches, count, batch_size = [], 0, None
    for batch in dataset:
        inputs = model_inputs(trace.model, batch)
        if not len(inputs[0]):
            continue
        if not batches:
            batch_size = required_batch_size(trace, inputs)
            size = bytes_per_sample(trace, [tf.repeat(value[:1], batch_size or 1, axis=0) for value in inputs])
            num_samples = min(num_samples, max(1, memory_bytes // size))
            if batch_size is not None:
                num_samples = max(batch_size, num_samples // batch_size * batch_size)
                chunk = batch_size
            chunk = max(1, CHUNK_BYTES // size) if chunk is None else chunk
        batches.append([value[: num_samples - count] for value in inputs])
        count += int(batches[-1][0].shape[0])
        if count >= num_samples:
            break
    if not count:
        raise DataError("Data: expected at least one batch, got none. Give a dataset that is not empty.")
    chunks = []
    for alike in of_one_shape(batches):
        whole = [tf.concat(parts, 0) for parts in zip(*alike)]
        end = len(whole[0]) if batch_size is None else len(whole[0]) // chunk * chunk
        chunks += [[value[begin : begin + chunk] for value in whole] for begin in range(0, end, chunk)]
    if not chunks:
        raise DataError(f"Data: expected {batch_size} inputs of one shape at least, got {count} in all. Give more.")
    return [list(each) for each in zip(*chunks)], batch_size


def of_one_shape(batches) -> list[list]:
    """Sorts batches, each a list of the model's inputs, into those whose examples have the same shapes."""
    alike = {}
    for batch in batches:
        alike.setdefault(tuple(tuple(value.shape[1:]) for value in batch), []).append(batch)
    return list(alike.values())


def bytes_per_sample(trace, inputs) -> int:
    """What the activations that are needed at once take, of both networks, by example; measured on these inputs."""
    sizes = {tensor: _bytes(value) for tensor, value in zip(trace.inputs, inputs)}

    def call_layer(index, call, *args, **kwargs):
        made = call.layer(*args, **kwargs)
        sizes.update({tensor: _bytes(value) for tensor, value in zip(call.outputs, tf.nest.flatten(made))})
        return made

    try:
        run(trace, inputs, call_layer)
    except (ValueError, TypeError, tf.errors.InvalidArgumentError) as error:
        raise DataError(
            f"Data: expected inputs of shape {[tuple(tensor.shape) for tensor in trace.model.inputs]}, got "
            f"{[tuple(value.shape) for value in inputs]} ({str(error).splitlines()[0]}). Make the data fit the model."
        ) from error
    last, live, most = _last_uses(trace), set(trace.inputs), 1
    for index, call in enumerate(trace.calls):
        live |= {*call.outputs}
        most = max(most, 2 * sum(sizes[tensor] for tensor in live))
        live = {tensor for tensor in live if last.get(tensor, -1) > index}
    return -(-most // int(inputs[0].shape[0]))


def _bytes(value) -> int:
    return int(tf.size(value)) * value.dtype.size


def _last_uses(trace) -> dict[int, int]:
    last = {tensor: index for index, call in enumerate(trace.calls) for tensor in call.inputs}
    return {**last, **{tensor: len(trace.calls) for tensor in trace.outputs}}


class _Walk:
    """The two networks, walked through side by side.

    Of a layer that is called several times, the fits collect at all calls and are solved at the last one; then the walk goes
    back to the first. No other layer is fitted in between.
    """

    def __init__(self, trace, keep, weights, inputs, ridge, seed, whole_chunks):
        self.trace, self.keep, self.weights, self.ridge, self.seed = trace, keep, weights, ridge, seed
        self.whole_chunks = whole_chunks  # whether layers can only be called on whole chunks
        self.rewritten = {path for path, _ in weights}
        self.sizes = [int(value.shape[0]) for value in inputs[0]]
        self.old = dict(zip(trace.inputs, inputs))  # tensor -> its chunks in the original
        self.new = dict(self.old)  # the same in the repaired network
        self.changed = set()  # tensors that are not what they were
        self.call_masked = masked_calls(trace, keep, self.weights)
        self.calls_of = {}  # id of a layer -> its calls
        self.readers = {}  # tensor -> calls that read it
        for index, call in enumerate(trace.calls):
            self.calls_of.setdefault(id(call.layer), []).append(index)
            for tensor in call.inputs:
                self.readers.setdefault(tensor, []).append(index)
        self.fits = {}  # id of a layer -> what is left to fit, in order
        self.pending = self.snapshot = None  # the layer with several calls that is at hand, and what was before it
        self.solved, self.left_alone = [], []

    def walk(self):
        """Walks to the end; what was found is in `weights`, `solved` and `left_alone`."""
        last, index = _last_uses(self.trace), 0
        while index < len(self.trace.calls):
            if self._fit(index):
                index = self.calls_of[id(self.trace.calls[index].layer)][0]
                continue
            self._run(index)
            for tensor in self.trace.calls[index].inputs:
                if last[tensor] == index:
                    self.old.pop(tensor, None)
                    self.new.pop(tensor, None)
            index += 1

    def _fit(self, index) -> bool:
        """Lets the next fit of the layer collect, and solves it at the last call. Returns whether to go back to the first."""
        call = self.trace.calls[index]
        layer, calls = id(call.layer), self.calls_of[id(call.layer)]
        if self.pending not in (None, layer):
            return False
        if layer not in self.fits:
            self.fits[layer] = self._find_fits(index)
        fits = self.fits[layer]
        if not fits:
            return False
        if len(calls) > 1 and index == calls[0]:
            self.pending, self.snapshot = layer, (dict(self.old), dict(self.new), set(self.changed))
        for number in range(len(self.sizes)):
            fits[0].collect(self._sides(index, number))
        if index != calls[-1]:
            return False
        fit = fits.pop(0)
        found = fit.solve({name: value for (path, name), value in self.weights.items() if path == call.path})
        self.weights.update({(call.path, name): value for name, value in found.items()})
        if found and call.title not in self.solved:
            self.solved.append(call.title)
        if fit.reason is not None:
            self.left_alone.append(f"{call.title}: {fit.reason}")
        if len(calls) > 1:
            self.old, self.new, self.changed = self.snapshot
            self.pending = self.snapshot = None
        return True

    def _find_fits(self, index) -> list:
        """What has to be fitted in a layer; what has to be left alone is noted."""
        channels = self.trace.channels.calls[index]
        call, calls = channels.call, self.calls_of[id(channels.call.layer)]
        touched = call.path in self.rewritten
        changed = touched or bool(self.changed.intersection(call.inputs))
        changed |= len(calls) > 1  # what the later calls read is not known yet
        if is_batch_norm(channels):
            return [MeanFit(channels, self.keep[self.trace.channels.units(channels.roles["io"])])] if changed else []
        maps, others = find_maps(self.trace, channels, self.keep)
        free_mean = all(
            absorbs_mean(self.trace, self.trace.channels.calls[i], self.trace.channels.calls[reader])
            for i in calls for tensor in self.trace.calls[i].outputs for reader in self.readers.get(tensor, (i,))
        )  # fmt: skip
        if others and (changed or any(self._reads_dead(channels, name) for name in others)):
            made = " and ".join(others)
            self.left_alone.append(f"{call.title}: nothing is known about what is made by {made} alone")
        if not changed and not any(one.reads_dead for one in maps):
            return []
        return [KernelFit(one, self.ridge, free_mean, touched, self.seed) for one in maps]

    def _reads_dead(self, channels, name) -> bool:
        """Whether channels that a kernel reads are gone."""
        axes = channels.weights[name]
        roles = [channels.roles.get(axes.names[axis]) for axis in axes.source]
        return not all(self.keep[self.trace.channels.units(layout)].all() for layout in roles if layout is not None)

    def _sides(self, index, number) -> Sides:
        call = self.trace.calls[index]
        first, size = sum(self.sizes[:number]), self.sizes[number]

        def run_side(values, function):
            def run_on(count):
                chosen = {tensor: values[tensor][number] for tensor in call.inputs}
                if count < size:
                    chosen = {tensor: _first(value, count, size) for tensor, value in chosen.items()}
                args, kwargs = call_arguments(call, chosen)
                return function(*args, **kwargs)

            return run_on

        old, new = (tuple(values[tensor][number] for tensor in call.inputs) for values in (self.old, self.new))
        return Sides(
            index, first, size, sum(self.sizes), len(self.calls_of[id(call.layer)]), size if self.whole_chunks else 1, old, new,
            run_side(self.old, call.layer), run_side(self.new, functools.partial(self.call_masked, index, call)),
        )  # fmt: skip

    def _run(self, index):
        """Makes the outputs of a call, of both networks."""
        call, channels = self.trace.calls[index], self.trace.channels.calls[index]
        dead = any(not self.keep[self.trace.channels.units(layout)].all() for layout in channels.roles.values())
        reads_changed = bool(self.changed.intersection(call.inputs))
        same = not dead and not reads_changed and not any(path == call.path for path, _ in self.weights)
        old, new = [], []
        for number in range(len(self.sizes)):
            sides = self._sides(index, number)
            old.append(tf.nest.flatten(sides.run_old(sides.size)))
            new.append(old[-1] if same else tf.nest.flatten(sides.run_new(sides.size)))
        for tensor, before, after in zip(call.outputs, zip(*old), zip(*new)):
            self.old[tensor], self.new[tensor] = before, after
            if reads_changed or (not same and self._differ(tensor, before, after)):
                self.changed.add(tensor)

    def _differ(self, tensor, before, after) -> bool:
        """Whether the channels that remain are not what they were."""
        for axis, indices in self.trace.channels.kept(tensor, self.keep).items():
            before, after = ([tf.gather(value, indices, axis=axis) for value in side] for side in (before, after))
        return not all(np.array_equal(one, other) for one, other in zip(before, after))


def _first(value, count, size):
    """The first examples of a tensor, with their Keras mask; tensors without a batch axis stay as they are."""
    if not value.shape.rank or value.shape[0] != size:
        return value
    cut = value[:count]
    mask = getattr(value, "_keras_mask", None)
    if mask is not None:
        cut._keras_mask = mask[:count]
    return cut
