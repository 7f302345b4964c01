"""Follows calls whose axes have names: kernels, sums and products, everything position by position."""

import numpy as np

from tfmetaprune.channels.book import pairs_of
from tfmetaprune.channels.map import CallChannels, Layout, Segment, layout_positions
from tfmetaprune.channels.names import CallNames, Unfollowable
from tfmetaprune.layers import Axes, get_weight


def follow_elementwise(book, call, spec, flow) -> CallChannels:
    """Follows a call that works position by position, on inputs that are broadcast."""
    pattern = ", ".join(["..."] * len(call.inputs)) + " -> " + ", ".join(["..."] * len(call.outputs))
    return follow_axes(book, call, spec, Axes(pattern))


def follow_axes(book, call, spec, flow) -> CallChannels:
    """Follows a call whose axes have names: binds them, makes what it makes, ties what belongs together."""
    names = CallNames(call, spec, flow)
    passes, before = {}, {}
    for name in names.read:
        layout = _read_name(book, call, flow, names, name)
        if layout is not None:
            passes[name] = layout
    roles = {name: layout for name, layout in passes.items() if not name.startswith("...")}
    _make_per_channel(book, call, names, roles)
    for name in names.own:
        if name in names.remade and name in roles:
            positions = layout_positions(roles[name])
            roles[name] = (Segment(book.fresh(len(positions))),)
            book.tie(positions, roles[name][0].nodes)
        elif name not in roles:
            roles[name] = (Segment(book.fresh(_width(book, call, names, name))),)
    for name in names.alone & set(roles):
        before[name], roles[name] = roles[name], _own_nodes(book, call, names, name, roles[name])
    for alias, name in spec.aliases.items():
        if name in roles:
            roles.setdefault(alias, roles[name])
    groups = _tie_groups(book, flow, roles)
    for first, second in flow.tied:
        book.tie(layout_positions(roles[first]), layout_positions(roles[second]))
    weights = {name: names.weight_axes(call.layer, name, roles) for name in names.weights}
    products = {}
    for weight in weights.values():
        for side in (weight.source, weight.target):
            factors = tuple(weight.names[axis] for axis in side)
            if len(factors) > 1:
                products[factors] = book.product([roles[factor] for factor in factors])
    for name, reason in flow.frozen.items():
        if name in roles:
            book.freeze(roles[name], f"{call.title}: {reason}")
    _make_outputs(book, call, flow, names, {**passes, **roles})
    return CallChannels(call, spec, flow, weights, roles, before, products, names.inputs, names.outputs, groups)


def _read_name(book, call, flow, names, name) -> Layout | None:
    """The channels behind a name of the inputs, tied where several inputs have it; None for positions."""
    found = [
        (tensor, axis) for tensor, axes in zip(call.inputs, names.inputs, strict=True)
        for axis, other in enumerate(axes) if other == name
    ]  # fmt: skip
    if name in names.in_weights and (name not in names.made or name in names.alone | names.remade):
        for tensor, axis in found:
            book.need(tensor, axis)
    layouts = [book.tensors[tensor].axes.get(axis) for tensor, axis in found]
    if not any(layouts):
        return None
    lengths = [book.shapes[tensor][axis] for tensor, axis in found]
    length = max(1 if size is None else size for size in lengths)
    full = [layout for layout, size in zip(layouts, lengths) if layout and size == length]
    for layout, size in zip(layouts, lengths):
        if layout and size != length:
            book.freeze(layout, f"read by {call.title}: it is broadcast over the channels")
        elif size is None or (layout is None and size not in (1, length)):
            raise Unfollowable(f"it reads axes of different lengths {lengths} as one")
    if not full:
        return None
    if any(layout is None and size != 1 for layout, size in zip(layouts, lengths)):
        for layout in full:
            book.freeze(layout, f"read by {call.title}: meets positions that are not channels")
    if name not in names.made and name not in names.in_weights and name not in flow.sums:
        for layout in full:
            book.freeze(layout, f"read by {call.title}: it mixes the channels")
    if name in names.made and name not in names.remade and len(found) > 1:
        return book.join(full)
    for layout in full[1:]:
        book.tie(layout_positions(full[0]), layout_positions(layout))
    return full[0]


def _make_per_channel(book, call, names, roles):
    """Adds `out` or `mid` of depthwise kernels: made from the channels they read."""
    for weight, axes in names.weights.items():
        for axis, (token, *_) in enumerate(axes):
            role, _, source = token.partition("/")
            if source == "in" and role not in roles:
                multiplier = get_weight(call.layer, weight).shape[axis]
                sources = np.repeat(layout_positions(roles["in"]), multiplier)
                nodes = book.fresh(len(sources))
                book.tie(sources, nodes)
                roles[role] = (Segment(nodes),)


def _width(book, call, names, name) -> int:
    for tensor, axes in zip(call.outputs, names.outputs):
        if name in axes:
            width = book.shapes[tensor][axes.index(name)]
            if width is None:
                raise Unfollowable("it makes an axis of unknown length")
            return width
    width = names.width(call.layer, name)
    if width is None:
        raise Unfollowable(f"no weight tells the length of its axis {name!r}")
    return width


def _own_nodes(book, call, names, name, layout) -> Layout:
    """The nodes that per-channel weights (`io`) belong to: those that are read, or nodes of the call's own."""
    positions = layout_positions(layout)
    if any(len(axes) > 1 for axes in names.weights.values() if [name] in axes):
        nodes = book.fresh(len(positions))  # the weight has taps: it is the edge between the old channel and the new
        book.tie(positions, nodes)
        return (Segment(nodes),)
    plain = len(layout) == 1 and not layout[0].taps and len(np.unique(positions)) == len(positions)
    if plain and len(call.inputs) == 1 and book.tensors[call.inputs[0]].exclusive:
        return layout
    return (Segment(book.pass_on([positions])),)


def _tie_groups(book, flow, roles) -> int:
    """Ties the channels of axes that are worked on in groups; adds the role `in/groups`. Returns their number."""
    grouped = [name for name in flow.grouped if name in roles]
    if flow.groups == 1 or not grouped:
        return 1
    grids = [layout_positions(roles[name]).reshape(flow.groups, -1) for name in grouped]
    whole = [pairs_of(grids[0][:, :1], grid) for grid in grids]
    by_position = [pairs_of(grid[:1], grid) for grid in grids]
    if book.num_free_units(whole) > book.num_free_units(by_position):
        book.ties += whole
    else:
        book.ties += by_position
        roles.update({f"{name}/groups": (Segment(grid[0]),) for name, grid in zip(grouped, grids)})
    return flow.groups


def _make_outputs(book, call, flow, names, layouts):
    exclusive = all(book.tensors[tensor].exclusive for tensor in call.inputs)
    joint = book.tensors[call.inputs[0]].joint if flow.pattern == "... -> ..." else None
    for tensor, axes in zip(call.outputs, names.outputs, strict=True):
        output, own = {}, True
        for axis, name in enumerate(axes):
            layout = tuple(part for one in name.split("+") for part in layouts.get(one, ()))
            if layout:
                if sum(part.length for part in layout) != book.shapes[tensor][axis]:
                    raise Unfollowable(f"its output of shape {book.shapes[tensor]} does not fit its weights and inputs")
                output[axis] = layout
                own &= name in names.alone | names.remade or name not in names.read or len(call.inputs) > 1
        book.set_output(call, tensor, output, own or exclusive, joint)
