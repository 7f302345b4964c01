"""Families of small networks to make data models of; widths and depths are given, or drawn by number.

Every function returns an uncompiled tf_keras model that puts out logits, made of nothing but layers that Keras ships. Images are
(height, width, channels), series are (time, channels).
"""

import functools
import zlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from tfmetaprune._keras import keras
from tfmetaprune.errors import ArgumentError

WIDTHS = (16, 32, 64)
PARAMETERS = 20_000, 150_000  # what a drawn architecture has
_MAX_PATCHES = {2: 16, 3: 7}  # along each axis, by the rank of the input shape


def residual_cnn(input_shape, num_classes, *, widths=WIDTHS, seed=0):
    """Builds a small residual network: a stem and one basic block a width, each after the first at half resolution.

    Args:
      input_shape: (height, width, channels) of one image.
      num_classes: number of outputs; they are logits.
      widths: channels of each stage.
      seed: of the initial weights.

    Returns:
      An uncompiled tf_keras model; with the default widths it has 77.7 thousand parameters.

    Example:
      >>> residual_cnn((8, 8, 1), 10).output_shape
      (None, 10)
    """
    keras.utils.set_random_seed(seed)
    inputs = keras.Input(input_shape)
    x = keras.layers.ReLU()(_conv_bn(inputs, widths[0], 3))
    for stage, width in enumerate(widths):
        strides = 1 if stage == 0 else 2
        y = keras.layers.ReLU()(_conv_bn(x, width, 3, strides))
        y = _conv_bn(y, width, 3)
        if x.shape[-1] != width or strides != 1:
            x = _conv_bn(x, width, 1, strides)
        x = keras.layers.ReLU()(keras.layers.Add()([x, y]))
    return _pooled(inputs, x, num_classes)


def plain_cnn(input_shape, num_classes, *, widths=WIDTHS, depth=2, seed=0):
    """Builds a network of convolutions one after the other, each stage after the first at half resolution.

    Args:
      input_shape: (height, width, channels) of one image.
      num_classes: number of outputs; they are logits.
      widths: channels of each stage.
      depth: convolutions a stage.
      seed: of the initial weights.

    Example:
      >>> plain_cnn((8, 8, 1), 10).output_shape
      (None, 10)
    """
    keras.utils.set_random_seed(seed)
    x = inputs = keras.Input(input_shape)
    for stage, width in enumerate(widths):
        for number in range(depth):
            x = keras.layers.ReLU()(_conv_bn(x, width, 3, 2 if stage and not number else 1))
    return _pooled(inputs, x, num_classes)


def separable_cnn(input_shape, num_classes, *, widths=(32, 64, 96, 128), depth=2, seed=0):
    """Builds a network like MobileNet: after a stem, depthwise convolutions alternate with those of one pixel.

    Args:
      input_shape: (height, width, channels) of one image.
      num_classes: number of outputs; they are logits.
      widths: channels of the stem and of each stage; the last two stages halve the resolution.
      depth: pairs of convolutions a stage.
      seed: of the initial weights.

    Example:
      >>> separable_cnn((8, 8, 1), 10).output_shape
      (None, 10)
    """
    keras.utils.set_random_seed(seed)
    inputs = keras.Input(input_shape)
    x = keras.layers.ReLU()(_conv_bn(inputs, widths[0], 3))
    for stage, width in enumerate(widths[1:], 1):
        for number in range(depth):
            strides = 2 if stage >= len(widths) - 2 and not number else 1
            x = keras.layers.DepthwiseConv2D(3, strides, "same", use_bias=False)(x)
            x = keras.layers.ReLU()(_batch_norm(x))
            x = keras.layers.ReLU()(_conv_bn(x, width, 1))
    return _pooled(inputs, x, num_classes)


def concat_cnn(input_shape, num_classes, *, stem=24, growth=14, depth=3, blocks=3, seed=0):
    """Builds a network like DenseNet: each convolution reads all that came before it in its block.

    Args:
      input_shape: (height, width, channels) of one image.
      num_classes: number of outputs; they are logits.
      stem: channels of the first convolution.
      growth: channels that each convolution adds.
      depth: convolutions a block.
      blocks: number of blocks; between two of them channels and resolution are halved.
      seed: of the initial weights.

    Example:
      >>> concat_cnn((8, 8, 1), 10).output_shape
      (None, 10)
    """
    keras.utils.set_random_seed(seed)
    inputs = keras.Input(input_shape)
    x = keras.layers.Conv2D(stem, 3, padding="same", use_bias=False)(inputs)
    for block in range(blocks):
        if block:
            y = keras.layers.ReLU()(_batch_norm(x))
            x = keras.layers.Conv2D(x.shape[-1] // 2, 1, use_bias=False)(y)
            x = keras.layers.AveragePooling2D(padding="same")(x)
        for _ in range(depth):
            y = keras.layers.ReLU()(_batch_norm(x))
            y = keras.layers.Conv2D(growth, 3, padding="same", use_bias=False)(y)
            x = keras.layers.Concatenate()([x, y])
    return _pooled(inputs, keras.layers.ReLU()(_batch_norm(x)), num_classes)


def series_cnn(input_shape, num_classes, *, widths=(32, 64, 96), kernel_sizes=(7, 5, 3), depth=1, seed=0):
    """Builds a network of one-dimensional convolutions.

    Args:
      input_shape: (time, channels) of one series.
      num_classes: number of outputs; they are logits.
      widths: channels of each stage; all stages after the first halve the resolution.
      kernel_sizes: of the convolutions of each stage.
      depth: convolutions a stage.
      seed: of the initial weights.

    Example:
      >>> series_cnn((24, 1), 2).output_shape
      (None, 2)
    """
    keras.utils.set_random_seed(seed)
    x = inputs = keras.Input(input_shape)
    for stage, (width, size) in enumerate(zip(widths, kernel_sizes)):
        for number in range(depth):
            strides = 2 if stage and not number else 1
            x = keras.layers.Conv1D(width, size, strides, "same", use_bias=False)(x)
            x = keras.layers.ReLU()(_batch_norm(x))
    return _pooled(inputs, x, num_classes)


def mlp(input_shape, num_classes, *, widths=(128, 128, 128), seed=0):
    """Builds dense layers with LayerNormalization, for inputs of any shape.

    Args:
      input_shape: of one input.
      num_classes: number of outputs; they are logits.
      widths: of the hidden layers.
      seed: of the initial weights.

    Example:
      >>> mlp((8, 8, 1), 10).output_shape
      (None, 10)
    """
    keras.utils.set_random_seed(seed)
    inputs = keras.Input(input_shape)
    x = keras.layers.Flatten()(inputs)
    for width in widths:
        x = keras.layers.ReLU()(keras.layers.LayerNormalization()(keras.layers.Dense(width)(x)))
    return keras.Model(inputs, keras.layers.Dense(num_classes)(x))


def vit(input_shape, num_classes, *, width=32, depth=2, heads=4, ratio=2.0, seed=0):
    """Builds a small vision transformer; of series it reads segments.

    Two things make it learn from little: a convolution before the patches are cut (arXiv 2106.14881), and an output layer that reads
    every patch, not their average. Where a patch lies is told by a depthwise convolution over the patches, added to them: its
    padding shows the border (conditional positional encoding, arXiv 2102.10882).

    Args:
      input_shape: (height, width, channels) of one image, or (time, channels) of one series.
      num_classes: number of outputs; they are logits.
      width: channels between the blocks; a multiple of `heads`.
      depth: number of blocks.
      heads: of the attention.
      ratio: hidden channels of the dense part of a block, as a multiple of `width`.
      seed: of the initial weights.

    Example:
      >>> vit((8, 8, 1), 10).output_shape, vit((24, 1), 2).output_shape
      ((None, 10), (None, 2))
    """
    keras.utils.set_random_seed(seed)
    layers, rank = keras.layers, len(input_shape)
    conv, depthwise = (
        (layers.Conv2D, layers.DepthwiseConv2D) if rank == 3 else (layers.Conv1D, layers.DepthwiseConv1D)
    )  # fmt: skip
    patch = tuple(max(2, -(-length // _MAX_PATCHES[rank])) for length in input_shape[:-1])
    inputs = keras.Input(input_shape)
    x = layers.LayerNormalization()(conv(24, 3, padding="same")(inputs))
    x = conv(width, patch, patch)(layers.Activation("gelu")(x))
    x = layers.Add()([x, depthwise(3, padding="same")(x)])
    if rank == 3:
        x = layers.Reshape((x.shape[1] * x.shape[2], width))(x)
    for _ in range(depth):
        y = layers.LayerNormalization()(x)
        x = layers.Add()([x, layers.MultiHeadAttention(heads, width // heads)(y, y)])
        y = layers.Dense(int(ratio * width), "gelu")(layers.LayerNormalization()(x))
        x = layers.Add()([x, layers.Dense(width)(y)])
    x = layers.Flatten()(layers.LayerNormalization()(x))
    return keras.Model(inputs, layers.Dense(num_classes)(x))


class Family(NamedTuple):
    """A kind of architecture.

    Attributes:
      build: a callable(input_shape, num_classes, *, seed, and what `draw` returns) -> an uncompiled model.
      draw: a callable(`numpy.random.Generator`) -> keyword arguments of `build`.
      ranks: the lengths of the input shapes it is for.
    """

    build: Callable
    draw: Callable
    ranks: tuple[int, ...]


def _widths(rng, first, growths, count):
    """Widths that grow by a factor each, multiples of 4."""
    width, result = rng.uniform(*first), []
    for _ in range(count):
        result.append(4 * max(2, round(width / 4)))
        width *= rng.uniform(*growths)
    return tuple(result)


def _draw_residual(rng):
    return {"widths": _widths(rng, (10, 24), (1.2, 2.2), rng.integers(2, 5))}


def _draw_plain(rng):
    return {"widths": _widths(rng, (12, 28), (1.3, 2.2), rng.integers(2, 4)), "depth": int(rng.integers(1, 4))}


def _draw_separable(rng):
    return {"widths": _widths(rng, (20, 40), (1.2, 2.0), rng.integers(3, 5)), "depth": int(rng.integers(1, 4))}


def _draw_concat(rng):
    return {
        "stem": int(4 * rng.integers(4, 9)), "growth": int(2 * rng.integers(5, 11)),
        "depth": int(rng.integers(2, 5)), "blocks": int(rng.integers(2, 4)),
    }  # fmt: skip


def _draw_series(rng):
    sizes = [(7, 5, 3), (9, 5, 3), (5, 5, 5), (5, 3, 3)][rng.integers(4)]
    return {"widths": _widths(rng, (20, 48), (1.2, 2.0), 3), "kernel_sizes": sizes, "depth": int(rng.integers(1, 3))}


def _draw_mlp(rng):
    return {"widths": _widths(rng, (80, 200), (0.6, 1.2), rng.integers(2, 5))}


def _draw_vit(rng):
    heads = int(rng.choice([2, 4]))
    return {
        "width": 8 * int(rng.integers(3, 8)), "heads": heads, "depth": int(rng.integers(1, 4)), "ratio": float(rng.choice([1.5, 2, 3]))
    }  # fmt: skip


FAMILIES = {
    "plain_cnn": Family(plain_cnn, _draw_plain, (3,)),
    "residual_cnn": Family(residual_cnn, _draw_residual, (3,)),
    "separable_cnn": Family(separable_cnn, _draw_separable, (3,)),
    "concat_cnn": Family(concat_cnn, _draw_concat, (3,)),
    "series_cnn": Family(series_cnn, _draw_series, (2,)),
    "mlp": Family(mlp, _draw_mlp, (2, 3)),
    "vit": Family(vit, _draw_vit, (2, 3)),
}


def families_for(input_shape) -> tuple[str, ...]:
    """Returns the names of the families that inputs of a shape can be fed to.

    Example:
      >>> families_for((24, 1))
      ('series_cnn', 'mlp', 'vit')
    """
    return tuple(name for name, family in FAMILIES.items() if len(input_shape) in family.ranks)


@functools.cache
def architecture(family, variant, input_shape, num_classes) -> dict:
    """Returns the keyword arguments that make a variant of a family: widths and depths.

    Args:
      family: a name of `FAMILIES`.
      variant: 0 for the defaults; another number draws, always the same for the same input shape, until there are 20 to 150
        thousand parameters.
      input_shape: of one input, a tuple.
      num_classes: number of outputs.

    Raises:
      ArgumentError: the family is unknown, or not for inputs of this shape, or no draw is of this size.
    """
    if family not in FAMILIES or len(input_shape) not in FAMILIES[family].ranks:
        raise ArgumentError(
            f"Data models: expected a family for inputs of shape {tuple(input_shape)}, one of {', '.join(families_for(input_shape))}, "
            f"got {family!r}. Choose one of these."
        )
    if variant == 0:
        return {}
    for attempt in range(200):
        drawn = FAMILIES[family].draw(np.random.default_rng([zlib.crc32(family.encode()), variant, attempt]))
        model = FAMILIES[family].build(input_shape, num_classes, **drawn)
        if PARAMETERS[0] <= model.count_params() <= PARAMETERS[1]:
            return drawn
    raise ArgumentError(
        f"Data models: expected inputs for which {family} has {PARAMETERS[0]} to {PARAMETERS[1]} parameters, got shape {input_shape}. "
        f"Give smaller inputs, or use variant 0."
    )


def build_model(family, input_shape, num_classes, *, variant=0, seed=0):
    """Builds a variant of a family, see `architecture`; `seed` is that of the initial weights."""
    options = architecture(family, variant, tuple(input_shape), num_classes)
    return FAMILIES[family].build(tuple(input_shape), num_classes, seed=seed, **options)


def _conv_bn(x, width, kernel_size, strides=1):
    return _batch_norm(keras.layers.Conv2D(width, kernel_size, strides, "same", use_bias=False)(x))


def _batch_norm(x):
    return keras.layers.BatchNormalization(momentum=0.9)(x)  # data sets are small, so steps are few


def _pooled(inputs, x, num_classes):
    pool = keras.layers.GlobalAveragePooling2D if len(x.shape) == 4 else keras.layers.GlobalAveragePooling1D
    return keras.Model(inputs, keras.layers.Dense(num_classes)(pool()(x)))
