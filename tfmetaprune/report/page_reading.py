"""Reads the folder that a pruning or the demonstration left, for the page."""

import contextlib
import dataclasses
import hashlib
import json
import pathlib

from tfmetaprune.errors import ArgumentError

_AGAIN = "Make the folder again by 'tfmetaprune prune ... --out DIR' or 'tfmetaprune demo --out DIR'"
NETWORK_FORMAT = 1  # of record.record_network
CURVE_FILE, LATENCY_FILE = "curve.json", "latency.json"


@dataclasses.dataclass(frozen=True)
class ReportFolder:
    """What is in the folder.

    Attributes:
      path: the folder.
      report: report.json.
      network: network.json; None if there is none.
      curve: curve.json, measured by `report --curve`; None likewise, and where it is of what an earlier pruning left there.
      latency: latency.json, measured by `report --latency`; None likewise.
    """

    path: pathlib.Path
    report: dict
    network: dict | None = None
    curve: dict | None = None
    latency: dict | None = None


def read_folder(folder) -> ReportFolder:
    """Reads what `tfmetaprune prune`, `PruneResult.save` or `tfmetaprune demo` wrote.

    Args:
      folder: the folder.

    Raises:
      ArgumentError: it is no such folder, or a file in it cannot be read.
    """
    folder = pathlib.Path(folder)
    if not folder.is_dir():
        raise ArgumentError(f"Folder '{folder}': expected what 'tfmetaprune prune --out DIR' wrote, found no folder. Check the path.")
    report = _read(folder / "report.json")
    if report is None:
        raise ArgumentError(f"Folder '{folder}': expected a report.json in it, found none. {_AGAIN}.")
    network = _read(folder / "network.json")
    if network is not None and network.get("format") != NETWORK_FORMAT:
        raise ArgumentError(
            f"File '{folder / 'network.json'}': expected format {NETWORK_FORMAT}, got {network.get('format')!r}. {_AGAIN}."
        )
    return ReportFolder(folder, report, network, *(_read_measured(folder / file) for file in (CURVE_FILE, LATENCY_FILE)))


def report_digest(folder) -> str:
    """Returns what tells the pruning in a folder from another's: it is noted with what is measured of it."""
    return hashlib.sha256((pathlib.Path(folder) / "report.json").read_bytes()).hexdigest()[:16]


@contextlib.contextmanager
def contents_of(path):
    """Turns what goes wrong in the body into one error that names the file whose contents it uses."""
    try:
        yield
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, ZeroDivisionError, RecursionError) as error:
        if isinstance(error, ArgumentError):
            raise
        what = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise ArgumentError(f"File '{path}': expected what tfmetaprune wrote, got something else ({what[:200]}). {_AGAIN}.") from error


def _read(path):
    if not path.exists():
        return None
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ArgumentError(f"File '{path}': expected JSON, got {type(error).__name__}: {str(error)[:200]}. {_AGAIN}.") from error
    if not isinstance(values, dict):
        raise ArgumentError(f"File '{path}': expected a JSON object, got {type(values).__name__}. {_AGAIN}.")
    return values


def _read_measured(path):
    measured = _read(path)
    return None if measured and measured.get("report_digest") not in (None, report_digest(path.parent)) else measured
