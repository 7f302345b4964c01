"""A search for the channels to keep: their scores are learnt through the repair, on inputs without labels.

What a choice of channels is worth shows after the repair: a channel that the others can stand in for costs nothing. So each step
draws a speed-up, silences the channels that rank lowest, fits what remains by least squares on some inputs, and compares the outputs
with the original's on others. The gradient of the difference goes back through the fits (the solution of a linear system can be
differentiated) and through the masks to the scores. A channel that is silent then pulls by as much of it as the others cannot make.
"""

import numpy as np

from tfmetaprune._keras import keras, tf
from tfmetaprune.errors import DataError, UnsupportedModelError
from tfmetaprune.pruning.least_squares import MEMORY_BYTES, bytes_per_sample, fit_least_squares, of_one_shape
from tfmetaprune.pruning.masking import run_masked
from tfmetaprune.pruning.plan import make_plan
from tfmetaprune.pruning.repair import model_inputs
from tfmetaprune.pruning.straight_through import ChannelMasks
from tfmetaprune.pruning.traced_fit import TracedFit
from tfmetaprune.trace import ModelTrace, required_batch_size

NUM_SAMPLES = 1024  # inputs that are read
FITTED, COMPARED = 192, 256  # at most so many of them in each step: to fit on, and to compare outputs on
LEARNING_RATE = 0.03  # of Adam, in units of the scores: 1/2 log importance
NOISE = 0.3  # standard deviation added to the scores in each step
REACH = (0.4, 1.25)  # the speed-ups that are drawn, as powers of the one asked for
_PASSES = 12  # copies of the activations that a step holds, by the memory that was measured
_TRIED = 64  # inputs to find out on which layers can be fitted
_LEAST = 1e-3  # a relative error that is not worth getting below


def search_scores(
    trace: ModelTrace, start, dataset, *, speedup: float, steps: int, memory_bytes: int = MEMORY_BYTES, seed: int = 0, progress=None
) -> np.ndarray:  # fmt: skip
    """Learns how much better or worse than thought it is to keep each unit.

    Args:
      trace: the traced model; it is not modified.
      start: float [num_units], the scores to start from (logarithmic, low ones go first): a criterion's, a metanetwork's added.
      dataset: batches of inputs, or of (inputs, labels, ...); labels are not used. Up to 1,024 inputs are read.
      speedup: the MACs ratio that will be asked for, above 1; smaller and somewhat larger ones are trained for as well.
      steps: number of steps; about a hundred are worth it.
      memory_bytes: of activations held at once; fewer inputs are used in a step where they need more.
      seed: of everything random.
      progress: called after each step.

    Returns:
      float32 [num_units], to be added to `start`.

    Raises:
      ArgumentError: `start` is not finite.
      DataError: there are no data, or they do not fit the model.
      NothingToPruneError: no channel can go, or the speed-up is out of reach.
      UnsupportedModelError: the model requires batches of 1, whose outputs have no spread that errors could be relative to.
    """
    return Search(trace)(start, dataset, speedup=speedup, steps=steps, memory_bytes=memory_bytes, seed=seed, progress=progress)


class Search:
    """The search on one architecture; what has been compiled serves the next model as well.

    Args:
      trace: the traced model, whose weights may be set anew between two calls.
    """

    def __init__(self, trace: ModelTrace):
        self._trace, self._steps = trace, {}

    def __call__(
        self, start, dataset, *, speedup: float, steps: int, memory_bytes: int = MEMORY_BYTES, seed: int = 0, progress=None
    ) -> np.ndarray:  # fmt: skip
        """Searches for the weights that the model has now; arguments, result and errors as for `search_scores`."""
        trace = self._trace
        inputs = _read(trace, dataset)
        count, batch_size = int(inputs[0].shape[0]), required_batch_size(trace, inputs)
        if batch_size == 1:
            raise UnsupportedModelError(
                f"Model {trace.model.name!r}: expected one that several inputs can be searched on at once, got one that requires batches "
                f"of 1. Make it with a larger batch size, or leave the search out."
            )
        if count < (batch_size or 1):
            raise DataError(f"Data: expected the {batch_size} inputs of a batch to search on, got {count}. Give more, of one shape.")
        plan = make_plan(trace, start, speedup=speedup, step=1.0)
        solved = fit_least_squares(trace, plan.keep, dataset, num_samples=_TRIED, seed=seed).solved  # which layers can be fitted
        if solved not in self._steps:
            self._steps[solved] = _Step(trace, TracedFit(trace, only=solved))
        step = self._steps[solved]
        measured = bytes_per_sample(trace, [tf.repeat(value[:1], batch_size or 1, axis=0) for value in inputs])
        most = max(2, memory_bytes // (_PASSES * measured))
        num_fitted = batch_size or min(FITTED, max(1, count // 2), max(1, most // 2))
        num_compared = batch_size or min(COMPARED, max(1, count - num_fitted), max(1, most - num_fitted))
        rng = np.random.default_rng(seed)
        scores = tf.Variable(np.asarray(start, np.float32))
        optimizer = keras.optimizers.Adam(LEARNING_RATE, beta_2=0.99, jit_compile=False)
        for _ in range(steps):
            order = rng.permutation(count)
            chosen = order[:num_fitted], order[-num_compared:]
            batches = [[tf.gather(value, indices) for value in inputs] for indices in chosen]
            target = np.float32(speedup ** rng.uniform(*REACH))
            noise = NOISE * rng.standard_normal(scores.shape[0]).astype(np.float32)
            optimizer.apply_gradients([(step.gradient(scores + noise, target, *batches), scores)])
            if progress is not None:
                progress()
        return scores.numpy() - np.asarray(start, np.float32)


def _read(trace, dataset) -> list[tf.Tensor]:
    """Reads inputs of the shape that most of them have: what is compiled is for one."""
    batches, count = [], 0
    for batch in dataset:
        inputs = model_inputs(trace.model, batch)
        batches.append([value[: NUM_SAMPLES - count] for value in inputs])
        count += int(batches[-1][0].shape[0])
        if count >= NUM_SAMPLES:
            break
    if not count:
        raise DataError("Data: expected at least one batch, got none. Give a dataset that is not empty.")
    most = max(of_one_shape(batches), key=lambda alike: sum(len(batch[0]) for batch in alike))
    return [tf.concat(parts, 0) for parts in zip(*most)]


class _Step:
    """The gradient of one step, compiled once."""

    def __init__(self, trace, fit):
        self._trace, self._fit, self._masks = trace, fit, ChannelMasks(trace)
        self.gradient = tf.function(self._gradient, autograph=False)

    def _gradient(self, scores, speedup, fitted, compared):
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(scores)
            loss = repaired_error(self._trace, self._fit, self._masks(scores, speedup), fitted, compared, {})
        return tf.convert_to_tensor(tape.gradient(loss, scores))


def repaired_error(trace: ModelTrace, fit: TracedFit, mask, fitted, compared, weights) -> tf.Tensor:
    """Returns the log of the mean squared error of the outputs after the repair, each relative to its variance; a scalar.

    Args:
      trace: the traced model.
      fit: of its architecture.
      mask: float32 [num_units], 1 for units that remain, 0 for the others; gradients reach it.
      fitted: list of the model's inputs to fit on, each of a fixed shape.
      compared: the same, to compare outputs on.
      weights: (layer path, weight name) -> tensor in place of the model's own, before the repair.
    """
    made = run_masked(trace, mask, compared, weights=fit(mask, fitted, weights))
    wanted = run_masked(trace, None, compared, weights=weights)
    errors = []
    for one, other in zip(made, wanted, strict=True):
        one, other = tf.cast(one, tf.float32), tf.stop_gradient(tf.cast(other, tf.float32))
        spread = tf.reduce_mean(tf.square(other - tf.reduce_mean(other, 0)))
        errors.append(tf.math.divide_no_nan(tf.reduce_mean(tf.square(one - other)), spread))
    return tf.math.log(tf.add_n(errors) / len(errors) + _LEAST)
