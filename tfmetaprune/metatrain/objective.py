"""The prune-aware objective: the metanetwork is trained on what is wanted, a network that works once it is pruned.

What all objectives share, and the one for channels; those for zeros are in `sparse_objective.py`. One step samples a speed-up,
ranks the channels by criterion + score, silences those below the threshold, runs the network with batch-statistics BN, and takes
cross-entropy plus distillation from the network as it was. Gradients reach the scores through a straight-through mask whose
threshold moves with them, so that the budget stays.
"""

import functools

import numpy as np

from tfmetaprune._keras import keras, tf
from tfmetaprune.graph import decode_blocks, graph_layout
from tfmetaprune.layers import get_weight
from tfmetaprune.pruning.cost import mac_terms
from tfmetaprune.pruning.importance import GroupL2, normalized_score, unit_importance
from tfmetaprune.pruning.masking import run_masked

TEMPERATURE = 2.0  # of the distillation
SOFTNESS = 0.3  # width of the sigmoid that stands for the hard mask in the backward pass
NOISE = 0.2  # standard deviation added to the ranking


class Objective:
    """The loss of one architecture in two stages: from generated tensors to a network, and its loss on a batch.

    Subclasses write `decode`, and `draw_target` if they have a target.

    Args:
      trace: any model of the architecture.
      distillation: weight of the term that pulls the outputs to those of the network as it was; 0 for none.
    """

    training_bn = True  # whether BatchNormalization uses the statistics of the batch

    def __init__(self, trace, *, distillation=1.0):
        self.trace = trace
        self.distillation = distillation
        self.layout = graph_layout(trace)
        self.num_units = trace.channels.num_units

    def draw_target(self, rng) -> np.float32:
        """Draws what a step prunes for: a number that `decode` understands."""
        del rng
        return np.float32(1)

    def decode(self, generated, target, noise):
        """Makes the pruned network out of what the metanetwork generated.

        Args:
          generated: (parameters [num_nodes, P], edge set -> weights [E, T], score [num_nodes]), as `MetaNetwork.transform`
            returns them.
          target: scalar of `draw_target`.
          noise: float32 [num_units], standard normal.

        Returns:
          (layer path, weight name) -> tensor, and the mask of the units, float32 [num_units]; differentiable with respect
          to everything generated.
        """
        raise NotImplementedError(f"{type(self).__name__}.decode")

    def unit_score(self, score):
        """Returns the scores of the units, float32 [num_units], from those of the nodes, [num_nodes]."""
        return tf.math.unsorted_segment_mean(tf.reshape(score, [-1]), self.trace.channels.unit_of_node, self.num_units)

    def batch_loss(self, decoded, mask, x, y, original):
        """Returns the mean loss of one batch, a scalar.

        Args:
          decoded: (layer path, weight name) -> tensor, as `decode` makes them.
          mask: float32 [num_units], as `decode` makes it.
          x: images [batch, ...].
          y: int labels [batch].
          original: the data model's own weights, as `weights_of` names them; read for the distillation alone.
        """
        (student,) = run_masked(self.trace, mask, [x], weights=decoded, training_bn=self.training_bn)
        loss = tf.reduce_mean(keras.losses.sparse_categorical_crossentropy(y, student, from_logits=True))
        if not self.distillation:
            return loss
        (teacher,) = run_masked(self.trace, None, [x], weights=original)
        teacher, student = tf.stop_gradient(teacher) / TEMPERATURE, student / TEMPERATURE
        difference = tf.nn.log_softmax(teacher) - tf.nn.log_softmax(student)
        distance = tf.reduce_mean(tf.reduce_sum(tf.nn.softmax(teacher) * difference, -1))
        return loss + self.distillation * TEMPERATURE**2 * distance

    def weights_of(self, trace) -> dict:
        """Returns the variables of a model of this architecture in the form of `decode`'s weights.

        Args:
          trace: the `ModelTrace` of the model; its layers may have other names.

        Returns:
          (layer path in this objective's trace, weight name) -> variable, for every weight that a graph holds.
        """
        parts = [part for part in (*self.layout.columns, *self.layout.blocks) if part.is_first]
        return {(self.trace.calls[p.call].path, p.weight): get_weight(trace.calls[p.call].layer, p.weight) for p in parts}


class PruneAwareObjective(Objective):
    """The loss of a network some of whose channels are gone.

    Args:
      trace: any model of the architecture.
      floor: share of every group's channels that is always kept.
      speedups: range of the log-uniform sample of the MACs ratio.
      distillation: as for `Objective`.
    """

    def __init__(self, trace, *, floor=0.1, speedups=(1.5, 8.0), distillation=1.0):
        super().__init__(trace, distillation=distillation)
        self.speedups = speedups
        channels = trace.channels
        self.group_of_unit = channels.group_of_unit
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

    def draw_target(self, rng) -> np.float32:
        """Draws a speed-up."""
        return np.float32(np.exp(rng.uniform(*np.log(self.speedups))))

    def decode(self, generated, target, noise):
        """See `Objective.decode`; the target is a speed-up."""
        parameters, weights, score = generated
        decoded = decode_blocks(self.layout, parameters, weights, self.trace)
        base = normalized_score(unit_importance(self.trace, decoded), self.group_of_unit)
        return decoded, self.masks(base + self.unit_score(score) + NOISE * noise, target)


class PublishedObjective(Objective):
    """The published objective for channels (arXiv 2506.12041): the cross-entropy of the whole network plus a group norm.

    The norm is 1/2 sum_k gamma_k ||w_k||^2 over all units k that can be pruned, w_k being the weights that live and die with k.
    The factor gamma_k = alpha ** ((max s - s_k) / (max s - min s)), with s_k = ||w_k|| and the extremes of its group, carries no
    gradient; it is 1 where all s_k of a group are equal. The network runs with its moving statistics, as it does in use.

    Args:
      trace: any model of the architecture.
      alpha: the largest factor.
      regularization: weight of the norm; the published 10 goes with a cross-entropy that is summed over about 100 batches, which is 0.1
        for the mean of one.
    """

    training_bn = False

    def __init__(self, trace, *, alpha=16.0, regularization=0.1):
        super().__init__(trace, distillation=0.0)
        self.alpha, self.regularization = alpha, regularization
        self.prunable = np.ones(self.num_units, bool)
        self.prunable[list(trace.channels.frozen)] = False

    def decode(self, generated, target, noise):
        """See `Objective.decode`; nothing is pruned."""
        del target, noise
        parameters, weights, _ = generated
        return decode_blocks(self.layout, parameters, weights, self.trace), tf.ones(self.num_units)

    def batch_loss(self, decoded, mask, x, y, original):
        """See `Objective.batch_loss`."""
        return super().batch_loss(decoded, mask, x, y, original) + self.regularization * self.norm(decoded)

    def norm(self, weights):
        """Returns the group norm of weights, (layer path, weight name) -> tensor: a scalar."""
        group, num_groups = self.trace.channels.group_of_unit, int(np.max(self.trace.channels.group_of_unit, initial=-1)) + 1
        squares = GroupL2(self.trace, weights).sums()
        s = tf.sqrt(tf.stop_gradient(squares))
        most, least = (tf.gather(f(s, group, num_groups), group) for f in (tf.math.unsorted_segment_max, tf.math.unsorted_segment_min))
        gamma = self.alpha ** tf.math.divide_no_nan(most - s, most - least)
        return 0.5 * tf.reduce_sum(tf.where(self.prunable, gamma * squares, 0.0))
