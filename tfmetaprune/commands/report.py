"""`tfmetaprune report`."""

import json
import pathlib
from typing import Annotated

import typer

from tfmetaprune.commands.app import app, examples
from tfmetaprune.commands.shared import DataDir, Json, Quiet, Seed, load_data, load_model, quiet, refuse_unused, results
from tfmetaprune.errors import ArgumentError


@app.command(
    epilog=examples(
        "tfmetaprune report small",
        "tfmetaprune report small --latency --out page.html",
        "tfmetaprune report small --curve --data digits",
    )
)
def report(
    folder: Annotated[pathlib.Path, typer.Argument(help="What 'prune --out' or 'demo --out' wrote.", metavar="DIR")],
    out: Annotated[pathlib.Path | None, typer.Option(help="The HTML file to write.", show_default="DIR/report.html")] = None,
    latency: Annotated[bool, typer.Option("--latency", help="Measure original and pruned model in TFLite.")] = False,
    curve: Annotated[bool, typer.Option("--curve", help="Prune to several speed-ups, and by the baselines; needs data.")] = False,
    model: Annotated[pathlib.Path | None, typer.Option(help="The original.", show_default="the model that was pruned")] = None,
    data: Annotated[str | None, typer.Option(help="Data set for --curve.", show_default="what was pruned on")] = None,
    data_dir: DataDir = None,
    scaling: Annotated[str | None, typer.Option(help="Of its inputs, as for prune.", show_default="as it was pruned")] = None,
    seed: Seed = 0,
    as_json: Json = False,
    is_quiet: Quiet = False,
):
    """Writes one self-contained HTML page: figures, curve, network, channels, histograms, latency."""
    from tfmetaprune.report.page import write_report

    with results(as_json, is_quiet) as done:
        if not curve:
            refuse_unused("report without --curve", data=data, data_dir=data_dir, scaling=scaling)
        if not (curve or latency):
            refuse_unused("report without --curve and --latency", model=model)
        path = write_report(folder, out)  # finds out at once whether all can be read and written
        if curve or latency:
            _measure(folder, latency, curve, model, (data, data_dir, seed, scaling))
            path = write_report(folder, out)
        done.write({"page": str(path), "size_bytes": path.stat().st_size})
        done.show(f"The page is {path}")


def _measure(folder, latency, curve, model, data):
    """Writes latency.json and curve.json into the folder."""
    with quiet():
        from tfmetaprune import report_measurements as measuring
        from tfmetaprune.report.folder import atomic_folder
        from tfmetaprune.report.page_reading import CURVE_FILE, LATENCY_FILE, read_folder, report_digest
        from tfmetaprune.report.progress import progress_bar
    name, data_dir, seed, scaling = data
    report = read_folder(folder).report
    name, scaling = name or report.get("data"), scaling or report.get("scaling")
    if curve and not name:
        raise ArgumentError(f"Folder '{folder}': expected to be told the data for --curve, got none. Name them by --data NAME.")
    original, small = map(load_model, measuring.model_files(folder, model))

    def write(path, measured):
        path.write_text(json.dumps({"report_digest": report_digest(folder), **measured}, indent=2) + "\n", encoding="utf-8")

    with atomic_folder(folder) as temporary:
        if latency:
            with progress_bar("Exporting and measuring"):
                measured = measuring.measure_latencies(original, small)
            write(temporary / LATENCY_FILE, measured)
        if curve:
            splits = load_data(name, data_dir, seed, original, scaling)
            with progress_bar("Pruning to several speed-ups") as advance:
                measured = measuring.measure_curve(
                    folder, original, splits.train, splits.validation, split=f"validation split of {name}", seed=seed, progress=advance
                )  # fmt: skip
            write(temporary / CURVE_FILE, measured)
