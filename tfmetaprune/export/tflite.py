"""Exports Keras models as TFLite files that were run before they count, and runs such files.

The converter writes some files that no interpreter can load, or that compute something else, without complaint. So
every file is loaded and compared with its Keras model under a temporary name, and only then gets its own name.
In the file's signature, inputs and outputs are called `input_0`, `input_1`, ..., `output_0`, ..., in the Keras model's
order.
"""

import contextlib
import dataclasses
import functools
import gzip
import logging
import os
import pathlib
import sys
import threading
import uuid
import warnings

import numpy as np
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from tfmetaprune._keras import keras, tf
from tfmetaprune.errors import ArgumentError, ExportError, TFMetaPruneError
from tfmetaprune.interop import carry

# float32 files differ from Keras by rounding alone (other summation order, folded batch norms). Each layer adds its own
# share like a step of a random walk, so the tolerance grows with the root of the number of weight arrays.
FLOAT32_TOLERANCE = 1e-5  # largest difference / largest output, per root of the number of weight arrays
FLOAT16_TOLERANCE = 1e-2  # largest difference / largest output: weights keep 11 bits, 5e-4, and layers add up
MIN_ARGMAX_AGREEMENT = 0.95  # 8-bit files: the share of clear samples that must keep their class
MAX_RMS_ERROR = 0.1  # 8-bit files where classes tell nothing: RMS difference / RMS output
TIE_MARGIN = 0.1  # a sample is clear if its two best outputs differ by more than this share of the outputs' range
MIN_CLEAR_SAMPLES = 8  # of fewer clear samples, or of one class only, agreement tells nothing
MAX_CALIBRATION_SAMPLES = 256
MAX_CHECK_SAMPLES = 32

_ADVICE = {
    None: "Export parts of the model to find the layer that TFLite computes differently.",
    "float16": "Export with quantize=None: weights or activations may exceed float16's range, 65504.",
    "dynamic": "Export with quantize='float16'.",
    "int8": "Give more representative samples, of all classes and preprocessed as in training, or export with "
    "quantize='dynamic' or 'float16'.",
}
_mute_lock = threading.RLock()


class _NotRunnableError(ExportError):
    """No file was made, or it does not run; a disagreement with Keras is another matter."""


@dataclasses.dataclass(frozen=True)
class ExportReport:
    """What a verified TFLite file weighs and how far it is from its Keras model.

    Attributes:
      path: Path of the file, as text.
      quantize: None, "float16", "dynamic" or "int8".
      size_bytes: Size of the file.
      gzip_size_bytes: Size of the file after gzip (level 9), which is what a download of it costs.
      max_abs_difference: Largest absolute difference to the Keras model, over all outputs, samples and ways to run.
      relative_difference: The same, each output's relative to its largest absolute Keras value; the worst output.
      argmax_agreement: Share in [0, 1] of clear samples that keep their class, of the worst output; None if no
        output is a classifier's (rank 2, at least 2 columns) or all samples are nearly tied.
      num_samples: Number of samples that were compared.
    """

    path: str
    quantize: str | None
    size_bytes: int
    gzip_size_bytes: int
    max_abs_difference: float
    relative_difference: float
    argmax_agreement: float | None
    num_samples: int

    def to_dict(self):
        """Returns the fields as a dict that `json.dumps` accepts."""
        return dataclasses.asdict(self)


def export_tflite(model, path, *, quantize=None, representative_data=None):
    """Writes a Keras model as a TFLite file, verified before it appears at `path`.

    The file is run on up to 32 samples, with the default delegate (XNNPACK) at batch 1 and as one batch, and without
    delegates. None and "float16" must agree in every number (`FLOAT32_TOLERANCE`, `FLOAT16_TOLERANCE`). The 8-bit kinds
    of a classifier (output of rank 2 with at least 2 columns) must keep the class of 95 % of the samples; samples whose
    two best Keras outputs are nearly tied (`TIE_MARGIN`) are not counted, since any rounding may flip them. Where fewer
    than 8 samples are clear, or all of them are of one class, a constant could pass and one flip could fail: then, and
    for all other outputs, the RMS error is judged (`MAX_RMS_ERROR`).

    An unknown batch size is stored as 1 and can be resized. Models that TFLite cannot run so (LSTM, GRU, group
    normalization) get a fixed batch of 1. A file with an LSTM keeps its state from call to call: on the device, call
    `reset_all_variables()` between sequences (`run_tflite` does).

    Args:
      model: Built functional or Sequential model of Keras 2 (tf_keras) or Keras 3.
      path: Path of the file to write. An existing file is replaced, atomically, once the new one is verified.
      quantize: None (float32); "float16" (weights); "dynamic" (8-bit weights, float activations); "int8" (8-bit weights
        and activations, while inputs and outputs keep the Keras model's dtypes).
      representative_data: What the model sees in use, up to 256 samples of it: a batched `tf.data.Dataset` of x, (x, y)
        or (x, y, w); or an array [samples, ...]; or an (x, y) tuple of arrays. For a model with several inputs, x
        is a tuple or list of arrays in the order of `model.inputs` or a dict by the inputs' names. Required for
        "int8"; otherwise used for the comparison, in place of seeded random numbers (normal, or 0 and 1 for integers).

    Returns:
      An `ExportReport`.

    Raises:
      ArgumentError: The model is unbuilt or not of Keras, `quantize` is unknown, "int8" is asked for without
        representative data, or the data do not fit the model's inputs.
      UnsupportedModelError: A Keras 3 model cannot be carried over to tf_keras.
      ExportError: The converter failed, the file does not run or does not agree with the Keras model, or `path` cannot
        be written. Nothing is left behind, and a file that was at `path` before is untouched.

    Example:
      >>> import tempfile
      >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     report = export_tflite(model, f"{folder}/model.tflite")
      ...     run_tflite(report.path, np.ones((5, 8), "float32")).shape
      (5, 4)
      >>> report.relative_difference < 1e-5
      True
    """
    if quantize not in list(_ADVICE):
        raise ArgumentError(
            f"export_tflite: expected quantize=None, 'float16', 'dynamic' or 'int8', got {quantize!r}. Use one of them."
        )
    model, _ = carry(model)
    if not isinstance(model, keras.Model) or not getattr(model, "inputs", None) or not model.outputs:
        raise ArgumentError(
            f"export_tflite: expected a built functional or Sequential Keras model, got {type(model).__module__}."
            f"{type(model).__name__}. Build it with keras.Input, or rebuild it as a functional model."
        )
    if quantize == "int8" and representative_data is None:
        raise ArgumentError(
            "export_tflite: quantize='int8' expected representative_data, got None. Pass some of the training data."
        )
    data = None if representative_data is None else _representative_arrays(model, representative_data)
    samples = _random_samples(model) if data is None else [_spread(array, MAX_CHECK_SAMPLES) for array in data]
    expected = _keras_outputs(model, samples)
    if not all(np.isfinite(output).all() for output in expected):
        raise ExportError(
            f"export_tflite: expected finite outputs of model '{model.name}', got NaN or infinity. Check its weights "
            f"and the data."
        )
    tolerance = FLOAT16_TOLERANCE if quantize else FLOAT32_TOLERANCE * max(1, len(model.weights)) ** 0.5
    path = pathlib.Path(path)
    if path.is_dir():
        raise ExportError(f"export_tflite: expected the path of a file, got the folder '{path}'. Add a file name.")
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        temporary.touch(exist_ok=False)  # finds out at once that a folder cannot be written
        for batch_size in (None, 1):
            try:
                temporary.write_bytes(_convert(model, quantize, data, batch_size))
                differences = _verify(temporary, path, quantize, samples, expected, tolerance)
                break
            except _NotRunnableError:
                if batch_size == 1:
                    raise
        content = temporary.read_bytes()
        os.replace(temporary, path)
    except OSError as error:
        raise ExportError(
            f"export_tflite: expected to write '{path}', got {error}. Create the folder, or choose another."
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
    return ExportReport(
        str(path), quantize, len(content), len(gzip.compress(content)), *differences, num_samples=len(samples[0])
    )


def run_tflite(path, inputs, *, num_threads=1, batch_size=32):
    """Runs a file made by `export_tflite` on any number of samples.

    Args:
      path: Path of the file.
      inputs: Array [samples, ...], or a list or tuple of them in the order of the Keras model's inputs. They are cast
        to the file's dtypes.
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
    with _interpreter_errors(f"run_tflite '{path}'", "Export the model again with export_tflite."):
        outputs = _run(path, arrays, num_threads=num_threads, batch_size=batch_size)
    return outputs[0] if len(outputs) == 1 else outputs


@contextlib.contextmanager
def _muted():
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


def _convert(model, quantize, data, batch_size):
    """Returns the content of the TFLite file; `batch_size` (None: resizable) is used where the model's is unknown."""
    specs = [
        tf.TensorSpec([tensor.shape[0] or batch_size, *tensor.shape[1:]], tensor.dtype, name=f"input_{index}")
        for index, tensor in enumerate(model.inputs)
    ]

    def call(*inputs):
        outputs = model(list(inputs) if len(inputs) > 1 else inputs[0], training=False)
        return {f"output_{index}": output for index, output in enumerate(tf.nest.flatten(outputs))}

    def calibration_batches():
        for batch in _batches(data, specs[0].shape[0] or 1):
            yield {f"input_{index}": array for index, array in enumerate(batch)}

    try:
        with _muted():
            function = tf.function(call, input_signature=specs, autograph=False).get_concrete_function()
            variables = tf.Module()
            variables.held = model.variables  # the converter wants an owner of the variables; the model is a slow one
            new_converter = functools.partial(tf.lite.TFLiteConverter.from_concrete_functions, [function], variables)
            has_loop = quantize == "int8" and _has_control_flow(function)
            if has_loop:  # LSTM loops become one operation; any other loop would crash the process in the calibration
                has_loop = Interpreter(model_content=new_converter().convert()).num_subgraphs() > 1
            converter = new_converter()
            if quantize:
                converter.optimizations = [tf.lite.Optimize.DEFAULT]
            if quantize == "float16":
                converter.target_spec.supported_types = [tf.float16]
            if quantize == "int8":
                converter.representative_dataset = calibration_batches
                converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
            content = None if has_loop else converter.convert()
    except Exception as error:  # the converter raises kinds of its own, and whatever TensorFlow raises beneath
        raise _NotRunnableError(
            f"export_tflite: quantize={quantize!r}: expected TFLite to convert model '{model.name}', got: "
            f"{_reason(error)}. Replace the layers named; rebuild a mixed precision model with the float32 policy."
        ) from error
    if has_loop:
        raise ExportError(
            f"export_tflite: quantize='int8': expected a model without loops, got '{model.name}' with a loop (GRU or "
            f"custom recurrence), which cannot be calibrated. Use quantize='dynamic' or 'float16', or LSTM layers."
        )
    return content


def _reason(error):
    """Returns the first line of an error's message, without its full stop."""
    return (str(error).strip() or repr(error)).splitlines()[0][:300].rstrip(". ")


def _has_control_flow(function):
    """Says whether a concrete function holds a loop or a branch, at any depth."""
    graph = function.graph.as_graph_def()
    nodes = [*graph.node, *(node for inner in graph.library.function for node in inner.node_def)]
    return any(node.op in ("While", "StatelessWhile", "If", "StatelessIf") for node in nodes)


def _load(path, num_threads, *, delegates=True):
    """Returns an interpreter of a file, not yet allocated, with or without the default delegates."""
    resolver = OpResolverType.AUTO if delegates else OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    with _muted():
        return Interpreter(str(path), num_threads=num_threads, experimental_op_resolver_type=resolver)


@contextlib.contextmanager
def _interpreter_errors(where, advice):
    """Turns the errors of the interpreter into `_NotRunnableError`."""
    try:
        yield
    except TFMetaPruneError:
        raise
    except (RuntimeError, ValueError) as error:
        raise _NotRunnableError(
            f"{where}: expected a file that loads and runs, got: {_reason(error)}. {advice}"
        ) from error


def _run(path, arrays, *, num_threads=1, batch_size, delegates=True):
    """Runs a file on arrays in the order of its inputs; returns the list of outputs, in order."""
    interpreter = _load(path, num_threads, delegates=delegates)
    runner = interpreter.get_signature_runner()
    inputs, output_names = runner.get_input_details(), sorted(runner.get_output_details(), key=_position)
    input_names = sorted(inputs, key=_position)
    wanted = [tuple(int(size) for size in inputs[name]["shape_signature"]) for name in input_names]
    got = [array.shape for array in arrays]
    if len(wanted) != len(got) or not all(map(_fits, wanted, got)) or len({shape[0] for shape in got}) != 1:
        raise ArgumentError(
            f"run_tflite '{path}': expected inputs of shapes {wanted} (-1: any) with equally many samples, got {got}. "
            f"Pass arrays with the samples first, in the order of the Keras model's inputs."
        )

    def invoke(batch):
        pairs = zip(input_names, batch, strict=True)
        results = runner(**{name: np.ascontiguousarray(array, dtype=inputs[name]["dtype"]) for name, array in pairs})
        interpreter.reset_all_variables()  # a fused LSTM would start the next batch in this one's last state
        return [results[name] for name in output_names]

    batch_size = wanted[0][0] if wanted[0][0] > 0 else min(batch_size, got[0][0])
    batches = _batches(arrays, batch_size)
    with _muted():  # the delegate announces itself when memory is allocated
        first = invoke(next(batches))
    return _join([first, *map(invoke, batches)], got[0][0])


def _position(name):
    """Returns the 1 of "input_1": in a signature names are sorted as text, "input_10" before "input_2"."""
    digits = name.rpartition("_")[2]
    return int(digits) if digits.isdecimal() else 0


def _fits(wanted, got):
    """Says whether an array's shape fits a shape in which -1 or None is any size; the number of samples is free."""
    same = all(size in (-1, None, other) for size, other in zip(wanted[1:], got[1:], strict=False))
    return len(wanted) == len(got) and got[0] > 0 and same


def _batches(arrays, batch_size):
    """Yields lists of equally long slices; the last ones are filled up with their last sample."""
    for start in range(0, len(arrays[0]), batch_size):
        rows = np.minimum(np.arange(start, start + batch_size), len(arrays[0]) - 1)
        yield [array[rows] for array in arrays]


def _join(batches, num_samples):
    """Joins the outputs of `_batches` and drops what was filled up."""
    return [np.concatenate(parts)[:num_samples] for parts in zip(*batches, strict=True)]


def _keras_outputs(model, arrays):
    """Returns the Keras model's outputs, computed on the CPU: GPUs round float32 products to TF32."""

    def call(batch):
        outputs = model(batch if len(batch) > 1 else batch[0], training=False)
        return [output.numpy() for output in tf.nest.flatten(outputs)]

    with tf.device("CPU:0"):
        batch_size = model.inputs[0].shape[0] or len(arrays[0])
        return _join([call(batch) for batch in _batches(arrays, batch_size)], len(arrays[0]))


def _verify(path, shown_path, quantize, samples, expected, tolerance):
    """Runs a file in three ways and compares; returns the three differences that `ExportReport` holds."""
    measured = []
    where = f"export_tflite: quantize={quantize!r}, '{shown_path}'"
    for delegates, batch_size in ((True, 1), (True, len(samples[0])), (False, len(samples[0]))):
        with _interpreter_errors(where, _ADVICE[quantize]):
            actual = _run(path, samples, batch_size=batch_size, delegates=delegates)
        for index, (keras_output, output) in enumerate(zip(expected, actual, strict=True)):
            differences, problem = _compare(keras_output, output, quantize, tolerance)
            measured.append(differences)
            if problem:
                raise ExportError(
                    f"{where}: expected output {index} to agree with the Keras model's, got {problem} on {len(output)} "
                    f"samples, {'with' if delegates else 'without'} delegates. {_ADVICE[quantize]}"
                )
    largest, relative, agreements = zip(*measured, strict=True)
    agreements = [agreement for agreement in agreements if agreement is not None]
    return max(largest), max(relative), min(agreements, default=None)


def _compare(expected, actual, quantize, tolerance):
    """Compares one output [samples, ...]; returns (absolute, relative, argmax agreement) and the problem or None."""
    if expected.shape != actual.shape:
        return (0.0, 0.0, None), f"shape {actual.shape} instead of {expected.shape}"
    expected, actual = expected.astype(np.float64), actual.astype(np.float64)
    error, tiny = actual - expected, np.finfo(np.float64).tiny
    absolute = float(np.abs(error).max())
    relative = absolute / max(float(np.abs(expected).max()), tiny)
    rms = float(np.sqrt(np.mean(error**2)) / max(np.sqrt(np.mean(expected**2)), tiny))
    agreement, tells = None, False
    if expected.ndim == 2 and expected.shape[1] >= 2:
        second, first = np.sort(expected, axis=1)[:, -2:].T
        clear = first - second > TIE_MARGIN * np.ptp(expected)
        classes = expected.argmax(axis=1)[clear]
        if clear.any():
            agreement = float(np.mean(actual.argmax(axis=1)[clear] == classes))
        tells = len(classes) >= MIN_CLEAR_SAMPLES and len(set(classes)) >= 2
    problem = None
    if quantize in (None, "float16"):
        if not relative <= tolerance:  # written so that NaN is a problem
            problem = f"a difference of {relative:.2g} of the largest output (at most {tolerance:.2g})"
    elif tells and np.isfinite(rms):
        if agreement < MIN_ARGMAX_AGREEMENT:
            problem = f"the same class in {agreement:.0%} of the clear samples (at least {MIN_ARGMAX_AGREEMENT:.0%})"
    elif not rms <= MAX_RMS_ERROR:
        problem = f"an RMS error of {rms:.2g} of the RMS output (at most {MAX_RMS_ERROR})"
    return (absolute, relative, agreement), problem


def _representative_arrays(model, data):
    """Returns up to 256 samples of the user's data: one array per model input, in order and in its dtype."""
    if not isinstance(data, tf.data.Dataset):
        return [_spread(array, MAX_CALIBRATION_SAMPLES) for array in _model_inputs(model, data)]
    batches, num_samples = [], 0
    for element in data:
        batches.append(_model_inputs(model, element))
        num_samples += len(batches[-1][0])
        if num_samples >= MAX_CALIBRATION_SAMPLES:
            break
    if not batches:
        raise ArgumentError("export_tflite: expected representative_data with samples, got an empty dataset. Fill it.")
    return _join(batches, MAX_CALIBRATION_SAMPLES)


def _model_inputs(model, data):
    """Picks x out of x, (x, y) or (x, y, w), and returns its arrays in the order of the model's inputs."""
    names = sorted(model.input) if isinstance(model.input, dict) else model.input_names
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
    if len(wanted) != len(got) or not all(map(_fits, wanted, got)) or len({shape[0] for shape in got}) != 1:
        raise ArgumentError(
            f"export_tflite: expected representative_data for the inputs {names} of shapes {wanted}, got {got}. Pass "
            f"batched x or (x, y), where x is an array, or a tuple or dict by input name of one array per input."
        )
    return [array.astype(tensor.dtype.as_numpy_dtype) for array, tensor in zip(arrays, model.inputs, strict=True)]


def _random_samples(model):
    """Returns 32 seeded random samples: one array per model input."""
    rng, arrays = np.random.default_rng(0), []
    for name, tensor in zip(model.input_names, model.inputs, strict=True):
        if None in tensor.shape[1:]:
            raise ArgumentError(
                f"export_tflite: expected known sizes of input '{name}' to make samples, got {tuple(tensor.shape)}. "
                f"Pass representative_data of the sizes in use."
            )
        arrays.append(_random_array(rng, (MAX_CHECK_SAMPLES, *tensor.shape[1:]), tensor.dtype.as_numpy_dtype))
    return arrays


def _random_array(rng, shape, dtype):
    """Returns normal numbers, or zeros and ones if the dtype is not a float."""
    values = rng.normal(size=shape) if np.issubdtype(dtype, np.floating) else rng.integers(0, 2, size=shape)
    return values.astype(dtype)


def _spread(array, num_samples):
    """Returns at most `num_samples` samples, evenly spread: data are often sorted by class."""
    return array[np.linspace(0, len(array) - 1, min(num_samples, len(array))).astype(int)]
