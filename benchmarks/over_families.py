"""The leads of metanetworks with kinds of networks, not networks, as what was drawn: from what other benchmarks have measured.

    python benchmarks/over_families.py --out docs/over_families.md

Networks of one family have much in common, so an interval over networks tells of further networks of these families. For a family
that is not among them, the families are the sample: each counts once, by the mean over its networks. Reads the JSON lines beside the
pages; measures nothing.
"""

import argparse
import json
import pathlib
from typing import NamedTuple

import numpy as np
from leads import CHOICE, NEAREST, TEST, WITH, family_means, interval
from rivals import STRENGTHS
from universal import ERROR, UNPRUNED, measured_line

from tfmetaprune.metatrain.data_models import DataModelFile
from tfmetaprune.metatrain.select import SPEEDUPS, area
from tfmetaprune.ways import DEFAULT_CRITERIA

OURS, SEEDS = "universal", ("universal", "universal_1", "universal_2")
LEFT_OUT, SEEN = "left_out", "seen"


class Lead(NamedTuple):
    """A comparison: the page it is of, the repair, our ways (their mean, where there are several), and theirs."""

    page: str
    repair: str
    ours: tuple[str, ...]
    theirs: str


LEADS = {
    "Kinds that metanetworks were trained on": (
        Lead("universal", "bn", (OURS,), "group_l2_fisher"),
        Lead("universal", "bn", (WITH + OURS,), CHOICE),
        Lead("universal", "least_squares", (WITH + OURS,), "group_l2"),
        Lead("universal", "least_squares", (WITH + OURS,), CHOICE),
        Lead("universal_control", "least_squares", (WITH + OURS,), WITH + "fisher"),
        Lead("universal_unseen_data", "least_squares", (WITH + OURS,), CHOICE),
        Lead("strength_known_families", "bn", (OURS + NEAREST,), "group_l2_fisher"),
    ),
    "Kinds that they were not trained on": (
        Lead("universal_other_families", "least_squares", tuple(WITH + seed for seed in SEEDS), CHOICE),
        Lead("universal_other_families", "least_squares", (WITH + OURS,), CHOICE),
        Lead("universal_other_families", "least_squares", (WITH + OURS,), "group_l2"),
        Lead("universal_other_families_bn", "bn", (OURS + NEAREST,), "group_l2_fisher"),
        Lead("universal_other_families_bn", "bn", (WITH + OURS + NEAREST,), CHOICE),
        Lead("transfer", "bn", (WITH + LEFT_OUT,), CHOICE),
        Lead("transfer", "bn", (LEFT_OUT,), SEEN),
        Lead("transfer", "least_squares", (WITH + LEFT_OUT,), CHOICE),
    ),
}


def tried(way) -> tuple[str, ...]:
    """The ways among which a choice takes the one whose outputs stay nearest; the way itself if it is none.

    Example:
      >>> tried("choice with fisher")
      ('group_l2', 'group_l2_fisher', 'fisher')
    """
    if way == CHOICE:
        return DEFAULT_CRITERIA
    if way.startswith(WITH):
        return (*DEFAULT_CRITERIA, *tried(way.removeprefix(WITH)))
    name = way.removesuffix(NEAREST)
    return (name,) if name == way else (name, *(f"{name}, {strength}" for strength in STRENGTHS))


def read(log) -> dict:
    """Returns what a benchmark has measured without fine-tuning: (net, way, repair, speed-up) -> (validation, test, error of outputs).

    Raises:
      ValueError: the log has one thing twice, of networks or metanetworks that differ.
    """
    done = {}
    for line in map(json.loads, log.read_text(encoding="utf-8").splitlines()):
        key = line["net"], line["way"], line["repair"], line["speedup"]
        if line["budget"]:
            continue
        if key in done:
            raise ValueError(f"{log}: {key} stands there twice. Take out the lines of networks that are no more.")
        done[key] = measured_line(line)
    return done


def curve(done, nets, way, repair) -> np.ndarray:
    """Returns float [nets, speed-ups and the objective], in % on the test split."""
    rows = []
    for net in nets:
        found = [[done[net, each, repair, speedup] for each in tried(way)] for speedup in SPEEDUPS]
        row = np.array([min(each, key=lambda measured: measured[ERROR])[TEST] for each in found])
        rows.append([*row, area(SPEEDUPS, row, done[(net, *UNPRUNED[:1], *UNPRUNED[2:4])][TEST])])
    return 100 * np.array(rows)


def lead_of(folder, lead) -> tuple[list[str], np.ndarray]:
    """Returns the families of the networks, and the lead float [nets, speed-ups and the objective]."""
    done = read(folder / f"{lead.page}.jsonl")
    needed = [(each, lead.repair, speedup) for way in (*lead.ours, lead.theirs) for each in tried(way) for speedup in SPEEDUPS]
    nets = sorted(net for net in {key[0] for key in done} if all((net, *key) in done for key in needed))
    ours = np.mean([curve(done, nets, way, lead.repair) for way in lead.ours], 0)
    return [DataModelFile.from_file_name(net).family for net in nets], ours - curve(done, nets, lead.theirs, lead.repair)


def report(folder, command) -> str:
    """Returns the page in Markdown."""
    lines = [
        "# Leads over networks and over kinds of networks", "",
        "The leads of the other pages once more, in points of accuracy on the test split, without fine-tuning; the words are those of "
        "[the table of `universal`](universal.md). The interval of the column *over networks* tells of further networks of the same "
        "families. In *over families* each family counts once, by the mean over its networks, and the interval (Student's t over "
        "families) tells of further families, if these are thought of as drawn from all there are; with six or seven it is wide. Behind "
        "each interval, in round brackets, stands how many there are. The columns of the speed-ups are means over networks.", "",
    ]  # fmt: skip
    speedups = " | ".join(f"{speedup:g}x" for speedup in SPEEDUPS)
    for title, leads in LEADS.items():
        heads = f"| lead | {speedups} | objective, over networks | objective, over families | least and most |"
        lines += [f"## {title}", "", heads, f"|---|{'---|' * (len(SPEEDUPS) + 3)}"]
        for lead in leads:
            families, values = lead_of(folder, lead)
            names, means = family_means(families, values[:, -1])
            least, most = (f"{names[at]} {means[at]:+.1f}" for at in (np.argmin(means), np.argmax(means)))
            ours = lead.ours[0] if len(lead.ours) == 1 else f"{lead.ours[0]}, mean of {len(lead.ours)} seeds,"
            cells = [f"{value:+.1f}" for value in values[:, :-1].mean(0)]
            cells += [f"{interval(values[:, -1])} ({len(values)})", f"{interval(means)} ({len(means)})", f"{least}, {most}"]
            lines.append(f"| [{ours} minus {lead.theirs}, {lead.repair}]({lead.page}.md) | {' | '.join(cells)} |")
        lines.append("")
    return "\n".join([*lines, f"Made by `{command}`.", ""])


def main():
    """Writes the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("docs/over_families.md"))
    parser.add_argument("--logs", type=pathlib.Path, default=pathlib.Path("docs"), help="folder of the JSON lines")
    options = parser.parse_args()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(report(options.logs, f"python benchmarks/over_families.py --out {options.out}"), encoding="utf-8")
    print(f"Written to {options.out}")


if __name__ == "__main__":
    main()
