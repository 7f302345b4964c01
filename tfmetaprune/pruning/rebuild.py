"""Builds the smaller model: the same layers, narrower, with the weights that remain."""

import warnings
from collections.abc import Mapping

import numpy as np

from tfmetaprune._keras import keras
from tfmetaprune.errors import ArgumentError, UnsupportedModelError
from tfmetaprune.pruning.plan import PruningPlan
from tfmetaprune.trace import ModelTrace, trace_model


def rebuild_model(trace: ModelTrace, plan: PruningPlan, weights: Mapping | None = None):
    """Builds what the plan leaves of the model.

    Args:
      trace: the traced model; it is not modified.
      plan: which channels remain.
      weights: (layer name, weight name) -> tensor of the full shape in place of the model's own.

    Returns:
      A tf_keras model of the same kind, with the same names, trainable flags and compile state (a fresh optimizer).

    Raises:
      ArgumentError: `weights` names a weight that the model does not have, or has another shape.
      UnsupportedModelError: a layer cannot be made again from its config.
    """
    weights = dict(weights or {})
    kept = {role_key: np.flatnonzero(plan.keep[units]) for role_key, units in _units(trace).items()}
    configs = _narrow_configs(trace, plan.keep, kept)

    def clone(layer):
        if isinstance(layer, keras.Model):
            return keras.models.clone_model(layer)
        try:
            return type(layer).from_config(configs.get(layer.name) or layer.get_config())
        except (NotImplementedError, TypeError, ValueError) as error:
            raise UnsupportedModelError(
                f"Layer {layer.name!r} ({type(layer).__name__}): expected a layer that can be made again from its "
                f"config, got {error}. Give its class a get_config that holds every argument of its constructor."
            ) from error

    model = keras.models.clone_model(trace.model, clone_function=clone)
    _set_weights(trace, model, kept, weights)
    if weights:
        layer, name = next(iter(weights))
        raise ArgumentError(
            f"weights: expected weights of model {trace.model.name!r}, got {name!r} of layer {layer!r}. "
            f"Use the names of the layers and of their weight attributes."
        )
    _copy_state(trace.model, model)
    return model


def replace_weights(model, weights: Mapping):
    """Returns a new model of the same structure with other weights.

    Args:
      model: a functional or Sequential model; it is not modified.
      weights: (layer name, weight name) -> tensor; missing ones are the model's own.

    Raises:
      ArgumentError: `weights` names a weight that the model does not have, or has another shape.
      UnsupportedModelError: the model cannot be traced or made again.
    """
    trace = trace_model(model)
    everything = PruningPlan(np.ones(trace.channels.num_units, bool), (), 0, 0)
    return rebuild_model(trace, everything, weights)


def _units(trace):
    """(layer name, role) -> the unit at every position, from the first call of each layer."""
    return {
        (channels.call.layer.name, role): trace.channels.units(layout)
        for channels in trace.channels.calls if channels.is_first
        for role, layout in channels.roles.items()
    }  # fmt: skip


def _narrow_configs(trace, keep, kept):
    """Layer name -> config, for the layers that change."""
    configs = {}
    for channels in trace.channels.calls:
        call = channels.call
        if not channels.is_first or channels.spec is None:
            continue
        before = [trace.channels.units(trace.channels.tensors[tensor]) for tensor in (*call.inputs, call.outputs[0])]
        if all(keep[units].all() for units in before):
            continue
        widths = {role: len(kept[call.layer.name, role]) for role in channels.roles}
        output_width = int(np.count_nonzero(keep[before[-1]]))
        configs[call.layer.name] = channels.spec.narrow(call.layer.get_config(), call, widths, output_width)
    return configs


def _set_weights(trace, model, kept, weights):
    """Gives the new model's layers what remains of the old; takes what it uses out of `weights`."""
    axes_of = {channels.call.layer.name: channels.weights for channels in trace.channels.calls if channels.is_first}
    for layer in trace.model.layers:
        attributes = {id(value): name for name, value in vars(layer).items()}
        values = []
        for variable in layer.weights:
            name = attributes.get(id(variable))
            value = weights.pop((layer.name, name), None)
            value = np.asarray(variable if value is None else value)
            if value.shape != tuple(variable.shape):
                raise ArgumentError(
                    f"weights: expected shape {tuple(variable.shape)} for {name!r} of layer {layer.name!r}, "
                    f"got {value.shape}. Give weights of the full shape."
                )
            for axis, role in enumerate(axes_of.get(layer.name, {}).get(name, ())):
                if (layer.name, role) in kept:
                    value = np.take(value, kept[layer.name, role], axis)
            values.append(value)
        new = model.get_layer(layer.name)
        new.set_weights(values)
        if hasattr(new, "finalize_state"):  # Normalization derives what it computes with from its weights
            new.finalize_state()


def _copy_state(old, new):
    _copy_trainable(old, new)
    config = old.get_compile_config() if getattr(old, "optimizer", None) is not None else None
    if config is None:
        return
    try:
        new.compile_from_config(config)
    except (TypeError, ValueError, AttributeError, ImportError) as error:
        warnings.warn(
            f"Model {old.name!r}: expected a compile state that can be copied, got {error}. "
            f"The new model is not compiled; compile it yourself.", stacklevel=3,
        )  # fmt: skip


def _copy_trainable(old, new):
    if old.trainable != new.trainable:
        new.trainable = old.trainable
    if isinstance(old, keras.Model):
        for layer in old.layers:
            _copy_trainable(layer, new.get_layer(layer.name))
