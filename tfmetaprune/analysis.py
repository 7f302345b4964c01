"""Which statistics differ between two models of the same layers: what a metanetwork changed, or what pruning left.

All are computed per layer, on the kernel as a matrix W [out, in x taps]: one row for every channel that is made.
"""

import dataclasses
import os
from typing import Any

import numpy as np
from rich import box
from rich.table import Table

from tfmetaprune.analysis_numbers import activation_correlations, kernel_statistics, named, pearson, spread
from tfmetaprune.data import as_dataset, check_data
from tfmetaprune.errors import ArgumentError
from tfmetaprune.graph import channel_statistics
from tfmetaprune.interop import carry
from tfmetaprune.layers import get_weight
from tfmetaprune.pruning import GroupL2
from tfmetaprune.pruning.importance import LOG_FISHER
from tfmetaprune.pruning.masking import is_batch_norm
from tfmetaprune.report.analysis_plot import plot_analysis
from tfmetaprune.trace import trace_model

_TINY = 1e-12

STATISTICS = {
    "saliency_spread": "coefficient of variation of the channels' L2 saliency",
    "saliency_small": "share of channels below a tenth of the mean L2 saliency",
    "correlation": "mean absolute correlation between the kernels of two channels",
    "layer_correlation": "correlation of the saliency of the channels read with their saliency as they are made",
    "stable_rank": "||W||_F^2 / ||W||_2^2",
    "entropy_rank": "exp of the entropy of the singular values",
    "bn_scale_mean": "mean of |gamma|",
    "bn_scale_small": "share of |gamma| below a tenth of its mean",
    "taylor_spread": "coefficient of variation of the channels' Taylor sensitivity",
    "activation_correlation": "mean absolute correlation between the activations of two channels",
}


@dataclasses.dataclass(frozen=True)
class LayerAnalysis:
    """The statistics of one layer in both models.

    Attributes:
      layer: its path.
      width: (before, after), channels it makes.
      statistics: name, of `STATISTICS` -> (before, after); those the layer does not have are left out.
      values: "saliency" and "bn_scale" -> (before, after), a number for each channel, ascending; saliency over its mean.
    """

    layer: str
    width: tuple[int, int]
    statistics: dict[str, tuple[float, float]]
    values: dict[str, tuple[tuple[float, ...], tuple[float, ...]]]


@dataclasses.dataclass(frozen=True)
class Analysis:
    """What differs between two models.

    Attributes:
      before, after: names of the models.
      same_widths: whether all layers are equally wide; then `weight_change` says how far the weights are apart.
      layers: the layers with a kernel or a BatchNormalization scale that both models have, in the order of their calls.
      weight_change: layer -> ||after - before|| / ||before|| over its weights; {} for models of different widths.
      missing: layers that one of the models alone has.
    """

    before: str
    after: str
    same_widths: bool
    layers: tuple[LayerAnalysis, ...]
    weight_change: dict[str, float]
    missing: tuple[str, ...]

    def to_dict(self) -> dict:
        """Returns the fields as a dict that `json.dumps` accepts."""
        return dataclasses.asdict(self)

    def mean(self, statistic: str) -> tuple[float, float] | None:
        """Returns the mean of a statistic over the layers that have it, (before, after); None if none has it."""
        pairs = [layer.statistics[statistic] for layer in self.layers if statistic in layer.statistics]
        return tuple(np.mean(pairs, 0).tolist()) if pairs else None

    def table(self) -> Table:
        """Returns a rich table: one row a layer, "before > after" for every statistic that any layer has."""
        shown = [name for name in STATISTICS if self.mean(name) is not None]
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=f"{self.before} > {self.after}", title_justify="left")
        table.add_column("Layer", overflow="fold")
        for name in ("width", *shown):
            table.add_column(name.replace("_", " "), justify="right")
        for layer in self.layers:
            cells = [_cell(layer.statistics.get(name)) for name in shown]
            table.add_row(layer.layer, _cell(layer.width), *cells)
        table.add_section()
        table.add_row("mean", "", *(_cell(self.mean(name)) for name in shown))
        return table

    def plot(self, path: str | os.PathLike[str]) -> None:
        """Writes a PNG: every statistic by layer, before and after, and histograms of saliency and BN scale.

        Args:
          path: the file.
        """
        plot_analysis(path, self, STATISTICS)


def analyze(before: Any, after: Any, *, data: Any = None, seed: int = 0) -> Analysis:
    """Compares what can be told about the channels of two models, layer by layer.

    Without data: saliency, the square root of the group L2 importance (Fang et al., "DepGraph", CVPR 2023), over its mean in
    the layer; inter-channel correlation, the mean |cosine| of the centred rows of W (Wang et al., "Convolutional neural network
    pruning with structural redundancy reduction", CVPR 2021); inter-layer correlation, Pearson's, of the norms of the slices of W
    that read each channel with the norms of the slices that make it; stable rank, ||W||_F^2 / ||W||_2^2 (Rudelson and Vershynin,
    "Sampling from large matrices", 2007); entropy rank, exp(-sum p log p) with p the singular values over their sum (Roy
    and Vetterli, "The effective rank", EUSIPCO 2007); the scale gamma of BatchNormalization (Liu et al., "Network slimming",
    ICCV 2017). With data: Taylor sensitivity, the root mean square over samples of a gate's gradient (Molchanov et al.,
    "Importance estimation", CVPR 2019, squared; of outputs in place of the loss); inter-channel correlation of
    activations.

    Args:
      before: a functional or Sequential model of either Keras.
      after: another with the same layer names, changed or narrower; layers are matched by name.
      data: batches or arrays, x or (x, y), that fit both models; None leaves out what needs them.
      seed: of what is drawn for the Taylor sensitivity.

    Returns:
      An `Analysis`.

    Raises:
      ArgumentError: the models have no layer in common.
      UnsupportedModelError: a model cannot be traced.
      DataError: the data do not fit a model.

    Example:
      >>> from tfmetaprune._keras import keras
      >>> model = keras.Sequential([keras.layers.Dense(8, input_shape=(4,)), keras.layers.Dense(3)])
      >>> analysis = analyze(model, model)
      >>> [layer.width for layer in analysis.layers], set(analysis.weight_change.values())
      ([(8, 8), (3, 3)], {0.0})
    """
    traces = [trace_model(carry(model)[0]) for model in (before, after)]
    dataset = None if data is None else as_dataset(data)
    measured = []
    for trace in traces:
        if dataset is not None:
            check_data(dataset, trace.model, needs_labels=False)
        measured.append(_measure(trace, dataset, seed))
    common = [name for name in measured[0] if name in measured[1]]
    if not common:
        raise ArgumentError(
            f"analyze: expected two models with layers of the same names, got {list(measured[0])[:5]} and {list(measured[1])[:5]}. "
            f"Compare a model with one that was made from it."
        )
    layers = []
    for name in common:
        pair = [one[name] for one in measured]
        both = [statistic for statistic in STATISTICS if all(statistic in one["statistics"] for one in pair)]
        layers.append(
            LayerAnalysis(
                name, tuple(one["width"] for one in pair),
                {statistic: tuple(float(one["statistics"][statistic]) for one in pair) for statistic in both},
                {key: tuple(one["values"][key] for one in pair) for key in pair[0]["values"] if key in pair[1]["values"]},
            )
        )  # fmt: skip
    shapes = [[[weight.shape for weight in one[name]["weights"]] for name in common] for one in measured]
    same = shapes[0] == shapes[1]
    change = {name: _change(*(one[name]["weights"] for one in measured)) for name in common} if same else {}
    missing = [name for one, other in (measured, measured[::-1]) for name in one if name not in other]
    return Analysis(before.name, after.name, same, tuple(layers), change, tuple(dict.fromkeys(missing)))


def _cell(pair):
    return "" if pair is None else " > ".join(f"{value:.3g}" for value in pair)


def _measure(trace, dataset, seed) -> dict[str, dict]:
    """Measures one model: name of a kernel or BatchNormalization -> "width", "statistics", "values", "weights"."""
    saliency = np.sqrt(np.asarray(GroupL2(trace)(), float))
    made = _made_norms(trace)
    taylor = None if dataset is None else channel_statistics(trace, dataset, seed=seed)
    activations = {} if dataset is None else activation_correlations(trace, dataset)
    result = {}
    for channels in trace.channels.calls:
        if not channels.is_first:
            continue
        kernels = {name: axes for name, axes in channels.weights.items() if axes.is_kernel and axes.target}
        path, weights = channels.call.path, [np.asarray(weight, float) for weight in channels.call.layer.weights]
        for name, axes in kernels.items():
            squares, matrix = _matrices(channels, name, axes)
            units = _units(trace, channels, axes, axes.target)
            entry = {"width": len(matrix), "statistics": kernel_statistics(matrix), "values": {}, "weights": weights}
            if units is not None:
                relative = saliency[units] / max(saliency[units].mean(), _TINY)
                entry["statistics"] |= spread("saliency", relative)
                entry["values"]["saliency"] = tuple(np.sort(relative).tolist())
                read = None if taylor is None else taylor[units][np.any(taylor[units] != 0, 1)]
                if read is not None and len(read):
                    sensitivity = np.exp(0.5 * read[:, LOG_FISHER].astype(float))
                    entry["statistics"]["taylor_spread"] = sensitivity.std() / max(sensitivity.mean(), _TINY)
            source = _units(trace, channels, axes, axes.source)
            if source is not None:
                known = made[source] > 0
                entry["statistics"] |= named("layer_correlation", pearson(np.sqrt(squares[known]), np.sqrt(made[source][known])))
            if path in activations and len(kernels) == 1:
                entry["statistics"] |= named("activation_correlation", activations[path])
            result[path if len(kernels) == 1 else f"{path}/{name}"] = entry
        if is_batch_norm(channels) and "gamma" in channels.weights:
            gamma = np.abs(np.asarray(get_weight(channels.call.layer, "gamma"), float)).ravel()
            statistics = {"bn_scale_mean": gamma.mean(), "bn_scale_small": np.mean(gamma < 0.1 * gamma.mean())}
            values = {"bn_scale": tuple(np.sort(gamma).tolist())}
            result[path] = {"width": len(gamma), "statistics": statistics, "values": values, "weights": weights}
    return result


def _matrices(channels, name, axes) -> tuple[np.ndarray, np.ndarray]:
    """Sum of squares of a kernel for each channel read, float [in], and the kernel as float [out, in x taps] ([out, taps] depthwise)."""
    kernel = np.asarray(get_weight(channels.call.layer, name), float).reshape(axes.shape).transpose(axes.canonical_order)
    num_read, num_made = (int(np.prod([axes.shape[axis] for axis in side])) for side in (axes.source, axes.target))
    if axes.per_channel is not None:
        return np.zeros(0), kernel.reshape(-1, num_read * num_made).T
    kernel = kernel.reshape(-1, num_read, num_made)
    return np.square(kernel).sum((0, 2)), kernel.reshape(-1, num_made).T


def _units(trace, channels, axes, side) -> np.ndarray | None:
    """The unit of every channel on one side of a kernel; None for several axes that are not a product known by name."""
    if axes.per_channel is not None:
        known = side == axes.target and axes.per_channel in channels.roles
        return trace.channels.units(channels.roles[axes.per_channel]) if known else None
    names = tuple("in/groups" if axes.grouped and side == axes.source else axes.names[axis] for axis in side)
    known = len(names) == 1 and names[0] in channels.roles or names in channels.products
    return trace.channels.units(channels.side(names)) if known else None


def _made_norms(trace) -> np.ndarray:
    """float [num_units]: the sum of squares of the kernel slices that make each unit; 0 for what no kernel makes."""
    total = np.zeros(trace.channels.num_units)
    for channels in trace.channels.calls:
        for name, axes in channels.weights.items() if channels.is_first else ():
            units = _units(trace, channels, axes, axes.target) if axes.is_kernel and axes.target else None
            if units is not None:
                np.add.at(total, units, np.square(_matrices(channels, name, axes)[1]).sum(1))
    return total


def _change(before, after) -> float:
    """||after - before|| / ||before|| over lists of weights."""
    distance, norm = (
        np.sqrt(sum(np.sum(value**2) for value in values))
        for values in ([b - a for a, b in zip(before, after, strict=True)], before)
    )
    return float(distance / max(norm, _TINY))
