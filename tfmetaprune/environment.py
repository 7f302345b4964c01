"""What there is to work with: packages, devices, metanetworks, data sets that are on disk."""

import importlib.metadata
import os
import pathlib
import platform

import tfmetaprune
from tfmetaprune._keras import tf
from tfmetaprune.data.packages import PACKAGES as PACKAGES_OF_DATA
from tfmetaprune.data.packages import package_folder
from tfmetaprune.metanet.pretrained import DEFAULT_NAME, available_metanetworks, load_card

PACKAGES = (
    "tensorflow", "tf_keras", "keras", "tensorflow-gnn", "tensorflow-model-optimization", "tensorflow-datasets", "ai-edge-litert",
    "numpy",
)  # fmt: skip


def environment(data_dir=None) -> dict:
    """Describes the environment.

    Args:
      data_dir: directory of prepared data sets, as for `data.load`.

    Returns:
      A dict that `json.dumps` accepts: "versions"; "keras" (what `tf.keras` is here, and the flavours found); "devices" with
      the threads TensorFlow may use; "metanetworks", a summary of each card; "data" and where the prepared sets are.

    Raises:
      MetaNetworkError: the card of a shipped metanetwork is unreadable.
    """
    versions = {name: _version(name) for name in PACKAGES}
    flavours = {"Keras 2": versions["tf_keras"], "Keras 3": versions["keras"]}
    legacy = os.environ.get("TF_USE_LEGACY_KERAS", "").lower() in ("1", "true")
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    threads = tf.config.threading
    folder = pathlib.Path(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()
    return {
        "versions": {"tfmetaprune": tfmetaprune.__version__, "python": platform.python_version(), **versions},
        "keras": {"tf.keras": "Keras 2" if legacy else "Keras 3", "found": {key: value for key, value in flavours.items() if value}},
        "devices": {
            "devices": [device.name.split(":", 1)[1] for device in tf.config.list_physical_devices()],
            "cpus": usable,
            "threads_inside_an_operation": threads.get_intra_op_parallelism_threads() or usable,
            "threads_between_operations": threads.get_inter_op_parallelism_threads() or usable,
        },
        "metanetworks": {name: _summary(name) for name in available_metanetworks()},
        "data": {"without_network": _packaged_sets(), "prepared": prepared_sets(folder), "data_dir": str(folder)},
    }


def prepared_sets(folder) -> list[str]:
    """Returns the names, configurations and versions of the data sets that tensorflow_datasets has prepared in a directory.

    Args:
      folder: the directory; it need not exist.
    """
    folder = pathlib.Path(folder)
    infos = [info.parent.relative_to(folder).parts for depth in (2, 3) for info in folder.glob("*/" * depth + "dataset_info.json")]
    return sorted(f"{'/'.join(name)}:{version}" for *name, version in infos if not version.startswith("incomplete."))


def _packaged_sets() -> list[str]:
    """The data sets that installed packages bring along."""
    return ["digits", *(name for name, package in PACKAGES_OF_DATA.items() if package_folder(package))]


def _version(package) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _summary(name) -> dict:
    """What a card tells in a line: gains are of the metanetwork over the best criterion, in shares of accuracy."""
    card = load_card(name)
    measured = card.get("measured", {})
    settings = measured.get("zeros") or [f"{speedup:g}x" for speedup in measured.get("speedups", ())]
    return {
        "default": name == DEFAULT_NAME,
        "parameters": card.get("parameters"),
        "objective": card.get("training", {}).get("objective", "structured"),
        "trained_on": card.get("data", {}).get("name") or ", ".join(card.get("data", {}).get("names", ())),
        "measured": measured.get("what"),
        "gain": dict(zip(settings, measured.get("gain", ()))),
    }
