"""Numbers that describe matrices and activations: ranks and correlations."""

import numpy as np

from tfmetaprune._keras import tf
from tfmetaprune.pruning.repair import model_inputs
from tfmetaprune.trace import in_parts, run

_MAX_ROWS = 2048  # of a matrix whose correlations or singular values are computed; more are thinned out evenly
_MAX_SAMPLES = 256  # of the data that activations are correlated over
_MAX_POSITIONS = 4096  # of a batch, likewise
_TINY = 1e-12


def kernel_statistics(matrix) -> dict[str, float]:
    """Returns "correlation" (where there are two rows), "stable_rank" and "entropy_rank" of a kernel, float [out, in x taps]."""
    rows = _thinned(matrix)
    singular = np.linalg.svd(rows, compute_uv=False)
    total = singular.sum()
    if total <= _TINY:
        return {"stable_rank": 0.0, "entropy_rank": 0.0}
    share = singular[singular > 0] / total
    ranks = {"stable_rank": np.sum(singular**2) / singular[0] ** 2, "entropy_rank": np.exp(-np.sum(share * np.log(share)))}
    return {**named("correlation", _row_correlation(rows)), **ranks}


def _row_correlation(rows) -> float | None:
    """The mean absolute correlation between two rows; constant ones are left out. None for less than two rows."""
    centred = rows - rows.mean(1, keepdims=True)
    norms = np.linalg.norm(centred, axis=1)
    centred = centred[norms > 1e-6 * max(norms.max(initial=0), _TINY)]
    if len(centred) < 2 or centred.shape[1] < 3:
        return None
    centred = centred / np.linalg.norm(centred, axis=1, keepdims=True)
    correlation = np.abs(centred @ centred.T)
    return (correlation.sum() - np.trace(correlation)) / (len(centred) * (len(centred) - 1))


def pearson(first, second) -> float | None:
    """Returns Pearson's correlation of two vectors; None for less than three numbers, or equal ones."""
    if len(first) < 3 or first.std() <= _TINY or second.std() <= _TINY:
        return None
    return np.corrcoef(first, second)[0, 1]


def spread(name, relative) -> dict[str, float]:
    """Returns the standard deviation of values whose mean is 1, and the share of those below 0.1."""
    return {f"{name}_spread": relative.std(), f"{name}_small": np.mean(relative < 0.1)}


def named(name, value) -> dict[str, float]:
    """Returns {name: value}, or {} for None."""
    return {} if value is None else {name: value}


def _thinned(rows):
    return rows[np.linspace(0, len(rows) - 1, _MAX_ROWS).astype(int)] if len(rows) > _MAX_ROWS else rows


def activation_correlations(trace, dataset) -> dict[str, float]:
    """Returns layer path -> mean absolute correlation between two channels of what its first call makes, on the first batches."""
    chunks = {}
    batches = (model_inputs(trace.model, batch) for batch in dataset)
    for inputs in in_parts(trace, batches, _MAX_SAMPLES, lambda batch: len(batch[0])):

        def call_layer(index, call, *args, **kwargs):
            made = call.layer(*args, **kwargs)
            axes = trace.channels.tensors[call.outputs[0]] if call.outputs else {}
            if call.call_index == 0 and len(axes) == 1 and trace.channels.calls[index].weights:
                values = np.moveaxis(np.asarray(tf.nest.flatten(made)[0], float), next(iter(axes)), 0)
                values = values.reshape(len(values), -1)
                chosen = np.linspace(0, values.shape[1] - 1, min(values.shape[1], _MAX_POSITIONS)).astype(int)
                chunks.setdefault(call.path, []).append(values[:, chosen])
            return made

        run(trace, inputs, call_layer)
    correlations = {path: _row_correlation(_thinned(np.concatenate(values, 1))) for path, values in chunks.items()}
    return {path: value for path, value in correlations.items() if value is not None}
