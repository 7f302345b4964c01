"""How much a channel matters: criteria, and the scores that make them comparable across groups."""

from collections.abc import Callable, Mapping

import numpy as np

from tfmetaprune._keras import tf
from tfmetaprune.errors import ArgumentError
from tfmetaprune.layers import get_weight
from tfmetaprune.trace import ModelTrace

CRITERIA = ("group_l2", "group_l2_max", "fisher", "group_l2_fisher", "random")
LOG_FISHER = 2  # column of the channel statistics: log(Fisher information / mean of the group)
_TINY = 1e-12  # the smallest importance relative to its group that is told from zero


class GroupL2:
    """Group L2 importance (docs/method.md): the mean over a unit's members of the sum of squared weights.

    A member is a slice for the unit: along any role of a kernel, or the unit's entry of a per-channel weight that the
    layer's spec counts. The kernels are squared and summed over their taps once; each call is a few matrix-vector
    products.

    Args:
      trace: the traced model.
      weights: (layer path, weight name) -> tensor in place of the model's own; missing ones are the model's.
    """

    def __init__(self, trace: ModelTrace, weights: Mapping | None = None):
        weights = weights or {}
        self._num_units = trace.channels.num_units
        self._kernels, self._vectors = [], []
        ids = []
        for channels in trace.channels.calls:
            if not channels.is_first:
                continue
            units = {role: trace.channels.units(layout) for role, layout in channels.roles.items()}
            for name, axes in channels.weights.items():
                if not axes.is_kernel and name not in channels.spec.importance:
                    continue
                value = weights.get((channels.call.path, name))
                value = tf.cast(get_weight(channels.call.layer, name) if value is None else value, tf.float32)
                value = tf.square(tf.reshape(value, axes.shape))
                if axes.per_channel is not None:
                    self._vectors.append(tf.reshape(tf.reduce_sum(value, _others(axes, (*axes.source, *axes.target))), [-1]))
                    ids.append(units[axes.per_channel])
                    continue
                roles = [axis for axis, role in enumerate(axes.names) if role in units]
                squares = tf.reduce_sum(value, _others(axes, roles))
                if len(roles) == 1:
                    self._vectors.append(squares)
                    ids.append(units[axes.names[roles[0]]])
                elif roles:
                    self._kernels.append((squares, [units[axes.names[axis]] for axis in roles]))
        ids += [member for _, members in self._kernels for member in members]
        self._ids = np.concatenate([np.zeros(0, np.int64), *ids])
        members = np.zeros(self._num_units, np.float32)
        for member in ids:
            members[np.unique(member)] += 1
        self._members = np.maximum(members, 1)

    def __call__(self, keep=None) -> tf.Tensor:
        """Estimates the importance of every unit.

        Args:
          keep: float or bool [num_units], 0 for units that are gone and no longer count as partners; None for all.

        Returns:
          float32 [num_units]; differentiable with respect to the weights and to `keep`.
        """
        return self.sums(keep) / self._members

    def sums(self, keep=None) -> tf.Tensor:
        """Sums the squares of every unit's weights, as `__call__` takes their mean over the unit's members."""
        keep = tf.ones(self._num_units) if keep is None else tf.cast(keep, tf.float32)
        values = [tf.zeros(0), *self._vectors]
        for squares, members in self._kernels:
            if len(members) == 2:
                values.append(tf.linalg.matvec(squares, tf.gather(keep, members[1])))
                values.append(tf.linalg.matvec(squares, tf.gather(keep, members[0]), transpose_a=True))
                continue
            for axis in range(len(members)):
                value = squares
                for other in reversed(range(len(members))):  # from behind, so that the axes before keep their numbers
                    if other != axis:
                        value = tf.tensordot(value, tf.gather(keep, members[other]), [[other], [0]])
                values.append(value)
        return tf.math.unsorted_segment_sum(tf.concat(values, 0), self._ids, self._num_units)


def _others(axes, roles) -> list[int]:
    return [axis for axis in range(len(axes.names)) if axis not in roles]


def unit_importance(trace: ModelTrace, weights: Mapping | None = None, keep=None) -> tf.Tensor:
    """Returns the group L2 importance of every unit, float32 [num_units], see `GroupL2`."""
    return GroupL2(trace, weights)(keep)


def normalized_score(importance, group_of_unit: np.ndarray, normalizer: str = "mean", keep=None) -> tf.Tensor:
    """Makes importances comparable across groups: 1/2 log(importance / mean or maximum of the group).

    Args:
      importance: float [num_units], not negative.
      group_of_unit: int [num_units], the group of each unit.
      normalizer: "mean" or "max".
      keep: float or bool [num_units], the units that count in the group's mean or maximum; None for all.

    Returns:
      float32 [num_units], finite: an importance of zero (in a group of zeros as well) scores 1/2 log(1e-12).

    Raises:
      ArgumentError: the normalizer is unknown.
    """
    importance = tf.cast(importance, tf.float32)
    num_groups = int(np.max(group_of_unit, initial=-1)) + 1
    counted = tf.ones_like(importance) if keep is None else tf.cast(keep, tf.float32)
    if normalizer == "mean":
        total = tf.math.unsorted_segment_sum(importance * counted, group_of_unit, num_groups)
        scale = tf.math.divide_no_nan(total, tf.math.unsorted_segment_sum(counted, group_of_unit, num_groups))
    elif normalizer == "max":
        scale = tf.math.unsorted_segment_max(importance * counted, group_of_unit, num_groups)
    else:
        raise ArgumentError(f"normalized_score: expected normalizer 'mean' or 'max', got {normalizer!r}. Use 'mean'.")
    relative = tf.math.divide_no_nan(importance, tf.gather(scale, group_of_unit))
    return 0.5 * tf.math.log(tf.maximum(relative, _TINY))


def scorer(
    trace: ModelTrace, criterion, *, weights: Mapping | None = None, statistics: np.ndarray | None = None, seed: int = 0
) -> Callable[[np.ndarray], np.ndarray]:
    """Returns the function that scores the units of a partly pruned model.

    "fisher" scores 1/2 log(Fisher information / mean of the group), as `channel_statistics` measures it; "group_l2_fisher" adds that to
    the score of "group_l2", so that it ranks by the product of both importances.

    Args:
      trace: the traced model.
      criterion: one of `CRITERIA`; or a callable(trace) -> importance, float [num_units]; or the scores themselves.
      weights: (layer path, weight name) -> tensor in place of the model's own.
      statistics: float [num_units, S], the channel statistics, if `needs_statistics(criterion)`.
      seed: for "random".

    Returns:
      A function: bool [num_units], the units that remain -> float32 [num_units] scores; low ones go first.

    Raises:
      ArgumentError: the criterion is unknown, lacks the statistics, or gives numbers of a wrong shape or not finite.
    """
    group_of_unit, num_units = trace.channels.group_of_unit, trace.channels.num_units
    if callable(criterion):
        importance = check_numbers(criterion(trace), num_units, "criterion")
        return lambda keep: normalized_score(importance, group_of_unit, keep=keep).numpy()
    if not isinstance(criterion, str):
        scores = check_numbers(criterion, num_units, "scores")
        return lambda keep: scores
    if needs_statistics(criterion) and statistics is None:
        raise ArgumentError(f"Criterion {criterion!r}: expected channel statistics, got none. Give data, or use criterion 'group_l2'.")
    if criterion in ("group_l2", "group_l2_max"):
        group_l2, normalizer = GroupL2(trace, weights), "mean" if criterion == "group_l2" else "max"
        return lambda keep: normalized_score(group_l2(keep), group_of_unit, normalizer, keep).numpy()
    if criterion == "random":
        scores = np.random.default_rng(seed).normal(size=num_units).astype(np.float32)
        return lambda keep: scores
    if needs_statistics(criterion):
        fisher = check_numbers(0.5 * np.asarray(statistics)[:, LOG_FISHER], num_units, "statistics")
        if criterion == "fisher":
            return lambda keep: fisher
        group_l2 = scorer(trace, "group_l2", weights=weights)
        return lambda keep: group_l2(keep) + fisher
    names = ", ".join(CRITERIA)
    raise ArgumentError(f"Criterion: expected one of {names} or a callable, got {criterion!r}. Use 'group_l2'.")


def needs_statistics(criterion) -> bool:
    """Whether a criterion is measured on data: needs the channel statistics."""
    return isinstance(criterion, str) and criterion in ("fisher", "group_l2_fisher")


def check_numbers(values, num_units: int, name: str) -> np.ndarray:
    """Returns the values as float32 [num_units].

    Raises:
      ArgumentError: the shape is another or a number is not finite.
    """
    values = np.asarray(values, np.float32)
    if values.shape != (num_units,) or not np.all(np.isfinite(values)):
        raise ArgumentError(
            f"{name}: expected {num_units} finite numbers, one for each unit of the model, got {values.shape} with "
            f"{np.count_nonzero(~np.isfinite(values))} not finite. Make one finite number for each unit of the trace."
        )
    return values
