"""The metanetwork: identity at the start, equivariance, parity with TF-GNN's message passing, files."""

import functools
import json

import numpy as np
import pytest
from zoo import ZOO

from tfmetaprune._keras import keras, tf
from tfmetaprune.errors import ArgumentError, MetaNetworkError
from tfmetaprune.graph import decode_graph, encode_graph, graph_layout, schema
from tfmetaprune.metanet import (
    MetaNetConfig,
    MetaNetwork,
    available_metanetworks,
    load_card,
    load_metanetwork,
    model,
    pretrained,
    save_metanetwork,
    sweeps,
    tiles,
)
from tfmetaprune.pruning import scorer
from tfmetaprune.trace import trace_model

L = keras.layers
KINDS = ("sum_rms", "published")


@functools.cache
def untrained(kind):
    keras.utils.set_random_seed(0)
    return MetaNetwork(MetaNetConfig(hidden=6, num_layers=2, tap_hidden=8, message_passing=kind))


@functools.cache
def make_metanet(kind):
    """A metanetwork with random weights everywhere, so that it is not the identity; made and traced once."""
    metanet = MetaNetwork(MetaNetConfig(hidden=6, num_layers=2, tap_hidden=8, message_passing=kind))
    rng = np.random.default_rng(0)
    for variable in metanet.weights:
        variable.assign(rng.normal(size=variable.shape) / np.sqrt(variable.shape[0]))
    return metanet


def outputs(graph):
    """All that a metanetwork can change, by name; a graph that none has seen scores 0."""
    values = {name: edges[schema.WEIGHT].numpy() for name, edges in graph.edge_sets.items() if name != schema.IDENTITY}
    nodes = {name: value.numpy() for name, value in graph.node_sets[schema.CHANNEL].get_features_dict().items()}
    score = nodes.get(schema.SCORE, np.zeros(len(nodes[schema.PARAMETERS]), np.float32))
    return {**values, schema.PARAMETERS: nodes[schema.PARAMETERS], schema.SCORE: score}


def assert_close(found, expected, tolerance=1e-5):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(
            found[name], value, rtol=tolerance, atol=tolerance * np.abs(value).max(), err_msg=name
        )


def raw_inputs(graph):
    nodes = graph.node_sets[schema.CHANNEL]
    values = [nodes[name] for name in (schema.PARAMETERS, schema.PRESENT, schema.STATISTICS, schema.FROZEN)]
    return values, {name: edges[schema.WEIGHT] for name, edges in graph.edge_sets.items() if name != schema.IDENTITY}


@pytest.mark.parametrize("name", sorted(ZOO))
def test_untrained_is_the_identity_and_one_instance_serves_all_sizes(name):
    graph = encode_graph(trace_model(ZOO[name]()))
    before = outputs(graph)
    for kind in KINDS:
        same = outputs(untrained(kind)(graph))
        changed = outputs(make_metanet(kind)(graph))
        assert same.keys() == before.keys() == changed.keys()
        for key, value in before.items():
            assert np.array_equal(same[key], value), key
            assert np.isfinite(changed[key]).all() and not np.array_equal(changed[key], value), key
        present = graph.node_sets[schema.CHANNEL][schema.PRESENT].numpy() > 0
        fixed = ~present | np.isin(schema.COLUMNS, ["moving_mean", "moving_variance"])
        np.testing.assert_array_equal(changed[schema.PARAMETERS][fixed], before[schema.PARAMETERS][fixed])
        assert (changed[schema.PARAMETERS] != before[schema.PARAMETERS])[~fixed].all()


def graph_with_statistics(trace):
    statistics = np.random.default_rng(1).normal(size=(trace.channels.num_units, len(schema.STATISTICS_NAMES)))
    return encode_graph(trace, statistics)


@pytest.mark.parametrize("dense", [True, False])
def test_untrained_with_fisher_weight_ranks_as_the_criterion_of_both(dense):
    trace = trace_model(ZOO["residual"]())
    statistics = np.random.default_rng(1).normal(size=(trace.channels.num_units, len(schema.STATISTICS_NAMES)))
    metanet = MetaNetwork(MetaNetConfig(hidden=6, num_layers=2, fisher_weight=1.0))
    score = outputs(metanet(encode_graph(trace, statistics), dense=dense))["score"]
    score = tf.math.unsorted_segment_mean(score, trace.channels.unit_of_node, trace.channels.num_units)
    everything = np.ones(trace.channels.num_units, bool)
    expected = scorer(trace, "group_l2_fisher", statistics=statistics)(everything)
    np.testing.assert_allclose(scorer(trace, "group_l2")(everything) + score, expected, atol=1e-5)


@pytest.fixture(scope="module")
def wide():
    """A net with blocks of several strips and several tiles of both shapes, in several parts, all of them with rims."""
    inputs = keras.Input((6, 6, 70))
    x = L.Conv2D(250, 1, name="large")(inputs)
    x = L.Add()([L.Conv2D(250, 3, padding="same", activation="relu")(x), L.BatchNormalization()(x)])
    x = L.DepthwiseConv2D(3, padding="same")(L.Conv2D(40, (1, 2), name="small")(x))
    trace = trace_model(keras.Model(inputs, L.Dense(37)(L.Flatten()(x))))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiles, "PART_BYTES", 2**20)
        tiles.tiled_graph(graph_layout(trace), 6)  # kept with the layout
    return trace, graph_with_statistics(trace)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["residual", "depthwise_separable", "concat", "flatten_dense", "layer_norm_cnn", "grouped"])
def test_tiles_equal_generic_message_passing(kind, name):
    trace = trace_model(ZOO[name]())
    graph, metanet, layout = graph_with_statistics(trace), make_metanet(kind), graph_layout(trace)
    expected = outputs(metanet(graph, dense=False))
    assert_close(outputs(metanet(graph)), expected)
    assert_close(outputs(metanet(graph, layout=layout)), expected)
    if name == "residual":
        assert_close(outputs(tf.function(metanet)(graph)), expected)
        assert_close(outputs(tf.function(lambda graph: metanet(graph, layout=layout))(graph)), expected)
    values, weights = raw_inputs(graph)
    parameters, weights, score = metanet.transform(*values, weights, layout)
    assert_close({**weights, schema.PARAMETERS: parameters, schema.SCORE: score}, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_many_tiles_equal_generic_message_passing(kind, wide):
    trace, graph = wide
    tiling = tiles.tiled_graph(graph_layout(trace), 6).tiling
    assert {part.shape for part in tiling.parts} == set(tiles.tile_shapes(6)) and len(tiling.parts) > 2
    for part in tiling.parts:
        assert part.source.shape[0] > 1 and any((stream.tile.numpy()[:, 3:5] < part.shape).any() for stream in part.streams)
    metanet = make_metanet(kind)
    assert_close(outputs(metanet(graph, layout=graph_layout(trace))), outputs(metanet(graph, dense=False)))


@pytest.mark.parametrize("kind", KINDS)
def test_states_made_anew_or_in_bfloat16(kind, wide):
    trace, graph = wide
    metanet, layout = make_metanet(kind), graph_layout(trace)
    kept, found = outputs(metanet(graph, layout=layout)), {}
    for edge_state in ("recompute", "bfloat16"):
        found[edge_state] = outputs(with_edge_state(metanet, edge_state, lambda: metanet(graph, layout=layout)))
    assert_close(found["recompute"], kept, 1e-6)
    assert_close(found["bfloat16"], kept, 2e-2)
    assert any(not np.allclose(found["bfloat16"][name], kept[name], rtol=1e-5, atol=1e-6) for name in kept)


def with_edge_state(metanet, edge_state, function):
    try:
        metanet.edge_state = edge_state
        return function()
    finally:
        metanet.edge_state = "auto"


def test_large_graphs_do_not_keep_their_states(wide, monkeypatch):
    trace, graph = wide
    metanet, called = make_metanet("sum_rms"), []
    run = metanet._run_tiles
    monkeypatch.setattr(metanet, "_run_tiles", lambda edge_state, *inputs: called.append(edge_state) or run(edge_state, *inputs))
    num_edges = tiles.tiled_graph(graph_layout(trace), 6).num_edges
    for limit in (4 * 6 * num_edges, 4 * 6 * num_edges - 1):
        monkeypatch.setattr(model, "MAX_STATE_BYTES", limit)
        metanet(graph, layout=graph_layout(trace))
    assert called == ["float32", "recompute"]


def test_another_graph_and_another_metanetwork_trace_nothing_anew(wide):
    first, second = make_metanet("sum_rms"), MetaNetwork(MetaNetConfig(hidden=6, num_layers=3, tap_hidden=8))
    first(wide[1], layout=graph_layout(wide[0]))
    before = len(sweeps._functions)
    trace = trace_model(ZOO["flatten_concat"]())
    for metanet in (first, second):
        metanet(encode_graph(trace), layout=graph_layout(trace))
    assert len(sweeps._functions) == before
    assert all(function.experimental_get_tracing_count() == 1 for function in sweeps._functions.values())


def test_a_loss_of_the_scores_alone_has_gradients(wide):
    trace, graph = wide
    metanet = make_metanet("sum_rms")
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(metanet(graph, layout=graph_layout(trace)).node_sets[schema.CHANNEL][schema.SCORE])
    of_query = tape.gradient(loss, metanet.passes[0].query_source.kernel)
    assert np.isfinite(of_query).all() and np.any(of_query)


def test_edge_state_is_checked():
    with pytest.raises(ArgumentError, match="MetaNetwork: expected edge_state to be one of .*'recompute'.*got 'float16'"):
        make_metanet("sum_rms").edge_state = "float16"


def test_a_graph_with_more_weights_than_places_is_refused(monkeypatch):
    monkeypatch.setattr(tiles, "MAX_WEIGHTS", 1000)
    with pytest.raises(ArgumentError, match="expected a graph of at most 1000 weights, got 1140"):
        tiles.tiled_graph(graph_layout(trace_model(ZOO["plain_cnn"]())), 6)


def test_weights_are_joined_and_split_exactly(wide):
    for trace in (wide[0], trace_model(ZOO["grouped"]())):
        graph = encode_graph(trace)
        weights = {name: edges[schema.WEIGHT] for name, edges in graph.edge_sets.items() if name != schema.IDENTITY}
        tiled = tiles.tiled_graph(graph_layout(trace), 6)
        flat = tiled.join(weights)
        assert flat.shape == sum(np.prod(value.shape) for value in weights.values())
        again = tiled.split(flat)
        assert again.keys() == weights.keys() and all(np.array_equal(again[name], weights[name]) for name in weights)


def gradients(metanet, graph, layout, dense):
    """Gradients of all variables, of a function of all outputs."""
    with tf.GradientTape() as tape:
        found = metanet(graph, layout=layout, dense=dense)
        nodes = found.node_sets[schema.CHANNEL]
        values = [nodes[schema.PARAMETERS], nodes[schema.SCORE]]
        values += [edges[schema.WEIGHT] for name, edges in found.edge_sets.items() if name != schema.IDENTITY]
        loss = tf.add_n([tf.reduce_sum(tf.sin(3 * value)) for value in values])
    return tape.gradient(loss, metanet.trainable_variables)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_equal_those_of_generic_message_passing(kind, wide):
    metanet, small = make_metanet(kind), trace_model(ZOO["depthwise_separable"]())
    cases = [("auto", *wide), ("recompute", *wide), ("auto", small, graph_with_statistics(small))]
    for edge_state, trace, graph in cases:
        graph = graph, graph_layout(trace)
        expected = gradients(metanet, *graph, dense=False)
        found = with_edge_state(metanet, edge_state, functools.partial(gradients, metanet, *graph, dense=True))
        largest = max(np.abs(value).max() for value in expected)
        for variable, value, want in zip(metanet.trainable_variables, found, expected, strict=True):
            tolerance = 2e-4 * max(np.abs(want).max(), 1e-3 * largest)
            np.testing.assert_allclose(value, want, rtol=2e-4, atol=tolerance, err_msg=variable.name)


def residual_net(p, q):
    """A residual net whose tied channels are relabelled by p and whose inner ones by q; its calls' relabellings."""
    inputs = keras.Input((6, 6, 2))
    x = L.ReLU(name="stem_relu")(
        L.BatchNormalization(name="stem_bn")(L.Conv2D(5, 3, padding="same", name="stem")(inputs))
    )
    y = L.DepthwiseConv2D(3, padding="same", name="depthwise")(L.Conv2D(4, 1, activation="relu", name="inner")(x))
    x = L.Add(name="add")([x, L.Conv2D(5, 3, padding="same", name="back")(y)])
    model = keras.Model(inputs, L.Dense(3, name="logits")(L.GlobalAveragePooling2D(name="pool")(x)))
    rng = np.random.default_rng(3)
    weights = {layer.name: [rng.uniform(0.1, 1, w.shape) for w in layer.get_weights()] for layer in model.layers}
    i = np.arange(2)
    for name, (ins, outs) in {"stem": (i, p), "inner": (p, q), "back": (q, p), "logits": (p, np.arange(3))}.items():
        kernel, bias = weights[name]
        weights[name] = [kernel[..., ins, :][..., outs], bias[outs]]
    weights["stem_bn"] = [w[p] for w in weights["stem_bn"]]
    weights["depthwise"] = [weights["depthwise"][0][:, :, q], weights["depthwise"][1][q]]
    for layer in model.layers:
        layer.set_weights(weights[layer.name])
    return model, {"inner": q, "depthwise": q, "logits": np.arange(3)}


@pytest.mark.parametrize("kind", KINDS)
def test_relabelling_hidden_channels_permutes_the_output_and_nothing_else(kind):
    metanet, p, q = make_metanet(kind), np.array([3, 0, 4, 1, 2]), np.array([2, 3, 1, 0])
    results = []
    for first, second in ((np.arange(5), np.arange(4)), (p, q)):
        model, _ = residual_net(first, second)
        trace = trace_model(model)
        graph = metanet(encode_graph(trace))
        results.append(
            ({key: np.array(value) for key, value in decode_graph(graph, trace).items()}, outputs(graph)["score"])
        )
    (weights, score), (found, found_score) = results
    ends = {
        "stem": (slice(None), p),
        "inner": (p, q),
        "back": (q, p),
        "logits": (p, slice(None)),
        "depthwise": (q, None),
    }
    expected = {}
    for (layer, name), value in weights.items():
        ins, outs = ends.get(layer, (p, p))
        if name == "depthwise_kernel":
            value = value[:, :, ins]
        elif name == "kernel":
            value = value[..., ins, :][..., outs]
        else:
            value = value[outs if outs is not None else ins]
        expected[layer, name] = value
    assert_close(found, expected, 1e-4)
    _, other = residual_net(p, q)
    for index in np.unique(trace.channels.node_call):
        nodes = np.flatnonzero(trace.channels.node_call == index)
        relabel = np.arange(2) if index < 0 else other.get(trace.calls[index].layer.name, p)
        np.testing.assert_allclose(found_score[nodes], score[nodes][relabel], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_reach_every_variable_and_a_block_of_zeros_does_no_harm(kind):
    trace = trace_model(residual_net(np.arange(5), np.arange(4))[0])
    metanet, layout, graph = make_metanet(kind), graph_layout(trace), encode_graph(trace)
    values, weights = raw_inputs(graph)

    @tf.function
    def gradients(weights):
        with tf.GradientTape() as tape:
            parameters, changed, score = metanet.transform(*values, weights, layout)
            loss = tf.add_n([tf.reduce_sum(tf.sin(value)) for value in (parameters, score, *changed.values())])
        return tape.gradient(loss, metanet.trainable_variables)

    for path, gradient in zip([v.name for v in metanet.trainable_variables], gradients(weights)):
        assert np.isfinite(gradient).all() and np.any(gradient), path
    for zeros in weights:
        found = gradients({**weights, zeros: tf.zeros_like(weights[zeros])})
        assert all(np.isfinite(gradient).all() for gradient in found), zeros


@pytest.mark.parametrize("kind", KINDS)
def test_saves_and_loads_without_custom_objects(kind, tmp_path):
    metanet, graph = make_metanet(kind), encode_graph(trace_model(ZOO["concat"]()))
    path = save_metanetwork(metanet, tmp_path / "mine.keras", {"data": "digits"})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mine.json", "mine.keras"]
    card = load_card(path)
    assert card["data"] == "digits" and MetaNetConfig.from_dict(card["config"]) == metanet.config
    for again in (load_metanetwork(path), load_metanetwork(str(path)), keras.models.load_model(path)):
        assert again.config == metanet.config
        for key, value in outputs(metanet(graph)).items():
            np.testing.assert_array_equal(outputs(again(graph))[key], value)


def test_saving_replaces_whole_files_and_says_where_it_cannot_write(tmp_path):
    metanet = make_metanet("sum_rms")
    save_metanetwork(metanet, tmp_path / "new" / "a.keras", {})
    save_metanetwork(metanet, tmp_path / "new" / "a.keras", {"again": True})
    assert load_card(tmp_path / "new" / "a.keras")["again"]
    (tmp_path / "file").write_text("")
    with pytest.raises(MetaNetworkError, match="expected a place that can be written to"):
        save_metanetwork(metanet, tmp_path / "file" / "a.keras", {})
    with pytest.raises(MetaNetworkError, match="expected a path that ends in .keras"):
        save_metanetwork(metanet, tmp_path / "a.h5", {})


def test_names_of_shipped_metanetworks(tmp_path, monkeypatch):
    assert set(available_metanetworks()) == {p.stem for folder in pretrained._folders() for p in folder.glob("*.keras")}
    monkeypatch.setattr(pretrained, "_folders", lambda: [tmp_path])
    assert available_metanetworks() == ()
    save_metanetwork(make_metanet("sum_rms"), tmp_path / "universal.keras", {})
    assert available_metanetworks() == ("universal",)
    assert load_metanetwork("default").config == load_metanetwork("universal").config
    with pytest.raises(MetaNetworkError, match=r"'nobody'.*expected one of \['universal'\]"):
        load_metanetwork("nobody")


def test_unusable_files(tmp_path):
    path = save_metanetwork(make_metanet("sum_rms"), tmp_path / "a.keras", {})
    card, data = json.loads(path.with_suffix(".json").read_text()), path.read_bytes()
    with pytest.raises(MetaNetworkError, match="expected a file, found none"):
        load_metanetwork(tmp_path / "b.keras")
    path.with_suffix(".json").write_text(json.dumps({**card, "schema_version": 99}))
    with pytest.raises(MetaNetworkError, match="expected schema_version 1, got 99"):
        load_metanetwork(path)
    for text in ("[]", "{}", "{", "\x00"):
        path.with_suffix(".json").write_text(text)
        with pytest.raises(MetaNetworkError, match="expected a JSON object with a schema_version"):
            load_metanetwork(path)
    path.with_suffix(".json").write_text(json.dumps(card))
    for bad in (b"", b"no zip at all", data[: len(data) // 2]):
        path.write_bytes(bad)
        with pytest.raises(MetaNetworkError, match="expected a file written by save_metanetwork"):
            load_metanetwork(path)
    keras.Sequential([L.Dense(1, input_shape=(1,))]).save(path)
    with pytest.raises(MetaNetworkError, match="expected a MetaNetwork, got a Sequential"):
        load_metanetwork(path)
    path.with_suffix(".json").unlink()
    with pytest.raises(MetaNetworkError, match="a.json: expected a JSON object"):
        load_metanetwork(path)


@pytest.mark.parametrize(
    "values",
    [
        {"hidden": 1},
        {"hidden": 2.0},
        {"hidden": True},
        {"num_layers": 0},
        {"tap_hidden": -1},
        {"message_passing": "gcn"},
        {"ratio": 0.0},
        {"ratio": -1.0},
        {"ratio": float("nan")},
        {"ratio": "1"},
        {"score_scale": float("inf")},
    ],
)
def test_config_says_which_value_is_wrong(values):
    (name,) = values
    with pytest.raises(ArgumentError, match=rf"MetaNetConfig: expected .*{name}.* got"):
        MetaNetConfig(**values)


def test_config_round_trip_and_unknown_fields():
    config = MetaNetConfig(hidden=4, message_passing="published", ratio=0.01)
    assert MetaNetConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    with pytest.raises(ArgumentError, match=r"got also \['depth'\]"):
        MetaNetConfig.from_dict({"depth": 3})
    with pytest.raises(ArgumentError, match="MetaNetwork: expected a MetaNetConfig, a dict or None, got 3"):
        MetaNetwork(3)


def test_graphs_that_do_not_fit():
    trace, metanet = trace_model(ZOO["plain_cnn"]()), make_metanet("sum_rms")
    graph, other = encode_graph(trace), graph_layout(trace_model(ZOO["residual"]()))
    with pytest.raises(ArgumentError, match="Use the layout of the same model"):
        metanet(graph, layout=other)
    context = {k: v for k, v in graph.context.get_features_dict().items() if not k.startswith("blocks_")}
    with pytest.raises(ArgumentError, match="expected the block table 'blocks_kernel_.*Make the graph by encode_graph"):
        metanet(graph.replace_features(context=context))
