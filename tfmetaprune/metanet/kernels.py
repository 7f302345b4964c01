"""What happens on a tile of edges, for each kind of message passing; compiled by XLA, once for each tile shape.

A tile holds the edge states `[rows, d, columns]` between `rows` sources and `columns` targets: a linear map of the states
is then one matrix product for each row, and the columns, which lie next to each other, fill the vector registers.

The message passing meets every edge once a sweep: a sweep sums up what the nodes at both ends need of the edge states
(it collects), and moves the states on by one layer (it advances), in the order that each kind defines. The same equations
serve the few edges that are not in tiles, as a list of states `[edges, d]`.
"""

import functools

import numpy as np

from tfmetaprune._keras import tf

ADVANCE, COLLECT, DECODE = "advance", "collect", "decode"
_EPSILON = 1e-5


def named(function, *words):
    """Gives a function a code object of its own: TensorFlow counts how often one is traced, and would warn of all together."""
    name = "_".join(str(word) for word in words)
    function.__code__ = function.__code__.replace(co_name=name)
    function.__name__ = name
    return function


def layer_norm(x, axis=-1):
    """Layer normalisation without learned scale and offset."""
    centred = x - tf.reduce_mean(x, axis, keepdims=True)
    return centred * tf.math.rsqrt(tf.reduce_mean(tf.square(centred), axis, keepdims=True) + _EPSILON)


def silu(x):
    """SiLU; `tf.nn.silu` takes three times as long, for its custom gradient."""
    return x * tf.sigmoid(x)


class TileLayout:
    """Edge states [rows, d, columns]."""

    axis = 1

    @staticmethod
    def linear(kernel, e):
        """Applies a matrix [d, units] to the states; a broadcast product keeps XLA from transposing them."""
        kernel = tf.transpose(kernel)
        return tf.matmul(tf.broadcast_to(kernel, [e.shape[0], *kernel.shape]), e)

    @staticmethod
    def vector(x):
        """Gives a vector [d] a shape that broadcasts with the states."""
        return x[:, tf.newaxis]


class ListLayout:
    """Edge states [edges, d]."""

    axis = 1
    linear = staticmethod(lambda kernel, e: tf.matmul(e, kernel))
    vector = staticmethod(lambda x: x)


class SumRmsEdges:
    """e += F(silu(E(e) + U(n_source) + W(n_target))) before messages e * q(n_other) are collected.

    Vectors of a node: at the source U(n) with the bias of E, and q; at the target W(n), and q.
    """

    extremes = False
    advances_first = True
    query = 1  # which of a node's vectors is the factor of messages

    @staticmethod
    def advance(e, source, target, parameters, layout):
        """Returns the states after a layer; parameters: kernel of E, kernel of F, bias of F."""
        inner, outer, bias = parameters
        x = layout.linear(inner, e) + source[0] + target[0]
        return e + layout.linear(outer, silu(x)) + layout.vector(bias)


class PublishedEdges:
    """Messages A(n_other) * e are collected before e *= 1 + P(n_source) Q(n_target) + Q(n_source) P(n_target).

    Vectors of a node: A, P, Q.
    """

    extremes = True
    advances_first = False
    query = 0

    @staticmethod
    def advance(e, source, target, parameters, layout):
        """Returns the states after a layer; it has no parameters."""
        del parameters, layout
        return e * (1.0 + source[1] * target[2] + source[2] * target[1])


def decode(decoder, e, layout):
    """Returns silu(Linear(LayerNorm(e))); decoder: kernel and bias."""
    kernel, bias = decoder
    return silu(layout.linear(kernel, layer_norm(e, layout.axis)) + layout.vector(bias))


def sweep(edges, what, e, source, target, parameters, decoder, layout, collect):
    """Passes over edges once.

    Args:
      edges: `SumRmsEdges` or `PublishedEdges`.
      what: which of ADVANCE, COLLECT and DECODE to do.
      e: edge states.
      source: the vectors of the sources, in shapes that broadcast with the states.
      target: those of the targets.
      parameters: of `advance`.
      decoder: of `decode`.
      layout: `TileLayout` or `ListLayout`.
      collect: called with the states for what the nodes need of them.

    Returns:
      (states, or decoded states; what `collect` returned, or ()).
    """
    found = ()
    if ADVANCE in what and edges.advances_first:
        e = edges.advance(e, source, target, parameters, layout)
    if COLLECT in what:
        found = collect(e)
    if ADVANCE in what and not edges.advances_first:
        e = edges.advance(e, source, target, parameters, layout)
    return decode(decoder, e, layout) if DECODE in what else e, found


def list_sweep(edges, what, e, source, target, parameters, decoder):
    """`sweep` over a list of edges.

    States are float32 [edges, d] and vectors float32 [edges, n, d]; the statistics, for the sources and for the targets, are a
    list of float32 [edges, 2, d], as `forward` has them but one for each edge.
    """
    source, target = tf.unstack(source, axis=1), tf.unstack(target, axis=1)

    def collect(e):
        messages = e * target[edges.query], e * source[edges.query]  # a source hears what the target says
        return [
            [tf.stack([m, tf.square(m)], 1)] + ([tf.stack([m, -m], 1)] if edges.extremes else []) for m in messages
        ]

    return sweep(edges, what, e, source, target, parameters, decoder, ListLayout, collect)


def _tile_sweep(edges, what, e, source, target, size, parameters, decoder, fold):
    """`sweep` over a tile: see `forward`; `fold`: how to reduce along an axis."""
    rows, columns = e.shape[0], e.shape[2]
    source, target = tf.unstack(source[..., tf.newaxis]), tf.unstack(target)
    is_row, is_column = (tf.range(rows) < size[0])[:, tf.newaxis, tf.newaxis], tf.range(columns) < size[1]

    def collect(e):
        found = []
        for query, real, axis in ((target, is_column, 2), (source, is_row, 0)):
            message = e * query[edges.query]
            sums = [fold(tf.add, tf.where(real, x, 0.0), axis) for x in (message, tf.square(message))]
            tops = [fold(tf.maximum, tf.where(real, x, -np.inf), axis) for x in (message, -message)]
            found.append([tf.stack(sums)] + ([tf.stack(tops)] if edges.extremes else []))
        return found

    return sweep(edges, what, tf.cast(e, tf.float32), source, target, parameters, decoder, TileLayout, collect)


def _fold(operation, x, axis):
    """Reduces a tensor along an axis by halves: XLA makes one vectorised loop of it, and none of a reduction."""
    while x.shape[axis] > 1:
        half, rest = divmod(x.shape[axis], 2)
        first, second, *last = tf.split(x, [half, half] + [1] * rest, axis)
        x = tf.concat([operation(first, second), *last], axis) if rest else operation(first, second)
    return tf.squeeze(x, axis)


def _reduce(operation, x, axis):
    """Like `_fold`, with a gradient that XLA compiles well."""
    return {tf.add: tf.reduce_sum, tf.maximum: tf.reduce_max}[operation](x, axis)


@functools.cache
def forward(edges, what: frozenset, dtype=tf.float32):
    """Compiles a sweep over some tiles of one shape.

    Args:
      edges: `SumRmsEdges` or `PublishedEdges`.
      what: which of ADVANCE and COLLECT to do.
      dtype: of the new states.

    Returns:
      A function of (states, source vectors, target vectors, sizes, parameters); each of the first four is a list with
      an element for each tile: [rows, d, columns], [n, rows, d], [n, d, columns], int32 pair of the numbers of real rows and
      columns. It returns for each tile a list: the new states (not if it only collects), then statistics for the
      sources [2, rows, d] and for the targets [2, d, columns] if it collects: the sum of messages and of their squares; with
      extremes another two, the maximum of messages and of negated messages. Rows and columns that only fill a tile up
      have no part in those. All is laid out as the inner loops read and write it.
    """

    def one(*arguments):
        state, found = _tile_sweep(edges, what, *arguments, (), _fold)
        return [] if what == {COLLECT} else [tf.cast(state, dtype)], tf.nest.flatten(found)

    def run(states, sources, targets, sizes, parameters):
        results = [one(*tile, parameters) for tile in zip(states, sources, targets, sizes, strict=True)]
        return [[*state, *found] for state, found in results]

    words = edges.__name__, *sorted(what), dtype.name
    one = tf.function(named(one, "tile", *words), autograph=False)  # traced once for all tiles of a call
    return tf.function(named(run, "tiles", *words), jit_compile=True, autograph=False)


@functools.cache
def backward(edges, what: frozenset):
    """Compiles the vector-Jacobian product of a sweep over some tiles, which may decode as well.

    Returns:
      A function of the arguments of `forward`, the decoder and a list, with an element for each tile, of the gradients of the states and of
      the statistics. It returns for each tile the gradients of the states, the source vectors and the target vectors; those
      of the parameters and the decoder, in a list, summed over the tiles; and for each tile the decoded states, in a list ([]
      without DECODE).
    """

    def one(state, source, target, size, upstream, parameters, decoder):
        state = tf.cast(state, tf.float32)
        watched = [state, source, target, *parameters, *decoder]
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(watched)
            new, found = _tile_sweep(edges, what, state, source, target, size, parameters, decoder, _reduce)
        made = tape.gradient(
            [new, *tf.nest.flatten(found)], watched, output_gradients=upstream,
            unconnected_gradients=tf.UnconnectedGradients.ZERO,
        )  # fmt: skip
        return made[:3], made[3:], [new] if DECODE in what else []

    def run(states, sources, targets, sizes, parameters, decoder, upstreams):
        tiles = zip(states, sources, targets, sizes, upstreams, strict=True)
        ends, values, decoded = zip(*(one(*tile, parameters, decoder) for tile in tiles))
        return ends, list(map(tf.add_n, zip(*values))), decoded

    words = edges.__name__, *sorted(what)
    one = tf.function(named(one, "tile_back", *words), autograph=False)
    return tf.function(named(run, "tiles_back", *words), jit_compile=True, autograph=False)


@functools.cache
def single_tap():
    """Compiles what makes the first states of tiles whose kernels have one tap.

    Returns:
      A function of lists of weights [rows, columns] and of vectors of the tap [d] that returns a list of states [rows, d,
      columns].
    """

    @tf.function(jit_compile=True, autograph=False)
    def single_tap(weights, vectors):
        return [value[:, tf.newaxis] * vector[:, tf.newaxis] for value, vector in zip(weights, vectors)]

    return single_tap


@functools.cache
def decoded():
    """Compiles `decode`: a function of a list of states [rows, d, columns] and the decoder that returns a list of as many."""

    @tf.function(jit_compile=True, autograph=False)
    def decoded(states, decoder):
        return [decode(decoder, state, TileLayout) for state in states]

    return decoded


@functools.cache
def single_tap_change():
    """Compiles what decodes tiles whose kernels have one tap and makes the changes of their weights.

    Returns:
      A function of lists of states [rows, d, columns] and of vectors of the tap [d], and of the decoder, that returns a list of
      changes [rows, columns, 1].
    """

    @tf.function(jit_compile=True, autograph=False)
    def single_tap_change(states, vectors, decoder):
        values = [decode(decoder, state, TileLayout) * vector[:, tf.newaxis] for state, vector in zip(states, vectors)]
        return [_fold(tf.add, value, 1)[..., tf.newaxis] for value in values]

    return single_tap_change
