"""The invariants that hold for every model, used by the tests of random models, those of architectures and the benchmark.

Each function checks or measures one of them; `check_model` puts them all to a model.
"""

import collections
import contextlib

import numpy as np

from tfmetaprune._keras import keras, tf
from tfmetaprune.errors import NothingToPruneError
from tfmetaprune.graph import decode_graph, encode_graph
from tfmetaprune.layers import get_weight
from tfmetaprune.pruning import (
    channel_groups,
    cost,
    mac_terms,
    make_plan,
    plan_from_keep,
    rebuild_model,
    run_masked,
)  # fmt: skip
from tfmetaprune.trace import run, trace_model

TOLERANCE = {"float32": 1e-4, "float64": 1e-7}


@contextlib.contextmanager
def floatx(dtype: str):
    """Lets Keras work in another floating-point type by default; some layers round their constants to it."""
    before = keras.backend.floatx()
    keras.backend.set_floatx(dtype)
    try:
        yield
    finally:
        keras.backend.set_floatx(before)


def randomize_weights(model, seed: int = 0):
    """Gives every weight a seeded, non-degenerate value that float32 holds exactly; returns the model."""
    rng = np.random.default_rng(seed)
    for variable in model.weights:
        shape, kind = tuple(variable.shape), variable.name.split("/")[-1].split(":")[0]
        if "kernel" in kind:
            fan_in = shape[:-2] if "depthwise" in kind else shape[:-1]
            value = rng.normal(size=shape) * np.sqrt(1.5 / max(np.prod(fan_in), 1))
        elif "variance" in kind:
            value = rng.uniform(0.5, 1.5, shape)
        elif "gamma" in kind or "scale" in kind:
            value = rng.uniform(0.5, 1.5, shape) * (rng.choice([-1.0, 1.0], shape) if len(shape) else 1.0)
        elif "embedding" in kind:
            value = rng.normal(size=shape)
        elif kind == "count":
            value = np.ones(shape)
        else:  # biases, beta, moving_mean, alpha, ...
            value = 0.3 * rng.normal(size=shape)
        variable.assign(np.asarray(value, "float32").astype(variable.dtype.as_numpy_dtype))
    for layer in model._flatten_layers():
        if hasattr(layer, "finalize_state"):
            layer.finalize_state()
    return model


def random_inputs(model, batch: int = 3, seed: int = 0, vocabulary: int = 7) -> list[np.ndarray]:
    """Returns random inputs, a list in the order of `model.inputs`; integers below `vocabulary` where integers are read."""
    rng, inputs = np.random.default_rng(seed), []
    for tensor in model.inputs:
        dtype = tensor.dtype.as_numpy_dtype
        shape = (tensor.shape[0] or batch, *(length or 5 for length in tensor.shape[1:]))
        numbers = rng.normal(size=shape) if tensor.dtype.is_floating else rng.integers(0, vocabulary, shape)
        inputs.append(numbers.astype(dtype))
    return inputs


def outputs_of(model, inputs) -> list[np.ndarray]:
    """Returns the model's outputs in inference, a flat list of arrays."""
    return [np.asarray(value) for value in tf.nest.flatten(model(inputs if len(inputs) > 1 else inputs[0], training=False))]


def relative_difference(got, expected) -> float:
    """Returns the largest difference between two lists of arrays, relative to the largest number of each array expected."""
    worst = 0.0
    for one, other in zip(got, expected, strict=True):
        one, other = np.asarray(one, "float64"), np.asarray(other, "float64")
        assert one.shape == other.shape, f"shapes {one.shape} and {other.shape}"
        assert np.all(np.isfinite(one)) and np.all(np.isfinite(other)), "not finite"
        scale = np.abs(other).max(initial=0)
        worst = max(worst, float(np.abs(one - other).max(initial=0) / scale) if scale else float(np.abs(one).max(initial=0)))
    return worst


def assert_same_weights(model, values):
    """Asserts that a model's weights have these values, bit for bit."""
    for weight, value in zip(model.get_weights(), values, strict=True):
        np.testing.assert_array_equal(weight, value)


def hidden_units(trace) -> np.ndarray:
    """Returns bool [num_units]: the units that are neither of the model's inputs nor of its outputs."""
    fixed = [unit for unit, reason in trace.channels.frozen.items() if reason in ("model input", "model output")]
    hidden = np.ones(trace.channels.num_units, bool)
    hidden[fixed] = False
    return hidden


def prunable_units(trace) -> np.ndarray:
    """Returns bool [num_units]: the units that are not frozen, in groups that can lose one."""
    prunable = np.zeros(trace.channels.num_units, bool)
    for group in channel_groups(trace):
        prunable[group.units] = group.prunable
    prunable[list(trace.channels.frozen)] = False
    return prunable


def prunable_macs_share(trace) -> float:
    """Returns the share of the MACs in products that read or make prunable channels."""
    prunable = prunable_units(trace)
    total = within = 0
    for term in mac_terms(trace):
        macs = term.coefficient * int(np.prod([len(units) for units in term.axes], dtype=np.int64))
        total += macs
        within += macs * any(prunable[units].any() for units in term.axes)
    return within / total if total else 1.0


def half_plan(trace, seed: int = 0):
    """Returns the plan that drops a random half of the units of every prunable group; one stays on every axis of a tensor."""
    rng, keep = np.random.default_rng(seed), np.ones(trace.channels.num_units, bool)
    prunable = prunable_units(trace)
    groups = [group.units for group in channel_groups(trace)]
    for units in groups:
        free = units[prunable[units]]
        keep[rng.permutation(free)[: len(free) // 2]] = False
    made = [trace.channels.units(layout) for call in trace.channels.calls for layout in call.roles.values()]
    made += [trace.channels.units(layout) for axes in trace.channels.tensors for layout in axes.values()]
    for units in (*groups, *made):
        if len(units) and not keep[units].any():
            keep[rng.choice(units)] = True
    return plan_from_keep(trace, keep)


def check_round_trip(trace):
    """Asserts that encoding the model as a graph and decoding the graph gives back every registered weight's bits."""
    decoded = decode_graph(encode_graph(trace), trace)
    expected = {
        (call.call.path, weight): get_weight(call.call.layer, weight)
        for call in trace.channels.calls
        for weight, axes in call.weights.items() if axes.source or axes.target  # others belong to no channel
    }
    assert decoded.keys() == expected.keys(), f"weights in the graph: {decoded.keys() ^ expected.keys()}"
    for name, variable in expected.items():
        assert decoded[name].shape == variable.shape and decoded[name].dtype == variable.dtype, name
        assert decoded[name].numpy().tobytes() == variable.numpy().tobytes(), f"round trip of {name}"


def check_empty_plan(trace, inputs, expected):
    """Asserts that keeping everything gives an equal, separate model."""
    model = trace.model
    copy = rebuild_model(trace, plan_from_keep(trace, np.ones(trace.channels.num_units, bool)))
    assert type(copy) is type(model) and copy.name == model.name and _layer_configs(copy) == _layer_configs(model)
    called = [id(step.layer) for step in trace.root.steps]
    # The calls of a shared layer or model are made again in the order of their depth, which need not be that of their numbers.
    if len(set(called)) == len(called) and all(len(call.layer.inbound_nodes) == 1 for call in trace.calls):
        for one, other in zip(copy.get_config()["layers"], model.get_config()["layers"], strict=True):
            assert one == other, f"the config of layer {other['name']!r} changed: {one} instead of {other}"
        assert copy.get_config() == model.get_config()
    assert_same_weights(copy, model.get_weights())
    assert not {id(weight) for weight in copy.weights} & {id(weight) for weight in model.weights}
    assert relative_difference(outputs_of(copy, inputs), expected) <= TOLERANCE[str(model.outputs[0].dtype.name)] / 100


def _layer_configs(model):
    """The layers' own configs in order, without how they are connected."""
    return [_layer_configs(one) if isinstance(one, keras.Model) else one.get_config() for one in model.layers]


def check_made_plan(trace, inputs, seed: int = 0):
    """Asserts that a plan which `make_plan` chose by random scores, nearly as small as can be, makes a model that is exact."""
    if not prunable_units(trace).any() or not cost(trace).macs:
        return
    scores = np.random.default_rng(seed).normal(size=trace.channels.num_units)
    try:
        plan = make_plan(trace, scores, speedup=1e9, floor=0.0, step=1.0)
    except NothingToPruneError as error:
        reachable = float(str(error).split("at most ")[1].split(" ")[0])
        if reachable < 1.02:
            return
        plan = make_plan(trace, scores, speedup=reachable**0.8, floor=0.0, step=1.0)
    check_pruned(trace, plan, inputs)


def check_pruned(trace, plan, inputs):
    """Asserts that the model a plan makes equals the masked original and costs what was foretold; returns that model."""
    pruned = rebuild_model(trace, plan)
    tolerance = max(TOLERANCE[tensor.dtype.name] for tensor in trace.model.outputs)
    difference = relative_difference(outputs_of(pruned, inputs), run_masked(trace, plan.keep, inputs))
    assert difference <= tolerance, f"pruned and masked differ by {difference:.2g} of the outputs' scale"
    check_cost(trace, plan, pruned)
    return pruned


def check_cost(trace, plan, pruned):
    """Asserts that MACs and parameters foretold for a plan are those counted on the model that was built."""
    counted, retraced = cost(trace, plan.keep), cost(trace_model(pruned))
    assert cost(trace).parameters == trace.model.count_params()
    assert counted.parameters == pruned.count_params() == retraced.parameters, "parameters"
    assert counted.macs == plan.macs_after == retraced.macs, f"MACs {counted.macs}, {plan.macs_after}, {retraced.macs}"


def check_saved(model, inputs, path):
    """Asserts that a model, saved in .keras and loaded, puts out the same."""
    model.save(path)
    loaded = keras.models.load_model(path)
    assert_same_weights(loaded, model.get_weights())
    assert relative_difference(outputs_of(loaded, inputs), outputs_of(model, inputs)) <= 1e-6


def check_model(model, seed: int = 0, save_path=None) -> float:
    """Asserts every invariant of a model.

    Args:
      model: a tf_keras model with non-degenerate weights.
      seed: draws the inputs and the channels that go.
      save_path: where the pruned model is saved and loaded; None to leave that out.

    Returns:
      The share of its hidden units that are prunable.
    """
    with floatx("float64" if any(tensor.dtype == "float64" for tensor in model.outputs) else "float32"):
        return _check_model(model, seed, save_path)


def _check_model(model, seed, save_path):
    before, config = [value.copy() for value in model.get_weights()], model.get_config()
    inputs = random_inputs(model, seed=seed)
    tolerance = max(TOLERANCE[tensor.dtype.name] for tensor in model.outputs)
    expected = outputs_of(model, inputs)
    trace = trace_model(model)
    assert relative_difference(run(trace, inputs), expected) <= tolerance / 100, "run(trace) is not the model"
    check_empty_plan(trace, inputs, expected)
    pruned = check_pruned(trace, half_plan(trace, seed), inputs)
    if seed % 3 == 0:
        check_made_plan(trace, inputs, seed)
    if save_path is not None:
        check_saved(pruned, inputs, save_path)
    check_round_trip(trace)
    assert_same_weights(model, before)
    assert model.get_config() == config, "the original's config changed"
    hidden = hidden_units(trace)
    return float(np.mean(prunable_units(trace)[hidden])) if hidden.any() else 0.0


def kinds_of(trace) -> collections.Counter:
    """Counts the layer kinds that a model calls; a TensorFlow operator counts by its name."""
    return collections.Counter(
        call.layer.get_config()["function"] if type(call.layer).__name__ == "TFOpLambda" else type(call.layer).__name__
        for call in trace.calls
    )
