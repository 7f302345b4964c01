"""`tfmetaprune demo`."""

import pathlib
from typing import Annotated

import typer

from tfmetaprune.commands.app import app
from tfmetaprune.commands.shared import Seed, quiet


@app.command()
def demo(
    out: Annotated[pathlib.Path, typer.Option(help="Folder for models, plan, report and plot.")] = pathlib.Path(
        "tfmetaprune-demo"
    ),
    seed: Seed = 0,
):
    """Trains a small CNN on real digits, prunes it with and without the metanetwork, exports and measures it."""
    with quiet():
        from tfmetaprune.demo import run_demo
    run_demo(out, seed=seed)
