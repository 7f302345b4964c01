"""ModelTrace -> GraphTensor."""

import math

import numpy as np

from tfmetaprune._keras import tf, tfgnn
from tfmetaprune.errors import ArgumentError
from tfmetaprune.graph import schema
from tfmetaprune.graph.layout import GraphLayout, block_shape, graph_layout
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
            schema.PARAMETERS: tf.constant(parameters),
            schema.PRESENT: tf.constant(present),
            schema.CALL: tf.constant(np.maximum(channels.node_call, -1), tf.int64),
            schema.UNIT: tf.constant(channels.unit_of_node, tf.int64),
            schema.FROZEN: tf.constant(frozen[channels.unit_of_node][:, np.newaxis]),
            schema.STATISTICS: tf.constant(statistics[channels.unit_of_node]),
        },
    )
    weights, edge_sets = _weights(layout, trace), {}
    for name, edges in layout.edge_sets.items():
        edge_sets[name] = tfgnn().EdgeSet.from_fields(
            sizes=tf.constant([edges.num_edges], tf.int32),
            features={schema.WEIGHT: tf.constant(weights.pop(name))} if name in weights else {},
            adjacency=tfgnn().Adjacency.from_indices(
                (schema.CHANNEL, tf.constant(edges.source)), (schema.CHANNEL, tf.constant(edges.target))
            ),
        )
    tables = {
        schema.blocks_name(name): tf.constant([[_table_row(block) for block in blocks]], tf.int64)
        for name, blocks in layout.edge_set_blocks.items()
    }
    version = {schema.VERSION: tf.constant([schema.SCHEMA_VERSION], tf.int64)}
    context = tfgnn().Context.from_fields(features={**version, **tables})
    return tfgnn().GraphTensor.from_pieces(context=context, node_sets={schema.CHANNEL: nodes}, edge_sets=edge_sets)


def _table_row(block):
    return block.first, len(block.source), len(block.target), block.call


def _weight(trace, call, name) -> np.ndarray:
    return np.asarray(get_weight(trace.calls[call].layer, name))


def _parameters(layout: GraphLayout, trace):
    """float32 [num_nodes, P] parameters and presence."""
    parameters = np.tile(np.array(schema.COLUMN_DEFAULTS, np.float32), (layout.num_nodes, 1))
    present = np.zeros_like(parameters)
    for column in layout.columns:
        parameters[column.nodes, column.index] = _weight(trace, column.call, column.weight).reshape(-1)
        present[column.nodes, column.index] = 1
    return parameters, present


def _weights(layout: GraphLayout, trace) -> dict[str, np.ndarray]:
    """Edge set -> float32 [num_edges, T]; every weight is transposed straight into its place."""
    result = {}
    for name, blocks in layout.edge_set_blocks.items():
        num_edges = blocks[-1].first + blocks[-1].num_edges
        result[name] = np.empty((num_edges, math.prod(blocks[0].taps)), np.float32)
        for block in blocks:
            value = _weight(trace, block.call, block.weight)
            shape, axes = block_shape(block), block.axes
            num_targets = math.prod(axes.shape[axis] for axis in axes.target) if block.dense else 1
            value = value.reshape(axes.shape).transpose(axes.canonical_order).reshape(shape.own_taps, -1, num_targets)
            value = value[:, block.offset : block.offset + shape.segment_taps * shape.num_sources]
            value = value[:, :, block.target_offset : block.target_offset + shape.num_targets]
            own, segment, num_sources, num_targets = shape
            rows = result[name][block.first : block.first + block.num_edges]
            rows.reshape(num_sources, num_targets, own, segment)[...] = value.reshape(shape).transpose(2, 3, 0, 1)
    return result
