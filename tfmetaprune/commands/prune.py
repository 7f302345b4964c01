"""`tfmetaprune prune`."""

import pathlib
from typing import Annotated

import typer

from tfmetaprune.commands.app import app, examples
from tfmetaprune.commands.shared import (
    Data,
    DataDir,
    Json,
    Model,
    Quiet,
    Scaling,
    Seed,
    load_data,
    load_model,
    quiet,
    refuse_unused,
    results,
)
from tfmetaprune.errors import ArgumentError

_TARGET = {"rich_help_panel": "How small"}
_CHOICE = {"rich_help_panel": "What goes"}
_ZEROS = {"rich_help_panel": "Zeros in place of weights"}
_AFTERWARDS = {"rich_help_panel": "What is done afterwards"}


@app.command(
    epilog=examples(
        "tfmetaprune prune model.keras --data digits --speedup 2 --out small",
        "tfmetaprune prune model.keras --speedup 2 --out small",
        "tfmetaprune prune model.keras --data digits --latency-speedup 1.5 --round-to 8 --out small",
        "tfmetaprune prune model.keras --data digits --method 2:4 --epochs 5 --out sparse",
        "tfmetaprune prune model.keras --data cifar10 --data-dir /data --epochs 0 --json --out small",
    )
)
def prune(
    model: Model,
    out: Annotated[pathlib.Path, typer.Option(help="Folder for the model, its plan and the report.")],
    data: Data = None,
    data_dir: DataDir = None,
    scaling: Scaling = None,
    speedup: Annotated[
        float | None, typer.Option(help="MACs before / MACs after, at least 1.", show_default="2.0", **_TARGET)
    ] = None,
    latency_ms: Annotated[
        float | None, typer.Option(help="Instead: milliseconds in TFLite on this machine.", show_default=False, **_TARGET)
    ] = None,
    latency_speedup: Annotated[
        float | None, typer.Option(help="Instead: latency before / after.", show_default=False, **_TARGET)
    ] = None,
    round_to: Annotated[
        int | None,
        typer.Option(help="Make widths multiples of this; 8 suits most kernels.", min=1, show_default=False, **_TARGET),
    ] = None,
    traffic_weight: Annotated[
        float, typer.Option(help="Let channels that move much memory go first; try 0.05.", min=0, **_TARGET)
    ] = 0.0,
    method: Annotated[
        str, typer.Option(help="structured, unstructured, N:M, block, structured+unstructured or xnnpack.", **_CHOICE)
    ] = "structured",
    criterion: Annotated[
        str,
        typer.Option(help="group_l2, group_l2_max, fisher, group_l2_fisher, random, or default: the better of two, with data.", **_CHOICE),
    ] = "default",
    metanetwork: Annotated[
        str, typer.Option(help="Name or path of one, none, or default: universal if it is better.", **_CHOICE)
    ] = "default",
    search_steps: Annotated[
        int, typer.Option(help="Steps of a search for the channels to keep; try 100.", min=0, **_CHOICE)
    ] = 0,
    sparsity: Annotated[
        float | None, typer.Option(help="Share of zeros in [0, 1).", show_default="0.8", **_ZEROS)
    ] = None,
    block_shape: Annotated[str, typer.Option(help="Outputs x inputs of a block, for --method block.", **_ZEROS)] = "1x4",
    scope: Annotated[str, typer.Option(help="global, or layer: all layers equally sparse.", **_ZEROS)] = "global",
    schedule: Annotated[
        str, typer.Option(help="polynomial, constant or one_shot: when weights become zero.", **_ZEROS)
    ] = "polynomial",
    repair: Annotated[
        str, typer.Option(help="least_squares, bn, data_free, default or none.", **_AFTERWARDS)
    ] = "default",
    epochs: Annotated[
        int | None,
        typer.Option(help="Fine-tuning epochs, 0: none.", min=0, show_default="15, without --data 0", **_AFTERWARDS),
    ] = None,
    distill: Annotated[
        bool, typer.Option("--distill", help="Fine-tune towards the original's outputs too.", **_AFTERWARDS)
    ] = False,
    prepare: Annotated[
        str, typer.Option(help="prune_aware, group_norm or none.", rich_help_panel="Training before pruning")
    ] = "none",
    prepare_epochs: Annotated[
        int | None, typer.Option(help="Epochs of it.", min=1, show_default="10", rich_help_panel="Training before pruning")
    ] = None,
    prepare_learning_rate: Annotated[
        float | None, typer.Option(help="Of its first step.", show_default="by method and model", rich_help_panel="Training before pruning")
    ] = None,
    seed: Seed = 0,
    as_json: Json = False,
    is_quiet: Quiet = False,
):
    """Prunes a model and fine-tunes what is left; without --data it has no metanetwork and no fine-tuning."""
    with results(as_json, is_quiet) as done:
        block_shape = _numbers(block_shape)
        metanetwork = _or_none(metanetwork)
        repair, prepare = _or_none(repair), _or_none(prepare)
        if data is None:
            refuse_unused("prune without --data", data_dir=data_dir, scaling=scaling)
            _refuse_without_data(metanetwork, criterion, repair, epochs, distill, prepare, search_steps)
            epochs = 0
        if distill and epochs == 0:
            raise ArgumentError("prune: expected fine-tuning for --distill, got --epochs 0. Leave one of them out.")
        if (out / "model.keras").resolve() == model.resolve():
            raise ArgumentError(
                f"prune: expected another folder than the model's own, got --out '{out}', where the pruned model would take its "
                f"place. Name another."
            )
        keras_model = load_model(model)
        with quiet():
            from tfmetaprune import pipeline
            from tfmetaprune.report.folder import atomic_folder, write_result
        with atomic_folder(out) as folder:
            splits = None if data is None else load_data(data, data_dir, seed, keras_model, scaling)
            result = pipeline.prune(
                keras_model, splits and splits.train, validation_data=splits and splits.validation, speedup=speedup,
                method=method, criterion=criterion, metanetwork=metanetwork,
                finetune="default" if epochs is None else epochs or None, repair=repair, distill=distill, round_to=round_to,
                traffic_weight=traffic_weight, latency_ms=latency_ms, latency_speedup=latency_speedup, seed=seed,
                sparsity=sparsity, block_shape=block_shape, scope=scope, schedule=schedule,
                prepare=prepare, prepare_epochs=prepare_epochs, prepare_learning_rate=prepare_learning_rate, search_steps=search_steps,
            )  # fmt: skip
            report = write_result(folder, result, model=str(model.absolute()), data=data, scaling=data and (scaling or "default"))
        done.write(report)
        done.show(*_lines(report, model.name), f"Model, plan and report are in {out}")


def _lines(report, name):
    """What is told of a report: a table, and a line for each thing worth knowing."""
    from tfmetaprune.report.page_words import ways
    from tfmetaprune.report.tables import comparison_table

    titles = {
        "before": "original", "prepared": "prepared", "pruned": "pruned", "repaired": "repaired", "zeroed": "zeroed",
        "finetuned": "fine-tuned",
    }  # fmt: skip
    small = {key: report["pruned"][key] for key in ("macs", "parameters")}
    rows = [{"name": title, **small, **report[step]} for step, title in titles.items() if step in report]
    done = [f"{report['speedup']['reached']:.2f} times fewer MACs"] if report["widths"] else []
    if "sparsity" in report:
        done.append(f"{report['sparsity']['reached']:.1%} of {len(report['sparsity']['layers'])} layers' weights are zero")
    where = f" (accuracy on the validation split of {report['data']})" if report["data"] else ""
    yield comparison_table(f"{name}: {', '.join(done)}{where}", rows)
    for layer, reason in report.get("sparsity", {}).get("dense", {}).items():
        if reason != "it has no kernel":
            yield f"Layer {layer!r} stays dense: {reason}."
    for layer in report["unknown_layers"]:
        yield f"Layer {layer} is of an unknown kind: the channels that it touches stay."
    if tried := ways(report):
        yield tried
    if report["metanetwork_note"]:
        yield f"Metanetwork: {report['metanetwork_note']}"
    for reason in (report["repair"] or {}).get("left_alone", ()):
        yield f"Not repaired: layer {reason}"


def _or_none(name):
    return None if name.lower() == "none" else name


def _refuse_without_data(metanetwork, criterion, repair, epochs, distill, prepare, search_steps):
    needing = {
        f"--metanetwork {metanetwork}": metanetwork not in (None, "default"),
        f"--criterion {criterion}": criterion in ("fisher", "group_l2_fisher"),
        f"--repair {repair}": repair in ("least_squares", "bn"),
        f"--epochs {epochs}": bool(epochs),
        "--distill": distill,
        f"--prepare {prepare}": prepare is not None,
        f"--search-steps {search_steps}": search_steps > 0,
    }
    for option in (option for option, is_asked in needing.items() if is_asked):
        raise ArgumentError(f"prune: expected --data NAME for {option}, got none. Name a data set, or leave {option} out.")


def _numbers(text) -> tuple[int, ...]:
    """Reads "1x4" or "1,4"."""
    try:
        return tuple(int(number) for number in text.replace("x", ",").split(","))
    except ValueError:
        raise ArgumentError(f"--block-shape: expected outputs x inputs such as 1x4, got {text!r}. Use 1x4.") from None
