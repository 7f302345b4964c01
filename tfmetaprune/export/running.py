"""Runs TFLite files in LiteRT."""

import contextlib
import logging
import os
import sys
import threading
import warnings

import numpy as np

from tfmetaprune.errors import ArgumentError, ExportError, TFMetaPruneError
from tfmetaprune.export.samples import batched, fits, joined

_mute_lock = threading.RLock()


class NotRunnableError(ExportError):
    """No file was made, or it does not run; a disagreement with Keras is another matter."""


def run_tflite(path, inputs, *, num_threads=1, batch_size=32):
    """Runs a file made by `export_tflite` on any number of samples.

    Args:
      path: Path of the file.
      inputs: Array [samples, ...], or a list or tuple of them in the order of the Keras model's inputs. They are cast
        to the file's dtypes; where its inputs are 8-bit, numbers of another dtype are quantised.
      num_threads: Number of threads of the interpreter.
      batch_size: Number of samples that are run at once; a file of fixed batch size is run with its own.

    Returns:
      The output, an array [samples, ...] of the Keras model's dtype; a list of them, in the Keras model's order, if the
      model has several.

    Raises:
      ArgumentError: The inputs do not fit the file, or `num_threads` or `batch_size` is below 1.
      ExportError: The file cannot be read or run.

    Example:
      >>> import tempfile
      >>> from tfmetaprune._keras import keras
      >>> from tfmetaprune.export.tflite import export_tflite
      >>> model = keras.Sequential([keras.Input((2,)), keras.layers.ReLU()])
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     _ = export_tflite(model, f"{folder}/relu.tflite")
      ...     run_tflite(f"{folder}/relu.tflite", np.array([[-1.0, 2.0], [3.0, -4.0]]))
      array([[0., 2.],
             [3., 0.]], dtype=float32)
    """
    if num_threads < 1 or batch_size < 1:
        raise ArgumentError(
            f"run_tflite: expected num_threads and batch_size >= 1, got {num_threads} and {batch_size}. Raise them."
        )
    arrays = [np.asarray(array) for array in (inputs if isinstance(inputs, (list, tuple)) else [inputs])]
    with interpreter_errors(f"run_tflite '{path}'", "Export the model again with export_tflite."):
        outputs = run_file(path, arrays, num_threads=num_threads, batch_size=batch_size)
    return outputs[0] if len(outputs) == 1 else outputs


def run_file(path, arrays, *, num_threads=1, batch_size, delegates=True):
    """Runs a file on arrays in the order of its inputs; returns the list of outputs, in order."""
    interpreter = load_interpreter(path, num_threads, delegates=delegates)
    runner = interpreter.get_signature_runner()
    inputs, outputs = runner.get_input_details(), runner.get_output_details()
    input_names, output_names = sorted(inputs, key=_position), sorted(outputs, key=_position)
    wanted = [tuple(int(size) for size in inputs[name]["shape_signature"]) for name in input_names]
    got = [array.shape for array in arrays]
    if len(wanted) != len(got) or not all(map(fits, wanted, got)) or len({shape[0] for shape in got}) != 1:
        raise ArgumentError(
            f"run_tflite '{path}': expected inputs of shapes {wanted} (-1: any) with equally many samples, got {got}. "
            f"Pass arrays with the samples first, in the order of the Keras model's inputs."
        )

    def invoke(batch):
        pairs = zip(input_names, batch, strict=True)
        results = runner(**{name: _to_stored(array, inputs[name]) for name, array in pairs})
        interpreter.reset_all_variables()  # a fused LSTM would start the next batch in this one's last state
        return [_from_stored(results[name], outputs[name]) for name in output_names]

    batch_size = wanted[0][0] if wanted[0][0] > 0 else min(batch_size, got[0][0])
    batches = batched(arrays, batch_size)
    with muted():  # the delegate announces itself when memory is allocated
        first = invoke(next(batches))
    return joined([first, *map(invoke, batches)], got[0][0])


def _to_stored(array, details):
    """Returns an array in the dtype of a file's input; where that is 8-bit, numbers of another dtype are quantised by its scale."""
    scale, zero_point = details["quantization"]
    if scale and np.issubdtype(details["dtype"], np.integer) and array.dtype != details["dtype"]:
        limits = np.iinfo(details["dtype"])
        array = np.clip(np.round(array / scale) + zero_point, limits.min, limits.max)
    return np.ascontiguousarray(array, dtype=details["dtype"])


def _from_stored(array, details):
    """Returns an output of a file; floats where it is 8-bit and has a scale."""
    scale, zero_point = details["quantization"]
    return (array.astype(np.float32) - zero_point) * np.float32(scale) if scale and array.dtype == np.int8 else array


def load_interpreter(path, num_threads, *, delegates=True):
    """Returns an interpreter of a file, not yet allocated, with or without the default delegates."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    resolver = OpResolverType.AUTO if delegates else OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    with muted():
        return Interpreter(str(path), num_threads=num_threads, experimental_op_resolver_type=resolver)


@contextlib.contextmanager
def interpreter_errors(where, advice):
    """Turns the errors of the interpreter into `NotRunnableError`."""
    try:
        yield
    except TFMetaPruneError:
        raise
    except (RuntimeError, ValueError) as error:
        raise NotRunnableError(
            f"{where}: expected a file that loads and runs, got: {reason(error)}. {advice}"
        ) from error


@contextlib.contextmanager
def muted():
    """Mutes TensorFlow's loggers, warnings, and the process's stderr, where the C++ side of the converter writes.

    The user's data are read outside of it. The lock keeps two threads from restoring each other's stderr.
    """
    with _mute_lock, warnings.catch_warnings(), contextlib.ExitStack() as stack:
        warnings.simplefilter("ignore")
        for logger in (logging.getLogger("tensorflow"), logging.getLogger("absl")):
            stack.callback(logger.setLevel, logger.level)
            logger.setLevel(logging.ERROR)
        with contextlib.suppress(OSError):  # a process may have no stderr
            stderr = os.dup(2)
            stack.callback(os.close, stderr)
            if sys.stderr is not None:
                sys.stderr.flush()
            with open(os.devnull, "wb") as sink:
                os.dup2(sink.fileno(), 2)
            stack.callback(os.dup2, stderr, 2)
        yield


def reason(error):
    """Returns the first line of an error's message, without its full stop."""
    return (str(error).strip() or repr(error)).splitlines()[0][:300].rstrip(". ")


def _position(name):
    """Returns the 1 of "input_1": in a signature names are sorted as text, "input_10" before "input_2"."""
    digits = name.rpartition("_")[2]
    return int(digits) if digits.isdecimal() else 0
