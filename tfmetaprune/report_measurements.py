"""What the HTML report shows and a pruning does not measure by itself: the accuracy curve of the baselines, and latency."""

import pathlib

from tfmetaprune.errors import ArgumentError, NothingToPruneError
from tfmetaprune.export.benchmark import benchmark
from tfmetaprune.pipeline import prune
from tfmetaprune.report.page_reading import contents_of, read_folder

SPEEDUPS = (1.5, 2.0, 3.0, 4.0, 6.0)
_CRITERIA = {
    "group_l2": "group L2", "group_l2_max": "group L2, max-normalised", "fisher": "Fisher", "group_l2_fisher": "group L2 and Fisher",
    "random": "random",
}  # fmt: skip


def measure_curve(folder, original, train_data, validation_data, *, split="validation data", speedups=SPEEDUPS, seed=0, progress=None):
    """Prunes again, with no training and to several speed-ups, as the folder's model was pruned and by the baselines.

    Args:
      folder: what `prune` wrote.
      original: the model that was pruned.
      train_data: as for `prune`; for the metanetwork and the repair.
      validation_data: what the accuracy is measured on.
      split: what these data are, in words.
      speedups: MACs ratios; a curve ends where one is out of reach.
      seed: of everything random.
      progress: called after each pruning; None for nobody.

    Returns:
      A dict for curve.json: "curves" (method -> [[speed-up, accuracy]]) and "note".

    Raises:
      ArgumentError: the folder is none of a method that removes channels, or no accuracy can be measured.
    """
    read = read_folder(folder)
    with contents_of(read.path / "report.json"):
        report = read.report
        if not report.get("widths"):
            raise ArgumentError(f"Folder '{folder}': expected the result of a pruning of channels, got another. Leave --curve out.")
        repair = report["repair"]["method"] if report["repair"] else None
        named, metanetwork = report["criterion"], report["metanetwork"]
        same = {name: report[name] for name in ("round_to", "traffic_weight") if report.get(name)}
        search = {"search_steps": report["search_steps"]} if report.get("search_steps") else {}
    criterion = named if named in _CRITERIA else "group_l2"
    ways = {f"metanetwork {metanetwork}": {"metanetwork": metanetwork, "criterion": criterion, **search}} if metanetwork else {}
    for name in dict.fromkeys((criterion, "group_l2", "random")):
        searched = search if name == criterion and not metanetwork else {}
        ways[_CRITERIA[name]] = {"metanetwork": None, "criterion": name, **searched}
    curves = {}
    for label, way in ways.items():
        curves[label] = points = []
        for speedup in sorted(speedups):
            try:
                found = prune(
                    original, train_data, validation_data=validation_data, speedup=speedup, finetune=None, repair=repair, seed=seed,
                    **same, **way,
                ).report  # fmt: skip
            except NothingToPruneError:
                break
            if "accuracy" not in found["before"]:
                raise ArgumentError("--curve: expected a classifier and labelled data, got no accuracy. Leave --curve out.")
            points += [] if points else [[1.0, found["before"]["accuracy"]]]
            points.append([found["speedup"]["reached"], (found.get("repaired") or found["pruned"])["accuracy"]])
            if progress:
                progress()
    done = f"pruning and repair ({repair.replace('_', ' ')})" if repair else "pruning"
    note = f"Right after {done}, without fine-tuning, on the {split}; a hollow mark: the model of this report, fine-tuned."
    left_out = ["its criterion, a function"] if named not in _CRITERIA else []
    left_out += ["its training before pruning"] if report.get("prepare") else []
    note += f" Not repeated: {' and '.join(left_out)}." if left_out else ""
    return {"curves": {label: points for label, points in curves.items() if points}, "note": note}


def measure_latencies(original, small, *, num_runs=50, num_threads=1) -> dict:
    """Measures two models side by side, exported to float32 TFLite files.

    Args:
      original: the model that was pruned.
      small: what it became.
      num_runs: number of rounds; each runs both.
      num_threads: number of threads.

    Returns:
      A dict for latency.json.
    """
    measured = benchmark(original, small, num_runs=num_runs, num_threads=num_threads).to_dict()
    for model, name in zip(measured["models"], ("Original", "Pruned")):
        model["name"] = name
    return measured


def model_files(folder, original=None) -> tuple[pathlib.Path, pathlib.Path]:
    """Finds the files of the original and of the pruned model.

    Args:
      folder: what `prune` or `demo` wrote.
      original: the original's file, if the caller knows it.

    Raises:
      ArgumentError: the folder does not tell where the original is.
    """
    read = read_folder(folder)
    small = read.path / ("pruned.keras" if "rows" in read.report else "model.keras")  # as `demo` or `prune` calls it
    if not small.exists():
        raise ArgumentError(f"Folder '{folder}': expected {small.name} in it, found none. Prune again.")
    noted = read.report.get("model")
    found = pathlib.Path(original or noted or read.path / "original.keras")
    if not original and not found.exists():
        raise ArgumentError(f"Folder '{folder}': expected to find the model that was pruned, found none. Name it by --model FILE.keras.")
    return found, small
