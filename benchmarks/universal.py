"""Metanetworks against criteria on networks that nothing was trained or chosen on, of several families and data sets.

    python benchmarks/universal.py --metanetworks saved_models/universal.keras --out docs/universal.md

Trains (or loads) the networks, prunes each in every way and repairs it. The table is written anew after each network, of those that
are complete. Everything measured is kept beside it as JSON lines, so that an interrupted run goes on. Several runs with different
`--settings` may write lines at once; a run over all settings then makes the table of all.
"""

import argparse
import functools
import json
import os
import pathlib
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from judged_net import ORDERS, Net
from leads import CHOICE, CONTROL, NEAREST, TEST, VALIDATION, WIDTHS, WITH, lead_tables, plot
from rivals import (
    CRITERIA,
    FIRST_SEED,
    OTHER_FAMILIES,
    SETTINGS,
    SETTLED_ON,
    STRENGTHS,
    VARIANTS,
    described,
    files_of,
    load_rivals,
)

from tfmetaprune.data import load
from tfmetaprune.errors import ArgumentError
from tfmetaprune.metanet import save_metanetwork
from tfmetaprune.metatrain.data_models import DataModelFile, make_data_models
from tfmetaprune.metatrain.evaluate import Curve
from tfmetaprune.metatrain.select import (
    REPAIRS,
    SPEEDUPS,
    area,
)
from tfmetaprune.metatrain.zoo import append_line
from tfmetaprune.ways import DEFAULT_CRITERIA, FULL

TITLE = "Metanetworks on networks they have not seen"
DEFAULTS = {"num_models": 5, "speedups": SPEEDUPS, "budgets": [0], "repairs": REPAIRS, "ways": None}
UNPRUNED = "unpruned", None, None, 1.0, 0  # the rest of its key
KEY = ("net", "digest", "way", "weights", "repair", "speedup", "budget")
ERROR = 2  # its place, beside VALIDATION and TEST, in what `Bench.lines` tells of a key


def measured_line(line) -> tuple[float, float, float]:
    """Returns what a line of the log tells: validation, test, error of the outputs (infinite where the speed-up is out of reach)."""
    error = line.get("error")
    return line["validation"], line["test"], np.inf if error is None else error


class Bench:
    """What is to be measured, and what has been.

    Args:
      options: of the command line.
      rivals: name -> `Rival`.
      folder: of the networks.
    """

    def __init__(self, options, rivals, folder):
        self.rivals, self.folder, self.log = rivals, folder, options.out.with_suffix(".jsonl")
        self.digest = functools.cache(lambda file: file.digest(folder))
        self.command = f"python benchmarks/universal.py --out {options.out}"
        if getattr(options, "metanetworks", None):
            self.command += f" --metanetworks {' '.join(options.metanetworks)}"
        self.command += " --strengths" if getattr(options, "strengths", False) else ""
        self.title = getattr(options, "title", TITLE)
        self.command += "" if self.title == TITLE else f' --title "{self.title}"'
        for name in ("num_models", "speedups", "budgets", "repairs", "ways"):
            value = getattr(options, name)
            if value is not None and value != DEFAULTS[name]:
                texts = map(str, np.atleast_1d(value))
                self.command += f" --{name.replace('_', '-')} " + " ".join(f'"{text}"' if " " in text else text for text in texts)
        if options.settings != list(SETTINGS):
            self.command += " --settings " + " ".join(f'"{name}"' for name in options.settings)
        self.repairs, self.budgets, self.speedups = options.repairs, options.budgets, sorted(options.speedups)
        controls = [f"{name}{WIDTHS}{order}" for name in rivals for order in ORDERS]
        known = (*CRITERIA, *rivals, *controls)
        unknown = [way for way in options.ways or () if way not in known]
        if unknown:
            raise ArgumentError(f"--ways: expected some of {', '.join(known)}, got {unknown}. Choose from these.")
        self.ways = [way for way in known if way in (options.ways or known)]
        names = [name for name in (CONTROL, *rivals) if name in self.ways]
        self.choices = {CHOICE: DEFAULT_CRITERIA, **{f"{WITH}{name}": (*DEFAULT_CRITERIA, name) for name in names}}
        for name in names:
            used = [name, *(f"{name}, {strength}" for strength in STRENGTHS)]
            if set(used) <= set(self.ways):
                self.choices |= {name + NEAREST: used, WITH + name + NEAREST: (*DEFAULT_CRITERIA, *used)}
        if not {*DEFAULT_CRITERIA} <= {*self.ways}:
            self.choices = {}

    def key(self, file, way, repair, speedup, budget) -> tuple:
        """Returns the values of KEY."""
        rival = self.rivals.get(way.partition(WIDTHS)[0])
        return file.file_name, self.digest(file), way, rival and rival.digest, repair, float(speedup), budget

    def unpruned_key(self, file) -> tuple:
        """Returns the values of KEY for the network as it is."""
        return file.file_name, self.digest(file), *UNPRUNED

    def keys(self, file) -> list:
        """Returns all keys of a network."""
        return [self.unpruned_key(file)] + [
            self.key(file, way, repair, speedup, budget)
            for way in self.ways for repair in self.repairs for speedup in self.speedups for budget in self.budgets
        ]  # fmt: skip

    def lines(self) -> dict:
        """Returns what was measured: key -> (validation, test, error of the outputs, infinite where out of reach)."""
        done = {}
        for line in map(json.loads, self.log.read_text(encoding="utf-8").splitlines()) if self.log.exists() else ():
            key = tuple(line.get(name) for name in KEY)
            if "error" in line or key[2:] == UNPRUNED:
                done[key] = measured_line(line)
        return done

    def measure(self, file):
        """Appends a line for everything of one network that is missing."""
        done = self.lines()
        if all(key in done for key in self.keys(file)):
            return
        net, started = Net(self.folder, file, self.rivals), time.perf_counter()

        def record(key, scores):
            nonlocal started
            now = time.perf_counter()
            append_line(self.log, {**dict(zip(KEY, key)), **scores, "seconds": round(now - started, 2)})
            started = now

        if self.unpruned_key(file) not in done:
            record(self.unpruned_key(file), net.accuracies(net.judge.trace.model))
        for way in self.ways:
            for repair in self.repairs:
                for speedup in self.speedups:
                    left = [budget for budget in self.budgets if self.key(file, way, repair, speedup, budget) not in done]
                    for budget, scores in zip(left, net.measure(way, repair, speedup, left) if left else ()):
                        record(self.key(file, way, repair, speedup, budget), scores)

    def curves(self, done, files, repair, budget) -> dict:
        """Returns for each way float [nets, speed-ups and the objective, 2], in % on the validation and the test split."""
        curves = {}
        for way, tried in {**{way: (way,) for way in self.ways}, **self.choices}.items():
            rows = []
            for file in files:
                found = [[done[self.key(file, each, repair, speedup, budget)] for each in tried] for speedup in self.speedups]
                row = np.array([min(each, key=lambda measured: measured[ERROR])[:ERROR] for each in found])
                whole = done[self.unpruned_key(file)]
                rows.append([*row, [area(self.speedups, row[:, split], whole[split]) for split in (VALIDATION, TEST)]])
            curves[way] = 100 * np.array(rows)
        return curves

    def unpruned(self, done, files) -> float:
        """Returns the mean accuracy of networks as they are, in % on test."""
        return 100 * np.mean([done[self.unpruned_key(file)][TEST] for file in files])

    def report(self, settings) -> str:
        """Returns the tables in Markdown, of the networks that are complete; `settings`: name -> files."""
        done = self.lines()
        settings = {
            name: ready for name, files in settings.items()
            if (ready := [file for file in files if all(key in done for key in self.keys(file))])
        }  # fmt: skip
        lines = [f"# {self.title}", "", *self.introduction(settings)]
        if len(settings) > 1:
            settings["all of these"] = sum(settings.values(), [])
        for repair in self.repairs:
            for budget in self.budgets:
                lines += ["", f"## Repair {repair}, {f'{budget} epochs' if budget else 'no fine-tuning'}"]
                for name, files in settings.items():
                    curves, whole = self.curves(done, files, repair, budget), self.unpruned(done, files)
                    lines += ["", f"### {name[0].upper()}{name[1:]}: {repair}, {budget} epochs", ""]
                    lines += lead_tables(curves, files, whole, self.speedups, self.rivals)
                if settings and len(self.speedups) > 1:
                    lines += ["", plot(self.log.with_suffix(".md"), curves, whole, self.speedups, repair, budget)]
        return "\n".join([*lines, "", f"Made by `{self.command}`.", ""])

    def measured(self, name, settings, repair) -> dict:
        """Returns what the card of a metanetwork tells: accuracies and gains on test, without fine-tuning, JSON-able."""
        done, by_setting = self.lines(), {}
        for setting, files in {"all": sum(settings.values(), []), **settings}.items():
            accuracy = {
                "metanetwork" if way == name else way: curve[:, :-1, TEST] / 100
                for way, curve in self.curves(done, files, repair, 0).items() if way in (*CRITERIA, name)
            }  # fmt: skip
            unpruned = [done[self.unpruned_key(file)][TEST] for file in files]
            by_setting[setting] = Curve(tuple(self.speedups), accuracy, unpruned, baselines=CRITERIA).summary()
        what = f"accuracy on the test split right after pruning and the repair {repair}, no fine-tuning"
        return {"what": what, **by_setting.pop("all"), "by_setting": by_setting}

    def explanations(self):
        """Yields what the words in the tables mean."""
        if "taylor" in self.ways:
            yield (
                "`taylor` is the squared gradient of the loss of a batch of 64 with respect to a unit's mask, mean over the batches, and "
                "takes true labels."
            )
        if "bn_scale" in self.ways:
            yield "`bn_scale` is |gamma|, and the unpruned network's group L2 where there is no BatchNormalization."
        if self.choices:
            yield (
                f"*{CHOICE}* is what `prune` does with `metanetwork=None`: at each speed-up it takes the one of "
                f"{' and '.join(DEFAULT_CRITERIA)} whose network, repaired, puts out what is nearest to the original, on up to 1,024 "
                f"inputs without labels; *{WITH.strip()}* a metanetwork, or `fisher` as a control, has that as one more to choose from; "
                "with `universal` it is the default before least squares."
            )
        if any(WIDTHS in way for way in self.ways):
            yield (
                "A metanetwork's *widths* are what each layer keeps with it, filled with channels in another order, with the original's "
                "weights."
            )

        if any(way.endswith(NEAREST) for way in self.choices):
            yield (
                "*Scores alone* leaves the network's weights as they are, *half the weights* goes half of the way to the metanetwork's, "
                "and *half the scores* ranks by the mean of `group_l2_fisher`'s scores and the metanetwork's. *At the nearest strength* "
                "takes that of all of it, half the weights, scores alone and half the scores alone whose network, repaired, puts out "
                "what is nearest to the original: so `prune` uses a metanetwork where no least squares follow. These four were settled on "
                "the validation splits of networks of other families that know data that metanetworks train on (docs/strength.md)."
            )

    def introduction(self, settings):
        """Yields the lines before the tables."""
        history = "nothing was trained or chosen on"
        if SETTLED_ON in settings:
            history = "no metanetwork was trained or chosen on, but that the strengths were settled on"
        yield (
            f"Accuracy in % on the test split, means over networks that {history}, right after pruning and repair or after the epochs of "
            "fine-tuning that are named; 0 where a speed-up is out of reach. *Objective*: the area under accuracy "
            "against the logarithm of the speed-up, from 1x on, as a mean accuracy. Criteria rank in one shot before least squares and "
            "in small steps otherwise, metanetworks in one shot always. Least squares fits the original's weights, so that a "
            "metanetwork's scores alone count there." + "".join(f" {text}" for text in self.explanations())
        )
        yield ""
        yield (
            "Differences are paired, in points, with 95 % intervals (Student's t over networks). The best criterion is the one with the "
            "highest mean objective on the validation splits of the setting's networks. These are small where the data set is:"
        )
        yield ""
        for name in sorted({file.data for files in settings.values() for file in files}):
            sizes = num_examples(name)
            yield (
                f"- {name}: {sizes['validation']} examples for validation, one of them is {100 / sizes['validation']:.1f} points; "
                f"{sizes['train']} to train on, {sizes['test']} to test on."
            )
        yield ""
        for name, rival in self.rivals.items():
            if rival.strength != FULL:
                continue  # told of already
            trained, judged = (files_of(rival.card, kind) for kind in ("trained_on", "validated_on"))
            chosen = f"the best state of its training was chosen by {described(judged)}. " if judged else ""
            yield (
                f"Metanetwork {name!r}, on top of group_l2: trained on {described(trained)}; {chosen}Made by `{rival.card['command']}`."
            )
            yield ""


@functools.cache
def num_examples(name) -> dict:
    """Returns split -> number of examples of a data set."""
    return load(name).num_examples


def make_networks(folder, names, num_models) -> dict[str, list[DataModelFile]]:
    """Trains what the zoo lacks; returns setting -> files, in turns of family and data."""
    settings = {}
    for name in names:
        settings[name] = []
        for family, data in (SETTINGS | OTHER_FAMILIES)[name]:
            settings[name] += make_data_models(
                folder, families=[family], data=[data], seeds=range(FIRST_SEED, FIRST_SEED + num_models), variants=VARIANTS,
                progress=lambda file, done, total: print(f"network {file.file_name} ({done}/{total})", flush=True),
            )  # fmt: skip
        settings[name].sort(key=lambda file: file.seed)
    return settings


def main():
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--metanetworks", nargs="*", default=[], help="names of shipped ones, or paths")
    parser.add_argument("--strengths", action="store_true", help="use each metanetwork in part as well")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("docs/universal.md"))
    parser.add_argument("--title", default=TITLE, help="of the page")
    parser.add_argument("--zoo", type=pathlib.Path, default=pathlib.Path("runs/judged"), help="where the networks are kept")
    parser.add_argument("--num-models", type=int, default=DEFAULTS["num_models"], help="networks of each family and data set")
    parser.add_argument("--settings", nargs="+", default=list(SETTINGS), choices=list(SETTINGS | OTHER_FAMILIES))
    parser.add_argument("--speedups", type=float, nargs="+", default=SPEEDUPS)
    parser.add_argument("--budgets", type=int, nargs="+", default=[0], help="epochs of fine-tuning afterwards")
    parser.add_argument("--repairs", nargs="+", default=REPAIRS, choices=["none", "data_free", "bn", "least_squares"])
    parser.add_argument("--ways", nargs="+", help="only these criteria, metanetworks and controls")
    parser.add_argument("--write-cards", action="store_true", help="put what was measured behind the first repair into the cards")
    options = parser.parse_args()
    if options.write_cards and 0 not in options.budgets:
        raise ArgumentError("--write-cards: expected budget 0, which cards tell of, among --budgets. Add it.")
    if options.write_cards and not {*CRITERIA} & {*(options.ways or CRITERIA)}:
        raise ArgumentError(f"--write-cards: expected a criterion to compare with among --ways, one of {', '.join(CRITERIA)}. Add one.")
    by_name = [each for each in options.metanetworks if not pathlib.Path(each).exists()]
    if options.write_cards and by_name:
        names = ", ".join(by_name)
        raise ArgumentError(f"--write-cards: expected paths of metanetworks, got the names {names}. Give saved_models/NAME.keras.")
    bench = Bench(options, load_rivals(options.metanetworks, STRENGTHS if options.strengths else ()), options.zoo)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    settings = make_networks(options.zoo, options.settings, options.num_models)
    turns = sorted((file.seed, place, file) for place, files in enumerate(settings.values()) for file in files)
    for done, (_, _, file) in enumerate(turns, 1):
        started = time.perf_counter()
        bench.measure(file)
        options.out.write_text(bench.report(settings), encoding="utf-8")
        print(f"{file.file_name} measured in {time.perf_counter() - started:.0f} s ({done}/{len(turns)})", flush=True)
    print(f"Written to {options.out}")
    for path in options.metanetworks if options.write_cards else ():
        name = pathlib.Path(path).stem
        card = {**bench.rivals[name].card, "measured": bench.measured(name, settings, options.repairs[0])}
        save_metanetwork(bench.rivals[name].metanet, path, card)
        print(f"Card of {name} written")


if __name__ == "__main__":
    main()
