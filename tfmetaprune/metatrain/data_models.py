"""Makes data models: families of architectures x data sets x seeds, several a minute; an interrupted run goes on.

What is traced for an architecture is used for all its seeds: the weights are put in, trained, and taken out again.
"""

import hashlib
import json
import math
import pathlib
import re
import time
import zipfile
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from tfmetaprune._keras import keras, tf
from tfmetaprune.errors import ArgumentError
from tfmetaprune.metatrain.families import DEFAULT_FAMILIES, FAMILIES, build_model, families_for
from tfmetaprune.metatrain.zoo import accuracy, append_line, dataset_arrays

BATCH_SIZE = 64
STEPS = 400  # 43 epochs of digits
VARIANTS = (0, 1, 2, 3)
ORDER_SEED = 87654321  # what TensorFlow takes where nobody has set one; the order of the examples depends on it
_WARMUP = 0.05  # share of the steps
_LEARNING_RATE = 3e-3
_NAME = re.compile(r"(?P<family>\w+)-(?P<variant>\d+)--(?P<data>.+)--(?P<seed>\d+)\.keras")


class DataModelFile(NamedTuple):
    """A data model of a zoo, as its file name tells.

    Attributes:
      family: a name of `FAMILIES`.
      variant: number of the architecture within the family, see `families.architecture`.
      data: what it was trained on, as for `tfmetaprune.data.load`.
      seed: of its weights and of everything random in its training.
    """

    family: str
    variant: int
    data: str
    seed: int

    @property
    def file_name(self) -> str:
        """The name of the file.

        Example:
          >>> DataModelFile("plain_cnn", 2, "mnist_5k/14", 7).file_name
          'plain_cnn-2--mnist_5k@14--7.keras'
        """
        return f"{self.family}-{self.variant}--{self.data.replace('/', '@')}--{self.seed}.keras"

    @staticmethod
    def from_file_name(name: str) -> "DataModelFile | None":
        """Reads the name of a file; None if it is not that of a data model.

        Example:
          >>> DataModelFile.from_file_name("plain_cnn-2--mnist_5k@14--7.keras")
          DataModelFile(family='plain_cnn', variant=2, data='mnist_5k/14', seed=7)
        """
        match = _NAME.fullmatch(name)
        if match is None:
            return None
        family, variant, data, seed = match.groups()
        return DataModelFile(family, int(variant), data.replace("@", "/"), int(seed))

    def digest(self, folder) -> str:
        """Returns a few letters that tell the weights apart from those of another file of this name."""
        with zipfile.ZipFile(pathlib.Path(folder) / self.file_name) as archive:
            return hashlib.sha256(archive.read("model.weights.h5")).hexdigest()[:8]

    def load(self, folder):
        """Loads the model from the folder of its zoo, named after its file as far as the names of a graph's scopes allow."""
        model = keras.models.load_model(pathlib.Path(folder) / self.file_name, compile=False)
        model._name = self.file_name.removesuffix(".keras").replace("@", ".")
        return model


def list_data_models(folder, *, families=None, data=None) -> list[DataModelFile]:
    """Lists the data models of a zoo, sorted.

    Args:
      folder: of the zoo.
      families: names to take; None for all.
      data: names of data sets to take; None for all.

    Raises:
      ArgumentError: the folder holds none, or none of a family or data set that is asked for.
    """
    files = [DataModelFile.from_file_name(path.name) for path in pathlib.Path(folder).glob("*.keras")]
    found = [file for file in files if file is not None]
    for what, names, present in (
        ("families", families, {file.family for file in found}), ("data sets", data, {file.data for file in found})
    ):  # fmt: skip
        missing = sorted(set(names or ()) - present)
        if found and missing:
            raise ArgumentError(
                f"Zoo {folder}: expected {what} among {', '.join(sorted(present))}, got {', '.join(missing)}. Make some by `tfmetaprune "
                f"zoo make`, or leave these out."
            )
    wanted = [f for f in found if (families is None or f.family in families) and (data is None or f.data in data)]
    if not wanted:
        what = f" of families {list(families)}" if families is not None else ""
        what += f" on {list(data)}" if data is not None else ""
        raise ArgumentError(
            f"Zoo {folder}: expected data models{what}, got none among {len(found)}. Make some by `tfmetaprune zoo make`."
        )
    return sorted(wanted)


def logged_models(folder) -> list[dict]:
    """Returns what the log of a zoo says about each data model that is there, sorted by family, data set and seed.

    Raises:
      ArgumentError: the folder holds no data models.
    """
    present, log = set(list_data_models(folder)), pathlib.Path(folder) / "log.jsonl"
    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()] if log.exists() else []
    rows = {DataModelFile(*(line[name] for name in DataModelFile._fields)): line for line in lines}
    return [rows[file] for file in sorted(rows, key=lambda file: (file.family, file.data, file.seed)) if file in present]


def make_data_models(
    folder, *, families: Sequence[str] | None = None, data: Sequence[str] = ("digits",), seeds=range(4),
    variants: Sequence[int] = VARIANTS, steps=STEPS, progress=None,
) -> list[DataModelFile]:  # fmt: skip
    """Trains what a zoo lacks: a data model for each family, data set and seed.

    The widths and depths of a seed are those of the variant that is its turn. Each model is noted in `log.jsonl` with its seconds and
    accuracies.

    Args:
      folder: of the zoo; models that are there stay.
      families: names of `FAMILIES`; those that are not for a data set's inputs are left out there. None for `DEFAULT_FAMILIES`.
      data: names of data sets, as for `tfmetaprune.data.load`.
      seeds: one model each.
      variants: numbers of architectures within a family, 0 for its defaults.
      steps: training steps of each, 64 examples a step.
      progress: called as `progress(file, done, total)` with each `DataModelFile`.

    Returns:
      The data models asked for.

    Raises:
      ArgumentError: a family is unknown, or none is for the inputs of a data set, or there is an "@" in the name of one.
      DataError: a data set cannot be loaded.
    """
    from tfmetaprune.data import load

    families = DEFAULT_FAMILIES if families is None else families
    unknown = [name for name in families if name not in FAMILIES]
    if unknown:
        raise ArgumentError(f"Data models: expected families among {', '.join(FAMILIES)}, got {unknown}. Choose from these.")
    confused = [name for name in data if "@" in name]
    if confused:
        raise ArgumentError(f"Data models: expected data without '@', which stands for '/' in names of files, got {confused}. Rename them.")
    if not variants or steps < 1:
        raise ArgumentError(f"Data models: expected variants and steps, got {list(variants)} and {steps}. Use 1 or more.")
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    todo = []
    for name in data:
        tf.random.set_seed(ORDER_SEED)
        splits = load(name)
        fitting = [f for f in families_for(splits.input_shape) if f in families]
        if not fitting:
            raise ArgumentError(
                f"Data models: expected a family for inputs of shape {splits.input_shape} ({name}), got {list(families)}. "
                f"Add one of {', '.join(families_for(splits.input_shape))}."
            )
        files = sorted(DataModelFile(f, variants[seed % len(variants)], name, seed) for f in fitting for seed in seeds)
        todo.append((splits, files))
    total, done = sum(len(files) for _, files in todo), 0
    for splits, files in todo:
        arrays = [dataset_arrays(split) for split in (splits.train, splits.validation, splits.test)]
        key, training = None, None
        for file in files:
            if not (folder / file.file_name).exists():
                if key != file[:2]:
                    model = build_model(file.family, splits.input_shape, splits.num_classes, variant=file.variant)
                    key, training = file[:2], Training(model, steps)
                _make(folder, file, training, splits, arrays)
            done += 1
            if progress is not None:
                progress(file, done, total)
    return [file for _, files in todo for file in files]


def _make(folder, file, training, splits, arrays):
    started = time.perf_counter()
    model = build_model(file.family, splits.input_shape, splits.num_classes, variant=file.variant, seed=file.seed)
    training.run(model, *arrays[0], file.seed)
    seconds = time.perf_counter() - started
    accuracies = {name: round(accuracy(model, x, y), 4) for name, (x, y) in zip(("train", "validation", "test"), arrays)}
    partial = folder / f"partial-{file.file_name}"
    model.save(partial)
    partial.replace(folder / file.file_name)
    entry = {**file._asdict(), "parameters": model.count_params(), "steps": training.steps, "seconds": round(seconds, 2)}
    append_line(folder / "log.jsonl", {**entry, **accuracies})


class Training:
    """Adam with a short warm-up and a cosine to zero, traced once for an architecture.

    Args:
      model: of the architecture, logits out; its weights are overwritten.
      steps: number of steps of 64 examples.
    """

    def __init__(self, model, steps):
        self.steps, self._model = steps, model
        self._optimizer = keras.optimizers.Adam(_LEARNING_RATE, jit_compile=False)
        self._optimizer.build(self._model.trainable_variables)
        self._start = [variable.numpy() for variable in self._optimizer.variables]
        self._step = tf.function(self._one_step, autograph=False)

    def _one_step(self, x, y):
        with tf.GradientTape() as tape:
            logits = self._model(x, training=True)
            loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(y, logits))
        variables = self._model.trainable_variables
        self._optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables))

    def run(self, model, x, y, seed):
        """Trains a model of this architecture in place on arrays of all examples; random choices follow the seed."""
        self._model.set_weights(model.get_weights())
        for variable, value in zip(self._optimizer.variables, self._start, strict=True):
            variable.assign(value)
        rng, size, indices = np.random.default_rng(seed), min(BATCH_SIZE, len(x)), np.zeros(0, int)
        warmup = max(1, round(_WARMUP * self.steps))
        for step in range(self.steps):
            while len(indices) < size:
                indices = np.concatenate([indices, rng.permutation(len(x))])
            chosen, indices = indices[:size], indices[size:]
            share = max(0, step - warmup) / max(1, self.steps - warmup)
            rate = _LEARNING_RATE * min(1, (step + 1) / warmup) * 0.5 * (1 + math.cos(math.pi * share))
            self._optimizer.learning_rate.assign(rate)
            self._step(tf.constant(augmented(x[chosen], rng)), tf.constant(y[chosen]))
        model.set_weights(self._model.get_weights())


def augmented(x, rng, noise=0.05):
    """Changes a batch a little; float32 of the same shape.

    Images are shifted by -1, 0 or 1 pixel in each direction (zero filled), series are scaled by factors around 1; both get noise.

    Args:
      x: float32 [batch, height, width, channels] or [batch, time, channels].
      rng: a `numpy.random.Generator`.
      noise: standard deviation of what is added; for series, as a share of theirs.
    """
    if x.ndim == 4:
        padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        rows, columns = rng.integers(0, 3, (2, len(x)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, x.shape[1:3], (1, 2))
        moved = np.moveaxis(windows[np.arange(len(x)), rows, columns], 1, -1)
        return (moved + rng.normal(0, noise, moved.shape)).astype(np.float32)
    scale = rng.normal(1, 0.1, (len(x), *(1,) * (x.ndim - 1)))
    return (scale * x + rng.normal(0, noise * max(float(np.std(x)), 1e-6), x.shape)).astype(np.float32)
