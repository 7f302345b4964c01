"""The published regulariser: a norm of the weights that live and die together, heavier on units that are light already."""

from collections.abc import Mapping

import numpy as np

from tfmetaprune._keras import tf
from tfmetaprune.pruning.importance import GroupL2
from tfmetaprune.trace import ModelTrace

ALPHA = 16.0  # the published largest factor


def group_norm(trace: ModelTrace, weights: Mapping | None = None, *, alpha: float = ALPHA) -> tf.Tensor:
    """Returns 1/2 sum_k gamma_k ||w_k||^2 over all units k that can be pruned (arXiv 2506.12041; DepGraph, arXiv 2301.12900).

    w_k are the weights that live and die with unit k. The factor gamma_k = alpha ** ((max s - s_k) / (max s - min s)), with
    s_k = ||w_k|| and the extremes of its group, carries no gradient; it is 1 where all s_k of a group are equal.

    Args:
      trace: the traced model.
      weights: (layer path, weight name) -> tensor in place of the model's own; missing ones are the model's.
      alpha: the largest factor.

    Returns:
      A scalar, differentiable with respect to the weights.
    """
    group = trace.channels.group_of_unit
    num_groups = int(np.max(group, initial=-1)) + 1
    prunable = np.ones(trace.channels.num_units, bool)
    prunable[list(trace.channels.frozen)] = False
    squares = GroupL2(trace, weights).sums()
    s = tf.sqrt(tf.stop_gradient(squares))
    most, least = (tf.gather(f(s, group, num_groups), group) for f in (tf.math.unsorted_segment_max, tf.math.unsorted_segment_min))
    gamma = alpha ** tf.math.divide_no_nan(most - s, most - least)
    return 0.5 * tf.reduce_sum(tf.where(prunable, gamma * squares, 0.0))
