"""Files are tried in a process of their own, so that a crash of LiteRT is an error like any other."""

import numpy as np
import pytest

from tfmetaprune._keras import keras
from tfmetaprune.errors import ExportError
from tfmetaprune.export import trial
from tfmetaprune.export.tflite import export_tflite


@pytest.fixture
def model():
    model = keras.Sequential([keras.Input((8, 8, 4)), keras.layers.Conv2D(8, 1)])
    kernel, bias = model.get_weights()
    model.set_weights([np.where(np.arange(kernel.size).reshape(kernel.shape) % 4 == 0, kernel, 0), bias])
    return model


def _crash(monkeypatch, folder):
    program = folder / "crash.py"
    program.write_text("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n")
    monkeypatch.setattr(trial, "PROGRAM", program)


def test_a_file_that_runs_passes_and_one_that_is_refused_is_left_to_the_caller(model, tmp_path):
    path = export_tflite(model, tmp_path / "model.tflite").path
    trial.try_file(path, "test", "")
    (tmp_path / "bad.tflite").write_bytes(b"no model")
    trial.try_file(tmp_path / "bad.tflite", "test", "")


def test_a_crash_is_an_error_and_leaves_nothing_behind(model, tmp_path, monkeypatch):
    _crash(monkeypatch, tmp_path)
    with pytest.raises(ExportError, match=r"'.*model.tflite': expected a file that loads and runs, .* crashes .*SIGSEGV.*sparse=False"):
        export_tflite(model, tmp_path / "model.tflite", sparse=True)
    assert [path.name for path in tmp_path.iterdir()] == ["crash.py"]
    assert export_tflite(model, tmp_path / "model.tflite").size_bytes  # without sparse=True nothing is tried


def test_the_program_runs_the_file(model, tmp_path):
    path = export_tflite(model, tmp_path / "model.tflite").path
    trial._run(path)
    with pytest.raises(ValueError):
        (tmp_path / "bad.tflite").write_bytes(b"no model")
        trial._run(str(tmp_path / "bad.tflite"))
