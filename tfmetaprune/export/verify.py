"""Compares what a TFLite file computes with what its Keras model computes."""

import numpy as np

from tfmetaprune._keras import tf
from tfmetaprune.errors import ExportError
from tfmetaprune.export.running import interpreter_errors, run_file
from tfmetaprune.export.samples import batched, joined
from tfmetaprune.export.trial import try_file

# float32 files differ from Keras by rounding alone (other summation order, folded batch norms). Each layer adds its own
# share like a step of a random walk, so the tolerance grows with the root of the number of weight arrays.
FLOAT32_TOLERANCE = 1e-5  # largest difference / largest output, per root of the number of weight arrays
FLOAT16_TOLERANCE = 1e-2  # largest difference / largest output: weights keep 11 bits, 5e-4, and layers add up
MIN_ARGMAX_AGREEMENT = 0.95  # 8-bit files: the share of clear samples that must keep their class
MAX_RMS_ERROR = 0.1  # 8-bit files where classes tell nothing: RMS difference / RMS output
TIE_MARGIN = 0.1  # a sample is clear if its two best outputs differ by more than this share of the outputs' range
MIN_CLEAR_SAMPLES = 8  # of fewer clear samples, or of one class only, agreement tells nothing

ADVICE = {
    None: "Export parts of the model to find the layer that TFLite computes differently.",
    "float16": "Export with quantize=None: weights or activations may exceed float16's range, 65504.",
    "dynamic": "Export with quantize='float16'.",
    "int8": "Give more representative samples, of all classes and preprocessed as in training, or export with "
    "quantize='dynamic' or 'float16'.",
}
SPARSE_ADVICE = "Export with sparse=False, or with quantize=None or 'float16'; gzip alone makes zeros nearly as small."


def keras_outputs(model, arrays):
    """Returns the Keras model's outputs, computed on the CPU: GPUs round float32 products to TF32."""

    def call(batch):
        outputs = model(batch if len(batch) > 1 else batch[0], training=False)
        return [output.numpy() for output in tf.nest.flatten(outputs)]

    with tf.device("CPU:0"):
        batch_size = model.inputs[0].shape[0] or len(arrays[0])
        return joined([call(batch) for batch in batched(arrays, batch_size)], len(arrays[0]))


def verify_file(path, shown_path, conversion, samples, expected, tolerance):
    """Runs a file in three ways and compares; returns the outputs of one, and the three differences that `ExportReport` holds."""
    measured, quantize = [], conversion.quantize
    where = f"export_tflite: {conversion}, '{shown_path}'"
    if conversion.sparse:
        try_file(path, where, SPARSE_ADVICE)
    for delegates, batch_size in ((True, 1), (True, len(samples[0])), (False, len(samples[0]))):
        with interpreter_errors(where, SPARSE_ADVICE if conversion.sparse else ADVICE[quantize]):
            actual = run_file(path, samples, batch_size=batch_size, delegates=delegates)
        for index, (keras_output, output) in enumerate(zip(expected, actual, strict=True)):
            differences, problem = _compare(keras_output, output, quantize, tolerance)
            measured.append(differences)
            if problem:
                raise ExportError(
                    f"{where}: expected output {index} to agree with the Keras model's, got {problem} on {len(output)} "
                    f"samples, {'with' if delegates else 'without'} delegates. {ADVICE[quantize]}"
                )
    return actual, _worst(measured)


def compare_outputs(expected, actual):
    """Returns the three differences that `ExportReport` holds, of lists of outputs [samples, ...]; judges nothing."""
    return _worst([_compare(one, other, "int8", 0.0)[0] for one, other in zip(expected, actual, strict=True)])


def _worst(measured):
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
