"""The pruned tf_keras model -> Keras 3 model: the original's own graph once more, with what became narrower changed."""

import numpy as np

from tfmetaprune._keras import keras, tf
from tfmetaprune.compile_state import copy_compile_state
from tfmetaprune.errors import UnsupportedModelError
from tfmetaprune.interop.carried import config_of, copy_assets, keras3, make_again
from tfmetaprune.interop.convert import RENAMED, copy_weights_back
from tfmetaprune.interop.forward import call_arguments, call_order, copy_trainable, graph_of, input_of, to_tf_keras
from tfmetaprune.interop.structures import flatten, map_leaves
from tfmetaprune.model_class import same_class


def to_keras3(small, original, converted=None):
    """Builds the Keras 3 model that a pruned tf_keras model stands for.

    Args:
      small: the tf_keras model: `to_tf_keras(original)` with other weights and possibly narrower layers.
      original: the Keras 3 model; it is not modified.
      converted: `to_tf_keras(original)`, if it is at hand.

    Returns:
      A Keras 3 model of the class of `original`, see `same_class`, with its names, configs, dtype policies, trainable flags and compile
      state (a fresh optimizer), but the widths and weights of `small`.

    Raises:
      UnsupportedModelError: `small` has another graph, or a layer cannot be made again narrower.
    """
    keras3()
    pairing = Pairing()
    pairing.pair(original, to_tf_keras(original) if converted is None else converted, small)
    model = _Back(pairing).model(original)
    copy_trainable(original, model)
    copy_compile_state(original, model, keras3().saving.custom_object_scope)
    return model


class Pairing:
    """Which layers and calls of three models of the same graph belong together.

    Attributes:
      layers: id of the original layer -> (tf_keras layer as converted, tf_keras layer as pruned).
      nodes: (id of the original layer, index of its call) -> (tf_keras node as converted, as pruned).
    """

    def __init__(self):
        self.layers, self.nodes = {}, {}

    def pair(self, original, converted, small):
        """Walks through three models from their outputs upwards."""
        self.layers[id(original)] = (converted, small)
        graph = graph_of(original)
        tensors = [(graph._outputs, converted.outputs, small.outputs)]
        while tensors:
            for mine, old, new in _zip(original, *tensors.pop()):
                operation, index, _ = mine._keras_history
                if (id(operation), index) in self.nodes:
                    continue
                node = operation._inbound_nodes[index]
                nodes = tuple(one._keras_history.layer._inbound_nodes[one._keras_history.node_index] for one in (old, new))
                self.nodes[id(operation), index] = nodes
                layers = nodes[0].layer, nodes[1].layer
                if layers[0].name != layers[1].name:
                    raise UnsupportedModelError(
                        f"Model {small.name!r}: expected layer {layers[0].name!r}, got {layers[1].name!r}. "
                        f"Pass a model that was made from this original."
                    )
                if id(operation) not in self.layers:
                    if isinstance(layers[0], keras.Model):
                        self.pair(operation, *layers)
                    self.layers[id(operation)] = layers
                if not node.is_input:
                    read = [leaf for leaf in flatten(call_arguments(node)) if isinstance(leaf, keras3().KerasTensor)]
                    tensors.append((read, nodes[0].keras_inputs, nodes[1].keras_inputs))


def _zip(model, *lists):
    if len({len(one) for one in lists}) != 1:
        raise UnsupportedModelError(
            f"Model {model.name!r}: expected a tf_keras model of the same graph, got another number of tensors. "
            f"Pass a model that was made from this original."
        )
    return zip(*lists)


class _Back:
    """Makes new Keras 3 layers, each once, and calls them as the original ones were called."""

    def __init__(self, pairing):
        self.pairing, self.layers = pairing, {}

    def model(self, original):
        """Returns the new Keras 3 model of one of the original's models."""
        graph, small = graph_of(original), self.pairing.layers[id(original)][1]
        values = {}
        for tensor, mine in zip(graph._inputs, small.inputs, strict=True):
            layer = input_of(tensor)
            shape = (layer.batch_shape[0], *tuple(mine.shape)[1:])
            self.layers[id(layer)] = make_again(type(layer), {**config_of(layer), "batch_shape": shape})
            values[id(tensor)] = self.layers[id(layer)].output
        if isinstance(original, keras3().Sequential):
            return self._sequential(original, graph)
        for node in call_order(graph):
            self._run(node, values)

        def value(tensor):
            return values[id(tensor)]

        inputs, outputs = map_leaves(value, graph._inputs_struct), map_leaves(value, graph._outputs_struct)
        return same_class(original, keras3().Model, {"inputs": inputs, "outputs": outputs}, flatten(outputs))

    def _sequential(self, original, graph):
        nodes = list(call_order(graph))
        layers = [self._layer(node.operation) for node in nodes]
        first = self.layers[id(input_of(graph._inputs[0]))]
        model = same_class(original, keras3().Sequential, {"layers": [first, *layers]}, layers)
        for node, layer in zip(nodes, layers):
            self._finish(node, layer)
        return model

    def _run(self, node, values):
        original = node.operation
        is_new = id(original) not in self.layers
        layer = self._layer(original)
        args, kwargs = call_arguments(node)
        constants = _changed_constants(args, kwargs, self._nodes_of(node))

        def replace(leaf):
            if isinstance(leaf, keras3().KerasTensor):
                return values[id(leaf)]
            return next(constants)

        args, kwargs = map_leaves(replace, (args, kwargs))
        recorded = {key: leaf for key, leaf in node.arguments.kwargs.items() if key not in kwargs}
        kwargs |= map_leaves(lambda leaf: values.get(id(leaf), leaf), recorded)
        try:
            outputs = flatten(layer(*args, **kwargs))
        except (TypeError, ValueError) as error:
            raise UnsupportedModelError(
                f"Layer {original.name!r} ({type(original).__name__}): expected a layer that can be called on fewer "
                f"channels in Keras 3, got: {error}"
            ) from error
        values.update({id(tensor): value for tensor, value in zip(node.outputs, outputs, strict=True)})
        self._check_shapes(node, outputs)
        if is_new:
            self._finish(node, layer)

    def _nodes_of(self, node):
        index = node.operation._inbound_nodes.index(node)
        return self.pairing.nodes.get((id(node.operation), index))  # None: it makes a mask that tf_keras makes by itself

    def _check_shapes(self, node, outputs):
        original = node.operation
        if self._nodes_of(node) is None:
            return
        converted, small = (tf.nest.flatten(one.outputs) for one in self._nodes_of(node))
        for mine, declared, old, new in zip(outputs, node.outputs, converted, small, strict=True):
            fits = tf.TensorShape(mine.shape).is_compatible_with(new.shape)
            if not fits and tf.TensorShape(declared.shape).is_compatible_with(old.shape):
                raise UnsupportedModelError(
                    f"Layer {original.name!r} ({type(original).__name__}): expected an output of shape "
                    f"{tuple(new.shape)} in Keras 3 as in tf_keras, got {tuple(mine.shape)}."
                )

    def _layer(self, original):
        """Returns the new layer, operation or nested model."""
        if id(original) in self.layers:
            return self.layers[id(original)]
        old, small = self.pairing.layers.get(id(original), (None, None))
        if isinstance(old, keras.Model):
            new = self.model(original)
        else:
            config = config_of(original)
            if old is not None:
                config = _patch(config, old.get_config(), small.get_config(), type(original).__name__)
            new = make_again(type(original), config)
        self.layers[id(original)] = new
        return new

    def _finish(self, node, layer):
        """Copies the weights into a layer that has been called."""
        original = node.operation
        if not isinstance(original, keras3().layers.Layer):
            return
        old, small = self.pairing.layers[id(original)]
        if isinstance(old, keras.Model):
            return
        copy_assets(original, layer)
        if not copy_weights_back(small, layer):
            raise UnsupportedModelError(
                f"Layer {original.name!r} ({type(original).__name__}): expected the weights it has in tf_keras, of shapes "
                f"{[tuple(weight.shape) for weight in small.weights]}, got {[tuple(weight.shape) for weight in layer.weights]}."
            )


def _changed_constants(args, kwargs, nodes):
    """Yields a call's constants, in order; those that differ between the two tf_keras calls as in the pruned one."""
    constants = [leaf for leaf in flatten((args, kwargs)) if not isinstance(leaf, keras3().KerasTensor)]
    if nodes is not None:
        old, new = (
            [leaf for leaf in flatten((one.call_args, one.call_kwargs)) if not hasattr(leaf, "_keras_history")]
            for one in nodes
        )
        if len(old) == len(new) == len(constants):
            constants = [theirs if _equal(a, b) else _plain(b) for theirs, a, b in zip(constants, old, new)]
    return iter(constants)


def _patch(config, converted, small, kind=""):
    """Returns a Keras 3 config with what differs between two tf_keras configs of the same layer changed alike."""
    result = dict(config)
    names = {theirs: mine for mine, theirs in RENAMED.get(kind, {}).items()}
    for key, value in small.items():
        mine = names.get(key, key)
        if mine not in config or key in ("name", "dtype", "trainable") or _equal(converted.get(key), value):
            continue
        result[mine] = _patch_value(config[mine], converted.get(key), value)
        if kind == "Bidirectional" and key == "layer" and "backward_layer" not in converted:  # its mirror image
            result["backward_layer"] = _patch_value(config["backward_layer"], converted[key], value)
    return result


def _patch_value(mine, old, new):
    if isinstance(mine, dict) and isinstance(old, dict) and isinstance(new, dict):
        return _patch(mine, old, new)
    if (isinstance(mine, (list, tuple)) and len(mine) == len(old) == len(new)) and any(isinstance(one, dict) for one in mine):
        return [_patch_value(*three) for three in zip(mine, old, new)]
    return _plain(new)


def _plain(value):
    """A value without the wrappers of tf_keras and numpy."""
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(map(_plain, value)) if type(value) in (list, tuple) else [_plain(one) for one in value]
    return value.item() if isinstance(value, np.generic) else value


def _equal(a, b) -> bool:
    if a is b:
        return True
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_equal(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(map(_equal, a, b))
    if any(hasattr(one, "shape") for one in (a, b)):
        try:
            return np.array_equal(np.asarray(a), np.asarray(b))
        except (TypeError, ValueError):
            return False
    return type(a) is type(b) and bool(a == b)
