"""The meta-gradient in stages is the gradient of the mean loss, as one plain tape computes it."""

import numpy as np
import pytest

from tfmetaprune._keras import keras, tf
from tfmetaprune.metanet import MetaNetConfig, MetaNetwork
from tfmetaprune.metatrain.gradient import MetaGradient
from tfmetaprune.metatrain.objective import PruneAwareObjective
from tfmetaprune.metatrain.prepared import graph_arrays
from tfmetaprune.metatrain.trainer import MetaTrainer, MetaTraining
from tfmetaprune.metatrain.zoo import residual_cnn
from tfmetaprune.trace import trace_model


@pytest.fixture(scope="module")
def batches():
    rng = np.random.default_rng(0)
    return [(rng.normal(size=(size, 8, 8, 1)).astype(np.float32), rng.integers(0, 3, size)) for size in (24, 24, 8)]


def _metanet():
    """A metanetwork that changes weights and scores: the decoders do not start at zero."""
    keras.utils.set_random_seed(1)
    metanet = MetaNetwork(MetaNetConfig(hidden=8, num_layers=1))
    rng = np.random.default_rng(2)
    for variable in metanet.trainable_variables:
        variable.assign_add(rng.normal(0, 0.2, variable.shape).astype(np.float32))
    return metanet


def _residual(seed):
    """A network with a sum, and no strided 1x1 kernels: oneDNN, where it is on, has a wrong gradient for these on some CPUs."""
    keras.utils.set_random_seed(seed)
    layers = keras.layers
    inputs = keras.Input((8, 8, 1))
    x = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(6, 3, padding="same", use_bias=False)(inputs)))
    y = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(8, 3, padding="same", use_bias=False)(x)))
    x = layers.ReLU()(layers.Add()([x, layers.BatchNormalization()(layers.Conv2D(6, 3, padding="same", use_bias=False)(y))]))
    x = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(8, 3, strides=2, padding="same", use_bias=False)(x)))
    return keras.Model(inputs, layers.Dense(3)(layers.GlobalAveragePooling2D()(x)))


@pytest.mark.parametrize("distillation", [0.0, 1.0, 2.5])
def test_stages_equal_one_plain_tape(batches, distillation):
    first, model = (trace_model(_residual(seed)) for seed in range(2))
    objective, metanet = PruneAwareObjective(first, distillation=distillation), _metanet()
    graph = graph_arrays(model, tf.data.Dataset.from_tensors(batches[0]))
    original = tf.nest.map_structure(tf.convert_to_tensor, objective.weights_of(model))
    noise = np.random.default_rng(3).normal(size=objective.num_units).astype(np.float32)
    loss, gradients = MetaGradient(objective)(metanet, graph, original, iter(batches), 2.0, noise)

    inputs = (graph[name] for name in ("parameters", "present", "statistics", "frozen", "weights"))
    with tf.GradientTape() as tape:
        network = objective.decode(metanet.transform(*inputs, objective.layout), tf.constant(2.0), tf.constant(noise))
        wanted = tf.add_n([objective.batch_loss(*network, x, y, original) for x, y in batches]) / len(batches)
    expected = tape.gradient(wanted, metanet.trainable_variables, unconnected_gradients="zero")
    assert float(network[1].numpy().min()) == 0.0
    np.testing.assert_allclose(loss, wanted, rtol=1e-5)
    largest = max(np.abs(value).max() for value in expected)
    for got, want in zip(gradients, expected, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5 * max(np.abs(want).max(), 1e-2 * largest))


def test_teacher_is_the_data_model_as_it_was(batches):
    """The distance to the network as it was is zero if nothing is generated, silenced, or normalised anew."""
    first, model = (keras.Sequential([keras.layers.Dense(4, "relu", input_shape=(5,)), keras.layers.Dense(3)]) for _ in "ab")
    objective = PruneAwareObjective(trace_model(first))
    weights = tf.nest.map_structure(tf.convert_to_tensor, objective.weights_of(trace_model(model)))
    x, y = np.random.default_rng(0).normal(size=(16, 5)).astype(np.float32), np.arange(16) % 3
    loss = objective.batch_loss(weights, tf.ones(objective.num_units), x, y, weights)
    np.testing.assert_allclose(loss, np.mean(keras.losses.sparse_categorical_crossentropy(y, model(x), True)), rtol=1e-5)


def test_no_distillation_needs_no_teacher(batches):
    objective = PruneAwareObjective(trace_model(residual_cnn((8, 8, 1), 3, widths=(4, 8))), distillation=0.0)
    network = objective.weights_of(objective.trace), tf.ones(objective.num_units)
    operations = tf.function(lambda x, y: objective.batch_loss(*network, x, y, {})).get_concrete_function(*batches[0]).graph
    num_convolutions = sum(layer.count_params() > 0 for layer in objective.trace.model.layers if "conv" in layer.name)
    assert sum(operation.type == "Conv2D" for operation in operations.get_operations()) == num_convolutions


def test_models_with_weights_outside_the_graph_share_nothing(batches, tmp_path):
    """A weight that no graph brings along must be the data model's own, not that of the first of its architecture."""

    def build(mean):
        inputs = keras.Input((8, 8, 1))
        x = keras.layers.Flatten()(keras.layers.Normalization(mean=None)(inputs))
        model = keras.Model(inputs, keras.layers.Dense(3)(keras.layers.Dense(4, "relu")(x)))
        model.layers[1].adapt(np.full((4, 8, 8, 1), mean, np.float32))
        return model

    plain = [residual_cnn((8, 8, 1), 3, widths=(4, 8), seed=seed) for seed in range(2)]
    dataset = tf.data.Dataset.from_tensors(batches[0])
    trainer = MetaTrainer(_metanet(), [*plain, build(0.0), build(3.0)], dataset, MetaTraining(steps=1), tmp_path)
    gradients = [data_model.gradients[0] for data_model in trainer.data_models]
    assert gradients[0] is gradients[1] and len(set(map(id, gradients))) == 3


@pytest.mark.parametrize("name, value", [("batches_per_step", 0), ("models_per_step", 1.5), ("distillation", -1.0)])
def test_settings_are_checked(name, value):
    with pytest.raises(ValueError, match=f"MetaTraining: expected {name}"):
        MetaTraining(**{name: value})
