"""One self-contained HTML page of a pruning, from the folder that `prune` or the demonstration left."""

import importlib.resources
import os
import pathlib
import tempfile

from tfmetaprune.errors import ArgumentError
from tfmetaprune.report.page_channels import draw_channels
from tfmetaprune.report.page_curve import draw_curves
from tfmetaprune.report.page_histograms import draw_histograms
from tfmetaprune.report.page_html import Markup, join, tag
from tfmetaprune.report.page_latency import draw_bars
from tfmetaprune.report.page_network import draw_layer_bars, draw_network, layer_table, table
from tfmetaprune.report.page_reading import contents_of, read_folder
from tfmetaprune.report.page_summary import cells, summarize

FILE_NAME = "report.html"
_HEADINGS = {
    "accuracy": "Accuracy", "loss": "Loss", "macs": "MACs", "parameters": "Parameters", "nonzero": "Not zero", "size_bytes": "File",
    "gzip_size_bytes": "gzip", "latency_ms": "Latency",
}  # fmt: skip
_SOURCES = {"curve": "curves", "latency": "bars"}
_LINKS = {
    "figures": "Figures", "curve": "Curve", "latency": "Latency", "network": "Network", "channels": "Channels", "weights": "Weights",
    "settings": "Settings", "more": "More",
}  # fmt: skip
_NO_NETWORK = "This folder has no network.json, which prune and demo write: prune again to see this."


def write_report(folder, out=None) -> pathlib.Path:
    """Writes the page: one file that loads nothing from anywhere.

    Args:
      folder: what `tfmetaprune prune --out`, `tfmetaprune demo --out` or `PruneResult.save` wrote.
      out: the file to write; report.html in the folder if None.

    Returns:
      The file's path.

    Raises:
      ArgumentError: the folder is none of these, a file in it cannot be read, or the page cannot be written.
    """
    text = make_page(folder)
    path = pathlib.Path(folder) / FILE_NAME if out is None else pathlib.Path(out)
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".partial")
        try:
            with open(handle, "w", encoding="utf-8") as stream:
                stream.write(text)
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
        except OSError:
            os.unlink(temporary)
            raise
    except OSError as error:
        raise ArgumentError(f"Report '{path}': expected a file that can be written, got {error}. Choose another file.") from error
    return path


def make_page(folder) -> str:
    """Returns the page as text, see `write_report`."""
    read = read_folder(folder)
    summary = summarize(read)
    sections = {
        "figures": ("Before and after", _figures(summary)),
        "curve": ("Accuracy and speed-up", _curve(summary, read.path)),
        "latency": ("Latency", _latency(summary, read.path)),
    }
    network = read.network
    with contents_of(read.path / "network.json"):
        sections |= {
            "network": ("The network, by what was removed", _network(network)),
            "channels": ("Which channels went where", _channels(network)),
            "weights": ("Weights and scales", _weights(network)),
        }
    missing = [sections.pop(name)[1] for name in ("curve", "latency") if not getattr(summary, _SOURCES[name])]
    missing = [hint for hint in missing if hint is not None]
    sections["settings"] = ("How it was made", _settings(summary))
    if missing:
        sections["more"] = ("Not measured yet", missing)
    links = [tag("a", _LINKS[name], href=f"#{name}") for name in sections]
    bodies = [
        tag("section", tag("h2", title, id=f"{name}-title"), body, id=name, aria_labelledby=f"{name}-title")
        for name, (title, body) in sections.items()
    ]
    tiles = [
        tag("div", tag("dt", label), tag("dd", tag("strong", figure), tag("span", detail))) for label, figure, detail in summary.tiles
    ]
    header = tag(
        "header", tag("p", "tfmetaprune report", class_="eyebrow"), tag("h1", summary.name), tag("p", summary.headline, class_="lead"),
        tag("dl", tiles, class_="tiles"),
    )  # fmt: skip
    files = {name: (importlib.resources.files(__package__) / name).read_text("utf-8") for name in ("page.html", "page.css", "page.js")}
    parts = {
        "TITLE": join([f"{summary.name}: {summary.headline}"]), "STYLE": files["page.css"], "SCRIPT": files["page.js"],
        "HEADER": header, "LINKS": join(links), "SECTIONS": join(bodies),
    }  # fmt: skip
    pieces = files["page.html"].split("%%")  # text, name, text, name, ...: what is put in is not searched again
    return "".join(parts[piece] if index % 2 else piece for index, piece in enumerate(pieces))


def _figures(summary):
    rows = [[row["name"], *cells(row, summary.columns)] for row in summary.rows]
    head = ["Model", *(_HEADINGS[key] for key in summary.columns)]
    measured = "accuracy" in summary.columns or "loss" in summary.columns
    caption = f"Accuracy on the {summary.accuracy_split}" if measured else "No data were given to measure accuracy on"
    return table(head, rows, caption)


def _curve(summary, path):
    if not summary.curves:
        hint = _hint("Accuracy at several speed-ups, against the baselines:", f"tfmetaprune report {path} --curve --data NAME")
        return hint if summary.speeds_up else None
    with contents_of(path / "curve.json"):
        return [*draw_curves(summary.curves, summary.points), tag("p", summary.curve_note, class_="note")]


def _latency(summary, path):
    if not summary.bars:
        return _hint("Latency in TFLite on this machine:", f"tfmetaprune report {path} --latency --model ORIGINAL.keras")
    return [draw_bars(summary.bars), tag("p", summary.bars_note, class_="note")]


def _network(network):
    if network is None:
        return tag("p", _NO_NETWORK, class_="note")
    words = (
        "One card for each part that is entered and left in one place, top to bottom. A box is a layer with what follows it "
        "(normalisation, activation, pooling); its shade and its bar tell how many of its weights are gone, as channels or as zeros."
    )
    listed = tag("details", tag("summary", "All layers as a table"), layer_table(network))
    return [draw_layer_bars(network), tag("p", words, class_="note"), draw_network(network), listed]


def _channels(network):
    if network is None:
        return tag("p", _NO_NETWORK, class_="note")
    return [tag("p", "One mark for each channel that a layer makes, in the order of its kernel.", class_="note"), *draw_channels(network)]


def _weights(network):
    if network is None:
        return tag("p", _NO_NETWORK, class_="note")
    return draw_histograms(network) or tag("p", "No layer has a kernel or a scale.", class_="note")


def _settings(summary):
    facts = [tag("div", tag("dt", label), tag("dd", value)) for label, value in summary.facts]
    notes = [tag("li", note) for note in summary.notes]
    return [tag("dl", facts, class_="facts"), tag("ul", notes, class_="notes") if notes else None]


def _hint(words, command) -> Markup:
    return tag("p", words, " ", tag("code", command), class_="note")
