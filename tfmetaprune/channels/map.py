"""The channels of a traced model: what is known about them when every call has been followed (see `follow.py`).

A *node* is one channel made by one call. A *unit* is a set of nodes that can only be pruned together (joined by a
residual sum, a depthwise kernel, a shared layer, ...). A *group* (dependency group) holds the units whose makers are
connected. Channels lie on axes of tensors; an axis that no kernel makes or reads has none, it holds positions.
"""

import dataclasses
import math
from collections.abc import Mapping

import numpy as np

from tfmetaprune.layers import Flow, LayerCall, LayerSpec


@dataclasses.dataclass(frozen=True, eq=False)
class Segment:
    """A run of a channel axis: channels `nodes`, repeated for every position of `taps` (taps major).

    Attributes:
      nodes: int64 [n], the node of each channel; a node may stand there several times.
      taps: the spatial positions that a flatten moved into the axis; () for none.
    """

    nodes: np.ndarray
    taps: tuple[int, ...] = ()

    @property
    def length(self) -> int:
        """Number of positions on the axis."""
        return math.prod(self.taps) * len(self.nodes)

    @property
    def positions(self) -> np.ndarray:
        """int64 [length], the node at each position of the axis."""
        return np.tile(self.nodes, math.prod(self.taps)) if self.taps else self.nodes


Layout = tuple[Segment, ...]


def layout_positions(layout: Layout) -> np.ndarray:
    """Returns int64 [length], the node at every position of a channel axis laid out as `layout`."""
    return np.concatenate([np.zeros(0, np.int64), *(segment.positions for segment in layout)])


@dataclasses.dataclass(frozen=True)
class WeightAxes:
    """The axes of one weight, composite ones (`gate*out`) taken apart.

    Attributes:
      names: the axes' names, in order.
      shape: their lengths; the weight has to be reshaped to it.
      merged: how many of `names` each axis of the stored weight holds.
      source, target: which axes hold the channels that are read and those that are made; a weight with one value (or one
        set of taps) a channel has no source.
      per_channel: the role that is made, `out` or `mid`, of a depthwise kernel with axes `in` and `out/in`; else None.
      grouped: whether the source axis holds the channels of one group only (`in/groups`).
    """

    names: tuple[str, ...]
    shape: tuple[int, ...]
    merged: tuple[int, ...]
    source: tuple[int, ...]
    target: tuple[int, ...]
    per_channel: str | None = None
    grouped: bool = False

    @property
    def taps(self) -> tuple[int, ...]:
        """Lengths of the axes that hold no channels."""
        return tuple(
            length for axis, length in enumerate(self.shape) if axis not in self.source and axis not in self.target
        )

    @property
    def is_kernel(self) -> bool:
        """Whether it reads channels and makes others: such weights have edges and cost multiply-accumulates."""
        return bool(self.source) or self.per_channel is not None

    @property
    def canonical_order(self) -> tuple[int, ...]:
        """The axes in the order taps, source, target."""
        roles = (*self.source, *self.target)
        return (*(axis for axis in range(len(self.names)) if axis not in roles), *roles)

    def stored_shape(self, shape) -> tuple[int, ...]:
        """Returns the shape of the stored weight when the axes taken apart have the lengths `shape`."""
        starts = np.cumsum([0, *self.merged])
        return tuple(math.prod(shape[start:stop]) for start, stop in zip(starts[:-1], starts[1:]))


@dataclasses.dataclass(frozen=True, eq=False)
class CallChannels:
    """What one call does with channels.

    Attributes:
      call: the call.
      spec: the layer's spec; None for a kind nobody registered.
      flow: how channels pass through it.
      weights: weight name -> its axes; empty where the channels are frozen.
      roles: role -> the layout behind it, for every role of the weights and every named axis that holds channels.
      read: the same for the channels that `io` roles replace by others of their own: as they were read.
      products: roles (several on one side of a weight) -> int64 nodes of their product, row-major.
      input_names, output_names: the flow's names for the axes of every tensor read and made.
      groups: number of groups behind `in/groups`.
    """

    call: LayerCall
    spec: LayerSpec | None
    flow: Flow
    weights: dict[str, WeightAxes] = dataclasses.field(default_factory=dict)
    roles: dict[str, Layout] = dataclasses.field(default_factory=dict)
    read: dict[str, Layout] = dataclasses.field(default_factory=dict)
    products: dict[tuple[str, ...], np.ndarray] = dataclasses.field(default_factory=dict)
    input_names: tuple[tuple[str, ...], ...] = ()
    output_names: tuple[tuple[str, ...], ...] = ()
    groups: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this is the layer's first call in the model."""
        return self.call.call_index == 0

    def side(self, names: tuple[str, ...]) -> Layout:
        """Returns the layout of the channels behind one or several roles (their product, row-major)."""
        return self.roles[names[0]] if len(names) == 1 else (Segment(self.products[names]),)


@dataclasses.dataclass(frozen=True, eq=False)
class ChannelMap:
    """All channels of a model and how they hang together.

    Attributes:
      calls: one entry for every call of the trace.
      tensors: for every tensor, axis -> layout of the channels on it; axes that hold positions are left out.
      known: tensors whose numbers are known beforehand, because they are made of lengths alone -> those numbers (a batch
        of unknown size counts as 1, another unknown length as `moves.UNKNOWN_LENGTH`).
      num_nodes, num_units: how many there are.
      node_call: int64 [num_nodes], index of the call that made the node; -1 - i for the model's i-th input.
      identity: int64 [E, 2], source and target of the edges that pass a channel on unchanged.
      unit_of_node: int64 [num_nodes], units numbered in the order of their first nodes.
      frozen: unit -> why it has to stay.
      group_of_unit: int64 [num_units], groups numbered in the order of their first units.
    """

    calls: tuple[CallChannels, ...]
    tensors: tuple[Mapping[int, Layout], ...]
    known: Mapping[int, np.ndarray]
    num_nodes: int
    num_units: int
    node_call: np.ndarray
    identity: np.ndarray
    unit_of_node: np.ndarray
    frozen: dict[int, str]
    group_of_unit: np.ndarray

    def units(self, layout: Layout) -> np.ndarray:
        """Returns int64 [length], the unit at every position of a channel axis."""
        return self.unit_of_node[layout_positions(layout)]

    def kept(self, tensor: int, keep: np.ndarray) -> dict[int, np.ndarray]:
        """Returns what remains of a tensor: axis -> int64 indices; axes that keep all are left out.

        Args:
          tensor: its index in the trace.
          keep: bool [num_units], which units remain.
        """
        masks = {axis: keep[self.units(layout)] for axis, layout in self.tensors[tensor].items()}
        return {axis: np.flatnonzero(mask) for axis, mask in masks.items() if not mask.all()}
