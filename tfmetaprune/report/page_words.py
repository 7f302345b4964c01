"""Numbers as the page writes them."""

import math

MISSING = "\u2013"
_SPACE = "\u202f"  # narrow, does not break


def is_number(value) -> bool:
    """Whether a value is a finite number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def count(value) -> str:
    """Writes a count with three digits.

    Example:
      >>> [count(value).replace(_SPACE, " ") for value in (0, 999, 77_700, 1_999_999, 3.4e9, None)]
      ['0', '999', '77.7 k', '2.00 M', '3.40 G', '\u2013']
    """
    if not is_number(value):
        return MISSING
    for factor, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= 0.9995 * factor:
            scaled = value / factor
            digits = 0 if scaled >= 99.95 else 1 if scaled >= 9.995 else 2
            return f"{scaled:.{digits}f}{_SPACE}{unit}"
    return f"{value:.0f}"


def size(value) -> str:
    """Writes a number of bytes."""
    return f"{count(value)}B" if is_number(value) and value >= 999.5 else f"{value}{_SPACE}B" if is_number(value) else MISSING


def percent(share, digits=1) -> str:
    """Writes a share in percent.

    Example:
      >>> percent(0.9814).replace(_SPACE, " "), percent(None)
      ('98.1 %', '\u2013')
    """
    return f"{100 * share:.{digits}f}{_SPACE}%" if is_number(share) else MISSING


def times(ratio) -> str:
    """Writes a ratio, "2.00\u00d7"."""
    if not is_number(ratio):
        return MISSING
    return f"{ratio:.{2 if ratio < 9.995 else 1}f}\u00d7"


def milliseconds(value) -> str:
    """Writes a latency given in milliseconds.

    Example:
      >>> [milliseconds(value).replace(_SPACE, " ") for value in (12.345, 1.5, 0.0123)]
      ['12.3 ms', '1.50 ms', '12.3 \u00b5s']
    """
    if not is_number(value):
        return MISSING
    scaled, unit = (value, "ms") if value >= 0.1 else (1000 * value, "\u00b5s")
    digits = 0 if scaled >= 99.95 else 1 if scaled >= 9.995 else 2
    return f"{scaled:.{digits}f}{_SPACE}{unit}"


def points(before, after) -> str:
    """Writes a change of a share in percentage points, with its sign."""
    change = round(100 * (after - before), 1)
    sign = "+" if change > 0 else "\u2212" if change < 0 else "\u00b1"
    return f"{sign}{abs(change):.1f} points"


def joined(names, limit=12) -> str:
    """Writes a list of names, the first of them if there are many."""
    shown = ", ".join(names[:limit])
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"


def ways(report) -> str:
    """Tells of the ways to choose channels that a pruning tried, in a sentence; "" if there was one alone.

    Args:
      report: of a pruning, or a dict read from its file.

    Example:
      >>> chosen, other = {"criterion": "fisher", "metanetwork": None}, {"criterion": "group_l2", "metanetwork": "universal"}
      >>> ways({**chosen, "ways": [{**chosen, "error": 0.314}, {**other, "error": None}]})
      'Channels were chosen by fisher. Errors of the outputs: fisher 0.31, group_l2 with universal failed.'
    """
    tried = report.get("ways") or ()
    errors = (f"{_way(each)} {format(each['error'], '.2g') if is_number(each['error']) else 'failed'}" for each in tried)
    return f"Channels were chosen by {_way(report)}. Errors of the outputs: {', '.join(errors)}." if tried else ""


def _way(entry) -> str:
    strength = entry.get("strength") or {}
    part = "" if set(strength.values()) <= {1} else f" ({strength['scores']:.0%} of its ranking, {strength['weights']:.0%} of its weights)"
    return entry["criterion"] + (f" with {entry['metanetwork']}{part}" if entry["metanetwork"] else "")
