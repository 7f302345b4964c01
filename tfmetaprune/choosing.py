"""How channels are chosen: what criterion, metanetwork and search make of a model, the smaller model that follows, and the best way."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from tfmetaprune._keras import tf
from tfmetaprune.errors import DataError, NothingToPruneError
from tfmetaprune.graph import channel_statistics
from tfmetaprune.latency_target import LatencyTarget, measure_with, prune_to_latency
from tfmetaprune.metanet.generate import generate
from tfmetaprune.metanet.pretrained import DEFAULT_NAME
from tfmetaprune.pruning import PruningPlan, make_plan, needs_statistics, rebuild_model, repair_model, scorer
from tfmetaprune.pruning.repair import model_inputs
from tfmetaprune.pruning.search import search_scores
from tfmetaprune.report.progress import progress_bar
from tfmetaprune.trace import ModelTrace

TRIED = ("group_l2", "group_l2_fisher")  # criteria that "default" chooses from
COMPARED = 1024  # inputs at most that outputs are compared on
_TINY = 1e-20


class Way(NamedTuple):
    """A way to choose channels: a criterion, and a metanetwork on top of it.

    Attributes:
      criterion: as for `prune`, not "default".
      metanetwork: as for `prune`, not "default".
    """

    criterion: Any
    metanetwork: Any = None


def ways_to_try(criterion, metanetwork, *, drops_channels, train_data, prepare=None) -> tuple[list[Way], str | None]:
    """Finds the ways to choose channels that the arguments leave open.

    Where there are data to compare on, `metanetwork` "default" is one with and one without, and `criterion` "default" is each of
    `TRIED`; a metanetwork goes on top of the first of these.

    Args:
      criterion: as for `prune`.
      metanetwork: as for `prune`.
      drops_channels: whether channels go.
      train_data: as for `prune`.
      prepare: as for `prune`.

    Returns:
      The ways, and why the default metanetwork is not among them, a sentence; None where it is, or another was asked for.
    """
    is_open = isinstance(metanetwork, str) and metanetwork == "default"
    note = None
    if is_open and not drops_channels:
        note = "None is the default for zeros: what 'digits_sparse' gains has not been measured behind a fine-tuning."
    elif is_open and prepare is not None:
        note = f"None was used, as the training before pruning ({prepare}) has learnt what goes."
    elif is_open and train_data is None:
        note = "None was used, as the shipped ones measure channels on train_data, and there is none."
    can_compare = drops_channels and train_data is not None and prepare is None
    criteria = [criterion]
    if isinstance(criterion, str) and criterion == "default":
        criteria = TRIED if can_compare and (is_open or metanetwork is None) else TRIED[:1]
    if not is_open:
        return [Way(each, metanetwork) for each in criteria], None
    ways = [Way(each) for each in criteria]
    return (ways if note else [*ways, Way(criteria[0], DEFAULT_NAME)]), note


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


def best_attempt(model, ways: Sequence[Way], attempt: Callable, dataset) -> tuple[Attempt, list[float]]:
    """Tries several ways, and takes the one that puts out what is nearest to what the model puts out.

    Args:
      model: as it was.
      ways: those to try, at least one.
      attempt: called with each; returns its `Attempt`, or raises NothingToPruneError where what is asked for is out of reach.
      dataset: batches of inputs, or of (inputs, labels, ...), to compare on; labels are not used. None for a single way.

    Returns:
      The best attempt, the first of equals, and the error of every way: the mean squared difference of the outputs relative to their
      variance, see `output_errors`; infinity where it was out of reach, [] for a single way.

    Raises:
      NothingToPruneError: it is out of reach in every way.
    """
    if len(ways) == 1:
        return attempt(ways[0]), []
    attempts, failure = {}, None
    for number, way in enumerate(ways):
        try:
            attempts[number] = attempt(way)
        except NothingToPruneError as error:
            failure = failure or error
    if not attempts:
        raise failure
    errors = dict(zip(attempts, output_errors(model, [each.repaired for each in attempts.values()], dataset)))
    return attempts[min(errors, key=errors.get)], [errors.get(number, math.inf) for number in range(len(ways))]


def output_errors(model, others: Sequence, dataset, *, num_samples=COMPARED) -> list[float]:
    """Measures how far other models' outputs are from a model's.

    Args:
      model: the model whose outputs are right.
      others: models of the same inputs and outputs.
      dataset: batches of inputs, or of (inputs, labels, ...); labels are not used.
      num_samples: how many inputs are read at most.

    Returns:
      For each of the others the mean squared difference of an output, relative to its variance over samples and positions, the mean
      over the outputs; infinity where it is not a finite number.

    Raises:
      DataError: there are no data.
    """
    count, moments, squares = 0, None, None
    for batch in dataset:
        inputs = [value[: num_samples - count] for value in model_inputs(model, batch)]
        count += int(inputs[0].shape[0])
        wanted, *made = ([_rows(output) for output in tf.nest.flatten(each(inputs, training=False))] for each in (model, *others))
        new = [np.stack([len(y) * np.ones(y.shape[1]), tf.reduce_sum(y, 0), tf.reduce_sum(tf.square(y), 0)]) for y in wanted]
        moments = new if moments is None else [before + after for before, after in zip(moments, new)]
        found = np.array([[float(tf.reduce_sum(tf.square(y - right))) for y, right in zip(each, wanted, strict=True)] for each in made])
        squares = found if squares is None else squares + found
        if count >= num_samples:
            break
    if not count:
        raise DataError("Data: expected at least one batch, got none. Give a dataset that is not empty.")
    variances = [float(np.sum(square - total**2 / number)) for number, total, square in moments]
    errors = (squares / (np.array(variances) + _TINY)).mean(1)
    return [float(error) if np.isfinite(error) else math.inf for error in errors]


def _rows(output) -> tf.Tensor:
    """float64 [samples and positions, channels] of an output [batch, ...]."""
    return tf.reshape(tf.cast(output, tf.float64), [-1, output.shape[-1] if len(output.shape) > 1 else 1])


def rewrite(trace: ModelTrace, metanetwork, dataset, *, criterion="group_l2", seed=0, statistics=None) -> Rewritten:
    """Lets a metanetwork rewrite the weights of a traced model.

    Args:
      trace: the traced model.
      metanetwork: a `MetaNetwork`, or None.
      dataset: batches of (x, ...), for the channel statistics; None if nobody needs them.
      criterion: as for `prune`.
      seed: of what is drawn for the Fisher information.
      statistics: the channel statistics, if they have been measured already.
    """
    if statistics is None and (metanetwork is not None or needs_statistics(criterion)):
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


def try_way(
    trace: ModelTrace, way: Way, rewritten: Rewritten, dataset, *, speedup, latency: LatencyTarget | None, repair, seed=0, **options
) -> Attempt:  # fmt: skip
    """Makes a model smaller in one way, to a speed-up or a latency, and repairs it.

    Args:
      trace: the traced model.
      way: the way.
      rewritten: of `rewrite` for its metanetwork.
      dataset: batches of (x, ...) for the repair; None for one that needs none.
      speedup: as for `prune`.
      latency: to reach in its place, or None.
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
