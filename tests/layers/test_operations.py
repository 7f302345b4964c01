"""TensorFlow functions on Keras tensors: what can be pruned behind each, and that pruned equals masked."""

import re

import numpy as np
import pytest
from checks import check_model, randomize_weights

import tfmetaprune.layers.operations  # noqa: F401  (registers its specs)
from tfmetaprune._keras import keras, tf
from tfmetaprune.trace import trace_model

L = keras.layers
WIDTH = 8  # of the two convolutions whose outputs, [batch, 6, 5, 8], an expression computes with
CHANNEL = np.linspace(0.5, 2.0, WIDTH).astype("float32")
MATRIX = np.random.default_rng(0).normal(size=(WIDTH, 5)).astype("float32")
TABLE = np.random.default_rng(1).normal(size=(6, 5, WIDTH)).astype("float32")

# An expression of x and y -> None if the channels of x can be pruned, else why they have to stay.
UNARY = {
    name: (function, None) for name, function in {
        "relu": lambda x, y: tf.nn.relu(x), "relu6": lambda x, y: tf.nn.relu6(x), "sigmoid": lambda x, y: tf.sigmoid(x),
        "tanh": lambda x, y: tf.tanh(x), "gelu": lambda x, y: tf.nn.gelu(x), "exp": lambda x, y: tf.exp(x),
        "sqrt": lambda x, y: tf.sqrt(tf.abs(x)), "rsqrt": lambda x, y: tf.math.rsqrt(tf.square(x) + 1.0),
        "negative": lambda x, y: -x, "cast": lambda x, y: tf.cast(tf.cast(x, "float64"), "float32"),
        "clip": lambda x, y: tf.clip_by_value(x, -1.0, 1.0), "identity": lambda x, y: tf.identity(x),
        "stop_gradient": lambda x, y: tf.stop_gradient(x), "erf": lambda x, y: tf.math.erf(x),
        "softplus": lambda x, y: tf.nn.softplus(x), "leaky_relu": lambda x, y: tf.nn.leaky_relu(x, 0.1),
        "elu": lambda x, y: tf.nn.elu(x), "selu": lambda x, y: tf.nn.selu(x), "swish": lambda x, y: tf.nn.swish(x),
        "hard_swish": lambda x, y: x * tf.nn.relu6(x + 3.0) / 6.0, "log1p": lambda x, y: tf.math.log1p(tf.abs(x)),
        "keras_relu": lambda x, y: keras.activations.relu(x, max_value=2.0), "mish": lambda x, y: keras.activations.mish(x),
        "hard_sigmoid": lambda x, y: keras.activations.hard_sigmoid(x), "floor": lambda x, y: tf.floor(x) + x,
        "ones_like": lambda x, y: x + tf.ones_like(x), "zeros_like": lambda x, y: x + tf.zeros_like(y),
        "ensure_shape": lambda x, y: tf.ensure_shape(x, [None, 6, 5, WIDTH]),
    }.items()
}  # fmt: skip
BINARY = {
    name: (function, None) for name, function in {
        "add": lambda x, y: x + y, "twice": lambda x, y: x + x, "subtract": lambda x, y: x - y,
        "multiply": lambda x, y: x * y, "divide": lambda x, y: x / (tf.abs(y) + 1.0), "power": lambda x, y: x**2,
        "of_two": lambda x, y: 2**x, "maximum": lambda x, y: tf.maximum(x, y), "minimum": lambda x, y: tf.minimum(x, 0.3),
        "from_two": lambda x, y: 2 - x, "floordiv": lambda x, y: x // 0.3 + x, "mod": lambda x, y: x % 0.7,
        "where": lambda x, y: tf.where(x > 0.0, x, y), "where_constant": lambda x, y: tf.where(y > CHANNEL, x, 0.0),
        "logical": lambda x, y: tf.cast((x > 0.0) & ~(y > 0.0), "float32") * x, "compare": lambda x, y: tf.cast(x <= y, "float32"),
        "squared_difference": lambda x, y: tf.math.squared_difference(x, y), "add_n": lambda x, y: tf.add_n([x, y, x]),
        "scale_by_array": lambda x, y: x * CHANNEL, "array_first": lambda x, y: CHANNEL - x,
        "scale_by_tensor": lambda x, y: x * tf.constant(CHANNEL), "scale_by_list": lambda x, y: x * CHANNEL.tolist(),
        "table": lambda x, y: x + TABLE, "table_of_rank_4": lambda x, y: x + TABLE[None, :, :1],
        "positions": lambda x, y: x * np.arange(5.0, dtype="float32")[:, None], "bias_add": lambda x, y: tf.nn.bias_add(x, CHANNEL),
        "squeeze_excite": lambda x, y: x * tf.reduce_mean(y, axis=[1, 2], keepdims=True),
        "batch_normalization": lambda x, y: tf.nn.batch_normalization(x, CHANNEL, CHANNEL, CHANNEL, CHANNEL, 1e-3),
    }.items()
}  # fmt: skip
ALONG_AXES = {
    "softmax": (lambda x, y: tf.nn.softmax(x), "mixes the channels"),
    "softmax_positions": (lambda x, y: tf.nn.softmax(x, axis=1), None),
    "log_softmax_positions": (lambda x, y: tf.nn.log_softmax(x, axis=2), None),
    "l2_normalize": (lambda x, y: tf.math.l2_normalize(x, axis=-1), "mixes the channels"),
    "l2_normalize_positions": (lambda x, y: tf.math.l2_normalize(x, axis=[1, 2]), None),
    "cumsum": (lambda x, y: tf.cumsum(x, axis=1), None),
    "cumsum_channels": (lambda x, y: tf.cumsum(x, axis=-1), "mixes the channels"),
    "sort_channels": (lambda x, y: tf.sort(x), "mixes the channels"),
    "top_k": (lambda x, y: tf.math.top_k(x, 3)[0], "mixes the channels"),
    "roll": (lambda x, y: tf.roll(x, 1, axis=2), None),
    "roll_channels": (lambda x, y: tf.roll(x, 1, axis=-1), "mixes the channels"),
    "lrn": (lambda x, y: tf.nn.local_response_normalization(x), "mixes the channels"),
    "mean": (lambda x, y: tf.reduce_mean(x, axis=[1, 2]), None),
    "mean_keepdims": (lambda x, y: tf.reduce_mean(x, axis=1, keepdims=True), None),
    "max": (lambda x, y: tf.reduce_max(x, axis=2), None),
    "std": (lambda x, y: tf.math.reduce_std(x, axis=[1]), None),
    "norm": (lambda x, y: tf.norm(x, axis=1), None),
    "sum_channels": (lambda x, y: tf.reduce_sum(x * y, axis=-1), None),
    "sum_channels_keepdims": (lambda x, y: tf.reduce_sum(x, axis=-1, keepdims=True), None),
    "mean_channels": (lambda x, y: tf.reduce_mean(x, axis=-1), "mixes the channels"),
    "norm_channels": (lambda x, y: tf.norm(x, axis=-1), "mixes the channels"),
    "argmax_channels": (lambda x, y: tf.cast(tf.argmax(x, axis=-1), "float32"), "mixes the channels"),
    "argmax_positions": (lambda x, y: tf.cast(tf.argmax(x, axis=1), "float32"), None),
    "moments": (lambda x, y: tf.concat(tf.nn.moments(x, [1, 2]), -1), None),
}
MOVES = {
    "concat": (lambda x, y: tf.concat([x, y, x], -1), None),
    "concat_positions": (lambda x, y: tf.concat([x, y], 1), None),
    "concat_constant": (lambda x, y: tf.concat([x, tf.repeat(tf.ones((1, 6, 5, 2)), 3, 0)], -1), "joins them with a constant"),
    "stack": (lambda x, y: tf.reshape(tf.stack([x, y], axis=-1), [-1, 6, 5, 2 * WIDTH]), None),
    "stack_positions": (lambda x, y: tf.stack([x, y], axis=1), None),
    "unstack": (lambda x, y: tf.unstack(x, axis=1)[2], None),
    "split": (lambda x, y: tf.split(x, 2, axis=-1), None),
    "split_sizes": (lambda x, y: tf.split(x, [3, 5], axis=3), None),
    "split_positions": (lambda x, y: tf.split(x, [2, 3], axis=2), None),
    "reshape": (lambda x, y: tf.reshape(x, [-1, 30, WIDTH]), None),
    "reshape_by_shape": (lambda x, y: tf.reshape(x, [tf.shape(x)[0], -1, WIDTH]), None),
    "flatten": (lambda x, y: tf.reshape(x, [-1, 30 * WIDTH]), None),
    "shuffle": (lambda x, y: tf.reshape(tf.transpose(tf.reshape(x, [-1, 6, 5, 2, 4]), [0, 1, 2, 4, 3]), [-1, 6, 5, WIDTH]), None),
    "transpose": (lambda x, y: tf.reduce_mean(tf.transpose(x, [0, 3, 1, 2]), axis=[2, 3]), None),
    "transpose_twice": (lambda x, y: tf.transpose(tf.transpose(x, [0, 3, 1, 2]), [0, 2, 3, 1]), None),
    "squeeze": (lambda x, y: tf.squeeze(x[:, :1], axis=1), None),
    "expand_dims": (lambda x, y: tf.expand_dims(x, 1), None),
    "slice_channels": (lambda x, y: x[..., :5], None),
    "slice_two_ways": (lambda x, y: x[:, 1:-1, :, 2:] + y[:, 2:, :, :-2], None),
    "slice_from_the_end": (lambda x, y: x[..., -3:], None),
    "slice_step": (lambda x, y: x[:, ::2, 1::2], None),
    "slice_channels_step": (lambda x, y: x[..., ::2], "mixes the channels"),
    "slice_reversed": (lambda x, y: x[..., ::-1], None),
    "slice_index": (lambda x, y: x[:, 0], None),
    "slice_newaxis": (lambda x, y: x[:, tf.newaxis, :, 1], None),
    "slice_half": (lambda x, y: x[..., : WIDTH // 2] * tf.sigmoid(x[..., WIDTH // 2 :]), None),
    "slice_by_shape": (lambda x, y: x[:, : tf.shape(y)[1] - 1], None),
    "slice_batch": (lambda x, y: x[: tf.shape(y)[0]], None),
    "tf_slice": (lambda x, y: tf.slice(x, [0, 1, 1, 2], [-1, 4, -1, 4]), None),
    "gather": (lambda x, y: tf.gather(x, [0, 2, 1], axis=1), None),
    "gather_channels": (lambda x, y: tf.gather(x, [3, 0, 7, 1, 1], axis=-1), None),
    "permute_channels": (lambda x, y: tf.gather(x, np.random.default_rng(0).permutation(WIDTH), axis=3), None),
    "gather_grid": (lambda x, y: tf.gather(x, [[0, 2], [1, 1]], axis=1), None),
    "tile": (lambda x, y: tf.tile(x, [1, 1, 2, 2]), None),
    "repeat": (lambda x, y: tf.repeat(x, 2, axis=-1), None),
    "repeat_each": (lambda x, y: tf.repeat(x, [1, 2, 1, 2, 1, 2, 0, 2], axis=-1), None),
    "reverse": (lambda x, y: tf.reverse(x, [1, 3]), None),
    "broadcast_to": (lambda x, y: tf.broadcast_to(x[:, :1], [tf.shape(x)[0], 6, 5, WIDTH]), None),
    "pad": (lambda x, y: tf.pad(x, [[0, 0], [1, 2], [1, 0], [0, 0]]), None),
    "pad_reflect": (lambda x, y: tf.pad(x, [[0, 0], [1, 2], [1, 0], [0, 0]], mode="REFLECT"), None),
    "pad_channels": (lambda x, y: tf.pad(x, [[0, 0], [0, 0], [0, 0], [2, 2]]), "mixes the channels"),
    "space_to_depth": (lambda x, y: tf.nn.space_to_depth(x[:, :, :4], 2), None),
    "depth_to_space": (lambda x, y: tf.nn.depth_to_space(x, 2), "moves channels to positions"),
    "resize": (lambda x, y: tf.image.resize(x, (4, 7)), None),
    "flip": (lambda x, y: tf.image.flip_left_right(x), None),
    "max_pool": (lambda x, y: tf.nn.max_pool2d(x, 2, 2, "SAME"), None),
    "avg_pool": (lambda x, y: tf.nn.avg_pool(x, [1, 2, 2, 1], 1, "VALID"), None),
    "one_hot": (lambda x, y: tf.reduce_sum(tf.one_hot(tf.cast(x > 0.0, "int32"), 3), axis=3), None),
}


def _rows(x):
    return tf.reshape(x, [-1, 30, WIDTH])


PRODUCTS = {
    "matmul": (lambda x, y: tf.matmul(x, y, transpose_b=True), None),
    "matmul_operator": (lambda x, y: tf.reduce_mean(tf.transpose(x, [0, 1, 3, 2]) @ y, axis=[1, 3]), None),
    "matmul_constant": (lambda x, y: x @ tf.constant(MATRIX), None),
    "constant_matmul": (lambda x, y: tf.matmul(tf.constant(TABLE[None, :1, :, :5]), x), None),
    "attention": (lambda x, y: tf.matmul(tf.nn.softmax(tf.matmul(_rows(x), _rows(y), transpose_b=True) * 0.3), _rows(x + y)), None),
    "einsum": (lambda x, y: tf.reduce_mean(tf.einsum("bhwc,bhwd->bcd", x, y), -1), None),
    "einsum_sum": (lambda x, y: tf.einsum("bhwc,bhvc->bhwv", x, y), None),
    "einsum_ellipsis": (lambda x, y: tf.einsum("b...c,cd->b...d", x, MATRIX), None),
    "einsum_per_channel": (lambda x, y: tf.einsum("...c,c->...c", x, CHANNEL), None),
    "tensordot_constant": (lambda x, y: tf.tensordot(x, MATRIX, [[3], [0]]), None),
    "tensordot": (lambda x, y: tf.tensordot(x, tf.ones((2, WIDTH)), [[-1], [1]]), None),
}
OTHERS = {
    "unknown": (lambda x, y: tf.image.adjust_contrast(x, 2.0), "no rule for the operation tf.image.adjust_contrast"),
    "conv2d": (lambda x, y: tf.nn.conv2d(x, np.ones((1, 1, WIDTH, 4), "float32"), 1, "SAME"), "no rule for the operation"),
    "layer_norm": (lambda x, y: (x - tf.reduce_mean(x, -1, keepdims=True)), "mixes the channels"),
    "scale_by_length": (lambda x, y: x / tf.sqrt(tf.cast(tf.shape(x)[-1], "float32")), "computes with their number"),
    "zeros_of_shape": (lambda x, y: tf.concat([x, tf.zeros([tf.shape(x)[0], 6, 1, WIDTH])], 2), "not channels"),
}
EXPRESSIONS = {**UNARY, **BINARY, **ALONG_AXES, **MOVES, **PRODUCTS, **OTHERS}


def _model(expression):
    """conv -> expression -> convolutions -> pooling -> dense."""
    inputs = keras.Input((6, 5, 3))
    x = L.Conv2D(WIDTH, 3, padding="same", activation="tanh", name="x")(inputs)
    y = L.Conv2D(WIDTH, 1, activation="tanh", name="y")(inputs)
    heads = []
    for tensor in tf.nest.flatten(expression(x, y)):
        head = {3: L.Conv1D, 4: L.Conv2D, 5: L.Conv3D}.get(len(tensor.shape))
        if head is not None:
            tensor = head(4, 1, activation="tanh")(tensor)
            tensor = getattr(L, f"GlobalAveragePooling{len(tensor.shape) - 2}D")()(tensor)
        heads.append(L.Dense(3)(tensor))
    # Both convolutions reach the end, whatever the expression reads.
    heads.append(L.Dense(3)(L.GlobalAveragePooling2D()(L.Conv2D(4, 1, activation="tanh")(L.Concatenate()([x, y])))))
    return randomize_weights(keras.Model(inputs, L.Add()(heads)))


@pytest.mark.parametrize("name", EXPRESSIONS)
def test_expression(name, tmp_path):
    expression, reason = EXPRESSIONS[name]
    model = _model(expression)
    channels = trace_model(model).channels
    (made,) = (channels.units(call.roles["out"]) for call in channels.calls if call.call.path == "x")
    reasons = {channels.frozen.get(unit) for unit in made.tolist()}
    if reason is None:
        assert reasons == {None}
    else:
        assert None not in reasons and all(re.search(reason, one) for one in reasons), reasons
    check_model(model, save_path=tmp_path / "pruned.keras" if _can_be_saved(model, tmp_path / "whole.keras") else None)


def _can_be_saved(model, path):
    """Whether tf_keras can write and read the model at all: not with `...` in an index, nor with an einsum."""
    try:
        model.save(path)
        keras.models.load_model(path)
    except (TypeError, ValueError):
        return False
    return True
