"""Families and the zoo: sizes hold, file names tell what is inside, reused traces change nothing, interrupted runs go on."""

import json

import numpy as np
import pytest

import tfmetaprune
import tfmetaprune.data
from tfmetaprune._keras import tf
from tfmetaprune.data import DataSplits
from tfmetaprune.errors import ArgumentError
from tfmetaprune.metatrain import data_models
from tfmetaprune.metatrain.data_models import DataModelFile, augmented, list_data_models, make_data_models
from tfmetaprune.metatrain.families import FAMILIES, architecture, build_model
from tfmetaprune.metatrain.small_networks import residual_cnn

SHAPES = {3: (8, 8, 1), 2: (24, 2)}


@pytest.fixture
def series(monkeypatch):
    """A set of two kinds of short series, loaded by any name."""
    rng = np.random.default_rng(0)

    def split(count):
        y = rng.integers(0, 2, count)
        x = rng.normal(size=(count, 24, 2)) + 2 * np.sin(np.arange(24)[:, None] / (1 + 2 * y[:, None, None]))
        return tf.data.Dataset.from_tensor_slices((x.astype(np.float32), y.astype(np.int64))).batch(40)

    splits = DataSplits("waves", split(80), split(40), split(40), 2, (24, 2), {"train": 80, "validation": 40, "test": 40})
    monkeypatch.setattr(tfmetaprune.data, "load", lambda name, **_: splits)


@pytest.mark.parametrize("family", FAMILIES)
def test_variants_differ_and_have_twenty_to_a_hundred_and_fifty_thousand_parameters(family):
    for rank in FAMILIES[family].ranks:
        models = [build_model(family, SHAPES[rank], 10, variant=variant, seed=3) for variant in (0, 1)]
        counts = [model.count_params() for model in models]
        assert counts[0] != counts[1] and all(20_000 <= count <= 150_000 for count in counts)
        again = build_model(family, SHAPES[rank], 10, variant=1, seed=3)
        np.testing.assert_array_equal(models[1].get_weights()[0], again.get_weights()[0])
        other = build_model(family, SHAPES[rank], 10, variant=1, seed=4)
        assert np.any(models[1].get_weights()[0] != other.get_weights()[0])


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_can_be_pruned_throughout(family):
    for rank in FAMILIES[family].ranks:
        found = tfmetaprune.inspect(build_model(family, SHAPES[rank], 10))
        assert found.prunable_macs_share == 1 and not found.unknown_layers
        hidden = {what: count for what, count in found.frozen.items() if not what.startswith(("model ", "made by ", "read by "))}
        assert hidden == {} and (family == "mixer" or len(found.frozen) == 2)  # a mixer's patches are positions


def test_only_what_universal_was_trained_on_is_made_unless_named(series, tmp_path, monkeypatch):
    monkeypatch.setattr(data_models, "_make", lambda *_: None)
    every = make_data_models(tmp_path, data=["ucr/waves"], seeds=[0])
    assert {file.family for file in every} == {"series_cnn", "mlp", "vit"}
    (other,) = make_data_models(tmp_path, families=["recurrent", "convnext"], data=["ucr/waves"], seeds=[0])
    assert other.family == "recurrent"


def test_the_order_of_the_examples_does_not_depend_on_what_ran_before(series, tmp_path, monkeypatch):
    splits, drawn = tfmetaprune.data.load("waves"), []
    monkeypatch.setattr(tfmetaprune.data, "load", lambda name, **_: drawn.append(float(tf.random.uniform(()))) or splits)
    monkeypatch.setattr(data_models, "_make", lambda *_: None)
    for seed in range(2):
        tf.random.set_seed(seed)
        make_data_models(tmp_path, families=["recurrent"], data=["ucr/waves"], seeds=[0])
    assert drawn[0] == drawn[1]


def test_residual_networks_are_those_of_the_shipped_cards():
    weights = residual_cnn((8, 8, 1), 10, seed=1000).get_weights()
    np.testing.assert_allclose(weights[0].ravel()[:3], [0.1564004, 0.14815168, -0.04968056], rtol=1e-6)
    assert sum(w.size for w in weights) == 78_426


def test_unfit_families_and_missing_models_are_refused(tmp_path):
    with pytest.raises(ArgumentError, match=r"of shape \(24, 2\), one of series_cnn, mlp, vit, mixer, recurrent, got 'concat_cnn'"):
        architecture("concat_cnn", 0, (24, 2), 3)
    with pytest.raises(ArgumentError, match="expected families among plain_cnn.*got \\['resnet'\\]"):
        make_data_models(tmp_path, families=["resnet"])
    with pytest.raises(ArgumentError, match="expected data models of families \\['mlp'\\], got none among 0"):
        list_data_models(tmp_path, families=["mlp"])
    with pytest.raises(ArgumentError, match="expected data without '@'.*got \\['me@home'\\]"):
        make_data_models(tmp_path, data=["digits", "me@home"])
    for name in ("mlp-0--digits--0.keras", "vit-0--waves--0.keras"):
        (tmp_path / name).touch()
    with pytest.raises(ArgumentError, match="expected families among mlp, vit, got vti"):
        list_data_models(tmp_path, families=["mlp", "vti"])
    with pytest.raises(ArgumentError, match="expected data sets among digits, waves, got wave"):
        list_data_models(tmp_path, data=["digits", "wave"])


def test_a_zoo_is_read_back_and_completed(series, tmp_path):
    wanted = {"families": ["mlp", "series_cnn"], "data": ["ucr/waves"], "variants": (0, 2), "steps": 25}
    made = make_data_models(tmp_path, seeds=range(3), **wanted)
    assert made == list_data_models(tmp_path) and len(made) == 6
    assert made[2] == DataModelFile("mlp", 2, "ucr/waves", 1)
    first = (tmp_path / made[0].file_name).read_bytes()
    seen = []
    make_data_models(tmp_path, seeds=range(4), **wanted, progress=lambda file, done, total: seen.append((file.seed, done, total)))
    assert [done for _, done, total in seen] == list(range(1, 9)) and {total for *_, total in seen} == {8}
    assert (tmp_path / made[0].file_name).read_bytes() == first
    log = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(log) == 8 and all(line["test"] > 0.9 for line in log)
    model = made[2].load(tmp_path)
    assert model.name == "mlp-2--ucr.waves--1" and model.predict(np.zeros((1, 24, 2)), verbose=0).shape == (1, 2)
    some = list_data_models(tmp_path, families=["mlp"], data=["ucr/waves"])
    assert len(some) == 4 and {file.family for file in some} == {"mlp"}

    alone = make_data_models(tmp_path / "alone", seeds=[2], **wanted)  # here no other seed comes before it
    for file in alone:
        for got, want in zip(file.load(tmp_path / "alone").get_weights(), file.load(tmp_path).get_weights(), strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def test_augmentation_keeps_what_matters():
    rng = np.random.default_rng(0)
    image = np.zeros((50, 5, 5, 1), np.float32)
    image[:, 2, 2] = 1
    moved = augmented(image, rng, noise=0.0)
    assert moved.dtype == np.float32 and np.all(moved.sum((1, 2, 3)) == 1) and len(np.unique(moved.argmax(1), axis=0)) > 1
    series = rng.normal(size=(50, 24, 1)).astype(np.float32)
    correlation = np.corrcoef(augmented(series, rng).ravel(), series.ravel())[0, 1]
    assert 0.98 < correlation < 0.9999
