"""GraphTensor -> weights: the exact inverse of `encode_graph`, in differentiable TensorFlow operations."""

from collections.abc import Mapping

import numpy as np

from tfmetaprune._keras import tf
from tfmetaprune.errors import ArgumentError
from tfmetaprune.graph import schema
from tfmetaprune.graph.layout import GraphLayout, graph_layout
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
    read = [column.is_first for column in layout.columns]
    sizes = np.array([len(column.nodes) for column in layout.columns])
    if any(read):  # one gather and one split, so that the gradient is one concatenation and one scatter
        places = layout.column_places[np.repeat(read, sizes)]
        values = iter(tf.split(tf.gather(tf.reshape(parameters, [-1]), places), sizes[read]))
        for column in layout.columns:
            if column.is_first:
                call = trace.calls[column.call]
                result[call.path, column.weight] = _like(get_weight(call.layer, column.weight), next(values))

    pieces = {}  # (call, weight) -> its runs with their rows
    for name, runs in layout.edge_set_runs.items():
        if name not in weights:
            raise ArgumentError(
                f"decode_graph: expected the edge set {name!r}, got {sorted(weights)}. Use the graph of this model."
            )
        _check_shape(name, weights[name], (runs[-1].part.stop, np.prod(runs[0].blocks[0].taps)))
        for run, rows in zip(runs, tf.split(weights[name], [run.num_edges for run in runs]), strict=True):
            if run.blocks[0].is_first:
                pieces.setdefault((run.blocks[0].call, run.blocks[0].weight), []).append((run, rows))
    for (call, weight), parts in pieces.items():
        variable = get_weight(trace.calls[call].layer, weight)
        result[trace.calls[call].path, weight] = _like(variable, _join(parts))
    return result


def _like(variable, value) -> tf.Tensor:
    """Gives a value the shape and dtype of a variable."""
    value = value if value.shape == variable.shape else tf.reshape(value, variable.shape)
    return value if value.dtype == variable.dtype else tf.cast(value, variable.dtype)


def _join(parts) -> tf.Tensor:
    """Puts the runs of one weight together again, in any shape with its elements in order."""
    axes, joined = parts[0][0].blocks[0].axes, []
    for run, rows in sorted(parts, key=lambda part: part[0].blocks[0].offset):
        blocks, own, segment, num_sources, num_targets = run
        if len(blocks) > 1:  # the groups of a convolution have no segments
            rows = tf.transpose(tf.reshape(rows, [len(blocks), num_sources, num_targets, own]), (3, 1, 0, 2))
        elif own * segment > 1:
            rows = tf.transpose(rows)
        joined.append(rows if len(parts) == 1 else tf.reshape(rows, [own, -1, num_targets]))
    value = joined[0] if len(joined) == 1 else tf.concat(joined, 1)
    order = axes.canonical_order
    if order != tuple(range(len(order))):
        value = tf.transpose(tf.reshape(value, [axes.shape[axis] for axis in order]), np.argsort(order))
    return value


def _check_shape(name, tensor, shape):
    if not tensor.shape.is_compatible_with(shape):
        raise ArgumentError(
            f"decode_graph: expected {name!r} of shape {tuple(map(int, shape))}, got {tuple(tensor.shape)}. "
            f"Decode with the trace of a model of the structure that was encoded."
        )
