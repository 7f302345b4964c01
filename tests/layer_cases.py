"""Layers under test: how to build one of every kind, with the options that change how channels pass.

`cases_of(kind)` works for every registered kind; `CASES` says how to build those that do not work without arguments.
"""

import dataclasses
import math
from collections.abc import Callable

from tfmetaprune._keras import keras, tf

L = keras.layers
IMAGE, SERIES, VOLUME, VECTOR = (6, 5, 4), (6, 4), (5, 4, 3, 4), (4,)


@dataclasses.dataclass(frozen=True)
class Case:
    """One layer under test, called on channels that a Dense layer makes.

    Attributes:
      make: builds the layer.
      shape: of what it is called on, without the batch axis; channels first if `first`.
      call: `call(layer, x, other)`, calls the layer; `other` is a second tensor like `x`.
      macs: `macs(layer, x, y)`, counts MACs by shapes of the input and of the first output; kernels at every output
        position if None.
      frozen: what the reason says why the channels stay; None if some of them can go.
      first: whether the channels come first.
      floatx: what to compute in; float64, so that rounding hides nothing, where TensorFlow can.
      jit: whether to compile by XLA: TensorFlow has no convolutions with channels first on CPUs.
    """

    make: Callable
    shape: tuple = IMAGE
    call: Callable = lambda layer, x, other: layer(x)
    macs: Callable | None = None
    frozen: str | None = None
    first: bool = False
    floatx: str = "float64"
    jit: bool = False


def kernel_macs(layer, positions=1):
    return positions * sum(math.prod(weight.shape) for weight in layer.weights if "kernel" in weight.name)


def _input_positions(layer, x, y):
    return kernel_macs(layer, math.prod(x[2:] if layer.data_format == "channels_first" else x[1:-1]))


def step_macs(layer, x, y):
    return kernel_macs(layer, x[1])


def _conv_steps(layer, x, y):
    return kernel_macs(layer, x[1] * math.prod(y[-3:-1] if layer.data_format == "channels_last" else y[-2:]))


def _both(layer, x, other):
    return layer([x, other])


def _three(layer, x, other):
    return layer([x, other, L.Dense(4)(other)])


def _attention(layer, x, y):
    return 2 * x[1] * x[1] * x[-1]


def _additive_of_three(layer, x, y):
    return x[1] * x[1] * (x[-1] + y[-1])


def _heads(queries, keys):
    def count(layer, x, y):
        heads, qk, v = layer._num_heads, layer._key_dim, layer._value_dim
        kernels = [math.prod(part.kernel.shape) for part in
                   (layer._query_dense, layer._output_dense, layer._key_dense, layer._value_dense)]  # fmt: skip
        products = queries * keys * heads * (qk + v)
        return queries * sum(kernels[:2]) + keys * sum(kernels[2:]) + products

    return count


def _with_states(count):
    def call(layer, x, other):
        states = [L.Dense(5)(L.GlobalMaxPooling1D()(other)) for _ in range(count)]
        return layer(x, initial_state=states)

    return call


def _pooled(layer, x, other):
    return L.GlobalMaxPooling2D()(layer(x))


def _masked_softmax(layer, x, other):
    return layer(x, mask=L.ThresholdedReLU(0.2)(other))


def _sliced(layer, x, other):
    parts = [{"start": start, "stop": None, "step": None} for start in (None, None, None, 1)]
    return layer(x, slice_spec=tuple(parts))


def _embedded(layer, x, other):
    return L.LSTM(3)(layer(x))


def _image_heads(layer, x, other):
    return layer(x, other)


def _weightless(kind, **kwargs):
    return [
        Case(lambda: kind(**kwargs), shape)
        for shape in (SERIES if "1D" in kind.__name__ else VOLUME if "3D" in kind.__name__ else IMAGE,)
    ]


def _first(make, shape=(4, 6, 5), **kwargs):
    return Case(make, shape, first=True, **kwargs)


FIRST = {"data_format": "channels_first"}
CASES = {
    L.Dense: [Case(lambda: L.Dense(5)), Case(lambda: L.Dense(5, activation="softmax"), VECTOR, frozen="activation")],
    L.Conv1D: [
        Case(lambda: L.Conv1D(5, 3, padding="causal", dilation_rate=2), SERIES), _first(lambda: L.Conv1D(5, 3, **FIRST), (4, 6), jit=True),
        Case(lambda: L.Conv1D(6, 3, groups=2), SERIES),
    ],
    L.Conv2D: [
        Case(lambda: L.Conv2D(5, 3, strides=2)), Case(lambda: L.Conv2D(5, 2, dilation_rate=2, use_bias=False)),
        Case(lambda: L.Conv2D(12, 3, groups=2), (6, 6, 8)), Case(lambda: L.Conv2D(12, 3, groups=4), (6, 6, 8)),
        Case(lambda: L.Conv2D(8, 3, groups=4)), _first(lambda: L.Conv2D(6, 3, groups=2, **FIRST), jit=True),
    ],
    L.Conv3D: [Case(lambda: L.Conv3D(5, 2), VOLUME), Case(lambda: L.Conv3D(6, 2, groups=2), VOLUME)],
    L.Conv1DTranspose: [Case(lambda: L.Conv1DTranspose(5, 3, strides=2), SERIES, macs=_input_positions)],
    L.Conv2DTranspose: [
        Case(lambda: L.Conv2DTranspose(5, 3, strides=2), macs=_input_positions),
        _first(lambda: L.Conv2DTranspose(5, 3, **FIRST), macs=_input_positions, jit=True),
    ],
    L.Conv3DTranspose: [Case(lambda: L.Conv3DTranspose(5, 2, strides=2), VOLUME, macs=_input_positions)],
    L.DepthwiseConv1D: [Case(lambda: L.DepthwiseConv1D(3, depth_multiplier=2), SERIES)],
    L.DepthwiseConv2D: [Case(lambda: L.DepthwiseConv2D(3, depth_multiplier=2)), Case(lambda: L.DepthwiseConv2D(3, strides=2)),
                        _first(lambda: L.DepthwiseConv2D(3, **FIRST), jit=True)],  # fmt: skip
    L.SeparableConv1D: [Case(lambda: L.SeparableConv1D(5, 3, depth_multiplier=2), SERIES)],
    L.SeparableConv2D: [
        Case(lambda: L.SeparableConv2D(5, 3, depth_multiplier=2)), _first(lambda: L.SeparableConv2D(5, 3, **FIRST), jit=True),
    ],
    L.ConvLSTM1D: [Case(lambda: L.ConvLSTM1D(5, 3), IMAGE, macs=lambda layer, x, y: kernel_macs(layer, x[1] * y[-2]))],
    L.ConvLSTM2D: [
        Case(lambda: L.ConvLSTM2D(5, 2, return_sequences=True), VOLUME, macs=_conv_steps),
        Case(lambda: L.ConvLSTM2D(5, 2, return_state=True), VOLUME, macs=_conv_steps),
        Case(lambda: L.ConvLSTM2D(5, 2, **FIRST), (3, 4, 4, 5), macs=_conv_steps, jit=True),
        Case(lambda: L.ConvLSTM2D(5, 2, recurrent_activation="softmax"), VOLUME, frozen="activation"),
    ],
    L.ConvLSTM3D: [
        Case(lambda: L.ConvLSTM3D(3, 2), (3, 3, 3, 3, 4), macs=lambda layer, x, y: kernel_macs(layer, x[1] * math.prod(y[1:-1])))
    ],
    L.EinsumDense: [
        Case(lambda: L.EinsumDense("abc,cd->abd", (6, 5), bias_axes="d"), SERIES),
        Case(lambda: L.EinsumDense("abc,cd->abd", (6, 5), bias_axes="bd"), SERIES),
        Case(lambda: L.EinsumDense("...x,xy->...y", 5, bias_axes="y")),
        Case(lambda: L.EinsumDense("...x,xyz->...yz", (3, 5), bias_axes="yz"), macs=lambda layer, x, y: kernel_macs(layer, x[1] * x[2])),
        Case(lambda: L.EinsumDense("ab...,bc->ac...", (5, 6)), (4, 6), first=True, macs=lambda layer, x, y: kernel_macs(layer, y[-1])),
        Case(lambda: L.EinsumDense("abc,bcd->abd", (6, 5), bias_axes="bd"), SERIES, macs=lambda layer, x, y: kernel_macs(layer)),
        Case(lambda: L.EinsumDense("abc,c->abc", (6, 4)), SERIES, macs=lambda layer, x, y: 0),
        Case(lambda: L.EinsumDense("abc,bcd->ad", 5), SERIES, macs=lambda layer, x, y: kernel_macs(layer)),
        Case(lambda: L.EinsumDense("abc,cc->abc", (6, 4)), SERIES, frozen="diagonal"),
    ],
    L.MultiHeadAttention: [
        Case(lambda: L.MultiHeadAttention(4, 6), SERIES, lambda layer, x, other: layer(x, x), _heads(6, 6)),
        Case(lambda: L.MultiHeadAttention(4, 6, 5, use_bias=False), SERIES, lambda layer, x, other: layer(x, other), _heads(6, 6)),
        Case(
            lambda: L.MultiHeadAttention(4, 6, output_shape=5), SERIES,
            lambda layer, x, other: layer(x, L.Dense(7)(other), key=L.Dense(8)(other), use_causal_mask=True), _heads(6, 6),
        ),
        Case(
            lambda: L.MultiHeadAttention(4, 6, output_shape=(3, 5), softmax_robust_masking=True), SERIES,
            lambda layer, x, other: layer(query=x, value=L.MaxPooling1D()(other), attention_mask=L.Dense(3)(other)), _heads(6, 3),
        ),
        Case(
            lambda: L.MultiHeadAttention(4, 6), SERIES,
            lambda layer, x, other: layer(x, other, return_attention_scores=True), _heads(6, 6),
        ),
        Case(
            lambda: L.MultiHeadAttention(4, 6, attention_axes=(2,)), IMAGE, _image_heads,
            lambda layer, x, y: _heads(30, 30)(layer, x, y)
            - (30 * 30 - 6 * 5 * 5) * layer._num_heads * (layer._key_dim + layer._value_dim),
        ),
        Case(lambda: L.MultiHeadAttention(4, 6), IMAGE, _image_heads, _heads(30, 30)),
        Case(lambda: L.MultiHeadAttention(4, 6), SERIES, lambda layer, x, other: layer(layer(x, other), x), _heads(6, 6)),
        Case(
            lambda: L.MultiHeadAttention(2, 6, softmax_robust_masking=True), SERIES,
            lambda layer, x, other: layer(x, other, attention_mask=L.Reshape((2, 6, 6))(L.Dense(12)(other))),
            frozen="mask for every head",
        ),
    ],
    L.Attention: [
        Case(L.Attention, SERIES, _both, _attention),
        Case(lambda: L.Attention(use_scale=True), SERIES, _three, _additive_of_three),
        Case(lambda: L.Attention(score_mode="concat", use_scale=True), SERIES, _both, _attention),
        Case(lambda: L.Attention(score_mode="concat"), SERIES, _three, _additive_of_three),
        Case(
            L.Attention, SERIES, lambda layer, x, other: layer([x, other], return_attention_scores=True, use_causal_mask=True),
            _attention,
        ),
    ],
    L.AdditiveAttention: [
        Case(L.AdditiveAttention, SERIES, _both, _attention),
        Case(lambda: L.AdditiveAttention(use_scale=False), SERIES, _three, _additive_of_three),
        Case(L.AdditiveAttention, SERIES, _three, _additive_of_three),
    ],
    L.Embedding: [
        Case(lambda: L.Embedding(9, 5, mask_zero=True), (6,), _embedded, macs=lambda *_: 0)
    ],
    L.LSTM: [
        Case(lambda: L.LSTM(5), SERIES, macs=step_macs),
        Case(lambda: L.LSTM(5, return_sequences=True, return_state=True, use_bias=False), SERIES, macs=step_macs),
        Case(lambda: L.LSTM(5), SERIES, _with_states(2), macs=step_macs),
        Case(lambda: L.LSTM(5), SERIES, lambda layer, x, other: layer(L.Masking()(x)), macs=step_macs),
        Case(lambda: L.LSTM(5, recurrent_activation="softmax"), SERIES, frozen="activation"),
    ],
    L.GRU: [
        Case(lambda: L.GRU(5), SERIES, macs=step_macs),
        Case(lambda: L.GRU(5, reset_after=False, go_backwards=True), SERIES, macs=step_macs),
        Case(lambda: L.GRU(5, return_sequences=True), SERIES, _with_states(1), macs=step_macs),
    ],
    L.SimpleRNN: [Case(lambda: L.SimpleRNN(5, return_sequences=True), SERIES, macs=step_macs)],
    L.RNN: [
        Case(lambda: L.RNN(L.LSTMCell(5)), SERIES, macs=step_macs),
        Case(lambda: L.RNN(L.GRUCell(5), return_sequences=True), SERIES, macs=step_macs),
        Case(lambda: L.RNN(L.SimpleRNNCell(5)), SERIES, macs=step_macs),
        Case(lambda: L.RNN([L.LSTMCell(5), L.LSTMCell(3)]), SERIES, frozen="StackedRNNCells"),
    ],
    L.Bidirectional: [
        Case(lambda: L.Bidirectional(L.LSTM(5, return_sequences=True)), SERIES, macs=step_macs),
        Case(lambda: L.Bidirectional(L.GRU(5), merge_mode="sum"), SERIES, macs=step_macs),
        Case(lambda: L.Bidirectional(L.RNN(L.SimpleRNNCell(5)), merge_mode="mul"), SERIES, macs=step_macs),
        Case(lambda: L.Bidirectional(L.SimpleRNN(5), merge_mode=None), SERIES, macs=step_macs),
        Case(lambda: L.Bidirectional(L.LSTM(5, return_state=True), merge_mode="ave"), SERIES, macs=step_macs),
        Case(lambda: L.Bidirectional(L.LSTM(5), backward_layer=L.GRU(5, go_backwards=True)), SERIES, macs=step_macs),
        Case(lambda: L.Bidirectional(L.LSTM(5)), SERIES, _with_states(4), macs=step_macs),
        Case(lambda: L.Bidirectional(L.ConvLSTM1D(5, 3)), IMAGE, frozen="ConvLSTM1D"),
    ],
    L.TimeDistributed: [
        Case(lambda: L.TimeDistributed(L.Dense(5)), SERIES),
        Case(lambda: L.TimeDistributed(L.Conv2D(5, 2)), VOLUME),
        Case(lambda: L.TimeDistributed(L.DepthwiseConv2D(2, depth_multiplier=2)), VOLUME),
        Case(lambda: L.TimeDistributed(L.LayerNormalization()), IMAGE), Case(lambda: L.TimeDistributed(L.BatchNormalization()), IMAGE),
        Case(lambda: L.TimeDistributed(L.GroupNormalization(2)), VOLUME),
        Case(lambda: L.TimeDistributed(L.Softmax()), IMAGE, frozen="softmax"),
        Case(lambda: L.TimeDistributed(L.LSTM(5)), IMAGE, macs=lambda layer, x, y: kernel_macs(layer, x[1] * x[2])),
        Case(lambda: L.TimeDistributed(L.Conv2DTranspose(5, 2)), VOLUME, macs=lambda layer, x, y: kernel_macs(layer, math.prod(x[1:-1]))),
        Case(lambda: L.TimeDistributed(L.EinsumDense("...x,xy->...y", 5)), IMAGE),
        Case(lambda: L.TimeDistributed(L.Flatten()), IMAGE),
        Case(lambda: L.TimeDistributed(L.Reshape((20,))), IMAGE),
        Case(lambda: L.TimeDistributed(L.ReLU()), IMAGE),
        Case(lambda: L.TimeDistributed(L.Dense(5, activation="softmax")), SERIES, frozen="activation"),
        Case(lambda: L.TimeDistributed(keras.Sequential([L.Dense(5)])), SERIES, frozen="no LayerSpec"),
    ],
    L.SpectralNormalization: [
        Case(lambda: L.SpectralNormalization(L.Conv2D(5, 2))),
        Case(lambda: L.SpectralNormalization(L.Conv2DTranspose(5, 2)), frozen="does not end"),
    ],
    L.BatchNormalization: [
        Case(L.BatchNormalization), _first(lambda: L.BatchNormalization(axis=1)), Case(lambda: L.BatchNormalization(scale=False)),
        Case(lambda: L.BatchNormalization(axis=[1, 3]), frozen="normalises the axes"),
    ],
    L.LayerNormalization: [
        Case(L.LayerNormalization), _first(lambda: L.LayerNormalization(axis=1)),
        Case(lambda: L.LayerNormalization(scale=False, center=False)),
        Case(lambda: L.LayerNormalization(axis=[2, 3]), frozen="normalises the axes"),
    ],
    L.GroupNormalization: [
        Case(lambda: L.GroupNormalization(-1)), Case(lambda: L.GroupNormalization(2), (5, 5, 8)),
        Case(lambda: L.GroupNormalization(4), (5, 5, 8)), Case(lambda: L.GroupNormalization(1, scale=False, center=False), (5, 5, 8)),
        _first(lambda: L.GroupNormalization(4, axis=1), (8, 5, 5)),
    ],
    L.UnitNormalization: [Case(L.UnitNormalization), Case(lambda: L.UnitNormalization(axis=[1, 3]))],
    L.Normalization: [Case(L.Normalization, frozen="fixed statistics")],
    L.PReLU: [Case(L.PReLU), Case(lambda: L.PReLU(shared_axes=[1, 2])), Case(lambda: L.PReLU(shared_axes=[1, 2, 3])),
              _first(lambda: L.PReLU(shared_axes=[2, 3])), _first(L.PReLU, frozen="slope")],  # fmt: skip
    L.Softmax: [
        Case(L.Softmax, frozen="softmax"), Case(lambda: L.Softmax(axis=1)), Case(lambda: L.Softmax(axis=[1, 2])),
        Case(lambda: L.Softmax(axis=1), call=_masked_softmax),
    ],
    L.Activation: [Case(lambda: L.Activation("relu")), Case(lambda: L.Activation("softmax"), frozen="activation")],
    L.Dropout: [Case(lambda: L.Dropout(0.5, noise_shape=(None, 1, 1, 4)))],
    **{kind: [Case(lambda kind=kind: kind(0.5), shape)] for kind, shape in (
        (L.AlphaDropout, IMAGE), (L.GaussianDropout, IMAGE), (L.GaussianNoise, IMAGE), (L.SpatialDropout1D, SERIES),
        (L.SpatialDropout2D, IMAGE), (L.SpatialDropout3D, VOLUME),
        (L.RandomBrightness, IMAGE), (L.RandomContrast, IMAGE), (L.RandomZoom, IMAGE),
    )},
    L.RandomRotation: [Case(lambda: L.RandomRotation(0.5), floatx="float32")],
    **{kind: [Case(kind, VOLUME, floatx="float32")] for kind in (L.MaxPooling3D, L.AveragePooling3D)},
    L.RandomTranslation: [Case(lambda: L.RandomTranslation(0.1, 0.1))],
    L.RandomHeight: [Case(lambda: L.RandomHeight(0.1), call=_pooled, macs=lambda *_: 0, floatx="float32")],
    L.RandomWidth: [Case(lambda: L.RandomWidth(0.1), call=_pooled, macs=lambda *_: 0, floatx="float32")],
    L.RandomCrop: [Case(lambda: L.RandomCrop(3, 4))],
    L.Resizing: [Case(lambda: L.Resizing(3, 4))],
    L.CenterCrop: [Case(lambda: L.CenterCrop(3, 4))],
    L.Masking: [Case(lambda: L.Masking(), SERIES, frozen="padded steps")],
    L.Rescaling: [Case(lambda: L.Rescaling(0.5)), Case(lambda: L.Rescaling([1.0, 2.0, 3.0, 4.0]), frozen="every feature")],
    L.Reshape: [Case(lambda: L.Reshape((30, 4))), Case(lambda: L.Reshape((-1,)))],
    L.Permute: [Case(lambda: L.Permute((3, 1, 2)))],
    L.RepeatVector: [Case(lambda: L.RepeatVector(3), VECTOR)],
    L.Flatten: [Case(L.Flatten), _first(lambda: L.Flatten(**FIRST))],
    L.Concatenate: [Case(L.Concatenate, call=_both), Case(lambda: L.Concatenate(axis=1), call=_both)],
    L.Dot: [
        Case(lambda: L.Dot(-1), VECTOR, _both, lambda layer, x, y: x[-1]),
        Case(lambda: L.Dot(2), SERIES, _both, lambda layer, x, y: 36 * x[-1]),
        Case(lambda: L.Dot((2, 2), normalize=True), SERIES, _both, lambda layer, x, y: 36 * x[-1]),
        Case(lambda: L.Dot(1), SERIES, _both, lambda layer, x, y: 6 * math.prod(y[1:])),
    ],
    **{kind: [Case(kind, call=_both)] for kind in (L.Add, L.Subtract, L.Multiply, L.Average, L.Maximum, L.Minimum)},
    L.GlobalAveragePooling2D: [
        Case(L.GlobalAveragePooling2D), Case(lambda: L.GlobalAveragePooling2D(keepdims=True)),
        _first(lambda: L.GlobalAveragePooling2D(keepdims=True, **FIRST)), _first(lambda: L.GlobalAveragePooling2D(**FIRST)),
    ],
    **{kind: [Case(kind, SERIES), _first(lambda kind=kind: kind(**FIRST), (4, 6))] for kind in (
        L.MaxPooling1D, L.GlobalMaxPooling1D, L.GlobalAveragePooling1D,
    )},
    L.UpSampling2D: [Case(L.UpSampling2D), _first(lambda: L.UpSampling2D(**FIRST))],
}  # fmt: skip


def _shape(kind):
    return SERIES if "1D" in kind.__name__ else VOLUME if "3D" in kind.__name__ else IMAGE


def cases_of(kind):
    special = {
        "LayerScale": lambda: [Case(lambda: kind(0.5, 4))], "StochasticDepth": lambda: [Case(lambda: kind(0.5))],
        "CustomScaleLayer": lambda: [Case(lambda: kind(0.5), call=_both)],
        "TFOpLambda": lambda: [Case(lambda: kind(tf.math.add), call=lambda layer, x, other: layer(x, other))],
        "SlicingOpLambda": lambda: [
            Case(lambda: kind(tf.__operators__.getitem), call=_sliced)
        ],
    }  # fmt: skip
    return CASES.get(kind) or special.get(kind.__name__, lambda: [Case(kind, _shape(kind))])()


def model_around(case):
    """The layer of a case between Dense layers that make its channels and Dense layers that read what it makes: (model, layer)."""
    layer = case.make()
    if isinstance(layer, L.Embedding):
        inputs = x = keras.Input(case.shape, dtype="int32")
        made = case.call(layer, x, None)
    else:
        shape = (*case.shape[1:], case.shape[0]) if case.first else case.shape
        inputs = keras.Input(shape)
        x, other = (L.Dense(shape[-1], name=name)(inputs) for name in ("before", "other"))
        if case.first:
            x = L.Permute((len(shape), *range(1, len(shape))), name="channels_first")(x)
        made = case.call(layer, x, other)
    outputs = [
        L.Dense(3, name=f"after{i}")(L.Flatten()(y) if len(y.shape) > 2 else y)
        for i, y in enumerate(tf.nest.flatten(made))
    ]
    return keras.Model(inputs, outputs), layer
