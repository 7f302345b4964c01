"""Linear maps inside layers: which kernels make what comes out of a layer, and the least-squares problem of each.

Nothing here knows a layer kind. A kernel is found by the names of its axes; what it multiplies (the *design*: one row an
output position, one column a tap and input channel) is found by calling the layer with a kernel of ones and zeros, one
column for every channel that it makes, as often as there are columns to go round. That the map is linear is left to be
checked (`fits.py`): the design times the kernel has to be what the layer makes.
"""

import contextlib
import dataclasses
import math
from typing import Any

import numpy as np

from tfmetaprune._keras import tf
from tfmetaprune.channels.map import CallChannels, WeightAxes
from tfmetaprune.layers import get_weight
from tfmetaprune.pruning.masking import substitute


@dataclasses.dataclass(frozen=True, eq=False)
class LinearMap:
    """One kernel of a layer, and where its results can be seen.

    The kernel's axes fall into columns (taps and input channels), and targets (output channels); the targets into `groups`
    that read channels of their own, with `slots` outputs each.

    Attributes:
      channels: a call of the layer.
      kernel, bias: names of the weights; the bias is None where there is none for each target.
      watched: the layer whose output is the map's: the layer itself, or the one inside that holds the kernel.
      column_axes, target_axes: axes of the kernel.
      out_axes: axes of the output that the targets lie on, counted from the end.
      groups, slots: numbers of groups, and of targets in each.
      columns: int64 [n], those that remain; counted row-major over `column_axes`.
      kept: bool [groups, slots], the targets that remain.
    """

    channels: CallChannels
    kernel: str
    bias: str | None
    watched: Any
    column_axes: tuple[int, ...]
    target_axes: tuple[int, ...]
    out_axes: tuple[int, ...]
    groups: int
    slots: int
    columns: np.ndarray
    kept: np.ndarray

    @property
    def num_columns(self) -> int:
        """Number of columns of each group, dead ones included."""
        return math.prod(self._axes.shape[axis] for axis in self.column_axes)

    @property
    def reads_dead(self) -> bool:
        """Whether channels that it reads are gone."""
        return len(self.columns) < self.num_columns

    @property
    def live_groups(self) -> np.ndarray:
        """int64, the groups of which something remains."""
        return np.flatnonzero(self.kept.any(1))

    @property
    def _axes(self) -> WeightAxes:
        return self.channels.weights[self.kernel]

    def unfold(self, kernel) -> np.ndarray:
        """Returns a kernel as float64 [columns, groups, slots]."""
        kernel = np.asarray(kernel, np.float64).transpose((*self.column_axes, *self.target_axes))
        return kernel.reshape(self.num_columns, self.groups, self.slots)

    def fold(self, values: np.ndarray) -> np.ndarray:
        """The inverse of `unfold`."""
        order = (*self.column_axes, *self.target_axes)
        return values.reshape([self._axes.shape[axis] for axis in order]).transpose(np.argsort(order))

    def rows(self, made) -> tf.Tensor:
        """Returns what the map made as [batch, positions, groups, slots]."""
        rank = len(made.shape)
        out = [axis % rank for axis in self.out_axes]
        made = tf.transpose(made, [*(axis for axis in range(rank) if axis not in out), *out])
        return tf.reshape(made, [made.shape[0], -1, self.groups, self.slots])

    def apply(self, call, args, kwargs, values=None) -> tf.Tensor:
        """Calls the watched layer with the activation, and the bias of each target, left out.

        Args:
          call: the watched layer's `call`.
          args: its arguments.
          kwargs: its keyword arguments.
          values: float [columns, groups, slots] in place of the kernel; None for the layer's own.

        Returns:
          [batch, positions, groups, slots].
        """
        layer = self.channels.call.layer
        tensors = {} if values is None else {self.kernel: self._cast(self.kernel, self.fold(values))}
        if self.bias is not None:
            tensors[self.bias] = self._cast(self.bias, np.zeros(get_weight(layer, self.bias).shape))
        with substitute(layer, tensors), _attribute(_owner(layer, self.kernel), "activation", tf.identity):
            return self.rows(call(*args, **kwargs))

    def design(self, call, args, kwargs, positions) -> tf.Tensor:
        """Returns the design at some positions: [batch * positions, live groups, n].

        Args:
          call: as for `apply`.
          args: as for `apply`.
          kwargs: as for `apply`.
          positions: int [batch, positions], which to take of each example; None for all.
        """
        blocks = []
        for begin in range(0, len(self.columns), self.slots):
            chosen = self.columns[begin : begin + self.slots]
            values = np.zeros((self.num_columns, self.groups, self.slots), np.float32)
            values[chosen, :, np.arange(len(chosen))] = 1
            blocks.append(self.pick(self.apply(call, args, kwargs, values), positions)[..., : len(chosen)])
        return tf.concat(blocks, -1)

    def pick(self, rows, positions) -> tf.Tensor:
        """Returns what `apply` returned, at some positions and of the live groups alone: [batch * positions, groups, slots]."""
        rows = rows if positions is None else tf.gather(rows, positions, batch_dims=1)
        rows = rows if len(self.live_groups) == self.groups else tf.gather(rows, self.live_groups, axis=2)
        return tf.reshape(rows, [-1, *rows.shape[2:]])

    def _cast(self, name, value):
        layer = self.channels.call.layer
        variable = get_weight(layer, name)
        dtype = _owner(layer, name).compute_dtype if hasattr(variable, "true_dtype") else variable.dtype
        return tf.cast(value, dtype)


def find_maps(trace, channels: CallChannels, keep: np.ndarray) -> tuple[list[LinearMap], list[str]]:
    """Finds the linear maps of a layer.

    Args:
      trace: the traced model.
      channels: a call of the layer.
      keep: bool [num_units], which units remain.

    Returns:
      The maps, and the names of the kernels whose results cannot be told from what the layer puts out.
    """
    maps, others = [], []
    for name, axes in channels.weights.items():
        if not axes.is_kernel:
            continue
        found = _find(trace, channels, name, axes, keep)
        if found is not None:
            maps.append(found)
        else:
            others.append(name)
    made = {name for one in maps for name in _names(channels, one.kernel)}
    read = {name for other in others for name in _names(channels, other)}
    if maps and not read - made - {"in"}:  # the depthwise part of a separable convolution: what it makes stays inside
        others = []
    return maps, others


def _names(channels, kernel) -> set[str]:
    return {name.partition("/")[0] for name in channels.weights[kernel].names} & {*channels.roles}


def _find(trace, channels, name, axes, keep) -> LinearMap | None:
    layer = channels.call.layer
    recurrent = any(one.endswith("state") for weight in channels.weights.values() for one in weight.names)
    if recurrent or any(count > 1 for count in axes.merged) or not channels.output_names:
        return None
    mask = {role: keep[trace.channels.units(layout)] for role, layout in channels.roles.items()}
    if axes.per_channel is not None:
        target_axes, out = (*axes.source, *axes.target), (axes.per_channel,)
        groups, kept = axes.shape[axes.source[0]], mask[axes.per_channel]
    else:
        target_axes, out = axes.target, tuple(axes.names[axis] for axis in axes.target)
        groups = channels.groups if axes.grouped else 1
        kept = np.ones(1, bool)
        for axis in target_axes:
            kept = np.outer(kept, mask.get(axes.names[axis], np.ones(axes.shape[axis], bool))).reshape(-1)
    if not target_axes:
        return None
    names, watched = channels.output_names[0], layer
    if all(one in names for one in out):
        out_axes = tuple(names.index(one) - len(names) for one in out)
    else:
        watched = _owner(layer, name)
        if watched is layer or not hasattr(watched, "call"):
            return None
        out_axes = tuple(range(-len(target_axes), 0))
    column_axes = tuple(axis for axis in range(len(axes.names)) if axis not in target_axes)
    columns = np.ones(1, bool)
    for axis in column_axes:
        role = "in/groups" if axes.grouped and axis in axes.source else axes.names[axis]
        columns = np.outer(columns, mask.get(role, np.ones(axes.shape[axis], bool))).reshape(-1)
    slots = math.prod(axes.shape[axis] for axis in target_axes) // groups
    targets = (axes.per_channel,) if axes.per_channel is not None else out
    return LinearMap(
        channels, name, _bias(channels, name, targets), watched, column_axes, tuple(target_axes), out_axes, groups, slots,
        np.flatnonzero(columns), kept.reshape(groups, slots),
    )  # fmt: skip


def _bias(channels, kernel, targets) -> str | None:
    """The weight that is added to what the kernel makes: of the same part of the layer, one number for each target."""
    part = kernel.rpartition(".")[0]
    return next(
        (
            name for name, axes in channels.weights.items()
            if name.rpartition(".")[0] == part and axes.names == targets and name.endswith("bias")
        ), None,
    )  # fmt: skip


def _owner(layer, name):
    path = name.rpartition(".")[0]
    return get_weight(layer, path) if path else layer


@contextlib.contextmanager
def _attribute(thing, name, value):
    """Puts something in place of an instance's attribute while the context lasts; not if it has no such attribute."""
    if name not in vars(thing):
        yield
        return
    old = thing.__dict__[name]
    thing.__dict__[name] = value
    try:
        yield
    finally:
        thing.__dict__[name] = old


@contextlib.contextmanager
def watching(layer, function):
    """Tells of a layer's calls while the context lasts: `function(call, args, kwargs)` before each."""
    own, call = vars(layer).get("call"), layer.call

    def watched(*args, **kwargs):
        function(call, args, kwargs)
        return call(*args, **kwargs)

    layer.__dict__["call"] = watched
    try:
        yield
    finally:
        if own is None:
            del layer.__dict__["call"]
        else:
            layer.__dict__["call"] = own
