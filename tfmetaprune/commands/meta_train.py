"""`tfmetaprune meta-train`."""

import pathlib
from typing import Annotated

import typer
from rich.console import Console

from tfmetaprune.commands.app import app
from tfmetaprune.commands.shared import Seed, quiet


@app.command("meta-train")
def meta_train(
    out: Annotated[pathlib.Path, typer.Option(help="Folder for checkpoints, log and metanetwork.")] = pathlib.Path(
        "runs/digits"
    ),
    objective: Annotated[str, typer.Option(help="structured, unstructured, n:m, sparse, published or published_sparse.")] = "structured",
    steps: Annotated[int, typer.Option(help="Number of meta-steps.", min=1)] = 3000,
    seed: Seed = 0,
    num_models: Annotated[int, typer.Option(help="Number of data models to train on.", min=1)] = 12,
    batches_per_step: Annotated[int, typer.Option(help="Batches for each data model of a step.", min=1)] = 1,
    models_per_step: Annotated[int, typer.Option(help="Data models a step, spread over the replicas.", min=1)] = 1,
    strategy: Annotated[str, typer.Option(help="none, mirrored, or multi-worker (by TF_CONFIG).")] = "none",
    regularization: Annotated[float | None, typer.Option(help="Weight of a published norm, if not its own.", min=0)] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint.")] = False,
):
    """Trains a metanetwork on networks that it trains on digits first, and judges it on held-out ones."""
    with quiet():
        from tfmetaprune.metatrain import command
        from tfmetaprune.report.progress import stage_progress
        from tfmetaprune.report.tables import curve_table
    with stage_progress() as progress:
        card = command.meta_train(
            out, objective=objective, steps=steps, seed=seed, num_models=num_models, batches_per_step=batches_per_step,
            models_per_step=models_per_step, strategy=strategy, resume=resume, regularization=regularization, progress=progress,
        )  # fmt: skip
    if card is None:
        Console().print("This worker is done; the chief has written the results.")
        return
    Console().print(curve_table(card["measured"]))
    Console().print(f"Written to {out}: the metanetwork and its card", soft_wrap=True)
