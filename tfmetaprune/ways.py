"""Ways to choose channels: a criterion, a metanetwork on top of it, and how much of that is used; which of them are open to `prune`."""

from typing import Any, NamedTuple

from tfmetaprune.metanet.pretrained import DEFAULT_NAME

DEFAULT_CRITERIA = ("group_l2", "group_l2_fisher")  # that "default" chooses from


class Strength(NamedTuple):
    """How much of a metanetwork is used.

    Attributes:
      scores: share in [0, 1] of its ranking; the rest is that of "group_l2_fisher" for the network as it was.
      weights: how far the weights go from the network's own to those that the metanetwork makes, in [0, 1].
    """

    scores: float = 1.0
    weights: float = 1.0


FULL = Strength()
STRENGTHS = (FULL, Strength(1.0, 0.5), Strength(1.0, 0.0), Strength(0.5, 0.0))  # that are tried where weights count (docs/strength.md)


class Way(NamedTuple):
    """A way to choose channels: a criterion, and a metanetwork on top of it.

    Attributes:
      criterion: as for `prune`, not "default".
      metanetwork: as for `prune`, not "default".
      strength: how much of the metanetwork is used.
    """

    criterion: Any
    metanetwork: Any = None
    strength: Strength = FULL


def ways_to_try(criterion, metanetwork, *, drops_channels, train_data, repair="default", prepare=None) -> tuple[list[Way], str | None]:
    """Finds the ways to choose channels that the arguments leave open.

    Where there are data to compare on, `criterion` "default" is each of `DEFAULT_CRITERIA`, and with it `metanetwork` "default" is the
    default one on top of the first, and none. A criterion that is named is used as it is. A metanetwork is tried at each of `STRENGTHS`;
    not before least squares, which fits the model's own weights whatever they were changed to.

    Args:
      criterion: as for `prune`.
      metanetwork: as for `prune`.
      drops_channels: whether channels go.
      train_data: as for `prune`.
      repair: as for `prune`.
      prepare: as for `prune`.

    Returns:
      The ways, and why the default metanetwork is not among them, a sentence; None where it is, or another was asked for.
    """
    is_default, is_named = isinstance(metanetwork, str) and metanetwork == "default", criterion != "default"
    note = None
    if is_default and not drops_channels:
        note = "None is the default for zeros: what 'digits_sparse' gains has not been measured behind a fine-tuning."
    elif is_default and prepare is not None:
        note = f"None was used, as the training before pruning ({prepare}) has learnt what goes."
    elif is_default and train_data is None:
        note = "None was used, as the shipped ones measure channels on train_data, and there is none."
    elif is_default and is_named:
        note = "None was used, as a criterion was named. Name a metanetwork too to use it on top."
    weights_count = drops_channels and train_data is not None and repair not in ("default", "least_squares")
    strengths = STRENGTHS if weights_count else STRENGTHS[:1]
    if not is_default and metanetwork is not None:
        base = criterion if is_named else DEFAULT_CRITERIA[0]
        return [Way(base, metanetwork, strength) for strength in strengths], None
    if is_named:
        return [Way(criterion)], note
    can_compare = drops_channels and train_data is not None and prepare is None
    ways = [Way(each) for each in (DEFAULT_CRITERIA if can_compare else DEFAULT_CRITERIA[:1])]
    learnt = [Way(DEFAULT_CRITERIA[0], DEFAULT_NAME, strength) for strength in strengths] if is_default and not note else []
    return [*ways, *learnt], note
