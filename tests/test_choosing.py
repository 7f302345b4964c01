"""Ways to choose channels: which are open, and which is best."""

import math

import numpy as np
import pytest

from tfmetaprune._keras import keras, tf
from tfmetaprune.choosing import Attempt, Way, best_attempt, output_errors, ways_to_try
from tfmetaprune.errors import DataError, NothingToPruneError


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
    np.testing.assert_allclose(output_errors(model, others, data), wanted, rtol=1e-5)


def test_output_errors_read_what_they_are_told_to():
    model, other = _scaled([1.0]), keras.Sequential([keras.layers.Rescaling(1.0, input_shape=(3,))])
    x, _ = _batches()
    x[20:] = np.nan
    data = tf.data.Dataset.from_tensor_slices((x, x[:, 0])).batch(16).repeat()  # endless, labels are not used
    assert output_errors(model, [other], data, num_samples=20) == [0.0]
    assert output_errors(model, [other], data, num_samples=21) == [math.inf]
    with pytest.raises(DataError, match="expected at least one batch, got none"):
        output_errors(model, [other], data.take(0))
    with pytest.raises(DataError, match="expected 1 inputs, got 2"):
        output_errors(model, [other], data.map(lambda x, y: ((x, x), y)))


def test_output_errors_of_several_inputs_and_batches_of_any_length():
    first, second = keras.Input((None, 2), name="first"), keras.Input((1,), name="second")
    model = keras.Model({"first": first, "second": second}, keras.layers.Multiply()([first, keras.layers.Reshape((1, 1))(second)]))
    rng = np.random.default_rng(0)
    batches = [
        {"first": rng.normal(size=(4, length, 2)).astype(np.float32), "second": np.ones((4, 1), np.float32)} for length in (3, 7)
    ]  # fmt: skip
    doubled = keras.Model(model.input, keras.layers.Rescaling(2.0)(model.output))
    rows = np.concatenate([batch["first"].reshape(-1, 2) for batch in batches]).astype(float)
    assert output_errors(model, [doubled], batches) == [pytest.approx(np.mean(rows**2) / np.mean(rows.var(0)), rel=1e-5)]


def test_best_attempt_takes_the_first_of_the_nearest():
    model, data = _scaled([1.0]), _batches()[1]
    ways = [Way(str(number)) for number in range(5)]
    made = [None, *(_scaled([factor]) for factor in (1.5, 0.9, 0.9, 1.2))]

    def attempt(way):
        if made[int(way.criterion)] is None:
            raise NothingToPruneError(f"way {way.criterion}")
        return Attempt(way, None, None, None, made[int(way.criterion)])

    best, errors = best_attempt(model, ways, attempt, data)
    assert best.way == ways[2] and errors[0] == math.inf
    np.testing.assert_allclose(np.sqrt(errors[1:]) / np.sqrt(errors[2]), [5, 1, 1, 2], rtol=1e-4)
    alone, errors = best_attempt(model, ways[1:2], attempt, None)
    assert alone.way == ways[1] and errors == []
    made[1:] = [None] * 4
    with pytest.raises(NothingToPruneError, match="way 0"):
        best_attempt(model, ways, attempt, data)


@pytest.mark.parametrize(
    "criterion, metanetwork, options, ways, note",
    [
        ("default", "default", {}, [("group_l2",), ("group_l2_fisher",), ("group_l2", "universal")], None),
        ("default", None, {}, [("group_l2",), ("group_l2_fisher",)], None),
        ("default", "digits", {}, [("group_l2", "digits")], None),
        ("fisher", "default", {}, [("fisher",), ("fisher", "universal")], None),
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
