"""Everything a caller does, with Keras 3 models: they go in and come out as Keras 3 models."""

import json

import keras as keras3
import numpy as np
import pytest
from typer.testing import CliRunner

import tfmetaprune
from tfmetaprune import cli
from tfmetaprune.data import as_dataset
from tfmetaprune.errors import DataError
from tfmetaprune.finetuning import evaluate_model, own_losses
from tfmetaprune.interop import carry
from tfmetaprune.layers import Axes, LayerSpec, register, spec
from tfmetaprune.pruning import run_masked
from tfmetaprune.trace import trace_model

L = keras3.layers


def make_data(count=96, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, 8, 8, 3)).astype("float32"), rng.integers(0, 4, count)


def two_blocks(**options):
    keras3.utils.set_random_seed(0)
    inputs = keras3.Input((8, 8, 3), name="image")
    x = inputs
    for name in ("a", "b"):
        x = L.BatchNormalization(name=f"{name}_bn")(L.Conv2D(12, 3, padding="same", name=f"{name}_conv")(x))
        x = keras3.ops.relu(x) + 0.1
    model = keras3.Model(inputs, L.Dense(4, name="logits")(L.GlobalAveragePooling2D()(x)), name="blocks")
    loss = keras3.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras3.optimizers.Adam(1e-2), loss, metrics=["accuracy"], **options)
    return model


@pytest.fixture(scope="module")
def model():
    model = two_blocks()
    model.fit(*make_data(), epochs=2, verbose=0)
    return model


def mse(y, outputs):
    """Not what Keras calls so."""
    return keras3.ops.mean(outputs - 2 * keras3.ops.reshape(keras3.ops.cast(y, "float32"), (-1, 1)), -1) ** 2


class Twice(keras3.losses.Loss):
    """A loss that nobody has registered."""

    def call(self, y, outputs):
        return 2 * mse(y, outputs)


@pytest.mark.parametrize("loss", [mse, Twice()])
def test_a_model_is_compiled_with_functions_and_classes_of_its_own(loss):
    model, (x, y) = two_blocks(), make_data(64)
    model.compile("sgd", loss, metrics=[mse])
    small = tfmetaprune.prune(model, (x, y), speedup=2.0, metanetwork=None, criterion="group_l2", finetune=None).model
    each = keras3.ops.convert_to_numpy(mse(y, small(x))).mean()
    values = small.evaluate(x, y, batch_size=64, verbose=0)
    np.testing.assert_allclose(values, [2 * each if isinstance(loss, Twice) else each, each], rtol=1e-4)


def test_prune_returns_a_model_of_keras_3(model, tmp_path):
    before, (x, y) = model.get_weights(), make_data()
    result = tfmetaprune.prune(model, (x, y), validation_data=(x, y), speedup=2.0, finetune=2)
    small = result.model
    assert type(small) is type(model) and small.count_params() < model.count_params()
    assert [layer.name for layer in small.layers] == [layer.name for layer in model.layers]
    report = json.loads(json.dumps(result.report))
    for step, network in (("before", model), ("finetuned", small)):
        loss, accuracy = network.evaluate(x, y, verbose=0)
        assert report[step]["loss"] == pytest.approx(loss, rel=1e-4)
        assert report[step]["accuracy"] == pytest.approx(accuracy)
    assert result.history["loss"][-1] < report["repaired"]["loss"]
    small.save(tmp_path / "small.keras")
    loaded = keras3.models.load_model(tmp_path / "small.keras")
    np.testing.assert_array_equal(loaded(x), small(x))
    for weight, value in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, value)


def test_a_callable_that_finetunes_gets_a_model_of_keras_3(model):
    seen, data = [], make_data()

    def finetune(network, train_data, validation_data):
        seen.append(type(network))
        return network.fit(*train_data, verbose=0)

    result = tfmetaprune.prune(model, data, validation_data=data, speedup=1.5, metanetwork=None, finetune=finetune)
    assert seen == [type(model)] and len(result.history["loss"]) == 1
    loss, _ = result.model.evaluate(*data, verbose=0)
    assert result.report["finetuned"]["loss"] == pytest.approx(loss, rel=1e-4)


def test_encode_and_decode_are_inverse(model):
    copy = tfmetaprune.decode(tfmetaprune.encode(model), model)
    assert type(copy) is type(model)
    for weight, value in zip(copy.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(weight, value)


def test_inspect_names_groups_and_layers(model):
    inspection = tfmetaprune.inspect(model)
    assert inspection.name == "blocks" and inspection.prunable_macs_share == 1
    assert {"a_conv", "b_conv"} <= {group["name"] for group in inspection.groups if group["prunable"]}


def test_export(model, tmp_path):
    x, _ = make_data(16)
    report = tfmetaprune.export_tflite(model, tmp_path / "model.tflite", representative_data=x)
    assert report.relative_difference < 1e-5


def test_command_line_reads_files_of_keras_3(model, tmp_path):
    model.save(tmp_path / "model.keras")
    run = CliRunner().invoke(cli.app, ["inspect", str(tmp_path / "model.keras"), "--json"], catch_exceptions=False)
    assert json.loads(run.stdout)["name"] == "blocks"


class Projection(L.Layer):
    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], self.units))
        self.gain = self.add_weight(shape=(self.units,), initializer="random_normal")

    def call(self, x):
        return x @ self.kernel * self.gain

    def get_config(self):
        return {**super().get_config(), "units": self.units}


def test_a_layer_of_ones_own_is_unknown_until_it_is_registered():
    inputs = keras3.Input((10,))
    x = Projection(12, name="second")(Projection(16, name="first")(inputs))
    model = keras3.Model(inputs, L.Dense(3)(L.ReLU()(x)))
    assert tfmetaprune.inspect(model).unknown_layers == ("'first' (Projection)", "'second' (Projection)")

    @register(Projection)
    class ProjectionSpec(LayerSpec):
        axes = {"kernel": "in out", "gain": "out"}
        width_arg = "units"

        def flow(self, call):
            return Axes("b ... in -> b ... out")

    try:
        nothing = {"metanetwork": None, "repair": None, "finetune": None}
        result = tfmetaprune.prune(model, speedup=2.0, **nothing)
        trace = trace_model(carry(model)[0])
    finally:
        spec._REGISTRY.pop(Projection)
    x = make_data()[0].reshape(-1, 192)[:, :10]
    assert type(result.model) is type(model) and result.model.get_layer("first").units < 16
    assert isinstance(result.model.get_layer("first"), Projection)
    np.testing.assert_allclose(result.model(x), run_masked(trace, result.plan.keep, [x])[0], rtol=1e-4, atol=1e-5)


def _squared(y_true, y_pred):
    return keras3.ops.mean((keras3.ops.one_hot(y_true, 4) - y_pred) ** 2, -1)


class _SquaredLoss(keras3.losses.Loss):
    def call(self, y_true, y_pred):
        return _squared(y_true, y_pred)


@pytest.mark.parametrize(
    "loss",
    [
        "sparse_categorical_crossentropy", _squared, keras3.losses.SparseCategoricalCrossentropy(from_logits=True),
        keras3.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=1), "crossentropy", "CE", "circle", _SquaredLoss,
        keras3.losses.SparseCategoricalCrossentropy,
    ],
    ids=[
        "name", "function", "object", "object of its own options", "name that depends on the labels", "in capitals",
        "name of Keras 3 alone", "class", "class of Keras",
    ],
)  # fmt: skip
def test_the_loss_is_the_models_own(loss):
    model, (x, y) = two_blocks(), make_data(32)
    model.compile("sgd", loss)
    expected = np.ravel(model.evaluate(x, y, verbose=0, batch_size=32))[0]
    data = as_dataset((x, y), batch_size=32)
    measured = evaluate_model(carry(model)[0], data, own_losses(model))
    assert measured["loss"] == pytest.approx(expected, rel=1e-4)


@keras3.saving.register_keras_serializable("tests")
def _squared_by_id(ids, outputs):
    return _squared((ids - 100) // 7, outputs)


def test_a_loss_of_ones_own_takes_labels_of_its_own():
    model, (x, y) = two_blocks(), make_data(64)
    ids = 100 + 7 * y
    model.compile("sgd", _squared_by_id)
    result = tfmetaprune.prune(model, (x, ids), validation_data=(x, ids), criterion="group_l2", metanetwork=None, repair="bn", finetune=1)
    assert result.report["finetuned"]["loss"] > 0
    model.compile("sgd", "sparse_categorical_crossentropy")
    with pytest.raises(DataError, match="expected labels in 0..3"):
        tfmetaprune.prune(model, (x, ids))
