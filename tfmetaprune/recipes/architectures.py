"""The networks of the recipes, in tf_keras, logits out, made of Keras' own layers alone.

Weights are as Keras draws them; `keras.utils.set_random_seed` makes them repeatable.
"""

from tfmetaprune._keras import keras, tf
from tfmetaprune.metatrain.zoo import residual_cnn

L = keras.layers
VGG19_WIDTHS = (64, 64, "pool", 128, 128, "pool", *[256] * 4, "pool", *[512] * 4, "pool", *[512] * 4)


def _conv_bn(x, filters, size=3, strides=1):
    x = L.Conv2D(filters, size, strides, "same", use_bias=False, kernel_initializer="he_normal")(x)
    return L.BatchNormalization(momentum=0.9, epsilon=1e-5)(x)  # as in the published code: PyTorch's momentum of 0.1


def resnet_cifar(input_shape, num_classes, *, depth=56, widths=(16, 32, 64)):
    """Builds the residual network for CIFAR of He et al. (arXiv 1512.03385, section 4.2).

    A shortcut is the identity, or a 1x1 convolution with batch normalisation where width or resolution change.

    Args:
      input_shape: (height, width, channels) of the images.
      num_classes: number of outputs.
      depth: 6 n + 2, n basic blocks in each of the three stages; 56, 110 or 8, say.
      widths: channels of the three stages.

    Returns:
      An uncompiled model; on CIFAR-10 the depths 56 and 110 have 0.86 and 1.73 million parameters.
    """
    inputs = keras.Input(input_shape)
    x = L.ReLU()(_conv_bn(inputs, widths[0]))
    for stage, width in enumerate(widths):
        for block in range((depth - 2) // 6):
            strides = 2 if stage > 0 and block == 0 else 1
            y = L.ReLU()(_conv_bn(x, width, 3, strides))
            y = _conv_bn(y, width)
            if x.shape[-1] != width or strides != 1:
                x = _conv_bn(x, width, 1, strides)
            x = L.ReLU()(L.Add()([x, y]))
    x = L.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, L.Dense(num_classes)(x), name=f"resnet{depth}")


def vgg19_bn(input_shape, num_classes, *, widths=VGG19_WIDTHS):
    """Builds VGG-19 for CIFAR: sixteen 3x3 convolutions with batch normalisation, and one dense layer.

    Args:
      input_shape: (height, width, channels) of the images.
      num_classes: number of outputs.
      widths: filters of the convolutions, "pool" where the resolution is halved.

    Returns:
      An uncompiled model; on CIFAR-100 it has 20.1 million parameters.
    """
    inputs = x = keras.Input(input_shape)
    for width in widths:
        x = L.MaxPooling2D()(x) if width == "pool" else L.ReLU()(_conv_bn(x, width))
    x = L.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, L.Dense(num_classes)(x), name="vgg19_bn")


def resnet50(input_shape, num_classes, *, widths=(64, 128, 256, 512), blocks=(3, 4, 6, 3)):
    """Builds ResNet-50 for ImageNet with the strides in the 3x3 convolutions, as torchvision has it.

    Args:
      input_shape: (height, width, channels) of the images.
      num_classes: number of outputs.
      widths: channels of the 3x3 convolutions of each stage; its output has four times as many.
      blocks: bottleneck blocks of each stage.

    Returns:
      An uncompiled model; on ImageNet it has 25.6 million parameters.
    """
    inputs = keras.Input(input_shape)
    x = L.ReLU()(_conv_bn(inputs, widths[0], 7, 2))
    x = L.MaxPooling2D(3, 2, "same")(x)
    for stage, (width, num_blocks) in enumerate(zip(widths, blocks)):
        for block in range(num_blocks):
            strides = 2 if stage > 0 and block == 0 else 1
            y = L.ReLU()(_conv_bn(x, width, 1))
            y = L.ReLU()(_conv_bn(y, width, 3, strides))
            y = _conv_bn(y, 4 * width, 1)
            if block == 0:
                x = _conv_bn(x, 4 * width, 1, strides)
            x = L.ReLU()(L.Add()([x, y]))
    x = L.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, L.Dense(num_classes)(x), name="resnet50")


def vit(input_shape, num_classes, *, patch=16, width=768, depth=12, heads=12):
    """Builds a vision transformer (arXiv 2010.11929) that averages over its patches in place of a class token.

    The learned positions are an Embedding of the patches' numbers, so that no layer of our own is needed.

    Args:
      input_shape: (height, width, channels) of the images, height and width multiples of `patch`.
      num_classes: number of outputs.
      patch: height and width of the patches.
      width: channels of the transformer; the defaults are those of ViT-B/16.
      depth: number of its blocks.
      heads: number of heads of each.

    Returns:
      An uncompiled model; with the defaults it has 86.6 million parameters on ImageNet.
    """
    inputs = keras.Input(input_shape)
    x = L.Reshape((-1, width))(L.Conv2D(width, patch, patch)(inputs))
    one_each = L.Reshape((-1,))(tf.ones_like(inputs[:, ::patch, ::patch, :1]))
    positions = tf.cast(tf.cumsum(one_each, axis=1, exclusive=True), tf.int32)
    x = L.Add()([x, L.Embedding((input_shape[0] // patch) * (input_shape[1] // patch), width)(positions)])
    for _ in range(depth):
        y = L.LayerNormalization(epsilon=1e-6)(x)
        x = L.Add()([x, L.MultiHeadAttention(heads, width // heads)(y, y)])
        y = L.Dense(4 * width, "gelu")(L.LayerNormalization(epsilon=1e-6)(x))
        x = L.Add()([x, L.Dense(width)(y)])
    x = L.GlobalAveragePooling1D()(L.LayerNormalization(epsilon=1e-6)(x))
    return keras.Model(inputs, L.Dense(num_classes)(x), name="vit")


# name -> (builder, its options in a smoke run, the size of the images there or None for their own)
ARCHITECTURES = {
    "resnet_cifar": (resnet_cifar, {"depth": 8, "widths": (4, 8, 8)}, None),
    "vgg19_bn": (vgg19_bn, {"widths": tuple(w if w == "pool" else w // 32 + 2 for w in VGG19_WIDTHS)}, None),
    "resnet50": (resnet50, {"widths": (4, 4, 8, 8), "blocks": (1, 1, 2, 1)}, (32, 32)),
    "vit": (vit, {"patch": 8, "width": 16, "depth": 2, "heads": 2}, (32, 32)),
    "residual_cnn": (residual_cnn, {"widths": (4, 8, 8)}, None),
}
