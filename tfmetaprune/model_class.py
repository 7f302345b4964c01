"""Makes a model of the class of another one, which may have a training step of its own."""

import inspect
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from tfmetaprune._keras import tf

_VARIADIC = inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD


def same_class(old, plain: type, arguments: Mapping[str, Any], parts: Sequence):
    """Makes a model of the class of another one, with the same name.

    Args:
      old: the other model, of either Keras.
      plain: `Sequential` or `Model` of that Keras, which takes the place of a class that cannot be made in this way.
      arguments: of the constructor: "layers", or "inputs" and "outputs". Other arguments that it takes are the old model's attributes of
        the same name.
      parts: the layers without an input layer, or the outputs as a list, that the new model has to have. Layers that a constructor makes
        beside these start anew.

    Warns:
      UserWarning: a plain model takes the class's place.
    """
    if type(old).__module__.partition(".")[0] in ("keras", "tf_keras"):
        return plain(**arguments, name=old.name)
    try:
        new = type(old)(**arguments, name=old.name, **_own_arguments(old, plain, arguments))
        made = new.layers if "layers" in arguments else new.outputs
        if len(made) == len(parts) and all(one is other for one, other in zip(made, parts)):
            return new
        reason = "one with layers of its own"
    except Exception as error:  # a constructor of the user's raises what it likes
        reason = f"{type(error).__name__}: {error}"
    warnings.warn(
        f"Model {old.name!r}: expected a {type(old).__name__} that can be made of {' and '.join(arguments)}, got {reason}. "
        f"The new model is a plain {plain.__name__}, which trains as Keras does; let the constructor take these and a name.",
        stacklevel=2,
    )  # fmt: skip
    return plain(**arguments, name=old.name)


def _own_arguments(old, plain, known) -> dict[str, Any]:
    """Returns what else the constructor of a model's class takes, as the model's attributes tell.

    Raises:
      ValueError: an attribute is missing, is Keras' own, or is a layer, which may be one that was pruned.
    """
    found = {}
    for name, parameter in inspect.signature(type(old).__init__).parameters.items():
        if name in ("self", "name", "trainable", "dtype", *known) or parameter.kind in _VARIADIC:
            continue
        if not hasattr(old, name) or hasattr(plain, name) or name in ("loss", "optimizer"):
            raise ValueError(f"the argument {name!r} of its constructor is no attribute of its own")
        found[name] = getattr(old, name)
        if any(hasattr(value, "get_weights") for value in tf.nest.flatten(found[name])):
            raise ValueError(f"the argument {name!r} of its constructor is a layer")
    return found
