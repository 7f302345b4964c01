"""`tfmetaprune compare`."""

import gzip
import json
import pathlib
from typing import Annotated

import typer

from tfmetaprune.commands.app import app, examples
from tfmetaprune.commands.shared import (
    Data,
    DataDir,
    Json,
    Quiet,
    Scaling,
    Seed,
    load_data,
    load_model,
    quiet,
    refuse_unused,
    results,
)
from tfmetaprune.errors import ArgumentError

_FIRST = ("original", "model")  # names of files that others were made from come before the others in a folder
_WIDE = 160  # columns of a terminal that the analysis of every layer fits into


@app.command(
    epilog=examples(
        "tfmetaprune compare original.keras small.keras --data digits",
        "tfmetaprune compare DIR --analyze --plot changes.png",
        "tfmetaprune compare original.keras small.keras smaller.keras --json",
    )
)
def compare(
    models: Annotated[
        list[pathlib.Path], typer.Argument(help="Keras models, or a folder that prune or demo has written.", metavar="MODEL...")
    ],
    data: Data = None,
    data_dir: DataDir = None,
    scaling: Scaling = None,
    analyze: Annotated[bool, typer.Option("--analyze", help="Tell how the statistics of the layers differ, of two models.")] = False,
    plot: Annotated[pathlib.Path | None, typer.Option(help="PNG file for the same as a picture.", show_default=False)] = None,
    seed: Seed = 0,
    as_json: Json = False,
    is_quiet: Quiet = False,
):
    """Sets models side by side: MACs, parameters, size, widths, and with --data the accuracy on its test split."""
    with results(as_json, is_quiet) as done:
        paths = [path for given in models for path in (_models_in(given) if given.is_dir() else [given])]
        if len(paths) < 2:
            raise ArgumentError(f"compare: expected two models or more, got {len(paths)}. Name another, or a folder of prune.")
        if (analyze or plot) and len(paths) != 2:
            raise ArgumentError(f"compare: expected two models for --analyze and --plot, got {len(paths)}. Name two.")
        if data is None:
            refuse_unused("compare without --data", data_dir=data_dir, scaling=scaling)
        loaded = [load_model(path) for path in paths]
        with quiet():
            from tfmetaprune.analysis import STATISTICS
            from tfmetaprune.analysis import analyze as analyze_models
            from tfmetaprune.comparison import summarize
            from tfmetaprune.report.progress import progress_bar
            from tfmetaprune.report.tables import means_table, summaries_table
        splits = None if data is None else load_data(data, data_dir, seed, loaded[0], scaling)
        rows = []
        with progress_bar("Measuring the models", len(paths)) as advance:
            for path, name, model in zip(paths, _short_names(paths), loaded):
                content = path.read_bytes() if path.is_file() else None  # a folder of TensorFlow's has no size to compare
                sizes = {"size_bytes": content and len(content), "gzip_size_bytes": content and len(gzip.compress(content))}
                rows.append({**summarize(model, name, splits and splits.test).to_dict(), "path": str(path), **sizes})
                advance()
        changes = None
        if analyze or plot:
            with progress_bar("Comparing the layers"):
                changes = analyze_models(*loaded, data=splits and splits.test, seed=seed)
        if plot:
            _write_plot(changes, plot)
        done.write({"data": data, "models": rows, **({"analysis": changes.to_dict()} if analyze else {})})
        where = "" if data is None else f" (accuracy on the test split of {data})"
        done.show(summaries_table(f"{len(rows)} models{where}", rows))
        if analyze:
            done.show(changes.table() if done.console.width >= _WIDE else means_table(changes, STATISTICS))
        if plot:
            done.show(f"The picture is in {plot}")


def _models_in(folder) -> list[pathlib.Path]:
    """The Keras models in a folder, and before them the one they were made from, if the folder's report tells."""
    found = sorted(folder.glob("*.keras"), key=lambda path: (path.stem not in _FIRST, path.name))
    if not found:
        raise ArgumentError(f"compare: expected .keras models in folder '{folder}', got none. Name a folder of prune or demo.")
    try:
        source = json.loads((folder / "report.json").read_text(encoding="utf-8"))["model"]
    except (OSError, ValueError, KeyError, TypeError):
        return found
    original = pathlib.Path(source)
    if not original.exists():
        raise ArgumentError(
            f"compare: expected the model that '{folder}' was made from, '{original}', which is gone. Name where it is now, and "
            f"'{found[0]}'."
        )
    return [original, *found]


def _short_names(paths) -> list[str]:
    """The file names, with the folders that tell them apart."""
    for length in range(1, max(len(path.parts) for path in paths) + 1):
        names = ["/".join(path.parts[-length:]) for path in paths]
        if len(set(names)) == len(names):
            break
    return names


def _write_plot(changes, path):
    try:
        changes.plot(path)
    except (OSError, ValueError) as error:  # matplotlib: an unknown kind of file
        raise ArgumentError(f"compare: expected to write the picture to '{path}', got: {error}. Choose a .png file.") from error
