"""Brings data into the one form the rest uses: a batched `tf.data.Dataset` of tuples `(x, y)` or `(x,)`."""

import contextlib
import dataclasses
import difflib
import importlib
import numbers
import os
import re
import sys
from typing import Any

import numpy as np

from tfmetaprune._keras import keras, tf
from tfmetaprune.errors import ArgumentError, DataError, UnsupportedModelError

_IMAGE_MAXIMUM = {"uint8": 255, "uint16": 65535}
_SHUFFLE_BUFFER_BYTES = 2**28
_NUM_CHECKED_BATCHES = 50


@dataclasses.dataclass(frozen=True)
class DataSplits:
    """An image classification data set, ready for `fit` and `evaluate`.

    Attributes:
      name: the name it was loaded by.
      train: batches (float32 images [batch, *input_shape] in [0, 1], int64 labels [batch]), reshuffled each iteration.
      validation: the same, in a fixed order.
      test: the same, in a fixed order.
      num_classes: the labels are 0 to `num_classes` - 1.
      input_shape: shape of one image, (height, width, channels) in pixels.
      num_examples: dict from "train", "validation" and "test" to their number of examples.
    """

    name: str
    train: tf.data.Dataset
    validation: tf.data.Dataset
    test: tf.data.Dataset
    num_classes: int
    input_shape: tuple[int, ...]
    num_examples: dict[str, int]


def load(
    name: str, *, data_dir: str | os.PathLike[str] | None = None, batch_size: int = 128, seed: int = 0
) -> DataSplits:
    """Loads an image classification set of tensorflow_datasets, or "digits", which needs no network.

    The first call prepares the files (any set but "digits" is downloaded), later calls read them; of several processes
    one prepares and the others wait. Where a validation split is missing, it is the last 10 % of train; where the test
    split is missing or has no labels, the published validation split becomes test and validation is cut from train;
    where both are missing, each is 10 % of train. (tensorflow_datasets shuffles examples when it writes them.)

    Args:
      name: "digits", or a registered name such as "cifar10", "emnist/letters" or "mnist:3.0.1".
      data_dir: directory of the prepared files; default: environment variable TFDS_DATA_DIR if set, else
        tensorflow_datasets' own, `~/tensorflow_datasets`.
      batch_size: examples per batch; the last batch may be smaller.
      seed: int; the order of train, in all its iterations, is a function of it.

    Returns:
      A `DataSplits`.

    Raises:
      ArgumentError: the name is not registered, or the batch size is not a positive integer.
      DataError: the set has no images of one size with one label each, has no train split, or cannot be prepared, for
        example because `data_dir` cannot be written or there is no network.

    Example:
      >>> data = load("digits", batch_size=100)
      >>> data.input_shape, data.num_classes, data.num_examples
      ((8, 8, 1), 10, {'train': 599, 'validation': 300, 'test': 898})
      >>> images, labels = next(iter(data.validation))
      >>> images.shape, images.dtype.name, float(tf.reduce_max(images)), labels.dtype.name
      (TensorShape([100, 8, 8, 1]), 'float32', 1.0, 'int64')
    """
    _check_batch_size("load", batch_size)
    builder = _prepared_builder(name, data_dir)
    input_shape, num_classes, maximum = _image_facts(name, builder.info)

    sources = _sources_of_splits(name, builder)
    num_examples = {split: builder.info.splits[source].num_examples for split, source in sources.items()}
    if not all(num_examples.values()):
        raise DataError(f"load: expected examples in every split of {name!r}, got {num_examples}. Use a larger set.")
    examples = {split: _read(builder, source) for split, source in sources.items()}

    def scale(images, labels):
        return tf.cast(images, tf.float32) / maximum, labels

    buffer_size = min(num_examples["train"], max(1, _SHUFFLE_BUFFER_BYTES // int(np.prod(input_shape))))
    examples["train"] = examples["train"].shuffle(buffer_size, seed=seed, reshuffle_each_iteration=True)
    batches = {split: dataset.batch(batch_size).map(scale).prefetch(1) for split, dataset in examples.items()}
    return DataSplits(name, **batches, num_classes=num_classes, input_shape=input_shape, num_examples=num_examples)


def augment(dataset: tf.data.Dataset, *, max_shift: int = 1, noise: float = 0.05, seed: int = 0) -> tf.data.Dataset:
    """Shifts each image by a few pixels and adds noise, anew in each iteration over the dataset.

    Args:
      dataset: batched `tf.data.Dataset` of tuples whose first entry is a float image batch [batch, height, width,
        channels]; the other entries (labels, weights) pass unchanged.
      max_shift: largest shift, in pixels, along height and along width; pixels that come in from outside are 0.
      noise: standard deviation of the Gaussian noise, in units of the pixel values. The sum is not clipped.
      seed: int; the changes, in all iterations, are a function of it.

    Returns:
      A `tf.data.Dataset` with the same structure, shapes and dtypes.

    Raises:
      ArgumentError: `max_shift` is not an integer >= 0, or `noise` is not a number >= 0.
      DataError: the batches are no tuples that begin with float images.

    Example:
      >>> train = as_dataset((np.ones([4, 8, 8, 1]), np.arange(4)))
      >>> images, labels = next(iter(augment(train, max_shift=2, noise=0.0)))
      >>> images.shape, labels.numpy().tolist()
      (TensorShape([4, 8, 8, 1]), [0, 1, 2, 3])
    """
    if not _is_count(max_shift, minimum=0):
        raise ArgumentError(f"augment: expected max_shift to be an integer >= 0, got {max_shift!r}. Use 0 for none.")
    if not isinstance(noise, numbers.Real) or not noise >= 0:
        raise ArgumentError(f"augment: expected noise to be a number >= 0, got {noise!r}. Use 0 for none.")
    spec = dataset.element_spec
    image = spec[0] if isinstance(spec, tuple) and spec else None
    if not isinstance(image, tf.TensorSpec) or image.shape.rank != 4 or not image.dtype.is_floating:
        raise DataError(
            f"augment: expected tuples that begin with float images [batch, height, width, channels], got {spec}. "
            f"Batch the images and scale them to [0, 1] first."
        )

    def change(batch, key):
        return (_shift_and_add_noise(batch[0], key, max_shift, noise), *batch[1:])

    keys = tf.data.Dataset.random(seed=seed, rerandomize_each_iteration=True).batch(2, drop_remainder=True)
    return tf.data.Dataset.zip((dataset, keys)).map(change, num_parallel_calls=tf.data.AUTOTUNE)


def as_dataset(data: Any, *, batch_size: int = 128) -> tf.data.Dataset:
    """Turns what a caller has at hand into a batched dataset of `(x, y)` or `(x,)`.

    Args:
      data: a batched `tf.data.Dataset`, which keeps its batches; or arrays [num_examples, ...]: a tuple `(x,)`,
        `(x, y)` or `(x, y, sample_weight)`, or x alone. For a model with several inputs x is a list, tuple or dict of
        arrays (alone: a list or dict), for one with several outputs y is. Float arrays become Keras' `floatx`.
      batch_size: examples per batch, used for arrays only; the last batch may be smaller.

    Returns:
      A batched `tf.data.Dataset` of tuples, in the order of the data.

    Raises:
      ArgumentError: the batch size is not a positive integer.
      DataError: the data are of another kind, a dataset is not batched, or the arrays differ in length.

    Example:
      >>> as_dataset((np.zeros([10, 8, 8, 1]), np.zeros([10], int)), batch_size=5).element_spec[0]
      TensorSpec(shape=(None, 8, 8, 1), dtype=tf.float32, name=None)
    """
    _check_batch_size("as_dataset", batch_size)
    parts = data.element_spec if isinstance(data, tf.data.Dataset) else data
    if isinstance(data, tuple) and data and data[-1] is None:
        parts = data[:-1]  # (x, None) is x without labels
    parts = parts if isinstance(parts, tuple) else (parts,)
    if not 1 <= len(parts) <= 3:
        raise DataError(
            f"as_dataset: expected (x,), (x, y) or (x, y, sample_weight), got {len(parts)} entries. "
            f"Give several inputs as a list or dict in the place of x."
        )

    if isinstance(data, tf.data.Dataset):
        if any(leaf.shape.rank == 0 for leaf in tf.nest.flatten(parts) if isinstance(leaf, tf.TensorSpec)):
            raise DataError(f"as_dataset: expected a batched dataset, got single examples {parts}. Call .batch(...).")
        return data if isinstance(data.element_spec, tuple) else data.map(lambda x: (x,))

    tensors = tuple(_to_tensors(part) for part in parts)
    lengths = [leaf.shape[0] for leaf in tf.nest.flatten(tensors)]
    if len(set(lengths)) != 1:
        raise DataError(f"as_dataset: expected arrays of one length, got lengths {lengths}. Give each example one row.")
    return tf.data.Dataset.from_tensor_slices(tensors).batch(batch_size)


def check_data(dataset: Any, model: Any, *, needs_labels: bool = True) -> None:
    """Checks that data fit a model before time is spent on them.

    The first batch is checked in full. Where the labels are class indices (integers [batch] or [batch, 1] for
    an output [batch, n] with n >= 2), their range is checked in the first 50 batches. With several outputs, only the
    number of label arrays is checked. A dataset that reshuffles itself counts this as one of its iterations.

    Args:
      dataset: batched `tf.data.Dataset`, or anything else that `as_dataset` takes.
      model: a Keras model with known inputs.
      needs_labels: whether labels must be there and fit the outputs; if False, labels are ignored.

    Raises:
      UnsupportedModelError: the model's inputs are not known yet.
      DataError: the data are empty, hold NaN in the first batch, or do not fit the model's inputs or outputs in
        number, shape, dtype or range of the labels.

    Example:
      >>> model = keras.Sequential([keras.Input([4]), keras.layers.Dense(3)])
      >>> check_data((np.zeros([5, 4]), np.array([0, 1, 2, 1, 0])), model)
      >>> check_data((np.zeros([5, 4]), np.array([0, 1, 2, 3, 0])), model)  # doctest: +ELLIPSIS
      Traceback (most recent call last):
      tfmetaprune.errors.DataError: check_data: expected labels in 0..2 (the model has 3 outputs), got 3 in batch 0. ...
    """
    if not getattr(model, "inputs", None):
        raise UnsupportedModelError(f"check_data: expected known inputs, got {model!r}. Build it from keras.Input.")
    dataset = as_dataset(dataset)
    num_classes, is_first = None, True
    for index, batch in enumerate(dataset.take(_NUM_CHECKED_BATCHES)):
        if tf.nest.flatten(batch)[0].shape[0] == 0:
            continue
        if is_first:
            is_first = False
            _check_inputs(batch[0], model)
            num_classes = _check_labels(batch, model) if needs_labels else None
            for leaf in tf.nest.flatten(batch if needs_labels else batch[0]):
                if isinstance(leaf, tf.Tensor) and leaf.dtype.is_floating and np.isnan(leaf).any():
                    raise DataError("check_data: expected numbers, got NaN in the first batch. Fill in missing values.")
        if num_classes is None:
            return
        labels = np.ravel(tf.nest.flatten(batch[1])[0])
        wrong = labels[(labels < 0) | (labels >= num_classes)]
        if wrong.size:
            raise DataError(
                f"check_data: expected labels in 0..{num_classes - 1} (the model has {num_classes} outputs), "
                f"got {wrong[0]} in batch {index}. Number the classes from 0, or give the model more outputs."
            )
    if is_first:
        raise DataError("check_data: expected examples, got an empty dataset. Check where the data come from.")


def _is_count(value, minimum):
    return isinstance(value, numbers.Integral) and not isinstance(value, bool) and value >= minimum


def _check_batch_size(where, batch_size):
    if not _is_count(batch_size, minimum=1):
        raise ArgumentError(f"{where}: expected batch_size to be an integer >= 1, got {batch_size!r}. Try 128.")


def _prepared_builder(name, data_dir):
    """Returns the tfds builder of a registered data set whose files are on disk, preparing them if need be."""
    import tensorflow_datasets as tfds

    importlib.import_module("tfmetaprune.data.digits")  # registers "digits"
    registered = tfds.list_builders(with_community_datasets=False)  # the others are looked up over the network
    base_name = re.split("[/:]", name)[0] if isinstance(name, str) else None
    if base_name not in registered:
        near = " or ".join(map(repr, difflib.get_close_matches(str(base_name).lower(), registered) or ["digits"]))
        raise ArgumentError(f"load: expected the name of a registered data set, got {name!r}. Did you mean {near}?")
    data_dir = os.path.expanduser(data_dir or os.environ.get("TFDS_DATA_DIR", "")) or None
    try:
        builder = tfds.builder(name, data_dir=data_dir)
        _image_facts(name, builder.info)  # before anything is downloaded
        if not builder.data_path.exists():
            with _lock(os.fspath(builder.data_dir_root), builder.name), contextlib.redirect_stdout(sys.stderr):
                builder = tfds.builder(name, data_dir=data_dir)  # another process may have prepared it meanwhile
                builder.download_and_prepare(download_config=tfds.download.DownloadConfig(try_download_gcs=False))
    except DataError:
        raise
    except Exception as error:  # tensorflow_datasets raises all kinds, AssertionError among them
        raise DataError(
            f"load: expected {name!r} to be found or prepared in {data_dir or tfds.core.constants.DATA_DIR}, "
            f"got {type(error).__name__}: {error}. Choose a data_dir that can be written, check the configuration and "
            f"version in the name, and, for any set but 'digits', the network."
        ) from error
    return builder


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


def _image_facts(name, info):
    """Returns (shape of an image, number of classes, largest pixel value), or raises DataError if there is no such."""
    import tensorflow_datasets as tfds

    image, label = (info.features[key] if key in info.features else None for key in ("image", "label"))
    is_known = isinstance(image, tfds.features.Image) and isinstance(label, tfds.features.ClassLabel)
    dtype = np.dtype(image.np_dtype).name if is_known else None
    if dtype not in _IMAGE_MAXIMUM or None in image.shape or not label.num_classes:
        raise DataError(
            f"load: expected {name!r} to have a feature 'image' (Image of integers, all of one size) and a feature "
            f"'label' (ClassLabel), got {info.features}. Read it with tfds.load, resize the images, and pass a "
            f"tf.data.Dataset of batches (image, label) where data are asked for."
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
    return examples.map(lambda example: (example["image"], tf.cast(example["label"], tf.int64)))


def _shift_and_add_noise(images, key, max_shift, noise):
    """Shifts float images [batch, height, width, channels] by up to `max_shift` pixels, and adds noise."""
    shift_key, noise_key = tf.unstack(tf.random.split(key, 2))
    batch_size, height, width = tf.unstack(tf.shape(images)[:3])
    start = tf.random.stateless_uniform([batch_size, 2], shift_key, 0, 2 * max_shift + 1, tf.int32)
    rows, columns = start[:, :1] + tf.range(height), start[:, 1:] + tf.range(width)
    margin = [max_shift, max_shift]
    moved = tf.pad(images, [[0, 0], margin, margin, [0, 0]])
    moved = tf.gather(tf.gather(moved, rows, axis=1, batch_dims=1), columns, axis=2, batch_dims=1)
    moved += noise * tf.random.stateless_normal(tf.shape(images), noise_key, dtype=images.dtype)
    return tf.ensure_shape(moved, images.shape)


def _to_tensors(part):
    """Converts arrays, or a list, tuple or dict of arrays, to tensors; lists become tuples, as tf.data wants them."""
    if isinstance(part, dict):
        return {key: _to_tensors(value) for key, value in part.items()}
    if isinstance(part, (list, tuple)) and part and all(len(getattr(entry, "shape", ())) > 0 for entry in part):
        return tuple(_to_tensors(entry) for entry in part)
    try:
        if not isinstance(part, (list, tuple)) and not hasattr(part, "__array__"):
            raise TypeError("it is no array")
        tensor = tf.convert_to_tensor(part if isinstance(part, tf.Tensor) else np.asarray(part))
        if tensor.shape.rank == 0:
            raise ValueError("it is a single number")
    except (TypeError, ValueError) as error:
        raise DataError(
            f"as_dataset: expected a batched tf.data.Dataset or arrays, got {type(part).__name__}: {error}. "
            f"Pass a tf.data.Dataset, or numpy arrays of numbers with one row for each example."
        ) from error
    return tf.cast(tensor, keras.backend.floatx()) if tensor.dtype.is_floating else tensor


def _check_inputs(x, model):
    """Raises DataError unless a batch x fits the model's inputs in number, names, shapes and dtypes."""
    names = sorted(model.input) if isinstance(model.input, dict) else model.input_names
    if isinstance(x, dict) and not set(names) <= set(x):
        raise DataError(f"check_data: expected the inputs {names}, got {sorted(x)}. Name the entries of x like these.")
    values = [x[name] for name in names] if isinstance(x, dict) else tf.nest.flatten(x)
    if len(values) != len(names):
        raise DataError(f"check_data: expected {len(names)} inputs {names}, got {len(values)}. Give x one for each.")
    for name, value, wanted in zip(names, values, model.inputs, strict=True):
        if not wanted.shape.is_compatible_with(value.shape):
            raise DataError(
                f"check_data: expected input {name!r} of shape {tuple(wanted.shape)}, got {tuple(value.shape)}. "
                f"Reshape the data, or batch them, so that they fit the model."
            )
        got, is_integer = value.dtype, value.dtype.is_integer
        fits_float = wanted.dtype.is_floating and (got.is_floating or is_integer or got.is_bool)
        if got != wanted.dtype and not fits_float and not (wanted.dtype.is_integer and is_integer):
            raise DataError(
                f"check_data: expected input {name!r} of dtype {wanted.dtype.name}, got {got.name}. "
                f"Cast the data before passing them."
            )


def _check_labels(batch, model):
    """Raises DataError unless the labels fit the outputs; returns the number of classes if they are class indices."""
    if len(batch) < 2:
        raise DataError("check_data: expected labels, got inputs alone. Pass tuples (x, y).")
    labels, names = tf.nest.flatten(batch[1]), model.output_names
    if len(labels) != len(names):
        raise DataError(f"check_data: expected labels for {names}, got {len(labels)}. Give y one for each output.")
    lengths = [leaf.shape[0] for leaf in tf.nest.flatten(batch[:2])]
    if len(set(lengths)) != 1:
        raise DataError(f"check_data: expected as many labels as inputs, got lengths {lengths}. Pair them one to one.")
    shape, output = labels[0].shape, model.outputs[0].shape
    if len(labels) > 1 or output.rank != 2:
        return None
    if shape.rank == 2 and shape[1] not in (1, output[1]):
        raise DataError(
            f"check_data: expected labels of shape (batch,), (batch, 1) or {tuple(output)}, as the output has, got "
            f"{tuple(shape)}. Encode the labels for {output[1]} outputs, or change the model."
        )
    is_index = labels[0].dtype.is_integer and (shape.rank == 1 or shape[1:] == [1]) and output[1] > 1
    return output[1] if is_index else None
