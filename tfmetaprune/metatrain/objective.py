"""The prune-aware objective: the metanetwork is trained on what is wanted, a network that works once it is pruned.

One step samples a speed-up, ranks the channels by criterion + score, silences those below the threshold, runs the
network with batch-statistics BN, and takes cross-entropy plus distillation from the network as it was. Gradients
reach the scores through a straight-through mask whose threshold moves with them, so that the budget stays.
"""

import functools

import numpy as np

from tfmetaprune._keras import keras, tf
from tfmetaprune.graph import decode_blocks, graph_layout
from tfmetaprune.pruning.cost import mac_terms
from tfmetaprune.pruning.importance import normalized_score, unit_importance
from tfmetaprune.pruning.masking import run_masked

TEMPERATURE = 2.0  # of the distillation
SOFTNESS = 0.3  # width of the sigmoid that stands for the hard mask in the backward pass
NOISE = 0.2  # standard deviation added to the ranking


class PruneAwareObjective:
    """The loss of one architecture; data models of the same architecture share one compiled step.

    Args:
      trace: any model of the architecture.
      floor: share of every group's channels that is always kept.
    """

    def __init__(self, trace, *, floor=0.1):
        self.trace = trace
        self.layout = graph_layout(trace)
        channels = trace.channels
        self.unit_of_node = channels.unit_of_node
        self.group_of_unit = channels.group_of_unit
        self.num_units = channels.num_units
        prunable = np.ones(self.num_units, bool)
        prunable[list(channels.frozen)] = False
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

    def masks(self, ranking: tf.Tensor, speedup: tf.Tensor) -> tf.Tensor:
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

    def generate(self, metanet, graph):
        """Applies the metanetwork to raw graph tensors.

        Args:
          metanet: the `MetaNetwork`.
          graph: dict of the tensors `parameters`, `present`, `statistics`, `frozen` and the dict `weights`.

        Returns:
          The generated weights, (layer, weight) -> tensor, and the score of every unit, float32 [num_units].
        """
        parameters, weights, score = metanet.transform(
            graph["parameters"], graph["present"], graph["statistics"], graph["frozen"], graph["weights"], self.layout
        )
        score = tf.math.unsorted_segment_mean(tf.reshape(score, [-1]), self.unit_of_node, self.num_units)
        return decode_blocks(self.layout, parameters, weights, self.trace), score

    def loss(self, metanet, graph, x, y, speedup, noise):
        """Returns the scalar loss of one step.

        Args:
          metanet: the `MetaNetwork`.
          graph: the data model as raw graph tensors, see `generate`.
          x: images [batch, ...].
          y: int labels [batch].
          speedup: scalar, sampled.
          noise: standard normal [num_units].
        """
        original = decode_blocks(self.layout, graph["parameters"], graph["weights"], self.trace)
        (teacher,) = run_masked(self.trace, None, [x], weights=original)
        weights, score = self.generate(metanet, graph)
        base = normalized_score(unit_importance(self.trace, weights), self.group_of_unit)
        mask = self.masks(base + score + NOISE * noise, speedup)
        (student,) = run_masked(self.trace, mask, [x], weights=weights, training_bn=True)
        hit = keras.losses.sparse_categorical_crossentropy(y, student, from_logits=True)
        soft_teacher = tf.nn.softmax(tf.stop_gradient(teacher) / TEMPERATURE)
        distance = tf.reduce_sum(
            soft_teacher * (tf.nn.log_softmax(teacher / TEMPERATURE) - tf.nn.log_softmax(student / TEMPERATURE)), -1
        )
        return tf.reduce_mean(hit) + TEMPERATURE**2 * tf.reduce_mean(distance)
