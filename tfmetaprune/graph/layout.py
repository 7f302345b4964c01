"""Where every weight of a model lies in its graph; follows from the trace alone, never from values."""

import dataclasses
import functools
import itertools
import math
import weakref
from typing import NamedTuple

import numpy as np

from tfmetaprune.channels import CallChannels, ChannelMap, WeightAxes, layout_positions
from tfmetaprune.graph.schema import COLUMNS, IDENTITY, KERNEL, PER_CHANNEL, edge_set_name

ALIGNMENT_BYTES = 64
NUM_TAP_FEATURES = 6


class EdgeSet(NamedTuple):
    """The edges of one edge set: how many, taps on each, int32 [num_edges] source and target nodes."""

    num_edges: int
    num_taps: int
    source: np.ndarray
    target: np.ndarray


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


class Run(NamedTuple):
    """Blocks that lie one after the other and are written and read at once: the groups of a convolution, or one block.

    Attributes:
      blocks: the blocks, all of the same size.
      own_taps: number of the kernel's own positions.
      segment_taps: number of positions that a flatten moved into the segment.
      num_sources, num_targets: of each block; a per-channel block has one target for each source.
    """

    blocks: tuple[Block, ...]
    own_taps: int
    segment_taps: int
    num_sources: int
    num_targets: int

    @property
    def part(self) -> slice:
        """Where its edges lie in the edge set."""
        return slice(self.blocks[0].first, self.blocks[-1].first + self.blocks[-1].num_edges)

    @property
    def num_edges(self) -> int:
        """Number of edges of all its blocks."""
        return self.part.stop - self.part.start


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
    def edge_set_runs(self) -> dict[str, tuple[Run, ...]]:
        """Edge set -> its blocks in order, those of a grouped convolution taken together."""
        result = {}
        for name, blocks in self.edge_set_blocks.items():
            runs = itertools.groupby(blocks, lambda block: (block.call, block.weight) if block.axes.grouped else id(block))
            result[name] = tuple(_run(tuple(run)) for _, run in runs)
        return result

    @functools.cached_property
    def block_tables(self) -> dict[str, np.ndarray]:
        """Edge set -> int64 [B, 4], a row for each block: first edge, number of sources, number of targets, call."""
        return {
            name: np.array([(block.first, len(block.source), len(block.target), block.call) for block in blocks], np.int64)
            for name, blocks in self.edge_set_blocks.items()
        }

    @functools.cached_property
    def column_places(self) -> np.ndarray:
        """int64 [sum of channels], where the values of all `columns`, one after the other, lie in the flat parameters."""
        places = [column.nodes * len(COLUMNS) + column.index for column in self.columns]
        return np.concatenate([np.zeros(0, np.int64), *places])

    @functools.cached_property
    def edge_sets(self) -> dict[str, EdgeSet]:
        """Edge set -> `EdgeSet(num_edges, num_taps, source, target)`; read-only, kept as long as the layout: 8 bytes an edge."""
        result = {name: _edges(runs) for name, runs in self.edge_set_runs.items()}
        ends = [empty_aligned(len(self.identity), np.int32) for _ in range(2)]
        for end, nodes in zip(ends, self.identity.T, strict=True):
            end[...] = nodes
            end.flags.writeable = False
        return {**result, IDENTITY: EdgeSet(len(self.identity), 1, *ends)}


_layouts = weakref.WeakKeyDictionary()


def graph_layout(trace) -> GraphLayout:
    """Lays out the weights of a model: which edges and which node parameters hold each of them.

    A weight between two roles (`in` and `out`) becomes dense blocks, one for every segment of its input axis. A weight
    with one value a channel becomes a column of the node parameters; if there is no such column, if it has taps, or if
    another weight is there already, it becomes a per-channel block. A weight without any role (one scale for all
    channels, say) is not part of the graph.

    Args:
      trace: a `ModelTrace`.

    Returns:
      The `GraphLayout`, equal for every model of the same structure; made once for each trace.
    """
    if trace not in _layouts:
        _layouts[trace] = _make_layout(trace.channels)
    return _layouts[trace]


def _make_layout(channels: ChannelMap) -> GraphLayout:
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


def empty_aligned(shape, dtype) -> np.ndarray:
    """Returns an array like `np.empty`, at a multiple of 64 bytes: TensorFlow takes over such memory without a copy."""
    size_bytes = math.prod(np.atleast_1d(shape).tolist()) * np.dtype(dtype).itemsize
    memory = np.empty(size_bytes + ALIGNMENT_BYTES, np.uint8)
    first = -memory.ctypes.data % ALIGNMENT_BYTES
    return memory[first : first + size_bytes].view(dtype).reshape(shape)


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


def _run(blocks: tuple[Block, ...]) -> Run:
    first = blocks[0]
    own = math.prod(first.axes.taps)
    return Run(blocks, own, math.prod(first.taps) // own, len(first.source), len(first.target) if first.dense else 1)


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


def _edges(runs) -> EdgeSet:
    num_edges = runs[-1].part.stop
    source, target = empty_aligned(num_edges, np.int32), empty_aligned(num_edges, np.int32)
    for run in runs:
        sources = np.array([block.source for block in run.blocks], np.int32)
        targets = np.array([block.target for block in run.blocks], np.int32)
        shape = len(run.blocks), run.num_sources, run.num_targets
        source[run.part].reshape(shape)[...] = sources[:, :, np.newaxis]
        target[run.part].reshape(shape)[...] = targets[:, np.newaxis] if run.blocks[0].dense else targets[:, :, np.newaxis]
    source.flags.writeable = target.flags.writeable = False
    return EdgeSet(num_edges, math.prod(runs[0].blocks[0].taps), source, target)
