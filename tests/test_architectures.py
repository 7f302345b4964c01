"""Architectures of Keras Applications in both Keras versions, by the measurements of `benchmarks/coverage.py`.

Here are the seven small ones, on small images; all 40, and the structures built by hand, are in that benchmark.
"""

import gc
import pathlib
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "benchmarks"))  # before a package named coverage

from coverage import FAMILIES, SMALL, measure, problems  # noqa: E402

from tfmetaprune._keras import keras  # noqa: E402

IMAGE_SIZE = 64
SLOW_TO_CONVERT = ("NASNetMobile", "DenseNet121")  # their TFLite files are made by the benchmark


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", SMALL)
def test_architecture(name, family):
    try:
        row = measure(name, family, IMAGE_SIZE, dtype="float32", tflite=family == "2" and name not in SLOW_TO_CONVERT)
    finally:
        keras.backend.clear_session()
        gc.collect()
    assert not problems(row)
    assert row["round_trip"] and row["macs_after"] < 0.6 * row["macs"] and row["parameters_after"] < row["parameters"]
