"""Every way to a small network at the same budget: ways to prune, trainings before pruning, and training from scratch.

    python benchmarks/budget.py --out docs/budget.md

Networks of several families that know MNIST-5k, which nothing was trained or chosen on, are pruned by `prune` and fine-tuned; a training
before pruning takes its epochs from the same budget. What was measured is kept beside the page as JSON lines, so that an interrupted
run goes on.
"""

import argparse
import json
import os
import pathlib
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from rankings import bn_scale, taylor
from rivals import FIRST_SEED, VARIANTS
from tables import interval

from tfmetaprune import prune
from tfmetaprune._keras import keras
from tfmetaprune.data import load
from tfmetaprune.metatrain.data_models import BATCH_SIZE, STEPS, Training, make_data_models
from tfmetaprune.metatrain.zoo import accuracy, append_line, dataset_arrays
from tfmetaprune.pruning import make_plan, rebuild_model
from tfmetaprune.trace import trace_model

DATA = "mnist_5k/14"
FAMILIES = "plain_cnn", "residual_cnn", "separable_cnn", "concat_cnn", "mlp", "vit"
EPOCHS, BEFORE = 15, 10  # in all, and those of a training before pruning
SCRATCH = "from scratch"
BASE = "group_l2"
WAYS = {  # arguments of `prune`; the criteria that it lacks are made for each network
    BASE: {"criterion": "group_l2", "metanetwork": None},
    "fisher": {"criterion": "fisher", "metanetwork": None},
    "group_l2_fisher": {"criterion": "group_l2_fisher", "metanetwork": None},
    "taylor": {"criterion": taylor, "metanetwork": None},
    "bn_scale": {"criterion": bn_scale, "metanetwork": None},
    "random": {"criterion": "random", "metanetwork": None},
    "universal, bn": {"criterion": "group_l2", "metanetwork": "universal", "repair": "bn"},
    "the default of prune": {},
    "prune-aware before": {"prepare": "prune_aware", "prepare_epochs": BEFORE},
    "group norm before": {"prepare": "group_norm", "prepare_epochs": BEFORE},
    SCRATCH: None,
}
NOTES = {
    BASE: "and so on, these criteria: without a metanetwork, repaired by least squares, 15 epochs of fine-tuning",
    "universal, bn": "the metanetwork's weights and scores on top of group L2, BatchNormalization estimated again",
    "prune-aware before": f"10 epochs of prune-aware training, group L2, least squares, {EPOCHS - BEFORE} epochs",
    "group norm before": f"10 epochs with the published regulariser, group L2, least squares, {EPOCHS - BEFORE} epochs; both trainings "
    "with the settings that were tuned on digits ([the page](prune_aware.md))",
    SCRATCH: "the widths that group L2 leaves, new weights, trained as the original was, for as many steps as that and 15 epochs together",
}


def made(model, splits, way, speedup, epochs, seed):
    """Returns the small network that a way ends with."""
    options = WAYS[way]
    if options is None:
        trace = trace_model(model)
        small = keras.models.clone_model(rebuild_model(trace, make_plan(trace, speedup=speedup, step=1.0)))
        x, y = dataset_arrays(splits.train)
        steps = STEPS + epochs * int(splits.train.cardinality())
        Training(small, steps).run(small, x, y, seed)
        return small
    if options.get("criterion") is taylor:
        options = {**options, "criterion": lambda trace: taylor(trace, splits.train)}
    rest = epochs - options.get("prepare_epochs", 0)
    return prune(model, splits.train, speedup=speedup, finetune=rest, seed=seed, **options).model


def report(lines, options, command) -> str:
    """Returns the page in Markdown, of the networks that all ways have been measured on."""
    found = {(line["net"], line["way"]): line for line in lines}
    nets = sorted({net for net, _ in found if all((net, way) in found for way in options.ways)})
    families = sorted({net.partition("-")[0] for net in nets})
    test = {way: 100 * np.array([found[net, way]["test"] for net in nets]) for way in options.ways}
    unpruned = np.mean([100 * found[net, BASE]["unpruned"] for net in nets]) if nets else np.nan
    heads = " | ".join([f"{len(nets)} nets, unpruned {unpruned:.1f}", "accuracy", f"minus {BASE}", *families, "seconds"])
    rows = [f"| {heads} |", f"|---|{'---|' * (len(families) + 3)}"]
    for way in options.ways if nets else ():
        cells = [f"{test[way].mean():.1f}", "" if way == BASE else interval(test[way] - test[BASE])]
        cells += [f"{test[way][[net.startswith(family + '-') for net in nets]].mean():.1f}" for family in families]
        rows.append(f"| {way} | {' | '.join(cells)} | {np.median([found[net, way]['seconds'] for net in nets]):.0f} |")
    sizes = load(DATA).num_examples
    return "\n".join([
        "# At the same budget", "",
        f"Accuracy in % on the test split of {DATA} ({sizes['train']} examples to train on, {sizes['test']} to test on) at "
        f"{options.speedup:g}x, after {EPOCHS} epochs in all, of networks that nothing was trained or chosen on: "
        f"{options.num_models} of each family. Differences are paired, in points, with 95 % intervals (Student's t over networks). Median "
        "seconds of everything but the original's training.", "",
        *(f"- **{way}**: {NOTES[way]}." for way in options.ways if way in NOTES), "", *rows, "",
        f"Made by `{command}`.", "",
    ])  # fmt: skip


def main():
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("docs/budget.md"))
    parser.add_argument("--zoo", type=pathlib.Path, default=pathlib.Path("runs/judged"), help="where the networks are kept")
    parser.add_argument("--num-models", type=int, default=2, help="networks of each family")
    parser.add_argument("--speedup", type=float, default=8.0)
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=list(WAYS))
    options = parser.parse_args()
    options.ways = [way for way in WAYS if way in {BASE, *options.ways}]
    command = f"python benchmarks/budget.py --out {options.out} --num-models {options.num_models} --speedup {options.speedup:g}"
    if options.ways != list(WAYS):
        command += " --ways " + " ".join(f'"{way}"' for way in options.ways)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    splits, log = load(DATA, batch_size=BATCH_SIZE), options.out.with_suffix(".jsonl")
    files = make_data_models(
        options.zoo, families=FAMILIES, data=[DATA], seeds=range(FIRST_SEED, FIRST_SEED + options.num_models), variants=VARIANTS
    )

    def lines():
        found = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()] if log.exists() else []
        return [line for line in found if line["speedup"] == options.speedup]

    for file in sorted(files, key=lambda file: file.seed):
        model, done = file.load(options.zoo), {(line["net"], line["way"]) for line in lines()}
        for way in options.ways:
            if (file.file_name, way) in done:
                continue
            started = time.perf_counter()
            small = made(model, splits, way, options.speedup, EPOCHS, file.seed)
            seconds = time.perf_counter() - started
            scores = {name: accuracy(small, *dataset_arrays(getattr(splits, name))) for name in ("validation", "test")}
            line = {"net": file.file_name, "way": way, "speedup": options.speedup, **scores, "seconds": round(seconds, 1)}
            append_line(log, {**line, "unpruned": accuracy(model, *dataset_arrays(splits.test))})
            print(f"{file.file_name}: {way} {scores['test']:.3f} in {seconds:.0f} s", flush=True)
        options.out.write_text(report(lines(), options, command), encoding="utf-8")
    print(f"Written to {options.out}")


if __name__ == "__main__":
    main()
