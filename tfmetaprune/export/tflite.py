"""Exports Keras models as TFLite files that were run before they count, and runs such files.

The converter writes some files that no interpreter can load, or that compute something else, without complaint. So
every file is loaded and compared with its Keras model under a temporary name, and only then gets its own name.
In the file's signature, inputs and outputs are called `input_0`, `input_1`, ..., `output_0`, ..., in the Keras model's
order.
"""

import contextlib
import dataclasses
import gzip
import os
import pathlib
import uuid

import numpy as np

from tfmetaprune._keras import keras
from tfmetaprune.errors import ArgumentError, ExportError
from tfmetaprune.export.convert import convert
from tfmetaprune.export.running import NotRunnableError, run_tflite
from tfmetaprune.export.samples import MAX_CHECK_SAMPLES, random_samples, representative_arrays, spread
from tfmetaprune.export.verify import ADVICE, FLOAT16_TOLERANCE, FLOAT32_TOLERANCE, keras_outputs, verify_file
from tfmetaprune.interop import carry

__all__ = ["ExportReport", "export_tflite", "run_tflite"]


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
    if quantize not in list(ADVICE):
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
    data = None if representative_data is None else representative_arrays(model, representative_data)
    samples = random_samples(model) if data is None else [spread(array, MAX_CHECK_SAMPLES) for array in data]
    expected = keras_outputs(model, samples)
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
                temporary.write_bytes(convert(model, quantize, data, batch_size))
                differences = verify_file(temporary, path, quantize, samples, expected, tolerance)
                break
            except NotRunnableError:
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
