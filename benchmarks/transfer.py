"""Leave one family out: what a metanetwork is worth on an architecture of a kind, and on data, that it was not trained on.

    python benchmarks/transfer.py --out docs/transfer.md

For each family a metanetwork is trained on networks of all others, of the kinds that `make universal` makes, and judged on networks
of that family that know data sets no metanetwork here was trained on; beside it one that was trained as long on all families.
Everything measured is kept beside the page as JSON lines, so that an interrupted run goes on.
"""

import argparse
import os
import pathlib
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from leads import WITH, lead_tables, plot
from rivals import FIRST_SEED, SETTINGS, VARIANTS, load_rivals
from universal import DEFAULTS, Bench, num_examples

from tfmetaprune.metanet import MetaNetConfig
from tfmetaprune.metatrain.data_models import make_data_models
from tfmetaprune.metatrain.families import DEFAULT_FAMILIES
from tfmetaprune.metatrain.mixed import meta_train_on_zoo
from tfmetaprune.metatrain.select import REPAIRS, SPEEDUPS
from tfmetaprune.metatrain.trainer import MetaTraining

UNSEEN_SETTINGS = "five families, unseen data", "two more families, unseen data"
ZOO_DATA, ZOO_SEEDS = ("digits", "ucr/JapaneseVowels_eq", "ucr/OSULeaf"), range(8)  # the kinds of `make universal`, half as many of each
LEFT_OUT, SEEN = "left_out", "seen"  # trained without the family that is measured, and with it
COMPARED = (LEFT_OUT, SEEN), (WITH + LEFT_OUT, WITH + SEEN)
WAYS = "group_l2", "group_l2_fisher", LEFT_OUT, SEEN


def trained(zoo, folder, name, families, steps, seed) -> pathlib.Path:
    """Returns the path of a metanetwork for these families, `folder/name.keras`, and trains it if it is not there."""
    path = folder / f"{name}.keras"
    if not path.exists():
        settings = MetaTraining(steps, perturbation=0.05, patience=0, seed=seed)
        meta_train_on_zoo(
            folder, zoo, name=name, families=families, data=ZOO_DATA, num_validation=0, settings=settings,
            config=MetaNetConfig(fisher_weight=1.0), resume=True, progress=lambda _, done, total: _tell(folder, done, total),
        )  # fmt: skip
    return path


def _tell(folder, done, total):
    if done % 100 == 0:
        print(f"{folder}: {done}/{total}", flush=True)


def unseen(folder, num_models) -> dict[str, list]:
    """Trains what is lacking; returns family -> the files of its networks, all of data that no metanetwork was trained on."""
    files = {}
    for family, data in (pair for name in UNSEEN_SETTINGS for pair in SETTINGS[name]):
        files.setdefault(family, []).extend(
            make_data_models(
                folder, families=[family], data=[data], seeds=range(FIRST_SEED, FIRST_SEED + num_models), variants=VARIANTS,
                progress=lambda file, done, total: print(f"network {file.file_name} ({done}/{total})", flush=True),
            )  # fmt: skip
        )
    return files


def report(benches, files, options, command) -> str:
    """Returns the page in Markdown, of the families that have been measured."""
    first = next(iter(benches.values()))
    done, card = first.lines(), first.rivals[SEEN].card
    ready = {
        family: complete for family, bench in benches.items()
        if (complete := [file for file in files[family] if all(key in done for key in bench.keys(file))])
    }  # fmt: skip
    every = sum(ready.values(), [])
    lines = [
        "# Leave one family out", "",
        f"Accuracy in % on the test split, as in [the table of `universal`](universal.md), which has the words used here. `{LEFT_OUT}` "
        "is one metanetwork for each family, trained on the networks of the other six, and measured on networks of the one, which know "
        f"data sets that it was not trained on either. `{SEEN}` was trained as long, in the same way, on all seven families. Each is "
        f"one training of {options.steps} steps with seed {options.seed}, on networks of {', '.join(ZOO_DATA)}, with the settings of "
        f"`universal`; it ends with the last step, nothing was chosen. Made by `{card['command']}`, and with `--families`.", "",
        *(
            f"- {name}: {sizes['validation']} examples for validation, {sizes['train']} to train on, {sizes['test']} to test on."
            for name in sorted({file.data for file in every}) for sizes in [num_examples(name)]
        ),
    ]  # fmt: skip
    for repair in options.repairs if every else ():
        found = [benches[family].curves(done, ready[family], repair, 0) for family in ready]
        curves = {way: np.concatenate([each[way] for each in found]) for way in found[0]}
        whole = first.unpruned(done, every)
        lines += ["", f"## Repair {repair}, no fine-tuning", ""]
        lines += lead_tables(curves, every, whole, first.speedups, first.rivals, COMPARED)
        lines += ["", plot(options.out, curves, whole, first.speedups, repair, 0)]
    return "\n".join([*lines, "", f"Made by `{command}`.", ""])


def main():
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("docs/transfer.md"))
    parser.add_argument("--folder", type=pathlib.Path, default=pathlib.Path("runs/transfer"), help="where the metanetworks are kept")
    parser.add_argument("--zoo", type=pathlib.Path, default=pathlib.Path("runs/transfer/zoo"), help="of the networks to train on")
    parser.add_argument("--judged", type=pathlib.Path, default=pathlib.Path("runs/judged"), help="of the networks to judge on")
    families = sorted(DEFAULT_FAMILIES)
    parser.add_argument("--families", nargs="+", default=families, choices=families, help="to leave out, each")
    parser.add_argument("--steps", type=int, default=1000, help="of a training")
    parser.add_argument("--seed", type=int, default=0, help="of a training")
    parser.add_argument("--num-models", type=int, default=DEFAULTS["num_models"], help="networks of each family and data set")
    parser.add_argument("--speedups", type=float, nargs="+", default=SPEEDUPS)
    parser.add_argument("--repairs", nargs="+", default=REPAIRS, choices=["none", "data_free", "bn", "least_squares"])
    options = parser.parse_args()
    options.budgets, options.ways, options.settings = [0], WAYS, UNSEEN_SETTINGS
    command = " ".join(
        [f"python benchmarks/transfer.py --out {options.out}"]
        + [
            f"--{name.replace('_', '-')} {' '.join(map(str, np.atleast_1d(value)))}"
            for name in ("families", "steps", "seed", "num_models", "speedups", "repairs")
            if not np.array_equal(value := getattr(options, name), parser.get_default(name))
        ]
    )
    options.out.parent.mkdir(parents=True, exist_ok=True)
    make_data_models(options.zoo, data=ZOO_DATA, seeds=ZOO_SEEDS)
    folder = options.folder / f"{options.steps}-{options.seed}"
    seen = trained(options.zoo, folder / SEEN, SEEN, None, options.steps, options.seed)
    benches = {}
    for family in options.families:
        others = [name for name in DEFAULT_FAMILIES if name != family]
        path = trained(options.zoo, folder / family, LEFT_OUT, others, options.steps, options.seed)
        benches[family] = Bench(options, load_rivals([path, seen]), options.judged)
    files = unseen(options.judged, options.num_models)
    turns = sorted((file.seed, family, file) for family in benches for file in files[family])
    for _, family, file in turns:
        started = time.perf_counter()
        benches[family].measure(file)
        options.out.write_text(report(benches, files, options, command), encoding="utf-8")
        print(f"{file.file_name} measured in {time.perf_counter() - started:.0f} s", flush=True)
    print(f"Written to {options.out}")


if __name__ == "__main__":
    main()
