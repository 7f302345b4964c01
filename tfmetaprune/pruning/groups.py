"""Dependency groups: which channels hang together, what may be pruned and what froze the rest."""

import dataclasses

import numpy as np

from tfmetaprune.trace import ModelTrace


@dataclasses.dataclass(frozen=True, eq=False)
class ChannelGroup:
    """The units whose makers are connected; they are ranked, floored and reported together.

    Attributes:
      name: the layer that makes the group's first channel (or the model input), unique within the model.
      units: int64 [size], the group's units.
      members: names of the layers whose weights have a slice for units of the group, in the order of their calls.
      num_frozen: how many of the units have to stay.
      frozen: why these have to stay (the first reason); None if none has to.
    """

    name: str
    units: np.ndarray
    members: tuple[str, ...]
    num_frozen: int
    frozen: str | None

    @property
    def size(self) -> int:
        """Number of units."""
        return len(self.units)

    @property
    def prunable(self) -> bool:
        """Whether any unit of the group can go; its last one never does."""
        return self.size > max(self.num_frozen, 1)


def channel_groups(trace: ModelTrace) -> tuple[ChannelGroup, ...]:
    """Lists the dependency groups of a model.

    Args:
      trace: the traced model.

    Returns:
      One `ChannelGroup` for every group number in `trace.channels.group_of_unit`, in order.
    """
    channels = trace.channels
    num_groups = int(channels.group_of_unit.max(initial=-1)) + 1
    group_of_node = channels.group_of_unit[channels.unit_of_node]
    members = [[] for _ in range(num_groups)]
    for call in channels.calls:
        named = {role for axes in call.weights.values() for role in axes.names if role in call.roles}
        units = np.concatenate([np.zeros(0, np.int64), *(channels.units(call.roles[role]) for role in sorted(named))])
        for group in np.unique(channels.group_of_unit[units]).tolist():
            if call.call.path not in members[group]:
                members[group].append(call.call.path)
    order = np.argsort(channels.group_of_unit, kind="stable")
    units = np.split(order, np.cumsum(np.bincount(channels.group_of_unit, minlength=num_groups))[:-1])
    first_node = np.unique(group_of_node, return_index=True)[1]
    groups, names = [], {}
    for group in range(num_groups):
        name = _node_name(trace, int(first_node[group]))
        names[name] = names.get(name, 0) + 1
        frozen = [channels.frozen[unit] for unit in units[group].tolist() if unit in channels.frozen]
        groups.append(
            ChannelGroup(
                name=name if names[name] == 1 else f"{name}#{names[name]}", units=units[group],
                members=tuple(members[group]), num_frozen=len(frozen), frozen=frozen[0] if frozen else None,
            )
        )  # fmt: skip
    return tuple(groups)


def _node_name(trace, node) -> str:
    call = int(trace.channels.node_call[node])
    if call >= 0:
        return trace.calls[call].path
    return trace.model.input_names[-1 - call]
