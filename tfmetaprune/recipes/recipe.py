"""What a recipe says: frozen dataclasses, each checked at construction."""

import dataclasses

from tfmetaprune.errors import ArgumentError

OPTIMIZERS = ("sgd", "adam", "adamw")
SCHEDULES = ("constant", "milestones", "cosine")
USES = ("weights", "scores")
RATIO_UNITS = ("weight", "rms")


def _check(key, good, expected, value):
    if not good:
        raise ArgumentError(f"{key}: expected {expected}, got {value!r}")


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """See `data.augment`: pixels, standard deviation of pixel values, left and right."""

    max_shift: int = 0
    noise: float = 0.0
    flip: bool = False


@dataclasses.dataclass(frozen=True)
class Data:
    """The data set and how it is prepared, see `data.load`.

    Attributes:
      name: as for `load`.
      image_size: (height, width) of the images, or None for their own.
      scaling: as for `load`.
      augmentation: of the training split; None for none.
    """

    name: str
    image_size: tuple[int, int] | None = None
    scaling: str = "default"
    augmentation: Augmentation | None = None


@dataclasses.dataclass(frozen=True)
class Network:
    """The network to prune, and that all data models are like.

    Attributes:
      architecture: a name of `architectures.ARCHITECTURES`.
      options: keyword arguments of its builder.
      weights: a trained network, the path of a .keras file of the same architecture; None to train one.
    """

    architecture: str
    options: dict = dataclasses.field(default_factory=dict)
    weights: str | None = None


@dataclasses.dataclass(frozen=True)
class Training:
    """One training or fine-tuning.

    Attributes:
      epochs: passes over the training split.
      learning_rate: of the first epoch after the warm-up.
      optimizer: one of `OPTIMIZERS`.
      momentum: of "sgd".
      weight_decay: of "sgd" it is added to the gradient (times the weight), as PyTorch does; of "adamw" it is decoupled.
      schedule: "constant", "milestones" (times `factor` after each of them) or "cosine" (to zero).
      milestones: epochs.
      factor: see `schedule`.
      warmup_epochs: during which the learning rate rises linearly; for "cosine".
      batch_size: examples a batch.
    """

    epochs: int
    learning_rate: float
    optimizer: str = "sgd"
    momentum: float = 0.9
    weight_decay: float = 0.0
    schedule: str = "constant"
    milestones: tuple[int, ...] = ()
    factor: float = 0.1
    warmup_epochs: int = 0
    batch_size: int = 128

    def __post_init__(self):
        for key in ("epochs", "batch_size"):
            _check(key, getattr(self, key) >= 1, "at least 1", getattr(self, key))
        _check("learning_rate", self.learning_rate > 0, "more than 0", self.learning_rate)
        _check("optimizer", self.optimizer in OPTIMIZERS, f"one of {', '.join(OPTIMIZERS)}", self.optimizer)
        _check("schedule", self.schedule in SCHEDULES, f"one of {', '.join(SCHEDULES)}", self.schedule)
        _check("weight_decay", self.weight_decay >= 0, "at least 0", self.weight_decay)
        _check("weight_decay", not (self.weight_decay and self.optimizer == "adam"), "0 for adam", self.weight_decay)
        _check("momentum", 0 <= self.momentum < 1, "a number in [0, 1)", self.momentum)
        rising = list(self.milestones) == sorted(set(self.milestones)) and all(0 < m < self.epochs for m in self.milestones)
        _check("milestones", rising, f"rising epochs between 0 and {self.epochs}", self.milestones)
        is_used = bool(self.milestones) == (self.schedule == "milestones")
        _check("milestones", is_used, "some with schedule milestones, and none with another", self.milestones)
        _check("warmup_epochs", 0 <= self.warmup_epochs < self.epochs, f"0 to {self.epochs - 1}", self.warmup_epochs)
        is_read = not self.warmup_epochs or self.schedule == "cosine"
        _check("warmup_epochs", is_read, "0 with another schedule than cosine", self.warmup_epochs)


@dataclasses.dataclass(frozen=True)
class DataModels:
    """The networks that the metanetwork learns from: trained, pruned a little, fine-tuned.

    Attributes:
      count: how many.
      training: of each.
      speedups: range of the MACs ratios that they are pruned to, spread evenly in the logarithm; None leaves them whole.
      finetuning: after that; None for none.
    """

    count: int
    training: Training
    speedups: tuple[float, float] | None = None
    finetuning: Training | None = None

    def __post_init__(self):
        _check("count", self.count >= 1, "at least 1", self.count)
        ordered = self.speedups is None or 1 <= self.speedups[0] <= self.speedups[1]
        _check("speedups", ordered, "two rising numbers of at least 1", self.speedups)


@dataclasses.dataclass(frozen=True)
class Metanetwork:
    """The metanetwork, see `MetaNetConfig`.

    Attributes:
      hidden: width d.
      num_layers: L.
      ratio: step size of the changed weights.
      ratio_unit: "rms": times the root mean square of each kernel, as `MetaNetConfig` has it; "weight": in units of the weights, as
        published; it is then divided by the median root mean square of the data models' kernels.
      message_passing: "published" or "sum_rms".
    """

    hidden: int = 16
    num_layers: int = 3
    ratio: float = 0.2
    ratio_unit: str = "rms"
    message_passing: str = "sum_rms"

    def __post_init__(self):
        _check("ratio", self.ratio > 0, "more than 0", self.ratio)
        _check("ratio_unit", self.ratio_unit in RATIO_UNITS, f"one of {', '.join(RATIO_UNITS)}", self.ratio_unit)


@dataclasses.dataclass(frozen=True)
class MetaTrainingOptions:
    """How the metanetwork is trained; see `MetaTraining`, whose names these are.

    The published regularisation of 10 goes with a cross-entropy that is summed over the B batches of a step (B about 100):
    sum_b CE_b + 10 * norm = B * (mean_b CE_b + 10 / B * norm). `MetaTraining` has the mean, and AdamW steps do not depend
    on a factor B of the loss; so `regularization` is 10 / B = 0.1, however many batches the mean is estimated from.

    Attributes:
      objective, steps, learning_rate, warmup, weight_decay, batch_size, batches_per_step, regularization, alpha, milestones: of
        `MetaTraining`.
      examples: how many training examples are held in memory for it; None for all.
    """

    objective: str
    steps: int
    learning_rate: float = 3e-3
    warmup: int = 20
    weight_decay: float = 1e-3
    batch_size: int = 256
    batches_per_step: int = 1
    regularization: float | None = None
    alpha: float = 16.0
    milestones: tuple[int, ...] = ()
    examples: int | None = None

    def __post_init__(self):
        _check("examples", self.examples is None or self.examples >= 1, "at least 1", self.examples)


@dataclasses.dataclass(frozen=True)
class Pruning:
    """How the network is pruned, see `prune`.

    Attributes:
      speedup: MACs ratio to reach; None for methods that set zeros.
      method: as for `prune`; "structured" alone where the metanetwork's weights are used.
      sparsity: share of zeros, for methods that set them.
      criterion: as for `prune`, but "default".
      floor: share of every group's channels that stays, where the metanetwork's weights are used.
    """

    speedup: float | None = None
    method: str = "structured"
    sparsity: float | None = None
    criterion: str = "group_l2"
    floor: float = 0.1

    def __post_init__(self):
        _check("speedup", self.speedup is None or self.speedup >= 1, "at least 1", self.speedup)
        _check("sparsity", self.sparsity is None or 0 <= self.sparsity < 1, "a share in [0, 1)", self.sparsity)


@dataclasses.dataclass(frozen=True)
class Export:
    """The TFLite file, see `export_tflite`: `quantize` is None, "float16", "dynamic" or "int8"."""

    quantize: str | None = None


@dataclasses.dataclass(frozen=True)
class Recipe:
    """An experiment from the data to the TFLite file.

    Attributes:
      description: what it is, in one sentence.
      data, network, training: the network to prune and what it is trained on; `training` is not run where `network.weights` names one.
      data_models, metanetwork, metatraining: how the metanetwork is made.
      use: what of the metanetwork is used: "weights" (published: the network goes on with the weights it generates, is fine-tuned,
        "A", then pruned by the criterion), or "scores" (ours: they join the criterion, and the rest is repaired, as `prune` does it).
      finetuning_a: before pruning; None for none.
      pruning: the target.
      finetuning_b: after pruning.
      export: the file.
      seed: of everything random.
    """

    description: str
    data: Data
    network: Network
    training: Training
    data_models: DataModels
    metanetwork: Metanetwork
    metatraining: MetaTrainingOptions
    pruning: Pruning
    finetuning_b: Training
    finetuning_a: Training | None = None
    use: str = "weights"
    export: Export = Export()
    seed: int = 0

    def __post_init__(self):
        _check("use", self.use in USES, f"one of {', '.join(USES)}", self.use)
        is_structured = self.pruning.method == "structured"
        _check("pruning.method", is_structured or self.use == "scores", "structured with use: weights", self.pruning.method)
        drops_channels = self.pruning.method.startswith("structured")
        speedup, criterion = self.pruning.speedup, self.pruning.criterion
        _check("pruning.speedup", speedup is not None or not is_structured, "a number for structured", None)
        _check("pruning.speedup", speedup is None or drops_channels, "none for a method that keeps all channels", speedup)
        _check("pruning.criterion", criterion == "group_l2" or drops_channels, "none for a method that keeps all channels", criterion)
        is_used = self.data_models.speedups is not None or self.data_models.finetuning is None
        _check("data_models.finetuning", is_used, "none without data_models.speedups", self.data_models.finetuning)
        _check("finetuning_a", self.finetuning_a is None or self.use == "weights", "none with use: scores", self.finetuning_a)
