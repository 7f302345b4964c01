"""Prunes to a latency: the MACs speed-up is searched for, and each candidate is exported and measured."""

import dataclasses
import math
from collections.abc import Callable

from tfmetaprune.errors import NothingToPruneError
from tfmetaprune.export.benchmark import benchmark

MAX_CANDIDATES = 8
NUM_RUNS = 50
_CLOSE = 0.04  # logarithm: a candidate that overshoots the target by no more ends the search
_NARROW = 0.02  # so do MACs speed-ups this close, on both sides of the target
_AIM = _CLOSE / 2
_MIN_SLOPE = 0.2  # latency falls with at least this power of the MACs, for a guess


@dataclasses.dataclass(frozen=True)
class Measurement:
    """One candidate of the search.

    Attributes:
      macs_speedup: MACs before / after.
      latency_ms: of the pruned model, median.
      original_ms: of the original, in the same rounds.
      latency_speedup: original / pruned, median over the rounds.
    """

    macs_speedup: float
    latency_ms: float
    original_ms: float
    latency_speedup: float


@dataclasses.dataclass(frozen=True)
class LatencyTarget:
    """What is asked for: one of the two is None.

    Attributes:
      latency_ms: at most so many milliseconds.
      latency_speedup: at least so many times faster than the original.
    """

    latency_ms: float | None = None
    latency_speedup: float | None = None

    def __str__(self):
        return f"a latency of {self.latency_ms:g} ms" if self.latency_ms else f"a latency speed-up of {self.latency_speedup:g}"

    def closeness(self, measurement: Measurement) -> float:
        """How much of the way a measurement is: 1 and more is there."""
        if self.latency_ms:
            return self.latency_ms / measurement.latency_ms
        return measurement.latency_speedup / self.latency_speedup


def measure_with(original, *, num_runs=NUM_RUNS) -> Callable:
    """Returns the function that measures a pruned model against the original, as float32 TFLite files on one thread.

    Args:
      original: the tf_keras model.
      num_runs: rounds of one measurement.

    Returns:
      A function: model -> (latency in ms, the original's in ms, speed-up), all medians.
    """

    def measure(model):
        before, after = benchmark(original, model, num_runs=num_runs).models
        return after.latency.median_ms, before.latency.median_ms, after.speedup

    return measure


def prune_to_latency(shrink, measure, target: LatencyTarget, where: str):
    """Finds the least pruning that reaches a latency.

    Latencies go roughly with a power of the MACs: the search goes along the straight line, in logarithms, through the
    last two candidates, then between the largest that did not suffice and the smallest that did; at most `MAX_CANDIDATES`.

    Args:
      shrink: a function: MACs speed-up -> (model, plan); raises NothingToPruneError where that is out of reach.
      measure: of `measure_with`.
      target: what to reach.
      where: the model, for the error.

    Returns:
      (model, plan) of the smallest MACs speed-up that was measured to suffice; and all `Measurement`s in order.

    Raises:
      NothingToPruneError: no candidate suffices.
    """
    measurements, best, reason = [], None, None

    def candidate(x):
        """The logarithm of the MACs speed-up -> of the closeness."""
        model, plan = shrink(math.exp(x))
        measurements.append(Measurement(plan.speedup, *measure(model)))
        return model, plan, math.log(target.closeness(measurements[-1]))

    model, plan, y = candidate(0.0)
    if y >= 0:
        return (model, plan), measurements
    low, high, limit = (0.0, y), None, math.inf  # too little; enough; more than there is
    x = _AIM - y
    for _ in range(MAX_CANDIDATES):
        try:
            model, plan, y = candidate(x)
        except NothingToPruneError as error:
            limit, reason = x, error
            x = (low[0] + limit) / 2
        else:
            slope = max(_MIN_SLOPE, (y - low[1]) / (x - low[0]))
            if y >= 0:
                high = (x, y)
                best = (model, plan)
                if y <= _CLOSE:
                    break
            else:
                low = (x, y)
            x += (_AIM - y) / slope
        ceiling = min(limit, high[0] if high else math.inf)
        if ceiling - low[0] < _NARROW:
            break
        if ceiling < math.inf:  # not at an end, for these are known
            x = min(max(x, low[0] + 0.1 * (ceiling - low[0])), ceiling - 0.1 * (ceiling - low[0]))
    if best is None:
        nearest = max(measurements, key=target.closeness)
        raise NothingToPruneError(
            f"{where}: expected {target} to be reachable, got at best {nearest.latency_ms:.3g} ms, {nearest.latency_speedup:.2f} "
            f"times faster than the original, at a MACs speed-up of {nearest.macs_speedup:.2f}, in {len(measurements)} "
            f"measurements. Ask for less, or quantise as well."
        ) from reason
    return best, measurements
