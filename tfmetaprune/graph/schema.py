"""Names of everything in the graph, and the written schema.

One node is one channel made by one call. Three kinds of edge sets join them:

| edge set | edges | order |
|---|---|---|
| `kernel_{taps}` | a complete source x target block for every segment of a weight's input axis | source-major |
| `channel_{taps}` | one edge a channel: depthwise kernels, per-channel weights without a column | as on the axis |
| `identity` | a channel is passed on unchanged: residual sums, pass-through | by call |

`{taps}` are the kernel's positions, `3x3` say, `1` for none. The blocks of an edge set lie one after the other and fill
it; the context's block tables say where each begins.
"""

from tfmetaprune._keras import tfgnn

SCHEMA_VERSION = 1

CHANNEL = "channel"  # the one node set
KERNEL, PER_CHANNEL, IDENTITY = "kernel", "channel", "identity"  # kinds of edge sets

PARAMETERS = "parameters"
PRESENT = "present"
CALL = "call"
UNIT = "unit"
FROZEN = "frozen"
STATISTICS = "statistics"
SCORE = "score"
WEIGHT = "weight"
VERSION = "schema_version"

COLUMNS = ("bias", "gamma", "beta", "moving_mean", "moving_variance", "ln_gamma", "ln_beta", "alpha")
COLUMN_DEFAULTS = (0.0, 1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0)
STATISTICS_NAMES = ("mean", "std", "log_fisher_in_group", "log_fisher_in_network")

_NODE_DESCRIPTIONS = {
    PARAMETERS: f"Per-channel parameters, in order: {', '.join(COLUMNS)}; a default where the channel has none.",
    PRESENT: "1 where the parameter exists, 0 where the default stands.",
    CALL: "Index of the call that made the channel; -1 for the model's inputs.",
    UNIT: "Channels of the same unit can only be pruned together.",
    FROZEN: "1 where the channel must stay.",
    STATISTICS: f"Statistics measured on data, in order: {', '.join(STATISTICS_NAMES)}; 0 where nothing was measured.",
    SCORE: "What the metanetwork adds to the criterion's score; the lowest are pruned first.",
}
_EDGE_DESCRIPTION = "The kernel's taps between source and target, row-major."
_BLOCKS_DESCRIPTION = "One row a block: first edge, number of sources, number of targets, call (of edge set {})."


def edge_set_name(kind: str, taps: tuple[int, ...]) -> str:
    """Returns the name of the edge set of a kind (`KERNEL` or `PER_CHANNEL`) for kernels of shape `taps`.

    Example:
      >>> edge_set_name(KERNEL, (3, 3)), edge_set_name(PER_CHANNEL, ())
      ('kernel_3x3', 'channel_1')
    """
    return f"{kind}_{'x'.join(str(tap) for tap in taps) or '1'}"


def edge_set_taps(name: str) -> tuple[int, ...]:
    """Returns the kernel shape that stands in an edge set's name.

    Example:
      >>> edge_set_taps("kernel_3x3"), edge_set_taps("identity")
      ((3, 3), (1,))
    """
    return (1,) if name == IDENTITY else tuple(int(tap) for tap in name.partition("_")[2].split("x"))


def blocks_name(edge_set: str) -> str:
    """Returns the name of the context feature that holds the block table of an edge set."""
    return f"blocks_{edge_set}"


def graph_schema(graph):
    """Writes the TF-GNN schema of a graph.

    Args:
      graph: a scalar `tfgnn.GraphTensor` of one component (or its spec), as `encode_graph` makes it.

    Returns:
      A `tfgnn.GraphSchema` proto with every feature's dtype, shape and description.

    Raises:
      ValueError: the graph is batched or has several components.
    """
    schema = tfgnn().create_schema_pb_from_graph_spec(graph)
    for name, feature in schema.context.features.items():
        edge_set = name.removeprefix(blocks_name(""))
        feature.description = "Version of this schema." if name == VERSION else _BLOCKS_DESCRIPTION.format(edge_set)
    for name, feature in schema.node_sets[CHANNEL].features.items():
        feature.description = _NODE_DESCRIPTIONS.get(name, "")
    schema.node_sets[CHANNEL].description = "One node is one channel made by one call of a layer."
    for edge_set in schema.edge_sets.values():
        for feature in edge_set.features.values():
            feature.description = _EDGE_DESCRIPTION
    return schema
