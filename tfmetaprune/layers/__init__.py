"""What is known about each Keras layer kind: one class a kind, one decorator, found through the layer's MRO."""

from tfmetaprune.layers import (  # noqa: F401  (importing registers the specs)
    activation,
    conv,
    dense,
    depthwise,
    merging,
    normalization,
    reshaping,
    separable,
    spatial,
)
from tfmetaprune.layers.spec import (
    Concat,
    Flow,
    Fresh,
    Frozen,
    LayerCall,
    LayerSpec,
    Repeat,
    Same,
    TensorIndex,
    Tie,
    Unrepeat,
    is_channelwise,
    register,
    registered_kinds,
    spec_for,
)

__all__ = [
    "Concat", "Flow", "Fresh", "Frozen", "LayerCall", "LayerSpec", "Repeat", "Same", "TensorIndex", "Tie", "Unrepeat",
    "is_channelwise", "register", "registered_kinds", "spec_for",
]  # fmt: skip
