"""How much memory a channel moves for the MACs it costs: where there is much, MACs take longer than elsewhere."""

import math

import numpy as np

from tfmetaprune.pruning.cost import mac_terms
from tfmetaprune.trace import ModelTrace

MACS_PER_ACTIVATION = 100  # what one takes longer by, on the CPU that docs/device.md was made on, with int8 files


def traffic_score(trace: ModelTrace) -> np.ndarray:
    """Scores units by the time that their activations add to that of their MACs.

    Args:
      trace: the traced model.

    Returns:
      float32 [num_units], log(1 + 100 x activations / MACs), at least 0: activations that layers with kernels make and that
      lie in the unit, and MACs that go with it from the whole model.
    """
    macs = np.zeros(trace.channels.num_units)
    for term in mac_terms(trace):
        for index, units in enumerate(term.axes):
            others = math.prod(len(axis) for other, axis in enumerate(term.axes) if other != index)
            np.add.at(macs, units, term.coefficient * others)
    activations = np.zeros_like(macs)
    for channels in trace.channels.calls:
        if not any(axes.is_kernel for axes in channels.weights.values()):
            continue
        for tensor in channels.call.outputs:
            for axis, layout in trace.channels.tensors[tensor].items():
                others = math.prod(length or 1 for other, length in enumerate(trace.shapes[tensor]) if other != axis)
                np.add.at(activations, trace.channels.units(layout), others)
    return np.log1p(MACS_PER_ACTIVATION * activations / np.maximum(macs, 1)).astype(np.float32)
