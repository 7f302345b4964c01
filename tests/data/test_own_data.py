"""Tests of data of the caller's own: folders of images, .npz files, tables of series."""

import numpy as np
import pytest
from PIL import Image

from tfmetaprune._keras import keras
from tfmetaprune.data import check_data, load
from tfmetaprune.data.splits import cut_splits
from tfmetaprune.errors import ArgumentError, DataError


def arrays(dataset):
    return [np.concatenate(parts) for parts in zip(*dataset.as_numpy_iterator(), strict=True)]


def write_images(folder, classes=("ant", "bee"), count=20, size=(4, 6), first=0, mode="L"):
    """Images of one grey value each, by which they can be told apart; returns {value: class index}."""
    for index, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            value = first + index * count + number
            pixels = np.full((*size, 3), value, np.uint8) if mode == "RGB" else np.full(size, value, np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    return {first + index * count + number: index for index in range(len(classes)) for number in range(count)}


def values_of(data):
    """Split -> {grey value: label}."""
    result = {}
    for split in ("train", "validation", "test"):
        x, y = arrays(getattr(data, split))
        assert len(x) == data.num_examples[split] and x.shape[1:] == data.input_shape
        result[split] = dict(zip(np.rint(x.reshape(len(x), -1)[:, 0] * 255).astype(int).tolist(), y.tolist(), strict=True))
    return result


# --------------------------------------------------------------------------------------------------------- folders


def test_a_folder_of_classes_is_cut_into_splits_always_the_same(tmp_path):
    expected = write_images(tmp_path / "root")
    (tmp_path / "root" / ".hidden").mkdir()
    (tmp_path / "root" / "ant" / "notes.txt").write_text("no image")
    data = load(tmp_path / "root", seed=1)
    assert (data.input_shape, data.num_classes) == ((4, 6, 1), 2)
    values = values_of(data)
    assert {split: len(found) for split, found in values.items()} == {"train": 32, "validation": 4, "test": 4}
    assert {**values["train"], **values["validation"], **values["test"]} == expected
    assert all(np.bincount(list(found.values())).tolist() == [len(found) // 2] * 2 for found in values.values())
    assert values_of(load(str(tmp_path / "root"), seed=2)) == values


@pytest.mark.parametrize("validation", [None, "val"])
def test_folders_of_splits_are_kept(tmp_path, validation):
    train = write_images(tmp_path / "train")
    test = write_images(tmp_path / "test", count=3, first=100)
    if validation:
        held_out = write_images(tmp_path / validation, count=2, first=200)
    values = values_of(load(tmp_path))
    assert values["test"] == test
    assert {**values["train"], **({} if validation else values["validation"])} == train
    assert not validation or values["validation"] == held_out


def test_images_of_any_size_get_the_size_asked_for_by_a_centred_cut(tmp_path):
    write_images(tmp_path, size=(5, 5))
    wide = np.zeros([8, 24], np.uint8)
    wide[:, 8:16] = 255  # the middle third, which is square
    for name in ("ant", "bee"):
        Image.fromarray(wide).save(tmp_path / name / "wide.png")
    with pytest.raises(DataError, match="load: expected '.*' to have images all of one size.*Give image_size"):
        load(tmp_path)
    by_size, by_model = load(tmp_path, image_size=(4, 4)), load(tmp_path, input_shape=(4, 4, 3))
    assert (by_size.input_shape, by_model.input_shape) == ((4, 4, 1), (4, 4, 3))
    for data in (by_size, by_model):
        for split in (data.train, data.validation, data.test):
            for image in arrays(split)[0]:
                np.testing.assert_allclose(image, image[0, 0, 0], atol=1e-6)  # of one value, the wide ones too
    check_data(by_model.train, keras.Sequential([keras.Input([4, 4, 3]), keras.layers.Flatten(), keras.layers.Dense(2)]))


def test_colours_have_three_channels(tmp_path):
    write_images(tmp_path, mode="RGB")
    assert load(tmp_path).input_shape == (4, 6, 3)
    assert load(tmp_path, input_shape=(None, None, 1)).input_shape == (4, 6, 1)


def make_no_class(root):
    (root / "only.png").touch()


def make_empty_class(root):
    write_images(root)
    (root / "cow").mkdir()


def make_mixed(root):
    write_images(root / "train")
    (root / "spare").mkdir()


def make_unknown_class(root):
    write_images(root / "train")
    write_images(root / "test", classes=("ant", "cow"))


def make_broken(root):
    write_images(root)
    (root / "ant" / "0.png").write_text("no image")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (make_no_class, r"images for each of at least two classes, got the folders \[\]"),
        (make_empty_class, "got no image in 'cow'"),
        (make_mixed, r"the folders train, validation and test alone, got \['spare', 'train'\]"),
        (make_unknown_class, r"to be those of train, \['ant', 'bee'\], got 'cow' too"),
        (make_broken, r"expected '.*0.png' to be an image, got UnidentifiedImageError"),
    ],
)
def test_folders_laid_out_in_another_way_are_refused(tmp_path, make, message):
    make(tmp_path)
    with pytest.raises(DataError, match=f"load: .*{message}"):
        load(tmp_path)


# ------------------------------------------------------------------------------------------------------------- npz


def write(path, **entries):
    np.savez(path, **entries)
    return path


def test_npz_images_are_scaled_by_their_type_and_keep_their_splits(tmp_path):
    images = np.arange(40, dtype=np.uint8)[:, None, None] * np.ones([1, 4, 6], np.uint8)
    path = write(tmp_path / "a.npz", x_train=images[:30], y_train=np.arange(30) % 3, x_test=images[30:], y_test=np.arange(10)[:, None] % 3)
    data = load(path)
    assert (data.input_shape, data.num_classes) == ((4, 6, 1), 3)
    values = values_of(data)
    assert values["test"] == {30 + i: i % 3 for i in range(10)}
    assert {**values["train"], **values["validation"]} == {i: i % 3 for i in range(30)}
    assert arrays(load(path, scaling="none").test)[0].max() == 39


def test_npz_series_are_as_they_are_unless_standardised(tmp_path):
    x = np.random.default_rng(0).normal(3, 2, (50, 7, 2))
    path = write(tmp_path / "a.npz", x=x, y=np.eye(5, dtype=int)[np.arange(50) % 5])
    data, scaled = load(path), load(path, scaling="standardize")
    assert (data.input_shape, data.num_classes) == ((7, 2), 5)
    raw, labels = arrays(data.train)
    rows = x.astype(np.float32).tolist()
    assert all(rows.index(row.tolist()) % 5 == label for row, label in zip(raw, labels))
    mean, deviation = raw.mean((0, 1)), raw.std((0, 1))
    np.testing.assert_allclose(arrays(scaled.test)[0], (arrays(data.test)[0] - mean) / deviation, atol=1e-5)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"images": np.zeros([9, 4])}, r"to hold x and y, or x_train and y_train.*got \['images'\]"),
        ({"x": np.zeros([9, 4]), "y": np.zeros(8)}, "a label for each x of train, got 8 for 9"),
        ({"x": np.full([9, 4], np.nan), "y": np.zeros(9)}, "got NaN or infinity in example 0"),
        ({"x": np.zeros([9, 4]), "y": np.arange(9) - 1}, "whole numbers from 0 up"),
        ({"x": np.zeros([9, 4]), "y": np.zeros(9, int)}, "at least two classes in .*, got 1"),
        ({"x": np.zeros([9, 4]), "y": np.zeros([9, 4])}, "one-hot .n, classes., got {'train': 'float64 .9, 4.'}"),
        ({"x": np.zeros(9), "y": np.zeros(9)}, "to be numbers .n, height, width, channels.*got float64 .9."),
        ({"x": np.eye(9), "y": np.arange(9), "x_test": np.eye(8), "y_test": np.arange(8)}, "one shape and dtype in all splits"),
        ({"x": np.zeros([9, 4]), "y": np.arange(9) % 2}, "examples in every split of"),
        ({"x": np.array([None]), "y": np.arange(9)}, "an .npz file of arrays, got ValueError"),
    ],
)  # fmt: skip
def test_npz_files_that_do_not_fit_are_refused(tmp_path, entries, message):
    if "every split" in message:
        entries = {key: value[:3] for key, value in entries.items()}
    with pytest.raises(DataError, match=f"load: .*{message}"):
        load(write(tmp_path / "a.npz", **entries))


# ---------------------------------------------------------------------------------------------------------- tables


def rows_of(count, label="{}", length=3):
    return [",".join([label.format(i % 2), *(f"{i + t}.5" for t in range(length))]) for i in range(count)]


@pytest.mark.parametrize("form", ["plain", "numbered head", "named column", "tabs", "text"])
def test_tables_of_series_in_every_form(tmp_path, form):
    rows = rows_of(40, label="c{}" if form == "text" else "{}")
    if form == "numbered head":
        rows.insert(0, "label,0,1,2")
    if form == "named column":
        rows = ["t0,class,t1,t2"] + [",".join([a, label, *rest]) for label, a, *rest in (row.split(",") for row in rows)]
    path = tmp_path / ("a.tsv" if form == "tabs" else "a.csv")
    path.write_text("\n".join(row.replace(",", "\t") if form == "tabs" else row for row in rows) + "\n")
    data = load(str(path))
    assert (data.input_shape, data.num_classes, data.num_examples) == ((3, 1), 2, {"train": 32, "validation": 4, "test": 4})
    parts = [arrays(getattr(data, split)) for split in data.num_examples]
    x, y = (np.concatenate(part) for part in zip(*parts))
    order = np.argsort(x[:, 0, 0])
    np.testing.assert_array_equal(x[order][..., 0], np.arange(40)[:, None] + np.arange(3) + 0.5)
    np.testing.assert_array_equal(y[order], np.arange(40) % 2)
    assert load(path, input_shape=(3,)).input_shape == (3,)


def test_a_class_may_be_called_as_the_column_of_labels_often_is(tmp_path):
    (tmp_path / "a.csv").write_text("\n".join(f"{'yn'[i % 2]},{i},{i}.5" for i in range(40)))
    assert sum(load(tmp_path / "a.csv").num_examples.values()) == 40


def test_a_column_can_name_the_splits(tmp_path):
    rows = [f"{row},{'test' if i < 5 else 'train'}" for i, row in enumerate(rows_of(30))]
    (tmp_path / "a.csv").write_text("\n".join(["label,a,b,c,split", *rows]))
    data = load(tmp_path / "a.csv")
    assert sorted(arrays(data.test)[0][:, 0, 0]) == [0.5, 1.5, 2.5, 3.5, 4.5]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "got an empty file"),
        ("0,1,2\n1,2\n", "3 columns in every row of .*, got 2 in line 2"),
        ("0,1,2\n1,2,\n", "expected numbers in .*, got '' in line 2"),
        ("0,1,\n1,2,3\n", "expected numbers in .*, got '' in line 1"),
        ("label,a,split\n0,1,dev\n", "train, validation or test as split in .*, got 'dev' in line 2"),
        ("label,a,split\n0,1,test\n", "expected series for training in .*, got none"),
        ("0,nan\n1,2\n", "got NaN or infinity in example 0"),
    ],
)
def test_tables_that_do_not_fit_are_refused(tmp_path, text, message):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(DataError, match=f"load: .*{message}"):
        load(tmp_path / "a.csv")


# ------------------------------------------------------------------------------------------------- names and paths


@pytest.mark.parametrize("name", ["./nowhere", "missing.npz", "~/nowhere", "/nowhere/a.csv"])
def test_what_looks_like_a_path_is_one(name):
    with pytest.raises(DataError, match="load: expected a file or folder of data at '.*', found none. Check the path"):
        load(name)


def test_a_file_of_another_kind_is_refused(tmp_path):
    (tmp_path / "a.txt").write_text("0,1,2")
    with pytest.raises(DataError, match="load: expected a folder of images, an .npz file or a .csv or .tsv table, got '.*a.txt'"):
        load(tmp_path / "a.txt")


def test_a_published_name_wins_over_a_folder_beside(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_images(tmp_path / "digits")
    write_images(tmp_path / "insects")
    assert load("digits", data_dir=tmp_path / "data").num_classes == 10
    assert load("./digits").num_classes == load("insects").num_classes == 2


@pytest.mark.parametrize(("arguments", "message"), [
    ({"image_size": 32}, r"image_size to be \(height, width\) in pixels, got 32"),
    ({"image_size": (0, 4)}, r"got \(0, 4\)"),
    ({"scaling": "log"}, "scaling to be one of default, none, standardize, got 'log'"),
])  # fmt: skip
def test_arguments_are_checked(tmp_path, arguments, message):
    with pytest.raises(ArgumentError, match=f"load: expected .*{message}"):
        load(write(tmp_path / "a.npz", x=np.zeros([40, 4, 4, 1]), y=np.arange(40) % 2), **arguments)


def test_splits_that_are_missing_are_cut_from_every_class():
    labels = np.repeat([0, 1], [90, 10])
    cut = cut_splits({"train": labels})
    assert {split: np.bincount(labels[indices]).tolist() for split, (_, indices) in cut.items()} == {
        "train": [72, 8], "validation": [9, 1], "test": [9, 1]
    }  # fmt: skip
    assert cut_splits({"train": labels, "validation": labels[:7]})["test"][0] == "validation"


@pytest.mark.parametrize("given", [["train"], ["train", "test"], ["train", "validation", "test"]])
def test_the_first_examples_of_a_split_are_of_all_classes(given):
    labels = np.repeat(np.arange(4), 60)
    cut = cut_splits(dict.fromkeys(given, labels))
    assert all(len({*labels[indices[:24]]}) == 4 for _, indices in cut.values())
    again = cut_splits(dict.fromkeys(given, labels))
    assert all(np.array_equal(indices, again[name][1]) for name, (_, indices) in cut.items())
    if given == ["train"]:
        assert sorted(np.concatenate([indices for _, indices in cut.values()])) == list(range(240))
