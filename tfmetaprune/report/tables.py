"""Tables for the terminal."""

from rich import box
from rich.table import Table

_MISSING = "-"


def comparison_table(title, rows) -> Table:
    """Makes the table that sets models and files side by side.

    Args:
      title: above the table.
      rows: dicts with "name" and any of "accuracy" (share in [0, 1]), "macs", "parameters", "size_bytes",
        "gzip_size_bytes", "latency_ms"; what is missing or None is shown as a dash, what no row has is left out. A row {} draws a
        line.

    Example:
      >>> rows = [{"name": "original", "accuracy": 0.981, "macs": 1_234_567}, {"name": "pruned", "accuracy": 0.977}]
      >>> table = comparison_table("Digits", rows)
      >>> [list(column.cells) for column in table.columns]
      [['original', 'pruned'], ['98.1 %', '97.7 %'], ['1.23 M', '-']]
    """
    columns = {
        "accuracy": ("Accuracy", lambda share: f"{share:.1%}".replace("%", " %")),
        "macs": ("MACs", format_count),
        "parameters": ("Params", format_count),
        "size_bytes": ("Bytes", format_count),
        "gzip_size_bytes": ("gzip", format_count),
        "latency_ms": ("Latency", _format_milliseconds),
    }
    columns = {key: column for key, column in columns.items() if any(row.get(key) is not None for row in rows)}
    layout = {"box": box.SIMPLE_HEAD, "pad_edge": False, "show_edge": False, "collapse_padding": True}  # 80 columns
    table = Table(title=title, title_justify="left", **layout)
    table.add_column("Model", no_wrap=True)
    for header, _ in columns.values():
        table.add_column(header, justify="right", no_wrap=True)
    for row in rows:
        if not row:
            table.add_section()
            continue
        values = [(row.get(key), show) for key, (_, show) in columns.items()]
        table.add_row(row["name"], *(_MISSING if value is None else show(value) for value, show in values))
    return table


def benchmark_table(report) -> Table:
    """Makes the table of a `BenchmarkReport`: a row for each model or file.

    Args:
      report: what `benchmark` returned.
    """
    threads = f"{report.num_threads} thread{'s' * (report.num_threads != 1)}"
    table = Table(title=f"TFLite, {threads}; 10th to 90th percentile in brackets", title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("Model", overflow="fold")
    for header in ("Latency", "Speed-up", "Bytes", "gzip", "Activations", "MACs", "Params"):
        table.add_column(header, justify="right")
    for model in report.models:
        latency = model.latency
        spread = f"({_format_milliseconds(latency.p10_ms)} - {_format_milliseconds(latency.p90_ms)})"
        counts = (model.size_bytes, model.gzip_size_bytes, model.activation_bytes, model.macs, model.parameters)
        table.add_row(
            model.name, f"{_format_milliseconds(latency.median_ms)} {spread}",
            f"{model.speedup:.2f} ({model.speedup_p10:.2f} - {model.speedup_p90:.2f})",
            *(_MISSING if count is None else format_count(count) for count in counts),
        )  # fmt: skip
    return table


def operators_table(model) -> Table:
    """Makes the table of the operators of a `ModelBenchmark` that were profiled."""
    table = Table(title=f"Operators of {model.name}", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for header, side in (("#", "right"), ("Operator", "left"), ("Median", "right"), ("Share", "right")):
        table.add_column(header, justify=side)
    for index, operator in enumerate(model.operators):
        table.add_row(str(index), operator.name, _format_milliseconds(operator.median_ms), f"{operator.share:.1%}")
    return table


def summaries_table(title, rows) -> Table:
    """Makes the table that sets models side by side, one column a model, each compared with the first.

    Args:
      title: above the table.
      rows: for each model the dict of a `comparison.ModelSummary`, with "size_bytes" and "gzip_size_bytes" of its file, or None. Layers
        that are equally wide in all models are left out.

    Example:
      >>> sizes = {"macs": 800, "parameters": 80, "nonzero_parameters": 80, "size_bytes": 9, "gzip_size_bytes": 8}
      >>> one = {"name": "one", "widths": {"conv": 8, "last": 3}, "loss": None, "accuracy": 0.981, **sizes}
      >>> table = summaries_table("2 models", [one, {**one, "name": "two", "macs": 200, "widths": {"conv": 4, "last": 3}}])
      >>> [[*column.cells][0] for column in table.columns], [[*column.cells][-1] for column in table.columns]
      (['MACs', '800', '200 (4x less)'], ['width of conv', '8', '4'])
    """
    counts = {
        "MACs": "macs", "parameters": "parameters", "not zero": "nonzero_parameters", "bytes of the file": "size_bytes",
        "after gzip": "gzip_size_bytes",
    }  # fmt: skip
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("", overflow="fold")
    for row in rows:
        table.add_column(row["name"], justify="right", overflow="fold")
    for label, key in counts.items():
        table.add_row(label, *(_MISSING if row[key] is None else _compared(row[key], rows[0][key]) for row in rows))
    for key, form in (("loss", "{:.3g}"), ("accuracy", "{:.1%}")):
        if any(row[key] is not None for row in rows):
            table.add_row(key, *(_MISSING if row[key] is None else form.format(row[key]) for row in rows))
    table.add_section()
    for layer in dict.fromkeys(layer for row in rows for layer in row["widths"]):
        widths = [str(row["widths"].get(layer, _MISSING)) for row in rows]
        if len(set(widths)) > 1:
            table.add_row(f"width of {layer}", *widths)
    return table


def _compared(count, first) -> str:
    ratio = first / count if first and count else 1
    change = "" if 0.995 < ratio < 1.005 else f" ({ratio:.3g}x less)" if ratio > 1 else f" ({1 / ratio:.3g}x more)"
    return format_count(count) + change


def means_table(analysis, statistics) -> Table:
    """Makes the table of what differs between two models, in the mean over the layers.

    Args:
      analysis: an `analysis.Analysis`.
      statistics: name -> what it is.
    """
    table = Table(title="Mean over the layers", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for header, side in (("Statistic", "left"), ("Before", "right"), ("After", "right"), ("What it is", "left")):
        table.add_column(header, justify=side, overflow="fold")
    for name, meaning in statistics.items():
        pair = analysis.mean(name)
        if pair is not None:
            table.add_row(name.replace("_", " "), *(f"{value:.3g}" for value in pair), meaning)
    return table


def facts_table(title, facts) -> Table:
    """Makes a table of names and values; lists are joined by commas.

    Args:
      title: above the table.
      facts: name -> value.
    """
    table = Table(title=title, title_justify="left", box=box.SIMPLE, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in facts.items():
        table.add_row(name, ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value))
    return table


def groups_table(inspection) -> Table:
    """Makes the table of a model's channel groups.

    Args:
      inspection: a `inspection.Inspection`.
    """
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=f"Channel groups of model {inspection.name!r}", title_justify="left")
    table.add_column("Group")
    table.add_column("Channels", justify="right")
    table.add_column("Must stay", justify="right")
    table.add_column("Layers", overflow="fold")
    table.add_column("Why", overflow="fold")
    for group in inspection.groups:
        widths = str(group["channels"]), str(group["frozen_channels"])
        table.add_row(group["name"], *widths, ", ".join(group["layers"]), group["frozen"] or "")
    return table


def _format_milliseconds(latency_ms) -> str:
    return f"{latency_ms:.3g} ms" if latency_ms >= 0.1 else f"{1000 * latency_ms:.3g} \u00b5s"


def format_count(count) -> str:
    """Writes a count with three digits.

    Example:
      >>> [format_count(count) for count in (0, 999, 77_700, 1_999_999, 3.4e9)]
      ['0', '999', '77.7 k', '2 M', '3.4 G']
    """
    for factor, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if count >= 0.9995 * factor:
            return f"{count / factor:.3g}{unit}"
    return f"{count:.0f}"


def curve_table(measured):
    """Returns the table of accuracies against speed-ups, or against ways to zero weights.

    Args:
      measured: what `metatrain.evaluate.Curve.summary` returns (the "measured" of a metanetwork's card).
    """
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title="Accuracy in %, mean ± standard deviation", title_justify="left")
    table.add_column("Method")
    columns = measured["zeros"] if "zeros" in measured else [f"{speedup:g}x" for speedup in measured["speedups"]]
    for column in columns:
        table.add_column(column, justify="right")
    for method, means in measured["mean"].items():
        cells = [f"{100 * mean:.1f} ±{100 * std:.1f}" for mean, std in zip(means, measured["std"][method])]
        table.add_row(method, *cells)
    if "gain" in measured:
        errors = measured["gain_standard_error"]
        gains = [f"{100 * gain:+.1f} ({100 * error:.1f})" for gain, error in zip(measured["gain"], errors)]
        table.add_row("gain over the best criterion (standard error)", *gains)
    return table
