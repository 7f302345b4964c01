"""Nested lists, tuples and dicts of call arguments; everything else (None, slices, arrays) is a leaf."""

import dataclasses
from collections.abc import Callable


@dataclasses.dataclass(frozen=True)
class Slot:
    """Stands for the tensor of that index."""

    index: int


def map_leaves(function: Callable, structure):
    """Returns the structure with every leaf replaced, in the order of `flatten`."""
    if isinstance(structure, dict):
        made = {key: map_leaves(function, structure[key]) for key in _sorted(structure)}
        return {key: made[key] for key in structure}
    if isinstance(structure, tuple) and hasattr(structure, "_fields"):
        return type(structure)(*(map_leaves(function, value) for value in structure))
    if isinstance(structure, tuple):
        return tuple(map_leaves(function, value) for value in structure)
    if isinstance(structure, list):
        return [map_leaves(function, value) for value in structure]
    return function(structure)


def flatten(structure) -> list:
    """Returns the leaves in order; dicts by sorted keys, as both versions of Keras do."""
    leaves = []
    map_leaves(leaves.append, structure)
    return leaves


def fill_slots(structure, tensors):
    """Returns the structure with the tensors in place of their `Slot`s."""
    return map_leaves(lambda leaf: tensors[leaf.index] if isinstance(leaf, Slot) else leaf, structure)


def _sorted(mapping):
    try:
        return sorted(mapping)
    except TypeError:
        return list(mapping)
