"""What the HTML report draws of a network and its pruning: small enough to lie beside the pruned model."""

import dataclasses
import math
from collections.abc import Mapping

import numpy as np

from tfmetaprune.layers import get_weight
from tfmetaprune.pruning import cost
from tfmetaprune.report.page_reading import NETWORK_FORMAT
from tfmetaprune.trace import ModelTrace

NUM_BINS = 41
_RANGE_QUANTILE = 0.998  # what lies further out is counted in the outermost bins


def record_network(trace: ModelTrace, small, *, keep=None, weights: Mapping | None = None, zeros=False) -> dict:
    """Records what became of every call, channel and weight of a network, as a dict that `json.dumps` accepts.

    Args:
      trace: the traced model as it was.
      small: the tf_keras model that was made of it, with the same layer paths.
      keep: bool [num_units], which units remained; None for all.
      weights: (layer path, weight name) -> tensor, what a metanetwork made of the original's; None without one.
      zeros: whether weights became zero, so that these are worth counting.

    Returns:
      "format", "name" (the model's), "inputs" (names and widths of the model's inputs), "outputs" (indices of the calls that make
      them) and "calls", one dict for each call in topological order:
        "name", "kind": path and class of the layer.
        "inputs": indices of the calls whose tensors it reads; -1 - i for the model's i-th input.
        "width": [before, after], channels of what it makes; None where no channels are known.
        "macs", "parameters": [before, after]; parameters of a layer's first call alone.
        "nonzero": how many of the parameters are not zero in the end; None unless `zeros`.
        "frozen": why channels that it makes have to stay; None if none has to.
        "made": for each kernel that makes channels of its own: "weight", "norms" (a digit a channel, its L2 norm before, 9 for the
          layer's largest), "kept" (0 or 1 a channel), "zeros" (a digit a remaining channel, tenths of its weights) and "sparsity"
          (share of zeros among the remaining weights), both None unless `zeros`.
        "histograms": of "weights" (all kernels of the layer) and "scale" (gamma of a normalisation): "range" [low, high] and
          "before", "metanetwork" (None without one) and "after", counts in equal bins; what lies outside is in the outermost ones.
        "change": ||metanetwork - before|| / ||before|| of the layer's weights; None without a metanetwork.
    """
    keep = np.ones(trace.channels.num_units, bool) if keep is None else np.asarray(keep, bool)
    maker = {tensor: -1 - index for index, tensor in enumerate(trace.inputs)}
    maker |= {tensor: index for index, call in enumerate(trace.calls) for tensor in call.outputs}
    layers = _layers_by_path(small)
    calls = []
    for channels in trace.channels.calls:
        call = channels.call
        one = dataclasses.replace(trace, channels=dataclasses.replace(trace.channels, calls=(channels,)))
        before, after = cost(one), cost(one, keep)
        entry = {
            "name": call.path, "kind": type(call.layer).__name__,
            "inputs": list(dict.fromkeys(maker[tensor] for tensor in call.inputs)),
            "width": _width(trace, call.outputs[0], keep) if call.outputs else None, "macs": [before.macs, after.macs],
            "parameters": [before.parameters, after.parameters] if channels.is_first else [0, 0],
            "nonzero": None, "frozen": _why_frozen(trace, channels), "made": [], "histograms": {}, "change": None,
        }  # fmt: skip
        if channels.is_first:
            now = layers.get(call.path)
            if zeros and now is not None:
                entry["nonzero"] = sum(int(np.count_nonzero(weight)) for weight in now.get_weights())
            entry["made"] = _made(trace, channels, keep, now if zeros else None)
            entry |= _distributions(channels, now, weights)
        calls.append(entry)
    inputs = [
        {"name": name, "width": _width(trace, tensor, keep)} for name, tensor in zip(trace.model.input_names, trace.inputs)
    ]
    outputs = list(dict.fromkeys(maker[tensor] for tensor in trace.outputs))
    return {"format": NETWORK_FORMAT, "name": trace.model.name, "inputs": inputs, "outputs": outputs, "calls": calls}


def _layers_by_path(model, prefix="") -> dict:
    layers = {}
    for layer in model.layers:
        layers[prefix + layer.name] = layer
        if hasattr(layer, "layers") and hasattr(layer, "inputs"):
            layers |= _layers_by_path(layer, f"{prefix}{layer.name}/")
    return layers


def _width(trace, tensor, keep):
    """[before, after] of the last axis that channels lie on; None without one."""
    axes = trace.channels.tensors[tensor]
    if not axes:
        return None
    units = trace.channels.units(axes[max(axes)])
    return [len(units), int(np.count_nonzero(keep[units]))]


def _why_frozen(trace, channels):
    axes = [axes for tensor in channels.call.outputs for axes in trace.channels.tensors[tensor].values()]
    units = (unit for layout in axes for unit in np.unique(trace.channels.units(layout)).tolist())
    return next((trace.channels.frozen[unit] for unit in units if unit in trace.channels.frozen), None)


def _made(trace, channels, keep, sparse_layer) -> list[dict]:
    """One dict for each kernel that makes channels of its own, see `record_network`."""
    rows, seen = [], set()
    widths = {role: int(np.count_nonzero(keep[trace.channels.units(layout)])) for role, layout in channels.roles.items()}
    for name, axes in channels.weights.items():
        if not axes.is_kernel:
            continue
        roles = (axes.per_channel,) if axes.per_channel else tuple(axes.names[axis] for axis in axes.target)
        if not (len(roles) == 1 and roles[0] in channels.roles or roles in channels.products):
            continue
        units = trace.channels.units(channels.side(roles))
        matrix = _matrix(get_weight(channels.call.layer, name), axes, axes.shape)
        if units.tobytes() in seen or matrix is None or matrix.shape[1] != len(units):
            continue
        seen.add(units.tobytes())
        norms = np.sqrt(np.square(matrix, dtype=float).sum(0))
        row = {"weight": name, "norms": _digits(norms / max(norms.max(initial=0), 1e-30))}
        row |= {"zeros": None, "sparsity": None}
        row["kept"] = "".join("1" if kept else "0" for kept in keep[units])
        if sparse_layer is not None:
            shape = tuple(widths.get(role, size) for role, size in zip(axes.names, axes.shape))
            remaining = _matrix(get_weight(sparse_layer, name), axes, shape)
            if remaining is not None:
                row |= {"zeros": _digits(np.mean(remaining == 0, 0)), "sparsity": float(np.mean(remaining == 0))}
        rows.append(row)
    return rows


def _matrix(variable, axes, shape):
    """A kernel as [taps x in, out], or [taps, channels] of a depthwise one; None if the shape is not the weight's."""
    value = np.asarray(variable)
    if value.size != math.prod(shape):
        return None
    made = math.prod(shape[axis] for axis in (*axes.source, *axes.target) if axes.per_channel or axis in axes.target)
    return value.reshape(shape).transpose(axes.canonical_order).reshape(-1, made)


def _digits(shares) -> str:
    return "".join(map(str, np.minimum(9, np.floor(10 * shares)).astype(int).tolist()))


def _distributions(channels, small_layer, weights) -> dict:
    """The "histograms" and the "change" of a layer."""
    layer, path = channels.call.layer, channels.call.path
    kinds = {
        "weights": [name for name, axes in channels.weights.items() if axes.is_kernel],
        "scale": [name for name in channels.weights if name == "gamma"],
    }
    histograms, changed = {}, weights is not None and any(key[0] == path for key in weights)
    distance = norm = 0.0
    for name in channels.weights if changed else ():
        before = get_weight(layer, name)
        if before is not None:
            before, made = _flat([before]), _flat([weights.get((path, name), before)])
            distance, norm = distance + np.sum(np.square(made - before)), norm + np.sum(np.square(before))
    for kind, names in kinds.items():
        if not names or small_layer is None or any(get_weight(layer, name) is None for name in names):
            continue
        before = _flat(get_weight(layer, name) for name in names)
        after = _flat(get_weight(small_layer, name) for name in names)
        made = None
        if changed:
            made = _flat(weights.get((path, name), get_weight(layer, name)) for name in names)
        histograms[kind] = _histogram({"before": before, "metanetwork": made, "after": after}, symmetric=kind == "weights")
    return {"histograms": histograms, "change": math.sqrt(distance / norm) if changed and norm else None}


def _flat(variables) -> np.ndarray:
    return np.concatenate([np.asarray(variable, np.float32).ravel() for variable in variables])


def _histogram(values: dict, symmetric) -> dict:
    """Counts in `NUM_BINS` equal bins over a range that holds nearly all of the values."""
    known = np.concatenate([value for value in values.values() if value is not None])
    known = known[:: max(1, len(known) // 200_000)]
    if symmetric:
        high = float(np.quantile(np.abs(known), _RANGE_QUANTILE)) or 1.0
        low = -high
    else:
        low, high = (float(np.quantile(known, share)) for share in (1 - _RANGE_QUANTILE, _RANGE_QUANTILE))
        margin = 0.02 * (high - low) or 0.5
        low, high = low - margin, high + margin
    counts = {name: None if value is None else _counts(value, low, high) for name, value in values.items()}
    return {"range": [float(f"{low:.5g}"), float(f"{high:.5g}")], **counts}


def _counts(values, low, high) -> list[int]:
    bins = np.clip((values - low) * (NUM_BINS / (high - low)), 0, NUM_BINS - 1).astype(np.int32)
    return np.bincount(bins, minlength=NUM_BINS).tolist()
