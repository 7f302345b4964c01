"""Ways to choose channels: which are open, and which is best."""

import dataclasses
import math

import numpy as np
import pytest

from tfmetaprune import choosing
from tfmetaprune._keras import keras, tf
from tfmetaprune.choosing import Attempt, Rewritten, best_attempt, choose_channels, rewrite, weaken
from tfmetaprune.errors import DataError, NothingToPruneError
from tfmetaprune.graph import channel_statistics
from tfmetaprune.graph.schema import CHANNEL, PARAMETERS, SCORE, WEIGHT
from tfmetaprune.latency_target import LatencyTarget
from tfmetaprune.layers import get_weight
from tfmetaprune.metatrain.zoo import residual_cnn
from tfmetaprune.output_errors import output_errors
from tfmetaprune.pipeline import prune
from tfmetaprune.pruning import make_plan, scorer
from tfmetaprune.trace import trace_model
from tfmetaprune.ways import STRENGTHS, Strength, Way, ways_to_try


def _scaled(factors, shape=(3,)):
    """A model whose outputs are the inputs times each factor."""
    inputs = keras.Input(shape)
    return keras.Model(inputs, [keras.layers.Rescaling(factor)(inputs) for factor in factors])


def _batches(count=40, shape=(3,), size=16, seed=0):
    x = np.random.default_rng(seed).normal(2, 1, (count, *shape)).astype(np.float32)
    return x, tf.data.Dataset.from_tensor_slices(x).batch(size)


@pytest.mark.parametrize("shape", [(3,), (5, 2), (4, 4, 3)])
def test_output_errors_are_relative_to_the_variance(shape):
    x, data = _batches(shape=shape)
    model, others = _scaled([2.0, -1.0], shape), [_scaled(factors, shape) for factors in ([2.0, -1.0], [2.5, -1.0], [2.0, 1.0])]
    over = tuple(range(len(shape)))
    power, variance = np.mean(x.astype(float) ** 2), np.mean(np.var(x.astype(float), over))
    wanted = [0.0, 0.5 * 0.25 * power / (4 * variance), 0.5 * 4 * power / variance]  # the mean over two outputs
    np.testing.assert_allclose(output_errors(trace_model(model), others, data), wanted, rtol=1e-5)


def test_batches_that_a_model_requires_stay_whole():
    """In what measures on inputs; where it takes parts of batches, of other models."""

    def model(size):
        inputs = keras.Input((6, 3), batch_size=size)
        hidden = keras.layers.Dense(5, "relu")(inputs)
        flat = keras.layers.Flatten()(hidden) if size is None else tf.reshape(hidden, (size, 30))
        return keras.Model(inputs, keras.layers.Dense(2)(flat))

    free, fixed, other = model(None), model(80), model(80)
    fixed.set_weights(free.get_weights())
    _, data = _batches(240, (6, 3), size=80)
    found = output_errors(trace_model(fixed), [other, fixed], data, num_samples=100)
    assert found == [output_errors(trace_model(fixed), [other], data.take(2))[0], 0.0] and found[0] > 0
    few, whole = (channel_statistics(trace_model(each), data, num_samples=100 if each is fixed else 160) for each in (fixed, free))
    np.testing.assert_allclose(few[:, :2], whole[:, :2], atol=1e-5)  # the Fisher information is of drawn directions


def test_output_errors_read_what_they_are_told_to():
    model, other = _scaled([1.0]), keras.Sequential([keras.layers.Rescaling(1.0, input_shape=(3,))])
    x, _ = _batches()
    x[20:] = np.nan
    data = tf.data.Dataset.from_tensor_slices((x, x[:, 0])).batch(16).repeat()  # endless, labels are not used
    assert output_errors(trace_model(model), [other], data, num_samples=20) == [0.0]
    assert output_errors(trace_model(model), [other], data, num_samples=21) == [math.inf]
    with pytest.raises(DataError, match="expected at least one batch, got none"):
        output_errors(trace_model(model), [other], data.take(0))
    with pytest.raises(DataError, match="expected 1 inputs, got 2"):
        output_errors(trace_model(model), [other], data.map(lambda x, y: ((x, x), y)))


@pytest.mark.parametrize("is_fixed", [True, False])
def test_output_errors_of_several_inputs_and_batches_of_any_length(is_fixed):
    """Where the number of channels is not fixed, an output is one channel."""
    first, second = keras.Input((None, 2) if is_fixed else (2, None), name="first"), keras.Input((1,), name="second")
    model = keras.Model({"first": first, "second": second}, keras.layers.Multiply()([first, keras.layers.Reshape((1, 1))(second)]))
    rng = np.random.default_rng(0)
    batches = []
    for length in (3, 7):
        values = rng.normal([1.0, 2.0], size=(4, length, 2)).astype(np.float32)
        batches.append({"first": values if is_fixed else values.swapaxes(1, 2), "second": np.ones((4, 1), np.float32)})
    doubled = keras.Model(model.input, keras.layers.Rescaling(2.0)(model.output))
    rows = np.concatenate([(batch["first"] if is_fixed else batch["first"].swapaxes(1, 2)).reshape(-1, 2) for batch in batches])
    variance = np.mean(rows.astype(float).var(0)) if is_fixed else rows.astype(float).var()
    assert output_errors(trace_model(model), [doubled], batches) == [pytest.approx(np.mean(rows.astype(float) ** 2) / variance, rel=1e-5)]


def test_output_errors_where_an_output_does_not_vary():
    """A constant head does not count, unless there is no other; the error is never negative."""
    inputs = keras.Input((3,))

    def with_head(factor, value):
        return keras.Model(inputs, [keras.layers.Rescaling(factor)(inputs), keras.layers.Rescaling(0.0, value)(inputs)])

    x, data = _batches(count=97)
    varied = np.mean(x.astype(float) ** 2) / np.mean(x.astype(float).var(0))
    errors = output_errors(trace_model(with_head(1.0, 0.1)), [with_head(1.0, 0.1), with_head(1.0, 0.2), with_head(2.0, 0.1)], data)
    np.testing.assert_allclose(errors, [0, 0, varied], rtol=1e-5)
    heads = [keras.Model(inputs, keras.layers.Rescaling(0.0, value)(inputs)) for value in (0.1, 0.2)]
    np.testing.assert_allclose(output_errors(trace_model(heads[0]), heads, data), [0, 1], atol=1e-6)
    (alone,) = output_errors(trace_model(_scaled([1.0])), [_scaled([2.0])], data, num_samples=1)
    assert alone == pytest.approx(1.0)  # one sample does not vary: relative to its mean square


def test_a_softmax_changes_no_error():
    inputs, (_, data) = keras.Input((3,)), _batches()

    def model(factor, activation):
        return keras.Model(inputs, keras.layers.Activation(activation)(keras.layers.Rescaling([factor, 1.0, -1.0])(inputs)))

    def centred(factor):
        outputs = keras.layers.Rescaling([factor, 1.0, -1.0])(inputs)
        return keras.Model(inputs, keras.layers.Lambda(lambda y: y - tf.reduce_mean(y, -1, keepdims=True))(outputs))

    with_softmax = output_errors(trace_model(model(1.0, "softmax")), [model(1.5, "softmax")], data)
    np.testing.assert_allclose(with_softmax, output_errors(trace_model(centred(1.0)), [centred(1.5)], data), rtol=1e-4)


def test_best_attempt_takes_the_first_of_the_nearest():
    model, data = _scaled([1.0]), _batches()[1]
    ways = [Way(str(number)) for number in range(5)]
    made = [None, *(_scaled([factor]) for factor in (1.5, 0.9, 0.9, np.nan))]

    def attempt(way):
        if made[int(way.criterion)] is None:
            raise NothingToPruneError(f"way {way.criterion}")
        return Attempt(way, None, None, None, made[int(way.criterion)])

    best, found = best_attempt(trace_model(model), ways, attempt, data)
    assert best.way == ways[2] and found[0] == {"error": None, "failure": "way 0"}
    errors = np.array([each["error"] for each in found[1:4]])
    np.testing.assert_allclose(np.sqrt(errors / errors[1]), [5, 1, 1], rtol=1e-4)
    assert found[4] == {"error": None, "failure": "its outputs are not finite"}
    alone, found = best_attempt(trace_model(model), ways[1:2], attempt, None)
    assert alone.way == ways[1] and found == []
    made[1:] = [None] * 4
    with pytest.raises(NothingToPruneError, match="way 0"):
        best_attempt(trace_model(model), ways, attempt, data)


@dataclasses.dataclass
class _Magnitude:
    """A criterion that is not hashable, as one with settings may be."""

    power: int = 1

    def __call__(self, trace):
        return scorer(trace, "group_l2")(np.ones(trace.channels.num_units, bool)) ** self.power


def test_criteria_and_metanetworks_need_not_be_hashable():
    model, x = residual_cnn((8, 8, 1), 3, widths=(4, 8), seed=0), np.random.default_rng(0).normal(size=(40, 8, 8, 1)).astype(np.float32)

    @dataclasses.dataclass
    class Same:
        step: float = 0.0

        def __call__(self, graph):
            return graph

    small = prune(model, x, speedup=2, criterion=_Magnitude(2), metanetwork=Same(), repair="bn", finetune=None)
    assert small.report["speedup"]["reached"] >= 2 and len(small.report["ways"]) > 1


@pytest.mark.parametrize(
    "latency, unreachable, asked",
    [
        (None, (), [("a", 2.0, None), ("b", 2.0, None)]),
        (LatencyTarget(latency_speedup=1.5), (), [("a", 1.5, None), ("b", 1.5, None), ("b", None, 1.5)]),
        (LatencyTarget(latency_ms=3.0), (), [("a", 4.0, None), ("b", 4.0, None), ("b", None, 3.0)]),
        (
            LatencyTarget(latency_ms=3.0), (4.0,),
            [("a", 4.0, None), ("b", 4.0, None), ("a", 2.0, None), ("b", 2.0, None), ("b", None, 3.0)],
        ),
    ],
)
def test_ways_are_compared_before_a_latency_is_searched_for(monkeypatch, latency, unreachable, asked):
    model, data, seen = _scaled([1.0]), _batches()[1], []

    def try_way(trace, way, rewritten, dataset, *, speedup=None, latency=None, **options):
        del trace, dataset, options
        seen.append((way.criterion, None if latency else speedup, latency and (latency.latency_ms or latency.latency_speedup)))
        if not latency and speedup in unreachable:
            raise NothingToPruneError("out of reach")
        return Attempt(way, rewritten, None, None, _scaled([{"a": 1.2, "b": 1.1}[way.criterion]]))

    monkeypatch.setattr(choosing, "try_way", try_way)
    monkeypatch.setattr(choosing, "needs_statistics", lambda criterion: False)
    best, found = choose_channels(
        trace_model(model), [Way("a"), Way("b")], None, data, speedup=2.0, latency=latency, search_steps=0, seed=0
    )  # fmt: skip
    assert seen == asked and best.way.criterion == asked[-1][0] and len(found) == 2


@pytest.mark.parametrize("most, asked", [(1.5, [4.0, 2.0, np.sqrt(2)]), (1.0, [4.0, 2.0, np.sqrt(2), 2**0.25])])
def test_before_a_latency_a_search_takes_a_speedup_within_reach(monkeypatch, most, asked):
    seen, found = [], Rewritten()

    def search(*_, speedup, **options):
        del options
        seen.append(speedup)
        if speedup > most:
            raise NothingToPruneError("out of reach")
        return found

    monkeypatch.setattr(choosing, "search", search)
    monkeypatch.setattr(choosing, "try_way", lambda trace, way, rewritten, dataset, **options: rewritten)
    options = {"speedup": 2.0, "latency": LatencyTarget(latency_ms=3.0), "search_steps": 1, "seed": 0}
    if most > 1:
        assert choose_channels(trace_model(_scaled([1.0])), [Way("group_l2")], None, None, **options) == (found, [])
    else:
        with pytest.raises(NothingToPruneError, match="out of reach"):
            choose_channels(trace_model(_scaled([1.0])), [Way("group_l2")], None, None, **options)
    np.testing.assert_allclose(seen, asked)


@pytest.mark.parametrize("criterion", ["group_l2", "group_l2_fisher"])
def test_a_weaker_metanetwork_ranks_the_same_and_changes_less(criterion):
    model = residual_cnn((8, 8, 1), 10, widths=(8, 12))
    trace, (_, data) = trace_model(model), _batches(32, (8, 8, 1))

    def metanetwork(graph):
        channels = graph.node_sets[CHANNEL].get_features_dict()
        rng = np.random.default_rng(1)
        score = rng.normal(size=channels[PARAMETERS].shape[0])
        values = {name: edges[WEIGHT] for name, edges in graph.edge_sets.items() if WEIGHT in edges.features}
        edges = {name: {WEIGHT: value * rng.lognormal(0, 2, value.shape)} for name, value in values.items()}
        return graph.replace_features(node_sets={CHANNEL: {**channels, SCORE: score}}, edge_sets=edges)

    whole = rewrite(trace, metanetwork, data, criterion=criterion)
    found = [weaken(trace, whole, Strength(1.0, weights), criterion=criterion) for weights in (1.0, 0.5, 0.0)]
    for path, name in whole.weights:
        (full, half), own = (each.weights[path, name] for each in found[:2]), get_weight(model.get_layer(path), name)
        np.testing.assert_allclose(full, whole.weights[path, name], rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(half, 0.5 * (full + own), rtol=1e-4, atol=1e-4)
    assert found[2].weights is None
    options = {"speedup": 3.0, "statistics": whole.statistics, "step": 1.0}
    plans = [make_plan(trace, criterion, score=each.score, weights=each.weights, **options).keep for each in (whole, *found)]
    np.testing.assert_array_equal(plans[1:], plans[:1] * 3)
    assert not np.array_equal(plans[0], make_plan(trace, criterion, weights=whole.weights, **options).keep)
    assert not np.array_equal(plans[0], make_plan(trace, criterion, score=whole.score, **options).keep)  # weights count
    none, fisher = (make_plan(trace, name, **options, score=score) for name, score in (
        (criterion, weaken(trace, whole, Strength(0.0, 0.0), criterion=criterion).score), ("group_l2_fisher", None)
    ))  # fmt: skip
    np.testing.assert_array_equal(none.keep, fisher.keep)
    scores = [weaken(trace, whole, Strength(share, 0.0), criterion=criterion).score for share in (1.0, 0.5, 0.0)]
    np.testing.assert_allclose(scores[1], (scores[0] + scores[2]) / 2, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "criterion, metanetwork, options, ways, note",
    [
        ("default", "default", {}, [("group_l2",), ("group_l2_fisher",), ("group_l2", "universal")], None),
        ("default", None, {}, [("group_l2",), ("group_l2_fisher",)], None),
        ("default", "digits", {}, [("group_l2", "digits")], None),
        ("default", "digits", {"repair": "bn"}, [("group_l2", "digits", strength) for strength in STRENGTHS], None),
        ("fisher", "digits", {"repair": None}, [("fisher", "digits", strength) for strength in STRENGTHS], None),
        ("fisher", "digits", {"repair": "least_squares"}, [("fisher", "digits")], None),
        ("default", "digits", {"repair": "bn", "drops_channels": False}, [("group_l2", "digits")], None),
        (
            "default", "default", {"repair": "bn"},
            [("group_l2",), ("group_l2_fisher",), *(("group_l2", "universal", strength) for strength in STRENGTHS)], None,
        ),
        ("fisher", "default", {}, [("fisher",)], "as a criterion was named"),
        ("fisher", "digits", {}, [("fisher", "digits")], None),
        ("fisher", None, {}, [("fisher",)], None),
        ("default", "default", {"train_data": None}, [("group_l2",)], "there is none"),
        ("default", "default", {"prepare": "group_norm"}, [("group_l2",)], "has learnt what goes"),
        ("default", "default", {"drops_channels": False}, [("group_l2",)], "default for zeros"),
        ("default", None, {"drops_channels": False}, [("group_l2",)], None),
        ("default", None, {"train_data": None}, [("group_l2",)], None),
    ],
)
def test_ways_that_arguments_leave_open(criterion, metanetwork, options, ways, note):
    options = {"drops_channels": True, "train_data": "some", **options}
    found, why = ways_to_try(criterion, metanetwork, **options)
    assert found == [Way(*way) for way in ways]
    assert why is None if note is None else note in why
