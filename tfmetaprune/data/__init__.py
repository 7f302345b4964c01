"""Data for training, pruning and calibration: `load` a set by name, or take the caller's own by `as_dataset`."""

from tfmetaprune.data.loading import DataSplits, as_dataset, augment, check_data, load

__all__ = ["DataSplits", "as_dataset", "augment", "check_data", "load"]
