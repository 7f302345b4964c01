"""Models and files side by side; nothing here depends on how long something takes."""

import doctest
import json
import subprocess

import numpy as np
import pytest
from typer.testing import CliRunner

import tfmetaprune
from tfmetaprune._keras import keras
from tfmetaprune.cli import app
from tfmetaprune.errors import ArgumentError, ExportError
from tfmetaprune.export import benchmark as benchmarking
from tfmetaprune.export import profile
from tfmetaprune.export.tflite import export_tflite

layers = keras.layers


def _network(width, name):
    inputs = keras.Input((8, 8, 1))
    x = layers.Conv2D(width, 3, activation="relu", name="conv")(inputs)
    return keras.Model(inputs, layers.Dense(10)(layers.GlobalAveragePooling2D()(x)), name=name)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    export_tflite(_network(16, "half"), folder / "half.tflite")
    _network(32, "whole").save(folder / "whole.keras")
    return folder


def test_speedups_are_of_runs_in_the_same_round(files, monkeypatch):
    times_ms = np.array([[2.0, 4.0, 8.0, 2.0], [1.0, 2.0, 1.0, 2.0]])
    calls = []

    def time_in_turns(paths, **options):
        calls.append(([path.name for path in paths], options))
        return times_ms

    monkeypatch.setattr(benchmarking, "time_in_turns", time_in_turns)
    path = files / "half.tflite"
    report = tfmetaprune.benchmark(_network(32, "whole"), path, num_threads=2, num_warmup=3, num_runs=4)
    assert calls == [(["0.tflite", "half.tflite"], {"num_threads": 2, "num_warmup": 3, "num_runs": 4})]
    whole, half = report.models
    assert (whole.name, half.name) == ("whole", str(path)) and report.num_threads == 2
    assert whole.speedup == whole.speedup_p10 == whole.speedup_p90 == 1.0
    assert half.speedup == 2.0 and half.speedup_p10 == pytest.approx(1.3) and half.speedup_p90 == pytest.approx(6.2)
    assert whole.latency.median_ms == 3.0 and half.latency.median_ms == 1.5
    assert whole.macs == 36 * 9 * 32 + 320 and whole.parameters == 320 + 330
    assert half.macs is None and half.parameters is None
    assert half.size_bytes == path.stat().st_size > half.gzip_size_bytes
    assert half.activation_bytes == 4 * (64 + 36 * 16 + 16)  # input, convolution and its mean
    assert whole.activation_bytes == 4 * (64 + 36 * 32 + 32)
    assert json.loads(json.dumps(report.to_dict()))["models"][1]["speedup"] == 2.0


def test_models_are_measured_for_real(files):
    keras3 = pytest.importorskip("keras")
    model = keras3.Sequential([keras3.Input((4,)), keras3.layers.Dense(3)], name="third")
    report = tfmetaprune.benchmark(files / "half.tflite", model, files / "half.tflite", num_warmup=0, num_runs=3)
    assert [measured.latency.num_runs for measured in report.models] == [3, 3, 3]
    assert report.models[1].macs == 12 and report.models[1].operators is None
    assert all(measured.latency.p10_ms > 0 for measured in report.models)


def test_operators_are_profiled(files):
    (measured,) = tfmetaprune.benchmark(files / "half.tflite", num_runs=1, profile=True).models
    names = [operator.name for operator in measured.operators]
    assert names[0].startswith("Convolution") and any("Fully Connected" in name for name in names)
    assert all(operator.median_ms >= 0 for operator in measured.operators)


def test_shares_of_operators(monkeypatch):
    done = subprocess.CompletedProcess([], 0, stdout='INFO: words\n[["Convolution", 1.0], ["Add", 3.0]]\n', stderr="")
    monkeypatch.setattr(profile.subprocess, "run", lambda command, **options: commands.append(command) or done)
    commands = []
    first, second = profile.profile_file("m.tflite", num_threads=2, num_warmup=3, num_runs=4)
    assert first == profile.OperatorTime("Convolution", 1.0, 0.25) and second.share == 0.75
    assert commands[0][-4:] == ["m.tflite", "2", "3", "4"]


def test_profiler_failures_are_errors(files, monkeypatch, tmp_path):
    (tmp_path / "text.tflite").write_text("no model")
    with pytest.raises(ExportError, match=r"text.tflite': expected LiteRT's profiler to run the file, got: "):
        profile.profile_file(tmp_path / "text.tflite")
    monkeypatch.setattr(profile, "_MAX_SECONDS", 0.01)
    with pytest.raises(ExportError, match=r"no end within 0.01 seconds\. Leave profile=True out"):
        profile.profile_file(files / "half.tflite")


def test_errors(tmp_path):
    with pytest.raises(ArgumentError, match="benchmark: expected models or files, .* got 0 to measure"):
        tfmetaprune.benchmark()
    for wrong in ({"num_runs": 0}, {"num_warmup": -1}, {"num_threads": 0}):
        with pytest.raises(ArgumentError, match="num_threads >= 1, num_warmup >= 0 and num_runs >= 1, got 1 to"):
            tfmetaprune.benchmark("m.tflite", **wrong)
    with pytest.raises(ExportError, match=r"missing.tflite': expected a file that loads and runs"):
        tfmetaprune.benchmark(tmp_path / "missing.tflite")


def _run(*arguments, code=0):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == code, (result.output, result.exception)
    return result


def test_command_line(files, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    command = ("benchmark", files / "whole.keras", files / "half.tflite", "--runs", 2)
    models = json.loads(_run(*command, "--threads", 1, "--json").stdout)["models"]
    assert [model["name"] for model in models] == ["whole", str(files / "half.tflite")]
    printed = _run(*command, "--profile").stdout
    for word in ("Speed-up", "Activations", "Operators of whole", "Convolution"):
        assert word in printed
    assert "found no such file" in _run("benchmark", files / "no.tflite", code=2).stderr


def test_export_options_of_the_command_line(files):
    out = files / "int8.tflite"
    options = ("--quantize", "int8", "--data", "digits")
    _run("export", files / "whole.keras", "--out", out, *options, "--integer-io", "--sparse")
    from ai_edge_litert.interpreter import Interpreter

    assert Interpreter(str(out)).get_input_details()[0]["dtype"] == np.int8
    result = _run("export", files / "whole.keras", "--out", out, "--integer-io", code=2)
    assert "expected quantize='int8' with integer_io=True" in result.stderr


def test_prune_options_of_the_command_line(files, tmp_path):
    options = ("--data", "digits", "--metanetwork", "none", "--epochs", 0)
    _run("prune", files / "whole.keras", *options, "--round-to", 8, "--speedup", 1.5, "--out", tmp_path / "out")
    assert keras.models.load_model(tmp_path / "out" / "model.keras").get_layer("conv").filters in (8, 16, 24)
    result = _run(
        "prune", files / "whole.keras", *options, "--latency-ms", 1, "--latency-speedup", 2, "--out", tmp_path / "no", code=2
    )
    assert "expected one of latency_ms, latency_speedup" in result.stderr


def test_example_runs():
    results = doctest.testmod(benchmarking)
    assert results.attempted >= 5 and results.failed == 0
