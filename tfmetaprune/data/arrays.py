"""Data sets out of arrays: .npz files, and what a table was read into."""

import zipfile
from collections.abc import Mapping

import numpy as np

from tfmetaprune._keras import tf
from tfmetaprune.data.splits import Examples, check_not_empty, cut_splits
from tfmetaprune.errors import DataError

SPLIT_NAMES = {
    "train": "train", "training": "train", "validation": "validation", "valid": "validation", "val": "validation",
    "test": "test", "testing": "test",
}  # fmt: skip

_IMAGE_MAXIMUM = {"uint8": 255, "uint16": 65535}


def npz_examples(path) -> Examples:
    """Reads an .npz file with the arrays x and y, or x_train, y_train, and the same for validation (val, valid) and test.

    x is [n, height, width, channels], or [n, height, width] of uint8 or uint16, for images; [n, length, channels] or
    [n, length], of other numbers, for series. y is whole numbers [n] or [n, 1], text [n], or one-hot [n, num_classes].

    Args:
      path: of the file.

    Returns:
      Its `Examples`, with the splits that it does not have cut from train.

    Raises:
      DataError: the file cannot be read, or its arrays are not like that.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {key.lower(): file[key] for key in file.files}
    except (OSError, ValueError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        raise DataError(
            f"load: expected '{path}' to be an .npz file of arrays, got {type(error).__name__}: {error}. Write it by np.savez."
        ) from error
    found = {}
    for key in arrays:
        kind, _, split = key.partition("_")
        if kind in ("x", "y") and split in ("", *SPLIT_NAMES):
            found.setdefault(SPLIT_NAMES.get(split, "train"), {})[kind] = arrays[key]
    if "train" not in found or any(set(pair) != {"x", "y"} for pair in found.values()):
        raise DataError(
            f"load: expected '{path}' to hold x and y, or x_train and y_train (and the same for validation and test), got "
            f"{sorted(arrays)}. Name the arrays like that."
        )
    return array_examples(str(path), {split: (pair["x"], pair["y"]) for split, pair in found.items()})


def array_examples(name, arrays: Mapping) -> Examples:
    """Makes examples of arrays.

    Args:
      name: what they are called in messages and in the result.
      arrays: dict from "train", and "validation" and "test" where there are such, to (x, y) as in `npz_examples`.

    Returns:
      The `Examples`.

    Raises:
      DataError: the arrays do not fit each other, or hold what is no number.
    """
    arrays = {split: (_with_channels(name, x), np.asarray(y)) for split, (x, y) in arrays.items()}
    shapes = {split: x.shape[1:] for split, (x, _) in arrays.items()}
    if len(set(shapes.values())) != 1 or len({x.dtype for x, _ in arrays.values()}) != 1:
        kinds = {split: f"{x.dtype.name} {list(x.shape)}" for split, (x, _) in arrays.items()}
        raise DataError(f"load: expected '{name}' to have x of one shape and dtype in all splits, got {kinds}. Make them alike.")
    for split, (x, y) in arrays.items():
        if len(x) != len(y):
            raise DataError(f"load: expected '{name}' to have a label for each x of {split}, got {len(y)} for {len(x)}.")
    labels, num_classes = class_indices(name, {split: y for split, (_, y) in arrays.items()})
    cut = cut_splits(labels)
    num_examples = {split: len(indices) for split, (_, indices) in cut.items()}
    check_not_empty(name, num_examples)
    splits = {
        split: tf.data.Dataset.from_tensor_slices((arrays[source][0][indices], labels[source][indices]))
        for split, (source, indices) in cut.items()
    }  # fmt: skip
    x = arrays["train"][0]
    maximum = _IMAGE_MAXIMUM.get(x.dtype.name, 1) if x.ndim == 4 else 1
    return Examples(name, splits, num_examples, num_classes, x.shape[1:], maximum)


def class_indices(name, labels: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], int]:
    """Turns labels into class indices: whole numbers from 0 up stay, one-hot rows and text are numbered.

    Args:
      name: of the data set, for messages.
      labels: dict from split to whole numbers [n] or [n, 1], text [n] (numbered in sorted order), or one-hot [n, num_classes].

    Returns:
      The same dict with int64 [n], and the number of classes, at least 2.

    Raises:
      DataError: they are none of these, or there is one class only.
    """
    labels = {split: values[:, 0] if values.ndim == 2 and values.shape[1] == 1 else values for split, values in labels.items()}
    if all(v.ndim == 2 and v.dtype.kind in "biuf" and ((v == 0) | (v == 1)).all() and (v.sum(1) == 1).all() for v in labels.values()):
        num_classes = labels["train"].shape[1]
        indices = {split: values.argmax(1) for split, values in labels.items()}
    elif all(v.ndim == 1 and v.dtype.kind in "biuf" for v in labels.values()):
        indices = {split: values.astype(np.int64) for split, values in labels.items()}
        if any((indices[split] != values).any() or (values < 0).any() for split, values in labels.items()):
            raise DataError(f"load: expected the labels of '{name}' to be whole numbers from 0 up, got others. Number the classes from 0.")
        num_classes = 1 + max(int(values.max(initial=0)) for values in indices.values())
    elif all(v.ndim == 1 and v.dtype.kind in "US" for v in labels.values()):
        classes = np.unique(labels["train"])
        for split, values in labels.items():
            unknown = sorted(set(values.tolist()) - set(classes.tolist()))
            if unknown:
                raise DataError(f"load: expected the classes of {split} in '{name}' to be those of train, got {unknown[0]!r} too.")
        indices, num_classes = {split: np.searchsorted(classes, values) for split, values in labels.items()}, len(classes)
    else:
        kinds = {split: f"{values.dtype.name} {list(values.shape)}" for split, values in labels.items()}
        raise DataError(f"load: expected the labels of '{name}' to be whole numbers [n], text [n] or one-hot [n, classes], got {kinds}.")
    if num_classes < 2:
        raise DataError(f"load: expected at least two classes in '{name}', got {num_classes}. Check which values are the labels.")
    return {split: values.astype(np.int64) for split, values in indices.items()}, num_classes


def _with_channels(name, x):
    """Returns x with a last axis of channels, as unsigned integers (images) or float32; raises DataError if it is no numbers."""
    x = np.asarray(x)
    if x.ndim < 2 or x.dtype.kind not in "biuf":
        raise DataError(
            f"load: expected x of '{name}' to be numbers [n, height, width, channels], [n, length, channels] or [n, length], got "
            f"{x.dtype.name} {list(x.shape)}."
        )
    if x.dtype.kind == "f" and not np.isfinite(x).all():
        row = int(np.argwhere(~np.isfinite(x))[0, 0])
        raise DataError(f"load: expected numbers in '{name}', got NaN or infinity in example {row}. Fill in missing values.")
    is_image = x.ndim == 4 or (x.ndim == 3 and x.dtype.name in _IMAGE_MAXIMUM)
    if x.ndim == 2 or (x.ndim == 3 and is_image):
        x = x[..., np.newaxis]
    return x if is_image and x.dtype.name in _IMAGE_MAXIMUM else x.astype(np.float32)
