"""Steps of several layers: models in models, shared layers, layers of one's own."""

from zoo import ChannelShift

from random_steps.layers import conv
from random_steps.maker import layer_class, step
from tfmetaprune._keras import keras

L = keras.layers


def _inner(make, x, choices, width):
    """A small model over tensors of the shape of `x` that makes `width` channels."""
    inputs, name = keras.Input(x.shape[1:], dtype=x.dtype), make.name("model")
    names = [f"{name}_{i}" for i in range(4)] if choices.flag() else ["inner_a", "inner_b", "inner_c", "inner_d"]
    layers = [L.Dense(choices.upto(8), name=names[0]), L.BatchNormalization(name=names[1]), L.ReLU(name=names[2])]
    last = L.Dense(width, name=names[3])
    how = choices.of("sequential", "functional", "deep")
    if how == "sequential":
        return keras.Sequential([keras.Input(x.shape[1:], dtype=x.dtype), *layers, last], name=name)
    y = inputs
    for layer in layers:
        y = layer(y)
    if how == "deep":
        deep = keras.Sequential([keras.Input(y.shape[1:], dtype=x.dtype), L.Dense(y.shape[-1], name="deepest")], name="deep")
        y = L.Add(name="inner_add")([y, deep(y)])
    return keras.Model(inputs, last(y), name=name)


@step(1, 2, 3)
def nested_model(make, x, choices):
    same = make.others(x, lambda other: other.shape[1:] == x.shape[1:])
    how = choices.of("once", "once", "repeated", "on two")
    model = _inner(make, x, choices, x.shape[-1] if how == "repeated" else choices.upto(6))
    if how == "repeated":
        return model(model(x))
    return [model(x), model(make.use(choices.of(*same)))] if how == "on two" and same else model(x)


@step(1, 2, 3)
def nested_outputs(make, x, choices):
    inputs = [keras.Input(x.shape[1:], dtype=x.dtype) for _ in range(2)]
    hidden = L.Dense(choices.upto(6), "relu", name="hidden")(L.Add(name="sum")(inputs))
    model = keras.Model(inputs, [hidden, L.Dense(choices.upto(6), name="second")(hidden)], name=make.name("pair_model"))
    return list(model([x, make.partner(x, choices)]))


@step(1, 2, 3)
def shared_layer(make, x, choices):
    width, name = x.shape[-1], make.name("shared")
    layer = choices.of(
        lambda: L.Dense(width, name=name), lambda: L.BatchNormalization(name=name),
        lambda: L.LayerNormalization(name=name), lambda: L.Dense(width, "tanh", name=name),
    )()  # fmt: skip
    return layer(layer(x)) if choices.flag() else [layer(x), layer(make.partner(x, choices))]


@step(2, 3)
def shared_conv(make, x, choices):
    if make.format(x):
        return conv(make, x, choices)
    same = make.others(x, lambda y: len(y.shape) == len(x.shape) and y.shape[-1] == x.shape[-1] and not make.format(y))
    layer = layer_class("Conv{}D", x)(choices.upto(6), 2, padding="same", name=make.name("shared_conv"))
    return [layer(x), layer(make.use(choices.of(*same)) if same else make.partner(x, choices))]


@step(1, 2, 3)
def unknown_layer(make, x, choices):
    return ChannelShift(name=make.name("unknown"))(x)
