"""Any function of graphs can stand in for the metanetwork; the example in the docs runs as it is printed."""

import pathlib
import re

import numpy as np
import pytest
from zoo import ZOO

import tfmetaprune
from tfmetaprune._keras import tf
from tfmetaprune.errors import ArgumentError
from tfmetaprune.graph import encode_graph, schema
from tfmetaprune.layers import get_weight
from tfmetaprune.metanet.generate import generate
from tfmetaprune.trace import trace_model

DOCS = pathlib.Path(__file__).resolve().parents[2] / "docs" / "own_metanetwork.md"


@pytest.fixture(scope="module")
def trace():
    return trace_model(ZOO["residual"]())


def statistics_of(trace):
    return np.random.default_rng(0).normal(size=(trace.channels.num_units, len(schema.STATISTICS_NAMES)))


def with_nodes(graph, **features):
    nodes = graph.node_sets[schema.CHANNEL].get_features_dict()
    return graph.replace_features(node_sets={schema.CHANNEL: {**nodes, **features}})


def test_the_model_in_the_docs_scores_channels_and_changes_no_weight(trace):
    (code,) = re.findall(r"```python\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    names = {}
    exec(code, names)
    model = names["MpnnScores"]()
    weights, score = generate(model, trace, statistics_of(trace))
    assert score.shape == (trace.channels.num_units,) and score.std() > 0
    layers = {call.path: call.layer for call in trace.calls}
    assert weights and all(np.array_equal(value, get_weight(layers[path], name)) for (path, name), value in weights.items())
    x = np.random.default_rng(0).normal(size=(32, *trace.model.input_shape[1:])).astype(np.float32)
    data = x, np.zeros((32, *trace.model.output_shape[1:]), np.float32)
    small = tfmetaprune.prune(trace.model, data, speedup=1.5, metanetwork=model, repair=None, finetune=None)
    assert small.report["metanetwork"] == "mpnn_scores" and small.model.count_params() < trace.model.count_params()


def test_a_function_can_change_weights_and_needs_no_score(trace):
    def halve(graph):
        nodes = graph.node_sets[schema.CHANNEL]
        return with_nodes(graph, **{schema.PARAMETERS: nodes[schema.PARAMETERS] / 2})

    weights, score = generate(halve, trace, statistics_of(trace))
    assert not score.any()
    changed = [name for (_, name) in weights if name in ("bias", "gamma")]
    assert changed
    for call in trace.calls:
        if (call.path, "bias") in weights:
            np.testing.assert_allclose(weights[call.path, "bias"], get_weight(call.layer, "bias") / 2)


@pytest.mark.parametrize(
    "bad, message",
    [
        (lambda graph: None, "expected it to return a GraphTensor, got NoneType"),
        (lambda graph: with_nodes(graph, score=tf.zeros([len(graph.node_sets["channel"]["unit"]), 2])), "finite numbers.*shape"),
        (lambda graph: with_nodes(graph, score=tf.fill([len(graph.node_sets["channel"]["unit"])], np.nan)), "not finite"),
        (lambda graph: with_nodes(graph, parameters=np.nan * graph.node_sets["channel"]["parameters"]), "expected finite weights, got"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(trace, bad, message):
    with pytest.raises(ArgumentError, match=f"Metanetwork .*lambda.*{message}"):
        generate(bad, trace, statistics_of(trace))


def test_another_structure_is_refused(trace):
    other = encode_graph(trace_model(ZOO["plain_cnn"]()))
    with pytest.raises(ArgumentError):
        generate(lambda graph: other, trace, statistics_of(trace))


def test_neither_name_nor_function_is_refused(trace):
    with pytest.raises(ArgumentError, match="expected metanetwork to be a name, a path, a MetaNetwork, a function of graphs"):
        tfmetaprune.prune(trace.model, speedup=2, metanetwork=3, finetune=None, repair=None)
