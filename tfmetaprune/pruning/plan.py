"""Which channels go: global ranking in small steps down to a MACs target, with a floor for every group and layer."""

import dataclasses
import json
import math
import numbers
from collections.abc import Mapping

import numpy as np

from tfmetaprune.errors import ArgumentError, NothingToPruneError
from tfmetaprune.pruning.cost import mac_terms, total_macs
from tfmetaprune.pruning.groups import ChannelGroup, channel_groups
from tfmetaprune.pruning.importance import check_numbers, scorer
from tfmetaprune.pruning.rounding import round_widths
from tfmetaprune.pruning.traffic import traffic_score
from tfmetaprune.trace import ModelTrace

SMALL_STEP = 0.005  # share of the prunable channels that go between two estimates


@dataclasses.dataclass(frozen=True, eq=False)
class PruningPlan:
    """What remains of a model.

    Attributes:
      keep: bool [num_units], which units remain.
      groups: the model's channel groups.
      macs_before, macs_after: multiply-accumulates of the whole model and of what remains.
    """

    keep: np.ndarray
    groups: tuple[ChannelGroup, ...]
    macs_before: int
    macs_after: int

    @property
    def speedup(self) -> float:
        """MACs before / MACs after."""
        return self.macs_before / self.macs_after if self.macs_after else 1.0

    @property
    def dropped(self) -> dict[str, list[int]]:
        """Group name -> indices within the group of the units that go; groups that lose none are left out."""
        lost = {group.name: np.flatnonzero(~self.keep[group.units]).tolist() for group in self.groups}
        return {name: indices for name, indices in lost.items() if indices}

    def to_json(self) -> str:
        """Returns the plan as JSON text; it names groups and channels and holds for any model of the same structure."""
        sizes = {group.name: group.size for group in self.groups}
        groups = {name: {"size": sizes[name], "dropped": indices} for name, indices in self.dropped.items()}
        return json.dumps(
            {"speedup": self.speedup, "macs_before": self.macs_before, "macs_after": self.macs_after, "groups": groups}
        )

    @staticmethod
    def from_json(text: str, trace: ModelTrace) -> "PruningPlan":
        """Reads a plan written by `to_json` for a model of the same structure.

        Raises:
          ArgumentError: the text is no plan, or was made for a model with other channel groups.
        """
        groups = {group.name: group for group in channel_groups(trace)}
        keep = np.ones(trace.channels.num_units, bool)
        try:
            entries = {
                name: (int(entry["size"]), [int(index) for index in entry["dropped"]])
                for name, entry in json.loads(text)["groups"].items()
            }
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ArgumentError(
                f"Pruning plan: expected JSON with 'groups', got {text[:40]!r}... Use what PruningPlan.to_json wrote."
            ) from error
        for name, (size, dropped) in entries.items():
            if name not in groups or groups[name].size != size or not all(0 <= index < size for index in dropped):
                got = f"{groups[name].size} channels" if name in groups else "no such group"
                raise ArgumentError(
                    f"Pruning plan: expected group {name!r} with {size} channels, got {got} in model "
                    f"{trace.model.name!r}. Use the plan with the model it was made for."
                )
            keep[groups[name].units[dropped]] = False
        return plan_from_keep(trace, keep)


def plan_from_keep(trace: ModelTrace, keep: np.ndarray) -> PruningPlan:
    """Makes the plan that keeps the given units.

    Args:
      trace: the traced model.
      keep: bool [num_units], which units remain.

    Raises:
      ArgumentError: `keep` has another shape, drops a frozen unit, or leaves a layer without any channel.
    """
    keep = np.array(keep, bool)
    if keep.shape != (trace.channels.num_units,):
        raise ArgumentError(
            f"keep: expected shape ({trace.channels.num_units},), got {keep.shape}. Give one entry for each unit."
        )
    stuck = next((unit for unit in np.flatnonzero(~keep).tolist() if unit in trace.channels.frozen), None)
    if stuck is not None:
        raise ArgumentError(
            f"keep: expected frozen units to stay, got unit {stuck} dropped ({trace.channels.frozen[stuck]}). Keep it."
        )
    floors = _Floors(trace, 0.0)
    if np.any(np.bincount(floors.set_ids, keep[floors.units], len(floors.minimum)) < 1):
        raise ArgumentError("keep: expected a channel left in every layer, got a layer with none. Keep one of each.")
    keep.setflags(write=False)
    terms = mac_terms(trace)
    return PruningPlan(keep, channel_groups(trace), total_macs(terms, np.ones_like(keep)), total_macs(terms, keep))


def make_plan(
    trace: ModelTrace, scores_or_criterion="group_l2", *, speedup: float, score=None, floor: float = 0.1,
    step: float | None = None, round_to: int | None = None, traffic_weight: float = 0.0,
    weights: Mapping | None = None, statistics: np.ndarray | None = None, seed: int = 0,
) -> PruningPlan:  # fmt: skip
    """Chooses the channels to drop.

    All groups are ranked together. The lowest channels go in steps, after each of which importance is estimated again
    from the survivors, until MACs before / MACs after reaches `speedup`; the last step is as short as it can be.

    Args:
      trace: the traced model.
      scores_or_criterion: a name of `importance.CRITERIA`; or a callable(trace) -> importance, float [num_units]; or
        fixed scores, float [num_units]. Scores are logarithmic, low ones go first.
      speedup: the MACs ratio to reach, at least 1; 1 gives the empty plan.
      score: float [num_units], added to the criterion's scores (a metanetwork's).
      floor: share of its channels, in [0, 1], that every group and every layer keeps; one remains in any case.
      step: share of all prunable channels that go between two estimates, in (0, 1]. None: 0.005; with a `score` 1, because
        a metanetwork's scores are trained for a ranking in one shot.
      round_to: what the widths that lose channels shall be multiples of, see `rounding.round_widths`; None for any width.
      traffic_weight: how much lower channels are ranked that move much memory for their MACs (see `traffic.traffic_score`), at
        least 0. It decides where importances are nearly equal: 0.05 outweighs differences of about 15 % at most.
      weights: (layer name, weight name) -> tensor in place of the model's own, for the L2 criteria.
      statistics: float [num_units, S], the channel statistics, for a criterion that needs them.
      seed: for "random".

    Raises:
      ArgumentError: an argument is out of its range, or scores are not finite.
      NothingToPruneError: no channel can go, or the floor is met before the speed-up is reached.
    """
    _check_range("speedup", speedup, 1, math.inf, "a MACs ratio of at least 1", "Give 2.0 to halve the MACs")
    _check_range("floor", floor, 0, 1, "a share in [0, 1]", "Give 0.1 to keep a tenth of every layer")
    if round_to is not None and (not isinstance(round_to, numbers.Integral) or round_to < 1):
        raise ArgumentError(f"round_to: expected a whole number >= 1 or None, got {round_to!r}. Give 8.")
    _check_range("traffic_weight", traffic_weight, 0, math.inf, "a number of at least 0", "Give 0.05")
    step = (SMALL_STEP if score is None else 1.0) if step is None else step
    _check_range("step", step, 0, 1, "a share in (0, 1]", "Give 0.005", open_low=True)
    keep = np.ones(trace.channels.num_units, bool)
    if speedup == 1:
        return plan_from_keep(trace, keep)
    frozen = np.zeros_like(keep)
    frozen[list(trace.channels.frozen)] = True
    if not any(group.prunable for group in channel_groups(trace)):
        reasons = "; ".join(dict.fromkeys(trace.channels.frozen.values()))
        raise NothingToPruneError(
            f"Model {trace.model.name!r}: expected prunable channels, got none ({reasons[:300]}). "
            f"Give it hidden layers of known kinds, or register a LayerSpec for the kinds named."
        )
    terms, floors = mac_terms(trace), _Floors(trace, floor)
    estimate = scorer(trace, scores_or_criterion, weights=weights, statistics=statistics, seed=seed)
    added = 0.0 if score is None else check_numbers(score, len(keep), "score")
    if traffic_weight:
        added = added - traffic_weight * traffic_score(trace)
    macs_before = macs = total_macs(terms, keep)
    num_step = max(1, round(step * np.count_nonzero(~frozen)))
    while macs * speedup > macs_before:
        scores = np.where(frozen, np.inf, estimate(keep) + added)
        candidates = keep & ~frozen & ~floors.protected(scores, keep)
        order = np.flatnonzero(candidates)
        order = order[np.argsort(scores[order], kind="stable")][:num_step]
        if not len(order):
            raise NothingToPruneError(
                f"Model {trace.model.name!r}: expected a speed-up of {speedup:g} to be reachable, got at most "
                f"{macs_before / macs:.2f} with a floor of {floor:g}. Ask for less, or lower the floor."
            )
        keep, macs = _drop(terms, keep, order, macs_before / speedup)
    if round_to is not None:
        scores = np.where(keep, estimate(keep), estimate(np.ones_like(keep))) + added
        keep = round_widths(trace, keep, scores, terms, round_to=round_to, floor=floor, target=macs_before / speedup)
    return plan_from_keep(trace, keep)


def _check_range(name, value, low, high, expected, advice, open_low=False):
    good = isinstance(value, (int, float, np.number)) and math.isfinite(value) and low <= value <= high
    if not good or (open_low and value == low):
        raise ArgumentError(f"{name}: expected {expected}, got {value!r}. {advice}.")


def _drop(terms, keep, order, target):
    """Drops the units in order, all of them or as few as reach the target. Returns what remains, and its MACs."""

    def after(count):
        remaining = keep.copy()
        remaining[order[:count]] = False
        return remaining, total_macs(terms, remaining)

    low, high = 1, len(order)
    if after(high)[1] <= target:
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if after(middle)[1] <= target else (middle + 1, high)
    return after(high)


class _Floors:
    """Sets of units with the number of them that must remain: a share of each group and of what each layer makes, and
    one on every axis of every tensor.

    Attributes:
      set_ids, units: int64 [M], every unit of every set.
      minimum: int64 [num_sets].
    """

    def __init__(self, trace, floor):
        channels = trace.channels
        shares = {group.units.tobytes(): (group.units, floor) for group in channel_groups(trace)}
        for call in channels.calls:
            made = {axes.names[axis] for axes in call.weights.values() for axis in axes.target}
            made |= {axes.per_channel for axes in call.weights.values()}
            for role in sorted(made & set(call.roles)):
                units = np.unique(channels.units(call.roles[role]))
                shares.setdefault(units.tobytes(), (units, floor))
        for layout in (layout for axes in channels.tensors for layout in axes.values()):
            units = np.unique(channels.units(layout))
            shares.setdefault(units.tobytes(), (units, 0.0))
        sets = [units for units, _ in shares.values() if len(units)]
        sizes = np.array([len(units) for units in sets], np.int64)
        shares = np.array([share for units, share in shares.values() if len(units)])
        self.set_ids = np.repeat(np.arange(len(sets)), sizes)
        self.units = np.concatenate([np.zeros(0, np.int64), *sets])
        self.minimum = np.maximum(1, np.ceil(shares * sizes - 1e-9)).astype(np.int64)

    def protected(self, scores, keep):
        """bool [num_units]: the best survivors of each set, as many as must remain."""
        alive = keep[self.units]
        set_ids, units = self.set_ids[alive], self.units[alive]
        order = np.lexsort((-scores[units], set_ids))
        set_ids, units = set_ids[order], units[order]
        rank = np.arange(len(units)) - np.searchsorted(set_ids, set_ids)
        protected = np.zeros(len(keep), bool)
        protected[units[rank < self.minimum[set_ids]]] = True
        return protected
