"""Rankings that are measured beside those of the package: two criteria, and the control that keeps another plan's widths."""

import numpy as np

from tfmetaprune._keras import tf
from tfmetaprune.pruning.importance import normalized_score, unit_importance
from tfmetaprune.pruning.masking import is_batch_norm, run_masked
from tfmetaprune.pruning.plan import plan_from_keep


def bn_scale(trace) -> np.ndarray:
    """Returns the importance by BatchNormalization's gamma; by group L2 for units without one.

    Args:
      trace: the traced model.

    Returns:
      float32 [num_units], relative to the group's mean: gamma squared, mean over the BatchNormalizations that scale the unit.
    """
    total, count = np.zeros((2, trace.channels.num_units))
    for channels in trace.channels.calls:
        if is_batch_norm(channels) and channels.is_first and "gamma" in channels.weights:
            units = trace.channels.units(channels.roles["io"])
            np.add.at(total, units, np.square(channels.call.layer.gamma.numpy()))
            np.add.at(count, units, 1)
    scaled, group = count > 0, trace.channels.group_of_unit
    scales = normalized_score(total / np.maximum(count, 1), group, keep=scaled)
    norms = normalized_score(unit_importance(trace), group, keep=~scaled)
    return np.exp(2 * np.where(scaled, scales, norms))


def taylor(trace, train) -> np.ndarray:
    """Returns the importance by the first-order change of the loss when a unit goes, with true labels.

    Args:
      trace: the traced model, which puts out logits.
      train: batches of (x, labels).

    Returns:
      float32 [num_units], the squared gradient of a batch's mean loss with respect to the unit's mask, mean over the batches.
    """
    keep, squares = tf.ones(trace.channels.num_units), []
    for x, y in train:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(keep)
            (logits,) = run_masked(trace, keep, [x])
            loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(y, logits))
        squares.append(tf.square(tape.gradient(loss, keep, unconnected_gradients=tf.UnconnectedGradients.ZERO)))
    return np.mean(squares, 0)


def same_widths(trace, plan, scores):
    """Fills the widths of a plan with other channels.

    Args:
      trace: the traced model.
      plan: the `PruningPlan` whose widths count.
      scores: float [num_units], high ones stay.

    Returns:
      The plan that keeps as many of the units that the same calls make in each group as `plan`, those with the highest scores.
    """
    makers = [set() for _ in range(trace.channels.num_units)]
    for unit, call in zip(trace.channels.unit_of_node.tolist(), trace.channels.node_call.tolist()):
        makers[unit].add(call)
    sets, keep = {}, plan.keep.copy()
    for unit, (calls, group) in enumerate(zip(makers, trace.channels.group_of_unit.tolist())):
        if unit not in trace.channels.frozen:  # one call may make several groups: heads, and what is within each
            sets.setdefault((group, *sorted(calls)), []).append(unit)
    for units in map(np.array, sets.values()):
        best = units[np.argsort(-scores[units], kind="stable")]
        keep[units] = False
        keep[best[: np.count_nonzero(plan.keep[units])]] = True
    return plan_from_keep(trace, keep)
