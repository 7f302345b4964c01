"""When which channel falls silent: a plan, an order, and a clock of epochs and batches; written to a file and read again."""

import json
import os
import pathlib

import numpy as np

from tfmetaprune.errors import ArgumentError
from tfmetaprune.pruning.plan import PruningPlan
from tfmetaprune.trace import ModelTrace


class SilencingSteps:
    """Walks from all channels alive to what a plan leaves.

    The share of silent channels at time t, which runs from 0 to 1 between `start` and `end`, is 1 - (1 - t)^3: the polynomial
    schedule of Zhu and Gupta, "To prune, or not to prune" (2017), from 0.

    Args:
      plan: which channels remain in the end.
      order: int [num_dropped], the units that go, the first to fall silent first.
      scores: float [num_units], the higher the more important.
      start, end: in epochs; `end` may have a fraction.
      iterations: steps the optimizer had done when the plan was made.

    Attributes:
      keep: bool [num_units], which units are alive now.
      num_batches: batches of an epoch; None while unknown, then time passes between epochs only.

    Example:
      >>> plan = PruningPlan(np.array([True, False, False]), (), 1, 1)
      >>> steps = SilencingSteps(plan, np.array([2, 1]), np.zeros(3), start=1, end=3, iterations=0)
      >>> [steps.move_to(epoch, 0) and steps.keep.tolist() for epoch in (0, 1, 2, 3)]
      [False, False, [True, False, False], False]
    """

    def __init__(self, plan, order, scores, start, end, iterations):
        self.plan, self.order, self.scores = plan, np.asarray(order, np.int64), np.asarray(scores, np.float32)
        self.start, self.end, self.iterations = start, end, iterations
        self.num_batches = None
        self._seen = 0
        self.keep = np.ones_like(plan.keep)

    @property
    def num_dropped(self) -> int:
        """Number of units that go."""
        return len(self.order)

    def move_to(self, epoch: int, num_done: int) -> bool:
        """Sets `keep` to what is alive at a time.

        Args:
          epoch: counted from 0.
          num_done: batches of it that are done.

        Returns:
          Whether `keep` has changed.
        """
        now = epoch + (min(num_done / self.num_batches, 1.0) if self.num_batches else 0.0)
        t = min(max((now - self.start) / (self.end - self.start), 0.0), 1.0) if self.end > self.start else 1.0
        return self._set(round((1 - (1 - t) ** 3) * self.num_dropped))

    def finish(self) -> bool:
        """Sets `keep` to what the plan leaves. Returns whether it has changed."""
        return self._set(self.num_dropped)

    def saw(self, batch: int):
        """Counts a batch, by its index in the epoch."""
        self._seen = max(self._seen, batch + 1)

    def end_epoch(self):
        """Learns how long an epoch is, where nobody knew."""
        self.num_batches = self.num_batches or self._seen or None

    def _set(self, count):
        before = self.keep
        self.keep = np.ones_like(before)
        self.keep[self.order[:count]] = False
        return not np.array_equal(before, self.keep)

    def save(self, path, options: dict):
        """Writes everything but the present time to a JSON file, whole or not at all; with the options that it was made with, JSON-able."""
        text = json.dumps({
            "plan": json.loads(self.plan.to_json()), "order": self.order.tolist(), "scores": self.scores.tolist(),
            "start": self.start, "end": self.end, "iterations": self.iterations,
            "options": options,
        })  # fmt: skip
        path = pathlib.Path(path)
        partial = path.with_name(path.name + ".partial")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            partial.write_text(text, encoding="utf-8")
            os.replace(partial, path)
        except OSError as error:
            raise ArgumentError(
                f"state_path '{path}': expected a file that can be written, got {error}. Choose another place."
            ) from error

    @staticmethod
    def load(path, trace: ModelTrace, iterations: int, options: dict) -> "SilencingSteps | None":
        """Reads what `save` wrote, if the present run goes on from there.

        Args:
          path: the file.
          trace: the traced model.
          iterations: steps the optimizer has done.
          options: of the present run, as for `save`.

        Returns:
          None if there is no file, or the model has not been trained since it was written: then the run that wrote it was
          interrupted before a backup, or this is another one.

        Raises:
          ArgumentError: the file holds something else, or a plan for another model or of other options.
        """
        path = pathlib.Path(path)
        if not path.exists():
            return None
        try:
            state = json.loads(path.read_text(encoding="utf-8"))
            plan = PruningPlan.from_json(json.dumps(state["plan"]), trace)
            steps = SilencingSteps(plan, state["order"], state["scores"], state["start"], state["end"], int(state["iterations"]))
            if sorted(state["order"]) != np.flatnonzero(~plan.keep).tolist() or len(steps.scores) != len(plan.keep):
                raise ValueError("another number of channels")
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise ArgumentError(
                f"state_path '{path}': expected what a MetaPruning of this model wrote, got {error}. Delete the file."
            ) from error
        if steps.iterations >= iterations:
            return None
        before, now = state.get("options", {}), json.loads(json.dumps(options))
        differing = [name for name in now if before.get(name) != now[name]]
        if differing:
            raise ArgumentError(
                f"state_path '{path}': expected the plan of a MetaPruning with the same options, got one that differs in "
                f"{', '.join(differing)}. Delete the file, or give the same options to go on."
            )
        return steps
