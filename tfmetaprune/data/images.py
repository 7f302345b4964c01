"""Images out of a folder with one folder a class."""

import pathlib

import numpy as np

from tfmetaprune._keras import tf
from tfmetaprune.data.arrays import SPLIT_NAMES
from tfmetaprune.data.splits import Examples, check_not_empty, cut_splits
from tfmetaprune.errors import DataError

_SUFFIXES = (".png", ".jpg", ".jpeg")
_NUM_OPENED = 10_000  # images whose head is looked at, spread over the folder


def folder_examples(path) -> Examples:
    """Finds the PNG and JPEG images of a folder with one folder a class, or with folders train, validation and test of such.

    The classes are numbered in the sorted order of their folders' names. Images are read as 8 bits a channel, with three
    channels, or with one if all are grey.

    Args:
      path: of the folder.

    Returns:
      Its `Examples`, with the splits that it does not have cut from train.

    Raises:
      DataError: the folder is laid out in another way, or a file is no image.
    """
    root = pathlib.Path(path)
    folders = {folder.name: folder for folder in _folders(root)}
    splits = {SPLIT_NAMES[name.lower()]: folder for name, folder in folders.items() if name.lower() in SPLIT_NAMES}
    if splits and ("train" not in splits or len(splits) < len(folders)):
        raise DataError(
            f"load: expected '{root}' to hold one folder a class, or the folders train, validation and test alone, got "
            f"{sorted(folders)}. Move the images into one of these forms."
        )
    splits = splits or {"train": root}
    classes = [folder.name for folder in _folders(splits["train"])]
    files, labels = {}, {}
    for split, folder in splits.items():
        extra = [child.name for child in _folders(folder) if child.name not in classes]
        if extra:
            raise DataError(f"load: expected the classes of '{folder}' to be those of train, {classes}, got {extra[0]!r} too.")
        found = [(file, index) for index, name in enumerate(classes) for file in _images(folder / name)]
        files[split] = np.array([str(file) for file, _ in found])
        labels[split] = np.array([index for _, index in found], np.int64)
    empty = [name for index, name in enumerate(classes) if index not in labels["train"]]
    if len(classes) < 2 or empty:
        raise DataError(
            f"load: expected '{root}' to hold a folder with {', '.join(_SUFFIXES)} images for each of at least two classes, got "
            f"{f'no image in {empty[0]!r}' if empty else f'the folders {classes}'}. Put each class in a folder of its own."
        )
    shape = _shape(np.concatenate(list(files.values())))
    cut = cut_splits(labels)
    num_examples = {split: len(indices) for split, (_, indices) in cut.items()}
    check_not_empty(str(root), num_examples)

    def read(file, label):
        image = tf.io.decode_image(tf.io.read_file(file), channels=shape[2], expand_animations=False)
        return tf.ensure_shape(image, shape), label

    examples = {}
    for split, (source, indices) in cut.items():
        paths = tf.data.Dataset.from_tensor_slices((files[source][indices], labels[source][indices]))
        examples[split] = paths.map(read, num_parallel_calls=tf.data.AUTOTUNE)
    return Examples(str(root), examples, num_examples, len(classes), shape, 255)


def _folders(root):
    return sorted(child for child in root.iterdir() if child.is_dir() and not child.name.startswith("."))


def _images(folder):
    files = folder.rglob("*") if folder.is_dir() else ()
    return sorted(file for file in files if file.suffix.lower() in _SUFFIXES and not file.name.startswith("."))


def _shape(files):
    """Returns (height, width, channels) of images, height and width None where they differ; raises DataError for others."""
    from PIL import Image

    sizes, is_grey = set(), True
    for file in files[np.unique(np.linspace(0, len(files) - 1, min(len(files), _NUM_OPENED)).astype(int))]:
        try:
            with Image.open(file) as image:
                sizes.add(image.size)
                is_grey = is_grey and image.mode in ("1", "L", "LA", "I", "I;16")
        except (OSError, ValueError, SyntaxError) as error:
            raise DataError(f"load: expected '{file}' to be an image, got {type(error).__name__}: {error}. Remove it.") from error
    width, height = sizes.pop() if len(sizes) == 1 else (None, None)
    return height, width, 1 if is_grey else 3
