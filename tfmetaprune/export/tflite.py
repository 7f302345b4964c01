"""Exports Keras models as TFLite files that were run before they count.

The converter writes some files that no interpreter can load, or that compute something else, without complaint. So
every file is loaded and compared with its Keras model under a temporary name, and only then gets its own name.
In the file's signature, inputs and outputs are called `input_0`, `input_1`, ..., `output_0`, ..., in the Keras model's
order.
"""

import contextlib
import dataclasses
import gzip
import numbers
import os
import pathlib
import uuid
from typing import Any, Literal

import numpy as np

from tfmetaprune._keras import keras
from tfmetaprune.errors import ArgumentError, ExportError
from tfmetaprune.export.contents import read_contents, share_of_zeros, zeros_by_layer
from tfmetaprune.export.convert import Conversion, convert
from tfmetaprune.export.failures import failing_layer, kernel_layers
from tfmetaprune.export.quantization_aware import train_quantized
from tfmetaprune.export.running import NotRunnableError, run_tflite
from tfmetaprune.export.samples import MAX_CHECK_SAMPLES, random_samples, representative_arrays, spread
from tfmetaprune.export.verify import (
    ADVICE,
    FLOAT16_TOLERANCE,
    FLOAT32_TOLERANCE,
    compare_outputs,
    keras_outputs,
    verify_file,
)
from tfmetaprune.finetuning import own_losses
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
      sparse: Whether zeros were left out of the file.
      integer_io: Whether inputs and outputs are 8-bit.
      zeros: Share in [0, 1] of the kernels' numbers that are exactly zero in the file.
      layer_zeros: The same for each layer that the file's names tell of.
      training: After quantisation-aware training, a dict: "history" (metric name -> values per epoch), and the three
        differences, by the names above, to the model as it was before that; else None. The differences above are then those to the
        trained model.
    """

    path: str
    quantize: str | None
    size_bytes: int
    gzip_size_bytes: int
    max_abs_difference: float
    relative_difference: float
    argmax_agreement: float | None
    num_samples: int
    sparse: bool = False
    integer_io: bool = False
    zeros: float = 0.0
    layer_zeros: dict[str, float] = dataclasses.field(default_factory=dict)
    training: dict | None = None

    def to_dict(self) -> dict:
        """Returns the fields as a dict that `json.dumps` accepts."""
        return dataclasses.asdict(self)


def export_tflite(
    model: Any, path: str | os.PathLike[str], *, quantize: Literal["float16", "dynamic", "int8"] | None = None,
    representative_data: Any = None, sparse: bool = False, integer_io: bool = False, training_data: Any = None, epochs: int = 3,
) -> ExportReport:  # fmt: skip
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
        "int8" without `training_data`; otherwise used for the comparison, in place of seeded random numbers (normal, or 0 and
        1 for integers).
      sparse: Whether to leave runs of zeros out of the file (the converter's EXPERIMENTAL_SPARSITY). Layers with few zeros
        stay as they are. It makes files smaller that are not compressed otherwise, not faster. XNNPACK refuses some:
        convolutions with "dynamic", dense layers with "dynamic" or "int8" unless their zeros lie in blocks of 1 x 16 inputs.
      integer_io: Whether inputs and outputs are int8 too, for "int8". `run_tflite` still takes and gives floats.
      training_data: For "int8": batched dataset of (x, y), or arrays (x, y), to train on; the model's own compiled loss, else
        the usual one for its outputs.
      epochs: Passes over `training_data`.

    Returns:
      An `ExportReport`.

    Raises:
      ArgumentError: The model is unbuilt or not of Keras, `quantize` is unknown, "int8" is asked for without
        data, `integer_io` or `training_data` without "int8", or the data do not fit the model's inputs.
      DataError: The training data do not fit the model.
      UnsupportedModelError: A Keras 3 model cannot be carried over to tf_keras.
      ExportError: The converter failed, TF-MOT cannot train a layer, the file does not run or does not agree with the Keras
        model (the layer is named where it can be found), or `path` cannot be written. Nothing is left behind, and a file that
        was at `path` before is untouched.

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
    _check_options(quantize, representative_data, integer_io, training_data, epochs)
    losses = own_losses(model)
    model, _ = carry(model)
    if not isinstance(model, keras.Model) or not getattr(model, "inputs", None) or not model.outputs:
        raise ArgumentError(
            f"export_tflite: expected a built functional or Sequential Keras model, got {type(model).__module__}."
            f"{type(model).__name__}. Build it with keras.Input, or rebuild it as a functional model."
        )
    path = pathlib.Path(path)
    if path.is_dir():
        raise ExportError(f"export_tflite: expected the path of a file, got the folder '{path}'. Add a file name.")
    given = training_data if representative_data is None else representative_data
    data = None if given is None else representative_arrays(model, given)
    samples = random_samples(model) if data is None else [spread(array, MAX_CHECK_SAMPLES) for array in data]
    expected = keras_outputs(model, samples)
    if not all(np.isfinite(output).all() for output in expected):
        raise ExportError(
            f"export_tflite: expected finite outputs of model '{model.name}', got NaN or infinity. Check its weights "
            f"and the data."
        )
    original, source, training = expected, model, None
    if training_data is not None:
        source, history = train_quantized(model, training_data, losses=losses, epochs=epochs)
        expected = keras_outputs(source, samples)
    conversion = Conversion(quantize, bool(sparse), bool(integer_io), training_data is not None)
    tolerance = FLOAT16_TOLERANCE if quantize else FLOAT32_TOLERANCE * max(1, len(model.weights)) ** 0.5
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        temporary.touch(exist_ok=False)  # finds out at once that a folder cannot be written
        outputs, differences = _write(source, temporary, path, conversion, data, samples, expected, tolerance)
        if training_data is not None:
            names = ("max_abs_difference", "relative_difference", "argmax_agreement")
            training = {"history": history, **dict(zip(names, compare_outputs(original, outputs)))}
        content, contents = temporary.read_bytes(), read_contents(temporary)
        os.replace(temporary, path)
    except OSError as error:
        raise ExportError(
            f"export_tflite: expected to write '{path}', got {error}. Create the folder, or choose another."
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
    return ExportReport(
        str(path), quantize, len(content), len(gzip.compress(content)), *differences, num_samples=len(samples[0]),
        sparse=conversion.sparse, integer_io=conversion.integer_io, zeros=share_of_zeros(contents),
        layer_zeros=zeros_by_layer(contents, list(kernel_layers(model))), training=training,
    )  # fmt: skip


def _write(model, temporary, path, conversion, data, samples, expected, tolerance):
    """Makes the file and runs it, with any batch size or else with 1; returns its outputs and the differences."""
    for batch_size in (None, 1):
        made = None
        try:
            temporary.write_bytes(convert(model, conversion, data, batch_size))
            made = temporary
            return verify_file(temporary, path, conversion, samples, expected, tolerance)
        except NotRunnableError as error:
            if batch_size == 1:
                layer = failing_layer(model, conversion, error.__cause__, made)
                if layer is None:
                    raise
                raise NotRunnableError(f"{error} It is layer {layer} that fails.") from error.__cause__


def _check_options(quantize, representative_data, integer_io, training_data, epochs):
    if quantize not in list(ADVICE):
        raise ArgumentError(
            f"export_tflite: expected quantize=None, 'float16', 'dynamic' or 'int8', got {quantize!r}. Use one of them."
        )
    if not isinstance(epochs, numbers.Integral) or epochs < 1:
        raise ArgumentError(f"export_tflite: expected a number of epochs >= 1, got {epochs!r}. Give 3.")
    named = {"integer_io=True": integer_io, "training_data": training_data is not None}
    for name in (name for name, is_set in named.items() if is_set and quantize != "int8"):
        raise ArgumentError(f"export_tflite: expected quantize='int8' with {name}, got {quantize!r}. Set it, or leave that out.")
    if quantize == "int8" and representative_data is None and training_data is None:
        raise ArgumentError(
            "export_tflite: quantize='int8' expected representative_data, got None. Pass some of the training data."
        )
