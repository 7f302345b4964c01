"""The group norm against Torch-Pruning's regulariser: its figures, kept beside, and itself where torch is installed."""

import importlib.util
import json
import pathlib

import numpy as np
import pytest

from tfmetaprune._keras import keras
from tfmetaprune.pruning.group_norm import group_norm
from tfmetaprune.trace import trace_model

ROOT = pathlib.Path(__file__).parents[2]
KEPT = json.loads((pathlib.Path(__file__).parent / "torch_pruning_gradients.json").read_text())


@pytest.fixture(scope="module")
def check():
    spec = importlib.util.spec_from_file_location("torch_pruning_check", ROOT / "benchmarks" / "torch_pruning_check.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", KEPT["gradients"])
def test_gradient_is_what_torch_pruning_adds(check, name):
    ours = check.our_gradients(check.make_network(name), KEPT["alpha"])
    theirs = {key: np.reshape(value, ours[key].shape) for key, value in KEPT["gradients"][name].items()}
    assert check.difference(ours, theirs) < 1e-4


def test_the_figures_kept_are_those_of_torch_pruning(check):
    pytest.importorskip("torch_pruning")
    for name, kept in KEPT["gradients"].items():
        theirs = check.torch_gradients(check.make_network(name), KEPT["alpha"])
        assert check.difference({key: np.reshape(kept[key], value.shape) for key, value in theirs.items()}, theirs) < 1e-4


def test_equal_norms_have_factor_one():
    model = keras.Sequential([keras.layers.Dense(3, input_shape=(2,)), keras.layers.Dense(2)])
    first, second = np.full((2, 3), 2.0), np.full((3, 2), 1.0)
    model.set_weights([first, np.ones(3), second, np.ones(2)])
    assert float(group_norm(trace_model(model))) == pytest.approx(0.5 * (np.sum(first**2) + np.sum(second**2)))
