"""Steps of TensorFlow operators."""

from random_steps.layers import new_shape
from random_steps.maker import is_large, step
from tfmetaprune._keras import tf


@step(1, 2, 3, 4)
def operator(make, x, choices):
    how = choices.of("sum", "scale", "relu", "product", "square", "negative", "constant", "reverse")
    if how in ("sum", "product"):
        other = make.partner(x, choices)
        return x + other if how == "sum" else x * other
    functions = {
        "scale": lambda: 0.5 * x + 1.0, "relu": lambda: tf.nn.relu(x), "square": lambda: tf.tanh(x) ** 2,
        "negative": lambda: -x, "constant": lambda: x * [0.5 + i for i in range(x.shape[-1])],
        "reverse": lambda: tf.reverse(x, [len(x.shape) - 1]),
    }  # fmt: skip
    return functions[how]()


@step(1, 2, 3)
def tf_reshape(make, x, choices):
    return tf.reshape(x, [-1, *new_shape(x, choices)])


@step(1, 2, 3)
def split(make, x, choices):
    axis = choices.upto(len(x.shape) - 1) if choices.upto(3) == 3 else len(x.shape) - 1
    length = x.shape[axis]
    if length < 2:
        return tf.nn.relu(x)
    first = choices.upto(length - 1)
    sizes = length // first if length % first == 0 else [first, length - first]
    parts = tf.split(x, sizes, axis=axis)
    return list(parts)[:4]


@step(1, 2, 3, 4)
def part(make, x, choices):
    width = x.shape[-1]
    start, stop = choices.upto(width) - 1, choices.upto(width)
    if start >= stop:
        start, stop = 0, width
    front = (slice(None),) * (len(x.shape) - 1)  # tf_keras cannot save x[..., a:b]
    ranges = (slice(start, stop), slice(None, None, 2), slice(None, None, -1))
    parts = [lambda one=one: x[(*front, one)] for one in ranges]
    if len(x.shape) > 2:
        parts += [lambda: x[:, 0], lambda: x[:, -1:], lambda: x[:, ::2], lambda: x[(*front, 0)]]
    return choices.of(*parts)()


@step(2, 3)
def transpose(make, x, choices):
    axes = list(range(1, len(x.shape)))
    turn = choices.upto(len(axes) - 1)
    return tf.transpose(x, [0, *axes[turn:], *axes[:turn]])


@step(2)
def matmul(make, x, choices):
    other = make.partner(x, choices)
    scores = tf.matmul(x, other, transpose_b=True)
    if choices.flag():
        return scores
    return tf.matmul(tf.nn.softmax(scores / 2.0), make.partner(x, choices))


@step(2, 3)
def reduce(make, x, choices):
    function = choices.of(tf.reduce_mean, tf.reduce_max, tf.reduce_sum)
    axis = choices.of(*([1], list(range(1, len(x.shape) - 1)), [len(x.shape) - 1]))
    if len(axis) == len(x.shape) - 1:
        axis = axis[:-1]
    return function(x, axis=axis, keepdims=choices.flag())


@step(2, 3)
def channel_shuffle(make, x, choices):
    groups = choices.divisor(x.shape[-1])
    space = list(x.shape[1:-1])
    y = tf.reshape(x, [-1, *space, groups, x.shape[-1] // groups])
    last = len(space) + 2
    return tf.reshape(tf.transpose(y, [*range(last - 1), last, last - 1]), [-1, *space, x.shape[-1]])


@step(1, 2, 3)
def other_operators(make, x, choices):
    rank, axis = len(x.shape), choices.upto(len(x.shape) - 1)
    made = [
        lambda: tf.expand_dims(x, axis), lambda: tf.pad(x, [[0, 0]] * axis + [[1, 0]] + [[0, 0]] * (rank - axis - 1)),
        lambda: tf.stack([x, make.partner(x, choices)], axis), lambda: tf.roll(x, 1, axis),
        lambda: tf.gather(x, [0, x.shape[axis] - 1], axis=axis), lambda: tf.nn.softmax(x, axis=axis),
        lambda: tf.tile(x, [1] * axis + [2] + [1] * (rank - axis - 1)),
    ]  # fmt: skip
    if is_large(x):
        made = made[3:6]
    return choices.of(*made)()
