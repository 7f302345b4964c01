"""Keeps the best metanetwork of a meta-training, by an objective on validation models."""

import pathlib

import numpy as np

from tfmetaprune._keras import tf
from tfmetaprune.errors import MetaNetworkError
from tfmetaprune.metatrain.distribution import gather, is_chief


class BestKeeper:
    """Judges a metanetwork from time to time, and writes it down where it is better than ever.

    Its `state` goes into the checkpoints of the training, so that a training that goes on judges as one that was never broken off.

    Args:
      metanet: the `MetaNetwork` that is trained.
      validate: a callable(metanet) -> float, higher is better, always the same for the same weights; called by the chief alone.
      folder: where the best one is kept; all workers have to see it.
      strategy: the strategy of the training.
    """

    def __init__(self, metanet, validate, folder, strategy):
        self._metanet, self._validate, self._strategy = metanet, validate, strategy
        self._path = str(pathlib.Path(folder) / "metanet")
        self._best = tf.Variable(-np.inf, dtype=tf.float64)
        self._step = tf.Variable(0, dtype=tf.int64)
        self._stale = tf.Variable(0, dtype=tf.int64)
        self.state = tf.train.Checkpoint(best=self._best, step=self._step, stale=self._stale)

    @property
    def value(self) -> float:
        """The best objective so far."""
        return float(self._best.numpy())

    @property
    def step(self) -> int:
        """The number of steps after which it was reached."""
        return int(self._step.numpy())

    def is_over(self, patience: int) -> bool:
        """Whether the last `patience` judgements brought nothing better; never for 0."""
        return bool(patience) and int(self._stale.numpy()) >= patience

    def update(self, step: int) -> float:
        """Judges the metanetwork after a number of steps, on every worker at the same time; returns the objective.

        Raises:
          MetaNetworkError: the objective is not finite.
        """
        value = float(self._validate(self._metanet)) if is_chief(self._strategy) else 0.0
        is_better = is_chief(self._strategy) and value > self.value
        if is_better:
            tf.train.Checkpoint(metanet=self._metanet).write(self._path)
        is_better = any(gather(self._strategy, int(is_better)))
        if not np.isfinite(value):
            raise MetaNetworkError(
                f"Meta-training, step {step}: expected a finite objective, got {value}. Check the validation models."
            )
        self._stale.assign(0 if is_better else int(self._stale.numpy()) + 1)
        if is_better:
            self._best.assign(value)
            self._step.assign(step)
        return value

    def restore(self):
        """Gives the metanetwork its best weights; on every worker at the same time, after the chief has written them."""
        gather(self._strategy, 0)
        tf.train.Checkpoint(metanet=self._metanet).read(self._path).assert_existing_objects_matched()
