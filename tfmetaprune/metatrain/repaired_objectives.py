"""Objectives for what comes after a repair by least squares: the scores alone are trained, the weights stay as they are.

`SearchedObjective` teaches the metanetwork to put out at once what a search takes a hundred steps for.
"""

import numpy as np

from tfmetaprune._keras import tf
from tfmetaprune.metatrain.objective import Objective
from tfmetaprune.pruning.importance import check_numbers

FOUND = "search", "found"  # key of what a search has found, among a data model's weights


class SearchedObjective(Objective):
    """The mean squared difference between the scores and what a search has found for the data model.

    Both are taken relative to their mean over the units that can go, since a constant changes no ranking. No network is run.

    Args:
      trace: any model of the architecture.
    """

    def __init__(self, trace):
        super().__init__(trace, distillation=0.0)
        self._prunable = np.setdiff1d(np.arange(self.num_units), list(trace.channels.frozen))

    def prepare(self, x, y, rng):
        """See `Objective.prepare`; one example takes the place of a batch that nobody reads."""
        del rng
        return x[:1], y[:1]

    def decode(self, generated, target, noise):
        """See `Objective.decode`; no weights, and the scores of the units in place of a mask."""
        del target, noise
        return {}, self.unit_score(generated[-1])

    def batch_loss(self, decoded, mask, x, y, original):
        """See `Objective.batch_loss`; `mask` are the scores of the units, and `original` holds what was found as `FOUND`."""
        del decoded, x, y
        difference = tf.gather(mask - original[FOUND], self._prunable)
        return tf.math.reduce_variance(difference)

    def with_found(self, original, found) -> dict:
        """Adds what a search has found, float [num_units], to a data model's weights.

        Raises:
          ArgumentError: these are not as many finite numbers as the model has units.
        """
        return {**original, FOUND: check_numbers(found, self.num_units, "found")}
