"""Trains a metanetwork on a zoo of data models; checkpoints, and resumes to the same result."""

import dataclasses
import json
import pathlib
import time

import numpy as np

from tfmetaprune._keras import keras, tf
from tfmetaprune.errors import MetaNetworkError
from tfmetaprune.graph import channel_statistics, encode_graph
from tfmetaprune.graph.schema import CHANNEL, FROZEN, PARAMETERS, PRESENT, STATISTICS, WEIGHT
from tfmetaprune.metanet import MetaNetwork
from tfmetaprune.metatrain.objective import PruneAwareObjective
from tfmetaprune.metatrain.zoo import dataset_arrays
from tfmetaprune.trace import trace_model


@dataclasses.dataclass(frozen=True)
class MetaTraining:
    """How a metanetwork is trained (SCIENCE: objective AC).

    Attributes:
      steps: number of meta-steps. learning_rate: of AdamW at its peak. warmup: steps that lead up to it.
      weight_decay: of AdamW. batch_size: images a step. speedups: range of the log-uniform sample.
      seed: of every random choice. checkpoint_every: steps between two checkpoints.
    """

    steps: int = 3000
    learning_rate: float = 3e-3
    warmup: int = 20
    weight_decay: float = 1e-3
    batch_size: int = 256
    speedups: tuple[float, float] = (1.5, 8.0)
    seed: int = 0
    checkpoint_every: int = 100


def graph_arrays(trace, dataset, *, seed=0) -> dict:
    """Encodes a traced data model, with its channel statistics on `dataset`, as a dict of raw tensors."""
    graph = encode_graph(trace, channel_statistics(trace, dataset, seed=seed))
    nodes = graph.node_sets[CHANNEL]
    weights = {name: edges[WEIGHT] for name, edges in graph.edge_sets.items() if WEIGHT in edges.features}
    return {
        "parameters": nodes[PARAMETERS], "present": nodes[PRESENT], "statistics": nodes[STATISTICS],
        "frozen": nodes[FROZEN], "weights": weights,
    }  # fmt: skip


def _shifted(images, rng, noise=0.05):
    """Shifts every image by -1, 0 or 1 pixel in each direction (zero filled) and adds noise; float32."""
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
    rows, columns = rng.integers(0, 3, (2, len(images)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, images.shape[1:3], (1, 2))
    moved = np.moveaxis(windows[np.arange(len(images)), rows, columns], 1, -1)
    return (moved + rng.normal(0, noise, moved.shape)).astype(np.float32)


class MetaTrainer:
    """Runs `MetaTraining` over data models that share one architecture a group.

    Args:
      metanet: the `MetaNetwork`; trained in place.
      models: trained data models, logits out, one input.
      dataset: batched dataset of (images, labels) that the data models were trained on.
      settings: `MetaTraining`.
      folder: where the checkpoints and `log.jsonl` go.
    """

    def __init__(self, metanet: MetaNetwork, models, dataset, settings: MetaTraining, folder):
        self.metanet, self.settings = metanet, settings
        self.folder = pathlib.Path(folder)
        self.images, self.labels = dataset_arrays(dataset)
        objectives, self.data_models = {}, []
        for model in models:
            trace = trace_model(model)
            signature = json.dumps(
                [(type(c.layer).__name__, c.inputs, c.outputs, c.output_shapes) for c in trace.calls]
            )
            if signature not in objectives:
                objective = PruneAwareObjective(trace)
                objectives[signature] = (objective, self._compile(objective))
            self.data_models.append((*objectives[signature], graph_arrays(trace, dataset)))
        steps, warmup = settings.steps, settings.warmup
        schedule = keras.optimizers.schedules.CosineDecay(
            0.0, max(1, steps - warmup), warmup_target=settings.learning_rate, warmup_steps=warmup
        )
        self.optimizer = keras.optimizers.AdamW(
            schedule, weight_decay=settings.weight_decay, beta_2=0.99, global_clipnorm=1.0
        )
        self.optimizer.build(metanet.trainable_variables)
        self.step = tf.Variable(0, dtype=tf.int64)
        checkpoint = tf.train.Checkpoint(metanet=metanet, optimizer=self.optimizer, step=self.step)
        self.checkpoints = tf.train.CheckpointManager(checkpoint, self.folder / "checkpoints", max_to_keep=2)

    def _compile(self, objective):
        @tf.function(reduce_retracing=True)
        def meta_step(graph, x, y, speedup, noise):
            with tf.GradientTape() as tape:
                loss = objective.loss(self.metanet, graph, x, y, speedup, noise)
            variables = self.metanet.trainable_variables
            gradients = tape.gradient(loss, variables)
            self.optimizer.apply_gradients(
                [(tf.zeros_like(v) if g is None else g, v) for g, v in zip(gradients, variables)]
            )
            return loss

        return meta_step

    def train(self, *, resume=False, progress=None):
        """Trains up to `settings.steps`, from the last checkpoint if `resume`.

        Every random choice of a step is drawn from (seed, step), so that an interrupted run ends as an unbroken one.

        Args:
          resume: go on from the folder's last checkpoint, if there is one.
          progress: called as `progress(step, loss)` after every step.

        Raises:
          MetaNetworkError: the loss is no longer finite.
        """
        if resume and self.checkpoints.latest_checkpoint:
            self.checkpoints.restore_or_initialize()
        settings = self.settings
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.folder / "log.jsonl", "a", encoding="utf-8") as log:
            for step in range(int(self.step), settings.steps):
                started = time.perf_counter()
                rng = np.random.default_rng([settings.seed, step])
                objective, meta_step, graph = self.data_models[rng.integers(len(self.data_models))]
                chosen = rng.choice(len(self.images), settings.batch_size, replace=len(self.images) < settings.batch_size)
                speedup = np.float32(np.exp(rng.uniform(*np.log(settings.speedups))))
                noise = rng.normal(size=objective.num_units).astype(np.float32)
                x = tf.constant(_shifted(self.images[chosen], rng))
                loss = float(meta_step(graph, x, tf.constant(self.labels[chosen]), tf.constant(speedup), noise))
                if not np.isfinite(loss):
                    raise MetaNetworkError(
                        f"Meta-training, step {step}: expected a finite loss, got {loss}. Lower the learning rate."
                    )
                self.step.assign(step + 1)
                seconds = round(time.perf_counter() - started, 3)
                log.write(json.dumps({"step": step, "loss": loss, "speedup": float(speedup), "seconds": seconds}) + "\n")
                if (step + 1) % settings.checkpoint_every == 0 or step + 1 == settings.steps:
                    log.flush()
                    self.checkpoints.save(checkpoint_number=step + 1)
                if progress is not None:
                    progress(step + 1, loss)
