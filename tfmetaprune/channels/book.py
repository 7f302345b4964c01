"""What is written down while channels are followed: nodes, what ties them, what has to stay, what lies on each tensor."""

import dataclasses

import numpy as np

from tfmetaprune.channels.map import Layout, Segment, layout_positions
from tfmetaprune.channels.names import Unfollowable
from tfmetaprune.channels.numbering import components, stack_pairs


@dataclasses.dataclass(eq=False)
class TensorChannels:
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


class Book:
    """Collects nodes, identity edges, ties and frozen nodes while the calls are followed in order.

    Args:
      calls: `LayerCall`s in topological order.
      shapes: the shape of every tensor.
      inputs: tensor indices of the model's inputs.
      outputs: tensor indices of its outputs.
    """

    def __init__(self, calls, shapes, inputs, outputs):
        self.shapes = shapes
        self.consumers = np.zeros(len(shapes), np.int64)
        for call in calls:
            np.add.at(self.consumers, list(call.inputs), 1)
        np.add.at(self.consumers, list(outputs), 1)
        self.tensors = {
            tensor: TensorChannels(made_by=-1 - i, exclusive=self.consumers[tensor] == 1) for i, tensor in enumerate(inputs)
        }
        self.node_call, self.identity, self.ties, self.frozen = [], [], [], []
        self.num_nodes = 0
        self.products = {}
        self.known = {}  # tensor -> its numbers, made of lengths alone
        self.measured = {}  # the same tensor -> layouts whose lengths it depends on
        self.longer = {}  # the same tensor -> what the numbers would be if those layouts were longer by one
        self.index = -1  # of the call that is followed
        self.labels, self.labels_of = np.zeros(0, np.int64), 0  # units by the first so many ties

    def snapshot(self, call):
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

    def fresh(self, width, made_by=None) -> np.ndarray:
        """Makes nodes, int64 [width], of the present call or of another maker."""
        nodes = np.arange(self.num_nodes, self.num_nodes + width)
        self.num_nodes += width
        self.node_call.append(np.full(width, self.index if made_by is None else made_by))
        return nodes

    def tie(self, source, target):
        """Lets nodes live and die together, pair by pair."""
        self.ties.append(pairs_of(source, target))

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

    def num_free_units(self, pairs) -> int:
        """How many units there would be among nodes if they were tied in pairs, besides the ties known by now."""
        pairs = np.concatenate(pairs)
        if self.labels_of != len(self.ties):
            self.labels, self.labels_of = components(self.num_nodes, stack_pairs(self.ties)), len(self.ties)
        labels = np.concatenate([self.labels, np.arange(len(self.labels), self.num_nodes) + self.num_nodes])
        units, compact = np.unique(labels[pairs], return_inverse=True)
        return int(components(len(units), compact.reshape(pairs.shape)).max(initial=-1)) + 1

    def set_output(self, call, tensor, axes, exclusive, joint=None):
        """Enters what lies on a tensor that the present call makes."""
        plain = f"made by {call.title}: positions, not channels"
        if not axes and call.inputs and not any(self.tensors[read].axes for read in call.inputs):
            plain = self.tensors[call.inputs[0]].plain
        exclusive = exclusive and joint is None and self.consumers[tensor] == 1
        self.tensors[tensor] = TensorChannels(axes, self.index, plain, exclusive, joint)


def pairs_of(source, target) -> np.ndarray:
    """int64 [k, 2], after broadcasting."""
    return np.stack(np.broadcast_arrays(source, target), -1).reshape(-1, 2)
