"""What steps are written with: the table, the numbers they choose with, and the pool of tensors they add to."""

import dataclasses
import math
from collections.abc import Callable

from tfmetaprune._keras import keras

L = keras.layers
STEPS = {}
VOCABULARY = 7
MAX_NUMBERS = 1200  # a tensor with more is not made larger


@dataclasses.dataclass(frozen=True)
class StepKind:
    """A step: the function, and the ranks of the tensors (batch axis excluded) it takes."""

    apply: Callable
    ranks: tuple[int, ...]


class Choices:
    """Numbers drawn beforehand, used one after the other to choose with; when they run out, zeros."""

    def __init__(self, numbers):
        self._numbers = iter(numbers)

    def of(self, *options):
        """Returns one of the options; the first one for 0."""
        return options[next(self._numbers, 0) % len(options)]

    def upto(self, last: int) -> int:
        """Returns 1, 2, ... or `last`."""
        return 1 + next(self._numbers, 0) % max(last, 1)

    def flag(self) -> bool:
        """Returns False or True."""
        return bool(next(self._numbers, 0) % 2)

    def divisor(self, number: int) -> int:
        """Returns a divisor of `number`."""
        return self.of(*(divisor for divisor in range(1, number + 1) if number % divisor == 0))


class Maker:
    """What a model is made in: the pool of tensors, which of them have channels first, and fresh names."""

    def __init__(self):
        self.pool, self.read, self.channels_first = [], set(), set()
        self.log, self._names = [], {}

    def name(self, kind: str) -> str:
        """Returns a name that no other layer has."""
        self._names[kind] = self._names.get(kind, 0) + 1
        return f"{kind}{self._names[kind]}"

    def add(self, tensor, like=None):
        """Puts a tensor into the pool; its channels lie where those of `like` lie."""
        self.pool.append(tensor)
        if like is not None and id(like) in self.channels_first and len(tensor.shape) == len(like.shape):
            self.channels_first.add(id(tensor))
        return tensor

    def use(self, tensor):
        """Notes that a tensor is read."""
        self.read.add(id(tensor))
        return tensor

    def others(self, tensor, fits) -> list:
        """Returns the tensors of the pool, the last first, for which `fits` holds; `tensor` itself is not among them."""
        return [other for other in reversed(self.pool) if other is not tensor and fits(other)]

    def format(self, x) -> dict:
        """Returns the `data_format` argument for a layer on `x`."""
        return {"data_format": "channels_first"} if id(x) in self.channels_first else {}

    def space(self, x) -> tuple[int, ...]:
        """Returns the lengths of the spatial axes of `x`."""
        return tuple(x.shape[2:]) if id(x) in self.channels_first else tuple(x.shape[1:-1])

    def width(self, x) -> int:
        """Returns the number of channels of `x`."""
        return x.shape[1] if id(x) in self.channels_first else x.shape[-1]

    def axis(self, x) -> int:
        """Returns the channel axis of `x`."""
        return 1 if id(x) in self.channels_first else -1

    def partner(self, x, choices):
        """Returns a tensor of the same shape: one of the pool, or a new one made of `x`."""
        equal = self.others(x, lambda other: other.shape[1:] == x.shape[1:])
        if equal and choices.upto(3) > 1:
            return self.use(choices.of(*equal))
        if id(x) in self.channels_first:
            layer = layer_class("Conv{}D", x)
            return layer(self.width(x), 1, name=self.name("partner"), data_format="channels_first")(x)
        return L.Dense(x.shape[-1], name=self.name("partner"))(x)


def step(*ranks):
    """Registers the decorated function as a step for tensors of these ranks (batch axis excluded)."""

    def decorate(function):
        STEPS[function.__name__] = StepKind(function, ranks)
        return function

    return decorate


def is_large(x) -> bool:
    """Whether a tensor is so large that it must not grow."""
    return math.prod(x.shape[1:]) > MAX_NUMBERS


def layer_class(kind: str, x):
    """Returns the Keras class for the spatial rank of `x`: "Conv{}D" is Conv2D for images."""
    return getattr(L, kind.format(len(x.shape) - 2))
