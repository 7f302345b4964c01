"""The loss of a compiled Keras 3 model, as tf_keras takes it."""

import sys

from tfmetaprune._keras import keras, tf


def carried_losses(model):
    """Returns the loss of a compiled Keras 3 model in the structure it was given in, and its loss weights.

    Names that tf_keras knows stay names, a loss object becomes its namesake in tf_keras, anything else is called as it is.

    Args:
      model: a Keras 3 model.

    Returns:
      (loss, loss weights); (None, None) for a model that is not compiled or has no loss.
    """
    if not getattr(model, "compiled", False) or getattr(model, "loss", None) is None:
        return None, None
    return tf.nest.map_structure(_carried_loss, model.loss), loss_weights_of(model)


def loss_weights_of(model):
    """Returns the loss weights that a model of either Keras was compiled with; None for none.

    They are read as they were given: a config of the whole compile state needs an optimizer that can be serialized.
    """
    return getattr(getattr(model, "_compile_config", None), "config", {}).get("loss_weights")


def _carried_loss(loss):
    if isinstance(loss, type):  # Keras 3 makes an object of a class
        loss = loss()
    if isinstance(loss, str) and loss.lower() in ("crossentropy", "ce"):
        return crossentropy
    if isinstance(loss, str):
        try:
            keras.losses.get(loss)
            return loss
        except ValueError:
            return CarriedLoss(sys.modules["keras"].losses.get(loss), None)
    if loss is None:
        return None
    namesake = getattr(keras.losses, type(loss).__name__, None)
    if namesake is not None and _is_of_keras(loss):
        config = {key: value for key, value in loss.get_config().items() if key != "dtype"}
        try:
            return namesake.from_config({**config, "reduction": config.get("reduction") or "none"})
        except (TypeError, ValueError):
            pass  # an argument that only Keras 3 has

    return CarriedLoss(loss, None)


def crossentropy(y_true, y_pred):
    """What Keras 3 calls by this name: the crossentropy that labels [...] or [..., 1], or [..., n], and outputs [..., n] call for."""
    if y_pred.shape[-1] == 1:
        return keras.losses.binary_crossentropy(y_true, y_pred)
    is_index = y_true.shape.rank < y_pred.shape.rank or y_true.shape[-1] == 1
    return (keras.losses.sparse_categorical_crossentropy if is_index else keras.losses.categorical_crossentropy)(y_true, y_pred)


def _is_of_keras(loss) -> bool:
    """Whether this is a loss object of Keras 3 itself, not one that a user wrote."""
    return type(loss) is getattr(sys.modules["keras"].losses, type(loss).__name__, None)


class CarriedLoss:
    """A loss of Keras 3 that tf_keras calls as a function, to weigh and reduce what it puts out for each example.

    Args:
      loss: the Keras 3 loss, an object or a function.
      label_rank: rank of the labels as the caller gives them; tf_keras adds an axis to labels of rank 1. None: unknown.
    """

    def __init__(self, loss, label_rank):
        self.loss, self.label_rank = loss, label_rank
        self.name = self.__name__ = getattr(loss, "name", None) or getattr(loss, "__name__", "loss")

    def __call__(self, y_true, y_pred):
        if self.label_rank == 1 and y_true.shape.rank == 2:
            y_true = tf.squeeze(y_true, -1)
        if not isinstance(self.loss, sys.modules["keras"].losses.Loss):
            return self.loss(y_true, y_pred)
        values = self.loss.call(tf.cast(y_true, y_pred.dtype), y_pred)
        return values * tf.cast(tf.size(values), values.dtype) if self.loss.reduction == "sum" else values  # tf_keras takes the mean

    def for_labels(self, label_rank):
        """Returns the same loss for labels of this rank."""
        return CarriedLoss(self.loss, label_rank)
