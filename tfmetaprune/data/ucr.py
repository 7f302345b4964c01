"""Series of the UCR and UEA archives as a data set of tensorflow_datasets, out of the package aeon, with no download.

Importing this module registers the builder, after which `tfds.load("ucr/GunPoint")` finds it. Its configurations are the
classification sets with series of one length whose files the installed aeon brings along.
"""

import numpy as np
import tensorflow_datasets as tfds

from tfmetaprune.data.packages import package_folder

_SPLIT_SEED = 0

_DESCRIPTION = """
A set of the UCR and UEA archives of time series classification, in the copy that the Python package aeon installs. The series
are stored as they are. Train and test are those of the archive, but for a fifth of every class of train, which is the
validation split, always the same.
"""

_CITATION = """
@article{dau2019ucr,
  author = {Dau, Hoang Anh and Bagnall, Anthony and Kamgar, Kaveh and Yeh, Chin-Chia Michael and Zhu, Yan and
            Gharghabi, Shaghayegh and Ratanamahatana, Chotirat Ann and Keogh, Eamonn},
  title = {The UCR time series archive},
  journal = {IEEE/CAA Journal of Automatica Sinica},
  year = {2019},
}
"""


def _files():
    """Returns a dict from the name of each set that can be used to the path of its training file."""
    package = package_folder("aeon")
    paths = sorted((package / "datasets" / "data").glob("*/*_TRAIN.ts")) if package else ()
    usable = {}
    for path in paths:
        header = read_header(path)
        is_plain = header.get("classlabel", [""])[0] == "true" and header.get("timestamps", ["false"])[0].lower() == "false"
        if is_plain and header.get("equallength", ["true"])[0] == "true" and path.parent.name != "UnitTest":
            usable[path.name.removesuffix("_TRAIN.ts")] = path
    return usable


def read_header(path) -> dict[str, list[str]]:
    """Reads the lines of a .ts file that begin with @, up to @data: key in small letters -> words behind it."""
    header = {}
    with open(path, encoding="utf-8", errors="replace") as file:
        for line in file:
            if line.startswith("@"):
                key, *words = line[1:].split()
                header[key.lower()] = words
                if key.lower() == "data":
                    break
    return header


def read_series(path) -> tuple[np.ndarray, np.ndarray]:
    """Reads a .ts file of series of one length, none of whose numbers is missing.

    Args:
      path: of the file; a line is a series, its channels are parted by ":", the label is the last part.

    Returns:
      float64 [num_examples, length, channels], and the labels as text [num_examples].
    """
    with open(path, encoding="utf-8", errors="replace") as file:
        lines = [line.strip() for line in file]
    start = next(number for number, line in enumerate(lines) if line.lower() == "@data") + 1
    rows = [line.split(":") for line in lines[start:] if line]
    series = [[np.array(channel.split(","), float) for channel in row[:-1]] for row in rows]
    return np.moveaxis(np.array(series), 1, 2), np.array([row[-1].strip() for row in rows])


class Ucr(tfds.core.GeneratorBasedBuilder):
    """Builds "ucr/NAME": series (length, channels) of float32, and labels numbered in the order of the file's header."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First release."}
    BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=name) for name in _files()]

    def _info(self):
        path = _files()[self.builder_config.name]
        series, _ = read_series(path)
        features = {
            "series": tfds.features.Tensor(shape=series.shape[1:], dtype=np.float32),
            "label": tfds.features.ClassLabel(names=read_header(path)["classlabel"][1:]),
        }
        return tfds.core.DatasetInfo(
            builder=self,
            description=_DESCRIPTION,
            features=tfds.features.FeaturesDict(features),
            supervised_keys=("series", "label"),
            homepage="https://www.timeseriesclassification.com",
            citation=_CITATION,
        )

    def _split_generators(self, dl_manager):
        path = _files()[self.builder_config.name]
        series, labels = read_series(path)
        order = np.lexsort((np.random.RandomState(_SPLIT_SEED).random_sample(len(labels)), labels))
        is_validation = np.arange(len(order)) % 5 == 2
        test_series, test_labels = read_series(path.with_name(path.name.replace("_TRAIN.ts", "_TEST.ts")))
        return {
            "train": self._generate_examples(series, labels, order[~is_validation]),
            "validation": self._generate_examples(series, labels, order[is_validation]),
            "test": self._generate_examples(test_series, test_labels, range(len(test_labels))),
        }

    def _generate_examples(self, series, labels, chosen):
        for index in chosen:
            yield int(index), {"series": series[index].astype(np.float32), "label": str(labels[index])}
