"""Data for training, pruning and calibration: `load` a set by name, or take the caller's own by `as_dataset`."""

from tfmetaprune.data.augmenting import augment
from tfmetaprune.data.checking import check_data
from tfmetaprune.data.conversion import as_dataset
from tfmetaprune.data.loading import load
from tfmetaprune.data.splits import DataSplits

__all__ = ["DataSplits", "as_dataset", "augment", "check_data", "load"]
