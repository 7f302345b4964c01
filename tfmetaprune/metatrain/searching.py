"""Searches for the channels to keep of every data model of a zoo: what a metanetwork can then be trained to find in one pass.

What is compiled for an architecture serves all its seeds: the weights are put in, and searched for.
"""

import functools
import json
import pathlib
import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from tfmetaprune._keras import tf
from tfmetaprune.errors import ArgumentError
from tfmetaprune.graph import channel_statistics
from tfmetaprune.metatrain.command import HELD_OUT_SEED
from tfmetaprune.metatrain.data_models import BATCH_SIZE, ORDER_SEED, DataModelFile, list_data_models
from tfmetaprune.metatrain.zoo import append_line, dataset_arrays
from tfmetaprune.pruning import needs_statistics, scorer
from tfmetaprune.pruning.search import Search
from tfmetaprune.trace import trace_model

STEPS = 150
SPEEDUP = 6.0


class SearchSettings(NamedTuple):
    """How the channels to keep are searched for.

    Attributes:
      criterion: whose scores a search starts from, as for `prune`.
      steps: of each search.
      speedup: the MACs ratio that is searched for; the steps draw others around it.
      seed: of everything random.
    """

    criterion: str = "group_l2"
    steps: int = STEPS
    speedup: float = SPEEDUP
    seed: int = 0


class Searched(NamedTuple):
    """What a search has found for one data model.

    Attributes:
      start: float32 [num_units], the criterion's scores.
      found: float32 [num_units], what is to be added to them.
      settings: the `SearchSettings`.
    """

    start: np.ndarray
    found: np.ndarray
    settings: SearchSettings


def search_path(folder, file: DataModelFile) -> pathlib.Path:
    """Returns where the search for a data model is kept.

    Example:
      >>> search_path("zoo", DataModelFile("mlp", 1, "digits", 5)).name
      'mlp-1--digits--5.search.npz'
    """
    return pathlib.Path(folder) / f"{file.file_name.removesuffix('.keras')}.search.npz"


def load_searched(folder, file: DataModelFile) -> Searched:
    """Loads what a search has found for a data model.

    Raises:
      ArgumentError: nobody has searched yet, or for weights that it no longer has.
    """
    path = search_path(folder, file)
    if path.exists():
        with np.load(path) as arrays:
            if "digest" in arrays and arrays["digest"].item() == file.digest(folder):
                settings = SearchSettings(*(arrays[name].item() for name in SearchSettings._fields))
                return Searched(arrays["start"], arrays["found"], settings)
    raise ArgumentError(
        f"Zoo {folder}: expected a search for the channels of every data model, got none for {file.file_name} as it is. Search "
        f"first: tfmetaprune zoo search {folder}"
    )


def search_data_models(
    folder, *, families: Sequence[str] | None = None, data: Sequence[str] | None = None, held_out=False,
    settings: SearchSettings | None = None, progress=None,
) -> list[DataModelFile]:  # fmt: skip
    """Searches for the channels of every data model of a zoo, on the inputs that it was trained on.

    What is found lies beside each model, see `search_path`, and is noted in `search.jsonl` with its seconds. Searches with the same
    settings that are there stay, so that it can be broken off.

    Args:
      folder: of the zoo.
      families: names to take; None for all.
      data: names of data sets to take; None for all.
      held_out: whether to take those with seeds from 1000 on as well, which are never trained on.
      settings: of the searches; None for the defaults.
      progress: called as `progress(file, done, total)` with each `DataModelFile`.

    Returns:
      The data models.

    Raises:
      ArgumentError: there are none, or the criterion is unknown.
      NothingToPruneError: the speed-up is out of reach for one of them.
    """
    settings = settings or SearchSettings()
    files = list_data_models(folder, families=families, data=data)
    files = [file for file in files if held_out or file.seed < HELD_OUT_SEED]
    if not files:
        raise ArgumentError(
            f"Zoo {folder}: expected data models with seeds below {HELD_OUT_SEED}, got none. Take the held-out ones too: --held-out"
        )
    inputs, key, searcher = functools.cache(_train_inputs), None, None
    for number, file in enumerate(files, 1):
        if not _is_done(folder, file, settings):
            if key != file[:3]:
                key, searcher = file[:3], _Searcher(file.load(folder))
            _search(folder, file, searcher, inputs(file.data), settings)
        if progress is not None:
            progress(file, number, len(files))
    return files


def logged_searches(folder, files: Sequence[DataModelFile]) -> list[dict]:
    """Returns what the log of a zoo says about the latest search for each of some data models."""
    log = pathlib.Path(folder) / "search.jsonl"
    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()] if log.exists() else []
    rows = {DataModelFile(*(line[name] for name in DataModelFile._fields)): line for line in lines}
    return [rows[file] for file in files if file in rows]


def _is_done(folder, file, settings):
    try:
        return load_searched(folder, file).settings == settings
    except ArgumentError:
        return False


def _search(folder, file, searcher, inputs, settings):
    started = time.perf_counter()
    start, found = searcher.run(file.load(folder), inputs, settings)
    path = search_path(folder, file)
    partial = path.with_name(f"partial-{path.name}")
    np.savez(partial, start=start, found=found, digest=file.digest(folder), **settings._asdict())
    partial.replace(path)
    seconds = round(time.perf_counter() - started, 2)
    append_line(path.with_name("search.jsonl"), {**file._asdict(), "search": settings._asdict(), "seconds": seconds})


class _Searcher:
    """Searches for models of one architecture."""

    def __init__(self, model):
        self._trace = trace_model(model)
        self._search = Search(self._trace)

    def run(self, model, inputs, settings):
        """Returns the scores to start from and what was found, both float32 [num_units], for the weights of a model."""
        self._trace.model.set_weights(model.get_weights())
        needed = needs_statistics(settings.criterion)
        statistics = channel_statistics(self._trace, inputs, seed=settings.seed) if needed else None
        estimate = scorer(self._trace, settings.criterion, statistics=statistics, seed=settings.seed)
        start = estimate(np.ones(self._trace.channels.num_units, bool))
        return start, self._search(start, inputs, speedup=settings.speedup, steps=settings.steps, seed=settings.seed)


def _train_inputs(name):
    from tfmetaprune.data import load

    tf.random.set_seed(ORDER_SEED)  # the order of the examples depends on it
    x, _ = dataset_arrays(load(name).train)
    return tf.data.Dataset.from_tensor_slices((x,)).batch(BATCH_SIZE)
