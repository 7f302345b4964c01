"""The code of the documentation runs as it stands; every page and figure that the navigation names is there."""

import pathlib
import re

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfmetaprune

ROOT = pathlib.Path(tfmetaprune.__file__).parents[1]
HOWTO = sorted(f"docs/howto/{path.name}" for path in (ROOT / "docs/howto").glob("*.md"))
PAGES = ["README.md", "CONTRIBUTING.md", "docs/tutorial.md", *HOWTO]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page):
    """The Python blocks of a page; of the README those of its first screen."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return BLOCK.findall(text.partition("[end:start]")[0] if page == "README.md" else text)


@pytest.fixture(scope="module")
def names():
    """What the how-to pages call the reader's own: a trained model and data."""
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 192)
    x = (rng.normal(size=(192, 8, 8, 1)) + y[:, None, None, None]).astype("float32")
    layers = [keras.layers.Conv2D(32, 3, use_bias=False), keras.layers.BatchNormalization(), keras.layers.ReLU()]
    layers += [keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(32, "relu"), keras.layers.Dense(3, "softmax")]
    model = keras.Sequential([keras.Input((8, 8, 1)), *layers])
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(x, y, epochs=2, verbose=0)
    train, validation = (tf.data.Dataset.from_tensor_slices(part).batch(32) for part in ((x[:128], y[:128]), (x[128:], y[128:])))
    return {"model": model, "train_data": train, "val_data": validation}


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)])
def test_code_of_the_page_runs(page, names, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    namespace = {} if page == "docs/tutorial.md" else dict(names)
    if page == "README.md":
        names["model"].save("mine.keras")
        x, y = zip(*names["train_data"].unbatch().as_numpy_iterator())
        np.savez("mine.npz", x=np.stack(x), y=np.stack(y))
        namespace = {}
    weights = [np.array(weight) for weight in names["model"].weights]
    for block in blocks(page):
        exec(compile(block, page, "exec"), namespace)
    if "pruning" not in namespace:  # the callback trains the model it is given; nothing else changes one
        for weight, before in zip(names["model"].weights, weights):
            np.testing.assert_array_equal(weight, before)
    model = namespace.get("small", namespace.get("sparse", namespace.get("pruning"))).model
    assert isinstance(model, keras.Model)
    if page == "docs/tutorial.md":
        assert namespace["small"].report["finetuned"]["accuracy"] > 0.9
        assert namespace["model"].count_params() > model.count_params()
    if page == "README.md":
        assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.keras", "mine.npz", "small.keras", "small.tflite"]


def test_first_screen_is_short():
    text = (ROOT / "README.md").read_text(encoding="utf-8").partition("[start:start]")[2].partition("[end:start]")[0]
    commands = [line for line in text.splitlines() if line.startswith("    ")]
    code = [line for block in blocks("README.md") for line in block.splitlines() if line.strip()]
    assert 0 < len(commands) + len(code) < 10


def test_pages_that_the_navigation_names_are_there():
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    pages = re.findall(r": (\S+\.md)$", text, re.MULTILINE)
    assert len(pages) > 20
    assert [page for page in pages if not (ROOT / "docs" / page).is_file()] == []
