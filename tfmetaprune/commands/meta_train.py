"""`tfmetaprune meta-train`."""

import os
import pathlib
from typing import Annotated

import typer

from tfmetaprune.commands.app import app, examples
from tfmetaprune.commands.shared import DataDir, Json, Quiet, Seed, names, quiet, results, use_data_dir
from tfmetaprune.errors import ArgumentError

_OF_ZOOS = {  # options that have an effect with --zoo alone
    "families", "data", "validation_families", "validation_data", "num_validation", "validation_repair", "validate_every", "patience",
    "name", "hidden", "layers", "fisher_weight", "perturbation",
}  # fmt: skip


@app.command(
    "meta-train",
    epilog=examples(
        "tfmetaprune meta-train --out runs/digits",
        "tfmetaprune meta-train --objective sparse --steps 500 --num-models 4 --out runs/sparse",
        "tfmetaprune meta-train --objective published --regularization 0.01 --out runs/published",
        "tfmetaprune meta-train --out runs/digits --resume",
        "tfmetaprune meta-train --zoo runs/zoo --out runs/universal --families plain_cnn,residual_cnn,mlp --steps 6000",
        "tfmetaprune meta-train --zoo runs/zoo --objective searched --validation-repair least_squares --out runs/searched",
    ),
)
def meta_train(
    context: typer.Context,
    out: Annotated[pathlib.Path, typer.Option(help="Folder for checkpoints, log and metanetwork.")] = pathlib.Path(
        "runs/digits"
    ),
    objective: Annotated[
        str, typer.Option(help="structured, unstructured, n:m, sparse, published, published_sparse, repaired or searched.")
    ] = "structured",
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
    zoo: Annotated[pathlib.Path | None, typer.Option(help="Train on this zoo of `zoo make`; what follows is for it.")] = None,
    families: Annotated[str | None, typer.Option(help="Families to train on, with commas.", show_default="all")] = None,
    data: Annotated[str | None, typer.Option(help="Data sets to train on, with commas.", show_default="all")] = None,
    data_dir: DataDir = None,
    validation_families: Annotated[str | None, typer.Option(help="Families to validate on.", show_default="the same")] = None,
    validation_data: Annotated[str | None, typer.Option(help="Data sets to validate on.", show_default="the same")] = None,
    num_validation: Annotated[int, typer.Option(help="Models to validate on; 0: train to the end.", min=0)] = 6,
    validation_repair: Annotated[str, typer.Option(help="bn or least_squares.")] = "bn",
    validate_every: Annotated[int, typer.Option(help="Steps between two validations.", min=1)] = 200,
    patience: Annotated[int, typer.Option(help="Validations without gain that end it; 0: none do.", min=0)] = 5,
    name: Annotated[str, typer.Option(help="Name of the metanetwork.")] = "universal",
    hidden: Annotated[int, typer.Option(help="Width of the metanetwork.", min=2)] = 16,
    layers: Annotated[int, typer.Option(help="Message passing layers of the metanetwork.", min=1)] = 3,
    fisher_weight: Annotated[float, typer.Option(help="Of the Fisher information in the scores from the start.", min=0)] = 0.0,
    perturbation: Annotated[float, typer.Option(help="Of the weights of a zoo's models in each step.", min=0)] = 0.0,
    as_json: Json = False,
    is_quiet: Quiet = False,
):
    """Trains a metanetwork on networks that it trains on digits first, and judges it on held-out ones; or on a zoo."""
    weight = {} if regularization is None else {"regularization": regularization}
    use_data_dir(data_dir)
    with results(as_json, is_quiet) as done:
        _check_options(context, zoo)
        _check(objective, regularization, strategy, zoo)
        if zoo is not None:
            with quiet():
                from tfmetaprune.metanet import MetaNetConfig
                from tfmetaprune.metatrain.mixed import meta_train_on_zoo
                from tfmetaprune.metatrain.trainer import MetaTraining
                from tfmetaprune.report.progress import stage_progress
            settings = MetaTraining(
                steps, objective=objective, seed=seed, batches_per_step=batches_per_step, models_per_step=models_per_step,
                validate_every=validate_every, patience=patience, perturbation=perturbation, **weight,
            )  # fmt: skip
            with stage_progress() as progress:
                card = meta_train_on_zoo(
                    out, zoo, name=name, families=names(families), data=names(data), num_validation=num_validation,
                    validation_families=names(validation_families), validation_data=names(validation_data),
                    validation_repair=validation_repair, settings=settings, strategy=strategy, resume=resume,
                    config=MetaNetConfig(hidden=hidden, num_layers=layers, fisher_weight=fisher_weight), progress=progress,
                )  # fmt: skip
        else:
            with quiet():
                from tfmetaprune.metatrain import command
                from tfmetaprune.report.progress import stage_progress
                from tfmetaprune.report.tables import curve_table
            with stage_progress() as progress:
                card = command.meta_train(
                    out, objective=objective, steps=steps, seed=seed, num_models=num_models, batches_per_step=batches_per_step,
                    models_per_step=models_per_step, strategy=strategy, resume=resume, progress=progress, **weight,
                )  # fmt: skip
        done.write(card)
        if card is None:
            done.show("This worker is done; the chief has written the results.")
            return
        if "validation" in card:
            found = card["validation"]
            done.show(
                f"Objective {found['objective']:.1%} after {found['step']} steps, {found['without']:.1%} without a metanetwork."
            )
        if "measured" in card:
            done.show(curve_table(card["measured"]))
        done.show(f"Written to {out}: the metanetwork and its card")


def _check_options(context, zoo):
    """Raises ArgumentError for options that would have no effect with, or without, a zoo."""
    given = {name for name in context.params if context.get_parameter_source(name).name == "COMMANDLINE"}
    lost = ", ".join(f"--{name.replace('_', '-')}" for name in sorted(given & (_OF_ZOOS if zoo is None else {"num_models"})))
    if lost and zoo is None:
        raise ArgumentError(f"meta-train: expected --zoo DIR for {lost}, got none. Make one: tfmetaprune zoo make DIR")
    if lost:
        raise ArgumentError(f"meta-train: expected no {lost} with --zoo, which trains on what the zoo holds. Leave it out.")


def _check(objective, regularization, strategy, zoo):
    if objective == "searched" and zoo is None:
        raise ArgumentError(
            "meta-train: expected --zoo DIR for --objective searched, got none. Make one: tfmetaprune zoo make DIR, then zoo search DIR"
        )
    if regularization is not None and not objective.startswith("published"):
        raise ArgumentError(
            f"meta-train: expected a published objective with --regularization, got {objective!r}. Leave one of them out."
        )
    if strategy == "multi-worker" and "TF_CONFIG" not in os.environ:
        raise ArgumentError(
            "meta-train: expected the environment variable TF_CONFIG for --strategy multi-worker, got none. Set it to the cluster "
            "and this worker's task, see docs/howto/meta_training.md."
        )
