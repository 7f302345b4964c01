"""Makes a model of the class of another one, which may have a training step of its own."""

import inspect
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

_VARIADIC = inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD


def same_class(old, plain: type, arguments: Mapping[str, Any], parts: Sequence):
    """Makes a model of the class of another one, with the same name.

    Args:
      old: the other model, of either Keras.
      plain: `Sequential` or `Model` of that Keras, which takes the place of a class that cannot be made in this way.
      arguments: of the constructor: "layers", or "inputs" and "outputs". Other arguments that it takes are the old model's attributes of
        the same name.
      parts: the layers without an input layer, or the outputs as a list: what the new model has to be made of, and nothing else.

    Warns:
      UserWarning: a plain model takes the class's place.
    """
    if type(old).__module__.partition(".")[0] in ("keras", "tf_keras"):
        return plain(**arguments, name=old.name)
    own = [
        name for name, parameter in inspect.signature(type(old).__init__).parameters.items()
        if name not in ("self", "name", *arguments) and parameter.kind not in _VARIADIC and hasattr(old, name)
    ]  # fmt: skip
    try:
        new = type(old)(**arguments, name=old.name, **{name: getattr(old, name) for name in own})
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
