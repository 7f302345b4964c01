"""Settings of the training before pruning, on several families of networks: learning rates, and weights of the group norm.

    python benchmarks/preparation.py --out docs/preparation.md

Networks of six families that know digits are trained before pruning, pruned by group L2, repaired by least squares and fine-tuned; what
counts is the validation split. What was measured is kept beside the page as JSON lines, so that an interrupted run goes on.
"""

import argparse
import json
import os
import pathlib
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from budget import BEFORE, EPOCHS, FAMILIES
from rivals import FIRST_SEED, VARIANTS

from tfmetaprune import prune
from tfmetaprune._keras import keras
from tfmetaprune.data import load
from tfmetaprune.errors import TFMetaPruneError
from tfmetaprune.metatrain.data_models import BATCH_SIZE, make_data_models
from tfmetaprune.metatrain.zoo import accuracy, append_line, dataset_arrays
from tfmetaprune.preparation import LEARNING_RATES, LEARNING_RATES_WITHOUT_BN, REGULARIZATION, prepare_model

DATA, SPEEDUP = "digits", 8.0
WITHOUT_NORM = "mlp", "vit"  # families without BatchNormalization
RATES = {"prune_aware": (0.1, 0.03, 0.01, 0.003), "group_norm": (0.05, 0.02, 0.005)}
WEIGHTS = (0.03, 0.01, 0.003)  # of the group norm
GRID = [
    (None, None, None), *(("prune_aware", rate, None) for rate in RATES["prune_aware"]),
    *(("group_norm", rate, weight) for rate in RATES["group_norm"] for weight in WEIGHTS),
]  # fmt: skip


def ended_with(model, train, setting, speedup, seed):
    """Returns the network that a setting (method, learning rate, weight of the group norm) ends with; `train` is batched."""
    method, rate, weight = setting
    if method is not None:
        keras.utils.set_random_seed(seed)
        options = {} if weight is None else {"regularization": weight}
        model, _ = prepare_model(model, train, method, speedup=speedup, epochs=BEFORE, learning_rate=rate, **options)
    rest = EPOCHS if method is None else EPOCHS - BEFORE
    return prune(model, train, speedup=speedup, criterion="group_l2", metanetwork=None, finetune=rest, seed=seed).model


def report(lines, names, steps, options) -> str:
    """Returns the page in Markdown; `steps` is the number of training steps before pruning."""
    found = {(line["net"], tuple(line["setting"])): 100 * line["validation"] for line in lines}
    nets = [net for net in names if all((net, setting) in found for setting in GRID)]
    kinds = {
        "with BatchNormalization": [net for net in nets if not net.startswith(WITHOUT_NORM)],
        "without": [net for net in nets if net.startswith(WITHOUT_NORM)],
        **{family: [net for net in nets if net.startswith(family + "-")] for family in FAMILIES},
    }
    kinds = {name: chosen for name, chosen in kinds.items() if chosen}
    table = [f"| training before | learning rate | weight | {' | '.join(kinds)} |", f"|---|---|---|{'---|' * len(kinds)}"]
    for setting in GRID:
        means = [np.mean([found[net, setting] for net in chosen]) for chosen in kinds.values()]
        cells = [*("" if each is None else f"{each:g}" for each in setting[1:]), *(f"{mean:.1f}" for mean in means)]
        table.append(f"| {setting[0] or 'none'} | {' | '.join(cells)} |")
    return "\n".join([
        "# Settings of the training before pruning", "",
        f"Accuracy in % on the validation split of {DATA} at {SPEEDUP:g}x, over {len(nets)} networks of {len(FAMILIES)} families. "
        f"*None*: pruned by group L2, repaired by least squares, {EPOCHS} epochs of fine-tuning. The others: {BEFORE} epochs ({steps} "
        f"steps) of a training before, then the same with {EPOCHS - BEFORE} epochs; 0 where that failed. *Weight*: of the group norm.",
        "", *table, "", f"`prune` takes a learning rate of {LEARNING_RATES['prune_aware']:g} (prune_aware; chosen on residual networks, "
        f"[the page](prune_aware.md), and level with the best here) and {LEARNING_RATES['group_norm']:g} (group_norm), of "
        f"{LEARNING_RATES_WITHOUT_BN['prune_aware']:g} and {LEARNING_RATES_WITHOUT_BN['group_norm']:g} without BatchNormalization, and as "
        f"weight {REGULARIZATION:g} over the number of steps, so that a longer training takes no more away.", "",
        f"Made by `python benchmarks/preparation.py --out {options.out} --num-models {options.num_models}`.", "",
    ])  # fmt: skip


def main():
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("docs/preparation.md"))
    parser.add_argument("--zoo", type=pathlib.Path, default=pathlib.Path("runs/judged"), help="where the networks are kept")
    parser.add_argument("--num-models", type=int, default=1, help="networks of each family")
    options = parser.parse_args()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    log, seeds = options.out.with_suffix(".jsonl"), range(FIRST_SEED, FIRST_SEED + options.num_models)
    files = make_data_models(options.zoo, families=FAMILIES, data=[DATA], seeds=seeds, variants=VARIANTS)
    digests = {file.file_name: file.digest(options.zoo) for file in files}

    def lines():
        known = map(json.loads, log.read_text(encoding="utf-8").splitlines()) if log.exists() else ()
        return [line for line in known if digests.get(line["net"]) == line["digest"] and line["speedup"] == SPEEDUP]

    steps = BEFORE * int(load(DATA, batch_size=BATCH_SIZE).train.cardinality())
    for file in files:
        model, name = file.load(options.zoo), file.file_name
        for setting in GRID:
            if (name, setting) in {(line["net"], tuple(line["setting"])) for line in lines()}:
                continue
            keras.utils.set_random_seed(file.seed)  # the order of the examples follows it
            splits, started = load(DATA, batch_size=BATCH_SIZE), time.perf_counter()
            line = {"net": name, "digest": digests[name], "speedup": SPEEDUP, "setting": setting, "validation": 0.0}
            try:
                small = ended_with(model, splits.train, setting, SPEEDUP, file.seed)
                line["validation"] = accuracy(small, *dataset_arrays(splits.validation))
            except TFMetaPruneError as error:
                line["failure"] = str(error)
            append_line(log, {**line, "seconds": round(time.perf_counter() - started, 1)})
            print(f"{name}: {setting} {line['validation']:.3f}", flush=True)
        options.out.write_text(report(lines(), list(digests), steps, options), encoding="utf-8")
    print(f"Written to {options.out}")


if __name__ == "__main__":
    main()
