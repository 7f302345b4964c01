"""Small networks of many kinds, with widths and depths to choose.

Every function returns an uncompiled tf_keras model that puts out logits, made of nothing but layers that Keras ships. Images are
(height, width, channels), series are (time, channels).
"""

import numpy as np

from tfmetaprune._keras import keras

WIDTHS = (16, 32, 64)
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


def inverted_cnn(input_shape, num_classes, *, widths=(16, 24, 40), depth=2, expansion=4, seed=0):
    """Builds a network like MobileNetV2: blocks widen, convolve each channel alone, and narrow, with a way around them.

    Args:
      input_shape: (height, width, channels) of one image.
      num_classes: number of outputs; they are logits.
      widths: channels between the blocks of each stage; all stages after the first halve the resolution.
      depth: blocks a stage.
      expansion: channels inside a block, as a multiple of those before it.
      seed: of the initial weights.

    Example:
      >>> inverted_cnn((8, 8, 1), 10).output_shape
      (None, 10)
    """
    keras.utils.set_random_seed(seed)
    layers, inputs = keras.layers, keras.Input(input_shape)
    x = layers.ReLU(6.0)(_conv_bn(inputs, widths[0], 3))
    for stage, width in enumerate(widths):
        for number in range(depth):
            strides = 2 if stage and not number else 1
            y = layers.ReLU(6.0)(_conv_bn(x, expansion * x.shape[-1], 1))
            y = layers.DepthwiseConv2D(3, strides, "same", use_bias=False)(y)
            y = _conv_bn(layers.ReLU(6.0)(_batch_norm(y)), width, 1)
            x = layers.Add()([x, y]) if x.shape[1:] == y.shape[1:] else y
    return _pooled(inputs, layers.ReLU(6.0)(_conv_bn(x, 2 * widths[-1], 1)), num_classes)


def squeeze_cnn(input_shape, num_classes, *, widths=WIDTHS, ratio=4, seed=0):
    """Builds a residual network with squeeze and excitation (arXiv 1709.01507): the mean of each channel decides how they are scaled.

    Args:
      input_shape: (height, width, channels) of one image.
      num_classes: number of outputs; they are logits.
      widths: channels of each stage, a block each; all stages after the first halve the resolution.
      ratio: channels of a block to one of the layer that all are squeezed into.
      seed: of the initial weights.

    Example:
      >>> squeeze_cnn((8, 8, 1), 10).output_shape
      (None, 10)
    """
    keras.utils.set_random_seed(seed)
    layers, inputs = keras.layers, keras.Input(input_shape)
    x = layers.Activation("swish")(_conv_bn(inputs, widths[0], 3))
    for stage, width in enumerate(widths):
        strides = 2 if stage else 1
        y = layers.Activation("swish")(_conv_bn(x, width, 3, strides))
        y = _conv_bn(y, width, 3)
        scale = layers.GlobalAveragePooling2D(keepdims=True)(y)
        scale = layers.Conv2D(max(4, width // ratio), 1, activation="relu")(scale)
        y = layers.Multiply()([y, layers.Conv2D(width, 1, activation="sigmoid")(scale)])
        if x.shape[1:] != y.shape[1:]:
            x = _conv_bn(x, width, 1, strides)
        x = layers.Activation("swish")(layers.Add()([x, y]))
    return _pooled(inputs, x, num_classes)


def convnext(input_shape, num_classes, *, widths=(24, 40), depth=2, ratio=4, seed=0):
    """Builds a small ConvNeXt (arXiv 2201.03545): depthwise convolutions, LayerNormalization and dense layers, with a way around them.

    Args:
      input_shape: (height, width, channels) of one image.
      num_classes: number of outputs; they are logits.
      widths: channels of each stage; every stage halves the resolution.
      depth: blocks a stage.
      ratio: hidden channels of a block, as a multiple of those around it.
      seed: of the initial weights.

    Example:
      >>> convnext((8, 8, 1), 10).output_shape
      (None, 10)
    """
    keras.utils.set_random_seed(seed)
    layers, x = keras.layers, keras.Input(input_shape)
    inputs = x
    for stage, width in enumerate(widths):
        x = layers.LayerNormalization()(x) if stage else x
        x = layers.Conv2D(width, 2, 2, "same")(x)
        x = x if stage else layers.LayerNormalization()(x)
        for _ in range(depth):
            y = layers.LayerNormalization()(layers.DepthwiseConv2D(5, padding="same")(x))
            y = layers.Dense(width)(layers.Dense(ratio * width, "gelu")(y))
            x = layers.Add()([x, y])
    x = layers.LayerNormalization()(layers.GlobalAveragePooling2D()(x))
    return keras.Model(inputs, layers.Dense(num_classes)(x))


def inception_cnn(input_shape, num_classes, *, stem=24, widths=(16, 24), depth=1, seed=0):
    """Builds a network like Inception: convolutions of several sizes side by side, then all of their channels together.

    Args:
      input_shape: (height, width, channels) of one image.
      num_classes: number of outputs; they are logits.
      stem: channels of the first convolution.
      widths: channels of each of the four branches, of each stage; all stages after the first halve the resolution.
      depth: blocks a stage.
      seed: of the initial weights.

    Example:
      >>> inception_cnn((8, 8, 1), 10).output_shape
      (None, 10)
    """
    keras.utils.set_random_seed(seed)
    layers, inputs = keras.layers, keras.Input(input_shape)

    def conv(x, width, size):
        return layers.ReLU()(_conv_bn(x, width, size))

    x = conv(inputs, stem, 3)
    for stage, width in enumerate(widths):
        x = layers.MaxPooling2D(padding="same")(x) if stage else x
        for _ in range(depth):
            pooled = layers.MaxPooling2D(3, 1, "same")(x)
            small, large = conv(conv(x, width, 1), width, 3), conv(conv(conv(x, width, 1), width, 3), width, 3)
            x = layers.Concatenate()([conv(x, width, 1), small, large, conv(pooled, width, 1)])
    return _pooled(inputs, x, num_classes)


def mixer(input_shape, num_classes, *, width=48, depth=2, ratio=2.0, seed=0):
    """Builds a small MLP-Mixer (arXiv 2105.01601): dense layers over the patches, and over the channels, in turn.

    Args:
      input_shape: (height, width, channels) of one image, or (time, channels) of one series.
      num_classes: number of outputs; they are logits.
      width: channels between the blocks.
      depth: number of blocks.
      ratio: hidden channels of the dense layers, as a multiple of what they read.
      seed: of the initial weights.

    Example:
      >>> mixer((8, 8, 1), 10).output_shape, mixer((24, 1), 2).output_shape
      ((None, 10), (None, 2))
    """
    keras.utils.set_random_seed(seed)
    layers, rank = keras.layers, len(input_shape)
    patch = tuple(max(2, -(-length // _MAX_PATCHES[rank])) for length in input_shape[:-1])
    inputs = keras.Input(input_shape)
    x = (layers.Conv2D if rank == 3 else layers.Conv1D)(width, patch, patch)(inputs)
    x = layers.Reshape((int(np.prod(x.shape[1:-1])), width))(x)
    for _ in range(depth):
        y = layers.Permute((2, 1))(layers.LayerNormalization()(x))
        y = layers.Dense(x.shape[1])(layers.Dense(int(ratio * x.shape[1]), "gelu")(y))
        x = layers.Add()([x, layers.Permute((2, 1))(y)])
        y = layers.Dense(int(ratio * width), "gelu")(layers.LayerNormalization()(x))
        x = layers.Add()([x, layers.Dense(width)(y)])
    return _pooled(inputs, layers.LayerNormalization()(x), num_classes)


def recurrent(input_shape, num_classes, *, widths=(56, 48), seed=0):
    """Builds LSTM layers one after the other; the last one's last output is classified.

    Args:
      input_shape: (time, channels) of one series.
      num_classes: number of outputs; they are logits.
      widths: units of each layer.
      seed: of the initial weights.

    Example:
      >>> recurrent((24, 1), 2).output_shape
      (None, 2)
    """
    keras.utils.set_random_seed(seed)
    x = inputs = keras.Input(input_shape)
    for number, width in enumerate(widths, 1):
        x = keras.layers.LSTM(width, return_sequences=number < len(widths))(x)
    return keras.Model(inputs, keras.layers.Dense(num_classes)(x))


def _conv_bn(x, width, kernel_size, strides=1):
    return _batch_norm(keras.layers.Conv2D(width, kernel_size, strides, "same", use_bias=False)(x))


def _batch_norm(x):
    return keras.layers.BatchNormalization(momentum=0.9)(x)  # data sets are small, so steps are few


def _pooled(inputs, x, num_classes):
    pool = keras.layers.GlobalAveragePooling2D if len(x.shape) == 4 else keras.layers.GlobalAveragePooling1D
    return keras.Model(inputs, keras.layers.Dense(num_classes)(pool()(x)))
