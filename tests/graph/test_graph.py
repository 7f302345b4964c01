"""The graph: exact round trips over the zoo, what an edge means, the schema, TFRecords, gradients, statistics."""

import gc
import weakref

import numpy as np
import pytest
from zoo import ZOO, randomize

from tfmetaprune._keras import keras, tf, tfgnn
from tfmetaprune.errors import ArgumentError, DataError
from tfmetaprune.graph import (
    channel_statistics,
    decode_blocks,
    decode_graph,
    encode_graph,
    graph_layout,
    graph_schema,
    schema,
    statistics,
    tap_positions,
)  # fmt: skip
from tfmetaprune.graph.encode import _tensor
from tfmetaprune.graph.layout import empty_aligned
from tfmetaprune.layers import get_weight
from tfmetaprune.trace import trace_model

L = keras.layers


@pytest.fixture(scope="module")
def traces():
    return {name: trace_model(build()) for name, build in ZOO.items()}


def registered_weights(trace):
    """(layer name, weight name) -> variable, for everything that the graph has to carry."""
    return {
        (call.call.path, weight): get_weight(call.call.layer, weight)
        for call in trace.channels.calls
        for weight, axes in call.weights.items() if axes.source or axes.target
    }


def assert_same_bits(decoded, trace):
    expected = registered_weights(trace)
    assert decoded.keys() == expected.keys()
    for name, variable in expected.items():
        assert decoded[name].shape == variable.shape and decoded[name].dtype == variable.dtype, name
        assert decoded[name].numpy().tobytes() == variable.numpy().tobytes(), name


def weights_of(graph):
    return {name: edges["weight"] for name, edges in graph.edge_sets.items() if "weight" in edges.features}


@pytest.mark.parametrize("name", ZOO)
def test_round_trip_is_bit_exact(traces, name):
    assert_same_bits(decode_graph(encode_graph(traces[name]), traces[name]), traces[name])


@pytest.mark.parametrize("name", ZOO)
def test_schema_and_tfrecord(traces, name, tmp_path):
    trace, gnn = traces[name], tfgnn()
    graph = encode_graph(trace)
    written = graph_schema(graph)
    gnn.check_compatible_with_schema_pb(graph, written)
    path = str(tmp_path / "graphs.tfrecord")
    with tf.io.TFRecordWriter(path) as writer:
        for _ in range(2):
            writer.write(gnn.write_example(graph).SerializeToString())
    spec = gnn.create_graph_spec_from_schema_pb(written)
    dataset = tf.data.TFRecordDataset(path).map(lambda record: gnn.parse_single_example(spec, record)).batch(2)
    batch = next(iter(dataset))
    assert batch.shape == [2]
    merged = batch.merge_batch_to_components()
    assert int(merged.node_sets["channel"].total_size) == 2 * trace.channels.num_nodes
    back = next(iter(dataset.unbatch()))
    assert_same_bits(decode_graph(back, trace), trace)
    with pytest.raises(ArgumentError, match="expected a scalar GraphTensor, got one of rank 1"):
        decode_graph(batch, trace)


def test_graphs_of_other_widths_batch_together():
    gnn, graphs = tfgnn(), []
    for width in (3, 5):
        model = keras.Sequential([L.Conv2D(width, 3, input_shape=(6, 6, 2)), L.GlobalMaxPooling2D(), L.Dense(2)])
        graphs.append(encode_graph(trace_model(model)))
    spec = gnn.create_graph_spec_from_schema_pb(graph_schema(graphs[0]))
    dataset = tf.data.Dataset.from_generator(lambda: iter(graphs), output_signature=spec).batch(2)
    merged = next(iter(dataset)).merge_batch_to_components()
    assert merged.edge_sets["kernel_3x3"].sizes.numpy().tolist() == [6, 10]


def test_schema_describes_every_feature(traces):
    written = graph_schema(encode_graph(traces["depthwise_separable"]))
    for _, _, name, feature in tfgnn().iter_features(written):
        assert feature.description, name


@pytest.mark.parametrize("name", ZOO)
def test_layout_covers_edges_and_nodes(traces, name):
    trace = traces[name]
    layout, graph = graph_layout(trace), encode_graph(trace)
    assert set(graph.edge_sets) == {*layout.edge_set_blocks, "identity"}
    for edge_set, blocks in layout.edge_set_blocks.items():
        edges, table = layout.edge_sets[edge_set], graph.context[f"blocks_{edge_set}"].numpy()[0]
        ends = [block.first + block.num_edges for block in blocks]
        assert [block.first for block in blocks] == [0, *ends[:-1]] and ends[-1] == edges.num_edges
        assert graph.edge_sets[edge_set]["weight"].shape == (edges.num_edges, edges.num_taps)
        assert {np.prod(block.taps) for block in blocks} == {edges.num_taps}
        assert np.prod(schema.edge_set_taps(edge_set)) == edges.num_taps
        for block, row in zip(blocks, table, strict=True):
            assert row.tolist() == [block.first, len(block.source), len(block.target), block.call]
            pairs = np.stack([edges.source, edges.target], 1)[block.first : block.first + block.num_edges]
            expected = zip(block.source, block.target, strict=True)
            if block.dense:
                expected = [(i, j) for i in block.source for j in block.target]
            assert pairs.tolist() == [list(pair) for pair in expected]
            assert np.all(trace.channels.node_call[block.target] == block.call)
    nodes = graph.node_sets["channel"]
    present = nodes["present"].numpy()
    assert present.sum() == sum(len(column.nodes) for column in layout.columns)
    defaults = np.broadcast_to(schema.COLUMN_DEFAULTS, present.shape)
    np.testing.assert_array_equal(nodes["parameters"].numpy()[present == 0], defaults[present == 0])
    frozen = [unit in trace.channels.frozen for unit in nodes["unit"].numpy()]
    np.testing.assert_array_equal(nodes["frozen"].numpy()[:, 0], frozen)


def _reader(trace):
    """Two functions of names: the taps of an edge of the graph, and a weight of the model."""
    graph = encode_graph(trace)
    makers = [trace.calls[index].layer.name if index >= 0 else "input" for index in trace.channels.node_call]

    def taps(edge_set, source, i, target, j):
        edges = graph.edge_sets[edge_set]
        pairs = np.stack([edges.adjacency.source.numpy(), edges.adjacency.target.numpy()], 1)
        (row,) = np.flatnonzero(np.all(pairs == [makers.index(source) + i, makers.index(target) + j], 1))
        return edges["weight"].numpy()[row]

    return taps, lambda layer, weight="kernel": getattr(trace.model.get_layer(layer), weight).numpy()


def test_edges_carry_the_taps_between_their_ends(traces):
    """Against the definition, index by index: a convolution, and a dense layer on a flattened map and a vector."""
    taps, kernel = _reader(traces["flatten_concat"])
    conv, hidden = kernel("conv"), kernel("hidden")
    assert conv.shape == (3, 3, 2, 5) and hidden.shape == (2 * 4 * 5 + 6, 7)
    for i, o in ((0, 0), (1, 3)):
        np.testing.assert_array_equal(taps("kernel_3x3", "input", i, "conv", o), conv[:, :, i, o].reshape(-1))
    for c, o in ((0, 0), (4, 6), (2, 3)):
        expected = [hidden[position * 5 + c, o] for position in range(8)]
        np.testing.assert_array_equal(taps("kernel_2x4", "conv", c, "hidden", o), expected)
    np.testing.assert_array_equal(taps("kernel_1", "side", 2, "hidden", 5), [hidden[42, 5]])


def test_edges_carry_the_kernels_own_taps_before_flattened_ones(traces):
    taps, kernel = _reader(traces["reshapes"])
    conv3 = kernel("conv3")
    assert conv3.shape == (3, 4 * 5, 6)
    expected = [conv3[k, position * 5 + 2, 4] for k in range(3) for position in range(4)]
    np.testing.assert_array_equal(taps("kernel_3x4", "conv2", 2, "conv3", 4), expected)


def test_depthwise_edges_join_a_channel_with_those_made_of_it(traces):
    taps, kernel = _reader(traces["depthwise_separable"])
    depthwise = kernel("depthwise2", "depthwise_kernel")
    assert depthwise.shape == (3, 3, 6, 2)
    for i, m in ((0, 1), (3, 0), (5, 1)):
        found = taps("channel_3x3", "stem_conv", i, "depthwise2", 2 * i + m)
        np.testing.assert_array_equal(found, depthwise[:, :, i, m].reshape(-1))


def test_structure_ignores_values(traces):
    model = ZOO["residual_projection"]()
    model.set_weights([np.zeros_like(value) for value in model.get_weights()])
    zeros, graph = encode_graph(trace_model(model)), encode_graph(traces["residual_projection"])
    for name, edges in graph.edge_sets.items():
        for end in (tfgnn().SOURCE, tfgnn().TARGET):
            np.testing.assert_array_equal(zeros.edge_sets[name].adjacency[end], edges.adjacency[end])
    assert zeros.spec == graph.spec


def test_weights_that_have_no_free_column_become_edges():
    """Two normalisations of the same channels: the second cannot lie in the same columns."""
    model = keras.Sequential([L.Dense(4, input_shape=(3,)), L.BatchNormalization(), L.BatchNormalization()])
    trace = trace_model(randomize(model, "two normalisations"))
    graph = encode_graph(trace)
    assert graph.edge_sets["channel_1"]["weight"].shape == (4 * 4, 1)
    assert_same_bits(decode_graph(graph, trace), trace)


@pytest.mark.parametrize("name", ["shared_layer", "flatten_concat", "prelu", "depthwise_separable"])
def test_decode_is_differentiable_and_exact_in_a_function(traces, name):
    trace = traces[name]
    layout, graph = graph_layout(trace), encode_graph(trace)
    parameters, weights = graph.node_sets["channel"]["parameters"], weights_of(graph)

    @tf.function
    def step(parameters, weights):
        with tf.GradientTape() as tape:
            tape.watch((parameters, weights))
            decoded = decode_blocks(layout, parameters, weights, trace)
            loss = tf.add_n([tf.reduce_sum(tf.square(value)) for value in decoded.values()]) / 2
        return decoded, tape.gradient(loss, (parameters, weights))

    decoded, (of_parameters, of_weights) = step(parameters, weights)
    assert_same_bits(decoded, trace)
    read = np.zeros(parameters.shape, bool)  # d(w^2 / 2) = w wherever a weight is read, 0 elsewhere
    for column in layout.columns:
        read[column.nodes, column.index] |= column.is_first
    np.testing.assert_array_equal(of_parameters, np.where(read, parameters, 0))
    for edge_set, blocks in layout.edge_set_blocks.items():
        read = np.concatenate([np.full(block.num_edges, block.is_first) for block in blocks])
        np.testing.assert_array_equal(of_weights[edge_set], np.where(read[:, None], weights[edge_set], 0))
    assert (name == "shared_layer") == any(not block.is_first for block in layout.blocks)


def test_a_layout_is_made_once_for_each_trace():
    model = ZOO["residual"]()
    trace, other = trace_model(model), trace_model(model)
    layout = graph_layout(trace)
    assert graph_layout(trace) is layout and graph_layout(other) is not layout
    layout = weakref.ref(layout)
    del trace
    gc.collect()
    assert layout() is None


def test_encode_reads_the_weights_of_the_moment():
    model = ZOO["depthwise_separable"]()
    trace = trace_model(model)
    graph = encode_graph(trace)
    before = [value.numpy() for value in tf.nest.flatten(graph, expand_composites=True)]
    model.set_weights([2 * value + 1 for value in model.get_weights()])
    for variable in model.weights:
        variable.assign_add(tf.ones_like(variable))  # in place, where TensorFlow can
    assert_same_bits(decode_graph(encode_graph(trace), trace), trace)
    for value, old in zip(tf.nest.flatten(graph, expand_composites=True), before, strict=True):
        np.testing.assert_array_equal(value, old)


def test_graphs_share_only_the_adjacency_and_nobody_can_write_to_it(traces):
    trace = traces["flatten_concat"]
    statistics = np.ones((trace.channels.num_units, 4), np.float32)
    one, other = (encode_graph(trace, statistics) for _ in range(2))
    memory = [np.asarray(value) for value in tf.nest.flatten(other, expand_composites=True)]
    memory += [statistics, *(np.asarray(variable.value()) for variable in trace.model.weights)]
    pieces = (one.context, one.node_sets["channel"], *one.edge_sets.values())
    for value in (np.asarray(value) for piece in pieces for value in piece.get_features_dict().values()):
        assert not value.flags.writeable and not any(np.shares_memory(value, array) for array in memory)
    for name, edges in graph_layout(trace).edge_sets.items():
        adjacency = one.edge_sets[name].adjacency
        for array, end in ((edges.source, adjacency.source), (edges.target, adjacency.target)):
            assert not array.flags.writeable and not np.asarray(end).flags.writeable
            assert np.shares_memory(array, np.asarray(end)) or not array.size


@pytest.mark.parametrize("shape", [5, (3, 7), (200, 3, 1)])
def test_tensorflow_takes_over_aligned_memory(shape):
    array = empty_aligned(shape, np.float32)
    array[...] = 1
    tensor = _tensor(array)
    assert array.ctypes.data % 64 == 0 and tensor.dtype == tf.float32 and tensor.shape == array.shape
    assert np.asarray(tensor).ctypes.data == array.ctypes.data


@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16"])
def test_graph_holds_other_dtypes_as_float32(dtype):
    model = keras.Sequential([L.Conv2D(4, 3, input_shape=(6, 6, 2), dtype=dtype), L.PReLU(shared_axes=(1, 2), dtype=dtype)])
    trace = trace_model(randomize(model, dtype))
    graph = encode_graph(trace)
    for (path, weight), value in decode_graph(graph, trace).items():
        expected = getattr(model.get_layer(path), weight)
        assert value.dtype == expected.dtype
        np.testing.assert_array_equal(tf.cast(value, tf.float32), tf.cast(expected, tf.float32))


def test_decoding_groups_takes_no_operation_for_each():
    counts = []
    for groups in (2, 16):
        model = keras.Sequential([L.Conv2D(32, 3, groups=groups, input_shape=(6, 6, 16))])
        trace = trace_model(randomize(model, "groups"))
        layout, graph = graph_layout(trace), encode_graph(trace)
        assert len(layout.blocks) == groups
        function = tf.function(lambda p, w, layout=layout, trace=trace: decode_blocks(layout, p, w, trace))
        arguments = graph.node_sets["channel"]["parameters"], weights_of(graph)
        assert_same_bits(function(*arguments), trace)
        counts.append(len(function.get_concrete_function(*arguments).graph.get_operations()))
    assert counts[0] == counts[1]


def test_decode_returns_what_the_graph_says(traces):
    trace = traces["residual"]
    graph = encode_graph(trace)
    doubled = graph.replace_features(
        edge_sets={name: {"weight": 2 * value} for name, value in weights_of(graph).items()}
    )
    decoded = decode_graph(doubled, trace)
    np.testing.assert_array_equal(decoded["a1_conv", "kernel"], 2 * trace.model.get_layer("a1_conv").kernel.numpy())
    np.testing.assert_array_equal(decoded["a1_bn", "gamma"], trace.model.get_layer("a1_bn").gamma.numpy())


def test_decode_rejects_other_models_and_versions(traces):
    trace = traces["residual"]
    graph = encode_graph(trace)
    with pytest.raises(ArgumentError, match=r"expected 'parameters' of shape \(\d+, 8\), got"):
        decode_graph(graph, traces["plain_cnn"])
    version = {"schema_version": tf.constant([7], tf.int64)}
    other = graph.replace_features(context={**graph.context.get_features_dict(), **version})
    with pytest.raises(ArgumentError, match=r"schema version 1, got \[7\]"):
        decode_graph(other, trace)
    with pytest.raises(ArgumentError, match=r"expected the edge set 'kernel_3x3', got \[\]"):
        decode_blocks(graph_layout(trace), graph.node_sets["channel"]["parameters"], {}, trace)


def test_statistics_reach_the_nodes(traces):
    trace = traces["depthwise_separable"]
    statistics = np.random.default_rng(0).normal(size=(trace.channels.num_units, 4)).astype("float32")
    nodes = encode_graph(trace, statistics).node_sets["channel"]
    np.testing.assert_array_equal(nodes["statistics"], statistics[nodes["unit"].numpy()])
    with pytest.raises(ArgumentError, match=r"expected statistics of shape \(\d+, 4\)"):
        encode_graph(trace, statistics[1:])


def test_tap_positions():
    assert tap_positions(()).tolist() == [[0] * 6] == tap_positions((1, 1)).tolist()
    y, x, relative_y, relative_x, log_height, log_width = tap_positions((2, 5)).T
    np.testing.assert_array_equal(y, np.repeat([-0.5, 0.5], 5))
    np.testing.assert_array_equal(x, np.tile([-2, -1, 0, 1, 2], 2))
    np.testing.assert_array_equal(relative_y, np.repeat([-1, 1], 5))
    np.testing.assert_array_equal(relative_x, np.tile([-1, -0.5, 0, 0.5, 1], 2))
    np.testing.assert_allclose([log_height[0], log_width[0]], np.log([2, 5]), rtol=1e-6)
    np.testing.assert_array_equal(tap_positions((1, 1, 7)), tap_positions((7,)))
    np.testing.assert_array_equal(tap_positions((1, 3, 3)), tap_positions((3, 3)))
    np.testing.assert_array_equal(tap_positions((2, 3, 4)), tap_positions((6, 4)))
    assert tap_positions((16, 16)).dtype == np.float32 and np.abs(tap_positions((16, 16))[:, 2:4]).max() == 1


def _classifier(activation):
    model = keras.Sequential(
        [L.Dense(6, activation="relu", input_shape=(5,), name="hidden"), L.Dense(3, activation=activation, name="top")]
    )
    return randomize(model, "classifier")


@pytest.mark.parametrize("activation", [None, "softmax"])
def test_fisher_agrees_with_its_closed_form(activation):
    model = _classifier(activation)
    x = np.random.default_rng(1).normal(size=(2000, 5)).astype("float32")
    trace = trace_model(model)
    statistics = channel_statistics(trace, tf.data.Dataset.from_tensor_slices(x).batch(500), num_samples=2000)
    w = model.get_layer("top").kernel.numpy()
    hidden = model.get_layer("hidden")(x).numpy()
    covariance = np.eye(3) if activation is None else np.eye(3) - 1 / 3
    fisher = np.mean(hidden**2 * np.einsum("kc,cd,kd->k", w, covariance, w), 0)
    units = trace.channels.units(trace.channels.calls[1].roles["in"])
    np.testing.assert_allclose(statistics[units, 2], np.log(fisher / fisher.mean()), atol=0.15)
    np.testing.assert_allclose(statistics[units, 0], hidden.mean(0) / np.sqrt(np.mean(hidden**2)), atol=1e-4)
    np.testing.assert_allclose(statistics[units, 1], hidden.std(0) / np.sqrt(np.mean(hidden**2)), atol=1e-4)
    outputs = trace.channels.units(trace.channels.tensors[trace.outputs[0]][1])
    np.testing.assert_array_equal(statistics[outputs], 0)
    inputs = trace.channels.units(trace.channels.calls[0].roles["in"])
    offset = statistics[:, 3] - statistics[:, 2]
    assert np.ptp(offset[units]) < 1e-5 and abs(offset[units[0]] - offset[inputs[0]]) > 1e-3  # one for each group


@pytest.mark.parametrize("name", ZOO)
def test_statistics_of_the_zoo(traces, name):
    trace = traces[name]
    rng = np.random.default_rng(0)
    x = tuple(rng.normal(size=(40, *tensor.shape[1:])).astype("float32") for tensor in trace.model.inputs)
    before = [value.tobytes() for value in trace.model.get_weights()]
    dataset = tf.data.Dataset.from_tensor_slices((x, np.zeros(40))).batch(16)
    statistics = channel_statistics(trace, dataset, num_samples=40, seed=3)
    assert statistics.shape == (trace.channels.num_units, len(schema.STATISTICS_NAMES))
    assert statistics.dtype == np.float32
    assert np.all(np.isfinite(statistics)) and np.any(statistics[:, 2] != 0)
    np.testing.assert_array_equal(statistics, channel_statistics(trace, dataset, num_samples=40, seed=3))
    assert np.any(statistics != channel_statistics(trace, dataset, num_samples=40, seed=4))
    assert before == [value.tobytes() for value in trace.model.get_weights()]


def test_statistics_take_inputs_by_name(traces):
    trace = traces["two_inputs_outputs"]
    x = {t.name: np.random.default_rng(0).normal(size=(8, *t.shape[1:])).astype("float32") for t in trace.model.inputs}
    assert sorted(x) == ["image", "vector"]
    by_name = channel_statistics(trace, tf.data.Dataset.from_tensors(x))
    in_order = channel_statistics(trace, tf.data.Dataset.from_tensors(((x["image"], x["vector"]), 0)))
    np.testing.assert_array_equal(by_name, in_order)
    with pytest.raises(DataError, match=r"expected the inputs \['vector'\], got \['image'\]"):
        channel_statistics(trace, [{"image": x["image"]}])


def test_statistics_reject_bad_data():
    trace = trace_model(_classifier(None))
    with pytest.raises(DataError, match="got no data"):
        channel_statistics(trace, [])
    with pytest.raises(DataError, match=r"expected batches of inputs \[\(None, 5\)\].*got \[\(2, 4\)\]"):
        channel_statistics(trace, [(np.zeros((2, 4), "float32"),)])
    with pytest.raises(DataError, match="got NaN or infinite"):
        channel_statistics(trace, [np.full((2, 5), np.nan, "float32")])
    with pytest.raises(ArgumentError, match="expected num_samples >= 1, got 0"):
        channel_statistics(trace, [], num_samples=0)


def test_statistics_of_large_networks_go_in_small_chunks(monkeypatch):
    """One backward pass holds few samples where activations are large; the statistics but Fisher's random weights are the same."""
    layers = keras.layers.Conv2D(4, 3, activation="relu", input_shape=(6, 6, 1)), keras.layers.Flatten(), keras.layers.Dense(2)
    model = keras.Sequential(layers)
    trace, x = trace_model(model), np.random.default_rng(0).normal(size=(10, 6, 6, 1)).astype(np.float32)
    whole, sizes, measure = channel_statistics(trace, [x]), [], statistics._measure
    numbers = 4 * 4 * 4 + 64 + 2  # that the layers put out for a sample

    def seen(trace, readers, inputs, seed):
        sizes.append(len(inputs[0]))
        return measure(trace, readers, inputs, seed)

    monkeypatch.setattr(statistics, "_measure", seen)
    for num_bytes, wanted in ((4 * numbers * 4, [4, 4, 2]), (1, [1] * 10)):
        monkeypatch.setattr(statistics, "_CHUNK_BYTES", num_bytes)
        np.testing.assert_allclose(channel_statistics(trace, [x])[:, :2], whole[:, :2], rtol=1e-4, atol=1e-6)
        assert sizes == wanted
        sizes.clear()


def test_statistics_name_an_operation_without_gradient():
    remainder = keras.layers.Lambda(lambda x: tf.raw_ops.Mod(x=x, y=tf.ones_like(x)))
    model = keras.Sequential([keras.layers.Dense(4, input_shape=(3,)), remainder, keras.layers.Dense(2)])
    with pytest.raises(DataError, match="expected gradients of every operation .* Mod"):
        channel_statistics(trace_model(model), [np.ones((2, 3), np.float32)])
