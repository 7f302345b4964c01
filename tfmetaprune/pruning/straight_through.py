"""Masks of channels that meet a MACs target and let gradients through: the network is trained as it will be pruned.

In the forward pass a mask is 0 or 1, the highest ranked channels that meet the target. In the backward pass it is a sigmoid of the
ranking around the threshold, which moves with the rankings, so that the budget stays.
"""

import functools

import numpy as np

from tfmetaprune._keras import tf
from tfmetaprune.pruning.cost import mac_terms
from tfmetaprune.trace import ModelTrace

SOFTNESS = 0.3  # width of the sigmoid that stands for the hard mask in the backward pass
NOISE = 0.2  # standard deviation added to the ranking


class ChannelMasks:
    """Ranks the units of an architecture and masks those that a MACs target does not leave room for.

    Args:
      trace: any model of the architecture.
      floor: share of every group's channels that is always kept.

    Attributes:
      num_units: int.
      group_of_unit: int64 [num_units].
      prunable: bool [num_units], which units can go.
    """

    def __init__(self, trace: ModelTrace, floor: float = 0.1):
        self.num_units = trace.channels.num_units
        self.group_of_unit = trace.channels.group_of_unit
        prunable = np.ones(self.num_units, bool)
        prunable[list(trace.channels.frozen)] = False
        self.prunable = prunable
        groups = [np.flatnonzero((self.group_of_unit == g) & prunable) for g in np.unique(self.group_of_unit)]
        self.floors = [(units, max(1, int(np.ceil(floor * len(units))))) for units in groups if len(units)]
        terms = mac_terms(trace)
        self.coefficients = np.array([term.coefficient for term in terms], np.float32) / 1e6
        num_axes = max(len(term.axes) for term in terms)
        self.counts = np.zeros((num_axes, len(terms), self.num_units), np.float32)  # positions of the axis, by unit
        self.fixed = np.ones((num_axes, len(terms), 1), np.float32)  # 1 where a term has no such axis
        for number, term in enumerate(terms):
            for axis, units in enumerate(term.axes):
                self.counts[axis, number] = np.bincount(units, minlength=self.num_units)
                self.fixed[axis, number] = 0

    def __call__(self, ranking: tf.Tensor, speedup: tf.Tensor) -> tf.Tensor:
        """Returns float32 [num_units] of 0 and 1: the highest ranked units that meet the MACs target.

        Args:
          ranking: float32 [num_units], higher stays longer; gradients reach it through the result.
          speedup: scalar; MACs before / MACs after that the mask has to reach, as far as the floors let it.
        """
        q = tf.where(self.prunable, ranking, tf.constant(np.inf, tf.float32))
        kept_anyway = [tf.math.top_k(tf.gather(q, units), count).indices for units, count in self.floors]
        kept_anyway = tf.concat([tf.gather(units, top) for (units, _), top in zip(self.floors, kept_anyway)], 0)
        protected = tf.scatter_nd(kept_anyway[:, None], tf.ones(tf.shape(kept_anyway)), [self.num_units]) > 0
        free = ~protected & self.prunable
        order = tf.argsort(tf.where(free, tf.stop_gradient(q), np.inf))
        whole = self.counts.sum(2, keepdims=True) + self.fixed
        rest = whole - tf.cumsum(tf.gather(self.counts, order, axis=2), axis=2)  # after dropping order[0 .. k]
        macs = tf.linalg.matvec(tf.reduce_prod(rest, 0), self.coefficients, transpose_a=True)
        target = float(np.sum(self.coefficients * whole.prod(0)[:, 0])) / speedup
        num_free = tf.reduce_sum(tf.cast(free, tf.int32))
        last = tf.minimum(tf.reduce_sum(tf.cast(macs > target, tf.int32)), num_free - 1)  # index of the last to go
        gone = tf.scatter_nd(order[: last + 1, None], tf.ones([last + 1]), [self.num_units])
        hard = 1.0 - gone
        sorted_q = tf.gather(tf.stop_gradient(q), order)
        threshold = 0.5 * (sorted_q[last] + sorted_q[tf.minimum(last + 1, num_free - 1)])
        # What a unit costs at the present widths weighs its pull on the threshold.
        now = tf.unstack(tf.gather(rest, last, axis=2))
        price = tf.zeros(self.num_units)
        for axis, counts in enumerate(self.counts):
            others = [self.coefficients, *now[:axis], *now[axis + 1 :]]
            price += tf.linalg.matvec(counts, functools.reduce(tf.multiply, others), transpose_a=True)
        finite_q = tf.where(free, q, threshold)
        slope = tf.sigmoid((tf.stop_gradient(finite_q) - threshold) / SOFTNESS)
        pull = tf.cast(free, tf.float32) * slope * (1 - slope) * price
        pull /= tf.reduce_sum(pull) + 1e-12
        moved = threshold + tf.reduce_sum(pull * (finite_q - tf.stop_gradient(finite_q)))
        soft = tf.sigmoid((finite_q - moved) / SOFTNESS)
        return tf.where(free, tf.stop_gradient(hard - soft) + soft, 1.0)
