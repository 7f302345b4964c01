"""Follows calls that move numbers, join tensors, or ask for lengths."""

import numpy as np

from tfmetaprune.channels.book import pairs_of
from tfmetaprune.channels.map import CallChannels, Layout, Segment, layout_positions
from tfmetaprune.channels.moves import (
    known_shape,
    move_numbers,
    number_array,
    repeated_taps,
    rows_along,
    shape_numbers,
    varying_axes,
)
from tfmetaprune.channels.names import Unfollowable


def follow_length(book, call, spec, flow) -> CallChannels:
    """A call that asks for a shape: its numbers are known, and change when channels go."""
    (tensor,), (output,) = call.inputs, call.outputs
    book.set_output(call, output, {}, True)
    book.known[output] = shape_numbers(book.shapes[tensor], flow.axis)
    axes = book.tensors[tensor].axes
    longer = [length + (axis in axes) for axis, length in enumerate(known_shape(book.shapes[tensor]))]
    book.longer[output] = shape_numbers(longer, flow.axis)
    book.measured[output] = [] if np.array_equal(book.longer[output], book.known[output]) else [*axes.values()]
    return CallChannels(call, spec, flow)


def follow_calculation(book, call, spec, flow) -> CallChannels:
    """A call whose inputs are made of lengths alone: so are its outputs."""
    numbers, longer = (_run(call, [one[tensor] for tensor in call.inputs]) for one in (book.known, book.longer))
    layouts = [layout for tensor in call.inputs for layout in book.measured[tensor]]
    for tensor, value, other in zip(call.outputs, numbers, longer, strict=True):
        book.set_output(call, tensor, {}, True)
        book.known[tensor], book.longer[tensor] = value, other
        book.measured[tensor] = [] if np.array_equal(value, other) else layouts
    return CallChannels(call, spec, flow)


def follow_concat(book, call, spec, flow) -> CallChannels:
    """Follows a call that lays its inputs one after the other along an axis."""
    (output,) = call.outputs
    rank = len(book.shapes[output])
    states = [book.tensors[tensor] for tensor in call.inputs]
    axes, along = {}, flow.axis % rank
    if any(along in state.axes for state in states):
        axes[along] = tuple(part for tensor in call.inputs for part in book.need(tensor, along))
    for axis in range(1, rank):
        found = [state.axes[axis] for state in states if axis in state.axes]
        if axis == along or not found:
            continue
        if len(found) < len(states):
            for layout in found:
                book.freeze(layout, f"read by {call.title}: meets positions that are not channels")
        axes[axis] = book.join(found)
    exclusive = all(state.exclusive for state in states) or along not in axes
    book.set_output(call, output, axes, exclusive)
    return CallChannels(call, spec, flow)


def follow_moves(book, call, spec, flow) -> CallChannels:
    """Follows a call that moves numbers: lets it move the numbers of the channels."""
    tensors = [tensor for tensor in call.inputs if tensor not in book.known]
    states = [book.tensors[tensor] for tensor in tensors]
    outputs = [{} for _ in call.outputs]
    joints = [None for _ in call.outputs]
    if any(len(state.axes) != 1 for state in states) and len(states) > 1 and any(state.axes for state in states):
        raise Unfollowable("it moves channels and positions together")
    if states and any(state.axes for state in states):
        runs = [[axis] for axis in states[0].axes] if len(states) == 1 else [[next(iter(s.axes)) for s in states]]
        for axes in runs:
            _move_axes(book, call, tensors, axes, outputs, joints)
    exclusive = all(state.exclusive for state in states)
    for tensor, axes, joint in zip(call.outputs, outputs, joints):
        distinct = all(len(np.unique(nodes)) == len(nodes) for nodes in map(layout_positions, axes.values()))
        book.set_output(call, tensor, axes, exclusive and distinct, joint)
    return CallChannels(call, spec, flow)


def _move_axes(book, call, tensors, axes, outputs, joints):
    """Lets the layer move the channels of one axis of every input; enters where they land."""
    states = [book.tensors[tensor] for tensor in tensors]
    layouts = [state.axes[axis] for state, axis in zip(states, axes)]
    shapes = [book.shapes[tensor] for tensor in tensors]
    bases = [layout_positions(layout) for layout in layouts]

    def run(arrays):
        arrays = dict(zip(tensors, arrays))
        return _run(call, [book.known[tensor] if tensor in book.known else arrays[tensor] for tensor in call.inputs])

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
            book.freeze((Segment(np.unique(reps[reps > 0]) - 1),), f"read by {call.title}: it picks one channel")
            continue
        varying = varying or [len(shape) - 1]  # there is but one channel: any axis can hold it
        axis = varying[0] if len(varying) == 1 else max(varying, key=lambda one: (_num_units_along(book, reps, one), one))
        rows = rows_along(reps, axis)
        if reps.shape[axis] != shape[axis] or not all(len(row) for row in rows):
            raise Unfollowable("it pads the channels, or moves them to an axis of unknown length")
        for row in rows:
            if len(row) > 1:
                book.tie(row[0] - 1, row[1:] - 1)
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
            book.freeze(shorter, f"read by {call.title}: it merges two axes of channels")
            layout = second if shorter is first else first
        outputs[number][axis] = layout


def _num_units_along(book, numbers, axis) -> int:
    """How many units an axis would carry if all channels at one of its positions were tied."""
    pairs = [pairs_of(row[:1] - 1, row - 1) for row in rows_along(numbers, axis)]
    return book.num_free_units(pairs)


def _run(call, arrays) -> list[np.ndarray]:
    try:
        moved = move_numbers(call.layer, call.args, call.kwargs, dict(zip(call.inputs, arrays)))
    except Exception as error:  # whatever a layer may raise on numbers and lengths it was not made for
        raise Unfollowable(f"it could not be tried on channel numbers ({type(error).__name__})") from error
    if len(moved) != len(call.outputs):
        raise Unfollowable("it makes another number of outputs than it was traced with")
    return moved


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
