"""How channels are chosen: what criterion, metanetwork and search make of a model, the smaller model that follows, and the best way."""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from tfmetaprune._keras import tf
from tfmetaprune.errors import NothingToPruneError, TFMetaPruneError
from tfmetaprune.graph import channel_statistics
from tfmetaprune.latency_target import LatencyTarget, measure_with, prune_to_latency
from tfmetaprune.layers import get_weight
from tfmetaprune.metanet.generate import generate
from tfmetaprune.output_errors import output_errors
from tfmetaprune.pruning import PruningPlan, make_plan, needs_statistics, rebuild_model, repair_model, scorer
from tfmetaprune.pruning.search import search_scores
from tfmetaprune.report.progress import progress_bar
from tfmetaprune.trace import ModelTrace
from tfmetaprune.ways import FULL, Strength, Way

_LEAST_SPEEDUP = 1.1  # below which no other is tried where a latency is asked for
LATENCY_SPEEDUP = 4.0  # MACs ratio that channels are chosen for where a latency in milliseconds is asked for


@dataclasses.dataclass(frozen=True, eq=False)
class Rewritten:
    """What is known about a traced model before it is pruned; the same for all speed-ups.

    Attributes:
      weights: (layer name, weight name) -> tensor, made by the metanetwork; None for the model's own.
      score: float32 [num_units], what the metanetwork adds to the criterion; None without one.
      statistics: float32 [num_units, S], the channel statistics; None where nobody needs them.
    """

    weights: Mapping | None = None
    score: np.ndarray | None = None
    statistics: np.ndarray | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Attempt:
    """What has become of a model in one way.

    Attributes:
      way: the `Way`.
      rewritten: what its metanetwork has made of the model.
      plan: which channels remain.
      small: the smaller model, not repaired.
      repaired: the same after the repair; `small` without one.
      repair: what the repair did, see `repair_model`; None without one.
      measurements: of latency, where one was asked for.
    """

    way: Way
    rewritten: Rewritten
    plan: PruningPlan
    small: Any
    repaired: Any
    repair: dict | None = None
    measurements: Sequence = ()


def choose_channels(
    trace: ModelTrace, ways: Sequence[Way], network, dataset, *, speedup, latency: LatencyTarget | None, search_steps, seed, **options
) -> tuple[Attempt, list[dict]]:  # fmt: skip
    """Chooses the channels that go in the best of several ways, and makes the model smaller in it.

    Ways are compared at the speed-up that is asked for; for a latency, at the same ratio of MACs, or `LATENCY_SPEEDUP` where milliseconds
    are asked for, or the first of its square roots (2, 1.41, ...) that is in reach.

    Args:
      trace: the traced model.
      ways: those to try, at least one.
      network: the metanetwork of those ways that have one.
      dataset: batches of (x, ...); None if nobody needs them.
      speedup: as for `prune`.
      latency: to reach in its place, or None.
      search_steps: as for `prune`; the search starts from the best way.
      seed: as for `prune`.
      **options: of `try_way`.

    Returns:
      What became of the model, and what `best_attempt` tells of the ways.

    Raises:
      NothingToPruneError: no channel can go, or the speed-up or latency is out of reach.
    """
    target = speedup if latency is None else latency.latency_speedup or LATENCY_SPEEDUP
    ways = ways if target > 1 else ways[:1]
    measure = functools.cache(lambda: channel_statistics(trace, dataset, seed=seed))

    rewritten_by = {}

    def rewritten_in(way):
        is_learnt = way.metanetwork is not None
        key = id(way.criterion), is_learnt  # a function need not be hashable
        if key not in rewritten_by:
            rewritten_by[key] = rewrite(
                trace, network if is_learnt else None, dataset, criterion=way.criterion, seed=seed, measure=measure
            )
        found = rewritten_by[key]
        return found if way.strength == FULL else weaken(trace, found, way.strength, criterion=way.criterion, seed=seed)

    def compared(macs_speedup):
        def attempt(way):
            return try_way(trace, way, rewritten_in(way), dataset, speedup=macs_speedup, seed=seed, **options)

        return best_attempt(trace, ways, attempt, dataset)

    best, tried = None, []
    if latency is None:
        best, tried = compared(target)
    elif len(ways) > 1:
        best, tried = _within_reach(compared, target)
    way = ways[0] if best is None else best.way
    rewritten = rewritten_in(way) if best is None else best.rewritten
    if search_steps and target > 1:

        def searched(macs_speedup):
            return search(trace, rewritten, dataset, speedup=macs_speedup, steps=search_steps, criterion=way.criterion, seed=seed)

        rewritten = searched(target) if latency is None else _within_reach(searched, target)
    elif latency is None:
        return best, tried
    return try_way(trace, way, rewritten, dataset, speedup=speedup, latency=latency, seed=seed, **options), tried


def _within_reach(function, speedup):
    """Returns what a function makes of a speed-up, or of the first of its square roots that is in reach, as a latency may be."""
    while True:
        try:
            return function(speedup)
        except NothingToPruneError:
            speedup = math.sqrt(speedup)
            if speedup < _LEAST_SPEEDUP:
                raise


def best_attempt(trace: ModelTrace, ways: Sequence[Way], attempt: Callable, dataset) -> tuple[Attempt, list[dict]]:
    """Tries several ways, and takes the one that puts out what is nearest to what the model puts out.

    Args:
      trace: the traced model, as it was.
      ways: those to try, at least one.
      attempt: called with each; returns its `Attempt`, or raises.
      dataset: batches of inputs, or of (inputs, labels, ...), to compare on; labels are not used. None for a single way.

    Returns:
      The best attempt, the first of equals; and for every way {"error": see `output_errors`, "failure": None}, or {"error": None,
      "failure": why} where it could not be done. [] for a single way.

    Raises:
      TFMetaPruneError: no way could be done; what the first one raised.
    """
    if len(ways) == 1:
        return attempt(ways[0]), []
    attempts, failures = {}, {}  # by the number of the way
    for number, way in enumerate(ways):
        try:
            attempts[number] = attempt(way)
        except TFMetaPruneError as error:
            failures[number] = error
    if not attempts:
        raise failures[0]
    errors = dict(zip(attempts, output_errors(trace, [each.repaired for each in attempts.values()], dataset)))
    failures |= {number: "its outputs are not finite" for number, error in errors.items() if math.isinf(error)}
    found = [
        {"error": None, "failure": str(failures[number])} if number in failures else {"error": errors[number], "failure": None}
        for number in range(len(ways))
    ]
    return attempts[min(errors, key=errors.get)], found


def rewrite(trace: ModelTrace, metanetwork, dataset, *, criterion="group_l2", seed=0, measure=None) -> Rewritten:
    """Lets a metanetwork rewrite the weights of a traced model.

    Args:
      trace: the traced model.
      metanetwork: a `MetaNetwork`, or None.
      dataset: batches of (x, ...), for the channel statistics; None if nobody needs them.
      criterion: as for `prune`.
      seed: of what is drawn for the Fisher information.
      measure: returns the channel statistics; None measures them on `dataset`.
    """
    statistics = None
    if metanetwork is not None or needs_statistics(criterion):
        with progress_bar("Measuring channel statistics"):
            statistics = measure() if measure else channel_statistics(trace, dataset, seed=seed)
    if metanetwork is None:
        return Rewritten(statistics=statistics)
    with progress_bar("Running the metanetwork"):
        weights, score = generate(metanetwork, trace, statistics)
    return Rewritten(weights, score, statistics)


def weaken(trace: ModelTrace, rewritten: Rewritten, strength: Strength, *, criterion="group_l2", seed=0) -> Rewritten:
    """Takes what a metanetwork has made in part.

    Args:
      trace: the traced model.
      rewritten: of `rewrite`, by a metanetwork.
      strength: how much of it.
      criterion: as for `prune`; its score with the metanetwork's weights plus the metanetwork's score is the ranking of full strength.
      seed: as for `prune`.

    Returns:
      The weights between, None for the model's own, and the score that makes the ranking between with them, while all units are there.
    """
    layers, weights = {call.path: call.layer for call in trace.calls}, {}
    for (path, name), made in rewritten.weights.items() if strength.weights else ():
        own = tf.convert_to_tensor(get_weight(layers[path], name))
        weights[path, name] = own + tf.cast(strength.weights, own.dtype) * (made - own)

    def scores_of(name, values=None):
        estimate = scorer(trace, name, weights=values, statistics=rewritten.statistics, seed=seed)
        return estimate(np.ones(trace.channels.num_units, bool))

    ranking = scores_of(criterion, rewritten.weights) + rewritten.score
    ranking += (1 - strength.scores) * (scores_of("group_l2_fisher") - ranking)
    return Rewritten(weights or None, (ranking - scores_of(criterion, weights)).astype(np.float32), rewritten.statistics)


def search(trace: ModelTrace, rewritten: Rewritten, dataset, *, speedup, steps, criterion="group_l2", seed=0) -> Rewritten:
    """Lets a search correct the scores of the units.

    Args:
      trace: the traced model.
      rewritten: of `rewrite`.
      dataset: batches of (x, ...).
      speedup: the MACs ratio to search for.
      steps: of the search.
      criterion: as for `prune`.
      seed: as for `prune`.

    Returns:
      The same with what was found added to its score.
    """
    score = 0 if rewritten.score is None else rewritten.score
    estimate = scorer(trace, criterion, weights=rewritten.weights, statistics=rewritten.statistics, seed=seed)
    start = estimate(np.ones(trace.channels.num_units, bool)) + score
    with progress_bar("Searching for the channels to keep", steps) as advance:
        found = search_scores(trace, start, dataset, speedup=speedup, steps=steps, seed=seed, progress=advance)
    return dataclasses.replace(rewritten, score=(score + found).astype(np.float32))


def shrink(
    trace: ModelTrace, rewritten: Rewritten, *, speedup, criterion="group_l2", step=None, round_to=None, traffic_weight=0.0, seed=0
):
    """Plans and rebuilds: the smaller model, not yet repaired, and its plan.

    Args:
      trace: the traced model.
      rewritten: of `rewrite`.
      speedup: as for `prune`.
      criterion: as for `prune`.
      step: as for `make_plan`; before a repair by least squares all channels go in one step, which was measured to be better.
      round_to: as for `prune`.
      traffic_weight: as for `prune`.
      seed: as for `prune`.

    Raises:
      NothingToPruneError: no channel can go, or the speed-up is out of reach.
    """
    plan = make_plan(
        trace, criterion, speedup=speedup, score=rewritten.score, weights=rewritten.weights,
        statistics=rewritten.statistics, step=step, round_to=round_to, traffic_weight=traffic_weight, seed=seed,
    )  # fmt: skip
    return rebuild_model(trace, plan, rewritten.weights), plan


def try_way(
    trace: ModelTrace, way: Way, rewritten: Rewritten, dataset, *, speedup=None, latency: LatencyTarget | None = None, repair=None,
    seed=0, **options,
) -> Attempt:  # fmt: skip
    """Makes a model smaller in one way, to a speed-up or a latency, and repairs it.

    Args:
      trace: the traced model.
      way: the way.
      rewritten: of `rewrite` for its metanetwork.
      dataset: batches of (x, ...) for the repair; None for one that needs none.
      speedup: as for `prune`.
      latency: to reach in its place.
      repair: as for `prune`.
      seed: as for `prune`.
      **options: of `shrink`.

    Raises:
      NothingToPruneError: no channel can go, or the speed-up or latency is out of reach.
    """

    def shrunk(macs_speedup):
        return shrink(trace, rewritten, speedup=macs_speedup, criterion=way.criterion, seed=seed, **options)

    measurements = []
    if latency is None:
        small, plan = shrunk(speedup)
    else:
        with progress_bar("Measuring latency"):
            name = f"Model {trace.model.name!r}"
            (small, plan), measured = prune_to_latency(shrunk, measure_with(trace.model), latency, name)
        measurements = [dataclasses.asdict(measurement) for measurement in measured]
    repaired = small, None
    if repair is not None:
        with progress_bar("Repairing what remains"):
            repaired = repair_model(trace, plan, small, dataset, repair, weights=rewritten.weights, seed=seed)
    return Attempt(way, rewritten, plan, small, *repaired, measurements)
