"""The edges of a graph as the metanetwork works on them: dense in x out blocks, and one list of all other edges.

Edge states are channel-first, `[d, num_in, num_out]` or `[d, num_edges]`, so that sums over a block are batched matrix
products and a linear map is one product with a `[d, num_edges]` matrix. Node states are rows, `[num_nodes, d]`.
"""

import dataclasses
import math
import weakref

import numpy as np

from tfmetaprune._keras import tf
from tfmetaprune.errors import ArgumentError
from tfmetaprune.graph import schema
from tfmetaprune.graph.layout import Block, GraphLayout

SOURCE, TARGET = 0, 1
MAX_EDGES = 2**18  # larger blocks are cut along their inputs: less memory for what is computed on one


@dataclasses.dataclass(frozen=True, eq=False)
class DenseBlock:
    """All edges between `source` [num_in] and `target` [num_out]; states are `[d, num_in, num_out]`."""

    source: np.ndarray
    target: np.ndarray

    @property
    def shape(self) -> tuple[int, int]:
        """(num_in, num_out)."""
        return len(self.source), len(self.target)

    @property
    def num_edges(self) -> int:
        """Number of edges."""
        return len(self.source) * len(self.target)

    def at(self, end, nodes):
        """Node rows [num_nodes, d] at the given end of every edge, in a shape that broadcasts with the edge states."""
        return tf.expand_dims(tf.transpose(tf.gather(nodes, (self.source, self.target)[end])), 2 - end)

    def total(self, end, edges, nodes):
        """Sums edge state * node at the other end over each node's edges at this end: rows [num_in or num_out, d]."""
        other = tf.transpose(tf.gather(nodes, (self.target, self.source)[end]))
        if end == TARGET:
            return tf.transpose(tf.squeeze(tf.matmul(other[:, tf.newaxis, :], edges), 1))
        return tf.transpose(tf.squeeze(tf.matmul(edges, other[:, :, tf.newaxis]), 2))

    def extreme(self, end, reduce, messages):
        """Reduces messages [d, num_in, num_out] by `reduce` (`tf.reduce_max`, ...) to rows [num_in or num_out, d]."""
        return tf.transpose(reduce(messages, 1 if end == TARGET else 2))

    def outer(self, pairs):
        """Sums over pairs (x, y) of node rows: x at the source * y at the target, [d, num_in, num_out]."""
        x = tf.gather(tf.stack([x for x, _ in pairs], -1), self.source)
        y = tf.gather(tf.stack([y for _, y in pairs], -1), self.target)
        return tf.matmul(tf.transpose(x, (1, 0, 2)), tf.transpose(y, (1, 2, 0)))

    def split(self) -> "tuple[DenseBlock, ...]":
        """Cuts the block along its inputs into blocks of at most `MAX_EDGES` edges (or of one input)."""
        num_parts = min(len(self.source), math.ceil(self.num_edges / MAX_EDGES)) or 1
        return tuple(DenseBlock(part, self.target) for part in np.array_split(self.source, num_parts))


@dataclasses.dataclass(frozen=True, eq=False)
class EdgeList:
    """Single edges from `source` [num_edges] to `target` [num_edges]; states are `[d, num_edges]`."""

    source: np.ndarray
    target: np.ndarray

    @property
    def shape(self) -> tuple[int]:
        """(num_edges,)."""
        return (len(self.source),)

    @property
    def num_edges(self) -> int:
        """Number of edges."""
        return len(self.source)

    def at(self, end, nodes):
        """Node rows [num_nodes, d] at the given end of every edge: [d, num_edges]."""
        return tf.transpose(tf.gather(nodes, (self.source, self.target)[end]))

    def total(self, end, edges, nodes):
        """Returns edge state * node at the other end as rows [num_edges, d]; `join` sums them."""
        return tf.transpose(edges * self.at(1 - end, nodes))

    def extreme(self, end, reduce, messages):
        """Returns the messages as rows [num_edges, d]; `join` reduces them."""
        del end, reduce
        return tf.transpose(messages)

    def outer(self, pairs):
        """Sums over pairs (x, y) of node rows: x at the source * y at the target, [d, num_edges]."""
        return tf.add_n([self.at(SOURCE, x) * self.at(TARGET, y) for x, y in pairs])


@dataclasses.dataclass(frozen=True, eq=False)
class Structure:
    """The static structure that the metanetwork runs on.

    Attributes:
      dense, single: the dense and the per-channel blocks of the layout; those of one edge set in order.
      parts: for each of `dense`, the blocks that its edge states are cut into.
      blocks: of the edge states, at least one: all `parts` and, if there are any other edges, one `EdgeList` of the edges
        of `single` and of the identity edges.
      degree: [2, num_nodes] number of edges that leave (SOURCE) or reach (TARGET) a node, 1 where there is none.
      linked: [2, num_nodes] whether there is one.
      weighted: [2, num_nodes] number of edges that carry weights; 0 where there is none.
      num_identity: number of identity edges.
      num_nodes: number of channels.
    """

    dense: tuple[Block, ...]
    single: tuple[Block, ...]
    parts: tuple[tuple[DenseBlock, ...], ...]
    blocks: tuple[DenseBlock | EdgeList, ...]
    degree: np.ndarray
    linked: np.ndarray
    weighted: np.ndarray
    num_identity: int
    num_nodes: int

    def join(self, op, end, rows):
        """Joins the rows of all blocks by a segment operation (`tf.math.unsorted_segment_sum`, ...): [num_nodes, d]."""
        ids = np.concatenate([(block.source, block.target)[end] for block in self.blocks])
        return op(tf.concat(rows, 0), ids, self.num_nodes)


_structures = weakref.WeakKeyDictionary()


def structure_of(layout: GraphLayout) -> Structure:
    """Returns the structure for a layout; made once for each layout."""
    if layout not in _structures:
        _structures[layout] = _make_structure(layout)
    return _structures[layout]


def _make_structure(layout):
    dense = tuple(block for blocks in layout.edge_set_blocks.values() for block in blocks if block.dense)
    single = tuple(block for blocks in layout.edge_set_blocks.values() for block in blocks if not block.dense)
    parts = tuple(DenseBlock(block.source, block.target).split() for block in dense)
    edges = [np.stack([block.source, block.target], 1) for block in single]
    edges = np.concatenate([*edges, layout.identity.reshape(-1, 2)])
    blocks = [part for cut in parts for part in cut]
    if len(edges) or not blocks:
        blocks.append(EdgeList(edges[:, 0], edges[:, 1]))
    weighted = np.zeros((2, layout.num_nodes), np.float32)
    for block in dense + single:
        np.add.at(weighted[SOURCE], block.source, len(block.target) if block.dense else 1)
        np.add.at(weighted[TARGET], block.target, len(block.source) if block.dense else 1)
    degree = weighted + [np.bincount(layout.identity[:, end], minlength=layout.num_nodes) for end in (SOURCE, TARGET)]
    return Structure(
        dense=dense, single=single, parts=parts, blocks=tuple(blocks), degree=np.maximum(degree, 1).astype(np.float32),
        linked=degree > 0, weighted=weighted, num_identity=len(layout.identity), num_nodes=layout.num_nodes,
    )  # fmt: skip


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
