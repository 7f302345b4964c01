"""Makes the content of a TFLite file."""

import dataclasses
import functools

from tfmetaprune._keras import tf
from tfmetaprune.errors import ExportError
from tfmetaprune.export.running import NotRunnableError, muted, reason
from tfmetaprune.export.samples import batched


@dataclasses.dataclass(frozen=True)
class Conversion:
    """How a file is made, see `export_tflite`.

    Attributes:
      quantize: None, "float16", "dynamic" or "int8".
      sparse: whether runs of zeros are left out of the file.
      integer_io: whether inputs and outputs are 8-bit.
      trained: whether the model holds the ranges of its activations, from quantisation-aware training.
    """

    quantize: str | None = None
    sparse: bool = False
    integer_io: bool = False
    trained: bool = False

    def __str__(self):
        options = {"sparse": self.sparse, "integer_io": self.integer_io}
        return ", ".join([f"quantize={self.quantize!r}", *(f"{name}=True" for name, is_set in options.items() if is_set)])


def convert(model, conversion, data, batch_size):
    """Makes the content of a TFLite file.

    Args:
      model: the tf_keras model.
      conversion: a `Conversion`.
      data: arrays [samples, ...] in the order of the model's inputs, to calibrate "int8" on; None where it is not needed.
      batch_size: used where the model's is unknown; None makes it resizable.

    Returns:
      The file's bytes.

    Raises:
      NotRunnableError: the converter failed.
      ExportError: the model has a loop, which cannot be calibrated.
    """
    calibrated = conversion.quantize == "int8" and not conversion.trained
    specs = [
        tf.TensorSpec([tensor.shape[0] or batch_size, *tensor.shape[1:]], tensor.dtype, name=f"input_{index}")
        for index, tensor in enumerate(model.inputs)
    ]

    def call(*inputs):
        outputs = model(list(inputs) if len(inputs) > 1 else inputs[0], training=False)
        return {f"output_{index}": output for index, output in enumerate(tf.nest.flatten(outputs))}

    def calibration_batches():
        for batch in batched(data, specs[0].shape[0] or 1):
            yield {f"input_{index}": array for index, array in enumerate(batch)}

    try:
        with muted():
            function = tf.function(call, input_signature=specs, autograph=False).get_concrete_function()
            variables = tf.Module()
            variables.held = model.variables  # the converter wants an owner of the variables; the model is a slow one
            new_converter = functools.partial(tf.lite.TFLiteConverter.from_concrete_functions, [function], variables)
            has_loop = calibrated and _has_control_flow(function)
            if has_loop:  # LSTM loops become one operation; any other loop would crash the process in the calibration
                from ai_edge_litert.interpreter import Interpreter

                has_loop = Interpreter(model_content=new_converter().convert()).num_subgraphs() > 1
            converter = new_converter()
            if conversion.quantize:
                converter.optimizations = [tf.lite.Optimize.DEFAULT]
            if conversion.sparse:
                converter.optimizations = [*converter.optimizations, tf.lite.Optimize.EXPERIMENTAL_SPARSITY]
            if conversion.quantize == "float16":
                converter.target_spec.supported_types = [tf.float16]
            if conversion.integer_io:
                converter.inference_input_type = converter.inference_output_type = tf.int8
            if calibrated:
                converter.representative_dataset = calibration_batches
                converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
            content = None if has_loop else converter.convert()
    except Exception as error:  # the converter raises kinds of its own, and whatever TensorFlow raises beneath
        raise NotRunnableError(
            f"export_tflite: {conversion}: expected TFLite to convert model '{model.name}', got: "
            f"{reason(error)}. Replace the layers named; rebuild a mixed precision model with the float32 policy."
        ) from error
    if has_loop:
        raise ExportError(
            f"export_tflite: quantize='int8': expected a model without loops, got '{model.name}' with a loop (GRU or "
            f"custom recurrence), which cannot be calibrated. Use quantize='dynamic' or 'float16', or LSTM layers."
        )
    return content


def _has_control_flow(function):
    """Says whether a concrete function holds a loop or a branch, at any depth."""
    graph = function.graph.as_graph_def()
    nodes = [*graph.node, *(node for inner in graph.library.function for node in inner.node_def)]
    return any(node.op in ("While", "StatelessWhile", "If", "StatelessIf") for node in nodes)
