"""The parts of the metanetwork: the reader of tap positions, and the two kinds of message passing.

Every message passing is written twice with the same weights: `call` on dense blocks, which is what runs, and
`call_generic` with TF-GNN's own broadcast and pool, straight from the equations; the tests compare the two.
"""

import numpy as np

from tfmetaprune._keras import keras, tf, tfgnn
from tfmetaprune.graph.layout import NUM_TAP_FEATURES, tap_positions
from tfmetaprune.metanet.blocks import SOURCE, TARGET

_EPSILON = 1e-5


def layer_norm(x, axis=-1):
    """Layer normalisation without learned scale and offset."""
    centred = x - tf.reduce_mean(x, axis, keepdims=True)
    return centred * tf.math.rsqrt(tf.reduce_mean(tf.square(centred), axis, keepdims=True) + _EPSILON)


def silu(x):
    """SiLU; `tf.nn.silu` takes three times as long, for its custom gradient."""
    return x * tf.sigmoid(x)


def dense(num_in, num_out, **kwargs):
    """A Keras Dense layer with its variables made at once."""
    layer = keras.layers.Dense(num_out, dtype="float32", **kwargs)  # whatever the policy of the caller's models
    layer.build((None, num_in))
    return layer


def on_edges(layer, edges):
    """Applies a Dense layer (its kernel and bias) to channel-first edge states [d, ...]: [units, ...]."""
    result = tf.matmul(layer.kernel, tf.reshape(edges, [edges.shape[0], -1]), transpose_a=True)
    return tf.reshape(result + layer.bias[:, tf.newaxis], [layer.units, *edges.shape[1:]])


class TapNetwork(keras.layers.Layer):
    """Maps the positions of a kernel's taps to vectors [T, units]; the last layer starts at zero if asked to."""

    def __init__(self, hidden, units, zero=False, **kwargs):
        super().__init__(**{"dtype": "float32", **kwargs})
        self.inner = dense(NUM_TAP_FEATURES + 1, hidden, activation=silu)
        self.outer = dense(hidden, units, use_bias=False, kernel_initializer="zeros" if zero else "glorot_uniform")
        self.built = True

    def vectors(self, taps):
        """Returns the vectors of all taps of a kernel of shape `taps`, [T, units]."""
        positions = np.arcsinh(tap_positions(taps))  # large kernels stay within reach of small ones
        return self.outer(self.inner(np.concatenate([np.ones_like(positions[:, :1]), positions], 1)))


class SumRms(keras.layers.Layer):
    """Message passing by sums and root mean squares.

    With n = LayerNorm(h): messages e * q(n_other) in each of the two directions, their sum over the square root of the
    node's number of edges, and their root mean square; h += MLP([n, all four]);
    e += F(silu(E(e) + U(n_source) + W(n_target))), n of the new h.
    """

    def __init__(self, hidden, **kwargs):
        super().__init__(**{"dtype": "float32", **kwargs})
        self.query_source, self.query_target = dense(hidden, hidden), dense(hidden, hidden)
        self.node_inner, self.node_outer = dense(5 * hidden, hidden, activation=silu), dense(hidden, hidden)
        self.edge_inner, self.edge_outer = dense(hidden, hidden), dense(hidden, hidden)
        self.edge_source = dense(hidden, hidden, use_bias=False)
        self.edge_target = dense(hidden, hidden, use_bias=False)
        self.built = True

    def call(self, h, states, structure):
        """Runs one layer on dense blocks.

        Args:
          h: node states [num_nodes, d].
          states: edge states of each block of the structure; the list is emptied as it is used.
          structure: the `Structure`.

        Returns:
          (node states, list of edge states), shapes as given.
        """
        n, found = layer_norm(h), [layer_norm(h)]
        queries = {TARGET: self.query_source(n), SOURCE: self.query_target(n)}
        sums, squares = {TARGET: [], SOURCE: []}, {TARGET: [], SOURCE: []}
        for block, e in zip(structure.blocks, states, strict=True):
            squared = tf.square(e)
            for end, query in queries.items():
                sums[end].append(block.total(end, e, query))
                squares[end].append(block.total(end, squared, tf.square(query)))
        for end in (TARGET, SOURCE):
            degree = structure.degree[end][:, np.newaxis]
            total = structure.join(tf.math.unsorted_segment_sum, end, sums[end]) / np.sqrt(degree)
            mean_square = structure.join(tf.math.unsorted_segment_sum, end, squares[end]) / degree
            found += [total, tf.sqrt(mean_square + _EPSILON)]
        h += self.node_outer(self.node_inner(tf.concat(found, -1)))
        n = layer_norm(h)
        at_source, at_target = self.edge_source(n), self.edge_target(n)
        result = []
        for block in structure.blocks:
            e = states.pop(0)
            inner = on_edges(self.edge_inner, e) + block.at(SOURCE, at_source) + block.at(TARGET, at_target)
            result.append(e + on_edges(self.edge_outer, silu(inner)))
        return h, result

    def call_generic(self, h, states, graph):
        """Runs one layer by TF-GNN's broadcast and pool; `states` maps each edge set to its states [E, d]."""
        gnn, n = tfgnn(), layer_norm(h)
        found, sets = [n], list(states)
        for end, query in ((gnn.TARGET, self.query_source(n)), (gnn.SOURCE, self.query_target(n))):
            other = gnn.SOURCE if end == gnn.TARGET else gnn.TARGET
            messages = [
                states[name] * gnn.broadcast_node_to_edges(graph, name, other, feature_value=query) for name in sets
            ]
            squares = [tf.square(message) for message in messages]
            ones = [tf.ones_like(message[:, :1]) for message in messages]
            degree = tf.maximum(gnn.pool(graph, end, edge_set_name=sets, reduce_type="sum", feature_value=ones), 1.0)
            total = gnn.pool(graph, end, edge_set_name=sets, reduce_type="sum", feature_value=messages)
            mean_square = gnn.pool(graph, end, edge_set_name=sets, reduce_type="mean", feature_value=squares)
            found += [total / tf.sqrt(degree), tf.sqrt(mean_square + _EPSILON)]
        h += self.node_outer(self.node_inner(tf.concat(found, -1)))
        n = layer_norm(h)
        result = {}
        for name, e in states.items():
            source = gnn.broadcast_node_to_edges(graph, name, gnn.SOURCE, feature_value=self.edge_source(n))
            target = gnn.broadcast_node_to_edges(graph, name, gnn.TARGET, feature_value=self.edge_target(n))
            result[name] = e + self.edge_outer(silu(self.edge_inner(e) + source + target))
        return h, result


class Published(keras.layers.Layer):
    """The published message passing (arXiv 2506.12041, METHOD.md).

    With n = LayerNorm(h) and A, Z, P, Q = SiLU(Linear): messages Z(n_i) * A(n_j) * e_ij, joined by mean, standard
    deviation, maximum and minimum over a node's incoming edges and then by one linear map; edges
    P(n_source) * Q(n_target) * e. The same weights serve the reversed edges, whose states are multiplied by s (+1 on one
    half of d, -1 on the rest). h += both node results; e += forward edge result + s * reversed edge result.
    """

    def __init__(self, hidden, **kwargs):
        super().__init__(**{"dtype": "float32", **kwargs})
        self.here, self.there, self.first, self.second = (dense(hidden, hidden, activation=silu) for _ in range(4))
        self.merge = dense(4 * hidden, hidden)
        self.sign = np.where(np.arange(hidden) < hidden // 2, 1.0, -1.0).astype(np.float32)
        self.built = True

    def call(self, h, states, structure):
        """Runs one layer on dense blocks; arguments and result as `SumRms.call`.

        Z(n_i) factors out of all four joins; where it is negative, maximum and minimum change places.
        """
        n = layer_norm(h)
        z, a, p, q = self.here(n), self.there(n), self.first(n), self.second(n)
        add = tf.math.unsorted_segment_sum
        ops = {"sum": add, "square": add, "max": tf.math.unsorted_segment_max, "min": tf.math.unsorted_segment_min}
        rows = {(end, kind): [] for end in (TARGET, SOURCE) for kind in ops}
        for block, e in zip(structure.blocks, states, strict=True):
            squared = tf.square(e)
            for end in (TARGET, SOURCE):
                messages = e * block.at(1 - end, a)
                rows[end, "sum"].append(block.total(end, e, a))
                rows[end, "square"].append(block.total(end, squared, tf.square(a)))
                rows[end, "max"].append(block.extreme(end, tf.reduce_max, messages))
                rows[end, "min"].append(block.extreme(end, tf.reduce_min, messages))
        for end, factor in ((TARGET, z), (SOURCE, z * self.sign)):
            degree, linked = structure.degree[end][:, np.newaxis], structure.linked[end][:, np.newaxis]
            joined = {kind: structure.join(op, end, rows[end, kind]) for kind, op in ops.items()}
            mean, mean_square = joined["sum"] / degree, joined["square"] / degree
            variance = tf.where(degree > 1, tf.nn.relu(mean_square - tf.square(mean)), 0.0) * tf.square(factor)
            most, least = (tf.where(linked, joined[kind], 0.0) * factor for kind in ("max", "min"))
            found = [mean * factor, tf.sqrt(variance + _EPSILON), tf.maximum(most, least), tf.minimum(most, least)]
            h += self.merge(tf.concat(found, -1))
        pairs = [(p, q), (q, p), (tf.ones_like(p), tf.ones_like(p))]
        return h, [states.pop(0) * block.outer(pairs) for block in structure.blocks]

    def call_generic(self, h, states, graph):
        """Runs one layer by TF-GNN's broadcast and pool; `states` maps each edge set to its states [E, d]."""
        gnn, n, sets = tfgnn(), layer_norm(h), list(states)
        result = dict(states)
        for source, target, sign in ((gnn.SOURCE, gnn.TARGET, 1.0), (gnn.TARGET, gnn.SOURCE, self.sign)):

            def at(name, end, layer):
                return gnn.broadcast_node_to_edges(graph, name, end, feature_value=layer(n))

            signed = {name: sign * e for name, e in states.items()}
            messages = [at(name, target, self.here) * at(name, source, self.there) * signed[name] for name in sets]
            mean, square = (
                gnn.pool(graph, target, edge_set_name=sets, reduce_type="mean", feature_value=values)
                for values in (messages, [tf.square(message) for message in messages])
            )
            std = tf.sqrt(tf.nn.relu(square - tf.square(mean)) + _EPSILON)
            ends = gnn.pool(
                graph, target, edge_set_name=sets, reduce_type="max_no_inf|min_no_inf", feature_value=messages
            )
            h += self.merge(tf.concat([mean, std, ends], -1))
            for name in sets:
                result[name] += sign * at(name, source, self.first) * at(name, target, self.second) * signed[name]
        return h, result


MESSAGE_PASSING_LAYERS = {"sum_rms": SumRms, "published": Published}
