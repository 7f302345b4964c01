"""The graph of a network: schema, layout, encoding, decoding, and the statistics of its channels."""

from tfmetaprune.graph.decode import decode_blocks, decode_graph
from tfmetaprune.graph.encode import encode_graph
from tfmetaprune.graph.layout import Block, Column, EdgeSet, GraphLayout, graph_layout, tap_positions
from tfmetaprune.graph.schema import graph_schema
from tfmetaprune.graph.statistics import channel_statistics, logits_of

__all__ = [
    "Block", "Column", "EdgeSet", "GraphLayout", "channel_statistics", "decode_blocks", "decode_graph", "encode_graph", "logits_of",
    "graph_layout", "graph_schema", "tap_positions",
]  # fmt: skip
