"""Measures how long TFLite files take, side by side."""

import dataclasses
import os
import time

import numpy as np

from tfmetaprune.errors import ArgumentError
from tfmetaprune.export.running import interpreter_errors, load_interpreter, muted
from tfmetaprune.export.samples import random_array

_ADVICE = "Export the model again with export_tflite."


@dataclasses.dataclass(frozen=True)
class LatencyReport:
    """How long one inference of one sample takes.

    Attributes:
      median_ms: Median over the runs, in milliseconds.
      min_ms: Fastest run, in milliseconds: the least disturbed one.
      p10_ms, p90_ms: 10th and 90th percentile, in milliseconds.
      num_runs: Number of timed runs.
    """

    median_ms: float
    min_ms: float
    p10_ms: float
    p90_ms: float
    num_runs: int


def measure_latency(paths, *, num_threads=1, num_warmup=10, num_runs=50):
    """Measures the latency of TFLite files at batch 1, in turns.

    Every round runs each file once, so that a machine that is busy for a while slows all of them alike. Only the
    inference is timed (XNNPACK, as by default), not the copies of inputs and outputs. The inputs are seeded random
    numbers.

    Args:
      paths: Paths of the files, or one path.
      num_threads: Number of threads of each interpreter.
      num_warmup: Number of rounds that are not timed.
      num_runs: Number of timed rounds.

    Returns:
      A dict from each path, as it was given, to its `LatencyReport`.

    Raises:
      ArgumentError: No path is given, a number is too small, or a file's batch size is not 1 or its other sizes are
        unknown.
      ExportError: A file cannot be read or run.

    Example:
      >>> import tempfile
      >>> from tfmetaprune._keras import keras
      >>> from tfmetaprune.export.tflite import export_tflite
      >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     path = export_tflite(model, f"{folder}/model.tflite").path
      ...     latency = measure_latency([path], num_runs=5)[path]
      >>> 0 < latency.min_ms <= latency.median_ms <= latency.p90_ms
      True
      >>> latency.num_runs
      5
    """
    paths = [paths] if isinstance(paths, (str, os.PathLike)) else list(dict.fromkeys(paths))
    if not paths:
        raise ArgumentError("measure_latency: expected at least one path, got none. Pass the files to measure.")
    if num_threads < 1 or num_warmup < 0 or num_runs < 1:
        raise ArgumentError(
            f"measure_latency: expected num_threads >= 1, num_warmup >= 0 and num_runs >= 1, got {num_threads}, "
            f"{num_warmup} and {num_runs}. Raise them."
        )
    times_ms = time_in_turns(paths, num_threads=num_threads, num_warmup=num_warmup, num_runs=num_runs)
    return dict(zip(paths, map(latency_report, times_ms)))


def time_in_turns(paths, *, num_threads, num_warmup, num_runs) -> np.ndarray:
    """Times files in turns, see `measure_latency`.

    Args:
      paths: Paths of the files; one may stand there several times.
      num_threads: Number of threads of each interpreter.
      num_warmup: Number of rounds that are not timed.
      num_runs: Number of timed rounds.

    Returns:
      float64 [files, num_runs], milliseconds; those of one column are of one round.
    """
    interpreters = [_ready_interpreter(path, num_threads) for path in paths]
    times_ms = np.zeros((len(interpreters), num_warmup + num_runs))
    for round_index in range(num_warmup + num_runs):
        for index, interpreter in enumerate(interpreters):
            with interpreter_errors(f"measure_latency '{paths[index]}'", _ADVICE):
                start_ns = time.perf_counter_ns()
                interpreter.invoke()
                times_ms[index, round_index] = (time.perf_counter_ns() - start_ns) / 1e6
    return times_ms[:, num_warmup:]


def latency_report(times_ms) -> LatencyReport:
    """Summarises the times of one file, in milliseconds."""
    p10, median, p90 = np.percentile(times_ms, [10, 50, 90]).tolist()
    return LatencyReport(median, float(np.min(times_ms)), p10, p90, len(times_ms))


def _ready_interpreter(path, num_threads):
    """Returns an interpreter whose inputs are set, to one random sample."""
    rng = np.random.default_rng(0)
    with interpreter_errors(f"measure_latency '{path}'", _ADVICE):
        interpreter = load_interpreter(path, num_threads)
        shapes = [tuple(details["shape_signature"].tolist()) for details in interpreter.get_input_details()]
        if any(shape[0] not in (-1, 1) or -1 in shape[1:] for shape in shapes):
            raise ArgumentError(
                f"measure_latency '{path}': expected inputs of batch size 1 or -1 (any) and known other sizes, got "
                f"{shapes}. Export a model of batch size 1, or of any, with a fully known input shape."
            )
        with muted():
            interpreter.allocate_tensors()
        for details in interpreter.get_input_details():
            interpreter.set_tensor(details["index"], random_array(rng, details["shape"], details["dtype"]))
    return interpreter
