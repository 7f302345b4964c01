"""`tfmetaprune prune`."""

import json
import pathlib
from typing import Annotated

import typer
from rich.console import Console

from tfmetaprune.commands.app import app
from tfmetaprune.commands.shared import Model, Seed, load_model, quiet
from tfmetaprune.errors import ArgumentError


@app.command()
def prune(
    model: Model,
    data: Annotated[str, typer.Option(help="Data set: 'digits' or a name of tensorflow_datasets.")],
    out: Annotated[pathlib.Path, typer.Option(help="Folder for model.keras, plan.json and report.json.")],
    speedup: Annotated[float | None, typer.Option(help="MACs before / MACs after, at least 1.", show_default="2.0")] = None,
    latency_ms: Annotated[float | None, typer.Option(help="Instead: milliseconds in TFLite on this machine.")] = None,
    latency_speedup: Annotated[float | None, typer.Option(help="Instead: latency before / after.")] = None,
    round_to: Annotated[int | None, typer.Option(help="Make widths multiples of this; 8 suits most kernels.", min=1)] = None,
    traffic_weight: Annotated[float, typer.Option(help="Let channels that move much memory go first; try 0.05.", min=0)] = 0.0,
    metanetwork: Annotated[str, typer.Option(help="Name or path of one, 'none', or 'default': where it gains.")] = "default",
    repair: Annotated[str, typer.Option(help="least_squares, bn, data_free, default or none.")] = "default",
    epochs: Annotated[int | None, typer.Option(help="Fine-tuning epochs, 0: none.", min=0, show_default="15")] = None,
    seed: Seed = 0,
    method: Annotated[
        str, typer.Option(help="structured, unstructured, N:M, block, structured+unstructured or xnnpack.")
    ] = "structured",
    sparsity: Annotated[float | None, typer.Option(help="Share of zeros in [0, 1).", show_default="0.8")] = None,
    block_shape: Annotated[str, typer.Option(help="Outputs x inputs of a block, for --method block.")] = "1x4",
):
    """Prunes a model and fine-tunes what is left."""
    block_shape = _numbers(block_shape)
    keras_model = load_model(model)
    with quiet():
        from tfmetaprune import pipeline
        from tfmetaprune.data import load
        from tfmetaprune.report.folder import atomic_folder
        from tfmetaprune.report.tables import comparison_table
    with atomic_folder(out) as folder:
        splits = load(data, seed=seed)
        result = pipeline.prune(
            keras_model, splits.train, validation_data=splits.validation, speedup=speedup,
            metanetwork=None if metanetwork.lower() == "none" else metanetwork,
            finetune="default" if epochs is None else epochs or None,
            repair=None if repair.lower() == "none" else repair, seed=seed, round_to=round_to, latency_ms=latency_ms,
            latency_speedup=latency_speedup, traffic_weight=traffic_weight, method=method, sparsity=sparsity,
            block_shape=block_shape,
        )  # fmt: skip
        result.model.save(folder / "model.keras")
        (folder / "plan.json").write_text(result.plan.to_json() + "\n", encoding="utf-8")
        report = {**result.report, "data": data, "history": result.history}
        (folder / "report.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    titles = {"before": "original", "pruned": "pruned", "repaired": "repaired", "zeroed": "zeroed", "finetuned": "fine-tuned"}
    small = {key: report["pruned"][key] for key in ("macs", "parameters")}
    rows = [{"name": title, **small, **report[step]} for step, title in titles.items() if step in report]
    done = [f"{report['speedup']['reached']:.2f} times fewer MACs"] if report["widths"] else []
    if "sparsity" in report:
        done.append(f"{report['sparsity']['reached']:.1%} of {len(report['sparsity']['layers'])} layers' weights are zero")
    title = f"{model.name}: {', '.join(done)} (accuracy on the validation split of {data})"
    console = Console()
    console.print(comparison_table(title, rows))
    for layer, reason in report.get("sparsity", {}).get("dense", {}).items():
        if reason != "it has no kernel":
            console.print(f"Layer {layer!r} stays dense: {reason}.", markup=False)
    for layer in report["unknown_layers"]:
        console.print(f"Layer {layer} is of an unknown kind: the channels that it touches stay.", markup=False)
    if report["metanetwork_note"]:
        console.print(f"Metanetwork: {report['metanetwork_note']}", markup=False)
    for reason in (report["repair"] or {}).get("left_alone", ()):
        console.print(f"Not repaired: layer {reason}", markup=False)
    console.print(f"Model, plan and report are in {out}", soft_wrap=True)


def _numbers(text) -> tuple[int, ...]:
    """Reads "1x4" or "1,4"."""
    try:
        return tuple(int(number) for number in text.replace("x", ",").split(","))
    except ValueError:
        raise ArgumentError(f"--block-shape: expected outputs x inputs such as 1x4, got {text!r}. Use 1x4.") from None
