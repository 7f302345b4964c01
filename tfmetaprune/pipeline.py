"""The main job: trace -> metanetwork -> plan -> rebuild -> repair -> fine-tune; and the ways in and out of graphs."""

import contextlib
import dataclasses
import random
from typing import Any

import numpy as np

import tfmetaprune
from tfmetaprune._keras import keras
from tfmetaprune.arguments import (
    check_arguments,
    check_search,
    check_targets,
    check_train_data,
    refuse_unused,
    zeros_repair,
)
from tfmetaprune.choosing import choose_channels, rewrite
from tfmetaprune.data import as_dataset, check_data
from tfmetaprune.data.conversion import shuffled_dataset
from tfmetaprune.finetuning import (
    DEFAULT_EPOCHS,
    check_finite,
    check_loss,
    evaluate_model,
    finetune_model,
    is_labelled,
    own_losses,
)
from tfmetaprune.graph import decode_graph, encode_graph
from tfmetaprune.inspection import frozen_units, unknown_layers
from tfmetaprune.interop import carry
from tfmetaprune.metanet.pretrained import as_metanetwork
from tfmetaprune.preparation import check_preparation, prepare_model
from tfmetaprune.pruning import (
    PruningPlan,
    cost,
    make_plan,
    reestimate_bn,
    repair_model,
    replace_weights,
)
from tfmetaprune.pruning.sparse import SparsePlan, SparseSteps, sparse_method
from tfmetaprune.record import record_network
from tfmetaprune.report.folder import atomic_folder, write_result
from tfmetaprune.report.progress import progress_bar
from tfmetaprune.trace import trace_model
from tfmetaprune.ways import ways_to_try


@dataclasses.dataclass(frozen=True, eq=False)
class PruneResult:
    """What `prune` returns.

    Attributes:
      model: the smaller model, of the caller's own Keras, and of the same class where that can be made anew.
      plan: which channels went, a `PruningPlan`; a `SparsePlan` where none went but weights became zero.
      report: what happened, a dict that `json.dumps` accepts: MACs, parameters, loss and accuracy after each step,
        the width of every group, what had to stay and why.
      history: metric name -> values per epoch of the fine-tuning, or what a callable `finetune` returned; None without.
      network: what the HTML report draws: every layer, channel and histogram, see `record.record_network`.
    """

    model: Any
    plan: PruningPlan | SparsePlan
    report: dict
    history: Any
    network: dict | None = None

    def save(self, folder):
        """Writes model.keras, plan.json, report.json and network.json, from which `tfmetaprune report FOLDER` makes a page.

        Args:
          folder: where to; made if it does not exist.

        Raises:
          ArgumentError: the folder cannot be written.
        """
        with atomic_folder(folder) as temporary:
            write_result(temporary, self)


def prune(
    model, train_data=None, *, validation_data=None, speedup=None, method="structured", criterion="default",
    metanetwork="default", finetune="default", repair="default", distill=False, round_to=None, traffic_weight=0.0, latency_ms=None,
    latency_speedup=None, seed=0, sparsity=None, block_shape=(1, 4), scope="global", schedule="polynomial", prepare=None,
    prepare_epochs=None, prepare_learning_rate=None, search_steps=0,
) -> PruneResult:  # fmt: skip
    """Makes a trained network smaller: whole channels go, or weights become zero; the rest is repaired and fine-tuned.

    The model that is passed in is never modified. Everything random follows `seed`: `random` and `numpy.random` are set
    to it meanwhile and get their state back; TensorFlow's global seed can be set but not read, and stays at `seed`.

    Args:
      model: a trained functional or Sequential model of Keras 2 (tf_keras) or Keras 3.
      train_data: a batched `tf.data.Dataset` of (x, y), or arrays (x, y), which are shuffled. Used to choose
        channels and by the repair, for which x is enough, and by the fine-tuning. None if all of these are None.
      validation_data: the same; the report holds the loss and accuracy on it after each step. Chooses nothing.
      speedup: the MACs ratio to reach, at least 1, for methods that remove channels; 2 unless something else is asked for.
      method: "structured" (whole channels); or zeros in place of weights, found by magnitude and set by TF-MOT's wrappers:
        "unstructured" (single weights), "N:M" such as "2:4" (N of every M weights in a row along the input axis stay), "block"
        (blocks of `block_shape`), "xnnpack" (the 1x1 convolutions of models that TF-MOT's policy for XNNPACK accepts);
        or "structured+unstructured", one after the other. Layers that stay dense are named in the report, with why.
      criterion: "group_l2", "group_l2_max", "fisher", "group_l2_fisher" (both added), "random", or a callable(trace) -> importance,
        float [num_units]. "default" is "group_l2", or where ways are tried the better of this and "group_l2_fisher": see `metanetwork`.
      metanetwork: the name of a shipped metanetwork, the path of another, a `MetaNetwork` or another function of graphs
        (docs/own_metanetwork.md), or None. "default" tries "universal" on top of group L2, and none, where channels go, there are
        `train_data`, no criterion is named and no training goes before: the network is pruned and repaired in each way that is left
        open, and the one is kept that puts out what is nearest to what the model put out, on up to 1,024 inputs without labels. The
        report tells the error of each, relative to the variance of the outputs ("ways"), and why no metanetwork was tried
        ("metanetwork_note"). Where channels go and no least squares follow, any metanetwork is tried at four strengths: its ranking with
        the weights it makes, with half of their change, and with the model's own; and half of its ranking, half of "group_l2_fisher"'s,
        with the model's own.
        With zeros, magnitudes are those of the weights it makes, and its scores tell with scope "global" which kernels keep more.
      finetune: "default" (Adam from 1e-3, cosine to 0, 15 epochs, the model's own compiled loss, else the usual one for
        its outputs), a number of epochs of the same, a callable(model, train_data, validation_data) -> history that
        gets the data as they were passed in, or None. Zeros stay zero, bit for bit: in the default fine-tuning TF-MOT's wrappers
        mask them in every step; a callable gets a plain model with the zeros in it, whose variables have constraints
        meanwhile, so that every optimizer of Keras keeps them, and what else it may have done to them is undone afterwards.
      repair: "least_squares" (the weights that remain are fitted layer by layer so that each layer makes what it made
        before, on up to 1,024 inputs without labels), "bn" (the statistics of BatchNormalization are estimated again), "data_free"
        (averages of what is gone are put into biases and statistics), "default" ("least_squares", or "data_free" without
        `train_data`) or None. With zeros alone "bn" or None; "default" is "bn", or None without `train_data`.
      distill: whether the default fine-tuning draws the outputs to those of the model as it was, beside the loss; each step
        then runs that model too.
      round_to: what the widths of layers that lose channels shall be multiples of (8 is what most kernels like, 16 or 32 are
        better for 8-bit files on wide CPUs), or None for any width.
      traffic_weight: how much lower channels are ranked that move much memory for their MACs, as those of early layers do: with
        0.05, where importances are nearly equal, these go first. The latency then falls by more for the same MACs.
      latency_ms: in place of `speedup`: the latency to reach, in milliseconds, as a float32 TFLite file on one thread of this
        machine. Up to 9 candidates are exported and measured in turns with the original; the report lists them.
      latency_speedup: in place of `speedup`: the same as a ratio to the original's latency, at least 1.
      seed: of everything random, 0 <= seed < 2**32.
      sparsity: share in [0, 1) of the weights that become zero, 0.8 if None; not for "structured" and N:M.
      block_shape: (outputs, inputs) of "block": (1, 4) are four weights in a row along the input axis of one output.
      scope: "global" (one magnitude threshold over all layers tells how sparse each becomes; each keeps at least a tenth of what
        it would keep otherwise) or "layer" (all become equally sparse). N:M is the same in each.
      schedule: when weights become zero: "polynomial" (more and more during the default fine-tuning, up to two thirds of its
        steps, masks chosen again meanwhile), "constant" (all in the first step, chosen again likewise), "one_shot" (before the
        fine-tuning). With N:M, with a callable and without fine-tuning it is always "one_shot". Where zeros come during the
        fine-tuning, the report holds no accuracy between, and the repair follows the fine-tuning.
      prepare: a training before pruning, where there is time for it, on the model's own loss: "group_norm" (the published regulariser is
        added to the loss, as in DepGraph's sparsity learning, which empties channels; the better one in docs/prune_aware.md),
        "prune_aware" (in each step the channels are silent that rank lowest for a speed-up up to a little more than the one asked for, and
        the outputs are drawn to the original's beside the loss), or None. Needs `train_data` with labels and takes the place of a
        metanetwork; "prune_aware" needs `speedup` and a group L2 criterion.
      prepare_epochs: passes over `train_data` for it, 10 if None.
      prepare_learning_rate: of the first step of its SGD; None for 0.1 ("prune_aware") or 0.02 ("group_norm"), without
        BatchNormalization 0.003 or 0.005 (docs/preparation.md).
      search_steps: steps of a search for the channels to keep, 0 for none: the best of the ways that `criterion` and `metanetwork`
        leave open is the start, and the scores are learnt through the least-squares repair, on inputs without labels, so that the
        outputs stay what they were. A hundred steps are worth it (docs/quality.md), on networks of up to some million parameters: on
        ResNet50 one takes most of a minute of a core, and 12 GB. Needs `train_data`, and a repair by least squares.

    Returns:
      A `PruneResult`. Its model is compiled as the caller's was, with a fresh optimizer; a callable `finetune` may
      compile it otherwise.

    Raises:
      ArgumentError: an argument has a value that cannot be used, or `train_data` is missing.
      UnsupportedModelError: the model cannot be traced or rebuilt, or has NaN weights.
      DataError: the data do not fit the model.
      MetaNetworkError: the metanetwork is unknown, unreadable, or of another graph schema.
      NothingToPruneError: no channel can go, or the speed-up or latency is out of reach.
      ExportError: a latency is asked for, and the model cannot be exported.
    """
    sparse = sparse_method(method, sparsity=sparsity, block_shape=block_shape, scope=scope, schedule=schedule)
    drops_channels = sparse is None or sparse.is_structured
    if not drops_channels:
        refuse_unused(
            method, speedup=speedup, criterion=None if criterion in ("default", "group_l2") else criterion, round_to=round_to,
            traffic_weight=traffic_weight, latency_ms=latency_ms, latency_speedup=latency_speedup, prepare=prepare,
        )  # fmt: skip
        repair = zeros_repair(repair, train_data)
    speedup, latency = check_targets(speedup, latency_ms, latency_speedup, round_to, traffic_weight)
    check_arguments(speedup, criterion, metanetwork, finetune, repair, seed, distill)
    ways, metanetwork_note = ways_to_try(
        criterion, metanetwork, drops_channels=drops_channels, train_data=train_data, repair=repair, prepare=prepare
    )  # fmt: skip
    prepare_epochs, prepare_rate = check_preparation(
        prepare, prepare_epochs, prepare_learning_rate, train_data=train_data, speedup=speedup, is_latency=latency is not None,
        criterion=ways[0].criterion, metanetwork=ways[0].metanetwork,
    )  # fmt: skip
    check_search(search_steps, drops_channels, repair, train_data)
    check_train_data(train_data, ways[0].criterion, ways[0].metanetwork, finetune, repair)
    with _seeded(seed):
        losses = own_losses(model)
        model, back = carry(model)
        trace = trace_model(model)
        train = None if train_data is None else shuffled_dataset(train_data, seed=seed)
        if train is not None:
            needs_labels = bool(prepare) or finetune is not None and not callable(finetune)
            check_data(train, model, needs_labels=needs_labels, loss=losses[0])
            check_finite(train)
            if needs_labels:
                check_loss(model, train, losses)
        validation = None if validation_data is None else as_dataset(validation_data)
        if validation is not None:
            check_data(validation, model, needs_labels=is_labelled(validation), loss=losses[0])
            check_finite(validation)
        network = as_metanetwork(ways[-1].metanetwork)  # no two of the ways have different ones

        def evaluate(candidate):
            return {} if validation is None else evaluate_model(candidate, validation, losses)

        original = cost(trace)
        costs = {"macs": original.macs, "parameters": original.parameters}
        steps = {"before": {**costs, **evaluate(model)}}
        preparation = None
        if prepare is not None:
            if latency is None:
                make_plan(trace, speedup=speedup, step=1.0)  # raises if the speed-up is out of reach
            prepared, preparation = prepare_model(
                model, train, prepare, speedup=speedup, criterion=ways[0].criterion, losses=losses, epochs=prepare_epochs,
                learning_rate=prepare_rate, traffic_weight=traffic_weight,
            )  # fmt: skip
            trace, steps["prepared"] = trace_model(prepared), {**costs, **evaluate(prepared)}
        zeros = SparseSteps(sparse, trains=finetune is not None and not callable(finetune))
        plan, measurements, repaired, tried = None, [], None, []
        if drops_channels:
            is_fitted = repair == "least_squares" or (repair == "default" and train is not None)
            best, tried = choose_channels(
                trace, ways, network, train, speedup=speedup, latency=latency, search_steps=search_steps, repair=repair,
                step=1.0 if is_fitted or prepare == "prune_aware" else None, round_to=round_to, traffic_weight=traffic_weight, seed=seed,
            )  # fmt: skip
            way, rewritten, plan, measurements = best.way, best.rewritten, best.plan, best.measurements
            left = cost(trace, plan.keep)
            steps["pruned"] = {"macs": left.macs, "parameters": left.parameters, **evaluate(best.small)}
            small, repaired = best.repaired, best.repair
            if repair is not None:
                steps["repaired"] = evaluate(small)
        else:
            (way,) = ways
            rewritten = rewrite(trace, network, train, seed=seed)
            small = zeros.begin(replace_weights(model, rewritten.weights or {}), rewritten.score)
            steps["pruned"] = {"macs": original.macs, "parameters": original.parameters, **({} if zeros.grows else evaluate(small))}
            if repair is not None and not zeros.grows:
                with progress_bar("Repairing what remains"):
                    small, repaired = repair_model(trace, None, small, train, repair, seed=seed)
                steps["repaired"] = evaluate(small)
        if drops_channels and sparse is not None:
            small = zeros.begin(small)
            if not zeros.grows:
                small = small if repair is None or train is None else reestimate_bn(small, train)
                steps["zeroed"] = evaluate(small)
        history = None
        if callable(finetune):
            result = back(small)
            with zeros.holding(result, small, back):
                history = finetune(result, train_data, validation_data)
            history = getattr(history, "history", history)
            small = carry(result)[0]
        else:
            if finetune is not None:
                epochs = DEFAULT_EPOCHS if finetune == "default" else finetune
                history = finetune_model(
                    small, train, validation, losses=losses, epochs=epochs, teacher=model if distill else None,
                    prepare=zeros.training(small),
                )  # fmt: skip
                zeros.end_training()
                if repair is not None and zeros.grows:
                    small, repaired = reestimate_bn(small, train), repaired or {"method": "bn"}
            result = back(small)
        if finetune is not None:
            steps["finetuned"] = evaluate(small)
    report = {
        "tfmetaprune": tfmetaprune.__version__,
        "method": method,
        **({"criterion": "magnitude", "metanetwork": _metanetwork_name(way.metanetwork)} if plan is None else _names(way)),
        "metanetwork_note": metanetwork_note,
        "ways": [{**_names(each), **found} for each, found in zip(ways, tried)],
        "prepare": None if prepare is None else {"method": prepare, "epochs": prepare_epochs, "history": preparation},
        "search_steps": int(search_steps),
        "repair": repaired,
        "finetune": _name(finetune) if callable(finetune) else finetune if finetune in (None, "default") else int(finetune),
        "distill": bool(distill),
        "seed": int(seed),
        "speedup": {"target": None if latency or not plan else float(speedup), "reached": plan.speedup if plan else 1.0},
        "round_to": None if round_to is None else int(round_to),
        "traffic_weight": float(traffic_weight),
        **({"latency": {"target": dataclasses.asdict(latency), "measurements": measurements}} if latency else {}),
        **steps,
        **zeros.report(small, model),
        "widths": {
            group.name: {"before": group.size, "after": int(np.count_nonzero(plan.keep[group.units]))}
            for group in (plan.groups if plan else ())
        },
        "frozen": frozen_units(trace),
        "unknown_layers": unknown_layers(trace),
    }
    network = record_network(
        trace, small, keep=None if plan is None else plan.keep, weights=rewritten.weights, zeros=sparse is not None
    )
    return PruneResult(result, zeros.plan if plan is None else plan, report, history, network)


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


@contextlib.contextmanager
def _seeded(seed):
    states = random.getstate(), np.random.get_state()
    generators = keras.src.backend._SEED_GENERATOR  # what initializers draw their seeds from, once a seed was set
    generator = getattr(generators, "generator", None)
    keras.utils.set_random_seed(int(seed))
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        generators.generator = generator


def _names(way) -> dict:
    """What a report calls a way to choose channels."""
    name = way.criterion if isinstance(way.criterion, str) else _name(way.criterion)
    strength = None if way.metanetwork is None else way.strength._asdict()
    return {"criterion": name, "metanetwork": _metanetwork_name(way.metanetwork), "strength": strength}


def _metanetwork_name(metanetwork):
    if metanetwork is None:
        return None
    if callable(metanetwork):
        return getattr(metanetwork, "name", _name(metanetwork))
    return str(metanetwork)


def _name(function) -> str:
    return getattr(function, "__name__", type(function).__name__)
