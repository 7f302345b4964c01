"""Binds the axis names of a layer's spec to the tensors and weights of one call."""

import numpy as np

from tfmetaprune.channels.map import WeightAxes
from tfmetaprune.layers import get_weight


class Unfollowable(Exception):
    """Raised while a call is followed that has to be frozen; the message is the reason."""


class CallNames:
    """The axis names of one call: those of its flow and those of its weights.

    Attributes:
      inputs, outputs: names of the axes of every tensor; "" for the batch axis.
      weights: weight name -> tokens of its axes, each a list of names (several for a composite axis).
      read, made: names of the inputs and of the outputs (parts of `a+b` apart), in order.
      in_weights: all names in weights.
      alone: names of inputs and outputs that are the one role of every weight they stand in (`io`).
      remade: names of inputs and outputs that weights make anew from what they read (the state of a recurrent layer).
      own: names that this call makes channels for, in order.
    """

    def __init__(self, call, spec, flow):
        self.inputs, self.outputs = bind(flow.pattern, call)
        self.spec = spec
        weights = spec.weights(call.layer)
        named = {id(get_weight(call.layer, name)) for name in weights}
        if any(id(variable) not in named for variable in call.layer.weights):
            raise Unfollowable("it has weights that its LayerSpec does not name")
        self.weights = {name: [token.split("*") for token in axes.split()] for name, axes in weights.items()}
        self.read = list(dict.fromkeys(name for axes in self.inputs for name in axes if name))
        self.made = list(dict.fromkeys(part for axes in self.outputs for name in axes if name for part in name.split("+")))
        named = {name for axes in self.weights.values() for token in axes for name in token}
        self.in_weights = named | ({"in"} if "in/groups" in named else set())
        possible = {*self.read, *self.made, *spec.internal, *spec.aliases}
        self.alone = {
            name for name in {*self.read} & {*self.made} & self.in_weights
            if all(
                sum(part in possible for token in axes for part in token) == 1
                for axes in self.weights.values() if any(name in token for token in axes)
            )
        }  # fmt: skip
        ends = {*spec.internal, *self.made} - {*self.read}
        self.remade = {
            name for name in {*self.read} & {*self.made} & self.in_weights - self.alone
            if any(
                any(name in token for token in axes) and not any(part in ends for token in axes for part in token)
                for axes in self.weights.values()
            )
        }  # fmt: skip
        possible = dict.fromkeys([*spec.internal, *self.made])
        self.own = [
            name for name in possible if name in self.in_weights and (name not in self.read or name in self.remade)
        ]  # fmt: skip

    def width(self, layer, name) -> int | None:
        """Length of an axis that the weights alone tell; None if they do not."""
        names = {name, *(alias for alias, role in self.spec.aliases.items() if role == name)}
        for weight, axes in self.weights.items():
            for axis, token in enumerate(axes):
                if len(token) == 1 and token[0] in names:
                    return int(get_weight(layer, weight).shape[axis])
        return None

    def weight_axes(self, layer, weight, roles) -> WeightAxes:
        """Takes the axes of one weight apart and tells which are read and which are made."""
        names, shape, merged = [], [], []
        for token, length in zip(self.weights[weight], get_weight(layer, weight).shape, strict=True):
            known = [sum(part.length for part in roles[name]) if name in roles else None for name in token]
            if len(token) == 1:
                if known[0] not in (None, int(length)):
                    raise Unfollowable(f"axis {token[0]!r} of weight {weight!r} has {length} channels, the tensors have {known[0]}")
                known = [int(length)]
            unknown = int(length) // int(np.prod([one for one in known if one is not None], dtype=np.int64))
            names += token
            shape += [unknown if one is None else one for one in known]
            merged.append(len(token))
        if int(np.prod(shape)) != int(np.prod(get_weight(layer, weight).shape)):
            raise Unfollowable(f"weight {weight!r} of shape {tuple(get_weight(layer, weight).shape)} has other axes")
        per_channel = next((name.partition("/")[0] for name in names if name.endswith("/in")), None)
        if per_channel is not None:
            source, target = (names.index("in"),), (names.index(f"{per_channel}/in"),)
            return WeightAxes(tuple(names), tuple(shape), tuple(merged), source, target, per_channel)
        made = ({*self.made} - {*self.read} - {*self.spec.internal}) | self.remade
        internal = [axis for axis, name in enumerate(names) if name in self.spec.internal and name in roles]
        ends = [axis for axis, name in enumerate(names) if name in made and name in roles]
        alone = [axis for axis, name in enumerate(names) if name in self.alone and name in roles]
        reads = {*self.read, *self.spec.aliases} - {*self.made}
        source = [axis for axis, name in enumerate(names) if (name in reads and name in roles) or name == "in/groups"]
        target = [*internal, *ends, *alone]
        if not source and ends:
            source, target = internal, ends
        return WeightAxes(
            tuple(names), tuple(shape), tuple(merged), tuple(source), tuple(sorted(target)),
            grouped="in/groups" in names,
        )  # fmt: skip


def bind(pattern, call):
    """Names of the axes of every tensor read and made."""
    sides = [[part.split() for part in side.split(",")] for side in pattern.split("->")]
    result = []
    for patterns, shapes, what in zip(sides, (call.input_shapes, call.output_shapes), ("inputs", "outputs")):
        if len(patterns) != len(shapes):
            raise Unfollowable(f"its LayerSpec names {len(patterns)} {what}, the call has {len(shapes)}")
        result.append(tuple(_expand(names, len(shape)) for names, shape in zip(patterns, shapes)))
    return result


def _expand(names, rank) -> tuple[str, ...]:
    if "..." in names:
        at, count = names.index("..."), rank - len(names) + 1
        names = [*names[:at], *(f"...{count - i}" for i in range(count)), *names[at + 1 :]]
    if len(names) != rank:
        raise Unfollowable(f"its LayerSpec names {len(names)} axes of a tensor that has {rank}")
    return ("", *names[1:]) if names else ()
