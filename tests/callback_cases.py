"""A small network for digits, and callbacks that watch a MetaPruning, for its tests in both Keras."""

import functools

import keras as keras3
import numpy as np
import pytest

from tfmetaprune import data
from tfmetaprune._keras import keras, tf
from tfmetaprune.graph.schema import CHANNEL, PARAMETERS, SCORE
from tfmetaprune.interop import carry, weight_partners
from tfmetaprune.metatrain.zoo import dataset_arrays
from tfmetaprune.pruning import run_masked
from tfmetaprune.trace import trace_model

BOTH = pytest.mark.parametrize("k", [keras, keras3], ids=["tf_keras", "keras3"])
ALONE = {"metanetwork": None}


@functools.cache
def digits():
    x, y = dataset_arrays(data.load("digits", batch_size=64).validation)
    return np.asarray(x)[:96], np.asarray(y)[:96].astype("int64")


def make_net(k, optimizer=None, **compile_options):
    k.utils.set_random_seed(0)
    layers, inputs = k.layers, k.Input((8, 8, 1), name="image")
    x = layers.ReLU()(layers.BatchNormalization(name="bn0")(layers.Conv2D(8, 3, padding="same", name="conv0")(inputs)))
    y = layers.BatchNormalization(name="bn1")(layers.Conv2D(12, 3, strides=2, padding="same", name="conv1")(x))
    y = layers.ReLU()(layers.Add()([y, layers.Conv2D(12, 1, strides=2, name="short")(x)]))
    y = layers.Dense(16, activation="relu", name="hidden")(layers.Flatten()(y))
    model = k.Model(inputs, layers.Dense(10, name="logits")(y), name="net")
    loss = k.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer or k.optimizers.Adam(3e-3), loss, metrics=["accuracy"], **compile_options)
    return model


def fit(model, *callbacks, epochs=2, **options):
    return model.fit(*digits(), batch_size=32, epochs=epochs, verbose=0, shuffle=False, callbacks=list(callbacks), **options)


def outputs(model):
    return np.asarray(model(digits()[0][:32], training=False), "float32")


def assert_equal_outputs(pruning, trained, tolerance=1e-5):
    """The smaller model computes what the trained one, silent channels included, does; and is smaller."""
    np.testing.assert_allclose(outputs(pruning.model), outputs(trained), atol=tolerance, rtol=tolerance)
    assert pruning.model.count_params() < trained.count_params()
    assert pruning.plan.speedup >= pruning.report["speedup"]["target"]


class Watch(keras.callbacks.Callback):
    """Stands behind a MetaPruning and looks, after every batch, whether the model equals its masked self."""

    def __init__(self, pruning):
        super().__init__()
        self.pruning, self.silent, self.trace = pruning, [], None

    def on_train_batch_end(self, batch, logs=None):
        steps = self.pruning._steps
        if steps is None:
            return
        if self.trace is None:
            self.trace = trace_model(carry(self.model)[0])
            self.partners = weight_partners(self.model, self.trace.model)
        image, x = self.trace.model, tf.constant(digits()[0][:8])
        for here in image.weights:
            here.assign(tf.convert_to_tensor(self.partners[id(here)]))
        np.testing.assert_allclose(image(x), run_masked(self.trace, steps.keep, [x])[0], atol=1e-5, rtol=1e-5)
        self.silent.append(int(np.count_nonzero(~steps.keep)))


class Interrupt(keras.callbacks.Callback):
    """Breaks a fit off when an epoch begins."""

    def __init__(self, epoch):
        super().__init__()
        self.epoch = epoch

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == self.epoch:
            raise KeyboardInterrupt


def scaling(graph):
    """A metanetwork: it makes every channel's parameters half as large and prefers the first channels."""
    features = graph.node_sets[CHANNEL].get_features_dict()
    parameters = features[PARAMETERS]
    score = -0.01 * tf.range(parameters.shape[0], dtype=tf.float32)
    return graph.replace_features(node_sets={CHANNEL: {**features, PARAMETERS: 0.5 * parameters, SCORE: score}})
