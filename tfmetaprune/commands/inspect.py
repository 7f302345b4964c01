"""`tfmetaprune inspect`."""

from tfmetaprune.commands.app import app, examples
from tfmetaprune.commands.shared import Json, Model, Quiet, load_model, quiet, results


@app.command("inspect", epilog=examples("tfmetaprune inspect model.keras", "tfmetaprune inspect model.keras --json"))
def inspect_model(model: Model, as_json: Json = False, is_quiet: Quiet = False):
    """Shows the channel groups of a model: what can be pruned, what cannot, and why."""
    with results(as_json, is_quiet) as done:
        keras_model = load_model(model)
        with quiet():
            from tfmetaprune.inspection import inspect
            from tfmetaprune.report.tables import format_count, groups_table
        inspection = inspect(keras_model)
        done.write(inspection.to_dict())
        done.show(
            groups_table(inspection),
            *(f"Layer {layer} is of an unknown kind: the channels that it touches stay." for layer in inspection.unknown_layers),
            f"{format_count(inspection.macs)} MACs, {format_count(inspection.parameters)} parameters; "
            f"{inspection.prunable_macs_share:.0%} of the MACs are of channels that can be pruned.",
        )
