"""The folder of a run: what every stage has made, written whole or not at all, so that a run goes on where it stopped."""

import json
import os
import pathlib
import shutil
import time
import uuid

from tfmetaprune._keras import keras
from tfmetaprune.errors import ArgumentError


class Store:
    """The stages that are done, in a folder: NAME.json with the figures of each, and NAME.keras for those that make a model.

    Args:
      folder: the folder.
      identity: JSON-able dict that tells which run this is.
      resume: whether the folder may hold an unfinished run, which has to be the same.

    Raises:
      ArgumentError: the folder cannot be written, or holds a run and this is not to resume it, or is another run's.
    """

    def __init__(self, folder, identity: dict, *, resume: bool):
        self.folder = pathlib.Path(folder)
        note = self.folder / "recipe.json"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            old = json.loads(note.read_text(encoding="utf-8")) if note.exists() else None
            if old is not None and not resume:
                raise ArgumentError(f"Folder '{folder}': expected no run in it, got one. Use --resume to go on, or another folder.")
            if old is None and any(self.folder.glob("*.json")):
                raise ArgumentError(f"Folder '{folder}': expected a new folder or that of a run, got one of other results. Take another.")
            identity = json.loads(json.dumps(identity))
            if old is not None and old != identity:
                keys = ", ".join(key for key in identity if identity[key] != old.get(key))
                raise ArgumentError(
                    f"Folder '{folder}': expected the run of the same recipe, got one that differs in {keys}. Use another folder."
                )
            self.write("recipe", identity)
        except (OSError, ValueError) as error:
            if isinstance(error, ArgumentError):
                raise
            raise ArgumentError(f"Folder '{folder}': expected a folder that can be written, got {error}. Choose another.") from error

    def path(self, name, suffix=".keras") -> pathlib.Path:
        """Returns the path of a stage's file."""
        return self.folder / f"{name}{suffix}"

    def stage(self, name, make) -> dict:
        """Runs a stage unless it is done.

        Args:
          name: of the stage.
          make: called without arguments; returns (a model to keep or None, its figures, a JSON-able dict).

        Returns:
          The figures, with the "seconds" that the stage took.
        """
        figures = self.path(name, ".json")
        if figures.exists():
            return json.loads(figures.read_text(encoding="utf-8"))
        started = time.perf_counter()
        model, values = make()
        figures.parent.mkdir(parents=True, exist_ok=True)
        if model is not None:
            partial = self.path(name, f".{uuid.uuid4().hex}.keras")
            model.save(partial)
            os.replace(partial, self.path(name))
        self.write(name, {**values, "seconds": round(time.perf_counter() - started, 1)})
        shutil.rmtree(self.path(name, ".backup"), ignore_errors=True)
        return self.stage(name, make)

    def model(self, name):
        """Loads the model of a stage that is done."""
        return keras.models.load_model(self.path(name), compile=False)

    def write(self, name, values):
        """Writes a JSON file, whole or not at all."""
        partial = self.path(name, f".{uuid.uuid4().hex}.partial")
        partial.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
        os.replace(partial, self.path(name, ".json"))
