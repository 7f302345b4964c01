"""How far the outputs of smaller models are from those of the model they were made of."""

import math
from collections.abc import Sequence

import numpy as np

from tfmetaprune._keras import tf
from tfmetaprune.errors import DataError
from tfmetaprune.graph import logits_of
from tfmetaprune.pruning.repair import model_inputs
from tfmetaprune.trace import ModelTrace, in_parts

NUM_COMPARED = 1024  # inputs at most that outputs are compared on
_PART_SIZE = 64  # of them that are run at once
_VARIES = 1e-9  # the least share of an output's power that counts as its variance


def output_errors(trace: ModelTrace, others: Sequence, dataset, *, num_samples=NUM_COMPARED) -> list[float]:
    """Measures how far other models' outputs are from a model's; logits count in place of a softmax.

    Args:
      trace: the traced model, whose outputs are right.
      others: models of the same inputs and outputs.
      dataset: batches of inputs, or of (inputs, labels, ...); labels are not used.
      num_samples: how many inputs are read at most, see `in_parts`.

    Returns:
      For each of the others the mean squared difference of an output, relative to its variance over samples and positions, the mean
      over those outputs that vary (relative to the mean square, if none does); infinity where it is not a finite number.

    Raises:
      DataError: there are no data, or they do not fit the model.
    """
    moments, squares = None, 0.0
    batches = (model_inputs(trace.model, batch) for batch in dataset)
    for part in in_parts(trace, batches, num_samples, lambda inputs: _PART_SIZE):
        wanted = _outputs(trace, trace.model, part)
        new = [np.stack([np.full(y.shape[1], len(y)), np.sum(y, 0), np.sum(y**2, 0)]) for y in wanted]
        moments = new if moments is None else [before + after for before, after in zip(moments, new)]
        made = (_outputs(trace, other, part) for other in others)  # one at a time
        squares = squares + np.array([[np.sum((y - right) ** 2) for y, right in zip(each, wanted, strict=True)] for each in made])
    if moments is None:
        raise DataError("Data: expected at least one batch, got none. Give a dataset that is not empty.")
    powers = np.array([np.sum(square) for _, _, square in moments])
    variances = np.array([np.sum(square - total**2 / number) for number, total, square in moments])
    varies = variances > _VARIES * powers
    scales = np.where(varies, variances, np.maximum(powers, np.finfo(float).tiny))
    errors = (squares / scales)[:, varies if varies.any() else slice(None)].mean(1)
    return [float(error) if np.isfinite(error) else math.inf for error in errors]


def _outputs(trace, model, inputs) -> list[np.ndarray]:
    """float64 [samples and positions, channels] of each output; one column where the number of channels is not fixed."""
    outputs = tf.nest.flatten(model(inputs if len(inputs) > 1 else inputs[0], training=False))
    rows = []
    for tensor, output in zip(trace.outputs, outputs, strict=True):
        shape = trace.shapes[tensor]
        values = logits_of(trace, tensor, tf.cast(output, tf.float64)).numpy()
        rows.append(values.reshape(-1, shape[-1] if len(shape) > 1 and shape[-1] else 1))
    return rows
