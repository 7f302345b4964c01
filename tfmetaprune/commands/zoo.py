"""`tfmetaprune zoo make`, `zoo search` and `zoo list`."""

import pathlib
from typing import Annotated

import typer
from rich.table import Table

from tfmetaprune.commands.app import app, examples
from tfmetaprune.commands.shared import DataDir, Json, Quiet, Seed, names, quiet, results, use_data_dir

zoo = typer.Typer(help="Data models: trained networks that metanetworks learn from.", no_args_is_help=True)
app.add_typer(zoo, name="zoo")

Folder = Annotated[pathlib.Path, typer.Argument(help="Folder of the zoo.", metavar="DIR")]


@zoo.command(
    epilog=examples(
        "tfmetaprune zoo make runs/zoo",
        "tfmetaprune zoo make runs/zoo --data digits,mnist_5k/14,ucr/GunPoint --families plain_cnn,vit --seeds 8 --held-out 2",
    )
)
def make(
    folder: Folder,
    data: Annotated[str, typer.Option(help="Names of data sets, with commas.")] = "digits",
    data_dir: DataDir = None,
    families: Annotated[str | None, typer.Option(help="Names of families, with commas.", show_default="seven")] = None,
    seeds: Annotated[int, typer.Option(help="Data models of each family and data set.", min=0)] = 8,
    held_out: Annotated[int, typer.Option(help="The same, never to be trained on: seeds from 1000 on.", min=0)] = 2,
    variants: Annotated[int, typer.Option(help="Widths and depths of each family that the seeds take turns at.", min=1)] = 4,
    steps: Annotated[int, typer.Option(help="Training steps of each.", min=1)] = 400,
    as_json: Json = False,
    is_quiet: Quiet = False,
):
    """Trains a data model for each family, data set and seed; those that are there stay, so that it can be broken off."""
    use_data_dir(data_dir)
    with results(as_json, is_quiet) as done:
        with quiet():
            from tfmetaprune.metatrain.command import HELD_OUT_SEED
            from tfmetaprune.metatrain.data_models import logged_models, make_data_models
            from tfmetaprune.report.progress import stage_progress
        with stage_progress() as progress:
            files = make_data_models(
                folder, families=names(families), data=names(data), variants=range(variants), steps=steps,
                seeds=[*range(seeds), *range(HELD_OUT_SEED, HELD_OUT_SEED + held_out)],
                progress=lambda _, number, total: progress("data models", number, total),
            )  # fmt: skip
        if as_json:
            done.write(logged_models(folder))
        done.show(f"{folder}: {len(files)} data models")


@zoo.command(
    epilog=examples(
        "tfmetaprune zoo search runs/zoo",
        "tfmetaprune zoo search runs/zoo --families plain_cnn,mlp --data digits --criterion fisher --steps 100",
    )
)
def search(
    folder: Folder,
    families: Annotated[str | None, typer.Option(help="Names of families, with commas.", show_default="all")] = None,
    data: Annotated[str | None, typer.Option(help="Names of data sets, with commas.", show_default="all")] = None,
    data_dir: DataDir = None,
    held_out: Annotated[bool, typer.Option("--held-out", help="Those with seeds from 1000 on as well.")] = False,
    steps: Annotated[int, typer.Option(help="Steps of each search.", min=1)] = 150,
    speedup: Annotated[float, typer.Option(help="MACs before / MACs after to search for.", min=1)] = 6.0,
    criterion: Annotated[str, typer.Option(help="Whose scores to start from.")] = "group_l2",
    seed: Seed = 0,
    as_json: Json = False,
    is_quiet: Quiet = False,
):
    """Searches for the channels that each data model should keep, for `meta-train --objective searched`; it can be broken off."""
    use_data_dir(data_dir)
    with results(as_json, is_quiet) as done:
        with quiet():
            from tfmetaprune.metatrain.searching import SearchSettings, logged_searches, search_data_models
            from tfmetaprune.report.progress import stage_progress
        with stage_progress() as progress:
            files = search_data_models(
                folder, families=names(families), data=names(data), held_out=held_out,
                settings=SearchSettings(criterion, steps, speedup, seed),
                progress=lambda _, number, total: progress("searches", number, total),
            )  # fmt: skip
        rows = logged_searches(folder, files)
        done.write(rows)
        seconds = f", {sum(row['seconds'] for row in rows) / len(rows):.1f} seconds each" if rows else ""
        done.show(f"{folder}: {len(files)} searches{seconds}")


@zoo.command("list", epilog=examples("tfmetaprune zoo list runs/zoo", "tfmetaprune zoo list runs/zoo --json"))
def list_models(folder: Folder, as_json: Json = False, is_quiet: Quiet = False):
    """Lists the data models by family and data set: how many, how good, how long they took."""
    with results(as_json, is_quiet) as done:
        with quiet():
            from tfmetaprune.metatrain.data_models import logged_models
        rows = logged_models(folder)
        done.write(rows)
        done.show(_table(rows))


def _table(rows):
    groups = {}
    for row in rows:
        groups.setdefault((row["family"], row["data"]), []).append(row)
    table = Table(pad_edge=False)
    for header in ("Family", "Data", "Models", "Params", "Validation", "Test", "Seconds each"):
        table.add_column(header, justify="left" if header in ("Family", "Data") else "right")
    for (family, data), group in groups.items():
        parameters = [row["parameters"] for row in group]
        shares = [sum(row[split] for row in group) / len(group) for split in ("validation", "test")]
        seconds = sum(row["seconds"] for row in group) / len(group)
        table.add_row(
            family, data, str(len(group)), f"{min(parameters)} - {max(parameters)}", *(f"{share:.1%}" for share in shares),
            f"{seconds:.1f}",
        )  # fmt: skip
    return table
