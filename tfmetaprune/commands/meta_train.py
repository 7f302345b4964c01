"""`tfmetaprune meta-train`."""

import os
import pathlib
from typing import Annotated

import typer

from tfmetaprune.commands.app import app, examples
from tfmetaprune.commands.shared import Json, Quiet, Seed, quiet, results
from tfmetaprune.errors import ArgumentError


@app.command(
    "meta-train",
    epilog=examples(
        "tfmetaprune meta-train --out runs/digits",
        "tfmetaprune meta-train --objective sparse --steps 500 --num-models 4 --out runs/sparse",
        "tfmetaprune meta-train --objective published --regularization 0.01 --out runs/published",
        "tfmetaprune meta-train --out runs/digits --resume",
    ),
)
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
    regularization: Annotated[
        float | None, typer.Option(help="Weight of the norm, for the published objectives.", min=0, show_default="published")
    ] = None,
    strategy: Annotated[str, typer.Option(help="none, mirrored, or multi-worker (by TF_CONFIG).")] = "none",
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint.")] = False,
    as_json: Json = False,
    is_quiet: Quiet = False,
):
    """Trains a metanetwork on networks that it trains on digits first, and judges it on held-out ones."""
    with results(as_json, is_quiet) as done:
        _check(objective, regularization, strategy)
        with quiet():
            from tfmetaprune.metatrain import command
            from tfmetaprune.report.progress import stage_progress
            from tfmetaprune.report.tables import curve_table
        weight = {} if regularization is None else {"regularization": regularization}
        with stage_progress() as progress:
            card = command.meta_train(
                out, objective=objective, steps=steps, seed=seed, num_models=num_models, batches_per_step=batches_per_step,
                models_per_step=models_per_step, strategy=strategy, resume=resume, progress=progress, **weight,
            )  # fmt: skip
        done.write(card)
        if card is None:
            done.show("This worker is done; the chief has written the results.")
        else:
            done.show(curve_table(card["measured"]), f"Written to {out}: the metanetwork and its card")


def _check(objective, regularization, strategy):
    if regularization is not None and not objective.startswith("published"):
        raise ArgumentError(
            f"meta-train: expected a published objective with --regularization, got {objective!r}. Leave one of them out."
        )
    if strategy == "multi-worker" and "TF_CONFIG" not in os.environ:
        raise ArgumentError(
            "meta-train: expected the environment variable TF_CONFIG for --strategy multi-worker, got none. Set it to the cluster "
            "and this worker's task, see the README."
        )
