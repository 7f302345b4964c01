"""Copies what a model was compiled with."""

import copy
import warnings

from tfmetaprune._keras import tf


def copy_compile_state(old, new, custom_object_scope):
    """Compiles a model as another one is: with a fresh optimizer, and with the same functions and classes, registered or not.

    Args:
      old: a model of either Keras; nothing is done if it is not compiled.
      new: a model of the same Keras and outputs.
      custom_object_scope: that of this Keras.

    Warns:
      UserWarning: the compile state cannot be copied; the new model is then not compiled.
    """
    if getattr(old, "optimizer", None) is None:
        return
    try:
        config = copy.deepcopy(old.get_compile_config())
        if not config:
            raise ValueError("it cannot be described by a config")
        with custom_object_scope(_own_objects(old._compile_config.config)):
            new.compile_from_config(config)
        if getattr(new, "optimizer", None) is None:
            raise ValueError("its class has a compile() of its own")
    except (TypeError, ValueError, AttributeError, ImportError, NotImplementedError) as error:
        warnings.warn(
            f"Model {old.name!r}: expected a compile state that can be copied, got: {error}. "
            f"The new model is not compiled; compile it yourself.", stacklevel=3,
        )  # fmt: skip


def _own_objects(arguments) -> dict:
    """Returns the functions, and the classes of the objects, among what `compile` was called with: name -> function or class.

    Raises:
      ValueError: two of them have the same name.
    """
    values = [value for value in tf.nest.flatten(list(arguments.values())) if callable(value) or hasattr(value, "get_config")]
    found = [value if hasattr(value, "__name__") else type(value) for value in values]
    objects = {value.__name__: value for value in found}
    twice = [value.__name__ for value in found if objects[value.__name__] is not value]
    if twice:
        raise ValueError(f"several functions or classes are called {twice[0]!r}")
    return objects
