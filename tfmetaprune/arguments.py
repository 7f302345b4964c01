"""Checks of what `prune` is called with."""

import math
import numbers

from tfmetaprune.errors import ArgumentError
from tfmetaprune.latency_target import LatencyTarget
from tfmetaprune.pruning import CRITERIA, NEEDING_DATA, REPAIRS, needs_statistics


def check_targets(speedup, latency_ms, latency_speedup, round_to, traffic_weight):
    """The speed-up to reach, and the latency in its place or None."""
    given = {"speedup": speedup, "latency_ms": latency_ms, "latency_speedup": latency_speedup}
    given = {name: value for name, value in given.items() if value is not None}
    if len(given) > 1:
        raise ArgumentError(f"prune: expected one of {', '.join(given)}, got {len(given)} of them. Leave the others out.")
    for name, lowest in (("latency_ms", 0), ("latency_speedup", 1)):
        value = given.get(name, math.inf)
        is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
        if not is_number or math.isnan(value) or value < lowest or value == 0 or (name in given and math.isinf(value)):
            raise ArgumentError(f"prune: expected {name} to be a number above {lowest}, got {value!r}. Try {lowest + 1.5}.")
    if round_to is not None and (not isinstance(round_to, numbers.Integral) or isinstance(round_to, bool) or round_to < 1):
        raise ArgumentError(f"prune: expected round_to to be a whole number >= 1 or None, got {round_to!r}. Try 8.")
    is_number = isinstance(traffic_weight, numbers.Real) and not isinstance(traffic_weight, bool)
    if not is_number or not 0 <= traffic_weight < math.inf:
        raise ArgumentError(f"prune: expected traffic_weight to be a number >= 0, got {traffic_weight!r}. Try 0.05.")
    is_latency = bool(given) and speedup is None
    return 2.0 if speedup is None else speedup, LatencyTarget(latency_ms, latency_speedup) if is_latency else None


def check_arguments(speedup, criterion, metanetwork, finetune, repair, seed, distill):
    is_number = isinstance(speedup, numbers.Real) and not isinstance(speedup, bool)
    if not is_number or not math.isfinite(speedup) or speedup < 1:
        raise ArgumentError(f"prune: expected speedup to be a number >= 1, got {speedup!r}. Try 2.0.")
    if not callable(criterion) and criterion not in ("default", *CRITERIA):
        raise ArgumentError(
            f"prune: expected criterion to be 'default', one of {', '.join(CRITERIA)} or a callable, got {criterion!r}. "
            f"Use 'default'."
        )
    is_named = isinstance(metanetwork, str) or hasattr(metanetwork, "__fspath__")
    if not (metanetwork is None or is_named or callable(metanetwork)):
        raise ArgumentError(
            f"prune: expected metanetwork to be a name, a path, a MetaNetwork, a function of graphs or None, got "
            f"{metanetwork!r}. Use 'default', or None to leave it out."
        )
    is_count = isinstance(finetune, numbers.Integral) and not isinstance(finetune, bool) and finetune >= 1
    is_default = isinstance(finetune, str) and finetune == "default"
    if not (finetune is None or callable(finetune) or is_count or is_default):
        raise ArgumentError(
            f"prune: expected finetune to be 'default', a number of epochs >= 1, a callable or None, got {finetune!r}. "
            f"Use None to leave it out."
        )
    if distill and (finetune is None or callable(finetune)):
        raise ArgumentError(
            f"prune: expected a number of epochs or 'default' as finetune with distill, got {finetune!r}. Leave distill out."
        )
    if not (repair is None or (isinstance(repair, str) and repair in REPAIRS)):
        raise ArgumentError(f"prune: expected repair to be one of {', '.join(REPAIRS)} or None, got {repair!r}. Use 'default'.")
    if not isinstance(seed, numbers.Integral) or not 0 <= seed < 2**32:
        raise ArgumentError(f"prune: expected seed to be an integer in 0..2**32 - 1, got {seed!r}. Use 0.")


def check_search(search_steps, drops_channels, repair, train_data):
    """Raises ArgumentError if a search for channels is asked for where there can be none."""
    if not isinstance(search_steps, numbers.Integral) or isinstance(search_steps, bool) or search_steps < 0:
        raise ArgumentError(f"prune: expected search_steps to be a whole number >= 0, got {search_steps!r}. Try 100.")
    if not search_steps:
        return
    if not drops_channels:
        raise ArgumentError("prune: expected a method that drops channels for search_steps, got one that does not. Leave it out.")
    if train_data is None:
        raise ArgumentError("prune: expected train_data for search_steps, got none. Give data; labels are not used by it.")
    if repair not in ("default", "least_squares"):
        raise ArgumentError(
            f"prune: expected repair 'least_squares' for search_steps, which goes through it, got {repair!r}. Leave one of them out."
        )


def refuse_unused(method, **options):
    """Raises ArgumentError if an option that a method has no use for is given: not None, nor 0."""
    for name, value in options.items():
        if callable(value) or value not in (None, 0):
            raise ArgumentError(
                f"prune: expected no {name} with method={method!r}, which keeps all channels, got {value!r}. "
                f"Use sparsity, or method='structured+unstructured' for both."
            )


def zeros_repair(repair, train_data):
    """The repair of a model that loses no channels: "bn" or None."""
    if repair == "default":
        return None if train_data is None else "bn"
    if isinstance(repair, str) and repair in REPAIRS and repair != "bn":
        raise ArgumentError(
            f"prune: expected repair='bn' or None where all channels stay, got {repair!r}. Use 'default'."
        )
    return repair


def check_train_data(train_data, criterion, metanetwork, finetune, repair):
    if train_data is not None:
        return
    needing = {
        "metanetwork": metanetwork,
        "repair": repair if repair in NEEDING_DATA else None,
        "finetune": None if callable(finetune) else finetune,
    }
    needing = {name: value for name, value in needing.items() if value is not None}
    if needing:
        named = ", ".join(
            f"{name}={value.name if callable(value) and hasattr(value, 'name') else repr(value)}" for name, value in needing.items()
        )
        nones = ", ".join(f"{name}=None" for name in needing)
        raise ArgumentError(f"prune: expected train_data for {named}, got None. Pass train_data, or set {nones}.")
    if needs_statistics(criterion):
        raise ArgumentError(f"prune: expected train_data for criterion={criterion!r}, got None. Pass some.")
