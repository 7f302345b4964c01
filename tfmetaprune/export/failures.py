"""Finds the layer that a file could not be made of, or could not be run with."""

import pathlib
import re
import tempfile

from tfmetaprune._keras import keras
from tfmetaprune.errors import ArgumentError, TFMetaPruneError
from tfmetaprune.export.contents import layer_of, read_contents
from tfmetaprune.export.convert import convert
from tfmetaprune.export.running import run_file
from tfmetaprune.export.samples import random_samples


def kernel_layers(model) -> dict[str, object]:
    """Path -> layer for every layer with a weight of two axes or more, those of nested models included."""
    return {path: layer for path, layer in _leaves(model) if any(len(weight.shape) >= 2 for weight in layer.weights)}


def failing_layer(model, conversion, error, path) -> str | None:
    """Names the layer that made the converter or the delegate fail.

    Args:
      model: the tf_keras model.
      conversion: a `Conversion`.
      error: what was raised; the delegate's says which operator of the file it refused.
      path: path of the file that does not run; None if none was made.

    Returns:
      The layer as in "'conv1' (Conv2D)", or several; None if every one of them can be converted and run alone.
    """
    layers = kernel_layers(model)
    refused = re.search(r"node #(\d+)", str(error))
    if path is not None and refused:
        contents = read_contents(path)
        named = layer_of(contents, contents.operators[int(refused.group(1))], layers)
        if named:
            return f"'{named}' ({type(layers[named]).__name__})"
    if conversion.trained:  # its layers know no ranges alone
        return None
    return next((f"'{name}' ({type(layer).__name__})" for name, layer in _leaves(model) if _fails(layer, conversion)), None)


def _fails(layer, conversion):
    """Whether a layer cannot be converted and run as a model of its own; False if it cannot be cut out."""
    try:
        part = keras.Model(layer.input, layer.output)
        data = random_samples(part)
    except (ArgumentError, AttributeError, ValueError, TypeError):
        return False
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "part.tflite"
        try:
            path.write_bytes(convert(part, conversion, data, 1))
            run_file(path, [array[:1] for array in data], batch_size=1)
        except (TFMetaPruneError, RuntimeError, ValueError):
            return True
    return False


def _leaves(model, prefix=""):
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _leaves(layer, f"{prefix}{layer.name}/")
        elif not isinstance(layer, keras.layers.InputLayer):
            yield f"{prefix}{layer.name}", layer
