"""Turns what a caller has at hand into the one form the rest uses: a batched `tf.data.Dataset` of tuples."""

import math
import numbers
from typing import Any

import numpy as np

from tfmetaprune._keras import keras, tf
from tfmetaprune.errors import ArgumentError, DataError

BATCH_SIZE = 128


def as_dataset(data: Any, *, batch_size: int = BATCH_SIZE) -> tf.data.Dataset:
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
    check_batch_size("as_dataset", batch_size)
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


def shuffled_dataset(data: Any, *, seed: int) -> tf.data.Dataset:
    """Does what `as_dataset` does, and shuffles arrays, which are often sorted by class, anew in each iteration.

    Args:
      data: as for `as_dataset`; a dataset keeps its order.
      seed: of the orders, together with TensorFlow's global seed.
    """
    if isinstance(data, tf.data.Dataset):
        return as_dataset(data)
    examples = as_dataset(data, batch_size=1)
    count = int(examples.cardinality())
    if not count:
        return examples
    batches = examples.shuffle(count, seed=seed).rebatch(BATCH_SIZE)
    return batches.apply(tf.data.experimental.assert_cardinality(math.ceil(count / BATCH_SIZE)))


def is_count(value, minimum):
    return isinstance(value, numbers.Integral) and not isinstance(value, bool) and value >= minimum


def check_batch_size(where, batch_size):
    if not is_count(batch_size, minimum=1):
        raise ArgumentError(f"{where}: expected batch_size to be an integer >= 1, got {batch_size!r}. Try 128.")


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
