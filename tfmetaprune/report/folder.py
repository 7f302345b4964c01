"""Output folders that are written whole or not at all."""

import contextlib
import json
import os
import pathlib
import shutil
import tempfile

from tfmetaprune.errors import ArgumentError


@contextlib.contextmanager
def atomic_folder(path):
    """Gives the body a temporary folder whose files appear in `path` when it ends well.

    A folder that does not exist appears by one rename; in one that does, files of the same name are replaced one by one
    and all others stay. If the body raises, nothing is left behind. That `path` can be written is found out at once.

    Args:
      path: the folder to write.

    Yields:
      The temporary folder, a `pathlib.Path`, beside or inside `path`.

    Raises:
      ArgumentError: `path` is a file, or cannot be written.

    Example:
      >>> with tempfile.TemporaryDirectory() as parent:
      ...     with atomic_folder(f"{parent}/out") as folder:
      ...         _ = (folder / "plan.json").write_text("{}")
      ...     os.listdir(f"{parent}/out")
      ['plan.json']
    """
    path = pathlib.Path(os.path.abspath(path))
    exists = path.is_dir()
    with _write_errors(path):
        missing = [folder for folder in path.parents if not folder.exists()]  # innermost first
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and not exists:
            raise NotADirectoryError("it is a file")
        parent = path if exists else path.parent
        temporary = pathlib.Path(tempfile.mkdtemp(dir=parent, prefix=f".{path.name}.", suffix=".partial"))
    try:
        yield temporary
        with _write_errors(path):
            temporary.chmod(0o777 & ~_umask())  # mkdtemp lets nobody else in
            if exists:
                for file in sorted(temporary.iterdir()):
                    os.replace(file, path / file.name)
            else:
                os.replace(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if not path.exists():
            for folder in missing:
                with contextlib.suppress(OSError):
                    folder.rmdir()


def write_result(folder, result, **noted) -> dict:
    """Writes what `prune` returned: model.keras, plan.json, report.json and network.json.

    Args:
      folder: of `atomic_folder`.
      result: a `PruneResult`.
      **noted: what else to note in the report.

    Returns:
      The report as it was written.
    """
    result.model.save(folder / "model.keras")
    (folder / "plan.json").write_text(result.plan.to_json() + "\n", encoding="utf-8")
    report = {**result.report, **noted, "history": result.history}
    (folder / "report.json").write_text(json.dumps(report, indent=2, default=str) + "\n", encoding="utf-8")
    write_network(folder, result.network)
    return report


def write_network(folder, network):
    """Writes network.json, of `record.record_network`."""
    (folder / "network.json").write_text(json.dumps(network, separators=(",", ":")) + "\n", encoding="utf-8")


@contextlib.contextmanager
def _write_errors(path):
    try:
        yield
    except OSError as error:
        raise ArgumentError(
            f"Output folder '{path}': expected a folder that can be written, got {error}. Choose another folder."
        ) from error


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask
