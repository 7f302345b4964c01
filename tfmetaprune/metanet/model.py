"""The metanetwork: a Keras model that reads a network as a graph and returns it with changed weights and scores."""

from typing import Any

import numpy as np

from tfmetaprune._keras import keras, tf, tfgnn
from tfmetaprune.errors import ArgumentError
from tfmetaprune.graph import schema
from tfmetaprune.metanet import kernels, sweeps
from tfmetaprune.metanet.config import MetaNetConfig
from tfmetaprune.metanet.kernels import COLLECT, DECODE, layer_norm, silu
from tfmetaprune.metanet.layers import MESSAGE_PASSING_LAYERS, TapNetwork, dense, values_of
from tfmetaprune.metanet.tiles import Tile, block_table, layout_of_graph, tiled_graph

MAX_STATE_BYTES = 4 * 2**30  # of edge states in memory, before a pass computes them again for every sweep instead
EDGE_STATES = ("auto", "float32", "bfloat16", "recompute")
_MULTIPLIED, _FIXED = ("gamma", "ln_gamma"), ("moving_mean", "moving_variance")
_LOG_FISHER = schema.STATISTICS_NAMES.index("log_fisher_in_group")
_LIMIT = 10.0  # of every node input, so that odd networks do no harm
_TINY = 1e-20  # keeps a block of zeros from dividing by zero, in the gradient too


@keras.utils.register_keras_serializable("tfmetaprune")
class MetaNetwork(keras.Model):
    """Graph metanetwork: GraphTensor -> GraphTensor with changed weights and a score per channel.

    Kernels of every shape share their weights: an edge state is the sum over taps of weight * phi(position of the tap),
    and the change of a tap is the product of the decoded edge state with psi(position). The decoders' last layers start
    at zero, so that an untrained metanetwork changes nothing, bit for bit, and every score is 0, or the Fisher part of it
    that the config asks for. Moving statistics never
    change. Relabelling channels permutes the outputs and nothing else.

    Args:
      config: a `MetaNetConfig`, a dict of its fields, or None for the defaults.

    Raises:
      ArgumentError: the config is not valid.

    Example:
      >>> metanet = MetaNetwork(MetaNetConfig(hidden=8))
      >>> metanet.config.num_layers
      3
    """

    def __init__(self, config: MetaNetConfig | dict | None = None, **kwargs: Any):
        super().__init__(**{"dtype": "float32", **kwargs})
        if isinstance(config, dict):
            config = MetaNetConfig.from_dict(config)
        if config is not None and not isinstance(config, MetaNetConfig):
            raise ArgumentError(
                f"MetaNetwork: expected a MetaNetConfig, a dict or None, got {config!r}. Give MetaNetConfig(...)."
            )
        self.config = config or MetaNetConfig()
        self.edge_state = "auto"
        d, taps = self.config.hidden, self.config.tap_hidden
        num_columns, num_statistics = len(schema.COLUMNS), len(schema.STATISTICS_NAMES)
        self.node_encoder = dense(2 * num_columns + num_statistics + 3, d)
        self.kernel_taps, self.channel_taps = TapNetwork(taps, d), TapNetwork(taps, d)
        self.identity_state = self.add_weight("identity_state", [d], initializer=keras.initializers.RandomNormal(0, 1))
        passing = MESSAGE_PASSING_LAYERS[self.config.message_passing]
        self.passes = [passing(d) for _ in range(self.config.num_layers)]
        self.node_decoder = dense(d, d, activation=silu)
        self.node_output = dense(d, num_columns + 1, kernel_initializer="zeros")
        self.kernel_decoder, self.channel_decoder = dense(d, d), dense(d, d)
        self.kernel_output, self.channel_output = TapNetwork(taps, d, zero=True), TapNetwork(taps, d, zero=True)
        self.built = True

    @property
    def edge_state(self) -> str:
        """How a pass holds the edge states: "float32"; "bfloat16", which halves them; "recompute", which makes them anew from
        the weights for every layer; or "auto": "float32" up to `MAX_STATE_BYTES`, "recompute" above."""
        return self._edge_state

    @edge_state.setter
    def edge_state(self, value):
        if value not in EDGE_STATES:
            raise ArgumentError(
                f"MetaNetwork: expected edge_state to be one of {EDGE_STATES}, got {value!r}. Choose one of these."
            )
        self._edge_state = value

    def get_config(self):
        """Returns what `from_config` needs."""
        return {"name": self.name, "config": self.config.to_dict()}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        """Makes a metanetwork from `get_config`."""
        del custom_objects
        return cls(**config)

    def build(self, input_shape=None):
        """Does nothing: all variables are made by the constructor."""

    def call(self, graph, layout=None, dense=True):
        """Transforms one graph.

        Args:
          graph: GraphTensor of one network, as made by `encode_graph`.
          layout: its static GraphLayout, `graph_layout(trace)`. An eager graph needs none, but is tiled anew without.
          dense: False for TF-GNN's generic message passing on the same weights: the reference, slow and large. It also
            serves a symbolic graph without a layout.

        Returns:
          The graph with changed PARAMETERS and WEIGHTs and the node feature SCORE, float32 [num_nodes].

        Raises:
          ArgumentError: the graph holds several networks or does not fit the layout.
        """
        nodes = graph.node_sets[schema.CHANNEL]
        values = [nodes[name] for name in (schema.PARAMETERS, schema.PRESENT, schema.STATISTICS, schema.FROZEN)]
        weights = {name: edges[schema.WEIGHT] for name, edges in graph.edge_sets.items() if name != schema.IDENTITY}
        if dense and layout is None and tf.executing_eagerly():
            layout = layout_of_graph(graph)
        if dense and layout is not None:
            parameters, weights, score = self.transform(*values, weights, layout)
        else:
            parameters, score, weights = self._run_generic(*values, weights, graph)
        features = {**nodes.get_features_dict(), schema.PARAMETERS: parameters, schema.SCORE: score}
        edge_sets = {
            name: {**graph.edge_sets[name].get_features_dict(), schema.WEIGHT: value} for name, value in weights.items()
        }
        return graph.replace_features(node_sets={schema.CHANNEL: features}, edge_sets=edge_sets)

    def transform(self, parameters, present, statistics, frozen, weights, layout):
        """Transforms raw tensors, eagerly or inside a `tf.function` (without `jit_compile`).

        Gradients reach the variables alone, not the graph's own values; those of `call(dense=False)` reach both.

        Args:
          parameters: float32 [num_nodes, P].
          present: float32 [num_nodes, P], 0 or 1.
          statistics: float32 [num_nodes, S].
          frozen: float32 [num_nodes, 1], 0 or 1.
          weights: edge set -> float32 [E, T].
          layout: the static GraphLayout.

        Returns:
          (parameters [num_nodes, P], edge set -> weights [E, T], score [num_nodes]).

        Raises:
          ArgumentError: the tensors do not fit the layout.
        """
        graph = tiled_graph(layout, self.config.hidden)
        _check_fit(parameters, weights, graph)
        edge_state = self.edge_state
        if edge_state == "auto":
            edge_state = "recompute" if 4 * graph.num_edges * self.config.hidden > MAX_STATE_BYTES else "float32"
        inputs = parameters, present, statistics, frozen, graph.join(weights)
        parameters, score, flat = self._run_tiles(edge_state, *inputs, graph.tiling)
        changed = graph.split(flat)
        return parameters, {name: changed[name] for name in weights}, score

    def _run_tiles(self, edge_state, parameters, present, statistics, frozen, flat, tiling):
        """Runs over any graph: all that differs from one to the next are the values and lengths of arrays."""
        singles, passes, passing = tiling.singles, self.passes, type(self.passes[0])
        edges, num_sweeps = passing.edges, passing.num_sweeps(len(passes))
        phi, single_phi = (
            layer_norm(network(taps.positions)) / tf.sqrt(taps.count)[:, tf.newaxis]
            for network, taps in ((self.kernel_taps, tiling.kernel_taps), (self.channel_taps, tiling.channel_taps))
        )
        scale, single_scale, levels = _scales_and_levels(tiling, flat)
        h = self._encode_nodes(parameters, present, statistics, frozen, levels)

        single_weights = flat[tf.size(flat) - tf.size(singles.edge) :]
        relative = single_weights / tf.gather(single_scale, singles.block)
        num_single = tf.reduce_max(tf.concat([[-1], singles.edge], 0)) + 1
        terms = relative[:, tf.newaxis] * tf.gather(single_phi, singles.tap)
        e = tf.math.unsorted_segment_sum(terms, singles.edge, num_single)
        e = tf.concat([e, tf.repeat(self.identity_state[tf.newaxis], tf.size(singles.source) - num_single, 0)], 0)
        nodes = [tf.concat(parts, 0) for parts in zip(singles[:2], *sweeps.ends_of_parts(tiling.parts))]
        stream = sweeps.Sweeps(edges, tiling.parts, sweeps.Weights(flat, scale, phi), num_sweeps, edge_state)
        for number in range(num_sweeps):
            what = stream.what(number)
            source, target = passing.vectors(passes, number, h)
            step = sweeps.Step(source, target, passing.edge_parameters(passes, number), (), ())
            decoder = ()
            if DECODE in what:
                psi = self.config.ratio * self.kernel_output(tiling.kernel_taps.positions)
                step = step._replace(decoder=values_of(self.kernel_decoder), psi=psi)
                decoder = values_of(self.channel_decoder)
            collected, changed = stream.run(number, step)
            ends = tf.gather(source, singles.source), tf.gather(target, singles.target)
            e, found = kernels.list_sweep(edges, what, e, *ends, step.parameters, decoder)
            if COLLECT in what:
                joined = []
                for end, (values, linked) in enumerate(zip(found, tf.unstack(tiling.linked))):
                    values = [tf.concat(parts, 0) for parts in zip(values, *(part[end] for part in collected))]
                    values = sweeps.join_statistics(values, nodes[end], tf.size(linked))
                    values = [tf.where(linked[:, tf.newaxis, tf.newaxis], value, 0.0) for value in values]
                    joined.append([row for value in values for row in tf.unstack(value, axis=1)])
                h = passes[number].update(h, joined, tiling.degree)
        psi = self.config.ratio * self.channel_output(tiling.channel_taps.positions)
        change = tf.reduce_sum(tf.gather(e, singles.edge) * tf.gather(psi, singles.tap), 1)
        changed += [single_weights + change * tf.gather(single_scale, singles.block)]
        return *self._decode_nodes(h, parameters, present, statistics), tf.concat(changed, 0)

    def _run_generic(self, parameters, present, statistics, frozen, weights, graph):
        gnn, relative, scales, powers, states = tfgnn(), {}, {}, {}, {}
        for name, value in weights.items():
            first = block_table(graph, name)[:, 0]
            edges = tf.range(tf.shape(value, tf.int64)[0])
            block = tf.searchsorted(first, edges, side="right") - 1
            mean = tf.math.unsorted_segment_mean(tf.reduce_mean(tf.square(value), 1), block, tf.shape(first)[0])
            scales[name] = tf.gather(tf.sqrt(mean + _TINY), block)[:, tf.newaxis]
            relative[name] = value / scales[name]
            powers[name] = tf.reduce_mean(tf.square(relative[name]), 1)
        levels = []
        for end in (gnn.SOURCE, gnn.TARGET):
            power, count = (
                gnn.pool(graph, end, edge_set_name=list(weights), reduce_type="sum", feature_value=values)
                for values in (list(powers.values()), [tf.ones_like(power) for power in powers.values()])
            )
            levels.append(_log_ratio(power, count))
        h = self._encode_nodes(parameters, present, statistics, frozen, levels)
        for name, value in relative.items():
            taps = schema.edge_set_taps(name)
            network = self.kernel_taps if name.startswith(schema.KERNEL) else self.channel_taps
            states[name] = tf.matmul(value, layer_norm(network.vectors(taps)) / np.sqrt(np.float32(np.prod(taps))))
        if schema.IDENTITY in graph.edge_sets:
            count = graph.edge_sets[schema.IDENTITY].total_size
            states[schema.IDENTITY] = tf.repeat(self.identity_state[tf.newaxis], count, 0)
        for layer in self.passes:
            h, states = layer.call_generic(h, states, graph)
        changed = {}
        for name, value in weights.items():
            dense = name.startswith(schema.KERNEL)
            decoder, network = (
                (self.kernel_decoder, self.kernel_output) if dense else (self.channel_decoder, self.channel_output)
            )
            state = silu(decoder(layer_norm(states[name])))
            vectors = network.vectors(schema.edge_set_taps(name))
            changed[name] = value + self.config.ratio * scales[name] * tf.matmul(state, vectors, transpose_b=True)
        return *self._decode_nodes(h, parameters, present, statistics), changed

    def _encode_nodes(self, parameters, present, statistics, frozen, levels):
        values = dict(zip(schema.COLUMNS, tf.unstack(parameters, axis=1)))
        sigma = tf.sqrt(tf.maximum(values["moving_variance"], 0.0) + 1e-3)
        values["moving_mean"], values["moving_variance"] = values["moving_mean"] / sigma, tf.math.log(sigma)
        inputs = tf.concat([tf.stack([*values.values(), *levels], 1), present, statistics, frozen], 1)
        return self.node_encoder(tf.clip_by_value(inputs, -_LIMIT, _LIMIT))

    def _decode_nodes(self, h, parameters, present, statistics):
        """Returns the changed parameters [num_nodes, P] and the scores [num_nodes]."""
        output = self.node_output(self.node_decoder(layer_norm(h)))
        step = self.config.ratio * output[:, :-1] * present
        factors = np.float32([name in _MULTIPLIED for name in schema.COLUMNS])
        terms = np.float32([name not in _MULTIPLIED + _FIXED for name in schema.COLUMNS])
        fisher = 0.5 * statistics[:, _LOG_FISHER]
        score = self.config.score_scale * output[:, -1] + self.config.fisher_weight * fisher
        return parameters * (1.0 + step * factors) + step * terms, score


def _scales_and_levels(tiling, flat):
    """Returns the root mean square of each dense and of each per-channel block; and the log root mean square of the
    weights at each node, out and in, each weight relative to its block: [num_nodes] twice."""
    singles, (num_dense, num_single) = tiling.singles, tiling.num_weights
    parts = []  # (tiles, their table, sums of squares over columns and over rows)
    for tiles in tiling.parts:
        table = Tile(*tf.unstack(tf.concat([stream.tile for stream in tiles.streams], 0), axis=1))
        parts.append((tiles, table, sweeps.square_sums(tiles, flat)))
    totals = tf.zeros_like(num_dense)
    for _, table, sums in parts:
        totals += tf.math.unsorted_segment_sum(tf.reduce_sum(sums[0], 1), table.block, tf.shape(num_dense)[0])
    scale = tf.sqrt(totals / num_dense + _TINY)
    squares = tf.square(flat[tf.size(flat) - tf.size(singles.edge) :])
    totals = tf.math.unsorted_segment_sum(squares, singles.block, tf.shape(num_single)[0])
    single_scale = tf.sqrt(totals / num_single + _TINY)
    squares /= tf.gather(tf.square(single_scale), singles.block) * tf.gather(tiling.channel_taps.count, singles.tap)
    levels, num_nodes = [], tf.shape(tiling.weighted)[1]
    for end, nodes in enumerate(singles[:2]):
        total = tf.math.unsorted_segment_sum(squares, tf.gather(nodes, singles.edge), num_nodes)
        for tiles, table, sums in parts:
            unit = tf.square(tf.gather(scale, table.block)) * tf.cast(table.num_taps, tf.float32)
            part = tf.math.unsorted_segment_sum(sums[end] / unit[:, tf.newaxis], table[end], tf.shape(tiles[end])[0])
            total += tf.math.unsorted_segment_sum(tf.reshape(part, [-1]), tf.reshape(tiles[end], [-1]), num_nodes)
        levels.append(_log_ratio(total, tiling.weighted[end]))
    return scale, single_scale, levels


def _log_ratio(total, count):
    """0 where there is no edge."""
    return tf.where(count > 0, 0.5 * tf.math.log(total / tf.maximum(count, 1.0) + 1e-6), 0.0)


def _check_fit(parameters, weights, graph):
    expected = {name: num_edges for name, (num_edges, _) in graph.edge_sets.items()}
    expected = {**expected, schema.PARAMETERS: graph.num_nodes}
    found = {name: value.shape[0] for name, value in {**weights, schema.PARAMETERS: parameters}.items()}
    if expected != {name: expected.get(name) if size is None else size for name, size in found.items()}:
        raise ArgumentError(
            f"MetaNetwork: expected the numbers of edges of each edge set and of nodes {expected} as in the layout, "
            f"got {found}. Use the layout of the same model."
        )
