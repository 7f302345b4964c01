"""Keras 3 model -> tf_keras model: the graph is walked and called again."""

import importlib
import operator

import numpy as np

from tfmetaprune._keras import keras, tf
from tfmetaprune.errors import UnsupportedModelError
from tfmetaprune.interop.carried import carry_object, keras3
from tfmetaprune.interop.convert import convert_layer, copy_weights_here
from tfmetaprune.interop.structures import flatten, map_leaves


def to_tf_keras(model):
    """Builds the tf_keras model that computes what a Keras 3 model computes, with the same names and weights.

    Args:
      model: a functional or Sequential Keras 3 model on TensorFlow; it is not modified.

    Returns:
      A tf_keras model. What tf_keras has no namesake of is carried: see `CarriedLayer` and `CarriedOperation`.

    Raises:
      UnsupportedModelError: the model is subclassed or unbuilt, runs on another backend, or a part cannot be carried over.
    """
    keras3()
    converted = _Forward().model(model, model.name)
    copy_trainable(model, converted)
    return converted


def graph_of(model):
    """Returns the functional model whose graph a Keras 3 model has (a Sequential holds one); None if it has none."""
    if isinstance(model, keras3().Sequential):
        return model._functional
    functional = importlib.import_module("keras.src.models.functional").Functional  # Keras does not export the class
    return model if isinstance(model, functional) and type(model).call is functional.call else None


def call_order(graph):
    """Yields the calls in the graph of a Keras 3 model, those of inputs left out.

    They come in topological order, and those of a shared layer in the order in which they were made.
    """
    nodes = [node for _, level in sorted(graph._nodes_by_depth.items(), reverse=True) for node in level if not node.is_input]
    waiting = {}  # id of the layer -> its calls, in order
    for node in nodes:
        waiting.setdefault(id(node.operation), []).append(node)
    for calls in waiting.values():
        calls.sort(key=lambda node: node.operation._inbound_nodes.index(node))
    known = {id(tensor) for tensor in graph._inputs}
    while nodes:
        later = []
        for node in nodes:
            calls = waiting[id(node.operation)]
            if calls[0] is node and all(id(tensor) in known for tensor in node.input_tensors):
                calls.pop(0)
                known.update(map(id, node.outputs))
                yield node
            else:
                later.append(node)
        if len(later) == len(nodes):  # nothing is left to wait for
            yield from later
            return
        nodes = later


def call_arguments(node) -> tuple[tuple, dict]:
    """Returns what a Keras 3 layer was called with, without what Keras 3 itself wrote into its record of the call.

    That is `training`, where it is off (the model's own overrides it), and the mask that hangs at the tensor.
    """
    kwargs = dict(node.arguments.kwargs)
    if "training" in kwargs and not kwargs["training"]:
        del kwargs["training"]
    if "mask" in kwargs and node.arguments.args:
        implicit = flatten(map_leaves(_mask, node.arguments.args[0]))
        given = flatten(kwargs["mask"])
        if all(one is None for one in given) or len(implicit) == len(given) and all(map(operator.is_, implicit, given)):
            del kwargs["mask"]
    return node.arguments.args, kwargs


def _mask(tensor):
    return getattr(tensor, "_keras_mask", None)


def input_of(tensor):
    """Returns the InputLayer that a Keras 3 model's input comes from."""
    return tensor._keras_history.operation


class _Forward:
    """Makes tf_keras layers, each once, and calls them as the Keras 3 layers were called."""

    def __init__(self):
        self.layers = {}  # id of the Keras 3 layer or model -> the tf_keras one

    def model(self, model, path):
        """Returns the tf_keras model of a Keras 3 model."""
        graph = _check(model, path)
        values = {id(tensor): self._input(tensor, path) for tensor in graph._inputs}
        for node in call_order(graph):
            self._run(node, values, path)

        def value(tensor):
            return values[id(tensor)]

        inputs, outputs = map_leaves(value, graph._inputs_struct), map_leaves(value, graph._outputs_struct)
        if isinstance(model, keras3().Sequential):
            layers = [self.layers[id(layer)] for layer in model.layers]
            try:
                return keras.Sequential([inputs._keras_history.layer, *layers], name=model.name)
            except (TypeError, ValueError):
                pass
        return keras.Model(inputs=inputs, outputs=outputs, name=model.name)

    def _input(self, tensor, path):
        layer = input_of(tensor)
        if getattr(layer, "sparse", False) or getattr(layer, "ragged", False):
            raise UnsupportedModelError(
                f"Input {layer.name!r} of model {path!r}: expected a dense input, got a sparse or ragged one. "
                f"Make it dense before the model."
            )
        shape = tuple(tensor.shape)
        made = keras.layers.InputLayer(batch_input_shape=shape, dtype=tensor.dtype, name=layer.name)
        self.layers[id(layer)] = made
        return made.output

    def _run(self, node, values, path):
        """Calls the tf_keras layer of one call; adds its outputs to `values`."""
        original = node.operation
        title = f"Layer {path + '/' + original.name!r} ({type(original).__name__})"

        def replace(leaf):
            if isinstance(leaf, keras3().KerasTensor):
                return values[id(leaf)]
            constant = leaf is None or isinstance(leaf, _CONSTANTS) or tf.is_tensor(leaf)
            if not constant or isinstance(leaf, (keras3().Variable, tf.Variable)):
                raise UnsupportedModelError(
                    f"{title}: expected tensors of the model and constants as arguments, got {type(leaf).__name__}. "
                    f"Pass numbers or arrays, or put the call into a layer of its own."
                )
            return leaf

        args, kwargs = map_leaves(replace, call_arguments(node))
        layer, is_new = self.layers.get(id(original)), id(original) not in self.layers
        if is_new and isinstance(original, keras3().Model) and graph_of(original) is not None:
            layer = self.model(original, f"{path}/{original.name}")
            outputs = layer(*args, **kwargs)
        elif is_new:
            layer, outputs = self._first_call(original, node, args, kwargs, title)
        else:
            outputs = layer(*args, **kwargs)
        self.layers[id(original)] = layer
        made = flatten(outputs)
        values.update({id(tensor): value for tensor, value in zip(node.outputs, made, strict=True)})

    def _first_call(self, original, node, args, kwargs, title):
        """Converts a layer and calls it; if its namesake turns out to compute something else, the layer is carried."""
        made, failure = [], None
        for make in (convert_layer, carry_object):
            layer = make(original)
            try:
                outputs = layer(*args, **kwargs)
            except Exception as error:  # whatever tf_keras or a user's layer may raise
                failure = error
                continue
            if isinstance(original, keras3().layers.Layer) and not copy_weights_here(original, layer):
                failure = "other weights"
                continue
            if _same_shapes(node.outputs, flatten(outputs)) and _same_masks(node.outputs, flatten(outputs)):
                return layer, outputs
            made.append((layer, outputs))
        if not made:
            raise UnsupportedModelError(
                f"{title}: expected a layer that can be carried over to tf_keras, got: {failure}. "
                f"Give its class a get_config that holds every argument of its constructor, or replace the layer."
            ) from (failure if isinstance(failure, Exception) else None)
        first, last = (flatten(outputs) for _, outputs in (made[0], made[-1]))
        # What Keras 3 expects its outputs to be is not what it computes: the carrier tells.
        return made[0] if _same_shapes(first, last) and _same_masks(first, last) else made[-1]


_CONSTANTS = (bool, int, float, complex, str, bytes, slice, type(Ellipsis), np.ndarray, np.generic, tf.dtypes.DType)


def _same_shapes(expected, got) -> bool:
    """Whether the outputs of two calls may have the same shapes, and have the same types."""
    return len(expected) == len(got) and all(
        tf.TensorShape(one.shape).is_compatible_with(other.shape) and tf.as_dtype(one.dtype) == tf.as_dtype(other.dtype)
        for one, other in zip(expected, got)
    )


def _same_masks(expected, got) -> bool:
    return [_mask(one) is None for one in expected] == [_mask(one) is None for one in got]


def _check(model, path):
    """Returns the graph of a Keras 3 model.

    Raises:
      UnsupportedModelError: it has none.
    """
    graph = graph_of(model)
    if graph is not None:
        return graph
    if isinstance(model, keras3().Sequential):
        raise UnsupportedModelError(
            f"Model {path!r}: expected a built model, got a Sequential without an input shape. "
            f"Start it with keras.Input(shape), or call it once on data."
        )
    raise UnsupportedModelError(
        f"Model {path!r}: expected a functional or Sequential model, got the subclassed model {type(model).__name__}. "
        f"Wrap its layers functionally: keras.Model(inputs, outputs)."
    )


def copy_trainable(old, new) -> None:
    """Sets the trainable flags of a model, and of everything in it, to those of another."""
    if old.trainable != new.trainable:
        new.trainable = old.trainable
    if isinstance(old, keras3().Model) and hasattr(new, "get_layer"):
        layers = {layer.name: layer for layer in new.layers}
        for layer in old.layers:
            if layer.name in layers:
                copy_trainable(layer, layers[layer.name])
