"""Steps of layers that mix tensors or positions: merges, attention, recurrent layers."""

from random_steps.layers import global_pooling
from random_steps.maker import is_large, layer_class, step
from tfmetaprune._keras import keras, tf

L = keras.layers

# Merges


@step(1, 2, 3, 4)
def merge(make, x, choices):
    kind = choices.of("Add", "Multiply", "Subtract", "Average", "Maximum", "Minimum")
    tensors = [x, make.partner(x, choices)]
    if kind != "Subtract" and choices.upto(4) == 4:
        tensors.append(make.partner(x, choices))
    return getattr(L, kind)(name=make.name(kind.lower()))(tensors)


@step(1, 2, 3, 4)
def residual(make, x, choices):
    if make.format(x):
        return merge(make, x, choices)
    y = L.Dense(choices.upto(8), "relu", name=make.name("residual_up"))(x)
    return L.Add(name=make.name("residual"))([x, L.Dense(x.shape[-1], name=make.name("residual_down"))(y)])


@step(2, 3)
def squeeze_excite(make, x, choices):
    if make.format(x):
        return global_pooling(make, x, choices)
    s = layer_class("GlobalAveragePooling{}D", x)(keepdims=choices.flag(), name=make.name("squeeze"))(x)
    s = L.Dense(choices.upto(4), "relu", name=make.name("reduce"))(s)
    s = L.Dense(choices.of(x.shape[-1], x.shape[-1], 1), "sigmoid", name=make.name("expand"))(s)
    if len(s.shape) == 2:
        s = L.Reshape((*[1] * (len(x.shape) - 2), s.shape[-1]), name=make.name("excite_shape"))(s)
    return choices.of(L.Multiply(name=make.name("excite")), lambda pair: pair[0] * pair[1])([x, s])


@step(1, 2, 3, 4)
def concatenate(make, x, choices):
    axis = choices.upto(len(x.shape) - 1) if choices.upto(3) == 3 else make.axis(x) % len(x.shape)

    def fits(other):
        return len(other.shape) == len(x.shape) and all(
            one == two for i, (one, two) in enumerate(zip(x.shape, other.shape)) if i != axis
        )

    fitting = make.others(x, fits)
    others = [make.use(choices.of(*fitting))] if fitting else [make.partner(x, choices)]
    if choices.upto(4) == 4:
        others.append(x)
    if is_large(x):
        others = others[:1]
    if choices.flag():
        return L.Concatenate(axis=axis, name=make.name("concat"))([x, *others])
    return tf.concat([x, *others], axis)


def _equally_wide(make, x, choices):
    """A tensor with the rank and the last axis of `x`."""
    others = make.others(x, lambda y: len(y.shape) == len(x.shape) and y.shape[-1] == x.shape[-1])
    return make.use(choices.of(*others)) if others and choices.flag() else make.partner(x, choices)


@step(1, 2)
def dot(make, x, choices):
    other = _equally_wide(make, x, choices)
    axes = choices.of(-1, -1, 1) if len(x.shape) == 3 and x.shape[1] == other.shape[1] else -1
    return L.Dot(axes=axes, normalize=choices.upto(4) == 4, name=make.name("dot"))([x, other])


# Attention


@step(2, 3)
def attention_heads(make, x, choices):
    kwargs = {"value_dim": choices.of(None, choices.upto(4)), "use_bias": not choices.flag()}
    others = make.others(x, lambda y: len(y.shape) == len(x.shape)) if len(x.shape) == 3 else []
    value = make.use(choices.of(*others)) if others and choices.flag() else x
    if choices.upto(4) == 4:
        kwargs["output_shape"] = choices.upto(6)
    layer = L.MultiHeadAttention(choices.upto(4), choices.upto(4), name=make.name("heads"), **kwargs)
    key = [make.partner(value, choices)] if choices.upto(4) == 4 else []
    return layer(x, value, *key)


@step(2)
def attention(make, x, choices):
    value = _equally_wide(make, x, choices)
    inputs = [x, value] + ([make.partner(value, choices)] if choices.flag() else [])
    if choices.flag():
        return L.AdditiveAttention(use_scale=not choices.flag(), name=make.name("additive"))(inputs)
    scores = choices.of("dot", "concat")
    return L.Attention(use_scale=choices.flag(), score_mode=scores, name=make.name("attention"))(inputs)


# Recurrent layers


def _recurrent(make, choices, **kwargs):
    kind, name = choices.of("LSTM", "GRU", "SimpleRNN"), make.name("recurrent")
    if kind == "GRU":
        kwargs["reset_after"] = not choices.flag()
    return getattr(L, kind)(choices.upto(5), use_bias=not choices.flag(), name=name, **kwargs)


@step(2)
def recurrent(make, x, choices):
    sequences = not choices.flag()
    return _recurrent(make, choices, return_sequences=sequences, go_backwards=choices.upto(4) == 4)(x)


@step(2)
def recurrent_states(make, x, choices):
    outputs = _recurrent(make, choices, return_sequences=True, return_state=True)(x)
    if choices.flag():
        return list(outputs)
    units = outputs[0].shape[-1]
    if len(outputs) != 3:
        return outputs[0]
    return L.LSTM(units, return_sequences=choices.flag(), name=make.name("decoder"))(x, initial_state=list(outputs[1:]))


@step(2)
def bidirectional(make, x, choices):
    layer = _recurrent(make, choices, return_sequences=not choices.flag())
    return L.Bidirectional(layer, merge_mode=choices.of("concat", "sum", "mul", "ave"), name=make.name("both_ways"))(x)


@step(2, 3)
def time_distributed(make, x, choices):
    layers = [lambda: L.Dense(choices.upto(6)), L.BatchNormalization, L.LayerNormalization]
    if len(x.shape) == 4:
        layers += [lambda: L.Conv1D(choices.upto(6), 2, padding="same"), L.Flatten, L.GlobalAveragePooling1D]
    return L.TimeDistributed(choices.of(*layers)(), name=make.name("each_step"))(x)


@step(4)
def conv_lstm(make, x, choices):
    return L.ConvLSTM2D(choices.upto(4), 2, padding="same", return_sequences=choices.flag(), name=make.name("conv_lstm"))(x)
