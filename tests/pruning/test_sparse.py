"""Zeros in place of weights: every method on real digits, targets against numpy, patterns along the right axis, zeros that stay."""

import json

import numpy as np
import pytest
from sklearn.datasets import load_digits
from zoo import randomize

import tfmetaprune
from tfmetaprune._keras import keras, tf, tfmot
from tfmetaprune.errors import ArgumentError, NothingToPruneError, UnsupportedModelError
from tfmetaprune.finetuning import finetune_model
from tfmetaprune.pruning.sparse import (
    SparseTraining,
    find_kernels,
    plan_zeros,
    planned_kernels,
    pruning_schedule,
    sparse_method,
    sparsity_report,
    zero_out,
)
from tfmetaprune.pruning.sparse import targets as sparse_targets
from tfmetaprune.trace import trace_model

L = keras.layers
NOTHING = {"metanetwork": None, "finetune": None, "repair": None}
METHODS = {
    "unstructured": {"method": "unstructured", "sparsity": 0.8},
    "per layer": {"method": "unstructured", "sparsity": 0.7, "scope": "layer"},
    "2:4": {"method": "2:4"},
    "1:4": {"method": "1:4"},
    "block": {"method": "block", "sparsity": 0.6, "block_shape": (1, 4)},
    "structured+unstructured": {"method": "structured+unstructured", "speedup": 1.5, "sparsity": 0.7, "metanetwork": None},
}


def digits(first=0, last=1200):
    images, labels = load_digits(return_X_y=True)
    return (images[first:last, :].reshape(-1, 8, 8, 1) / 16).astype("float32"), labels[first:last]


def small_cnn():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 1), name="image")
    x = L.ReLU(name="relu1")(L.BatchNormalization(name="bn1", momentum=0.9)(L.Conv2D(8, 3, name="conv1")(inputs)))
    x = L.DepthwiseConv2D(3, padding="same", name="depthwise")(x)
    x = L.Conv2D(16, 3, activation="relu", name="conv2")(x)
    model = keras.Model(inputs, L.Dense(10, name="logits")(L.Flatten(name="flat")(x)), name="small_cnn")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(5e-3), loss, metrics=["accuracy"])
    return model


@pytest.fixture(scope="module")
def model():
    model = small_cnn()
    model.fit(*digits(), batch_size=64, epochs=8, verbose=0)
    return model


def kernel_values(model, method="unstructured", **options):
    """(layer, weight) -> (kernel, its values) of what a method zeroes."""
    kernels, _ = find_kernels(trace_model(model), sparse_method(method, **options))
    return {kernel.key: (kernel, kernel.variable.numpy()) for kernel in kernels}


def zero_bytes(value):
    """Where an array is +0, bit for bit."""
    return np.frombuffer(value.tobytes(), np.uint8).reshape(*value.shape, value.itemsize).max(-1) == 0


def same_weights(first, second):
    return all(np.array_equal(a, b) for a, b in zip(first.get_weights(), second.get_weights(), strict=True))


@pytest.mark.parametrize("finetune", [None, 2], ids=["no fine-tuning", "fine-tuned"])
@pytest.mark.parametrize("name", METHODS)
def test_every_method_on_digits(model, name, finetune, tmp_path):
    options, before = METHODS[name], model.get_weights()
    result = tfmetaprune.prune(model, digits(), validation_data=digits(1200, 1797), finetune=finetune, **options)
    assert all(np.array_equal(a, b) for a, b in zip(model.get_weights(), before, strict=True))
    report = json.loads(json.dumps(result.report))
    sparsity, names = report["sparsity"], [layer.name for layer in model.layers]
    assert [layer.name for layer in result.model.layers] == names and result.model.optimizer is not None
    assert sparsity["reached"] == pytest.approx(sparsity["target"], abs=0.005)
    assert {*sparsity["layers"], *sparsity["dense"]} == {layer.name for layer in model.layers if layer.weights}
    assert "depthwise" in sparsity["dense"]["depthwise"] and "depthwise" not in sparsity["layers"]
    for layer, entry in sparsity["layers"].items():
        value = result.model.get_layer(layer).kernel.numpy()
        assert (entry["weights"], entry["zeros"]) == (value.size, int(np.sum(value == 0)))
        np.testing.assert_array_equal(zero_bytes(value), value == 0)  # no -0, which would not compress
        assert entry["sparsity"] == entry["zeros"] / entry["weights"] < 1
    counts = sparsity["nonzero_parameters"]
    assert counts["after"] == sum(np.count_nonzero(value) for value in result.model.get_weights()) < counts["before"]
    if "structured" != name.partition("+")[0]:
        assert report["pruned"]["macs"] == report["before"]["macs"] and result.model.count_params() == model.count_params()
        assert report["metanetwork"] is None and report["speedup"] == {"target": None, "reached": 1.0}
        assert json.loads(result.plan.to_json())["targets"]
    else:
        assert result.plan.speedup >= 1.5
    is_late = finetune and name in ("unstructured", "per layer", "block")
    assert ("accuracy" in report["pruned"]) == ("repaired" in report) == (not is_late)
    last = report["finetuned" if finetune else "repaired"]
    assert last["accuracy"] > (0.6 if finetune else 0.15)
    grows = finetune and (is_late or name.startswith("structured"))
    assert sparsity["schedule"] == ("polynomial" if grows else "one_shot")
    result.model.save(tmp_path / "sparse.keras")
    loaded = keras.models.load_model(tmp_path / "sparse.keras", custom_objects={})
    assert same_weights(loaded, result.model)


@pytest.mark.parametrize("schedule", ["polynomial", "constant", "one_shot"])
def test_zeros_stay_through_training(model, schedule):
    plan = plan_zeros(model, sparse_method("unstructured", sparsity=0.75, schedule=schedule))
    data = tf.data.Dataset.from_tensor_slices(digits(0, 320)).batch(32)
    small, masks = zero_out(model, plan)
    if schedule != "one_shot":
        small, masks = tfmetaprune.decode(tfmetaprune.encode(model), model), None
    training, seen = SparseTraining(small, plan, masks), []

    def prepare(num_steps):
        trained, attributes, callbacks = training(num_steps)
        record = keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: seen.append(sparsity_report(small, plan, small)["reached"]))
        return trained, attributes, (*callbacks, record)

    finetune_model(small, data, epochs=6, prepare=prepare)
    found = training.finish()
    for kernel in planned_kernels(small, plan):
        value = kernel.variable.numpy()
        np.testing.assert_array_equal(zero_bytes(value), ~found[kernel.key])
        if masks is not None:
            np.testing.assert_array_equal(found[kernel.key], masks[kernel.key])
    assert seen[-1] == pytest.approx(0.75, abs=0.002)
    assert (seen[0] < 0.7) == (schedule == "polynomial") and seen == sorted(seen)
    assert not any("prune" in layer.name for layer in small.layers)


@pytest.mark.parametrize("num_steps", [1, 2, 3, 7, 100, 1003])
@pytest.mark.parametrize("name", ["polynomial", "constant", "one_shot"])
def test_schedules_reach_their_sparsity_in_any_number_of_steps(name, num_steps):
    schedule = pruning_schedule(name, 0.9, num_steps)
    updates = [step for step in range(1, num_steps + 1) if bool(schedule(tf.constant(step, tf.int64))[0])]
    assert updates[0] == 1 and len(updates) <= 101 and updates[-1] <= max(1, 2 * num_steps / 3 + 1)
    assert float(schedule(tf.constant(updates[-1], tf.int64))[1]) == pytest.approx(0.9)
    assert (len(updates) == 1) == (name == "one_shot" or num_steps <= 2)


@pytest.mark.parametrize("steps", [1, 2])
def test_a_single_step_of_training_reaches_the_target(model, steps):
    result = tfmetaprune.prune(model, digits(0, 128 * steps), method="unstructured", finetune=1)
    assert result.report["sparsity"]["reached"] == pytest.approx(0.8, abs=0.001)


def test_wrapping_a_kernel_equals_tf_mots_wrapping_of_the_layers():
    sizes, images = (32, 16, 10), digits(0, 256)
    keras.utils.set_random_seed(1)
    model = keras.Sequential([L.Flatten(input_shape=(8, 8, 1)), *(L.Dense(size, "tanh") for size in sizes)])
    theirs = keras.models.clone_model(model)
    theirs.set_weights(model.get_weights())
    schedules = tfmot().sparsity.keras
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    options = {"epochs": 3, "batch_size": 32, "shuffle": False, "verbose": 0}
    wrapped = schedules.prune_low_magnitude(theirs, schedules.PolynomialDecay(0.0, 0.75, begin_step=1, end_step=16, frequency=1))
    wrapped.compile(keras.optimizers.SGD(0.1), loss)
    wrapped.fit(*images, callbacks=[schedules.UpdatePruningStep()], **options)

    plan = plan_zeros(model, sparse_method("unstructured", sparsity=0.75, scope="layer"))
    training = SparseTraining(model, plan)
    mixin, attributes, callbacks = training(24)
    ours = type("Ours", (mixin, keras.Model), {})(model.input, model.output)
    for name, value in attributes.items():
        setattr(ours, name, value)
    ours.compile(keras.optimizers.SGD(0.1), loss)
    ours.fit(*images, callbacks=[*callbacks], **options)
    training.finish()
    for mine, other in zip(model.get_weights(), schedules.strip_pruning(wrapped).get_weights(), strict=True):
        np.testing.assert_allclose(mine, other, atol=1e-5)
        np.testing.assert_array_equal(mine == 0, other == 0)


def test_one_threshold_over_all_layers(model):
    values = {key: np.abs(value) for key, (_, value) in kernel_values(model).items()}
    everything = np.sort(np.concatenate([value.ravel() for value in values.values()]))
    threshold = everything[round(0.6 * len(everything))]
    result = tfmetaprune.prune(model, method="unstructured", sparsity=0.6, **NOTHING)
    for (layer, _), value in values.items():
        np.testing.assert_array_equal(result.model.get_layer(layer).kernel.numpy() != 0, value >= threshold)
    assert len({round(entry["sparsity"], 2) for entry in result.report["sparsity"]["layers"].values()}) > 1


def test_no_layer_is_emptied():
    inputs = keras.Input((6,))
    model = keras.Model(inputs, L.Dense(3, name="c")(L.Dense(50, name="b")(L.Dense(40, name="a")(inputs))))
    randomize(model, "floors")
    model.get_layer("a").kernel.assign(1e-4 * model.get_layer("a").kernel)
    layers = tfmetaprune.prune(model, method="unstructured", sparsity=0.9, **NOTHING).report["sparsity"]["layers"]
    assert layers["a"]["weights"] - layers["a"]["zeros"] == 240 * 0.1 * sparse_targets.FLOOR // 1
    assert sum(entry["zeros"] for entry in layers.values()) == round(0.9 * (240 + 2000 + 150))
    layers = tfmetaprune.prune(model, method="unstructured", sparsity=0.9999, **NOTHING).report["sparsity"]["layers"]
    assert all(entry["zeros"] == entry["weights"] - 1 for entry in layers.values())


def test_ties_and_zeros_that_are_there_already():
    model = keras.Sequential([L.Dense(16, input_shape=(16,), name="tied", kernel_initializer="ones"), L.Dense(16, name="sparse")])
    value = np.zeros((16, 16), "float32")
    value[:4] = 2.0
    model.get_layer("sparse").kernel.assign(value)
    result = tfmetaprune.prune(model, method="unstructured", sparsity=0.5, scope="layer", **NOTHING)
    assert [result.report["sparsity"]["layers"][name]["zeros"] for name in ("tied", "sparse")] == [128, 192]
    data = np.ones((64, 16), "float32"), np.random.default_rng(0).normal(size=(64, 16)).astype("float32")
    options = {"metanetwork": None, "repair": None, "finetune": 2, "schedule": "one_shot", "scope": "layer"}
    layers = tfmetaprune.prune(model, data, method="unstructured", sparsity=0.5, **options).report["sparsity"]["layers"]
    assert all(entry["zeros"] >= 128 for entry in layers.values())
    plan = plan_zeros(model, sparse_method("unstructured", sparsity=0.5, scope="layer"))
    small, masks = zero_out(model, plan)
    training = SparseTraining(small, plan, masks)
    finetune_model(small, tf.data.Dataset.from_tensor_slices(data).batch(32), epochs=1, prepare=training)
    for key, mask in training.finish().items():
        np.testing.assert_array_equal(mask, masks[key])  # not chosen again in the first step


@pytest.mark.parametrize("count, length", [(2, 4), (1, 4), (4, 8), (1, 2)])
def test_n_of_m_along_the_input_axis(count, length):
    inputs = keras.Input((6, 6, 3))
    x = L.Conv2D(8, 3, name="three_inputs")(inputs)
    x = L.Conv2D(16, 3, name="conv")(x)
    x = L.Conv2DTranspose(8, 2, name="transposed")(x)
    x = L.Conv2D(16, 1, groups=2, name="four_a_group", use_bias=False)(x)
    x = L.Dense(5, name="dense")(L.Flatten()(x))
    model = randomize(keras.Model(inputs, x), "n_of_m")
    result = tfmetaprune.prune(model, method=f"{count}:{length}", **NOTHING)
    dense = result.report["sparsity"]["dense"]
    assert dense["three_inputs"] == f"its 3 inputs are not divisible by {length}"
    axes = {"conv": 2, "transposed": 3, "four_a_group": 2, "dense": 0}
    if length == 8:
        assert dense.pop("four_a_group") == "its 4 inputs are not divisible by 8" and axes.pop("four_a_group")
    assert [*dense] == ["three_inputs"]
    for layer, axis in axes.items():
        value, old = (np.moveaxis(one.get_layer(layer).kernel.numpy(), axis, -1) for one in (result.model, model))
        value, old = value.reshape(-1, length), np.abs(old.reshape(-1, length))
        assert (np.count_nonzero(value, -1) == count).all()
        kept = np.sort(old, -1)[:, -count:].sum(-1)
        np.testing.assert_allclose(np.abs(value).sum(-1), kept, rtol=1e-5)  # the largest of each run stay


@pytest.mark.parametrize("shape", [(1, 4), (2, 2), (4, 1)])
def test_blocks_are_zero_together(shape):
    outputs, inputs = shape
    image = keras.Input((6, 6, 4))
    x = L.Conv2D(8, 3, name="conv")(image)
    model = keras.Model(image, L.Dense(8, name="dense")(L.Flatten()(L.Conv2D(6, 1, name="narrow")(x))))
    randomize(model, "blocks")
    result = tfmetaprune.prune(model, method="block", block_shape=shape, sparsity=0.5, **NOTHING)
    report = result.report["sparsity"]
    assert report["reached"] == pytest.approx(0.5, abs=0.01) and ("narrow" in report["dense"]) == (outputs == 4)
    means = []
    for layer in report["layers"]:
        value, old = (one.get_layer(layer).kernel.numpy() for one in (result.model, model))
        value, old = (
            one.reshape(-1, one.shape[-2] // inputs, inputs, one.shape[-1] // outputs, outputs).transpose(0, 1, 3, 2, 4)
            .reshape(-1, inputs * outputs) for one in (value, old)
        )  # fmt: skip
        zeros = (value == 0).sum(-1)
        assert set(zeros.tolist()) <= {0, inputs * outputs}
        means.append((np.abs(old).mean(-1)[zeros > 0].max(initial=0), np.abs(old).mean(-1)[zeros == 0].min()))
    assert max(gone for gone, _ in means) <= min(kept for _, kept in means)  # one threshold


def test_blocks_that_do_not_fit_are_named():
    inputs = keras.Input((6,))
    model = keras.Model(inputs, L.Dense(1, name="one")(L.Dense(8, name="eight")(L.Dense(8, name="six")(inputs))))
    result = tfmetaprune.prune(model, method="block", sparsity=0.5, **NOTHING)
    assert result.report["sparsity"]["dense"] == {
        "six": "its 6 inputs are not divisible by 4", "one": "it has a single row of blocks, which TF-MOT cannot pool",
    }  # fmt: skip


def test_the_weights_of_a_metanetwork_are_the_ones_zeroed(model):
    keras.utils.set_random_seed(1)
    network = tfmetaprune.MetaNetwork(tfmetaprune.MetaNetConfig(hidden=4, num_layers=1))
    for variable in network.trainable_variables:
        if not np.any(variable.numpy()):
            variable.assign(0.3 * tf.random.normal(variable.shape))
    options = {"finetune": None, "repair": None}
    whole = tfmetaprune.prune(model, digits(0, 64), speedup=1, metanetwork=network, **options)
    result, scored = (
        tfmetaprune.prune(model, digits(0, 64), method="unstructured", scope=scope, metanetwork=network, **options)
        for scope in ("layer", "global")
    )
    assert not same_weights(whole.model, model) and result.report["metanetwork"] == network.name
    for (layer, _), (_, value) in kernel_values(whole.model).items():
        kernel = result.model.get_layer(layer).kernel.numpy()
        np.testing.assert_array_equal(kernel, np.where(kernel == 0, 0, value))
    expected = zero_out(whole.model, plan_zeros(whole.model, sparse_method("unstructured", scope="layer")))[0]
    assert same_weights(result.model, expected)
    without_scores = plan_zeros(whole.model, sparse_method("unstructured"))  # scores tell which kernels keep more
    assert [one.num_kept for one in scored.plan.targets] != [one.num_kept for one in without_scores.targets]


def test_repair_and_optimizer_state(model):
    result = tfmetaprune.prune(model, digits(), method="unstructured", metanetwork=None, finetune=None)
    plain = tfmetaprune.prune(model, method="unstructured", **NOTHING)
    assert not np.array_equal(*(one.model.get_layer("bn1").moving_mean for one in (result, plain)))
    assert type(result.model.optimizer).__name__ == "Adam" and int(result.model.optimizer.iterations) == 0


@pytest.mark.parametrize(
    "options, message",
    [
        ({"method": "4:2"}, "expected N of M weights to stay, 1 <= N < M, got '4:2'"),
        ({"method": "0:4"}, "expected N of M weights"),
        ({"method": 3}, "expected method to be one of structured, unstructured"),
        ({"method": "unstructured", "sparsity": 1.0}, r"expected sparsity to be a share in \[0, 1\), got 1.0"),
        ({"method": "unstructured", "sparsity": True}, "expected sparsity"),
        ({"method": "unstructured", "sparsity": float("nan")}, "expected sparsity"),
        ({"method": "2:4", "sparsity": 0.5}, "expected no sparsity with method='2:4', got 0.5"),
        ({"method": "structured", "sparsity": 0.5}, "expected no sparsity with method='structured', got 0.5. Use speedup"),
        ({"method": "unstructured", "scope": "model"}, "expected scope to be one of global, layer, got 'model'"),
        ({"method": "unstructured", "schedule": "cosine"}, "expected schedule to be one of polynomial, constant, one_shot"),
        ({"method": "unstructured", "speedup": 3.0}, "expected no speedup with method='unstructured', .* got 3.0"),
        ({"method": "unstructured", "criterion": "fisher"}, "expected no criterion with method='unstructured'"),
        ({"method": "block", "block_shape": (1,)}, "expected block_shape to be two numbers"),
        ({"method": "block", "block_shape": (0, 4)}, "expected block_shape to be two numbers"),
        ({"method": "block", "block_shape": (1, 1)}, "expected block_shape of more than one weight"),
        ({"method": "unstructured", "block_shape": (1, 16)}, r"expected no block_shape with method='unstructured', got \(1, 16\)"),
        ({"method": "structured", "scope": "layer"}, "expected no scope with method='structured', got 'layer'"),
        ({"method": "structured", "schedule": "one_shot"}, "expected no schedule with method='structured'"),
        ({"distill": True}, "expected a number of epochs or 'default' as finetune with distill, got None"),
    ],
)
def test_bad_arguments(model, options, message):
    with pytest.raises(ArgumentError, match=message):
        tfmetaprune.prune(model, **{**NOTHING, **options})


def test_nothing_to_zero():
    model = keras.Sequential([L.DepthwiseConv2D(3, input_shape=(6, 6, 3), name="only")])
    message = "expected kernels that method='unstructured' can zero, got none .'only': it is depthwise"
    with pytest.raises(NothingToPruneError, match=message):
        tfmetaprune.prune(model, method="unstructured", **NOTHING)


def mobile(start="valid", last=True):
    inputs = keras.Input((16, 16, 3), name="image")
    x = L.ZeroPadding2D(1 if start == "valid" else 0, name="pad")(inputs)
    x = L.ReLU(name="relu")(L.Conv2D(8, 3, strides=2, padding=start, name="start")(x))
    inner_inputs = keras.Input((8, 8, 8))
    y = L.DepthwiseConv2D(3, padding="same", name="depthwise")(inner_inputs)
    inner = keras.Model(inner_inputs, L.BatchNormalization(name="bn")(L.Conv2D(8, 1, name="pointwise")(y)), name="inner")
    x = inner(x)
    x = L.GlobalAveragePooling2D(name="average")(x) if last else L.Flatten(name="flat")(x)
    return randomize(keras.Model(inputs, L.Dense(4, name="logits")(x), name="mobile"), "mobile")


def test_xnnpack_zeroes_pointwise_convolutions_alone():
    result = tfmetaprune.prune(mobile(), method="xnnpack", sparsity=0.75, **NOTHING)
    report = result.report["sparsity"]
    assert report["layers"] == {"inner/pointwise": {"sparsity": 0.75, "weights": 64, "zeros": 48}}
    assert "1x1" in report["dense"]["start"] and "1x1" in report["dense"]["logits"]
    assert np.sum(result.model.get_layer("inner").get_layer("pointwise").kernel.numpy() == 0) == 48


@pytest.mark.parametrize(
    "options, message",
    [
        ({"start": "same"}, r"begins with layer 'pad' \(ZeroPadding2D\) .*Begin with ZeroPadding2D.* or use method='unstructured'"),
        ({"last": False}, r"ends with layer 'logits' \(Dense\) .*End with GlobalAveragePooling2D"),
    ],
)
def test_xnnpack_policy_names_what_it_refuses(options, message):
    with pytest.raises(UnsupportedModelError, match=message):
        tfmetaprune.prune(mobile(**options), method="xnnpack", **NOTHING)


def test_xnnpack_policy_names_the_layer():
    inputs = keras.Input((16, 16, 3))
    x = L.Conv2D(8, 3, strides=2, name="start")(L.ZeroPadding2D(1)(inputs))
    x = L.GlobalAveragePooling2D()(L.Conv2D(8, 3, name="wide")(x))
    with pytest.raises(UnsupportedModelError, match=r"got layer 'wide' \(Conv2D\), which XNNPACK's sparse inference does not run"):
        tfmetaprune.prune(keras.Model(inputs, x), method="xnnpack", **NOTHING)
