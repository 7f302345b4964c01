"""Toy forms of recipes: the same chain in a minute or two, on random examples where the data set would be downloaded."""

import contextlib
import dataclasses
import tempfile

from tfmetaprune.data.loading import is_downloaded
from tfmetaprune.recipes.architectures import ARCHITECTURES
from tfmetaprune.recipes.recipe import Recipe, Training

NUM_EXAMPLES = 48  # of each split of a mocked data set
BATCH_SIZE = 24
MOST_SPEEDUP = 1.8  # narrow networks do not go further


def toy(recipe: Recipe) -> Recipe:
    """Returns a recipe of the same parts, each as small as it can be.

    Args:
      recipe: the `Recipe`; it is not modified.
    """
    _, options, image_size = ARCHITECTURES[recipe.network.architecture]
    data_models, meta, pruning = recipe.data_models, recipe.metatraining, recipe.pruning
    speedup = None if pruning.speedup is None else min(pruning.speedup, MOST_SPEEDUP)
    return dataclasses.replace(
        recipe,
        data=dataclasses.replace(recipe.data, image_size=image_size or recipe.data.image_size),
        network=dataclasses.replace(recipe.network, options=options, weights=None),
        training=_short(recipe.training),
        data_models=dataclasses.replace(
            data_models, count=min(data_models.count, 2), training=_short(data_models.training),
            speedups=data_models.speedups and (1.3, 1.5), finetuning=_short(data_models.finetuning),
        ),
        metanetwork=dataclasses.replace(recipe.metanetwork, hidden=4, num_layers=2),
        metatraining=dataclasses.replace(
            meta, steps=3, warmup=1, batch_size=8, batches_per_step=min(meta.batches_per_step, 2), examples=32,
            milestones=(2,) if meta.milestones else (),
        ),
        finetuning_a=_short(recipe.finetuning_a),
        pruning=dataclasses.replace(pruning, speedup=speedup),
        finetuning_b=_short(recipe.finetuning_b),
    )  # fmt: skip


def _short(training: Training | None) -> Training | None:
    """Returns a training of two epochs with the same optimizer and kind of schedule."""
    if training is None:
        return None
    return dataclasses.replace(
        training, epochs=2, batch_size=BATCH_SIZE, milestones=(1,) if training.milestones else (),
        warmup_epochs=min(1, training.warmup_epochs),
    )  # fmt: skip


@contextlib.contextmanager
def mocked_data(name, data_dir=None):
    """Lets a data set of tensorflow_datasets consist of random examples while the body runs, so that nothing is downloaded.

    Args:
      name: of the data set, or a path; what is not downloaded is left as it is: "digits", sets of installed packages, own files.
      data_dir: where the caller keeps data sets, yielded for those that are left alone.

    Yields:
      The directory of data sets for `load`.
    """
    if not is_downloaded(name):
        yield data_dir
        return
    import tensorflow_datasets as tfds

    with tempfile.TemporaryDirectory() as folder:
        builder = tfds.builder(name, data_dir=folder)
        splits = [
            tfds.core.SplitInfo(name=split, shard_lengths=[NUM_EXAMPLES], num_bytes=1) for split in ("train", "validation", "test")
        ]
        builder.info.set_splits(tfds.core.splits.SplitDict(splits))
        builder.data_path.mkdir(parents=True)
        builder.info.write_to_directory(builder.data_path)
        with tfds.testing.mock_data(num_examples=NUM_EXAMPLES, data_dir=folder):
            yield folder
