"""Changes images at random, anew in each iteration."""

import numbers

from tfmetaprune._keras import tf
from tfmetaprune.data.conversion import is_count
from tfmetaprune.errors import ArgumentError, DataError


def augment(dataset, *, max_shift=1, noise=0.05, flip=False, seed=0):
    """Shifts each image by a few pixels, may mirror it, and adds noise, anew in each iteration over the dataset.

    Args:
      dataset: batched `tf.data.Dataset` of tuples whose first entry is a float image batch [batch, height, width,
        channels]; the other entries (labels, weights) pass unchanged.
      max_shift: largest shift, in pixels, along height and along width; pixels that come in from outside are 0.
      noise: standard deviation of the Gaussian noise, in units of the pixel values. The sum is not clipped.
      flip: whether to swap left and right in half of the images.
      seed: int; the changes, in all iterations, are a function of it.

    Returns:
      A `tf.data.Dataset` with the same structure, shapes and dtypes.

    Raises:
      ArgumentError: `max_shift` is not an integer >= 0, or `noise` is not a number >= 0.
      DataError: the batches are no tuples that begin with float images.

    Example:
      >>> from tfmetaprune.data import as_dataset
      >>> train = as_dataset((tf.ones([4, 8, 8, 1]), tf.range(4)))
      >>> images, labels = next(iter(augment(train, max_shift=2, noise=0.0)))
      >>> images.shape, labels.numpy().tolist()
      (TensorShape([4, 8, 8, 1]), [0, 1, 2, 3])
    """
    if not is_count(max_shift, minimum=0):
        raise ArgumentError(f"augment: expected max_shift to be an integer >= 0, got {max_shift!r}. Use 0 for none.")
    if not isinstance(noise, numbers.Real) or not noise >= 0:
        raise ArgumentError(f"augment: expected noise to be a number >= 0, got {noise!r}. Use 0 for none.")
    spec = dataset.element_spec
    image = spec[0] if isinstance(spec, tuple) and spec else None
    if not isinstance(image, tf.TensorSpec) or image.shape.rank != 4 or not image.dtype.is_floating:
        raise DataError(
            f"augment: expected tuples that begin with float images [batch, height, width, channels], got {spec}. "
            f"Batch the images and scale them to [0, 1] first."
        )

    def change(batch, key):
        images = _mirrored(batch[0], key) if flip else batch[0]
        return (_shift_and_add_noise(images, key, max_shift, noise), *batch[1:])

    keys = tf.data.Dataset.random(seed=seed, rerandomize_each_iteration=True).batch(2, drop_remainder=True)
    return tf.data.Dataset.zip((dataset, keys)).map(change, num_parallel_calls=tf.data.AUTOTUNE)


def _shift_and_add_noise(images, key, max_shift, noise):
    """Shifts float images [batch, height, width, channels] by up to `max_shift` pixels, and adds noise."""
    shift_key, noise_key = tf.unstack(tf.random.split(key, 2))
    batch_size, height, width = tf.unstack(tf.shape(images)[:3])
    start = tf.random.stateless_uniform([batch_size, 2], shift_key, 0, 2 * max_shift + 1, tf.int32)
    rows, columns = start[:, :1] + tf.range(height), start[:, 1:] + tf.range(width)
    margin = [max_shift, max_shift]
    moved = tf.pad(images, [[0, 0], margin, margin, [0, 0]])
    moved = tf.gather(tf.gather(moved, rows, axis=1, batch_dims=1), columns, axis=2, batch_dims=1)
    moved += noise * tf.random.stateless_normal(tf.shape(images), noise_key, dtype=images.dtype)
    return tf.ensure_shape(moved, images.shape)


def _mirrored(images, key):
    """Mirrors each of the float images [batch, height, width, channels] from left to right with probability 1/2."""
    chosen = tf.random.stateless_uniform([tf.shape(images)[0], 1, 1, 1], tf.bitwise.invert(key)) < 0.5
    return tf.where(chosen, images[:, :, ::-1], images)
