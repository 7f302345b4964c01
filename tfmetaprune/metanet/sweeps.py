"""Sweeps over all tiles of a graph, forward and backward: what holds the edge states of a metanetwork's pass.

A sweep reads the states of each tile, runs the compiled kernels, and puts the new states in the place of the old ones. The
states of a stream are a list of tiles, so that nothing is copied, and each stream is a loop of its own, so that streams run
at the same time. What a sweep does to a part of the tiles is one function, traced once for all graphs. Where the states are
not to be kept ("recompute"), every sweep makes them anew from the weights.

The backward pass goes over the tiles of one sweep after the other and computes again what happens within a sweep; it needs
the states that each sweep met: those are kept, or made anew from the weights as well.
"""

import functools
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
      source, target: float32 [num_nodes, n, d], what the nodes give to the edges that leave and that reach them.
      parameters: of `advance`.
      decoder: (kernel, bias), or () before the last sweep.
      psi: float32 [num_taps, d] vectors of the taps for the changed weights, times the step size; () before the last sweep.
    """

    source: tf.Tensor
    target: tf.Tensor
    parameters: tuple
    decoder: tuple
    psi: tf.Tensor | tuple


class Sweeps:
    """The sweeps of one pass over the tiles of a graph.

    Args:
      edges: `kernels.SumRmsEdges` or `kernels.PublishedEdges`.
      parts: the parts of a `Tiling`, of tensors.
      weights: the `Weights`; gradients reach `phi`.
      num_sweeps: how many sweeps there will be.
      edge_state: "float32" or "bfloat16" to keep the states, "recompute" not to.
    """

    def __init__(self, edges, parts, weights: Weights, num_sweeps, edge_state):
        self.edges, self.parts, self.weights = edges, parts, weights
        self.num_sweeps, self.edge_state = num_sweeps, edge_state
        self.states, self.steps = [[] for _ in parts], []

    def what(self, number) -> frozenset:
        """What a sweep does."""
        last = number == self.num_sweeps - 1
        if self.edges.advances_first:
            return frozenset([ADVANCE] * (number > 0) + [COLLECT] * (not last) + [DECODE] * last)
        return frozenset([ADVANCE, COLLECT] + [DECODE] * last)

    def run(self, number, step: Step):
        """Runs a sweep, the next one.

        Returns:
          For each part a pair of lists, for sources and for targets, of the statistics at each node, float32 [num_nodes, 2, d]
          as in `kernels.forward`; empty if the sweep collects nothing. And a list of the changed weights of all tiles, float32
          [n] each; empty but for the last sweep.
        """
        how = _How(self.edges, self.what(number), self._source_of_states(number), self.edge_state)
        earlier = [other for index, other in enumerate(self.steps) if ADVANCE in self.what(index)]
        earlier = tf.nest.map_structure(tf.stop_gradient, earlier if how.states == "recompute" else [])
        self.steps.append(step)
        collected, changed = [], []
        for part, tiles in enumerate(self.parts):
            self.states[part], found, new = _run_part(how, tiles, self.states[part], self.weights, earlier, step)
            collected.append(found)
            changed += new
        return collected, changed

    def _source_of_states(self, number):
        if number == 0:
            return "weights"
        return "recompute" if self.edge_state == "recompute" else "list"


def join_statistics(values, parts, num_parts):
    """Joins statistics along their first axis: sums are added, of extremes the largest stays.

    Args:
      values: [sums] or [sums, extremes], as in `kernels.forward`, stacked.
      parts: int32 [n], to what each belongs; negative to leave it out.
      num_parts: how many there are.

    Returns:
      The same with `num_parts` in place of n; extremes of nothing are the lowest float.
    """
    reductions = tf.math.unsorted_segment_sum, tf.math.unsorted_segment_max
    return [reduction(value, parts, num_parts) for reduction, value in zip(reductions, values)]


def add_statistics(parts):
    """Joins several lists of statistics of the same nodes."""
    operations = tf.add_n, functools.partial(functools.reduce, tf.maximum)
    return [operation(values) for operation, values in zip(operations, zip(*parts))]


def square_sums(tiles: Tiles, flat):
    """Sums the squares of the weights of each tile over its columns and over its rows.

    Returns:
      float32 [num_tiles, rows] and [num_tiles, columns].
    """
    return _call(_square_sums, None, (tiles, flat), ())


class _How(NamedTuple):
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
        """What is compiled apart: XLA would compute the new states again in everything that reads them."""
        first = {ADVANCE} if self.edges.advances_first else {ADVANCE, COLLECT}
        stages = [self.what & first, self.what & ({COLLECT} - first), self.what & {DECODE}]
        return [frozenset(stage) for stage in stages if stage]

    @property
    def statistics(self) -> list[str]:
        """Names of what is collected, for sources, then for targets."""
        kinds = ["sums", "extremes"][: 1 + self.edges.extremes] if COLLECT in self.what else []
        return [f"{end} {kind}" for end in ("source", "target") for kind in kinds]


_functions = {}


def _call(function, how, arguments, fixed):
    """Calls function(how, arguments, fixed) as a `tf.function` that is traced once for arguments of any length.

    Args:
      function: the function.
      how: a `_How` or None.
      arguments: nest of tensors, of any length along their first axis.
      fixed: nest of tensors of fixed shapes.
    """
    flat = tf.nest.flatten((arguments, fixed))
    num_dynamic = len(tf.nest.flatten(arguments))
    specs = tuple(
        tf.TensorSpec([None, *x.shape[1:]] if x.shape.rank and index < num_dynamic else x.shape, x.dtype)
        for index, x in enumerate(flat)
    )
    structure = tf.nest.map_structure(lambda _: 0, (arguments, fixed))
    key = function, how, specs, str(structure)
    if key not in _functions:

        def run(*flat):
            return function(how, *tf.nest.pack_sequence_as(structure, flat))

        words = (how.edges.__name__, *sorted(how.what), how.states, how.edge_state) if how else ()
        run = kernels.named(run, function.__name__.strip("_"), *words, len(_functions))
        _functions[key] = tf.function(run, input_signature=specs, autograph=False)
    return _functions[key](*flat)


def _run_part(how: _How, tiles, states, weights, earlier, step):
    """Runs a sweep over one part, with a gradient for the states, phi and the step.

    Returns:
      New states, statistics for both ends, changed weights, each in a list.
    """
    inputs, structure = (states, weights.phi, step), []
    earlier_vectors = [other._replace(parameters=()) for other in earlier]
    earlier_fixed = [other.parameters for other in earlier]

    @tf.custom_gradient
    def run(*flat):
        states, phi, given = tf.nest.pack_sequence_as(inputs, [tf.stop_gradient(x) for x in flat])  # no tape is to look inside
        arguments = tiles, states, weights._replace(phi=phi), given._replace(parameters=(), decoder=()), earlier_vectors
        fixed = given.parameters, given.decoder, earlier_fixed
        *results, of_tiles = _call(_forward_part, how, arguments, fixed)
        structure.append(results)

        def gradient(*upstream):
            upstream = tf.nest.pack_sequence_as(results, upstream)
            return tf.nest.flatten(_call(_backward_part, how, (*arguments, of_tiles, upstream), fixed))

        return tf.nest.flatten(results), gradient

    results = run(*tf.nest.flatten(inputs))
    return tf.nest.pack_sequence_as(structure[0], results)


def _together(step: Step, earlier, fixed):
    """Puts steps together again that `_run_part` took apart for `_call`."""
    parameters, decoder, of_earlier = fixed
    earlier = [other._replace(parameters=values) for other, values in zip(earlier, of_earlier, strict=True)]
    return step._replace(parameters=parameters, decoder=decoder), earlier


def _at_tiles(tiles: Tiles, step: Step) -> Step:
    """The step with source vectors [num_strips, n, rows, d] and target vectors [num_chunks, n, d, columns]."""
    return step._replace(
        source=tf.transpose(tf.gather(step.source, tf.maximum(tiles.source, 0)), (0, 2, 1, 3)),
        target=tf.transpose(tf.gather(step.target, tf.maximum(tiles.target, 0)), (0, 2, 3, 1)),
    )


def _at_nodes(tiles: Tiles, statistics, num_nodes):
    """Joins the statistics of tiles, [num_tiles, 2, rows, d] of sources and [num_tiles, 2, d, columns] of targets, at the
    nodes: [num_nodes, 2, d]."""
    result = []
    for end, (values, part, order) in enumerate(zip(statistics, ("strip", "chunk"), ((0, 2, 1, 3), (0, 3, 1, 2)))):
        values = join_statistics(values, _column(tiles, part), tf.shape(tiles[end])[0])
        values = [tf.transpose(value, order) for value in values]
        values = [tf.reshape(value, [-1, *value.shape[2:]]) for value in values]
        result.append(join_statistics(values, tf.reshape(tiles[end], [-1]), num_nodes))
    return result


def _column(tiles: Tiles, name):
    """A field of `Tile` for all tiles, int32 [num_tiles]."""
    return tf.concat([stream.tile[:, Tile._fields.index(name)] for stream in tiles.streams], 0)


def _forward_part(how: _How, arguments, fixed):
    """Runs a sweep over a part.

    Returns:
      Each in a list that is empty for what the sweep does not make: for each stream the new states (without edge states a
      scalar that stands for them); for both ends the statistics at the nodes; the changed weights, float32 [n]; for both ends
      the statistics of each tile.
    """
    tiles, states, weights, step, earlier = arguments
    step, earlier = _together(step, earlier, fixed)
    given, earlier = _at_tiles(tiles, step), [_at_tiles(tiles, other) for other in earlier]
    states = states or [()] * len(tiles.streams)
    found = [
        _forward_stream(how, tiles, stream, state, weights, given, earlier) for stream, state in zip(tiles.streams, states)
    ]
    of_tiles = [tf.concat(values, 0) for values in zip(*(statistics for _, statistics, _ in found))]
    of_tiles = [of_tiles[: len(of_tiles) // 2], of_tiles[len(of_tiles) // 2 :]]
    return (
        [state for state, _, _ in found] if DECODE not in how.what else [],
        _at_nodes(tiles, of_tiles, tf.shape(step.source)[0]) if COLLECT in how.what else [[], []],
        [tf.concat([changed for _, _, changed in found], 0)] if DECODE in how.what else [],
        of_tiles,
    )


def _forward_stream(how: _How, tiles: Tiles, stream: Stream, states, weights, step, earlier):
    """Runs a sweep over one stream: new states, statistics as `how` names them, changed weights."""
    num_tiles, (rows, columns), hidden = tf.shape(stream.tile)[0], tiles.shape, weights.phi.shape[1]
    shapes = {"source": [2, rows, hidden], "target": [2, hidden, columns]}
    keeps, made = how.edge_state != "recompute" and DECODE not in how.what, {}
    if keeps:
        made["states"] = states if how.states == "list" else _reserve(num_tiles, [rows, hidden, columns], how.dtype)
    for name in how.statistics:
        made[name] = _reserve(num_tiles, shapes[name.split()[0]], tf.float32)
    if DECODE in how.what:
        made["changed"] = _reserve(num_tiles, [rows, -1], tf.float32)

    def body(first, made):
        made = dict(made)
        calls = _calls(how, tiles, stream, first, made.get("states", states), weights, earlier, step)
        now, *ends = zip(*(call[1:] for call in calls))
        for what in how.stages:
            dtype = how.dtype if what == how.stages[-1] else tf.float32
            found = kernels.forward(how.edges, what, dtype)(
                now, *ends, step.parameters if ADVANCE in what else (), step.decoder if DECODE in what else ()
            )
            if what != {COLLECT}:
                now = [values.pop(0) for values in found]
            if COLLECT in what:
                for index, values in enumerate(found):
                    for name, value in zip(how.statistics, values, strict=True):
                        made[name] = _set(made[name], first + index, value)
        for index, ((tile, *_), state) in enumerate(zip(calls, now)):
            if keeps:
                made["states"] = _set(made["states"], first + index, tf.cast(state, how.dtype))
            if DECODE in how.what:
                change = tf.gather(weights.scale, tile.block) * _to_weights(_vectors_of(step.psi, tile), state)
                changed = tf.reshape(_read(tile, weights.flat, tiles.shape) + change, [rows, -1])
                made["changed"] = _set(made["changed"], first + index, changed)
        return made

    made = _loop(num_tiles, body, made, TILES_PER_CALL)
    statistics = [_stack(made[name], shapes[name.split()[0]]) for name in how.statistics]
    changed = _join_strips(tiles, stream, made["changed"]) if DECODE in how.what else ()
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


def _backward_part(how: _How, arguments, fixed):
    """Goes back over a sweep of a part.

    Returns:
      The gradients of (states, phi, step), given those of what `_forward_part` returns as the last of the arguments.
    """
    tiles, states, weights, step, earlier, of_tiles, (of_states, of_statistics, of_changed) = arguments
    step, earlier = _together(step, earlier, fixed)
    given, earlier = _at_tiles(tiles, step), [_at_tiles(tiles, other) for other in earlier]
    values = tf.nest.flatten(of_tiles)
    if values:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(values)
            joined = tf.nest.flatten(_at_nodes(tiles, of_tiles, tf.shape(step.source)[0]))
        values = tape.gradient(joined, values, output_gradients=tf.nest.flatten(of_statistics))
    sizes = [tf.shape(stream.tile)[0] for stream in tiles.streams]
    of_streams = list(zip(*(tf.split(value, sizes, num=len(sizes)) for value in values))) or [()] * len(sizes)
    found, begin = [], tf.reduce_min(_column(tiles, "first"))
    for number, stream in enumerate(tiles.streams):
        state, upstream = (of[number] if of else () for of in (states, of_states))
        upstreams = upstream, of_streams[number], of_changed
        found.append(_backward_stream(how, tiles, stream, state, weights, given, earlier, *upstreams, begin))
    of_states, of_phi, of_ends, of_values = zip(*found)
    of_ends = [
        tf.math.unsorted_segment_sum(
            tf.concat([of[end] for of in of_ends], 0), _column(tiles, part), tf.shape(tiles[end])[0]
        )
        for end, part in enumerate(("strip", "chunk"))
    ]
    source, target = (  # back through `_at_tiles`; what fills up has a gradient of 0
        tf.math.unsorted_segment_sum(tf.transpose(of, order), nodes, tf.shape(step.source)[0])
        for of, order, nodes in zip(of_ends, ((0, 2, 1, 3), (0, 3, 1, 2)), tiles[:2])
    )
    values, count = list(map(tf.add_n, zip(*of_values))), len(step.parameters)
    psi = values.pop() if DECODE in how.what else ()
    of_step = Step(source, target, values[:count], values[count:], psi)
    return of_states if states else (), tf.add_n(of_phi), of_step


def _backward_stream(how, tiles, stream, states, weights, step, earlier, of_states, of_statistics, of_changed, begin):
    """Goes back over a sweep of one stream: gradients of the states, of phi, of the vectors of both ends for each tile, and of
    parameters, decoder and psi in a list."""
    num_tiles, (rows, columns), hidden = tf.shape(stream.tile)[0], tiles.shape, weights.phi.shape[1]
    num_vectors, is_first = step.source.shape[1], how.states == "weights"
    shapes = {"source": [num_vectors, rows, hidden], "target": [num_vectors, hidden, columns]}
    made = {name: _reserve(num_tiles, shape, tf.float32) for name, shape in shapes.items()}
    made["values"] = tf.nest.map_structure(tf.zeros_like, [*step.parameters, *step.decoder])
    if is_first:
        made["phi"] = tf.zeros_like(weights.phi)
    else:
        made["states"] = _reserve(num_tiles, [rows, hidden, columns], tf.float32)
    if DECODE in how.what:
        made["psi"] = tf.zeros_like(step.psi)

    def body(first, made):
        made, calls = dict(made), _calls(how, tiles, stream, first, states, weights, earlier, step)
        upstreams, of_weights = [], []
        for index, (tile, *_) in enumerate(calls):
            if DECODE in how.what:
                here = tile._replace(first=tile.first - begin)
                of_weights.append(_read(here, of_changed[0], tiles.shape) * tf.gather(weights.scale, tile.block))
                upstreams.append([_to_states(_vectors_of(step.psi, tile), of_weights[-1])])
            else:
                upstreams.append([_get(of_states, first + index, [rows, hidden, columns], tf.float32)])
            upstreams[-1] += [tf.gather(of, first + index) for of in of_statistics]
        arguments = zip(*(call[1:] for call in calls))
        found, values, decoded = kernels.backward(how.edges, how.what)(*arguments, step.parameters, step.decoder, upstreams)
        made["values"] = tf.nest.map_structure(tf.add, made["values"], values)
        for index, ((tile, *_), ends) in enumerate(zip(calls, found)):
            for end, of in zip(shapes, ends[1:], strict=True):
                made[end] = _set(made[end], first + index, of)
            if is_first:
                made["phi"] = _add_vectors(made["phi"], tile, _tile_weights(tile, weights, tiles.shape), ends[0])
            else:
                made["states"] = _set(made["states"], first + index, ends[0])
            if DECODE in how.what:
                made["psi"] = _add_vectors(made["psi"], tile, of_weights[index], decoded[index][0])
        return made

    made = _loop(num_tiles, body, made, TILES_PER_CALL)
    of_ends = [_stack(made[end], shape) for end, shape in shapes.items()]
    of_phi, psi = made.get("phi", tf.zeros_like(weights.phi)), [made["psi"]] if "psi" in made else []
    return made.get("states", ()), of_phi, of_ends, [*made["values"], *psi]


def _square_sums(how, arguments, fixed):
    tiles, flat = arguments
    ends = dict(zip(("source", "target"), tiles.shape))
    found = []
    for stream in tiles.streams:
        num_tiles = tf.shape(stream.tile)[0]

        def body(index, made, stream=stream):
            squares = tf.reduce_sum(tf.square(_read(Tile(*tf.unstack(stream.tile[index])), flat, tiles.shape)), 2)
            sums = zip(made, (tf.reduce_sum(squares, 1), tf.reduce_sum(squares, 0)))
            return {name: _set(made[name], index, value) for name, value in sums}

        made = _loop(num_tiles, body, {end: _reserve(num_tiles, [size], tf.float32) for end, size in ends.items()})
        found.append([_stack(made[end], [size]) for end, size in ends.items()])
    return [tf.concat(values, 0) for values in zip(*found)]


def _loop(count, body, made, stride=1):
    """Runs body(index, made) for each index, or each `stride`-th; one at a time, so that lists are changed in place."""
    return tf.while_loop(
        lambda index, _: index < count, lambda index, made: (index + stride, body(index, made)), (0, made), parallel_iterations=1
    )[1]


def _calls(how: _How, tiles: Tiles, stream: Stream, first, states, weights: Weights, earlier, step: Step):
    """What is given to one call of a kernel: for each tile from `first` on (tile, states, source, target, size)."""
    calls = []
    for offset, row in enumerate(tf.unstack(stream.tile[first : first + TILES_PER_CALL], TILES_PER_CALL)):
        tile = Tile(*tf.unstack(row))
        state = _state(how, tile, tiles.shape, first + offset, states, weights, earlier)
        calls.append((tile, state, *_ends(step, tile), (tile.num_rows, tile.num_columns)))
    return calls


def _ends(step: Step, tile: Tile):
    return tf.gather(step.source, tile.strip), tf.gather(step.target, tile.chunk)


def _state(how: _How, tile: Tile, shape, index, states, weights: Weights, earlier):
    """The states of a tile as a sweep meets them."""
    if how.states == "list":
        return _get(states, index, [shape[0], weights.phi.shape[1], shape[1]], how.dtype)
    e = _to_states(_vectors_of(weights.phi, tile), _tile_weights(tile, weights, shape))
    for step in earlier:
        arguments = e, *_ends(step, tile), (tile.num_rows, tile.num_columns)
        ((e,),) = kernels.forward(how.edges, frozenset([ADVANCE]))(*([value] for value in arguments), step.parameters, ())
    return e


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
    """Sums values [rows, columns, T] times vectors [T, d] over the taps: [rows, d, columns]."""
    return tf.cond(
        tf.shape(values)[2] == 1,
        lambda: kernels.single_tap()(values[..., 0], vectors[0]),
        lambda: tf.matmul(vectors, values, transpose_a=True, transpose_b=True),
    )


def _to_weights(vectors, states):
    """Multiplies states [rows, d, columns] with vectors [T, d]: [rows, columns, T]."""
    return tf.cond(
        tf.shape(vectors)[0] == 1,
        lambda: kernels.single_tap_change()(states, vectors[0])[..., tf.newaxis],
        lambda: tf.matmul(states, vectors, transpose_a=True, transpose_b=True),
    )


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
