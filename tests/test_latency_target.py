"""The search for a latency, with clocks of our own."""

import math

import numpy as np
import pytest

import tfmetaprune
from tfmetaprune import choosing, latency_target
from tfmetaprune._keras import keras
from tfmetaprune.errors import ArgumentError, NothingToPruneError
from tfmetaprune.latency_target import MAX_CANDIDATES, LatencyTarget, measure_with, prune_to_latency
from tfmetaprune.pruning import cost, make_plan, rebuild_model
from tfmetaprune.trace import trace_model

L = keras.layers


@pytest.fixture(scope="module")
def trace():
    keras.utils.set_random_seed(1)
    return trace_model(keras.Sequential([keras.Input((16,)), L.Dense(256, "relu"), L.Dense(256, "relu"), L.Dense(4)], name="deep"))


def _shrink(trace):
    def shrink(speedup):
        plan = make_plan(trace, speedup=speedup)
        return rebuild_model(trace, plan), plan

    return shrink


def _clock(trace, *, overhead_ms=0.0, exponent=1.0, noise=0.0):
    """A machine on which the model takes 10 ms, of which `overhead_ms` do not shrink."""
    rng, macs = np.random.default_rng(0), cost(trace).macs

    def measure(model):
        share = (cost(trace_model(model)).macs / macs) ** exponent
        before, after = 10.0, overhead_ms + (10.0 - overhead_ms) * share
        before, after = before * math.exp(noise * rng.normal()), after * math.exp(noise * rng.normal())
        return after, before, before / after

    return measure


@pytest.mark.parametrize("clock", [{}, {"overhead_ms": 2.0}, {"exponent": 0.6}, {"exponent": 1.6}, {"overhead_ms": 1.0, "noise": 0.03}])
@pytest.mark.parametrize("target", [LatencyTarget(latency_speedup=2.0), LatencyTarget(latency_ms=4.0)])
def test_reaches_the_target_and_not_much_more(clock, target, trace):
    (model, plan), measurements = prune_to_latency(_shrink(trace), _clock(trace, **clock), target, "Model")
    assert len(measurements) <= 1 + MAX_CANDIDATES
    found = next(m for m in measurements if m.macs_speedup == plan.speedup and target.closeness(m) >= 1)
    assert found.macs_speedup == min(m.macs_speedup for m in measurements if target.closeness(m) >= 1)
    assert target.closeness(found) < (1.1 if "noise" not in clock else 1.2)
    assert cost(trace_model(model)).macs == plan.macs_after
    assert measurements[0].macs_speedup == 1.0


def test_nothing_to_do(trace):
    (_, plan), measurements = prune_to_latency(_shrink(trace), _clock(trace), LatencyTarget(latency_ms=10.5), "Model")
    assert plan.keep.all() and len(measurements) == 1


def test_out_of_reach(trace):
    for target, clock in ((LatencyTarget(latency_speedup=4.0), {"overhead_ms": 5.0}), (LatencyTarget(latency_ms=1e-3), {})):
        with pytest.raises(NothingToPruneError, match=r"Model 'deep': expected a latency .* got at best .* measurements") as error:
            prune_to_latency(_shrink(trace), _clock(trace, **clock), target, "Model 'deep'")
    assert isinstance(error.value.__cause__, NothingToPruneError)  # no channels were left
    assert f"in {MAX_CANDIDATES + 1} measurements" not in str(error.value)


def test_a_preparation_asks_for_no_speedup_where_a_latency_is_asked_for(monkeypatch):
    x = keras.Input((32,))
    few = L.Dense(1)(L.Dense(4, "relu", name="few")(x))  # all that can be pruned
    model = keras.Model(x, L.Concatenate()([L.Dense(32)(x), few]))
    data = np.random.default_rng(0).normal(size=(32, 32)).astype("float32"), np.zeros((32, 33), "float32")
    monkeypatch.setattr(choosing, "measure_with", lambda model: _clock(trace_model(model)))
    options = {"prepare": "group_norm", "prepare_epochs": 1, "repair": None, "finetune": None}
    with pytest.raises(NothingToPruneError, match="expected a speed-up of 2"):
        tfmetaprune.prune(model, data, **options)
    report = tfmetaprune.prune(model, data, latency_speedup=1.02, **options).report
    assert report["widths"]["few"]["after"] < 4 and report["latency"]["measurements"][-1]["latency_speedup"] >= 1.02


def test_prune_reports_every_measurement(trace, monkeypatch):
    monkeypatch.setattr(choosing, "measure_with", lambda model: _clock(trace, overhead_ms=1.0))
    result = tfmetaprune.prune(trace.model, latency_speedup=2.0, metanetwork=None, finetune=None, repair=None, round_to=8)
    report = result.report
    assert report["latency"]["target"] == {"latency_ms": None, "latency_speedup": 2.0}
    reached = [m for m in report["latency"]["measurements"] if m["macs_speedup"] == result.plan.speedup]
    assert reached[0]["latency_speedup"] >= 2.0 and report["speedup"] == {"target": None, "reached": result.plan.speedup}
    assert report["round_to"] == 8 and all(layer.units % 8 == 0 for layer in result.model.layers[:-1])
    plain = tfmetaprune.prune(trace.model, metanetwork=None, finetune=None, repair=None).report
    assert "latency" not in plain and plain["speedup"]["target"] == 2.0


def test_real_files_are_measured(trace, monkeypatch):
    seen = []

    def benchmark(*models, **options):
        seen.append((models, options))
        return real(*models, **options)

    real = latency_target.benchmark
    monkeypatch.setattr(latency_target, "benchmark", benchmark)
    small = _shrink(trace)(2.0)[0]
    after, before, speedup = measure_with(trace.model, num_runs=3)(small)
    assert seen == [((trace.model, small), {"num_runs": 3})] and after > 0 and before > 0 and speedup > 0


def test_arguments(trace):
    options = {"metanetwork": None, "finetune": None, "repair": None}
    with pytest.raises(ArgumentError, match="expected one of speedup, latency_ms, got 2 of them"):
        tfmetaprune.prune(trace.model, speedup=2.0, latency_ms=1.0, **options)
    with pytest.raises(ArgumentError, match="expected latency_speedup to be a number above 1, got 0.5"):
        tfmetaprune.prune(trace.model, latency_speedup=0.5, **options)
    for wrong in (0, -1.0, math.nan, math.inf, "1"):
        with pytest.raises(ArgumentError, match="expected latency_ms to be a number above 0, got"):
            tfmetaprune.prune(trace.model, latency_ms=wrong, **options)
    with pytest.raises(ArgumentError, match="expected round_to to be a whole number >= 1 or None, got 0"):
        tfmetaprune.prune(trace.model, round_to=0, **options)
