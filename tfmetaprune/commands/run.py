"""`tfmetaprune run`."""

import contextlib
import json
import pathlib
from typing import Annotated

import typer
from rich.console import Console

from tfmetaprune.commands.app import app, examples
from tfmetaprune.commands.shared import Json, Quiet, quiet


@app.command(
    epilog=examples(
        "tfmetaprune run digits --out runs/digits",
        "tfmetaprune run resnet56_cifar10 --smoke --out /tmp/try",
        "tfmetaprune run my_recipe.yaml --data-dir /data --out runs/mine --resume",
    )
)
def run(
    recipe: Annotated[str, typer.Argument(help="Name of a shipped recipe, or the path of a .yaml file.", metavar="RECIPE")],
    out: Annotated[pathlib.Path, typer.Option(help="Folder for models, TFLite file and report.json.")],
    smoke: Annotated[bool, typer.Option("--smoke", help="The same chain in toy size, random data in place of a download.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where an earlier run stopped.")] = False,
    data_dir: Annotated[str | None, typer.Option(help="Folder of the prepared data sets.", show_default=False)] = None,
    as_json: Json = False,
    is_quiet: Quiet = False,
):
    """Runs a whole experiment: data models, metanetwork, pruning, fine-tuning, TFLite file, report."""
    with quiet():
        from tfmetaprune.recipes.reading import read_recipe
        from tfmetaprune.recipes.run import run_recipe
        from tfmetaprune.report.progress import no_progress, stage_progress
        from tfmetaprune.report.tables import comparison_table
    chosen = read_recipe(recipe)
    with no_progress() if is_quiet else contextlib.nullcontext(), stage_progress() as progress:
        report = run_recipe(chosen, out, smoke=smoke, resume=resume, data_dir=data_dir, progress=progress)
    if as_json:
        typer.echo(json.dumps(report, indent=2))
        return
    if is_quiet:
        return
    rows = [
        {"name": stage, "macs": figures["macs"], "parameters": figures["parameters"], **figures["validation"]}
        for stage, figures in report["stages"].items()
        if "macs" in figures
    ]
    console = Console()
    console.print(comparison_table(f"{recipe}: {report['speedup']['reached']:.2f} times fewer MACs (accuracy on validation)", rows))
    before, after = (report["test"][name]["accuracy"] for name in ("network", "finetuned_b"))
    console.print(f"On the test split: {before:.2%} before, {after:.2%} after.", highlight=False)
    console.print(f"Models, TFLite file and report are in {out}", soft_wrap=True)
