"""The metanetwork: a Keras model that reads a network as a graph and returns it with changed weights and scores."""

import numpy as np

from tfmetaprune._keras import keras, tf, tfgnn
from tfmetaprune.errors import ArgumentError
from tfmetaprune.graph import schema
from tfmetaprune.metanet.blocks import SOURCE, TARGET, block_table, layout_of_graph, structure_of
from tfmetaprune.metanet.config import MetaNetConfig
from tfmetaprune.metanet.layers import MESSAGE_PASSING_LAYERS, TapNetwork, dense, layer_norm, on_edges, silu

_MULTIPLIED, _FIXED = ("gamma", "ln_gamma"), ("moving_mean", "moving_variance")
_TINY = 1e-20  # keeps a block of zeros from dividing by zero, in the gradient too
_LIMIT = 10.0  # of every node input, so that odd networks do no harm


@keras.utils.register_keras_serializable("tfmetaprune")
class MetaNetwork(keras.Model):
    """Graph metanetwork: GraphTensor -> GraphTensor with changed weights and a score per channel.

    Kernels of every shape share their weights: an edge state is the sum over taps of weight * phi(position of the tap),
    and the change of a tap is the product of the decoded edge state with psi(position). The decoders' last layers start
    at zero, so that an untrained metanetwork changes nothing, bit for bit, and every score is 0. Moving statistics never
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

    def __init__(self, config=None, **kwargs):
        super().__init__(**{"dtype": "float32", **kwargs})
        if isinstance(config, dict):
            config = MetaNetConfig.from_dict(config)
        if config is not None and not isinstance(config, MetaNetConfig):
            raise ArgumentError(
                f"MetaNetwork: expected a MetaNetConfig, a dict or None, got {config!r}. Give MetaNetConfig(...)."
            )
        self.config = config or MetaNetConfig()
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
          layout: its static GraphLayout, for use inside a `tf.function`; an eager graph needs none.
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
            parameters, score, weights = self._run_blocks(*values, weights, layout)
        else:
            parameters, score, weights = self._run_generic(*values, weights, graph)
        features = {**nodes.get_features_dict(), schema.PARAMETERS: parameters, schema.SCORE: score}
        edge_sets = {
            name: {**graph.edge_sets[name].get_features_dict(), schema.WEIGHT: value} for name, value in weights.items()
        }
        return graph.replace_features(node_sets={schema.CHANNEL: features}, edge_sets=edge_sets)

    def transform(self, parameters, present, statistics, frozen, weights, layout):
        """Transforms raw tensors, eagerly or inside a `tf.function`; differentiable.

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
        parameters, score, weights = self._run_blocks(parameters, present, statistics, frozen, weights, layout)
        return parameters, weights, score

    def _run_blocks(self, parameters, present, statistics, frozen, weights, layout):
        structure = structure_of(layout)
        _check_fit(parameters, weights, structure)
        old = {block: weights[block.edge_set][block.first : block.first + block.num_edges] for block in layout.blocks}
        scales = {block: _root_mean_square(value) for block, value in old.items()}
        powers = {block: tf.reduce_mean(tf.square(value / scales[block]), 1) for block, value in old.items()}
        levels = [_level(structure, end, powers) for end in (SOURCE, TARGET)]
        h = self._encode_nodes(parameters, present, statistics, frozen, *levels)

        phi, psi = self._tap_vectors(layout)
        states, single = [], []
        for block, parts in zip(structure.dense, structure.parts):
            vectors = phi[block.edge_set] / scales[block]
            for part, value in zip(parts, tf.split(old[block], [part.num_edges for part in parts])):
                state = tf.matmul(vectors, value, transpose_a=True, transpose_b=True)
                states.append(tf.reshape(state, [-1, *part.shape]))
        if len(states) < len(structure.blocks):
            for block in structure.single:
                vectors = phi[block.edge_set] / scales[block]
                single.append(tf.matmul(vectors, old[block], transpose_a=True, transpose_b=True))
            single.append(tf.repeat(self.identity_state[:, tf.newaxis], structure.num_identity, 1))
            states.append(tf.concat(single, 1))

        for layer in self.passes:
            h, states = layer(h, states, structure)

        changes = {}
        for block, parts in zip(structure.dense, structure.parts):
            cut = [_decode(self.kernel_decoder, states.pop(0), psi[block.edge_set]) for _ in parts]
            changes[block] = tf.concat(cut, 0)
        begin = 0
        for block in structure.single:
            state = states[0][:, begin : begin + block.num_edges]
            changes[block] = _decode(self.channel_decoder, state, psi[block.edge_set])
            begin += block.num_edges
        changed = {}
        for name, blocks in layout.edge_set_blocks.items():
            new = [old.pop(block) + self.config.ratio * scales[block] * changes.pop(block) for block in blocks]
            changed[name] = tf.concat(new, 0)
        return *self._decode_nodes(h, parameters, present), changed

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
        h = self._encode_nodes(parameters, present, statistics, frozen, *levels)
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
        return *self._decode_nodes(h, parameters, present), changed

    def _tap_vectors(self, layout):
        """Returns edge set -> phi / sqrt(T) and edge set -> psi, both [T, d]."""
        phi, psi = {}, {}
        for name, (block, *_) in layout.edge_set_blocks.items():
            reader, writer = (
                (self.kernel_taps, self.kernel_output) if block.dense else (self.channel_taps, self.channel_output)
            )
            phi[name] = layer_norm(reader.vectors(block.taps)) / np.sqrt(np.float32(np.prod(block.taps)))
            psi[name] = writer.vectors(block.taps)
        return phi, psi

    def _encode_nodes(self, parameters, present, statistics, frozen, level_out, level_in):
        values = dict(zip(schema.COLUMNS, tf.unstack(parameters, axis=1)))
        sigma = tf.sqrt(tf.maximum(values["moving_variance"], 0.0) + 1e-3)
        values["moving_mean"], values["moving_variance"] = values["moving_mean"] / sigma, tf.math.log(sigma)
        columns = [*values.values(), level_out, level_in]
        inputs = tf.concat([tf.stack(columns, 1), present, statistics, frozen], 1)
        return self.node_encoder(tf.clip_by_value(inputs, -_LIMIT, _LIMIT))

    def _decode_nodes(self, h, parameters, present):
        """Returns the changed parameters [num_nodes, P] and the scores [num_nodes]."""
        output = self.node_output(self.node_decoder(layer_norm(h)))
        step = self.config.ratio * output[:, :-1] * present
        factors = np.float32([name in _MULTIPLIED for name in schema.COLUMNS])
        terms = np.float32([name not in _MULTIPLIED + _FIXED for name in schema.COLUMNS])
        return parameters * (1.0 + step * factors) + step * terms, self.config.score_scale * output[:, -1]


def _root_mean_square(value):
    return tf.sqrt(tf.reduce_mean(tf.square(value)) + _TINY)


def _decode(decoder, states, vectors):
    """Decodes channel-first edge states [d, ...] with the vectors of the taps [T, d]: [num_edges, T]."""
    hidden = silu(on_edges(decoder, layer_norm(tf.reshape(states, [states.shape[0], -1]), 0)))
    return tf.matmul(hidden, vectors, transpose_a=True, transpose_b=True)


def _level(structure, end, powers):
    """Log root mean square of the weights of each node's edges at one end, each relative to its block."""
    sums, ids = [tf.zeros([0])], [np.zeros(0, np.int64)]
    for block, power in powers.items():
        ids.append((block.source, block.target)[end])
        if block.dense:
            power = tf.reduce_sum(tf.reshape(power, [len(block.source), len(block.target)]), 1 - end)
        sums.append(power)
    total = tf.math.unsorted_segment_sum(tf.concat(sums, 0), np.concatenate(ids), structure.num_nodes)
    return _log_ratio(total, structure.weighted[end])


def _log_ratio(total, count):
    """0 where there is no edge."""
    return tf.where(count > 0, 0.5 * tf.math.log(total / tf.maximum(count, 1.0) + 1e-6), 0.0)


def _check_fit(parameters, weights, structure):
    expected = {}
    for block in structure.dense + structure.single:
        expected[block.edge_set] = expected.get(block.edge_set, 0) + block.num_edges
    expected = {**expected, schema.PARAMETERS: structure.num_nodes}
    found = {name: value.shape[0] for name, value in {**weights, schema.PARAMETERS: parameters}.items()}
    if expected != {name: expected.get(name) if size is None else size for name, size in found.items()}:
        raise ArgumentError(
            f"MetaNetwork: expected the numbers of edges of each edge set and of nodes {expected} as in the layout, "
            f"got {found}. Use the layout of the same model."
        )
