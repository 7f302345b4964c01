"""Accuracy of pruned networks that were not fine-tuned: criteria x repairs x speed-ups, with and without the metanetwork.

    python benchmarks/quality.py --out docs/quality.md

Trains (or loads) held-out residual networks on digits, prunes each in every way and repairs it on the unlabelled training
split. Channels go in small steps or all at once, whichever is better in the mean over all speed-ups on the validation split;
reported is the test split. What has been measured is kept beside the table as JSON lines, so that an interrupted run goes on.
"""

import argparse
import collections
import json
import os
import pathlib
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

from tfmetaprune import prune
from tfmetaprune.choosing import Rewritten, search, shrink
from tfmetaprune.data import load
from tfmetaprune.graph import channel_statistics
from tfmetaprune.metanet import load_metanetwork
from tfmetaprune.metanet.generate import generate
from tfmetaprune.metatrain.command import BATCH_SIZE, HELD_OUT_SEED
from tfmetaprune.metatrain.evaluate import SPEEDUPS
from tfmetaprune.metatrain.zoo import accuracy, append_line, dataset_arrays, make_zoo
from tfmetaprune.pruning import make_plan, rebuild_model, repair_model
from tfmetaprune.report.plots import plot_accuracy_curves
from tfmetaprune.trace import trace_model

CRITERIA = ("group_l2", "fisher", "random")
METANETWORK = "metanetwork 'digits'"
SEARCHED, DEFAULT = "group_l2 and a search", "the default of prune"  # behind least squares alone
SEARCH_STEPS = 100
REPAIRS = (None, "data_free", "bn", "least_squares")
STEPS = {"small steps": None, "one shot": 1.0}
PLOTTED = (  # criterion, repair
    (DEFAULT, "least_squares"), ("group_l2", "least_squares"), (METANETWORK, "bn"), ("group_l2", "bn"), ("group_l2", "data_free"),
    ("group_l2", None),
)  # fmt: skip
COLUMNS = ("seed", "criterion", "repair", "steps", "speedup")


def measure(seed, model, splits, speedups, done, log):
    """Appends a line for each way of pruning one network that is not in `done`."""
    trace = trace_model(model)
    validation, test = dataset_arrays(splits.validation), dataset_arrays(splits.test)
    statistics = channel_statistics(trace, splits.train)
    generated = generate(load_metanetwork("digits"), trace, statistics)

    def record(criterion, repair, steps, speedup, small, seconds):
        scores = {"validation": accuracy(small, *validation), "test": accuracy(small, *test)}
        append_line(log, {**dict(zip(COLUMNS, (seed, criterion, repair, steps, speedup))), **scores, "seconds": round(seconds, 2)})

    if (seed, "unpruned", None, "one shot", 1.0) not in done:
        record("unpruned", None, "one shot", 1.0, model, 0.0)
    for speedup in speedups:
        for criterion in (*CRITERIA, METANETWORK):
            for steps, step in STEPS.items():
                if criterion == METANETWORK and steps != "one shot":  # what its scores are trained for
                    continue
                left = [repair for repair in REPAIRS if (seed, criterion, repair, steps, speedup) not in done]
                if not left:
                    continue
                weights, score = generated if criterion == METANETWORK else (None, None)
                plan = make_plan(
                    trace, "group_l2" if criterion == METANETWORK else criterion, speedup=speedup, score=score,
                    weights=weights, statistics=statistics, step=step, seed=seed,
                )  # fmt: skip
                small = rebuild_model(trace, plan, weights)
                for repair in left:
                    started = time.perf_counter()
                    repaired = small
                    if repair is not None:
                        repaired, _ = repair_model(trace, plan, small, splits.train, repair, weights=weights)
                    record(criterion, repair, steps, speedup, repaired, time.perf_counter() - started)
        if (seed, SEARCHED, "least_squares", "one shot", speedup) not in done:
            started = time.perf_counter()
            found = search(trace, Rewritten(), splits.train, speedup=speedup, steps=SEARCH_STEPS)
            seconds = time.perf_counter() - started
            small, plan = shrink(trace, found, speedup=speedup, step=1.0)
            repaired, _ = repair_model(trace, plan, small, splits.train, "least_squares")
            record(SEARCHED, "least_squares", "one shot", speedup, repaired, seconds)
        if (seed, DEFAULT, "least_squares", "one shot", speedup) not in done:
            started = time.perf_counter()
            small = prune(model, splits.train, speedup=speedup, finetune=None, seed=seed).model
            record(DEFAULT, "least_squares", "one shot", speedup, small, time.perf_counter() - started)
        print(f"seed {seed}: {speedup:g}x done", flush=True)


def table(lines, speedups, page) -> str:
    """Returns what stands in `page`, in Markdown, and draws the plot that it shows."""
    cells, seconds = collections.defaultdict(dict), collections.defaultdict(list)
    for line in lines:
        key = line["criterion"], line["repair"], line["speedup"]
        cells[key].setdefault(line["steps"], []).append((line["validation"], line["test"]))
        seconds[line["criterion"] if line["criterion"] in (SEARCHED, DEFAULT) else line["repair"]].append(line["seconds"])
    whole = 100 * np.array(cells["unpruned", None, 1.0]["one shot"])
    plot, plotted = page.parent / "plots" / f"{page.stem}.svg", {}
    rows = [
        f"| accuracy in % on test, {len(whole)} held-out nets | {' | '.join(f'{speedup:g}x' for speedup in speedups)} |",
        f"|---|{'---|' * len(speedups)}",
    ]
    for repair in REPAIRS:
        for criterion in (*CRITERIA, METANETWORK, *([SEARCHED, DEFAULT] if repair == "least_squares" else [])):
            columns = [cells[criterion, repair, speedup] for speedup in speedups]
            best = max(columns[0], key=lambda steps, columns=columns: np.mean([np.mean(cell[steps], 0)[0] for cell in columns]))
            scores = [100 * np.array(cell[best])[:, 1] for cell in columns]
            if (criterion, repair) in PLOTTED:
                means = [(speedup, score.mean() / 100) for speedup, score in zip(speedups, scores)]
                plotted[criterion, repair] = [(1.0, whole[:, 1].mean() / 100), *means]
            row = [f"{score.mean():.1f} ± {score.std(ddof=1) if len(score) > 1 else 0:.1f}" for score in scores]
            rows.append(f"| {criterion}, {repair or 'no repair'}{'' if best == 'one shot' else ' *'} | {' | '.join(row)} |")
    plot.parent.mkdir(exist_ok=True)
    title = f"Right after pruning and repair, mean over {len(whole)} networks"
    plot_accuracy_curves(plot, {f"{key[0]}, {key[1] or 'no repair'}": plotted[key] for key in PLOTTED}, title=title)
    costs = ", ".join(f"{repair} {np.median(seconds[repair]):.1f}" for repair in REPAIRS if repair is not None)
    return "\n".join([
        "# Accuracy without fine-tuning", "",
        f"Residual networks (77.7 thousand parameters) that know scikit-learn's digits, unpruned {whole[:, 1].mean():.1f} ± "
        f"{whole[:, 1].std(ddof=1) if len(whole) > 1 else 0:.1f} %. Means and standard deviations over the networks, right after "
        "pruning and repair on the 599 training images without their labels (Fisher and the metanetwork measure statistics on "
        "256 of them). Of a ranking in small steps (marked *) and in one shot, the one that is better in the mean over all "
        "speed-ups on the validation split; the figures are of the test split. The metanetwork's own weights count where there is no "
        "repair by least squares, which fits the original's.", "", *rows, "",
        f"![{title}: accuracy in % against speed-up](plots/{plot.name})", "",
        "*The default of prune* is the one of group L2, group L2 with Fisher, and the metanetwork `universal` ([tables of its "
        "own](universal.md)) whose outputs stay nearest to the original's. The leads over group L2, net by net, standard errors in "
        "brackets:", "",
        *paired(lines, speedups), "",
        f"Median seconds of a repair: {costs}. The search (`search_steps={SEARCH_STEPS}`, anew for each speed-up, on the same inputs, no "
        f"labels) took {np.median(seconds[SEARCHED]):.0f} s; the default of prune {np.median(seconds[DEFAULT]):.0f} s, all told.", "",
        "Made by `python benchmarks/quality.py --out docs/quality.md`.", "",
    ])  # fmt: skip


def paired(lines, speedups) -> list[str]:
    """Returns the lines of the table of the leads on test, net by net, over small steps or one shot, as validation has chosen."""
    scores = {tuple(line[column] for column in COLUMNS): (100 * line["validation"], 100 * line["test"]) for line in lines}
    seeds = sorted({line["seed"] for line in lines})
    rows = [
        f"| paired lead over group_l2, points on test | {' | '.join(f'{speedup:g}x' for speedup in speedups)} | mean |",
        f"|---|{'---|' * len(speedups)}---|",
    ]
    for repair in REPAIRS:
        theirs = {
            steps: np.array([[scores[seed, "group_l2", repair, steps, speedup] for speedup in speedups] for seed in seeds])
            for steps in STEPS
        }  # fmt: skip
        for name in (METANETWORK, *([SEARCHED, DEFAULT] if repair == "least_squares" else [])):
            ours = np.array([[scores[seed, name, repair, "one shot", speedup] for speedup in speedups] for seed in seeds])
            best = max(theirs.values(), key=lambda each: each[..., 0].mean())
            leads = (ours - best)[..., 1]
            leads = np.concatenate([leads, leads.mean(1, keepdims=True)], 1)
            errors = leads.std(0, ddof=1) / len(seeds) ** 0.5 if len(seeds) > 1 else 0 * leads[0]
            cells = [f"{lead:+.1f} ({error:.1f})" for lead, error in zip(leads.mean(0), errors)]
            rows.append(f"| {name}, {repair or 'no repair'} | {' | '.join(cells)} |")
    return rows


def main():
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("docs/quality.md"))
    parser.add_argument("--zoo", type=pathlib.Path, default=pathlib.Path("runs/digits/zoo"), help="where the networks are kept")
    parser.add_argument("--num-models", type=int, default=5)
    parser.add_argument("--speedups", type=float, nargs="+", default=SPEEDUPS)
    options = parser.parse_args()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    splits, log = load("digits", batch_size=BATCH_SIZE), options.out.with_suffix(".jsonl")
    seeds = range(HELD_OUT_SEED, HELD_OUT_SEED + options.num_models)

    def lines():
        return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []

    done = {tuple(line[column] for column in COLUMNS) for line in lines()}
    for seed, model in zip(seeds, make_zoo(options.zoo, splits, seeds)):
        measure(seed, model, splits, options.speedups, done, log)
    options.out.write_text(table([line for line in lines() if line["seed"] in seeds], options.speedups, options.out), encoding="utf-8")
    print(f"Written to {options.out}")


if __name__ == "__main__":
    main()
