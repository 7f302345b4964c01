"""From a traced model to what a metanetwork makes of it."""

import numpy as np

from tfmetaprune._keras import tf
from tfmetaprune.graph import decode_graph, encode_graph
from tfmetaprune.graph.schema import CHANNEL, SCORE


def generate(metanet, trace, statistics) -> tuple[dict, np.ndarray]:
    """Passes a traced model through a metanetwork.

    Args:
      metanet: the `MetaNetwork`.
      trace: the traced model; it is not modified.
      statistics: float32 [num_units, S], of `channel_statistics`.

    Returns:
      The generated weights, (layer name, weight name) -> tensor, and the score of each unit, float32 [num_units]: the
      mean over the nodes that live and die together.
    """
    graph = metanet(encode_graph(trace, statistics))
    node_score = tf.reshape(graph.node_sets[CHANNEL][SCORE], [-1])
    channels = trace.channels
    score = tf.math.unsorted_segment_mean(node_score, channels.unit_of_node, channels.num_units)
    return decode_graph(graph, trace), score.numpy()
