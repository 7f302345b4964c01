"""Rules for functions that move numbers around: reshapes, slices, splits, gathers (see `operation_rules.py`)."""

import dataclasses

import numpy as np

from tfmetaprune.layers.operation_axes import AxisNames, Named, axes_of, axis_names
from tfmetaprune.layers.operation_rules import Operation, Rule, is_constant, take
from tfmetaprune.layers.spec import Concat, Frozen, Moves, TensorIndex


class Move(Rule):
    """Moves numbers without any lengths among its arguments."""

    def flow(self, op):
        return Moves()


class Stay(Rule):
    """Does something with channels that there is no way to narrow.

    Args:
      reason: what it does.
    """

    def __init__(self, reason):
        self.reason = reason

    def flow(self, op):
        return Frozen(self.reason)


class Join(Rule):
    """Lines tensors up along an axis."""

    def flow(self, op):
        operand = next(name for name, positions in op.positions.items() if positions)
        if not isinstance(op.values[operand], (list, tuple)) or len(op.positions[operand]) != len(op.values[operand]):
            return Frozen("it joins them with a constant")
        axis = op.get("axis", default=0)
        return Concat(int(axis)) if is_constant(axis) else Frozen("its axis is a tensor")


class Reshape(Rule):
    """Has the new shape among its arguments; lengths that are unknown (-1) or tensors are worked out anew by themselves.

    Args:
      parameter: the parameter that holds the shape.
    """

    def __init__(self, parameter="shape"):
        self.parameter = parameter

    def flow(self, op):
        return Moves()

    def narrow(self, op, narrowing):
        shape = op.values[self.parameter]
        if isinstance(shape, TensorIndex):
            return {}
        lengths = list(shape) if isinstance(shape, (list, tuple)) else np.asarray(shape).tolist()
        missing = len(narrowing.output_shapes[0]) - len(lengths)
        return {
            self.parameter: [
                len(narrowing.outputs[0][axis + missing])
                if axis + missing in narrowing.outputs[0] and is_constant(length) and length not in (None, -1)
                else length
                for axis, length in enumerate(lengths)
            ]
        }


class Repeat(Rule):
    """Repeats what stands along an axis, each position as often as all, or each as often as a constant says."""

    def flow(self, op):
        repeats = op.get("repeats")
        return Moves() if is_constant(repeats) else Frozen("how often it repeats is a tensor")

    def narrow(self, op, narrowing):
        repeats, axis = op.get("repeats"), op.get("axis")
        kept = {} if axis is None else narrowing.inputs[0]
        at = axes_of(axis, len(narrowing.call.input_shapes[0]))[0]
        return {"repeats": take(repeats, kept[at], 0)} if np.size(repeats) > 1 and at in kept else {}


class Split(Rule):
    """Cuts an axis into pieces.

    Args:
      parameter: the parameter that says how.
      cuts: whether it holds where the cuts are, instead of the pieces' lengths.
    """

    def __init__(self, parameter="num_or_size_splits", cuts=False):
        self.parameter, self.cuts = parameter, cuts

    def flow(self, op):
        return Moves() if is_constant(op.values[self.parameter]) else Frozen("how it splits is a tensor")

    def narrow(self, op, narrowing):
        axis = int(op.get("axis", default=0)) % len(narrowing.call.input_shapes[0])
        if axis not in narrowing.inputs[0]:
            return {}
        sizes = [shape[axis] for shape in narrowing.output_shapes]
        return {self.parameter: [int(cut) for cut in np.cumsum(sizes)[:-1]] if self.cuts else sizes}


class Gather(Named):
    """Takes what stands at some indices of an axis.

    With constant indices it is a move, and the indices are numbered anew; otherwise channels on the axis have to stay.

    Args:
      operand: the parameter that holds what is read.
      flatten: whether the function flattens its operand when no axis is given.
    """

    def __init__(self, operand="params", flatten=False):
        self.operand, self.flatten = operand, flatten

    def _moves(self, op):
        indices = op.values["indices"]
        return is_constant(indices) and np.ndim(indices) < 2 and not op.get("batch_dims", default=0) and op.is_tensor(self.operand)

    def flow(self, op):
        if self.flatten and op.get("axis") is None or not is_constant(op.get("axis", default=0)):
            return Frozen("it gathers from all axes at once")
        return Moves() if self._moves(op) else super().flow(op)

    def names(self, op):
        whole, picked = axis_names(op.rank(self.operand)), [f"i{axis}" for axis in range(op.rank("indices"))]
        batch = int(op.get("batch_dims", default=0))
        axis = int(op.get("axis", default=batch)) % len(whole)
        picked[:batch] = whole[:batch]
        if op.is_tensor(self.operand) and op.is_tensor("indices") and not batch:
            return Frozen("it gathers across the batch")
        return AxisNames({self.operand: whole, "indices": picked}, [[*whole[:axis], *picked[batch:], *whole[axis + 1 :]]])

    def narrow(self, op, narrowing):
        if not self._moves(op):
            return super().narrow(op, narrowing)
        axis = int(op.get("axis", default=0)) % len(narrowing.call.input_shapes[0])
        if axis not in narrowing.inputs[0]:
            return {}
        indices = np.asarray(op.values["indices"]) % narrowing.call.input_shapes[0][axis]
        if indices.ndim and axis in narrowing.outputs[0]:
            indices = indices[narrowing.outputs[0][axis]]
        return {"indices": np.searchsorted(narrowing.inputs[0][axis], indices).tolist()}


class Slice(Named):
    """Takes a box out of a tensor, by where it begins and how long it is.

    Args:
      operand, begin, size: the parameters; a size of -1 means up to the end.
    """

    def __init__(self, operand="input_", begin="begin", size="size"):
        self.operand, self.begin, self.size = operand, begin, size

    def _lists(self, op):
        return [
            list(value) if isinstance(value, (list, tuple)) else None if isinstance(value, TensorIndex)
            else np.asarray(value).tolist() for value in (op.values[self.begin], op.values[self.size])
        ]  # fmt: skip

    def flow(self, op):
        begin, _ = self._lists(op)
        return super().flow(op) if begin is None or not is_constant(begin[1:]) else Moves()

    def names(self, op):
        del op
        return Frozen("where it begins is a tensor")

    def narrow(self, op, narrowing):
        begin, size = self._lists(op)
        for axis, kept in narrowing.inputs[0].items():
            begin[axis] = int(np.count_nonzero(kept < begin[axis]))
            if size is not None and is_constant(size[axis]) and size[axis] != -1:
                size[axis] = narrowing.output_shapes[0][axis]
        return {self.begin: begin} | ({} if size is None else {self.size: size})


@dataclasses.dataclass(frozen=True)
class _Part:
    """One entry of an index, `x[entry, ...]`, and the axes it reads and makes (None for none)."""

    entry: object
    read: int | None
    made: int | None


class GetItem(Named):
    """`x[..., :4]`, `x[:, 0]`, `x[:, None]`: bounds are numbered anew where channels go.

    Args:
      operand, key: the parameters that hold the tensor and the index.
    """

    def __init__(self, operand="tensor", key="slice_spec"):
        self.operand, self.key = operand, key

    def _parts(self, op: Operation) -> list[_Part]:
        key, rank = op.values[self.key], op.rank(self.operand)
        entries = [_as_slice(entry) for entry in (key if isinstance(key, (list, tuple)) else (key,))]
        reading = sum(entry is not None and entry is not Ellipsis for entry in entries)
        at = next((at for at, entry in enumerate(entries) if entry is Ellipsis), len(entries))
        entries[at : at + 1] = [slice(None)] * (rank - reading)
        parts, read, made = [], 0, 0
        for entry in entries:
            reads, makes = entry is not None, entry is None or isinstance(entry, slice)
            parts.append(_Part(entry, read if reads else None, made if makes else None))
            read, made = read + reads, made + makes
        return parts

    def flow(self, op):
        parts = self._parts(op)
        if any(not isinstance(part.entry, (slice, TensorIndex, type(None))) and np.ndim(part.entry) for part in parts):
            return Frozen("it is indexed by an array")
        return Moves() if all(_can_be_moved(part.entry) for part in parts if part.read != 0) else super().flow(op)

    def names(self, op):
        names, made = axis_names(op.rank(self.operand)), []
        for part in self._parts(op):
            if part.made is not None:
                passes = part.read is not None and (part.read == 0 or part.entry == slice(None))
                made.append(names[part.read] if passes else f"{part.made}made")
        if len(op.call.inputs) > 1:
            return Frozen("it is indexed by a tensor")
        return AxisNames({self.operand: names}, [made])

    def narrow(self, op, narrowing):
        key, entries = op.values[self.key], []
        for part in self._parts(op):
            entry, kept = part.entry, narrowing.inputs[0].get(part.read)
            if kept is not None and _can_be_moved(entry):
                made = None if part.made is None else narrowing.output_shapes[0][part.made]
                entry = _renumbered(entry, kept, narrowing.call.input_shapes[0][part.read], made)
            entries.append(entry)
        if "{" in str(key):  # as tf_keras keeps slices in a model's config
            entries = [
                {"start": entry.start, "stop": entry.stop, "step": entry.step} if isinstance(entry, slice) else entry
                for entry in entries
            ]
        return {self.key: tuple(entries)}


def _as_slice(entry):
    return slice(entry["start"], entry["stop"], entry["step"]) if isinstance(entry, dict) else entry


def _can_be_moved(entry) -> bool:
    """Whether an entry of an index can be written anew when channels are gone."""
    if entry is None or not isinstance(entry, slice):
        return entry is None or is_constant(entry)
    bounds = [bound for bound in (entry.start, entry.stop) if bound is not None]
    if entry.step not in (None, 1):
        return entry.step == -1 and not bounds
    return all(map(is_constant, bounds)) or len(bounds) == 1


def _renumbered(entry, kept, length, made):
    """An entry of an index, for the positions `kept` of `length`; `made` of those it takes remain."""
    if not isinstance(entry, slice):
        return int(np.count_nonzero(kept < int(entry) % length))
    if entry.step == -1:
        return entry
    if all(bound is None or is_constant(bound) for bound in (entry.start, entry.stop)):
        start, stop, _ = slice(*(None if bound is None else int(bound) for bound in (entry.start, entry.stop))).indices(length)
    elif entry.stop is None:
        start, stop = kept[len(kept) - made], length
    else:
        start, stop = 0, (kept[made - 1] + 1 if made else 0)
    bounds = [int(np.count_nonzero(kept < bound)) for bound in (start, stop)]
    return slice(*(None if bound is None else new for bound, new in zip((entry.start, entry.stop), bounds)), entry.step)
