"""Families of small networks to make data models of: what builds them, and how their widths and depths are drawn by number."""

import functools
import zlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from tfmetaprune.errors import ArgumentError
from tfmetaprune.metatrain.small_networks import (
    concat_cnn,
    convnext,
    inception_cnn,
    inverted_cnn,
    mixer,
    mlp,
    plain_cnn,
    recurrent,
    residual_cnn,
    separable_cnn,
    series_cnn,
    squeeze_cnn,
    vit,
)

PARAMETERS = 20_000, 150_000  # what a drawn architecture has


class Family(NamedTuple):
    """A kind of architecture.

    Attributes:
      build: a callable(input_shape, num_classes, *, seed, and what `draw` returns) -> an uncompiled model.
      draw: a callable(`numpy.random.Generator`) -> keyword arguments of `build`.
      ranks: the lengths of the input shapes it is for.
    """

    build: Callable
    draw: Callable
    ranks: tuple[int, ...]


def _widths(rng, first, growths, count):
    """Widths that grow by a factor each, multiples of 4."""
    width, result = rng.uniform(*first), []
    for _ in range(count):
        result.append(4 * max(2, round(width / 4)))
        width *= rng.uniform(*growths)
    return tuple(result)


def _draw_residual(rng):
    return {"widths": _widths(rng, (10, 24), (1.2, 2.2), rng.integers(2, 5))}


def _draw_plain(rng):
    return {"widths": _widths(rng, (12, 28), (1.3, 2.2), rng.integers(2, 4)), "depth": int(rng.integers(1, 4))}


def _draw_separable(rng):
    return {"widths": _widths(rng, (20, 40), (1.2, 2.0), rng.integers(3, 5)), "depth": int(rng.integers(1, 4))}


def _draw_concat(rng):
    return {
        "stem": int(4 * rng.integers(4, 9)), "growth": int(2 * rng.integers(5, 11)),
        "depth": int(rng.integers(2, 5)), "blocks": int(rng.integers(2, 4)),
    }  # fmt: skip


def _draw_series(rng):
    sizes = [(7, 5, 3), (9, 5, 3), (5, 5, 5), (5, 3, 3)][rng.integers(4)]
    return {"widths": _widths(rng, (20, 48), (1.2, 2.0), 3), "kernel_sizes": sizes, "depth": int(rng.integers(1, 3))}


def _draw_mlp(rng):
    return {"widths": _widths(rng, (80, 200), (0.6, 1.2), rng.integers(2, 5))}


def _draw_vit(rng):
    heads = int(rng.choice([2, 4]))
    return {
        "width": 8 * int(rng.integers(3, 8)), "heads": heads, "depth": int(rng.integers(1, 4)), "ratio": float(rng.choice([1.5, 2, 3]))
    }  # fmt: skip


def _draw_inverted(rng):
    widths = _widths(rng, (12, 20), (1.2, 1.7), rng.integers(2, 4))
    return {"widths": widths, "depth": int(rng.integers(1, 4)), "expansion": int(rng.choice([3, 4, 6]))}


def _draw_squeeze(rng):
    return {"widths": _widths(rng, (10, 24), (1.2, 2.2), rng.integers(2, 5)), "ratio": int(rng.choice([2, 4, 8]))}


def _draw_convnext(rng):
    widths = _widths(rng, (16, 32), (1.2, 1.8), rng.integers(1, 3))
    return {"widths": widths, "depth": int(rng.integers(1, 4)), "ratio": int(rng.choice([2, 3, 4]))}


def _draw_inception(rng):
    widths = _widths(rng, (8, 20), (1.2, 1.8), rng.integers(1, 4))
    return {"stem": int(4 * rng.integers(4, 9)), "widths": widths, "depth": int(rng.integers(1, 3))}


def _draw_mixer(rng):
    return {"width": 8 * int(rng.integers(4, 10)), "depth": int(rng.integers(1, 5)), "ratio": float(rng.choice([1.5, 2, 3]))}


def _draw_recurrent(rng):
    return {"widths": _widths(rng, (32, 80), (0.6, 1.2), rng.integers(1, 4))}


FAMILIES = {
    "plain_cnn": Family(plain_cnn, _draw_plain, (3,)),
    "residual_cnn": Family(residual_cnn, _draw_residual, (3,)),
    "separable_cnn": Family(separable_cnn, _draw_separable, (3,)),
    "concat_cnn": Family(concat_cnn, _draw_concat, (3,)),
    "series_cnn": Family(series_cnn, _draw_series, (2,)),
    "mlp": Family(mlp, _draw_mlp, (2, 3)),
    "vit": Family(vit, _draw_vit, (2, 3)),
    "inverted_cnn": Family(inverted_cnn, _draw_inverted, (3,)),
    "squeeze_cnn": Family(squeeze_cnn, _draw_squeeze, (3,)),
    "convnext": Family(convnext, _draw_convnext, (3,)),
    "inception_cnn": Family(inception_cnn, _draw_inception, (3,)),
    "mixer": Family(mixer, _draw_mixer, (2, 3)),
    "recurrent": Family(recurrent, _draw_recurrent, (2,)),
}
DEFAULT_FAMILIES = (  # of a zoo for which none are named; `universal` was trained on these
    "plain_cnn", "residual_cnn", "separable_cnn", "concat_cnn", "series_cnn", "mlp", "vit",
)  # fmt: skip


def families_for(input_shape) -> tuple[str, ...]:
    """Returns the names of the families that inputs of a shape can be fed to.

    Example:
      >>> families_for((24, 1))
      ('series_cnn', 'mlp', 'vit', 'mixer', 'recurrent')
    """
    return tuple(name for name, family in FAMILIES.items() if len(input_shape) in family.ranks)


@functools.cache
def architecture(family, variant, input_shape, num_classes) -> dict:
    """Returns the keyword arguments that make a variant of a family: widths and depths.

    Args:
      family: a name of `FAMILIES`.
      variant: 0 for the defaults; another number draws, always the same for the same input shape and number of classes, until there
        are 20 to 150 thousand parameters.
      input_shape: of one input, a tuple.
      num_classes: number of outputs.

    Raises:
      ArgumentError: the family is unknown, or not for inputs of this shape, or no draw is of this size.
    """
    if family not in FAMILIES or len(input_shape) not in FAMILIES[family].ranks:
        raise ArgumentError(
            f"Data models: expected a family for inputs of shape {tuple(input_shape)}, one of {', '.join(families_for(input_shape))}, "
            f"got {family!r}. Choose one of these."
        )
    if variant == 0:
        return {}
    for attempt in range(200):
        drawn = FAMILIES[family].draw(np.random.default_rng([zlib.crc32(family.encode()), variant, attempt]))
        model = FAMILIES[family].build(input_shape, num_classes, **drawn)
        if PARAMETERS[0] <= model.count_params() <= PARAMETERS[1]:
            return drawn
    raise ArgumentError(
        f"Data models: expected inputs for which {family} has {PARAMETERS[0]} to {PARAMETERS[1]} parameters, got shape {input_shape}. "
        f"Give smaller inputs, or use variant 0."
    )


def build_model(family, input_shape, num_classes, *, variant=0, seed=0):
    """Builds a variant of a family, see `architecture`; `seed` is that of the initial weights."""
    options = architecture(family, variant, tuple(input_shape), num_classes)
    return FAMILIES[family].build(tuple(input_shape), num_classes, seed=seed, **options)
