"""What the arguments of `MetaPruning` may be."""

import math
import numbers

from tfmetaprune.errors import ArgumentError
from tfmetaprune.pruning import CRITERIA, needs_statistics


def name_of(value):
    """Returns an argument as a report names it: functions and models by their names."""
    if callable(value):
        return getattr(value, "name", None) or getattr(value, "__name__", type(value).__name__)
    return str(value) if hasattr(value, "__fspath__") else value


def check_options(speedup, start_epoch, end_epoch, data, criterion, metanetwork, repair, seed):
    """Raises ArgumentError if an argument of `MetaPruning` has a value that cannot be used."""

    def check(good, name, expected, got, advice):
        if not good:
            raise ArgumentError(f"MetaPruning: expected {name} to be {expected}, got {got!r}. {advice}.")

    def is_number(value, kind=numbers.Real):
        return isinstance(value, kind) and not isinstance(value, bool) and math.isfinite(value)

    check(is_number(speedup) and speedup >= 1, "speedup", "a number >= 1", speedup, "Try 2.0")
    is_epoch = is_number(start_epoch, numbers.Integral) and start_epoch >= 0
    check(is_epoch, "start_epoch", "an integer >= 0", start_epoch, "Use 0 for a model that is trained already")
    is_later = end_epoch is None or is_number(end_epoch) and end_epoch >= start_epoch
    check(is_later, "end_epoch", f"a number of epochs >= start_epoch={start_epoch}", end_epoch, "Use None for a third of fit")
    is_known = callable(criterion) or criterion in CRITERIA
    check(is_known, "criterion", f"one of {', '.join(CRITERIA)} or a callable", criterion, "Use 'group_l2'")
    is_named = isinstance(metanetwork, str) or hasattr(metanetwork, "__fspath__")
    is_network = metanetwork is None or is_named or callable(metanetwork)
    check(is_network, "metanetwork", "a name, a path, a MetaNetwork, a function of graphs or None", metanetwork, "Use 'default'")
    check(repair in (None, "bn"), "repair", "'bn' or None", repair, "Use None to leave it out")
    check(is_number(seed, numbers.Integral) and 0 <= seed < 2**32, "seed", "an integer in 0..2**32 - 1", seed, "Use 0")
    if data is None and metanetwork is not None and not (isinstance(metanetwork, str) and metanetwork == "default"):
        raise ArgumentError(
            f"MetaPruning: expected data for metanetwork={name_of(metanetwork)!r}, got None. Pass data=..., or metanetwork=None."
        )
    if data is None and needs_statistics(criterion):
        raise ArgumentError(f"MetaPruning: expected data for criterion={criterion!r}, got None. Pass data=..., or use 'group_l2'.")
