"""Training before pruning against training afterwards, at equal budgets: prune-aware, group norm, none.

    python benchmarks/prune_aware.py --out docs/prune_aware.md

Trains (or loads) residual networks on digits. Settings of both kinds of training are chosen on two networks of their own, on the
validation split (six of each, by the mean accuracy at 3x and 8x after BN re-estimation). Then each held-out network is pruned by group
L2: after 10 epochs of the training with 5 epochs of fine-tuning to follow, or at once with 15. Reported is the test split.
What has been measured is kept beside the table as JSON lines, so that an interrupted run goes on.
"""

import argparse
import collections
import json
import os
import pathlib
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

from tfmetaprune._keras import keras
from tfmetaprune.data import load
from tfmetaprune.finetuning import finetune_model
from tfmetaprune.metatrain.command import BATCH_SIZE, HELD_OUT_SEED
from tfmetaprune.metatrain.evaluate import SPEEDUPS
from tfmetaprune.metatrain.zoo import accuracy, append_line, dataset_arrays, make_zoo
from tfmetaprune.preparation import prepare_model
from tfmetaprune.pruning import make_plan, rebuild_model, repair_model
from tfmetaprune.trace import trace_model

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True), None
BEFORE, BUDGET = 10, 15  # epochs
REPAIRS = (None, "bn", "least_squares")
FINETUNED = (6.0, 12.0)  # speed-ups at which the rest of the budget is spent
TUNING_SEEDS, TUNING_SPEEDUPS = (0, 1), (3.0, 8.0)
GRID = {
    "prune_aware": [
        {"learning_rate": rate, "reach": reach} for rate in (0.03, 0.1, 0.2) for reach in ((0.5, 1.25), (0.0, 1.25))
    ],
    "group_norm": [
        {"learning_rate": rate, "regularization": weight}
        for rate, weight in ((0.1, 0.003), (0.2, 0.003), (0.1, 0.01), (0.2, 0.01), (0.05, 0.03), (0.1, 0.03))
    ],
}  # fmt: skip
METHODS = (None, *GRID)
KEY = ("seed", "method", "settings", "repair", "speedup", "epochs")


class Bench:
    """Measures what has not been measured yet.

    Args:
      log: the file of JSON lines.
      splits: `DataSplits`.
      zoo: folder of the networks.
    """

    def __init__(self, log, splits, zoo):
        self.log, self.splits, self.zoo = log, splits, zoo
        self.arrays = {name: dataset_arrays(getattr(splits, name)) for name in ("validation", "test")}

    def lines(self) -> dict:
        """Returns what was measured: values of KEY, as JSON, -> the line."""
        lines = map(json.loads, self.log.read_text(encoding="utf-8").splitlines()) if self.log.exists() else ()
        return {json.dumps([line[key] for key in KEY]): line for line in lines}

    def measure(self, seed, method, settings, repairs, speedups, finetuned=()):
        """Appends a line for each repair and speed-up of one network that is missing."""
        done, shared = self.lines(), None
        for speedup in speedups:
            keys = [
                (seed, method, settings, repair, speedup, epochs)
                for repair in repairs for epochs in ((0, self.rest(method)) if speedup in finetuned else (0,))
            ]  # fmt: skip
            if all(json.dumps(key) in done for key in keys):
                continue
            seconds = time.perf_counter()
            model = shared
            if model is None:
                (model,) = make_zoo(self.zoo, self.splits, [seed])
                if method is not None:
                    keras.utils.set_random_seed(seed)
                    model, _ = prepare_model(
                        model, self.splits.train, method, speedup=speedup, losses=LOSS, epochs=BEFORE, **settings
                    )  # fmt: skip
                shared = None if method == "prune_aware" else model  # which is trained for one speed-up
            seconds = time.perf_counter() - seconds
            trace = trace_model(model)
            for repair in repairs:
                step = 1.0 if method == "prune_aware" or repair == "least_squares" else None  # as `prune` does
                plan = make_plan(trace, speedup=speedup, step=step)
                small = rebuild_model(trace, plan)
                if repair is not None:
                    small, _ = repair_model(trace, plan, small, self.splits.train, repair)
                for key in keys:
                    if key[3] != repair:
                        continue
                    if key[5]:
                        finetune_model(small, self.splits.train, losses=LOSS, epochs=key[5])
                    scores = {name: round(accuracy(small, *arrays), 6) for name, arrays in self.arrays.items()}
                    if json.dumps(key) not in done:
                        append_line(self.log, {**dict(zip(KEY, key)), **scores, "seconds_before": round(seconds, 1)})
            print(f"seed {seed}, {method or 'no training before'}, {speedup:g}x done", flush=True)

    def rest(self, method) -> int:
        """Epochs of fine-tuning that the budget leaves."""
        return BUDGET if method is None else BUDGET - BEFORE

    def choose(self, method) -> dict:
        """Returns the best settings of the grid by validation, and the whole grid's mean accuracies."""
        for settings in GRID[method]:
            for seed in TUNING_SEEDS:
                self.measure(seed, method, settings, ("bn",), TUNING_SPEEDUPS)
        found, scores = self.lines(), []
        for settings in GRID[method]:
            keys = [(seed, method, settings, "bn", speedup, 0) for seed in TUNING_SEEDS for speedup in TUNING_SPEEDUPS]
            scores.append(float(np.mean([found[json.dumps(key)]["validation"] for key in keys])))
        return GRID[method][int(np.argmax(scores))], scores


def table(lines, seeds, speedups, chosen) -> list[str]:
    """Returns the tables in Markdown."""
    cells, seconds = collections.defaultdict(dict), collections.defaultdict(list)
    for line in lines:
        method = line["method"]
        if line["seed"] in seeds and json.dumps(line["settings"]) == json.dumps(chosen.get(method)):
            cells[method, line["repair"], line["speedup"], line["epochs"] > 0][line["seed"]] = line
            if line["seconds_before"]:  # 0 where a network that was trained for another speed-up served again
                seconds[method].append(line["seconds_before"])
    names = {None: "none", "prune_aware": "prune-aware", "group_norm": "group norm"}

    def score(*key):
        values = 100 * np.array([line["test"] for line in cells[key].values()])
        if not len(values):
            return "not measured"
        missing = "" if len(values) == len(seeds) else f" ({len(values)} nets)"
        return f"{values.mean():.1f} ± {values.std(ddof=1) if len(values) > 1 else 0:.1f}{missing}"

    def rows(columns, later):
        head = "trained before, repair" + (", epochs before + after" if later else "")
        yield f"| {head} | {' | '.join(f'{speedup:g}x' for speedup in columns)} |"
        yield f"|---|{'---|' * len(columns)}"
        for repair in REPAIRS:
            for method in METHODS:
                epochs = f", {BUDGET if method is None else f'{BEFORE} + {BUDGET - BEFORE}'}" if later else ""
                scores = " | ".join(score(method, repair, speedup, later) for speedup in columns)
                yield f"| {names[method]}, {repair or 'no repair'}{epochs} | {scores} |"

    def pairs():
        yield f"| | {' | '.join(f'{speedup:g}x' for speedup in speedups)} |"
        yield f"|---|{'---|' * len(speedups)}"
        for repair in REPAIRS:
            for other in (None, "group_norm"):
                columns = []
                for speedup in speedups:
                    ours, theirs = (cells[method, repair, speedup, False] for method in ("prune_aware", other))
                    leads = [100 * (ours[seed]["test"] - theirs[seed]["test"]) for seed in sorted(set(ours) & set(theirs))]
                    error = np.std(leads, ddof=1) / len(leads) ** 0.5 if len(leads) > 1 else 0.0
                    columns.append(f"{np.mean(leads):+.1f} ({error:.1f})" if leads else "not measured")
                yield f"| prune-aware minus {names[other]}, {repair or 'no repair'} | {' | '.join(columns)} |"

    took = ", ".join(f"{names[method]} {np.median(seconds[method]):.0f}" for method in GRID if seconds[method])
    return [
        f"Right after pruning and repair, accuracy in % on test, {len(seeds)} held-out nets:", "", *rows(speedups, False), "",
        "Paired, in points (standard errors in brackets):", "", *pairs(), "",
        f"After the whole budget of {BUDGET} epochs:", "",
        *rows([speedup for speedup in speedups if speedup in FINETUNED], True), "",
        f"Median seconds of the training before, on one core of a shared machine: {took}.",
    ]  # fmt: skip


def main():
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("docs/prune_aware.md"))
    parser.add_argument("--zoo", type=pathlib.Path, default=pathlib.Path("runs/digits/zoo"), help="where the networks are kept")
    parser.add_argument("--num-models", type=int, default=5)
    parser.add_argument("--speedups", type=float, nargs="+", default=SPEEDUPS)
    options = parser.parse_args()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    splits = load("digits", batch_size=BATCH_SIZE)
    bench = Bench(options.out.with_suffix(".jsonl"), splits, options.zoo)
    chosen, notes = {None: None}, []
    for method in GRID:
        chosen[method], scores = bench.choose(method)
        grid = "; ".join(f"{_text(settings)}: {100 * score:.1f}" for settings, score in zip(GRID[method], scores))
        notes.append(f"- {method}: **{_text(chosen[method])}** of {grid}.")
    seeds = range(HELD_OUT_SEED, HELD_OUT_SEED + options.num_models)
    for finetuned in ((), FINETUNED):
        for seed in seeds:
            for method in METHODS:
                bench.measure(seed, method, chosen[method], REPAIRS, options.speedups, finetuned)
    options.out.write_text("\n".join([
        "# Training before pruning", "",
        "Residual networks (77.7 thousand parameters) that know scikit-learn's digits, 599 training images, pruned by group L2. "
        f"*Prune-aware*: {BEFORE} epochs in which each step silences the channels that rank lowest for a drawn speed-up. *Group norm*: "
        f"{BEFORE} epochs with the published regulariser (DepGraph's sparsity learning). Both by SGD with momentum and a cosine schedule. "
        "Settings were chosen on two other networks by the mean validation accuracy (in %, behind each) at 3x and 8x after BN "
        "re-estimation:", "", *notes, "", *table(bench.lines().values(), seeds, options.speedups, chosen), "",
        "Made by `python benchmarks/prune_aware.py --out docs/prune_aware.md`.", "",
    ]), encoding="utf-8")  # fmt: skip
    print(f"Written to {options.out}")


def _text(settings) -> str:
    return ", ".join(f"{name} {value if isinstance(value, tuple) else f'{value:g}'}" for name, value in settings.items())


if __name__ == "__main__":
    main()
