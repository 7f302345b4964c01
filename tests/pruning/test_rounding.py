"""Widths become multiples, close below the MACs target; what is left computes what the masked original computes."""

import numpy as np
import pytest
from checks import check_pruned, outputs_of, random_inputs, randomize_weights
from zoo import ZOO, randomize

from tfmetaprune._keras import keras
from tfmetaprune.errors import ArgumentError, NothingToPruneError
from tfmetaprune.pruning import mac_terms, make_plan, rebuild_model, total_macs
from tfmetaprune.pruning.rounding import Cell, _cells, round_widths
from tfmetaprune.trace import trace_model

L = keras.layers
MAKERS = (L.Conv1D, L.Conv2D, L.Conv2DTranspose, L.SeparableConv2D, L.Dense, L.LSTM, L.GRU, L.Embedding)


def _width(layer):
    return next(getattr(layer, name) for name in ("filters", "units", "output_dim") if hasattr(layer, name))


def _widths(model):
    """Layer name -> width, of every layer of the kinds above, nested ones included."""
    leaves = [leaf for layer in model.layers for leaf in getattr(layer, "layers", [layer])]
    return {layer.name: _width(layer) for layer in leaves if isinstance(layer, MAKERS)}


@pytest.mark.parametrize("name", sorted(ZOO))
def test_zoo(name):
    model = ZOO[name]()
    randomize(model, name)
    trace = trace_model(model)
    scores = np.random.default_rng(0).normal(size=trace.channels.num_units)
    plan = make_plan(trace, scores, speedup=1.3, floor=0.0, round_to=2)
    assert plan.speedup >= 1.3
    small = rebuild_model(trace, plan)
    before, after = _widths(model), _widths(small)
    whole = {unit for cell in _cells(trace, 2, 0.0) if len(cell.units) < cell.step for unit in cell.units.tolist()}
    assert all(width % 2 == 0 or width == before[layer] or whole for layer, width in after.items())
    assert any(after[layer] < width for layer, width in before.items())
    check_pruned(trace, plan, random_inputs(model))


def _bottlenecks():
    """Expansions, depthwise and projections with residual sums, widths that are no multiples of 8 among them."""
    keras.utils.set_random_seed(5)
    inputs = x = keras.Input((16, 16, 3))
    for index, (width, strides) in enumerate([(20, 2), (20, 1), (36, 2), (36, 1)]):
        y = L.Conv2D(4 * x.shape[-1], 1, activation="relu", name=f"expand_{index}")(x)
        y = L.BatchNormalization()(L.DepthwiseConv2D(3, strides, "same")(y))
        y = L.Conv2D(width, 1, name=f"project_{index}")(y)
        x = L.Add()([x, y]) if x.shape == y.shape else y
    x = L.Conv2D(48, 3, groups=4, name="grouped")(x)
    x = L.Dense(6, activation="relu", name="tiny")(L.GlobalAveragePooling2D()(x))
    return keras.Model(inputs, L.Dense(10, name="logits")(x))


@pytest.mark.parametrize("speedup", [1.5, 2.0, 4.0])
def test_multiples_of_eight(speedup):
    model = _bottlenecks()
    randomize_weights(model)
    trace = trace_model(model)
    free, plan = make_plan(trace, speedup=speedup), make_plan(trace, speedup=speedup, round_to=8)
    small = rebuild_model(trace, plan)
    before, after = _widths(model), _widths(small)
    assert after["logits"] == 10 and after["tiny"] == 6  # too narrow, or all frozen: as they were
    assert all(width % 8 == 0 or width == before[layer] for layer, width in after.items())
    assert after["project_0"] == after["project_1"] and after["project_2"] == after["project_3"]
    assert after["grouped"] % small.get_layer("grouped").groups == 0
    assert any(width % 8 for width in _widths(rebuild_model(trace, free)).values())
    assert speedup <= plan.speedup < 1.25 * speedup
    check_pruned(trace, plan, random_inputs(model))


def test_nothing_more_fits():
    """No run of eight units can come back without the MACs going beyond the target."""
    trace = trace_model(_bottlenecks())
    plan, terms = make_plan(trace, speedup=2.0, round_to=8), mac_terms(trace)
    num_runs = 0
    for cell in _cells(trace, 8, 0.1):
        gone = cell.units[~plan.keep[cell.units]]
        count = cell.above(len(cell.units) - len(gone) + 1) - (len(cell.units) - len(gone))
        if len(gone):
            keep = plan.keep.copy()
            keep[gone[:count]] = True
            assert total_macs(terms, keep) > plan.macs_before / 2.0
            num_runs += 1
    assert num_runs >= 4


def test_the_best_units_remain():
    keras.utils.set_random_seed(6)
    model = keras.Sequential([keras.Input((32,)), L.Dense(32), L.Dense(4)])
    trace = trace_model(model)
    scores = np.random.default_rng(1).normal(size=trace.channels.num_units)
    (group,) = (group for group in make_plan(trace, speedup=1).groups if group.name == "dense" or group.size == 32 and group.prunable)
    plan = make_plan(trace, scores, speedup=1.5, round_to=8)
    kept = plan.keep[group.units]
    assert np.count_nonzero(kept) == 16
    assert scores[group.units][kept].min() > scores[group.units][~kept].max()


def test_heads_are_not_rounded():
    keras.utils.set_random_seed(7)
    inputs = keras.Input((6, 32))
    x = L.MultiHeadAttention(4, 16, name="attention")(inputs, inputs)
    model = keras.Model(inputs, L.Dense(3)(L.Dense(32, name="wide")(x)))
    randomize_weights(model)
    trace = trace_model(model)
    plan = make_plan(trace, np.random.default_rng(2).normal(size=trace.channels.num_units), speedup=2.5, round_to=8)
    layer = rebuild_model(trace, plan).get_layer("attention")
    assert layer.get_config()["key_dim"] in (8, 16) and layer.get_config()["value_dim"] in (8, 16)
    check_pruned(trace, plan, random_inputs(model))


def test_frozen_units_count_and_stay():
    inputs = keras.Input((8, 8, 3))
    x = L.Conv2D(32, 3, name="conv")(inputs)
    model = keras.Model(inputs, [x[..., 3:7], L.Dense(5)(L.GlobalAveragePooling2D()(x))])  # the model puts out four channels
    trace = trace_model(model)
    scores = np.random.default_rng(3).normal(size=trace.channels.num_units)
    frozen = list(trace.channels.frozen)
    scores[frozen] = -100.0
    plan = make_plan(trace, scores, speedup=1.9, round_to=8)
    (units,) = (group.units for group in plan.groups if group.size == 32)
    assert np.count_nonzero(plan.keep[units]) == 16 and len(set(frozen) & set(units.tolist())) == 4
    cells, keep = _cells(trace, 8, 0.0), np.ones(trace.channels.num_units, bool)
    assert [cell.minimum for cell in cells if len(cell.units) == 32] == [4]
    rounded = round_widths(trace, keep, scores, mac_terms(trace), round_to=8, floor=0.0, target=plan.macs_before / 3)
    assert np.count_nonzero(rounded[units]) == 8 and rounded[frozen].all()


def test_counts_of_a_cell():
    cell = Cell(np.arange(20), step=8, minimum=3)
    assert [cell.below(count) for count in (25, 20, 19, 16, 8, 7)] == [20, 20, 16, 16, 8, None]
    assert [cell.above(count) for count in (0, 8, 9, 16, 17)] == [8, 8, 16, 16, 20]
    narrow = Cell(np.arange(6), step=8, minimum=1)
    assert [narrow.below(6), narrow.below(5), narrow.above(1)] == [6, None, 6]


def test_errors():
    trace = trace_model(_bottlenecks())
    for wrong in (0, 2.5, "8"):
        with pytest.raises(ArgumentError, match="round_to: expected a whole number >= 1 or None"):
            make_plan(trace, speedup=2.0, round_to=wrong)
    narrow = trace_model(keras.Sequential([keras.Input((8,)), L.Dense(6), L.Dense(2)]))
    with pytest.raises(NothingToPruneError, match=r"widths that are multiples of 8 .* got at least 60\."):
        make_plan(narrow, speedup=2.0, round_to=8)


def test_speedup_one_rounds_nothing():
    trace = trace_model(_bottlenecks())
    assert make_plan(trace, speedup=1.0, round_to=8).keep.all()
    assert outputs_of(trace.model, random_inputs(trace.model))
