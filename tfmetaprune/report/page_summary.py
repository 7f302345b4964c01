"""The same few figures of a pruning and of the demonstration: what the page shows first."""

import dataclasses

from tfmetaprune.report.page_reading import ReportFolder, contents_of
from tfmetaprune.report.page_words import (
    MISSING,
    count,
    is_number,
    joined,
    milliseconds,
    percent,
    points,
    size,
    times,
    ways,
)

_STEPS = {
    "before": "Original", "prepared": "Prepared", "pruned": "Pruned", "repaired": "Repaired", "zeroed": "Weights zeroed",
    "finetuned": "Fine-tuned",
}  # fmt: skip
_COSTS = ("macs", "parameters")


@dataclasses.dataclass(frozen=True)
class Bar:
    """One measured latency.

    Attributes:
      name: of the model or file.
      latency_ms: median.
      p10_ms, p90_ms: percentiles; None if unknown.
      is_original: whether nothing was pruned of it.
    """

    name: str
    latency_ms: float
    p10_ms: float | None = None
    p90_ms: float | None = None
    is_original: bool = False


@dataclasses.dataclass(frozen=True)
class Summary:
    """What is told of a pruning.

    Attributes:
      name: of the network.
      headline: what was reached, in a few words.
      facts: (label, value), how it was made.
      tiles: (label, figure, what it comes from), the key figures.
      rows: one dict for each row of the table: "name" and any of "accuracy", "loss", "macs", "parameters", "size_bytes",
        "gzip_size_bytes", "latency_ms".
      columns: which of these any row has.
      bars: measured latencies.
      bars_note: on what they were measured.
      curves: method -> list of (speed-up, accuracy).
      points: label -> (speed-up, accuracy), after fine-tuning.
      curve_note: what the curve shows.
      notes: what had to stay, and why.
      speeds_up: whether channels were removed.
      accuracy_split: on which data the accuracies are.
    """

    name: str
    headline: str
    facts: tuple
    tiles: tuple
    rows: tuple
    columns: tuple
    bars: tuple
    bars_note: str
    curves: dict
    points: dict
    curve_note: str
    notes: tuple
    speeds_up: bool
    accuracy_split: str


def summarize(folder: ReportFolder) -> Summary:
    """Reads the figures out of a folder's files.

    Args:
      folder: of `read_folder`.

    Raises:
      ArgumentError: a file holds something else than tfmetaprune writes.
    """
    report = folder.report
    with contents_of(folder.path / "report.json"):
        is_demo = "rows" in report
        main = list(report["prune"].values())[0] if is_demo else report
        rows = _demo_rows(report) if is_demo else _prune_rows(report)
        split = "test split of " + str(report["data"]) if is_demo else _split(report)
        first, last = rows[0], rows[2] if is_demo else rows[-1]
        bars, bars_note = _own_bars(report, main, rows)
        curves = {str(label): _points(curve) for label, curve in report.get("curves", {}).items()}
        note = "Right after pruning and estimating BatchNormalization statistics again; hollow marks: after fine-tuning."
        labels = [f"{method}, fine-tuned" for method in report["prune"]] if is_demo else ["as pruned here, fine-tuned"]
        tuned = [rows[2], rows[4]] if is_demo else [rows[-1]] if "finetuned" in report else []
        reached = [one["speedup"]["reached"] for one in report["prune"].values()] if is_demo else [report["speedup"]["reached"]]
        marks = {
            label: (speedup, row["accuracy"]) for label, speedup, row in zip(labels, reached, tuned) if "accuracy" in row
        }
        facts, notes = _facts(report, main), _notes(main)
        headline = _headline(main)
    if folder.curve is not None:
        with contents_of(folder.path / "curve.json"):
            curves = {str(label): _points(curve) for label, curve in folder.curve["curves"].items()}
            note = str(folder.curve["note"])
    if folder.latency is not None:
        with contents_of(folder.path / "latency.json"):
            bars, bars_note = _measured_bars(folder.latency)
    columns = [key for key in ("accuracy", "loss", *_COSTS, "nonzero", "size_bytes", "gzip_size_bytes", "latency_ms")]
    columns = tuple(key for key in columns if any(is_number(row.get(key)) for row in rows))
    columns = tuple(key for key in columns if key != "loss" or "accuracy" not in columns)
    with contents_of(folder.path / "report.json"):
        tiles = _tiles(main, first, last, bars, rows)
    name = (folder.network or {}).get("name") or "Network"
    return Summary(
        str(name), headline, facts, tiles, tuple(rows), columns, tuple(bars), bars_note, curves, marks if curves else {},
        note, notes, bool(main.get("widths")), split,
    )  # fmt: skip


def _split(report) -> str:
    return f"validation split of {report['data']}" if report.get("data") else "validation data"


def _points(curve) -> list:
    return [(float(speedup), float(accuracy)) for speedup, accuracy in curve]


def _prune_rows(report) -> list[dict]:
    """One row a step; what pruning made of the costs holds for the steps that follow it."""
    rows, costs = [], {}
    nonzero = (report.get("sparsity") or {}).get("nonzero_parameters") or {}
    steps = [step for step in _STEPS if isinstance(report.get(step), dict)]
    steps = [step for step in steps if step in ("before", "pruned") or report[step]]
    for step in steps:
        costs |= {key: report[step][key] for key in _COSTS if key in report[step]}
        rows.append({"name": _STEPS[step], **costs, **report[step]})
    if nonzero:
        rows[0]["nonzero"], rows[-1]["nonzero"] = nonzero["before"], nonzero["after"]
    if len(rows) < 2:
        raise ValueError("no 'before' and 'pruned'")
    return rows


def _demo_rows(report) -> list[dict]:
    rows = [{**row, "name": str(row["name"]).strip().removeprefix("... ")} for row in report["rows"]]
    if len(rows) < 5:
        raise ValueError(f"{len(rows)} rows")
    for index, row in enumerate(rows):
        if row["name"] == "and fine-tuned":
            row["name"] = f"{rows[index - 1]['name']}, fine-tuned"
    return [{**row, "name": row["name"][:1].upper() + row["name"][1:]} for row in rows]


def _own_bars(report, main, rows):
    """Latencies that the report itself holds: the demonstration's files, or those of a pruning to a latency."""
    timed = [row for row in rows if is_number(row.get("latency_ms"))]
    if timed:
        bars = [Bar(row["name"], row["latency_ms"], is_original="original" in row["name"].lower()) for row in timed]
        return bars, "TFLite, one thread, batch 1, median of runs taken in turns on the machine that pruned."
    measured = (main.get("latency") or {}).get("measurements") or []
    if not measured:
        return [], ""
    chosen = min(measured, key=lambda one: abs(one["macs_speedup"] - main["speedup"]["reached"]))
    bars = [Bar("Original", chosen["original_ms"], is_original=True), Bar("Pruned", chosen["latency_ms"])]
    return bars, "TFLite float32, one thread, batch 1, median of runs taken in turns on the machine that pruned."


def _measured_bars(latency):
    bars = [
        Bar(
            str(model["name"]), float(model["latency"]["median_ms"]), float(model["latency"]["p10_ms"]),
            float(model["latency"]["p90_ms"]), "original" in str(model["name"]).lower(),
        )
        for model in latency["models"]
    ]  # fmt: skip
    threads = f"{latency['num_threads']} thread{'s' * (latency['num_threads'] != 1)}"
    return bars, f"TFLite, {threads}, batch 1, median of runs taken in turns; the thin line spans the 10th to 90th percentile."


def _headline(main) -> str:
    parts = [f"{times(main['speedup']['reached'])} fewer multiply-accumulates"] if main.get("widths") else []
    if "sparsity" in main:
        parts.append(f"{percent(main['sparsity']['reached'])} of {len(main['sparsity']['layers'])} layers\u2019 weights are zero")
    return ", ".join(parts) or "Nothing was pruned"


def _tiles(main, first, last, bars, rows) -> tuple:
    tiles = []
    if first["macs"] != last["macs"] or "sparsity" not in main:
        detail = f"{count(first['macs'])} \u2192 {count(last['macs'])}"
        tiles.append(("Fewer MACs", times(main["speedup"]["reached"]), detail))
    zeros = main.get("sparsity")
    if zeros:
        nonzero = zeros["nonzero_parameters"]
        detail = f"not zero: {count(nonzero['before'])} \u2192 {count(nonzero['after'])}"
        tiles.append(("Weights that are zero", percent(zeros["reached"]), detail))
    if first["parameters"] != last["parameters"]:
        change = percent(1 - last["parameters"] / first["parameters"], 0)
        tiles.append(("Fewer parameters", change, f"{count(first['parameters'])} \u2192 {count(last['parameters'])}"))
    if is_number(first.get("accuracy")) and is_number(last.get("accuracy")):
        change = points(first["accuracy"], last["accuracy"])
        tiles.append(("Accuracy", percent(last["accuracy"]), f"{change}, from {percent(first['accuracy'])}"))
    elif is_number(first.get("loss")) and is_number(last.get("loss")):
        tiles.append(("Loss", f"{last['loss']:.3g}", f"from {first['loss']:.3g}"))
    original = next((bar for bar in bars if bar.is_original), None)
    pruned = next((bar for bar in bars if not bar.is_original and _kind(bar) == _kind(original)), None)
    if original and pruned and pruned.latency_ms > 0:
        detail = f"{milliseconds(original.latency_ms)} \u2192 {milliseconds(pruned.latency_ms)} in TFLite"
        tiles.append(("Faster", times(original.latency_ms / pruned.latency_ms), detail))
    sizes = [row for row in rows if is_number(row.get("size_bytes"))]
    if sizes and not bars:
        tiles.append(("File", size(sizes[-1]["size_bytes"]), f"from {size(sizes[0]['size_bytes'])}"))
    return tuple(tiles)


def _kind(bar) -> str:
    """What tells comparable files: the part of a name before its comma ("TFLite int8, pruned")."""
    return bar.name.rpartition(",")[0] if bar else ""


def _facts(report, main) -> tuple:
    repair = main.get("repair")
    finetune = main.get("finetune")
    values = next(iter(report["history"].values()), None) if isinstance(report.get("history"), dict) else None
    epochs = len(values) if isinstance(values, list) else 0
    facts = {
        "Method": main.get("method"), "Criterion": main.get("criterion"), "Metanetwork": main.get("metanetwork") or "none",
        "Repair": repair.get("method") if isinstance(repair, dict) else repair or "none",
        "Fine-tuning": f"{epochs} epochs" if epochs else "none" if finetune is None else "yes" if finetune != "default" else "default",
        "Training before": f"{main['prepare']['method']}, {main['prepare']['epochs']} epochs" if main.get("prepare") else None,
        "Search steps": main.get("search_steps") or None, "Distillation": "yes" if main.get("distill") else None,
        "Widths rounded to": main.get("round_to"), "Traffic weight": main.get("traffic_weight") or None,
        "Data": report.get("data"), "Seed": main.get("seed"), "tfmetaprune": main.get("tfmetaprune"),
    }  # fmt: skip
    return tuple((label, str(value)) for label, value in facts.items() if value is not None)


def _notes(main) -> tuple:
    frozen = [f"{number} ({reason})" for reason, number in (main.get("frozen") or {}).items()]
    notes = [f"Metanetwork: {main['metanetwork_note']}"] if main.get("metanetwork_note") else []
    notes += [tried] if (tried := ways(main)) else []
    notes += [f"Channels that had to stay: {joined(frozen)}."] if frozen else []
    if main.get("unknown_layers"):
        notes.append(f"Of kinds that nobody registered, so that the channels they touch stay: {joined(main['unknown_layers'])}.")
    dense = {
        layer: reason
        for layer, reason in ((main.get("sparsity") or {}).get("dense") or {}).items()
        if reason != "it has no kernel"
    }
    for reason in dict.fromkeys(dense.values()):
        layers = [layer for layer, why in dense.items() if why == reason]
        notes.append(f"Stayed dense, as {reason}: {joined(layers)}.")
    left = main["repair"].get("left_alone") if isinstance(main.get("repair"), dict) else ()
    return tuple(notes + [f"Not repaired: {reason}." for reason in left or ()])


def cells(row, columns) -> list[str]:
    """Writes the values of a row."""
    writers = {"accuracy": percent, "loss": lambda loss: f"{loss:.3g}", "latency_ms": milliseconds}
    writers |= {"size_bytes": size, "gzip_size_bytes": size}
    return [writers.get(key, count)(row[key]) if is_number(row.get(key)) else MISSING for key in columns]
