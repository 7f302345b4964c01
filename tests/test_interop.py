"""Keras 3 models over to tf_keras and back: every kind of layer, every structure, narrower layers, what is refused."""

import subprocess
import sys

import keras as keras3
import numpy as np
import pytest
import tensorflow as tf
from keras import ops
from keras.src.applications import convnext, inception_resnet_v2

from tfmetaprune._keras import keras
from tfmetaprune.errors import UnsupportedModelError
from tfmetaprune.interop import CarriedLayer, CarriedOperation, carry, is_keras3, to_keras3, to_tf_keras
from tfmetaprune.layers import get_weight, spec_for
from tfmetaprune.pruning.cost import cost
from tfmetaprune.pruning.masking import run_masked
from tfmetaprune.pruning.plan import PruningPlan
from tfmetaprune.pruning.rebuild import rebuild_model
from tfmetaprune.trace import trace_model

L = keras3.layers
IMAGE, SERIES, VECTOR = (8, 8, 6), (7, 6), (12,)
CONVERTED = {  # name -> (shape of the input, the layer)
    **{f"Conv{n}D": (shape, lambda n=n: getattr(L, f"Conv{n}D")(5, 3, strides=2, activation="relu"))
       for n, shape in ((1, SERIES), (2, IMAGE), (3, (5, 5, 5, 2)))},
    "Conv1D causal": (SERIES, lambda: L.Conv1D(4, 3, padding="causal", dilation_rate=2)),
    "Conv2D groups": (IMAGE, lambda: L.Conv2D(6, 3, groups=3, padding="same", kernel_regularizer="l2")),
    **{f"Conv{n}DTranspose": (shape, lambda n=n: getattr(L, f"Conv{n}DTranspose")(5, 3, strides=2, padding="same"))
       for n, shape in ((1, SERIES), (2, IMAGE), (3, (4, 4, 4, 2)))},
    "DepthwiseConv1D": (SERIES, lambda: L.DepthwiseConv1D(3, depth_multiplier=2)),
    "DepthwiseConv2D": (IMAGE, lambda: L.DepthwiseConv2D(3, depth_multiplier=2)),
    "SeparableConv1D": (SERIES, lambda: L.SeparableConv1D(5, 3, depth_multiplier=2)),
    "SeparableConv2D": (IMAGE, lambda: L.SeparableConv2D(5, 3, depthwise_constraint="max_norm")),
    "Dense": (SERIES, lambda: L.Dense(5, activation="tanh")),
    "EinsumDense": (SERIES, lambda: L.EinsumDense("btc,chd->bthd", (None, 2, 3), bias_axes="hd", activation="gelu")),
    "BatchNormalization": (IMAGE, lambda: L.BatchNormalization()),
    "BatchNormalization no scale": (IMAGE, lambda: L.BatchNormalization(scale=False, epsilon=0.1)),
    "LayerNormalization": (SERIES, lambda: L.LayerNormalization()),
    "GroupNormalization": (IMAGE, lambda: L.GroupNormalization(3)),
    "UnitNormalization": (SERIES, lambda: L.UnitNormalization()),
    "Normalization": (VECTOR, lambda: L.Normalization()),
    "Normalization fixed": (VECTOR, lambda: L.Normalization(mean=2.0, variance=3.0)),
    "PReLU": (IMAGE, lambda: L.PReLU(shared_axes=[1, 2])),
    "LeakyReLU": (IMAGE, lambda: L.LeakyReLU(0.37)),
    "ReLU": (IMAGE, lambda: L.ReLU(max_value=1.0, negative_slope=0.1, threshold=0.2)),
    "ELU": (IMAGE, lambda: L.ELU(0.5)),
    "Softmax": (IMAGE, lambda: L.Softmax(axis=-2)),
    **{f"Activation {name}": (VECTOR, lambda name=name: L.Activation(name)) for name in
       ("hard_sigmoid", "hard_silu", "silu", "leaky_relu", "relu6", "log_softmax", "gelu", "mish", "softsign", "celu", "glu")},
    "Dropout": (IMAGE, lambda: L.Dropout(0.5, seed=3)),
    "SpatialDropout2D": (IMAGE, lambda: L.SpatialDropout2D(0.5)),
    "GaussianNoise": (IMAGE, lambda: L.GaussianNoise(0.5)),
    "GaussianDropout": (IMAGE, lambda: L.GaussianDropout(0.5)),
    "AlphaDropout": (IMAGE, lambda: L.AlphaDropout(0.5)),
    "ActivityRegularization": (IMAGE, lambda: L.ActivityRegularization(l2=0.1)),
    "Flatten": (IMAGE, lambda: L.Flatten()),
    "Reshape": (IMAGE, lambda: L.Reshape((-1, 3))),
    "Permute": (IMAGE, lambda: L.Permute((3, 1, 2))),
    "RepeatVector": (VECTOR, lambda: L.RepeatVector(3)),
    "Identity": (VECTOR, lambda: L.Identity()),
    "Rescaling": (IMAGE, lambda: L.Rescaling([0.1, 0.2, 0.3, 0.4, 0.5, 0.6], 0.3)),
    "Resizing": (IMAGE, lambda: L.Resizing(5, 11)),
    **{f"{kind}Pooling{n}D": (shape, lambda kind=kind, n=n: getattr(L, f"{kind}Pooling{n}D")(2, padding="same"))
       for kind in ("Max", "Average") for n, shape in ((1, SERIES), (2, IMAGE), (3, (5, 5, 5, 2)))},
    **{f"Global{kind}Pooling{n}D": (shape, lambda kind=kind, n=n: getattr(L, f"Global{kind}Pooling{n}D")(keepdims=True))
       for kind in ("Max", "Average") for n, shape in ((1, SERIES), (2, IMAGE), (3, (5, 5, 5, 2)))},
    "Cropping1D": (SERIES, lambda: L.Cropping1D((1, 2))),
    "Cropping2D": (IMAGE, lambda: L.Cropping2D(((1, 2), (0, 1)))),
    "ZeroPadding1D": (SERIES, lambda: L.ZeroPadding1D((1, 2))),
    "ZeroPadding2D": (IMAGE, lambda: L.ZeroPadding2D(((1, 2), (0, 1)))),
    "UpSampling1D": (SERIES, lambda: L.UpSampling1D(2)),
    "UpSampling2D nearest": (IMAGE, lambda: L.UpSampling2D(2)),
    "UpSampling2D bilinear": (IMAGE, lambda: L.UpSampling2D((2, 3), interpolation="bilinear")),
    "LSTM": (SERIES, lambda: L.LSTM(5, return_sequences=True)),
    "GRU": (SERIES, lambda: L.GRU(5)),
    "GRU before": (SERIES, lambda: L.GRU(5, reset_after=False, return_state=True)),
    "SimpleRNN": (SERIES, lambda: L.SimpleRNN(5, go_backwards=True)),
    "RNN": (SERIES, lambda: L.RNN([L.LSTMCell(4), L.GRUCell(3)])),
    "Bidirectional": (SERIES, lambda: L.Bidirectional(L.LSTM(4, return_sequences=True))),
    "Bidirectional two": (SERIES, lambda: L.Bidirectional(L.GRU(4), backward_layer=L.GRU(4, "relu", go_backwards=True))),
    "TimeDistributed": (SERIES, lambda: L.TimeDistributed(L.Dense(4, activation="hard_silu"))),
    "ConvLSTM2D": ((3, 5, 5, 2), lambda: L.ConvLSTM2D(3, 2)),
}  # fmt: skip
CARRIED = {
    "RMSNormalization": (SERIES, lambda: L.RMSNormalization()),
    "LayerNormalization rms": (SERIES, lambda: L.LayerNormalization(rms_scaling=True)),
    "AdaptiveAveragePooling2D": (IMAGE, lambda: L.AdaptiveAveragePooling2D(2)),
    "ReversibleEmbedding": ("int", lambda: L.ReversibleEmbedding(9, 4)),
    "Lambda": (SERIES, lambda: L.Lambda(lambda x: ops.flip(x, 1) * 2)),
    "CategoryEncoding": ("int", lambda: L.CategoryEncoding(9, "multi_hot")),
}
RNG = np.random.default_rng(0)


def randomize(model):
    """Gives every weight another value, so that a wrong order shows."""
    for variable in model.weights:
        name = variable.path.split("/")[-1]
        if "int" in str(variable.dtype):
            continue
        low, high = (0.5, 1.5) if name in ("variance", "moving_variance", "gamma", "scale") else (-0.5, 0.5)
        variable.assign(RNG.uniform(low, high, variable.shape))
    for layer in model._flatten_layers():
        if hasattr(layer, "finalize_state"):
            layer.finalize_state()
    return model


def data_for(model, batch=3):
    """Random inputs, flat."""
    return [
        RNG.integers(0, 8, (batch, *t.shape[1:])) if "int" in t.dtype else RNG.normal(size=(batch, *t.shape[1:])).astype("float32")
        for t in model.inputs
    ]  # fmt: skip


def outputs_of(model, data):
    """The model's outputs for flat inputs, flat."""
    if is_keras3(model):
        structure = keras3.tree.pack_sequence_as(getattr(model, "_inputs_struct", model.inputs[0]), data)
        return [np.asarray(one, "float64") for one in keras3.tree.flatten(model(structure))]
    structure = tf.nest.pack_sequence_as(model._nested_inputs, data) if hasattr(model, "_nested_inputs") else data[0]
    return [np.asarray(one, "float64") for one in tf.nest.flatten(model(structure))]


def assert_same(one, other, data, tolerance=1e-5):
    for a, b in zip(outputs_of(one, data), outputs_of(other, data), strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * max(np.abs(a).max(), 1e-3))


def round_trip(model, tolerance=1e-5):
    """Carries a model over and back; returns the tf_keras model."""
    data = data_for(randomize(model))
    there = to_tf_keras(model)
    assert isinstance(there, keras.Model) and there.name == model.name
    assert_same(model, there, data, tolerance)
    back = to_keras3(there, model)
    assert type(back) is type(model)
    assert_same(model, back, data, 1e-7)
    assert [w.path for w in back.weights] == [w.path for w in model.weights]
    parts = "layers" if isinstance(model, keras3.Sequential) else "operations"
    assert {one.name for one in getattr(back, parts)} == {one.name for one in getattr(model, parts)}
    return there


def chain(shape, *layers):
    inputs = keras3.Input((5,), dtype="int32") if shape == "int" else keras3.Input(shape)
    x = inputs
    for layer in layers:
        x = layer(x)
    return keras3.Model(inputs, x)


@pytest.mark.parametrize("kind", CONVERTED)
def test_kinds_with_a_namesake(kind):
    shape, make = CONVERTED[kind]
    model = chain(shape, make())
    layer = round_trip(model).layers[-1]
    assert type(layer).__module__.startswith("tf_keras.") and type(layer).__name__ == type(model.layers[-1]).__name__
    assert layer.name == model.layers[-1].name
    type(layer).from_config(layer.get_config())
    assert to_keras3(to_tf_keras(model), model).layers[-1].get_config() == model.layers[-1].get_config()


@pytest.mark.parametrize("kind", CARRIED)
def test_kinds_that_are_carried(kind):
    shape, make = CARRIED[kind]
    model = chain(shape, make())
    layer = round_trip(model).layers[-1]
    assert isinstance(layer, CarriedLayer) and layer.carried_kind is type(model.layers[-1])
    assert layer.carried is not model.layers[-1]
    again = type(layer).from_config(layer.get_config())
    assert again.carried_kind is layer.carried_kind and again.carried is not layer.carried


@pytest.mark.parametrize("kind", ["Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum", "Concatenate", "Dot"])
def test_merges(kind):
    a, b = keras3.Input(SERIES), keras3.Input(SERIES)
    layer = getattr(L, kind)(**({"axes": 2} if kind == "Dot" else {}))
    round_trip(keras3.Model([a, b], layer([L.Dense(4)(a), L.Dense(4)(b)])))


@pytest.mark.parametrize("kind", ["MultiHeadAttention", "GroupQueryAttention", "Attention", "AdditiveAttention"])
def test_attention(kind):
    a, b = keras3.Input(SERIES), keras3.Input((5, 6))
    make = {
        "MultiHeadAttention": lambda: L.MultiHeadAttention(2, 3, value_dim=4, dropout=0.1),
        "GroupQueryAttention": lambda: L.GroupQueryAttention(3, 4, 2),
        "Attention": lambda: L.Attention(use_scale=True, score_mode="dot"),
        "AdditiveAttention": lambda: L.AdditiveAttention(),
    }[kind]
    if kind in ("Attention", "AdditiveAttention"):
        round_trip(keras3.Model([a, b], make()([a, b])))
        return
    y, scores = make()(a, value=b, return_attention_scores=True)
    round_trip(keras3.Model([a, b], {"y": y, "scores": scores}))
    round_trip(keras3.Model(a, make()(a, a, use_causal_mask=True)))


def test_weights_of_a_carrier_can_be_swapped():
    model = randomize(chain(SERIES, L.RMSNormalization()))
    carrier = to_tf_keras(model).layers[-1]
    a = keras3.Input(SERIES)
    attention = to_tf_keras(keras3.Model(a, L.GroupQueryAttention(3, 4, 2)(a, a))).layers[-1]
    x = tf.constant(RNG.normal(size=(2, *SERIES)), tf.float32)
    for layer, path, inputs in ((carrier, "scale", (x,)), (attention, "_query_dense.kernel", (x, x))):
        variable = get_weight(layer, path)
        *parents, name = path.split(".")
        owner = get_weight(layer, parents[0]) if parents else layer
        owner.__dict__[name] = tensor = tf.convert_to_tensor(variable) * 3
        with tf.GradientTape() as tape:
            tape.watch(tensor)
            changed = layer(*inputs)
        assert np.abs(tape.gradient(tensor, tensor)).max() > 0
        with tf.GradientTape() as tape:
            tape.watch(tensor)
            loss = tf.reduce_sum(layer(*inputs) ** 2)
        assert np.abs(tape.gradient(loss, tensor)).max() > 0
        owner.__dict__[name] = variable
        assert not np.allclose(changed, layer(*inputs))


def raw_operations(x):
    y = ops.reshape(x, (-1, 42)) * 2.0 - 1
    z = 0.5 + ops.transpose(x, (0, 2, 1))[:, None, 1:4, ::-1]
    a, b = ops.split(x, 2, axis=-1)
    w = ops.where(a > 0, a, ops.exp(b)) + np.arange(3, dtype="float32")
    v = ops.einsum("btc,bsc->bts", a, w) @ b
    return [y, ops.squeeze(z, 1), ops.concatenate([w, 1 / (v * v + 1)], -1), ops.pad(ops.mean(x, 1), [[0, 0], [1, 1]])]


def test_raw_operations():
    inputs = keras3.Input(SERIES)
    model = keras3.Model(inputs, raw_operations(L.Dense(6)(inputs)))
    there = round_trip(model)
    carriers = [layer for layer in there.layers if isinstance(layer, CarriedOperation)]
    assert len(carriers) > 15
    for layer in carriers:
        assert layer.carried_kind is type(layer.carried) and issubclass(layer.carried_kind, keras3.Operation)
        again = type(layer).from_config(layer.get_config())
        assert again.name == layer.name and again.carried is not layer.carried
    whole = next(layer for layer in carriers if layer.carried_kind.__name__ == "Reshape")
    numbers = tf.reshape(tf.range(42, dtype=tf.int64), (1, 7, 6))
    assert whole(numbers).dtype == tf.int64 and whole(keras.Input(SERIES)).shape == (None, 42)
    assert np.array_equal(next(x for x in carriers if x.carried_kind.__name__ == "Transpose")(numbers)[0], numbers[0].numpy().T)


@keras3.saving.register_keras_serializable(package="tests_interop")
class Mixer(L.Layer):
    """A user's layer: sublayers in a list, a weight of its own, statistics, noise, a loss."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units, self.blocks = units, [L.Dense(units, "relu", name="a"), L.Dense(units, name="b")]
        self.noise = L.Dropout(0.5)

    def build(self, shape):
        self.offset = self.add_weight(name="offset", shape=(self.units,))
        self.seen = self.add_weight(name="seen", shape=(), trainable=False)
        for block in self.blocks:
            block.build(shape)
            shape = (*shape[:-1], self.units)

    def call(self, x, flip=False, training=False):
        if training:
            self.seen.assign(self.seen + 1.0)
        for block in self.blocks:
            x = self.noise(block(x), training=training)
        self.add_loss(ops.mean(x**2))
        return (-x if flip else x) + self.offset

    def get_config(self):
        return {**super().get_config(), "units": self.units}


def test_layer_of_the_user(tmp_path):
    inputs = keras3.Input(SERIES)
    shared = Mixer(6, name="mixer")
    model = keras3.Model(inputs, shared(shared(inputs), flip=True))
    there = round_trip(model)
    carrier = there.get_layer("mixer")
    assert {"offset", "seen", "blocks.0.kernel", "blocks.1.bias"} <= set(carrier.paths)
    assert all(get_weight(carrier, path) is not None for path in carrier.paths) and spec_for(carrier) is None
    assert len(carrier.trainable_weights) == 5 and len(carrier.non_trainable_weights) == 1
    x, seen = tf.constant(data_for(model)[0]), float(carrier.seen)
    before = carrier.carried.seen.numpy()
    assert not np.allclose(there(x, training=True), there(x, training=True)), "no noise"
    assert float(carrier.seen) == pytest.approx(seen + 4) and carrier.carried.seen.numpy() == before
    assert np.allclose(there(x), there(x)) and float(carrier.seen) == pytest.approx(seen + 4) and len(there.losses) == 2
    there.compile("sgd", "mse")
    there.fit(x, x, verbose=0)
    assert_same(there, to_keras3(there, model), [x])
    to_keras3(there, model).save(tmp_path / "m.keras")
    assert_same(there, keras3.models.load_model(tmp_path / "m.keras"), [x])


def test_nested_shared_models_and_structures():
    a, b = keras3.Input((6,), name="a"), keras3.Input((6,), name="b")
    deep = keras3.Sequential([keras3.Input((6,)), L.Dense(5, activation="relu"), L.BatchNormalization()], name="deep")
    pair = keras3.Model({"a": a, "b": b}, [L.Add()([deep(a), L.Dense(5, name="d")(b)]), {"z": deep(b) * 2}], name="pair")
    x, y = keras3.Input((6,), name="x"), keras3.Input((6,), name="y")
    dense = L.Dense(6, name="shared")
    first, rest = pair({"a": dense(x), "b": dense(y)})
    second, _ = pair({"b": x, "a": y})
    model = keras3.Model({"x": x, "y": y}, {"sum": first + second, "z": (rest["z"], deep(x))})
    there = round_trip(model)
    assert isinstance(there.get_layer("pair").get_layer("deep"), keras.Sequential)
    assert len(there.weights) == len(model.weights)
    got = there({"x": tf.ones((2, 6)), "y": tf.zeros((2, 6))})
    assert got.keys() == {"sum", "z"} and isinstance(got["z"], tuple)
    back = to_keras3(there, model)  # not saved: Keras 3 itself cannot load such a model
    assert {**back.get_config(), "name": 0} == {**model.get_config(), "name": 0}


@pytest.mark.parametrize("given", ["input", "called"])
def test_sequential(given):
    layers = [L.Conv2D(4, 3), L.BatchNormalization(), L.Flatten(), L.Dense(3)]
    model = keras3.Sequential([keras3.Input(IMAGE), *layers] if given == "input" else layers, name="chain")
    model(np.zeros((1, *IMAGE), "float32"))
    there = round_trip(model)
    assert isinstance(there, keras.Sequential) and [x.name for x in there.layers] == [x.name for x in model.layers]


def test_masks_flow():
    inputs = keras3.Input((7,), dtype="int32")
    x = L.Embedding(9, 6, mask_zero=True)(inputs)
    x = L.LayerNormalization()(x)
    y = L.MultiHeadAttention(2, 3)(x, x)
    z = L.Bidirectional(L.LSTM(4, return_sequences=True))(L.Add()([x, y]))
    there = round_trip(keras3.Model(inputs, [L.GlobalAveragePooling1D()(z), L.LSTM(3)(L.RMSNormalization()(x))]))
    assert not any(isinstance(layer, CarriedOperation) for layer in there.layers)


def test_initial_state_of_a_recurrent_layer():
    a, b = keras3.Input(SERIES), keras3.Input(SERIES)
    _, *state = L.LSTM(4, return_state=True)(a)
    round_trip(keras3.Model([a, b], L.LSTM(4)(b, initial_state=state)))


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "float64", "bfloat16"])
def test_dtype_policies(policy):
    inputs = keras3.Input(IMAGE)
    x = L.Conv2D(4, 3, dtype=policy, name="conv")(inputs)
    x = L.RMSNormalization(dtype=policy, name="rms")(L.BatchNormalization(dtype=policy, name="bn")(x)) * 2
    model = keras3.Model(inputs, L.Dense(3, dtype="float32")(L.Flatten(dtype=policy)(x)))
    there = round_trip(model, {"float64": 1e-6}.get(policy, 5e-2))
    assert [there.get_layer(name).dtype_policy.name for name in ("conv", "rms", "bn")] == [policy] * 3
    assert to_keras3(there, model).get_layer("conv").dtype_policy.name == policy


def narrower(model, changes):
    """Rebuilds a tf_keras model with some configs changed (layer name -> config keys) and fresh weights."""

    def clone(layer):
        if isinstance(layer, keras.Model):
            return narrower(layer, changes)
        return type(layer).from_config({**layer.get_config(), **changes.get(layer.name, {})})

    layers, values = {}, {}
    for tensor in model.inputs:
        layer = tensor._keras_history.layer
        values[id(tensor)] = keras.layers.InputLayer(
            batch_input_shape=changes.get(layer.name, tuple(tensor.shape)), name=layer.name, dtype=tensor.dtype
        ).output
    if isinstance(model, keras.Sequential):
        first = next(iter(values.values()))._keras_history.layer
        return keras.Sequential([first, *map(clone, model.layers)], name=model.name)
    for _, nodes in sorted(model._nodes_by_depth.items(), reverse=True):
        for node in nodes:
            if node.is_input:
                continue
            if id(node.layer) not in layers:
                layers[id(node.layer)] = clone(node.layer)
            args, kwargs = tf.nest.map_structure(lambda x: values.get(id(x), x), (node.call_args, node.call_kwargs))
            key, value = changes.get(node.layer.name + "()", (None, None))
            if key is not None:
                args = (*args[:key], value, *args[key + 1 :])
            made = layers[id(node.layer)](*args, **kwargs)
            values.update(zip(map(id, tf.nest.flatten(node.outputs)), tf.nest.flatten(made)))
    outputs = tf.nest.map_structure(lambda x: values[id(x)], model._nested_outputs)
    inputs = tf.nest.map_structure(lambda x: values[id(x)], model._nested_inputs)
    return keras.Model(inputs, outputs, name=model.name)


def test_narrower_layers(tmp_path):
    inputs = keras3.Input(IMAGE, name="image")
    x = L.Conv2D(6, 3, name="conv", activation="hard_silu", kernel_regularizer="l2")(inputs)
    x = L.LeakyReLU(0.4, name="leaky")(L.BatchNormalization(name="bn")(x))
    deep = keras3.Sequential([keras3.Input((6, 6, 6), name="in"), L.Conv2D(6, 1, groups=3, name="grouped")], name="deep")
    y = ops.reshape(deep(x), (-1, 36, 6))
    y = L.Bidirectional(L.GRU(4, return_sequences=True), name="rnn")(y)
    y = L.MultiHeadAttention(4, 3, name="mha")(y, y)
    y = L.GroupQueryAttention(3, 4, 2, name="gqa")(y, y)
    y = L.TimeDistributed(L.Dense(5, name="inner"), name="each")(y)[:, :, :4]
    model = keras3.Model(inputs, {"y": y, "z": L.Flatten()(L.Reshape((-1, 6), name="shape")(x))}, name="net")
    model.get_layer("bn").trainable = False
    model.compile("adam", {"y": "mse", "z": "mae"}, metrics={"y": ["mae"]})
    there = to_tf_keras(randomize(model))
    assert not there.get_layer("bn").trainable and there.get_layer("conv").trainable
    rnn = there.get_layer("rnn").get_config()["layer"]
    inner = there.get_layer("each").get_config()["layer"]
    reshape = next(layer for layer in there.layers if layer.name.startswith("reshape"))
    item = next(layer for layer in there.layers if layer.name.startswith("get_item"))
    small = narrower(there, {
        "conv": {"filters": 4}, "in": (None, 6, 6, 4), "grouped": {"groups": 2, "filters": 4},
        reshape.name: {"newshape": (-1, 36, 4)}, "rnn": {"layer": {**rnn, "config": {**rnn["config"], "units": 3}}},
        "mha": {"num_heads": 2, "key_dim": 2, **dict.fromkeys(("query_shape", "key_shape", "value_shape"), (None, 36, 6))},
        "gqa": {"num_query_heads": 2, "num_key_value_heads": 1},
        "each": {"layer": {**inner, "config": {**inner["config"], "units": 3}}},
        item.name + "()": (1, (slice(None), slice(None), slice(None, 2))), "shape": {"target_shape": (-1, 4)},
    })  # fmt: skip
    for weight in small.weights:
        weight.assign(RNG.uniform(0.2, 0.8, weight.shape))
    data = data_for(model)
    got = to_keras3(small, model)
    assert_same(small, got, data)
    assert got.output["y"].shape == (None, 36, 2) and got.get_layer("conv").filters == 4
    assert got.get_layer("rnn").backward_layer.units == 3 and got.get_layer("mha")._num_heads == 2
    kept, was = got.get_layer("conv").get_config(), model.get_layer("conv").get_config()
    assert {**was, "filters": 4} == kept
    assert not got.get_layer("bn").trainable and got.optimizer.name.startswith("adam") and got.optimizer is not model.optimizer
    got.save(tmp_path / "m.keras")
    loaded = keras3.models.load_model(tmp_path / "m.keras")
    assert_same(got, loaded, data, 1e-6)
    assert loaded.get_layer("conv").get_config() == kept
    assert model.get_layer("conv").filters == 6 and model.count_params() == there.count_params()


def test_vocabularies_are_carried():
    inputs = keras3.Input((3,), dtype="string")
    lookup = L.StringLookup()
    lookup.adapt(["b b a", "b", "a", "c"])
    model = keras3.Model(inputs, L.Embedding(9, 2)(lookup(inputs)))
    words = tf.constant([["a", "b", "x"]])
    there = to_tf_keras(model)
    carrier = there.layers[1]
    again = type(carrier).from_config(carrier.get_config())
    for one in (there, to_keras3(there, model)):
        np.testing.assert_array_equal(one(words), model(words))
    np.testing.assert_array_equal(again(words), lookup(words))


def test_carry():
    model = keras.Sequential([keras.layers.Dense(2, input_shape=(3,))])
    same, back = carry(model)
    assert same is model and back(model) is model and not is_keras3(model)
    model3 = chain((3,), L.Dense(2))
    there, back = carry(model3)
    assert is_keras3(model3) and not is_keras3(there)
    assert_same(model3, back(there), data_for(model3))


@pytest.mark.parametrize("pairs, gate", [(1, False), (2, False), (2, True), (4, False)])
def test_carried_kinds_are_pruned(pairs, gate):
    """The pruned network equals the masked one, in tf_keras and as Keras 3 model; the MACs are as predicted."""
    inputs = keras3.Input(SERIES)
    x = L.GroupQueryAttention(3, 4, pairs, use_gate=gate, name="gqa")(L.Dense(8)(inputs), L.Dense(8)(inputs))
    x = L.RMSNormalization()(L.RMSNormalization()(L.Dense(9)(x)) + L.Dense(9)(inputs))
    x = convnext.StochasticDepth(0.2)(convnext.LayerScale(0.3, 9)(x))
    x = inception_resnet_v2.CustomScaleLayer(0.3)([x, L.Dense(9)(inputs)])
    x = L.Flatten()(L.AdaptiveAveragePooling1D(2)(x))
    model = randomize(keras3.Model(inputs, L.Dense(3)(x)))
    there, back = carry(model)
    trace, data = trace_model(there), data_for(model)
    keep = np.array([unit in trace.channels.frozen or RNG.random() < 0.6 for unit in range(trace.channels.num_units)])
    for channels in trace.channels.calls:
        for layout in channels.roles.values():
            keep[trace.channels.units(layout)[0]] = True
    small = rebuild_model(trace, PruningPlan(keep, (), 0, 0))
    assert small.count_params() < there.count_params()
    np.testing.assert_allclose(small(data[0]), run_masked(trace, keep, data)[0], rtol=1e-5, atol=1e-6)
    assert_same(small, back(small), data)
    assert cost(trace, keep).macs == cost(trace_model(small)).macs < cost(trace).macs
    heads = [trace.channels.units(c.roles["heads"]) for c in trace.channels.calls if c.call.layer.name == "gqa"]
    assert back(small).get_layer("gqa").num_query_heads == keep[heads[0]].sum()
    kinds = {type(spec_for(channels.call.layer)).__name__ for channels in trace.channels.calls}
    assert {"GroupQueryAttentionSpec", "RMSNormalizationSpec", "LayerScaleSpec", "AdaptivePoolingSpec"} <= kinds


class Subclassed(keras3.Model):
    def call(self, x):
        return x


class Weighted(keras3.Model):
    """A functional model with a training step and an argument of its own."""

    def __init__(self, inputs, outputs, weight=1.0, name=None):
        super().__init__(inputs, outputs, name=name)
        self.weight = weight

    def train_step(self, *args, **kwargs):
        return super().train_step(*args, **kwargs)


class Sized(keras3.Model):
    """A functional model that makes its layers itself."""

    def __init__(self, units):
        inputs = keras3.Input((5,))
        super().__init__(inputs, L.Dense(units)(inputs))


def test_the_class_of_a_model_is_kept_or_told():
    inputs = keras3.Input((5,))
    model = Weighted(inputs, L.Dense(3)(inputs), weight=0.5, name="weighted")
    back = to_keras3(to_tf_keras(model), model)
    assert type(back) is Weighted and back.weight == 0.5 and back.name == "weighted"
    model = Sized(4)
    with pytest.warns(UserWarning, match="expected a Sized that can be made of inputs and outputs, got ValueError"):
        back = to_keras3(to_tf_keras(model), model)
    np.testing.assert_array_equal(back(np.eye(5)), model(np.eye(5)))


class NoConfig(L.Layer):
    def __init__(self, array, **kwargs):
        super().__init__(**kwargs)
        self.array = array

    def call(self, x):
        return x + self.array


def test_what_cannot_be_carried_is_named():
    with pytest.raises(UnsupportedModelError, match="got the subclassed model Subclassed"):
        to_tf_keras(Subclassed())
    with pytest.raises(UnsupportedModelError, match="expected a built model, got a Sequential without an input shape"):
        to_tf_keras(keras3.Sequential([L.Dense(3)]))
    with pytest.raises(UnsupportedModelError, match=r"Layer 'odd' \(NoConfig\): expected a layer that can be made again"):
        to_tf_keras(chain(SERIES, NoConfig(np.ones(6), name="odd")))
    embedding = L.Embedding(9, 6)
    embedding.build()
    tied = chain(SERIES, lambda x: ops.matmul(embedding.embeddings, x[:, :6]))
    with pytest.raises(UnsupportedModelError, match="matmul.*expected tensors of the model and constants as arguments, got"):
        to_tf_keras(tied)
    with pytest.raises(UnsupportedModelError, match="Input 's'.*expected a dense input, got a sparse"):
        s = keras3.Input((4,), sparse=True, name="s")
        to_tf_keras(keras3.Model(s, L.Dense(2)(s)))
    model = chain((3,), L.Dense(2, name="a"))
    with pytest.raises(UnsupportedModelError, match="expected layer 'a', got 'b'"):
        to_keras3(to_tf_keras(chain((3,), L.Dense(2, name="b"))), model)
    two = keras3.Input((3,))
    with pytest.raises(UnsupportedModelError, match="expected a tf_keras model of the same graph"):
        to_keras3(to_tf_keras(keras3.Model(two, [L.Dense(2, name="a")(two)] * 2)), model)


def test_keras3_is_imported_by_need_and_runs_on_tensorflow():
    use = (
        "import sys, tensorflow, tf_keras; before = {*sys.modules}; import tfmetaprune.interop as i; m = tf_keras.Sequential(); "
        "assert i.carry(m)[0] is m; new = {n for n in {*sys.modules} - before if n.startswith('keras') or n.endswith('s3')}; "
        "assert not new, new"
    )
    subprocess.run([sys.executable, "-c", use], check=True)
    monkey = pytest.MonkeyPatch()
    with monkey.context() as patch, pytest.raises(UnsupportedModelError, match="expected the backend 'tensorflow', got 'jax'"):
        patch.setattr(keras3.backend, "backend", lambda: "jax")
        to_tf_keras(chain((3,), L.Dense(2)))


@pytest.mark.parametrize("name, size", [("MobileNetV3Small", 64), ("EfficientNetB0", 32), ("ConvNeXtTiny", 32), ("DenseNet121", 32)])
def test_applications(name, size):
    model = getattr(keras3.applications, name)(weights=None, input_shape=(size, size, 3), classes=5, classifier_activation=None)
    for variable in model.weights:
        kind = variable.path.split("/")[-1]
        if kind in ("gamma", "beta", "bias"):
            variable.assign(RNG.uniform(0.5, 1.5, variable.shape) if kind == "gamma" else RNG.normal(0, 0.1, variable.shape))
    norms = [layer for layer in model.layers if isinstance(layer, L.BatchNormalization)]
    x = RNG.uniform(0, 1, (4, size, size, 3)).astype("float32") * (1 if name == "DenseNet121" else 255)
    momenta = [layer.momentum for layer in norms]
    for layer in norms:
        layer.momentum = 0.0
    if norms:
        model(x, training=True)
    for layer, momentum in zip(norms, momenta):
        layer.momentum = momentum
        layer.moving_variance.assign(layer.moving_variance + 0.05)
    there, back = carry(model)
    assert np.std(outputs_of(model, [x])[0]) > 1e-3
    assert_same(model, there, [x])
    assert_same(model, back(there), [x], 1e-6)
