"""Builds the smaller model: the same layers, narrower, with the weights that remain."""

from collections.abc import Mapping

import numpy as np

from tfmetaprune._keras import keras, tf
from tfmetaprune.channels import layout_positions, move_numbers, number_array, shape_numbers
from tfmetaprune.compile_state import copy_compile_state
from tfmetaprune.errors import ArgumentError, UnsupportedModelError
from tfmetaprune.layers import Length, Moves, Narrowing, TensorIndex, get_weight
from tfmetaprune.model_class import same_class
from tfmetaprune.pruning.plan import PruningPlan
from tfmetaprune.trace import ModelTrace, trace_model


def rebuild_model(trace: ModelTrace, plan: PruningPlan, weights: Mapping | None = None):
    """Builds what the plan leaves of the model.

    Args:
      trace: the traced model; it is not modified.
      plan: which channels remain.
      weights: (layer path, weight name) -> tensor of the full shape in place of the model's own.

    Returns:
      A tf_keras model of the same kind, with the same names, nesting, trainable flags and compile state (a fresh
      optimizer).

    Warns:
      UserWarning: a class of the user's cannot be made of layers, or of inputs and outputs; a plain model takes its place.

    Raises:
      ArgumentError: `weights` names a weight that the model does not have, or has another shape.
      UnsupportedModelError: a layer cannot be made again from its config, or does not do what its shapes promise.
    """
    builder = _Builder(trace, plan.keep, dict(weights or {}))
    model = builder.build(trace.root)
    if builder.weights:
        layer, name = next(iter(builder.weights))
        raise ArgumentError(
            f"weights: expected weights of model {trace.model.name!r}, got {name!r} of layer {layer!r}. "
            f"Use the paths of the layers and the names of their weight attributes."
        )
    _copy_trainable(trace.model, model)
    copy_compile_state(trace.model, model, keras.utils.custom_object_scope)
    return model


def replace_weights(model, weights: Mapping):
    """Returns a new model of the same structure with other weights.

    Args:
      model: a functional or Sequential model; it is not modified.
      weights: (layer path, weight name) -> tensor; missing ones are the model's own.

    Raises:
      ArgumentError: `weights` names a weight that the model does not have, or has another shape.
      UnsupportedModelError: the model cannot be traced or made again.
    """
    trace = trace_model(model)
    everything = PruningPlan(np.ones(trace.channels.num_units, bool), (), 0, 0)
    return rebuild_model(trace, everything, weights)


class _Builder:
    """Makes the new layers, each once, and calls them as the old ones were called."""

    def __init__(self, trace, keep, weights):
        self.trace, self.keep, self.weights = trace, keep, weights
        self.new_layers = {}  # id of the old layer -> the new one
        self.known = {}  # what `ChannelMap.known` is in the new model
        self.kept = [trace.channels.kept(tensor, keep) for tensor in range(len(trace.shapes))]

    def build(self, scope):
        """Returns the new model of one scope."""
        old = scope.model
        values, inputs = {}, []
        for tensor, symbolic in zip(scope.inputs, old.inputs, strict=True):
            layer = symbolic._keras_history.layer
            shape = self._shape(tensor)
            config = layer.get_config()
            config["batch_input_shape"] = (config["batch_input_shape"][0], *shape[1:])
            new = keras.layers.InputLayer.from_config(config)
            self.new_layers[id(layer)] = new
            inputs.append(new.output)
            values[tensor] = new.output
        for step in scope.steps:
            self._run(step, values)
        outputs = [values[tensor] for tensor in scope.outputs]
        return self._model(old, inputs, outputs)

    def _model(self, old, inputs, outputs):
        if not isinstance(old, keras.Sequential):
            nested = {
                "inputs": tf.nest.pack_sequence_as(old._nested_inputs, inputs),
                "outputs": tf.nest.pack_sequence_as(old._nested_outputs, outputs),
            }
            return same_class(old, keras.Model, nested, outputs)
        layers, first = [self.new_layers[id(layer)] for layer in old.layers], []
        if old._has_explicit_input_shape and old._self_tracked_trackables:
            first = [self.new_layers[id(old.inputs[0]._keras_history.layer)]]
        return same_class(old, keras.Sequential, {"layers": [*first, *layers]}, layers)

    def _run(self, step, values):
        """Calls the new layer (or nested model) of a step on symbolic tensors; adds its outputs to `values`."""
        args, kwargs = step.args, dict(step.kwargs)
        narrowing = None
        if step.inside is None:
            channels = self.trace.channels.calls[step.call]
            narrowing = self._narrowing(channels)
            if self._changes(channels):
                args, kwargs = channels.spec.narrow_call(args, kwargs, narrowing)
        layer = self._layer(step, narrowing)

        def replace(leaf):
            return values[leaf.index] if isinstance(leaf, TensorIndex) else leaf

        made = layer(*tf.nest.map_structure(replace, args), **tf.nest.map_structure(replace, kwargs))
        made = tf.nest.flatten(made)
        for tensor, value in zip(step.outputs, made, strict=True):
            if len(value.shape) != len(self._shape(tensor)) or not value.shape.is_compatible_with(self._shape(tensor)):
                raise UnsupportedModelError(
                    f"Layer {layer.name!r} ({type(layer).__name__}): expected an output of shape {self._shape(tensor)} when "
                    f"channels are gone, got {tuple(value.shape)}. Register a LayerSpec that says what the layer does."
                )
            values[tensor] = value
        if step.inside is None:
            self._calculate(layer, channels, args, kwargs)
            if isinstance(channels.flow, Moves) and self._changes(channels):
                self._check_moves(layer, channels.call, args, kwargs)
            if channels.is_first:
                self._set_weights(channels, layer, narrowing)

    def _layer(self, step, narrowing):
        old = step.layer
        if id(old) in self.new_layers:
            return self.new_layers[id(old)]
        if step.inside is not None:
            new = self.build(step.inside)
        else:
            channels = self.trace.channels.calls[step.call]
            try:
                new = keras.models.clone_model(old) if isinstance(old, keras.Model) else self._made_again(old, channels, narrowing)
            except (NotImplementedError, TypeError, ValueError, KeyError, AttributeError) as error:
                raise UnsupportedModelError(
                    f"Layer {old.name!r} ({type(old).__name__}): expected a layer that can be made again from its "
                    f"config, got {error}. Give its class a get_config that holds every argument of its constructor."
                ) from error
        if new.name != old.name:  # the name is not in the config
            new._name = old.name
        self.new_layers[id(old)] = new
        return new

    def _made_again(self, old, channels, narrowing):
        """A layer made anew from its config, as narrow as it has to be."""
        config = old.get_config()
        if self._changes(channels):
            config = channels.spec.narrow(config, narrowing)
        return type(old).from_config(config)

    def _shape(self, tensor):
        kept = self.kept[tensor]
        return tuple(len(kept[axis]) if axis in kept else size for axis, size in enumerate(self.trace.shapes[tensor]))

    def _changes(self, channels):
        """Whether a call of a known kind reads, holds or makes fewer channels."""
        if channels.spec is None:
            return False
        return any(self.kept[tensor] for tensor in (*channels.call.inputs, *channels.call.outputs)) or any(
            not self.keep[self.trace.channels.units(layout)].all() for layout in channels.roles.values()
        )

    def _narrowing(self, channels):
        widths = {
            role: int(np.count_nonzero(self.keep[self.trace.channels.units(layout)]))
            for role, layout in channels.roles.items()
        }
        call = channels.call
        return Narrowing(
            call, widths, tuple(self.kept[tensor] for tensor in call.inputs),
            tuple(self.kept[tensor] for tensor in call.outputs), self._groups(channels),
        )  # fmt: skip

    def _groups(self, channels):
        """How many groups remain: fewer where whole groups can go."""
        names = [name for name in channels.flow.grouped if name in channels.roles] if channels.groups > 1 else []
        if not names or f"{names[0]}/groups" in channels.roles:
            return channels.groups
        kept = self.keep[self.trace.channels.units(channels.roles[names[0]])]
        return int(np.count_nonzero(kept)) * channels.groups // len(kept)

    def _calculate(self, layer, channels, args, kwargs):
        """Works out again the numbers that are made of lengths alone."""
        call = channels.call
        if isinstance(channels.flow, Length):
            self.known[call.outputs[0]] = shape_numbers(self._shape(call.inputs[0]), channels.flow.axis)
        elif call.outputs and call.outputs[0] in self.trace.channels.known:
            numbers = move_numbers(layer, args, kwargs, {tensor: self.known[tensor] for tensor in call.inputs})
            self.known.update(zip(call.outputs, numbers))

    def _check_moves(self, layer, call, args, kwargs):
        """Checks on channel numbers that the new layer moves what remains to where it has to be."""
        channels, shapes = self.trace.channels, self.trace.shapes
        tensors = [tensor for tensor in call.inputs if tensor not in channels.known]
        for axes in ([[axis] for axis in channels.tensors[tensors[0]]] if len(tensors) == 1 else
                     [[next(iter(channels.tensors[tensor]), None) for tensor in tensors]]):  # fmt: skip
            if None in axes:
                continue
            arrays, whole = dict(self.known), dict(channels.known)
            for tensor, axis in zip(tensors, axes):
                positions = layout_positions(channels.tensors[tensor][axis])
                numbers = number_array(shapes[tensor], axis, np.arange(len(positions)))
                whole[tensor] = numbers
                for other, kept in self.kept[tensor].items():
                    numbers = np.take(numbers, kept, other)
                arrays[tensor] = numbers
            expected = move_numbers(call.layer, call.args, call.kwargs, whole)
            got = move_numbers(layer, args, kwargs, arrays)
            for tensor, before, after in zip(call.outputs, expected, got):
                for other, kept in self.kept[tensor].items():
                    before = np.take(before, kept, other)
                if not np.array_equal(before, after):
                    raise UnsupportedModelError(
                        f"Layer {call.title}: expected it to move the channels that remain as it moved them before, got "
                        f"another order. Register a LayerSpec for it that freezes its channels."
                    )

    def _set_weights(self, channels, new, narrowing):
        """Gives a new layer what remains of the old one's weights; takes what it uses out of `self.weights`."""
        call = channels.call
        _copy_trainable(call.layer, new)  # the order of its weights depends on what is trainable
        names = {id(get_weight(call.layer, name)): name for name in channels.spec.weights(call.layer)} if channels.spec else {}
        names = {**{id(value): name for name, value in vars(call.layer).items()}, **names}
        values, order = {}, []
        for position, variable in enumerate(call.layer.weights):
            name = names.get(id(variable), str(position))
            value = self.weights.pop((call.path, name), None)
            value = np.asarray(tf.convert_to_tensor(variable) if value is None else value)
            if value.shape != tuple(variable.shape):
                raise ArgumentError(
                    f"weights: expected shape {tuple(variable.shape)} for {name!r} of layer {call.path!r}, "
                    f"got {value.shape}. Give weights of the full shape."
                )
            if name in channels.weights:
                axes = channels.weights[name]
                value = value.reshape(axes.shape)
                for axis, role in enumerate(axes.names):
                    if role in channels.roles:
                        value = value.compress(self.keep[self.trace.channels.units(channels.roles[role])], axis)
                value = value.reshape(axes.stored_shape(value.shape))
            values[name] = value
            order.append(name)
        if self._changes(channels):
            values = channels.spec.adjust_weights(call.layer, values, narrowing)
        try:
            new.set_weights([values[name] for name in order])
        except ValueError as error:
            raise UnsupportedModelError(
                f"Layer {call.title}: expected the same weights when it is made again from its config, got {error}. "
                f"Give its class a get_config that holds every argument of its constructor."
            ) from error
        if hasattr(new, "finalize_state"):  # Normalization derives what it computes with from its weights
            new.finalize_state()


def _copy_trainable(old, new):
    """Gives a layer, and all layers within it, the trainable flags of another one made of the same parts."""
    if old.trainable != new.trainable:
        new.trainable = old.trainable
    if isinstance(old, keras.Model):  # a subclassed model may name its layers anew, and hold some that it does not call
        twins = {layer.name: layer for layer in new.layers}
        same = len(old.layers) == len(new.layers)
        pairs = [(layer, twins.get(layer.name, new.layers[place] if same else None)) for place, layer in enumerate(old.layers)]
    else:
        parts = [list(each._flatten_layers(recursive=False, include_self=False)) for each in (old, new)]
        pairs = list(zip(*parts)) if len(parts[0]) == len(parts[1]) else []
    for layer, twin in pairs:
        if twin is not None:
            _copy_trainable(layer, twin)
