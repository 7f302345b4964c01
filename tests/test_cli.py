"""The command line: what it leaves behind, and that every bad input ends in one paragraph and exit code 2."""

import io
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner
from zoo import ZOO, random_inputs

from tfmetaprune import MetaNetConfig, MetaNetwork
from tfmetaprune._keras import keras
from tfmetaprune.cli import app
from tfmetaprune.demo import DemoSettings, run_demo
from tfmetaprune.errors import ArgumentError, MetaNetworkError
from tfmetaprune.metatrain import command
from tfmetaprune.metatrain.zoo import residual_cnn
from tfmetaprune.report.folder import atomic_folder
from tfmetaprune.report.plots import plot_accuracy_curves

PNG = b"\x89PNG\r\n\x1a\n"


def run(*arguments, code=0):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == code, (result.output, result.exception)
    return result


@pytest.fixture(scope="module")
def digits_model(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "digits.keras"
    residual_cnn((8, 8, 1), 10, widths=(8, 12)).save(path)
    return path


@pytest.fixture(scope="module")
def demo_report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo") / "new" / "out"
    settings = DemoSettings(
        train_epochs=4, finetune_epochs=1, widths=(8, 12), curve_speedups=(1.0, 2.0), latency_runs=2,
        metanetwork=MetaNetwork(MetaNetConfig(hidden=4, num_layers=1)),
    )  # fmt: skip
    printed = io.StringIO()
    report = run_demo(folder, settings=settings, console=Console(file=printed, width=80))
    return folder, report, printed.getvalue()


def test_demo_leaves_everything_in_the_folder(demo_report):
    folder, report, _ = demo_report
    assert sorted(path.name for path in folder.iterdir()) == [
        "accuracy_vs_speedup.png", "network.json", "original.keras", "original_float32.tflite", "original_int8.tflite", "plan.json",
        "pruned.keras", "pruned_float32.tflite", "pruned_int8.tflite", "pruned_without_metanetwork.keras", "report.json",
    ]  # fmt: skip
    assert json.loads((folder / "report.json").read_text()) == json.loads(json.dumps(report))
    assert json.loads((folder / "plan.json").read_text())["speedup"] >= 2
    assert (folder / "accuracy_vs_speedup.png").read_bytes().startswith(PNG)
    original, pruned = (keras.models.load_model(folder / f"{name}.keras") for name in ("original", "pruned"))
    assert pruned.count_params() < original.count_params()
    assert os.listdir(folder.parent) == ["out"]


def test_demo_measures_every_row(demo_report):
    _, report, _ = demo_report
    rows = report["rows"]
    assert [row["name"].strip() for row in rows] == [
        "original", "pruned with metanetwork", "... and fine-tuned", "pruned without", "... and fine-tuned",
        "TFLite float32, original", "TFLite int8, original", "TFLite float32, pruned", "TFLite int8, pruned",
    ]  # fmt: skip
    assert all(0 <= row["accuracy"] <= 1 and row["macs"] > 0 and row["parameters"] > 0 for row in rows)
    assert rows[0]["macs"] >= 2 * rows[2]["macs"] == 2 * rows[1]["macs"]
    assert rows[5]["accuracy"] == pytest.approx(rows[0]["accuracy"], abs=0.01)
    assert rows[7]["accuracy"] == pytest.approx(rows[2]["accuracy"], abs=0.01)
    for row in rows[5:]:
        assert row["size_bytes"] > row["gzip_size_bytes"] > 0 and row["latency_ms"] > 0
    assert [len(curve) for curve in report["curves"].values()] == [2, 2]
    assert set(report["prune"]["with metanetwork"]["finetuned"]) == {"loss", "accuracy"}


def test_demo_prints_a_table_that_fits(demo_report):
    folder, _, printed = demo_report
    assert "…" not in printed
    assert "TFLite float32, original" in printed and "Latency" in printed
    assert printed.rstrip().endswith(f"Models, plan, report and plot are in {folder}")


def test_demo_checks_before_it_works(tmp_path):
    with pytest.raises(MetaNetworkError, match="'nobody'"):
        run_demo(tmp_path / "out", settings=DemoSettings(metanetwork="nobody"))
    (tmp_path / "file").touch()
    with pytest.raises(ArgumentError, match="expected a folder that can be written, got it is a file"):
        run_demo(tmp_path / "file")
    assert os.listdir(tmp_path) == ["file"]


def test_prune(digits_model, tmp_path):
    out = tmp_path / "out"
    options = ("--data", "digits", "--speedup", 1.5, "--metanetwork", "none", "--epochs", 1, "--seed", 2)
    printed = run("prune", digits_model, *options, "--out", out).stdout
    assert sorted(path.name for path in out.iterdir()) == ["model.keras", "network.json", "plan.json", "report.json"]
    report = json.loads((out / "report.json").read_text())
    assert report["data"] == "digits" and report["seed"] == 2 and report["speedup"]["reached"] >= 1.5
    assert len(report["history"]["loss"]) == 1
    small = keras.models.load_model(out / "model.keras")
    assert small.count_params() == report["pruned"]["parameters"]
    for step in ("original", "pruned", "repaired", "fine-tuned", str(out)):
        assert step in printed.replace("\n", "")


def test_inspect(tmp_path):
    path = tmp_path / "model.keras"
    ZOO["grouped"]().save(path)
    printed = run("inspect", path).stdout
    assert "Channel groups of model 'grouped'" in printed and "parameters" in printed
    values = json.loads(run("inspect", path, "--json").stdout)
    assert values["name"] == "grouped" and values["groups"]


@pytest.mark.parametrize("quantize, size", [(None, 1.0), ("int8", 0.6)])
def test_export(digits_model, tmp_path, quantize, size):
    options = ("--quantize", quantize, "--data", "digits") if quantize else ()
    printed = run("export", digits_model, "--out", tmp_path / "model.tflite", *options).stdout
    assert os.listdir(tmp_path) == ["model.tflite"] and "after gzip" in printed
    assert os.path.getsize(tmp_path / "model.tflite") < size * os.path.getsize(digits_model)


def test_meta_train_passes_its_options_on_and_prints_the_card(monkeypatch, tmp_path):
    called = []
    measured = {
        "speedups": [2.0, 4.0], "mean": {"group_l2": [0.8, 0.5], "metanetwork": [0.9, 0.7]},
        "std": {"group_l2": [0.01, 0.02], "metanetwork": [0.01, 0.02]},
    }  # fmt: skip

    def meta_train(out, *, progress, **options):
        progress("meta-steps", 1, 5)
        called.append((out, options))
        return {"measured": measured}

    monkeypatch.setattr(command, "meta_train", meta_train)
    spread = ("--batches-per-step", 4, "--models-per-step", 2, "--strategy", "mirrored")
    which = ("--objective", "published_sparse", "--steps", 5, "--seed", 1, "--num-models", 3)
    printed = run("meta-train", "--out", tmp_path, *which, *spread, "--resume", "--regularization", 0.5).stdout
    options = {"objective": "published_sparse", "steps": 5, "seed": 1, "num_models": 3, "batches_per_step": 4, "models_per_step": 2}
    assert called == [(tmp_path, {**options, "strategy": "mirrored", "resume": True, "regularization": 0.5})]
    assert "90.0 ±1.0" in printed and "4x" in printed


def _bad_inputs(folder, model):
    (folder / "text.keras").write_text("no model")
    (folder / "file").touch()
    linear = keras.Sequential([keras.layers.Dense(2, input_shape=(3,))])
    linear.save(folder / "linear.keras")
    cnn = ZOO["plain_cnn"]()
    cnn.save(folder / "other.keras")
    prune = ("prune", model, "--metanetwork", "none", "--epochs", 0)
    out = ("--out", folder / "out")
    return {
        "no such model": (("inspect", folder / "none.keras"), "found no such file"),
        "no Keras model": (("inspect", folder / "text.keras"), "expected a Keras model"),
        "no Keras model, prune": (("prune", folder / "text.keras", "--data", "digits", *out), "expected a Keras model"),
        "speedup below 1": ((*prune, "--data", "digits", *out, "--speedup", 0.5), "speedup to be a number >= 1"),
        "speedup out of reach": ((*prune, "--data", "digits", *out, "--speedup", 900), "to be reachable, got at most"),
        "unknown data": ((*prune, "--data", "digitz", *out), "Did you mean 'digits'?"),
        "data do not fit": (("prune", folder / "linear.keras", "--data", "digits", *out), "expected input"),
        "classes do not fit": (("prune", folder / "other.keras", "--data", "digits", *out), "expected labels in 0..4"),
        "unknown metanetwork": (("prune", model, "--metanetwork", "x", "--data", "digits", *out), "Metanetwork 'x'"),
        "output is a file": ((*prune, "--data", "digits", "--out", folder / "file"), "got it is a file"),
        "output inside a file": ((*prune, "--data", "digits", "--out", folder / "file" / "out"), "can be written"),
        "export to nowhere": (("export", model, "--out", folder / "none" / "model.tflite"), "expected to write"),
        "unknown quantization": (("export", model, "--out", folder / "m.tflite", "--quantize", "int4"), "got 'int4'"),
        "int8 without data": (("export", model, "--out", folder / "m.tflite", "--quantize", "int8"), "--data NAME"),
        "demo output is a file": (("demo", "--out", folder / "file"), "got it is a file"),
    }  # fmt: skip


def test_bad_input_is_one_paragraph_and_exit_code_2(digits_model, tmp_path):
    for title, (arguments, message) in _bad_inputs(tmp_path, digits_model).items():
        before = sorted(os.listdir(tmp_path))
        result = run(*arguments, code=2)
        text = result.stderr.strip()
        assert text.startswith("Error: ") and message in text and "\n" not in text, (title, text)
        assert "Traceback" not in result.output and not result.stdout, title
        assert sorted(os.listdir(tmp_path)) == before, title


def test_real_process_has_no_traceback_and_no_log_noise(tmp_path):
    (tmp_path / "text.keras").write_text("no model")
    code = "from tfmetaprune.cli import main; main()"
    environment = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    arguments = [sys.executable, "-c", code, "inspect", str(tmp_path / "text.keras")]
    process = subprocess.run(arguments, capture_output=True, text=True, env=environment)
    assert process.returncode == 2 and process.stdout == ""
    assert process.stderr.startswith("Error: Model file") and process.stderr.count("\n") == 1


def test_help_and_version():
    printed = run("--help").stdout
    assert all(command in printed for command in ("demo", "prune", "inspect", "export", "compare", "meta-train", "info"))
    assert run("--version").stdout == "tfmetaprune 0.1.0\n"


def test_atomic_folder_leaves_nothing_behind(tmp_path):
    old = tmp_path / "old"
    old.mkdir()
    (old / "plan.json").write_text("old")
    (old / "mine.txt").write_text("mine")
    for path in (old, tmp_path / "a" / "b"):
        with pytest.raises(RuntimeError), atomic_folder(path) as folder:
            (folder / "plan.json").write_text("half")
            raise RuntimeError
    assert os.listdir(tmp_path) == ["old"] and (old / "plan.json").read_text() == "old"
    for path in (old, tmp_path / "a" / "b"):
        with atomic_folder(path) as folder:
            (folder / "plan.json").write_text("new")
        assert (path / "plan.json").read_text() == "new"
    assert sorted(os.listdir(old)) == ["mine.txt", "plan.json"] and os.listdir(tmp_path / "a" / "b") == ["plan.json"]


def test_plot_is_a_png(tmp_path):
    path = tmp_path / "plot.png"
    plot_accuracy_curves(path, {"one": [(1.0, 0.9), (2.04, 0.7)]}, points={"tuned": (2.04, 0.88)}, chance=0.1)
    assert path.read_bytes().startswith(PNG)


def test_the_same_plot_is_the_same_file(tmp_path, monkeypatch):
    made = []
    for clock in ("0", "1000000000"):
        monkeypatch.setenv("SOURCE_DATE_EPOCH", clock)  # what matplotlib takes for the time
        plot_accuracy_curves(tmp_path / "plot.svg", {"one": [(1.0, 0.9), (2.04, 0.7)]})
        made.append((tmp_path / "plot.svg").read_bytes())
    assert made[0] == made[1]


def test_exported_model_of_the_command_line_agrees(digits_model, tmp_path):
    from tfmetaprune.export.tflite import run_tflite

    run("export", digits_model, "--out", tmp_path / "model.tflite")
    model = keras.models.load_model(digits_model)
    inputs = random_inputs(model)
    np.testing.assert_allclose(run_tflite(tmp_path / "model.tflite", inputs), model(inputs), atol=1e-4)
