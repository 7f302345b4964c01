"""Sets models and TFLite files side by side: how long they take, what they weigh, what they compute."""

import dataclasses
import gzip
import os
import pathlib
import tempfile
from typing import Any

import numpy as np

from tfmetaprune.errors import ArgumentError
from tfmetaprune.export.contents import peak_activation_bytes, read_contents
from tfmetaprune.export.latency import LatencyReport, latency_report, time_in_turns
from tfmetaprune.export.profile import OperatorTime, profile_file
from tfmetaprune.export.samples import random_samples
from tfmetaprune.export.tflite import export_tflite
from tfmetaprune.interop import carry
from tfmetaprune.pruning import cost
from tfmetaprune.trace import trace_model

_NUM_CHECKED = 4  # samples that the temporary file of a Keras model is compared on


@dataclasses.dataclass(frozen=True)
class ModelBenchmark:
    """What was measured of one model or file.

    Attributes:
      name: The model's name, or the file's path.
      latency: A `LatencyReport`, of one sample.
      speedup: Latency of the first of the models / latency of this one, of runs in the same round; median over the rounds.
      speedup_p10, speedup_p90: 10th and 90th percentile of the same.
      size_bytes: Size of the TFLite file (of a Keras model: as float32).
      gzip_size_bytes: The same after gzip.
      activation_bytes: The most memory that activations take at once, at batch 1, by the sizes in the file: an arena
        needs at least as much. XNNPACK's copies of the weights come on top.
      macs, parameters: Multiply-accumulates of one forward pass, and numbers held in variables; None for files.
      operators: Times of the operators, in order; None if they were not profiled.
    """

    name: str
    latency: LatencyReport
    speedup: float
    speedup_p10: float
    speedup_p90: float
    size_bytes: int
    gzip_size_bytes: int
    activation_bytes: int
    macs: int | None = None
    parameters: int | None = None
    operators: tuple[OperatorTime, ...] | None = None


@dataclasses.dataclass(frozen=True)
class BenchmarkReport:
    """What `benchmark` returns.

    Attributes:
      models: One `ModelBenchmark` for each model or file, in the order they were given.
      num_threads: Number of threads.
    """

    models: tuple[ModelBenchmark, ...]
    num_threads: int

    def to_dict(self) -> dict:
        """Returns the fields as a dict that `json.dumps` accepts."""
        return dataclasses.asdict(self)


def benchmark(
    *models_or_files: Any, num_threads: int = 1, num_warmup: int = 10, num_runs: int = 50, profile: bool = False
) -> BenchmarkReport:
    """Measures models and TFLite files side by side, in LiteRT, on this machine.

    Every round runs each of them once, so that a machine that is busy for a while slows all of them alike, and
    speed-ups are taken within rounds.

    Args:
      *models_or_files: Keras models (of either Keras), which are exported to temporary float32 files first; and paths of
        TFLite files.
      num_threads: Number of threads.
      num_warmup: Number of rounds that are not counted.
      num_runs: Number of rounds that are.
      profile: Whether to time each operator too, in a process of its own. LiteRT's Python package cannot do that, its C
        library can: tried with ai-edge-litert 2.3.

    Returns:
      A `BenchmarkReport`.

    Raises:
      ArgumentError: Nothing is given to measure, a number is too small, or inputs have unknown sizes.
      UnsupportedModelError: A model cannot be traced.
      ExportError: A model cannot be exported, or a file cannot be read, run or profiled.

    Example:
      >>> from tfmetaprune._keras import keras
      >>> layers = keras.layers
      >>> wide, narrow = (keras.Sequential([keras.Input((8,)), layers.Dense(n), layers.Dense(3)]) for n in (64, 16))
      >>> report = benchmark(wide, narrow, num_runs=5)
      >>> [model.macs for model in report.models]
      [704, 176]
      >>> report.models[0].speedup
      1.0
    """
    if not models_or_files or min(num_threads, num_runs, num_warmup + 1) < 1:
        raise ArgumentError(
            f"benchmark: expected models or files, num_threads >= 1, num_warmup >= 0 and num_runs >= 1, got "
            f"{len(models_or_files)} to measure and {num_threads}, {num_warmup} and {num_runs}. Mend what is too small."
        )
    with tempfile.TemporaryDirectory() as folder:
        paths, known = [], []
        for index, candidate in enumerate(models_or_files):
            is_file = isinstance(candidate, (str, os.PathLike))
            paths.append(pathlib.Path(candidate) if is_file else pathlib.Path(folder) / f"{index}.tflite")
            known.append({"name": str(candidate)} if is_file else _export(candidate, paths[-1]))
        times_ms = time_in_turns(paths, num_threads=num_threads, num_warmup=num_warmup, num_runs=num_runs)
        operators = [profile_file(path, num_threads=num_threads) if profile else None for path in paths]
        measured = map(_measured, paths, known, times_ms, times_ms[0] / times_ms, operators)
        return BenchmarkReport(tuple(measured), num_threads)


def _export(model, path) -> dict:
    """Writes a model's float32 file; returns its name, MACs and parameters."""
    model, _ = carry(model)
    costs = dataclasses.asdict(cost(trace_model(model)))
    export_tflite(model, path, representative_data=[array[:_NUM_CHECKED] for array in random_samples(model)])
    return {"name": model.name, **costs}


def _measured(path, known, times_ms, speedups, operators) -> ModelBenchmark:
    content = path.read_bytes()
    p10, median, p90 = np.percentile(speedups, [10, 50, 90]).tolist()
    return ModelBenchmark(
        latency=latency_report(times_ms), speedup=median, speedup_p10=p10, speedup_p90=p90, size_bytes=len(content),
        gzip_size_bytes=len(gzip.compress(content)), activation_bytes=peak_activation_bytes(read_contents(path)),
        operators=operators, **known,
    )  # fmt: skip
