"""Follows every channel through the calls of a model; makes the `ChannelMap`.

Everything here follows from the calls and the names of their axes; no value of a weight is read.
"""

import dataclasses

import numpy as np

from tfmetaprune.channels.map import CallChannels, ChannelMap, Layout, Segment, layout_positions
from tfmetaprune.channels.moves import (
    known_shape,
    move_numbers,
    number_array,
    repeated_taps,
    rows_along,
    shape_numbers,
    varying_axes,
)
from tfmetaprune.channels.names import CallNames, Unfollowable
from tfmetaprune.channels.numbering import components, number_channels, stack_pairs
from tfmetaprune.layers import (
    Axes,
    Concat,
    Elementwise,
    Frozen,
    LayerSpec,
    Moves,
    get_weight,
    is_channelwise,
    spec_for,
)
from tfmetaprune.layers.spec import Length, why_unknown


def follow_channels(calls, shapes, inputs, outputs, equal_tensors=()) -> ChannelMap:
    """Follows the channels through the calls of a model.

    Args:
      calls: `LayerCall`s in topological order.
      shapes: the shape of every tensor, batch axis included.
      inputs: tensor indices of the model's inputs.
      outputs: tensor indices of its outputs.
      equal_tensors: pairs of tensors that must keep the same positions (both go into one nested model).

    Returns:
      The `ChannelMap`.
    """
    follower = _Follower(calls, shapes, inputs, outputs)
    call_channels = [follower.follow(index, call) for index, call in enumerate(calls)]
    follower.tie_shared_layers(call_channels)
    for first, second in equal_tensors:
        follower.tie_tensors(first, second)
    for tensor in outputs:
        for layout in follower.tensors[tensor].axes.values():
            follower.freeze(layout, "model output")
    known = number_channels(follower.ties, follower.node_call, follower.frozen)
    tensors = tuple(follower.tensors[tensor].axes for tensor in range(len(shapes)))
    return ChannelMap(
        calls=tuple(call_channels), tensors=tensors, known=follower.known, identity=stack_pairs(follower.identity), **known
    )  # fmt: skip


@dataclasses.dataclass(eq=False)
class _Tensor:
    """What is known about a tensor while channels are followed.

    Attributes:
      axes: axis -> layout.
      made_by: index of the call that made it; -1 - i for the model's i-th input.
      plain: why channels that a kernel finds on another axis have to stay.
      exclusive: whether nobody else reads the nodes on its axes.
      joint: int64, of the tensor's rank, batch axis included: the true node at every position, where a reshape spread
        the channels of one unit over several axes (`axes` then names the nodes of the first positions); else None.
    """

    axes: dict[int, Layout] = dataclasses.field(default_factory=dict)
    made_by: int = -1
    plain: str = "model input"
    exclusive: bool = True
    joint: np.ndarray | None = None


class _Follower:
    """Collects nodes, identity edges, ties and frozen nodes while it walks over the calls in order."""

    def __init__(self, calls, shapes, inputs, outputs):
        self.shapes = shapes
        self.consumers = np.zeros(len(shapes), np.int64)
        for call in calls:
            np.add.at(self.consumers, list(call.inputs), 1)
        np.add.at(self.consumers, list(outputs), 1)
        self.tensors = {
            tensor: _Tensor(made_by=-1 - i, exclusive=self.consumers[tensor] == 1) for i, tensor in enumerate(inputs)
        }
        self.node_call, self.identity, self.ties, self.frozen = [], [], [], []
        self.num_nodes = 0
        self.products = {}
        self.known = {}  # tensor -> its numbers, made of lengths alone
        self.measured = {}  # the same tensor -> layouts whose lengths it depends on
        self.longer = {}  # the same tensor -> what the numbers would be if those layouts were longer by one
        self.index = -1  # of the call that is followed
        self.labels, self.labels_of = np.zeros(0, np.int64), 0  # units by the first so many ties

    def follow(self, index, call) -> CallChannels:
        """Follows one call: fills in its outputs' channels."""
        self.index = index
        spec = spec_for(call.layer)
        flow = Frozen(why_unknown(call.layer)) if spec is None else spec.flow(call)
        undo = self._snapshot(call)
        try:
            if call.inputs and not isinstance(flow, Length) and all(tensor in self.known for tensor in call.inputs):
                return self._calculate(call, spec, flow)
            if not isinstance(flow, Moves | Length):
                self._freeze_measured(call)
            result = self._FLOWS[type(flow)](self, call, spec, flow)
        except Unfollowable as error:
            undo()
            self._freeze_measured(call)
            result = self._freeze_call(call, spec, Frozen(str(error)))
        if not is_channelwise(getattr(call.layer, "activation", None)):
            for tensor in call.outputs:
                for layout in self.tensors[tensor].axes.values():
                    self.freeze(layout, f"made by {call.title}: its activation mixes the channels")
        return result

    def _snapshot(self, call):
        """Returns a function that undoes what was done since."""
        lists = self.node_call, self.identity, self.ties, self.frozen
        lengths, num_nodes, products = [len(one) for one in lists], self.num_nodes, dict(self.products)
        axes = {tensor: dict(self.tensors[tensor].axes) for tensor in call.inputs}

        def undo():
            for one, length in zip(lists, lengths):
                del one[length:]
            self.num_nodes, self.products, self.labels_of = num_nodes, products, -1
            for tensor, known in axes.items():
                self.tensors[tensor].axes = known

        return undo

    # Nodes

    def fresh(self, width, made_by=None) -> np.ndarray:
        """Makes nodes, int64 [width], of the present call or of another maker."""
        nodes = np.arange(self.num_nodes, self.num_nodes + width)
        self.num_nodes += width
        self.node_call.append(np.full(width, self.index if made_by is None else made_by))
        return nodes

    def tie(self, source, target):
        """Lets nodes live and die together, pair by pair."""
        self.ties.append(_pairs(source, target))

    def freeze(self, layout, reason):
        """Lets all nodes of a layout stay."""
        self.frozen.append((layout_positions(layout), reason))

    def pass_on(self, sources, made_by=None) -> np.ndarray:
        """Makes nodes that carry on what stands at the positions of one or several sources."""
        nodes = self.fresh(len(sources[0]), made_by)
        for positions in sources:
            self.identity.append(np.stack([positions, nodes], 1))
            self.tie(positions, nodes)
        return nodes

    def need(self, tensor, axis) -> Layout:
        """The channels on an axis; positions that a kernel reads become channels that have to stay."""
        state = self.tensors[tensor]
        if axis not in state.axes:
            width = self.shapes[tensor][axis]
            if width is None:
                raise Unfollowable("it reads an axis of unknown length")
            state.axes[axis] = (Segment(self.fresh(width, state.made_by)),)
            self.freeze(state.axes[axis], state.plain)
        return state.axes[axis]

    def product(self, layouts) -> np.ndarray:
        """The nodes of the product of several roles, row-major; each lives with its first factor."""
        positions = [layout_positions(layout) for layout in layouts]
        key = tuple(nodes.tobytes() for nodes in positions)
        if key not in self.products:
            factors = [grid.reshape(-1) for grid in np.meshgrid(*positions, indexing="ij")]
            nodes = self.fresh(len(factors[0]))
            self.tie(factors[0], nodes)
            self.identity += [np.stack([factor, nodes], 1) for factor in factors]
            self.products[key] = nodes
        return self.products[key]

    def join(self, layouts) -> Layout:
        """One layout, with nodes of its own, for channels that meet."""
        shapes = {tuple((len(part.nodes), part.taps) for part in layout) for layout in layouts}
        if len(shapes) == 1 and any(part.taps for part in layouts[0]):  # the same taps everywhere: keep them
            return tuple(
                Segment(self.pass_on([part.nodes for part in parts]), parts[0].taps) for parts in zip(*layouts)
            )
        return (Segment(self.pass_on([layout_positions(layout) for layout in layouts])),)

    # Flows

    def _freeze_call(self, call, spec, flow) -> CallChannels:
        for tensor in call.inputs:
            for layout in self.tensors[tensor].axes.values():
                self.freeze(layout, f"read by {call.title}: {flow.reason}")
        for tensor in call.outputs:
            self.tensors[tensor] = _Tensor(made_by=self.index, plain=f"made by {call.title}: {flow.reason}")
        return CallChannels(call, spec, flow)

    def _set_output(self, call, tensor, axes, exclusive, joint=None):
        plain = f"made by {call.title}: positions, not channels"
        if not axes and call.inputs and not any(self.tensors[read].axes for read in call.inputs):
            plain = self.tensors[call.inputs[0]].plain
        exclusive = exclusive and joint is None and self.consumers[tensor] == 1
        self.tensors[tensor] = _Tensor(axes, self.index, plain, exclusive, joint)

    def _freeze_measured(self, call):
        """Channels whose number goes into a computation have to stay."""
        for tensor in call.inputs:
            for layout in self.measured.get(tensor, ()):
                self.freeze(layout, f"{call.title} computes with their number")

    def _length(self, call, spec, flow) -> CallChannels:
        """A call that asks for a shape: its numbers are known, and change when channels go."""
        (tensor,), (output,) = call.inputs, call.outputs
        self._set_output(call, output, {}, True)
        self.known[output] = shape_numbers(self.shapes[tensor], flow.axis)
        axes = self.tensors[tensor].axes
        longer = [length + (axis in axes) for axis, length in enumerate(known_shape(self.shapes[tensor]))]
        self.longer[output] = shape_numbers(longer, flow.axis)
        self.measured[output] = [] if np.array_equal(self.longer[output], self.known[output]) else [*axes.values()]
        return CallChannels(call, spec, flow)

    def _calculate(self, call, spec, flow) -> CallChannels:
        """A call whose inputs are made of lengths alone: so are its outputs."""
        numbers, longer = (self._run(call, [one[tensor] for tensor in call.inputs]) for one in (self.known, self.longer))
        layouts = [layout for tensor in call.inputs for layout in self.measured[tensor]]
        for tensor, value, other in zip(call.outputs, numbers, longer, strict=True):
            self._set_output(call, tensor, {}, True)
            self.known[tensor], self.longer[tensor] = value, other
            self.measured[tensor] = [] if np.array_equal(value, other) else layouts
        return CallChannels(call, spec, flow)

    def _elementwise(self, call, spec, flow) -> CallChannels:
        pattern = ", ".join(["..."] * len(call.inputs)) + " -> " + ", ".join(["..."] * len(call.outputs))
        return self._axes(call, spec, Axes(pattern))

    def _axes(self, call, spec, flow) -> CallChannels:
        names = CallNames(call, spec, flow)
        passes, before = {}, {}
        for name in names.read:
            layout = self._read_name(call, flow, names, name)
            if layout is not None:
                passes[name] = layout
        roles = {name: layout for name, layout in passes.items() if not name.startswith("...")}
        self._make_per_channel(call, names, roles)
        for name in names.own:
            if name in names.remade and name in roles:
                positions = layout_positions(roles[name])
                roles[name] = (Segment(self.fresh(len(positions))),)
                self.tie(positions, roles[name][0].nodes)
            elif name not in roles:
                roles[name] = (Segment(self.fresh(self._width(call, names, name))),)
        for name in names.alone & set(roles):
            before[name], roles[name] = roles[name], self._own_nodes(call, names, name, roles[name])
        for alias, name in spec.aliases.items():
            if name in roles:
                roles.setdefault(alias, roles[name])
        groups = self._tie_groups(flow, roles)
        for first, second in flow.tied:
            self.tie(layout_positions(roles[first]), layout_positions(roles[second]))
        weights = {name: names.weight_axes(call.layer, name, roles) for name in names.weights}
        products = {}
        for weight in weights.values():
            for side in (weight.source, weight.target):
                factors = tuple(weight.names[axis] for axis in side)
                if len(factors) > 1:
                    products[factors] = self.product([roles[factor] for factor in factors])
        for name, reason in flow.frozen.items():
            if name in roles:
                self.freeze(roles[name], f"{call.title}: {reason}")
        self._make_outputs(call, flow, names, {**passes, **roles})
        return CallChannels(call, spec, flow, weights, roles, before, products, names.inputs, names.outputs, groups)

    def _read_name(self, call, flow, names, name) -> Layout | None:
        """The channels behind a name of the inputs, tied where several inputs have it; None for positions."""
        found = [
            (tensor, axis) for tensor, axes in zip(call.inputs, names.inputs, strict=True)
            for axis, other in enumerate(axes) if other == name
        ]  # fmt: skip
        if name in names.in_weights and (name not in names.made or name in names.alone | names.remade):
            for tensor, axis in found:
                self.need(tensor, axis)
        layouts = [self.tensors[tensor].axes.get(axis) for tensor, axis in found]
        if not any(layouts):
            return None
        lengths = [self.shapes[tensor][axis] for tensor, axis in found]
        length = max(1 if size is None else size for size in lengths)
        full = [layout for layout, size in zip(layouts, lengths) if layout and size == length]
        for layout, size in zip(layouts, lengths):
            if layout and size != length:
                self.freeze(layout, f"read by {call.title}: it is broadcast over the channels")
            elif size is None or (layout is None and size not in (1, length)):
                raise Unfollowable(f"it reads axes of different lengths {lengths} as one")
        if not full:
            return None
        if any(layout is None and size != 1 for layout, size in zip(layouts, lengths)):
            for layout in full:
                self.freeze(layout, f"read by {call.title}: meets positions that are not channels")
        if name not in names.made and name not in names.in_weights and name not in flow.sums:
            for layout in full:
                self.freeze(layout, f"read by {call.title}: it mixes the channels")
        if name in names.made and name not in names.remade and len(found) > 1:
            return self.join(full)
        for layout in full[1:]:
            self.tie(layout_positions(full[0]), layout_positions(layout))
        return full[0]

    def _make_per_channel(self, call, names, roles):
        """Adds `out` or `mid` of depthwise kernels: made from the channels they read."""
        for weight, axes in names.weights.items():
            for axis, (token, *_) in enumerate(axes):
                role, _, source = token.partition("/")
                if source == "in" and role not in roles:
                    multiplier = get_weight(call.layer, weight).shape[axis]
                    sources = np.repeat(layout_positions(roles["in"]), multiplier)
                    nodes = self.fresh(len(sources))
                    self.tie(sources, nodes)
                    roles[role] = (Segment(nodes),)

    def _width(self, call, names, name) -> int:
        for tensor, axes in zip(call.outputs, names.outputs):
            if name in axes:
                width = self.shapes[tensor][axes.index(name)]
                if width is None:
                    raise Unfollowable("it makes an axis of unknown length")
                return width
        width = names.width(call.layer, name)
        if width is None:
            raise Unfollowable(f"no weight tells the length of its axis {name!r}")
        return width

    def _own_nodes(self, call, names, name, layout) -> Layout:
        """The nodes that per-channel weights (`io`) belong to: those that are read, or nodes of the call's own."""
        positions = layout_positions(layout)
        if any(len(axes) > 1 for axes in names.weights.values() if [name] in axes):
            nodes = self.fresh(len(positions))  # the weight has taps: it is the edge between the old channel and the new
            self.tie(positions, nodes)
            return (Segment(nodes),)
        plain = len(layout) == 1 and not layout[0].taps and len(np.unique(positions)) == len(positions)
        if plain and len(call.inputs) == 1 and self.tensors[call.inputs[0]].exclusive:
            return layout
        return (Segment(self.pass_on([positions])),)

    def _tie_groups(self, flow, roles) -> int:
        """Ties the channels of axes that are worked on in groups; adds the role `in/groups`. Returns their number."""
        grouped = [name for name in flow.grouped if name in roles]
        if flow.groups == 1 or not grouped:
            return 1
        grids = [layout_positions(roles[name]).reshape(flow.groups, -1) for name in grouped]
        whole = [_pairs(grids[0][:, :1], grid) for grid in grids]
        by_position = [_pairs(grid[:1], grid) for grid in grids]
        if self.num_free_units(whole) > self.num_free_units(by_position):
            self.ties += whole
        else:
            self.ties += by_position
            roles.update({f"{name}/groups": (Segment(grid[0]),) for name, grid in zip(grouped, grids)})
        return flow.groups

    def num_free_units(self, pairs) -> int:
        """How many units there would be among nodes if they were tied in pairs, besides the ties known by now."""
        pairs = np.concatenate(pairs)
        if self.labels_of != len(self.ties):
            self.labels, self.labels_of = components(self.num_nodes, stack_pairs(self.ties)), len(self.ties)
        labels = np.concatenate([self.labels, np.arange(len(self.labels), self.num_nodes) + self.num_nodes])
        units, compact = np.unique(labels[pairs], return_inverse=True)
        return int(components(len(units), compact.reshape(pairs.shape)).max(initial=-1)) + 1

    def _make_outputs(self, call, flow, names, layouts):
        exclusive = all(self.tensors[tensor].exclusive for tensor in call.inputs)
        joint = self.tensors[call.inputs[0]].joint if flow.pattern == "... -> ..." else None
        for tensor, axes in zip(call.outputs, names.outputs, strict=True):
            output, own = {}, True
            for axis, name in enumerate(axes):
                layout = tuple(part for one in name.split("+") for part in layouts.get(one, ()))
                if layout:
                    if sum(part.length for part in layout) != self.shapes[tensor][axis]:
                        raise Unfollowable(f"its output of shape {self.shapes[tensor]} does not fit its weights and inputs")
                    output[axis] = layout
                    own &= name in names.alone | names.remade or name not in names.read or len(call.inputs) > 1
            self._set_output(call, tensor, output, own or exclusive, joint)

    def _concat(self, call, spec, flow) -> CallChannels:
        (output,) = call.outputs
        rank = len(self.shapes[output])
        states = [self.tensors[tensor] for tensor in call.inputs]
        axes, along = {}, flow.axis % rank
        if any(along in state.axes for state in states):
            axes[along] = tuple(part for tensor in call.inputs for part in self.need(tensor, along))
        for axis in range(1, rank):
            found = [state.axes[axis] for state in states if axis in state.axes]
            if axis == along or not found:
                continue
            if len(found) < len(states):
                for layout in found:
                    self.freeze(layout, f"read by {call.title}: meets positions that are not channels")
            axes[axis] = self.join(found)
        exclusive = all(state.exclusive for state in states) or along not in axes
        self._set_output(call, output, axes, exclusive)
        return CallChannels(call, spec, flow)

    def _move(self, call, spec, flow) -> CallChannels:
        tensors = [tensor for tensor in call.inputs if tensor not in self.known]
        states = [self.tensors[tensor] for tensor in tensors]
        outputs = [{} for _ in call.outputs]
        joints = [None for _ in call.outputs]
        if any(len(state.axes) != 1 for state in states) and len(states) > 1 and any(state.axes for state in states):
            raise Unfollowable("it moves channels and positions together")
        if states and any(state.axes for state in states):
            runs = [[axis] for axis in states[0].axes] if len(states) == 1 else [[next(iter(s.axes)) for s in states]]
            for axes in runs:
                self._move_axes(call, tensors, axes, outputs, joints)
        exclusive = all(state.exclusive for state in states)
        for tensor, axes, joint in zip(call.outputs, outputs, joints):
            distinct = all(len(np.unique(nodes)) == len(nodes) for nodes in map(layout_positions, axes.values()))
            self._set_output(call, tensor, axes, exclusive and distinct, joint)
        return CallChannels(call, spec, flow)

    def _move_axes(self, call, tensors, axes, outputs, joints):
        """Lets the layer move the channels of one axis of every input; enters where they land."""
        states = [self.tensors[tensor] for tensor in tensors]
        layouts = [state.axes[axis] for state, axis in zip(states, axes)]
        shapes = [self.shapes[tensor] for tensor in tensors]
        bases = [layout_positions(layout) for layout in layouts]

        def run(arrays):
            arrays = dict(zip(tensors, arrays))
            return self._run(call, [self.known[tensor] if tensor in self.known else arrays[tensor] for tensor in call.inputs])

        moved = run([number_array(*args) for args in zip(shapes, axes, bases)])
        true = moved
        if any(state.joint is not None for state in states):
            arrays = [
                number_array(shape, axis, base) if state.joint is None
                else np.broadcast_to(state.joint + 1, known_shape(shape))
                for state, shape, axis, base in zip(states, shapes, axes, bases)
            ]  # fmt: skip
            true = run(arrays)
        for number, (reps, numbers, shape) in enumerate(zip(moved, true, call.output_shapes, strict=True)):
            varying = varying_axes(reps)
            if len(reps.shape) != len(shape) or 0 in varying:
                raise Unfollowable("it moves channels into the batch axis")
            if not varying and max(map(len, bases)) > 1:
                self.freeze((Segment(np.unique(reps[reps > 0]) - 1),), f"read by {call.title}: it picks one channel")
                continue
            varying = varying or [len(shape) - 1]  # there is but one channel: any axis can hold it
            axis = varying[0] if len(varying) == 1 else max(varying, key=lambda one: (self._num_units_along(reps, one), one))
            rows = rows_along(reps, axis)
            if reps.shape[axis] != shape[axis] or not all(len(row) for row in rows):
                raise Unfollowable("it pads the channels, or moves them to an axis of unknown length")
            for row in rows:
                if len(row) > 1:
                    self.tie(row[0] - 1, row[1:] - 1)
            true_rows = rows_along(numbers, axis)
            if all(len(row) == 1 for row in true_rows):
                positions = np.concatenate(true_rows) - 1
            else:
                positions = np.array([row[0] for row in rows]) - 1
                if (numbers > 0).all():
                    joints[number] = numbers - 1
            layout = _recognise(positions, layouts, axes, shapes)
            if axis in outputs[number]:  # two axes of channels become one: the shorter has to stay
                first, second = outputs[number][axis], layout
                shorter = min(first, second, key=lambda one: len(np.unique(layout_positions(one))))
                self.freeze(shorter, f"read by {call.title}: it merges two axes of channels")
                layout = second if shorter is first else first
            outputs[number][axis] = layout

    def _num_units_along(self, numbers, axis) -> int:
        """How many units an axis would carry if all channels at one of its positions were tied."""
        pairs = [_pairs(row[:1] - 1, row - 1) for row in rows_along(numbers, axis)]
        return self.num_free_units(pairs)

    def _run(self, call, arrays) -> list[np.ndarray]:
        try:
            moved = move_numbers(call.layer, call.args, call.kwargs, dict(zip(call.inputs, arrays)))
        except Exception as error:  # whatever a layer may raise on numbers and lengths it was not made for
            raise Unfollowable(f"it could not be tried on channel numbers ({type(error).__name__})") from error
        if len(moved) != len(call.outputs):
            raise Unfollowable("it makes another number of outputs than it was traced with")
        return moved

    _FLOWS = {Axes: _axes, Elementwise: _elementwise, Concat: _concat, Moves: _move, Length: _length}

    # Ties across calls

    def tie_shared_layers(self, call_channels):
        """Ties what several calls of one layer must have in common: the channels of its weights, the lengths in its config."""
        first = {}
        for channels in call_channels:
            known = first.setdefault(channels.call.path, channels)
            if known is channels:
                continue
            for role, layout in channels.roles.items():
                if role in known.roles and any(role in weight.names for weight in channels.weights.values()):
                    self.tie(layout_positions(known.roles[role]), layout_positions(layout))
            if not isinstance(known.flow, Frozen) and type(channels.spec).narrow is not LayerSpec.narrow:
                for tensors in (("inputs", known.call.inputs, channels.call.inputs),
                                ("outputs", known.call.outputs, channels.call.outputs)):  # fmt: skip
                    for one, other in zip(*tensors[1:]):
                        self.tie_tensors(one, other)

    def tie_tensors(self, first, second):
        """Lets two tensors keep the same positions."""
        one, other = self.tensors[first].axes, self.tensors[second].axes
        for axis in {*one, *other}:
            layouts = [axes[axis] for axes in (one, other) if axis in axes]
            positions = [layout_positions(layout) for layout in layouts]
            if len(layouts) == 2 and len(positions[0]) == len(positions[1]):
                self.tie(*positions)
            else:
                for layout in layouts:
                    self.freeze(layout, "read by a layer that is called several times on different shapes")


_Follower._FLOWS[Frozen] = _Follower._freeze_call


def _pairs(source, target) -> np.ndarray:
    """int64 [k, 2], after broadcasting."""
    return np.stack(np.broadcast_arrays(source, target), -1).reshape(-1, 2)


def _recognise(positions, layouts, axes, shapes) -> Layout:
    """The layout of an axis that holds `positions`: as it was, flattened, unflattened, or another."""
    for layout, axis, shape in zip(layouts, axes, shapes):
        base = layout_positions(layout)
        if np.array_equal(positions, base):
            return layout
        if len(layout) == 1 and layout[0].taps and np.array_equal(positions, layout[0].nodes):
            return (Segment(layout[0].nodes),)
        taps = repeated_taps(positions, base, shape[1:axis])
        if taps:
            return (Segment(base, taps),)
    return (Segment(positions),)
