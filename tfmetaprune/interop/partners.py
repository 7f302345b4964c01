"""Which variable of a Keras 3 model a variable of its tf_keras image stands for, and optimizers of either Keras."""

import contextlib

from tfmetaprune._keras import keras, tf
from tfmetaprune.errors import UnsupportedModelError
from tfmetaprune.interop.back import Pairing
from tfmetaprune.interop.carried import keras3
from tfmetaprune.interop.convert import weight_pairs


def weight_partners(original, converted) -> dict[int, object]:
    """Finds the variables of the caller's model.

    Args:
      original: a model of either Keras.
      converted: the tf_keras model that `carry` made of it; or it itself, or a copy, if it is a tf_keras model.

    Returns:
      id of a variable of `converted` -> the variable of `original` of the same shape that holds the same numbers.

    Raises:
      UnsupportedModelError: the weights of a layer do not fit together.
    """
    if isinstance(original, keras.Model):
        return {id(here): there for here, there in zip(converted.weights, original.weights, strict=True)}
    pairing = Pairing()
    pairing.pair(original, converted, converted)
    owners = {id(layer): layer for layer in original._flatten_layers()}
    partners = {}
    for key, (mine, _) in pairing.layers.items():
        if isinstance(mine, keras.Model) or not isinstance(owners.get(key), keras3().layers.Layer):
            continue
        pairs = weight_pairs(mine, owners[key])
        if pairs is None:
            raise UnsupportedModelError(
                f"Layer {mine.name!r} ({type(owners[key]).__name__}): expected the same weights in tf_keras, got others. "
                f"Train it in tf_keras, or prune it with tfmetaprune.prune."
            )
        partners.update({id(here): there for here, there in pairs})
    return partners


def reset_slots(model) -> bool:
    """Gives the slots of a model's optimizer (momentum, second moments, averages) the values they start with.

    The number of steps done and the learning rate stay; averages of weights start from the weights as they are.

    Args:
      model: a compiled model of either Keras.

    Returns:
      False if the optimizer cannot be made again from its config; then its slots stay as they are.
    """
    optimizer = getattr(model.optimizer, "inner_optimizer", model.optimizer)  # of a LossScaleOptimizer
    slots = _slots(optimizer)
    if not slots:
        return True
    with contextlib.suppress(NotImplementedError, TypeError, ValueError, AttributeError), model.distribute_strategy.scope():
        fresh = type(optimizer).from_config(optimizer.get_config())
        build = getattr(fresh, "build", None) or fresh._create_all_weights  # the latter in tf_keras.optimizers.legacy
        build(model.trainable_variables)
        values = [tf.convert_to_tensor(slot) for slot in _slots(fresh)]
        if [value.shape for value in values] == [slot.shape for slot in slots]:
            for slot, value in zip(slots, values):
                slot.assign(value)
            averages = getattr(optimizer, "_model_variables_moving_average", None) or ()
            for average, variable in zip(averages, model.trainable_variables):
                if average is not None:  # Keras 3 makes them of zeros, and takes the weights in the very first step alone
                    average.assign(tf.convert_to_tensor(variable))
            return True
    return False


def _slots(optimizer) -> list:
    variables = optimizer.variables() if callable(optimizer.variables) else optimizer.variables
    others = id(optimizer.iterations), id(getattr(optimizer, "_learning_rate", None))
    return [variable for variable in variables if id(variable) not in others]
