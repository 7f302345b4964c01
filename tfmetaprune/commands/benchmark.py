"""`tfmetaprune benchmark`."""

import json
import pathlib
from typing import Annotated

import typer
from rich.console import Console

from tfmetaprune.commands.app import app
from tfmetaprune.commands.shared import load_model, quiet


@app.command()
def benchmark(
    files: Annotated[list[pathlib.Path], typer.Argument(help="Keras models and TFLite files.", metavar="FILE...")],
    threads: Annotated[int, typer.Option(help="Number of threads.", min=1)] = 1,
    runs: Annotated[int, typer.Option(help="Number of rounds; each runs every file once.", min=1)] = 50,
    profile: Annotated[bool, typer.Option("--profile", help="Time each operator too.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
):
    """Measures models and TFLite files side by side: latency, size, memory, MACs."""
    candidates = [str(path) if path.suffix == ".tflite" else load_model(path) for path in files]
    with quiet():
        from tfmetaprune.export import benchmark as measuring
        from tfmetaprune.report.progress import progress_bar
        from tfmetaprune.report.tables import benchmark_table, operators_table
    with progress_bar("Exporting and measuring"):
        report = measuring.benchmark(*candidates, num_threads=threads, num_runs=runs, profile=profile)
    if as_json:
        typer.echo(json.dumps(report.to_dict(), indent=2))
        return
    console = Console()
    console.print(benchmark_table(report))
    for model in report.models if profile else ():
        console.print(operators_table(model))
