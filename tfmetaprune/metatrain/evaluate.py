"""Judges a metanetwork on held-out data models: accuracy against speed-up, right after pruning."""

import dataclasses

import numpy as np

from tfmetaprune.graph import channel_statistics
from tfmetaprune.metanet.generate import generate
from tfmetaprune.metatrain.zoo import accuracy
from tfmetaprune.pruning import (
    make_plan,
    normalized_score,
    plan_from_keep,
    rebuild_model,
    reestimate_bn,
    unit_importance,
)
from tfmetaprune.trace import trace_model

SPEEDUPS = (2.0, 3.0, 4.0, 6.0, 8.0, 12.0)
BASELINES = ("group_l2", "group_l2_one_shot", "group_l2_max", "fisher", "random")


@dataclasses.dataclass(frozen=True)
class Curve:
    """Accuracies of several ways to choose on several models.

    Attributes:
      columns: what was aimed at: MACs ratios, or methods that zero weights.
      accuracy: way to choose -> one row a model, one entry a column; in [0, 1].
      unpruned: accuracy of each model as it was.
      axis: what the columns are, for the summary.
      baselines: the ways that the metanetwork is compared with.
    """

    columns: tuple
    accuracy: dict[str, list[list[float]]]
    unpruned: list[float]
    axis: str = "speedups"
    baselines: tuple[str, ...] = BASELINES

    def summary(self) -> dict:
        """Mean, standard deviation over the models, and the paired difference to the best criterion, JSON-able."""
        values = {method: np.array(rows) for method, rows in self.accuracy.items()}
        means = {method: rows.mean(0) for method, rows in values.items()}
        result = {
            self.axis: list(self.columns), "num_models": len(self.unpruned),
            "unpruned": {"mean": float(np.mean(self.unpruned)), "std": float(np.std(self.unpruned, ddof=1))},
            "mean": {method: mean.round(4).tolist() for method, mean in means.items()},
            "std": {method: rows.std(0, ddof=1).round(4).tolist() for method, rows in values.items()},
        }  # fmt: skip
        if "metanetwork" in values:
            criteria = [method for method in self.baselines if method in means]
            best = [criteria[i] for i in np.argmax([means[method] for method in criteria], 0)]
            difference = np.stack([values["metanetwork"][:, k] - values[b][:, k] for k, b in enumerate(best)], 1)
            result["best_criterion"] = best
            result["gain"] = difference.mean(0).round(4).tolist()
            result["gain_standard_error"] = (difference.std(0, ddof=1) / len(difference) ** 0.5).round(4).tolist()
            result["models_won"] = (difference > 0).sum(0).tolist()
        return result


def group_keep_ratios(metanet, models, calibration, speedups) -> np.ndarray:
    """Mean share of channels that the metanetwork keeps in each group of the models, float [num_speedups, num_groups]."""
    ratios = []
    for model in models:
        trace = trace_model(model)
        weights, score = generate(metanet, trace, channel_statistics(trace, calibration))
        group = trace.channels.group_of_unit
        plans = [make_plan(trace, "group_l2", speedup=speedup, weights=weights, score=score) for speedup in speedups]
        ratios.append([np.bincount(group, plan.keep) / np.bincount(group) for plan in plans])
    return np.mean(ratios, 0)


def _fixed_allocation(trace, ratios):
    """Keeps the given share of every group, the largest group L2 first: the control for *how many* against *which*."""
    group, keep = trace.channels.group_of_unit, np.ones(trace.channels.num_units, bool)
    scores = normalized_score(unit_importance(trace), group).numpy()
    scores[list(trace.channels.frozen)] = np.inf
    for index, ratio in enumerate(ratios):
        units = np.flatnonzero(group == index)
        keep[units[np.argsort(scores[units])][: len(units) - max(1, round(ratio * len(units)))]] = False
    keep[list(trace.channels.frozen)] = True
    return plan_from_keep(trace, keep)


def pruning_curve(models, calibration, x, y, *, metanet=None, training_models=(), speedups=SPEEDUPS,
                  baselines=BASELINES, progress=None) -> Curve:  # fmt: skip
    """Measures the accuracy right after pruning and BN re-estimation, with no fine-tuning.

    Args:
      models: held-out trained models, logits out.
      calibration: batched dataset of (images, labels) for the statistics and for BN; its labels are not used.
      x: images [n, ...] to measure on.
      y: int labels [n].
      metanet: the `MetaNetwork` to judge, or None for the criteria alone.
      training_models: models the metanetwork was trained on; with them the control "allocation" is measured as well: the
        mean number of channels the metanetwork keeps in each of *their* groups, ordered by group L2.
      speedups: MACs ratios.
      baselines: criteria to compare with; with "_one_shot" after the name all channels go in one step.
      progress: called with a line of text after each model.

    Returns:
      The `Curve`.
    """
    methods = [*baselines, *(["metanetwork"] if metanet else []), *(["allocation"] if metanet and training_models else [])]
    result = {method: [] for method in methods}
    unpruned = []
    if "allocation" in methods:
        ratios = group_keep_ratios(metanet, training_models, calibration, speedups)
    for number, model in enumerate(models):
        trace = trace_model(model)
        statistics = channel_statistics(trace, calibration)
        generated = generate(metanet, trace, statistics) if metanet else None
        unpruned.append(accuracy(model, x, y))
        for method in methods:
            row = []
            for k, speedup in enumerate(speedups):
                weights = score = None
                if method == "metanetwork":
                    weights, score = generated
                if method == "allocation":
                    plan = _fixed_allocation(trace, ratios[k])
                else:
                    criterion = "group_l2" if method == "metanetwork" else method.removesuffix("_one_shot")
                    plan = make_plan(
                        trace, criterion, speedup=speedup, score=score, weights=weights, statistics=statistics, seed=number,
                        step=1.0 if method.endswith("_one_shot") else None,
                    )  # fmt: skip
                small = reestimate_bn(rebuild_model(trace, plan, weights), calibration)
                row.append(accuracy(small, x, y))
            result[method].append(row)
        if progress is not None:
            progress(f"{model.name} ({number + 1} of {len(models)}): unpruned {unpruned[-1]:.3f}")
    return Curve(tuple(speedups), result, unpruned)
