"""Models side by side: what each computes, weighs and knows, and how wide its layers are."""

import dataclasses
import math

import numpy as np

from tfmetaprune.data import check_data
from tfmetaprune.finetuning import evaluate_model, own_losses
from tfmetaprune.interop import carry
from tfmetaprune.pruning import cost
from tfmetaprune.trace import trace_model


@dataclasses.dataclass(frozen=True)
class ModelSummary:
    """What is known of one model.

    Attributes:
      name: what it is called in the comparison.
      macs: multiply-accumulates of one forward pass of one example.
      parameters: numbers held in variables.
      nonzero_parameters: those that are not exactly zero.
      widths: layer -> channels that it makes, of layers with a kernel.
      loss, accuracy: on the data; None without, and where the model is no classifier.
    """

    name: str
    macs: int
    parameters: int
    nonzero_parameters: int
    widths: dict[str, int]
    loss: float | None = None
    accuracy: float | None = None

    def to_dict(self) -> dict:
        """Returns the fields as a dict that `json.dumps` accepts."""
        return dataclasses.asdict(self)


def summarize(model, name, data=None) -> ModelSummary:
    """Measures one model for a comparison.

    Args:
      model: a functional or Sequential model of either Keras; it is not modified.
      name: what to call it.
      data: batched dataset of (x, y) that fits the model, or None.

    Raises:
      UnsupportedModelError: the model cannot be traced, or has NaN weights.
      DataError: the data do not fit the model.

    Example:
      >>> from tfmetaprune._keras import keras
      >>> model = keras.Sequential([keras.layers.Dense(8, input_shape=(4,)), keras.layers.Dense(3, name="last")])
      >>> summary = summarize(model, "mine")
      >>> summary.macs, summary.parameters, summary.widths["last"]
      (56, 67, 3)
    """
    losses = own_losses(model)
    carried = carry(model)[0]
    trace = trace_model(carried)
    total = cost(trace)
    measured = {}
    if data is not None:
        check_data(data, carried, loss=losses[0])
        measured = evaluate_model(carried, data, losses)
    nonzero = sum(int(np.count_nonzero(weight)) for weight in carried.get_weights())
    return ModelSummary(name, total.macs, total.parameters, nonzero, _widths(trace), **measured)


def _widths(trace) -> dict[str, int]:
    widths = {}
    for channels in trace.channels.calls:
        kernels = [axes for axes in channels.weights.values() if axes.is_kernel and axes.target]
        for axes in kernels[:1] if channels.is_first else ():
            made = axes.target if axes.per_channel is None else (*axes.source, *axes.target)
            widths[channels.call.path] = math.prod(axes.shape[axis] for axis in made)
    return widths
