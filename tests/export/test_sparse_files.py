"""Zeros stay zeros in every kind of file, files with zeros left out run or are refused by name, 8-bit inputs and outputs."""

import os

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from zeros import with_zeros

from tfmetaprune._keras import keras, tf
from tfmetaprune.data import load
from tfmetaprune.errors import ArgumentError, ExportError
from tfmetaprune.export import contents
from tfmetaprune.export.contents import peak_activation_bytes, read_contents, weights_of
from tfmetaprune.export.tflite import export_tflite, run_tflite
from tfmetaprune.metatrain.zoo import dataset_arrays

layers = keras.layers
KINDS = [None, "float16", "dynamic", "int8"]
NAMES = ["stem", "middle", "hidden", "logits"]


@pytest.fixture(scope="module")
def digits():
    splits = load("digits")
    (x, y), (test_x, test_y) = dataset_arrays(splits.train), dataset_arrays(splits.test)
    return x, y, test_x, test_y


def _network():
    keras.utils.set_random_seed(1)
    inputs = keras.Input((8, 8, 1))
    x = layers.Conv2D(16, 3, padding="same", use_bias=False, name="stem")(inputs)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.Conv2D(32, 3, strides=2, activation="relu", name="middle")(x)
    x = layers.Dense(64, activation="relu", name="hidden")(layers.Flatten()(x))
    return keras.Model(inputs, layers.Dense(10, name="logits")(x), name="digits")


@pytest.fixture(scope="module")
def model(digits):
    model = _network()
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    model.fit(*digits[:2], epochs=8, verbose=0)
    return model


def _zeros(kernel):
    return float(np.mean(kernel.numpy() == 0))


@pytest.mark.parametrize("kind", KINDS)
def test_zeros_stay(kind, model, digits, tmp_path):
    pruned = with_zeros(model, 0.8, NAMES)
    report = export_tflite(pruned, tmp_path / "m.tflite", quantize=kind, representative_data=digits[0])
    assert report.sparse is False and 0.79 < report.zeros < 0.83
    assert list(report.layer_zeros) == NAMES
    for name, share in report.layer_zeros.items():
        assert share >= _zeros(pruned.get_layer(name).kernel) >= 0.79
        assert share < 0.85
    stored = {tensor.values.dtype.name for _, tensor in weights_of(read_contents(report.path)).values()}
    assert {None: "float32", "float16": "float16"}.get(kind, "int8") in stored
    assert len(stored) == (2 if kind == "dynamic" else 1)  # which leaves small kernels in float32


def test_each_zero_is_in_its_place(model, digits, tmp_path):
    """An interpreter reads the same zeros, where they were."""
    pruned = with_zeros(model, 0.8, NAMES)
    path = export_tflite(pruned, tmp_path / "m.tflite", quantize="int8", representative_data=digits[0]).path
    kernel = np.transpose(pruned.get_layer("middle").kernel.numpy(), [3, 0, 1, 2])
    interpreter = Interpreter(path)
    (details,) = (d for d in interpreter.get_tensor_details() if tuple(d["shape"]) == kernel.shape)
    assert not np.any(interpreter.get_tensor(details["index"])[kernel == 0])


def test_zeros_are_left_out(model, digits, tmp_path):
    pruned = with_zeros(model, 0.8, NAMES)
    for kind in (None, "float16"):
        dense = export_tflite(pruned, tmp_path / "dense.tflite", quantize=kind)
        sparse = export_tflite(pruned, tmp_path / "sparse.tflite", quantize=kind, sparse=True)
        assert sparse.sparse and sparse.size_bytes < 0.6 * dense.size_bytes
        assert sparse.zeros == dense.zeros and sparse.layer_zeros == dense.layer_zeros
        assert any(tensor.is_sparse for _, tensor in weights_of(read_contents(sparse.path)).values())
        np.testing.assert_allclose(
            run_tflite(sparse.path, digits[2]), pruned(digits[2]), rtol=0, atol=1e-5 if kind is None else 0.05
        )
        gzip_share = dense.gzip_size_bytes / export_tflite(model, tmp_path / "m.tflite", quantize=kind).gzip_size_bytes
        assert gzip_share < 0.45


@pytest.mark.parametrize(
    "kind, names, refused", [("dynamic", ["middle"], "'middle' (Conv2D)"), ("int8", ["hidden"], "'hidden' (Dense)")]
)
def test_files_that_xnnpack_refuses_name_the_layer(kind, names, refused, model, digits, tmp_path):
    pruned = with_zeros(model, 0.8, names)
    with pytest.raises(ExportError, match="sparse=True, .*failed to delegate.* Export with sparse=False") as caught:
        export_tflite(pruned, tmp_path / "m.tflite", quantize=kind, representative_data=digits[0], sparse=True)
    assert str(caught.value).endswith(f"It is layer {refused} that fails.")
    assert caught.value.__cause__ is not None and os.listdir(tmp_path) == []


def test_int8_convolutions_can_be_sparse(model, digits, tmp_path):
    pruned = with_zeros(model, 0.8, ["middle"])
    report = export_tflite(pruned, tmp_path / "m.tflite", quantize="int8", representative_data=digits[0], sparse=True)
    assert report.argmax_agreement > 0.95 and report.layer_zeros["middle"] > 0.79


def test_converter_failures_name_the_layer(tmp_path):
    inputs = keras.Input((6,))
    x = layers.Lambda(lambda tensor: tf.math.digamma(tensor + 3.0), name="odd")(layers.Dense(4, name="good")(inputs))
    model = keras.Model(inputs, layers.Dense(2)(x))
    with pytest.raises(ExportError, match=r"expected TFLite to convert .* It is layer 'odd' \(Lambda\) that fails\.$"):
        export_tflite(model, tmp_path / "m.tflite")
    assert os.listdir(tmp_path) == []


def test_integer_inputs_and_outputs(model, digits, tmp_path):
    x, _, test_x, _ = digits
    report = export_tflite(model, tmp_path / "m.tflite", quantize="int8", representative_data=x, integer_io=True)
    floats = export_tflite(model, tmp_path / "f.tflite", quantize="int8", representative_data=x)
    assert report.integer_io and not floats.integer_io
    interpreter = Interpreter(report.path)
    (entry,), (exit_,) = interpreter.get_input_details(), interpreter.get_output_details()
    assert entry["dtype"] == exit_["dtype"] == np.int8
    expected, actual = model(test_x).numpy(), run_tflite(report.path, test_x)
    assert actual.dtype == np.float32
    np.testing.assert_array_equal(actual, run_tflite(floats.path, test_x))
    assert np.mean(actual.argmax(1) == expected.argmax(1)) >= 0.99
    scale, zero_point = entry["quantization"]
    stored = np.clip(np.round(test_x / scale) + zero_point, -128, 127).astype(np.int8)
    np.testing.assert_array_equal(run_tflite(report.path, stored), actual)  # bytes of the file's own kind are taken as they are
    whole = np.round(test_x).astype(np.uint8)  # others are numbers
    np.testing.assert_array_equal(run_tflite(report.path, whole), run_tflite(report.path, whole.astype(np.float32)))


def test_options_that_do_not_fit(model, digits, tmp_path):
    path = tmp_path / "m.tflite"
    with pytest.raises(ArgumentError, match="expected quantize='int8' with integer_io=True, got 'float16'"):
        export_tflite(model, path, quantize="float16", integer_io=True)
    with pytest.raises(ArgumentError, match="expected quantize='int8' with training_data, got None"):
        export_tflite(model, path, training_data=digits[:2])
    with pytest.raises(ArgumentError, match="epochs >= 1, got 0"):
        export_tflite(model, path, quantize="int8", training_data=digits[:2], epochs=0)


def test_activation_bytes(tmp_path):
    inputs = keras.Input((8, 8, 1))
    x = layers.Conv2D(4, 3, padding="same")(inputs)  # 256 numbers beside the 64 of the input
    y = layers.Conv2D(8, 3, padding="same")(x)  # 512 beside 256 and 64, the most there is
    model = keras.Model(inputs, layers.GlobalMaxPooling2D()(y))
    for kind in (None, "float16"):
        path = export_tflite(model, tmp_path / "m.tflite", quantize=kind).path
        assert peak_activation_bytes(read_contents(path)) == 4 * (512 + 256 + 64)


def test_layers_are_told_by_whole_names():
    tensor = contents.Tensor("m/conv_1/Conv2D;m/a/b/MatMul", (2, 2), np.dtype("float32"), np.ones(4), False)
    operator = contents.Operator("CONV_2D", (0,), ())
    file = contents.Contents((operator,), (tensor,), (), ())
    assert contents.layer_of(file, operator, ["conv", "conv_1"]) == "conv_1"
    assert contents.layer_of(file, operator, ["b", "a/b"]) == "a/b"
    assert contents.layer_of(file, operator, ["onv_1", "x"]) is None
