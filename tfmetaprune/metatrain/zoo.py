"""Data models: the trained networks that a metanetwork learns from and is judged on.

`make_zoo` makes those of `digits` and `digits_sparse`, of one architecture; `data_models.py` makes those of many families and data sets,
and faster.
"""

import json
import pathlib
import time

import numpy as np

from tfmetaprune._keras import keras
from tfmetaprune.metatrain.small_networks import WIDTHS, residual_cnn


def train_data_model(model, train, *, epochs=60, learning_rate=3e-3, validation=None, verbose=0, callbacks=()):
    """Trains a classifier that puts out logits with Adam and a cosine schedule; the model stays compiled.

    Args:
      model: the tf_keras model; trained in place.
      train: batched dataset of (images, integer labels), augmented by the caller.
      epochs: passes over `train`.
      learning_rate: of the first step; it ends at zero.
      validation: dataset to report on after each epoch, or None.
      verbose: as for `fit`.
      callbacks: as for `fit`.

    Returns:
      The Keras History.
    """
    steps = epochs * int(train.cardinality())
    model.compile(
        keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(learning_rate, steps)),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model.fit(train, epochs=epochs, validation_data=validation, verbose=verbose, callbacks=list(callbacks))


def make_zoo(folder, splits, seeds, *, epochs=60, widths=WIDTHS, progress=None) -> list:
    """Trains (or loads, where an earlier run has left them) one residual CNN a seed.

    Args:
      folder: where the models are kept, as `seed_N.keras`.
      splits: the `DataSplits` to train on; the validation and test splits are not read.
      seeds: one model each.
      epochs: passes over the augmented training split.
      widths: channels of each stage.
      progress: called with each seed when its model is ready.

    Returns:
      The trained tf_keras models.
    """
    from tfmetaprune.data import augment

    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    models = []
    for seed in seeds:
        path = folder / f"seed_{seed}.keras"
        if path.exists():
            model = keras.models.load_model(path)
        else:
            started = time.perf_counter()
            model = residual_cnn(splits.input_shape, splits.num_classes, widths=widths, seed=seed)
            train_data_model(model, augment(splits.train, seed=seed), epochs=epochs)
            partial = path.with_suffix(".partial.keras")
            model.save(partial)
            partial.replace(path)
            append_line(folder / "log.jsonl", {"seed": seed, "seconds": round(time.perf_counter() - started, 1)})
        models.append(model)
        if progress is not None:
            progress(seed)
    return models


def append_line(path, entry: dict):
    """Appends a JSON line to a log."""
    with open(path, "a", encoding="utf-8") as log:
        log.write(json.dumps(entry) + "\n")


def logged_seconds(path) -> float:
    """Sums the seconds of a log, over all the runs that wrote it; 0 if there is none."""
    path = pathlib.Path(path)
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else ()
    return sum(json.loads(line)["seconds"] for line in lines)


def dataset_arrays(dataset) -> tuple[np.ndarray, np.ndarray]:
    """Gathers a batched dataset of (x, y) into two arrays."""
    xs, ys = zip(*[(x.numpy(), y.numpy()) for x, y in dataset])
    return np.concatenate(xs), np.concatenate(ys)


def accuracy(model, x, y, *, batch_size=512) -> float:
    """Share of the samples whose largest logit is the label's; `x` [n, ...], `y` int [n]."""
    starts = range(0, len(x), batch_size)  # called eagerly: tracing would take longer than these small networks run
    logits = np.concatenate([model(x[start : start + batch_size], training=False) for start in starts])
    return float(np.mean(np.argmax(logits, -1) == y))
