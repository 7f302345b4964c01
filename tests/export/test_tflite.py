"""A TFLite file computes what its Keras model computes, in every precision, or it is not written."""

import doctest
import gzip
import json
import os
import subprocess
import sys

import keras as keras3
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter

from tfmetaprune._keras import keras, tf
from tfmetaprune.errors import ArgumentError, ExportError, UnsupportedModelError
from tfmetaprune.export import running, samples, tflite, verify
from tfmetaprune.export.latency import measure_latency
from tfmetaprune.export.tflite import export_tflite, run_tflite

KINDS = [None, "float16", "dynamic", "int8"]
layers = keras.layers


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(1).normal(size=(100, 10, 10, 3)).astype("float32")


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(2)
    inputs = keras.Input((10, 10, 3))
    x = layers.Conv2D(16, 3, use_bias=False, padding="same")(inputs)
    x = layers.BatchNormalization()(x)
    x = layers.ReLU(6.0)(x)
    x = layers.DepthwiseConv2D(3, strides=2, activation="relu")(x)
    x = layers.Flatten()(x)
    model = keras.Model(inputs, layers.Dense(10)(x))
    rng = np.random.default_rng(3)
    model.layers[2].set_weights([rng.uniform(0.5, 2.0, 16) for _ in range(4)])  # not the identity
    return model


@pytest.fixture
def two_by_two():
    """Two inputs and two outputs of equal shapes, named so that the alphabet turns their order round."""
    keras.utils.set_random_seed(4)
    first, second = keras.Input((4,), name="zebra"), keras.Input((4,), name="ant")
    return keras.Model(
        [first, second], [layers.Dense(3, name="yak")(first - second), layers.Dense(3, name="bee")(first + 3 * second)]
    )


def _tensor_dtypes(path):
    return {np.dtype(details["dtype"]).name for details in Interpreter(str(path)).get_tensor_details()}


@pytest.mark.parametrize("kind", KINDS)
def test_file_agrees_with_keras(kind, model, images, tmp_path):
    before = [weight.copy() for weight in model.get_weights()]
    path = tmp_path / "model.tflite"
    report = export_tflite(model, path, quantize=kind, representative_data=images)

    expected, actual = model(images).numpy(), run_tflite(path, images)
    assert actual.dtype == np.float32 and actual.shape == (100, 10)
    tolerance = {None: 1e-5, "float16": 2e-3, "dynamic": 0.05, "int8": 0.05}[kind]
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * np.abs(expected).max())
    assert report.argmax_agreement == 1.0 and report.num_samples == 32
    assert report.max_abs_difference == pytest.approx(report.relative_difference * np.abs(expected).max(), rel=0.5)
    assert 0 <= report.relative_difference <= tolerance

    content = path.read_bytes()
    assert (report.path, report.quantize) == (str(path), kind)
    assert report.size_bytes == len(content) == os.path.getsize(path)
    assert report.gzip_size_bytes == len(gzip.compress(content))
    assert json.loads(json.dumps(report.to_dict())) == report.to_dict()
    assert report.to_dict()["gzip_size_bytes"] == report.gzip_size_bytes
    assert os.listdir(tmp_path) == ["model.tflite"]

    kinds_of_numbers = _tensor_dtypes(path) & {"float16", "int8"}
    assert kinds_of_numbers == {None: set(), "float16": {"float16"}, "dynamic": {"int8"}, "int8": {"int8"}}[kind]
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_int8_takes_and_gives_float32(model, images, tmp_path):
    export_tflite(model, tmp_path / "m.tflite", quantize="int8", representative_data=images)
    interpreter = Interpreter(str(tmp_path / "m.tflite"))
    for details in interpreter.get_input_details() + interpreter.get_output_details():
        assert details["dtype"] == np.float32 and details["shape"][0] == 1 and details["shape_signature"][0] == -1


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_run_joins_batches_of_any_size(batch_size, model, images, tmp_path):
    export_tflite(model, tmp_path / "m.tflite")
    actual = run_tflite(tmp_path / "m.tflite", images[:7].astype("float64"), num_threads=2, batch_size=batch_size)
    np.testing.assert_allclose(actual, model(images[:7]).numpy(), rtol=0, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_order_of_equal_inputs_and_outputs(kind, two_by_two, tmp_path):
    zebra, ant = np.random.default_rng(5).normal(size=(2, 60, 4)).astype("float32")
    export_tflite(two_by_two, tmp_path / "m.tflite", quantize=kind, representative_data=[zebra, ant])
    actual = run_tflite(tmp_path / "m.tflite", [zebra, ant])
    assert isinstance(actual, list) and len(actual) == 2
    for output, expected in zip(actual, two_by_two([zebra, ant]), strict=True):
        assert np.sqrt(np.mean((output - expected) ** 2)) < 0.05 * np.sqrt(np.mean(np.square(expected)))


def test_order_of_more_than_ten_inputs_and_outputs(tmp_path):
    inputs = [keras.Input((2,)) for _ in range(12)]
    model = keras.Model(inputs, [tensor + float(index) for index, tensor in enumerate(inputs)])
    export_tflite(model, tmp_path / "m.tflite")
    arrays = [np.full((3, 2), 100.0 * index, "float32") for index in range(12)]
    for index, output in enumerate(run_tflite(tmp_path / "m.tflite", arrays)):
        np.testing.assert_array_equal(output, np.full((3, 2), 101.0 * index))


@pytest.mark.parametrize("kind", KINDS)
def test_disagreement_writes_nothing(kind, two_by_two, tmp_path, monkeypatch):
    right = tflite.keras_outputs
    monkeypatch.setattr(tflite, "keras_outputs", lambda *args: [right(*args)[0], right(*args)[1][:, ::-1]])
    path = tmp_path / "m.tflite"
    path.write_bytes(b"an older file")
    data = tuple(np.random.default_rng(5).normal(size=(2, 60, 4)))
    with pytest.raises(ExportError, match=rf"quantize={kind!r}, .*m.tflite': expected output 1 to agree .*, got .*\d"):
        export_tflite(two_by_two, path, quantize=kind, representative_data=data)
    assert path.read_bytes() == b"an older file"
    assert os.listdir(tmp_path) == ["m.tflite"]


def test_float32_notices_a_small_difference(model, tmp_path, monkeypatch):
    right = tflite.keras_outputs
    monkeypatch.setattr(tflite, "keras_outputs", lambda *args: [output * 1.001 for output in right(*args)])
    with pytest.raises(ExportError, match=r"a difference of 0\.001 of the largest output"):
        export_tflite(model, tmp_path / "m.tflite")
    export_tflite(model, tmp_path / "m.tflite", quantize="float16")


def test_float16_overflow_is_noticed(tmp_path):
    model = keras.Sequential([keras.Input((3,)), layers.Dense(2, kernel_initializer=keras.initializers.Constant(1e6))])
    export_tflite(model, tmp_path / "m.tflite")
    with pytest.raises(ExportError, match="float16.*Export with quantize=None"):
        export_tflite(model, tmp_path / "m.tflite", quantize="float16")


def test_nan_weights_are_noticed(tmp_path):
    model = keras.Sequential(
        [keras.Input((3,)), layers.Dense(2, kernel_initializer=keras.initializers.Constant(np.nan))]
    )
    with pytest.raises(ExportError, match="expected finite outputs"):
        export_tflite(model, tmp_path / "m.tflite")


def test_converter_failure_is_an_export_error(tmp_path):
    inputs = keras.Input((3,))
    model = keras.Model(inputs, tf.math.digamma(inputs), name="odd")
    with pytest.raises(ExportError, match="expected TFLite to convert model 'odd', got: .*Digamma") as caught:
        export_tflite(model, tmp_path / "m.tflite")
    assert caught.value.__cause__ is not None
    assert os.listdir(tmp_path) == []


def test_folders_that_cannot_be_written(two_by_two, tmp_path):
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "missing" / "m.tflite", tmp_path / "file" / "m.tflite"):
        with pytest.raises(ExportError, match="expected to write .* Create the folder"):
            export_tflite(two_by_two, path)
    with pytest.raises(ExportError, match="got the folder"):
        export_tflite(two_by_two, tmp_path)
    assert os.listdir(tmp_path) == ["file"]


def test_interrupted_write_leaves_nothing(two_by_two, tmp_path, monkeypatch):
    def fail(source, target):
        assert os.path.getsize(source) > 0 and not os.path.exists(target)
        raise PermissionError("no")

    monkeypatch.setattr(tflite.os, "replace", fail)
    with pytest.raises(ExportError, match="expected to write .*got no"):
        export_tflite(two_by_two, tmp_path / "m.tflite")
    assert os.listdir(tmp_path) == []


def test_arguments(two_by_two, tmp_path):
    path = tmp_path / "m.tflite"
    with pytest.raises(ArgumentError, match="expected quantize=None, .* got 'int4'"):
        export_tflite(two_by_two, path, quantize="int4")
    with pytest.raises(ArgumentError, match="quantize='int8' expected representative_data, got None"):
        export_tflite(two_by_two, path, quantize="int8")
    with pytest.raises(UnsupportedModelError, match="expected a built model, got a Sequential without an input shape"):
        export_tflite(keras3.Sequential([keras3.layers.Dense(2)]), path)
    for wrong in (keras.Sequential([layers.Dense(2)]), lambda x: x):
        with pytest.raises(ArgumentError, match="expected a built functional or Sequential Keras model, got"):
            export_tflite(wrong, path)
    with pytest.raises(
        ArgumentError, match=r"expected known sizes of input 'any' to make samples, got \(None, None, 3\)"
    ):
        inputs = keras.Input((None, 3), name="any")
        export_tflite(keras.Model(inputs, layers.Conv1D(2, 3)(inputs)), path)
    assert os.listdir(tmp_path) == []


def test_representative_data_of_one_input(model, images):
    labels, weights = np.zeros(100, "int32"), np.ones(100)
    dataset = tf.data.Dataset.from_tensor_slices
    forms = [images, (images, labels), [images], [images, labels], {model.input_names[0]: images}, tf.constant(images)]
    forms += [dataset(x).batch(32) for x in (images, (images, labels), (images, labels, weights))]
    for form in forms:
        (array,) = samples.representative_arrays(model, form)
        np.testing.assert_array_equal(array, images)
    (many,) = samples.representative_arrays(model, np.concatenate([images] * 4))
    assert many.shape == (256, 10, 10, 3)
    np.testing.assert_array_equal(many[-1], images[-1])  # spread over all of them
    (many,) = samples.representative_arrays(model, dataset(images).repeat().batch(50))
    np.testing.assert_array_equal(many, np.concatenate([images] * 3)[:256])


def test_representative_data_of_several_inputs(two_by_two):
    zebra, ant = np.random.default_rng(5).normal(size=(2, 9, 4)).astype("float32")
    labels, dataset = np.zeros(9), tf.data.Dataset.from_tensor_slices
    named = {"ant": ant, "zebra": zebra}
    forms = [(zebra, ant), [zebra, ant], ((zebra, ant), labels), named, (named, labels)]
    forms += [dataset(x).batch(4) for x in ((zebra, ant), ((zebra, ant), labels), named, (named, labels))]
    for form in forms:
        first, second = samples.representative_arrays(two_by_two, form)
        np.testing.assert_array_equal(first, zebra)
        np.testing.assert_array_equal(second, ant)
    a, b = keras.Input((4,)), keras.Input((4,))
    by_key = keras.Model({"zebra": a, "ant": b}, a - b)
    first, second = samples.representative_arrays(by_key, named)  # model.inputs are sorted by key then
    np.testing.assert_array_equal(by_key(named), tflite.keras_outputs(by_key, [first, second])[0])


def test_representative_data_that_do_not_fit(model, two_by_two):
    one, unbatched = np.zeros((5, 4)), tf.data.Dataset.from_tensor_slices(np.zeros((5, 10, 10, 3)))
    wrong = [(model, np.zeros((5, 10, 3))), (model, unbatched), (model, np.zeros((0, 10, 10, 3))), (model, 1.0)]
    wrong += [
        (two_by_two, one),
        (two_by_two, (one, one, one)),
        (two_by_two, (one, one[:3])),
        (two_by_two, {"ant": one}),
    ]
    for some_model, data in wrong:
        with pytest.raises(ArgumentError, match="expected representative_data for the inputs .* got"):
            samples.representative_arrays(some_model, data)
    with pytest.raises(ArgumentError, match="got an empty dataset"):
        samples.representative_arrays(model, unbatched.batch(2).take(0))


def test_unknown_sizes_come_from_the_data(tmp_path):
    inputs = keras.Input((None, 3))
    model = keras.Model(inputs, layers.Conv1D(2, 3)(inputs))
    x = np.random.default_rng(6).normal(size=(40, 11, 3)).astype("float32")
    export_tflite(model, tmp_path / "m.tflite", representative_data=x)
    np.testing.assert_allclose(run_tflite(tmp_path / "m.tflite", x), model(x), rtol=0, atol=1e-5)


def test_of_batches_of_several_lengths_the_most_frequent_counts(tmp_path):
    inputs = keras.Input((None, 3))
    model = keras.Model(inputs, layers.GlobalAveragePooling1D()(layers.Conv1D(2, 3)(inputs)))
    x = np.random.default_rng(6).normal(size=(40, 11, 3)).astype("float32")
    data = tf.data.Dataset.from_generator(lambda: iter([x[:5, :7], x[:20], x[20:]]), output_signature=tf.TensorSpec((None, None, 3)))
    np.testing.assert_array_equal(samples.representative_arrays(model, data)[0], x)
    export_tflite(model, tmp_path / "m.tflite", quantize="int8", representative_data=data)
    np.testing.assert_allclose(run_tflite(tmp_path / "m.tflite", x), model(x), rtol=0, atol=0.1)


@pytest.mark.parametrize("dtype", ["int32", "float32"])  # an Embedding that is a model's first layer has floats for tokens
def test_tokens(tmp_path, dtype):
    inputs = keras.Input((5,), dtype=dtype)
    model = keras.Model(inputs, layers.Dense(1)(layers.Flatten()(layers.Embedding(7, 4)(inputs))))
    x = np.random.default_rng(7).integers(0, 7, size=(40, 5)).astype(dtype)
    export_tflite(model, tmp_path / "random.tflite")
    assert measure_latency(tmp_path / "random.tflite", num_warmup=0, num_runs=1)
    export_tflite(model, tmp_path / "m.tflite", representative_data=x)
    np.testing.assert_allclose(run_tflite(tmp_path / "m.tflite", x), model(x), rtol=0, atol=1e-6)


def test_fixed_batch_size_is_kept(tmp_path):
    inputs = keras.Input(batch_shape=(4, 3))
    model = keras.Model(inputs, layers.Dense(2)(inputs))
    x = np.random.default_rng(8).normal(size=(10, 3)).astype("float32")
    export_tflite(model, tmp_path / "m.tflite", quantize="int8", representative_data=x)
    assert Interpreter(str(tmp_path / "m.tflite")).get_input_details()[0]["shape"].tolist() == [4, 3]
    np.testing.assert_allclose(run_tflite(tmp_path / "m.tflite", x), model(x), rtol=0, atol=0.1)


def _grouped_normalization(width):
    return keras.Sequential([layers.Reshape((6, 3, 1)), layers.Conv2D(width, 1), layers.GroupNormalization(2)])


@pytest.mark.parametrize("make", [layers.LSTM, layers.GRU, _grouped_normalization])
def test_models_that_need_a_fixed_batch(make, tmp_path):
    keras.utils.set_random_seed(9)
    inputs = keras.Input((6, 3))
    model = keras.Model(inputs, layers.Dense(2)(layers.Flatten()(make(4)(inputs))))
    x = np.random.default_rng(9).normal(size=(20, 6, 3)).astype("float32")
    export_tflite(model, tmp_path / "m.tflite")
    assert Interpreter(str(tmp_path / "m.tflite")).get_input_details()[0]["shape_signature"].tolist() == [1, 6, 3]
    np.testing.assert_allclose(run_tflite(tmp_path / "m.tflite", x), model(x), rtol=0, atol=1e-5)


def test_int8_of_recurrent_models(tmp_path):
    inputs = keras.Input((6, 3))
    x = np.random.default_rng(9).normal(size=(40, 6, 3)).astype("float32")
    export_tflite(
        keras.Model(inputs, layers.LSTM(4)(inputs)), tmp_path / "m.tflite", quantize="int8", representative_data=x
    )
    with pytest.raises(ExportError, match="expected a model without loops, got 'loopy'"):
        gru = keras.Model(inputs, layers.GRU(4)(inputs), name="loopy")
        export_tflite(gru, tmp_path / "gru.tflite", quantize="int8", representative_data=x)
    assert os.listdir(tmp_path) == ["m.tflite"]


def _clear_scores(num_samples):
    """Scores whose class goes round through three classes, by far."""
    return np.eye(3)[np.arange(num_samples) % 3] * 10.0


def test_compare_counts_only_clear_samples():
    expected, actual = _clear_scores(20), _clear_scores(20)
    expected[:5] = [1.0, 1.1, 0.0]
    actual[:5] = [1.1, 1.0, 0.0]
    (_, _, agreement), problem = verify._compare(expected, actual, "int8", 0.0)
    assert agreement == 1.0 and problem is None
    actual[10:12] = np.roll(actual[10:12], 1, axis=1)
    (_, _, agreement), problem = verify._compare(expected, actual, "int8", 0.0)
    assert agreement == pytest.approx(13 / 15) and "87%" in problem


@pytest.mark.parametrize("expected", [_clear_scores(7), np.repeat(_clear_scores(1), 20, axis=0), np.ones((20, 2))])
def test_compare_judges_numbers_where_classes_tell_nothing(expected):
    assert verify._compare(expected, expected * 1.09, "int8", 0.0)[1] is None
    assert "RMS error of 0.11" in verify._compare(expected, expected * 1.11, "dynamic", 0.0)[1]


def test_compare_notices_nan_and_shapes():
    expected = _clear_scores(20)
    for kind in KINDS:
        wrong = expected.copy()
        wrong[3, 1] = np.nan
        assert verify._compare(expected, wrong, kind, 1.0)[1] is not None
        assert "shape (20, 2)" in verify._compare(expected, expected[:, :2], kind, 1.0)[1]
    assert verify._compare(expected[:, :1], expected[:, :1], None, 0.0)[0] == (0.0, 0.0, None)


def test_run_tflite_errors(two_by_two, tmp_path):
    path, x = tmp_path / "m.tflite", np.zeros((5, 4))
    export_tflite(two_by_two, path)
    for wrong in (x, [x, x, x], [x, x[:2]], [x, x[:, :3]], [x, x[0]], [x[:0], x[:0]]):
        with pytest.raises(ArgumentError, match=r"expected inputs of shapes \[\(-1, 4\), \(-1, 4\)\]"):
            run_tflite(path, wrong)
    with pytest.raises(ArgumentError, match=">= 1, got 1 and 0"):
        run_tflite(path, [x, x], batch_size=0)
    (tmp_path / "text.tflite").write_text("no model")
    for name in ("text.tflite", "missing.tflite"):
        with pytest.raises(ExportError, match=f"{name}': expected a file that loads and runs"):
            run_tflite(tmp_path / name, x)


def test_export_gives_stderr_back(two_by_two, tmp_path, capfd):
    export_tflite(two_by_two, tmp_path / "m.tflite", quantize="dynamic")
    os.write(2, b"still here")
    assert capfd.readouterr() == ("", "still here")


def test_a_process_that_exports_and_runs_is_quiet(tmp_path):
    lines = [
        "import os, numpy as np",
        "from tfmetaprune.export.tflite import export_tflite, keras, run_tflite",
        "model, x = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3)]), np.ones((40, 2))",
        "model(x), os.write(2, b'START')",  # TensorFlow has said by then what it says about the processor
        f"export_tflite(model, {str(tmp_path / 'm.tflite')!r}, quantize='int8', representative_data=x)",
        f"run_tflite({str(tmp_path / 'm.tflite')!r}, x)",
    ]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, check=True, env=environment
    )
    assert done.stdout == "" and done.stderr.partition("START")[2] == ""


def test_examples_run():
    results = [doctest.testmod(module) for module in (running, tflite)]
    assert sum(result.attempted for result in results) >= 7 and not any(result.failed for result in results)
