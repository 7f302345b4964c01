"""The compiled least squares is the least squares; the search finds what the repair can do without."""

import collections

import numpy as np
import pytest
from checks import half_plan, relative_difference
from zoo import ZOO

import tfmetaprune
from tfmetaprune._keras import keras, tf
from tfmetaprune.errors import ArgumentError, DataError
from tfmetaprune.pruning import fit_least_squares, make_plan, rebuild_model, run_masked
from tfmetaprune.pruning.search import search_scores
from tfmetaprune.pruning.traced_fit import TracedFit
from tfmetaprune.trace import trace_model


def _inputs(model, count, seed=0):
    rng = np.random.default_rng(seed)
    return [tf.constant(rng.normal(size=(count, *tensor.shape[1:])), tensor.dtype) for tensor in model.inputs]


@pytest.mark.parametrize("name", sorted(ZOO))
def test_the_compiled_fit_is_the_fit(name):
    trace = trace_model(ZOO[name]())
    calls = collections.Counter(id(call.layer) for call in trace.calls)
    plan, inputs = half_plan(trace), _inputs(trace.model, 40)
    fitted = fit_least_squares(trace, plan.keep, [(tuple(inputs),)])
    if any(calls[id(call.layer)] > 1 for call in trace.calls if call.title in fitted.solved):
        return  # layers with several calls are left alone by the compiled fit
    compiled = TracedFit(trace, max_rows=10**9, only=fitted.solved)
    weights = tf.function(lambda mask, x: compiled(mask, x, {}), autograph=False)(tf.cast(plan.keep, tf.float32), inputs)
    fresh = _inputs(trace.model, 8, seed=1)
    expected = tf.nest.flatten(rebuild_model(trace, plan, fitted.weights)(fresh if len(fresh) > 1 else fresh[0]))
    unrepaired = run_masked(trace, plan.keep, fresh)
    for index, value in enumerate(run_masked(trace, plan.keep, fresh, weights=weights)):
        assert relative_difference(value, expected[index]) < 5e-3
    if fitted.solved:  # so that the comparison above is not one of networks that nobody repaired
        assert any(relative_difference(value, other) > 1e-4 for value, other in zip(unrepaired, expected))


def _redundant_model():
    """12 channels span what 4 of them do and have the larger weights; 4 more stand alone."""
    rng = np.random.default_rng(0)
    model = keras.Sequential([keras.Input([8]), keras.layers.Dense(16), keras.layers.Dense(5)])
    first = rng.normal(size=(8, 16)).astype(np.float32)
    first[:, 4:12] = 2 * first[:, :4] @ rng.normal(size=(4, 8)).astype(np.float32)
    first[:, 12:] *= 0.7
    model.layers[0].set_weights([first, np.zeros(16, np.float32)])
    model.layers[1].set_weights([rng.normal(size=(16, 5)).astype(np.float32), np.zeros(5, np.float32)])
    return model


def test_the_search_keeps_what_the_others_cannot_stand_in_for():
    model = _redundant_model()
    x = np.random.default_rng(1).normal(size=(600, 8)).astype(np.float32)
    options = {"speedup": 2.0, "metanetwork": None, "finetune": None, "repair": "least_squares"}
    errors = []
    for steps in (0, 60):
        result = tfmetaprune.prune(model, x, search_steps=steps, **options)
        errors.append(relative_difference(result.model(x), model(x)))
        assert result.report["search_steps"] == steps
    assert errors[0] > 0.5 and errors[1] < 0.3 * errors[0]  # 8 channels can make everything, the largest 8 cannot


def test_the_search_follows_its_seed_and_leaves_the_model_alone():
    trace = trace_model(_redundant_model())
    weights = trace.model.get_weights()
    dataset = tf.data.Dataset.from_tensor_slices((_inputs(trace.model, 50)[0],)).batch(16)
    start = np.zeros(trace.channels.num_units, np.float32)
    one, again, other = (search_scores(trace, start, dataset, speedup=2.0, steps=3, seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, again)
    assert not np.array_equal(one, other)
    assert all(map(np.array_equal, weights, trace.model.get_weights()))


@pytest.mark.parametrize("name", ["grouped", "two_inputs_outputs", "depthwise_separable", "recurrent_dense", "layer_norm_mlp"])
def test_the_search_runs_on_other_kinds(name):
    trace = trace_model(ZOO[name]())
    start = np.random.default_rng(0).normal(size=trace.channels.num_units)
    found = search_scores(trace, start, [(tuple(_inputs(trace.model, 24)),)], speedup=1.2, steps=2)
    assert np.isfinite(found).all() and found.any()


def test_bad_searches_are_refused():
    model, x = _redundant_model(), np.zeros([4, 8], np.float32)
    for options, message in (
        ({"search_steps": -1}, "search_steps to be a whole number >= 0, got -1"),
        ({"search_steps": 2.5}, "got 2.5"),
        ({"search_steps": 5, "repair": "bn"}, "repair 'least_squares' for search_steps"),
        ({"search_steps": 5, "method": "2:4"}, "a method that drops channels"),
    ):
        with pytest.raises(ArgumentError, match=message):
            tfmetaprune.prune(model, x, finetune=None, **options)
    with pytest.raises(ArgumentError, match="expected train_data for search_steps"):
        tfmetaprune.prune(model, finetune=None, metanetwork=None, search_steps=5)
    with pytest.raises(DataError, match="at least one batch"):
        search_scores(trace_model(model), np.zeros(29), [], speedup=2.0, steps=1)
    assert make_plan(trace_model(model), speedup=2.0).speedup >= 2
