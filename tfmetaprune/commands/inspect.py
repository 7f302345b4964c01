"""`tfmetaprune inspect`."""

import json
from typing import Annotated

import typer
from rich.console import Console

from tfmetaprune.commands.app import app
from tfmetaprune.commands.shared import Model, load_model, quiet


@app.command("inspect")
def inspect_model(
    model: Model,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
):
    """Shows the channel groups of a model: what can be pruned, what cannot, and why."""
    keras_model = load_model(model)
    with quiet():
        from tfmetaprune.inspection import inspect
        from tfmetaprune.report.tables import format_count, groups_table
    inspection = inspect(keras_model)
    if as_json:
        typer.echo(json.dumps(inspection.to_dict(), indent=2))
        return
    console = Console()
    console.print(groups_table(inspection))
    for layer in inspection.unknown_layers:
        console.print(f"Layer {layer} is of an unknown kind: the channels that it touches stay.", markup=False)
    console.print(
        f"{format_count(inspection.macs)} MACs, {format_count(inspection.parameters)} parameters; "
        f"{inspection.prunable_macs_share:.0%} of the MACs are of channels that can be pruned.",
        highlight=False, soft_wrap=True,
    )  # fmt: skip
