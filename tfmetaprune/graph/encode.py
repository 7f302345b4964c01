"""ModelTrace -> GraphTensor."""

import math

import numpy as np

from tfmetaprune._keras import tf, tfgnn
from tfmetaprune.errors import ArgumentError
from tfmetaprune.graph import schema
from tfmetaprune.graph.layout import GraphLayout, empty_aligned, graph_layout
from tfmetaprune.layers import get_weight


def encode_graph(trace, statistics=None):
    """Encodes the weights of a traced model as a graph; `decode_graph` is the exact inverse.

    The graph holds float32: weights in float64 are rounded.

    Args:
      trace: a `ModelTrace`.
      statistics: float32 [num_units, S] from `channel_statistics`; zeros if None.

    Returns:
      A scalar `tfgnn.GraphTensor` of one component: node features PARAMETERS and PRESENT [N, P], CALL and UNIT [N],
      FROZEN [N, 1], STATISTICS [N, S]; on all edge sets but `identity` the feature WEIGHT [E, T]; in the context the
      schema's version and the block tables [1, B, 4].

    Raises:
      ArgumentError: the statistics have another shape.

    Example:
      >>> from tfmetaprune._keras import keras
      >>> from tfmetaprune.trace import trace_model
      >>> model = keras.Sequential([keras.layers.Conv2D(4, 3, input_shape=(8, 8, 3))])
      >>> graph = encode_graph(trace_model(model))
      >>> graph.edge_sets["kernel_3x3"]["weight"].shape, graph.node_sets["channel"]["parameters"].shape
      (TensorShape([12, 9]), TensorShape([7, 8]))
    """
    layout, channels = graph_layout(trace), trace.channels
    parameters, present = _parameters(layout, trace)
    frozen = np.zeros(channels.num_units, np.float32)
    frozen[list(channels.frozen)] = 1
    shape = (channels.num_units, len(schema.STATISTICS_NAMES))
    statistics = np.zeros(shape, np.float32) if statistics is None else np.asarray(statistics, np.float32)
    if statistics.shape != shape:
        raise ArgumentError(
            f"encode_graph: expected statistics of shape {shape} (units of model {trace.model.name!r}, statistics), "
            f"got {statistics.shape}. Compute them by channel_statistics(trace, dataset) of the same model."
        )
    nodes = tfgnn().NodeSet.from_fields(
        sizes=tf.constant([layout.num_nodes], tf.int32),
        features={
            schema.PARAMETERS: _tensor(parameters),
            schema.PRESENT: _tensor(present),
            schema.CALL: tf.constant(np.maximum(channels.node_call, -1), tf.int64),
            schema.UNIT: tf.constant(channels.unit_of_node, tf.int64),
            schema.FROZEN: _tensor(frozen[channels.unit_of_node][:, np.newaxis]),
            schema.STATISTICS: _tensor(statistics[channels.unit_of_node]),
        },
    )
    weights, edge_sets = _weights(layout, trace), {}
    for name, edges in layout.edge_sets.items():
        edge_sets[name] = tfgnn().EdgeSet.from_fields(
            sizes=tf.constant([edges.num_edges], tf.int32),
            features={schema.WEIGHT: _tensor(weights.pop(name))} if name in weights else {},
            adjacency=tfgnn().Adjacency.from_indices(
                (schema.CHANNEL, _tensor(edges.source)), (schema.CHANNEL, _tensor(edges.target))
            ),
        )
    tables = {
        schema.blocks_name(name): tf.constant(table[np.newaxis]) for name, table in layout.block_tables.items()
    }
    version = {schema.VERSION: tf.constant([schema.SCHEMA_VERSION], tf.int64)}
    context = tfgnn().Context.from_fields(features={**version, **tables})
    return tfgnn().GraphTensor.from_pieces(context=context, node_sets={schema.CHANNEL: nodes}, edge_sets=edge_sets)


def _tensor(array: np.ndarray) -> tf.Tensor:
    """Makes a tensor of an array that nobody writes to again: aligned memory is taken over, `tf.constant` copies it."""
    return tf.raw_ops.Identity(input=array)


def _weight(trace, call, name) -> np.ndarray:
    """Reads a weight; the array is a view of the variable's memory."""
    return np.asarray(tf.convert_to_tensor(get_weight(trace.calls[call].layer, name)))


def _parameters(layout: GraphLayout, trace):
    """float32 [num_nodes, P] parameters and presence."""
    parameters = empty_aligned((layout.num_nodes, len(schema.COLUMNS)), np.float32)
    parameters[...] = schema.COLUMN_DEFAULTS
    present = empty_aligned(parameters.shape, np.float32)
    present[...] = 0
    if layout.columns:
        values = [_weight(trace, column.call, column.weight).reshape(-1) for column in layout.columns]
        parameters.reshape(-1)[layout.column_places] = np.concatenate(values, dtype=np.float32, casting="unsafe")
        present.reshape(-1)[layout.column_places] = 1
    return parameters, present


def _weights(layout: GraphLayout, trace) -> dict[str, np.ndarray]:
    """Edge set -> float32 [num_edges, T]; every weight is transposed straight into its place."""
    result = {}
    for name, runs in layout.edge_set_runs.items():
        result[name] = empty_aligned((runs[-1].part.stop, math.prod(runs[0].blocks[0].taps)), np.float32)
        for run in runs:
            blocks, own, segment, num_sources, num_targets = run
            axes, offset = blocks[0].axes, blocks[0].offset
            value = _weight(trace, blocks[0].call, blocks[0].weight).reshape(axes.shape).transpose(axes.canonical_order)
            value = value.reshape(own, -1, len(blocks) * num_targets)[:, offset : offset + segment * num_sources]
            value = value.reshape(own, segment, num_sources, len(blocks), num_targets)
            rows = result[name][run.part].reshape(len(blocks), num_sources, num_targets, own, segment)
            rows[...] = value.transpose(3, 2, 4, 0, 1)
    return result
