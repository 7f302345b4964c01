"""What can be pruned of a model, what cannot, and why."""

import dataclasses
from typing import Any

import numpy as np

from tfmetaprune.interop import carry
from tfmetaprune.pruning import channel_groups, cost
from tfmetaprune.trace import trace_model


@dataclasses.dataclass(frozen=True)
class Inspection:
    """What can be pruned of a model, and what cannot.

    Attributes:
      name: the model's name.
      groups: one dict for each channel group: "name", "channels", "frozen_channels", "prunable", "layers", "frozen"
        (why channels have to stay, None if none has to).
      frozen: reason -> number of channels that have to stay for it.
      unknown_layers: the layers of kinds without a LayerSpec, as "'mix' (Lambda)".
      macs: multiply-accumulates of one forward pass of one example.
      parameters: numbers held in variables.
      prunable_macs_share: share in [0, 1] of the MACs that read or make a channel that may go.
    """

    name: str
    groups: tuple[dict, ...]
    frozen: dict[str, int]
    unknown_layers: tuple[str, ...]
    macs: int
    parameters: int
    prunable_macs_share: float

    def to_dict(self) -> dict:
        """Returns the fields as a dict that `json.dumps` accepts."""
        return dataclasses.asdict(self)


def inspect(model: Any) -> Inspection:
    """Tells what can be pruned of a model, what cannot, and why.

    Args:
      model: a functional or Sequential model of either Keras; it is not modified.

    Raises:
      UnsupportedModelError: the model cannot be traced, or has NaN weights.
    """
    trace = trace_model(carry(model)[0])
    whole = cost(trace)
    frozen = np.zeros(trace.channels.num_units, bool)
    frozen[list(trace.channels.frozen)] = True
    groups = tuple(
        {
            "name": group.name, "channels": group.size, "frozen_channels": group.num_frozen, "prunable": group.prunable,
            "layers": list(group.members), "frozen": group.frozen,
        }
        for group in channel_groups(trace)
    )  # fmt: skip
    share = 1 - cost(trace, frozen).macs / whole.macs if whole.macs else 0.0
    return Inspection(
        trace.model.name, groups, frozen_units(trace), tuple(unknown_layers(trace)), whole.macs, whole.parameters, share
    )


def frozen_units(trace) -> dict[str, int]:
    """Why units have to stay: reason -> number of units."""
    reasons = list(trace.channels.frozen.values())
    return {reason: reasons.count(reason) for reason in dict.fromkeys(reasons)}


def unknown_layers(trace) -> list[str]:
    """The layers of kinds without a LayerSpec, as "'mix' (Lambda)"."""
    return list(dict.fromkeys(channels.call.title for channels in trace.channels.calls if channels.spec is None))
