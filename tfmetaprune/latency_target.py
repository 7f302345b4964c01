"""Prunes to a latency: the MACs speed-up is searched for, and each candidate is exported and measured."""

import dataclasses
import math
from collections.abc import Callable

from tfmetaprune.errors import NothingToPruneError
from tfmetaprune.export.benchmark import benchmark

MAX_CANDIDATES = 8
CLOSE = 0.97  # a candidate this close to the target, and not beyond it, ends the search
NARROW = 1.02  # so does a ratio of the MACs speed-ups on both sides of the target
NUM_RUNS = 50


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

    The MACs speed-up is corrected by the factor that is missing, between the largest that did not suffice and the smallest
    that did, for at most `MAX_CANDIDATES` candidates.

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
    low, high, limit = 1.0, math.inf, math.inf  # too little, enough, more than there is

    def candidate(speedup):
        model, plan = shrink(speedup)
        measurements.append(Measurement(plan.speedup, *measure(model)))
        return model, plan, target.closeness(measurements[-1])

    model, plan, closeness = candidate(1.0)
    if closeness >= 1:
        return (model, plan), measurements
    speedup = target.latency_speedup or 1 / closeness
    for _ in range(MAX_CANDIDATES):
        try:
            model, plan, closeness = candidate(speedup)
        except NothingToPruneError as error:
            limit, reason = speedup, error
            speedup = math.sqrt(low * limit)
        else:
            if closeness >= 1:
                high = speedup
                best = (model, plan) if best is None or plan.macs_after >= best[1].macs_after else best
            else:
                low = speedup
            if CLOSE <= 1 / closeness <= 1:
                break
            speedup = speedup / closeness
            ceiling = min(high, limit)
            if not low < speedup < ceiling:
                speedup = math.sqrt(low * ceiling) if ceiling < math.inf else low * NARROW
        if min(high, limit) < low * NARROW:
            break
    if best is None:
        nearest = max(measurements, key=target.closeness)
        raise NothingToPruneError(
            f"{where}: expected {target} to be reachable, got at best {nearest.latency_ms:.3g} ms, {nearest.latency_speedup:.2f} "
            f"times faster than the original, at a MACs speed-up of {nearest.macs_speedup:.2f}, in {len(measurements)} "
            f"measurements. Ask for less, or quantise as well."
        ) from reason
    return best, measurements
