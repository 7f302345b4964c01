"""Single layers of Keras 3 -> their namesakes in tf_keras; what has no exact namesake is carried."""

import functools
import inspect

import numpy as np

from tfmetaprune._keras import keras, tf
from tfmetaprune.interop.carried import CarriedLayer, carry_object, keras3, weight_paths
from tfmetaprune.layers import get_weight

# Kinds that compute the same in both versions of Keras once their config is rewritten.
_NAMESAKES = frozenset(
    """
    Activation ActivityRegularization Add AdditiveAttention AlphaDropout Attention Average AveragePooling1D
    AveragePooling2D AveragePooling3D BatchNormalization Bidirectional Concatenate Conv1D Conv1DTranspose Conv2D
    Conv2DTranspose Conv3D Conv3DTranspose ConvLSTM1D ConvLSTM2D ConvLSTM3D Cropping1D Cropping2D Cropping3D Dense
    DepthwiseConv1D DepthwiseConv2D Dot Dropout ELU EinsumDense Embedding Flatten GRU GRUCell GaussianDropout
    GaussianNoise GlobalAveragePooling1D GlobalAveragePooling2D GlobalAveragePooling3D GlobalMaxPooling1D
    GlobalMaxPooling2D GlobalMaxPooling3D GroupNormalization Identity LSTM LSTMCell LayerNormalization LeakyReLU Masking
    MaxPooling1D MaxPooling2D MaxPooling3D Maximum Minimum MultiHeadAttention Multiply Normalization PReLU Permute RNN
    ReLU RepeatVector Rescaling Reshape Resizing SeparableConv1D SeparableConv2D SimpleRNN SimpleRNNCell Softmax
    SpatialDropout1D SpatialDropout2D SpatialDropout3D StackedRNNCells Subtract TimeDistributed UnitNormalization
    UpSampling1D UpSampling2D UpSampling3D ZeroPadding1D ZeroPadding2D ZeroPadding3D
    """.split()
)
RENAMED = {"LeakyReLU": {"negative_slope": "alpha"}}
_DROPPED = {
    "seed", "use_cudnn", "flash_attention", "fill_mode", "fill_value", "quantization_config", "renorm_clipping", "renorm_momentum",
}  # fmt: skip
_AS_ATTRIBUTES = {"Rescaling": ("scale", "offset")}
# Activations that are the same function under the same name.
_SAME_ACTIVATIONS = frozenset("elu exponential gelu linear mish relu selu sigmoid softmax softplus softsign tanh".split())


class _HasNoNamesake(Exception):
    """Raised where a layer does something that tf_keras cannot do."""


def convert_layer(layer):
    """Returns a tf_keras layer, not yet built, that computes what a Keras 3 layer or operation computes.

    Raises:
      UnsupportedModelError: the layer has no namesake in tf_keras and cannot be carried.
    """
    try:
        return _convert(layer)
    except (_HasNoNamesake, TypeError, ValueError):
        return carry_object(layer)


def _convert(layer):
    k3, name = keras3(), type(layer).__name__
    if name not in _NAMESAKES or type(layer) is not getattr(k3.layers, name, None) or layer.dtype_policy.quantization_mode:
        raise _HasNoNamesake
    kind = getattr(keras.layers, name)
    config, accepted = layer.get_config(), _accepted(kind)
    made = {"name": layer.name}
    if "dtype" in accepted:
        made["dtype"] = layer.dtype_policy.name
    for key, value in config.items():
        target = RENAMED.get(name, {}).get(key, key)
        if key in ("name", "dtype", "trainable"):
            continue
        if key in _AS_ATTRIBUTES.get(name, ()):
            value = np.asarray(getattr(layer, key)).tolist()
        if key == "zero_output_for_mask" and value:
            made[key] = value  # tf_keras takes it from the keyword arguments
        elif target not in accepted:
            if value not in (None, False, "channels_last") and key not in _DROPPED:
                raise _HasNoNamesake
        elif key.endswith("_initializer"):
            made[target] = "zeros"  # the weights are copied
        elif key.endswith(("_regularizer", "_constraint")):
            made[target] = _convert_object(value, keras.regularizers if key.endswith("r") else keras.constraints)
        elif key.endswith("activation"):
            made[target] = convert_activation(getattr(layer, key))
        elif key not in ("layer", "backward_layer", "cell", "cells") and key != "seed":
            made[target] = value
    if name == "Normalization" and made.get("mean") is not None and layer.built:  # as rounded by Keras 3
        made |= {key: np.asarray(getattr(layer, key)).reshape(-1).tolist() for key in ("mean", "variance")}
        if layer.axis == ():
            made |= {key: made[key][0] for key in ("mean", "variance")}
    if name == "Bidirectional":
        made |= _convert_bidirectional(layer)
    elif name == "TimeDistributed":
        made["layer"] = _convert(layer.layer)
    elif name == "RNN":
        made["cell"] = _convert(layer.cell)
    elif name == "StackedRNNCells":
        made["cells"] = [_convert(cell) for cell in layer.cells]
    return kind(**made)


@functools.cache
def _accepted(kind) -> frozenset:
    """The names of the arguments that a tf_keras layer's constructor accepts."""
    names = {"name", "dtype"}
    for base in kind.__mro__:
        if base is keras.layers.Layer:
            break
        if "__init__" in vars(base):
            names |= {*inspect.signature(base.__init__).parameters}
    return frozenset(names | {"activity_regularizer"})


def _convert_bidirectional(layer) -> dict:
    forward, backward = layer.forward_layer.get_config(), layer.backward_layer.get_config()
    own = ("name", "go_backwards", "seed")
    made = {"layer": _convert(layer.forward_layer)}
    made["layer"]._name = layer.forward_layer.name.removeprefix("forward_")
    mirrored = forward["go_backwards"] != backward["go_backwards"]
    if not mirrored or any(forward[key] != backward.get(key) for key in forward if key not in own):
        made["backward_layer"] = _convert(layer.backward_layer)
    return made


def _convert_object(value, module):
    """A regularizer or constraint of Keras 3, serialized -> that of tf_keras."""
    if value is None:
        return None
    kind = getattr(module, value["class_name"], None) if isinstance(value, dict) else None
    if kind is None or not value["module"].startswith("keras."):
        raise _HasNoNamesake
    return kind(**value["config"])


def convert_activation(function):
    """Returns a function with a name that tf_keras knows, for an activation function of Keras 3."""
    if function is None:
        return None
    if isinstance(function, keras3().layers.Layer) and function.weights:
        raise _HasNoNamesake
    name = getattr(function, "__name__", type(function).__name__)
    if name in _SAME_ACTIVATIONS and function is getattr(keras3().activations, name, None):
        return name
    return _registered(function, name)


@functools.cache
def _registered(function, name):
    """Registers a Keras 3 activation with tf_keras, so that the config of a layer that uses it can be read."""

    def activation(x):
        return function(x)

    activation.__name__ = name if function is getattr(keras3().activations, name, None) else f"{name}_{id(function):x}"
    return keras.utils.register_keras_serializable("keras3")(activation)


def ordered_weights(layer) -> list:
    """Returns the weights of a tf_keras layer: those made to be trained first, whatever is frozen now."""
    layers = list(layer._flatten_layers())
    return [w for one in layers for w in one._trainable_weights] + [w for one in layers for w in one._non_trainable_weights]


def weight_pairs(old, new) -> list[tuple]:
    """Pairs the weights of a tf_keras layer with those of the Keras 3 layer it stands for.

    Args:
      old: a built tf_keras layer, made by `convert_layer`.
      new: a built Keras 3 layer.

    Returns:
      (tf_keras weight, Keras 3 weight) of equal shape; None if they do not fit together.
    """
    paths = weight_paths(new)
    if isinstance(old, CarriedLayer):
        if tuple(path for path, _, _ in paths) != old.paths:
            return None
        pairs = [(get_weight(old, path), variable) for path, variable, _ in paths]
    else:
        weights = [variable for _, variable, trainable in paths if trainable]
        weights += [variable for _, variable, trainable in paths if not trainable]
        mine = ordered_weights(old)
        if len(mine) != len(weights):
            return None
        pairs = list(zip(mine, weights))
    return pairs if all(tuple(a.shape) == tuple(b.shape) for a, b in pairs) else None


def copy_weights_here(source, layer) -> bool:
    """Copies the weights of a Keras 3 layer into the tf_keras layer that stands for it; False if they do not fit."""
    pairs = weight_pairs(layer, source)
    for mine, theirs in pairs or ():
        mine.assign(tf.cast(theirs.value, mine.dtype))
    if hasattr(layer, "finalize_state"):  # Normalization derives what it computes with from its weights
        layer.finalize_state()
    return pairs is not None


def copy_weights_back(layer, target) -> bool:
    """Copies the weights of a tf_keras layer into the Keras 3 layer it stands for; False if they do not fit."""
    pairs = weight_pairs(layer, target)
    for mine, theirs in pairs or ():
        theirs.assign(tf.cast(tf.convert_to_tensor(mine), theirs.dtype))
    if hasattr(target, "finalize_state"):
        target.finalize_state()
    return pairs is not None
