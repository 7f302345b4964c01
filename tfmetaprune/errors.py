"""The errors tfmetaprune raises on purpose.

Every message reads *where: what was expected, what was got. What to do.* Wrong values of an argument are
`ArgumentError`, which is a `ValueError` too; everything else a caller can mend is another kind of `TFMetaPruneError`.
"""


class TFMetaPruneError(Exception):
    """Base class of every error raised on purpose by tfmetaprune."""


class ArgumentError(TFMetaPruneError, ValueError):
    """An argument has a value that cannot be used."""


class UnsupportedModelError(TFMetaPruneError):
    """The model is of a kind that cannot be traced (subclassed, unbuilt, not Keras, ...) or holds NaN weights."""


class NothingToPruneError(TFMetaPruneError):
    """The model has no prunable channel, or the target cannot be reached with the channels it has."""


class DataError(TFMetaPruneError, ValueError):
    """The data do not fit the model: shapes, dtype or range of the labels."""


class MetaNetworkError(TFMetaPruneError):
    """A metanetwork is unknown, unreadable, or made for another version of the graph schema."""


class ExportError(TFMetaPruneError):
    """A TFLite file could not be made, or did not agree with the Keras model it was made from."""


class EnvironmentSetupError(TFMetaPruneError, ImportError):
    """The packages at hand cannot work together in this process."""
