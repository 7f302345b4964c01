"""The form in which data sets are handed out, and the one way to it: resize, scale, shuffle, batch."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from tfmetaprune._keras import tf
from tfmetaprune.errors import ArgumentError, DataError

SPLITS = ("train", "validation", "test")
SCALINGS = ("default", "none", "standardize")

_SHUFFLE_BUFFER_BYTES = 2**28
_NUM_MEASURED = 10_000  # examples that mean and standard deviation are taken from, at most
_CUT_SEED = 0


@dataclasses.dataclass(frozen=True)
class DataSplits:
    """A classification data set, ready for `fit` and `evaluate`.

    Attributes:
      name: the name or path it was loaded by.
      train: batches (float32 x [batch, *input_shape], int64 labels [batch]), reshuffled each iteration.
      validation: the same, in a fixed order.
      test: the same, in a fixed order.
      num_classes: the labels are 0 to `num_classes` - 1.
      input_shape: shape of one x: (height, width, channels) of an image, (length, channels) of a series, or (length,).
      num_examples: dict from "train", "validation" and "test" to their number of examples.
    """

    name: str
    train: tf.data.Dataset
    validation: tf.data.Dataset
    test: tf.data.Dataset
    num_classes: int
    input_shape: tuple
    num_examples: dict


@dataclasses.dataclass(frozen=True)
class Examples:
    """What a source found, before anything is resized, scaled, shuffled or batched.

    Attributes:
      name: the name or path it was loaded by.
      splits: dict from "train", "validation" and "test" to a dataset of single examples (x, int64 label), in an order that is
        always the same.
      num_examples: dict from the same names to the number of examples.
      num_classes: the labels are 0 to `num_classes` - 1.
      input_shape: shape of one x; None for an image's height and width where its images differ in size.
      maximum: what the default scaling divides x by; 1 leaves it alone.
      standardized: whether the default scaling brings x to mean 0 and standard deviation 1.
    """

    name: str
    splits: Mapping[str, tf.data.Dataset]
    num_examples: Mapping[str, int]
    num_classes: int
    input_shape: tuple
    maximum: float = 1
    standardized: bool = False


def make_splits(examples: Examples, *, batch_size, seed, image_size=None, input_shape=None, scaling="default") -> DataSplits:
    """Resizes, scales, shuffles and batches what a source found.

    Args:
      examples: the `Examples`.
      batch_size: examples per batch.
      seed: of the order of train, together with the global seed of TensorFlow.
      image_size: (height, width) that images get, or None.
      input_shape: shape without the batch that a model wants, with None where it takes any, or None.
      scaling: one of `SCALINGS`, see `load`.

    Returns:
      The `DataSplits`.

    Raises:
      ArgumentError: `image_size` or `scaling` have no such value.
      DataError: a split is empty, or images differ in size and none is given.
    """
    if scaling not in SCALINGS:
        raise ArgumentError(f"load: expected scaling to be one of {', '.join(SCALINGS)}, got {scaling!r}. Use 'default'.")
    num_examples = dict(examples.num_examples)
    check_not_empty(examples.name, num_examples)
    shape, reshape = _reshaping(examples, image_size, input_shape)
    splits = {name: dataset if reshape is None else dataset.map(reshape) for name, dataset in examples.splits.items()}
    shift, divisor = 0.0, float(1 if scaling == "none" else examples.maximum)
    if scaling == "standardize" or (scaling == "default" and examples.standardized):
        shift, divisor = _mean_and_deviation(splits["train"])

    def scale(x, labels):
        x = tf.cast(x, tf.float32)
        return (x / divisor if np.ndim(shift) == 0 else (x - shift) / divisor), labels

    buffer_size = min(num_examples["train"], max(1, _SHUFFLE_BUFFER_BYTES // int(np.prod(shape))))
    splits["train"] = splits["train"].shuffle(buffer_size, seed=seed, reshuffle_each_iteration=True)
    batches = {name: dataset.batch(batch_size).map(scale).prefetch(1) for name, dataset in splits.items()}
    return DataSplits(
        examples.name, **batches, num_classes=examples.num_classes, input_shape=shape, num_examples=num_examples
    )


def check_not_empty(name, num_examples):
    """Raises DataError unless every split, of the numbers of examples {split: count}, has some."""
    if not all(num_examples.values()):
        raise DataError(f"load: expected examples in every split of {name!r}, got {num_examples}. Use a larger set.")


def cut_splits(labels: Mapping[str, np.ndarray]) -> dict[str, tuple[str, np.ndarray]]:
    """Fills in the splits that a source does not have: a tenth of every class of train each, always the same examples.

    Where test is missing and validation is there, validation becomes test and a new one is cut from train. Sources list class after
    class, and many readers take the first examples alone, so each split is put into a drawn order, always the same.

    Args:
      labels: dict from the names of the splits found, "train" among them, to the labels of their examples [num_examples].

    Returns:
      A dict from "train", "validation" and "test" to (name of the split found, indices of its examples).

    Example:
      >>> cut = cut_splits({"train": np.arange(40) % 2, "test": np.zeros(3)})
      >>> {name: (source, len(indices)) for name, (source, indices) in cut.items()}
      {'train': ('train', 36), 'validation': ('train', 4), 'test': ('test', 3)}
    """
    whole = {name: (name, np.arange(len(values))) for name, values in labels.items()}
    if "test" in whole and "validation" in whole:
        return _mixed(whole)
    values = np.asarray(labels["train"])
    order = np.lexsort((np.random.RandomState(_CUT_SEED).random_sample(len(values)), values))
    place = np.arange(len(order)) % 10
    test = whole.get("test") or whole.get("validation") or ("train", order[place == 4])
    gone = [9] if test[0] != "train" else [4, 9]
    return _mixed({"train": ("train", order[~np.isin(place, gone)]), "validation": ("train", order[place == 9]), "test": test})


def _mixed(cut):
    random = np.random.RandomState(_CUT_SEED)
    return {name: (cut[name][0], random.permutation(cut[name][1])) for name in SPLITS}


def _reshaping(examples, image_size, input_shape):
    """Returns the shape that each x shall have, and a function (x, label) -> (x, label) that gives it; None if it has it."""
    shape = tuple(examples.input_shape)
    wanted = tuple(input_shape) if input_shape is not None else None
    if len(shape) != 3:
        if wanted is not None and len(wanted) == 1 and len(shape) == 2 and shape[1] == 1:
            return shape[:1], lambda x, label: (x[:, 0], label)
        return shape, None
    fits = wanted is not None and len(wanted) == 3
    size = image_size if image_size is not None else (wanted[:2] if fits and None not in wanted[:2] else shape[:2])
    try:
        height, width = (None if side is None else int(side) for side in size)
        if image_size is not None and min(height, width) < 1:
            raise ValueError
    except (TypeError, ValueError):
        raise ArgumentError(
            f"load: expected image_size to be (height, width) in pixels, got {image_size!r}. Use (32, 32), say."
        ) from None
    if height is None or width is None:
        raise DataError(
            f"load: expected {examples.name!r} to have images all of one size, got images of several. "
            f"Give image_size=(height, width), and they are resized."
        )
    channels = wanted[2] if fits and {wanted[2], shape[2]} == {1, 3} else shape[2]
    if (height, width, channels) == shape:
        return shape, None

    def reshape(image, label):
        if shape[2] != channels:
            image = tf.image.grayscale_to_rgb(image) if channels == 3 else tf.image.rgb_to_grayscale(image)
        if shape[:2] != (height, width):
            image = _resized(image, height, width)
        return tf.ensure_shape(image, (height, width, channels)), label

    return (height, width, channels), reshape


def _resized(image, height, width):
    """Cuts the largest centred part with the proportions height : width out of an image, and scales it; float32."""
    have = tf.cast(tf.shape(image)[:2], tf.float32)
    scale = tf.reduce_min(have / [float(height), float(width)])
    size = tf.clip_by_value(tf.cast(tf.round([height * scale, width * scale]), tf.int32), 1, tf.shape(image)[:2])
    start = (tf.shape(image)[:2] - size) // 2
    part = image[start[0] : start[0] + size[0], start[1] : start[1] + size[1]]
    return tf.image.resize(part, (height, width), antialias=True)


def _mean_and_deviation(dataset):
    """Returns mean and standard deviation of each channel, float32 [channels], over the first examples of a dataset."""
    count, total, squares = 0, 0.0, 0.0
    for x, _ in dataset.take(_NUM_MEASURED).batch(256).as_numpy_iterator():
        x = x.reshape(-1, x.shape[-1] if x.ndim > 2 else 1).astype(np.float64)
        count, total, squares = count + len(x), total + x.sum(0), squares + (x**2).sum(0)
    mean = total / count
    deviation = np.sqrt(np.maximum(squares / count - mean**2, 0))
    return mean.astype(np.float32), np.where(deviation > 0, deviation, 1).astype(np.float32)
