"""Which networks, criteria and metanetworks universal.py compares, and what may not have been learnt from."""

import pathlib
from typing import NamedTuple

from tfmetaprune.errors import ArgumentError
from tfmetaprune.metanet import MetaNetwork, load_metanetwork
from tfmetaprune.metanet.pretrained import load_card
from tfmetaprune.metatrain.data_models import DataModelFile
from tfmetaprune.metatrain.select import digest
from tfmetaprune.ways import FULL, Strength

FIRST_SEED = 1010
VARIANTS = (0, 1, 2, 3)
UNSEEN = "mnist_5k/14", "ucr/ItalyPowerDemand"  # data that no metanetwork may be trained on
SETTINGS = {  # (family, data) of the networks
    "five families, data that metanetworks train on": (
        *((family, "digits") for family in ("plain_cnn", "residual_cnn", "separable_cnn", "mlp")),
        ("series_cnn", "ucr/JapaneseVowels_eq"), ("mlp", "ucr/JapaneseVowels_eq"),
    ),
    "two more families, the same data": (("concat_cnn", "digits"), ("vit", "digits"), ("vit", "ucr/JapaneseVowels_eq")),
    "five families, unseen data": (
        *((family, "mnist_5k/14") for family in ("plain_cnn", "residual_cnn", "separable_cnn", "mlp")),
        ("series_cnn", "ucr/ItalyPowerDemand"), ("mlp", "ucr/ItalyPowerDemand"),
    ),
    "two more families, unseen data": (("concat_cnn", "mnist_5k/14"), ("vit", "mnist_5k/14"), ("vit", "ucr/ItalyPowerDemand")),
}  # fmt: skip
OTHER_FAMILIES = {  # of kinds that no shipped metanetwork was trained on; measured where it is asked for
    "other families, data that metanetworks train on": (
        *((family, "digits") for family in ("inverted_cnn", "squeeze_cnn", "convnext", "inception_cnn", "mixer")),
        ("recurrent", "ucr/JapaneseVowels_eq"),
    ),
    "other families, unseen data": (
        *((family, "mnist_5k/14") for family in ("inverted_cnn", "squeeze_cnn", "convnext", "inception_cnn", "mixer")),
        ("recurrent", "ucr/ItalyPowerDemand"),
    ),
}  # fmt: skip
CRITERIA = ("group_l2", "fisher", "group_l2_fisher", "bn_scale", "taylor", "random")


SETTLED_ON = "other families, data that metanetworks train on"  # what STRENGTHS were chosen by
STRENGTHS = {  # that `prune` tries beside all of both
    "half the weights": Strength(1.0, 0.5),
    "scores alone": Strength(1.0, 0.0),
    "half the scores alone": Strength(0.5, 0.0),
}


class Rival(NamedTuple):
    """A metanetwork that is measured.

    Attributes:
      metanet: the model.
      card: of it.
      digest: tells its weights apart.
      strength: how much of it is used.
    """

    metanet: MetaNetwork
    card: dict
    digest: str
    strength: Strength = FULL


def load_rivals(names_or_paths, strengths=()) -> dict[str, Rival]:
    """Loads metanetworks by name, each with the STRENGTHS that are named as rivals of its own.

    Raises:
      ArgumentError: one was trained on data that are to be unseen, or chosen by a network here.
    """
    rivals = {}
    for each in names_or_paths:
        name, metanet, card = pathlib.Path(each).stem, load_metanetwork(each), load_card(each)
        if name in (*rivals, *CRITERIA):
            raise ArgumentError(f"--metanetworks: expected a name of its own for each, got {name!r} again. Rename the file.")
        check_card(name, card)
        rivals[name] = Rival(metanet, card, digest(metanet))
        for each in strengths:
            rivals[f"{name}, {each}"] = rivals[name]._replace(strength=STRENGTHS[each])
    return rivals


def files_of(card, kind) -> list[DataModelFile]:
    """Returns the data models that a card names under "trained_on" or "validated_on"; none for cards that name no files."""
    return list(filter(None, map(DataModelFile.from_file_name, card.get("data_models", {}).get(kind, []))))


def check_card(name, card):
    """Raises ArgumentError if a metanetwork was trained on data or families that are to be unseen, or chosen by what is measured here."""
    pairs = {pair for setting in (SETTINGS | OTHER_FAMILIES).values() for pair in setting}
    trained, selection = files_of(card, "trained_on"), card.get("selection", {})
    selected = map(DataModelFile.from_file_name, (f"{model}.keras" for model in selection.get("models", [])))
    known = [*trained, *files_of(card, "validated_on"), *filter(None, selected)]
    new_families = {family for setting in OTHER_FAMILIES.values() for family, _ in setting}
    seen = {file.data for file in known if _images_of(file.data) in map(_images_of, UNSEEN)} | {
        file.family for file in trained if file.family in new_families
    }  # fmt: skip
    if seen:
        raise ArgumentError(
            f"Metanetwork {name!r}: expected training and choice without {', '.join(UNSEEN)} and training without other families, got "
            f"{', '.join(sorted(seen))}. Train it without these."
        )
    if selection.get("split") == "test":
        raise ArgumentError(f"Metanetwork {name!r}: expected a choice by validation splits, got the test splits. Select it anew.")
    here = [file for file in known if file.seed >= FIRST_SEED and file[0:3:2] in pairs]
    if here:
        raise ArgumentError(
            f"Metanetwork {name!r}: expected seeds below {FIRST_SEED} in its card, got {here[0].file_name}. Choose it by other networks."
        )


def _images_of(data) -> str:
    """The name of a data set without the size that its images get."""
    return data if data.startswith("ucr/") else data.partition("/")[0]


def described(files) -> str:
    """Tells of data models: how many, of which families, on which data."""
    if not files:
        return "networks that its card does not name"
    families, data = (", ".join(sorted({file[at] for file in files})) for at in (0, 2))
    return f"{len(files)} networks ({families}; {data})"
