"""The shipped metanetwork: it loads, its card says how it was made, and what the card claims shows on a fresh net."""


import numpy as np
import pytest

from tfmetaprune.data import augment, load
from tfmetaprune.metanet import MetaNetConfig, available_metanetworks, load_card, load_metanetwork
from tfmetaprune.metatrain.evaluate import pruning_curve
from tfmetaprune.metatrain.zoo import dataset_arrays, residual_cnn, train_data_model


@pytest.mark.parametrize("name", available_metanetworks())
def test_cards_say_how_and_how_good(name):
    card = load_card(name)
    assert MetaNetConfig.from_dict(card["config"]) == load_metanetwork(name).config
    for key in ("command", "data", "data_models", "training", "seconds", "versions", "parameters", "measured"):
        assert card[key], key
    measured = card["measured"]
    assert measured["num_models"] >= 5
    columns = measured["zeros"] if "sparse" in name else measured["speedups"]
    assert all(len(row) == len(columns) for row in measured["mean"].values())


def test_default_beats_its_criterion_on_a_fresh_net(tmp_path):
    """A net of the card's family with a seed that neither training nor the card has used."""
    digits = load("digits", batch_size=64)
    model = residual_cnn(digits.input_shape, digits.num_classes, seed=4321)
    train_data_model(model, augment(digits.train, seed=4321), epochs=30)
    curve = pruning_curve(
        [model], digits.train, *dataset_arrays(digits.test), metanet=load_metanetwork(), speedups=(3.0, 4.0),
        baselines=("group_l2",),
    )  # fmt: skip
    gain = np.mean(curve.accuracy["metanetwork"]) - np.mean(curve.accuracy["group_l2"])
    assert gain > 0.05, curve
