"""Pruning inside the caller's own training: `model.fit(..., callbacks=[MetaPruning(speedup=2.0)])`."""

import concurrent.futures
import os
import pathlib
import threading
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

import tfmetaprune
from tfmetaprune._keras import keras, tf
from tfmetaprune.callback_options import check_options, name_of
from tfmetaprune.choosing import rewrite
from tfmetaprune.data import check_data
from tfmetaprune.data.conversion import shuffled_dataset
from tfmetaprune.errors import ArgumentError
from tfmetaprune.finetuning import check_finite
from tfmetaprune.interop import carry, reset_slots, weight_partners
from tfmetaprune.metanet.pretrained import as_metanetwork
from tfmetaprune.pruning import PruningPlan, cost, make_plan, rebuild_model, reestimate_bn, replace_weights, scorer
from tfmetaprune.pruning.silencing import Silencer, approximate_layers, reading_weights
from tfmetaprune.pruning.silencing_steps import SilencingSteps
from tfmetaprune.report.board import Board, channel_picture
from tfmetaprune.trace import trace_model


class MetaPruning(keras.callbacks.Callback):
    """Prunes a model while `fit` trains it, in either Keras.

    When `start_epoch` begins, the metanetwork rewrites the weights in place (the optimizer's slots start anew) and the channels
    that have to go for the speed-up are chosen. They are silenced step by step, the least important first: the weights that
    read them are set to zero, and every optimizer of Keras keeps them there, in each step of training. Training goes on
    meanwhile. After `fit`, `callback.model` is the smaller model: it computes what the trained one does with its silent
    channels.

    Only a smaller model leaves a channel out of what is normalised over channels, or multiplied and summed (LayerNormalization,
    Attention): the report names the layers for which this is so under "approximate"; train the smaller model once more then.

    With EarlyStopping, set its `start_from_epoch` to `end_epoch`: if older weights are restored, channels are silenced
    again that they had not yet learnt to do without.

    Args:
      speedup: the MACs ratio to reach, at least 1.
      start_epoch: when the weights are rewritten, counted from 0 as `fit` does.
      end_epoch: when the last channel is silent, a number of epochs, which may have a fraction; by then the number of silent
        channels has grown as 1 - (1 - t)^3. None: a third of the way from `start_epoch` to the end of `fit`.
        If it equals `start_epoch`, all channels are silenced at once.
      data: batched `tf.data.Dataset` or arrays, x or (x, y), that the channel statistics and the repair read: a callback cannot
        see what `fit` trains on. None: there is no metanetwork and no repair.
      criterion: as for `prune`, but "default": nothing is tried.
      metanetwork: as for `prune`, but "default" is "universal"; without data none, with a warning.
      repair: "bn": the statistics of BatchNormalization are estimated again where weights change without training: behind the
        metanetwork, and at the end if channels were silenced after the last step. None: never.
      log_dir: folder of the event file for TensorBoard: MACs speed-up, share of silent channels of every group, accuracy
        against speed-up, a heat map of the channels. None: none is written.
      state_path: JSON file that keeps the plan until `fit` ends, so that a run that was interrupted goes on from it; for use
        with BackupAndRestore, outside of its folder. None: a run that begins behind `start_epoch` makes its plan then.
      seed: of what is random, 0 <= seed < 2**32.

    Attributes:
      model: the model that is being trained; after `fit` the smaller one, of the same Keras, made when it is first asked for.
      plan: the `PruningPlan`; None before it is made.
      report: what happened, a dict that `json.dumps` accepts; grows while `fit` runs.

    Raises:
      ArgumentError: an argument has a value that cannot be used; in `fit`: the callback was used before, or the file at
        `state_path` has a plan that other options made.
      UnsupportedModelError: in `fit`: the model cannot be traced or rebuilt.
      DataError: in `fit`: the data do not fit the model.
      NothingToPruneError: in `fit`, before the first step: no channel can go, or the speed-up is out of reach.

    Example:
      >>> layers = [keras.layers.Dense(32, "relu", input_shape=(8,)), keras.layers.Dense(3)]
      >>> model = keras.Sequential(layers)
      >>> model.compile("adam", "mse")
      >>> pruning = MetaPruning(speedup=2.0, metanetwork=None)
      >>> _ = model.fit(np.ones((64, 8)), np.ones((64, 3)), epochs=3, callbacks=[pruning], verbose=0)
      >>> [layer.units for layer in pruning.model.layers]
      [16, 3]
    """

    _finished = _was_late = False

    def __init__(
        self, speedup: float = 2.0, *, start_epoch: int = 0, end_epoch: float | None = None, data: Any = None,
        criterion: str | Callable[..., Any] = "group_l2", metanetwork: str | os.PathLike[str] | Callable[..., Any] | None = "default",
        repair: str | None = "bn", log_dir: str | os.PathLike[str] | None = None,
        state_path: str | os.PathLike[str] | None = None, seed: int = 0,
    ) -> None:  # fmt: skip
        super().__init__()
        check_options(speedup, start_epoch, end_epoch, data, criterion, metanetwork, repair, seed)
        self._supports_tf_logs = True  # tf_keras need not wait for each step's numbers
        self._notes, self._history = [], []
        if isinstance(metanetwork, str) and metanetwork == "default" and data is None:
            self._note(
                "MetaPruning: expected data for the metanetwork, got none, so channels are chosen by the criterion alone. "
                "Pass data=..., or metanetwork=None to leave it out."
            )
            warnings.warn(self._notes[-1], stacklevel=2)
            metanetwork = None
        self._options = {
            "speedup": float(speedup), "start_epoch": int(start_epoch), "criterion": criterion,
            "end_epoch": None if end_epoch is None else float(end_epoch),
            "metanetwork": metanetwork, "repair": None if data is None else repair, "seed": int(seed),
        }  # fmt: skip
        self._data = None if data is None else shuffled_dataset(data, seed=int(seed))
        self._log_dir, self._state_path = log_dir, None if state_path is None else pathlib.Path(state_path)
        self._trained = self._small = self._plan = self._steps = self._silencer = self._board = self._thread = None

    @property
    def model(self) -> Any:
        """The trained model; after `fit` the smaller one."""
        if self._finished and self._small is None:
            self._small = self._build()
        return self._small if self._finished else self._trained

    @model.setter
    def model(self, model):
        if self._finished:
            raise ArgumentError("MetaPruning: expected to be used in one fit, got a second one. Make a new MetaPruning for it.")
        self._trained = model

    @property
    def plan(self) -> PruningPlan | None:
        """Which channels remain in the end; None before it is known."""
        return self._plan

    @property
    def report(self) -> dict:
        """What happened so far: costs before and after, widths, the state after each epoch, what had to stay, and notes."""
        options = {key: name_of(value) for key, value in self._options.items()}
        report = {"tfmetaprune": tfmetaprune.__version__, **options, "speedup": {"target": options["speedup"], "reached": None}}
        if self._plan is not None:
            keep, frozen = self._plan.keep, list(self._trace.channels.frozen.values())
            report["speedup"]["reached"] = self._plan.speedup
            for key, one in (("before", cost(self._trace)), ("pruned", cost(self._trace, keep))):
                report[key] = {"macs": one.macs, "parameters": one.parameters}
            report["widths"] = {
                group.name: {"before": group.size, "after": int(np.count_nonzero(keep[group.units]))}
                for group in self._plan.groups
            }
            report["frozen"] = {reason: frozen.count(reason) for reason in dict.fromkeys(frozen)}
            unknown = [channels.call.title for channels in self._trace.channels.calls if channels.spec is None]
            report["unknown_layers"] = list(dict.fromkeys(unknown))
            report["approximate"] = approximate_layers(self._trace, keep)
        return {**report, "epochs": list(self._history), "notes": list(self._notes)}

    def on_train_begin(self, logs=None):
        """Checks what can be checked before the first step, and makes the weights ready to be silenced."""
        if self._silencer is not None:  # of a fit that broke off
            raise ArgumentError("MetaPruning: expected to be used in one fit, got a second one. Make a new MetaPruning for it.")
        model = self._trained
        image, self._trace = _outside_of_scopes(lambda: _traced(model))
        make_plan(self._trace, speedup=self._options["speedup"], step=1.0)  # raises if the speed-up is out of reach
        if self._data is not None:
            check_data(self._data, image, needs_labels=False)
            check_finite(self._data)
        self._network = _outside_of_scopes(lambda: as_metanetwork(self._options["metanetwork"]))
        partners, weights = weight_partners(model, image), reading_weights(self._trace)
        variables = [partners[id(weight.variable)] for weight in weights]
        self._silencer = Silencer(weights, variables, model.distribute_strategy)
        self._silencer.install()
        self._recompile()
        if self._log_dir is not None:
            self._board = Board(self._log_dir)

    def on_epoch_begin(self, epoch, logs=None):
        """Rewrites the weights and makes the plan, when it is time; else goes on silencing."""
        if self._plan is None and epoch >= self._options["start_epoch"]:
            self._begin(epoch)
        self._epoch, self._thread = epoch, threading.get_ident()
        self._silence(epoch)

    def on_train_batch_begin(self, batch, logs=None):
        """Silences the channels that are next, if that was not done after the batch before."""
        if self._plan is not None:
            self._silence(self._epoch, batch)

    def on_train_batch_end(self, batch, logs=None):
        """Silences the channels that are next; not in a thread of its own, beside the next step, as Keras 3 may call this."""
        if self._plan is None:
            return
        self._steps.saw(batch)
        if threading.get_ident() == self._thread:
            self._silence(self._epoch, batch + 1)

    def on_epoch_end(self, epoch, logs=None):
        """Writes down how far it is."""
        if self._plan is None:
            return
        self._steps.end_epoch()
        keep = self._steps.keep
        metrics = {name: float(np.asarray(value)) for name, value in (logs or {}).items() if np.size(value) == 1}
        entry = {
            "epoch": epoch, "silent_channels": int(np.count_nonzero(~keep)),
            "speedup": self._plan.macs_before / max(cost(self._trace, keep).macs, 1), **metrics,
        }  # fmt: skip
        self._history.append(entry)
        if self._board is not None:
            groups = [group for group in self._plan.groups if group.prunable]
            shares = {group.name: float(np.mean(~keep[group.units])) for group in groups}
            picture = channel_picture([group.units for group in groups], keep, self._steps.scores)
            self._board.write_epoch(epoch + 1, entry["speedup"], shares, metrics, picture)

    def on_train_end(self, logs=None):
        """Finishes what is missing; from now on `model` is the smaller one."""
        if self._plan is None:
            self._note(f"fit ended before epoch {self._options['start_epoch']}: everything was done at its end.")
            self._begin(self._options["start_epoch"])
        missing = int(np.count_nonzero(self._steps.keep & ~self._plan.keep))
        if missing:
            self._note(f"fit was shorter than the schedule: {missing} of {self._steps.num_dropped} channels were silenced at its end.")
        self._finish_silencing(missing)
        self.cancel()
        if self._state_path is not None:
            self._state_path.unlink(missing_ok=True)
        self._finished = True

    def cancel(self) -> None:
        """Lets go of a model whose `fit` broke off: it can be trained on with no channel held silent. Its weights stay as they are."""
        if self._silencer is not None:
            self._silencer.remove()
            self._trained.train_function = None  # compiled with the constraints
        if self._board is not None:
            self._board.close()

    def _begin(self, epoch):
        """Rewrites the weights and makes the plan; or reads it, if this run goes on from another."""
        last = self.params.get("epochs") if self.params else None
        end = self._options["end_epoch"]
        start = self._options["start_epoch"] if end is not None else epoch
        end = start + (max(last or 0, start) - start) / 3 if end is None else end
        iterations = int(tf.convert_to_tensor(self._trained.optimizer.iterations))
        options = {key: name_of(value) for key, value in self._options.items()}
        done = None if self._state_path is None else SilencingSteps.load(self._state_path, self._trace, iterations, options)
        if done is None:
            plan, order, scores = _outside_of_scopes(self._rewrite)
            done = SilencingSteps(plan, order, scores, start, end, iterations)
        self._steps = done
        self._steps.num_batches = (self.params or {}).get("steps") or self._steps.num_batches
        self._plan = done.plan
        if self._state_path is not None:
            self._steps.save(self._state_path, options)

    def _rewrite(self):
        """Lets the metanetwork change the trained weights. Returns the plan, the units that go in order, and all scores."""
        options = self._options
        image, trace = _traced(self._trained)
        rewritten = rewrite(trace, self._network, self._data, criterion=options["criterion"], seed=options["seed"])
        given = {"weights": rewritten.weights, "statistics": rewritten.statistics, "seed": options["seed"]}
        plan = make_plan(trace, options["criterion"], speedup=options["speedup"], score=rewritten.score, **given)
        scores = scorer(trace, options["criterion"], **given)(np.ones_like(plan.keep))
        scores = scores if rewritten.score is None else scores + rewritten.score
        if rewritten.weights is not None:
            changed = replace_weights(image, rewritten.weights)
            self._take(trace, reestimate_bn(changed, self._data) if options["repair"] == "bn" else changed)
            if not reset_slots(self._trained):
                self._note("The optimizer cannot be made again from its config, so its slots stayed as they were.")
        dropped = np.flatnonzero(~plan.keep)
        return plan, dropped[np.argsort(scores[dropped], kind="stable")], scores

    def _take(self, trace, changed):
        """Gives the trained model the weights of a tf_keras model of the same structure; what its class holds beside that stays."""
        partners = weight_partners(self._trained, trace.model)
        for call, other in zip(trace.calls, trace_model(changed).calls, strict=True):
            for here, new in zip(call.layer.weights, other.layer.weights, strict=True):
                partners[id(here)].assign(tf.cast(tf.convert_to_tensor(new), here.dtype))

    def _silence(self, epoch, batch=0):
        if self._steps is not None and self._steps.move_to(epoch, batch):
            self._silencer.silence(self._steps.keep)

    def _finish_silencing(self, missing=0):
        """Silences all channels that go, also where somebody gave the model other weights."""
        self._steps.finish()
        if not self._silencer.silence(self._plan.keep, anew=True):
            return
        self._was_late = True
        if not missing:
            self._note("Silent channels had got weights again after the last step (older or averaged ones): silenced once more.")

    def _build(self):
        self._finish_silencing()
        image, back = carry(self._trained)
        small = rebuild_model(trace_model(image), self._plan)
        if self._was_late and self._options["repair"] == "bn":
            small = reestimate_bn(small, self._data)
        return back(small)

    def _recompile(self):
        model = self._trained
        model.train_function = None
        made = model.make_train_function(force=True)
        model.train_function = model.train_function if made is None else made

    def _note(self, text):
        if text not in self._notes:
            self._notes.append(text)


def _traced(model):
    """The tf_keras image of a model, and its trace; no variable of it is spread over devices."""
    image, _ = carry(model)
    if image is model and any(isinstance(weight, tf.distribute.DistributedValues) for weight in model.weights):
        image = replace_weights(model, {})
    return image, trace_model(image)


def _outside_of_scopes(function):
    """Calls a function without the strategy scope that `fit` may have opened, which holds for one thread."""
    if not tf.distribute.has_strategy():
        return function()
    with concurrent.futures.ThreadPoolExecutor(1) as executor:
        return executor.submit(function).result()
