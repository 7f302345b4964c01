"""Trains a metanetwork on a zoo of data models, on one or several replicas; checkpoints, and resumes to the same result."""

import contextlib
import dataclasses
import functools
import json
import pathlib
import time
import zlib
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

from tfmetaprune._keras import keras, tf
from tfmetaprune.errors import ArgumentError, MetaNetworkError
from tfmetaprune.metanet import MetaNetwork
from tfmetaprune.metatrain.distribution import check_distribution, gather, is_chief, joint_update
from tfmetaprune.metatrain.gradient import MetaGradient
from tfmetaprune.metatrain.keeping import BestKeeper
from tfmetaprune.metatrain.prepared import OBJECTIVES, DataModel, perturbed, prepare_data_models, purpose_of
from tfmetaprune.pruning.search import COMPARED, FITTED
from tfmetaprune.report.board import ScalarBoard

_MAY_CHANGE = ("steps", "checkpoint_every", "validate_every", "patience")  # of the settings, when a training goes on
IDENTITY_FILE = "training.json"  # beside the checkpoints: which training they are of
# of the published objectives, for the mean loss of a batch: the published weights go with the sum over about 100 batches
REGULARIZATION = {"published": 10 / 100, "published_sparse": 0.1 / 100}


@dataclasses.dataclass(frozen=True)
class MetaTraining:
    """How a metanetwork is trained, validated at construction.

    Attributes:
      steps: number of meta-steps.
      learning_rate: of AdamW at its peak.
      warmup: steps that lead up to it.
      weight_decay: of AdamW.
      batch_size: images a batch; None for 256, with objective "repaired" 448: as many as a step of the search takes.
      batches_per_step: batches that the loss of one data model is the mean of.
      models_per_step: data models, each with batches, a speed-up and noise of its own, that the loss of a step is the mean
        of; a multiple of the number of replicas.
      objective: what to train for, a name of `OBJECTIVES`.
      distillation: weight of the term that pulls the outputs to those of the unpruned network; 0 leaves it out.
      speedups: range of the log-uniform sample of MACs ratios, for channels.
      sparsities: range of the sample for zeros, see `UnstructuredObjective`.
      regularization: weight of the norm of the published objectives, for the mean loss of a batch; None for the published one, which is
        0.1 for channels, 1e-3 for zeros.
      alpha: the largest factor of that norm, for channels.
      perturbation: standard deviation of the factors around 1 that every weight and statistic of a data model is multiplied by, anew
        in each step, so that few networks serve as many.
      milestones: steps after each of which the learning rate falls to a tenth; none for a cosine to zero after the warm-up.
      seed: of every random choice.
      checkpoint_every: steps between two checkpoints.
      validate_every: steps between two validations, for a trainer that has something to validate by.
      patience: after how many validations in a row without a better one training ends; 0 for never.

    Raises:
      ArgumentError: a count is no positive integer, the distillation, perturbation or regularization is negative, the objective is
        unknown or has no regularization.
    """

    steps: int = 3000
    learning_rate: float = 3e-3
    warmup: int = 20
    weight_decay: float = 1e-3
    batch_size: int | None = None
    batches_per_step: int = 1
    models_per_step: int = 1
    objective: str = "structured"
    distillation: float = 1.0
    speedups: tuple[float, float] = (1.5, 8.0)
    sparsities: tuple[float, float] = (0.5, 0.97)
    regularization: float | None = None
    alpha: float = 16.0
    perturbation: float = 0.0
    milestones: tuple[int, ...] = ()
    seed: int = 0
    checkpoint_every: int = 100
    validate_every: int = 200
    patience: int = 5

    def __post_init__(self):
        if self.batch_size is None:
            object.__setattr__(self, "batch_size", FITTED + COMPARED if self.objective == "repaired" else 256)
        counts = ("steps", "batch_size", "batches_per_step", "models_per_step", "checkpoint_every", "validate_every", "patience")
        for name in counts:
            value, least = getattr(self, name), 0 if name == "patience" else 1
            if not isinstance(value, int) or value < least:
                raise ArgumentError(
                    f"MetaTraining: expected {name} to be an integer >= {least}, got {value!r}. Use {least} or more."
                )
        if self.objective not in OBJECTIVES:
            raise ArgumentError(
                f"MetaTraining: expected objective to be one of {', '.join(OBJECTIVES)}, got {self.objective!r}. "
                f"Use 'structured'."
            )
        for name in ("distillation", "perturbation"):
            if not getattr(self, name) >= 0:
                raise ArgumentError(f"MetaTraining: expected {name} >= 0, got {getattr(self, name)!r}. Use 0 to leave it out.")
        if self.regularization is None:
            object.__setattr__(self, "regularization", REGULARIZATION.get(self.objective))
        elif self.objective not in REGULARIZATION or not self.regularization >= 0:
            raise ArgumentError(
                f"MetaTraining: expected regularization >= 0, with objective {' or '.join(REGULARIZATION)} alone, got "
                f"{self.regularization!r} with {self.objective!r}. Leave it out."
            )


class Item(NamedTuple):
    """What one data model contributes to a step: its graph, perhaps perturbed, its own weights, its objective's gradient and target,
    its noise [num_units], its batches."""

    graph: Mapping
    original: Mapping
    gradient: MetaGradient
    target: float
    noise: np.ndarray
    batches: Iterator


def _learning_rate(settings):
    """Returns the Keras schedule of a `MetaTraining`."""
    schedules, rate = keras.optimizers.schedules, settings.learning_rate
    if settings.milestones:
        rates = [rate * 0.1**power for power in range(len(settings.milestones) + 1)]
        return schedules.PiecewiseConstantDecay([step - 1 for step in settings.milestones], rates)
    decay_steps = max(1, settings.steps - settings.warmup)
    return schedules.CosineDecay(0.0, decay_steps, warmup_target=rate, warmup_steps=settings.warmup)


class MetaTrainer:
    """Runs `MetaTraining` over data models; those of the same architecture share what is compiled.

    Args:
      metanet: the `MetaNetwork`, made under the strategy's scope; trained in place.
      models: trained data models, logits out, one input; the same ones on every worker. Or what `prepare_data_models` made of them,
        which needs no dataset.
      dataset: batched dataset of (images or series, labels) that the data models were trained on; a list with one for each of them
        where they differ.
      settings: `MetaTraining`.
      folder: where the checkpoints and `log.jsonl` go; all workers have to see the same one to resume.
      strategy: the `tf.distribute.Strategy` to train under; None for the current one.
      validate: a callable(metanet) -> what is to be as high as possible; it is called before the first step, every
        `settings.validate_every` steps and after the last one, and the best metanetwork is what training ends with. None
        to end with the last.
      rankings: for the objective "searched" alone: the scores that a search has ended with, float [num_units] for each data model.
      identity: what else tells this training from others, by part, JSON-able: by what `validate` judges, say; a training that goes on
        has to have the same.

    Raises:
      ArgumentError: the metanetwork or `models_per_step` do not fit the strategy, or the datasets or `rankings` not the
        models or the objective.
    """

    def __init__(
        self, metanet: MetaNetwork, models, dataset, settings: MetaTraining, folder, strategy=None, validate=None, rankings=None,
        identity=None,
    ):  # fmt: skip
        self.metanet, self.settings, self._parts = metanet, settings, identity or {}
        self.strategy = strategy or tf.distribute.get_strategy()
        variables = metanet.trainable_variables
        check_distribution(self.strategy, variables, settings.models_per_step)
        self.folder = pathlib.Path(folder)
        models = list(models)
        ready = models and all(isinstance(model, DataModel) for model in models)
        if ready and (any(model.purpose != purpose_of(settings) for model in models) or dataset is not None or rankings is not None):
            raise ArgumentError(
                "MetaTrainer: expected data models that were made ready to stand alone, for the same objective and its settings, got "
                "others, or a dataset or rankings beside them. Call prepare_data_models with these settings."
            )
        self.data_models = models if ready else prepare_data_models(models, dataset, settings, rankings)
        with self.strategy.scope():
            self.optimizer = keras.optimizers.AdamW(
                _learning_rate(settings), weight_decay=settings.weight_decay, beta_2=0.99, global_clipnorm=1.0
            )
            self.optimizer.build(variables)
        self._update = joint_update(self.strategy, self.optimizer, variables)
        self.step = tf.Variable(0, dtype=tf.int64)
        self.best = None if validate is None else BestKeeper(metanet, validate, self.folder / "best", self.strategy)
        kept = {} if self.best is None else {"best": self.best.state}
        checkpoint = tf.train.Checkpoint(metanet=metanet, optimizer=self.optimizer, step=self.step, **kept)
        self.checkpoints = tf.train.CheckpointManager(checkpoint, self.folder / "checkpoints", max_to_keep=2)

    def _draw(self, step, item) -> Item:
        """Draws what an item of a step consists of, from (seed, step, item) alone; its batches are made when asked for."""
        settings = self.settings
        rng = np.random.default_rng([settings.seed, step, item])
        data_model = self.data_models[rng.integers(len(self.data_models))]
        (images, labels), size = data_model.examples, settings.batch_size
        num_images = len(images)
        chosen = [rng.choice(num_images, size, replace=num_images < size) for _ in range(settings.batches_per_step)]
        gradients = data_model.gradients
        gradient = gradients[rng.integers(len(gradients))] if len(gradients) > 1 else gradients[0]
        target = gradient.objective.draw_target(rng)
        noise = rng.normal(size=gradient.objective.num_units).astype(np.float32)
        batches = (gradient.objective.prepare(images[indices], labels[indices], rng) for indices in chosen)
        graph = data_model.graph
        if settings.perturbation:
            graph = perturbed(graph, settings.perturbation, np.random.default_rng([settings.seed, step, item, 1]))
        return Item(graph, data_model.original, gradient, float(target), noise, batches)

    def _replica_gradient(self, items):
        """Returns the mean loss of this replica's share of the items, and its gradients."""
        first, replicas = tf.distribute.get_replica_context().replica_id_in_sync_group, self.strategy.num_replicas_in_sync
        results = [
            item.gradient(
                self.metanet, item.graph, tf.nest.map_structure(tf.convert_to_tensor, item.original), item.batches, item.target, item.noise
            )
            for item in items[first::replicas]
        ]  # fmt: skip
        return tf.nest.map_structure(lambda *values: tf.add_n(values) / len(values), *results)

    def train(self, *, resume=False, progress=None):
        """Trains up to `settings.steps`, from the last checkpoint if `resume`; on every worker at the same time.

        With `validate` it may end earlier, and ends with the best metanetwork. The log and TensorBoard's file, in the folder
        `tensorboard`, hold the loss of every step, and the objective of every validation.

        Every random choice of a step is drawn from (seed, step), so that an interrupted run ends as an unbroken one.

        Args:
          resume: go on from the folder's last checkpoint, if there is one.
          progress: called as `progress(step, loss)` after every step.

        Raises:
          ArgumentError: the folder has checkpoints, and this is not to go on from them, or they are of another training or of
            more steps.
          MetaNetworkError: the loss is no longer finite, or the workers resume from different steps.
        """
        if self.checkpoints.latest_checkpoint:
            self._check_same(resume)
            self.checkpoints.restore_or_initialize()
        settings, chief = self.settings, is_chief(self.strategy)
        if int(self.step) > settings.steps:
            raise ArgumentError(
                f"Meta-training in {self.folder}: expected at least the {int(self.step)} steps that are done, got {settings.steps}. "
                f"Ask for as many, or start in another folder."
            )
        starts = gather(self.strategy, int(self.step))
        if len(set(starts)) > 1:
            raise MetaNetworkError(
                f"Meta-training in {self.folder}: expected all replicas to resume from one step, got {starts}. "
                f"Give every worker the folder that the chief writes its checkpoints to."
            )
        with contextlib.ExitStack() as stack:
            if chief:
                self.folder.mkdir(parents=True, exist_ok=True)
                (self.folder / IDENTITY_FILE).write_text(json.dumps(self._identity(), indent=2) + "\n", encoding="utf-8")
                log = stack.enter_context(open(self.folder / "log.jsonl", "a" if int(self.step) else "w", encoding="utf-8"))
                board = stack.enter_context(contextlib.closing(ScalarBoard(self.folder / "tensorboard")))
                write = functools.partial(self._write, log, board)
            else:
                write = _nothing
            if self.best is not None and not int(self.step):
                self._validate(write)
            while int(self.step) < settings.steps and not self._is_over():
                self._one_step(write, progress)
        if self.best is not None:
            self.best.restore()

    def _identity(self) -> dict:
        """Tells this training from others: what decides the result of a step. JSON-able."""
        settings = {name: value for name, value in dataclasses.asdict(self.settings).items() if name not in _MAY_CHANGE}
        crc = 0
        for data_model in self.data_models:
            for value in tf.nest.flatten([data_model.graph["parameters"], data_model.graph["weights"]]):
                crc = zlib.crc32(np.ascontiguousarray(value), crc)
        models = {"number": len(self.data_models), "weights": crc}
        parts = {"settings": settings, "metanetwork": self.metanet.config.to_dict(), "data_models": models, **self._parts}
        return json.loads(json.dumps(parts))

    def _check_same(self, resume):
        """Raises ArgumentError unless the checkpoints in the folder are those of this training, and it is to go on from them."""
        if not resume:
            raise ArgumentError(
                f"Meta-training in {self.folder}: expected a folder without checkpoints, got some. Go on from them with resume=True "
                f"(--resume), or take another folder."
            )
        path = self.folder / IDENTITY_FILE
        found, wanted = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}, self._identity()
        differing = [
            f"{part} {name}" for part in found for name in wanted.get(part, ()) if found[part].get(name) != wanted[part][name]
        ]  # fmt: skip
        if differing:
            raise ArgumentError(
                f"Meta-training in {self.folder}: expected the checkpoints of the same training, got one that differs in "
                f"{', '.join(differing)}. Start it in another folder."
            )

    def _is_over(self):
        return self.best is not None and self.best.is_over(self.settings.patience)

    def _one_step(self, write, progress):
        settings, started, step = self.settings, time.perf_counter(), int(self.step)
        items = [self._draw(step, item) for item in range(settings.models_per_step)]
        loss = float(self._update(*self.strategy.run(self._replica_gradient, args=(items,))))
        if not np.isfinite(loss):
            raise MetaNetworkError(
                f"Meta-training, step {step}: expected a finite loss, got {loss}. Lower the learning rate."
            )
        self.step.assign(step + 1)
        seconds, targets = round(time.perf_counter() - started, 3), [item.target for item in items]
        write({"step": step, "loss": loss, "targets": targets, "seconds": seconds})
        is_last = step + 1 == settings.steps
        validates = self.best is not None and ((step + 1) % settings.validate_every == 0 or is_last)
        if validates:
            self._validate(write)
        if (step + 1) % settings.checkpoint_every == 0 or is_last or validates:
            write(None)
            if is_chief(self.strategy):
                self.checkpoints.save(checkpoint_number=step + 1)
        if progress is not None:
            progress(step + 1, loss)

    def _validate(self, write):
        started = time.perf_counter()
        value = self.best.update(int(self.step))
        write({"step": int(self.step), "objective": value, "seconds": round(time.perf_counter() - started, 3)})

    @staticmethod
    def _write(log, board, entry):
        """Writes a line of the log and its scalars; what has been written reaches the disk with None."""
        if entry is None:
            log.flush()
            board.flush()
            return
        log.write(json.dumps(entry) + "\n")
        scalars = {f"meta/{name}": entry[name] for name in ("loss", "objective") if name in entry}
        board.write(entry["step"], scalars)


def _nothing(entry):
    """What workers other than the chief write."""
