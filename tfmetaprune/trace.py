"""Keras model -> `ModelTrace`: the call events of a functional or Sequential model, and the walk over them.

The only file that touches Keras' private graph.
"""

import dataclasses
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from tfmetaprune._keras import keras, tf
from tfmetaprune.channels import ChannelMap, follow_channels
from tfmetaprune.errors import DataError, UnsupportedModelError
from tfmetaprune.layers import LayerCall, TensorIndex


@dataclasses.dataclass(frozen=True, eq=False)
class Step:
    """One call inside one model: of a layer, or of a nested model.

    Attributes:
      layer: the layer, or the nested model.
      args, kwargs: what it is called with; every tensor is replaced by its `TensorIndex`.
      inputs, outputs: indices of the tensors read and made.
      call: index of the call event in `ModelTrace.calls`; None for a nested model.
      inside: what goes on inside the nested model; None for a layer.
    """

    layer: Any
    args: tuple
    kwargs: Mapping[str, Any]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    call: int | None = None
    inside: "Scope | None" = None


@dataclasses.dataclass(frozen=True, eq=False)
class Scope:
    """One walk through one model, the whole or a nested one.

    Attributes:
      model: the model.
      inputs, outputs: indices of the tensors that go in and come out, in the order of `model.inputs` and `.outputs`.
      steps: what is called, in topological order.
    """

    model: Any
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    steps: tuple[Step, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class ModelTrace:
    """A model as a list of call events; nested models are walked through.

    Attributes:
      model: the tf_keras model.
      calls: every call of every layer (inputs and nested models excluded) in topological order.
      shapes: the shape of every tensor, batch axis included, None where unknown.
      inputs, outputs: tensor indices of the model's inputs and outputs.
      channels: where every channel goes.
      root: the calls once more, as they are nested.
    """

    model: Any
    calls: tuple[LayerCall, ...]
    shapes: tuple[tuple[int | None, ...], ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    channels: ChannelMap
    root: Scope


def trace_model(model) -> ModelTrace:
    """Reads a functional or Sequential tf_keras model.

    Args:
      model: a built model; it is not modified.

    Raises:
      UnsupportedModelError: it is no tf_keras model, is subclassed or unbuilt, has ragged or sparse inputs, or has NaN or
        infinite weights.

    Example:
      >>> from tfmetaprune._keras import keras
      >>> model = keras.Sequential([keras.layers.Dense(4, input_shape=(3,)), keras.layers.Dense(2)])
      >>> trace = trace_model(model)
      >>> [call.layer.units for call in trace.calls], trace.channels.num_units
      ([4, 2], 9)
    """
    _check_model(model)
    reader = _Reader()
    inputs = tuple(reader.new_tensor(tensor) for tensor in model.inputs)
    root = reader.read(model, inputs, "")
    channels = follow_channels(reader.calls, reader.shapes, inputs, root.outputs, reader.equal_tensors)
    return ModelTrace(model, tuple(reader.calls), tuple(reader.shapes), inputs, root.outputs, channels, root)


class _Reader:
    """Walks through a model and the models nested in it."""

    def __init__(self):
        self.calls, self.shapes, self.equal_tensors = [], [], []
        self.paths, self.counts, self.first_inputs = {}, {}, {}

    def new_tensor(self, tensor) -> int:
        kind = type(getattr(tensor, "type_spec", None)).__name__
        if kind in ("RaggedTensorSpec", "SparseTensorSpec"):
            raise UnsupportedModelError(
                f"Tensor {tensor.name!r}: expected a dense tensor, got a {kind.removesuffix('TensorSpec').lower()} one. "
                f"Convert it to a dense one in front of the model."
            )
        self.shapes.append(tuple(tensor.shape))
        return len(self.shapes) - 1

    def entering(self, layer, args) -> tuple[int, ...] | None:
        """The tensors that go into a nested model, in the order of its inputs; None for a layer."""
        if not is_functional(layer) or not args:
            return None
        leaves = layer._flatten_to_reference_inputs(args[0])
        return tuple(leaf.index for leaf in leaves) if all(isinstance(leaf, TensorIndex) for leaf in leaves) else None

    def read(self, model, inputs, prefix) -> Scope:
        """Walks through a model whose inputs are the tensors of these indices."""
        index = {id(tensor): i for tensor, i in zip(model.inputs, inputs, strict=True)}

        def replace(structure):
            return tf.nest.map_structure(
                lambda leaf: TensorIndex(index[id(leaf)]) if hasattr(leaf, "_keras_history") else leaf, structure
            )

        steps = []
        for _, nodes in sorted(model._nodes_by_depth.items(), reverse=True):
            order = {id(node): node.layer._inbound_nodes.index(node) for node in nodes}  # as the calls were made
            layers = list(dict.fromkeys(id(node.layer) for node in nodes))
            for node in sorted(nodes, key=lambda node: (layers.index(id(node.layer)), order[id(node)])):
                if node.is_input:
                    continue
                layer, made = node.layer, tf.nest.flatten(node.outputs)
                args, kwargs = replace(node.call_args), replace(node.call_kwargs)
                read = tuple(index[id(tensor)] for tensor in node.keras_inputs)
                path = self.paths.setdefault(id(layer), prefix + layer.name)
                entering = self.entering(layer, args)
                if entering is not None:
                    inside = self.read(layer, entering, path + "/")
                    known = self.first_inputs.setdefault(id(layer), entering)
                    self.equal_tensors += [pair for pair in zip(known, entering) if known is not entering]
                    steps.append(Step(layer, args, kwargs, read, inside.outputs, inside=inside))
                    index.update({id(tensor): i for tensor, i in zip(made, inside.outputs, strict=True)})
                    continue
                outputs = tuple(self.new_tensor(tensor) for tensor in made)
                index.update({id(tensor): i for tensor, i in zip(made, outputs)})
                steps.append(Step(layer, args, kwargs, read, outputs, call=len(self.calls)))
                count = self.counts[id(layer)] = self.counts.get(id(layer), -1) + 1
                self.calls.append(
                    LayerCall(
                        layer, path, count, args, kwargs, read, outputs,
                        tuple(self.shapes[tensor] for tensor in read), tuple(self.shapes[tensor] for tensor in outputs),
                    )
                )  # fmt: skip
        return Scope(model, inputs, tuple(index[id(tensor)] for tensor in model.outputs), tuple(steps))


def is_functional(layer) -> bool:
    """Whether a layer is a functional or a built Sequential model with no `call` of its own, whose calls can be walked through."""
    functional = keras.Sequential.__mro__[1]  # tf_keras does not export the class
    if not isinstance(layer, functional) or type(layer).call not in (functional.call, keras.Sequential.call):
        return False
    return bool(getattr(layer, "_nodes_by_depth", None)) and layer.inputs is not None


def _check_model(model) -> None:
    keras3 = sys.modules.get("keras")
    if keras3 is not None and isinstance(model, getattr(keras3, "Model", ())) and not isinstance(model, keras.Model):
        raise UnsupportedModelError(
            f"Model {model.name!r}: expected a tf_keras (Keras 2) model, got a Keras {keras3.__version__} model. "
            f"Carry it over first: tfmetaprune.interop.carry(model)."
        )
    if not isinstance(model, keras.Model):
        raise UnsupportedModelError(
            f"tfmetaprune: expected a Keras model, got {type(model).__name__}. Pass a functional or Sequential model."
        )
    if isinstance(model, keras.Sequential) and not model._graph_initialized:
        raise UnsupportedModelError(
            f"Model {model.name!r}: expected a built model, got a Sequential without an input shape. "
            f"Give its first layer an input_shape, or call it once on data."
        )
    if not is_functional(model):
        raise UnsupportedModelError(
            f"Model {model.name!r}: expected a functional or Sequential model, got the subclassed model "
            f"{type(model).__name__} with the parts {_parts(model)}. Wrap it functionally: call its parts one by one on "
            f"keras.Input(...) as its call() does, then keras.Model(inputs, outputs)."
        )
    for layer in model._flatten_layers():
        if type(layer).__name__ in ("AddLoss", "AddMetric") and type(layer).__module__.startswith("tf_keras."):
            raise UnsupportedModelError(
                f"Model {model.name!r}: expected losses and metrics to be given to compile(), got one of "
                f"{'add_loss' if type(layer).__name__ == 'AddLoss' else 'add_metric'}(), {layer.name!r}. Make the model without it, of the "
                f"same inputs and outputs."
            )
        if not all(hasattr(weight, "dtype") for weight in layer.weights) and not isinstance(layer, keras.Model):
            raise UnsupportedModelError(
                f"Layer {layer.name!r} ({type(layer).__name__}) of model {model.name!r}: expected a vocabulary that was given to its "
                f"constructor, got one that was adapted. Make it with vocabulary=layer.get_vocabulary(), or leave it in front of the model."
            )
    for weight in model.weights:
        if weight.dtype.is_floating and not np.all(np.isfinite(weight.numpy())):
            raise UnsupportedModelError(
                f"Weight {weight.name!r} of model {model.name!r}: expected finite numbers, got NaN or infinity. "
                f"Train the model again with a smaller learning rate, or load an earlier checkpoint."
            )


def _parts(model) -> str:
    parts = [f"{layer.name!r} ({type(layer).__name__})" for layer in model._flatten_layers(recursive=False, include_self=False)]
    return ", ".join(parts[:8]) + (", ..." if len(parts) > 8 else "") if parts else "none that Keras knows of"


def activation_of(layer):
    """Returns the activation of a layer; softmax and sigmoid as `keras.activations` has them, whoever else wrote them; None for none."""
    if isinstance(layer, keras.layers.Softmax):
        return keras.activations.softmax
    activation = getattr(layer, "activation", None) or getattr(layer, "function", None)  # of a layer, of a TensorFlow operator
    kind = getattr(layer, "carried_kind", None)  # of an operation of Keras 3
    if kind is not None and getattr(layer.carried, "axis", -1) == -1:
        activation = kind
    softmax, sigmoid = keras.activations.softmax, keras.activations.sigmoid
    known = {"softmax": softmax, "softmax_v2": softmax, "Softmax": softmax, "sigmoid": sigmoid, "Sigmoid": sigmoid}
    return known.get(getattr(activation, "__name__", None), getattr(layer, "activation", None))


def input_keys(model) -> list:
    """Returns the names that data as a dict have for the inputs of a model, in the order of `model.inputs`."""
    return sorted(model.input) if isinstance(model.input, dict) else list(model.input_names)


def run(trace: ModelTrace, inputs, call_layer: Callable | None = None) -> list:
    """Walks the call events in inference mode.

    Args:
      trace: the traced model.
      inputs: tensors (or Keras tensors) for the model's inputs, in order.
      call_layer: `call_layer(index, call, *args, **kwargs)` takes the place of `call.layer(*args, **kwargs)`.

    Returns:
      The model's outputs, a list in the model's order.
    """
    values = dict(zip(trace.inputs, inputs))
    for position, call in enumerate(trace.calls):
        args, kwargs = call_arguments(call, values)
        made = call.layer(*args, **kwargs) if call_layer is None else call_layer(position, call, *args, **kwargs)
        values.update(zip(call.outputs, tf.nest.flatten(made)))
    return [values[tensor] for tensor in trace.outputs]


def given_batch_size(trace: ModelTrace) -> int | None:
    """Returns the batch size that a model was made for; None for any."""
    return next((tensor.shape[0] for tensor in trace.model.inputs if tensor.shape[0] is not None), None)


def required_batch_size(trace: ModelTrace, inputs) -> int | None:
    """Returns how many examples the model has to be called on at once; None if its inputs do not say, or any number will do.

    A model of a fixed batch size mostly takes any number when it is walked through; it does not where, say, a reshape names the size.

    Args:
      trace: the traced model.
      inputs: tensors for the model's inputs, in order, of one example at least.
    """
    size = given_batch_size(trace)
    if size is None:
        return None
    other = 3 if size == 2 else 2
    try:
        outputs = run(trace, [tf.repeat(value[:1], other, axis=0) for value in inputs])
    except Exception:  # a layer of the user's raises what it likes
        return size
    return None if all(tuple(output.shape[:1]) == (other,) for output in outputs) else size


def in_parts(trace: ModelTrace, batches: Iterable, num_samples: int, part_size: Callable) -> Iterator[list]:
    """Yields the inputs of batches in parts that the model can be called on.

    Where the model requires its batch size, each part has it; what fills no part is left out.

    Args:
      trace: the traced model.
      batches: lists of tensors for the model's inputs, in order.
      num_samples: at most so many examples are read; of whole parts the last one is yielded whole.
      part_size: called with the inputs of a batch; returns how many examples a part has at most, where any number will do.

    Raises:
      DataError: no batch is as large as the model requires.
    """
    left, is_known, required = num_samples, False, None
    for inputs in batches:
        size = int(inputs[0].shape[0])
        if not size:
            continue
        if not is_known:
            is_known, required = True, required_batch_size(trace, inputs)
        size = min(left, size) if required is None else size - size % required
        length = required or part_size(inputs)
        for begin in range(0, size, length):
            part = [value[begin : min(begin + length, size)] for value in inputs]
            yield part
            left -= int(part[0].shape[0])
            if left <= 0:
                return
    if required is not None and left == num_samples:
        raise DataError(f"Data: expected batches of {required}, as {trace.model.name!r} requires, got smaller ones. Batch them anew.")


def call_arguments(call: LayerCall, values: Mapping) -> tuple:
    """Returns the args and kwargs of a call in inference mode.

    Args:
      call: the call.
      values: index of a tensor -> tensor, for those that the call reads.
    """
    args, kwargs = tf.nest.map_structure(
        lambda leaf: values[leaf.index] if isinstance(leaf, TensorIndex) else leaf, (call.args, dict(call.kwargs))
    )
    if getattr(getattr(call.layer, "_call_spec", None), "default_training_arg", None) is True:
        kwargs.setdefault("training", False)  # random augmentations, which train unless told otherwise
    return args, kwargs


def map_inputs(call: LayerCall, function: Callable, args, kwargs) -> tuple:
    """Applies a function to the tensors among a call's arguments.

    Args:
      call: the call.
      function: `function(position, tensor)`, the position counted as in `call.inputs`.
      args: the arguments, as `run` hands them to `call_layer`.
      kwargs: the keyword arguments, likewise.

    Returns:
      The new args and kwargs.
    """
    count = iter(range(len(call.inputs)))

    def replace(template, value):
        return function(next(count), value) if isinstance(template, TensorIndex) else value

    values = [kwargs[name] for name in call.kwargs]  # in the order of the call, not of the names
    args, values = tf.nest.map_structure(replace, (call.args, list(call.kwargs.values())), (tuple(args), values))
    return args, {**kwargs, **dict(zip(call.kwargs, values))}


def carry_mask(old, new):
    """Returns `new` with the Keras mask (of padded steps in a series) that `old` has."""
    mask = getattr(old, "_keras_mask", None)
    if mask is not None:
        new._keras_mask = mask
    return new
