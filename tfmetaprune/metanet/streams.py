"""One sweep over the tiles of one stream, forward and backward, as a loop inside a traced function.

The states of a stream are a list of tiles (a TensorList), so that nothing is copied. The loop reads the states of some tiles
at a time, or makes them of the weights, calls the compiled kernels, and puts the new states in the place of the old ones.
"""

from typing import NamedTuple

from tfmetaprune._keras import tf
from tfmetaprune.metanet import kernels
from tfmetaprune.metanet.kernels import ADVANCE, COLLECT, DECODE
from tfmetaprune.metanet.tiles import TILES_PER_CALL, Stream, Tile, Tiles

_ops = tf.raw_ops


class Weights(NamedTuple):
    """What the first states of tiles are made of.

    Attributes:
      flat: float32 [num_weights], all weights.
      scale: float32 [num_blocks], root mean square of each dense block.
      phi: float32 [num_taps, d], the vectors of the taps.
    """

    flat: tf.Tensor
    scale: tf.Tensor
    phi: tf.Tensor


class Step(NamedTuple):
    """What one sweep needs besides the states.

    Attributes:
      source, target: float32 [num_nodes, n, d], what the nodes give to the edges that leave and that reach them; at the tiles
        float32 [num_strips, n, rows, d] and [num_chunks, n, d, columns].
      parameters: of `advance`.
      decoder: (kernel, bias), or () before the last sweep.
      psi: float32 [num_taps, d] vectors of the taps for the changed weights, times the step size; () before the last sweep.
    """

    source: tf.Tensor
    target: tf.Tensor
    parameters: tuple
    decoder: tuple
    psi: tf.Tensor | tuple


class Kind(NamedTuple):
    """What a stream does in a sweep: `edges`, `what`, where its states come from, and how they are kept."""

    edges: type
    what: frozenset
    states: str
    edge_state: str

    @property
    def dtype(self):
        return tf.bfloat16 if self.edge_state == "bfloat16" else tf.float32

    @property
    def stages(self) -> list[frozenset]:
        """What is compiled apart, before DECODE: XLA would compute the new states again in everything that reads them."""
        first = {ADVANCE} if self.edges.advances_first else {ADVANCE, COLLECT}
        stages = [self.what & first, self.what & ({COLLECT} - first)]
        return [frozenset(stage) for stage in stages if stage]

    @property
    def statistics(self) -> list[str]:
        """Names of what is collected, for sources, then for targets."""
        kinds = ["sums", "extremes"][: 1 + self.edges.extremes] if COLLECT in self.what else []
        return [f"{end} {kind}" for end in ("source", "target") for kind in kinds]


def forward_stream(kind: Kind, tiles: Tiles, stream: Stream, states, weights, step, earlier):
    """Runs a sweep over one stream: new states, statistics as `kind` names them, changed weights."""
    num_tiles, (rows, columns), hidden = tf.shape(stream.tile)[0], tiles.shape, weights.phi.shape[1]
    shapes = {"source": [2, rows, hidden], "target": [2, hidden, columns]}
    keeps, made = kind.edge_state != "recompute" and DECODE not in kind.what, {}
    if keeps:
        made["states"] = states if kind.states == "list" else _reserve(num_tiles, [rows, hidden, columns], kind.dtype)
    for name in kind.statistics:
        made[name] = _reserve(num_tiles, shapes[name.split()[0]], tf.float32)
    if DECODE in kind.what:
        made["changed"] = _reserve(num_tiles, [rows, -1], tf.float32)

    def body(first, made):
        made = dict(made)
        calls = _calls(kind, tiles, stream, first, made.get("states", states), weights, earlier, step)
        now, *ends = zip(*(call[1:] for call in calls))
        for what in kind.stages:
            dtype = kind.dtype if keeps and what == kind.stages[-1] else tf.float32
            found = kernels.forward(kind.edges, what, dtype)(now, *ends, step.parameters if ADVANCE in what else ())
            if what != {COLLECT}:
                now = [values.pop(0) for values in found]
            if COLLECT in what:
                for index, values in enumerate(found):
                    for name, value in zip(kind.statistics, values, strict=True):
                        made[name] = _set(made[name], first + index, value)
        for index, state in enumerate(now if keeps else ()):
            made["states"] = _set(made["states"], first + index, tf.cast(state, kind.dtype))
        if DECODE in kind.what:
            changes = _changes([_vectors_of(step.psi, tile) for tile, *_ in calls], now, step.decoder)
            for index, ((tile, *_), change) in enumerate(zip(calls, changes)):
                changed = _read(tile, weights.flat, tiles.shape) + tf.gather(weights.scale, tile.block) * change
                made["changed"] = _set(made["changed"], first + index, tf.reshape(changed, [rows, -1]))
        return made

    made = _loop(num_tiles, body, made, TILES_PER_CALL)
    statistics = [_stack(made[name], shapes[name.split()[0]]) for name in kind.statistics]
    changed = _join_strips(tiles, stream, made["changed"]) if DECODE in kind.what else ()
    return made["states"] if keeps else tf.zeros([]), statistics, changed


def _join_strips(tiles: Tiles, stream: Stream, items):
    """Puts a list of tiles [rows, columns * T] together again: the weights of a stream, float32 [n]."""
    num_strips, rows = tf.shape(stream.strip)[0], tiles.shape[0]

    def body(index, made):
        first, count, num_rows, row_size = tf.unstack(tf.gather(stream.strip, index))
        found = _ops.TensorListGather(
            input_handle=items, indices=first + tf.range(count), element_shape=[rows, -1], element_dtype=tf.float32
        )
        strip = tf.reshape(tf.transpose(found, (1, 0, 2)), [rows, -1])[:num_rows, :row_size]
        return _set(made, index, tf.reshape(strip, [-1]))

    made = _loop(num_strips, body, _reserve(num_strips, [-1], tf.float32))
    return _ops.TensorListConcatV2(input_handle=made, element_shape=[-1], leading_dims=[], element_dtype=tf.float32)[0]


def backward_stream(kind, tiles, stream, states, weights, step, earlier, of_states, of_statistics, of_changed, begin):
    """Goes back over a sweep of one stream: gradients of the states, of phi, of the vectors of both ends for each tile, and of
    parameters, decoder and psi in a list."""
    num_tiles, (rows, columns), hidden = tf.shape(stream.tile)[0], tiles.shape, weights.phi.shape[1]
    num_vectors, is_first = step.source.shape[1], kind.states == "weights"
    shapes = {"source": [num_vectors, rows, hidden], "target": [num_vectors, hidden, columns]}
    made = {name: _reserve(num_tiles, shape, tf.float32) for name, shape in shapes.items()}
    made["values"] = tf.nest.map_structure(tf.zeros_like, [*step.parameters, *step.decoder])
    if is_first:
        made["phi"] = tf.zeros_like(weights.phi)
    else:
        made["states"] = _reserve(num_tiles, [rows, hidden, columns], tf.float32)
    if DECODE in kind.what:
        made["psi"] = tf.zeros_like(step.psi)

    def body(first, made):
        made, calls = dict(made), _calls(kind, tiles, stream, first, states, weights, earlier, step)
        table, of_weights = [tile for tile, *_ in calls], []
        if DECODE in kind.what:
            for tile in table:
                here = tile._replace(first=tile.first - begin)
                of_weights.append(_read(here, of_changed[0], tiles.shape) * tf.gather(weights.scale, tile.block))
            upstreams = _to_states([_vectors_of(step.psi, tile) for tile in table], of_weights)
        else:
            shape = [rows, hidden, columns]
            upstreams = [_get(of_states, first + index, shape, tf.float32) for index in range(len(table))]
        upstreams = [
            [upstream, *(tf.gather(of, first + index) for of in of_statistics)] for index, upstream in enumerate(upstreams)
        ]
        arguments = zip(*(call[1:] for call in calls))
        found, values, decoded = kernels.backward(kind.edges, kind.what)(*arguments, step.parameters, step.decoder, upstreams)
        made["values"] = tf.nest.map_structure(tf.add, made["values"], values)
        for index, (tile, ends) in enumerate(zip(table, found)):
            for end, of in zip(shapes, ends[1:], strict=True):
                made[end] = _set(made[end], first + index, of)
            if is_first:
                made["phi"] = _add_vectors(made["phi"], tile, _tile_weights(tile, weights, tiles.shape), ends[0])
            else:
                made["states"] = _set(made["states"], first + index, ends[0])
            if DECODE in kind.what:
                made["psi"] = _add_vectors(made["psi"], tile, of_weights[index], decoded[index][0])
        return made

    made = _loop(num_tiles, body, made, TILES_PER_CALL)
    of_ends = [_stack(made[end], shape) for end, shape in shapes.items()]
    of_phi, psi = made.get("phi", tf.zeros_like(weights.phi)), [made["psi"]] if "psi" in made else []
    return made.get("states", ()), of_phi, of_ends, [*made["values"], *psi]


def square_stream(tiles: Tiles, stream: Stream, flat):
    """Sums the squares of the weights of each tile over its columns and over its rows: float32 [num_tiles, rows] and
    [num_tiles, columns]."""
    num_tiles = tf.shape(stream.tile)[0]

    def body(index, made):
        squares = tf.reduce_sum(tf.square(_read(Tile(*tf.unstack(stream.tile[index])), flat, tiles.shape)), 2)
        return [_set(items, index, tf.reduce_sum(squares, axis)) for items, axis in zip(made, (1, 0))]

    made = _loop(num_tiles, body, [_reserve(num_tiles, [size], tf.float32) for size in tiles.shape])
    return [_stack(items, [size]) for items, size in zip(made, tiles.shape)]


def _loop(count, body, made, stride=1):
    """Runs body(index, made) for each index, or each `stride`-th; one at a time, so that lists are changed in place."""
    return tf.while_loop(
        lambda index, _: index < count, lambda index, made: (index + stride, body(index, made)), (0, made), parallel_iterations=1
    )[1]


def _calls(kind: Kind, tiles: Tiles, stream: Stream, first, states, weights: Weights, earlier, step: Step):
    """What is given to one call of a kernel: for each tile from `first` on (tile, states, source, target, size)."""
    table = [Tile(*tf.unstack(row)) for row in tf.unstack(stream.tile[first : first + TILES_PER_CALL], TILES_PER_CALL)]
    states = _states(kind, table, tiles.shape, first, states, weights, earlier)
    return [(tile, state, *ends) for tile, state, ends in zip(table, states, zip(*_ends(step, table)))]


def _ends(step: Step, table):
    """The vectors of the sources and of the targets of tiles, and their sizes, in a list each."""
    sources = [tf.gather(step.source, tile.strip) for tile in table]
    return sources, [tf.gather(step.target, tile.chunk) for tile in table], [(tile.num_rows, tile.num_columns) for tile in table]


def _states(kind: Kind, table, shape, first, states, weights: Weights, earlier):
    """The states of tiles, the `first` and those that follow, as a sweep meets them."""
    if kind.states == "list":
        shape = [shape[0], weights.phi.shape[1], shape[1]]
        return [_get(states, first + index, shape, kind.dtype) for index in range(len(table))]
    vectors, values = zip(*((_vectors_of(weights.phi, tile), _tile_weights(tile, weights, shape)) for tile in table))
    states = _to_states(vectors, values)
    for step in earlier:
        advance = kernels.forward(kind.edges, frozenset([ADVANCE]))
        states = [state for (state,) in advance(states, *_ends(step, table), step.parameters)]
    return states


def _tile_weights(tile: Tile, weights: Weights, shape):
    """The weights of a tile, [rows, columns, T], relative to their block."""
    return _read(tile, weights.flat, shape) / tf.gather(weights.scale, tile.block)


def _read(tile: Tile, flat, shape):
    """Reads the weights of a tile, [rows, columns, T]; zeros fill it up."""
    strip = tf.reshape(tf.slice(flat, [tile.first], [tile.num_rows * tile.row_size]), [tile.num_rows, tile.row_size])
    part = tf.slice(strip, [0, tile.before], [tile.num_rows, tile.num_columns * tile.num_taps])
    part = tf.pad(part, [[0, shape[0] - tile.num_rows], [0, (shape[1] - tile.num_columns) * tile.num_taps]])
    return tf.reshape(part, [*shape, tile.num_taps])


def _vectors_of(vectors, tile: Tile):
    """The vectors [T, d] of the taps of a tile."""
    return tf.slice(vectors, [tile.first_tap, 0], [tile.num_taps, vectors.shape[1]])


def _to_states(vectors, values):
    """Sums for each tile values [rows, columns, T] times vectors [T, d] over the taps: [rows, d, columns]."""
    return tf.cond(
        _have_one_tap(vectors),
        lambda: kernels.single_tap()([value[..., 0] for value in values], [vector[0] for vector in vectors]),
        lambda: [tf.matmul(*pair, transpose_a=True, transpose_b=True) for pair in zip(vectors, values)],
    )


def _changes(vectors, states, decoder):
    """Decodes the states of each tile and multiplies them with vectors [T, d]: [rows, columns, T]."""
    return tf.cond(
        _have_one_tap(vectors),
        lambda: kernels.single_tap_change()(states, [vector[0] for vector in vectors], decoder),
        lambda: [
            tf.matmul(*pair, transpose_a=True, transpose_b=True) for pair in zip(kernels.decoded()(states, decoder), vectors)
        ],
    )


def _have_one_tap(vectors):
    return tf.reduce_all([tf.shape(vector)[0] == 1 for vector in vectors])


def _add_vectors(total, tile: Tile, values, states):
    """Adds the gradient of the vectors in `_to_states` to that of all taps, given that of the states."""
    of_vectors = tf.transpose(tf.reduce_sum(tf.matmul(states, values), 0))
    return tf.tensor_scatter_nd_add(total, (tile.first_tap + tf.range(tile.num_taps))[:, tf.newaxis], of_vectors)


def _reserve(size, shape, dtype):
    return _ops.TensorListReserve(element_shape=list(shape), num_elements=size, element_dtype=dtype)


def _get(items, index, shape, dtype):
    return _ops.TensorListGetItem(input_handle=items, index=index, element_shape=shape, element_dtype=dtype)


def _set(items, index, item):
    return _ops.TensorListSetItem(input_handle=items, index=index, item=item)


def _stack(items, shape):
    return _ops.TensorListStack(
        input_handle=items, element_shape=list(shape), element_dtype=tf.float32, num_elements=-1
    )
