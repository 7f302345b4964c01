"""The invariants of structured pruning over the zoo, and each part against a plain reference."""

import numpy as np
import pytest
from zoo import ZOO, random_inputs, randomize

from tfmetaprune._keras import keras, tf
from tfmetaprune.errors import ArgumentError, DataError, NothingToPruneError, UnsupportedModelError
from tfmetaprune.pruning import (
    PruningPlan,
    channel_groups,
    cost,
    fold_averages,
    mac_terms,
    make_plan,
    normalized_score,
    plan_from_keep,
    rebuild_model,
    reestimate_bn,
    repair_model,
    replace_weights,
    run_masked,
    scorer,
    total_macs,
    unit_importance,
)
from tfmetaprune.pruning.masking import absorbs_mean
from tfmetaprune.trace import trace_model

L = keras.layers


def _outputs(model, inputs):
    return [np.asarray(value) for value in tf.nest.flatten(model(inputs if len(inputs) > 1 else inputs[0]))]


def _random_plan(trace, seed):
    """A plan with random scores and a random speed-up, half of what can be reached."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=trace.channels.num_units)
    with pytest.raises(NothingToPruneError, match="got at most") as error:
        make_plan(trace, scores, speedup=1e9, floor=0.0)
    reachable = float(str(error.value).split("at most ")[1].split(" ")[0])
    return make_plan(trace, scores, speedup=reachable ** rng.uniform(0.3, 0.9), floor=0.0, step=0.05)


def _counted_macs(model):
    """MACs of the registered kinds by a formula for each, without specs, axes or layouts."""
    total = 0
    for call in trace_model(model).calls:
        layer, positions = call.layer, np.prod(call.output_shapes[0][1:-1], dtype=int)
        if type(layer) is L.SeparableConv2D:
            total += positions * (np.prod(layer.depthwise_kernel.shape) + np.prod(layer.pointwise_kernel.shape))
        elif type(layer) is L.DepthwiseConv2D:
            total += positions * np.prod(layer.depthwise_kernel.shape)
        elif type(layer) is L.Conv2DTranspose:
            total += np.prod(call.input_shapes[0][1:-1], dtype=int) * np.prod(layer.kernel.shape)
        elif type(layer) in (L.Conv1D, L.Conv2D, L.Dense):
            total += positions * np.prod(layer.kernel.shape)
    return int(total)


def _assert_same_weights(model, values):
    for weight, value in zip(model.get_weights(), values, strict=True):
        np.testing.assert_array_equal(weight, value)


@pytest.mark.parametrize("name", ZOO)
def test_pruned_equals_masked(name, tmp_path):
    model = ZOO[name]()
    before, config = model.get_weights(), model.get_config()
    trace, inputs = trace_model(model), random_inputs(model)
    for seed in range(3):
        plan = _random_plan(trace, seed)
        pruned = rebuild_model(trace, plan)
        for got, expected in zip(_outputs(pruned, inputs), run_masked(trace, plan.keep, inputs), strict=True):
            np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
        counted = cost(trace, plan.keep)
        assert counted.parameters == pruned.count_params() < model.count_params()
        assert counted.macs == plan.macs_after == _counted_macs(pruned) < plan.macs_before == _counted_macs(model)
        assert [layer.name for layer in pruned.layers] == [layer.name for layer in model.layers]
    pruned.save(tmp_path / "pruned.keras")
    loaded = keras.models.load_model(tmp_path / "pruned.keras")
    for got, expected in zip(_outputs(loaded, inputs), _outputs(pruned, inputs), strict=True):
        np.testing.assert_array_equal(got, expected)
    _assert_same_weights(model, before)
    assert model.get_config() == config


@pytest.mark.parametrize("name", ZOO)
def test_empty_plan_changes_nothing(name):
    model = ZOO[name]()
    trace, inputs = trace_model(model), random_inputs(model)
    plan = make_plan(trace, speedup=1)
    assert plan.keep.all() and plan.speedup == 1 and not plan.dropped
    for copy in (rebuild_model(trace, plan), replace_weights(model, {})):
        assert type(copy) is type(model) and copy.name == model.name and copy.get_config() == model.get_config()
        _assert_same_weights(copy, model.get_weights())
        assert not {id(weight) for weight in copy.weights} & {id(weight) for weight in model.weights}
        for got, expected in zip(_outputs(copy, inputs), _outputs(model, inputs), strict=True):
            np.testing.assert_array_equal(got, expected)
    assert cost(trace).parameters == model.count_params()


@pytest.mark.parametrize("name", ZOO)
def test_groups_and_plan(name):
    trace = trace_model(ZOO[name]())
    groups = channel_groups(trace)
    assert len({group.name for group in groups}) == len(groups)
    units = np.sort(np.concatenate([group.units for group in groups]))
    np.testing.assert_array_equal(units, np.arange(trace.channels.num_units))
    plan = make_plan(trace, speedup=1.2, floor=0.2)
    assert plan.speedup >= 1.2 and plan.keep[list(trace.channels.frozen)].all()
    for group in groups:
        assert np.count_nonzero(plan.keep[group.units]) >= max(1, np.ceil(0.2 * group.size))
    again = PruningPlan.from_json(plan.to_json(), trace)
    np.testing.assert_array_equal(again.keep, plan.keep)
    assert (again.macs_before, again.macs_after) == (plan.macs_before, plan.macs_after)


def test_last_step_is_short():
    trace = trace_model(ZOO["residual"]())
    scores = np.random.default_rng(0).normal(size=trace.channels.num_units)
    whole = make_plan(trace, scores, speedup=1.7, step=1.0, floor=0.3)
    single = make_plan(trace, scores, speedup=1.7, step=1e-9, floor=0.3)
    np.testing.assert_array_equal(whole.keep, single.keep)  # fixed scores: big steps end where single channels do


def test_importance_is_the_double_loop():
    """Conv2D -> BatchNormalization -> DepthwiseConv2D (two each) -> Flatten -> Dense, one sum at a time."""
    inputs = keras.Input((3, 3, 2))
    x = L.BatchNormalization(name="bn")(L.Conv2D(4, 2, name="conv")(inputs))
    x = L.DepthwiseConv2D(1, depth_multiplier=2, name="depthwise")(x)
    model = keras.Model(inputs, L.Dense(3, name="dense")(L.Flatten()(x)))
    rng = np.random.default_rng(0)
    for weight in model.weights:
        weight.assign(rng.normal(size=weight.shape))
    trace = trace_model(model)
    units = trace.channels.units(trace.channels.calls[0].roles["out"])
    keep = np.ones(trace.channels.num_units)
    keep[units[2]] = 0
    keep[-1] = 0  # an output: never pruned, but a partner all the same
    conv, gamma = model.get_layer("conv").kernel.numpy(), model.get_layer("bn").gamma.numpy()
    depthwise, dense = model.get_layer("depthwise").depthwise_kernel.numpy(), model.get_layer("dense").kernel.numpy()
    expected = np.zeros(4)
    for channel in range(4):
        conv_sum = sum(conv[a, b, i, channel] ** 2 for a in range(2) for b in range(2) for i in range(2))
        depthwise_sum = sum(depthwise[0, 0, channel, j] ** 2 for j in range(2))
        dense_sum = 0
        for position in range(4):
            for j in range(2):
                dense_sum += sum(dense[position * 8 + channel * 2 + j, o] ** 2 for o in range(2))
        expected[channel] = (conv_sum + gamma[channel] ** 2 + depthwise_sum + dense_sum) / 4
    np.testing.assert_allclose(unit_importance(trace, keep=keep).numpy()[units], expected, rtol=1e-5)
    expected_partner = sum(conv[a, b, 1, o] ** 2 for a in range(2) for b in range(2) for o in (0, 1, 3))
    np.testing.assert_allclose(unit_importance(trace, keep=keep).numpy()[1], expected_partner, rtol=1e-5)


@pytest.mark.parametrize("name", ZOO)
def test_importance_with_keep_is_that_of_the_pruned_model(name):
    trace = trace_model(ZOO[name]())
    plan = _random_plan(trace, 1)
    pruned = trace_model(rebuild_model(trace, plan))
    assert pruned.channels.num_units == np.count_nonzero(plan.keep)
    if name == "grouped":  # a group of one channel is pruned whole, wider ones position by position
        return
    expected = unit_importance(trace, keep=plan.keep).numpy()[plan.keep]
    np.testing.assert_allclose(unit_importance(pruned), expected, rtol=1e-5)
    np.testing.assert_array_equal(pruned.channels.group_of_unit, trace.channels.group_of_unit[plan.keep])
    for normalizer in ("mean", "max"):
        score = normalized_score(unit_importance(trace), trace.channels.group_of_unit, normalizer, plan.keep)[plan.keep]
        rest = normalized_score(unit_importance(trace)[plan.keep], pruned.channels.group_of_unit, normalizer)
        np.testing.assert_allclose(score, rest, rtol=1e-5, atol=1e-5)


def test_importance_is_differentiable():
    trace = trace_model(ZOO["depthwise_separable"]())
    kernel = tf.constant(trace.model.get_layer("stem_conv").kernel)
    keep = tf.ones(trace.channels.num_units)
    with tf.GradientTape() as tape:
        tape.watch([kernel, keep])
        importance = unit_importance(trace, {("stem_conv", "kernel"): kernel}, keep)
        loss = tf.reduce_sum(normalized_score(importance, trace.channels.group_of_unit))
    for gradient in map(tf.convert_to_tensor, tape.gradient(loss, [kernel, keep])):
        assert np.all(np.isfinite(gradient)) and np.any(gradient)


def test_scores_are_safe_for_zeros():
    groups = np.array([0, 0, 1, 1, 2])
    importance = tf.Variable([0.0, 4.0, 0.0, 0.0, 3.0])
    with tf.GradientTape() as tape:
        score = normalized_score(importance, groups)
        total = tf.reduce_sum(score)
    np.testing.assert_allclose(score, [0.5 * np.log(1e-12), 0.5 * np.log(2), *[0.5 * np.log(1e-12)] * 2, 0], rtol=1e-5)
    assert np.all(np.isfinite(tape.gradient(total, importance)))
    np.testing.assert_allclose(normalized_score(importance, groups, "max")[1], 0, atol=1e-6)
    with pytest.raises(ArgumentError, match="'mean' or 'max'"):
        normalized_score(importance, groups, "median")
    model = ZOO["residual"]()
    model.set_weights([np.zeros_like(weight) for weight in model.get_weights()])
    assert make_plan(trace_model(model), speedup=2).speedup >= 2


@pytest.mark.parametrize("criterion", ["group_l2", "group_l2_max", "random", "fisher", "group_l2_fisher", unit_importance])
def test_criteria(criterion):
    trace = trace_model(ZOO["plain_cnn"]())
    statistics = np.random.default_rng(0).normal(size=(trace.channels.num_units, 4))
    plan = make_plan(trace, criterion, speedup=2, statistics=statistics)
    assert 2 <= plan.speedup < 2.5
    if criterion in ("random", "fisher", "group_l2_fisher"):
        return
    weakest = unit_importance(trace).numpy()
    for group in channel_groups(trace):
        if group.prunable and callable(criterion):  # estimated once: within a group the weakest go
            kept = plan.keep[group.units]
            assert kept.all() or weakest[group.units][kept].min() > weakest[group.units][~kept].max()


def test_l2_and_fisher_rank_by_their_product():
    trace = trace_model(ZOO["plain_cnn"]())
    everything = np.ones(trace.channels.num_units, bool)
    fisher = np.random.default_rng(0).gamma(1.0, size=trace.channels.num_units)
    statistics = np.zeros((trace.channels.num_units, 4), np.float32)
    statistics[:, 2] = np.log(fisher)
    scores = scorer(trace, "group_l2_fisher", statistics=statistics)(everything)
    product = unit_importance(trace).numpy() * fisher
    for units in (group.units for group in channel_groups(trace)):
        np.testing.assert_array_equal(np.argsort(scores[units]), np.argsort(product[units]))


def test_added_score_decides():
    trace = trace_model(ZOO["plain_cnn"]())
    free = np.setdiff1d(np.arange(trace.channels.num_units), list(trace.channels.frozen))
    score = np.zeros(trace.channels.num_units)
    score[free[::2]] = -100
    plan = make_plan(trace, speedup=1.5, score=score)
    assert set(np.flatnonzero(~plan.keep)) <= set(free[::2])


def test_mac_terms_sum_to_the_macs_of_the_model():
    model = ZOO["plain_cnn"]()
    terms = mac_terms(trace_model(model))
    assert [term.coefficient for term in terms] == [8 * 8 * 9, 2 * 2 * 9, 1]
    assert total_macs(terms, np.ones(28, bool)) == 8 * 8 * 9 * 3 * 8 + 2 * 2 * 9 * 8 * 12 + 12 * 5


def test_run_masked_is_differentiable_and_takes_weights():
    model = ZOO["residual"]()
    trace, inputs = trace_model(model), random_inputs(model)
    kernel = 2 * tf.constant(model.get_layer("stem_conv").kernel)
    keep = tf.ones(trace.channels.num_units)
    with tf.GradientTape() as tape:
        tape.watch([kernel, keep])
        (output,) = run_masked(trace, keep, inputs, {("stem_conv", "kernel"): kernel})
    for gradient in map(tf.convert_to_tensor, tape.gradient(output, [kernel, keep])):
        assert np.any(gradient)
    expected = replace_weights(model, {("stem_conv", "kernel"): kernel})(inputs[0])
    np.testing.assert_allclose(output, expected, rtol=1e-4, atol=1e-5)
    assert model.get_layer("stem_conv").kernel is model.get_layer("stem_conv").weights[0]


def test_training_bn_uses_the_batch_and_leaves_the_model_alone():
    model = ZOO["residual"]()
    trace, inputs, before = trace_model(model), random_inputs(model), model.get_weights()
    (output,) = run_masked(trace, None, inputs, training_bn=True)
    _assert_same_weights(model, before)
    np.testing.assert_allclose(output, model(inputs[0], training=True), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["residual", "dense_net", "two_inputs_outputs", "layer_norm_mlp"])
def test_reestimated_bn_fits_the_data(name):
    model = ZOO[name]()
    before, inputs = model.get_weights(), random_inputs(model, batch=64)
    data = tuple(inputs) if len(inputs) > 1 else inputs[0]
    repaired = reestimate_bn(model, tf.data.Dataset.from_tensor_slices((data, np.zeros(64))).batch(64))
    _assert_same_weights(model, before)
    batch_mode = run_masked(trace_model(model), None, inputs, training_bn=True)
    for got, expected in zip(_outputs(repaired, inputs), batch_mode, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-4)


def test_bn_inside_of_a_step_is_reestimated():
    layers, inputs = keras.layers, keras.Input((5, 8, 3))
    x = layers.TimeDistributed(layers.Conv1D(6, 3), name="conv")(inputs)
    x = layers.TimeDistributed(layers.BatchNormalization(), name="norm")(x)
    model = randomize(keras.Model(inputs, layers.Dense(2)(layers.Flatten()(x))), "steps")
    x = np.random.default_rng(0).normal(1, 2, (40, 5, 8, 3)).astype(np.float32)
    repaired, hidden = reestimate_bn(model, [x]), model.get_layer("conv")(x).numpy()
    norm = repaired.get_layer("norm").layer
    np.testing.assert_allclose(norm.moving_mean, hidden.mean((0, 1, 2)), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(norm.moving_variance, hidden.var((0, 1, 2)), rtol=1e-3)
    assert not np.allclose(model.get_layer("norm").layer.moving_mean, norm.moving_mean, rtol=0.1)


def test_reestimated_bn_is_the_mean_over_batches_and_calls():
    model = ZOO["shared_layer"]()
    left, right = random_inputs(model, batch=12)
    repaired = reestimate_bn(model, [{"left": left, "right": right}])
    hidden = np.concatenate([model.get_layer("stem")(left), model.get_layer("stem")(right)])
    np.testing.assert_allclose(repaired.get_layer("norm").moving_mean, hidden.mean((0, 1, 2)), rtol=1e-4, atol=1e-6)
    model = ZOO["plain_cnn"]()
    (x,) = random_inputs(model, batch=12)
    repaired = reestimate_bn(model, tf.data.Dataset.from_tensor_slices(x).batch(8))
    hidden = model.get_layer("conv1")(x).numpy()
    np.testing.assert_allclose(repaired.get_layer("bn1").moving_mean, hidden.mean((0, 1, 2)), rtol=1e-4, atol=1e-6)
    single = reestimate_bn(model, tf.data.Dataset.from_tensor_slices(x).batch(1)).get_layer("bn1")
    np.testing.assert_allclose(single.moving_variance, hidden.var((0, 1, 2)), rtol=1e-4)  # not the mean of the variances within images
    of_one_shape = x[:5], np.concatenate([x[5:], x])[:, :6]  # what is put together of batches of two shapes
    wanted = np.average([model.get_layer("conv1")(part).numpy().mean((0, 1, 2)) for part in of_one_shape], 0, [5, 19])
    found = reestimate_bn(model, [x[:5], x[5:, :6], x[:, :6]]).get_layer("bn1")
    np.testing.assert_allclose(found.moving_mean, wanted, rtol=1e-4, atol=1e-6)
    with pytest.raises(DataError, match="at least one batch"):
        reestimate_bn(model, [])
    with pytest.raises(DataError, match="expected inputs of shape"):
        reestimate_bn(model, [np.zeros((4, 10, 10, 2))])
    with pytest.raises(DataError, match="expected 1 inputs, got 2"):
        reestimate_bn(model, [((x, x), x)])


def test_rebuilt_model_keeps_compile_state_and_trainable_flags():
    model = ZOO["residual"]()
    model.get_layer("stem_conv").trainable = False
    model.compile(keras.optimizers.SGD(0.03, momentum=0.9), "sparse_categorical_crossentropy", ["accuracy"])
    trace = trace_model(model)
    pruned = rebuild_model(trace, make_plan(trace, speedup=2))
    assert type(pruned.optimizer) is type(model.optimizer) and np.isclose(pruned.optimizer.learning_rate, 0.03)
    assert [layer.trainable for layer in pruned.layers] == [layer.trainable for layer in model.layers]
    pruned.fit(random_inputs(pruned)[0], np.zeros(4), verbose=0)


def test_bad_arguments():
    model = ZOO["plain_cnn"]()
    trace = trace_model(model)
    for speedup in (0.5, float("nan"), None, "2"):
        with pytest.raises(ArgumentError, match="speedup: expected a MACs ratio of at least 1, got"):
            make_plan(trace, speedup=speedup)
    with pytest.raises(ArgumentError, match=r"floor: expected a share in \[0, 1\], got 2"):
        make_plan(trace, speedup=2, floor=2)
    with pytest.raises(ArgumentError, match=r"step: expected a share in \(0, 1\], got 0"):
        make_plan(trace, speedup=2, step=0)
    with pytest.raises(ArgumentError, match="expected one of group_l2, .* got 'l3'"):
        make_plan(trace, "l3", speedup=2)
    with pytest.raises(ArgumentError, match="'fisher': expected channel statistics"):
        scorer(trace, "fisher")
    with pytest.raises(ArgumentError, match="'group_l2_fisher': expected channel statistics"):
        scorer(trace, "group_l2_fisher")
    with pytest.raises(ArgumentError, match="score: expected 28 finite numbers"):
        make_plan(trace, speedup=2, score=np.full(28, np.nan))
    with pytest.raises(ArgumentError, match="scores: expected 28 finite numbers"):
        make_plan(trace, np.zeros(3), speedup=2)
    with pytest.raises(NothingToPruneError, match="got at most"):
        make_plan(trace, speedup=1000)
    with pytest.raises(ArgumentError, match="got unit 0 dropped .model input."):
        plan_from_keep(trace, np.arange(28) > 0)
    with pytest.raises(ArgumentError, match="a layer with none"):
        plan_from_keep(trace, np.isin(np.arange(28), list(trace.channels.frozen)))
    with pytest.raises(ArgumentError, match="expected JSON with 'groups'"):
        PruningPlan.from_json("[]", trace)
    with pytest.raises(ArgumentError, match="'conv9' with 4 channels, got no such group"):
        PruningPlan.from_json('{"groups": {"conv9": {"size": 4, "dropped": [0]}}}', trace)
    with pytest.raises(ArgumentError, match="got 'kernel' of layer 'conv9'"):
        replace_weights(model, {("conv9", "kernel"): np.zeros(3)})
    with pytest.raises(ArgumentError, match="expected shape .* for 'bias' of layer 'conv1'"):
        replace_weights(model, {("conv1", "bias"): np.zeros(3)})
    linear = keras.Sequential([L.Dense(3, input_shape=(2,))])
    with pytest.raises(NothingToPruneError, match="expected prunable channels, got none .model input"):
        make_plan(trace_model(linear), speedup=2)


# --------------------------------------------------------------------------------------------- what users' models have


def _classifier(head=None):
    inputs = keras.Input((6,))
    hidden = keras.layers.Dense(8, "relu", name="hidden")(inputs)
    return keras.Model(inputs, (head or keras.layers.Dense(3))(hidden))


def test_losses_that_are_added_to_the_model_are_refused_by_name():
    model = _classifier()
    model.add_loss(tf.reduce_mean(model.output))
    with pytest.raises(UnsupportedModelError, match=r"got one of add_loss\(\), 'add_loss'. Make the model without it"):
        trace_model(model)


def test_a_layer_that_is_only_held_is_left_out():
    model = _classifier()
    model.teacher = _classifier()
    small = replace_weights(model, {})
    (x,) = random_inputs(model, batch=4)
    np.testing.assert_array_equal(small(x), model(x))


def test_vocabularies_that_were_adapted_are_refused_by_name():
    lookup = keras.layers.StringLookup(name="words")
    lookup.adapt(tf.constant(["a", "b", "c"]))
    inputs = keras.Input((4,), dtype="string")
    model = keras.Model(inputs, keras.layers.Embedding(8, 4)(lookup(inputs)))
    with pytest.raises(UnsupportedModelError, match="'words' .*expected a vocabulary that was given to its constructor"):
        trace_model(model)


def test_a_layer_without_a_config_is_refused_by_name():
    class Through(keras.layers.Layer):
        def __init__(self, inner):
            super().__init__(name="through")
            self.inner = inner

        def call(self, x):
            return self.inner(x)

    model = _classifier(Through(keras.layers.Dense(3)))
    with pytest.raises(UnsupportedModelError, match="'through' .*expected a layer that can be made again from its config"):
        replace_weights(model, {})


@pytest.mark.parametrize("is_forward_frozen", [True, False])
def test_parts_of_a_layer_that_are_frozen_stay_so_and_keep_their_weights(is_forward_frozen):
    inputs = keras.Input((5, 4))
    both = keras.layers.Bidirectional(keras.layers.LSTM(6, return_sequences=True), name="both")
    model = keras.Model(inputs, keras.layers.Dense(2)(both(inputs)))
    frozen = both.forward_layer if is_forward_frozen else both.backward_layer
    frozen.trainable = False
    again = replace_weights(model, {})
    (x,) = random_inputs(model, batch=4)
    np.testing.assert_allclose(again(x), model(x), rtol=1e-5, atol=1e-6)
    parts = again.get_layer("both").forward_layer, again.get_layer("both").backward_layer
    assert [part.trainable for part in parts] == [not is_forward_frozen, is_forward_frozen]


class Standardized(keras.layers.Conv2D):
    """Computes with a kernel whose mean over what it reads is 0."""

    def convolution_op(self, inputs, kernel):
        return super().convolution_op(inputs, kernel - tf.reduce_mean(kernel, [0, 1, 2]))


class Mixing(keras.layers.GRUCell):
    """A cell whose units hear each other once more."""

    def call(self, inputs, states, training=None):
        output, states = super().call(inputs, states, training)
        return output - tf.reduce_mean(output, -1, keepdims=True), states


@pytest.mark.parametrize(
    "shape, layer", [((6, 6, 3), Standardized(8, 3)), ((5, 4), keras.layers.RNN(Mixing(8)))], ids=["convolution_op", "cell"]
)
def test_what_computes_in_another_way_is_frozen(shape, layer):
    inputs = keras.Input(shape)
    first = keras.layers.Dense(6)(inputs)
    model = keras.Model(inputs, keras.layers.Dense(2)(keras.layers.Flatten()(layer(first))))
    assert not [group for group in channel_groups(trace_model(model)) if group.prunable]


def test_a_functional_model_with_a_call_of_its_own_is_refused():
    class Halved(keras.Model):
        def call(self, inputs, training=None, mask=None):
            return super().call(inputs / 2, training, mask)

    plain = _classifier()
    with pytest.raises(UnsupportedModelError, match="got the subclassed model Halved"):
        trace_model(Halved(plain.input, plain.output))


class Counting(keras.Sequential):
    """Counts its training steps."""

    steps = 0

    def train_step(self, data):
        type(self).steps += 1
        return super().train_step(data)


class Fixed(keras.Sequential):
    """Makes its layers itself."""

    def __init__(self, layers=None, name=None):
        super().__init__([keras.layers.Dense(6, input_shape=(3,)), keras.layers.Dense(2)], name=name)


class Sized(keras.Model):
    """Has a constructor of its own."""

    def __init__(self, units):
        inputs = keras.Input((3,))
        super().__init__(inputs, keras.layers.Dense(2)(keras.layers.Dense(units)(inputs)))


class Scaled(keras.Model):
    """Has an argument and a layer of its own beside inputs and outputs."""

    def __init__(self, inputs, outputs, factor=1.0, **options):
        super().__init__(inputs, outputs, **options)
        self.factor, self.noise = factor, keras.layers.GaussianNoise(0.1)


def test_arguments_of_a_class_are_those_of_the_model():
    plain = _classifier()
    trace = trace_model(Scaled(plain.input, plain.output, factor=0.5))
    small = rebuild_model(trace, make_plan(trace, speedup=2.0))
    assert type(small) is Scaled and small.factor == 0.5


def test_the_class_of_a_model_is_kept_where_it_can_be_made_anew():
    for first in (keras.layers.Dense(6, input_shape=(3,)), keras.layers.Dense(6)):  # with an input layer, and without
        model = Counting([first, keras.layers.Dense(2)], name="counting")
        model.build((None, 3))
        small = rebuild_model(trace_model(model), make_plan(trace_model(model), speedup=2.0))
        assert type(small) is Counting and small.name == "counting" and small.layers[0].units < 6
        small.compile("sgd", "mse", run_eagerly=True)
        before = Counting.steps
        small.fit(np.zeros((4, 3)), np.zeros((4, 2)), batch_size=2, verbose=0)
        assert Counting.steps == before + 2


class Coded(keras.Model):
    """Takes one of its layers beside inputs and outputs."""

    def __init__(self, inputs, outputs, encoder, name=None):
        super().__init__(inputs, outputs, name=name)
        self.encoder = encoder


def _coded():
    inputs, encoder = keras.Input((3,)), keras.layers.Dense(6)
    return Coded(inputs, keras.layers.Dense(2)(encoder(inputs)), encoder)


@pytest.mark.parametrize(
    "make, plain", [(Fixed, keras.Sequential), (lambda: Sized(6), keras.Model), (_coded, keras.Model)], ids=["layers", "sized", "coded"]
)
def test_a_class_that_cannot_be_made_anew_is_told(make, plain):
    trace = trace_model(make())
    with pytest.warns(UserWarning, match=f"a plain {plain.__name__},"):
        small = rebuild_model(trace, make_plan(trace, speedup=2.0))
    assert isinstance(small, plain) and not isinstance(small, (Fixed, Sized, Coded)) and small.layers[-2].units < 6


def test_statistics_of_padded_series_are_those_of_keras():
    inputs = keras.Input((6, 3))
    x = keras.layers.LSTM(5, return_sequences=True)(keras.layers.Masking()(inputs))
    x = keras.layers.LSTM(4, return_sequences=True)(keras.layers.BatchNormalization(momentum=0.0, name="first")(x))
    model = keras.Model(inputs, keras.layers.BatchNormalization(momentum=0.0, name="second")(x))
    series = np.random.default_rng(0).normal(1, 1, (40, 6, 3)).astype(np.float32)
    series[:20, 3:] = 0
    found = reestimate_bn(model, [series])
    model(series, training=True)  # leaves the statistics of the batch
    for name in ("first", "second"):
        for here, there in zip(found.get_layer(name).weights[2:], model.get_layer(name).weights[2:]):
            np.testing.assert_allclose(here, there, rtol=1e-3, atol=1e-5)


def test_a_fixed_batch_size_is_kept_by_the_statistics():
    inputs = keras.Input((8, 3), batch_size=4)
    flat = tf.reshape(keras.layers.Conv1D(6, 3)(inputs), (4, -1, 6))
    model = keras.Model(inputs, keras.layers.BatchNormalization(name="bn")(flat))
    x = np.random.default_rng(0).normal(size=(8, 8, 3)).astype(np.float32)
    found = reestimate_bn(model, [x[:4], x[4:]]).get_layer("bn").moving_mean
    np.testing.assert_allclose(found, model.layers[1](x).numpy().mean((0, 1)), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("activation, axis, is_absorbed", [(None, -1, True), ("linear", 3, True), ("relu", -1, False), (None, 1, False)])
def test_batch_normalization_takes_a_mean_away_only_right_behind_the_layer(activation, axis, is_absorbed):
    inputs = keras.Input((6, 6, 3))
    x = keras.layers.BatchNormalization()(keras.layers.Conv2D(8, 3, padding="same")(inputs))
    x = keras.layers.Conv2D(6, 3, padding="same", use_bias=False, activation=activation, name="second")(x)
    model = keras.Model(inputs, keras.layers.Conv2D(2, 6)(keras.layers.BatchNormalization(axis=axis, name="bn")(x)))
    trace = trace_model(model)
    calls = {channels.call.layer.name: channels for channels in trace.channels.calls}
    assert absorbs_mean(trace, calls["second"], calls["bn"]) == is_absorbed
    plan = make_plan(trace, np.arange(trace.channels.num_units, dtype=np.float32), speedup=1.5, step=1.0)
    fitted = fold_averages(trace, plan.keep)
    assert (("bn", "moving_mean") in fitted.weights) == is_absorbed == (not [why for why in fitted.left_alone if "'second'" in why])
    repair_model(trace, plan, rebuild_model(trace, plan), [random_inputs(model, batch=40)[0]], "least_squares")
