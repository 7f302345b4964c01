"""Prunes every architecture of Keras Applications, in both Keras versions, and structures built by hand; writes a table.

Each model runs in a process of its own, and leaves one JSON file under runs/coverage/, so that a run can be resumed.
Usage: python benchmarks/coverage.py [--keras 2|3|both|none] [--only NAME ...] [--size small|all] [--image-size N]
                                     [--out PAGE.md] [--again]
The table goes to docs/coverage.md if it is of everything, else to coverage.md in the folder of the runs.
"""

import argparse
import gc
import importlib.metadata
import inspect
import json
import os
import pathlib
import platform
import resource
import subprocess
import sys
import tempfile
import time
import traceback

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path[:0] = [str(path) for path in (ROOT, ROOT / "tests", ROOT / "benchmarks") if str(path) not in sys.path]

ARCHITECTURES = (  # small ones first
    "MobileNetV3Small", "MobileNetV2", "MobileNet", "MobileNetV3Large", "NASNetMobile", "EfficientNetB0", "EfficientNetV2B0",
    "DenseNet121", "ResNet50", "ResNet50V2", "ConvNeXtTiny", "EfficientNetB1", "EfficientNetV2B1", "EfficientNetB2",
    "EfficientNetV2B2", "EfficientNetB3", "EfficientNetV2B3", "Xception", "InceptionV3", "DenseNet169", "EfficientNetB4",
    "DenseNet201", "EfficientNetV2S", "ResNet101", "ResNet101V2", "VGG16", "VGG19", "EfficientNetB5", "ConvNeXtSmall",
    "ResNet152", "ResNet152V2", "InceptionResNetV2", "EfficientNetB6", "EfficientNetV2M", "EfficientNetB7", "NASNetLarge",
    "EfficientNetV2L", "ConvNeXtBase", "ConvNeXtLarge", "ConvNeXtXLarge",
)  # fmt: skip
SMALL = ("MobileNet", "MobileNetV3Small", "EfficientNetB0", "DenseNet121", "ResNet50", "ConvNeXtTiny", "NASNetMobile")
IMAGE_SIZE = 96
IMAGE_SIZES = {"InceptionV3": 139, "InceptionResNetV2": 139, "VGG16": 128, "VGG19": 128}
IN_FLOAT32 = ("ConvNeXtXLarge",)  # 350 million parameters: its float64 copies take more memory than a small machine has
RELATIVE_TOLERANCE = 1e-4
MIN_PRUNABLE_MACS = 0.9
FAMILIES = {"2": "tf_keras", "3": "Keras 3"}


def build_application(name: str, family: str, image_size: int, dtype: str = "float32"):
    """Builds an architecture of Keras Applications without weights and without softmax.

    Args:
      name: its name.
      family: "2" for tf_keras, "3" for Keras 3.
      image_size: height and width of the images.
      dtype: what it computes in.
    """
    import keras as keras3
    from checks import floatx

    from tfmetaprune._keras import keras

    library = keras if family == "2" else keras3
    constructor = getattr(library.applications, name)
    arguments = {"weights": None, "input_shape": (image_size, image_size, 3), "classifier_activation": None}
    known = inspect.signature(constructor).parameters
    if "kwargs" not in known:
        arguments = {key: value for key, value in arguments.items() if key in known}
    before = keras3.config.floatx()
    keras3.config.set_floatx(dtype)
    keras3.config.set_dtype_policy(dtype)
    try:
        with floatx(dtype):
            return constructor(**arguments)
    finally:
        keras3.config.set_floatx(before)
        keras3.config.set_dtype_policy(before)


def build_structure(name: str, dtype: str = "float32"):
    """Builds a structure of `structures.py` or, "zoo/NAME", of the tests' zoo."""
    from checks import floatx
    from structures import STRUCTURES
    from zoo import ZOO

    with floatx(dtype):
        return ZOO[name.removeprefix("zoo/")]() if name.startswith("zoo/") else STRUCTURES[name]()


def structure_names() -> list[str]:
    """Returns the names that `build_structure` knows."""
    from structures import STRUCTURES
    from zoo import ZOO

    return [*STRUCTURES, *(f"zoo/{name}" for name in ZOO)]


def build(name: str, family: str, image_size: int, dtype: str = "float32"):
    """Builds a model for tf_keras.

    Returns:
      The tf_keras model, and the function that turns a tf_keras model of its kind into one of Keras 3, or None.
    """
    if family == "structures":
        return build_structure(name, dtype), None
    model = build_application(name, family, image_size, dtype)
    if family == "2":
        return model, None
    from tfmetaprune.interop import carry

    return carry(model)


def images(model, batch: int = 2, seed: int = 0) -> list:
    """Returns inputs of the scale a model expects: pixels for images of three channels, else normal numbers."""
    from checks import random_inputs

    inputs = random_inputs(model, batch, seed, vocabulary=12)
    return [128 + 60 * one if one.ndim == 4 and one.shape[-1] == 3 and len(model.layers) > 60 else one for one in inputs]


def with_random_weights(model, seed: int = 0):
    """Returns the model with random weights that no layer is degenerate with: BatchNormalization fits its inputs."""
    from checks import floatx, randomize_weights

    from tfmetaprune.pruning import reestimate_bn

    randomize_weights(model, seed)
    with floatx(model.outputs[0].dtype.name):
        return reestimate_bn(model, [(tuple(images(model, 8, seed + 1)),)], num_batches=1)


def measure(name: str, family: str, image_size: int, *, dtype="float64", tflite=True, seed=0) -> dict:
    """Prunes one model by half of the units of every prunable group, at random, and measures what became of it.

    Args:
      name: the architecture, or the structure.
      family: "2" for tf_keras, "3" for Keras 3, or "structures".
      image_size: height and width of the images.
      dtype: what pruned and masked are compared in: "float64", on a second copy of the model, or "float32".
      tflite: whether the result is converted to TFLite.
      seed: draws weights, inputs and channels.

    Returns:
      The row of the table.
    """
    import checks

    from tfmetaprune.pruning import channel_groups, cost, rebuild_model, run_masked
    from tfmetaprune.trace import trace_model

    row = {"name": name, "family": family, "image_size": image_size, "dtype": dtype}
    started = time.perf_counter()
    model, back = build(name, family, image_size)
    if back is not None:
        row["seconds_carry"] = time.perf_counter() - started
    model = with_random_weights(model, seed)
    before = [value.copy() for value in model.get_weights()]
    inputs = images(model, seed=seed)

    started = time.perf_counter()
    trace = trace_model(model)
    groups = channel_groups(trace)
    row["seconds_trace"] = time.perf_counter() - started
    plan = checks.half_plan(trace, seed)
    started = time.perf_counter()
    pruned = rebuild_model(trace, plan)
    row["seconds_rebuild"] = time.perf_counter() - started

    counted = cost(trace)
    row.update(
        num_groups=len(groups), num_prunable=sum(group.prunable for group in groups), macs=counted.macs,
        macs_after=plan.macs_after, parameters=counted.parameters, parameters_after=pruned.count_params(),
        prunable_macs=checks.prunable_macs_share(trace), frozen=_frozen_reasons(groups),
    )  # fmt: skip
    checks.check_cost(trace, plan, pruned)
    checks.check_round_trip(trace)
    row["round_trip"] = True
    checks.assert_same_weights(model, before)
    result = pruned
    if back is not None:
        started = time.perf_counter()
        result = back(pruned)
        row["seconds_back"] = time.perf_counter() - started
        row["difference_back"] = checks.relative_difference(_outputs(result, inputs), checks.outputs_of(pruned, inputs))
    row["saved"] = _survives_saving(result, inputs)
    row["peak_gb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    if tflite:
        row.update(_tflite(pruned, inputs))
    if dtype == "float64":
        del result, pruned, before, plan, trace
        gc.collect()
        model = _as_float64(model, name, family, image_size)
        inputs = images(model, seed=seed)
        trace = trace_model(model)
        plan = checks.half_plan(trace, seed)
        with checks.floatx("float64"):
            pruned = rebuild_model(trace, plan)
    row["difference"] = checks.relative_difference(checks.outputs_of(pruned, inputs), run_masked(trace, plan.keep, inputs))
    row["output_deviation"] = min(float(output.std() / (abs(output).max() or 1)) for output in checks.outputs_of(pruned, inputs))
    return row


def problems(row: dict) -> list[str]:
    """Returns what must hold and does not hold for a row."""
    if "error" in row:
        return [row["error"]]
    found = []
    if not row["difference"] <= RELATIVE_TOLERANCE:
        found.append(f"pruned and masked differ by {row['difference']:.1e}")
    if not row.get("difference_back", 0) <= RELATIVE_TOLERANCE:
        found.append(f"Keras 3 and tf_keras differ by {row['difference_back']:.1e}")
    if not row["output_deviation"] > 1e-3:
        found.append("the outputs are degenerate")
    if row["saved"] is not True:
        found.append(f"save and load: {row['saved']}")
    if row.get("tflite", True) is not True:
        found.append(f"TFLite: {row['tflite']}")
    if row["prunable_macs"] < MIN_PRUNABLE_MACS:
        reasons = "; ".join(list(row["frozen"])[:3]) or "the rest only reads or makes the model's inputs and outputs"
        found.append(f"{row['prunable_macs']:.0%} of the MACs prunable: {reasons}")
    return found


def _outputs(model, inputs) -> list:
    import numpy as np
    import tensorflow as tf

    return [np.asarray(one) for one in tf.nest.flatten(model(inputs if len(inputs) > 1 else inputs[0], training=False))]


def _frozen_reasons(groups) -> dict[str, int]:
    """Reasons that froze whole groups, the model's inputs and outputs left out -> how many groups."""
    reasons = [group.frozen for group in groups if not group.prunable and group.frozen]
    reasons = [reason for reason in reasons if reason not in ("model input", "model output")]
    return {reason: reasons.count(reason) for reason in dict.fromkeys(reasons)}


def _as_float64(model, name, family, image_size):
    """Returns the same model, with the same weights, computing in float64."""
    copy, _ = build(name, family, image_size, "float64")
    copy.set_weights(model.get_weights())
    for layer in copy._flatten_layers():
        if hasattr(layer, "finalize_state"):
            layer.finalize_state()
    return copy


def _survives_saving(model, inputs):
    """Saves and loads a model in the `.keras` format of its own Keras; True, or what went wrong."""
    import checks
    import keras as keras3

    from tfmetaprune._keras import keras

    library = keras3 if isinstance(model, keras3.Model) else keras
    own = {type(layer).__name__: type(layer) for layer in model._flatten_layers() if not hasattr(library.layers, type(layer).__name__)}
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = f"{folder}/model.keras"
            model.save(path)
            loaded = library.models.load_model(path, custom_objects=own)
        difference = checks.relative_difference(_outputs(loaded, inputs), _outputs(model, inputs))
        return True if difference <= 1e-6 else f"outputs differ by {difference:.1e}"
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:200]}"


def _tflite(model, inputs) -> dict:
    """Converts a model to TFLite, which compares the outputs; the columns of the table."""
    from tfmetaprune.export.tflite import export_tflite

    started = time.perf_counter()
    try:
        with tempfile.TemporaryDirectory() as folder:
            data = tuple(inputs) if len(inputs) > 1 else inputs[0]
            report = export_tflite(model, f"{folder}/model.tflite", representative_data=(data, None))
        return {"tflite": True, "difference_tflite": report.relative_difference, "seconds_tflite": time.perf_counter() - started}
    except Exception as error:
        return {"tflite": f"{type(error).__name__}: {str(error)[:200]}"}


def _worker(name, family, image_size, path):
    try:
        row = measure(name, family, image_size, dtype="float32" if name in IN_FLOAT32 else "float64")
    except Exception as error:
        row = {"name": name, "family": family, "image_size": image_size, "traceback": traceback.format_exc()}
        row["error"] = f"{type(error).__name__}: {str(error)[:300]}"
    pathlib.Path(path).write_text(json.dumps(row, indent=1), encoding="utf-8")


def run_apart(name, family, image_size, folder, timeout=3600) -> dict:
    """Measures one model in a process of its own; returns its row, which is also written into the folder."""
    path = folder / f"{family}-{name.replace('/', '-')}.json"
    command = [sys.executable, __file__, "--worker", name, family, str(image_size), str(path)]
    path.unlink(missing_ok=True)
    try:
        code = subprocess.run(command, timeout=timeout, stderr=subprocess.DEVNULL, check=False).returncode
    except subprocess.TimeoutExpired:
        code = f"a time limit of {timeout} s"
    if not path.exists():
        row = {"name": name, "family": family, "image_size": image_size, "error": f"the process ended with {code}"}
        path.write_text(json.dumps(row), encoding="utf-8")
    return json.loads(path.read_text(encoding="utf-8"))


def table(rows: list[dict]) -> str:
    """Returns the rows as Markdown."""
    versions = {name: importlib.metadata.version(name) for name in ("tensorflow", "tf_keras", "keras", "ai-edge-litert")}
    good = sum(not problems(row) for row in rows)
    lines = [
        "# Coverage", "",
        f"Made by `python benchmarks/coverage.py`. {good} of {len(rows)} models without a problem. "
        + ", ".join(f"{name} {version}" for name, version in versions.items())
        + f", Python {platform.python_version()}, {os.cpu_count()} cores, CPU only.", "",
        "A random half of the units of every prunable group goes. Weights are random, BatchNormalization fits a random batch, "
        "and there is no softmax, so that outputs are not degenerate. Images are as small as an architecture takes well (pixels: "
        "column *size*); the MACs are those of that size. *Difference*: largest difference between the pruned model and the masked "
        "original, relative to the output's largest number, in float64 unless marked. *Keras 3*: the pruned Keras 3 model against "
        "the pruned tf_keras model it was made from. *TFLite*: the file against Keras in float32, RMS or largest, relative. "
        "*Seconds*: trace and groups / rebuild / carrying to tf_keras and back. *Memory*: peak of the process, TensorFlow's "
        "own 0.6 GB included, before float64 and TFLite.", "",
    ]  # fmt: skip
    titles = (
        "model | size | groups, prunable | MACs prunable | MACs, M | parameters, M | graph | difference | Keras 3 | .keras | TFLite "
        "| seconds | memory, GB"
    )
    for family, title in (*FAMILIES.items(), ("structures", "Hand-built structures (tf_keras)")):
        mine = [row for row in rows if row["family"] == family]
        if mine:
            lines += [f"## {title}", "", f"| {titles} |", "|" + "---|" * (titles.count("|") + 1)]
            lines += [f"| {' | '.join(_cells(row))} |" for row in mine]
            lines.append("")
    lines += ["## What does not hold", ""]
    lines += [f"- {row['name']} ({FAMILIES.get(row['family'], 'structure')}): {'; '.join(problems(row))}"
              for row in rows if problems(row)] or ["Nothing: every model passes."]  # fmt: skip
    return "\n".join(lines) + "\n"


def _cells(row) -> list[str]:
    size = str(row["image_size"]) if row["family"] != "structures" else "-"
    if "error" in row:
        return [row["name"], size, f"failed: {row['error'][:80]}".replace("|", "/"), *[""] * 10]
    difference = f"{row['difference']:.0e}" + ("" if row["dtype"] == "float64" else " (float32)")
    carried = f" / {row['seconds_carry']:.1f} + {row['seconds_back']:.1f}" if "seconds_back" in row else ""
    return [
        row["name"], size, f"{row['num_groups']}, {row['num_prunable']}", f"{row['prunable_macs']:.1%}",
        f"{row['macs'] / 1e6:.4g} -> {row['macs_after'] / 1e6:.4g}",
        f"{row['parameters'] / 1e6:.4g} -> {row['parameters_after'] / 1e6:.4g}", "exact" if row["round_trip"] else "no", difference,
        f"{row['difference_back']:.0e}" if "difference_back" in row else "-", "yes" if row["saved"] is True else "no",
        f"{row['difference_tflite']:.0e}" if "difference_tflite" in row else "no",
        f"{row['seconds_trace']:.1f} / {row['seconds_rebuild']:.1f}{carried}", f"{row['peak_gb']:.1f}",
    ]  # fmt: skip


def _arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keras", choices=("2", "3", "both", "none"), default="both", help="none: hand-built structures only")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="names of architectures or structures")
    parser.add_argument("--size", choices=("small", "all"), default="all", help="small: the seven that the tests take")
    parser.add_argument("--image-size", type=int, help="for all architectures, in place of the smallest that suits each")
    parser.add_argument("--out", type=pathlib.Path, help="the page to write; default: docs/coverage.md, or for a part RUNS/coverage.md")
    parser.add_argument("--runs", type=pathlib.Path, default=ROOT / "runs" / "coverage")
    parser.add_argument("--again", action="store_true", help="measure anew what runs/coverage/ has already")
    parser.add_argument("--worker", nargs=4, metavar="", help=argparse.SUPPRESS)
    return parser.parse_args()


def main():
    """Measures what is not yet measured, prints a line for each model, and writes the table."""
    arguments = _arguments()
    if arguments.worker:
        name, family, image_size, path = arguments.worker
        return _worker(name, family, int(image_size), path)
    families = {"both": ("2", "3"), "none": ()}.get(arguments.keras, (arguments.keras,))
    names = SMALL if arguments.size == "small" else ARCHITECTURES
    jobs = [("structures", name) for name in structure_names()] + [(family, name) for name in names for family in families]
    if arguments.only:
        jobs = [(family, name) for family, name in jobs if name in arguments.only]
    arguments.runs.mkdir(parents=True, exist_ok=True)
    rows = []
    for family, name in jobs:
        image_size = 0 if family == "structures" else arguments.image_size or IMAGE_SIZES.get(name, IMAGE_SIZE)
        path = arguments.runs / f"{family}-{name.replace('/', '-')}.json"
        row = json.loads(path.read_text(encoding="utf-8")) if path.exists() and not arguments.again else None
        if row is None or "error" in row or row["image_size"] != image_size:
            row = run_apart(name, family, image_size, arguments.runs)
        rows.append(row)
        print(f"{family:10} {name:24} {'; '.join(problems(row)) or 'good'}", flush=True)
    is_part = arguments.only or arguments.image_size or (arguments.keras, arguments.size) != ("both", "all")
    out = arguments.out or (arguments.runs if is_part else ROOT / "docs") / "coverage.md"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(table(rows), encoding="utf-8")
    print(f"Written to {out}")
    return None


if __name__ == "__main__":
    main()
