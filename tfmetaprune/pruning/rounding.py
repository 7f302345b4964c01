"""Widths that are multiples of a number, as the kernels of most devices like them."""

import collections
import dataclasses
import math

import numpy as np

from tfmetaprune.errors import NothingToPruneError
from tfmetaprune.pruning.cost import total_macs
from tfmetaprune.trace import ModelTrace


@dataclasses.dataclass(frozen=True, eq=False)
class Cell:
    """Units that lie on the same axes of what layers make, equally often: only their number matters to a width.

    Attributes:
      units: int64 [size].
      step: how many units make a multiple on every one of the axes.
      minimum: how many units must remain.
    """

    units: np.ndarray
    step: int
    minimum: int

    def below(self, count: int) -> int | None:
        """The largest number of units up to `count` that may remain; None if there is none."""
        if count >= len(self.units):
            return len(self.units)
        count -= count % self.step
        return count if count >= self.minimum and count > 0 else None

    def above(self, count: int) -> int:
        """The smallest number of units from `count` on that may remain."""
        return min(len(self.units), max(self.step, self.step * math.ceil(max(count, self.minimum) / self.step)))


def round_widths(trace: ModelTrace, keep, scores, terms, *, round_to: int, floor: float, target: float) -> np.ndarray:
    """Makes the number of channels that every layer makes a multiple, close below a number of MACs.

    A width that loses nothing stays as it is; so do widths below `round_to`. Of axes that are made together (heads, and
    the channels of each) the innermost counts. Every width is rounded down first, then runs of units come back, the
    best first, as long as the MACs allow it.

    Args:
      trace: the traced model.
      keep: bool [num_units], which units remain before rounding.
      scores: float [num_units]; low ones go first. Units that remained rank above those that did not.
      terms: of `mac_terms`.
      round_to: what the widths shall be multiples of.
      floor: share of its units that every cell keeps.
      target: MACs that must not be exceeded.

    Returns:
      bool [num_units], which units remain.

    Raises:
      NothingToPruneError: no such widths are within the target.
    """
    cells = _cells(trace, round_to, floor)
    frozen = np.zeros(len(keep), bool)
    frozen[list(trace.channels.frozen)] = True
    ranked = [cell.units[np.lexsort((-scores[cell.units], ~keep[cell.units], ~frozen[cell.units]))] for cell in cells]
    kept = [np.count_nonzero(keep[cell.units]) for cell in cells]
    counts = [cell.above(count) if cell.below(count) is None else cell.below(count) for cell, count in zip(cells, kept)]
    keep = keep.copy()
    for order, count in zip(ranked, counts):
        keep[order[:count]], keep[order[count:]] = True, False

    def moves(find):
        """(mean score, cell, units) of the next run of every cell that has one."""
        for index, (cell, order, count) in enumerate(zip(cells, ranked, counts)):
            other = find(cell, count)
            if other is not None and other != count:
                run = order[min(count, other) : max(count, other)]
                yield float(np.mean(scores[run])), index, other, run

    while total_macs(terms, keep) > target:
        lowest = min(moves(lambda cell, count: cell.below(count - 1)), key=lambda move: move[:2], default=None)
        if lowest is None:
            raise NothingToPruneError(
                f"Model {trace.model.name!r}: expected widths that are multiples of {round_to} to reach {target:,.0f} "
                f"MACs, got at least {total_macs(terms, keep):,}. Ask for less, lower the floor, or round to less."
            )
        _, index, counts[index], run = lowest
        keep[run] = False
    refused = set()  # a run that does not fit now does not fit later either: MACs only grow
    while True:
        candidates = [move for move in moves(lambda cell, count: cell.above(count + 1)) if move[1] not in refused]
        if not candidates:
            return keep
        _, index, count, run = max(candidates, key=lambda move: move[:2])
        keep[run] = True
        if total_macs(terms, keep) > target:
            keep[run] = False
            refused.add(index)
        else:
            counts[index] = count


def _cells(trace, round_to, floor) -> list[Cell]:
    """Every unit on an axis that a kernel makes, in cells."""
    axes_made = {}
    for call in trace.channels.calls:
        for weight in call.weights.values():
            if not weight.is_kernel and len(weight.names) < 2:  # those of two axes are embeddings
                continue
            made = [weight.per_channel] if weight.per_channel else [weight.names[axis] for axis in weight.target[-1:]]
            for role in made:
                if role in call.roles:
                    units = trace.channels.units(call.roles[role])
                    axes_made[units.tobytes()] = units
    signatures = collections.defaultdict(list)
    for index, units in enumerate(axes_made.values()):
        for unit, times in zip(*np.unique(units, return_counts=True)):
            signatures[int(unit)].append((index, int(times)))
    members = collections.defaultdict(list)
    for unit, signature in sorted(signatures.items()):
        members[tuple(signature)].append(unit)
    cells = []
    for signature, units in members.items():
        step = math.lcm(*(round_to // math.gcd(round_to, times) for _, times in signature))
        num_frozen = sum(unit in trace.channels.frozen for unit in units)
        minimum = max(1, num_frozen, math.ceil(floor * len(units) - 1e-9))
        cells.append(Cell(np.array(units, np.int64), step, minimum))
    return cells
