"""What zeroing does at each step of `prune`; nothing at all where no zeros were asked for."""

import contextlib
import dataclasses

from tfmetaprune.pruning.sparse.keeping import holding_zeros, model_of_masks, sparsity_report
from tfmetaprune.pruning.sparse.method import ONE_SHOT, SparseMethod
from tfmetaprune.pruning.sparse.targets import SparsePlan, plan_zeros
from tfmetaprune.pruning.sparse.wrapping import SparseTraining, zero_out


class SparseSteps:
    """Zeroes the weights of one model and keeps them zero.

    Without a training of our own (or with the schedule "one_shot") the weights are zeroed before the fine-tuning, else
    during it; see `prune`.

    Args:
      method: what was asked for; None for no zeros.
      trains: whether `finetune_model` is going to train the model.

    Attributes:
      grows: whether the zeros come during the fine-tuning.
      plan: the `SparsePlan`, from `begin` on.
    """

    def __init__(self, method: SparseMethod | None, trains: bool):
        self.grows = method is not None and trains and method.schedule != ONE_SHOT
        self.method = method if method is None or self.grows else dataclasses.replace(method, schedule=ONE_SHOT)
        self.plan: SparsePlan | None = None
        self._masks = self._training = None

    def begin(self, model, score=None):
        """Plans the zeros of a tf_keras model and returns it; a new one with them, unless they grow.

        Args:
          model: the tf_keras model; it is not modified.
          score: as for `plan_zeros`.
        """
        if self.method is None:
            return model
        self.plan = plan_zeros(model, self.method, score)
        if not self.grows:
            model, self._masks = zero_out(model, self.plan)
        return model

    def training(self, model):
        """Returns what `finetune_model` takes as `prepare`, for the model that is going to be trained."""
        self._training = None if self.method is None else SparseTraining(model, self.plan, self._masks)
        return self._training

    def end_training(self):
        """Sets what is masked to zero in the model that was trained."""
        if self._training is not None:
            self._training.finish()

    def holding(self, result, model, back):
        """A context in which somebody else trains `result`, which is `back(model)`, and the zeros stay."""
        if self.method is None:
            return contextlib.nullcontext()
        return holding_zeros(result, back(model_of_masks(model, self.plan, self._masks)))

    def report(self, model, original) -> dict:
        """Returns {"sparsity": ...} for the report; {} without zeros."""
        return {} if self.method is None else {"sparsity": sparsity_report(model, self.plan, original)}
