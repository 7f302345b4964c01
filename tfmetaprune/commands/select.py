"""`tfmetaprune select`."""

import pathlib
from typing import Annotated

import typer
from rich.table import Table

from tfmetaprune.commands.app import app, examples
from tfmetaprune.commands.shared import DataDir, Json, Quiet, Seed, names, quiet, results, use_data_dir


@app.command(
    epilog=examples(
        "tfmetaprune select runs/a/universal.keras digits --zoo runs/zoo --out runs/selection",
        "tfmetaprune select digits --zoo runs/zoo --out runs/selection --budgets 0,1 --repairs bn --families vit",
    )
)
def select(
    metanetworks: Annotated[list[str], typer.Argument(help="Names of shipped ones, or files.", metavar="METANETWORK...")],
    zoo: Annotated[pathlib.Path, typer.Option(help="Folder of a zoo; its seeds from 1000 on are used.")],
    out: Annotated[pathlib.Path, typer.Option(help="Folder for the results, the winner and its card.")],
    families: Annotated[str | None, typer.Option(help="Families to judge on, with commas.", show_default="all")] = None,
    data: Annotated[str | None, typer.Option(help="Data sets to judge on, with commas.", show_default="all")] = None,
    data_dir: DataDir = None,
    num_models: Annotated[int | None, typer.Option(help="Data models to judge on.", min=1, show_default="all")] = None,
    repairs: Annotated[str, typer.Option(help="Repairs, with commas.")] = "bn,least_squares",
    budgets: Annotated[str, typer.Option(help="Epochs of fine-tuning, with commas.")] = "0,1,15",
    speedups: Annotated[str, typer.Option(help="MACs ratios above 1, with commas.")] = "2,3,4,6,8,12",
    split: Annotated[str, typer.Option(help="validation, or test for a final table.")] = "validation",
    seed: Seed = 0,
    as_json: Json = False,
    is_quiet: Quiet = False,
):
    """Chooses among metanetworks and none: area under accuracy / log speed-up on held-out data models, at fixed budgets."""
    use_data_dir(data_dir)
    with results(as_json, is_quiet) as done:
        with quiet():
            from tfmetaprune.metatrain.mixed import select_on_zoo
            from tfmetaprune.report.progress import stage_progress
        with stage_progress() as progress:
            result = select_on_zoo(
                metanetworks, zoo, out, families=names(families), data=names(data), num_models=num_models, split=split,
                repairs=names(repairs), budgets=names(budgets, int), speedups=names(speedups, float), seed=seed,
                progress=progress,
            )  # fmt: skip
        done.write(result)
        done.show(_table(result), f"Best: {result['winner']}. Written to {out}")


def _table(result):
    title = f"Area under accuracy / log speed-up in %, {len(result['models'])} models, {result['split']} split"
    table = Table(title=title, title_justify="left", pad_edge=False)
    for header in ("Repair", "Epochs", "Metanetwork", "Objective", "Difference", "95 % interval"):
        table.add_column(header, justify="left" if header in ("Repair", "Metanetwork") else "right")
    for entry in result["results"]:
        for name, way in entry["ways"].items():
            rows = {"": way["difference"], **way["by_family"]} if "difference" in way else {"": None}
            for family, paired in rows.items():
                difference = "" if paired is None else f"{100 * paired['mean']:+.1f}"
                interval = "" if paired is None or not paired["interval"] else " to ".join(f"{100 * e:+.1f}" for e in paired["interval"])
                objective = "" if family else f"{100 * way['objective']:.1f}"
                label = f"  {family}" if family else name
                table.add_row(entry["repair"], str(entry["budget"]), label, objective, difference, interval)
        table.add_section()
    return table
