"""The edges of a graph as the metanetwork streams through them: tiles of two fixed shapes, and one list of all others.

Every dense block is cut into strips of rows, and each strip into tiles of `[rows, columns]` edges, so that what is compiled
for a tile serves every block of every network. A tile at the rim of a block is filled up with zeros. The strips of a shape
are dealt out to parts, which run one after the other, and in a part to several streams, which run at the same time.

All weights of a graph lie in one vector, strip after strip, then those of all other edges. A tiling is nothing but arrays, so
that one traced function serves every network.
"""

import dataclasses
import itertools
import os
import weakref
from typing import NamedTuple

import numpy as np

from tfmetaprune._keras import tf
from tfmetaprune.errors import ArgumentError
from tfmetaprune.graph import schema
from tfmetaprune.graph.layout import NUM_TAP_FEATURES, Block, GraphLayout, tap_positions

NUM_STREAMS = min(8, os.cpu_count() or 1)
TILES_PER_CALL = 2  # of what is compiled
PART_BYTES = 2**28
MAX_WEIGHTS = 2**31 - 1  # of a graph: places are int32
_STATE_OF_TILE = 2**17  # values of one large tile's edge states: half a megabyte stays in a core's cache
_SMALL = (32, 32)
_SMALL_COST = 1.6  # of an edge in a small tile against one in a large tile, measured


class Stream(NamedTuple):
    """The tiles that one loop goes over, strip by strip.

    Attributes:
      tile: int32 [num_tiles, 10], for each tile what `Tile` lists; as many empty ones at the end as make `num_tiles` a multiple
        of TILES_PER_CALL.
      strip: int32 [num_strips, 4]: the first tile of each strip, the number of its tiles, of its rows, of a row's weights.
    """

    tile: np.ndarray
    strip: np.ndarray


class Tiles(NamedTuple):
    """Tiles of one shape [rows, columns].

    Tiles of the same strip share their sources; tiles below each other in a block share their targets, a chunk.

    Attributes:
      source: int32 [num_strips, rows] nodes, -1 for what fills a strip up.
      target: int32 [num_chunks, columns] nodes, likewise.
      streams: `NUM_STREAMS` of `Stream`.
    """

    source: np.ndarray
    target: np.ndarray
    streams: tuple

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns) of a tile."""
        return self.source.shape[1], self.target.shape[1]


class Tile(NamedTuple):
    """A row of `Stream.tile`: indices of the strip, the chunk and the block; how many rows and columns are real; where the
    first weight of the strip lies, how many weights a row of the strip has, how many of them are left of the tile; the number
    of taps and the first of the taps."""

    strip: int
    chunk: int
    block: int
    num_rows: int
    num_columns: int
    first: int
    row_size: int
    before: int
    num_taps: int
    first_tap: int


class Singles(NamedTuple):
    """The edges that are not in tiles: those of per-channel weights, then the identity edges.

    Attributes:
      source, target: int32 [num_edges] nodes.
      edge, tap, block: int32 [num_weights], to which edge each weight belongs, its tap, its block. These weights are the
        last in the vector of all weights.
    """

    source: np.ndarray
    target: np.ndarray
    edge: np.ndarray
    tap: np.ndarray
    block: np.ndarray


class Taps(NamedTuple):
    """The taps of all edge sets of dense blocks, or of all others.

    Attributes:
      positions: float32 [num_taps, NUM_TAP_FEATURES], of `tap_positions`.
      count: float32 [num_taps], how many taps the kernel has that it belongs to.
    """

    positions: np.ndarray
    count: np.ndarray


class Tiling(NamedTuple):
    """The static structure that the metanetwork runs on; a nest of arrays.

    Attributes:
      parts: the tiles, each of `Tiles` with edge states of at most about `PART_BYTES`.
      singles: the other edges.
      kernel_taps, channel_taps: the taps of dense and of per-channel blocks.
      num_weights: float32 [num_blocks] number of weights of each dense block; then of each per-channel block.
      degree: float32 [2, num_nodes] number of edges that leave (0) or reach (1) a node, 1 where there is none.
      linked: bool [2, num_nodes], whether there is one.
      weighted: float32 [2, num_nodes] number of edges that carry weights; 0 where there is none.
    """

    parts: tuple
    singles: Singles
    kernel_taps: Taps
    channel_taps: Taps
    num_weights: tuple
    degree: np.ndarray
    linked: np.ndarray
    weighted: np.ndarray


class Piece(NamedTuple):
    """A part of the vector of all weights: consecutive edges of an edge set."""

    edge_set: str
    first: int
    num_edges: int


@dataclasses.dataclass(frozen=True)
class TiledGraph:
    """A tiling, and how it fits the graph.

    Attributes:
      tiling: the `Tiling`, of tensors.
      pieces: what the vector of all weights consists of, in order.
      edge_sets: edge set -> (number of edges, number of taps).
      num_nodes, num_edges: of the graph; `num_edges` without what fills tiles up.
    """

    tiling: Tiling
    pieces: tuple[Piece, ...]
    edge_sets: dict
    num_nodes: int
    num_edges: int

    def join(self, weights) -> tf.Tensor:
        """Makes the vector of all weights, float32 [num_weights], of those of edge sets, name -> [E, T]."""
        parts = [weights[name][first : first + num_edges] for name, first, num_edges in self.pieces]
        return tf.concat([tf.zeros([0]), *(tf.reshape(part, [-1]) for part in parts)], 0)

    def split(self, flat) -> dict[str, tf.Tensor]:
        """Undoes `join`."""
        sizes = [num_edges * self.edge_sets[name][1] for name, _, num_edges in self.pieces]
        found = {}
        for piece, part in zip(self.pieces, tf.split(flat, sizes)):
            found.setdefault(piece.edge_set, []).append((piece.first, part))
        parts = {name: [part for _, part in sorted(found[name], key=lambda item: item[0])] for name in self.edge_sets}
        return {name: tf.reshape(tf.concat(parts[name], 0), shape) for name, shape in self.edge_sets.items()}


_made = weakref.WeakKeyDictionary()  # layout -> hidden width -> TiledGraph


def tiled_graph(layout: GraphLayout, hidden: int) -> TiledGraph:
    """Returns the tiling of a layout for edge states of a width; made once for each.

    Raises:
      ArgumentError: the graph has more than `MAX_WEIGHTS` weights.
    """
    made = _made.setdefault(layout, {})
    if hidden not in made:
        made[hidden] = _make(layout, hidden)
    return made[hidden]


def tile_shapes(hidden: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Returns the (rows, columns) of small and of large tiles for edge states of a width; powers of two.

    Example:
      >>> tile_shapes(16)
      ((32, 32), (64, 128))
    """
    columns = _STATE_OF_TILE // 64 // hidden
    return _SMALL, (64, min(256, max(32, 1 << (columns.bit_length() - 1 if columns else 5))))


def _make(layout, hidden) -> TiledGraph:
    edge_sets, taps, first_taps = {}, {True: [], False: []}, {}
    for name, blocks in layout.edge_set_blocks.items():
        positions = tap_positions(blocks[0].taps)
        edge_sets[name] = blocks[-1].first + blocks[-1].num_edges, len(positions)
        found = taps[blocks[0].dense]
        first_taps[name] = sum(map(len, found))
        found.append(positions)
    num_weights = sum(num_edges * num_taps for num_edges, num_taps in edge_sets.values())
    if num_weights > MAX_WEIGHTS:
        raise ArgumentError(
            f"MetaNetwork: expected a graph of at most {MAX_WEIGHTS} weights, got {num_weights}. Give it a smaller network."
        )
    blocks = [block for found in layout.edge_set_blocks.values() for block in found]
    dense, single = [b for b in blocks if b.dense], [b for b in blocks if not b.dense]
    sizes = [[b.num_edges * edge_sets[b.edge_set][1] for b in part] for part in (dense, single)]

    shapes = tile_shapes(hidden)
    strips = [], []  # of each shape: (index of the block, block, first row)
    for index, block in enumerate(dense):
        small, large = (_num_tiles(block, shape) * shape[0] * shape[1] for shape in shapes)
        which = 0 if small * _SMALL_COST < large else 1
        strips[which].extend((index, block, row) for row in range(0, len(block.source), shapes[which][0]))
    parts, pieces, begin = [], [], 0
    for shape, found in zip(shapes, strips):
        num_tiles = sum(-(-len(block.target) // shape[1]) for _, block, _ in found)
        num_parts = -(-4 * hidden * shape[0] * shape[1] * num_tiles // PART_BYTES)
        for part in _deal(found, shape, num_parts):
            made, covered, begin = _cut(part, shape, edge_sets, first_taps, begin)
            parts.append(made)
            pieces += covered
    pieces += [Piece(block.edge_set, block.first, block.num_edges) for block in single]

    weighted = np.zeros((2, layout.num_nodes), np.float32)
    for block in blocks:
        np.add.at(weighted[0], block.source, len(block.target) if block.dense else 1)
        np.add.at(weighted[1], block.target, len(block.source) if block.dense else 1)
    degree = weighted + [np.bincount(layout.identity[:, end], minlength=layout.num_nodes) for end in (0, 1)]
    with tf.init_scope():  # not inside of whatever function is being traced
        tiling = tf.nest.map_structure(tf.constant, Tiling(
            parts=tuple(parts), singles=_singles(single, layout.identity, edge_sets, first_taps),
            kernel_taps=_taps(taps[True]), channel_taps=_taps(taps[False]),
            num_weights=tuple(np.array(part, np.float32) for part in sizes),
            degree=np.maximum(degree, 1).astype(np.float32), linked=degree > 0, weighted=weighted,
        ))  # fmt: skip
    num_edges = sum(block.num_edges for block in blocks) + len(layout.identity)
    return TiledGraph(tiling, _merged(pieces), edge_sets, layout.num_nodes, num_edges)


def _num_tiles(block, shape):
    return -(-len(block.source) // shape[0]) * -(-len(block.target) // shape[1])


def _taps(found) -> Taps:
    positions = np.concatenate([np.zeros((0, NUM_TAP_FEATURES), np.float32), *found])
    return Taps(positions, np.concatenate([np.zeros(0), *(np.full(len(x), len(x)) for x in found)]).astype(np.float32))


def _singles(blocks, identity, edge_sets, first_taps) -> Singles:
    ends = np.concatenate([*(np.stack([b.source, b.target], 1) for b in blocks), identity.reshape(-1, 2)])
    rows, begin = [np.zeros((0, 3), np.int64)], 0
    for index, block in enumerate(blocks):
        num_taps = edge_sets[block.edge_set][1]
        edges = np.repeat(np.arange(block.num_edges), num_taps)
        taps = np.tile(np.arange(num_taps), block.num_edges)
        rows.append(np.stack([begin + edges, first_taps[block.edge_set] + taps, 0 * taps + index], 1))
        begin += block.num_edges
    return Singles(*ends.T.astype(np.int32), *np.concatenate(rows).T.astype(np.int32))


def _deal(strips, shape, count):
    """Cuts a list of strips into `count` lists with about as many tiles each."""
    num_tiles = np.cumsum([0, *(-(-len(block.target) // shape[1]) for _, block, _ in strips)])
    bounds = np.searchsorted(num_tiles, num_tiles[-1] * np.arange(count + 1) / max(count, 1))
    return [strips[begin:end] for begin, end in itertools.pairwise(bounds)]


def _cut(strips, shape, edge_sets, first_taps, begin):
    """Cuts strips into tiles.

    Returns:
      The `Tiles`, the `Piece` of each strip, and where the next strip begins in the vector of all weights.
    """
    sources, targets, streams, pieces, chunks = [], [], [], [], {}
    for part in _deal(strips, shape, NUM_STREAMS):
        tiles, made = [], []
        for number, block, first_row in part:
            num_taps, width = edge_sets[block.edge_set][1], len(block.target)
            rows = block.source[first_row : first_row + shape[0]]
            starts, row_size = range(0, width, shape[1]), width * num_taps
            made.append((len(tiles), len(starts), len(rows), row_size))
            for start in starts:
                columns = block.target[start : start + shape[1]]
                if (number, start) not in chunks:
                    chunks[number, start] = len(chunks)
                    targets.append(np.pad(columns, (0, shape[1] - len(columns)), constant_values=-1))
                tiles.append(Tile(
                    len(sources), chunks[number, start], number, len(rows), len(columns), begin, row_size, start * num_taps,
                    num_taps, first_taps[block.edge_set],
                ))  # fmt: skip
            sources.append(np.pad(rows, (0, shape[0] - len(rows)), constant_values=-1))
            pieces.append(Piece(block.edge_set, block.first + first_row * width, len(rows) * width))
            begin += len(rows) * row_size
        if tiles:
            tiles += [tiles[-1]._replace(num_rows=0, num_columns=0)] * (-len(tiles) % TILES_PER_CALL)
        streams.append(Stream(_table(tiles, len(Tile._fields)), _table(made, 4)))
    return Tiles(_table(sources, shape[0]), _table(targets, shape[1]), tuple(streams)), pieces, begin


def _table(rows, width):
    return np.array(rows, np.int32).reshape(-1, width)


def _merged(pieces) -> tuple[Piece, ...]:
    """Joins pieces that follow one another in their edge set too."""
    result = []
    for piece in pieces:
        if result and result[-1].edge_set == piece.edge_set and result[-1].first + result[-1].num_edges == piece.first:
            piece = Piece(piece.edge_set, result[-1].first, result.pop().num_edges + piece.num_edges)
        result.append(piece)
    return tuple(result)


def layout_of_graph(graph) -> GraphLayout:
    """Reads the layout back from an eager graph's block tables and adjacency.

    Args:
      graph: GraphTensor of one network with concrete values.

    Returns:
      A GraphLayout without the names of weights and columns.

    Raises:
      ArgumentError: the graph holds several networks, or an edge set has no block table.
    """
    blocks, identity = [], np.zeros((0, 2), np.int64)
    for name, edges in graph.edge_sets.items():
        source, target = edges.adjacency.source.numpy(), edges.adjacency.target.numpy()
        if name == schema.IDENTITY:
            identity = np.stack([source, target], 1).astype(np.int64)
            continue
        dense, taps = name.startswith(schema.KERNEL), schema.edge_set_taps(name)
        for first, num_source, num_target, call in block_table(graph, name).numpy():
            part = slice(first, first + num_source * num_target if dense else first + num_source)
            ends = (source[part][::num_target], target[part][:num_target]) if dense else (source[part], target[part])
            blocks.append(Block(name, taps, first, *ends, dense, call, "", None, 0, 0, True))
    return GraphLayout(tuple(blocks), (), identity, int(graph.node_sets[schema.CHANNEL].sizes[0]))


def block_table(graph, edge_set: str):
    """Returns the block table of an edge set, int64 [B, 4]: first edge, number of sources, number of targets, call.

    Raises:
      ArgumentError: the graph holds several networks, or has no such table.
    """
    name = schema.blocks_name(edge_set)
    if graph.spec.total_num_components not in (None, 1):
        raise ArgumentError(
            f"MetaNetwork: expected the graph of one network, got {graph.spec.total_num_components}. "
            f"Call it on one graph at a time."
        )
    if name not in graph.context.features:
        raise ArgumentError(
            f"MetaNetwork: expected the block table {name!r} in the graph's context, "
            f"got {sorted(graph.context.features)}. Make the graph by encode_graph."
        )
    return graph.context[name][0]
