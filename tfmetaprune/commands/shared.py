"""What several commands share: options, loading of models and data, where results go, silence while TensorFlow is imported."""

import contextlib
import json
import logging
import os
import pathlib
import zipfile
from typing import Annotated

import typer
from rich.console import Console

from tfmetaprune.errors import ArgumentError, UnsupportedModelError

Model = Annotated[pathlib.Path, typer.Argument(help="A saved model of Keras 3 or Keras 2 (tf_keras).", metavar="MODEL.keras")]
Seed = Annotated[int, typer.Option(help="Of everything random.", min=0, max=2**32 - 1)]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print errors alone, and JSON if asked for.")]
Data = Annotated[
    str | None,
    typer.Option(help="Data set: 'digits', another name, or a path: images in folders, .npz, .csv or .tsv.", show_default=False),
]
DataDir = Annotated[
    pathlib.Path | None,
    typer.Option(help="Folder of prepared data sets.", show_default="TFDS_DATA_DIR, else ~/tensorflow_datasets"),
]
Scaling = Annotated[
    str | None,
    typer.Option(help="Of inputs: default (images to [0, 1]), none (as they are, 0 to 255 say) or standardize.", show_default="default"),
]


class Results:
    """Where the results of a command go: tables and lines for people, or one JSON value, on standard output.

    Attributes:
      console: a rich console for people; silent if they asked for JSON or for quiet.
    """

    def __init__(self, as_json, is_quiet):
        self.console = Console(quiet=as_json or is_quiet)
        self._as_json = as_json

    def show(self, *renderables):
        """Prints tables, and lines as they are, for people."""
        for renderable in renderables:
            self.console.print(renderable, markup=False, highlight=False, soft_wrap=isinstance(renderable, str))

    def write(self, value):
        """Prints a value as JSON, if that was asked for."""
        if self._as_json:
            typer.echo(json.dumps(value, indent=2))


@contextlib.contextmanager
def results(as_json, is_quiet):
    """Yields the `Results` of a command; progress bars are silent meanwhile with `--quiet`."""
    with contextlib.ExitStack() as stack:
        if is_quiet:
            from tfmetaprune.report.progress import no_progress

            stack.enter_context(no_progress())
        yield Results(as_json, is_quiet)


def load_data(name, data_dir, seed, model, scaling=None):
    """Loads the data set that `--data` names, a `DataSplits`; images get the size and the channels of the model's input.

    Args:
      name: as for `data.load`.
      data_dir: as for `data.load`.
      seed: as for `data.load`.
      model: a model of either Keras.
      scaling: as for `data.load`; None for its default.

    Raises:
      ArgumentError: the name or the scaling is unknown.
      DataError: the set cannot be read.
    """
    with quiet():
        from tfmetaprune.data import load
    inputs = getattr(model, "inputs", None) or ()
    input_shape = tuple(inputs[0].shape[1:]) if len(inputs) == 1 else None
    return load(name, data_dir=data_dir, seed=seed, input_shape=input_shape, scaling=scaling or "default")


def refuse_unused(where, **options):
    """Raises `ArgumentError` if options are given that what is asked for has no use for.

    Args:
      where: what is asked for, such as "prune without --data".
      **options: value that is given, by the option's name with underscores; None for none.
    """
    for name, value in options.items():
        if value is not None:
            option = f"--{name.replace('_', '-')}"
            raise ArgumentError(f"{where}: expected no {option}, which has no effect there, got {value}. Leave it out.")


def use_data_dir(data_dir):
    """Makes `data_dir`, if it is not None, the folder of prepared data sets of this process and of those that it starts."""
    if data_dir is not None:
        os.environ["TFDS_DATA_DIR"] = str(data_dir)


def existing(path, what):
    """Returns the path of a model; raises `UnsupportedModelError` if there is nothing."""
    if not path.exists():
        raise UnsupportedModelError(f"Model file '{path}': expected {what}, found no such file. Check the path.")
    return path


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
    existing(path, "a Keras model")
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
