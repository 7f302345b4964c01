"""A stand-in for unstructured pruning."""

import numpy as np

from tfmetaprune._keras import keras, tf


def with_zeros(model, share, names):
    """Returns a copy of a tf_keras model with the smallest kernel weights of some layers at zero."""
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    for name in names:
        kernel = copy.get_layer(name).kernel
        limit = np.quantile(np.abs(kernel.numpy()), share)
        kernel.assign(kernel * tf.cast(tf.abs(kernel) > limit, tf.float32))
    return copy
