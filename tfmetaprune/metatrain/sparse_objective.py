"""The objectives for zeros: a network that works once its smallest weights are gone, and the published one.

As for channels, the network is run as it will be after pruning, and gradients pass the hard masks straight through.
"""

import abc

import numpy as np

from tfmetaprune._keras import tf
from tfmetaprune.errors import ArgumentError
from tfmetaprune.graph import decode_blocks
from tfmetaprune.metatrain.objective import Objective
from tfmetaprune.pruning.sparse import FLOOR, find_kernels, kernel_units, sparse_method
from tfmetaprune.pruning.straight_through import NOISE, SOFTNESS

_TINY = 1e-12


class SparseObjective(Objective):
    """The loss of a network with zeros; what `UnstructuredObjective` and `NOfMObjective` share.

    Args:
      trace: any model of the architecture.
      method: a name of `sparse_method`.
      distillation: as for `Objective`.

    Raises:
      ArgumentError: the model has no kernel that the method can zero.
    """

    def __init__(self, trace, method, *, distillation=1.0):
        super().__init__(trace, distillation=distillation)
        self.method = sparse_method(method)
        self.kernels, _ = find_kernels(trace, self.method)
        if not self.kernels:
            raise ArgumentError(
                f"{type(self).__name__}: expected kernels that method={method!r} can zero, got none in model "
                f"{trace.model.name!r}. Choose data models with larger kernels."
            )

    def decode(self, generated, target, noise):
        """See `Objective.decode`; the mask of the units is 1."""
        parameters, weights, score = generated
        decoded = decode_blocks(self.layout, parameters, weights, self.trace)
        matrices = [kernel.to_matrix(decoded[kernel.key]) for kernel in self.kernels]
        masks = self.masks(matrices, self.unit_score(score), target, noise)
        for kernel, matrix, mask in zip(self.kernels, matrices, masks, strict=True):
            decoded[kernel.key] = kernel.from_matrix(matrix * mask)
        return decoded, tf.ones(self.num_units)

    @abc.abstractmethod
    def masks(self, matrices, score, target, noise):
        """Returns a mask for each kernel.

        Args:
          matrices: of the kernels, float32 [taps * inputs, outputs] each.
          score: float32 [num_units].
          target: scalar of `draw_target`.
          noise: float32 [num_units].

        Returns:
          float32 of 0 and 1 in the matrices' shapes; gradients reach matrices and score through them.
        """


class UnstructuredObjective(SparseObjective):
    """The loss of a network of which one threshold over all kernels leaves a share of the weights.

    Magnitudes are compared as `plan_zeros` does: log|w| plus the mean score of the kernel's outputs, and no kernel is emptied.

    Args:
      trace: any model of the architecture.
      sparsities: range in [0, 1) of the sample; the density, 1 - sparsity, is log-uniform.
      distillation: as for `Objective`.
    """

    def __init__(self, trace, *, sparsities=(0.5, 0.97), distillation=1.0):
        super().__init__(trace, "unstructured", distillation=distillation)
        self.densities = 1 - np.array(sparsities[::-1])
        self.units = [kernel_units(trace, kernel) for kernel in self.kernels]

    def draw_target(self, rng) -> np.float32:
        """Draws a density in (0, 1]: the share of the weights that stay."""
        return np.float32(np.exp(rng.uniform(*np.log(self.densities))))

    def masks(self, matrices, score, target, noise):
        """See `SparseObjective.masks`; the target is a density."""
        levels, protected = [], []
        for number, (matrix, units) in enumerate(zip(matrices, self.units, strict=True)):
            shift = tf.reduce_mean(tf.gather(score, units)) if len(units) else tf.zeros([])
            level = tf.reshape(tf.math.log(tf.abs(matrix) + _TINY), [-1]) + shift + NOISE * noise[number]
            count = tf.maximum(1, tf.cast(FLOOR * target * float(level.shape[0]), tf.int32))
            least = tf.gather(tf.sort(tf.stop_gradient(level), direction="DESCENDING"), count - 1)
            levels.append(level)
            protected.append(tf.stop_gradient(level) >= least)
        sizes = [level.shape[0] for level in levels]
        q, protected = tf.concat(levels, 0), tf.concat(protected, 0)
        fixed = tf.stop_gradient(q)
        left = tf.cast(tf.round(target * float(sum(sizes))), tf.int32) - tf.reduce_sum(tf.cast(protected, tf.int32))
        left = tf.clip_by_value(left, 0, sum(sizes) - 2)
        order = tf.sort(tf.where(protected, -np.inf, fixed), direction="DESCENDING")
        threshold = 0.5 * (tf.gather(order, tf.maximum(left - 1, 0)) + tf.gather(order, left))
        hard = tf.cast(protected | (fixed > threshold), tf.float32)
        slope = tf.sigmoid((fixed - threshold) / SOFTNESS)
        pull = tf.where(protected, 0.0, slope * (1 - slope))
        moved = threshold + tf.reduce_sum(pull / (tf.reduce_sum(pull) + _TINY) * (q - fixed))  # the budget stays
        soft = tf.sigmoid((q - moved) / SOFTNESS)
        mask = tf.where(protected, 1.0, tf.stop_gradient(hard - soft) + soft)
        return [tf.reshape(part, matrix.shape) for part, matrix in zip(tf.split(mask, sizes), matrices)]


class NOfMObjective(SparseObjective):
    """The loss of a network of whose kernels the N largest of every M weights in a row along the inputs stay.

    Args:
      trace: any model of the architecture.
      method: "N:M".
      distillation: as for `Objective`.
    """

    def masks(self, matrices, score, target, noise):
        """See `SparseObjective.masks`; scores, target and noise have no say."""
        del score, target, noise
        (count, length), masks = self.method.n_of_m, []
        for matrix in matrices:
            level = tf.math.log(tf.abs(matrix) + _TINY)
            groups = tf.transpose(tf.reshape(level, [-1, length, level.shape[1]]), (0, 2, 1))
            top = tf.math.top_k(groups, count + 1)
            hard = tf.reduce_sum(tf.one_hot(top.indices[..., :count], length), -2)
            middle = 0.5 * tf.reduce_sum(top.values[..., count - 1 :], -1, keepdims=True)
            soft = tf.sigmoid((groups - middle) / SOFTNESS)
            mask = tf.transpose(tf.stop_gradient(hard - soft) + soft, (0, 2, 1))
            masks.append(tf.reshape(mask, level.shape))
        return masks


class PublishedSparseObjective(Objective):
    """The published objective for zeros (arXiv 2506.12041): the cross-entropy of the whole network plus the L1 norm of its kernels.

    The network runs with its moving statistics, as it does in use. The metanetwork's scores have no part in it.

    Args:
      trace: any model of the architecture.
      regularization: weight of the L1 norm; the published 0.1 goes with a cross-entropy that is summed over about 100 batches, which
        is 1e-3 for the mean of one.
    """

    training_bn = False

    def __init__(self, trace, *, regularization=1e-3):
        super().__init__(trace, distillation=0.0)
        self.regularization = regularization
        self.kernels, _ = find_kernels(trace, sparse_method("unstructured"))

    def decode(self, generated, target, noise):
        """See `Objective.decode`; nothing is pruned."""
        del target, noise
        parameters, weights, _ = generated
        return decode_blocks(self.layout, parameters, weights, self.trace), tf.ones(self.num_units)

    def batch_loss(self, decoded, mask, x, y, original):
        """See `Objective.batch_loss`."""
        norm = tf.add_n([tf.reduce_sum(tf.abs(decoded[kernel.key])) for kernel in self.kernels])
        return super().batch_loss(decoded, mask, x, y, original) + self.regularization * norm
