"""The statistics of two models, each against a plain computation of its own."""

import json

import keras as keras3
import numpy as np
import pytest

import tfmetaprune
from tfmetaprune import data
from tfmetaprune._keras import keras, tf
from tfmetaprune.analysis import STATISTICS
from tfmetaprune.errors import ArgumentError, DataError
from tfmetaprune.metatrain.zoo import dataset_arrays
from tfmetaprune.pruning import replace_weights


def make_net(k=keras, name="net", widths=(8, 12)):
    k.utils.set_random_seed(0)
    layers, inputs = k.layers, k.Input((8, 8, 1))
    x = layers.ReLU()(layers.BatchNormalization(name="bn")(layers.Conv2D(widths[0], 3, name="conv")(inputs)))
    x = layers.DepthwiseConv2D(3, name="depthwise")(x)
    x = layers.Dense(widths[1], name="hidden", activation="relu")(layers.GlobalAveragePooling2D()(x))
    return k.Model(inputs, layers.Dense(10, name="logits")(x), name=name)


@pytest.fixture(scope="module")
def images():
    return np.asarray(dataset_arrays(data.load("digits", batch_size=64).validation)[0])[:48]


@pytest.fixture(scope="module")
def pair():
    before = make_net()
    before.get_layer("bn").gamma.assign([1, -1, 0.01, 2, 1, 1, 1, 0.5])
    kernel = before.get_layer("hidden").kernel.numpy()
    rank_one = np.outer(kernel[:, 0], np.linspace(1, 2, 12)).astype("float32")
    return before, replace_weights(before, {("hidden", "kernel"): rank_one})


def by_layer(analysis):
    return {layer.layer: layer for layer in analysis.layers}


def test_statistics_of_kernels(pair, images):
    analysis = tfmetaprune.analyze(*pair, data=images)
    layers = by_layer(analysis)
    assert list(layers) == ["conv", "bn", "depthwise", "hidden", "logits"]
    assert {name for layer in analysis.layers for name in layer.statistics} == set(STATISTICS)
    kernel = pair[0].get_layer("hidden").kernel.numpy().astype(float)  # [8, 12]
    singular = np.linalg.svd(kernel, compute_uv=False)
    share = singular / singular.sum()
    statistics = layers["hidden"].statistics
    assert statistics["stable_rank"] == pytest.approx(((singular**2).sum() / singular[0] ** 2, 1.0), rel=1e-5)
    assert statistics["entropy_rank"] == pytest.approx((np.exp(-(share * np.log(share)).sum()), 1.0), rel=1e-3)
    correlation = np.abs(np.corrcoef(kernel.T))
    assert statistics["correlation"] == pytest.approx(((correlation.sum() - 12) / 132, 1.0), rel=1e-5)
    made = np.sqrt(sum(  # what makes the 8 channels: the convolution and, channel by channel, the depthwise kernel
        np.square(pair[0].get_layer(name).get_weights()[0]).sum((0, 1)).reshape(-1, 8).sum(0) for name in ("conv", "depthwise")
    ))  # fmt: skip
    expected = np.corrcoef(np.linalg.norm(kernel, axis=1), made)[0, 1]
    assert statistics["layer_correlation"][0] == pytest.approx(expected, rel=1e-4)
    gamma = np.abs([1, -1, 0.01, 2, 1, 1, 1, 0.5])
    assert layers["bn"].statistics["bn_scale_mean"] == pytest.approx((gamma.mean(), gamma.mean()))
    assert layers["bn"].statistics["bn_scale_small"] == (1 / 8, 1 / 8)
    assert layers["bn"].values["bn_scale"][0] == pytest.approx(sorted(gamma))


def test_saliency_is_relative_group_l2(pair):
    layer = by_layer(tfmetaprune.analyze(*pair))["hidden"]
    made, read = (pair[0].get_layer(name).kernel.numpy() for name in ("hidden", "logits"))
    saliency = np.sqrt(((made**2).sum(0) + (read**2).sum(1)) / 2)
    assert layer.values["saliency"][0] == pytest.approx(np.sort(saliency / saliency.mean()), rel=1e-5)
    assert layer.statistics["saliency_spread"][0] == pytest.approx(np.std(saliency / saliency.mean()), rel=1e-4)


def test_activations_and_sensitivities_need_data(pair, images):
    without, with_data = (tfmetaprune.analyze(*pair, data=one) for one in (None, images))
    needing = {"taylor_spread", "activation_correlation"}
    assert not needing & {name for layer in without.layers for name in layer.statistics}
    model = keras.Model(pair[0].input, pair[0].get_layer("hidden").output)
    activations = model(images).numpy().astype(float)
    activations = activations[:, activations.std(0) > 1e-6 * activations.std()]
    correlation = np.abs(np.corrcoef(activations.T))
    count = len(correlation)
    expected = (correlation.sum() - count) / (count * (count - 1))
    assert by_layer(with_data)["hidden"].statistics["activation_correlation"][0] == pytest.approx(expected, rel=1e-3)
    assert by_layer(with_data)["hidden"].statistics["taylor_spread"][0] > 0


def test_equal_models_and_changed_weights(pair):
    same = tfmetaprune.analyze(pair[0], pair[0])
    assert same.same_widths and set(same.weight_change.values()) == {0.0}
    assert all(first == second for layer in same.layers for first, second in layer.statistics.values())
    changed = tfmetaprune.analyze(*pair).weight_change
    old, new = (model.get_layer("hidden").get_weights() for model in pair)
    assert changed["hidden"] == pytest.approx(np.linalg.norm(new[0] - old[0]) / np.linalg.norm(old[0]), rel=1e-5)
    assert {name for name, value in changed.items() if value} == {"hidden"}


def test_a_pruned_model_is_matched_by_name(pair):
    small = tfmetaprune.prune(pair[0], speedup=1.5, metanetwork=None, finetune=None, repair=None).model
    analysis = tfmetaprune.analyze(pair[0], small)
    assert not analysis.same_widths and analysis.weight_change == {}
    layers = by_layer(analysis)
    assert layers["conv"].width == (8, small.get_layer("conv").filters) and layers["depthwise"].width[1] < 8
    assert len(layers["bn"].values["bn_scale"][1]) == small.get_layer("conv").filters
    assert analysis.mean("saliency_small") is not None


def test_both_keras_give_the_same(images):
    model = make_net(keras3)
    twin = make_net(keras)
    twin.set_weights(model.get_weights())
    ours, theirs = (tfmetaprune.analyze(one, one, data=images) for one in (twin, model))
    for mine, other in zip(ours.layers, theirs.layers, strict=True):
        assert mine.layer == other.layer
        for name, value in mine.statistics.items():
            assert other.statistics[name] == pytest.approx(value, rel=1e-4, abs=1e-6), (mine.layer, name)


def test_layers_of_one_model_alone_are_named(pair):
    other = make_net(name="other")
    cut = keras.Model(other.input, other.get_layer("hidden").output)
    assert tfmetaprune.analyze(pair[0], cut).missing == ("logits",)
    stranger = keras.Sequential([keras.layers.Dense(3, input_shape=(2,), name="stranger")])
    with pytest.raises(ArgumentError, match="analyze: expected two models with layers of the same names, got .*'conv'"):
        tfmetaprune.analyze(pair[0], stranger)
    with pytest.raises(DataError):
        tfmetaprune.analyze(*pair, data=np.zeros((4, 3), "float32"))


def test_layers_with_several_kernels():
    inputs = keras.Input((6, 4))
    x = keras.layers.MultiHeadAttention(2, 4, name="attention")(inputs, inputs)
    x = keras.layers.LSTM(5, name="lstm")(x)
    model = keras.Model(inputs, keras.layers.Dense(2, name="end")(x))
    layers = by_layer(tfmetaprune.analyze(model, model, data=np.ones((4, 6, 4), "float32")))
    assert {"lstm/cell.kernel", "lstm/cell.recurrent_kernel", "end"} <= set(layers)
    assert sum(name.startswith("attention/") for name in layers) == 4


def test_what_is_put_out(pair, images, tmp_path):
    from rich.console import Console

    analysis = tfmetaprune.analyze(*pair, data=images)
    assert json.loads(json.dumps(analysis.to_dict()))["layers"][3]["layer"] == "hidden"
    console = Console(width=200, record=True, file=open("/dev/null", "w"))
    console.print(analysis.table())
    text = console.export_text()
    assert "stable rank" in text and "hidden" in text and "mean" in text
    analysis.plot(tmp_path / "analysis.png")
    image = tf.image.decode_png((tmp_path / "analysis.png").read_bytes()).numpy()
    assert image.shape[0] > 800 and (image[..., :3] != 255).any(-1).mean() > 0.02
