"""The handwritten digits of scikit-learn as a data set of tensorflow_datasets, with no download.

Importing this module registers the builder, after which `tfds.load("digits")` finds it.
"""

import numpy as np
import tensorflow_datasets as tfds

IMAGE_MAXIMUM = 16  # the brightest value a pixel can have: 4 x 4 binary pixels were counted for each

_SPLIT_SEED = 0

_DESCRIPTION = """
1,797 real handwritten digits by 13 people, as 8 x 8 grey images: the test part of the UCI set "Optical Recognition of
Handwritten Digits", in the copy that scikit-learn installs. A pixel counts the ink in a 4 x 4 block of the scan: the
integers 0 to 16, stored as they are. The splits are ours: train 599, validation 300, test 898, disjoint, stratified
by class, always the same.
"""

_CITATION = """
@misc{alpaydin1998optical,
  author = {Alpaydin, Ethem and Kaynak, Cenk},
  title = {Optical Recognition of Handwritten Digits},
  year = {1998},
  publisher = {UCI Machine Learning Repository},
  doi = {10.24432/C50P49},
}
"""

_LICENSE = """
The images are offered by the UCI Machine Learning Repository under the Creative Commons Attribution 4.0 International
licence (CC BY 4.0): they may be used, changed and shared by anyone who names E. Alpaydin and C. Kaynak as the source.
"""


class Digits(tfds.core.GeneratorBasedBuilder):
    """Builds "digits": uint8 images (8, 8, 1) with values 0 to 16, labels 0 to 9, in three splits.

    Nothing is scaled, so nothing is lost; the metadata entry `image_maximum` tells a reader what to divide by.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First release."}

    def _info(self):
        features = {
            "image": tfds.features.Image(shape=(8, 8, 1), dtype=np.uint8),
            "label": tfds.features.ClassLabel(num_classes=10),
        }
        return tfds.core.DatasetInfo(
            builder=self,
            description=_DESCRIPTION,
            features=tfds.features.FeaturesDict(features),
            supervised_keys=("image", "label"),
            homepage="https://archive.ics.uci.edu/dataset/80/optical+recognition+of+handwritten+digits",
            citation=_CITATION,
            license=_LICENSE,
            metadata=tfds.core.MetadataDict({"image_maximum": IMAGE_MAXIMUM}),
        )

    def _split_generators(self, dl_manager):
        from sklearn.datasets import load_digits

        digits = load_digits()
        images = digits.images.astype(np.uint8)[..., np.newaxis]
        splits = _stratified_splits(digits.target)
        return {name: self._generate_examples(images, digits.target, chosen) for name, chosen in splits.items()}

    def _generate_examples(self, images, labels, chosen):
        for index in chosen:
            yield int(index), {"image": images[index], "label": int(labels[index])}


def _stratified_splits(labels):
    """Deals the examples out like cards, class after class: a third to train, a sixth to validation, half to test.

    Args:
      labels: int array (num_examples,), the class of each example.

    Returns:
      A dict from split name to an int array of example indices. The splits are disjoint and cover everything, and each
      has its share of every class within two examples.
    """
    order = np.lexsort((np.random.RandomState(_SPLIT_SEED).random_sample(len(labels)), labels))
    rest = np.delete(order, np.s_[::3])
    return {"train": order[::3], "validation": rest[::4], "test": np.delete(rest, np.s_[::4])}
