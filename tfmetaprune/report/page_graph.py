"""The calls of a network as a graph that can be read: cheap calls join what they read, and the whole falls into blocks."""

import dataclasses
import os
import re

_LONGEST_CHAIN = 6  # blocks of one node each are drawn together, so many of them
_SYMBOLS = {"add": "+", "subtract": "\u2212", "multiply": "\u00d7", "concatenate": "\u2225", "concat": "\u2225", "dot": "\u00b7"}


@dataclasses.dataclass(frozen=True)
class Node:
    """What is drawn as one box or circle.

    Attributes:
      name: of the call that gives it its name; "" for a mere place.
      kind: its class.
      calls: the calls in it, dicts of network.json; the first gives the name.
      inputs: indices of the nodes it reads.
      width: [before, after]; None if unknown.
      macs, parameters: [before, after], of all its calls.
      remaining: how many of the parameters remain and are not zero.
      symbol: of a call that merges; None for others.
    """

    name: str
    kind: str
    calls: tuple
    inputs: tuple
    width: list | None
    macs: tuple
    parameters: tuple
    remaining: int
    symbol: str | None = None

    @property
    def gone(self) -> float | None:
        """The share of its parameters that are gone or zero; None without any."""
        return 1 - self.remaining / self.parameters[0] if self.parameters[0] else None


@dataclasses.dataclass(frozen=True)
class Block:
    """A part of the graph that is entered and left in one place.

    Attributes:
      title: what its layers' names have in common.
      entry: index of the node before it; None at the beginning.
      nodes: indices of its nodes, in order.
      prefix: of the names, which need not be repeated.
    """

    title: str
    entry: int | None
    nodes: tuple
    prefix: str


def make_nodes(network) -> list[Node]:
    """Joins every call that costs nothing and reads one tensor to the node that makes it.

    Args:
      network: network.json.
    """
    calls, groups, node_of = network["calls"], [], {}
    for index, source in enumerate(network["inputs"]):
        node_of[-1 - index] = len(groups)
        groups.append(([{**_input_call(source)}], []))
    for index, call in enumerate(calls):
        read = list(dict.fromkeys(node_of[source] for source in call["inputs"]))
        if len(read) == 1 and not call["macs"][0]:
            node_of[index] = read[0]
            groups[read[0]][0].append(call)
        else:
            node_of[index] = len(groups)
            groups.append(([call], read))
    return [_node(members, read) for members, read in groups]


def _input_call(source) -> dict:
    blank = {"macs": [0, 0], "parameters": [0, 0], "nonzero": None, "frozen": "model input", "inputs": []}
    return {"name": source["name"], "kind": "Input", "width": source["width"], **blank}


def _node(calls, read) -> Node:
    first = calls[0]
    macs, parameters = ([sum(call[key][side] for call in calls) for side in (0, 1)] for key in ("macs", "parameters"))
    remaining = sum(call["parameters"][1] if call["nonzero"] is None else call["nonzero"] for call in calls)
    symbol = None
    if len(read) > 1 and not first["macs"][0]:
        words = re.split(r"[^a-z]+", f"{first['kind'].lower()} {first['name'].lower()}")
        symbol = next((_SYMBOLS[word] for word in words if word in _SYMBOLS), "\u25cb")
    return Node(
        first["name"], first["kind"], tuple(calls), tuple(read), first["width"], tuple(macs), tuple(parameters), remaining, symbol
    )


def make_blocks(nodes) -> list[Block]:
    """Cuts the graph where a single node carries all there is.

    Args:
      nodes: of `make_nodes`.
    """
    reach, cuts = 0, []
    last_reader = list(range(len(nodes)))
    for index, node in enumerate(nodes):
        for source in node.inputs:
            last_reader[source] = max(last_reader[source], index)
    for index in range(len(nodes)):
        if reach <= index:
            cuts.append(index)
        reach = max(reach, last_reader[index])
    parts, start = [], 0
    for cut in cuts:
        parts.append(list(range(start, cut + 1)))
        start = cut + 1
    if start < len(nodes):
        parts.append(list(range(start, len(nodes))))
    blocks, chain = [], []
    for part in parts:
        if len(part) == 1 and len(chain) < _LONGEST_CHAIN:
            chain += part
            continue
        if chain:
            blocks.append(chain)
        chain = part if len(part) == 1 else []
        if not chain:
            blocks.append(part)
    if chain:
        blocks.append(chain)
    return [_block(nodes, members, members[0] - 1 if members[0] else None) for members in blocks]


def _block(nodes, members, entry) -> Block:
    names = [nodes[index].name for index in members if nodes[index].kind != "Input"]
    prefix = os.path.commonprefix(names) if len(names) > 1 else ""
    prefix = prefix[: max((match.end() for match in re.finditer(r"[_/.]", prefix)), default=0)]
    title = prefix.rstrip("_/.") or (names[0] if len(names) == 1 else f"{names[0]} \u2026 {names[-1]}" if names else "input")
    return Block(title, entry, tuple(members), prefix)
