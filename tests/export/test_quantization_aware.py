"""Quantisation-aware training keeps zeros, and names the layers that it cannot take."""

import json
import os

import keras as keras3
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from zeros import with_zeros

from tfmetaprune._keras import keras
from tfmetaprune.data import load
from tfmetaprune.errors import DataError, ExportError
from tfmetaprune.export.tflite import export_tflite, run_tflite
from tfmetaprune.metatrain.zoo import dataset_arrays, residual_cnn

layers = keras.layers


@pytest.fixture(scope="module")
def digits():
    splits = load("digits")
    return *dataset_arrays(splits.train), *dataset_arrays(splits.test)


@pytest.fixture(scope="module")
def pruned(digits):
    model = residual_cnn((8, 8, 1), 10, widths=(8, 16), seed=3)
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    model.fit(*digits[:2], epochs=8, verbose=0)
    names = [layer.name for layer in model.layers if isinstance(layer, (layers.Conv2D, layers.Dense))]
    return with_zeros(model, 0.5, names), names


def test_zeros_stay_zeros(pruned, digits, tmp_path):
    (model, names), (x, y, test_x, test_y) = pruned, digits
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    before = [weight.copy() for weight in model.get_weights()]
    plain = export_tflite(model, tmp_path / "plain.tflite", quantize="int8", representative_data=x)
    report = export_tflite(model, tmp_path / "m.tflite", quantize="int8", training_data=(x, y), epochs=3)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    assert model.optimizer.name == "SGD"
    assert report.zeros >= plain.zeros - 1e-6 and report.zeros < plain.zeros + 0.05
    assert report.layer_zeros.keys() == set(names) and min(report.layer_zeros.values()) > 0.45

    history = report.training["history"]["loss"]
    assert len(history) == 3 and history[-1] < history[0]
    assert report.training["relative_difference"] > report.relative_difference  # it learnt something
    assert 0.3 < report.training["argmax_agreement"] < 1  # the zeros had hurt, and training mends it
    assert json.loads(json.dumps(report.to_dict())) == report.to_dict()
    assert plain.training is None

    accuracy = np.mean(run_tflite(report.path, test_x).argmax(1) == test_y)
    assert accuracy > np.mean(run_tflite(plain.path, test_x).argmax(1) == test_y)  # half its weights were just set to zero
    dtypes = {np.dtype(details["dtype"]).name for details in Interpreter(report.path).get_tensor_details()}
    assert "int8" in dtypes and os.listdir(tmp_path).count("m.tflite") == 1


def test_integer_io_after_training(pruned, digits, tmp_path):
    (model, _), (x, y, test_x, _) = pruned, digits
    options = {"quantize": "int8", "training_data": (x[:64], y[:64]), "representative_data": x, "epochs": 1}
    report = export_tflite(model, tmp_path / "m.tflite", integer_io=True, **options)
    assert Interpreter(report.path).get_input_details()[0]["dtype"] == np.int8
    assert run_tflite(report.path, test_x).dtype == np.float32


@pytest.mark.parametrize(
    "layer, shape", [(layers.Conv1D(2, 3, name="odd"), (6, 3)), (layers.LSTM(2, name="odd"), (6, 3)),
                     (layers.PReLU(name="odd"), (4,)), (layers.LayerNormalization(name="odd"), (4,))]
)  # fmt: skip
def test_layers_that_cannot_be_trained_so_are_named(layer, shape, tmp_path):
    inputs = keras.Input(shape)
    model = keras.Model(inputs, layers.Dense(2)(layers.Flatten()(layer(inputs))))
    data = np.zeros((8, *shape)), np.zeros(8, int)
    kind = type(layer).__name__
    with pytest.raises(ExportError, match=rf"got layer 'odd' \({kind}\)\. Leave training_data out") as caught:
        export_tflite(model, tmp_path / "m.tflite", quantize="int8", training_data=data)
    assert caught.value.__cause__ is not None and os.listdir(tmp_path) == []


def test_nested_models_are_named(tmp_path):
    inner = keras.Sequential([keras.Input((4,)), layers.Dense(3)], name="inner")
    inputs = keras.Input((4,))
    model = keras.Model(inputs, layers.Dense(2)(inner(inputs)))
    with pytest.raises(ExportError, match="got layer 'inner', a model inside the model"):
        export_tflite(model, tmp_path / "m.tflite", quantize="int8", training_data=(np.zeros((8, 4)), np.zeros(8, int)))


def test_models_of_keras_3(digits, tmp_path):
    inputs = keras3.Input((8, 8, 1))
    x = keras3.layers.Conv2D(4, 3, activation="relu")(inputs)
    model = keras3.Model(inputs, keras3.layers.Dense(10)(keras3.layers.Flatten()(x)))
    report = export_tflite(model, tmp_path / "m.tflite", quantize="int8", training_data=digits[:2], epochs=1)
    assert report.training["history"]["loss"][0] > 0


def test_data_that_do_not_fit(pruned, digits, tmp_path):
    with pytest.raises(DataError, match="expected labels in 0..9"):
        options = {"quantize": "int8", "training_data": (digits[0], digits[1] + 1)}
        export_tflite(pruned[0], tmp_path / "m.tflite", **options)
