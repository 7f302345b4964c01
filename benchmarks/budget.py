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
from leads import family_means, interval
from rankings import bn_scale, taylor
from rivals import FIRST_SEED, VARIANTS

from tfmetaprune import prune
from tfmetaprune._keras import keras
from tfmetaprune.data import load
from tfmetaprune.errors import TFMetaPruneError
from tfmetaprune.finetuning import finetune_model
from tfmetaprune.metanet import load_metanetwork
from tfmetaprune.metatrain.data_models import BATCH_SIZE, STEPS, Training, make_data_models
from tfmetaprune.metatrain.select import digest
from tfmetaprune.metatrain.zoo import accuracy, append_line, dataset_arrays
from tfmetaprune.pruning import make_plan, rebuild_model, replace_weights
from tfmetaprune.trace import trace_model

DATA = "mnist_5k/14"
FAMILIES = "plain_cnn", "residual_cnn", "separable_cnn", "concat_cnn", "mlp", "vit"
EPOCHS, BEFORE = 15, 10  # in all, and those of a training before pruning
SCRATCH, UNPRUNED = "from scratch", "unpruned, trained on"
BASE, BASE_BN, OURS_BN = "group_l2", "group_l2, bn", "universal, bn"
DEFAULT = "the default of prune"
PAIRS = (
    (OURS_BN, BASE_BN), (DEFAULT, "group_l2_fisher"), (DEFAULT, "random"), (DEFAULT, SCRATCH), (DEFAULT, UNPRUNED), (SCRATCH, "random")
)  # fmt: skip
WAYS = {  # arguments of `prune`; the criteria that it lacks are made for each network
    BASE: {"criterion": "group_l2", "metanetwork": None},
    DEFAULT: {},
    "fisher": {"criterion": "fisher", "metanetwork": None},
    "group_l2_fisher": {"criterion": "group_l2_fisher", "metanetwork": None},
    "taylor": {"criterion": taylor, "metanetwork": None},
    "bn_scale": {"criterion": bn_scale, "metanetwork": None},
    "random": {"criterion": "random", "metanetwork": None},
    BASE_BN: {"criterion": "group_l2", "metanetwork": None, "repair": "bn"},
    OURS_BN: {"criterion": "group_l2", "metanetwork": "universal", "repair": "bn"},
    "prune-aware before": {"prepare": "prune_aware", "prepare_epochs": BEFORE},
    "group norm before": {"prepare": "group_norm", "prepare_epochs": BEFORE},
    SCRATCH: None,
    UNPRUNED: None,
}
NOTES = {
    BASE: f"and so on, these criteria: without a metanetwork, repaired by least squares, {EPOCHS} epochs of fine-tuning",
    BASE_BN: "the same with BatchNormalization estimated again in place of least squares, ranked in small steps as that has it; MLPs and "
    "transformers have none, so that nothing is repaired there",
    OURS_BN: "the metanetwork on top of group L2, at the nearest of four strengths, ranked in one shot; repaired as the one before",
    "prune-aware before": f"{BEFORE} epochs of prune-aware training, which distils from the original as no other way does, group L2, least "
    f"squares, {EPOCHS - BEFORE} epochs",
    "group norm before": f"{BEFORE} epochs with the published regulariser, group L2, least squares, {EPOCHS - BEFORE} epochs; both "
    "trainings by their defaults, which were chosen on digits ([the page](preparation.md))",
    SCRATCH: f"the widths that group L2 leaves, new weights, trained as the original was ({STEPS} steps, augmented), then as the others",
    UNPRUNED: "the whole network after the same epochs of fine-tuning",
}


def made(model, train, way, speedup, epochs, seed):
    """Returns the network that a way ends with; `train` is the batched training split."""
    options = WAYS[way]
    if way in (SCRATCH, UNPRUNED):
        small = replace_weights(model, {})
        if way == SCRATCH:
            trace = trace_model(model)
            keras.utils.set_random_seed(seed)
            small = keras.models.clone_model(rebuild_model(trace, make_plan(trace, speedup=speedup, step=1.0)))
            Training(small, STEPS).run(small, *dataset_arrays(train), seed)
        keras.utils.set_random_seed(seed)
        finetune_model(small, train, epochs=epochs)
        return small
    if options.get("criterion") is taylor:
        options = {**options, "criterion": lambda trace: taylor(trace, train)}
    rest = epochs - options.get("prepare_epochs", 0)
    return prune(model, train, speedup=speedup, finetune=rest, seed=seed, **options).model


def report(lines, names, sizes, options, command) -> str:
    """Returns the page in Markdown, of those of the networks in `names` that all ways have been measured on.

    `sizes` holds the number of examples of each split of the data.
    """
    found = {(line["net"], line["way"]): line for line in lines}
    nets = [net for net in names if all((net, way) in found for way in options.ways)]
    families = sorted({net.partition("-")[0] for net in nets})
    test = {way: 100 * np.array([found[net, way]["test"] for net in nets]) for way in options.ways}
    unpruned = np.mean([100 * found[net, BASE]["unpruned"] for net in nets]) if nets else np.nan
    heads = " | ".join([f"{len(nets)} nets, unpruned {unpruned:.1f}", "accuracy", f"minus {BASE}", *families, "seconds"])
    rows = [f"| {heads} |", f"|---|{'---|' * (len(families) + 3)}"]
    for way in options.ways if nets else ():
        failed = sum("failure" in found[net, way] for net in nets)
        cells = [f"{test[way].mean():.1f}" + (f" ({failed} failed, counted as 0)" if failed else "")]
        cells.append("" if way == BASE else interval(test[way] - test[BASE]))
        cells += [f"{test[way][[net.startswith(family + '-') for net in nets]].mean():.1f}" for family in families]
        rows.append(f"| {way} | {' | '.join(cells)} | {np.median([found[net, way]['seconds'] for net in nets]):.0f} |")
    pairs = [
        f"{ours} minus {theirs}: {interval(test[ours] - test[theirs])}, each family counted once "
        f"{interval(family_means([net.partition('-')[0] for net in nets], test[ours] - test[theirs])[1])}."
        for ours, theirs in PAIRS if nets and ours in test and theirs in test
    ]  # fmt: skip
    return "\n".join([
        "# At the same budget", "",
        f"Accuracy in % on the test split of {DATA} ({sizes['train']} examples to train on, {sizes['test']} to test on) at "
        f"{options.speedup:g}x, after {EPOCHS} epochs in all, of networks that nothing was trained or chosen on. Differences are paired, "
        "in points, with 95 % intervals (Student's t over networks). Median seconds of all that a way does with the trained original.", "",
        *(f"- **{way}**: {NOTES[way]}." for way in options.ways if way in NOTES), "", *rows, "", " ".join(pairs), "",
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
    log, universal = options.out.with_suffix(".jsonl"), digest(load_metanetwork("universal"))
    files = make_data_models(
        options.zoo, families=FAMILIES, data=[DATA], seeds=range(FIRST_SEED, FIRST_SEED + options.num_models), variants=VARIANTS
    )
    files.sort(key=lambda file: file.seed)
    names, digests = [file.file_name for file in files], {file.file_name: file.digest(options.zoo) for file in files}

    def setting(name):
        """What a line is of, beside the way."""
        return {
            "net": name, "digest": digests.get(name), "speedup": options.speedup, "epochs": EPOCHS, "before": BEFORE, "universal": universal
        }  # fmt: skip

    def lines():
        found = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()] if log.exists() else []
        return [line for line in found if setting(line["net"]).items() <= line.items()]

    sizes = load(DATA).num_examples
    for file in files:
        model, done = file.load(options.zoo), {(line["net"], line["way"]) for line in lines()}
        for way in options.ways:
            if (file.file_name, way) in done:
                continue
            keras.utils.set_random_seed(file.seed)  # the order of the examples follows it
            splits, line, started = load(DATA, batch_size=BATCH_SIZE), {**setting(file.file_name), "way": way}, time.perf_counter()
            try:
                small = made(model, splits.train, way, options.speedup, EPOCHS, file.seed)
            except TFMetaPruneError as error:
                line |= {"failure": str(error), "validation": 0.0, "test": 0.0}
            line["seconds"] = round(time.perf_counter() - started, 1)
            if "failure" not in line:
                line |= {name: accuracy(small, *dataset_arrays(getattr(splits, name))) for name in ("validation", "test")}
            append_line(log, {**line, "unpruned": accuracy(model, *dataset_arrays(splits.test))})
            print(f"{file.file_name}: {way} {line['test']:.3f} in {line['seconds']:.0f} s {line.get('failure', '')}", flush=True)
        options.out.write_text(report(lines(), names, sizes, options, command), encoding="utf-8")
    print(f"Written to {options.out}")


if __name__ == "__main__":
    main()
