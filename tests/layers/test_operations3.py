"""Keras 3 operations on Keras tensors: what can be pruned behind each, and that pruned equals masked."""

import re

import numpy as np
import pytest
from checks import TOLERANCE, check_cost, half_plan, outputs_of, random_inputs, randomize_weights, relative_difference

from tfmetaprune.pruning import rebuild_model, run_masked
from tfmetaprune.trace import trace_model

keras = pytest.importorskip("keras")
ops = keras.ops
WIDTH = 8  # of the two convolutions whose outputs, [batch, 6, 5, 8], an expression computes with
CHANNEL = np.linspace(0.5, 2.0, WIDTH).astype("float32")
MATRIX = np.random.default_rng(0).normal(size=(WIDTH, 5)).astype("float32")

# An expression of x and y -> None if the channels of x can be pruned, else why they have to stay.
EXPRESSIONS = {
    "relu": (lambda x, y: ops.relu(x), None), "silu": (lambda x, y: ops.silu(x), None),
    "hard_silu": (lambda x, y: ops.hard_silu(x), None), "clip": (lambda x, y: ops.clip(x, -1.0, 1.0), None),
    "add": (lambda x, y: x + y, None), "from_two": (lambda x, y: 2 - x, None), "power": (lambda x, y: x**2, None),
    "clip_arrays": (lambda x, y: ops.clip(x, -CHANNEL / 9, CHANNEL / 5), None),
    "log_softmax": (lambda x, y: ops.log_softmax(x, axis=2), None), "cumsum": (lambda x, y: ops.cumsum(x, axis=1), None),
    "argmax": (lambda x, y: ops.cast(ops.argmax(x, axis=1), "float32"), None), "unstack": (lambda x, y: ops.unstack(x, axis=1)[1], None),
    "broadcast_to": (lambda x, y: ops.broadcast_to(x[:, :, :1], (3, 6, 5, WIDTH)), None),
    "moments": (lambda x, y: ops.concatenate(ops.moments(x, (1, 2)), -1), None),
    "one_hot": (lambda x, y: ops.sum(ops.one_hot(ops.cast(x > 0, "int32"), 3), axis=3), None),
    "take_all_axes": (lambda x, y: x * ops.take(ops.sigmoid(y), [0, 0, 0, 0, 0], axis=2), None),
    "sum_positions": (lambda x, y: ops.sum(x, axis=(1, 2)), None),
    "logical": (lambda x, y: ops.where(ops.logical_and(x > 0, y > 0), x, 0.0), None),
    "space_to_depth": (lambda x, y: ops.nn.space_to_depth(x[:, :, :4], 2), None),
    "where": (lambda x, y: ops.where(x > 0, x, y), None), "negative": (lambda x, y: -x, None),
    "scale_by_array": (lambda x, y: x * CHANNEL, None), "array_first": (lambda x, y: ops.maximum(CHANNEL, x), None),
    "cast": (lambda x, y: ops.cast(ops.cast(x, "float64"), "float32"), None), "ones_like": (lambda x, y: x + ops.ones_like(y), None),
    "softmax": (lambda x, y: ops.softmax(x), "mixes the channels"),
    "softmax_positions": (lambda x, y: ops.softmax(x, axis=1), None),
    "mean": (lambda x, y: ops.mean(x, axis=(1, 2)), None),
    "max_keepdims": (lambda x, y: x * ops.max(y, axis=(1, 2), keepdims=True), None),
    "mean_channels": (lambda x, y: ops.mean(x, axis=-1), "mixes the channels"),
    "sum_channels": (lambda x, y: ops.sum(x * y, axis=-1), None),
    "var": (lambda x, y: ops.var(x, axis=1), None),
    "norm": (lambda x, y: ops.norm(x, axis=-1), "mixes the channels"),
    "normalize_positions": (lambda x, y: ops.normalize(x, axis=1), None),
    "concatenate": (lambda x, y: ops.concatenate([x, y], axis=-1), None),
    "stack": (lambda x, y: ops.reshape(ops.stack([x, y], axis=-1), (-1, 6, 5, 2 * WIDTH)), None),
    "split": (lambda x, y: ops.split(x, 2, axis=-1), None),
    "split_at": (lambda x, y: ops.split(x, [3], axis=-1), None),
    "reshape": (lambda x, y: ops.reshape(x, (-1, 30, WIDTH)), None),
    "shuffle": (lambda x, y: ops.reshape(ops.transpose(ops.reshape(x, (-1, 6, 5, 2, 4)), (0, 1, 2, 4, 3)), (-1, 6, 5, WIDTH)), None),
    "transpose": (lambda x, y: ops.mean(ops.transpose(x, (0, 3, 1, 2)), (2, 3)), None),
    "moveaxis": (lambda x, y: ops.moveaxis(x, 1, 2), None), "swapaxes": (lambda x, y: ops.swapaxes(x, 1, 2), None),
    "squeeze": (lambda x, y: ops.squeeze(ops.expand_dims(x, 1), 1), None),
    "slice": (lambda x, y: x[:, 1:, :, 2:7], None), "slice_index": (lambda x, y: x[:, 0, None], None),
    "slice_step": (lambda x, y: x[..., ::2], "mixes the channels"),
    "ops_slice": (lambda x, y: ops.slice(x, (0, 1, 1, 2), (1, 2, 2, 4)), None),
    "take": (lambda x, y: ops.take(x, [3, 0, 7, 1, 1], axis=-1), None), "repeat": (lambda x, y: ops.repeat(x, 2, axis=-1), None),
    "tile": (lambda x, y: ops.tile(x, (1, 1, 2, 2)), None), "flip": (lambda x, y: ops.flip(x, axis=1), None),
    "roll": (lambda x, y: ops.roll(x, 1, axis=-1), "mixes the channels"),
    "pad": (lambda x, y: ops.pad(x, ((0, 0), (1, 2), (1, 0), (0, 0))), None),
    "pad_channels": (lambda x, y: ops.pad(x, ((0, 0), (0, 0), (0, 0), (2, 2))), "mixes the channels"),
    "average_pool": (lambda x, y: ops.average_pool(x, 2), None), "resize": (lambda x, y: ops.image.resize(x, (4, 7)), None),
    "matmul": (lambda x, y: ops.matmul(x, ops.transpose(y, (0, 1, 3, 2))), None),
    "matmul_constant": (lambda x, y: ops.matmul(x, MATRIX), None),
    "einsum": (lambda x, y: ops.einsum("bhwc,bhvc->bhwv", x, y), None),
    "einsum_constant": (lambda x, y: ops.einsum("bhwc,cd->bhwd", x, MATRIX), None),
    "tensordot": (lambda x, y: ops.tensordot(x, MATRIX, axes=1), None),
    "unknown": (lambda x, y: ops.image.gaussian_blur(x, (3, 3)), "no rule for the operation keras.ops GaussianBlur"),
}  # fmt: skip


def _model(expression):
    """conv -> expression -> convolutions -> pooling -> dense, in Keras 3."""
    layers = keras.layers
    inputs = keras.Input((6, 5, 3))
    x = layers.Conv2D(WIDTH, 3, padding="same", activation="tanh", name="x")(inputs)
    y = layers.Conv2D(WIDTH, 1, activation="tanh", name="y")(inputs)
    made = expression(x, y)
    heads = []
    for tensor in made if isinstance(made, (list, tuple)) else [made]:
        head = {3: layers.Conv1D, 4: layers.Conv2D}.get(len(tensor.shape))
        if head is not None:
            tensor = head(4, 1, activation="tanh")(tensor)
            tensor = getattr(layers, f"GlobalAveragePooling{len(tensor.shape) - 2}D")()(tensor)
        heads.append(layers.Dense(3)(tensor))
    both = layers.Conv2D(4, 1, activation="tanh")(layers.Concatenate()([x, y]))
    heads.append(layers.Dense(3)(layers.GlobalAveragePooling2D()(both)))
    return keras.Model(inputs, layers.Add()(heads))


@pytest.mark.parametrize("name", EXPRESSIONS)
def test_expression(name):
    from tfmetaprune.interop.forward import to_tf_keras  # imports Keras 3

    expression, reason = EXPRESSIONS[name]
    model = randomize_weights(to_tf_keras(_model(expression)))
    trace = trace_model(model)
    channels = trace.channels
    (made,) = (channels.units(call.roles["out"]) for call in channels.calls if call.call.path == "x")
    reasons = {channels.frozen.get(unit) for unit in made.tolist()}
    if reason is None:
        assert reasons == {None}
    else:
        assert None not in reasons and all(re.search(reason, one) for one in reasons), reasons
    inputs, plan = random_inputs(model), half_plan(trace)
    pruned = rebuild_model(trace, plan)
    assert relative_difference(outputs_of(pruned, inputs), run_masked(trace, plan.keep, inputs)) <= TOLERANCE["float32"]
    check_cost(trace, plan, pruned)
