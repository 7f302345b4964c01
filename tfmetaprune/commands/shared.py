"""What several commands share: options, loading of models, silence while TensorFlow is imported."""

import contextlib
import json
import logging
import os
import pathlib
import zipfile
from typing import Annotated

import typer

from tfmetaprune.errors import ArgumentError, UnsupportedModelError

Model = Annotated[pathlib.Path, typer.Argument(help="A saved Keras 2 (tf_keras) model.", metavar="MODEL.keras")]
Seed = Annotated[int, typer.Option(help="Of everything random.", min=0, max=2**32 - 1)]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print errors alone, and JSON if asked for.")]


def names(text, kind=str) -> list | None:
    """Reads what was given with commas between; None for None.

    Example:
      >>> names("digits, mnist_5k/14"), names("0,15", int), names(None)
      (['digits', 'mnist_5k/14'], [0, 15], None)
    """
    if text is None:
        return None
    try:
        return [kind(part.strip()) for part in text.split(",") if part.strip()]
    except ValueError as error:
        raise ArgumentError(f"Options: expected {kind.__name__} values with commas, got {text!r}. Give 1,2,3, say.") from error


def load_model(path):
    """Loads a Keras model; whatever goes wrong is an `UnsupportedModelError`."""
    if not path.exists():
        raise UnsupportedModelError(f"Model file '{path}': expected a Keras model, found no such file. Check the path.")
    try:
        with quiet():
            if _is_keras3_file(path):
                import keras
            else:
                from tfmetaprune._keras import keras
        return keras.models.load_model(path)
    except Exception as error:  # zip, HDF5, JSON and Keras each raise kinds of their own
        reason = (str(error).strip() or repr(error)).splitlines()[0][:300].rstrip(". ")
        raise UnsupportedModelError(
            f"Model file '{path}': expected a Keras model, got {type(error).__name__}: {reason}. "
            f"Save the model by model.save('model.keras'), without custom objects."
        ) from error


def _is_keras3_file(path) -> bool:
    """Whether Keras 3 wrote a model file, by the version noted in it; older formats are those of Keras 2."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return json.loads(archive.read("metadata.json"))["keras_version"].startswith("3")


@contextlib.contextmanager
def quiet():
    """Silences what TensorFlow writes to stderr while it is imported, and its warnings; errors are raised."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    logging.getLogger("tensorflow").setLevel(logging.ERROR)  # advice about retracing, for one
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # a process may have no stderr
            stderr = os.dup(2)
            stack.callback(os.close, stderr)
            with open(os.devnull, "wb") as sink:
                os.dup2(sink.fileno(), 2)
            stack.callback(os.dup2, stderr, 2)
        yield
