"""Saves and loads metanetworks, the shipped ones by name; a card (JSON) tells how each was made and how good it is."""

import json
import os
import tempfile
from pathlib import Path

from tfmetaprune._keras import keras
from tfmetaprune.errors import MetaNetworkError
from tfmetaprune.graph.schema import SCHEMA_VERSION
from tfmetaprune.metanet.model import MetaNetwork

DEFAULT_NAME = "universal"
_SUFFIX = ".keras"


def available_metanetworks() -> tuple[str, ...]:
    """Returns the names of the metanetworks that are shipped, sorted.

    Example:
      >>> isinstance(available_metanetworks(), tuple)
      True
    """
    return tuple(sorted({path.stem for folder in _folders() for path in folder.glob("*" + _SUFFIX)}))


def load_metanetwork(name_or_path: str | os.PathLike[str] = "default") -> MetaNetwork:
    """Loads a metanetwork.

    Args:
      name_or_path: the name of a shipped one, "default" for the default one, or the path of a `.keras` file with its
        card (`.json`) beside it.

    Returns:
      The `MetaNetwork`.

    Raises:
      MetaNetworkError: the name is unknown, a file is missing or unreadable or holds something else, or the metanetwork
        was made for another version of the graph schema.
    """
    path = _find(name_or_path)
    load_card(path)
    try:
        metanet = keras.models.load_model(path, compile=False)
    except Exception as error:  # zip, HDF5 and Keras each raise kinds of their own
        raise MetaNetworkError(
            f"Metanetwork {path}: expected a file written by save_metanetwork, got {type(error).__name__}: {error}. "
            f"Restore the file or train it again."
        ) from error
    if not isinstance(metanet, MetaNetwork):
        raise MetaNetworkError(
            f"Metanetwork {path}: expected a MetaNetwork, got a {type(metanet).__name__}. "
            f"Give a file written by save_metanetwork."
        )
    return metanet


def as_metanetwork(metanetwork):
    """Loads a metanetwork that is given by name or path; one that is given itself, or None, is returned as it is."""
    return metanetwork if metanetwork is None or callable(metanetwork) else load_metanetwork(metanetwork)


def load_card(name_or_path: str | os.PathLike[str] = "default") -> dict:
    """Reads the card of a metanetwork and checks that it was made for this version of the graph schema.

    Args:
      name_or_path: as for `load_metanetwork`.

    Returns:
      The card.

    Raises:
      MetaNetworkError: as for `load_metanetwork`.
    """
    path = _find(name_or_path).with_suffix(".json")
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
        version = card["schema_version"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise MetaNetworkError(
            f"Metanetwork card {path}: expected a JSON object with a schema_version, "
            f"got {type(error).__name__}: {error}. Put the card that was written with the metanetwork beside it."
        ) from error
    if version != SCHEMA_VERSION:
        raise MetaNetworkError(
            f"Metanetwork card {path}: expected schema_version {SCHEMA_VERSION}, got {version!r}. "
            f"Train the metanetwork again, or use the release of tfmetaprune that it was made for."
        )
    return card


def save_metanetwork(metanet: MetaNetwork, path: str | os.PathLike[str], card: dict) -> Path:
    """Writes a metanetwork and its card; each file appears whole or not at all.

    Args:
      metanet: the metanetwork.
      path: of the file to write; ends in `.keras`. The card goes beside it, as `.json`.
      card: what to tell about it; schema_version and config are added.

    Returns:
      The path.

    Raises:
      MetaNetworkError: the path does not end in `.keras`, or cannot be written.
    """
    path = Path(path)
    if path.suffix != _SUFFIX:
        raise MetaNetworkError(
            f"Metanetwork {path}: expected a path that ends in {_SUFFIX}, got {path.name!r}. Rename it."
        )
    card = {**card, "schema_version": SCHEMA_VERSION, "config": metanet.config.to_dict()}
    text = json.dumps(card, indent=2) + "\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.stem}-") as folder:
            written = Path(folder) / path.name
            metanet.save(written, save_format="keras")
            written.with_suffix(".json").write_text(text, encoding="utf-8")
            os.replace(written, path)
            os.replace(written.with_suffix(".json"), path.with_suffix(".json"))
    except OSError as error:
        raise MetaNetworkError(
            f"Metanetwork {path}: expected a place that can be written to, got {error}. Choose another folder."
        ) from error
    return path


def _folders() -> list[Path]:
    """The folders of shipped metanetworks: inside the installed package, then at the top of a checkout."""
    package = Path(__file__).resolve().parents[1]
    return [folder for folder in (package / "saved_models", package.parent / "saved_models") if folder.is_dir()]


def _find(name_or_path) -> Path:
    path = Path(name_or_path)
    if path.suffix == _SUFFIX or path.parent != Path():
        if not path.is_file():
            raise MetaNetworkError(f"Metanetwork {path}: expected a file, found none. Check the path.")
        return path
    name = DEFAULT_NAME if name_or_path == "default" else str(name_or_path)
    for folder in _folders():
        if (folder / (name + _SUFFIX)).is_file():
            return folder / (name + _SUFFIX)
    raise MetaNetworkError(
        f"Metanetwork {str(name_or_path)!r}: expected one of {list(available_metanetworks())} "
        f"or the path of a {_SUFFIX} file. Choose one of these names, or train one."
    )
