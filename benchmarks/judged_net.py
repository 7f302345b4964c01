"""A network that universal.py judges by: its rankings and plans, each made once, and what is left of it in every way."""

import functools

import numpy as np
from leads import WIDTHS
from rankings import bn_scale, same_widths, taylor
from rivals import CRITERIA

from tfmetaprune._keras import keras
from tfmetaprune.choosing import Rewritten, weaken
from tfmetaprune.data import load
from tfmetaprune.errors import NothingToPruneError
from tfmetaprune.metatrain.select import generated, load_judges, repaired_models
from tfmetaprune.metatrain.zoo import accuracy, dataset_arrays
from tfmetaprune.output_errors import output_errors
from tfmetaprune.pruning import make_plan, scorer
from tfmetaprune.pruning.plan import SMALL_STEP
from tfmetaprune.ways import FULL

ORDERS = {"random order": "random", "group_l2 order": "group_l2"}


class Net:
    """A network and all that is made of it once.

    Args:
      folder: of the zoo.
      file: its `DataModelFile`.
      rivals: name -> `Rival`.
    """

    def __init__(self, folder, file, rivals):
        keras.utils.set_random_seed(file.seed)  # the order of the examples follows it
        (self.judge,) = load_judges(folder, [file])
        self.test, self.seed, self.rivals = dataset_arrays(load(file.data).test), file.seed, rivals
        self.generated = functools.cache(lambda name: self._generated(rivals[name]))
        self.importance = functools.cache(
            lambda name: bn_scale(self.judge.trace) if name == "bn_scale" else taylor(self.judge.trace, self.judge.train)
        )
        self.plan = functools.cache(self._plan)

    def _generated(self, rival):
        """What a metanetwork makes of the network: weights, and scores on top of their group L2; in part, if its strength says so."""
        weights, score = generated(self.judge, rival.metanet)
        if rival.strength == FULL:
            return weights, score
        found = weaken(self.judge.trace, Rewritten(weights, score, self.judge.statistics), rival.strength, seed=self.seed)
        return found.weights, found.score

    def _ranked(self, criterion, speedup, step, score=None, weights=None):
        """Plans by a criterion and what is added to it."""
        trace, statistics = self.judge.trace, self.judge.statistics
        if criterion in ("bn_scale", "taylor"):
            importance = self.importance(criterion)
            criterion = lambda _: importance  # noqa: E731
        return make_plan(
            trace, criterion, speedup=speedup, step=step, score=score, weights=weights, statistics=statistics, seed=self.seed
        )  # fmt: skip

    def _score(self, criterion):
        """float32 [num_units], while all units are there."""
        trace = self.judge.trace
        return scorer(trace, criterion, statistics=self.judge.statistics, seed=self.seed)(np.ones(trace.channels.num_units, bool))

    def _plan(self, way, speedup, step):
        """The plan, and the weights to rebuild with; (None, None) if the speed-up is out of reach."""
        try:
            if way in CRITERIA:
                return self._ranked(way, speedup, step), None
            name, _, order = way.partition(WIDTHS)
            weights, score = self.generated(name)
            plan = self._ranked("group_l2", speedup, 1.0, score, weights)
        except NothingToPruneError:
            return None, None
        return (same_widths(self.judge.trace, plan, self._score(ORDERS[order])), None) if order else (plan, weights)

    def accuracies(self, model) -> dict:
        """Returns the accuracy on both splits."""
        return {"validation": accuracy(model, self.judge.x, self.judge.y), "test": accuracy(model, *self.test)}

    def measure(self, way, repair, speedup, budgets) -> list[dict]:
        """Returns the accuracies for each budget, and the error of the outputs before fine-tuning.

        Criteria rank in one shot before least squares alone, as in `prune`.
        """
        step = 1.0 if way not in CRITERIA or repair == "least_squares" else SMALL_STEP
        plan, weights = self.plan(way, speedup, step)
        if plan is None:
            return [{"validation": 0.0, "test": 0.0, "error": None} for _ in budgets]
        repair = None if repair == "none" else repair
        small, *models = repaired_models(self.judge, plan, weights, repair=repair, budgets=(0, *budgets), seed=self.seed)
        (error,) = output_errors(self.judge.trace, [small], self.judge.train)
        return [{**self.accuracies(model), "error": error} for model in models]
