"""Zeros in nested, shared, mixed-precision and Keras 3 models, and under somebody else's training."""

import keras as keras3
import numpy as np
import pytest
from zoo import ZOO, randomize

import tfmetaprune
from tfmetaprune._keras import keras, tf
from tfmetaprune.trace import trace_model

L = keras.layers
NOTHING = {"metanetwork": None, "finetune": None, "repair": None}


def test_n_of_m_inside_attention_and_cells():
    inputs = keras.Input((6, 8))
    x = L.MultiHeadAttention(2, 4, name="attention")(inputs, inputs)
    model = randomize(keras.Model(inputs, L.Dense(3, name="out")(L.LSTM(8, name="lstm")(x))), "cells")
    small = tfmetaprune.prune(model, method="2:4", **NOTHING).model
    attention, cell = small.get_layer("attention"), small.get_layer("lstm").cell
    for value in (attention._query_dense.kernel, attention._value_dense.kernel, cell.kernel, cell.recurrent_kernel):
        runs = value.numpy().reshape(2, 4, -1)
        assert (np.count_nonzero(runs, 1) == 2).all()  # along the first axis: what is read
    runs = attention._output_dense.kernel.numpy().reshape(2, 4, -1)  # heads times values are read
    assert (np.count_nonzero(runs, 1) == 2).all()


def test_unknown_and_nested_layers():
    report = tfmetaprune.prune(ZOO["unknown_layer"](), method="unstructured", **NOTHING).report["sparsity"]
    assert report["dense"]["shift"] == "no LayerSpec is registered for this kind"
    shared = keras.Sequential([L.Dense(8, input_shape=(8,), name="one"), L.Dense(8, name="two")], name="shared")
    inputs = keras.Input((8,))
    model = keras.Model(inputs, L.Dense(2, name="out")(shared(shared(inputs))))
    result = tfmetaprune.prune(model, method="unstructured", sparsity=0.5, **NOTHING)
    assert [*result.report["sparsity"]["layers"]] == ["shared/one", "shared/two", "out"]
    assert result.report["sparsity"]["reached"] == 0.5
    assert np.sum(result.model.get_layer("shared").get_layer("one").kernel.numpy() == 0) > 0


def test_mixed_precision():
    keras.mixed_precision.set_global_policy("mixed_float16")
    try:
        model = keras.Sequential([L.Dense(16, "relu", input_shape=(8,), name="a"), L.Dense(3, dtype="float32", name="b")])
        data = np.random.default_rng(0).normal(size=(64, 8)).astype("float32"), np.arange(64) % 3
        options = {"metanetwork": None, "repair": None}
        trained = tfmetaprune.prune(model, data, method="unstructured", finetune=2, **options)
        held = tfmetaprune.prune(model, data, method="unstructured", finetune=_fit("sgd"), **options)
    finally:
        keras.mixed_precision.set_global_policy(None)  # follows floatx again
    for result in (trained, held):
        assert result.report["sparsity"]["reached"] == pytest.approx(0.8, abs=0.01)
        assert result.model.get_layer("a").kernel.dtype == tf.float32


@pytest.mark.parametrize("k", [keras, keras3])
def test_weights_that_a_class_makes_for_itself_are_not_held(k):
    class Weighted(k.Model):
        def __init__(self, inputs, outputs, name=None):
            super().__init__(inputs, outputs, name=name)
            self.balance = self.add_weight(name="balance", shape=(2,), initializer="zeros")

    def finetune(model, train_data, validation_data):
        assert type(model) is Weighted
        model.balance.assign([1.0, 2.0])

    inputs = k.Input((8,))
    model = Weighted(inputs, k.layers.Dense(3)(k.layers.Dense(16, "relu", name="a")(inputs)))
    data = np.random.default_rng(0).normal(size=(64, 8)).astype("float32"), np.arange(64) % 3
    result = tfmetaprune.prune(model, data, method="unstructured", finetune=finetune, metanetwork=None, repair=None)
    np.testing.assert_array_equal(np.asarray(result.model.balance), [1.0, 2.0])
    assert np.mean(np.asarray(result.model.get_layer("a").kernel) == 0) > 0.5


def _fit(optimizer, touch=False):
    """A callable fine-tuning with a loop of its own."""

    def finetune(model, train_data, validation_data):
        model.compile(optimizer, "sparse_categorical_crossentropy")
        seen.append([weight != 0 for weight in model.get_weights()])
        model.fit(*train_data, epochs=3, verbose=0)
        during.append([weight != 0 for weight in model.get_weights()])
        if touch:
            model.set_weights([weight + 1 for weight in model.get_weights()])

    seen, during = [], []
    finetune.seen, finetune.during = seen, during
    return finetune


@pytest.mark.parametrize("module", [keras, keras3], ids=["Keras 2", "Keras 3"])
@pytest.mark.parametrize("touch", [False, True], ids=["fit", "set_weights too"])
def test_zeros_stay_in_somebody_elses_training(module, touch):
    layers = module.layers
    module.utils.set_random_seed(0)
    inputs = module.Input((8,))
    constraint = module.constraints.MaxNorm(1.0)
    x = layers.BatchNormalization(name="norm")(layers.Dense(16, "relu", name="a", kernel_constraint=constraint)(inputs))
    x = layers.Reshape((4, 4), name="steps")(x)
    model = module.Model(inputs, layers.Dense(3, "softmax", name="c")(layers.GRU(8, name="b")(x)), name="theirs")
    data = np.random.default_rng(0).normal(size=(64, 8)).astype("float32"), np.arange(64) % 3
    finetune = _fit("adam", touch)
    result = tfmetaprune.prune(model, data, method="unstructured", sparsity=0.7, finetune=finetune, metanetwork=None)
    assert type(result.model) is type(model) and result.report["sparsity"]["reached"] == pytest.approx(0.7, abs=0.01)
    for weight, before, during in zip(result.model.weights, finetune.seen[0], finetune.during[0], strict=True):
        value = np.asarray(weight)
        if value.ndim == 2 and "bias" not in weight.name:
            np.testing.assert_array_equal(value != 0, before)
            np.testing.assert_array_equal(during, before)
            assert not value[~before].tobytes().strip(b"\0") and (~before).any()
        owner = weight._variable if hasattr(weight, "true_dtype") else weight
        assert "Mask" not in type(owner.constraint).__name__
    kernel = next(weight for weight in result.model.get_layer("a").weights if "kernel" in weight.name)
    assert "MaxNorm" in type(kernel.constraint).__name__
    assert touch or np.linalg.norm(np.asarray(kernel), axis=0).max() <= 1.001
    result.model.fit(*data, verbose=0)  # nobody holds the zeros any more
    assert not np.array_equal(np.asarray(kernel) != 0, finetune.seen[0][0])


@pytest.mark.parametrize("method", ["unstructured", "2:4", "structured+unstructured"])
def test_keras_3_models(method, tmp_path):
    keras3.utils.set_random_seed(0)
    inputs = keras3.Input((8, 8, 4), name="image")
    x = keras3.layers.BatchNormalization()(keras3.layers.Conv2D(12, 3, name="conv")(inputs))
    x = keras3.layers.Dense(4, name="logits")(keras3.layers.Flatten()(keras3.ops.relu(x)))
    model = keras3.Model(inputs, x, name="theirs")
    model.compile("adam", keras3.losses.SparseCategoricalCrossentropy(from_logits=True))
    rng = np.random.default_rng(0)
    data = rng.normal(size=(64, 8, 8, 4)).astype("float32"), rng.integers(0, 4, 64)
    old = model.get_weights()
    result = tfmetaprune.prune(model, data, validation_data=data, method=method, finetune=2, metanetwork=None)
    assert type(result.model) is type(model)
    for name in ("conv", "logits"):
        value = np.asarray(result.model.get_layer(name).kernel)
        entry = result.report["sparsity"]["layers"][name]
        assert entry["zeros"] == np.sum(value == 0) and entry["sparsity"] > 0.3 and entry["weights"] == value.size
        if method == "2:4":
            value = value.reshape(-1, *value.shape[-2:])
            assert (np.count_nonzero(value.reshape(len(value), -1, 4, value.shape[-1]), 2) == 2).all()
    assert (result.model.get_layer("conv").filters < 12) == method.startswith("structured")
    result.model.save(tmp_path / "sparse.keras")
    loaded = keras3.models.load_model(tmp_path / "sparse.keras")
    for one, other in zip(result.model.get_weights(), loaded.get_weights(), strict=True):
        assert one.tobytes() == other.tobytes()
    assert all(np.array_equal(a, b) for a, b in zip(old, model.get_weights(), strict=True))


@pytest.mark.parametrize("name", sorted(ZOO))
def test_every_model_of_the_zoo(name):
    model = ZOO[name]()
    result = tfmetaprune.prune(model, method="unstructured", sparsity=0.5, **NOTHING)
    sparsity = result.report["sparsity"]
    assert sparsity["reached"] == pytest.approx(0.5, abs=0.02)
    assert {*sparsity["layers"], *sparsity["dense"]} == {
        call.path for call in trace_model(model).calls if call.layer.weights
    }  # fmt: skip
    for (value, kept), old in zip(((one, one != 0) for one in result.model.get_weights()), model.get_weights(), strict=True):
        np.testing.assert_array_equal(value, np.where(kept, old, 0))
    nothing = tfmetaprune.prune(model, method="unstructured", sparsity=0, **NOTHING)
    assert all(np.array_equal(a, b) for a, b in zip(nothing.model.get_weights(), model.get_weights(), strict=True))
