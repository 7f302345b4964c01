"""The metanetwork: a Keras graph network that changes a network's weights so that it prunes well and scores its channels."""

from tfmetaprune.metanet.config import MetaNetConfig
from tfmetaprune.metanet.model import MetaNetwork
from tfmetaprune.metanet.pretrained import available_metanetworks, load_card, load_metanetwork, save_metanetwork

__all__ = [
    "MetaNetConfig", "MetaNetwork", "available_metanetworks", "load_card", "load_metanetwork", "save_metanetwork",
]  # fmt: skip
