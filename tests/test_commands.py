"""What all commands have in common: help, examples, options, errors, Ctrl-C; and `compare` and `info`."""

import importlib.metadata
import json
import os
import re
import shlex
import subprocess
import sys

import numpy as np
import PIL.Image
import pytest
import typer
from typer.testing import CliRunner

from tfmetaprune import demo
from tfmetaprune._keras import keras
from tfmetaprune.cli import app
from tfmetaprune.commands import shared
from tfmetaprune.data import load
from tfmetaprune.environment import prepared_sets
from tfmetaprune.errors import ArgumentError
from tfmetaprune.metatrain.zoo import residual_cnn

GROUP = typer.main.get_command(app)
COMMANDS = {
    " ".join((name, *sub)): command
    for name, top in GROUP.commands.items()
    for sub, command in ([((child,), inner) for child, inner in top.commands.items()] if hasattr(top, "commands") else [((), top)])
}


def run(*arguments, code=0):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == code, (result.output, result.exception)
    return result


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("models")
    residual_cnn((8, 8, 1), 10, widths=(8, 12)).save(path / "model.keras")
    return path


@pytest.mark.parametrize("name", COMMANDS)
def test_every_example_can_be_parsed(name):
    command, words = COMMANDS[name], ["tfmetaprune", *name.split()]
    lines = [line for line in (command.epilog or "").splitlines() if line.startswith("tfmetaprune")]
    assert lines, "has no examples"
    for line in lines:
        assert shlex.split(line)[: len(words)] == words
        with command.make_context(name, shlex.split(line)[len(words) :]):
            pass


def test_an_example_that_is_wrong_is_found():
    with pytest.raises(typer.BadParameter.__mro__[1], match="--speedip"):
        COMMANDS["prune"].make_context("prune", ["model.keras", "--speedip", "2", "--out", "DIR"])


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_the_common_options(name):
    options = {option for parameter in COMMANDS[name].params for option in parameter.opts}
    assert {"--json", "--quiet"} <= options
    assert "--data" not in options or "--data-dir" in options


def test_help_imports_nothing_heavy():
    code = (
        "import sys\nfrom typer.testing import CliRunner\nfrom tfmetaprune.cli import app\n"
        f"for name in {['', *COMMANDS]!r}:\n"
        "    result = CliRunner().invoke(app, [*name.split(), '--help'])\n"
        "    assert result.exit_code == 0 and 'Usage' in result.stdout\n"
        "print([name for name in ('tensorflow', 'tf_keras', 'keras', 'numpy', 'matplotlib') if name in sys.modules])"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert process.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("inspec",), "No such command 'inspec'. Did you mean 'inspect'? Run `"),
        (("prune", "MODEL", "--speedip", 2), "No such option: --speedip"),
        (("inspect",), "Missing argument 'MODEL.keras'."),
        (("inspect", "MODEL", "MODEL"), "unexpected extra argument"),
        (("demo", "--seed", -1), "Invalid value for '--seed'"),
        (("prune", "MODEL", "--out", "OUT", "--epochs", 2), "expected --data NAME for --epochs 2, got none"),
        (("prune", "MODEL", "--out", "OUT", "--metanetwork", "digits"), "expected --data NAME for --metanetwork digits"),
        (("prune", "MODEL", "--out", "OUT", "--data", "digits", "--distill", "--epochs", 0), "fine-tuning for --distill"),
        (("prune", "MODEL", "--out", "OUT", "--speedup", "nan"), "speedup to be a number >= 1, got nan"),
        (("prune", "MODEL", "--out", "OUT", "--speedup", 2, "--latency-ms", 1), "expected one of speedup, latency_ms"),
        (("prune", "MODEL", "--out", "OUT", "--sparsity", 0.5), "expected no sparsity with method='structured'"),
        (("prune", "MODEL", "--out", "OUT", "--criterion", "l2"), "expected criterion to be 'default', one of"),
        (("prune", "MODEL", "--out", "OUT", "--scope", "all"), "expected scope to be one of"),
        (("prune", "MODEL", "--out", "OUT", "--data", "digits", "--data-dir", "FILE"), "Choose a data_dir that can be written"),
        (("export", "MODEL", "--train-epochs", 2), "expected --data NAME for --train-epochs"),
        (("export", "MODEL", "--integer-io"), "expected quantize='int8' with integer_io=True"),
        (("export", "MODEL", "--out", "FOLDER"), "expected the path of a file"),
        (("benchmark", "none.tflite"), "expected a TFLite file, found no such file"),
        (("benchmark", "MODEL", "NOT.tflite"), "expected a file that loads and runs"),
        (("compare", "MODEL"), "expected two models or more, got 1"),
        (("compare", "MODEL", "MODEL", "MODEL", "--analyze"), "expected two models for --analyze and --plot, got 3"),
        (("compare", "MODEL", "EMPTY"), "expected .keras models in folder"),
        (("compare", "MODEL", "FILE"), "expected a Keras model"),
        (("compare", "MODEL", "MODEL", "--plot", "FILE/plot.png"), "expected to write the picture"),
        (("compare", "MODEL", "MODEL", "--scaling", "none"), "compare without --data: expected no --scaling"),
        (("prune", "MODEL", "--out", "OUT", "--data-dir", "EMPTY"), "prune without --data: expected no --data-dir"),
        (("export", "MODEL", "--scaling", "none"), "export without --data: expected no --scaling"),
        (("report", "MADE", "--data", "digits"), "report without --curve: expected no --data"),
        (("report", "MADE", "--model", "MODEL"), "report without --curve and --latency: expected no --model"),
        (("prune", "MODEL", "--out", "HERE"), "expected another folder than the model's own"),
        (("compare", "MODEL", "MODEL", "--data", "BROKEN"), "TensorFlow: expected data and models that it can read and run, got: "),
        (("compare", "MODEL", "MODEL", "--data", "digitz"), "Did you mean 'digits'?"),
        (("compare", "MADE"), "which is gone. Name where it is now"),
        (("meta-train", "--objective", "dense"), "expected objective to be one of"),
        (("meta-train", "--strategy", "many"), "got 'many'"),
        (("meta-train", "--strategy", "multi-worker"), "expected the environment variable TF_CONFIG"),
        (("meta-train", "--regularization", 1), "expected a published objective"),
        (("meta-train", "--families", "vit", "--hidden", 8), "expected --zoo DIR for --families, --hidden, got none"),
        (("meta-train", "--zoo", "zoo", "--num-models", 3), "expected no --num-models with --zoo"),
        (("meta-train", "--objective", "searched"), "expected --zoo DIR for --objective searched"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_error_is_one_paragraph(folder, tmp_path, monkeypatch, arguments, message):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    monkeypatch.chdir(tmp_path)
    made = tmp_path / "made"
    for path in (tmp_path / "empty", made):
        path.mkdir()
    for file in (tmp_path / "file", tmp_path / "not.tflite", made / "model.keras"):
        file.write_text("no model")
    for name in "ab":
        (tmp_path / "broken" / name).mkdir(parents=True)
        for number in range(30):
            image = tmp_path / "broken" / name / f"{number}.png"
            PIL.Image.new("L", (8, 8), number).save(image)
            image.write_bytes(image.read_bytes()[:45])  # the header is whole
    (made / "report.json").write_text(json.dumps({"model": str(tmp_path / "gone.keras")}))
    names = {
        "MODEL": folder / "model.keras", "OUT": tmp_path / "out", "FILE": tmp_path / "file", "FOLDER": tmp_path / "empty",
        "EMPTY": tmp_path / "empty", "BROKEN": tmp_path / "broken", "NOT.tflite": tmp_path / "not.tflite", "MADE": made,
        "FILE/plot.png": tmp_path / "file" / "plot.png", "HERE": folder,
    }  # fmt: skip
    result = run(*(names.get(argument, argument) for argument in arguments), code=2)
    assert result.stderr.startswith("Error: ") and result.stderr.count("\n") == 1 and message in result.stderr, result.stderr
    assert not result.stdout and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "error, code, told",
    [
        (KeyboardInterrupt(), 130, "Interrupted.\n"),
        (OSError(28, "No space left on device"), 2, "Error: expected files that can be read and written, got OSError: [Errno 28] No space"),
    ],
    ids=["Ctrl-C", "full disk"],
)
def test_interruption_and_full_disk(monkeypatch, tmp_path, error, code, told):
    def run_demo(*_, **__):
        raise error

    monkeypatch.setattr(demo, "run_demo", run_demo)
    result = run("demo", "--out", tmp_path, code=code)
    assert result.stderr.startswith(told) and result.stderr.count("\n") == 1 and not result.stdout


def test_without_arguments_it_helps():
    assert "Usage" in run().stdout


def test_quiet_prints_nothing_but_json(folder):
    assert run("inspect", folder / "model.keras", "--quiet").output == ""
    assert json.loads(run("inspect", folder / "model.keras", "--quiet", "--json").output)["groups"]


def test_prune_without_data_and_compare(folder, tmp_path):
    out = tmp_path / "out"
    printed = json.loads(run("prune", folder / "model.keras", "--speedup", 2, "--out", out, "--json").stdout)
    assert printed == json.loads((out / "report.json").read_text())
    assert printed["finetune"] is None and printed["metanetwork"] is None and printed["repair"]["method"] == "data_free"
    layers = keras.models.load_model(folder / "model.keras").layers
    conv, dense = layers[1].name, layers[-1].name  # which numbers Keras gives them depends on what ran before
    compared = json.loads(run("compare", out, "--data", "digits", "--analyze", "--json").stdout)
    before, after = compared["models"]
    assert before["path"] == str(folder / "model.keras") and after["path"] == str(out / "model.keras")
    assert before["macs"] == printed["before"]["macs"] and after["macs"] == printed["pruned"]["macs"]
    assert after["parameters"] == keras.models.load_model(out / "model.keras").count_params()
    assert before["widths"][dense] == after["widths"][dense] == 10
    assert sum(after["widths"].values()) < sum(before["widths"].values())
    assert 0 < after["accuracy"] < 1 and after["size_bytes"] == (out / "model.keras").stat().st_size
    assert {"taylor_spread", "stable_rank"} <= set(compared["analysis"]["layers"][0]["statistics"])
    shown = run("compare", folder / "model.keras", out / "model.keras", "--analyze", "--plot", tmp_path / "plot.png").stdout
    assert "x less)" in shown and f"width of {conv} " in shown and "stable rank" in shown and f"width of {dense} " not in shown
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_a_model_is_compared_with_one_that_tensorflow_saved(folder, tmp_path):
    keras.models.load_model(folder / "model.keras").save(tmp_path / "saved", save_format="tf")
    run("prune", tmp_path / "saved", "--speedup", 2, "--out", tmp_path / "small")
    compared = json.loads(run("compare", tmp_path / "small", "--json").stdout)["models"]
    assert [row["size_bytes"] for row in compared] == [None, (tmp_path / "small" / "model.keras").stat().st_size]
    shown = run("compare", tmp_path / "small").stdout
    assert re.search(r"bytes of the file +- +[\d.]+ k", shown)


def test_images_get_the_size_of_the_models_input(folder, tmp_path):
    np.savez(tmp_path / "larger.npz", x=np.random.default_rng(0).integers(0, 255, (60, 12, 16), np.uint8), y=np.arange(60) % 10)
    compared = run("compare", folder / "model.keras", folder / "model.keras", "--data", tmp_path / "larger.npz", "--json").stdout
    assert 0 <= json.loads(compared)["models"][0]["accuracy"] <= 1


def test_scaling_is_of_the_data_and_is_kept_for_the_report(folder, tmp_path, monkeypatch):
    scales = []

    def load_data(*arguments):
        scales.append(arguments[-1])
        if len(scales) == 3:
            raise ArgumentError("No curve is needed.")
        return shared.load_data(*arguments)

    for module in ("compare", "prune", "report"):
        monkeypatch.setattr(sys.modules[f"tfmetaprune.commands.{module}"], "load_data", load_data)
    model, images = folder / "model.keras", np.random.default_rng(0).integers(0, 255, (60, 8, 8), np.uint8)
    np.savez(tmp_path / "images.npz", x=images, y=np.arange(60) % 10)
    given = ["--data", tmp_path / "images.npz", "--scaling", "none"]
    run("compare", model, model, *given)
    out = tmp_path / "small"
    report = run("prune", model, *given, "--out", out, "--epochs", "0", "--metanetwork", "none", "--criterion", "group_l2", "--json").stdout
    assert json.loads(report)["scaling"] == "none"
    run("report", out, "--curve", code=2)
    assert scales == ["none"] * 3


def test_info(tmp_path):
    for version in ("tiny/1.0.0", "tiny/incomplete.XY_1.0.0", "letters/small/2.0.0"):
        (tmp_path / version).mkdir(parents=True)
        (tmp_path / version / "dataset_info.json").touch()
    assert prepared_sets(tmp_path) == ["letters/small:2.0.0", "tiny:1.0.0"]
    found = json.loads(run("info", "--data-dir", tmp_path, "--json").stdout)
    assert found["versions"]["tensorflow"] == importlib.metadata.version("tensorflow")
    assert set(found["keras"]["found"]) == {"Keras 2", "Keras 3"} and found["devices"]["cpus"] >= 1
    assert found["metanetworks"]["universal"]["default"] and found["metanetworks"]["universal"]["gain"]["4x"] > 0
    assert "digits" in found["data"]["without_network"] and found["data"]["prepared"] == prepared_sets(tmp_path)
    assert "digits_sparse" in run("info").stdout


def test_digits_are_prepared_in_silence(tmp_path, capsys):
    assert load("digits", data_dir=tmp_path).num_classes == 10
    assert capsys.readouterr() == ("", "")


def test_data_dir_counts_for_what_a_zoo_is_trained_on(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", os.environ.get("TFDS_DATA_DIR", ""))  # put back afterwards
    run("zoo", "make", tmp_path / "zoo", "--families", "mlp", "--seeds", 1, "--held-out", 0, "--steps", 1, "--data-dir", tmp_path / "sets")
    assert prepared_sets(tmp_path / "sets")
    assert [path.suffix for path in (tmp_path / "zoo").glob("mlp*")] == [".keras"]
