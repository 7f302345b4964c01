"""Checks that data fit a model before time is spent on them."""

from typing import Any

import numpy as np

from tfmetaprune._keras import keras, tf
from tfmetaprune.data.conversion import as_dataset
from tfmetaprune.errors import DataError, UnsupportedModelError

_NUM_CHECKED_BATCHES = 50


def check_data(dataset: Any, model: Any, *, needs_labels: bool = True, loss: Any = None) -> None:
    """Checks that data fit a model before time is spent on them.

    The first batch is checked in full. Where the labels are class indices (integers [batch] or [batch, 1] for
    an output [batch, n] with n >= 2), their range is checked in the first 50 batches. With several outputs, only the
    number of label arrays is checked; under another loss than a crossentropy, which alone knows what labels it takes, only
    that there are as many labels as inputs. A dataset that reshuffles itself counts this as one of its iterations.

    Args:
      dataset: batched `tf.data.Dataset`, or anything else that `as_dataset` takes.
      model: a Keras model with known inputs.
      needs_labels: whether labels must be there and fit the outputs; if False, labels are ignored.
      loss: what the labels are for, as `compile` takes it; None for the loss that the model is compiled with.

    Raises:
      UnsupportedModelError: the model's inputs are not known yet.
      DataError: the data are empty, hold NaN in the first batch, or do not fit the model's inputs or outputs in
        number, shape, dtype or range of the labels.

    Example:
      >>> from tfmetaprune._keras import keras
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
            has_own_loss = _is_own(sole_loss(model, getattr(model, "loss", None) if loss is None else loss))
            num_classes = _check_labels(batch, model, has_own_loss) if needs_labels else None
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


def sole_loss(model, loss):
    """Returns the loss of a model's only output, which may stand alone in a list or under the output's name; else what is given."""
    leaves = tf.nest.flatten(loss)
    return leaves[0] if len(leaves) == len(model.outputs) == 1 else loss


def loss_name(loss) -> str:
    """Returns the names that a loss has, given as one of them or as an object or a function, in small letters; "" for several losses.

    Example:
      >>> loss_name("bce"), loss_name(keras.losses.BinaryCrossentropy(name="mine"))
      ('binary_crossentropy function', 'mine binarycrossentropy')
    """
    if loss is None or isinstance(loss, (dict, list, tuple)):
        return ""
    if isinstance(loss, str):
        try:
            loss = keras.losses.get(loss)
        except ValueError:  # a name that Keras 3 alone has
            return loss.lower()
    loss = getattr(loss, "loss", loss)  # what is carried over from Keras 3
    return f"{getattr(loss, 'name', None) or getattr(loss, '__name__', '')} {type(loss).__name__}".strip().lower()


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


def _check_labels(batch, model, has_own_loss):
    """Raises DataError unless the labels fit the outputs; returns the number of classes if they are class indices."""
    if len(batch) < 2:
        raise DataError("check_data: expected labels, got inputs alone. Pass tuples (x, y).")
    labels, names = tf.nest.flatten(batch[1]), model.output_names
    if len(labels) != len(names) and not has_own_loss:
        raise DataError(f"check_data: expected labels for {names}, got {len(labels)}. Give y one for each output.")
    lengths = [leaf.shape[0] for leaf in tf.nest.flatten(batch[:2])]
    if len(set(lengths)) != 1:
        raise DataError(f"check_data: expected as many labels as inputs, got lengths {lengths}. Pair them one to one.")
    shape, output = labels[0].shape, model.outputs[0].shape
    if has_own_loss or len(labels) > 1 or output.rank != 2:
        return None
    if shape.rank == 2 and shape[1] not in (1, output[1]):
        raise DataError(
            f"check_data: expected labels of shape (batch,), (batch, 1) or {tuple(output)}, as the output has, got "
            f"{tuple(shape)}. Encode the labels for {output[1]} outputs, or change the model."
        )
    is_index = labels[0].dtype.is_integer and (shape.rank == 1 or shape[1:] == [1]) and output[1] > 1
    return output[1] if is_index else None


def _is_own(loss) -> bool:
    """Whether a loss is something else than one crossentropy."""
    return bool(loss) and "crossentropy" not in loss_name(loss)
