"""Small models that between them use every way channels can hang together; the invariants are tested over all of them.

`ZOO` maps a name to a function without arguments that builds the model. Weights are random, seeded by the name, and
never degenerate (no zero bias, no unit gamma); outputs are linear, so that no saturated softmax hides an error.
"""

import zlib

import numpy as np

from tfmetaprune._keras import keras, tf

L = keras.layers
ZOO = {}


@keras.saving.register_keras_serializable(package="tests_zoo")
class ChannelShift(L.Layer):
    """A layer kind nobody registered: mixes neighbouring channels, with a weight of its own."""

    def build(self, input_shape):
        self.scale = self.add_weight(name="scale", shape=input_shape[-1:])
        super().build(input_shape)

    def call(self, inputs):
        return inputs * self.scale + keras.backend.concatenate([inputs[..., 1:], inputs[..., :1]])


def randomize(model, name):
    """Gives every weight of the model a seeded, non-degenerate value; returns the model."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    for layer in model.layers:
        values = []
        for variable in layer.weights:
            shape, kind = tuple(variable.shape), variable.name.split("/")[-1].split(":")[0]
            if "kernel" in kind:
                value = rng.normal(size=shape) / np.sqrt(max(np.prod(shape[:-1]), 1))
            elif "variance" in kind:
                value = rng.uniform(0.5, 1.5, shape)
            elif kind == "gamma":
                value = rng.uniform(0.5, 1.5, shape) * rng.choice([-1.0, 1.0], shape)
            elif kind == "count":
                value = np.ones(shape)
            else:  # biases, beta, moving_mean, alpha, ...
                value = 0.3 * rng.normal(size=shape)
            values.append(value.astype(variable.dtype.as_numpy_dtype))
        layer.set_weights(values)
        if hasattr(layer, "finalize_state"):
            layer.finalize_state()
    return model


def random_inputs(model, batch=4, seed=0):
    """Returns random float32 inputs for the model, a list in the order of `model.inputs`."""
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(batch, *tensor.shape[1:])).astype("float32") for tensor in model.inputs]


def _entry(build):
    ZOO[build.__name__] = lambda: randomize(build(), build.__name__)
    return build


def _model(inputs, outputs, name):
    return keras.Model(inputs, outputs, name=name)


def _conv_bn(x, filters, name, size=3, activation=True, **kwargs):
    x = L.Conv2D(filters, size, padding="same", use_bias=False, name=f"{name}_conv", **kwargs)(x)
    x = L.BatchNormalization(name=f"{name}_bn")(x)
    return L.ReLU(name=f"{name}_relu")(x) if activation else x


def _head(x, classes=5, name="logits"):
    return L.Dense(classes, name=name)(L.GlobalAveragePooling2D(name=f"{name}_pool")(x))


@_entry
def plain_cnn():
    return keras.Sequential(
        [
            L.Conv2D(8, 3, activation="relu", input_shape=(10, 10, 3), name="conv1"),
            L.BatchNormalization(name="bn1"),
            L.MaxPooling2D(name="pool"),
            L.Conv2D(12, 3, padding="same", strides=2, use_bias=False, name="conv2"),
            L.BatchNormalization(name="bn2"),
            L.Activation("relu", name="relu2"),
            L.Dropout(0.5, name="dropout"),
            L.GlobalAveragePooling2D(name="average"),
            L.Dense(5, name="logits"),
        ],
        name="plain_cnn",
    )


@_entry
def residual():
    inputs = keras.Input((8, 8, 3), name="image")
    x = _conv_bn(inputs, 8, "stem")
    for block in ("a", "b"):
        y = _conv_bn(_conv_bn(x, 6, f"{block}1"), 8, f"{block}2", activation=False)
        x = L.ReLU(name=f"{block}_out")(L.Add(name=f"{block}_add")([x, y]))
    return _model(inputs, _head(x), "residual")


@_entry
def residual_projection():
    inputs = keras.Input((8, 8, 3), name="image")
    x = _conv_bn(inputs, 6, "stem")
    y = _conv_bn(_conv_bn(x, 10, "a1", strides=2), 10, "a2", activation=False)
    x = L.Add(name="add_a")([_conv_bn(x, 10, "a_short", size=1, activation=False, strides=2), y])
    x = L.ReLU(name="relu_a")(x)
    y = _conv_bn(_conv_bn(x, 10, "b1"), 10, "b2", activation=False)
    return _model(inputs, _head(L.Add(name="add_b")([x, y])), "residual_projection")


@_entry
def preactivation_residual():
    inputs = keras.Input((8, 8, 3), name="image")
    x = L.Conv2D(8, 3, padding="same", name="stem")(inputs)
    for block in ("a", "b"):
        y = L.ReLU(name=f"{block}_relu1")(L.BatchNormalization(name=f"{block}_bn1")(x))
        y = L.Conv2D(6, 3, padding="same", name=f"{block}_conv1")(y)
        y = L.ReLU(name=f"{block}_relu2")(L.BatchNormalization(name=f"{block}_bn2")(y))
        x = L.Add(name=f"{block}_add")([x, L.Conv2D(8, 3, padding="same", name=f"{block}_conv2")(y)])
    return _model(inputs, _head(L.BatchNormalization(name="bn_out")(x)), "preactivation_residual")


@_entry
def depthwise_separable():
    inputs = keras.Input((8, 8, 3), name="image")
    x = L.DepthwiseConv2D(3, padding="same", name="depthwise_in")(inputs)
    x = _conv_bn(x, 6, "stem", size=1)
    x = L.DepthwiseConv2D(3, padding="same", strides=2, depth_multiplier=2, name="depthwise2")(x)
    x = L.BatchNormalization(name="depthwise2_bn")(x)
    x = L.ReLU(6.0, name="depthwise2_relu")(x)
    x = L.SeparableConv2D(8, 3, padding="same", depth_multiplier=2, name="separable1")(x)
    x = L.BatchNormalization(name="separable1_bn")(x)
    x = L.SeparableConv2D(7, 3, use_bias=False, name="separable2")(x)
    x = L.DepthwiseConv2D(2, name="depthwise1")(x)
    return _model(inputs, _head(x), "depthwise_separable")


@_entry
def concat():
    inputs = keras.Input((8, 8, 3), name="image")
    x = _conv_bn(inputs, 6, "stem")
    branches = [_conv_bn(x, 5, "left", size=1), _conv_bn(x, 4, "right"), x]
    x = L.Concatenate(name="concat")(branches)
    return _model(inputs, _head(_conv_bn(x, 7, "mix")), "concat")


@_entry
def concat_then_add():
    """Sums of concatenations whose parts have other widths on either side."""
    inputs = keras.Input((6, 6, 3), name="image")
    a, b = L.Conv2D(4, 1, name="a")(inputs), L.Conv2D(6, 3, padding="same", name="b")(inputs)
    c, d = L.Conv2D(7, 1, name="c")(inputs), L.Conv2D(3, 3, padding="same", name="d")(inputs)
    left = L.Concatenate(name="left")([a, b])
    x = L.Maximum(name="maximum")([left, L.Concatenate(name="right")([c, d])])
    blurred = L.UpSampling2D(name="up")(L.MaxPooling2D(name="down")(x))
    x = L.Average(name="average")([L.Conv2D(10, 1, name="e")(x), blurred])
    return _model(inputs, _head(x), "concat_then_add")


@_entry
def dense_net():
    """BatchNormalization on a concatenation whose parts others read as well."""
    inputs = keras.Input((8, 8, 3), name="image")
    x = L.Conv2D(6, 3, padding="same", name="stem")(inputs)
    for block in ("a", "b"):
        y = L.ReLU(name=f"{block}_relu")(L.BatchNormalization(name=f"{block}_bn")(x))
        x = L.Concatenate(name=f"{block}_concat")([x, L.Conv2D(4, 3, padding="same", name=f"{block}_conv")(y)])
    x = L.BatchNormalization(name="out_bn")(x)
    return _model(inputs, _head(L.Conv2D(8, 1, activation="relu", name="transition")(x)), "dense_net")


@_entry
def flatten_dense():
    inputs = keras.Input((6, 6, 2), name="image")
    x = L.ZeroPadding2D(1, name="pad")(inputs)
    x = L.Conv2D(5, 3, activation="relu", name="conv1")(x)
    x = L.AveragePooling2D(name="pool")(x)
    x = L.BatchNormalization(name="bn")(L.Flatten(name="flatten")(x))
    x = L.Dense(9, activation="relu", name="dense1")(x)
    return _model(inputs, L.Dense(4, name="logits")(L.Dropout(0.3, name="dropout")(x)), "flatten_dense")


@_entry
def flatten_concat():
    """A flattened feature map beside plain features, into one dense layer."""
    inputs = keras.Input((4, 6, 2), name="image")
    x = L.Conv2D(5, 3, name="conv")(inputs)
    flat = L.Flatten(name="flatten")(L.ReLU(name="relu")(x))
    x = L.Concatenate(name="concat")([flat, L.Dense(6, name="side")(L.GlobalMaxPooling2D(name="top")(x))])
    return _model(inputs, L.Dense(3, name="logits")(L.Dense(7, activation="tanh", name="hidden")(x)), "flatten_concat")


@_entry
def conv1d():
    inputs = keras.Input((16, 3), name="series")
    x = L.Conv1D(8, 5, padding="causal", dilation_rate=2, name="conv1")(inputs)
    x = L.LeakyReLU(name="leaky")(L.BatchNormalization(name="bn1")(x))
    x = L.MaxPooling1D(name="pool")(x)
    x = L.Conv1D(6, 3, strides=2, activation="elu", name="conv2")(x)
    x = L.Flatten(name="flatten")(x)
    return _model(inputs, L.Dense(3, name="logits")(x), "conv1d")


@_entry
def two_inputs_outputs():
    image, vector = keras.Input((6, 6, 2), name="image"), keras.Input((4,), name="vector")
    x = _conv_bn(image, 8, "image_branch")
    v = L.Dense(8, activation="relu", name="vector_branch")(vector)
    x = L.Multiply(name="gate")([x, L.Reshape((1, 1, 8), name="gate_shape")(v)])
    features = L.GlobalAveragePooling2D(name="features")(_conv_bn(x, 6, "body"))
    hidden = L.Dense(7, activation="relu", name="hidden")(L.Concatenate(name="concat")([features, v]))
    outputs = [L.Dense(3, name="kind")(hidden), L.Dense(2, name="place")(features)]
    return _model([image, vector], outputs, "two_inputs_outputs")


@_entry
def shared_layer():
    left, right = keras.Input((6, 6, 2), name="left"), keras.Input((6, 6, 2), name="right")
    stem, norm, tower = L.Conv2D(6, 3, name="stem"), L.BatchNormalization(name="norm"), L.Conv2D(5, 3, name="tower")
    a, b = (tower(L.ReLU(name=f"relu_{side.name}")(norm(stem(side)))) for side in (left, right))
    return _model([left, right], _head(L.Subtract(name="difference")([a, b])), "shared_layer")


@_entry
def recurrent_dense():
    """One layer applied to its own output: its inputs are tied to its outputs."""
    inputs = keras.Input((6,), name="features")
    step = L.Dense(8, activation="tanh", name="step")
    x = step(step(L.Dense(8, name="stem")(inputs)))
    return _model(inputs, L.Dense(3, name="logits")(x), "recurrent_dense")


@_entry
def layer_norm_mlp():
    inputs = keras.Input((6,), name="features")
    x = L.Dense(10, name="stem")(inputs)
    for block in ("a", "b"):
        y = L.LayerNormalization(name=f"{block}_norm")(x)
        y = L.Dense(10, name=f"{block}_down")(L.Dense(12, activation="gelu", name=f"{block}_up")(y))
        x = L.Add(name=f"{block}_add")([x, y])
    x = L.LayerNormalization(name="out_norm", epsilon=1e-5)(x)
    return _model(inputs, L.Dense(4, name="logits")(x), "layer_norm_mlp")


@_entry
def layer_norm_cnn():
    inputs = keras.Input((6, 6, 3), name="image")
    x = L.LayerNormalization(name="norm1")(L.Conv2D(8, 2, strides=2, name="stem")(inputs))
    y = L.DepthwiseConv2D(3, padding="same", name="depthwise")(x)
    y = L.LayerNormalization(name="norm2", scale=False)(y)
    y = L.Conv2D(8, 1, name="down")(L.Conv2D(9, 1, activation="swish", name="up")(y))
    return _model(inputs, _head(L.Add(name="add")([x, y])), "layer_norm_cnn")


@_entry
def squeeze_excite():
    inputs = keras.Input((8, 8, 3), name="image")
    x = _conv_bn(inputs, 8, "stem")
    s = L.Reshape((1, 1, 8), name="squeeze_shape")(L.GlobalAveragePooling2D(name="squeeze")(x))
    s = L.Conv2D(4, 1, activation="relu", name="reduce")(s)
    s = L.Conv2D(8, 1, activation="sigmoid", name="expand")(s)
    x = L.Multiply(name="excite")([x, s])
    return _model(inputs, _head(_conv_bn(x, 6, "body")), "squeeze_excite")


@_entry
def spatial_gate():
    """A gate of one channel, broadcast over all the others."""
    inputs = keras.Input((6, 6, 3), name="image")
    x = L.Conv2D(8, 3, padding="same", name="stem")(inputs)
    gate = L.Conv2D(1, 1, activation="sigmoid", name="gate")(L.Conv2D(5, 1, activation="relu", name="gate_hidden")(x))
    return _model(inputs, _head(L.Multiply(name="gated")([x, gate])), "spatial_gate")


@_entry
def prelu():
    inputs = keras.Input((6, 6, 3), name="image")
    x = L.PReLU(shared_axes=[1, 2], name="prelu_shared")(L.Conv2D(6, 3, name="conv1")(inputs))
    x = L.PReLU(name="prelu_positions")(L.Conv2D(5, 3, name="conv2")(x))
    x = L.PReLU(name="prelu_flat")(L.Flatten(name="flatten")(x))
    x = L.PReLU(name="prelu_dense")(L.Dense(7, name="hidden")(x))
    return _model(inputs, L.Dense(4, name="logits")(x), "prelu")


@_entry
def normalized_input():
    inputs = keras.Input((6, 6, 3), name="image")
    x = L.Rescaling(1 / 2.0, offset=0.1, name="rescale")(inputs)
    x = L.Normalization(name="normalize")(x)
    x = L.Rescaling(3.0, name="rescale_hidden")(_conv_bn(x, 6, "stem"))
    return _model(inputs, _head(_conv_bn(x, 7, "body")), "normalized_input")


@_entry
def unknown_layer():
    inputs = keras.Input((6, 6, 3), name="image")
    x = ChannelShift(name="shift")(_conv_bn(_conv_bn(inputs, 8, "stem"), 6, "before"))
    return _model(inputs, _head(_conv_bn(_conv_bn(x, 7, "after"), 8, "body")), "unknown_layer")


@_entry
def raw_operations():
    """TensorFlow operations with constants among their arguments, and a layer called with a keyword."""
    inputs = keras.Input((6, 6, 3), name="image")
    x = tf.nn.relu(L.BatchNormalization(name="bn")(L.Conv2D(6, 3, name="stem")(inputs), training=False))
    x = tf.reduce_mean(2.0 * x + 0.5, axis=[1, 2], keepdims=True) * x
    return _model(inputs, _head(_conv_bn(_conv_bn(x, 7, "after"), 8, "body")), "raw_operations")


@_entry
def grouped():
    """Grouped and transposed convolutions, a softmax over channels, and a model inside the model."""
    inputs = keras.Input((6, 6, 4), name="image")
    x = L.Conv2D(8, 3, padding="same", groups=2, name="grouped")(_conv_bn(inputs, 6, "stem"))
    x = L.Conv2DTranspose(6, 3, padding="same", name="transposed")(_conv_bn(x, 5, "middle"))
    x = L.Dense(7, name="hidden")(L.Softmax(name="softmax")(L.Dense(6, name="scores")(x)))
    inner_inputs = keras.Input((6, 6, 7))
    inner = keras.Model(inner_inputs, L.BatchNormalization()(L.Conv2D(5, 1)(inner_inputs)), name="inner")
    return _model(inputs, _head(_conv_bn(inner(x), 6, "outer")), "grouped")


@_entry
def reshapes():
    """Positions into the channel axis and out again."""
    inputs = keras.Input((4, 4, 2), name="image")
    x = L.Flatten(name="flatten")(L.Conv2D(6, 3, padding="same", name="conv1")(inputs))
    x = L.Reshape((4, 4, 6), name="unflatten")(L.ReLU(name="relu")(x))
    x = L.Permute((2, 1, 3), name="transpose")(L.Conv2D(5, 1, name="conv2")(x))
    x = L.Reshape((4, 20), name="rows")(x)
    x = L.Conv1D(6, 3, name="conv3")(x)
    x = L.RepeatVector(3, name="repeat")(L.GlobalMaxPooling1D(name="top")(x))
    return _model(inputs, L.Dense(3, name="logits")(L.Flatten(name="flat")(x)), "reshapes")
