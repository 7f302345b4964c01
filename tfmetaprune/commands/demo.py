"""`tfmetaprune demo`."""

import pathlib
from typing import Annotated

import typer

from tfmetaprune.commands.app import app, examples
from tfmetaprune.commands.shared import Json, Quiet, Seed, quiet, results


@app.command(epilog=examples("tfmetaprune demo", "tfmetaprune demo --out /tmp/demo --seed 1 --json"))
def demo(
    out: Annotated[pathlib.Path, typer.Option(help="Folder for models, plan, report and plot.")] = pathlib.Path(
        "tfmetaprune-demo"
    ),
    seed: Seed = 0,
    as_json: Json = False,
    is_quiet: Quiet = False,
):
    """Trains a small CNN on real digits, prunes it with and without the metanetwork, exports and measures it."""
    with results(as_json, is_quiet) as done:
        with quiet():
            from tfmetaprune.demo import run_demo
        done.write(run_demo(out, seed=seed, console=done.console))
