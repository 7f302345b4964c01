"""Steps of layers that take one tensor: kernels, normalisation, functions of one input, space, shapes."""

import math

from random_steps.maker import is_large, layer_class, step
from tfmetaprune._keras import keras

L = keras.layers


def _activation(choices):
    return choices.of(None, "relu", "tanh", "gelu", "sigmoid", "elu", "swish")


def _kernel(choices, space):
    return tuple(choices.upto(min(3, length)) for length in space)


def _moved(choices, space, grows=False):
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
    size, arguments = _moved(choices, make.space(x))
    groups = choices.of(1, 1, choices.divisor(width))
    filters = groups * choices.upto(max(8 // groups, 1))
    if rank == 1 and choices.flag() and not make.format(x):
        arguments["padding"] = "causal"
    layer = layer_class("Conv{}D", x)
    return layer(filters, size, groups=groups, name=make.name("conv"), **arguments, **make.format(x))(x)


@step(2, 3, 4)
def pointwise_conv(make, x, choices):
    layer = layer_class("Conv{}D", x)
    return layer(choices.upto(8), 1, activation=_activation(choices), name=make.name("pointwise"), **make.format(x))(x)


@step(2, 3, 4)
def conv_transpose(make, x, choices):
    size, arguments = _moved(choices, make.space(x), grows=True)
    if is_large(x):
        arguments.pop("strides", None)
    layer = layer_class("Conv{}DTranspose", x)
    return layer(choices.upto(6), size, name=make.name("transposed"), **arguments, **make.format(x))(x)


@step(2, 3)
def depthwise(make, x, choices):
    size, arguments = _moved(choices, make.space(x))
    layer = layer_class("DepthwiseConv{}D", x)
    multiplier = 1 if is_large(x) else choices.of(1, 2, 3)
    return layer(size, depth_multiplier=multiplier, name=make.name("depthwise"), **arguments, **make.format(x))(x)


@step(2, 3)
def separable(make, x, choices):
    size, arguments = _moved(choices, make.space(x))
    layer = layer_class("SeparableConv{}D", x)
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
        layers.append(lambda: layer_class("SpatialDropout{}D", x)(0.3, name=name))
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
    return layer_class(kind + "{}D", x)(2, choices.of(None, 1), padding, name=make.name("pool"), **make.format(x))(x)


@step(2, 3, 4)
def global_pooling(make, x, choices):
    kind = choices.of("GlobalAveragePooling", "GlobalMaxPooling")
    layer = layer_class(kind + "{}D", x)
    return layer(keepdims=choices.flag(), name=make.name("global_pool"), **make.format(x))(x)


def _border_format(make, x):
    """The `data_format` argument of padding, cropping and upsampling; those of one dimension have none."""
    return {} if len(x.shape) == 3 else make.format(x)


@step(2, 3, 4)
def zero_padding(make, x, choices):
    rank = len(x.shape) - 2
    amount = (choices.upto(2), choices.upto(2)) if rank == 1 else choices.upto(1)
    return layer_class("ZeroPadding{}D", x)(amount, name=make.name("pad"), **_border_format(make, x))(x)


@step(2, 3, 4)
def cropping(make, x, choices):
    rank = len(x.shape) - 2
    space = tuple(x.shape[1:-1]) if rank == 1 else make.space(x)
    if min(space) < 2:
        return activation(make, x, choices)
    amount = (1, 0) if rank == 1 else ((0, 1),) * rank
    return layer_class("Cropping{}D", x)(amount, name=make.name("crop"), **_border_format(make, x))(x)


@step(2, 3, 4)
def upsampling(make, x, choices):
    rank = len(x.shape) - 2
    if is_large(x):
        return activation(make, x, choices)
    arguments = _border_format(make, x)
    if rank == 2 and x.dtype == "float32" and not arguments and choices.flag():
        arguments = {"interpolation": "bilinear"}
    return layer_class("UpSampling{}D", x)(2, name=make.name("up"), **arguments)(x)


# Shapes


@step(2, 3, 4)
def flatten(make, x, choices):
    return L.Flatten(name=make.name("flatten"), **(make.format(x) if choices.flag() else {}))(x)


def new_shape(x, choices):
    """Returns a shape (batch axis excluded) with as many numbers as `x` has."""
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
    return L.Reshape(new_shape(x, choices), name=make.name("reshape"))(x)


@step(2, 3, 4)
def permute(make, x, choices):
    axes = list(range(1, len(x.shape)))
    turn = choices.upto(len(axes) - 1)
    axes = axes[turn:] + axes[:turn] if choices.flag() else [*axes[:-2], axes[-1], axes[-2]]
    return L.Permute(axes, name=make.name("permute"))(x)


@step(1)
def repeat_vector(make, x, choices):
    return L.RepeatVector(choices.upto(4), name=make.name("repeat"))(x)
