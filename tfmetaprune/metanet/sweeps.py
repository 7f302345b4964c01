"""Sweeps over all tiles of a graph, forward and backward: what holds the edge states of a metanetwork's pass.

A sweep goes over one part of the tiles after the other, and in a part over all streams at the same time; what it does to a
part is one function, traced once for all graphs. Where the states are not to be kept ("recompute"), every sweep makes them
anew from the weights.

The backward pass goes over the tiles of one sweep after the other and computes again what happens within a sweep; it needs
the states that each sweep met: those are kept, or made anew from the weights as well.
"""

from tfmetaprune._keras import tf
from tfmetaprune.metanet import kernels
from tfmetaprune.metanet.kernels import ADVANCE, COLLECT, DECODE
from tfmetaprune.metanet.streams import Kind, Step, Weights, backward_stream, forward_stream, square_stream
from tfmetaprune.metanet.tiles import Tile, Tiles


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
          For each part a pair of lists, for sources and for targets, of the statistics for each of the nodes that `ends_of_parts`
          lists, float32 [n, 2, d] as in `kernels.forward`; these are empty if the sweep collects nothing. And a list of the
          changed weights of all tiles, float32 [n] each; empty but for the last sweep.
        """
        kind = Kind(self.edges, self.what(number), self._source_of_states(number), self.edge_state)
        earlier = [other for index, other in enumerate(self.steps) if ADVANCE in self.what(index)]
        earlier = tf.nest.map_structure(tf.stop_gradient, earlier if kind.states == "recompute" else [])
        self.steps.append(step)
        collected, changed = [], []
        for part, tiles in enumerate(self.parts):
            self.states[part], found, new = _run_part(kind, tiles, self.states[part], self.weights, earlier, step)
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


def ends_of_parts(parts):
    """The nodes to which the statistics of each part belong, int32 [n] for sources and for targets; -1 where there is none."""
    return [[tf.reshape(nodes, [-1]) for nodes in tiles[:2]] for tiles in parts]


def square_sums(tiles: Tiles, flat):
    """Sums the squares of the weights of each tile over its columns and over its rows.

    Returns:
      float32 [num_tiles, rows] and [num_tiles, columns].
    """
    return _call(_square_sums, None, (tiles, flat), ())


def _square_sums(kind, arguments, fixed):
    del kind, fixed
    tiles, flat = arguments
    return [tf.concat(sums, 0) for sums in zip(*(square_stream(tiles, stream, flat) for stream in tiles.streams))]


_functions = {}


def _call(function, kind, arguments, fixed):
    """Calls function(kind, arguments, fixed) as a `tf.function` that is traced once for arguments of any length.

    Args:
      function: the function.
      kind: a `Kind` or None.
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
    key = function, kind, specs, str(structure)
    if key not in _functions:

        def run(*flat):
            return function(kind, *tf.nest.pack_sequence_as(structure, flat))

        words = (kind.edges.__name__, *sorted(kind.what), kind.states, kind.edge_state) if kind else ()
        run = kernels.named(run, function.__name__.strip("_"), *words, len(_functions))
        _functions[key] = tf.function(run, input_signature=specs, autograph=False)
    return _functions[key](*flat)


def _run_part(kind: Kind, tiles, states, weights, earlier, step):
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
        *results, of_tiles = _call(_forward_part, kind, arguments, fixed)
        structure.append(results)

        def gradient(*upstream):
            upstream = tf.nest.pack_sequence_as(results, upstream)
            return tf.nest.flatten(_call(_backward_part, kind, (*arguments, of_tiles, upstream), fixed))

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


def _at_ends(tiles: Tiles, statistics):
    """Joins the statistics of tiles, [num_tiles, 2, rows, d] of sources and [num_tiles, 2, d, columns] of targets, along strips
    and chunks: [num_strips * rows, 2, d] and [num_chunks * columns, 2, d]."""
    result = []
    for end, (values, part, order) in enumerate(zip(statistics, ("strip", "chunk"), ((0, 2, 1, 3), (0, 3, 1, 2)))):
        values = join_statistics(values, _column(tiles, part), tf.shape(tiles[end])[0])
        values = [tf.transpose(value, order) for value in values]
        result.append([tf.reshape(value, [-1, *value.shape[2:]]) for value in values])
    return result


def _column(tiles: Tiles, name):
    """A field of `Tile` for all tiles, int32 [num_tiles]."""
    return tf.concat([stream.tile[:, Tile._fields.index(name)] for stream in tiles.streams], 0)


def _forward_part(kind: Kind, arguments, fixed):
    """Runs a sweep over a part.

    Returns:
      Each in a list that is empty for what the sweep does not make: for each stream the new states (without edge states a
      scalar that stands for them); for both ends the statistics at strips and chunks; the changed weights, float32 [n]; for both ends
      the statistics of each tile.
    """
    tiles, states, weights, step, earlier = arguments
    step, earlier = _together(step, earlier, fixed)
    given, earlier = _at_tiles(tiles, step), [_at_tiles(tiles, other) for other in earlier]
    states = states or [()] * len(tiles.streams)
    found = [
        forward_stream(kind, tiles, stream, state, weights, given, earlier) for stream, state in zip(tiles.streams, states)
    ]
    of_tiles = [tf.concat(values, 0) for values in zip(*(statistics for _, statistics, _ in found))]
    of_tiles = [of_tiles[: len(of_tiles) // 2], of_tiles[len(of_tiles) // 2 :]]
    return (
        [state for state, _, _ in found] if DECODE not in kind.what else [],
        _at_ends(tiles, of_tiles) if COLLECT in kind.what else [[], []],
        [tf.concat([changed for _, _, changed in found], 0)] if DECODE in kind.what else [],
        of_tiles,
    )


def _backward_part(kind: Kind, arguments, fixed):
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
            joined = tf.nest.flatten(_at_ends(tiles, of_tiles))
        values = tape.gradient(joined, values, output_gradients=tf.nest.flatten(of_statistics))
    sizes = [tf.shape(stream.tile)[0] for stream in tiles.streams]
    of_streams = list(zip(*(tf.split(value, sizes, num=len(sizes)) for value in values))) or [()] * len(sizes)
    found, begin = [], tf.reduce_min(_column(tiles, "first"))
    for number, stream in enumerate(tiles.streams):
        state, upstream = (of[number] if of else () for of in (states, of_states))
        upstreams = upstream, of_streams[number], of_changed
        found.append(backward_stream(kind, tiles, stream, state, weights, given, earlier, *upstreams, begin))
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
    psi = values.pop() if DECODE in kind.what else ()
    of_step = Step(source, target, values[:count], values[count:], psi)
    return of_states if states else (), tf.add_n(of_phi), of_step
