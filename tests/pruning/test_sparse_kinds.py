"""Zeros in every layer kind: which kernels are found, and that TF-MOT's wrappers zero them, with and without training."""

import types

import numpy as np
import pytest
from layer_cases import CASES, cases_of, model_around
from zoo import randomize

from tfmetaprune._keras import keras, tf
from tfmetaprune.pruning.sparse import (
    SparseTraining,
    find_kernels,
    plan_zeros,
    planned_kernels,
    sparse_method,
    zero_out,
)
from tfmetaprune.trace import trace_model

L = keras.layers
_KERAS_2 = types.SimpleNamespace(**{**vars(tf), "keras": keras})  # its code says tf.keras
UNSTRUCTURED = sparse_method("unstructured", sparsity=0.5, scope="layer")
WITHOUT_KERNEL = {
    L.DepthwiseConv1D: "depthwise", L.DepthwiseConv2D: "depthwise", L.Embedding: "looked up", L.BatchNormalization: "no kernel",
    L.LayerNormalization: "no kernel", L.GroupNormalization: "no kernel", L.PReLU: "no kernel", L.Normalization: "no kernel",
    L.AdditiveAttention: "no kernel",
}  # fmt: skip
KERNELS = {L.SeparableConv1D: 2, L.SeparableConv2D: 2, L.LSTM: 2, L.GRU: 2, L.SimpleRNN: 2, L.MultiHeadAttention: 4,
           L.Bidirectional: 4, L.ConvLSTM1D: 2, L.ConvLSTM2D: 2, L.ConvLSTM3D: 2}  # fmt: skip


KINDS = [kind for kind in [*CASES, L.LSTM, L.GRU] if not kind.__name__.startswith(("Random", "Global", "Max", "Average"))]
PARAMETERS = [
    pytest.param(kind, case, id=f"{kind.__name__}-{i}") for kind in dict.fromkeys(KINDS) for i, case in enumerate(cases_of(kind))
    if not case.jit
]  # fmt: skip


@pytest.fixture(autouse=True)
def spectral_normalization_on_keras_2(monkeypatch):
    monkeypatch.setattr("tf_keras.src.layers.normalization.spectral_normalization.tf", _KERAS_2)


@pytest.mark.parametrize("kind, case", PARAMETERS)
def test_every_layer_kind(kind, case):
    model, layer = model_around(case)
    randomize(model, kind.__name__)
    path = layer.name
    kernels, dense = find_kernels(trace_model(model), UNSTRUCTURED)
    found = [kernel for kernel in kernels if kernel.layer == path]
    if kind in WITHOUT_KERNEL and layer.weights:
        assert not found and WITHOUT_KERNEL[kind] in dense[path]
    elif layer.weights:
        assert bool(found) != (path in dense), dense
        assert not found or len(found) == KERNELS.get(kind, len(found))
    for kernel in kernels:
        value = kernel.variable.numpy()
        np.testing.assert_array_equal(kernel.from_matrix(kernel.to_matrix(value)), value)
        np.testing.assert_array_equal(kernel.from_matrix(kernel.to_matrix(tf.constant(value))), value)
    plan = plan_zeros(model, UNSTRUCTURED)
    small, masks = zero_out(model, plan)
    for kernel, target in zip(planned_kernels(small, plan), plan.targets, strict=True):
        value = kernel.variable.numpy()
        assert np.count_nonzero(value) == target.num_kept == np.count_nonzero(masks[kernel.key])
        assert abs(2 * target.num_kept - value.size) <= 1


@pytest.mark.parametrize(
    "kind", [L.Conv1D, L.Conv3D, L.Conv2DTranspose, L.SeparableConv2D, L.MultiHeadAttention, L.EinsumDense, L.LSTM, L.Bidirectional,
             L.TimeDistributed, L.ConvLSTM2D, L.SpectralNormalization],
    ids=lambda kind: kind.__name__,
)  # fmt: skip
def test_kinds_in_training(kind):
    model, _ = model_around(cases_of(kind)[0])
    randomize(model, kind.__name__)
    shape, rng = tuple(model.inputs[0].shape[1:]), np.random.default_rng(0)
    labels = [rng.normal(size=(8, *output.shape[1:])).astype("float32") for output in model.outputs]
    plan = plan_zeros(model, sparse_method("unstructured", sparsity=0.5, scope="layer", schedule="constant"))
    training, old = SparseTraining(model, plan), model.get_weights()
    mixin, attributes, callbacks = training(4)
    view = type("View", (mixin, keras.Model), {})(model.input, model.output)
    for name, value in attributes.items():
        setattr(view, name, value)
    view.compile(keras.optimizers.Adam(0.01), "mse")
    view.fit(rng.normal(size=(8, *shape)).astype("float32"), labels, batch_size=4, epochs=2, verbose=0, callbacks=list(callbacks))
    masks = training.finish()
    assert any(not np.array_equal(a, b) for a, b in zip(old, model.get_weights()))
    for kernel, target in zip(planned_kernels(model, plan), plan.targets):
        value = kernel.variable.numpy()
        np.testing.assert_array_equal(value != 0, masks[kernel.key])
        assert np.count_nonzero(value) == target.num_kept < value.size


@pytest.mark.parametrize("kind", [L.LSTM, L.GRU, L.Bidirectional])
def test_stateful_layers_freeze_channels_but_not_weights(kind):
    inner = L.LSTM(4, stateful=True, name="inside") if kind is L.Bidirectional else None
    layer = L.Bidirectional(inner, name="layer") if inner is not None else kind(4, stateful=True, name="layer")
    inputs = keras.Input(batch_shape=(2, 5, 3))
    model = keras.Model(inputs, L.Dense(2, name="out")(layer(inputs)))
    kernels, _ = find_kernels(trace_model(model), UNSTRUCTURED)
    assert len([kernel for kernel in kernels if kernel.layer == "layer"]) == (4 if inner is not None else 2)
