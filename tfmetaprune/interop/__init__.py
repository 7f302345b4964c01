"""Keras 3 at the boundary: everything inside works on tf_keras models, Keras 3 models are carried over and back.

`to_tf_keras` walks the graph of a Keras 3 model and calls every layer again, as its namesake in tf_keras where that
computes the same, else inside a `CarriedLayer` or `CarriedOperation`. `to_keras3` walks the graph of the original once more and
changes only what became narrower. Keras 3 is imported when the first such model is met, not before.
"""

import sys
from collections.abc import Callable

from tfmetaprune.interop.back import to_keras3
from tfmetaprune.interop.carried import CarriedLayer, CarriedOperation
from tfmetaprune.interop.forward import to_tf_keras
from tfmetaprune.interop.losses import CarriedLoss, carried_losses, loss_weights_of
from tfmetaprune.interop.partners import reset_slots, weight_partners

__all__ = [
    "CarriedLayer", "CarriedLoss", "CarriedOperation", "carried_losses", "carry", "is_keras3", "loss_weights_of", "reset_slots",
    "to_keras3", "to_tf_keras", "weight_partners",
]  # fmt: skip


def is_keras3(model) -> bool:
    """Whether this is a model of Keras 3; does not import Keras 3."""
    module = sys.modules.get("keras")
    return hasattr(module, "KerasTensor") and isinstance(model, module.Model)


def carry(model) -> tuple[object, Callable]:
    """Returns the tf_keras model that everything is done with, and the way back.

    Args:
      model: a tf_keras or a Keras 3 model; it is not modified.

    Returns:
      The model itself, or its tf_keras image; and a function from a pruned model to one of the Keras of `model`.

    Raises:
      UnsupportedModelError: a Keras 3 model cannot be carried over.
    """
    if not is_keras3(model):
        return model, lambda small: small
    converted = to_tf_keras(model)
    return converted, lambda small: to_keras3(small, model, converted)
