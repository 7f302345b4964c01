"""Follows every channel through the calls of a model; makes the `ChannelMap`.

Everything here follows from the calls and the names of their axes; no value of a weight is read.
"""

from tfmetaprune.channels.book import Book, TensorChannels
from tfmetaprune.channels.by_movement import follow_calculation, follow_concat, follow_length, follow_moves
from tfmetaprune.channels.by_name import follow_axes, follow_elementwise
from tfmetaprune.channels.map import CallChannels, ChannelMap, layout_positions
from tfmetaprune.channels.names import Unfollowable
from tfmetaprune.channels.numbering import number_channels, stack_pairs
from tfmetaprune.layers import (
    Axes,
    Concat,
    Elementwise,
    Frozen,
    LayerSpec,
    Length,
    Moves,
    is_channelwise,
    spec_for,
)
from tfmetaprune.layers.spec import why_unknown

_FLOWS = {
    Axes: follow_axes, Elementwise: follow_elementwise, Concat: follow_concat, Moves: follow_moves, Length: follow_length,
}  # fmt: skip


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
    book = Book(calls, shapes, inputs, outputs)
    call_channels = [_follow(book, index, call) for index, call in enumerate(calls)]
    _tie_shared_layers(book, call_channels)
    for first, second in equal_tensors:
        _tie_tensors(book, first, second)
    for tensor in outputs:
        for layout in book.tensors[tensor].axes.values():
            book.freeze(layout, "model output")
    known = number_channels(book.ties, book.node_call, book.frozen)
    tensors = tuple(book.tensors[tensor].axes for tensor in range(len(shapes)))
    return ChannelMap(
        calls=tuple(call_channels), tensors=tensors, known=book.known, identity=stack_pairs(book.identity), **known
    )  # fmt: skip


def _follow(book, index, call) -> CallChannels:
    """Follows one call: fills in its outputs' channels."""
    book.index = index
    spec = spec_for(call.layer)
    flow = Frozen(why_unknown(call.layer)) if spec is None else spec.flow(call)
    undo = book.snapshot(call)
    try:
        if call.inputs and not isinstance(flow, Length) and all(tensor in book.known for tensor in call.inputs):
            return follow_calculation(book, call, spec, flow)
        if not isinstance(flow, Moves | Length):
            _freeze_measured(book, call)
        if isinstance(flow, Frozen):
            raise Unfollowable(flow.reason)
        result = _FLOWS[type(flow)](book, call, spec, flow)
    except Unfollowable as error:
        undo()
        _freeze_measured(book, call)
        result = _freeze_call(book, call, spec, Frozen(str(error)))
    if not is_channelwise(getattr(call.layer, "activation", None)):
        for tensor in call.outputs:
            for layout in book.tensors[tensor].axes.values():
                book.freeze(layout, f"made by {call.title}: its activation mixes the channels")
    return result


def _freeze_call(book, call, spec, flow) -> CallChannels:
    for tensor in call.inputs:
        for layout in book.tensors[tensor].axes.values():
            book.freeze(layout, f"read by {call.title}: {flow.reason}")
    for tensor in call.outputs:
        book.tensors[tensor] = TensorChannels(made_by=book.index, plain=f"made by {call.title}: {flow.reason}")
    return CallChannels(call, spec, flow)


def _freeze_measured(book, call):
    """Channels whose number goes into a computation have to stay."""
    for tensor in call.inputs:
        for layout in book.measured.get(tensor, ()):
            book.freeze(layout, f"{call.title} computes with their number")


def _tie_shared_layers(book, call_channels):
    """Ties what several calls of one layer must have in common: the channels of its weights, the lengths in its config."""
    first = {}
    for channels in call_channels:
        known = first.setdefault(channels.call.path, channels)
        if known is channels:
            continue
        for role, layout in channels.roles.items():
            if role in known.roles and any(role in weight.names for weight in channels.weights.values()):
                book.tie(layout_positions(known.roles[role]), layout_positions(layout))
        if not isinstance(known.flow, Frozen) and type(channels.spec).narrow is not LayerSpec.narrow:
            for tensors in (("inputs", known.call.inputs, channels.call.inputs),
                            ("outputs", known.call.outputs, channels.call.outputs)):  # fmt: skip
                for one, other in zip(*tensors[1:]):
                    _tie_tensors(book, one, other)


def _tie_tensors(book, first, second):
    """Lets two tensors keep the same positions."""
    one, other = book.tensors[first].axes, book.tensors[second].axes
    for axis in {*one, *other}:
        layouts = [axes[axis] for axes in (one, other) if axis in axes]
        positions = [layout_positions(layout) for layout in layouts]
        if len(layouts) == 2 and len(positions[0]) == len(positions[1]):
            book.tie(*positions)
        else:
            for layout in layouts:
                book.freeze(layout, "read by a layer that is called several times on different shapes")
