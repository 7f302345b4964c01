"""From a traced model to what a metanetwork makes of it: a `MetaNetwork`, or any function of graphs."""

import numpy as np

from tfmetaprune._keras import tf, tfgnn
from tfmetaprune.errors import ArgumentError
from tfmetaprune.graph import decode_graph, encode_graph, graph_layout
from tfmetaprune.graph.schema import CHANNEL, SCORE
from tfmetaprune.metanet.model import MetaNetwork


def generate(metanet, trace, statistics) -> tuple[dict, np.ndarray]:
    """Passes a traced model through a metanetwork.

    Args:
      metanet: a `MetaNetwork`; or a callable that takes the model's `tfgnn.GraphTensor` and returns it with any of PARAMETERS,
        WEIGHTs and the node feature SCORE [num_nodes] changed or added, a TF-GNN model say.
      trace: the traced model; it is not modified.
      statistics: float32 [num_units, S], of `channel_statistics`.

    Returns:
      The generated weights, (layer name, weight name) -> tensor, and the score of each unit, float32 [num_units]: the
      mean over the nodes that live and die together, 0 without a SCORE.

    Raises:
      ArgumentError: what the callable returned is no graph, or does not fit the model.
    """
    channels, graph = trace.channels, encode_graph(trace, statistics)
    graph = metanet(graph, graph_layout(trace)) if isinstance(metanet, MetaNetwork) else metanet(graph)
    if not isinstance(graph, tfgnn().GraphTensor):
        raise ArgumentError(
            f"Metanetwork {metanet!r}: expected it to return a GraphTensor, got {type(graph).__name__}. "
            f"Return the graph it was given, by graph.replace_features(...)."
        )
    features = graph.node_sets[CHANNEL].get_features_dict()
    score = np.asarray(features.get(SCORE, np.zeros(len(channels.unit_of_node)))).astype(np.float32)
    if score.size != len(channels.unit_of_node) or not np.isfinite(score).all():
        raise ArgumentError(
            f"Metanetwork {metanet!r}: expected the node feature {SCORE!r} to hold {len(channels.unit_of_node)} finite numbers, "
            f"one a node, got {'shape ' + str(score.shape) if np.isfinite(score).all() else 'some that are not finite'}. "
            f"Return one number for each node."
        )
    score = tf.math.unsorted_segment_mean(score.reshape(-1), channels.unit_of_node, channels.num_units)
    weights = decode_graph(graph, trace)
    for (path, name), value in weights.items():
        if not np.isfinite(value).all():
            raise ArgumentError(
                f"Metanetwork {metanet!r}: expected finite weights, got some in {name!r} of layer {path!r} that are not. "
                f"Keep the changes small, or return the weights as they were."
            )
    return weights, score.numpy()
