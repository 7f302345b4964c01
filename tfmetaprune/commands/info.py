"""`tfmetaprune info`."""

from tfmetaprune.commands.app import app, examples
from tfmetaprune.commands.shared import DataDir, Json, Quiet, quiet, results


@app.command(epilog=examples("tfmetaprune info", "tfmetaprune info --data-dir /data/tfds --json"))
def info(data_dir: DataDir = None, as_json: Json = False, is_quiet: Quiet = False):
    """Tells what there is to work with: versions, Keras flavours, devices, metanetworks, data sets on disk."""
    with results(as_json, is_quiet) as done:
        with quiet():
            from tfmetaprune.environment import environment
            from tfmetaprune.report.tables import facts_table

            found = environment(data_dir)
        done.write(found)
        keras = [f"{flavour} {version}" for flavour, version in found["keras"]["found"].items()]
        devices, data = found["devices"], found["data"]
        done.show(
            facts_table("Versions", {name: version or "missing" for name, version in found["versions"].items()}),
            facts_table("Keras", {"found": ", ".join(keras), "tf.keras is": found["keras"]["tf.keras"]}),
            facts_table("Devices", {name.replace("_", " "): value for name, value in devices.items()}),
            facts_table("Metanetworks", {name: _card_line(card) for name, card in found["metanetworks"].items()}),
            facts_table(
                "Data sets",
                {"without network": data["without_network"], "prepared": data["prepared"] or "none", "in": data["data_dir"]},
            ),
        )


def _card_line(card) -> str:
    gains = ", ".join(f"{gain:+.1%} at {_setting(name)}" for name, gain in card["gain"].items())
    default = " (tried by default)" if card["default"] else ""
    return f"{card['parameters']} parameters{default}, objective {card['objective']}, {card['trained_on']}; gain in accuracy: {gains}"


def _setting(name) -> str:
    """What a card measured at: "0.8" is a share of zeros; "2x" and "2:4" are told as they are."""
    return f"{float(name):.0%} zeros" if name.replace(".", "").isdigit() else name
