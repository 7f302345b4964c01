"""Follows every channel through a traced model: which layers read it, which channels must live and die together.

A *node* is one channel made by one call. A *unit* is a set of nodes that can only be pruned together (joined by a
residual sum, a depthwise kernel, a shared layer, ...). A *group* (dependency group) holds the units whose makers are
connected. Everything here follows from the calls and the axes of their weights; no value of a weight is read.
"""

import dataclasses
import math

import numpy as np

from tfmetaprune.layers import (
    Concat,
    Fresh,
    Frozen,
    LayerCall,
    LayerSpec,
    Repeat,
    Same,
    Tie,
    Unrepeat,
    is_channelwise,
    spec_for,
)


@dataclasses.dataclass(frozen=True, eq=False)
class Segment:
    """A run of a channel axis: channels `nodes`, repeated for every position of `taps` (taps major).

    Attributes:
      nodes: int64 [n], the node of each channel.
      taps: the spatial positions that a flatten moved into the axis; () for none.
    """

    nodes: np.ndarray
    taps: tuple[int, ...] = ()

    @property
    def length(self) -> int:
        """Number of positions on the axis."""
        return math.prod(self.taps) * len(self.nodes)

    @property
    def positions(self) -> np.ndarray:
        """int64 [length], the node at each position of the axis."""
        return np.tile(self.nodes, math.prod(self.taps))


Layout = tuple[Segment, ...]


def layout_positions(layout: Layout) -> np.ndarray:
    """Returns int64 [length], the node at every position of a channel axis laid out as `layout`."""
    return np.concatenate([np.zeros(0, np.int64), *(segment.positions for segment in layout)])


@dataclasses.dataclass(frozen=True, eq=False)
class CallChannels:
    """What one call does with channels.

    Attributes:
      call: the call.
      spec: the layer's spec; None for a kind nobody registered.
      weights: weight name -> names of its axes; empty where the channels are frozen.
      roles: the layout behind each role that occurs in `weights`.
    """

    call: LayerCall
    spec: LayerSpec | None
    weights: dict[str, tuple[str, ...]]
    roles: dict[str, Layout]

    @property
    def is_first(self) -> bool:
        """Whether this is the layer's first call in the model."""
        return self.call.call_index == 0


@dataclasses.dataclass(frozen=True, eq=False)
class ChannelMap:
    """All channels of a model and how they hang together.

    Attributes:
      calls: one entry for every call of the trace.
      tensors: the layout of every tensor's channel axis; () where it has none.
      num_nodes, num_units: how many there are.
      node_call: int64 [num_nodes], index of the call that made the node, -1 for the model's inputs.
      identity: int64 [E, 2], source and target of the edges that pass a channel on unchanged.
      unit_of_node: int64 [num_nodes], units numbered in the order of their first nodes.
      frozen: unit -> why it has to stay.
      group_of_unit: int64 [num_units], groups numbered in the order of their first units.
    """

    calls: tuple[CallChannels, ...]
    tensors: tuple[Layout, ...]
    num_nodes: int
    num_units: int
    node_call: np.ndarray
    identity: np.ndarray
    unit_of_node: np.ndarray
    frozen: dict[int, str]
    group_of_unit: np.ndarray

    def units(self, layout: Layout) -> np.ndarray:
        """Returns int64 [length], the unit at every position of a channel axis."""
        return self.unit_of_node[layout_positions(layout)]


class _Follower:
    """Collects nodes, identity edges, ties and frozen nodes while it walks over the calls in order."""

    def __init__(self, num_tensors, consumers):
        self.layouts = [()] * num_tensors
        self.exclusive = [False] * num_tensors  # nobody else reads the nodes of this tensor
        self.consumers = consumers
        self.node_call, self.identity, self.ties, self.frozen = [], [], [], []
        self.num_nodes = 0

    def fresh(self, width, call_index):
        nodes = np.arange(self.num_nodes, self.num_nodes + width)
        self.num_nodes += width
        self.node_call.append(np.full(width, call_index))
        return nodes

    def tie(self, source, target):
        self.ties.append(np.stack([source, target], 1))

    def join(self, layout, call_index):
        """Makes one node for every position of the layout, joined to it by an identity edge."""
        positions = layout_positions(layout)
        nodes = self.fresh(len(positions), call_index)
        self.identity.append(np.stack([positions, nodes], 1))
        self.tie(positions, nodes)
        return nodes

    def freeze(self, layout, reason):
        if layout:
            self.frozen.append((layout_positions(layout), reason))

    def set_output(self, tensor, layout, exclusive=True):
        self.layouts[tensor] = layout
        self.exclusive[tensor] = exclusive and self.consumers[tensor] == 1


def _width(shape):
    return shape[-1] if len(shape) > 1 else None


def _flow_of(spec, call):
    layer = call.layer
    if spec is None:
        return Frozen("no LayerSpec is registered for this kind")
    if getattr(layer, "data_format", None) == "channels_first":
        return Frozen("it is channels_first")
    return spec.flow(call)


def follow_channels(calls, shapes, inputs, outputs) -> ChannelMap:
    """Follows the channels through the calls of a model.

    Args:
      calls: `LayerCall`s in topological order.
      shapes: the shape of every tensor, batch axis included.
      inputs: tensor indices of the model's inputs.
      outputs: tensor indices of its outputs.

    Returns:
      The `ChannelMap`.
    """
    consumers = np.zeros(len(shapes), np.int64)
    for call in calls:
        np.add.at(consumers, list(call.inputs), 1)
    np.add.at(consumers, list(outputs), 1)
    follower = _Follower(len(shapes), consumers)
    for tensor in inputs:
        if _width(shapes[tensor]) is not None:
            layout = (Segment(follower.fresh(_width(shapes[tensor]), -1)),)
            follower.set_output(tensor, layout)
            follower.freeze(layout, "model input")
    call_channels = [_follow_call(follower, index, call) for index, call in enumerate(calls)]
    _tie_shared_layers(follower, call_channels)
    for tensor in outputs:
        follower.freeze(follower.layouts[tensor], "model output")
    return _number(follower, call_channels)


def _follow_call(follower, index, call) -> CallChannels:
    spec = spec_for(call.layer)
    flow = _flow_of(spec, call)
    layouts = [follower.layouts[tensor] for tensor in call.inputs]
    if not isinstance(flow, Frozen) and (len(call.outputs) != 1 or not all(layouts)):
        flow = Frozen("it has several outputs or reads a tensor without a channel axis")
    if isinstance(flow, Frozen):
        for layout in layouts:
            follower.freeze(layout, f"read by {call.title}: {flow.reason}")
        for tensor, shape in zip(call.outputs, call.output_shapes):
            if _width(shape) is not None:
                layout = (Segment(follower.fresh(_width(shape), index)),)
                follower.set_output(tensor, layout)
                follower.freeze(layout, f"made by {call.title}: {flow.reason}")
        return CallChannels(call, spec, {}, {})

    weights = spec.weights(call.layer)
    roles = {"in": layouts[0]} if weights else {}
    for role in ("mid", "out"):  # per-channel weights make their channels from those they read
        factor = next((axes.index(f"{role}/in") for axes in weights.values() if f"{role}/in" in axes), None)
        if factor is not None:
            name = next(name for name, axes in weights.items() if f"{role}/in" in axes)
            multiplier = getattr(call.layer, name).shape[factor]
            sources = np.repeat(layout_positions(layouts[0]), multiplier)
            nodes = follower.fresh(len(sources), index)
            follower.tie(sources, nodes)
            roles[role] = (Segment(nodes),)
    output, exclusive = _output_layout(follower, index, call, flow, layouts, weights, roles)
    follower.set_output(call.outputs[0], output, exclusive)
    if not is_channelwise(getattr(call.layer, "activation", None)):
        follower.freeze(output, f"made by {call.title}: its activation mixes the channels")
    return CallChannels(call, spec, weights, roles)


def _output_layout(follower, index, call, flow, layouts, weights, roles):
    """Returns the output's layout and whether its nodes are read through this tensor alone."""
    exclusive = all(follower.exclusive[tensor] for tensor in call.inputs)
    if isinstance(flow, Fresh):
        if "out" not in roles:
            roles["out"] = (Segment(follower.fresh(_width(call.output_shapes[0]), index)),)
        return roles["out"], True
    if isinstance(flow, Same):
        if not weights:
            return layouts[0], exclusive
        plain = all(axes == ("io",) for axes in weights.values())
        in_place = plain and exclusive and len(layouts[0]) == 1 and not layouts[0][0].taps
        if in_place:
            roles["io"] = layouts[0]
        elif plain:
            roles["io"] = (Segment(follower.join(layouts[0], index)),)
        else:  # the weight has taps of its own: it is the edge between the old channel and the new
            positions = layout_positions(layouts[0])
            roles["io"] = (Segment(follower.fresh(len(positions), index)),)
            follower.tie(positions, roles["io"][0].nodes)
        return roles["io"], True
    if isinstance(flow, Tie):
        return _tie(follower, index, call, layouts), True
    if isinstance(flow, Concat):
        return tuple(segment for layout in layouts for segment in layout), exclusive
    if isinstance(flow, Repeat):
        (layout,) = layouts
        if any(segment.taps for segment in layout) or len(layout) > 1:
            layout = (Segment(follower.join(layout, index)),)
        return (Segment(layout[0].nodes, flow.taps),), exclusive
    if isinstance(flow, Unrepeat):
        (layout,) = layouts
        if len(layout) == 1 and len(layout[0].nodes) == flow.keep and layout[0].taps:
            return (Segment(layout[0].nodes),), exclusive
        follower.freeze(layout, f"read by {call.title}: it cuts the channel axis")
        made = (Segment(follower.fresh(flow.keep, index)),)
        follower.freeze(made, f"made by {call.title}: it cuts the channel axis")
        return made, True
    raise TypeError(f"Layer {call.title}: expected a Flow from its LayerSpec, got {flow!r}.")


def _tie(follower, index, call, layouts):
    width = _width(call.output_shapes[0])
    full = [layout for layout in layouts if sum(segment.length for segment in layout) == width]
    for layout in layouts:
        if sum(segment.length for segment in layout) != width:
            follower.freeze(layout, f"read by {call.title}: it is broadcast over the channels")
    if not full:  # every input is broadcast: cannot be, unless shapes lie
        made = (Segment(follower.fresh(width, index)),)
        follower.freeze(made, f"made by {call.title}: it is broadcast over the channels")
        return made
    shapes = {tuple((len(segment.nodes), segment.taps) for segment in layout) for layout in full}
    if len(shapes) == 1 and any(segment.taps for segment in full[0]):  # the same taps everywhere: keep them
        joined = [[Segment(segment.nodes) for segment in layout] for layout in full]
        result = []
        for segments, original in zip(zip(*joined), full[0]):
            nodes = follower.join((segments[0],), index)
            for segment in segments[1:]:
                follower.identity.append(np.stack([segment.nodes, nodes], 1))
                follower.tie(segment.nodes, nodes)
            result.append(Segment(nodes, original.taps))
        return tuple(result)
    nodes = follower.join(full[0], index)
    for layout in full[1:]:
        positions = layout_positions(layout)
        follower.identity.append(np.stack([positions, nodes], 1))
        follower.tie(positions, nodes)
    return (Segment(nodes),)


def _tie_shared_layers(follower, call_channels):
    first = {}
    for channels in call_channels:
        known = first.setdefault(channels.call.layer.name, channels)
        for role, layout in channels.roles.items():
            if known is not channels:
                follower.tie(layout_positions(known.roles[role]), layout_positions(layout))


def _components(num_nodes, pairs):
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


def _stack(arrays):
    return np.concatenate([np.zeros((0, 2), np.int64), *arrays])


def _number(follower, call_channels) -> ChannelMap:
    unit_of_node = _components(follower.num_nodes, _stack(follower.ties))
    num_units = int(unit_of_node.max(initial=-1)) + 1
    node_call = np.concatenate([np.zeros(0, np.int64), *follower.node_call])
    frozen = {}
    for nodes, reason in follower.frozen:
        for unit in np.unique(unit_of_node[nodes]).tolist():
            frozen.setdefault(unit, reason)
    # One producer is one run of nodes made together; makers that share a unit are one dependency group.
    producer = np.repeat(np.arange(len(follower.node_call)), [len(nodes) for nodes in follower.node_call])
    order = np.argsort(unit_of_node, kind="stable")
    same_unit = unit_of_node[order[1:]] == unit_of_node[order[:-1]]
    pairs = np.stack([producer[order[:-1]][same_unit], producer[order[1:]][same_unit]], 1)
    group_of_producer = _components(len(follower.node_call), np.unique(pairs, axis=0))
    group_of_unit = np.zeros(num_units, np.int64)
    group_of_unit[unit_of_node] = group_of_producer[producer]
    groups, first = np.unique(group_of_unit, return_index=True)
    rank = np.zeros(groups.max(initial=-1) + 1, np.int64)
    rank[groups[np.argsort(first)]] = np.arange(len(groups))
    return ChannelMap(
        calls=tuple(call_channels), tensors=tuple(follower.layouts), num_nodes=follower.num_nodes, num_units=num_units,
        node_call=node_call, identity=_stack(follower.identity), unit_of_node=unit_of_node, frozen=frozen,
        group_of_unit=rank[group_of_unit],
    )  # fmt: skip
