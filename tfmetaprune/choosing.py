"""How channels are chosen: what criterion, metanetwork and search make of a model, and the smaller model that follows."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from tfmetaprune.graph import channel_statistics
from tfmetaprune.metanet.generate import generate
from tfmetaprune.pruning import make_plan, needs_statistics, rebuild_model, scorer
from tfmetaprune.pruning.search import search_scores
from tfmetaprune.report.progress import progress_bar
from tfmetaprune.trace import ModelTrace


@dataclasses.dataclass(frozen=True, eq=False)
class Rewritten:
    """What is known about a traced model before it is pruned; the same for all speed-ups.

    Attributes:
      weights: (layer name, weight name) -> tensor, made by the metanetwork; None without one.
      score: float32 [num_units], what the metanetwork adds to the criterion; None without one.
      statistics: float32 [num_units, S], the channel statistics; None where nobody needs them.
    """

    weights: Mapping | None = None
    score: np.ndarray | None = None
    statistics: np.ndarray | None = None


def rewrite(trace: ModelTrace, metanetwork, dataset, *, criterion="group_l2", seed=0) -> Rewritten:
    """Lets a metanetwork rewrite the weights of a traced model.

    Args:
      trace: the traced model.
      metanetwork: a `MetaNetwork`, or None.
      dataset: batches of (x, ...), for the channel statistics; None if nobody needs them.
      criterion: as for `prune`.
      seed: of what is drawn for the Fisher information.
    """
    statistics = None
    if metanetwork is not None or needs_statistics(criterion):
        with progress_bar("Measuring channel statistics"):
            statistics = channel_statistics(trace, dataset, seed=seed)
    if metanetwork is None:
        return Rewritten(statistics=statistics)
    with progress_bar("Running the metanetwork"):
        weights, score = generate(metanetwork, trace, statistics)
    return Rewritten(weights, score, statistics)


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
