"""Networks of the published experiments that Keras Applications lacks, in tf_keras, logits out: ResNet-56, VGG-19, ViT-B/16.

Weights are as Keras draws them; `keras.utils.set_random_seed` makes them repeatable.
"""

from tfmetaprune._keras import keras

L = keras.layers
VGG19_WIDTHS = (64, 64, "pool", 128, 128, "pool", *[256] * 4, "pool", *[512] * 4, "pool", *[512] * 4)


def _conv_bn(x, filters, size=3, strides=1):
    x = L.Conv2D(filters, size, strides, "same", use_bias=False, kernel_initializer="he_normal")(x)
    return L.BatchNormalization()(x)


def _basic_blocks(x, widths, num_blocks):
    """Stages of residual blocks of two 3x3 convolutions, each stage after the first at half resolution."""
    for stage, width in enumerate(widths):
        for block in range(num_blocks):
            strides = 2 if stage > 0 and block == 0 else 1
            y = L.ReLU()(_conv_bn(x, width, 3, strides))
            y = _conv_bn(y, width)
            if x.shape[-1] != width or strides != 1:
                x = _conv_bn(x, width, 1, strides)
            x = L.ReLU()(L.Add()([x, y]))
    return x


def resnet(depth=56, *, num_classes=10, image_size=32, widths=(16, 32, 64)):
    """Builds the residual network for CIFAR of He et al. (arXiv 1512.03385, section 4.2).

    A shortcut is the identity, or a 1x1 convolution with batch normalisation where width or resolution change.

    Args:
      depth: 6 n + 2, n basic blocks in each of the three stages; 56, 20 or 8, say.
      num_classes: number of outputs.
      image_size: height and width of the images.
      widths: channels of the three stages.

    Returns:
      An uncompiled model; with the defaults it has 0.86 million parameters.
    """
    inputs = keras.Input((image_size, image_size, 3))
    x = L.ReLU()(_conv_bn(inputs, widths[0]))
    x = _basic_blocks(x, widths, (depth - 2) // 6)
    x = L.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, L.Dense(num_classes)(x), name=f"resnet{depth}")


def vgg19(num_classes=100, *, image_size=32):
    """Builds VGG-19 for CIFAR: sixteen 3x3 convolutions with batch normalisation, and one dense layer.

    Args:
      num_classes: number of outputs.
      image_size: height and width of the images.

    Returns:
      An uncompiled model; with the defaults it has 20.1 million parameters.
    """
    inputs = x = keras.Input((image_size, image_size, 3))
    for width in VGG19_WIDTHS:
        x = L.MaxPooling2D()(x) if width == "pool" else L.ReLU()(_conv_bn(x, width))
    x = L.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, L.Dense(num_classes)(x), name="vgg19")


def vit(num_classes=1000, *, image_size=224, patch=16, width=768, depth=12, heads=12):
    """Builds a vision transformer (arXiv 2010.11929) that averages over its patches.

    It has neither a class token nor position embeddings; both are without edges in the graph.

    Args:
      num_classes: number of outputs.
      image_size: height and width of the images.
      patch: height and width of the patches.
      width: channels of the transformer; the defaults are those of ViT-B/16.
      depth: number of its blocks.
      heads: number of heads of each.

    Returns:
      An uncompiled model; with the defaults it has 86.4 million parameters.
    """
    inputs = keras.Input((image_size, image_size, 3))
    x = L.Reshape((-1, width))(L.Conv2D(width, patch, patch)(inputs))
    for _ in range(depth):
        y = L.LayerNormalization(epsilon=1e-6)(x)
        x = L.Add()([x, L.MultiHeadAttention(heads, width // heads)(y, y)])
        y = L.Dense(4 * width, "gelu")(L.LayerNormalization(epsilon=1e-6)(x))
        x = L.Add()([x, L.Dense(width)(y)])
    x = L.GlobalAveragePooling1D()(L.LayerNormalization(epsilon=1e-6)(x))
    return keras.Model(inputs, L.Dense(num_classes)(x), name="vit")


def resnet18(num_classes=1000, *, image_size=224):
    """Builds ResNet-18 for ImageNet (arXiv 1512.03385, table 1).

    Args:
      num_classes: number of outputs.
      image_size: height and width of the images.

    Returns:
      An uncompiled model; with the defaults it has 11.7 million parameters and 1.8 billion MACs.
    """
    inputs = keras.Input((image_size, image_size, 3))
    x = L.ReLU()(_conv_bn(inputs, 64, 7, 2))
    x = L.MaxPooling2D(3, 2, "same")(x)
    x = _basic_blocks(x, (64, 128, 256, 512), 2)
    x = L.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, L.Dense(num_classes)(x), name="resnet18")
