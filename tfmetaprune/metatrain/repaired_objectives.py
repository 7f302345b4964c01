"""Objectives for what follows a repair by least squares: the scores alone are trained, the weights stay as they are.

One takes each network through the repair, in every step. The other teaches the metanetwork to put out at once what a search through
the repair, which takes a hundred steps and more for each network, has found.
"""

import numpy as np

from tfmetaprune._keras import tf
from tfmetaprune.graph import decode_blocks
from tfmetaprune.metatrain.objective import Objective, draw_speedup
from tfmetaprune.pruning.importance import check_numbers, normalized_score, unit_importance
from tfmetaprune.pruning.least_squares import fit_least_squares
from tfmetaprune.pruning.plan import make_plan
from tfmetaprune.pruning.search import COMPARED, FITTED, repaired_error
from tfmetaprune.pruning.straight_through import NOISE, ChannelMasks
from tfmetaprune.pruning.traced_fit import TracedFit

SEARCHED = "search", "ranking"  # key of what a search has ended with, among a data model's weights
_TRIED = 64  # inputs to find out on which layers can be fitted


class ScoresObjective(Objective):
    """What objectives that train the scores alone have in common."""

    def ranking(self, generated):
        """Returns group L2 + score of the units, float32 [num_units]; gradients reach the score alone.

        Args:
          generated: as for `Objective.decode`.
        """
        parameters, weights, score = generated
        decoded = decode_blocks(self.layout, *tf.nest.map_structure(tf.stop_gradient, (parameters, weights)), self.trace)
        return normalized_score(unit_importance(self.trace, decoded), self.trace.channels.group_of_unit) + self.unit_score(score)


class RepairedObjective(ScoresObjective):
    """The difference that pruning and the repair make to the outputs: the loss of the search, for a speed-up drawn in each step.

    Three sevenths of a batch are for the fit, on the rest outputs are compared. Labels are not read.

    Args:
      trace: any model of the architecture, with one input.
      speedups: range of the log-uniform sample of the MACs ratio.

    Raises:
      NothingToPruneError: the middle of the range is out of reach.
    """

    def __init__(self, trace, *, speedups=(1.5, 8.0)):
        super().__init__(trace)
        self.speedups = speedups
        self._masks = ChannelMasks(trace)
        rng = np.random.default_rng(0)
        inputs = rng.normal(size=(_TRIED, *trace.model.inputs[0].shape[1:])).astype(np.float32)
        plan = make_plan(trace, rng.normal(size=self.num_units), speedup=float(np.prod(speedups) ** 0.5), step=1.0)
        self._fit = TracedFit(trace, only=fit_least_squares(trace, plan.keep, [inputs]).solved)

    def prepare(self, x, y, rng):
        """See `Objective.prepare`; as they are, since the fit is for inputs as they will be in use."""
        del rng
        return x, y

    def draw_target(self, rng) -> np.float32:
        """Draws a speed-up."""
        return draw_speedup(rng, self.speedups)

    def decode(self, generated, target, noise):
        """See `Objective.decode`; no weights, and the mask. The target is a speed-up."""
        return {}, self._masks(self.ranking(generated) + NOISE * noise, target)

    def batch_loss(self, decoded, mask, x, y, original):
        """See `Objective.batch_loss`; `original` are the weights that the fit starts from."""
        del decoded, y
        fitted = max(1, x.shape[0] * FITTED // (FITTED + COMPARED))
        return repaired_error(self.trace, self._fit, mask, [x[:fitted]], [x[fitted:]], original)


class SearchedObjective(ScoresObjective):
    """The mean squared difference between group L2 + score and the scores that a search has ended with.

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
        """See `Objective.decode`; no weights, and the ranking of the units in place of a mask."""
        del target, noise
        return {}, self.ranking(generated)

    def batch_loss(self, decoded, mask, x, y, original):
        """See `Objective.batch_loss`; `mask` is the ranking, and `original` what `with_ranking` returned."""
        del decoded, x, y
        return tf.math.reduce_variance(tf.gather(mask - original[SEARCHED], self._prunable))

    def with_ranking(self, original, ranking) -> dict:
        """Adds the scores that a search has ended with, float [num_units], to a data model's weights.

        Raises:
          ArgumentError: these are not as many finite numbers as the model has units.
        """
        return {**original, SEARCHED: check_numbers(ranking, self.num_units, "Searched scores")}
