"""The objective that metanetworks are chosen by: the area under accuracy against the logarithm of the speed-up, on validation models."""

import functools
import hashlib
import json
import math
import pathlib
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from tfmetaprune._keras import keras, tf
from tfmetaprune.errors import ArgumentError, NothingToPruneError
from tfmetaprune.finetuning import finetune_model
from tfmetaprune.graph import channel_statistics
from tfmetaprune.metanet import MetaNetwork
from tfmetaprune.metanet.generate import generate
from tfmetaprune.metatrain.data_models import BATCH_SIZE, DataModelFile
from tfmetaprune.metatrain.zoo import accuracy, append_line, dataset_arrays
from tfmetaprune.pruning import PruningPlan, check_repair, make_plan, rebuild_model, repair_model, replace_weights
from tfmetaprune.trace import ModelTrace, trace_model

SPEEDUPS = (2.0, 3.0, 4.0, 6.0, 8.0, 12.0)  # beside 1, the network as it is
BUDGETS = (0, 1, 15)
REPAIRS = ("bn", "least_squares")
NONE = "none"  # the name of the pipeline without a metanetwork


class Judge(NamedTuple):
    """A data model that metanetworks are judged on.

    Attributes:
      name: of its file, without the ending.
      family: of its architecture.
      trace: the traced model.
      train: batched dataset of (x, labels): for statistics and repair, without the labels, and for fine-tuning.
      x: inputs [n, ...] to measure the accuracy on.
      y: int labels [n].
      statistics: float32 [num_units, S], the channel statistics.
      unpruned: accuracy as it is, in [0, 1].
    """

    name: str
    family: str
    trace: ModelTrace
    train: tf.data.Dataset
    x: np.ndarray
    y: np.ndarray
    statistics: np.ndarray
    unpruned: float


def make_judge(model, train, x, y, *, name=None, family="") -> Judge:
    """Prepares a trained model that puts out logits to judge metanetworks on; see `Judge`."""
    trace = trace_model(model)
    return Judge(name or model.name, family, trace, train, x, y, channel_statistics(trace, train), accuracy(model, x, y))


def load_judges(folder, files: Sequence[DataModelFile], split="validation", progress=None) -> list[Judge]:
    """Loads data models of a zoo with their data.

    Args:
      folder: of the zoo.
      files: the data models.
      split: "validation", or "test" for a final table that nothing is chosen by.
      progress: called with each file when it is ready.
    """
    if split not in ("validation", "test"):
        raise ArgumentError(f"select: expected split to be validation or test, got {split!r}. Use 'validation'.")
    data, judges = functools.cache(_arrays), []
    for file in files:
        x, y = data(file.data, split)
        train = tf.data.Dataset.from_tensor_slices(data(file.data, "train")).batch(BATCH_SIZE)
        model = file.load(folder)
        judges.append(make_judge(model, train, x, y, name=file.file_name.removesuffix(".keras"), family=file.family))
        if progress is not None:
            progress(file)
    return judges


def _arrays(name, split):
    from tfmetaprune.data import load

    return dataset_arrays(getattr(load(name), split))


def area(speedups, accuracies, unpruned) -> float:
    """Returns the area under accuracy / log speed-up from 1x on, divided by the log of the last speed-up: a mean accuracy.

    Args:
      speedups: MACs ratios above 1, rising.
      accuracies: the accuracy at each.
      unpruned: the accuracy at 1x.

    Example:
      >>> round(area((2.0, 4.0), (0.5, 0.5), 1.0), 3)
      0.625
    """
    x, y = np.log([1.0, *speedups]), np.array([unpruned, *accuracies], float)
    return float(np.sum(0.5 * (y[1:] + y[:-1]) * np.diff(x)) / x[-1])


def accuracies(judge: Judge, metanet, *, speedup, repair="bn", budgets=(0,), seed=0) -> list[float]:
    """Prunes and repairs a validation model as `prune` does, and fine-tunes it for each budget.

    Args:
      judge: the validation model.
      metanet: a `MetaNetwork` or another function of graphs; None for the pipeline without one. Or what `generated` returned.
      speedup: the MACs ratio.
      repair: as for `prune`.
      budgets: numbers of epochs; each is a fine-tuning of its own with the defaults of `prune`.
      seed: of everything random.

    Returns:
      The accuracy for each budget; 0 if the speed-up is out of reach.
    """
    weights, score = metanet if isinstance(metanet, tuple) else generated(judge, metanet)
    try:
        plan = make_plan(
            judge.trace, speedup=speedup, score=score, weights=weights, seed=seed,
            step=1.0 if repair in ("default", "least_squares") else None,
        )  # fmt: skip
    except NothingToPruneError:
        return [0.0] * len(budgets)
    small = repaired_models(judge, plan, weights, repair=repair, budgets=budgets, seed=seed)
    return [accuracy(model, judge.x, judge.y) for model in small]


def repaired_models(judge: Judge, plan: PruningPlan, weights=None, *, repair="bn", budgets=(0,), seed=0) -> Iterator:
    """Yields what a plan leaves of a validation model: repaired as by `prune`, and fine-tuned for each budget.

    Args:
      judge: the validation model.
      plan: what remains of it.
      weights: a metanetwork's, as for `rebuild_model`; None for its own.
      repair: as for `prune`.
      budgets: numbers of epochs; each is a fine-tuning of its own with the defaults of `prune`.
      seed: of everything random.
    """
    small = rebuild_model(judge.trace, plan, weights)
    if repair is not None:
        small, _ = repair_model(judge.trace, plan, small, judge.train, repair, weights=weights, seed=seed)
    for epochs in budgets:
        tuned = small
        if epochs:
            keras.utils.set_random_seed(seed)
            tuned = replace_weights(small, {})
            examples = int(judge.train.cardinality())
            finetune_model(tuned, judge.train.unbatch().shuffle(examples * BATCH_SIZE, seed=seed).batch(BATCH_SIZE), epochs=epochs)
        yield tuned


def generated(judge: Judge, metanet):
    """Returns what a metanetwork makes of a validation model: weights and scores; (None, None) for None."""
    return (None, None) if metanet is None else generate(metanet, judge.trace, judge.statistics)


def pruning_objective(metanet, judges: Sequence[Judge], *, repair="bn", budget=0, speedups=SPEEDUPS, seed=0) -> np.ndarray:
    """Returns the objective on each validation model, float [num_judges]; the higher the better.

    Args:
      metanet: a `MetaNetwork`; None for the pipeline without one.
      judges: the validation models.
      repair: as for `prune`.
      budget: epochs of fine-tuning.
      speedups: MACs ratios, beside 1.
      seed: of everything random.
    """
    rows = []
    for judge in judges:
        made = generated(judge, metanet)
        row = [accuracies(judge, made, speedup=s, repair=repair, budgets=(budget,), seed=seed)[0] for s in speedups]
        rows.append(area(speedups, row, judge.unpruned))
    return np.array(rows)


def select(
    metanets: Mapping, judges: Sequence[Judge], folder, *, repairs=REPAIRS, budgets=BUDGETS, speedups=SPEEDUPS, seed=0,
    progress=None,
) -> dict:  # fmt: skip
    """Judges metanetworks, and the pipeline without any, by the objective.

    Everything measured is appended to `measured.jsonl`, so that an interrupted run goes on.

    Args:
      metanets: name -> `MetaNetwork`.
      judges: the validation models.
      folder: where the measurements go.
      repairs: of the pipelines, each judged by itself.
      budgets: numbers of epochs.
      speedups: MACs ratios, beside 1.
      seed: of everything random.
      progress: called as `progress(done, total)`, in curves.

    Returns:
      What `summarize` returns.

    Raises:
      ArgumentError: a metanetwork has the name of the pipeline without one, there is no repair of a name, or nothing to do.
    """
    for repair in repairs:
        if repair is not None:
            check_repair(repair)
    if NONE in metanets or not judges or not budgets or not repairs:
        raise ArgumentError(
            f"select: expected validation models, budgets, repairs, and no metanetwork called {NONE!r}, got {len(judges)} models, "
            f"{list(budgets)}, {list(repairs)}, {list(metanets)}. Rename the file or give what is missing."
        )
    speedups = sorted(map(float, speedups))
    if not speedups or not all(1 < speedup < math.inf for speedup in speedups) or min(budgets) < 0:
        raise ArgumentError(
            f"select: expected speed-ups above 1 and budgets of 0 epochs or more, got {speedups} and {list(budgets)}. "
            f"The objective begins at 1x by itself."
        )
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    log, done = folder / "measured.jsonl", {}
    for line in log.read_text(encoding="utf-8").splitlines() if log.exists() else ():
        entry = json.loads(line)
        done[tuple(entry["key"])] = entry["accuracy"]
    ways, values = {NONE: None, **metanets}, {}
    names = {name: name if metanet is None else f"{name} {digest(metanet)}{_config_digest(metanet)}" for name, metanet in ways.items()}
    count, total = 0, len(judges) * len(repairs) * len(ways)
    for judge in judges:
        for name, metanet in ways.items():
            made = None
            for repair in repairs:
                for speedup in speedups:
                    what = judge.name, digest(judge.trace.model), zlib.crc32(np.ascontiguousarray(judge.x)), names[name]
                    keys = [(*what, repair, speedup, epochs, seed) for epochs in budgets]
                    left = [epochs for epochs, key in zip(budgets, keys) if key not in done]
                    if left:
                        started = time.perf_counter()
                        made = made or generated(judge, metanet)
                        got = accuracies(judge, made, speedup=speedup, repair=repair, budgets=left, seed=seed)
                        seconds = round((time.perf_counter() - started) / len(left), 2)
                        for epochs, value in zip(left, got):
                            key = keys[list(budgets).index(epochs)]
                            done[key] = value
                            append_line(log, {"key": key, "accuracy": value, "seconds": seconds})
                    for epochs, key in zip(budgets, keys):
                        values[judge.name, name, repair, epochs, speedup] = done[key]
                count += 1
                if progress is not None:
                    progress(count, total)
    return summarize(values, judges, tuple(ways), repairs, budgets, speedups)


def summarize(values, judges, names, repairs, budgets, speedups) -> dict:
    """Puts measurements together.

    Args:
      values: (judge's name, way, repair, budget, speed-up) -> accuracy.
      judges: the validation models.
      names: the ways; differences are to `NONE`.
      repairs: as for `select`.
      budgets: as for `select`.
      speedups: as for `select`.

    Returns:
      A JSON-able dict. Under "results" for each repair and budget: for each way the mean accuracy at each speed-up, the mean
      objective, and but for the pipeline without a metanetwork the paired differences of the objective with their 95 %
      intervals (Student's t over models), all together and by family. "scores" are the mean objectives over the budgets, each with
      the repair that suits the way best; the highest is the "winner".
    """
    families = sorted({judge.family for judge in judges})
    results, objectives = [], {}
    for repair in repairs:
        for budget in budgets:
            entry = {"repair": repair, "budget": budget, "ways": {}}
            rows = {
                name: np.array([[values[judge.name, name, repair, budget, s] for s in speedups] for judge in judges])
                for name in names
            }
            areas = {
                name: np.array([area(speedups, row, judge.unpruned) for row, judge in zip(rows[name], judges)]) for name in names
            }
            for name in names:
                objectives[name, repair, budget] = areas[name].mean()
                found = {"accuracy": rows[name].mean(0).round(4).tolist(), "objective": round(float(areas[name].mean()), 4)}
                if name != NONE:
                    difference = areas[name] - areas[NONE]
                    found["difference"] = paired(difference)
                    found["by_family"] = {
                        family: paired(difference[[judge.family == family for judge in judges]]) for family in families
                    }
                entry["ways"][name] = found
            results.append(entry)
    scores = {
        name: float(np.mean([max(objectives[name, repair, budget] for repair in repairs) for budget in budgets])) for name in names
    }
    return {
        "speedups": list(speedups), "models": [judge.name for judge in judges],
        "unpruned": round(float(np.mean([judge.unpruned for judge in judges])), 4),
        "results": results, "scores": {name: round(score, 4) for name, score in scores.items()},
        "winner": max(scores, key=lambda name: (scores[name], name == NONE)),
    }  # fmt: skip


def paired(differences) -> dict:
    """Returns the mean of differences, its 95 % interval (None for fewer than two), and how many are above zero.

    Example:
      >>> paired(np.array([0.01, 0.03]))
      {'mean': 0.02, 'interval': [-0.1071, 0.1471], 'won': 1.0, 'num_models': 2}
    """
    mean, interval = mean_and_interval(differences)
    interval = interval and [round(end, 4) for end in interval]
    won = float(np.mean(differences > 0))
    return {"mean": round(mean, 4), "interval": interval, "won": round(won, 4), "num_models": len(differences)}


def mean_and_interval(values) -> tuple[float, tuple[float, float] | None]:
    """Returns the mean of values [n] and its 95 % interval by Student's t, None for fewer than two."""
    from scipy import stats

    count, mean = len(values), float(np.mean(values))
    if count < 2:
        return mean, None
    margin = float(stats.t.ppf(0.975, count - 1) * np.std(values, ddof=1) / count**0.5)
    return mean, (mean - margin, mean + margin)


def _config_digest(metanet) -> str:
    """Tells metanetworks of equal weights apart that compute something else with them; nothing for other functions of graphs."""
    if not isinstance(metanet, MetaNetwork):
        return ""
    return f" {zlib.crc32(json.dumps(metanet.config.to_dict(), sort_keys=True).encode()):08x}"


def digest(model) -> str:
    """Returns a few letters that tell the weights of models apart; the name of a function that has none."""
    if not hasattr(model, "get_weights"):
        return getattr(model, "__name__", type(model).__name__)
    digest = hashlib.sha256()
    for value in model.get_weights():
        digest.update(np.ascontiguousarray(value).tobytes())
    return digest.hexdigest()[:8]
