"""Samples that a model is calibrated and compared on: the user's, or seeded random numbers."""

import numpy as np

from tfmetaprune._keras import tf
from tfmetaprune.errors import ArgumentError
from tfmetaprune.trace import input_keys

MAX_CALIBRATION_SAMPLES = 256
MAX_CHECK_SAMPLES = 32


def representative_arrays(model, data):
    """Returns up to 256 samples of the user's data: one array per model input, in order and in its dtype.

    Where batches of a dataset differ in the shape of a sample, these are of the shape that most samples have.
    """
    if not isinstance(data, tf.data.Dataset):
        return [spread(array, MAX_CALIBRATION_SAMPLES) for array in _model_inputs(model, data)]
    alike, num_samples = {}, 0
    for element in data:
        arrays = _model_inputs(model, element)
        alike.setdefault(tuple(array.shape[1:] for array in arrays), []).append(arrays)
        num_samples += len(arrays[0])
        if num_samples >= MAX_CALIBRATION_SAMPLES:
            break
    if not alike:
        raise ArgumentError("export_tflite: expected representative_data with samples, got an empty dataset. Fill it.")
    most = max(alike.values(), key=lambda batches: sum(len(arrays[0]) for arrays in batches))
    return joined(most, MAX_CALIBRATION_SAMPLES)


def _model_inputs(model, data):
    """Picks x out of x, (x, y) or (x, y, w), and returns its arrays in the order of the model's inputs."""
    names = input_keys(model)
    if isinstance(data, (tuple, list)) and data and (len(names) == 1 or isinstance(data[0], (tuple, list, dict))):
        return _model_inputs(model, data[0])
    if isinstance(data, dict):
        arrays = [np.asarray(data[name]) for name in names if name in data]
    else:
        arrays = [np.asarray(array) for array in (data if isinstance(data, (tuple, list)) else [data])]
    wanted = [tuple(tensor.shape) for tensor in model.inputs]
    if len(arrays) == len(wanted):  # Keras, too, lets a last axis of size 1 be left out
        pairs = zip(arrays, wanted, strict=True)
        arrays = [a[..., np.newaxis] if a.ndim == len(shape) - 1 and shape[-1] == 1 else a for a, shape in pairs]
    got = [array.shape for array in arrays]
    if len(wanted) != len(got) or not all(map(fits, wanted, got)) or len({shape[0] for shape in got}) != 1:
        raise ArgumentError(
            f"export_tflite: expected representative_data for the inputs {names} of shapes {wanted}, got {got}. Pass "
            f"batched x or (x, y), where x is an array, or a tuple or dict by input name of one array per input."
        )
    return [array.astype(tensor.dtype.as_numpy_dtype) for array, tensor in zip(arrays, model.inputs, strict=True)]


def random_samples(model):
    """Returns 32 seeded random samples: one array per model input."""
    rng, arrays = np.random.default_rng(0), []
    for name, tensor in zip(model.input_names, model.inputs, strict=True):
        if None in tensor.shape[1:]:
            raise ArgumentError(
                f"export_tflite: expected known sizes of input '{name}' to make samples, got {tuple(tensor.shape)}. "
                f"Pass representative_data of the sizes in use."
            )
        arrays.append(random_array(rng, (MAX_CHECK_SAMPLES, *tensor.shape[1:]), tensor.dtype.as_numpy_dtype))
    return arrays


def random_array(rng, shape, dtype):
    """Returns numbers in [0, 2), zeros and ones if the dtype is not a float: tokens of any vocabulary, where they are taken as such."""
    values = rng.uniform(0, 2, size=shape) if np.issubdtype(dtype, np.floating) else rng.integers(0, 2, size=shape)
    return values.astype(dtype)


def spread(array, num_samples):
    """Returns at most `num_samples` samples, evenly spread: data are often sorted by class."""
    return array[np.linspace(0, len(array) - 1, min(num_samples, len(array))).astype(int)]


def fits(wanted, got):
    """Says whether an array's shape fits a shape in which -1 or None is any size; the number of samples is free."""
    same = all(size in (-1, None, other) for size, other in zip(wanted[1:], got[1:], strict=False))
    return len(wanted) == len(got) and got[0] > 0 and same


def batched(arrays, batch_size):
    """Yields lists of equally long slices; the last ones are filled up with their last sample."""
    for start in range(0, len(arrays[0]), batch_size):
        rows = np.minimum(np.arange(start, start + batch_size), len(arrays[0]) - 1)
        yield [array[rows] for array in arrays]


def joined(batches, num_samples):
    """Joins the outputs of `batched` and drops what was filled up."""
    return [np.concatenate(parts)[:num_samples] for parts in zip(*batches, strict=True)]
