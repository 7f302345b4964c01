"""Following channels: nested and shared models, groups, several axes, movement, and layers that are not what they seem."""

import numpy as np
import pytest
from zoo import random_inputs, randomize

from tfmetaprune._keras import keras, tf
from tfmetaprune.channels.moves import number_array, repeated_taps, rows_along, varying_axes
from tfmetaprune.errors import ArgumentError, UnsupportedModelError
from tfmetaprune.layers import Axes, LayerSpec, Moves, register, spec
from tfmetaprune.pruning import channel_groups, make_plan, plan_from_keep, rebuild_model, run_masked
from tfmetaprune.trace import trace_model

L = keras.layers


def half(trace, seed=0):
    """bool [num_units]: a random half of the units that may go is gone."""
    rng, keep = np.random.default_rng(seed), np.ones(trace.channels.num_units, bool)
    for group in channel_groups(trace):
        free = [unit for unit in group.units if unit not in trace.channels.frozen]
        keep[rng.permutation(free)[: len(free) // 2].astype(int)] = False
    return keep


def prune_half(model):
    """Prunes half of all units; asserts that the result equals the masked original; returns it."""
    trace, inputs = trace_model(model), random_inputs(model)
    keep = half(trace)
    small = rebuild_model(trace, plan_from_keep(trace, keep))
    outputs = tf.nest.flatten(small(inputs if len(inputs) > 1 else inputs[0]))
    for got, expected in zip(outputs, run_masked(trace, keep, inputs), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
    assert small.count_params() < model.count_params()
    return small


def classifier(inputs, x, name):
    return randomize(keras.Model(inputs, L.Dense(3, name="logits")(L.GlobalAveragePooling2D()(x))), name)


def test_a_nested_model_that_is_called_twice_is_pruned_once():
    inner_input = keras.Input((6, 6, 8))
    inner = keras.Model(inner_input, L.ReLU(name="relu")(L.Conv2D(6, 3, name="conv")(inner_input)), name="tower")
    inputs = [keras.Input((6, 6, 3), name=name) for name in ("left", "right")]
    stems = [L.Conv2D(8, 1, name=f"{x.name}_stem")(x) for x in inputs]
    model = classifier(inputs, L.Maximum()([inner(stem) for stem in stems]), "nested")
    small = prune_half(model)
    tower = small.get_layer("tower")
    assert len(tower.inbound_nodes) == 2  # one for each call
    assert tower.input_shape == (None, 6, 6, 4) and tower.get_layer("conv").filters == 3
    assert small.get_layer("left_stem").filters == small.get_layer("right_stem").filters == 4


def test_equal_names_in_nested_models_are_told_apart():
    def block(name, channels):
        x = keras.Input((6, 6, channels))
        return keras.Model(x, L.BatchNormalization(name="bn")(L.Conv2D(channels + 2, 1, name="conv")(x)), name=name)

    inputs = keras.Input((6, 6, 4))
    model = classifier(inputs, block("second", 6)(block("first", 4)(inputs)), "names")
    trace = trace_model(model)
    assert [call.path for call in trace.calls[:4]] == ["first/conv", "first/bn", "second/conv", "second/bn"]
    names = {group.name: group.members for group in channel_groups(trace)}
    assert names["first/conv"] == ("first/conv", "first/bn", "second/conv")
    small = prune_half(model)
    assert [small.get_layer(name).get_layer("conv").filters for name in ("first", "second")] == [3, 4]


@pytest.mark.parametrize("groups, channels, units", [(2, 16, 8), (8, 16, 8), (16, 16, 16)])
def test_groups_are_pruned_whole_or_position_by_position(groups, channels, units):
    inputs = keras.Input((6, 6, 3))
    x = L.Conv2D(channels, 1, name="stem")(inputs)
    model = classifier(inputs, L.Conv2D(2 * channels, 3, groups=groups, name="grouped")(x), "grouped")
    trace = trace_model(model)
    (group,) = [group for group in channel_groups(trace) if group.name == "stem"]
    assert group.size == units or len(np.unique(trace.channels.units(trace.channels.calls[0].roles["out"]))) == units
    small = prune_half(model).get_layer("grouped")
    assert small.groups == (groups if groups == 2 else groups // 2) and small.filters == channels


def test_channel_shuffle_ties_positions_and_keeps_the_true_channels():
    inputs = keras.Input((4, 4, 3))
    x = L.Conv2D(12, 1, name="a")(inputs)
    x = L.Reshape((4, 4, 12))(L.Permute((1, 2, 4, 3))(L.Reshape((4, 4, 3, 4))(x)))
    model = classifier(inputs, L.Conv2D(6, 1, name="b")(x), "shuffle")
    trace = trace_model(model)
    made = np.flatnonzero(trace.channels.node_call == 0)
    (layout,) = trace.channels.calls[4].roles["in"]
    np.testing.assert_array_equal(layout.nodes, made.reshape(3, 4).T.reshape(-1))
    assert len(np.unique(trace.channels.unit_of_node[made])) == 4
    prune_half(model)


def test_channels_on_two_axes_at_once():
    """Mixing positions by a dense layer makes channels on the axis of the positions, beside those on the last one."""
    inputs = keras.Input((8, 5))
    x = L.Permute((2, 1))(L.Dense(6, name="channels")(inputs))
    x = L.Permute((2, 1))(L.Dense(8, name="narrow")(L.Dense(10, activation="relu", name="wide")(x)))
    model = randomize(keras.Model(inputs, L.Dense(3)(L.GlobalAveragePooling1D()(L.Dense(7)(x)))), "mixer")
    trace = trace_model(model)
    wide = trace.calls[3].outputs[0] if trace.calls[3].path == "wide" else trace.calls[2].outputs[0]
    assert sorted(trace.channels.tensors[wide]) == [1, 2]
    small = prune_half(model)
    assert small.get_layer("wide").units == 5 and small.get_layer("channels").units == 3


def test_moments_that_run_over_an_axis_of_channels_freeze_it():
    inputs = keras.Input((6, 3))
    x = tf.transpose(L.Dense(8, name="wide")(inputs), (0, 2, 1))
    model = randomize(keras.Model(inputs, L.Dense(2)(L.Flatten()(L.GroupNormalization(2, name="norm")(x)))), "moments")
    trace = trace_model(model)
    made = trace.channels.units(trace.channels.calls[0].roles["out"])
    assert {trace.channels.frozen[unit] for unit in made} == {"'norm' (GroupNormalization): its moments run over them"}


class Doubled(L.Dense):
    """A Dense that is no Dense: its own call mixes the channels."""

    def call(self, inputs):
        outputs = super().call(inputs)
        return outputs - tf.reduce_mean(outputs, -1, keepdims=True)


class Named(L.Dense):
    """A Dense with nothing but a name of its own."""


def test_a_subclass_with_a_call_of_its_own_is_unknown():
    inputs = keras.Input((5,))
    hidden = L.Dense(6, name="hidden")(inputs)
    trace = trace_model(keras.Model(inputs, L.Dense(2)(Doubled(4, name="other")(hidden))))
    reason = "'other' (Doubled): it overrides what Dense computes, and no LayerSpec is registered for it"
    assert trace.channels.frozen[trace.channels.calls[0].roles["out"][0].nodes[0]].endswith(reason)
    trace = trace_model(keras.Model(inputs, L.Dense(2)(Named(4, name="same")(hidden))))
    assert not set(trace.channels.units(trace.channels.calls[1].roles["out"])) & set(trace.channels.frozen)


class Block(keras.Model):
    """A subclassed model inside a functional one."""

    def __init__(self):
        super().__init__()
        self.conv = L.Conv2D(6, 1)

    def call(self, inputs):
        return self.conv(inputs)


class Scaled(L.Layer):
    """A layer without a get_config of its own: Keras keeps its arguments, but not its name."""

    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def call(self, inputs):
        return self.factor * inputs


@pytest.mark.parametrize(
    "make, reason",
    [
        (Block, "it is a subclassed model; call its layers one by one, functionally"),
        (lambda: Scaled(2.0), "no LayerSpec is registered for this kind"),
        (lambda: L.TimeDistributed(keras.Sequential([L.Dense(6, input_shape=(6, 6))])), "no LayerSpec is registered for the"),
    ],
)
def test_what_is_unknown_freezes_and_is_rebuilt_under_its_name(make, reason):
    inputs, layer = keras.Input((6, 6, 3)), make()
    x = layer(L.Conv2D(6, 1, name="before")(inputs))
    model = classifier(inputs, L.Conv2D(7, 1, name="behind")(L.Conv2D(8, 1, name="after")(x)), "unknown")
    small = prune_half(model)
    assert any(reason in why for why in trace_model(model).channels.frozen.values())
    assert small.get_layer(layer.name).name == layer.name
    assert [small.get_layer(name).filters for name in ("before", "after", "behind")] == [6, 4, 4]


def test_a_weight_that_the_spec_does_not_name_freezes():
    inputs = keras.Input((4, 4, 3))
    x = L.BatchNormalization(renorm=True, name="norm")(L.Conv2D(6, 1)(inputs))
    trace = trace_model(classifier(inputs, x, "renorm"))
    assert "read by 'norm' (BatchNormalization): it has weights that its LayerSpec does not name" in trace.channels.frozen.values()


def test_a_fixed_batch_size_is_kept():
    inputs = keras.Input((6, 6, 3), batch_size=4)
    x = tf.reshape(L.Conv2D(8, 3, name="conv")(inputs), (4, 16, 8))
    model = randomize(keras.Model(inputs, L.Dense(3)(L.Dense(6)(x))), "batch")
    small = prune_half(model)
    assert small.input_shape == (4, 6, 6, 3) and small.get_layer("conv").filters == 4


def test_lengths_that_are_asked_for_follow_the_channels():
    inputs = keras.Input((6, 6, 3))
    x = L.Conv2D(8, 3, name="conv")(inputs)
    shape = tf.shape(x)
    flat = tf.reshape(x, [shape[0], shape[1] * shape[2], shape[3]])
    model = randomize(keras.Model(inputs, L.Dense(3)(L.GlobalAveragePooling1D()(L.Conv1D(6, 1)(flat)))), "lengths")
    assert prune_half(model).get_layer("conv").filters == 4


@pytest.mark.parametrize("axis, frozen", [(3, True), (1, False)])
def test_channels_whose_number_goes_into_a_formula_stay(axis, frozen):
    inputs = keras.Input((6, 6, 3))
    x = L.Conv2D(8, 3, name="conv")(inputs)
    x = x / tf.sqrt(tf.cast(tf.shape(x)[axis], tf.float32))
    trace = trace_model(classifier(inputs, L.Conv2D(6, 1)(x), "formula"))
    assert any("computes with their number" in reason for reason in trace.channels.frozen.values()) == frozen


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision(policy):
    keras.mixed_precision.set_global_policy(policy)
    try:
        inputs = keras.Input((6, 6, 3))
        x = L.LayerNormalization()(L.ReLU()(L.BatchNormalization()(L.Conv2D(8, 3, name="conv")(inputs))))
        x = L.GlobalAveragePooling2D()(L.Conv2D(6, 1)(x))
        model = randomize(keras.Model(inputs, L.Dense(3, dtype="float32")(x)), "mixed")
    finally:
        keras.mixed_precision.set_global_policy(None)  # follows floatx again
    trace, inputs = trace_model(model), random_inputs(model)
    keep = half(trace)
    small = rebuild_model(trace, plan_from_keep(trace, keep))
    assert small.get_layer("conv").dtype_policy.name == policy and small.get_layer("conv").filters == 4
    (expected,) = run_masked(trace, keep, inputs)
    np.testing.assert_allclose(small(inputs[0]), expected, atol=0.02 * np.abs(expected).max())


@pytest.fixture
def registry():
    known = spec.registered_kinds()
    yield
    spec._REGISTRY.clear()
    spec._REGISTRY.update(known)


class Fixed(L.Layer):
    """A dense layer that makes 6 channels whatever its config says."""

    def build(self, shape):
        self.kernel = self.add_weight("kernel", (shape[-1], 6))

    def call(self, inputs):
        return inputs @ self.kernel


class RolledByTwo(L.Layer):
    """Moves channels by two places: other channels come together once some are gone."""

    def call(self, inputs):
        return tf.roll(inputs, 2, -1)


def test_layers_that_do_not_get_narrower_are_refused(registry):
    @register(Fixed)
    class FixedSpec(LayerSpec):
        axes = {"kernel": "in out"}

        def flow(self, call):
            return Axes("b in -> b out")

    inputs = keras.Input((5,))
    model = keras.Model(inputs, L.Dense(2)(Fixed(name="fixed")(L.Dense(6)(inputs))))
    with pytest.raises(UnsupportedModelError, match=r"'fixed' \(Fixed\): expected an output of shape \(None, 3\)"):
        prune_half(model)


def test_movement_that_is_another_once_channels_are_gone_is_refused(registry):
    @register(RolledByTwo)
    class RolledSpec(LayerSpec):
        def flow(self, call):
            return Moves()

    inputs = keras.Input((5,))
    model = keras.Model(inputs, L.Dense(2)(RolledByTwo(name="roll")(L.Dense(8)(inputs))))
    with pytest.raises(UnsupportedModelError, match=r"'roll' \(RolledByTwo\): expected it to move the channels"):
        prune_half(model)


def test_a_plan_that_leaves_nothing_of_a_piece_is_refused():
    inputs = keras.Input((5,))
    left, right = tf.split(L.Dense(6, name="made")(inputs), [2, 4], axis=-1)
    model = keras.Model(inputs, L.Add()([L.Dense(3)(left), L.Dense(3)(right)]))
    trace = trace_model(model)
    keep = np.ones(trace.channels.num_units, bool)
    keep[trace.channels.units(trace.channels.calls[0].roles["out"])[:2]] = False
    with pytest.raises(ArgumentError, match="expected a channel left in every layer, got a layer with none"):
        plan_from_keep(trace, keep)
    plan = make_plan(trace, "random", speedup=1.5, floor=0.0)
    assert plan.keep[trace.channels.units(trace.channels.calls[0].roles["out"])][:2].any()


def test_numbers_find_their_way():
    array = number_array((None, 2, None, 3), 3, np.array([5, 6, 8]))
    assert array.shape == (1, 2, 4, 3) and array.max() == 9
    assert varying_axes(array) == [3] and [row.tolist() for row in rows_along(array, 3)] == [[6], [7], [9]]
    flat = array.reshape(1, -1)
    assert varying_axes(flat) == [1]
    assert repeated_taps(flat[0] - 1, np.array([5, 6, 8]), (2, 4)) == (2, 4)
    assert repeated_taps(flat[0, :12] - 1, np.array([5, 6, 8]), (2, 4)) == (4,)
    assert repeated_taps(flat[0, ::-1], np.array([5, 6, 8]), (2, 4)) is None
    padded = np.pad(array, [(0, 0), (1, 1), (0, 0), (0, 0)])
    assert varying_axes(padded) == [3]
