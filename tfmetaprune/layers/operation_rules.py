"""What functions of tensors do with channels, whatever they are called in TensorFlow and Keras 3.

A `Rule` says for one family of functions how channels pass through (`flow`) and which arguments change when channels go
(`narrow`). The tables in `operations.py` and `operations3.py` map the names of functions to rules. Here are the rules for
functions of one number at a time; those that work along axes are in `operation_axes.py`, those that move numbers around in
`operation_moves.py`.
"""

import abc
import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from tfmetaprune._keras import tf
from tfmetaprune.layers.spec import Elementwise, Flow, Frozen, LayerCall, Length, Narrowing, TensorIndex


@dataclasses.dataclass(frozen=True)
class Operation:
    """One call of a function, its arguments by name.

    Attributes:
      call: the call.
      values: parameter -> argument, with `TensorIndex`es for tensors; several of one parameter (`*inputs`) are named
        "inputs.0", "inputs.1", ...
      positions: parameter -> which of the call's inputs stand in its argument.
      slots: parameter -> where the call has it: a position among `args`, or a key of `kwargs`.
    """

    call: LayerCall
    values: Mapping[str, Any]
    positions: Mapping[str, range]
    slots: Mapping[str, int | str]

    @classmethod
    def of(cls, call: LayerCall, parameters: tuple[str, ...], rest: str | None, given: Mapping[str, Any]) -> "Operation":
        """Names the arguments of a call.

        Args:
          call: the call.
          parameters: the function's parameters in order.
          rest: the parameter that takes any number of arguments; None if there is none.
          given: arguments that the call itself does not have: those of the constructor.
        """
        names = (*parameters[: len(call.args)], *(f"{rest}.{i}" for i in range(len(call.args) - len(parameters))))
        values, positions, slots, count = dict(given), {}, {}, 0
        arguments = [(name, at, value) for at, (name, value) in enumerate(zip(names, call.args, strict=True))]
        for name, slot, value in [*arguments, *((key, key, call.kwargs[key]) for key in call.kwargs)]:
            found = sum(isinstance(leaf, TensorIndex) for leaf in tf.nest.flatten(value))
            values[name], slots[name], positions[name] = value, slot, range(count, count + found)
            count += found
        return cls(call, values, positions, slots)

    def get(self, *names: str, default=None):
        """Returns the first argument of these names that is given and not None."""
        return next((self.values[name] for name in names if self.values.get(name) is not None), default)

    def is_tensor(self, name: str) -> bool:
        """Whether an argument is a tensor of the model."""
        return isinstance(self.values.get(name), TensorIndex)

    def rank(self, name: str) -> int:
        """Number of axes of an argument, a tensor or a constant."""
        if self.is_tensor(name):
            return len(self.call.input_shapes[self.positions[name][0]])
        return len(np.shape(self.values[name]))

    def replaced(self, changes: Mapping[str, Any]) -> tuple[tuple, dict]:
        """Returns the call's args and kwargs with other values."""
        args, kwargs = list(self.call.args), dict(self.call.kwargs)
        for name, value in changes.items():
            if isinstance(self.slots.get(name), int):
                args[self.slots[name]] = value
            elif name in self.slots:
                kwargs[name] = value
        return tuple(args), kwargs


class Rule(abc.ABC):
    """How channels pass through a family of functions. Stateless beside what its constructor says."""

    @abc.abstractmethod
    def flow(self, op: Operation) -> Flow:
        """Tells how channels pass through this call."""

    def narrow(self, op: Operation, narrowing: Narrowing) -> dict[str, Any]:
        """Returns the arguments that change when channels go, by parameter."""
        del op, narrowing
        return {}


def is_constant(value) -> bool:
    """Whether an argument is a number or an array of numbers, without tensors of the model in it."""
    leaves = tf.nest.flatten(value)
    if value is None or any(isinstance(leaf, (TensorIndex, str, slice, tf.dtypes.DType)) for leaf in leaves):
        return False
    try:
        return all(np.asarray(leaf).dtype.kind in "biuf" or tf.is_tensor(leaf) for leaf in leaves)
    except (TypeError, ValueError):
        return False


def take(value, kept: np.ndarray, axis: int):
    """Returns what remains of a constant along one axis, a constant of the same kind."""
    if isinstance(value, (list, tuple)):
        return np.take(np.array(value, dtype=object), kept, axis).tolist()
    if tf.is_tensor(value) or isinstance(value, tf.Variable):
        return tf.constant(np.take(np.asarray(value), kept, axis), value.dtype)
    return np.take(value, kept, axis)


class Numbers(Rule):
    """Number meets number; constants that have one number a channel lose those of the channels that go."""

    def flow(self, op):
        if any(isinstance(value, tf.Variable) and value.shape.rank for value in op.values.values()):
            return Frozen("it computes with a variable that no layer holds")
        return Elementwise()

    def narrow(self, op, narrowing):
        changes, rank = {}, len(narrowing.call.output_shapes[0])
        for name, value in op.values.items():
            if not is_constant(value):
                continue
            shape = np.shape(value)
            for axis, kept in narrowing.outputs[0].items():
                own = axis - rank + len(shape)
                if own >= 0 and shape[own] == narrowing.call.output_shapes[0][axis]:
                    changes[name] = take(changes.get(name, value), kept, own)
        return changes


class Where(Numbers):
    """Chooses number by number; with the condition alone it asks where numbers are, which nobody knows beforehand."""

    def flow(self, op):
        if op.get("x", "x1") is None:
            return Frozen("how many numbers it makes depends on the data")
        return super().flow(op)


class EnsureShape(Rule):
    """Passes everything on, and has the shape among its arguments."""

    def flow(self, op):
        return Elementwise()

    def narrow(self, op, narrowing):
        kept = narrowing.outputs[0]
        return {"shape": [len(kept[axis]) if axis in kept else length for axis, length in enumerate(op.values["shape"])]}


class Shape(Rule):
    """Asks for the shape."""

    def flow(self, op):
        return Length()
