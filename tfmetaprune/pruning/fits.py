"""What is fitted in a layer: a kernel with its bias by ridge regression, a BatchNormalization by its mean.

A fit collects what it needs at every call of its layer, and then solves; `Sides` is what it is shown of a call.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping

import numpy as np

from tfmetaprune._keras import tf
from tfmetaprune.layers import get_weight
from tfmetaprune.pruning.linear_maps import LinearMap, watching

MAX_ROWS = 16_000  # output positions that a kernel is fitted on
MAX_ENTRIES = 2**25  # numbers in its design, 256 MiB as float64
MAX_PRODUCTS = 1e11  # multiply-accumulates to make the design
MIN_SAMPLES = 64  # inputs that the positions are drawn from, if there are as many
_CHECKED = {"float64": 1e-6, "float32": 1e-3, "float16": 2e-2, "bfloat16": 1e-1}  # relative, of the linearity check


@dataclasses.dataclass(frozen=True, eq=False)
class Sides:
    """One call, of one chunk of inputs, in the original and in the repaired network.

    Attributes:
      call_index: of the call in the trace; with `first` it seeds what is drawn.
      first: number of the chunk's first input.
      size: inputs in the chunk.
      num_samples: inputs in all chunks.
      num_calls: how many calls of the layer there are.
      fewest: inputs that the layer can be called on: 1, or the chunk's where the model requires its batch size.
      old, new: the tensors that the call reads in either network.
      run_old, run_new: `run(count)` calls the layer on the first `count` inputs of the chunk.
    """

    call_index: int
    first: int
    size: int
    num_samples: int
    num_calls: int
    fewest: int
    old: tuple
    new: tuple
    run_old: Callable
    run_new: Callable


class MeanFit:
    """Moves the mean of a BatchNormalization as far as the mean of what it reads has moved.

    Args:
      channels: a call of the layer.
      kept: bool [channels], which remain.
    """

    reason = None

    def __init__(self, channels, kept: np.ndarray):
        self.channels, self.kept = channels, kept
        self._total, self._count = 0.0, 0

    def collect(self, sides: Sides):
        """Reads one call."""
        (old, *_), (new, *_) = sides.old, sides.new
        axis = self.channels.input_names[0].index("io")
        others = [other for other in range(len(old.shape)) if other != axis]
        self._total += tf.reduce_sum(tf.cast(new, tf.float64) - tf.cast(old, tf.float64), others).numpy()
        self._count += int(tf.size(old)) // len(self.kept)

    def solve(self, weights: Mapping) -> dict:
        """Returns weight name -> value; {} if nothing moved. `weights` is not used."""
        del weights
        shift = np.where(self.kept, self._total / max(self._count, 1), 0)
        mean = self.channels.call.layer.moving_mean.numpy()
        return {"moving_mean": (mean + shift).astype(mean.dtype)} if shift.any() else {}


class KernelFit:
    """Solves for a kernel, and its bias, so that the map makes what it made in the original network.

    Args:
      linear_map: the map.
      ridge: strength, in units of the mean square of a column of the design.
      free_mean: whether the mean of what is made does not matter, because BatchNormalization follows.
      touched: whether it has to be solved for even if all its calls read what they read before.
      seed: of the positions that are drawn.
    """

    def __init__(self, linear_map: LinearMap, ridge: float, free_mean: bool, touched: bool, seed: int):
        self.map, self.ridge, self.free_mean, self.seed = linear_map, ridge, free_mean, seed
        self.touched = touched or linear_map.reads_dead
        self.reason = None  # why it cannot be solved for
        self._design, self._target, self._made = [], [], []

    def collect(self, sides: Sides):
        """Reads one call, as far as more rows are wanted."""
        if self.reason is not None:
            return
        same = all(old is new or np.array_equal(old, new) for old, new in zip(sides.old, sides.new, strict=True))
        self.touched |= not same
        made = []
        try:
            with watching(self.map.watched, lambda *arguments: made.append(self.map.apply(*arguments))):
                sides.run_old(sides.fewest)
            if len(made) != 1:
                self.reason = "it is called inside a loop"
                return
            count = self._wanted(sides, made[0].shape[1]) - sides.first
            if count <= 0:
                return
            self._collect(sides, min(max(count, sides.fewest), sides.size))
        except (ValueError, TypeError, tf.errors.InvalidArgumentError) as error:
            self.reason = f"it cannot be called with another kernel ({str(error).splitlines()[0]})"

    def _wanted(self, sides, num_positions) -> int:
        """How many inputs the rows are drawn from."""
        one = self.map
        calls = -(-len(one.columns) // one.slots)
        products = num_positions * calls * one.num_columns * one.groups * one.slots  # of one input
        enough = max(MIN_SAMPLES, math.ceil(4 * MAX_ROWS / num_positions))
        return min(sides.num_samples, enough, max(1, int(MAX_PRODUCTS / max(products, 1))))

    def _positions(self, sides, count, shape):
        """int [rows, n], the output positions to take of rows of a shape [rows, positions, ...] made of inputs; None for all."""
        one = self.map
        rows = min(MAX_ROWS, MAX_ENTRIES // max(1, len(one.live_groups) * len(one.columns))) / sides.num_calls
        each = rows / self._wanted(sides, shape[1])
        if max(1, round(each)) >= shape[1]:
            return None
        each, first = max(1, round(each * count / shape[0])), sides.first * shape[0] // count  # a reshape may make more rows than inputs
        draws = [np.random.default_rng((self.seed, sides.call_index, first + i)) for i in range(shape[0])]
        return np.stack([rng.choice(shape[1], each, replace=False) for rng in draws])

    def _collect(self, sides, count):
        one, targets, made, designs = self.map, [], [], []

        def read_target(*arguments):
            rows = one.apply(*arguments)
            targets.append(one.pick(rows, self._positions(sides, count, rows.shape)).numpy())

        def read_design(*arguments):
            rows = one.apply(*arguments)
            positions = self._positions(sides, count, rows.shape)
            made.append(one.pick(rows, positions).numpy())
            designs.append(one.design(*arguments, positions).numpy())

        with watching(one.watched, read_target):
            sides.run_old(count)
        with watching(one.watched, read_design):
            sides.run_new(count)
        self._made = self._made or made  # of the first chunk
        self._design += designs
        self._target += targets

    def solve(self, weights: Mapping) -> dict:
        """Solves.

        Args:
          weights: weight name -> value that the solution is drawn to; the layer's own where there is none.

        Returns:
          weight name -> value of the full shape; {} if it cannot be solved for, see `reason`.
        """
        if self.reason is not None or not self._design or not self.touched:
            return {}
        one, layer = self.map, self.map.channels.call.layer
        kernel = get_weight(layer, one.kernel)
        values = one.unfold(weights.get(one.kernel, kernel))
        live = np.ix_(one.columns, one.live_groups)
        old = values[live].transpose(1, 0, 2)  # [groups, columns, slots]
        if not self._is_linear(old):
            self.reason = "what it makes is not linear in the kernel"
            return {}
        design, target = (np.concatenate(rows).astype(np.float64).transpose(1, 0, 2) for rows in (self._design, self._target))
        residual = target - design @ old
        means = design.mean(1, keepdims=True), target.mean(1, keepdims=True)
        if one.bias is not None or self.free_mean:
            design, residual = design - means[0], residual - residual.mean(1, keepdims=True)
        new = old + _ridge_regression(design, residual, self.ridge)
        values[live] = new.transpose(1, 0, 2)
        dtype = kernel.dtype.as_numpy_dtype
        result = {one.kernel: one.fold(values).astype(dtype)}
        if one.bias is not None:
            bias = get_weight(layer, one.bias).numpy()
            shift = np.zeros((one.groups, one.slots))
            shift[one.live_groups] = (means[1] - means[0] @ new)[:, 0]
            result[one.bias] = (bias + shift.reshape(bias.shape)).astype(bias.dtype)
        return result

    def _is_linear(self, kernel) -> bool:
        """Whether the design times the kernel, [groups, columns, slots], is what was made, on the first chunk."""
        made, design = self._made[0].astype(np.float64), self._design[0].astype(np.float64)
        kept = self.map.kept[self.map.live_groups]  # others may be silent
        error = (np.abs(np.einsum("rgn,gns->rgs", design, kernel) - made) * kept).max(initial=0)
        dtype = tf.as_dtype(self.map.watched.compute_dtype or "float32").name
        return bool(error <= _CHECKED.get(dtype, 1e-3) * np.abs(made).max(initial=0))


def _ridge_regression(design, target, ridge):
    """Solves design x solution = target, by the normal equations or, where there are fewer rows, by their dual.

    Args:
      design: float64 [groups, rows, columns].
      target: float64 [groups, rows, slots].
      ridge: strength, in units of the mean square of a column.

    Returns:
      float64 [groups, columns, slots].
    """
    rows, columns = design.shape[1:]
    design, target = tf.constant(design), tf.constant(target)
    strength = ridge * tf.reduce_sum(design**2, (1, 2), keepdims=True) / columns + np.finfo(np.float64).tiny ** 0.5
    if columns <= rows:
        gram = tf.matmul(design, design, transpose_a=True) + strength * tf.eye(columns, dtype=tf.float64)
        return tf.linalg.cholesky_solve(tf.linalg.cholesky(gram), tf.matmul(design, target, transpose_a=True)).numpy()
    gram = tf.matmul(design, design, transpose_b=True) + strength * tf.eye(rows, dtype=tf.float64)
    return tf.matmul(design, tf.linalg.cholesky_solve(tf.linalg.cholesky(gram), target), transpose_a=True).numpy()
