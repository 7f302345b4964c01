"""The command line. TensorFlow is imported inside the commands alone, so that `--help` answers at once."""

import contextlib
import importlib
import json
import logging
import os
import pathlib
import zipfile
from typing import Annotated

import typer
from rich.console import Console
from typer.core import TyperGroup

from tfmetaprune.errors import ArgumentError, TFMetaPruneError, UnsupportedModelError

Model = Annotated[pathlib.Path, typer.Argument(help="A saved Keras 2 (tf_keras) model.", metavar="MODEL.keras")]
Seed = Annotated[int, typer.Option(help="Of everything random.", min=0, max=2**32 - 1)]


class _Group(TyperGroup):
    """Reports every `TFMetaPruneError` as one paragraph on stderr, with exit code 2."""

    def invoke(self, ctx):
        try:
            return super().invoke(ctx)
        except TFMetaPruneError as error:
            Console(stderr=True).print(f"Error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
            raise typer.Exit(2) from error


app = typer.Typer(cls=_Group, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


def main():
    """Runs the command line: the entry point `tfmetaprune`."""
    app()


def _version(asked: bool):
    if asked:
        typer.echo(f"tfmetaprune {importlib.import_module('tfmetaprune').__version__}")
        raise typer.Exit()


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show it.")] = False,
):
    """Makes trained Keras networks small enough for edge devices."""
    del version


@app.command()
def demo(
    out: Annotated[pathlib.Path, typer.Option(help="Folder for models, plan, report and plot.")] = pathlib.Path(
        "tfmetaprune-demo"
    ),
    seed: Seed = 0,
):
    """Trains a small CNN on real digits, prunes it with and without the metanetwork, exports and measures it."""
    with _quiet():
        from tfmetaprune.demo import run_demo
    run_demo(out, seed=seed)


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
    keras_model = _load_model(model)
    with _quiet():
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


@app.command("inspect")
def inspect_model(
    model: Model,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
):
    """Shows the channel groups of a model: what can be pruned, what cannot, and why."""
    keras_model = _load_model(model)
    with _quiet():
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


@app.command()
def export(
    model: Model,
    out: Annotated[pathlib.Path, typer.Option(help="The TFLite file to write.")],
    quantize: Annotated[str | None, typer.Option(help="float16, dynamic or int8; float32 without.")] = None,
    data: Annotated[str | None, typer.Option(help="Data set to calibrate on; needed for int8.")] = None,
    sparse: Annotated[bool, typer.Option("--sparse", help="Leave runs of zeros out of the file.")] = False,
    integer_io: Annotated[bool, typer.Option("--integer-io", help="Make inputs and outputs int8, for int8.")] = False,
):
    """Exports a model as a TFLite file that is run and compared before it counts."""
    if quantize == "int8" and data is None:
        raise ArgumentError("export: expected --data NAME for --quantize int8, got none. Name a data set.")
    keras_model = _load_model(model)
    with _quiet():
        from tfmetaprune.data import load
        from tfmetaprune.export.tflite import export_tflite
        from tfmetaprune.report.progress import progress_bar
        from tfmetaprune.report.tables import format_count
    representative = None if data is None else load(data).train
    with progress_bar("Exporting to TFLite and running it"):
        report = export_tflite(
            keras_model, out, quantize=quantize, representative_data=representative, sparse=sparse, integer_io=integer_io
        )  # fmt: skip
    Console().print(
        f"{out}: {format_count(report.size_bytes)} bytes ({format_count(report.gzip_size_bytes)} after gzip), "
        f"{report.relative_difference:.2g} off the Keras model's largest output.", highlight=False, soft_wrap=True
    )  # fmt: skip


@app.command()
def benchmark(
    files: Annotated[list[pathlib.Path], typer.Argument(help="Keras models and TFLite files.", metavar="FILE...")],
    threads: Annotated[int, typer.Option(help="Number of threads.", min=1)] = 1,
    runs: Annotated[int, typer.Option(help="Number of rounds; each runs every file once.", min=1)] = 50,
    profile: Annotated[bool, typer.Option("--profile", help="Time each operator too.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
):
    """Measures models and TFLite files side by side: latency, size, memory, MACs."""
    candidates = [str(path) if path.suffix == ".tflite" else _load_model(path) for path in files]
    with _quiet():
        from tfmetaprune.export import benchmark as measuring
        from tfmetaprune.report.progress import progress_bar
        from tfmetaprune.report.tables import benchmark_table, operators_table
    with progress_bar("Exporting and measuring"):
        report = measuring.benchmark(*candidates, num_threads=threads, num_runs=runs, profile=profile)
    if as_json:
        typer.echo(json.dumps(report.to_dict(), indent=2))
        return
    console = Console()
    console.print(benchmark_table(report))
    for model in report.models if profile else ():
        console.print(operators_table(model))


@app.command("meta-train")
def meta_train(
    out: Annotated[pathlib.Path, typer.Option(help="Folder for checkpoints, log and metanetwork.")] = pathlib.Path(
        "runs/digits"
    ),
    objective: Annotated[str, typer.Option(help="structured, unstructured, n:m, sparse, published or published_sparse.")] = "structured",
    steps: Annotated[int, typer.Option(help="Number of meta-steps.", min=1)] = 3000,
    seed: Seed = 0,
    num_models: Annotated[int, typer.Option(help="Number of data models to train on.", min=1)] = 12,
    batches_per_step: Annotated[int, typer.Option(help="Batches for each data model of a step.", min=1)] = 1,
    models_per_step: Annotated[int, typer.Option(help="Data models a step, spread over the replicas.", min=1)] = 1,
    strategy: Annotated[str, typer.Option(help="none, mirrored, or multi-worker (by TF_CONFIG).")] = "none",
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint.")] = False,
):
    """Trains a metanetwork on networks that it trains on digits first, and judges it on held-out ones."""
    with _quiet():
        from tfmetaprune.metatrain import command
        from tfmetaprune.report.progress import stage_progress
        from tfmetaprune.report.tables import curve_table
    with stage_progress() as progress:
        card = command.meta_train(
            out, objective=objective, steps=steps, seed=seed, num_models=num_models, batches_per_step=batches_per_step,
            models_per_step=models_per_step, strategy=strategy, resume=resume, progress=progress,
        )  # fmt: skip
    if card is None:
        Console().print("This worker is done; the chief has written the results.")
        return
    Console().print(curve_table(card["measured"]))
    Console().print(f"Written to {out}: the metanetwork and its card", soft_wrap=True)


def _load_model(path):
    """Loads a Keras model; whatever goes wrong is an `UnsupportedModelError`."""
    if not path.exists():
        raise UnsupportedModelError(f"Model file '{path}': expected a Keras model, found no such file. Check the path.")
    try:
        with _quiet():
            if _is_keras3_file(path):
                import keras
            else:
                from tfmetaprune._keras import keras
        return keras.models.load_model(path)
    except Exception as error:  # zip, HDF5, JSON and Keras each raise kinds of their own
        reason = (str(error).strip() or repr(error)).splitlines()[0][:300].rstrip(". ")
        raise UnsupportedModelError(
            f"Model file '{path}': expected a Keras model, got {type(error).__name__}: {reason}. "
            f"Save the model by model.save('model.keras'), without custom objects."
        ) from error


def _is_keras3_file(path) -> bool:
    """Whether Keras 3 wrote a model file, by the version noted in it; older formats are those of Keras 2."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return json.loads(archive.read("metadata.json"))["keras_version"].startswith("3")


@contextlib.contextmanager
def _quiet():
    """Silences what TensorFlow writes to stderr while it is imported, and its warnings; errors are raised."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    logging.getLogger("tensorflow").setLevel(logging.ERROR)  # advice about retracing, for one
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # a process may have no stderr
            stderr = os.dup(2)
            stack.callback(os.close, stderr)
            with open(os.devnull, "wb") as sink:
                os.dup2(sink.fileno(), 2)
            stack.callback(os.dup2, stderr, 2)
        yield
