"""The main job: trace -> metanetwork -> plan -> rebuild -> repair -> fine-tune; and the ways in and out of graphs."""

import contextlib
import dataclasses
import math
import numbers
import random
from collections.abc import Mapping
from typing import Any

import numpy as np

import tfmetaprune
from tfmetaprune._keras import keras, tf
from tfmetaprune.data import as_dataset, check_data
from tfmetaprune.errors import ArgumentError
from tfmetaprune.finetuning import DEFAULT_EPOCHS, check_finite, evaluate_model, finetune_model, is_labelled, own_losses
from tfmetaprune.graph import channel_statistics, decode_graph, encode_graph
from tfmetaprune.interop import carry
from tfmetaprune.metanet.generate import generate
from tfmetaprune.metanet.pretrained import DEFAULT_NAME, load_metanetwork
from tfmetaprune.pruning import (
    CRITERIA,
    NEEDING_DATA,
    REPAIRS,
    PruningPlan,
    channel_groups,
    cost,
    make_plan,
    rebuild_model,
    repair_model,
    replace_weights,
)
from tfmetaprune.report.progress import progress_bar
from tfmetaprune.trace import ModelTrace, trace_model

BATCH_SIZE = 128


@dataclasses.dataclass(frozen=True, eq=False)
class PruneResult:
    """What `prune` returns.

    Attributes:
      model: the smaller model, a plain model of the caller's own Keras.
      plan: which channels went, a `PruningPlan`.
      report: what happened, a dict that `json.dumps` accepts: MACs, parameters, loss and accuracy after each step,
        the width of every group, what had to stay and why.
      history: metric name -> values per epoch of the fine-tuning, or what a callable `finetune` returned; None without.
    """

    model: Any
    plan: PruningPlan
    report: dict
    history: Any


@dataclasses.dataclass(frozen=True)
class Inspection:
    """What can be pruned of a model, and what cannot.

    Attributes:
      name: the model's name.
      groups: one dict for each channel group: "name", "channels", "frozen_channels", "prunable", "layers", "frozen"
        (why channels have to stay, None if none has to).
      frozen: reason -> number of channels that have to stay for it.
      unknown_layers: the layers of kinds without a LayerSpec, as "'mix' (Lambda)".
      macs: multiply-accumulates of one forward pass of one example.
      parameters: numbers held in variables.
      prunable_macs_share: share in [0, 1] of the MACs that read or make a channel that may go.
    """

    name: str
    groups: tuple[dict, ...]
    frozen: dict[str, int]
    unknown_layers: tuple[str, ...]
    macs: int
    parameters: int
    prunable_macs_share: float

    def to_dict(self) -> dict:
        """Returns the fields as a dict that `json.dumps` accepts."""
        return dataclasses.asdict(self)


def prune(
    model, train_data=None, *, validation_data=None, speedup=2.0, method="structured", criterion="group_l2",
    metanetwork="default", finetune="default", repair="default", distill=False, seed=0,
) -> PruneResult:  # fmt: skip
    """Makes a trained network smaller: whole channels go, the rest is repaired and fine-tuned.

    The model that is passed in is never modified. Everything random follows `seed`: `random` and `numpy.random` are set
    to it meanwhile and get their state back; TensorFlow's global seed can be set but not read, and stays at `seed`.

    Args:
      model: a trained functional or Sequential model of Keras 2 (tf_keras) or Keras 3.
      train_data: a batched `tf.data.Dataset` of (x, y), or arrays (x, y), which are shuffled. Used by the metanetwork
        and the repair, for which x is enough, and by the fine-tuning. None if all of these are None.
      validation_data: the same; the report holds the loss and accuracy on it after each step. Chooses nothing.
      speedup: the MACs ratio to reach, at least 1.
      method: "structured" (whole channels).
      criterion: "group_l2", "group_l2_max", "fisher", "random", or a callable(trace) -> importance, float [num_units].
      metanetwork: the name of a shipped metanetwork ("default" is "digits"), the path of another, a `MetaNetwork` or
        another function of graphs (docs/own_metanetwork.md), or None.
      finetune: "default" (Adam from 1e-3, cosine to 0, 15 epochs, the model's own compiled loss, else the usual one for
        its outputs), a number of epochs of the same, a callable(model, train_data, validation_data) -> history that
        gets the data as they were passed in, or None.
      repair: "least_squares" (the weights that remain are fitted layer by layer so that each layer makes what it made
        before, on up to 1,024 inputs without labels), "bn" (the statistics of BatchNormalization are estimated again), "data_free"
        (averages of what is gone are put into biases and statistics), "default" ("least_squares", or "data_free" without
        `train_data`) or None.
      distill: whether the default fine-tuning draws the outputs to those of the model as it was, beside the loss; each step
        then runs that model too.
      seed: of everything random, 0 <= seed < 2**32.

    Returns:
      A `PruneResult`. Its model is compiled as the caller's was, with a fresh optimizer; a callable `finetune` may
      compile it otherwise.

    Raises:
      ArgumentError: an argument has a value that cannot be used, or `train_data` is missing.
      UnsupportedModelError: the model cannot be traced or rebuilt, or has NaN weights.
      DataError: the data do not fit the model.
      MetaNetworkError: the metanetwork is unknown, unreadable, or of another graph schema.
      NothingToPruneError: no channel can go, or the speed-up is out of reach.
    """
    _check_arguments(speedup, method, criterion, metanetwork, finetune, repair, seed)
    _check_train_data(train_data, criterion, metanetwork, finetune, repair)
    with _seeded(seed):
        losses = own_losses(model)
        model, back = carry(model)
        trace = trace_model(model)
        train = None if train_data is None else _shuffled(train_data, seed)
        if train is not None:
            check_data(train, model, needs_labels=finetune is not None and not callable(finetune))
            check_finite(train)
        validation = None if validation_data is None else as_dataset(validation_data)
        if validation is not None:
            check_data(validation, model, needs_labels=is_labelled(validation))
            check_finite(validation)
        network = _find_metanetwork(metanetwork)

        def evaluate(candidate):
            return {} if validation is None else evaluate_model(candidate, validation, losses)

        original = cost(trace)
        steps = {"before": {"macs": original.macs, "parameters": original.parameters, **evaluate(model)}}
        rewritten = rewrite(trace, network, train, criterion=criterion, seed=seed)
        step = 1.0 if repair == "least_squares" or (repair == "default" and train is not None) else None
        small, plan = shrink(trace, rewritten, speedup=speedup, criterion=criterion, step=step, seed=seed)
        left = cost(trace, plan.keep)
        steps["pruned"] = {"macs": left.macs, "parameters": left.parameters, **evaluate(small)}
        repaired = None
        if repair is not None:
            with progress_bar("Repairing what remains"):
                small, repaired = repair_model(trace, plan, small, train, repair, weights=rewritten.weights, seed=seed)
            steps["repaired"] = evaluate(small)
        history = None
        if callable(finetune):
            result = back(small)
            history = finetune(result, train_data, validation_data)
            history = getattr(history, "history", history)
            small = carry(result)[0]
        else:
            if finetune is not None:
                epochs = DEFAULT_EPOCHS if finetune == "default" else finetune
                teacher = model if distill else None
                history = finetune_model(small, train, validation, losses=losses, epochs=epochs, teacher=teacher)
            result = back(small)
        if finetune is not None:
            steps["finetuned"] = evaluate(small)
    report = {
        "tfmetaprune": tfmetaprune.__version__,
        "method": method,
        "criterion": criterion if isinstance(criterion, str) else _name(criterion),
        "metanetwork": _metanetwork_name(metanetwork),
        "repair": repaired,
        "finetune": _name(finetune) if callable(finetune) else finetune,
        "distill": bool(distill),
        "seed": int(seed),
        "speedup": {"target": float(speedup), "reached": plan.speedup},
        **steps,
        "widths": {
            group.name: {"before": group.size, "after": int(np.count_nonzero(plan.keep[group.units]))}
            for group in plan.groups
        },
        "frozen": _frozen(trace),
        "unknown_layers": _unknown_layers(trace),
    }
    return PruneResult(result, plan, report, history)


def encode(model):
    """Encodes a model as a graph: one node a channel, one edge a pair of channels and weight.

    Args:
      model: a functional or Sequential model of either Keras; it is not modified.

    Returns:
      A scalar `tfgnn.GraphTensor` that holds every weight of the model, see `graph/schema.py`.

    Raises:
      UnsupportedModelError: the model cannot be traced, or has NaN weights.
    """
    return encode_graph(trace_model(carry(model)[0]))


def decode(graph, model):
    """Decodes a graph: the inverse of `encode`, bit for bit.

    Args:
      graph: a `GraphTensor` made by `encode(model)`, as it was or with other numbers.
      model: the model that was encoded; it is not modified.

    Returns:
      A new model of the same structure with the weights of the graph.

    Raises:
      UnsupportedModelError: the model cannot be traced, or has NaN weights.
      ArgumentError: the graph was made from a model of another structure.
    """
    model, back = carry(model)
    return back(replace_weights(model, decode_graph(graph, trace_model(model))))


def inspect(model) -> Inspection:
    """Tells what can be pruned of a model, what cannot, and why.

    Args:
      model: a functional or Sequential model of either Keras; it is not modified.

    Raises:
      UnsupportedModelError: the model cannot be traced, or has NaN weights.
    """
    trace = trace_model(carry(model)[0])
    whole = cost(trace)
    frozen = np.zeros(trace.channels.num_units, bool)
    frozen[list(trace.channels.frozen)] = True
    groups = tuple(
        {
            "name": group.name, "channels": group.size, "frozen_channels": group.num_frozen, "prunable": group.prunable,
            "layers": list(group.members), "frozen": group.frozen,
        }
        for group in channel_groups(trace)
    )  # fmt: skip
    share = 1 - cost(trace, frozen).macs / whole.macs if whole.macs else 0.0
    return Inspection(
        trace.model.name, groups, _frozen(trace), tuple(_unknown_layers(trace)), whole.macs, whole.parameters, share
    )


@dataclasses.dataclass(frozen=True, eq=False)
class Rewritten:
    """What is known about a traced model before it is pruned; the same for all speed-ups.

    Attributes:
      weights: (layer name, weight name) -> tensor, made by the metanetwork; None without one.
      score: float32 [num_units], what the metanetwork adds to the criterion; None without one.
      statistics: float32 [num_units, S], the channel statistics; None where nobody needs them.
    """

    weights: Mapping | None = None
    score: np.ndarray | None = None
    statistics: np.ndarray | None = None


def rewrite(trace: ModelTrace, metanetwork, dataset, *, criterion="group_l2", seed=0) -> Rewritten:
    """Lets a metanetwork rewrite the weights of a traced model.

    Args:
      trace: the traced model.
      metanetwork: a `MetaNetwork`, or None.
      dataset: batches of (x, ...), for the channel statistics; None if nobody needs them.
      criterion: as for `prune`.
      seed: of the labels that are sampled for the Fisher information.
    """
    statistics = None
    if metanetwork is not None or criterion == "fisher":
        with progress_bar("Measuring channel statistics"):
            statistics = channel_statistics(trace, dataset, seed=seed)
    if metanetwork is None:
        return Rewritten(statistics=statistics)
    with progress_bar("Running the metanetwork"):
        weights, score = generate(metanetwork, trace, statistics)
    return Rewritten(weights, score, statistics)


def shrink(trace: ModelTrace, rewritten: Rewritten, *, speedup, criterion="group_l2", step=None, seed=0):
    """Plans and rebuilds: the smaller model, not yet repaired, and its plan.

    Args:
      trace: the traced model.
      rewritten: of `rewrite`.
      speedup: as for `prune`.
      criterion: as for `prune`.
      step: as for `make_plan`; before a repair by least squares all channels go in one step, which was measured to be better.
      seed: as for `prune`.

    Raises:
      NothingToPruneError: no channel can go, or the speed-up is out of reach.
    """
    plan = make_plan(
        trace, criterion, speedup=speedup, score=rewritten.score, weights=rewritten.weights,
        statistics=rewritten.statistics, step=step, seed=seed,
    )  # fmt: skip
    return rebuild_model(trace, plan, rewritten.weights), plan


def _shuffled(data, seed):
    """A batched dataset of the caller's data: theirs, or their arrays shuffled anew in each iteration."""
    if isinstance(data, tf.data.Dataset):
        return as_dataset(data)
    examples = as_dataset(data, batch_size=1)
    count = max(1, int(examples.cardinality()))
    batches = examples.shuffle(count, seed=seed).rebatch(BATCH_SIZE)
    return batches.apply(tf.data.experimental.assert_cardinality(math.ceil(count / BATCH_SIZE)))


@contextlib.contextmanager
def _seeded(seed):
    states = random.getstate(), np.random.get_state()
    keras.utils.set_random_seed(int(seed))
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])


def _find_metanetwork(metanetwork):
    if metanetwork is None or callable(metanetwork):
        return metanetwork
    return load_metanetwork(metanetwork)


def _metanetwork_name(metanetwork):
    if metanetwork is None:
        return None
    if callable(metanetwork):
        return getattr(metanetwork, "name", _name(metanetwork))
    return DEFAULT_NAME if metanetwork == "default" else str(metanetwork)


def _frozen(trace) -> dict[str, int]:
    reasons = list(trace.channels.frozen.values())
    return {reason: reasons.count(reason) for reason in dict.fromkeys(reasons)}


def _unknown_layers(trace) -> list[str]:
    return list(dict.fromkeys(channels.call.title for channels in trace.channels.calls if channels.spec is None))


def _name(function) -> str:
    return getattr(function, "__name__", type(function).__name__)


def _check_arguments(speedup, method, criterion, metanetwork, finetune, repair, seed):
    is_number = isinstance(speedup, numbers.Real) and not isinstance(speedup, bool)
    if not is_number or not math.isfinite(speedup) or speedup < 1:
        raise ArgumentError(f"prune: expected speedup to be a number >= 1, got {speedup!r}. Try 2.0.")
    if method != "structured":
        raise ArgumentError(f"prune: expected method='structured', got {method!r}. Use that one.")
    if not callable(criterion) and criterion not in CRITERIA:
        raise ArgumentError(
            f"prune: expected criterion to be one of {', '.join(CRITERIA)} or a callable, got {criterion!r}. "
            f"Use 'group_l2'."
        )
    is_named = isinstance(metanetwork, str) or hasattr(metanetwork, "__fspath__")
    if not (metanetwork is None or is_named or callable(metanetwork)):
        raise ArgumentError(
            f"prune: expected metanetwork to be a name, a path, a MetaNetwork, a function of graphs or None, got "
            f"{metanetwork!r}. Use 'default', or None to leave it out."
        )
    is_count = isinstance(finetune, numbers.Integral) and not isinstance(finetune, bool) and finetune >= 1
    is_default = isinstance(finetune, str) and finetune == "default"
    if not (finetune is None or callable(finetune) or is_count or is_default):
        raise ArgumentError(
            f"prune: expected finetune to be 'default', a number of epochs >= 1, a callable or None, got {finetune!r}. "
            f"Use None to leave it out."
        )
    if not (repair is None or (isinstance(repair, str) and repair in REPAIRS)):
        raise ArgumentError(f"prune: expected repair to be one of {', '.join(REPAIRS)} or None, got {repair!r}. Use 'default'.")
    if not isinstance(seed, numbers.Integral) or not 0 <= seed < 2**32:
        raise ArgumentError(f"prune: expected seed to be an integer in 0..2**32 - 1, got {seed!r}. Use 0.")


def _check_train_data(train_data, criterion, metanetwork, finetune, repair):
    if train_data is not None:
        return
    needing = {
        "metanetwork": metanetwork,
        "repair": repair if repair in NEEDING_DATA else None,
        "finetune": None if callable(finetune) else finetune,
    }
    needing = {name: value for name, value in needing.items() if value is not None}
    if needing:
        named = ", ".join(
            f"{name}={value.name if callable(value) and hasattr(value, 'name') else repr(value)}" for name, value in needing.items()
        )
        nones = ", ".join(f"{name}=None" for name in needing)
        raise ArgumentError(f"prune: expected train_data for {named}, got None. Pass train_data, or set {nones}.")
    if criterion == "fisher":
        raise ArgumentError("prune: expected train_data for criterion='fisher', got None. Pass some.")
