"""Multiply-accumulates and parameters of a model, whole or with channels left out.

Counted are the kernels of the registered kinds; a layer that the trace does not understand counts with its parameters
but with no MACs. An axis of unknown length (a series of any length, say) counts as one position.
"""

import dataclasses
import math

import numpy as np

from tfmetaprune.trace import ModelTrace


@dataclasses.dataclass(frozen=True)
class Cost:
    """What one forward pass of one example takes.

    Attributes:
      macs: multiply-accumulates.
      parameters: numbers held in variables, moving statistics included.
    """

    macs: int
    parameters: int


@dataclasses.dataclass(frozen=True, eq=False)
class MacTerm:
    """MACs of one kernel in one call: `coefficient * number of sources that remain * number of targets that remain`.

    Attributes:
      coefficient: output positions times kernel taps.
      source: int64 [n_in], the unit at each position of the axis that is read; None for per-channel kernels (factor 1).
      target: int64 [n_out], the unit of each channel that is made.
    """

    coefficient: int
    source: np.ndarray | None
    target: np.ndarray


def mac_terms(trace: ModelTrace) -> tuple[MacTerm, ...]:
    """Returns the static terms whose sum is the model's MACs, one for every kernel of every call."""
    terms = []
    for channels in trace.channels.calls:
        positions = math.prod(length or 1 for length in channels.call.output_shapes[0][1:-1])
        for name, axes in channels.weights.items():
            shape = getattr(channels.call.layer, name).shape
            taps = math.prod(size for axis, size in zip(axes, shape) if axis not in channels.roles and "/" not in axis)
            sources, targets = axis_roles(axes)
            if targets is not None:
                source = None if sources is None else trace.channels.units(channels.roles[sources])
                terms.append(MacTerm(positions * taps, source, trace.channels.units(channels.roles[targets])))
    return tuple(terms)


def axis_roles(axes) -> tuple[str | None, str | None]:
    """Splits the roles of a weight's axes: the one read (None: per channel) and the one made (None: no kernel).

    Example:
      >>> axis_roles(("kh", "kw", "in", "out")), axis_roles(("kh", "kw", "in", "out/in")), axis_roles(("out",))
      (('in', 'out'), (None, 'out'), (None, None))
    """
    per_channel = next((axis.partition("/")[0] for axis in axes if "/" in axis), None)
    if per_channel is not None:
        return None, per_channel
    roles = [axis for axis in axes if axis in ("in", "mid", "out")]
    if len(roles) < 2:
        return None, None
    source, target = sorted(roles, key=("in", "mid", "out").index)
    return source, target


def total_macs(terms: tuple[MacTerm, ...], keep: np.ndarray) -> int:
    """Sums the terms for the units that remain.

    Args:
      terms: of `mac_terms`.
      keep: bool [num_units], which units remain.
    """
    return sum(
        term.coefficient * (1 if term.source is None else int(np.count_nonzero(keep[term.source])))
        * int(np.count_nonzero(keep[term.target]))
        for term in terms
    )  # fmt: skip


def cost(trace: ModelTrace, keep: np.ndarray | None = None) -> Cost:
    """Counts MACs and parameters of the model, or of what is left of it.

    Args:
      trace: the traced model.
      keep: bool [num_units], which units remain; None for all.
    """
    keep = np.ones(trace.channels.num_units, bool) if keep is None else np.asarray(keep, bool)
    parameters = sum(_parameters(trace, channels, keep) for channels in trace.channels.calls if channels.is_first)
    return Cost(total_macs(mac_terms(trace), keep), parameters)


def _parameters(trace, channels, keep) -> int:
    layer = channels.call.layer
    widths = {role: int(np.count_nonzero(keep[trace.channels.units(axis)])) for role, axis in channels.roles.items()}
    axes = {id(getattr(layer, name)): axes for name, axes in channels.weights.items()}
    return sum(
        math.prod(widths.get(role, size) for role, size in zip(axes.get(id(variable), variable.shape), variable.shape))
        for variable in layer.weights
    )
