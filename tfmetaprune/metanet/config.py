"""What a metanetwork is made of: `MetaNetConfig`."""

import dataclasses
import math
from collections.abc import Mapping

from tfmetaprune.errors import ArgumentError

MESSAGE_PASSING = ("sum_rms", "published")


@dataclasses.dataclass(frozen=True)
class MetaNetConfig:
    """The shape of a metanetwork, validated at construction.

    Attributes:
      hidden: width d of the node and edge states, at least 2.
      num_layers: number of message passing layers L, at least 1.
      message_passing: "sum_rms" (sums and root mean squares of the messages, matrix products only) or "published"
        (mean, standard deviation, maximum and minimum; arXiv 2506.12041).
      ratio: step size of the changed weights, > 0: a kernel changes by ratio * output * its root mean square.
      score_scale: factor of the channel scores, at least 0.
      fisher_weight: factor of 1/2 log(Fisher information / mean of the group), which is added to the scores, at least 0; with 1 an
        untrained metanetwork on top of group L2 ranks channels as the criterion "group_l2_fisher" does.
      tap_hidden: width of the two small networks that read the position of a kernel's tap, at least 1.

    Raises:
      ArgumentError: a value is of another type or outside its range.

    Example:
      >>> MetaNetConfig(hidden=32).num_layers
      3
    """

    hidden: int = 16
    num_layers: int = 3
    message_passing: str = "sum_rms"
    ratio: float = 0.2
    score_scale: float = 2.0
    fisher_weight: float = 0.0
    tap_hidden: int = 32

    def __post_init__(self):
        for name, least in (("hidden", 2), ("num_layers", 1), ("tap_hidden", 1)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ArgumentError(
                    f"MetaNetConfig: expected {name} to be an integer >= {least}, got {value!r}. "
                    f"Give a larger width or count."
                )
        if self.message_passing not in MESSAGE_PASSING:
            raise ArgumentError(
                f"MetaNetConfig: expected message_passing to be one of {MESSAGE_PASSING}, "
                f"got {self.message_passing!r}. Choose one of these."
            )
        for name in ("ratio", "score_scale", "fisher_weight"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
                raise ArgumentError(
                    f"MetaNetConfig: expected {name} to be a finite number >= 0, got {value!r}. Try the default."
                )
        if self.ratio == 0:
            raise ArgumentError(
                "MetaNetConfig: expected ratio > 0, got 0: no weight could change. Give a small positive number."
            )

    def to_dict(self) -> dict:
        """Returns the config as a dict that JSON can hold."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping) -> "MetaNetConfig":
        """Makes the config again from `to_dict`.

        Args:
          values: field name -> value; fields that are missing take their defaults.

        Raises:
          ArgumentError: a key is no field of the config, or a value is out of range.
        """
        known = [field.name for field in dataclasses.fields(cls)]
        unknown = sorted(set(values) - set(known))
        if unknown:
            raise ArgumentError(f"MetaNetConfig: expected only the fields {known}, got also {unknown}. Remove these.")
        return cls(**values)
