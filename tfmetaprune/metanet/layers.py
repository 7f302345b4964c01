"""The parts of the metanetwork: the reader of tap positions, and the two kinds of message passing.

Every message passing is written twice with the same weights. What runs goes over tiles of edges (`kernels.py`,
`sweeps.py`) and uses `vectors`, `edge_parameters` and `update` here for the nodes; `call_generic` uses TF-GNN's own
broadcast and pool, straight from the equations; the tests compare the two.
"""

import numpy as np

from tfmetaprune._keras import keras, tf, tfgnn
from tfmetaprune.graph.layout import NUM_TAP_FEATURES, tap_positions
from tfmetaprune.metanet.kernels import PublishedEdges, SumRmsEdges, layer_norm, silu

_EPSILON = 1e-5


def dense(num_in, num_out, **kwargs):
    """A Keras Dense layer with its variables made at once."""
    layer = keras.layers.Dense(num_out, dtype="float32", **kwargs)  # whatever the policy of the caller's models
    layer.build((None, num_in))
    return layer


def values_of(layer) -> tuple:
    """The kernel and the bias of a `dense` layer as tensors."""
    return tf.convert_to_tensor(layer.kernel), tf.convert_to_tensor(layer.bias)


class TapNetwork(keras.layers.Layer):
    """Maps the positions of a kernel's taps to vectors [T, units]; the last layer starts at zero if asked to."""

    def __init__(self, hidden, units, zero=False, **kwargs):
        super().__init__(**{"dtype": "float32", **kwargs})
        self.inner = dense(NUM_TAP_FEATURES + 1, hidden, activation=silu)
        self.outer = dense(hidden, units, use_bias=False, kernel_initializer="zeros" if zero else "glorot_uniform")
        self.built = True

    def call(self, positions):
        """Returns the vectors [T, units] of taps at positions [T, NUM_TAP_FEATURES], of `tap_positions`."""
        positions = tf.asinh(positions)  # large kernels stay within reach of small ones
        return self.outer(self.inner(tf.concat([tf.ones_like(positions[:, :1]), positions], 1)))

    def vectors(self, taps):
        """Returns the vectors of all taps of a kernel of shape `taps`, [T, units]."""
        return self(tap_positions(taps))


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

    edges = SumRmsEdges

    @staticmethod
    def num_sweeps(num_layers):
        """Number of sweeps over the edges: one for the first statistics, one for each layer's change of the states."""
        return num_layers + 1

    @staticmethod
    def vectors(passes, sweep, h):
        """What nodes [N, d] give to the edges that leave and that reach them in a sweep: [N, 2, d] each."""
        n = layer_norm(h)
        source, target = [tf.zeros_like(h)] * 2, [tf.zeros_like(h)] * 2
        if sweep > 0:
            source[0] = passes[sweep - 1].edge_source(n) + passes[sweep - 1].edge_inner.bias
            target[0] = passes[sweep - 1].edge_target(n)
        if sweep < len(passes):
            source[1], target[1] = passes[sweep].query_source(n), passes[sweep].query_target(n)
        return tf.stack(source, 1), tf.stack(target, 1)

    @staticmethod
    def edge_parameters(passes, sweep):
        """What `edges.advance` needs in a sweep."""
        if sweep == 0:
            return ()
        before = passes[sweep - 1]
        values = before.edge_inner.kernel, before.edge_outer.kernel, before.edge_outer.bias
        return tuple(map(tf.convert_to_tensor, values))

    def update(self, h, joined, degree):
        """The node states after a layer, given the joined statistics of (sources, targets)."""
        found = [layer_norm(h)]
        for end in (1, 0):
            (total, square), count = joined[end], degree[end][:, tf.newaxis]
            found += [total / tf.sqrt(count), tf.sqrt(square / count + _EPSILON)]
        return h + self.node_outer(self.node_inner(tf.concat(found, -1)))

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
    """The published message passing (arXiv 2506.12041).

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

    edges = PublishedEdges

    @staticmethod
    def num_sweeps(num_layers):
        """Number of sweeps over the edges."""
        return num_layers

    @staticmethod
    def vectors(passes, sweep, h):
        """What nodes [N, d] give to the edges that leave and that reach them in a sweep: [N, 3, d] each."""
        n, layer = layer_norm(h), passes[sweep]
        vectors = tf.stack([layer.there(n), layer.first(n), layer.second(n)], 1)
        return vectors, vectors

    @staticmethod
    def edge_parameters(passes, sweep):
        """What `edges.advance` needs in a sweep: nothing."""
        del passes, sweep
        return ()

    def update(self, h, joined, degree):
        """The node states after a layer, given the joined statistics of (sources, targets).

        Z(n_i) factors out of all four joins; where it is negative, maximum and minimum change places.
        """
        z, change = self.here(layer_norm(h)), []
        for end, factor in ((1, z), (0, z * self.sign)):
            total, square, most, least = joined[end]  # the last one is of negated messages
            count = degree[end][:, tf.newaxis]
            mean = total / count
            variance = tf.where(count > 1, tf.nn.relu(square / count - tf.square(mean)), 0.0) * tf.square(factor)
            most, least = most * factor, -least * factor
            found = [mean * factor, tf.sqrt(variance + _EPSILON), tf.maximum(most, least), tf.minimum(most, least)]
            change.append(self.merge(tf.concat(found, -1)))
        return h + tf.add_n(change)

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
