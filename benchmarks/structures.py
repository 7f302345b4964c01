"""Structures that people build by hand, small, in tf_keras: what Keras Applications has none of.

`STRUCTURES` maps a name to a function without arguments that builds the model, with whatever weights Keras draws.
"""

from tfmetaprune._keras import keras, tf

L = keras.layers
STRUCTURES = {}
VOCABULARY = 50


def _structure(build):
    STRUCTURES[build.__name__] = build
    return build


def _conv_bn(x, filters, size=3, activation=True, depthwise=False, **kwargs):
    if depthwise:
        x = L.DepthwiseConv2D(size, padding="same", use_bias=False, **kwargs)(x)
    else:
        x = L.Conv2D(filters, size, padding="same", use_bias=False, **kwargs)(x)
    x = L.BatchNormalization()(x)
    return L.ReLU()(x) if activation else x


def _classifier(x, classes=10):
    return L.Dense(classes)(L.GlobalAveragePooling2D()(x))


def channel_shuffle(x, groups):
    """Deals the channels of a feature map out to `groups` hands, by TensorFlow operators."""
    height, width, channels = x.shape[1:]
    x = tf.reshape(x, [-1, height, width, groups, channels // groups])
    return tf.reshape(tf.transpose(x, [0, 1, 2, 4, 3]), [-1, height, width, channels])


@_structure
def shufflenet_v1():
    """Grouped 1x1 convolutions with a shuffle between (Zhang et al. 2018)."""
    inputs = keras.Input((32, 32, 3))
    x = _conv_bn(inputs, 24, strides=2)
    for filters in (48, 96):
        for stride in (2, 1, 1):
            made = filters - x.shape[-1] if stride == 2 else filters
            y = channel_shuffle(_conv_bn(x, filters // 4, 1, groups=4 if x.shape[-1] % 4 == 0 else 1), 4)
            y = _conv_bn(y, None, depthwise=True, activation=False, strides=stride)
            y = _conv_bn(y, made, 1, activation=False, groups=4)
            if stride == 2:
                x = L.ReLU()(L.Concatenate()([L.AveragePooling2D(3, 2, "same")(x), y]))
            else:
                x = L.ReLU()(L.Add()([x, y]))
    return keras.Model(inputs, _classifier(x), name="shufflenet_v1")


@_structure
def shufflenet_v2():
    """Split blocks: half of the channels pass, then a shuffle (Ma et al. 2018)."""
    inputs = keras.Input((32, 32, 3))
    x = _conv_bn(inputs, 24, strides=2)
    for filters in (48, 96):
        half = filters // 2
        left = _conv_bn(_conv_bn(x, None, depthwise=True, activation=False, strides=2), half, 1)
        right = _conv_bn(_conv_bn(x, half, 1), None, depthwise=True, activation=False, strides=2)
        x = channel_shuffle(L.Concatenate()([left, _conv_bn(right, half, 1)]), 2)
        for _ in range(3):
            left, right = tf.split(x, 2, axis=-1)
            right = _conv_bn(_conv_bn(right, half, 1), None, depthwise=True, activation=False)
            x = channel_shuffle(tf.concat([left, _conv_bn(right, half, 1)], -1), 2)
    return keras.Model(inputs, _classifier(_conv_bn(x, 128, 1)), name="shufflenet_v2")


@_structure
def unet():
    """Skips by concatenation, transposed convolutions (Ronneberger et al. 2015)."""
    inputs = keras.Input((32, 32, 1))
    x, skips = inputs, []
    for filters in (8, 16, 32):
        x = _conv_bn(_conv_bn(x, filters), filters)
        skips.append(x)
        x = L.MaxPooling2D()(x)
    x = _conv_bn(_conv_bn(x, 64), 64)
    for skip in reversed(skips):
        x = L.Concatenate()([skip, L.Conv2DTranspose(skip.shape[-1], 2, strides=2)(x)])
        x = _conv_bn(_conv_bn(x, skip.shape[-1]), skip.shape[-1])
    return keras.Model(inputs, L.Conv2D(2, 1)(x), name="unet")


@_structure
def densenet():
    """Every layer reads all before it (Huang et al. 2017)."""
    inputs = keras.Input((32, 32, 3))
    x = L.Conv2D(24, 3, padding="same")(inputs)
    for last in (False, False, True):
        for _ in range(4):
            y = L.Conv2D(48, 1, use_bias=False)(L.ReLU()(L.BatchNormalization()(x)))
            y = L.Conv2D(12, 3, padding="same", use_bias=False)(L.ReLU()(L.BatchNormalization()(y)))
            x = L.Concatenate()([x, y])
        x = L.ReLU()(L.BatchNormalization()(x))
        if not last:
            x = L.AveragePooling2D()(L.Conv2D(x.shape[-1] // 2, 1, use_bias=False)(x))
    return keras.Model(inputs, _classifier(x), name="densenet")


@_structure
def preactivation_resnet():
    """Residuals over the sum itself, norm and activation first (He et al. 2016)."""
    inputs = keras.Input((32, 32, 3))
    x = L.Conv2D(16, 3, padding="same", use_bias=False)(inputs)
    for filters, stride in ((16, 1), (16, 1), (32, 2), (32, 1), (64, 2), (64, 1)):
        y = L.ReLU()(L.BatchNormalization()(x))
        shortcut = x if x.shape[-1] == filters else L.Conv2D(filters, 1, strides=stride, use_bias=False)(y)
        y = L.Conv2D(filters, 3, strides=stride, padding="same", use_bias=False)(y)
        y = L.Conv2D(filters, 3, padding="same", use_bias=False)(L.ReLU()(L.BatchNormalization()(y)))
        x = L.Add()([shortcut, y])
    return keras.Model(inputs, _classifier(L.ReLU()(L.BatchNormalization()(x))), name="preactivation_resnet")


def _transformer_block(x, heads, key_dim, hidden, mask=None):
    y = L.LayerNormalization(epsilon=1e-6)(x)
    y = L.MultiHeadAttention(heads, key_dim)(y, y, attention_mask=mask)
    x = L.Add()([x, L.Dropout(0.1)(y)])
    y = L.Dense(hidden, activation="gelu")(L.LayerNormalization(epsilon=1e-6)(x))
    return L.Add()([x, L.Dense(x.shape[-1])(y)])


def _numbered(tensor, count):
    """int32 [batch, count], 0, 1, ... in every row: what an Embedding of positions, or of a whole vocabulary, reads."""
    return 0 * tf.cast(tensor, "int32") + list(range(count))


@_structure
def text_encoder_tied():
    """Token and position embeddings, transformer blocks, logits by the transposed token embedding."""
    tokens = keras.Input((16,), dtype="int32", name="tokens")
    embedding = L.Embedding(VOCABULARY, 32, name="token_embedding")
    x = L.Add()([embedding(tokens), L.Embedding(16, 32, name="position_embedding")(_numbered(tokens, 16))])
    for _ in range(2):
        x = _transformer_block(x, 4, 8, 64)
    table = embedding(_numbered(tokens[:, :1], VOCABULARY))
    logits = tf.matmul(L.LayerNormalization(epsilon=1e-6)(x), table, transpose_b=True)
    return keras.Model(tokens, logits, name="text_encoder_tied")


@_structure
def text_classifier():
    """Embedding with a mask, bidirectional LSTM and GRU."""
    tokens = keras.Input((12,), dtype="int32", name="tokens")
    x = L.Embedding(VOCABULARY, 24, mask_zero=True)(tokens)
    x = L.Bidirectional(L.LSTM(16, return_sequences=True))(x)
    x = L.GRU(20)(x)
    return keras.Model(tokens, L.Dense(4)(L.Dense(24, activation="relu")(x)), name="text_classifier")


@_structure
def vit():
    """Patches by a strided convolution, position embedding, pre-norm transformer blocks (Dosovitskiy et al. 2021)."""
    image = keras.Input((32, 32, 3), name="image")
    x = L.Reshape((16, 48))(L.Conv2D(48, 8, strides=8)(image))
    x = L.Add()([x, L.Embedding(16, 48)(_numbered(image[:, 0, :16, 0], 16))])
    for _ in range(3):
        x = _transformer_block(x, 4, 12, 96)
    x = L.GlobalAveragePooling1D()(L.LayerNormalization(epsilon=1e-6)(x))
    return keras.Model(image, L.Dense(10)(x), name="vit")


@_structure
def crnn():
    """Convolutions, columns of the feature map as a series, bidirectional LSTMs (Shi et al. 2016)."""
    image = keras.Input((16, 48, 1), name="image")
    x = L.MaxPooling2D()(_conv_bn(image, 16))
    x = L.MaxPooling2D()(_conv_bn(x, 32))
    x = _conv_bn(x, 32)
    x = L.Reshape((12, 4 * 32))(L.Permute((2, 1, 3))(x))
    x = L.Bidirectional(L.LSTM(24, return_sequences=True))(L.Dense(32, activation="relu")(x))
    x = L.Bidirectional(L.LSTM(16, return_sequences=True))(x)
    return keras.Model(image, L.Dense(11)(x), name="crnn")


@_structure
def mlp_mixer():
    """Dense layers over the patches and over the channels in turn (Tolstikhin et al. 2021)."""
    image = keras.Input((32, 32, 3), name="image")
    x = L.Reshape((16, 32))(L.Conv2D(32, 8, strides=8)(image))
    for _ in range(3):
        y = L.Permute((2, 1))(L.LayerNormalization(epsilon=1e-6)(x))
        y = L.Dense(16)(L.Dense(24, activation="gelu")(y))
        x = L.Add()([x, L.Permute((2, 1))(y)])
        y = L.Dense(64, activation="gelu")(L.LayerNormalization(epsilon=1e-6)(x))
        x = L.Add()([x, L.Dense(32)(y)])
    x = L.GlobalAveragePooling1D()(L.LayerNormalization(epsilon=1e-6)(x))
    return keras.Model(image, L.Dense(10)(x), name="mlp_mixer")


@_structure
def siamese():
    """A nested model used twice, its outputs compared."""
    tower_input = keras.Input((24, 24, 1))
    x = _conv_bn(_conv_bn(tower_input, 16, strides=2), 24, strides=2)
    tower = keras.Model(tower_input, L.Dense(32)(L.GlobalAveragePooling2D()(x)), name="tower")
    left, right = keras.Input((24, 24, 1), name="left"), keras.Input((24, 24, 1), name="right")
    x = tf.abs(L.Subtract()([tower(left), tower(right)]))
    return keras.Model([left, right], L.Dense(1)(L.Dense(16, activation="relu")(x)), name="siamese")


@_structure
def wavenet():
    """Dilated causal convolutions, gated, with skips (van den Oord et al. 2016)."""
    series = keras.Input((32, 2), name="series")
    x, skips = L.Conv1D(16, 1)(series), []
    for rate in (1, 2, 4, 8):
        y = L.Conv1D(24, 2, padding="causal", dilation_rate=rate, activation="tanh")(x)
        gate = L.Conv1D(24, 2, padding="causal", dilation_rate=rate, activation="sigmoid")(x)
        y = L.Multiply()([y, gate])
        skips.append(L.Conv1D(20, 1)(y))
        x = L.Add()([x, L.Conv1D(16, 1)(y)])
    x = L.Conv1D(24, 1, activation="relu")(L.ReLU()(L.Add()(skips)))
    return keras.Model(series, L.Conv1D(4, 1)(x), name="wavenet")
