"""What the parts of a metanetwork and of its training are worth: each is left out, or changed, alone.

    python benchmarks/ablations.py --out docs/ablations.md

Makes (or takes) the zoo that `make universal` makes, trains a metanetwork for each case, and judges it on the held-out networks by the
area under accuracy / log speed-up right after pruning and a new estimate of BatchNormalization. What was measured is kept beside the
page as JSON lines, so that an interrupted run goes on.
"""

import argparse
import dataclasses
import functools
import hashlib
import json
import os
import pathlib
import time
from typing import NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from leads import interval

from tfmetaprune._keras import keras, tf
from tfmetaprune.data import load
from tfmetaprune.graph import schema
from tfmetaprune.metanet import MetaNetConfig, MetaNetwork
from tfmetaprune.metatrain.data_models import BATCH_SIZE, ORDER_SEED, make_data_models
from tfmetaprune.metatrain.families import DEFAULT_FAMILIES
from tfmetaprune.metatrain.mixed import split_zoo
from tfmetaprune.metatrain.prepared import prepare_data_models
from tfmetaprune.metatrain.select import SPEEDUPS, accuracies, area, generated, load_judges
from tfmetaprune.metatrain.trainer import MetaTrainer, MetaTraining
from tfmetaprune.metatrain.zoo import append_line

DATA = "digits", "ucr/JapaneseVowels_eq", "ucr/OSULeaf"
NUM_SEEDS, HELD_OUT = 16, (1000, 1001)  # networks of each family and data set: to train on, and to judge on
SETTINGS = {"steps": 1000, "perturbation": 0.05, "patience": 0}
CONFIG = {"fisher_weight": 1.0}
BATCH_NORM = [schema.COLUMNS.index(name) for name in ("moving_mean", "moving_variance")]


class Blinded(MetaNetwork):
    """A metanetwork that does not see, or does not change, a part of a network.

    Args:
      without: "statistics", "batch_norm", "parameters", "kernels" or "residuals", which it does not see, or "weights" or "scores",
        which it leaves as they are; "" for none.
      config: of `MetaNetwork`.
    """

    def __init__(self, without, config):
        super().__init__(config)
        self.without = without

    def transform(self, parameters, present, statistics, frozen, weights, layout):
        """See `MetaNetwork.transform`."""
        seen = weights
        if self.without == "kernels":
            seen = {name: _flat(value, layout.edge_set_blocks[name]) for name, value in weights.items()}
        if self.without == "residuals":
            layout = _without_residuals(layout)
        changed = super().transform(parameters, present, statistics, frozen, seen, layout)
        if self.without == "weights":
            return parameters, weights, changed[2]
        if self.without == "scores":
            unchanged = 0.5 * self.config.fisher_weight * statistics[:, schema.STATISTICS_NAMES.index("log_fisher_in_group")]
            return *changed[:2], unchanged
        if seen is not weights:
            return changed[0], {name: weights[name] + changed[1][name] - seen[name] for name in weights}, changed[2]
        return changed

    def _encode_nodes(self, parameters, present, statistics, frozen, levels):
        hidden = {"batch_norm": BATCH_NORM, "parameters": range(len(schema.COLUMNS))}.get(self.without, ())
        shown = np.float32([column not in hidden for column in range(len(schema.COLUMNS))])
        parameters = parameters * shown + np.float32(schema.COLUMN_DEFAULTS) * (1 - shown)
        if self.without == "parameters":
            present = tf.zeros_like(present)
        if self.without == "statistics":
            statistics = tf.zeros_like(statistics)
        return super()._encode_nodes(parameters, present, statistics, frozen, levels)


@functools.cache  # what is compiled is of one layout
def _without_residuals(layout):
    """Returns the layout of a graph that lacks the edges of residual connections."""
    return dataclasses.replace(layout, identity=np.zeros((0, 2), np.int64))


def _flat(value, blocks):
    """Puts the root mean square of each block of an edge set [E, T] in the place of its values."""
    parts = []
    for block in blocks:
        part = value[block.first : block.first + block.num_edges]
        parts.append(tf.fill(tf.shape(part), tf.sqrt(tf.reduce_mean(tf.square(part)))))
    return tf.concat(parts, 0)


class Case(NamedTuple):
    """A way to train.

    Attributes:
      text: what differs from the first.
      without: of `Blinded`.
      settings: of `MetaTraining`, beside `SETTINGS`.
      config: of `MetaNetConfig`, beside `CONFIG`.
      num_seeds: networks of each family and data set to train on.
    """

    text: str
    without: str = ""
    settings: dict = {}
    config: dict = {}
    num_seeds: int = 8


WHOLE = "whole"
CASES = {
    WHOLE: Case("as `universal`, on half as many networks, for fewer steps, ending with the last"),
    "seed_1": Case("the same with another seed", settings={"seed": 1}),
    "seed_2": Case("the same with a third seed", settings={"seed": 2}),
    "scores_only": Case("the weights stay, scores alone are put out", "weights"),
    "weights_only": Case("weights alone are changed, scores are those of the Fisher information", "scores"),
    "no_statistics": Case("nodes without activation statistics and Fisher information; scores start from it", "statistics"),
    "no_fisher_start": Case("scores start from zero, nodes have the statistics", config={"fisher_weight": 0.0}),
    "no_fisher_at_all": Case("scores start from zero, nodes without the statistics", "statistics", config={"fisher_weight": 0.0}),
    "no_batch_norm": Case("nodes without moving mean and variance", "batch_norm"),
    "no_parameters": Case("nodes without any weight per channel: biases, BatchNormalization, LayerNormalization", "parameters"),
    "no_kernels": Case("edges without the values of kernels: in each block of edges, their root mean square", "kernels"),
    "no_residuals": Case("no edges for what residual connections pass on", "residuals"),
    "no_distillation": Case("cross-entropy alone", settings={"distillation": 0.0}),
    "no_perturbation": Case("data models are not perturbed", settings={"perturbation": 0.0}),
    "hidden_8": Case("half as wide", config={"hidden": 8}),
    "hidden_32": Case("twice as wide", config={"hidden": 32}),
    "layers_1": Case("one layer of message passing", config={"num_layers": 1}),
    "layers_6": Case("six layers of message passing", config={"num_layers": 6}),
    "seeds_1": Case("1 network of each family and data set", num_seeds=1),
    "seeds_4": Case("4 networks of each family and data set", num_seeds=4),
    "seeds_16": Case("16 networks of each family and data set", num_seeds=16),
}  # fmt: skip


class Bench:
    """Trains and judges.

    Args:
      zoo: its folder.
      folder: where trainings go.
      log: file of the measurements.
    """

    def __init__(self, zoo, folder, log):
        self.log, self._prepared = log, {}
        kinds = {"families": DEFAULT_FAMILIES, "data": DATA}
        self.files = [file for file in split_zoo(zoo, **kinds) if file.seed < NUM_SEEDS]
        judged = [file for file in split_zoo(zoo, **kinds, held_out=True) if file.seed in HELD_OUT]
        self.zoo = hashlib.sha256("".join(file.digest(zoo) for file in (*self.files, *judged)).encode()).hexdigest()[:8]
        self.folder = folder / self.zoo
        tf.random.set_seed(ORDER_SEED)  # the order of the examples depends on it
        self.judges = load_judges(zoo, judged)
        self._models = [file.load(zoo) for file in self.files]
        tf.random.set_seed(ORDER_SEED)
        datasets = {file.data: load(file.data, batch_size=BATCH_SIZE).train for file in self.files}
        self._datasets = [datasets[file.data] for file in self.files]

    def data_models(self, settings, num_seeds):
        """Returns what a case trains on; what is compiled is shared by the cases."""
        key = settings.distillation
        if key not in self._prepared:
            self._prepared[key] = prepare_data_models(self._models, self._datasets, settings)
        return [model for model, file in zip(self._prepared[key], self.files) if file.seed < num_seeds]

    def lines(self, zoo=None):
        """Returns what was measured with a zoo, this one by default: case (None: the criterion it starts from) -> line."""
        lines = map(json.loads, self.log.read_text(encoding="utf-8").splitlines()) if self.log.exists() else ()
        return {line["case"]: line for line in lines if line["zoo"] == (zoo or self.zoo)}

    def zoos(self) -> list[str]:
        """Returns the zoos that `WHOLE` and the criterion were measured with, this one first."""
        lines = map(json.loads, self.log.read_text(encoding="utf-8").splitlines())
        zoos = dict.fromkeys([self.zoo, *(line["zoo"] for line in lines)])
        return [zoo for zoo in zoos if {None, WHOLE} <= {*self.lines(zoo)}]

    def run(self, name):
        """Trains a case and judges it, if that has not been done; None for the criterion."""
        if name in self.lines():
            return
        case, parameters = CASES[name or WHOLE], 0
        settings = MetaTraining(**{**SETTINGS, **case.settings})
        keras.utils.set_random_seed(settings.seed)
        metanet = Blinded(case.without, MetaNetConfig(**{**CONFIG, **case.config}))
        if name:
            models = self.data_models(settings, case.num_seeds)
            identity = {"case": {"without": case.without, "steps": settings.steps}}
            MetaTrainer(metanet, models, None, settings, self.folder / name, identity=identity).train(resume=True)
            parameters = int(sum(np.prod(variable.shape) for variable in metanet.trainable_variables))
        rows = []
        for judge in self.judges:
            made = generated(judge, metanet)
            rows.append([accuracies(judge, made, speedup=speedup)[0] for speedup in SPEEDUPS])
        line = {"case": name, "zoo": self.zoo, "accuracy": rows, "unpruned": [judge.unpruned for judge in self.judges]}
        append_line(self.log, {**line, "parameters": parameters})

    def report(self, command, cases) -> str:
        """Returns the page in Markdown, of those of the cases that are measured; a table for each zoo."""
        count = sum(file.seed < CASES[WHOLE].num_seeds for file in self.files)
        families = sorted({file.family for file in self.files})
        tables = [{name: line for name, line in self.lines(zoo).items() if name in (None, WHOLE, *cases)} for zoo in self.zoos()]
        named = [name for name in CASES if any(name in lines for lines in tables)]
        others = [
            "", "Other cases, on networks that another machine trained from the same seeds, which came out a little different:", ""
        ] if len(tables) > 1 else []  # fmt: skip
        return "\n".join([
            "# What the parts of a metanetwork are worth", "",
            f"Every case is a metanetwork trained for {SETTINGS['steps']} steps on {count} networks ({', '.join(families)}; "
            f"{', '.join(DATA)}) unless it says otherwise, and judged on {len(self.judges)} others of the same kinds by the accuracy on "
            "the validation split right after pruning and a new estimate of BatchNormalization, in %; nothing was chosen by these. "
            "*Objective*: the area under accuracy against the logarithm of the speed-up, from 1x on, as a mean accuracy. Differences are "
            "paired, in points of the objective, with 95 % intervals over the networks; what another seed does to the same case is the "
            "other measure of noise. Each case is one training.", "",
            "- **untrained**: group L2 with the Fisher information, in one shot, which every case but `no_fisher_*` starts from.",
            *(f"- **{name}**: {CASES[name].text}." for name in named), "",
            *_table(tables[0]), *others, *(row for lines in tables[1:] for row in _table(lines)), "",
            f"Made by `{command}`.", "",
        ])  # fmt: skip


def _table(lines) -> list[str]:
    """The rows of a table in Markdown: case -> line of the log."""
    columns = [*(f"{speedup:g}x" for speedup in SPEEDUPS), "objective"]
    rows = {
        name: np.array([[*row, area(SPEEDUPS, row, whole)] for row, whole in zip(line["accuracy"], line["unpruned"])])
        for name, line in lines.items()
    }  # fmt: skip
    table = [f"| case | {' | '.join(columns)} | minus `{WHOLE}` | parameters |", f"|---|{'---|' * (len(columns) + 2)}"]
    for name in (None, *(name for name in CASES if name in rows)):
        cells = [f"{100 * value:.1f}" for value in rows[name].mean(0)]
        difference = "" if name == WHOLE else interval(100 * (rows[name][:, -1] - rows[WHOLE][:, -1]))
        parameters = f"{lines[name]['parameters']:,}" if name else ""
        table.append(f"| {name or 'untrained'} | {' | '.join(cells)} | {difference} | {parameters} |")
    return table


def main():
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("docs/ablations.md"))
    parser.add_argument("--folder", type=pathlib.Path, default=pathlib.Path("runs/ablations"), help="where trainings are kept")
    parser.add_argument("--zoo", type=pathlib.Path, default=pathlib.Path("runs/universal/zoo"))
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    options = parser.parse_args()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    make_data_models(options.zoo, data=DATA, seeds=[*range(NUM_SEEDS), *HELD_OUT])
    bench = Bench(options.zoo, options.folder, options.out.with_suffix(".jsonl"))
    command = f"python benchmarks/ablations.py --out {options.out}"
    command += "" if options.cases == list(CASES) else f" --cases {' '.join(options.cases)}"
    for name in (None, WHOLE, *options.cases):
        started = time.perf_counter()
        bench.run(name)
        if WHOLE in bench.lines():
            options.out.write_text(bench.report(command, options.cases), encoding="utf-8")
        print(f"{name or 'untrained'} done in {time.perf_counter() - started:.0f} s", flush=True)
    print(f"Written to {options.out}")


if __name__ == "__main__":
    main()
