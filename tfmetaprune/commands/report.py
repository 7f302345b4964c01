"""`tfmetaprune report`."""

import json
import pathlib
from typing import Annotated

import typer

from tfmetaprune.commands.app import app, examples
from tfmetaprune.commands.shared import Json, Quiet, Seed, load_model, quiet
from tfmetaprune.errors import ArgumentError

_EXAMPLES = examples(
    "tfmetaprune report DIR", "tfmetaprune report DIR --latency --out page.html", "tfmetaprune report DIR --curve --data digits"
)


@app.command(epilog=_EXAMPLES)
def report(
    folder: Annotated[pathlib.Path, typer.Argument(help="What 'prune --out' or 'demo --out' wrote.", metavar="DIR")],
    out: Annotated[pathlib.Path | None, typer.Option(help="The HTML file to write.", show_default="DIR/report.html")] = None,
    curve: Annotated[bool, typer.Option("--curve", help="Prune to several speed-ups, and by the baselines; needs data.")] = False,
    latency: Annotated[bool, typer.Option("--latency", help="Measure original and pruned model in TFLite.")] = False,
    model: Annotated[pathlib.Path | None, typer.Option(help="The original model.", show_default="the one that was pruned")] = None,
    data: Annotated[str | None, typer.Option(help="Data set for --curve.", show_default="the one that was pruned on")] = None,
    seed: Seed = 0,
    as_json: Json = False,
    silent: Quiet = False,
):
    """Writes one self-contained HTML page: figures, curve, network, channels, histograms, latency."""
    from tfmetaprune.report.page import write_report

    path = write_report(folder, out)  # finds out at once whether all can be read and written
    if curve or latency:
        _measure(folder, curve, latency, model, data, seed)
        path = write_report(folder, out)
    if as_json:
        typer.echo(json.dumps({"page": str(path), "size_bytes": path.stat().st_size}))
    elif not silent:
        typer.echo(f"The page is {path}")


def _measure(folder, curve, latency, model, data, seed):
    """Writes curve.json and latency.json into the folder."""
    with quiet():
        from tfmetaprune import report_measurements as measuring
        from tfmetaprune.data import load
        from tfmetaprune.report.folder import atomic_folder
        from tfmetaprune.report.page_reading import CURVE_FILE, LATENCY_FILE, read_folder
        from tfmetaprune.report.progress import progress_bar
    original, small = map(load_model, measuring.model_files(folder, model))
    name = data or read_folder(folder).report.get("data")
    if curve and not name:
        raise ArgumentError(f"Folder '{folder}': expected to be told the data for --curve, got none. Name them by --data NAME.")
    with atomic_folder(folder) as temporary:
        if latency:
            with progress_bar("Exporting and measuring"):
                measured = measuring.measure_latencies(original, small)
            (temporary / LATENCY_FILE).write_text(json.dumps(measured, indent=2) + "\n", encoding="utf-8")
        if curve:
            splits = load(name, seed=seed)
            with progress_bar("Pruning to several speed-ups") as advance:
                measured = measuring.measure_curve(
                    folder, original, splits.train, splits.validation, split=f"validation split of {name}", seed=seed, progress=advance
                )  # fmt: skip
            (temporary / CURVE_FILE).write_text(json.dumps(measured, indent=2) + "\n", encoding="utf-8")
