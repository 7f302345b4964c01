"""Rules for functions that work along axes: their axes get names, and the rest follows (see `operation_rules.py`)."""

import abc
import dataclasses
import re
from collections.abc import Mapping

import numpy as np

from tfmetaprune._keras import tf
from tfmetaprune.layers.operation_rules import Operation, Rule, is_constant, take
from tfmetaprune.layers.spec import Axes, Frozen


def axis_names(rank: int) -> list[str]:
    """Returns names for the axes of a tensor, different ones."""
    return [f"a{axis}" for axis in range(rank)]


def axes_of(axis, rank: int) -> tuple[int, ...]:
    """Returns an `axis` argument (None: all) as numbers in [0, rank)."""
    return tuple(range(rank)) if axis is None else tuple(int(one) % rank for one in np.atleast_1d(axis))


@dataclasses.dataclass(frozen=True)
class AxisNames:
    """Names for the axes of everything an operation reads and makes.

    Attributes:
      operands: parameter -> names of its axes; of a tensor, a list of tensors alike, or a constant.
      outputs: names of the axes of every output.
      sums: names over whose positions products are summed.
      frozen: names whose channels have to stay -> why.
    """

    operands: Mapping[str, list[str]]
    outputs: list[list[str]]
    sums: tuple[str, ...] = ()
    frozen: Mapping[str, str] = dataclasses.field(default_factory=dict)


class Named(Rule):
    """A rule that follows from names for the axes; constants are narrowed along the names that lose channels."""

    @abc.abstractmethod
    def names(self, op: Operation) -> AxisNames | Frozen:
        """Names the axes."""

    def flow(self, op):
        names = self.names(op)
        if isinstance(names, Frozen):
            return names
        inputs = _input_names(op, names)
        if len(inputs) != len(op.call.inputs):
            return Frozen("one of its options is a tensor")
        batch = {axes[0] for axes in inputs if axes}
        if len(batch) > 1 or any(name in batch for axes in inputs for name in axes[1:]):
            return Frozen("it reads the batch axis of one tensor with another axis of another")
        if any(isinstance(op.values.get(name), tf.Variable) for name in names.operands):
            return Frozen("it computes with a variable that no layer holds")
        pattern = " -> ".join(", ".join(" ".join(axes) for axes in side) for side in (inputs, names.outputs))
        return Axes(pattern, sums=names.sums, frozen=names.frozen)

    def narrow(self, op, narrowing):
        names = self.names(op)
        kept = {}
        sides = (*zip(_input_names(op, names), narrowing.inputs), *zip(names.outputs, narrowing.outputs))
        for axes, remaining in sides:
            kept.update({axes[axis]: indices for axis, indices in remaining.items()})
        changes = {}
        for name, axes in names.operands.items():
            if is_constant(op.values.get(name)):
                for axis, length in enumerate(np.shape(op.values[name])):
                    if axes[axis] in kept and length != 1:
                        changes[name] = take(changes.get(name, op.values[name]), kept[axes[axis]], axis)
        return changes


def _input_names(op, names) -> list[list[str]]:
    found = {at: axes for name, axes in names.operands.items() for at in op.positions.get(name, ())}
    return [found[at] for at in sorted(found)]


class _OverAxis(Named):
    """A function of one tensor that works along some axes.

    Args:
      *operand: names of the parameter that holds the tensor; None stands for the first.
      axis: names of the parameter that holds the axes.
      default: the axes if it is not given; None for all.
    """

    def __init__(self, *, axis=("axis", "axes", "dim", "dimension"), default=None, keepdims=("keepdims", "keep_dims")):
        self.axis, self.default, self.keepdims = axis, default, keepdims

    def read(self, op) -> tuple[str, list[str], tuple[int, ...]]:
        """The tensor's parameter, names of its axes, and the axes worked along."""
        operand = next(name for name, positions in op.positions.items() if positions)
        names = axis_names(op.rank(operand))
        return operand, names, axes_of(op.get(*self.axis, default=self.default), len(names))


class Mixing(_OverAxis):
    """Makes a tensor of the same axes; what stands along some of them is mixed, normalised, ordered or shifted."""

    def names(self, op):
        operand, names, axes = self.read(op)
        reason = "it mixes the channels"
        outputs = [
            [f"{name}mixed" if axis in axes and shape[axis] != op.call.input_shapes[0][axis] else name
             for axis, name in enumerate(names)] for shape in op.call.output_shapes
        ]  # fmt: skip
        return AxisNames({operand: names}, outputs, frozen={names[axis]: reason for axis in axes if axis})


class Reduce(_OverAxis):
    """Makes one number of all that stand along some axes.

    Args:
      total: whether it is their sum, which a channel that is gone adds nothing to.
      **kwargs: see `Mixing`.
    """

    def __init__(self, *, total=False, **kwargs):
        super().__init__(**kwargs)
        self.total = total

    def names(self, op):
        operand, names, axes = self.read(op)
        if op.get(*self.keepdims, default=False):
            made = [f"{name}one" if axis in axes else name for axis, name in enumerate(names)]
        else:
            made = [name for axis, name in enumerate(names) if axis not in axes]
        sums = tuple(names[axis] for axis in axes if axis) if self.total and 0 not in axes else ()
        return AxisNames({operand: names}, [made for _ in op.call.outputs], sums)


class Stack(_OverAxis):
    """Lays tensors of equal shape side by side along a new axis."""

    def names(self, op):
        operand = next(name for name, positions in op.positions.items() if positions)
        if len(op.positions[operand]) != len(op.values[operand]):
            return Frozen("it joins them with a constant")
        names = axis_names(len(op.call.input_shapes[0]))
        axis = int(op.get("axis", default=0)) % (len(names) + 1)
        return AxisNames({operand: names}, [[*names[:axis], "stacked", *names[axis:]]])


class OneHot(_OverAxis):
    """Makes an axis of every number."""

    def names(self, op):
        operand = next(name for name, positions in op.positions.items() if positions)
        names = axis_names(op.rank(operand))
        axis = int(op.get("axis", default=-1)) % (len(names) + 1)
        return AxisNames({operand: names}, [[*names[:axis], "hot", *names[axis:]]])


class Spatial(Named):
    """Works on the positions of feature maps and leaves the channels where they are: pooling, resampling, cropping."""

    def names(self, op):
        operand = next(name for name, positions in op.positions.items() if positions)
        names = axis_names(op.rank(operand))
        channel = channel_axis(op, len(names))
        window = op.get("ksize", "window_shape", "pool_size")
        if np.size(window) == len(names) and np.reshape(window, -1)[channel] != 1:
            return Frozen("its window reaches over several channels")
        if len(names) < 3:
            return Frozen("its input is no batch of feature maps")
        made = [name if axis in (0, channel) else f"{name}moved" for axis, name in enumerate(names)]
        return AxisNames({operand: names}, [made for _ in op.call.outputs])


def channel_axis(op: Operation, rank: int) -> int:
    """Returns the axis that `data_format` says the channels lie on."""
    data_format = str(op.get("data_format", default="channels_last"))
    return 1 if data_format == "channels_first" or data_format.startswith("NC") else rank - 1


class BiasAdd(Named):
    """Adds a number of its own to every channel."""

    def names(self, op):
        names = axis_names(op.rank("value"))
        return AxisNames({"value": names, "bias": [names[channel_axis(op, len(names))]]}, [names])


class Pad(Named):
    """Makes axes longer: those of positions may, those of channels have to stay."""

    def names(self, op):
        operand = next(name for name, positions in op.positions.items() if positions)
        widths = op.get("paddings", "pad_width")
        names = axis_names(op.rank(operand))
        if not is_constant(widths):
            return Frozen("how far it pads is a tensor")
        widths = np.broadcast_to(np.asarray(widths), (len(names), 2))
        made = [f"{name}padded" if width.any() else name for name, width in zip(names, widths)]
        return AxisNames({operand: names}, [made])


class Matmul(Named):
    """Matrix products, batched; either side may be a constant.

    Args:
      first, second: the parameters that hold the factors.
    """

    def __init__(self, first="a", second="b"):
        self.first, self.second = first, second

    def names(self, op):
        ranks = op.rank(self.first), op.rank(self.second)
        if min(ranks) < 2:
            return Frozen("it multiplies by a vector")
        batch = [f"d{axis}" for axis in range(max(ranks) - 2, 0, -1)]
        sides = []
        for factor, rank, ends in zip("ab", ranks, (["m", "k"], ["k", "n"])):
            flipped = op.get(f"transpose_{factor}", default=False) or op.get(f"adjoint_{factor}", default=False)
            sides.append([*batch[len(batch) - rank + 2 :], *(reversed(ends) if flipped else ends)])
        return AxisNames(dict(zip((self.first, self.second), sides)), [[*batch, "m", "n"]], sums=("k",))


class Tensordot(Named):
    """Sums products over pairs of axes; either side may be a constant."""

    def __init__(self, first="a", second="b"):
        self.first, self.second = first, second

    def names(self, op):
        first = [f"a{axis}" for axis in range(op.rank(self.first))]
        second = [f"b{axis}" for axis in range(op.rank(self.second))]
        axes = op.get("axes", default=2)
        if not is_constant(axes):
            return Frozen("the axes it sums over are a tensor")
        if np.ndim(axes) == 0:
            axes = [range(len(first) - axes, len(first)), range(axes)]
        pairs = list(zip(*(axes_of(one, len(side)) for one, side in zip(axes, (first, second)))))
        sums = tuple(f"s{index}" for index in range(len(pairs)))
        for name, (one, other) in zip(sums, pairs):
            first[one] = second[other] = name
        made = [name for name in (*first, *second) if name not in sums]
        return AxisNames({self.first: first, self.second: second}, [made], sums)


class Einsum(Named):
    """Sums of products by an equation; any operand may be a constant."""

    def names(self, op):
        equation = op.get("equation", "subscripts").replace(" ", "")
        operands = [name for name in op.values if re.fullmatch(r"(inputs|operands)\.\d+", name)]
        left, arrow, made = equation.partition("->")
        sides = left.split(",")
        ranks = [op.rank(name) for name in operands]
        spread = max((rank - len(side) + 3 for rank, side in zip(ranks, sides) if "..." in side), default=0)
        if not arrow:
            letters = "".join(sides).replace("...", "")
            made = "..." * ("..." in left) + "".join(sorted(letter for letter in set(letters) if letters.count(letter) == 1))
        names = [_expand(side, rank - len(side) + 3) for side, rank in zip(sides, ranks)]
        made = _expand(made, spread)
        if any(len({*axes}) < len(axes) for axes in names):
            return Frozen("it reads a diagonal")
        sums = tuple(dict.fromkeys(name for axes in names for name in axes if name not in made))
        return AxisNames(dict(zip(operands, names)), [made], sums)


def _expand(side: str, spread: int) -> list[str]:
    """Names of the axes of one operand of an equation; "..." stands for `spread` axes."""
    head, dots, tail = side.partition("...")
    middle = [f"e{axis}" for axis in range(spread, 0, -1)] if dots else []
    return [*head, *middle, *tail]
