"""The demonstration: real digits, a small residual CNN, pruned with and without the metanetwork, exported, measured."""

import dataclasses
import gzip
import json
import pathlib

import numpy as np
from rich.console import Console

from tfmetaprune import choosing, data, pipeline
from tfmetaprune._keras import keras
from tfmetaprune.export.latency import measure_latency
from tfmetaprune.export.tflite import export_tflite, run_tflite
from tfmetaprune.finetuning import DEFAULT_EPOCHS, finetune_model
from tfmetaprune.metanet.pretrained import load_metanetwork
from tfmetaprune.metatrain.zoo import WIDTHS, accuracy, dataset_arrays, residual_cnn, train_data_model
from tfmetaprune.pruning import cost, reestimate_bn
from tfmetaprune.report.folder import atomic_folder, write_network
from tfmetaprune.report.plots import plot_accuracy_curves
from tfmetaprune.report.progress import progress_bar
from tfmetaprune.report.tables import comparison_table
from tfmetaprune.trace import trace_model

BATCH_SIZE = 64
WITH, WITHOUT = "with metanetwork", "without"
FIRST_SEED = 2000  # the shipped metanetwork was trained on networks of the seeds from 0, and judged on those from 1000


@dataclasses.dataclass(frozen=True)
class DemoSettings:
    """What the demonstration does; the defaults take a few minutes, a test takes less.

    Attributes:
      speedup: MACs ratio that the network is pruned to.
      curve_speedups: MACs ratios of the plot.
      train_epochs: passes over the training split for the original network.
      finetune_epochs: passes for each pruned network.
      widths: channels of each stage of the network.
      metanetwork: of the half that uses one: as for `load_metanetwork`, or a `MetaNetwork`.
      latency_runs: timed runs of each TFLite file.
    """

    speedup: float = 2.0
    curve_speedups: tuple[float, ...] = (1.0, 2.0, 3.0, 4.0, 6.0)
    train_epochs: int = 40
    finetune_epochs: int = DEFAULT_EPOCHS
    widths: tuple[int, ...] = WIDTHS
    metanetwork: object = "default"
    latency_runs: int = 200


def run_demo(out, *, seed=0, settings=DemoSettings(), console=None) -> dict:  # noqa: B008
    """Runs the demonstration and leaves models, files, plan, report and plot in a folder.

    Every accuracy is measured on the test split, which nothing was chosen on. The networks that
    are fine-tuned are repaired as by default; for the curves BN statistics are estimated again, and nothing else.

    Args:
      out: the folder to write.
      seed: of everything random.
      settings: a `DemoSettings`.
      console: the rich console to print on; standard output by default.

    Returns:
      The report: "rows" (the table's), "curves", and what `prune` reported, with and without the metanetwork.

    Raises:
      ArgumentError: the folder cannot be written.
      MetaNetworkError: the metanetwork cannot be loaded.
    """
    console = console or Console()
    with atomic_folder(out) as folder:
        metanetwork = settings.metanetwork
        if not isinstance(metanetwork, keras.Model):
            metanetwork = load_metanetwork(metanetwork)
        digits = data.load("digits", batch_size=BATCH_SIZE, seed=seed)
        train = data.augment(digits.train, seed=FIRST_SEED + seed)
        test = dataset_arrays(digits.test)
        counts = digits.num_examples
        console.print(
            f"Digits: {counts['train']} images to train, {counts['validation']} to validate, {counts['test']} to test"
        )
        unseen = FIRST_SEED + seed
        model = residual_cnn(digits.input_shape, digits.num_classes, widths=settings.widths, seed=unseen)
        with progress_bar("Training the network", settings.train_epochs) as advance:
            bar = keras.callbacks.LambdaCallback(on_epoch_end=advance)
            train_data_model(model, train, epochs=settings.train_epochs, callbacks=[bar])
        models = {"original": model}
        rows = [_keras_row("original", model, test)]
        console.print(f"Trained a residual CNN: {rows[0]['accuracy']:.1%} of the test images right", highlight=False)

        curves = _curves(model, train, test, metanetwork, settings, seed, console)
        prune_reports, before = {}, {}
        for method, network in ((WITH, metanetwork), (WITHOUT, None)):

            def finetune(small, train_data, validation_data, method=method):
                before[method] = _keras_row(f"pruned {method}", small, test)
                return finetune_model(small, train_data, validation_data, epochs=settings.finetune_epochs)

            result = pipeline.prune(
                model, train, validation_data=digits.validation, speedup=settings.speedup, criterion="group_l2", metanetwork=network,
                finetune=finetune, seed=seed,
            )  # fmt: skip
            prune_reports[method] = result.report
            models["pruned" if method == WITH else "pruned_without_metanetwork"] = result.model
            rows += [{}, before[method], _keras_row("  ... and fine-tuned", result.model, test)]
            console.print(f"Pruned {method} to a {result.plan.speedup:.2f}-fold speed-up, and fine-tuned")
            if method == WITH:
                (folder / "plan.json").write_text(result.plan.to_json() + "\n", encoding="utf-8")
                write_network(folder, result.network)

        for row, (name, saved) in zip((rows[0], rows[3], rows[6]), models.items()):
            uncompiled = keras.Model(saved.input, saved.output, name=name)  # a compiled one drags its optimizer along
            uncompiled.save(folder / f"{name}.keras")
            row |= _sizes(folder / f"{name}.keras")
        rows += [{}, *_tflite_rows(models, digits.validation, test, folder, settings.latency_runs)]
        console.print("Exported to TFLite; every file was run and agrees with its Keras model")

        fine_tuned = {
            f"{method}, fine-tuned": (prune_reports[method]["speedup"]["reached"], row["accuracy"])
            for method, row in ((WITH, rows[3]), (WITHOUT, rows[6]))
        }
        plot_accuracy_curves(
            folder / "accuracy_vs_speedup.png", {f"{method}": curve for method, curve in curves.items()},
            points=fine_tuned, title="Digits, test split: accuracy after pruning and BN re-estimation",
            chance=1 / digits.num_classes,
        )  # fmt: skip
        report = {
            "data": digits.name, "num_examples": counts, "seed": seed, "rows": [row for row in rows if row],
            "curves": {method: [list(point) for point in curve] for method, curve in curves.items()},
            "prune": prune_reports,
        }  # fmt: skip
        (folder / "report.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    console.print()
    console.print(comparison_table(f"Digits, pruned to a {settings.speedup:g}-fold speed-up (accuracy on test)", rows))
    console.print(f"Models, plan, report and plot are in {pathlib.Path(out)}", soft_wrap=True)
    return report


def _curves(model, train, test, metanetwork, settings, seed, console) -> dict:
    """Method -> list of (speed-up reached, test accuracy), without fine-tuning."""
    trace = trace_model(model)
    curves = {}
    for method, network in ((WITH, metanetwork), (WITHOUT, None)):
        rewritten = choosing.rewrite(trace, network, train, seed=seed)
        curves[method] = []
        with progress_bar(f"Pruning {method} at several speed-ups", len(settings.curve_speedups)) as advance:
            for speedup in settings.curve_speedups:
                small, plan = choosing.shrink(trace, rewritten, speedup=speedup, seed=seed)
                curves[method].append((plan.speedup, accuracy(reestimate_bn(small, train), *test)))
                advance()
        line = ", ".join(f"{share:.1%} at {speedup:.1f}x" for speedup, share in curves[method])
        console.print(f"Right after pruning {method}: {line}", highlight=False, soft_wrap=True)
    return curves


def _keras_row(name, model, test) -> dict:
    total = cost(trace_model(model))
    return {"name": name, "accuracy": accuracy(model, *test), "macs": total.macs, "parameters": total.parameters}


def _sizes(path) -> dict:
    content = path.read_bytes()
    return {"size_bytes": len(content), "gzip_size_bytes": len(gzip.compress(content))}


def _tflite_rows(models, calibration, test, folder, num_runs) -> list[dict]:
    """Exports the original and the pruned model, and measures the files: accuracy in LiteRT, sizes, latency."""
    rows = {}
    kinds = [(name, quantize) for name in ("original", "pruned") for quantize in (None, "int8")]
    with progress_bar("Exporting to TFLite and running it", len(kinds) + 1) as advance:
        for name, quantize in kinds:
            path = folder / f"{name}_{quantize or 'float32'}.tflite"
            file = export_tflite(models[name], path, quantize=quantize, representative_data=calibration)
            right = np.argmax(run_tflite(path, test[0]), -1) == test[1]
            total = cost(trace_model(models[name]))
            rows[path] = {
                "name": f"TFLite {quantize or 'float32'}, {name}", "accuracy": float(np.mean(right)),
                "macs": total.macs, "parameters": total.parameters,
                "size_bytes": file.size_bytes, "gzip_size_bytes": file.gzip_size_bytes,
            }  # fmt: skip
            advance()
        for path, latency in measure_latency(list(rows), num_runs=num_runs).items():
            rows[path]["latency_ms"] = latency.median_ms
        advance()
    return list(rows.values())
