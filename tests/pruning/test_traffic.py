"""Channels that move much memory for their MACs go first, where importances are equal."""

import numpy as np
import pytest

import tfmetaprune
from tfmetaprune._keras import keras
from tfmetaprune.errors import ArgumentError
from tfmetaprune.pruning import channel_groups, make_plan
from tfmetaprune.pruning.traffic import MACS_PER_ACTIVATION, traffic_score
from tfmetaprune.trace import trace_model

L = keras.layers


@pytest.fixture(scope="module")
def trace():
    """16 x 16 positions of 32 channels, then 4 x 4 positions of 64."""
    keras.utils.set_random_seed(1)
    inputs = keras.Input((16, 16, 3))
    x = L.Conv2D(32, 1, activation="relu", name="wide")(inputs)
    x = L.DepthwiseConv2D(3, strides=4, padding="same", name="depthwise")(x)
    x = L.Conv2D(64, 1, name="deep")(x)
    return trace_model(keras.Model(inputs, L.Dense(10)(L.GlobalAveragePooling2D()(x))))


def _units(trace, name):
    return next(group.units for group in channel_groups(trace) if group.name == name)


def test_against_a_count_by_hand(trace):
    score = traffic_score(trace)
    macs, activations = 16 * 16 * 3 + 4 * 4 * 9 + 4 * 4 * 64, 16 * 16 + 4 * 4
    np.testing.assert_allclose(score[_units(trace, "wide")], np.log1p(MACS_PER_ACTIVATION * activations / macs), rtol=1e-6)
    macs, activations = 4 * 4 * 32 + 10, 4 * 4
    np.testing.assert_allclose(score[_units(trace, "deep")], np.log1p(MACS_PER_ACTIVATION * activations / macs), rtol=1e-6)


def test_channels_that_move_much_go_first(trace):
    scores = np.random.default_rng(0).normal(scale=0.01, size=trace.channels.num_units)
    plain, aware = (make_plan(trace, scores, speedup=2.0, traffic_weight=weight) for weight in (0.0, 1.0))
    assert aware.speedup >= 2.0 and plain.speedup >= 2.0
    kept = [[np.count_nonzero(plan.keep[_units(trace, name)]) for name in ("wide", "deep")] for plan in (plain, aware)]
    assert kept[1][0] < kept[0][0] and kept[1][1] > kept[0][1]
    assert np.array_equal(make_plan(trace, scores, speedup=2.0).keep, plain.keep)


def test_clear_importance_is_not_overruled(trace):
    scores = np.zeros(trace.channels.num_units)
    scores[_units(trace, "wide")] = 5.0
    assert make_plan(trace, scores, speedup=1.2, traffic_weight=0.05).keep[_units(trace, "wide")].all()


def test_prune_hands_it_on(trace):
    options = {"metanetwork": None, "finetune": None, "repair": None, "speedup": 2.0}
    plain = tfmetaprune.prune(trace.model, **options)
    aware = tfmetaprune.prune(trace.model, traffic_weight=3.0, **options)
    assert aware.report["traffic_weight"] == 3.0 and plain.report["traffic_weight"] == 0.0
    assert aware.report["widths"]["wide"]["after"] < plain.report["widths"]["wide"]["after"]


def test_errors(trace):
    for wrong in (-1.0, float("nan"), "much", None):
        with pytest.raises(ArgumentError, match="traffic_weight to be a number >= 0"):
            tfmetaprune.prune(trace.model, traffic_weight=wrong)
    with pytest.raises(ArgumentError, match="traffic_weight: expected a number of at least 0, got -1"):
        make_plan(trace, speedup=2.0, traffic_weight=-1)
