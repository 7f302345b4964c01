"""Keras model -> `ModelTrace`: the call events of a functional or Sequential model, and the walk over them.

The only file that touches Keras' private graph.
"""

import dataclasses
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from tfmetaprune._keras import keras, tf
from tfmetaprune.channels import ChannelMap, follow_channels
from tfmetaprune.errors import UnsupportedModelError
from tfmetaprune.layers import LayerCall, TensorIndex


@dataclasses.dataclass(frozen=True, eq=False)
class ModelTrace:
    """A model as a list of call events.

    Attributes:
      model: the tf_keras model.
      calls: every call of every layer (inputs excluded) in topological order.
      shapes: the shape of every tensor, batch axis included, None where unknown.
      inputs, outputs: tensor indices of the model's inputs and outputs.
      channels: where every channel goes.
    """

    model: Any
    calls: tuple[LayerCall, ...]
    shapes: tuple[tuple[int | None, ...], ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    channels: ChannelMap


def trace_model(model) -> ModelTrace:
    """Reads a functional or Sequential tf_keras model.

    Args:
      model: a built model; it is not modified.

    Raises:
      UnsupportedModelError: it is no tf_keras model, is subclassed or unbuilt, or has NaN or infinite weights.

    Example:
      >>> from tfmetaprune._keras import keras
      >>> model = keras.Sequential([keras.layers.Dense(4, input_shape=(3,)), keras.layers.Dense(2)])
      >>> trace = trace_model(model)
      >>> [call.layer.units for call in trace.calls], trace.channels.num_units
      ([4, 2], 9)
    """
    _check_model(model)
    index, shapes = {}, []

    def tensor_index(tensor):
        if id(tensor) not in index:
            index[id(tensor)] = len(shapes)
            shapes.append(tuple(tensor.shape))
        return index[id(tensor)]

    def replace(structure):
        return tf.nest.map_structure(
            lambda leaf: TensorIndex(tensor_index(leaf)) if hasattr(leaf, "_keras_history") else leaf, structure
        )

    inputs = tuple(tensor_index(tensor) for tensor in model.inputs)
    calls, counts = [], {}
    for _, nodes in sorted(model._nodes_by_depth.items(), reverse=True):
        for node in nodes:
            if node.is_input:
                continue
            read = tuple(tensor_index(tensor) for tensor in node.keras_inputs)
            made = tuple(tensor_index(tensor) for tensor in tf.nest.flatten(node.outputs))
            layer = node.layer
            calls.append(
                LayerCall(
                    layer, counts.get(layer.name, 0), replace(node.call_args), replace(node.call_kwargs), read, made,
                    tuple(shapes[tensor] for tensor in read), tuple(shapes[tensor] for tensor in made),
                )
            )  # fmt: skip
            counts[layer.name] = counts.get(layer.name, 0) + 1
    outputs = tuple(tensor_index(tensor) for tensor in model.outputs)
    channels = follow_channels(calls, shapes, inputs, outputs)
    return ModelTrace(model, tuple(calls), tuple(shapes), inputs, outputs, channels)


def _check_model(model) -> None:
    keras3 = sys.modules.get("keras")
    if keras3 is not None and isinstance(model, getattr(keras3, "Model", ())) and not isinstance(model, keras.Model):
        raise UnsupportedModelError(
            f"Model {model.name!r}: expected a tf_keras (Keras 2) model, got a Keras {keras3.__version__} model. "
            f"Build it with tf_keras, or set TF_USE_LEGACY_KERAS=1 before importing tensorflow."
        )
    if not isinstance(model, keras.Model):
        raise UnsupportedModelError(
            f"tfmetaprune: expected a tf_keras model, got {type(model).__name__}. Pass a functional or Sequential model."
        )
    if isinstance(model, keras.Sequential) and not model._graph_initialized:
        raise UnsupportedModelError(
            f"Model {model.name!r}: expected a built model, got a Sequential without an input shape. "
            f"Give its first layer an input_shape, or call it once on data."
        )
    if not isinstance(model, type(keras.Sequential()).__mro__[1]):  # Functional, which tf_keras does not export
        raise UnsupportedModelError(
            f"Model {model.name!r}: expected a functional or Sequential model, got the subclassed model "
            f"{type(model).__name__}. Wrap its layers functionally: keras.Model(inputs, outputs)."
        )
    for weight in model.weights:
        if weight.dtype.is_floating and not np.all(np.isfinite(weight.numpy())):
            raise UnsupportedModelError(
                f"Weight {weight.name!r} of model {model.name!r}: expected finite numbers, got NaN or infinity. "
                f"Train the model again with a smaller learning rate, or load an earlier checkpoint."
            )


def run(trace: ModelTrace, inputs, call_layer: Callable | None = None) -> list:
    """Walks the call events.

    Args:
      trace: the traced model.
      inputs: tensors (or Keras tensors) for the model's inputs, in order.
      call_layer: `call_layer(index, call, *args, **kwargs)` takes the place of `call.layer(*args, **kwargs)`.

    Returns:
      The model's outputs, a list in the model's order.
    """
    values = dict(zip(trace.inputs, inputs))
    for position, call in enumerate(trace.calls):
        args, kwargs = tf.nest.map_structure(
            lambda leaf: values[leaf.index] if isinstance(leaf, TensorIndex) else leaf, (call.args, dict(call.kwargs))
        )
        made = call.layer(*args, **kwargs) if call_layer is None else call_layer(position, call, *args, **kwargs)
        values.update(zip(call.outputs, tf.nest.flatten(made)))
    return [values[tensor] for tensor in trace.outputs]
