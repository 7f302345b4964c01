"""Draws a small acyclic graph in rows, top to bottom: rows by longest path, few crossings, straight long edges.

The method is that of Sugiyama, Tagawa and Toda, "Methods for visual understanding of hierarchical system structures", 1981.
"""

import dataclasses

_SWEEPS = 6
LANE = 12.0  # width that an edge takes where it passes a row


@dataclasses.dataclass(frozen=True)
class Placement:
    """Where everything lies.

    Attributes:
      width, height: of the whole.
      centres: (x, y) of each node.
      paths: for each edge the points that it runs through, from the bottom of a node to the top of another.
    """

    width: float
    height: float
    centres: tuple
    paths: tuple


def place(sizes, edges, *, gap=14.0, row_gap=22.0) -> Placement:
    """Places the nodes of an acyclic graph.

    Args:
      sizes: (width, height) of each node.
      edges: (source, target), indices of nodes; a source has the lower index.
      gap: between neighbours in a row.
      row_gap: between rows.

    Example:
      >>> placement = place([(10, 4), (10, 4)], [(0, 1)])
      >>> placement.centres
      ((5.0, 2.0), (5.0, 28.0))
    """
    rows_of = [0] * len(sizes)
    for source, target in sorted(edges, key=lambda edge: edge[1]):
        rows_of[target] = max(rows_of[target], rows_of[source] + 1)
    _lower(rows_of, edges)
    widths, row_of, chains, links = [size[0] for size in sizes], list(rows_of), [], []
    for source, target in edges:
        chain = [source]
        for row in range(rows_of[source] + 1, rows_of[target]):
            chain.append(len(widths))
            widths.append(LANE)
            row_of.append(row)
        chain.append(target)
        chains.append(chain)
        links += zip(chain, chain[1:])
    rows = [[] for _ in range(max(row_of, default=0) + 1)]
    for node, row in enumerate(row_of):
        rows[row].append(node)
    above, below = ([[] for _ in widths] for _ in range(2))
    for upper, lower in links:
        above[lower].append(upper)
        below[upper].append(lower)
    _order(rows, above, below)
    x = _spread(rows, widths, above, below, gap)
    left = min((x[node] - widths[node] / 2 for node in range(len(widths))), default=0.0)
    right = max((x[node] + widths[node] / 2 for node in range(len(widths))), default=0.0)
    heights = [max((sizes[node][1] for node in row if node < len(sizes)), default=0.0) for row in rows]
    middles, top = [], 0.0
    for height in heights:
        middles.append(top + height / 2)
        top += height + row_gap
    centres = tuple((x[node] - left, middles[row_of[node]]) for node in range(len(widths)))
    paths = []
    for chain in chains:
        first, *between, last = chain
        points = [(centres[first][0], centres[first][1] + sizes[first][1] / 2)]
        for node in between:
            half = heights[row_of[node]] / 2
            points += [(centres[node][0], centres[node][1] - half), (centres[node][0], centres[node][1] + half)]
        points.append((centres[last][0], centres[last][1] - sizes[last][1] / 2))
        paths.append(tuple(points))
    return Placement(right - left, max(0.0, top - row_gap), centres[: len(sizes)], tuple(paths))


def _lower(rows_of, edges):
    """Moves nodes that nothing comes into down to the row above the first that reads them."""
    has_input = {target for _, target in edges}
    for node in range(len(rows_of)):
        readers = [rows_of[target] for source, target in edges if source == node]
        if node not in has_input and readers:
            rows_of[node] = max(0, min(readers) - 1)


def _order(rows, above, below):
    """Sorts each row by the mean place of the neighbours, downwards and upwards in turns."""
    place = {node: index for row in rows for index, node in enumerate(row)}
    best, best_crossings = [list(row) for row in rows], _crossings(rows, below, place)
    for sweep in range(_SWEEPS):
        neighbours, order = (above, rows) if sweep % 2 == 0 else (below, rows[::-1])
        for row in order:
            row.sort(key=lambda node: _mean([place[other] for other in neighbours[node]], place[node]))
            place.update({node: index for index, node in enumerate(row)})
        crossings = _crossings(rows, below, place)
        if crossings < best_crossings:
            best, best_crossings = [list(row) for row in rows], crossings
    for row, better in zip(rows, best):
        row[:] = better


def _crossings(rows, below, place) -> int:
    total = 0
    for row in rows:
        ends = [end for node in row for end in sorted(place[other] for other in below[node])]
        total += sum(end > later for index, end in enumerate(ends) for later in ends[index + 1 :])
    return total


def _spread(rows, widths, above, below, gap) -> list[float]:
    """The x of every node: as near to its neighbours as the places in its row allow."""
    x = [0.0] * len(widths)
    for row in rows:
        _pack(row, [0.0] * len(row), widths, gap, x)
    for sweep in range(2 * _SWEEPS):
        neighbours = above if sweep % 2 == 0 else below
        for row in rows if sweep % 2 == 0 else rows[::-1]:
            wanted = [_mean([x[other] for other in neighbours[node]], x[node]) for node in row]
            _pack(row, wanted, widths, gap, x)
    return x


def _pack(row, wanted, widths, gap, x):
    """Puts the nodes of a row where they want to be, apart by the gap: clusters that touch move to their mean wish."""
    clusters = []  # [first wish of the cluster's start, number of nodes, nodes, offsets]
    for node, wish in zip(row, wanted):
        start, nodes, offsets = wish - widths[node] / 2, [node], [0.0]
        clusters.append([start, 1, nodes, offsets, widths[node]])
        while len(clusters) > 1 and clusters[-2][0] + clusters[-2][4] + gap > clusters[-1][0]:
            right, left = clusters.pop(), clusters.pop()
            shift = left[4] + gap
            number = left[1] + right[1]
            start = (left[0] * left[1] + (right[0] - shift) * right[1]) / number
            offsets = left[3] + [offset + shift for offset in right[3]]
            clusters.append([start, number, left[2] + right[2], offsets, shift + right[4]])
    for start, _, nodes, offsets, _ in clusters:
        for node, offset in zip(nodes, offsets):
            x[node] = start + offset + widths[node] / 2


def _mean(values, default) -> float:
    return sum(values) / len(values) if values else default
