"""GraphTensor -> weights: the exact inverse of `encode_graph`, in differentiable TensorFlow operations."""

from collections.abc import Mapping

import numpy as np

from tfmetaprune._keras import tf
from tfmetaprune.errors import ArgumentError
from tfmetaprune.graph import schema
from tfmetaprune.graph.layout import GraphLayout, block_shape, graph_layout
from tfmetaprune.layers import get_weight


def decode_graph(graph, trace) -> dict[tuple[str, str], tf.Tensor]:
    """Reads the weights back from a graph.

    Args:
      graph: a scalar `tfgnn.GraphTensor` as `encode_graph(trace)` makes it, with any PARAMETERS and WEIGHTs.
      trace: the `ModelTrace` of a model of the same structure.

    Returns:
      (layer path, weight name) -> tensor of the weight's shape and dtype, differentiable with respect to the graph, for
      every weight of a registered kind that has an axis of channels. Of a shared layer only the first call is read.

    Raises:
      ArgumentError: the graph is batched, of another schema version, or does not fit the model.
    """
    if graph.rank != 0:
        raise ArgumentError(
            f"decode_graph: expected a scalar GraphTensor, got one of rank {graph.rank}. "
            f"Take a single graph from the batch."
        )
    version = graph.context.features.get(schema.VERSION)
    if tf.is_tensor(version) and hasattr(version, "numpy") and version.numpy().tolist() != [schema.SCHEMA_VERSION]:
        raise ArgumentError(
            f"decode_graph: expected one graph of schema version {schema.SCHEMA_VERSION}, got "
            f"{version.numpy().tolist()}. Encode the model again with this version of tfmetaprune."
        )
    weights = {name: edges[schema.WEIGHT] for name, edges in graph.edge_sets.items() if schema.WEIGHT in edges.features}
    return decode_blocks(graph_layout(trace), graph.node_sets[schema.CHANNEL][schema.PARAMETERS], weights, trace)


def decode_blocks(
    layout: GraphLayout, parameters: tf.Tensor, weights: Mapping[str, tf.Tensor], trace
) -> dict[tuple[str, str], tf.Tensor]:
    """Reads the weights back from the raw tensors of a graph.

    Args:
      layout: `graph_layout(trace)`.
      parameters: float32 [num_nodes, P].
      weights: edge set -> float32 [num_edges, T].
      trace: the `ModelTrace`; only shapes and dtypes of its weights are read.

    Returns:
      (layer path, weight name) -> tensor, see `decode_graph`.

    Raises:
      ArgumentError: a tensor is missing or has another shape.
    """
    _check_shape("parameters", parameters, (layout.num_nodes, len(schema.COLUMNS)))
    result = {}
    columns = tf.unstack(parameters, len(schema.COLUMNS), axis=1)  # one split, so that the gradient is one stack
    for column in layout.columns:
        if column.is_first:
            variable = get_weight(trace.calls[column.call].layer, column.weight)
            value = tf.reshape(tf.gather(columns[column.index], column.nodes), variable.shape)
            result[trace.calls[column.call].path, column.weight] = tf.cast(value, variable.dtype)

    pieces = {}  # (call, weight) -> its blocks with their rows
    for name, blocks in layout.edge_set_blocks.items():
        sizes = [block.num_edges for block in blocks]
        if name not in weights:
            raise ArgumentError(
                f"decode_graph: expected the edge set {name!r}, got {sorted(weights)}. Use the graph of this model."
            )
        _check_shape(name, weights[name], (sum(sizes), np.prod(blocks[0].taps)))
        for block, rows in zip(blocks, tf.split(weights[name], sizes), strict=True):
            if block.is_first:
                pieces.setdefault((block.call, block.weight), []).append((block, rows))
    for (call, weight), parts in pieces.items():
        variable = get_weight(trace.calls[call].layer, weight)
        result[trace.calls[call].path, weight] = tf.cast(_join(parts, variable.shape), variable.dtype)
    return result


def _join(parts, shape) -> tf.Tensor:
    """Puts the blocks of one weight together again."""
    runs = {}  # first target -> its segments
    for block, rows in sorted(parts, key=lambda part: part[0].offset):
        sizes = block_shape(block)
        rows = tf.reshape(rows, [sizes.num_sources, sizes.num_targets, sizes.own_taps, sizes.segment_taps])
        rows = tf.reshape(tf.transpose(rows, (2, 3, 0, 1)), [sizes.own_taps, -1, sizes.num_targets])
        runs.setdefault(block.target_offset, []).append(rows)
    joined = [rows[0] if len(rows) == 1 else tf.concat(rows, 1) for _, rows in sorted(runs.items())]
    value = joined[0] if len(joined) == 1 else tf.concat(joined, 2)
    axes = parts[0][0].axes
    order = axes.canonical_order
    value = tf.reshape(value, [axes.shape[axis] for axis in order])
    if order != tuple(range(len(order))):
        value = tf.transpose(value, np.argsort(order))
    return tf.reshape(value, shape)


def _check_shape(name, tensor, shape):
    if not tensor.shape.is_compatible_with(shape):
        raise ArgumentError(
            f"decode_graph: expected {name!r} of shape {tuple(map(int, shape))}, got {tuple(tensor.shape)}. "
            f"Decode with the trace of a model of the structure that was encoded."
        )
