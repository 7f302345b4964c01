"""The prune-aware objective: the metanetwork is trained on what is wanted, a network that works once it is pruned.

What all objectives share, and the one for channels; those for zeros are in `sparse_objective.py`. One step samples a speed-up,
ranks the channels by criterion + score, silences those below the threshold, runs the network with batch-statistics BN, and takes
cross-entropy plus distillation from the network as it was. Gradients reach the scores through a straight-through mask whose
threshold moves with them, so that the budget stays.
"""

import abc

import numpy as np

from tfmetaprune._keras import keras, tf
from tfmetaprune.graph import decode_blocks, graph_layout
from tfmetaprune.layers import get_weight
from tfmetaprune.metatrain.data_models import augmented
from tfmetaprune.pruning.group_norm import group_norm
from tfmetaprune.pruning.importance import normalized_score, unit_importance
from tfmetaprune.pruning.masking import run_masked
from tfmetaprune.pruning.straight_through import NOISE, ChannelMasks

TEMPERATURE = 2.0  # of the distillation


class Objective(abc.ABC):
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

    @abc.abstractmethod
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

    def prepare(self, x, y, rng):
        """Makes examples a batch for `batch_loss`: changes them a little, at random.

        Args:
          x: images or series [batch, ...].
          y: int labels [batch].
          rng: a `numpy.random.Generator`.
        """
        return augmented(x, rng), y

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
        self._masks = ChannelMasks(trace, floor)

    def masks(self, ranking: tf.Tensor, speedup: tf.Tensor) -> tf.Tensor:
        """Returns float32 [num_units] of 0 and 1, see `ChannelMasks`."""
        return self._masks(ranking, speedup)

    def draw_target(self, rng) -> np.float32:
        """Draws a speed-up."""
        return draw_speedup(rng, self.speedups)

    def decode(self, generated, target, noise):
        """See `Objective.decode`; the target is a speed-up."""
        parameters, weights, score = generated
        decoded = decode_blocks(self.layout, parameters, weights, self.trace)
        base = normalized_score(unit_importance(self.trace, decoded), self.trace.channels.group_of_unit)
        return decoded, self.masks(base + self.unit_score(score) + NOISE * noise, target)


def draw_speedup(rng, speedups) -> np.float32:
    """Draws from a range of MACs ratios, evenly in their logarithm."""
    return np.float32(np.exp(rng.uniform(*np.log(speedups))))


class PublishedObjective(Objective):
    """The published objective for channels (arXiv 2506.12041): the cross-entropy of the whole network plus a group norm.

    The norm is that of `pruning.group_norm`. The network runs with its moving statistics, as it does in use.

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
        return group_norm(self.trace, weights, alpha=self.alpha)
