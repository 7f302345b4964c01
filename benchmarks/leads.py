"""Tables and plots of what universal.py and transfer.py measure: accuracies of ways to prune, and the leads of metanetworks."""

import math

import numpy as np
from rivals import CRITERIA

from tfmetaprune.metatrain.select import mean_and_interval
from tfmetaprune.report.plots import plot_accuracy_curves
from tfmetaprune.ways import FULL

WIDTHS = "'s widths, "  # stands between a metanetwork's name and the order of a control
CHOICE = "choice"  # of `prune` between the criteria that are tried by default, by the error of the outputs
WITH = f"{CHOICE} with "  # stands before a metanetwork that is tried too, or the criterion that is as a control
NEAREST = " at the nearest strength"  # stands behind a metanetwork that is used as `prune` uses it where its weights count
CONTROL = "fisher"
VALIDATION, TEST = 0, 1  # along the last axis of a curve


def lead_tables(curves, files, whole, speedups, rivals, compared=()):
    """Yields the lines in Markdown of one setting.

    Args:
      curves: way -> float [nets, speed-ups and the objective, 2], accuracies in % on the validation and the test split.
      files: the `DataModelFile` of each network.
      whole: mean accuracy of the networks as they are, in % on the test split.
      speedups: MACs ratios.
      rivals: name -> `Rival`, the metanetworks.
      compared: pairs of ways, whose difference gets tables of its own.
    """
    columns = _columns(speedups)
    heads, rule = " | ".join(columns), f"|---|{'---|' * len(columns)}"
    yield from (f"| {_nets(files)}, unpruned {whole:.1f} | {heads} |", rule)
    for way, curve in curves.items():
        yield f"| {way} | {' | '.join(f'{value:.1f}' for value in curve[:, :, TEST].mean(0))} |"
    criteria = [way for way in curves if way in CRITERIA]
    best = max(criteria, key=lambda way: curves[way][:, -1, VALIDATION].mean(), default=None)
    names = [name for name, rival in rivals.items() if name in curves and rival.strength == FULL]
    for name in (*names, *(way for way in curves if way.endswith(NEAREST) and WITH + way in curves)):
        controls = [way for way in curves if way.startswith(name + WIDTHS)]
        leads = {way: (curves[name] - curves[way])[:, :, TEST] for way in (*([best] if best else ()), *controls)}
        if leads:
            yield from ("", f"| {name} minus | {heads} |", rule)
        for way, lead in leads.items():
            yield f"| {_titled(way, best)} | {' | '.join(interval(values) for values in lead.T)} |"
        if best:
            yield from _by_family(f"{name} minus {best}", files, leads[best], columns)
        if WITH + name in curves:
            yield from ("", f"| {WITH}{name} minus | {heads} |", rule)
            for other in (each for each in (CHOICE, WITH + CONTROL, best) if each in curves):
                lead = (curves[WITH + name] - curves[other])[:, :, TEST]
                yield f"| {_titled(other, best)} | {' | '.join(interval(values) for values in lead.T)} |"
            yield from _by_family(f"{WITH}{name} minus {CHOICE}", files, (curves[WITH + name] - curves[CHOICE])[:, :, TEST], columns)
    if len(names) > 1 and _one_recipe([rivals[name] for name in names]):
        each = f"mean of {', '.join(names)}"
        tried = f"{CHOICE} with each, {each},"
        for title, before, other in ((each, "", best), (tried, WITH, CHOICE), (tried, WITH, best)):
            if other not in curves or before + names[0] not in curves:
                continue
            leads = [curves[before + name] - curves[other] for name in names]
            yield from _lead_table(f"{title} minus {other}", files, np.mean(leads, 0)[:, :, TEST], speedups)
    for ours, theirs in compared:
        yield from _lead_table(f"{ours} minus {theirs}", files, (curves[ours] - curves[theirs])[:, :, TEST], speedups)


def plot(page, curves, whole, speedups, repair, budget) -> str:
    """Draws accuracy against speed-up on the test split; returns the line in Markdown that shows it.

    Args:
      page: path of the page; the plot goes into the folder `plots` beside it.
      curves: as for `lead_tables`; controls of widths, the choice with a control, and metanetworks in part are left out.
      whole: as for `lead_tables`.
      speedups: MACs ratios.
      repair: of all of these.
      budget: epochs of fine-tuning.
    """
    path = page.parent / "plots" / f"{page.stem}-{repair}-{budget}.svg"
    path.parent.mkdir(exist_ok=True)
    shown = [way for way in curves if ", " not in way and way != WITH + CONTROL]
    lines = {
        way: [(1.0, whole / 100), *zip(speedups, curves[way][:, :-1, TEST].mean(0) / 100)] for way in reversed(shown)
    }  # fmt: skip
    title = f"Repair {repair}, {f'{budget} epochs' if budget else 'no fine-tuning'}, mean over {_nets(next(iter(curves.values())))}"
    worst = min(accuracy for line in lines.values() for _, accuracy in line)
    plot_accuracy_curves(path, lines, title=title, lowest=0.0 if worst < 0.6 else math.floor(10 * worst) / 10)
    return f"![{title}: accuracy in % against speed-up](plots/{path.name})"


def _one_recipe(rivals) -> bool:
    """Whether these are several metanetworks, trained on the same networks in the same way but for the seed."""

    def recipe(card):
        networks = {kind: sorted(names) for kind, names in card.get("data_models", {}).items()}
        return {**card.get("training", {}), "seed": None}, card.get("config"), networks

    several = len({rival.digest for rival in rivals}) == len(rivals)
    return several and all(recipe(rival.card) == recipe(rivals[0].card) for rival in rivals)


def _columns(speedups):
    return [*(f"{speedup:g}x" for speedup in speedups), "objective"]


def _lead_table(title, files, lead, speedups):
    """Yields a table of a lead [nets, speed-ups and the objective], and one by family."""
    columns = _columns(speedups)
    yield from ("", f"| {title} | {' | '.join(columns)} |", f"|---|{'---|' * len(columns)}")
    yield f"| all | {' | '.join(interval(values) for values in lead.T)} |"
    yield from _by_family(title, files, lead, columns)


def _by_family(title, files, lead, columns):
    """Yields a table with a row for each family of a lead [nets, speed-ups and the objective]."""
    yield from ("", f"| {title} | objective | worst speed-up |", "|---|---|---|")
    for family in sorted({file.family for file in files}):
        rows = lead[[file.family == family for file in files]]
        worst = int(np.argmin(rows[:, :-1].mean(0)))
        yield f"| {family}, {_nets(rows)} | {interval(rows[:, -1])} | {columns[worst]}: {interval(rows[:, worst])} |"
    _, means = family_means([file.family for file in files], lead)
    if len(means) > 1:
        worst = int(np.argmin(means[:, :-1].mean(0)))
        yield f"| each of {len(means)} families once | {interval(means[:, -1])} | {columns[worst]}: {interval(means[:, worst])} |"


def family_means(families, values) -> tuple[list[str], np.ndarray]:
    """Returns the names of families, sorted, and the mean of `values` [nets, ...] over the networks of each.

    Example:
      >>> family_means(["vit", "mlp", "vit"], np.array([1.0, 4.0, 3.0]))
      (['mlp', 'vit'], array([4., 2.]))
    """
    names = sorted(set(families))
    return names, np.array([np.asarray(values)[[family == name for family in families]].mean(0) for name in names])


def _titled(way, best) -> str:
    return f"{way} (the best criterion)" if way == best else way


def _nets(each) -> str:
    return f"{len(each)} net{'' if len(each) == 1 else 's'}"


def interval(points) -> str:
    """Returns the mean of paired differences, in points, with its 95 % interval; of two, the two in its place."""
    mean, low_high = mean_and_interval(points)
    if len(points) == 2:
        return f"{mean:+.1f} (" + ", ".join(f"{point:+.1f}" for point in points) + ")"
    behind = "" if low_high is None else f" [{low_high[0]:+.1f}, {low_high[1]:+.1f}]"
    return f"{mean:+.1f}{behind}"
