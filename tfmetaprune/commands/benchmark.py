"""`tfmetaprune benchmark`."""

import pathlib
from typing import Annotated

import typer

from tfmetaprune.commands.app import app, examples
from tfmetaprune.commands.shared import Json, Quiet, existing, load_model, quiet, results


@app.command(
    epilog=examples(
        "tfmetaprune benchmark original.keras small.keras small_int8.tflite",
        "tfmetaprune benchmark small.tflite --threads 4 --runs 200 --profile",
        "tfmetaprune benchmark original.keras small.keras --json",
    )
)
def benchmark(
    files: Annotated[list[pathlib.Path], typer.Argument(help="Keras models and TFLite files.", metavar="FILE...")],
    threads: Annotated[int, typer.Option(help="Number of threads.", min=1)] = 1,
    runs: Annotated[int, typer.Option(help="Number of rounds; each runs every file once.", min=1)] = 50,
    profile: Annotated[bool, typer.Option("--profile", help="Time each operator too.")] = False,
    as_json: Json = False,
    is_quiet: Quiet = False,
):
    """Measures models and TFLite files side by side: latency, size, memory, MACs."""
    with results(as_json, is_quiet) as done:
        candidates = [str(existing(path, "a TFLite file")) if path.suffix == ".tflite" else load_model(path) for path in files]
        with quiet():
            from tfmetaprune.export import benchmark as measuring
            from tfmetaprune.report.progress import progress_bar
            from tfmetaprune.report.tables import benchmark_table, operators_table
        with progress_bar("Exporting and measuring"):
            report = measuring.benchmark(*candidates, num_threads=threads, num_runs=runs, profile=profile)
        done.write(report.to_dict())
        done.show(benchmark_table(report), *(operators_table(model) for model in report.models if profile))
