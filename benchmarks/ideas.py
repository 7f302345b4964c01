"""Ways to train a metanetwork, compared: each is trained on one zoo and judged by the objective on held-out networks.

    python benchmarks/ideas.py --out docs/ideas.md

Makes (or takes) the zoo, searches for the channels of its networks, trains every metanetwork, and judges all of them by the area
under accuracy / log speed-up on the validation split of networks that none was trained on. What is there already is kept, so that an
interrupted run goes on.
"""

import argparse
import json
import os
import pathlib
from typing import NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from tfmetaprune.metanet import MetaNetConfig
from tfmetaprune.metatrain.command import HELD_OUT_SEED
from tfmetaprune.metatrain.data_models import make_data_models
from tfmetaprune.metatrain.mixed import meta_train_on_zoo, select_on_zoo
from tfmetaprune.metatrain.searching import search_data_models
from tfmetaprune.metatrain.select import NONE, REPAIRS
from tfmetaprune.metatrain.trainer import MetaTraining

IMAGES = "plain_cnn", "residual_cnn", "separable_cnn", "mlp"
SERIES = "series_cnn", "mlp"
ZOO = {"digits": IMAGES, "ucr/JapaneseVowels_eq": SERIES, "ucr/OSULeaf": SERIES}  # data -> families
NUM_TRAINED, NUM_JUDGED = 8, 2  # networks of each family and data set
VALIDATE_EVERY, NUM_VALIDATION = 500, 7


class Idea(NamedTuple):
    """A way to train a metanetwork.

    Attributes:
      text: what it is, a sentence.
      settings: of `MetaTraining`.
      config: of `MetaNetConfig`.
      repair: by which repair training is stopped.
    """

    text: str
    settings: dict
    config: dict
    repair: str = "least_squares"


FISHER = {"fisher_weight": 1.0}
IDEAS = {
    "fisher": Idea("Nothing is learnt: group L2 plus the Fisher information, the criterion `group_l2_fisher`.", {"steps": 1, "warmup": 1,
                   "learning_rate": 1e-9}, FISHER),
    "published": Idea("The published objective: cross-entropy of the unpruned network plus the group norm.",
                      {"objective": "published", "steps": 1000}, {}, "bn"),
    "structured": Idea("Weights and scores, by the loss of the pruned network with BatchNormalization in batch-statistics mode.",
                       {"steps": 4000}, {}, "bn"),
    "structured_fisher": Idea("Weights and scores, by the loss of the pruned network; scores start from the Fisher information.",
                              {"steps": 4000}, FISHER, "bn"),
    "repaired": Idea("Scores, by the error of the outputs after the repair; gradients go through the repair.",
                     {"objective": "repaired", "steps": 500}, {}),
    "searched": Idea("Scores, by their distance from those that a search through the repair has found for each network.",
                     {"objective": "searched", "steps": 2000}, {}),
    "searched_fisher": Idea("As `searched`; scores start from the Fisher information.",
                            {"objective": "searched", "steps": 1000, "validate_every": 250}, FISHER),
    "searched_perturbed": Idea("As `searched`; every weight is multiplied by a factor of 1 ± 0.1, anew in each step.",
                               {"objective": "searched", "steps": 1000, "validate_every": 250, "perturbation": 0.1}, {}),
}  # fmt: skip


def train(idea, folder, zoo):
    """Trains the metanetwork of an idea, if it is not there, and returns its path."""
    path = folder / f"{idea}.keras"
    if not path.exists():
        _, settings, config, repair = IDEAS[idea]
        meta_train_on_zoo(
            folder / idea, zoo, name=idea, num_validation=NUM_VALIDATION, validation_repair=repair, resume=True,
            settings=MetaTraining(**{"validate_every": VALIDATE_EVERY, "patience": 0, **settings}), config=MetaNetConfig(**config),
        )  # fmt: skip
        for suffix in (".json", ".keras"):
            (folder / idea / f"{idea}{suffix}").replace(path.with_suffix(suffix))
    return path


def report(ideas, result, cards) -> str:
    """Returns the page in Markdown.

    Args:
      ideas: their names.
      result: of `select_on_zoo`.
      cards: idea -> card.
    """
    repairs = [entry["repair"] for entry in result["results"]]
    command = "python benchmarks/ideas.py --out docs/ideas.md"
    command += "" if list(ideas) == list(IDEAS) else f" --ideas {' '.join(ideas)}"
    command += "" if repairs == list(REPAIRS) else f" --repairs {' '.join(repairs)}"
    rows = []
    for entry in result["results"]:
        columns = [f"{speedup:g}x" for speedup in result["speedups"]]
        rows += [
            "", f"## Repair {entry['repair']}", "",
            f"| idea | {' | '.join(columns)} | objective | minus group_l2 | lost most |", f"|---|{'---|' * (len(columns) + 3)}",
        ]  # fmt: skip
        for name in (NONE, *ideas):
            way = entry["ways"][name]
            cells = [f"{100 * value:.1f}" for value in (*way["accuracy"], way["objective"])]
            if name == NONE:
                rows.append(f"| group_l2 | {' | '.join(cells)} | | |")
                continue
            low, high = way["difference"]["interval"]
            difference = f"{100 * way['difference']['mean']:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"
            family, worst = min(way["by_family"].items(), key=lambda item: item[1]["mean"])
            rows.append(f"| {name} | {' | '.join(cells)} | {difference} | {family} {100 * worst['mean']:+.1f} |")
    descriptions = [
        f"- **{name}**: {IDEAS[name].text} {cards[name]['training']['steps']} steps, {cards[name]['seconds']['meta_training']} s."
        for name in ideas
    ]
    return "\n".join([
        "# Ways to train a metanetwork", "",
        f"Each is trained on {len(cards[ideas[0]]['data_models']['trained_on'])} networks ({', '.join(sorted({*IMAGES, *SERIES}))}; "
        f"{', '.join(ZOO)}) and judged on {len(result['models'])} others of the same kinds, by the accuracy on the validation split "
        "right after pruning and repair, in %. *Objective*: the area under accuracy against the logarithm of the speed-up, from 1x on, "
        "as a mean accuracy. Differences are paired, in points, with 95 % intervals over the networks; *lost most* is the family that "
        f"fares worst. Training ended with the best of its states by the validation on {NUM_VALIDATION} of these networks, so that the "
        "figures are a little too good: a final figure takes networks that nothing was chosen on. Steps and seconds are of training.",
        "", *descriptions, *rows, "", f"Made by `{command}`.", "",
    ])  # fmt: skip


def main():
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("docs/ideas.md"))
    parser.add_argument("--folder", type=pathlib.Path, default=pathlib.Path("runs/ideas"), help="where metanetworks are kept")
    parser.add_argument("--zoo", type=pathlib.Path, default=pathlib.Path("runs/ideas/zoo"), help="all of it is trained on")
    parser.add_argument("--ideas", nargs="+", default=list(IDEAS), choices=list(IDEAS))
    parser.add_argument("--repairs", nargs="+", default=list(REPAIRS), choices=REPAIRS)
    parser.add_argument("--only-train", action="store_true", help="stop before they are judged; several may run side by side")
    options = parser.parse_args()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    seeds = [*range(NUM_TRAINED), *range(HELD_OUT_SEED, HELD_OUT_SEED + NUM_JUDGED)]
    for data, families in ZOO.items():
        make_data_models(options.zoo, families=families, data=[data], seeds=seeds)
    if any(IDEAS[idea].settings.get("objective") == "searched" for idea in options.ideas):
        search_data_models(options.zoo)
    paths = []
    for idea in options.ideas:
        paths.append(train(idea, options.folder, options.zoo))
        print(f"{idea} is trained", flush=True)
    if options.only_train:
        return
    result = select_on_zoo(paths, options.zoo, options.folder / "selection", repairs=options.repairs, budgets=(0,))
    cards = {path.stem: json.loads(path.with_suffix(".json").read_text(encoding="utf-8")) for path in paths}
    options.out.write_text(report(options.ideas, result, cards), encoding="utf-8")
    print(f"Written to {options.out}")


if __name__ == "__main__":
    main()
