"""Multiply-accumulates and parameters of a model, whole or with channels left out.

Counted are the kernels of the registered kinds and the matrix products between tensors (attention); a layer that the
trace does not understand counts with its parameters but with no MACs. An axis of unknown length (a series of any length,
say) counts as one position.
"""

import dataclasses
import math

import numpy as np

from tfmetaprune.layers import Axes, get_weight
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
    """MACs of one product in one call: `coefficient * product of the numbers of channels that remain on some axes`.

    Attributes:
      coefficient: positions times taps.
      axes: int64 [n] each, the unit at every position of an axis that channels lie on.
    """

    coefficient: int
    axes: tuple[np.ndarray, ...]


def mac_terms(trace: ModelTrace) -> tuple[MacTerm, ...]:
    """Returns the static terms whose sum is the model's MACs, one for every kernel and matrix product of every call."""
    terms = []
    for channels in trace.channels.calls:
        call = channels.call
        layouts, lengths = _named_axes(trace, channels)
        for name, axes in channels.weights.items():
            if not axes.is_kernel:
                continue
            named = {part for weight in channels.weights.values() for part in weight.names} | {axes.per_channel}
            outputs = [axis for axis in channels.output_names[0] if axis and not named & {*axis.split("+")}]
            repeated = channels.spec.positions(call, name, {axis: lengths[axis] for axis in outputs})
            factors = [role for role in axes.names if role in channels.roles and axes.per_channel is None]
            coefficient = math.prod(size for role, size in zip(axes.names, axes.shape) if role not in factors)
            if axes.per_channel is not None:  # one kernel of taps for every channel that is made
                coefficient, factors = math.prod(axes.taps), [axes.per_channel]
            terms.append(_term(trace, coefficient, [channels.roles[role] for role in factors], repeated, layouts))
        products = list(channels.spec.products(call)) if channels.roles else []
        if not products and isinstance(channels.flow, Axes) and channels.flow.sums:
            products.append(tuple(dict.fromkeys(axis for axes in channels.input_names for axis in axes if axis)))
        for names in products:
            terms.append(_term(trace, 1, [], {name: lengths.get(name, 1) for name in names}, layouts))
    return tuple(terms)


def _named_axes(trace, channels):
    """Layouts and lengths of all axes that have a name in a call."""
    layouts, lengths = {}, {}
    call = channels.call
    tensors = [*zip(call.inputs, channels.input_names), *zip(call.outputs, channels.output_names)]
    for tensor, names in tensors:
        for axis, name in enumerate(names):
            lengths[name] = max(lengths.get(name, 1), trace.shapes[tensor][axis] or 1)
            if axis in trace.channels.tensors[tensor]:
                layouts[name] = trace.channels.tensors[tensor][axis]
    for role, layout in channels.roles.items():
        layouts[role] = layout
        lengths[role] = sum(segment.length for segment in layout)
    return layouts, lengths


def _term(trace, coefficient, factors, repeated, layouts) -> MacTerm:
    """A term with more factors for axes a product is repeated along; those with channels behind them shrink with them."""
    factors = list(factors)
    for axis, length in repeated.items():
        if axis in layouts:
            factors.append(layouts[axis])
        else:
            coefficient *= length or 1
    return MacTerm(coefficient, tuple(trace.channels.units(layout) for layout in factors))


def total_macs(terms: tuple[MacTerm, ...], keep: np.ndarray) -> int:
    """Sums the terms for the units that remain.

    Args:
      terms: of `mac_terms`.
      keep: bool [num_units], which units remain.
    """
    return sum(
        math.prod([term.coefficient, *(int(np.count_nonzero(keep[units])) for units in term.axes)]) for term in terms
    )


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
    axes = {id(get_weight(layer, name)): axes for name, axes in channels.weights.items()}
    total = 0
    for variable in layer.weights:
        known = axes.get(id(variable))
        lengths = variable.shape if known is None else [
            widths.get(role, size) for role, size in zip(known.names, known.shape)
        ]  # fmt: skip
        total += math.prod(lengths)
    return total
