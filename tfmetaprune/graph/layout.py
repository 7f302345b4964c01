"""Where every weight of a model lies in its graph; follows from the trace alone, never from values."""

import dataclasses
import functools
import math
from typing import NamedTuple

import numpy as np

from tfmetaprune.channels import CallChannels, ChannelMap, WeightAxes, layout_positions
from tfmetaprune.graph.schema import COLUMNS, IDENTITY, KERNEL, PER_CHANNEL, edge_set_name

NUM_TAP_FEATURES = 6


class EdgeSet(NamedTuple):
    """The edges of one edge set: how many, taps on each, int32 [num_edges] source and target nodes."""

    num_edges: int
    num_taps: int
    source: np.ndarray
    target: np.ndarray


class BlockShape(NamedTuple):
    """How a block's part of a weight is counted off; a per-channel block has one target for each source."""

    own_taps: int
    segment_taps: int
    num_sources: int
    num_targets: int


@dataclasses.dataclass(frozen=True, eq=False)
class Block:
    """A weight's edges from one segment of its input axis to one run of its output axis, or all of a per-channel weight.

    Attributes:
      edge_set: the edge set that holds it.
      taps: the kernel's own positions, then those that a flatten moved into the segment; (1,) for none.
      first: index of its first edge in the edge set.
      source, target: int64 nodes; [n_in] and [n_out] of a dense block, [E] each of a per-channel one.
      dense: whether every source is joined to every target (source-major), or source i to target i.
      call: index of the call.
      weight: name of the layer's weight.
      axes: the weight's axes.
      offset: first position of the segment on the weight's source axes.
      target_offset: first position of the run on the weight's target axes; 0 but for grouped convolutions.
      is_first: whether this is the layer's first call; the blocks of later calls are copies.
    """

    edge_set: str
    taps: tuple[int, ...]
    first: int
    source: np.ndarray
    target: np.ndarray
    dense: bool
    call: int
    weight: str
    axes: WeightAxes
    offset: int
    target_offset: int
    is_first: bool

    @property
    def num_edges(self) -> int:
        """Number of edges."""
        return len(self.source) * len(self.target) if self.dense else len(self.source)


@dataclasses.dataclass(frozen=True, eq=False)
class Column:
    """A per-channel weight that lies in `parameters[nodes, index]`.

    Attributes:
      call: index of the call.
      weight: name of the layer's weight.
      index: the column, see `schema.COLUMNS`.
      nodes: int64 [channels].
      is_first: whether this is the layer's first call.
    """

    call: int
    weight: str
    index: int
    nodes: np.ndarray
    is_first: bool


@dataclasses.dataclass(frozen=True, eq=False)
class GraphLayout:
    """The graph without its values.

    Attributes:
      blocks: sorted by edge set (in the order of first blocks), then by `first`; those of a set fill it without gaps.
      columns: every weight that lies in the node parameters.
      identity: int64 [E, 2], the edges of the set `identity`.
      num_nodes: number of channels.
    """

    blocks: tuple[Block, ...]
    columns: tuple[Column, ...]
    identity: np.ndarray
    num_nodes: int

    @functools.cached_property
    def edge_set_blocks(self) -> dict[str, tuple[Block, ...]]:
        """Edge set -> its blocks in order (`identity` has none)."""
        result = {}
        for block in self.blocks:
            result.setdefault(block.edge_set, []).append(block)
        return {name: tuple(blocks) for name, blocks in result.items()}

    @functools.cached_property
    def edge_sets(self) -> dict[str, EdgeSet]:
        """Edge set -> `EdgeSet(num_edges, num_taps, source, target)`; made when first asked for (8 bytes an edge)."""
        result = {name: _edges(blocks) for name, blocks in self.edge_set_blocks.items()}
        source, target = np.ascontiguousarray(self.identity.T, np.int32)
        return {**result, IDENTITY: EdgeSet(len(source), 1, source, target)}


def graph_layout(trace) -> GraphLayout:
    """Lays out the weights of a model: which edges and which node parameters hold each of them.

    A weight between two roles (`in` and `out`) becomes dense blocks, one for every segment of its input axis. A weight
    with one value a channel becomes a column of the node parameters; if there is no such column, if it has taps, or if
    another weight is there already, it becomes a per-channel block. A weight without any role (one scale for all
    channels, say) is not part of the graph.

    Args:
      trace: a `ModelTrace`.

    Returns:
      The `GraphLayout`, the same for every model of the same structure.
    """
    channels: ChannelMap = trace.channels
    blocks, columns, sizes = [], [], {}
    taken = np.zeros((channels.num_nodes, len(COLUMNS)), bool)
    for index, call in enumerate(channels.calls):
        for weight, axes in call.weights.items():
            column = _column(call, index, weight, axes, taken)
            if column is not None:
                columns.append(column)
                continue
            for taps, source, target, dense, *offsets in _pieces(call, axes):
                name = edge_set_name(KERNEL if dense else PER_CHANNEL, taps)
                first = sizes.get(name, 0)
                block = Block(name, taps, first, source, target, dense, index, weight, axes, *offsets, call.is_first)
                blocks.append(block)
                sizes[name] = first + block.num_edges
    order = {name: rank for rank, name in enumerate(sizes)}
    blocks.sort(key=lambda block: order[block.edge_set])  # stable: `first` keeps rising within a set
    return GraphLayout(tuple(blocks), tuple(columns), channels.identity, channels.num_nodes)


def tap_positions(taps: tuple[int, ...]) -> np.ndarray:
    """Describes where each tap of a kernel lies, in the same way for every kernel shape.

    Kernels of more than two axes are folded into two: leading axes of length 1 are dropped, then all axes but the last
    are taken row-major as y. A kernel of one axis lies along x.

    Args:
      taps: the kernel's shape; () for none.

    Returns:
      float32 [T, 6], T = prod(taps): the offset from the kernel's centre in y and in x (pixels), the same divided by
      half the extent (-1 .. 1), log height, log width.

    Example:
      >>> tap_positions((3,))[:, :4].tolist()
      [[0.0, -1.0, 0.0, -1.0], [0.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 1.0]]
    """
    taps = tuple(taps)
    while len(taps) > 2 and taps[0] == 1:
        taps = taps[1:]
    size = np.array([math.prod(taps[:-1]), taps[-1] if taps else 1], np.float32)
    centre = (size - 1) / 2
    index = np.stack(np.meshgrid(*(np.arange(n, dtype=np.float32) for n in size), indexing="ij"), -1).reshape(-1, 2)
    offset = index - centre
    relative = offset / np.maximum(centre, 0.5)
    return np.concatenate([offset, relative, np.broadcast_to(np.log(size), offset.shape)], 1).astype(np.float32)


def block_shape(block: Block) -> BlockShape:
    """Returns how the edges of a block are counted off."""
    own = math.prod(block.axes.taps)
    num_sources, num_targets = (len(block.source), len(block.target)) if block.dense else (len(block.source), 1)
    return BlockShape(own, math.prod(block.taps) // own, num_sources, num_targets)


def _column(call: CallChannels, index, weight, axes, taken) -> Column | None:
    name = call.spec.columns.get(weight, weight.rpartition(".")[2])
    if axes.is_kernel or not axes.target or name not in COLUMNS or math.prod(axes.taps) != 1:
        return None
    nodes, column = layout_positions(call.side(_names(axes, axes.target))), COLUMNS.index(name)
    if taken[nodes, column].any() or len(np.unique(nodes)) != len(nodes):
        return None
    taken[nodes, column] = True
    return Column(index, weight, column, nodes, call.is_first)


def _names(axes: WeightAxes, which) -> tuple[str, ...]:
    return tuple(axes.names[axis] for axis in which)


def _pieces(call: CallChannels, axes: WeightAxes):
    """Yields (taps, source, target, dense, source offset, target offset) of every block of a weight."""
    own = axes.taps
    if not axes.target:
        if axes.source:  # read and summed over inside the layer: an edge from each channel to itself
            nodes = layout_positions(call.side(_names(axes, axes.source)))
            yield own or (1,), nodes, nodes, False, 0, 0
        return
    if axes.per_channel is not None:
        target = layout_positions(call.roles[axes.per_channel])
        source = np.repeat(layout_positions(call.roles["in"]), axes.shape[axes.target[0]])
        yield own or (1,), source, target, False, 0, 0
        return
    target = layout_positions(call.side(_names(axes, axes.target)))
    if not axes.source:
        (name, *others) = _names(axes, axes.target)
        before = call.read.get(name) if not others else None
        yield own or (1,), target if before is None else layout_positions(before), target, False, 0, 0
        return
    if axes.grouped:
        sources = np.split(layout_positions(call.roles["in"]), call.groups)
        for group, (source, run) in enumerate(zip(sources, np.split(target, call.groups), strict=True)):
            yield own or (1,), source, run, True, 0, group * len(run)
        return
    offset = 0
    for segment in call.side(_names(axes, axes.source)):
        yield (own + segment.taps) or (1,), segment.nodes, target, True, offset, 0
        offset += segment.length


def _edges(blocks) -> EdgeSet:
    num_edges = sum(block.num_edges for block in blocks)
    source, target = np.empty(num_edges, np.int32), np.empty(num_edges, np.int32)
    for block in blocks:
        part = slice(block.first, block.first + block.num_edges)
        if block.dense:
            shape = len(block.source), len(block.target)
            source[part].reshape(shape)[...] = block.source[:, None]
            target[part].reshape(shape)[...] = block.target[None, :]
        else:
            source[part], target[part] = block.source, block.target
    return EdgeSet(num_edges, math.prod(blocks[0].taps), source, target)
