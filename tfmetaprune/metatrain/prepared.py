"""Data models made ready to learn from: as raw tensors, with what is compiled for their architectures; several trainings may share them."""

import json
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from tfmetaprune._keras import tf
from tfmetaprune.errors import ArgumentError
from tfmetaprune.graph import channel_statistics, encode_graph, graph_layout
from tfmetaprune.graph.schema import CHANNEL, FROZEN, PARAMETERS, PRESENT, STATISTICS, WEIGHT
from tfmetaprune.metatrain.gradient import MetaGradient
from tfmetaprune.metatrain.objective import PruneAwareObjective, PublishedObjective
from tfmetaprune.metatrain.repaired_objectives import RepairedObjective, SearchedObjective
from tfmetaprune.metatrain.sparse_objective import NOfMObjective, PublishedSparseObjective, UnstructuredObjective
from tfmetaprune.metatrain.zoo import dataset_arrays
from tfmetaprune.trace import trace_model

# name -> the objectives for a trace and a `MetaTraining`; a step takes any of them
OBJECTIVES = {
    "structured": lambda trace, settings: [
        PruneAwareObjective(trace, speedups=settings.speedups, distillation=settings.distillation)
    ],
    "unstructured": lambda trace, settings: [
        UnstructuredObjective(trace, sparsities=settings.sparsities, distillation=settings.distillation)
    ],
    "n:m": lambda trace, settings: [
        NOfMObjective(trace, name, distillation=settings.distillation) for name in ("2:4", "1:4")
    ],
    "sparse": lambda trace, settings: [
        *OBJECTIVES["unstructured"](trace, settings) * 2, *OBJECTIVES["n:m"](trace, settings)
    ],
    "published": lambda trace, settings: [
        PublishedObjective(trace, alpha=settings.alpha, regularization=settings.regularization)
    ],
    "published_sparse": lambda trace, settings: [
        PublishedSparseObjective(trace, regularization=settings.regularization)
    ],
    "repaired": lambda trace, settings: [RepairedObjective(trace, speedups=settings.speedups)],
    "searched": lambda trace, settings: [SearchedObjective(trace)],
}  # fmt: skip


class DataModel(NamedTuple):
    """A trained network to learn from: its architecture's `MetaGradient` for each objective, its graph as raw tensors, its own
    weights (and what else its objective compares with), the examples it is run on; what of a `MetaTraining` it was made ready for."""

    gradients: list[MetaGradient]
    graph: Mapping
    original: Mapping
    examples: tuple[np.ndarray, np.ndarray]
    purpose: tuple


def purpose_of(settings) -> tuple:
    """Returns what of a `MetaTraining` a `DataModel` depends on."""
    return tuple(
        getattr(settings, name) for name in ("objective", "distillation", "speedups", "sparsities", "regularization", "alpha")
    )  # fmt: skip


def graph_arrays(trace, dataset, *, seed=0) -> dict:
    """Encodes a traced data model, with its channel statistics on `dataset`, as a dict of raw tensors."""
    graph = encode_graph(trace, channel_statistics(trace, dataset, seed=seed))
    nodes = graph.node_sets[CHANNEL]
    weights = {name: edges[WEIGHT] for name, edges in graph.edge_sets.items() if WEIGHT in edges.features}
    return {
        "parameters": nodes[PARAMETERS], "present": nodes[PRESENT], "statistics": nodes[STATISTICS],
        "frozen": nodes[FROZEN], "weights": weights,
    }  # fmt: skip


def perturbed(graph, scale, rng) -> dict:
    """Multiplies the weights, per-channel parameters and statistics of a graph, as `graph_arrays` makes it, by factors around 1.

    Args:
      graph: the dict.
      scale: standard deviation of the factors.
      rng: a `numpy.random.Generator`.
    """

    def change(value):
        return value * (1 + scale * rng.standard_normal(value.shape, np.float32))

    changed = {name: tf.nest.map_structure(change, graph[name]) for name in ("weights", "parameters", "statistics")}
    return {**graph, **changed}


def prepare_data_models(models, dataset, settings, rankings=None) -> list[DataModel]:
    """Makes data models ready for a `MetaTrainer`; those of the same architecture share what is compiled.

    What comes out depends on what `purpose_of` tells of the settings alone, so that trainings that differ in other things, or in the
    metanetwork, can share it.

    Args:
      models: trained data models, logits out, one input.
      dataset: as for `MetaTrainer`.
      settings: a `MetaTraining`.
      rankings: as for `MetaTrainer`.

    Raises:
      ArgumentError: the datasets or `rankings` do not fit the models or the objective.
    """
    models, datasets = list(models), dataset if isinstance(dataset, (list, tuple)) else [dataset] * len(models)
    if len(models) != len(datasets):
        raise ArgumentError(
            f"MetaTrainer: expected a dataset for each of the {len(models)} models, got {len(datasets)}. Give one for each, or "
            f"a single one for all."
        )
    searched = settings.objective == "searched"
    if searched != (rankings is not None) or (searched and len(rankings) != len(models)):
        raise ArgumentError(
            f"MetaTrainer: expected searched scores for each of the {len(models)} models with objective 'searched', and with it "
            f"alone, got {0 if rankings is None else len(rankings)} with {settings.objective!r}. Search first: tfmetaprune zoo search"
        )
    examples = {id(each): dataset_arrays(each) for each in {id(each): each for each in datasets}.values()}
    compiled = {}
    prepared = [
        _prepare(trace_model(model), each, examples[id(each)], settings, compiled) for model, each in zip(models, datasets)
    ]
    if searched:
        prepared = [
            each._replace(original=each.gradients[0].objective.with_ranking(each.original, ranking))
            for each, ranking in zip(prepared, rankings)
        ]
    return prepared


def _prepare(trace, dataset, examples, settings, compiled) -> DataModel:
    """Prepares one data model; `compiled` holds what is compiled of every architecture seen so far."""
    first = {}  # layer -> its first call: a layer that is called twice is not two equal ones
    calls = [
        (
            type(c.layer).__name__, _config(c.layer), first.setdefault(id(c.layer), number), c.args, dict(c.kwargs), c.inputs, c.outputs,
            c.output_shapes,
        )
        for number, c in enumerate(trace.calls)
    ]  # fmt: skip
    layout = graph_layout(trace)
    parts = {(trace.calls[p.call].path, p.weight) for p in (*layout.columns, *layout.blocks)}
    alone = len(parts) < len(trace.model.weights)  # it has weights that no graph brings along
    shapes = [tuple(tensor.shape) for tensor in trace.model.inputs]
    key = json.dumps([calls, shapes, len(compiled) if alone else None], default=str)
    if key not in compiled:
        objectives = OBJECTIVES[settings.objective](trace, settings)
        compiled[key] = {id(objective): MetaGradient(objective) for objective in objectives}, objectives
    gradients, objectives = compiled[key]
    gradients = [gradients[id(objective)] for objective in objectives]
    original = objectives[0].weights_of(trace) if objectives[0].distillation else {}
    return DataModel(gradients, graph_arrays(trace, dataset), original, examples, purpose_of(settings))


def _config(layer):
    """What a layer computes with beside its weights; the layer alone knows where it has no config."""
    try:
        return _without_names(layer.get_config())
    except NotImplementedError:
        return id(layer)


def _without_names(config):
    if isinstance(config, dict):
        return {key: _without_names(value) for key, value in config.items() if key != "name"}
    return [_without_names(value) for value in config] if isinstance(config, (list, tuple)) else config
