"""The command line's `prune` with zeros in place of channels."""

import json
import re

import numpy as np
import pytest
from typer.testing import CliRunner

from tfmetaprune._keras import keras
from tfmetaprune.cli import app
from tfmetaprune.metatrain.zoo import residual_cnn


@pytest.fixture(scope="module")
def digits_model(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "digits.keras"
    residual_cnn((8, 8, 1), 10, widths=(8, 12)).save(path)
    return path


def run(*arguments, code=0):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], terminal_width=200)
    assert result.exit_code == code, (result.output, result.exception)
    return result


@pytest.mark.parametrize(
    "options, target, title",
    [
        (("--method", "unstructured", "--sparsity", 0.7, "--epochs", 1), 0.7, "70.0% of"),
        (("--method", "2:4", "--epochs", 0), 0.5, "50.0% of"),
        (("--method", "block", "--block-shape", "2x4", "--sparsity", 0.5, "--epochs", 0), 0.5, "of"),
        (("--method", "structured+unstructured", "--speedup", 1.5, "--metanetwork", "none", "--epochs", 1), 0.8, "times fewer MACs"),
    ],
)
def test_prune(digits_model, tmp_path, options, target, title):
    printed = run("prune", digits_model, "--data", "digits", *options, "--out", tmp_path / "out").stdout
    assert title in " ".join(printed.split()) and "are zero" in " ".join(printed.split())
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["sparsity"]["reached"] == pytest.approx(target, abs=0.02)
    assert json.loads((tmp_path / "out" / "plan.json").read_text())
    small = keras.models.load_model(tmp_path / "out" / "model.keras")
    nonzero = sum(int(np.count_nonzero(weight)) for weight in small.get_weights())
    assert nonzero == report["sparsity"]["nonzero_parameters"]["after"]
    if options[1] == "2:4":
        assert re.search(r"Layer 'conv2d\w*' stays dense: its 1 inputs are not divisible by 4\.", " ".join(printed.split()))


@pytest.mark.parametrize(
    "options, message",
    [
        (("--method", "sparse"), "expected method to be one of structured"),
        (("--method", "3:2"), "expected N of M weights to stay"),
        (("--method", "unstructured", "--sparsity", 1.5), "expected sparsity to be a share"),
        (("--method", "block", "--block-shape", "four"), "--block-shape: expected outputs x inputs such as 1x4, got 'four'"),
        (("--method", "xnnpack", "--epochs", 0), "PruneForLatencyOnXNNPack"),
    ],
)
def test_bad_input_is_one_paragraph(digits_model, tmp_path, options, message):
    result = run("prune", digits_model, "--data", "digits", *options, "--out", tmp_path / "out", code=2)
    text = result.stderr.strip()
    assert text.startswith("Error: ") and message in text and "\n" not in text
    assert not (tmp_path / "out").exists()
