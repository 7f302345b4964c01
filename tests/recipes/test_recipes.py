"""Tests of the recipes: what they say, the networks they name, and two of them from the data to the report."""

import dataclasses
import json
import pathlib
import socket

import numpy as np
import pytest
from typer.testing import CliRunner

from tfmetaprune._keras import keras, tf
from tfmetaprune.cli import app
from tfmetaprune.errors import ArgumentError
from tfmetaprune.graph import graph_layout
from tfmetaprune.metatrain.objective import PublishedObjective
from tfmetaprune.metatrain.trainer import MetaTraining, _learning_rate
from tfmetaprune.recipes import reading, run
from tfmetaprune.recipes.architectures import ARCHITECTURES, resnet50, resnet_cifar, vgg19_bn, vit
from tfmetaprune.recipes.recipe import Data, Recipe, Training
from tfmetaprune.recipes.smoke import toy
from tfmetaprune.recipes.store import Store
from tfmetaprune.recipes.training import CoupledSGD, fit, kernel_rms, learning_rate
from tfmetaprune.trace import trace_model

NAMES = [
    "digits", "digits_sparse", "resnet110_cifar10", "resnet110_cifar100", "resnet110_svhn", "resnet50_imagenet",
    "resnet56_cifar10", "resnet56_cifar100", "resnet56_svhn", "vgg19_cifar100", "vit_b16_imagenet",
]  # fmt: skip


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError(f"the network was asked for: {args}")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)


# ------------------------------------------------------------------------------------------------------ what they say


def test_the_shipped_recipes_are_these():
    assert list(reading.available_recipes()) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_every_recipe_is_read_and_its_toy_network_built(name):
    recipe = reading.read_recipe(name)
    small = toy(recipe)
    builder, options, image_size = ARCHITECTURES[small.network.architecture]
    shape = (8, 8, 1) if recipe.data.name == "digits" else (*(image_size or (32, 32)), 3)
    model = builder(shape, 7, **small.network.options)
    assert model.output_shape == (None, 7) and model.count_params() < 50_000
    assert set(recipe.network.options) <= set(builder.__kwdefaults__)
    options = {k: v for k, v in dataclasses.asdict(recipe.metatraining).items() if k != "examples"}
    MetaTraining(**options)  # which checks them
    assert small.finetuning_b.epochs == 2 and small.data_models.count == 2


def test_resnet56_on_cifar10_is_as_published():
    recipe = reading.read_recipe("resnet56_cifar10")

    def sgd(epochs, rate, milestones):
        return Training(epochs, rate, "sgd", 0.9, 5e-4, "milestones", milestones, 0.1, 0, 128)

    assert recipe.training == recipe.data_models.training == sgd(200, 0.1, (100, 150, 180))
    assert recipe.finetuning_a == sgd(100, 0.01, (60, 90)) and recipe.finetuning_b == sgd(140, 0.01, (80, 120))
    meta, net = recipe.metatraining, recipe.metanetwork
    assert (net.num_layers, net.hidden, net.ratio, net.ratio_unit, net.message_passing) == (8, 64, 0.01, "weight", "published")
    assert (meta.alpha, meta.regularization * meta.batches_per_step, meta.weight_decay, meta.learning_rate) == (16, 10, 5e-4, 1e-3)
    assert recipe.data_models.speedups == (1.3, 3.0) and recipe.pruning.criterion == "group_l2_max" and recipe.use == "weights"


@pytest.mark.parametrize(
    ("name", "shape", "rate", "a", "b", "speedup"),
    [
        ("vgg19_cifar100", (8, 32, 0.05), 1e-2, (2000, 0.01, (1850, 1950)), (2000, 0.01, (1850, 1950)), 8.95),
        ("resnet50_imagenet", (6, 16, 0.002), 1e-2, (200, 0.01, (120, 160, 185)), (200, 0.01, (120, 160, 185)), 2.31),
        ("vit_b16_imagenet", (3, 4, 0.05), 1e-2, (300, 1e-4, ()), (300, 5e-5, ()), 1.7),
        ("resnet110_svhn", (8, 64, 0.01), 1e-3, (100, 0.01, (60, 90)), (140, 0.01, (80, 120)), 2.9),
    ],
)
def test_the_others_are_as_published(name, shape, rate, a, b, speedup):
    recipe = reading.read_recipe(name)
    assert (recipe.metanetwork.num_layers, recipe.metanetwork.hidden, recipe.metanetwork.ratio) == shape
    assert recipe.metatraining.learning_rate == rate and recipe.pruning.speedup == speedup
    for training, expected in ((recipe.finetuning_a, a), (recipe.finetuning_b, b)):
        assert (training.epochs, training.learning_rate, training.milestones) == expected


BASE = """
description: A test.
data: {name: digits}
network: {architecture: residual_cnn}
training: {epochs: 2, learning_rate: 1e-3}
data_models: {count: 1, training: {epochs: 2, learning_rate: 0.1}}
metanetwork: {}
metatraining: {objective: structured, steps: 3}
pruning: {speedup: 2}
finetuning_b: {epochs: 2, learning_rate: 0.1}
"""


def read_text(tmp_path, text):
    (tmp_path / "mine.yaml").write_text(text)
    return reading.read_recipe(tmp_path / "mine.yaml")


def test_a_recipe_of_ones_own_may_leave_out_what_has_a_default(tmp_path):
    recipe = read_text(tmp_path, BASE)
    assert isinstance(recipe, Recipe) and recipe.data == Data("digits") and recipe.training.learning_rate == 1e-3


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("{name: digits}", "{nam: digits}", "data.nam: expected one of the keys name, image_size, scaling, augmentation, got another"),
        ("{name: digits}", "{}", "data.name: expected a value, got none"),
        ("{name: digits}", "{name: digits, augmentation: {flip: 1}}", "data.augmentation.flip: expected true or false, got 1"),
        ("{name: digits}", "{name: digits, image_size: [4]}", r"data.image_size: expected a list of 2, got \[4\]"),
        ("{name: digits}", "digits", "data: expected the keys name, .*, got 'digits'"),
        ("count: 1", "count: 1.5", "data_models.count: expected a whole number, got 1.5"),
        ("count: 1", "count: true", "data_models.count: expected a whole number, got True"),
        ("count: 1", "count: 0", "data_models.count: expected at least 1, got 0"),
        ("learning_rate: 0.1}}", "learning_rate: fast}}", "data_models.training.learning_rate: expected a number, got 'fast'"),
        ("learning_rate: 0.1}}", "learning_rate: 0.1, optimizer: lion}}", "data_models.training.optimizer: expected one of sgd,"),
        ("1e-3}", "1e-3, schedule: milestones, milestones: [2]}", r"training.milestones: expected rising epochs .* 0 and 2, got \(2,\)"),
        ("1e-3}", "1e-3, warmup_epochs: 1}", "training.warmup_epochs: expected 0 with another schedule than cosine, got 1"),
        ("1e-3}", "1e-3, milestones: [1, x]}", r"training.milestones\[1\]: expected a whole number, got 'x'"),
        ("{speedup: 2}", "{method: unstructured}", "pruning.method: expected structured with use: weights, got 'unstructured'"),
        ("{speedup: 2}", "{speedup: 0.5}", "pruning.speedup: expected at least 1, got 0.5"),
        ("description: A test.", "description: [", "expected YAML, got .*line"),
        ("{name: digits}", "{name: digits, scaling: unit}", "data.scaling: expected one of default, none, standardize, got 'unit'"),
        ("{speedup: 2}", "{speedup: 2, criterion: l2}", "pruning.criterion: expected one of group_l2, group_l2_max, random, got 'l2'"),
        ("{speedup: 2}", "{speedup: 2, criterion: fisher}", "pruning.criterion: expected one of group_l2, .*, got 'fisher'"),
        ("{speedup: 2}", "{speedup: 2, method: unstructured}\nuse: scores", "pruning.speedup: expected none for a method"),
        ("{speedup: 2}", "{criterion: random, method: unstructured}\nuse: scores", "pruning.criterion: expected none for a method"),
        ("count: 1,", "count: 1, finetuning: {epochs: 1, learning_rate: 0.1},", "data_models.finetuning: expected none without"),
        ("{speedup: 2}", "{method: sparse}\nuse: scores", "pruning: prune: expected method to be one of .*, got 'sparse'"),
        ("objective: structured", "objective: dense", "metatraining: MetaTraining: expected objective to be one of .*, got 'dense'"),
        ("metanetwork: {}", "metanetwork: {hidden: 0}", "metanetwork: MetaNetConfig: expected hidden to be an integer >= 2, got 0"),
        ("metanetwork: {}", "metanetwork: {}\nexport: {quantize: int4}", "export.quantize: expected one of None, .*, got 'int4'"),
    ],
)
def test_mistakes_are_named_by_their_key(tmp_path, old, new, message):
    assert old in BASE
    with pytest.raises(ArgumentError, match=f"Recipe mine.yaml[,:] {message}"):
        read_text(tmp_path, BASE.replace(old, new))


def test_scores_may_join_a_criterion_of_the_data(tmp_path):
    text = BASE.replace("{speedup: 2}", "{speedup: 2, criterion: fisher}\nuse: scores")
    assert read_text(tmp_path, text).pruning.criterion == "fisher"
    with pytest.raises(ArgumentError, match="pruning.criterion"):  # data models are pruned without data
        read_text(tmp_path, text.replace("count: 1,", "count: 1, speedups: [1.5, 2],"))


def test_unknown_recipes_and_architectures_are_refused(tmp_path):
    with pytest.raises(ArgumentError, match="Recipe 'resnet57': expected one of digits, .*found none of this name"):
        reading.read_recipe("resnet57")
    with pytest.raises(ArgumentError, match="network.architecture: expected one of resnet_cifar, .*got 'alexnet'"):
        read_text(tmp_path, BASE.replace("residual_cnn", "alexnet"))
    with pytest.raises(ArgumentError, match="network.options: expected some of widths, seed, got 'depth'"):
        read_text(tmp_path, BASE.replace("residual_cnn", "residual_cnn, options: {depth: 3}"))


# ------------------------------------------------------------------------------------------------------- the networks


@pytest.mark.parametrize(
    ("build", "shape", "num_classes", "options", "trainable"),
    [
        (resnet_cifar, (32, 32, 3), 10, {"depth": 56}, 855_770),  # He et al.: 0.85 M, with 2,752 for two projections
        (resnet_cifar, (32, 32, 3), 10, {"depth": 110}, 1_730_714),  # He et al.: 1.7 M
        (vgg19_bn, (32, 32, 3), 100, {}, 20_081_188),  # 20.0 M of 16 convolutions, BN, and a dense layer of 51,300
        (resnet50, (224, 224, 3), 1000, {}, 25_557_032),  # torchvision's resnet50
        (vit, (224, 224, 3), 1000, {}, 86_567_656 - 2 * 768),  # torchvision's vit_b_16 without class token and its position
    ],
)
def test_networks_have_the_published_sizes(build, shape, num_classes, options, trainable):
    model = build(shape, num_classes, **options)
    assert sum(int(np.prod(weight.shape)) for weight in model.trainable_weights) == trainable


@pytest.mark.parametrize(
    ("build", "num_classes", "nodes"), [(resnet_cifar, 10, 2045), (vgg19_bn, 100, 5607), (resnet50, 1000, 23_723)]
)
def test_networks_have_as_many_channels_as_the_published_graphs(build, num_classes, nodes):
    shape = (224, 224, 3) if build is resnet50 else (32, 32, 3)
    model = build(shape, num_classes)
    made = sum(layer.filters for layer in model.layers if isinstance(layer, keras.layers.Conv2D))
    projections = [(16, 32), (32, 64)] if build is resnet_cifar else [(1, 256), (1, 512), (1, 1024), (1, 2048)]
    shortcuts = 0 if build is vgg19_bn else sum(width for _, width in projections)  # tied to the channels they are added to
    assert 3 + made - shortcuts + num_classes == nodes


def test_the_transformer_tells_its_patches_apart():
    model = vit((8, 8, 1), 3, patch=4, width=8, depth=1, heads=2)
    x = np.random.default_rng(0).normal(size=(2, 8, 8, 1)).astype(np.float32)
    swapped = np.concatenate([x[:, :, 4:], x[:, :, :4]], 2)
    assert np.abs(model(x) - model(swapped)).max() > 1e-4
    embedding = next(layer for layer in model.layers if isinstance(layer, keras.layers.Embedding))
    embedding.set_weights([np.zeros([4, 8])])
    np.testing.assert_allclose(model(x), model(swapped), atol=1e-5)  # patches alone do not tell


# ----------------------------------------------------------------------------------------------------------- training


def test_the_learning_rate_falls_at_the_first_step_of_each_milestone():
    rate = learning_rate(Training(5, 0.1, schedule="milestones", milestones=(2, 4)), steps_per_epoch=3)
    np.testing.assert_allclose([float(rate(step)) for step in (0, 5, 6, 11, 12, 14)], [0.1, 0.1, 0.01, 0.01, 0.001, 0.001], rtol=1e-5)
    meta = _learning_rate(MetaTraining(learning_rate=0.1, milestones=(6,)))
    np.testing.assert_allclose([float(meta(step)) for step in (0, 5, 6)], [0.1, 0.1, 0.01], rtol=1e-5)
    cosine = learning_rate(Training(5, 0.1, schedule="cosine", warmup_epochs=1), steps_per_epoch=4)
    np.testing.assert_allclose([float(cosine(step)) for step in (0, 2, 4, 12, 20)], [0, 0.05, 0.1, 0.05, 0], atol=1e-7)


def test_sgd_decays_as_pytorch_does():
    weight, gradient = tf.Variable([1.0, -2.0]), np.array([0.5, 0.25])
    optimizer = CoupledSGD(learning_rate=0.1, momentum=0.9, coupled_decay=0.01)
    expected, velocity = np.array([1.0, -2.0]), np.zeros(2)
    for _ in range(3):
        optimizer.minimize(lambda: tf.reduce_sum(weight * gradient), [weight])
        velocity = 0.9 * velocity + gradient + 0.01 * expected
        expected = expected - 0.1 * velocity
    np.testing.assert_allclose(weight.numpy(), expected, rtol=1e-5)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "adam"])
def test_fit_trains_in_place_and_leaves_the_model_uncompiled(optimizer, tmp_path):
    def make(seed):
        keras.utils.set_random_seed(seed)
        return keras.Sequential([keras.Input([4]), keras.layers.Dense(3)])

    model, again = make(0), make(1)
    x = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
    train = tf.data.Dataset.from_tensor_slices((x, x[:, :3].argmax(1))).batch(20)
    history = fit(model, Training(8, 0.1, optimizer), train, 3, backup=tmp_path / "backup")
    assert history["loss"][-1] < 0.8 * history["loss"][0] and len(history["loss"]) == 8
    assert model.optimizer is None
    assert not fit(again, Training(8, 0.1, optimizer), train, 3, backup=tmp_path / "backup")  # it is read from the backup
    np.testing.assert_array_equal(again.get_weights()[0], model.get_weights()[0])


def test_the_factor_of_the_norm_is_as_asked_for():
    model = keras.Sequential([keras.Input([4]), keras.layers.Dense(6), keras.layers.ReLU(), keras.layers.Dense(3)])
    trace = trace_model(model)
    objectives = [PublishedObjective(trace, alpha=alpha) for alpha in (1.0, 16.0)]
    one, many = (float(objective.norm(objective.weights_of(trace))) for objective in objectives)
    assert one < many < 16 * one
    assert MetaTraining(objective="published", alpha=3.0).alpha == 3.0 and graph_layout(trace) is not None


def test_the_size_of_kernels_is_a_median():
    layers = [keras.layers.Dense(3, kernel_initializer=keras.initializers.Constant(value)) for value in (0.1, 5.0, 0.3)]
    assert kernel_rms([keras.Sequential([keras.Input([4]), *layers])]) == pytest.approx(0.3)


# -------------------------------------------------------------------------------------------------------------- stages


def test_a_stage_runs_once_and_is_there_whole_or_not_at_all(tmp_path):
    store = Store(tmp_path / "run", {"a": 1}, resume=False)
    model = keras.Sequential([keras.Input([2]), keras.layers.Dense(1)])

    def interrupted():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.stage("inner/first", interrupted)
    assert not store.path("inner/first").exists()
    done = store.stage("inner/first", lambda: (model, {"value": 3}))
    again = Store(tmp_path / "run", {"a": 1}, resume=True).stage("inner/first", interrupted)
    assert done == again and again["value"] == 3 and again["seconds"] >= 0
    np.testing.assert_array_equal(store.model("inner/first").get_weights()[0], model.get_weights()[0])
    assert not [path for path in (tmp_path / "run").rglob("*") if "partial" in path.name]


def test_a_folder_belongs_to_one_run(tmp_path):
    Store(tmp_path, {"a": 1, "b": (2,)}, resume=False)
    Store(tmp_path, {"a": 1, "b": (2,)}, resume=True)
    with pytest.raises(ArgumentError, match="expected no run in it, got one. Use --resume"):
        Store(tmp_path, {"a": 1, "b": (2,)}, resume=False)
    with pytest.raises(ArgumentError, match="expected the run of the same recipe, got one that differs in b"):
        Store(tmp_path, {"a": 1, "b": (3,)}, resume=True)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "network.json").touch()  # as `prune` writes one
    with pytest.raises(ArgumentError, match="expected a new folder or that of a run, got one of other results"):
        Store(tmp_path / "other", {}, resume=False)
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["network.json"]
    (tmp_path / "file").touch()
    with pytest.raises(ArgumentError, match="expected a folder that can be written, got"):
        Store(tmp_path / "file", {}, resume=False)


# ---------------------------------------------------------------------------------------------------------- end to end


def check_report(folder, report, stages):
    assert json.loads((folder / "report.json").read_text()) == json.loads(json.dumps(report))
    assert list(report["stages"]) == stages
    network, final = report["stages"]["network"], report["stages"]["finetuned_b"]
    assert report["speedup"]["reached"] == network["macs"] / final["macs"]
    assert report["stages"]["exported"]["size_bytes"] == (folder / "model.tflite").stat().st_size
    assert {"network", "finetuned_b"} == set(report["test"])
    assert (folder / "finetuned_b.keras").exists() and (folder / "metanetwork.keras").exists()
    assert not [path for path in folder.rglob("*") if "partial" in path.name or path.suffix == ".backup"]


PUBLISHED = ["network", "data_models/0", "data_models/1", "metanetwork", "generated", "finetuned_a", "pruned", "finetuned_b", "exported"]


def test_the_published_chain_on_a_cnn_resumes_to_the_same_end(tmp_path, monkeypatch):
    arguments = ["run", "resnet56_cifar10", "--smoke", "--quiet"]
    exported = run.export_tflite

    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "export_tflite", interrupted)
    assert CliRunner().invoke(app, [*arguments, "--out", str(tmp_path / "a")]).exit_code != 0
    monkeypatch.setattr(run, "export_tflite", exported)
    before = {path: path.read_bytes() for path in (tmp_path / "a").rglob("*.keras")}
    result = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path / "a"), "--resume", "--json"])
    assert result.exit_code == 0, (result.output, result.exception)
    report = json.loads(result.stdout)
    check_report(tmp_path / "a", report, PUBLISHED)
    assert {path: path.read_bytes() for path in (tmp_path / "a").rglob("*.keras")} == before  # nothing was made again
    stages = report["stages"]
    assert stages["finetuned_a"]["macs"] == stages["network"]["macs"] > stages["finetuned_b"]["macs"] == stages["pruned"]["macs"]
    assert report["speedup"]["reached"] >= 1.8 and stages["data_models/1"]["speedup"] >= 1.5
    config = stages["metanetwork"]["config"]
    assert config["message_passing"] == "published" and config["ratio"] > 0.01  # kernels are smaller than 1


def test_data_that_are_there_are_not_mocked(tmp_path):
    np.savez(tmp_path / "own.npz", x=np.random.default_rng(0).normal(size=(60, 8, 8, 1)).astype(np.float32), y=np.arange(60) % 3)
    recipe = read_text(tmp_path, BASE.replace("digits}", f"{tmp_path / 'own.npz'}}}"))
    report = run.run_recipe(recipe, tmp_path / "run", smoke=True)
    assert report["data"]["num_classes"] == 3 and sum(report["data"]["num_examples"].values()) == 60


def test_the_published_chain_on_a_transformer(tmp_path):
    report = run.run_recipe(reading.read_recipe("vit_b16_imagenet"), tmp_path / "b", smoke=True)
    check_report(tmp_path / "b", report, PUBLISHED)
    assert report["data"]["input_shape"] == (32, 32, 3) and report["data"]["num_classes"] == 1000


def test_help_tells_the_shipped_recipes_apart_from_files():
    result = CliRunner().invoke(app, ["run", "no_such", "--out", "nowhere"])
    assert result.exit_code == 2 and not pathlib.Path("nowhere").exists()
