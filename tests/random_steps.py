"""The steps that random models are made of: one small function for every layer kind or TensorFlow operator.

`STEPS` maps a name to a `StepKind`. A step takes a `Maker`, a tensor that suits it and numbers to choose with, and returns
the tensors it makes. Every choice is a valid one, so that every list of steps makes a model.
"""

import dataclasses
import math
from collections.abc import Callable

from zoo import ChannelShift

from tfmetaprune._keras import keras, tf

L = keras.layers
STEPS = {}
VOCABULARY = 7
MAX_NUMBERS = 1200  # a tensor with more is not made larger


@dataclasses.dataclass(frozen=True)
class StepKind:
    """A step: the function, and the ranks of the tensors (batch axis excluded) it takes."""

    apply: Callable
    ranks: tuple[int, ...]


class Choices:
    """Numbers drawn beforehand, used one after the other to choose with; when they run out, zeros."""

    def __init__(self, numbers):
        self._numbers = iter(numbers)

    def of(self, *options):
        """Returns one of the options; the first one for 0."""
        return options[next(self._numbers, 0) % len(options)]

    def upto(self, last: int) -> int:
        """Returns 1, 2, ... or `last`."""
        return 1 + next(self._numbers, 0) % max(last, 1)

    def flag(self) -> bool:
        """Returns False or True."""
        return bool(next(self._numbers, 0) % 2)

    def divisor(self, number: int) -> int:
        """Returns a divisor of `number`."""
        return self.of(*(divisor for divisor in range(1, number + 1) if number % divisor == 0))


class Maker:
    """What a model is made in: the pool of tensors, which of them have channels first, and fresh names."""

    def __init__(self):
        self.pool, self.read, self.channels_first = [], set(), set()
        self.log, self._names = [], {}

    def name(self, kind: str) -> str:
        """Returns a name that no other layer has."""
        self._names[kind] = self._names.get(kind, 0) + 1
        return f"{kind}{self._names[kind]}"

    def add(self, tensor, like=None):
        """Puts a tensor into the pool; its channels lie where those of `like` lie."""
        self.pool.append(tensor)
        if like is not None and id(like) in self.channels_first and len(tensor.shape) == len(like.shape):
            self.channels_first.add(id(tensor))
        return tensor

    def use(self, tensor):
        """Notes that a tensor is read."""
        self.read.add(id(tensor))
        return tensor

    def others(self, tensor, fits) -> list:
        """Returns the tensors of the pool, the last first, for which `fits` holds; `tensor` itself is not among them."""
        return [other for other in reversed(self.pool) if other is not tensor and fits(other)]

    def format(self, x) -> dict:
        """Returns the `data_format` argument for a layer on `x`."""
        return {"data_format": "channels_first"} if id(x) in self.channels_first else {}

    def space(self, x) -> tuple[int, ...]:
        """Returns the lengths of the spatial axes of `x`."""
        return tuple(x.shape[2:]) if id(x) in self.channels_first else tuple(x.shape[1:-1])

    def width(self, x) -> int:
        """Returns the number of channels of `x`."""
        return x.shape[1] if id(x) in self.channels_first else x.shape[-1]

    def axis(self, x) -> int:
        """Returns the channel axis of `x`."""
        return 1 if id(x) in self.channels_first else -1

    def partner(self, x, choices):
        """Returns a tensor of the same shape: one of the pool, or a new one made of `x`."""
        equal = self.others(x, lambda other: other.shape[1:] == x.shape[1:])
        if equal and choices.upto(3) > 1:
            return self.use(choices.of(*equal))
        if id(x) in self.channels_first:
            layer = f"Conv{len(x.shape) - 2}D"
            return getattr(L, layer)(self.width(x), 1, name=self.name("partner"), data_format="channels_first")(x)
        return L.Dense(x.shape[-1], name=self.name("partner"))(x)


def step(*ranks):
    """Registers the decorated function as a step for tensors of these ranks (batch axis excluded)."""

    def decorate(function):
        STEPS[function.__name__] = StepKind(function, ranks)
        return function

    return decorate


def is_large(x) -> bool:
    """Whether a tensor is so large that it must not grow."""
    return math.prod(x.shape[1:]) > MAX_NUMBERS


def _activation(choices):
    return choices.of(None, "relu", "tanh", "gelu", "sigmoid", "elu", "swish")


def _kernel(choices, space):
    return tuple(choices.upto(min(3, length)) for length in space)


def _moved(choices, space, rank, grows=False):
    """Kernel size, strides, dilation, padding and biases that fit the space."""
    size = _kernel(choices, space)
    arguments = {"padding": choices.of("same", "valid"), "use_bias": choices.flag(), "activation": _activation(choices)}
    how = choices.of("plain", "plain", "strides", "dilation")
    if how == "strides":
        arguments["strides"] = 2
    if how == "dilation" and not grows and all(2 * (one - 1) < length for one, length in zip(size, space)):
        arguments["dilation_rate"] = 2
    return size, arguments


# Kernels


@step(2, 3, 4)
def conv(make, x, choices):
    rank, width = len(x.shape) - 2, make.width(x)
    size, arguments = _moved(choices, make.space(x), rank)
    groups = choices.of(1, 1, choices.divisor(width))
    filters = groups * choices.upto(max(8 // groups, 1))
    if rank == 1 and choices.flag() and not make.format(x):
        arguments["padding"] = "causal"
    layer = getattr(L, f"Conv{rank}D")
    return layer(filters, size, groups=groups, name=make.name("conv"), **arguments, **make.format(x))(x)


@step(2, 3, 4)
def pointwise_conv(make, x, choices):
    layer = getattr(L, f"Conv{len(x.shape) - 2}D")
    return layer(choices.upto(8), 1, activation=_activation(choices), name=make.name("pointwise"), **make.format(x))(x)


@step(2, 3, 4)
def conv_transpose(make, x, choices):
    size, arguments = _moved(choices, make.space(x), len(x.shape) - 2, grows=True)
    if is_large(x):
        arguments.pop("strides", None)
    layer = getattr(L, f"Conv{len(x.shape) - 2}DTranspose")
    return layer(choices.upto(6), size, name=make.name("transposed"), **arguments, **make.format(x))(x)


@step(2, 3)
def depthwise(make, x, choices):
    size, arguments = _moved(choices, make.space(x), len(x.shape) - 2)
    layer = getattr(L, f"DepthwiseConv{len(x.shape) - 2}D")
    multiplier = 1 if is_large(x) else choices.of(1, 2, 3)
    return layer(size, depth_multiplier=multiplier, name=make.name("depthwise"), **arguments, **make.format(x))(x)


@step(2, 3)
def separable(make, x, choices):
    size, arguments = _moved(choices, make.space(x), len(x.shape) - 2)
    layer = getattr(L, f"SeparableConv{len(x.shape) - 2}D")
    multiplier = 1 if is_large(x) else choices.of(1, 2)
    return layer(
        choices.upto(8), size, depth_multiplier=multiplier, name=make.name("separable"), **arguments, **make.format(x)
    )(x)


@step(1, 2, 3, 4)
def dense(make, x, choices):
    return L.Dense(choices.upto(8), _activation(choices), use_bias=choices.flag(), name=make.name("dense"))(x)


@step(1, 2, 3)
def einsum_dense(make, x, choices):
    letters = "abcd"[: len(x.shape)]
    rest, last = letters[:-1], letters[-1]
    patterns = [f"{letters},{last}x->{rest}x", f"{letters},{last}xy->{rest}xy"]
    if len(x.shape) > 2:
        patterns += [f"{letters},{letters[-2:]}x->{letters[:-2]}x", f"{letters},{letters[-2:]}xy->{letters[:-2]}xy"]
    pattern = choices.of(*patterns)
    lengths = {"x": choices.upto(6), "y": choices.upto(4)}
    source, made = pattern.split(",")[0], pattern.split(">")[1]
    shape = [lengths[letter] if letter in lengths else x.shape[source.index(letter)] for letter in made[1:]]
    bias = choices.of(None, "x", "xy" if "y" in made else "x")
    return L.EinsumDense(pattern, shape, bias_axes=bias, name=make.name("einsum"))(x)


# Normalisation and functions of one input


@step(1, 2, 3, 4)
def batch_norm(make, x, choices):
    axis = make.axis(x) if choices.upto(6) < 6 else choices.upto(len(x.shape) - 1)
    return L.BatchNormalization(
        axis=axis, scale=not choices.flag(), center=not choices.flag(), name=make.name("batch_norm")
    )(x)


@step(1, 2, 3, 4)
def layer_norm(make, x, choices):
    axes = [make.axis(x)] + ([[-2, -1]] if len(x.shape) > 2 else [])
    return L.LayerNormalization(axis=choices.of(*axes), scale=not choices.flag(), name=make.name("layer_norm"))(x)


@step(1, 2, 3)
def group_norm(make, x, choices):
    groups = choices.divisor(make.width(x))
    if getattr(x, "_keras_mask", None) is not None:  # tf_keras' GroupNormalization fails on masks
        return layer_norm(make, x, choices)
    return L.GroupNormalization(groups, axis=make.axis(x), name=make.name("group_norm"))(x)


@step(1, 2, 3)
def unit_norm(make, x, choices):
    return L.UnitNormalization(axis=make.axis(x), name=make.name("unit_norm"))(x)


@step(1, 2, 3)
def prelu(make, x, choices):
    space = [axis for axis in range(1, len(x.shape)) if axis != make.axis(x) % len(x.shape)]
    return L.PReLU(shared_axes=choices.of(space, None) or None, name=make.name("prelu"))(x)


@step(1, 2, 3, 4)
def activation(make, x, choices):
    name = make.name("activation")
    layer = choices.of(
        lambda: L.ReLU(name=name), lambda: L.LeakyReLU(name=name), lambda: L.ELU(name=name),
        lambda: L.Activation("gelu", name=name), lambda: L.ReLU(3.0, 0.1, 0.2, name=name),
        lambda: L.Softmax(name=name), lambda: L.Activation("softmax", name=name), lambda: L.ThresholdedReLU(0.1, name=name),
    )  # fmt: skip
    return layer()(x)


@step(1, 2, 3, 4)
def regularisation(make, x, choices):
    name, rank = make.name("regularisation"), len(x.shape) - 2
    layers = [
        lambda: L.Dropout(0.3, name=name), lambda: L.GaussianNoise(0.3, name=name),
        lambda: L.GaussianDropout(0.3, name=name), lambda: L.ActivityRegularization(0.1, name=name),
        lambda: L.AlphaDropout(0.3, name=name), lambda: L.Rescaling(2.0, 0.1, name=name),
    ]  # fmt: skip
    if rank:
        layers.append(lambda: getattr(L, f"SpatialDropout{rank}D")(0.3, name=name))
    return choices.of(*layers)()(x)


@step(2)
def masking(make, x, choices):
    return L.Masking(name=make.name("masking"))(x)


@step(2, 3)
def normalization(make, x, choices):
    return L.Normalization(name=make.name("normalization"))(x)


# Space


@step(2, 3, 4)
def pooling(make, x, choices):
    rank, space = len(x.shape) - 2, make.space(x)
    kind = choices.of("MaxPooling", "AveragePooling")
    if min(space) < 2 or (rank == 3 and x.dtype == "float64"):  # TensorFlow has no kernel for these
        return global_pooling(make, x, choices)
    padding = choices.of("valid", "same")
    return getattr(L, f"{kind}{rank}D")(2, choices.of(None, 1), padding, name=make.name("pool"), **make.format(x))(x)


@step(2, 3, 4)
def global_pooling(make, x, choices):
    kind = choices.of("GlobalAveragePooling", "GlobalMaxPooling")
    layer = getattr(L, f"{kind}{len(x.shape) - 2}D")
    return layer(keepdims=choices.flag(), name=make.name("global_pool"), **make.format(x))(x)


@step(2, 3, 4)
def zero_padding(make, x, choices):
    rank = len(x.shape) - 2
    amount = (choices.upto(2), choices.upto(2)) if rank == 1 else choices.upto(1)
    formats = {} if rank == 1 else make.format(x)
    return getattr(L, f"ZeroPadding{rank}D")(amount, name=make.name("pad"), **formats)(x)


@step(2, 3, 4)
def cropping(make, x, choices):
    rank = len(x.shape) - 2
    formats = {} if rank == 1 else make.format(x)
    space = tuple(x.shape[1:-1]) if rank == 1 else make.space(x)
    if min(space) < 2:
        return activation(make, x, choices)
    amount = (1, 0) if rank == 1 else ((0, 1),) * rank
    return getattr(L, f"Cropping{rank}D")(amount, name=make.name("crop"), **formats)(x)


@step(2, 3, 4)
def upsampling(make, x, choices):
    rank = len(x.shape) - 2
    if is_large(x):
        return activation(make, x, choices)
    arguments = {} if rank == 1 else make.format(x)
    if rank == 2 and x.dtype == "float32" and not arguments and choices.flag():
        arguments = {"interpolation": "bilinear"}
    return getattr(L, f"UpSampling{rank}D")(2, name=make.name("up"), **arguments)(x)


# Shapes


@step(2, 3, 4)
def flatten(make, x, choices):
    return L.Flatten(name=make.name("flatten"), **(make.format(x) if choices.flag() else {}))(x)


def _shapes(x, choices):
    lengths, total = list(x.shape[1:]), math.prod(x.shape[1:])
    merged = [[*lengths[:-2], lengths[-2] * lengths[-1]], [lengths[0] * lengths[1], *lengths[2:]]] if len(lengths) > 1 else []
    divisor = choices.divisor(lengths[-1])
    other = choices.divisor(total)
    return choices.of(
        *merged, [*lengths[:-1], divisor, lengths[-1] // divisor], [*lengths[:-1], lengths[-1] // divisor, divisor],
        [1, *lengths], [*lengths, 1], [total // other, other],
    )  # fmt: skip


@step(1, 2, 3)
def reshape(make, x, choices):
    return L.Reshape(_shapes(x, choices), name=make.name("reshape"))(x)


@step(2, 3, 4)
def permute(make, x, choices):
    axes = list(range(1, len(x.shape)))
    turn = choices.upto(len(axes) - 1)
    axes = axes[turn:] + axes[:turn] if choices.flag() else [*axes[:-2], axes[-1], axes[-2]]
    return L.Permute(axes, name=make.name("permute"))(x)


@step(1)
def repeat_vector(make, x, choices):
    return L.RepeatVector(choices.upto(4), name=make.name("repeat"))(x)


# Merges


@step(1, 2, 3, 4)
def merge(make, x, choices):
    kind = choices.of("Add", "Multiply", "Subtract", "Average", "Maximum", "Minimum")
    tensors = [x, make.partner(x, choices)]
    if kind != "Subtract" and choices.upto(4) == 4:
        tensors.append(make.partner(x, choices))
    return getattr(L, kind)(name=make.name(kind.lower()))(tensors)


@step(1, 2, 3, 4)
def residual(make, x, choices):
    if make.format(x):
        return merge(make, x, choices)
    y = L.Dense(choices.upto(8), "relu", name=make.name("residual_up"))(x)
    return L.Add(name=make.name("residual"))([x, L.Dense(x.shape[-1], name=make.name("residual_down"))(y)])


@step(2, 3)
def squeeze_excite(make, x, choices):
    if make.format(x):
        return global_pooling(make, x, choices)
    rank = len(x.shape) - 2
    s = getattr(L, f"GlobalAveragePooling{rank}D")(keepdims=choices.flag(), name=make.name("squeeze"))(x)
    s = L.Dense(choices.upto(4), "relu", name=make.name("reduce"))(s)
    s = L.Dense(choices.of(x.shape[-1], x.shape[-1], 1), "sigmoid", name=make.name("expand"))(s)
    if len(s.shape) == 2:
        s = L.Reshape((*[1] * rank, s.shape[-1]), name=make.name("excite_shape"))(s)
    return choices.of(L.Multiply(name=make.name("excite")), lambda pair: pair[0] * pair[1])([x, s])


@step(1, 2, 3, 4)
def concatenate(make, x, choices):
    axis = choices.upto(len(x.shape) - 1) if choices.upto(3) == 3 else make.axis(x) % len(x.shape)

    def fits(other):
        return len(other.shape) == len(x.shape) and all(
            one == two for i, (one, two) in enumerate(zip(x.shape, other.shape)) if i != axis
        )

    fitting = make.others(x, fits)
    others = [make.use(choices.of(*fitting))] if fitting else [make.partner(x, choices)]
    if choices.upto(4) == 4:
        others.append(x)
    if is_large(x):
        others = others[:1]
    if choices.flag():
        return L.Concatenate(axis=axis, name=make.name("concat"))([x, *others])
    return tf.concat([x, *others], axis)


@step(1, 2)
def dot(make, x, choices):
    other = make.others(x, lambda y: len(y.shape) == len(x.shape) and y.shape[-1] == x.shape[-1])
    other = make.use(choices.of(*other)) if other and choices.flag() else make.partner(x, choices)
    axes = choices.of(-1, -1, 1) if len(x.shape) == 3 and x.shape[1] == other.shape[1] else -1
    return L.Dot(axes=axes, normalize=choices.upto(4) == 4, name=make.name("dot"))([x, other])


# Attention


@step(2, 3)
def attention_heads(make, x, choices):
    kwargs = {"value_dim": choices.of(None, choices.upto(4)), "use_bias": not choices.flag()}
    others = make.others(x, lambda y: len(y.shape) == len(x.shape)) if len(x.shape) == 3 else []
    value = make.use(choices.of(*others)) if others and choices.flag() else x
    if choices.upto(4) == 4:
        kwargs["output_shape"] = choices.upto(6)
    layer = L.MultiHeadAttention(choices.upto(4), choices.upto(4), name=make.name("heads"), **kwargs)
    key = [make.partner(value, choices)] if choices.upto(4) == 4 else []
    return layer(x, value, *key)


@step(2)
def attention(make, x, choices):
    value = make.others(x, lambda y: len(y.shape) == 3 and y.shape[-1] == x.shape[-1])
    value = make.use(choices.of(*value)) if value and choices.flag() else make.partner(x, choices)
    inputs = [x, value] + ([make.partner(value, choices)] if choices.flag() else [])
    if choices.flag():
        return L.AdditiveAttention(use_scale=not choices.flag(), name=make.name("additive"))(inputs)
    scores = choices.of("dot", "concat")
    return L.Attention(use_scale=choices.flag(), score_mode=scores, name=make.name("attention"))(inputs)


# Recurrent layers


def _recurrent(make, choices, **kwargs):
    kind, name = choices.of("LSTM", "GRU", "SimpleRNN"), make.name("recurrent")
    if kind == "GRU":
        kwargs["reset_after"] = not choices.flag()
    return getattr(L, kind)(choices.upto(5), use_bias=not choices.flag(), name=name, **kwargs)


@step(2)
def recurrent(make, x, choices):
    sequences = not choices.flag()
    return _recurrent(make, choices, return_sequences=sequences, go_backwards=choices.upto(4) == 4)(x)


@step(2)
def recurrent_states(make, x, choices):
    outputs = _recurrent(make, choices, return_sequences=True, return_state=True)(x)
    if choices.flag():
        return list(outputs)
    units = outputs[0].shape[-1]
    if len(outputs) != 3:
        return outputs[0]
    return L.LSTM(units, return_sequences=choices.flag(), name=make.name("decoder"))(x, initial_state=list(outputs[1:]))


@step(2)
def bidirectional(make, x, choices):
    layer = _recurrent(make, choices, return_sequences=not choices.flag())
    return L.Bidirectional(layer, merge_mode=choices.of("concat", "sum", "mul", "ave"), name=make.name("both_ways"))(x)


@step(2, 3)
def time_distributed(make, x, choices):
    layers = [lambda: L.Dense(choices.upto(6)), L.BatchNormalization, L.LayerNormalization]
    if len(x.shape) == 4:
        layers += [lambda: L.Conv1D(choices.upto(6), 2, padding="same"), L.Flatten, L.GlobalAveragePooling1D]
    return L.TimeDistributed(choices.of(*layers)(), name=make.name("each_step"))(x)


@step(4)
def conv_lstm(make, x, choices):
    return L.ConvLSTM2D(choices.upto(4), 2, padding="same", return_sequences=choices.flag(), name=make.name("conv_lstm"))(x)


# TensorFlow operators


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
    return tf.reshape(x, [-1, *_shapes(x, choices)])


@step(1, 2, 3)
def split(make, x, choices):
    axis = choices.upto(len(x.shape) - 1) if choices.upto(3) == 3 else len(x.shape) - 1
    length = x.shape[axis]
    if length < 2:
        return tf.nn.relu(x)
    first = choices.upto(length - 1)
    sizes = length // first if length % first == 0 else [first, length - first]
    parts = tf.split(x, sizes, axis=axis)
    return list(parts) if len(parts) <= 4 else list(parts)[:4]


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


# Models, shared layers, layers of one's own


def _inner(make, x, choices, width):
    """A small model over tensors of the shape of `x` that makes `width` channels."""
    inputs, name = keras.Input(x.shape[1:], dtype=x.dtype), make.name("model")
    names = [f"{name}_{i}" for i in range(4)] if choices.flag() else ["inner_a", "inner_b", "inner_c", "inner_d"]
    layers = [L.Dense(choices.upto(8), name=names[0]), L.BatchNormalization(name=names[1]), L.ReLU(name=names[2])]
    last = L.Dense(width, name=names[3])
    how = choices.of("sequential", "functional", "deep")
    if how == "sequential":
        return keras.Sequential([keras.Input(x.shape[1:], dtype=x.dtype), *layers, last], name=name)
    y = inputs
    for layer in layers:
        y = layer(y)
    if how == "deep":
        deep = keras.Sequential([keras.Input(y.shape[1:], dtype=x.dtype), L.Dense(y.shape[-1], name="deepest")], name="deep")
        y = L.Add(name="inner_add")([y, deep(y)])
    return keras.Model(inputs, last(y), name=name)


@step(1, 2, 3)
def nested_model(make, x, choices):
    same = make.others(x, lambda other: other.shape[1:] == x.shape[1:])
    how = choices.of("once", "once", "repeated", "on two")
    model = _inner(make, x, choices, x.shape[-1] if how == "repeated" else choices.upto(6))
    if how == "repeated":
        return model(model(x))
    return [model(x), model(make.use(choices.of(*same)))] if how == "on two" and same else model(x)


@step(1, 2, 3)
def nested_outputs(make, x, choices):
    inputs = [keras.Input(x.shape[1:], dtype=x.dtype) for _ in range(2)]
    hidden = L.Dense(choices.upto(6), "relu", name="hidden")(L.Add(name="sum")(inputs))
    model = keras.Model(inputs, [hidden, L.Dense(choices.upto(6), name="second")(hidden)], name=make.name("pair_model"))
    return list(model([x, make.partner(x, choices)]))


@step(1, 2, 3)
def shared_layer(make, x, choices):
    width, name = x.shape[-1], make.name("shared")
    layer = choices.of(
        lambda: L.Dense(width, name=name), lambda: L.BatchNormalization(name=name),
        lambda: L.LayerNormalization(name=name), lambda: L.Dense(width, "tanh", name=name),
    )()  # fmt: skip
    return layer(layer(x)) if choices.flag() else [layer(x), layer(make.partner(x, choices))]


@step(2, 3)
def shared_conv(make, x, choices):
    if make.format(x):
        return conv(make, x, choices)
    same = make.others(x, lambda y: len(y.shape) == len(x.shape) and y.shape[-1] == x.shape[-1] and not make.format(y))
    layer = getattr(L, f"Conv{len(x.shape) - 2}D")(choices.upto(6), 2, padding="same", name=make.name("shared_conv"))
    return [layer(x), layer(make.use(choices.of(*same)) if same else make.partner(x, choices))]


@step(1, 2, 3)
def unknown_layer(make, x, choices):
    return ChannelShift(name=make.name("unknown"))(x)
