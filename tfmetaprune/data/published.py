"""Data sets of tensorflow_datasets, and those of installed packages that look like them."""

import contextlib
import difflib
import importlib
import os
import re
import sys

import numpy as np

from tfmetaprune._keras import tf
from tfmetaprune.data.packages import PACKAGES, package_folder
from tfmetaprune.data.splits import Examples, check_not_empty
from tfmetaprune.errors import ArgumentError, DataError

_IMAGE_MAXIMUM = {"uint8": 255, "uint16": 65535}


def published_examples(name, data_dir, *, any_size) -> Examples:
    """Finds a registered set, prepares its files if need be, and fills in the splits that it does not have.

    Args:
      name: as for `load`.
      data_dir: as for `load`.
      any_size: whether images may differ in size, because they will be resized.

    Returns:
      Its `Examples`.

    Raises:
      ArgumentError: the name is not registered.
      DataError: as for `load`.
    """
    builder = _prepared_builder(name, data_dir, any_size)
    shape, num_classes, maximum = _facts(name, builder.info, any_size)
    sources = _sources_of_splits(name, builder)
    num_examples = {split: builder.info.splits[source].num_examples for split, source in sources.items()}
    check_not_empty(name, num_examples)
    splits = {split: _read(builder, source) for split, source in sources.items()}
    return Examples(name, splits, num_examples, num_classes, shape, maximum or 1, standardized=maximum is None)


def _prepared_builder(name, data_dir, any_size):
    """Returns the tfds builder of a registered data set whose files are on disk, preparing them if need be."""
    import tensorflow_datasets as tfds

    importlib.import_module("tfmetaprune.data.digits")  # registers "digits"
    for data_set, package in PACKAGES.items():
        if package_folder(package):
            importlib.import_module(f"tfmetaprune.data.{data_set}")
    registered = tfds.list_builders(with_community_datasets=False)  # the others are looked up over the network
    base_name = re.split("[/:]", name)[0] if isinstance(name, str) else None
    if base_name in PACKAGES and not package_folder(PACKAGES[base_name]):
        raise ArgumentError(
            f"load: expected package {PACKAGES[base_name]}, which brings {base_name!r}, to be installed, found none. "
            f"Run pip install {PACKAGES[base_name]}, or pip install 'tfmetaprune[data]'."
        )
    if base_name not in registered:
        near = " or ".join(map(repr, difflib.get_close_matches(str(base_name).lower(), registered) or ["digits"]))
        raise ArgumentError(f"load: expected the name of a registered data set, got {name!r}. Did you mean {near}?")
    if base_name == "ucr":
        known = [config.name for config in tfds.builder_cls("ucr").BUILDER_CONFIGS]
        if re.split("[/:]", name)[1:2] not in [[config] for config in known]:
            raise ArgumentError(f"load: expected 'ucr/NAME' with one of {', '.join(known)}, got {name!r}. Name one of these.")
    data_dir = os.path.expanduser(data_dir or os.environ.get("TFDS_DATA_DIR", "")) or None
    try:
        builder = tfds.builder(name, data_dir=data_dir)
        _facts(name, builder.info, any_size)  # before anything is downloaded
        if not builder.data_path.exists():
            with _lock(os.fspath(builder.data_dir_root), builder.name), _heard(base_name):
                builder = tfds.builder(name, data_dir=data_dir)  # another process may have prepared it meanwhile
                builder.download_and_prepare(download_config=tfds.download.DownloadConfig(try_download_gcs=False))
    except DataError:
        raise
    except Exception as error:  # tensorflow_datasets raises all kinds, AssertionError among them
        raise DataError(
            f"load: expected {name!r} to be found or prepared in {data_dir or tfds.core.constants.DATA_DIR}, "
            f"got {type(error).__name__}: {error}. Choose a data_dir that can be written, check the configuration and "
            f"version in the name, and, for any set but those of installed packages, the network."
        ) from error
    return builder


@contextlib.contextmanager
def _heard(base_name):
    """Keeps what tensorflow_datasets tells off standard output; a set that is prepared within seconds is prepared in silence."""
    if base_name != "digits" and base_name not in PACKAGES:
        with contextlib.redirect_stdout(sys.stderr):
            yield
        return
    with open(os.devnull, "w") as sink, contextlib.redirect_stdout(sink), contextlib.redirect_stderr(sink):
        yield


@contextlib.contextmanager
def _lock(directory, name):
    """Lets one process at a time prepare a data set; a process that dies gives the lock back."""
    try:
        import fcntl
    except ImportError:  # not on Windows
        fcntl = None
    if fcntl is None or "://" in directory:  # nor in a storage bucket
        yield
        return
    os.makedirs(directory, exist_ok=True)
    with open(os.path.join(directory, f".{name}.lock"), "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _facts(name, info, any_size):
    """Returns (shape of an x, number of classes, largest value of a pixel or None for series), or raises DataError."""
    import tensorflow_datasets as tfds

    image, series, label = (info.features[key] if key in info.features else None for key in ("image", "series", "label"))
    if isinstance(series, tfds.features.Tensor) and isinstance(label, tfds.features.ClassLabel):
        return tuple(series.shape), label.num_classes, None
    is_known = isinstance(image, tfds.features.Image) and isinstance(label, tfds.features.ClassLabel)
    dtype = np.dtype(image.np_dtype).name if is_known else None
    if dtype not in _IMAGE_MAXIMUM or None in image.shape[2 if any_size else 0 :] or not label.num_classes:
        raise DataError(
            f"load: expected {name!r} to have a feature 'image' (Image of integers, all of one size) and a feature "
            f"'label' (ClassLabel), got {info.features}. Give image_size=(height, width) if only the size is missing, or read "
            f"it with tfds.load, and pass a tf.data.Dataset of batches (image, label) where data are asked for."
        )
    return tuple(image.shape), label.num_classes, (info.metadata or {}).get("image_maximum", _IMAGE_MAXIMUM[dtype])


def _sources_of_splits(name, builder):
    """Returns a dict from "train", "validation" and "test" to the tfds split expression each is read from."""
    published = {split for split, info in builder.info.splits.items() if info.num_examples}
    if "train" not in published:
        raise DataError(
            f"load: expected {name!r} to have a train split, got {sorted(published)} in {builder.data_dir}. "
            f"Use another set, or delete that directory if it is incomplete."
        )
    has_test = "test" in published
    for _, label in _read(builder, "test[:1]") if has_test else ():
        has_test = int(label) >= 0  # tensorflow_datasets writes -1 where the label is withheld
    if has_test and "validation" in published:
        return {"train": "train", "validation": "validation", "test": "test"}
    if has_test or "validation" in published:
        return {"train": "train[:90%]", "validation": "train[90%:]", "test": "test" if has_test else "validation"}
    return {"train": "train[:80%]", "validation": "train[80%:90%]", "test": "train[90%:]"}


def _read(builder, source):
    """Returns the single examples (image, label) of a tfds split expression, in the order of the files."""
    examples = builder.as_dataset(split=source, shuffle_files=False)
    x = "series" if "series" in builder.info.features else "image"
    return examples.map(lambda example: (example[x], tf.cast(example["label"], tf.int64)))
