"""Tests of tfmetaprune.data: the digits, loading by name, augmentation, and the checks of what a caller passes."""

import os
import socket
import subprocess
import sys

import numpy as np
import pytest

from tfmetaprune._keras import keras, tf
from tfmetaprune.data import DataSplits, as_dataset, augment, check_data, load
from tfmetaprune.data.conversion import shuffled_dataset
from tfmetaprune.errors import ArgumentError, DataError, UnsupportedModelError

tfds = pytest.importorskip("tensorflow_datasets")

TINY_SPLITS = {
    "all": {"train": 20, "validation": 6, "test": 8},
    "no_validation": {"train": 20, "test": 8},
    "no_test": {"train": 20, "validation": 6},
    "train_only": {"train": 20},
    "test_only": {"test": 8},
    "unlabelled_test": {"train": 20, "validation": 6, "test": -8},
    "too_few": {"train": 2},
    "any_size": {"train": 20},
    "no_label": {"train": 20},
    "sixteen_bits": {"train": 20, "validation": 6, "test": 8},
}


class TfmetapruneTiny(tfds.core.GeneratorBasedBuilder):
    """A local data set whose configurations have the layouts of splits found among the published ones."""

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=name) for name in TINY_SPLITS]

    def _info(self):
        name = self.builder_config.name
        dtype = np.uint16 if name == "sixteen_bits" else np.uint8
        shape = (None, None, 1) if name == "any_size" else (4, 3, 1)
        features = {"image": tfds.features.Image(shape=shape, dtype=dtype, encoding_format="png")}
        features["number" if name == "no_label" else "label"] = tfds.features.ClassLabel(num_classes=5)
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        splits = TINY_SPLITS[self.builder_config.name]
        return {split: self._generate_examples(split, num_examples) for split, num_examples in splits.items()}

    def _generate_examples(self, split, num_examples):
        first = 100 * ["train", "validation", "test"].index(split)  # the first pixel tells the examples apart
        is_wide = self.builder_config.name == "sixteen_bits"
        for index in range(abs(num_examples)):
            image = np.full([4, 3, 1], first + index, np.uint8)
            label = -1 if num_examples < 0 else index % 5
            yield index, {"image": image.astype(np.uint16) * 257 if is_wide else image, "label": label}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Whatever asks for a host or a storage bucket fails at once, and is seen."""

    def refuse(*args, **kwargs):
        raise AssertionError(f"the network was asked for: {args}")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(tfds.core.utils.gcs_utils, "exists", refuse)
    monkeypatch.setattr(tfds.core.community, "community_register", refuse)  # its index lies in a storage bucket


@pytest.fixture(scope="module")
def digits(data_dir):
    return load("digits", data_dir=data_dir)


def all_of(dataset):
    """The arrays of a batched dataset, its batches joined."""
    return [np.concatenate(parts) for parts in zip(*dataset.as_numpy_iterator(), strict=True)]


def first_pixels(dataset, maximum=255):
    """The examples of the tiny data set, told apart by their first pixel."""
    return sorted(np.rint(all_of(dataset)[0][:, 0, 0, 0] * maximum).astype(int).tolist())


def classifier(input_shape=(8, 8, 1), num_classes=10, **kwargs):
    layers = [keras.Input(input_shape, **kwargs), keras.layers.Flatten(), keras.layers.Dense(num_classes)]
    return keras.Sequential(layers)


def images_and_labels(num_examples=6, num_classes=10):
    return np.zeros([num_examples, 8, 8, 1], np.float32), np.arange(num_examples) % num_classes


# ---------------------------------------------------------------------------------------------------------- digits


def test_digits_are_those_of_scikit_learn_in_disjoint_splits(digits):
    from sklearn.datasets import load_digits

    source = load_digits()
    expected = {(image.tobytes(), label) for image, label in zip(source.images, source.target, strict=True)}
    assert len(expected) == 1797  # no image occurs twice, so that images identify examples
    splits = []
    for dataset in (digits.train, digits.validation, digits.test):
        images, labels = all_of(dataset)
        images = (images[..., 0] * 16).astype(np.float64)
        splits.append({(image.tobytes(), label) for image, label in zip(images, labels, strict=True)})
    assert [len(split) for split in splits] == [599, 300, 898]
    assert set.union(*splits) == expected


def test_digits_splits_are_stratified_by_class(digits):
    counts = {split: np.bincount(all_of(getattr(digits, split))[1], minlength=10) for split in digits.num_examples}
    total = sum(counts.values())
    for split, num_examples in digits.num_examples.items():
        assert counts[split].sum() == num_examples
        assert np.abs(counts[split] - total * num_examples / 1797).max() < 2


def test_digits_have_the_documented_form(digits):
    assert isinstance(digits, DataSplits)
    assert (digits.name, digits.num_classes, digits.input_shape) == ("digits", 10, (8, 8, 1))
    assert digits.num_examples == {"train": 599, "validation": 300, "test": 898}
    for dataset in (digits.train, digits.validation, digits.test):
        image_spec, label_spec = dataset.element_spec
        assert (image_spec.shape.as_list(), image_spec.dtype) == ([None, 8, 8, 1], tf.float32)
        assert (label_spec.shape.as_list(), label_spec.dtype) == ([None], tf.int64)
        images, labels = all_of(dataset)
        assert (images.min(), images.max()) == (0, 1)
        assert set(labels) == set(range(10))
    assert [len(labels) for _, labels in digits.validation] == [128, 128, 44]


def test_digits_are_stored_unscaled_with_their_source(data_dir, digits):
    builder = tfds.builder("digits", data_dir=data_dir)
    image = next(iter(builder.as_dataset(split="train")))["image"]
    assert (image.dtype, image.shape) == (tf.uint8, (8, 8, 1))
    assert 0 < int(tf.reduce_max(image)) <= 16
    assert "10.24432/C50P49" in builder.info.citation and "CC BY 4.0" in builder.info.redistribution_info.license


def test_digits_read_from_files_alone_are_scaled_by_their_own_maximum(data_dir, digits):
    by_version = load("digits:1.0.0", data_dir=data_dir)  # tfds reads these without the code of the builder
    for expected, actual in zip(all_of(digits.test), all_of(by_version.test), strict=True):
        np.testing.assert_array_equal(actual, expected)


def test_a_network_learns_the_digits(digits):
    keras.utils.set_random_seed(0)
    model = classifier()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.02), loss, metrics=["accuracy"])
    model.fit(digits.train, epochs=15, verbose=0)
    assert model.evaluate(digits.test, verbose=0)[1] > 0.9


# ------------------------------------------------------------------------------------------------------------ load


def test_train_order_is_a_function_of_the_seed(data_dir, digits):
    def two_epochs(seed):
        train = load("digits", data_dir=data_dir, seed=seed).train
        return [all_of(train)[1].tolist() for _ in range(2)]

    first, second = two_epochs(0), two_epochs(0)
    assert first == second
    assert first[0] != first[1]  # reshuffled, with the same examples
    assert sorted(first[0]) == sorted(first[1])
    assert first[0] != two_epochs(1)[0]


@pytest.mark.parametrize(
    ("config", "validation", "test"),
    [
        ("all", range(100, 106), range(200, 208)),
        ("no_validation", 2, range(200, 208)),
        ("no_test", 2, range(100, 106)),
        ("unlabelled_test", 2, range(100, 106)),
        ("train_only", 2, 2),
    ],
)
def test_missing_splits_are_cut_from_train(data_dir, config, validation, test):
    data = load(f"tfmetaprune_tiny/{config}", data_dir=data_dir)
    held_out = []
    for split, expected in (("validation", validation), ("test", test)):
        pixels = first_pixels(getattr(data, split))
        assert data.num_examples[split] == len(pixels)
        if isinstance(expected, int):
            assert len(pixels) == expected
            held_out += pixels
        else:
            assert pixels == list(expected)
    train = first_pixels(data.train)
    assert data.num_examples["train"] == len(train)
    assert sorted(train + held_out) == list(range(20))


def test_images_of_sixteen_bits_are_scaled_by_their_own_range(data_dir):
    data = load("tfmetaprune_tiny/sixteen_bits", data_dir=data_dir)
    assert first_pixels(data.test) == list(range(200, 208))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("test_only", r"to have a train split, got \['test'\]"),
        ("too_few", r"got {'train': 2, 'validation': 0, 'test': 0}"),
        ("any_size", "'image' .Image of integers, all of one size"),
        ("no_label", "a feature 'label' .ClassLabel"),
        ("unknown_config", "check the configuration"),
    ],
)
def test_sets_that_cannot_be_used_are_refused(data_dir, config, message):
    with pytest.raises(DataError, match=rf"load: expected .*'tfmetaprune_tiny/{config}'(?s:.*){message}"):
        load(f"tfmetaprune_tiny/{config}", data_dir=data_dir)


@pytest.mark.parametrize("name", ["digit", "Cifar10s", "huggingface:mnist", "kaggle:digits", "", None])
def test_unknown_names_are_refused_without_the_network(name, tmp_path):
    with pytest.raises(ArgumentError, match="load: expected the name of a registered data set, got .*Did you mean '"):
        load(name, data_dir=tmp_path)
    assert not list(tmp_path.iterdir())


def test_unknown_names_get_near_matches(tmp_path):
    with pytest.raises(ArgumentError, match="'digit'. Did you mean .*'digits'"):
        load("digit", data_dir=tmp_path)
    with pytest.raises(ArgumentError, match="'CIFAR-10'. Did you mean .*'cifar10'"):
        load("CIFAR-10", data_dir=tmp_path)


def test_unwritable_data_dir_is_a_data_error(tmp_path):
    (tmp_path / "file").write_text("in the way")
    for unwritable in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(DataError, match="got (FileExistsError|NotADirectoryError).*data_dir that can be written"):
            load("digits", data_dir=unwritable)


def test_default_data_dir_is_that_of_the_environment(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "chosen"))
    load("digits")
    assert (tmp_path / "chosen" / "digits" / "1.0.0" / "dataset_info.json").exists()
    assert capsys.readouterr().out == ""  # what tensorflow_datasets reports goes to stderr


def test_data_dir_may_begin_with_the_home_directory(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    load("digits", data_dir="~/chosen")
    assert [path.name for path in tmp_path.iterdir()] == ["chosen"]
    assert (tmp_path / "chosen" / "digits" / "1.0.0").exists()


def test_two_processes_may_prepare_at_once(tmp_path):
    # tensorflow_datasets names its temporary directory by `random`: the same seed gives both processes the same name.
    code = (
        "import pathlib, random, sys, time\n"
        "from tfmetaprune.data import load\n"
        "import tensorflow_datasets, sklearn.datasets, tfmetaprune.data.digits\n"
        "root, me, other = pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3]\n"
        "(root / me).touch()\n"
        "while not (root / other).exists(): time.sleep(0.001)\n"
        "random.seed(0)\n"
        "print(load('digits', data_dir=root / 'data').num_examples)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path), *names],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for names in (("a", "b"), ("b", "a"))
    ]
    for process in processes:
        out, err = process.communicate(timeout=120)
        assert (process.returncode, out) == (0, "{'train': 599, 'validation': 300, 'test': 898}\n"), err
        assert "Traceback" not in err
    assert [path.name for path in (tmp_path / "data" / "digits").iterdir()] == ["1.0.0"]  # nothing is left behind


def test_importing_needs_neither_tensorflow_datasets_nor_the_builder():
    code = (
        "import sys, tfmetaprune.data\n"
        "print([m for m in ('tensorflow_datasets', 'sklearn.datasets', 'tfmetaprune.data.digits') if m in sys.modules])"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"


@pytest.mark.parametrize(("name", "shape"), [("cifar10", (32, 32, 3)), ("mnist", (28, 28, 1))])
def test_published_sets_load_when_mocked(tmp_path, name, shape):
    info = tfds.builder(name, data_dir=tmp_path).info
    splits = [tfds.core.SplitInfo(name=split, shard_lengths=[10], num_bytes=1) for split in ("train", "test")]
    info.set_splits(tfds.core.splits.SplitDict(splits))
    directory = tmp_path / name / str(info.version)
    directory.mkdir(parents=True)
    info.write_to_directory(directory)
    with tfds.testing.mock_data(num_examples=10, data_dir=tmp_path):
        data = load(name, batch_size=4)
    assert (data.num_classes, data.input_shape) == (10, shape)
    images, labels = all_of(data.train)
    assert (images.shape, images.dtype, labels.shape, labels.dtype) == ((10, *shape), np.float32, (10,), np.int64)
    assert 0.9 < images.max() <= 1 and images.min() >= 0
    assert [len(labels) for _, labels in data.train] == [4, 4, 2]


@pytest.mark.parametrize("batch_size", [0, -1, 2.0, True, None])
def test_batch_size_is_checked(batch_size, tmp_path):
    with pytest.raises(ArgumentError, match=f"load: expected batch_size to be an integer >= 1, got {batch_size}"):
        load("digits", data_dir=tmp_path, batch_size=batch_size)
    with pytest.raises(ArgumentError, match="as_dataset: expected batch_size"):
        as_dataset(np.zeros([3, 2]), batch_size=batch_size)


# --------------------------------------------------------------------------------------------------------- augment


def shifted(image, down, right):
    """One image moved by whole pixels with zeros coming in, by plain indexing."""
    result = np.zeros_like(image)
    for row, column in np.ndindex(*image.shape[:2]):
        if 0 <= row - down < image.shape[0] and 0 <= column - right < image.shape[1]:
            result[row, column] = image[row - down, column - right]
    return result


def test_augment_shifts_each_image_by_whole_pixels():
    images = np.random.default_rng(0).random([64, 5, 7, 2]).astype(np.float32)
    augmented, labels, weights = next(
        iter(augment(as_dataset((images, np.arange(64), np.ones(64))), max_shift=2, noise=0))
    )
    steps = []
    for original, moved in zip(images, augmented.numpy(), strict=True):
        candidates = [(d, r) for d in range(-2, 3) for r in range(-2, 3) if (shifted(original, d, r) == moved).all()]
        assert len(candidates) == 1
        steps += candidates
    assert {down for down, _ in steps} == {right for _, right in steps} == {-2, -1, 0, 1, 2}
    assert len(set(steps)) > 15  # the two directions are drawn apart, for each image
    np.testing.assert_array_equal(labels, np.arange(64))
    np.testing.assert_array_equal(weights, np.ones(64))


def test_augment_adds_noise_of_the_given_size():
    images = np.full([200, 8, 8, 1], 0.5, np.float32)
    augmented, _ = next(iter(augment(as_dataset((images, np.zeros(200)), batch_size=200), max_shift=0, noise=0.1)))
    difference = augmented.numpy() - 0.5
    assert abs(difference.mean()) < 0.005 and abs(difference.std() - 0.1) < 0.005
    assert np.ptp(difference, axis=0).min() > 0.1  # every image has its own


def test_augment_with_nothing_to_do_changes_nothing(digits):
    for expected, actual in zip(digits.test, augment(digits.test, max_shift=0, noise=0.0), strict=True):
        np.testing.assert_array_equal(actual[0], expected[0])


def test_augment_is_a_function_of_the_seed_and_new_in_each_epoch(digits):
    def two_epochs(seed):
        dataset = augment(digits.validation, seed=seed)
        return [all_of(dataset)[0] for _ in range(2)]

    first, again, other = two_epochs(3), two_epochs(3), two_epochs(4)
    np.testing.assert_array_equal(first, again)
    assert (first[0] != first[1]).mean() > 0.9 and (first[0] != other[0]).mean() > 0.9


def test_augment_keeps_structure_and_length(digits):
    augmented = augment(digits.train)
    assert augmented.element_spec == digits.train.element_spec
    assert len(augmented) == len(digits.train)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_shift": -1}, "max_shift to be an integer >= 0, got -1"),
        ({"max_shift": 0.5}, "max_shift to be an integer >= 0, got 0.5"),
        ({"noise": -0.1}, "noise to be a number >= 0, got -0.1"),
        ({"noise": float("nan")}, "noise to be a number >= 0, got nan"),
    ],
)
def test_augment_checks_its_arguments(arguments, message):
    with pytest.raises(ArgumentError, match=f"augment: expected {message}"):
        augment(as_dataset(images_and_labels()), **arguments)


@pytest.mark.parametrize("x", [np.zeros([4, 8, 8, 1], np.uint8), np.zeros([4, 8]), [np.zeros([4, 8, 8, 1])] * 2])
def test_augment_refuses_what_is_no_image(x):
    with pytest.raises(DataError, match="augment: expected tuples that begin with float images"):
        augment(as_dataset((x, np.zeros(4))))


# ------------------------------------------------------------------------------------------------------ as_dataset


def test_as_dataset_batches_arrays_in_order():
    x, y = np.arange(20.0).reshape(10, 2), np.arange(10)
    batches = list(as_dataset((x, y), batch_size=4))
    assert [len(labels) for _, labels in batches] == [4, 4, 2]
    np.testing.assert_array_equal(np.concatenate([batch[0] for batch in batches]), x)
    np.testing.assert_array_equal(np.concatenate([batch[1] for batch in batches]), y)
    assert batches[0][0].dtype == tf.float32 and batches[0][1].dtype == tf.int64


X = np.arange(6.0).reshape(3, 2)
NAMED, PLAIN, LABELS = {"a": X, "b": X + 1}, [X, X + 1], [0, 1, 2]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (X, (X,)),
        ((X,), (X,)),
        ((X, None), (X,)),
        ((X, LABELS), (X, LABELS)),
        ((X, LABELS, np.ones(3)), (X, LABELS, np.ones(3))),
        ((tf.constant(X), tf.constant(LABELS)), (X, LABELS)),
        (NAMED, (NAMED,)),
        ((NAMED, LABELS), (NAMED, LABELS)),
        (PLAIN, ((X, X + 1),)),
        ((PLAIN, LABELS), ((X, X + 1), LABELS)),
        ((tuple(PLAIN), [np.array(LABELS), X]), ((X, X + 1), (LABELS, X))),
        (X.tolist(), (X,)),
        (tf.data.Dataset.from_tensor_slices(X).batch(3), (X,)),
        (tf.data.Dataset.from_tensor_slices(NAMED).batch(3), (NAMED,)),
        (tf.data.Dataset.from_tensor_slices((X, LABELS)).batch(3), (X, LABELS)),
    ],
)
def test_as_dataset_takes_every_documented_form(data, expected):
    (batch,) = as_dataset(data)
    assert isinstance(batch, tuple)
    flat_batch, flat_expected = tf.nest.flatten(batch), flatten(expected)
    assert len(flat_batch) == len(flat_expected)
    for actual, wanted in zip(flat_batch, flat_expected, strict=True):
        np.testing.assert_array_equal(actual, wanted)
    for actual, wanted in zip(batch, expected, strict=True):
        assert type(wanted) not in (dict, tuple) or isinstance(actual, type(wanted))


def flatten(value):
    """The arrays inside tuples and dicts; a list of labels is an array."""
    if isinstance(value, dict):
        return [leaf for key in sorted(value) for leaf in flatten(value[key])]
    return [leaf for entry in value for leaf in flatten(entry)] if isinstance(value, tuple) else [np.asarray(value)]


def test_arrays_are_shuffled_anew_in_each_iteration_and_datasets_are_not():
    numbers = np.arange(300)
    shuffled = shuffled_dataset(((numbers, numbers + 1.0), numbers * 2), seed=3)
    assert int(shuffled.cardinality()) == 3
    first, second = ([tuple(map(int, row)) for (a, b), y in shuffled for row in zip(a, b, y)] for _ in range(2))
    rows = [(i, i + 1, 2 * i) for i in range(300)]
    assert sorted(first) == sorted(second) == rows and len({tuple(first), tuple(second), tuple(rows)}) == 3
    batched = tf.data.Dataset.range(10).batch(4)
    assert [batch[0].numpy().tolist() for batch in shuffled_dataset(batched, seed=3)] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_arrays_without_examples_are_told(digits):
    with pytest.raises(DataError, match="expected examples, got an empty dataset"):
        check_data(shuffled_dataset((IMAGES[:0], CLASSES[:0]), seed=0), classifier())


def test_as_dataset_passes_a_batched_dataset_on_as_it_is(digits):
    assert as_dataset(digits.train) is digits.train


def test_as_dataset_gives_floats_the_type_of_keras():
    assert as_dataset((X, X)).element_spec[0].dtype == tf.float32
    assert as_dataset(X.astype(np.uint8)).element_spec[0].dtype == tf.uint8
    keras.backend.set_floatx("float64")
    try:
        assert as_dataset(X.astype(np.float32)).element_spec[0].dtype == tf.float64
    finally:
        keras.backend.set_floatx("float32")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ((X, [0, 1]), r"arrays of one length, got lengths \[3, 2\]"),
        ((X, X, X, X), "got 4 entries"),
        ((), "got 0 entries"),
        (None, "got NoneType"),
        ("digits", "got str"),
        (iter([X]), "got .*iterator"),
        (np.array([X, "a", None], dtype=object), "got ndarray"),
        (np.array(1.0), "it is a single number"),
        (tf.data.Dataset.from_tensor_slices((X, LABELS)), "expected a batched dataset, got single examples"),
    ],
)
def test_as_dataset_refuses_other_things(data, message):
    with pytest.raises(DataError, match=f"as_dataset: .*{message}"):
        as_dataset(data)


# ------------------------------------------------------------------------------------------------------ check_data


def two_by_two():
    """A model with the inputs a (None, 2) and b (None, 3) and two outputs."""
    a, b = keras.Input([2], name="a"), keras.Input([3], name="b")
    joined = keras.layers.Concatenate()([a, b])
    return keras.Model([a, b], [keras.layers.Dense(4, name="p")(joined), keras.layers.Dense(1, name="q")(joined)])


def with_named_inputs():
    inputs = {"z": keras.Input([2], name="first"), "y": keras.Input([3], name="second")}
    return keras.Model(inputs, keras.layers.Dense(4)(keras.layers.Concatenate()([inputs["z"], inputs["y"]])))


def segmenter():
    """A model for images of any height, with one class for each pixel."""
    return keras.Sequential([keras.Input([None, 8, 1]), keras.layers.Conv2D(3, 3, padding="same")])


A, B, Y = np.zeros([3, 2]), np.zeros([3, 3]), np.zeros([3])


@pytest.mark.parametrize(
    ("make_model", "data"),
    [
        (classifier, images_and_labels()),
        (classifier, (images_and_labels()[0], images_and_labels()[1][:, None])),
        (classifier, (images_and_labels()[0], np.eye(6, 10))),
        (classifier, (images_and_labels()[0].astype(np.uint8), images_and_labels()[1])),
        (segmenter, (np.zeros([2, 5, 8, 1]), np.zeros([2, 5, 8], int))),
        (lambda: classifier(num_classes=1), (images_and_labels()[0], np.array([7, 8, 9, 10, 11, 12]))),
        (lambda: classifier([3], dtype=tf.int32), (np.zeros([4, 3], int), np.arange(4))),
        (two_by_two, ([A, B], [Y, Y])),
        (two_by_two, ({"b": B, "a": A, "unused": Y}, {"p": Y, "q": Y})),
        (with_named_inputs, ({"z": A, "y": B}, Y)),
    ],
)
@pytest.mark.filterwarnings("ignore:Input dict contained keys")  # tf_keras, about the entry no input is named after
def test_check_data_accepts_what_fits(make_model, data):
    check_data(data, make_model())
    check_data(data[:1], make_model(), needs_labels=False)
    make_model()(as_dataset(data).get_single_element()[0])  # the model agrees


IMAGES, CLASSES = images_and_labels()


@pytest.mark.parametrize(
    ("make_model", "data", "message"),
    [
        (classifier, (IMAGES[..., 0], CLASSES), r"'input_\d+' of shape \(None, 8, 8, 1\), got \(6, 8, 8\)"),
        (classifier, (IMAGES[:, :7], CLASSES), r"of shape \(None, 8, 8, 1\), got \(6, 7, 8, 1\)"),
        (classifier, (IMAGES.astype(str), CLASSES), "of dtype float32, got string"),
        (classifier, (IMAGES.astype(complex), CLASSES), "of dtype float32, got complex128"),
        (lambda: classifier([3], dtype=tf.int32), (np.zeros([4, 3]), np.arange(4)), "of dtype int32, got float32"),
        (lambda: classifier(batch_size=5), (IMAGES, CLASSES), r"of shape \(5, 8, 8, 1\), got \(6, 8, 8, 1\)"),
        (classifier, ([IMAGES, IMAGES], CLASSES), r"expected 1 inputs \['.*'\], got 2"),
        (two_by_two, ([A], [Y, Y]), r"expected 2 inputs \['a', 'b'\], got 1"),
        (two_by_two, ([B, A], [Y, Y]), r"input 'a' of shape \(None, 2\), got \(3, 3\)"),
        (two_by_two, ({"a": A, "c": B}, [Y, Y]), r"the inputs \['a', 'b'\], got \['a', 'c'\]"),
        (two_by_two, ([A, B], Y), r"labels for \['p', 'q'\], got 1"),
        (with_named_inputs, ({"z": A, "y": A}, Y), r"input 'y' of shape \(None, 3\), got \(3, 2\)"),
        (classifier, IMAGES, "expected labels, got inputs alone"),
        (classifier, (IMAGES, [CLASSES, CLASSES]), "got 2. Give y one for each output"),
        (classifier, (IMAGES, np.eye(6, 9)), r"\(None, 10\), as the output has, got \(6, 9\)"),
        (lambda: classifier(num_classes=1), (IMAGES, np.eye(6)), r"\(None, 1\), as the output has, got \(6, 6\)"),
        (classifier, (IMAGES, CLASSES + 5), r"labels in 0..9 \(the model has 10 outputs\), got 10 in batch 0"),
        (classifier, (IMAGES, CLASSES[:, None] - 1), "labels in 0..9 .*, got -1 in batch 0"),
        (classifier, (np.where(np.arange(6) == 5, np.nan, IMAGES.T).T, CLASSES), "expected numbers, got NaN"),
        (lambda: classifier(num_classes=1), (IMAGES, np.where(CLASSES == 5, np.nan, 0)), "expected numbers, got NaN"),
        (classifier, (IMAGES[:0], CLASSES[:0]), "expected examples, got an empty dataset"),
        (classifier, as_dataset((IMAGES, CLASSES)).take(0), "expected examples, got an empty dataset"),
        (
            classifier,
            tf.data.Dataset.from_tensors((IMAGES, CLASSES[:4])),
            r"as many labels as inputs, got lengths \[6, 4\]",
        ),
    ],
)
def test_check_data_refuses_what_does_not_fit(make_model, data, message):
    with pytest.raises(DataError, match=f"check_data: .*{message}"):
        check_data(data, make_model())


def test_check_data_looks_for_wrong_labels_in_fifty_batches():
    model = classifier([2], 10)

    def last_label_is_wrong(num_batches):
        labels = np.zeros(3 * num_batches, int)
        labels[-1] = 10
        return as_dataset((np.zeros([len(labels), 2]), labels), batch_size=3)

    with pytest.raises(DataError, match="got 10 in batch 49"):
        check_data(last_label_is_wrong(50), model)
    check_data(last_label_is_wrong(51), model)


def test_check_data_ignores_labels_that_are_not_needed():
    model = classifier()
    check_data((IMAGES, np.full([6], np.nan)), model, needs_labels=False)
    check_data((IMAGES, CLASSES + 5), model, needs_labels=False)
    check_data(IMAGES, model, needs_labels=False)
    with pytest.raises(DataError, match="NaN"):
        check_data(IMAGES * np.nan, model, needs_labels=False)


def test_check_data_wants_a_model_with_inputs():
    with pytest.raises(UnsupportedModelError, match="check_data: expected known inputs, got .*Sequential"):
        check_data((IMAGES, CLASSES), keras.Sequential([keras.layers.Dense(10)]))


def test_the_digits_fit_a_classifier_of_ten_and_not_of_nine(digits):
    check_data(digits.train, classifier())
    with pytest.raises(DataError, match="labels in 0..8 .*, got 9"):
        check_data(digits.train, classifier(num_classes=9))


def test_a_loss_that_is_no_crossentropy_alone_knows_its_labels():
    model, x = classifier(), images_and_labels()[0]
    ids, shorter = np.arange(len(x)) + 200, np.zeros((len(x), 2))
    for labels in (ids, shorter):
        with pytest.raises(DataError, match="expected labels"):
            check_data((x, labels), model)
        model.compile("sgd", lambda y, z: tf.reduce_mean(z, -1))
        check_data((x, labels), model)
        model.compile("sgd", "sparse_categorical_crossentropy")
        check_data((x, labels), model, loss="mse")
    with pytest.raises(DataError, match="as many labels as inputs"):
        check_data(tf.data.Dataset.from_tensors((x, ids[:-1])), model)
    several = two_by_two()
    several.compile("sgd", {"p": "mse"})
    check_data(((A, B), {"p": np.zeros([3, 4])}), several)
