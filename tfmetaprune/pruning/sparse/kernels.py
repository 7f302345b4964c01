"""The kernels of a model: which weights can be zeroed, each as a matrix [taps times inputs, outputs], and why others cannot.

What an axis of a weight means is told by its layer's `LayerSpec`, so one rule serves every layer kind: a weight that
reads channels and makes others is a kernel, wherever it lies (inside attention, cells, wrappers, nested models).
"""

import dataclasses
import math
from typing import Any

import numpy as np

from tfmetaprune._keras import tf
from tfmetaprune.channels.map import CallChannels, WeightAxes
from tfmetaprune.layers import get_weight
from tfmetaprune.layers.spec import why_unknown
from tfmetaprune.pruning.sparse.method import SparseMethod
from tfmetaprune.trace import ModelTrace


@dataclasses.dataclass(frozen=True, eq=False)
class Kernel:
    """One weight that can be zeroed.

    Attributes:
      layer: the layer's path in the model.
      weight: the weight's name in the layer.
      variable: the variable, as it is stored.
      shape: the variable's shape, composite axes taken apart.
      order: the axes of `shape` in the order taps, inputs, outputs.
      num_inputs: how many numbers the input axes hold; 1 where each output has an input of its own.
      num_outputs: how many the output axes hold, gates and other taps not counted.
    """

    layer: str
    weight: str
    variable: Any
    shape: tuple[int, ...]
    order: tuple[int, ...]
    num_inputs: int
    num_outputs: int

    @property
    def key(self) -> tuple[str, str]:
        """(layer path, weight name), as `replace_weights` takes it."""
        return self.layer, self.weight

    @property
    def size(self) -> int:
        """Number of weights."""
        return math.prod(self.shape)

    @property
    def matrix_shape(self) -> tuple[int, int]:
        """(taps times inputs, outputs)."""
        return self.size // self.num_outputs, self.num_outputs

    def to_matrix(self, value):
        """Returns a tensor or array of the variable's shape as a matrix [taps times inputs, outputs]."""
        if isinstance(value, np.ndarray):
            return value.reshape(self.shape).transpose(self.order).reshape(self.matrix_shape)
        return tf.reshape(tf.transpose(tf.reshape(value, self.shape), self.order), self.matrix_shape)

    def from_matrix(self, matrix):
        """Returns a matrix of `to_matrix` in the variable's shape."""
        apart = [self.shape[axis] for axis in self.order]
        back = np.argsort(self.order)
        if isinstance(matrix, np.ndarray):
            return matrix.reshape(apart).transpose(back).reshape(tuple(self.variable.shape))
        return tf.reshape(tf.transpose(tf.reshape(matrix, apart), back), self.variable.shape)


def find_kernels(trace: ModelTrace, method: SparseMethod, allowed=None) -> tuple[tuple[Kernel, ...], dict[str, str]]:
    """Finds the weights that a method zeroes.

    Args:
      trace: the traced model.
      method: the method.
      allowed: paths of the layers that may be zeroed; None for all.

    Returns:
      The kernels, in the order of the calls; and layer path -> why it, or a kernel of it, stays dense, for every other
      layer with weights.
    """
    kernels, dense, seen = [], {}, set()
    for channels in trace.channels.calls:
        call = channels.call
        if not channels.is_first or not call.layer.weights:
            continue
        reasons = []
        found = [] if channels.spec is None else [*_kernels_of(channels)]
        for kernel, axes in found:
            if id(kernel.variable) in seen:  # tied to another layer's
                continue
            alone = len(found) == 1
            reason = _why_not(kernel, axes, alone, method)
            if reason is None and allowed is not None and call.path not in allowed:
                reason = "it is not a 1x1 convolution, which XNNPACK's sparse inference is for"
            if reason is not None:
                reasons.append(reason if alone else f"{kernel.weight}: {reason}")
                continue
            seen.add(id(kernel.variable))
            kernels.append(kernel)
        if reasons or not found:
            dense[call.path] = "; ".join(dict.fromkeys(reasons)) or _why_none(channels)
    return tuple(kernels), dense


def kernel_units(trace: ModelTrace, kernel: Kernel) -> np.ndarray:
    """Returns the units that a kernel makes, int64 [n], sorted; none where its layer's channels are not known."""
    channels = next(channels for channels in trace.channels.calls if channels.call.path == kernel.layer)
    axes = channels.weights.get(kernel.weight)
    made = {axes.per_channel} | {axes.names[axis] for axis in axes.target} if axes else set()
    units = [trace.channels.units(channels.roles[role]) for role in made & set(channels.roles)]
    return np.unique(np.concatenate([np.zeros(0, np.int64), *units]))


def _kernels_of(channels: CallChannels):
    """Yields the kernels of a call's layer with their axes."""
    call = channels.call
    weights = channels.weights or _axes_by_name(channels)
    for name, axes in weights.items():
        variable = get_weight(call.layer, name)
        variable = getattr(variable, "_variable", variable) if hasattr(variable, "true_dtype") else variable
        if not axes.is_kernel or not variable.dtype.is_floating:
            continue
        read = () if axes.per_channel is not None else axes.source
        made = tuple(axis for axis in range(len(axes.names)) if axis not in read and axis in (*axes.source, *axes.target))
        taps = tuple(axis for axis in range(len(axes.names)) if axis not in read and axis not in made)
        num_inputs, num_outputs = (math.prod(axes.shape[axis] for axis in side) for side in (read, made))
        yield Kernel(call.path, name, variable, axes.shape, (*taps, *read, *made), num_inputs, num_outputs), axes


def _axes_by_name(channels: CallChannels) -> dict[str, WeightAxes]:
    """The axes of the weights of a layer whose channels are frozen, which is no reason to keep its weights: by name."""
    call, result = channels.call, {}
    for name, text in channels.spec.weights(call.layer).items():
        tokens = text.split()
        reads = {"in", "in/groups", "kin", "vin", *channels.spec.aliases}
        makes = {"out", "fwd", "bwd", "mid", "head", "qk", "v"}
        source = tuple(axis for axis, token in enumerate(tokens) if token in reads)
        target = tuple(axis for axis, token in enumerate(tokens) if set(token.split("*")) & makes)
        shape = tuple(int(length) for length in get_weight(call.layer, name).shape)
        if len(shape) == len(tokens) and source and target:
            result[name] = WeightAxes(tuple(tokens), shape, (1,) * len(shape), source, target)
    return result


def _why_not(kernel, axes, alone, method) -> str | None:
    """Why a method leaves a kernel dense; None if it does not."""
    if axes.per_channel is not None:
        if alone:
            return "it is depthwise: a few weights for each channel, dear to lose and cheap to keep"
        return "each output has one input" if method.n_of_m or method.block_shape != (1, 1) else None
    if method.n_of_m is not None:
        length = method.n_of_m[1]
        if kernel.num_inputs % length:
            return f"its {kernel.num_inputs} inputs are not divisible by {length}"
        if kernel.variable.dtype != tf.float32:
            return f"TF-MOT's N:M masks are float32, its weights {kernel.variable.dtype.name}"
    outputs, inputs = method.block_shape
    if kernel.num_inputs % inputs:
        return f"its {kernel.num_inputs} inputs are not divisible by {inputs}"
    if kernel.num_outputs % outputs:
        return f"its {kernel.num_outputs} outputs are not divisible by {outputs}"
    if max(method.block_shape) > 1 and min(kernel.matrix_shape[0] // inputs, kernel.matrix_shape[1] // outputs) < 2:
        return "it has a single row of blocks, which TF-MOT cannot pool"
    return None


def _why_none(channels: CallChannels) -> str:
    if channels.spec is None:
        return why_unknown(channels.call.layer)
    if "vocab out" in channels.spec.weights(channels.call.layer).values():
        return "it is looked up, not multiplied"
    reason = getattr(channels.flow, "reason", None)
    return f"no kernel is known: {reason}" if reason else "it has no kernel"
