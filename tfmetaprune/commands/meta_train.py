"""`tfmetaprune meta-train`."""

import pathlib
from typing import Annotated

import typer
from rich.console import Console

from tfmetaprune.commands.app import app, examples
from tfmetaprune.commands.shared import Seed, names, quiet


@app.command(
    "meta-train",
    epilog=examples(
        "tfmetaprune meta-train --out runs/digits --resume",
        "tfmetaprune meta-train --zoo runs/zoo --out runs/universal --families plain_cnn,residual_cnn,mlp --steps 6000",
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
    strategy: Annotated[str, typer.Option(help="none, mirrored, or multi-worker (by TF_CONFIG).")] = "none",
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint.")] = False,
    zoo: Annotated[pathlib.Path | None, typer.Option(help="Train on this zoo of `zoo make`; what follows is for it.")] = None,
    families: Annotated[str | None, typer.Option(help="Families to train on, with commas.", show_default="all")] = None,
    data: Annotated[str | None, typer.Option(help="Data sets to train on, with commas.", show_default="all")] = None,
    validation_families: Annotated[str | None, typer.Option(help="Families to validate on.", show_default="the same")] = None,
    validation_data: Annotated[str | None, typer.Option(help="Data sets to validate on.", show_default="the same")] = None,
    num_validation: Annotated[int, typer.Option(help="Models to validate on; 0: train to the end.", min=0)] = 6,
    validation_repair: Annotated[str, typer.Option(help="bn or least_squares.")] = "bn",
    validate_every: Annotated[int, typer.Option(help="Steps between two validations.", min=1)] = 200,
    patience: Annotated[int, typer.Option(help="Validations without gain that end it; 0: none do.", min=0)] = 5,
    name: Annotated[str, typer.Option(help="Name of the metanetwork.")] = "universal",
    hidden: Annotated[int, typer.Option(help="Width of the metanetwork.", min=2)] = 16,
    layers: Annotated[int, typer.Option(help="Message passing layers of the metanetwork.", min=1)] = 3,
):
    """Trains a metanetwork on networks that it trains on digits first, and judges it on held-out ones; or on a zoo."""
    if zoo is not None:
        with quiet():
            from tfmetaprune.metanet import MetaNetConfig
            from tfmetaprune.metatrain.trainer import MetaTraining
        settings = MetaTraining(
            steps, objective=objective, seed=seed, batches_per_step=batches_per_step, models_per_step=models_per_step,
            validate_every=validate_every, patience=patience,
        )  # fmt: skip
        _on_zoo(
            out, zoo, name=name, families=names(families), data=names(data), validation_families=names(validation_families),
            validation_data=names(validation_data), num_validation=num_validation, validation_repair=validation_repair,
            settings=settings, config=MetaNetConfig(hidden=hidden, num_layers=layers), strategy=strategy, resume=resume,
        )  # fmt: skip
        return
    with quiet():
        from tfmetaprune.metatrain import command
        from tfmetaprune.report.progress import stage_progress
        from tfmetaprune.report.tables import curve_table
    with stage_progress() as progress:
        card = command.meta_train(
            out, objective=objective, steps=steps, seed=seed, num_models=num_models, batches_per_step=batches_per_step,
            models_per_step=models_per_step, strategy=strategy, resume=resume, progress=progress,
        )  # fmt: skip
    if card is None:
        Console().print("This worker is done; the chief has written the results.")
        return
    Console().print(curve_table(card["measured"]))
    Console().print(f"Written to {out}: the metanetwork and its card", soft_wrap=True)


def _on_zoo(out, zoo, *, name, **options):
    with quiet():
        from tfmetaprune.metatrain.mixed import meta_train_on_zoo
        from tfmetaprune.report.progress import stage_progress
    with stage_progress() as progress:
        card = meta_train_on_zoo(out, zoo, name=name, progress=progress, **options)
    if card is None:
        Console().print("This worker is done; the chief has written the results.")
        return
    if "validation" in card:
        found = card["validation"]
        Console().print(
            f"Objective {found['objective']:.1%} after {found['step']} steps, {found['without']:.1%} without a metanetwork.",
            highlight=False, soft_wrap=True,
        )  # fmt: skip
    Console().print(f"Written to {out}: {name}.keras and its card", soft_wrap=True)
