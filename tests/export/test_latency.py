"""Latencies are measured in turns, and the right runs are counted."""

import doctest

import numpy as np
import pytest

from tfmetaprune._keras import keras
from tfmetaprune.errors import ArgumentError, ExportError
from tfmetaprune.export import latency
from tfmetaprune.export.latency import LatencyReport, measure_latency
from tfmetaprune.export.tflite import export_tflite


class _FakeInterpreter:
    """Takes scripted milliseconds of a fake clock."""

    def __init__(self, name, durations_ms, clock, calls):
        self.name, self.durations_ms, self.clock, self.calls = name, iter(durations_ms), clock, calls

    def get_input_details(self):
        return []

    def allocate_tensors(self):
        assert next(self.durations_ms) == "allocated"

    def invoke(self):
        self.calls.append(self.name)
        self.clock["ns"] += next(self.durations_ms) * 1_000_000


@pytest.fixture
def clock(monkeypatch):
    clock = {"ns": 0}
    monkeypatch.setattr(latency.time, "perf_counter_ns", lambda: clock["ns"])
    return clock


def test_rounds_interleave_and_warmup_is_not_counted(clock, monkeypatch):
    durations_ms, calls = {"a": ["allocated", 900, 800, *range(1, 12)], "b": ["allocated", 700, 600, *[7] * 11]}, []
    loaded = []

    def load(path, num_threads):
        loaded.append((path, num_threads))
        return _FakeInterpreter(path, durations_ms[path], clock, calls)

    monkeypatch.setattr(latency, "load_interpreter", load)
    reports = measure_latency(["a", "b", "a"], num_threads=2, num_warmup=2, num_runs=11)
    assert loaded == [("a", 2), ("b", 2)]
    assert calls == ["a", "b"] * 13
    assert reports == {
        "a": LatencyReport(median_ms=6.0, min_ms=1.0, p10_ms=2.0, p90_ms=10.0, num_runs=11),
        "b": LatencyReport(median_ms=7.0, min_ms=7.0, p10_ms=7.0, p90_ms=7.0, num_runs=11),
    }


def test_real_files(tmp_path):
    floats, integers = keras.Input((6, 6, 2)), keras.Input((4,), dtype="int32")
    export_tflite(keras.Model(floats, keras.layers.Conv2D(3, 3)(floats)), tmp_path / "conv.tflite")
    embedding = keras.layers.Embedding(5, 2)(integers)
    export_tflite(keras.Model([floats, integers], [floats * 2, embedding]), tmp_path / "two.tflite")
    paths = [str(tmp_path / "conv.tflite"), tmp_path / "two.tflite"]
    reports = measure_latency(paths, num_warmup=0, num_runs=4)
    assert list(reports) == paths
    for report in reports.values():
        assert 0 < report.min_ms <= report.median_ms <= report.p90_ms and report.num_runs == 4
        assert isinstance(report.median_ms, float)
    assert list(measure_latency(paths[0], num_warmup=1, num_runs=1)) == paths[:1]


def test_inputs_are_random_and_the_same_each_time(tmp_path):
    inputs = keras.Input((3,))
    export_tflite(keras.Model(inputs, keras.layers.Dense(2)(inputs)), tmp_path / "m.tflite")
    first, second = (latency._ready_interpreter(tmp_path / "m.tflite", 1) for _ in range(2))
    index = first.get_input_details()[0]["index"]
    assert first.get_tensor(index).shape == (1, 3) and np.all(first.get_tensor(index) != 0)
    np.testing.assert_array_equal(first.get_tensor(index), second.get_tensor(index))


def test_errors(tmp_path):
    with pytest.raises(ArgumentError, match="expected at least one path, got none"):
        measure_latency([])
    for wrong in ({"num_runs": 0}, {"num_warmup": -1}, {"num_threads": 0}):
        with pytest.raises(ArgumentError, match="num_runs >= 1, got"):
            measure_latency(["m.tflite"], **wrong)
    with pytest.raises(ExportError, match=r"missing.tflite': expected a file that loads and runs, got"):
        measure_latency([tmp_path / "missing.tflite"])


def test_shapes_that_have_no_single_latency(tmp_path):
    fixed, unknown = keras.Input(batch_shape=(4, 3)), keras.Input((None, 3))
    export_tflite(keras.Model(fixed, keras.layers.Dense(2)(fixed)), tmp_path / "fixed.tflite")
    data = np.zeros((4, 7, 3), "float32")
    conv = keras.Model(unknown, keras.layers.Conv1D(2, 1)(unknown))
    export_tflite(conv, tmp_path / "unknown.tflite", representative_data=data)
    with pytest.raises(ArgumentError, match=r"expected inputs of batch size 1 .*, got \[\(4, 3\)\]"):
        measure_latency(tmp_path / "fixed.tflite")
    with pytest.raises(ArgumentError, match=r"known other sizes, got \[\(-1, -1, 3\)\]"):
        measure_latency(tmp_path / "unknown.tflite")


def test_examples_run():
    results = doctest.testmod(latency)
    assert results.attempted >= 6 and results.failed == 0
