"""Numbers units and dependency groups once it is known which nodes hang together."""

import numpy as np


def components(num_nodes, pairs):
    """int64 [num_nodes]: the connected component of each node, numbered in the order of their first nodes."""
    labels = np.arange(num_nodes)
    while len(pairs):
        source, target = labels[pairs[:, 0]], labels[pairs[:, 1]]
        low, high = np.minimum(source, target), np.maximum(source, target)
        if np.array_equal(low, high):
            break
        np.minimum.at(labels, high, low)
        while not np.array_equal(labels, labels[labels]):
            labels = labels[labels]
    return np.unique(labels, return_inverse=True)[1].reshape(-1)


def stack_pairs(arrays):
    """int64 [k, 2]: all pairs, also of none."""
    return np.concatenate([np.zeros((0, 2), np.int64), *arrays])


def number_channels(ties, node_call, frozen_nodes) -> dict:
    """Numbers units and groups.

    Args:
      ties: list of int64 [k, 2], pairs of nodes that live and die together.
      node_call: list of int64 [n], for every run of nodes made together the call that made it.
      frozen_nodes: list of (int64 nodes, why they have to stay).

    Returns:
      The fields of `ChannelMap` that say which nodes and units there are, by name.
    """
    num_nodes = sum(map(len, node_call))
    unit_of_node = components(num_nodes, stack_pairs(ties))
    num_units = int(unit_of_node.max(initial=-1)) + 1
    frozen = {}
    for nodes, reason in frozen_nodes:
        for unit in np.unique(unit_of_node[nodes]).tolist():
            frozen.setdefault(unit, reason)
    # One producer is one run of nodes made together; makers that share a unit are one dependency group.
    producer = np.repeat(np.arange(len(node_call)), [len(nodes) for nodes in node_call])
    order = np.argsort(unit_of_node, kind="stable")
    same_unit = unit_of_node[order[1:]] == unit_of_node[order[:-1]]
    pairs = np.stack([producer[order[:-1]][same_unit], producer[order[1:]][same_unit]], 1)
    group_of_producer = components(len(node_call), np.unique(pairs, axis=0))
    group_of_unit = np.zeros(num_units, np.int64)
    group_of_unit[unit_of_node] = group_of_producer[producer]
    groups, first = np.unique(group_of_unit, return_index=True)
    rank = np.zeros(groups.max(initial=-1) + 1, np.int64)
    rank[groups[np.argsort(first)]] = np.arange(len(groups))
    return {
        "num_nodes": num_nodes,
        "num_units": num_units,
        "node_call": np.concatenate([np.zeros(0, np.int64), *node_call]),
        "unit_of_node": unit_of_node,
        "frozen": frozen,
        "group_of_unit": rank[group_of_unit],
    }
