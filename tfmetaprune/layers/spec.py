"""What is known about a layer kind: `LayerSpec`, the ways channels pass through a call, and the registry.

The one central idea: *name the axes of every weight and of every tensor that a call reads or makes, derive the rest.*
A dense layer is

    flow:    "b ... in -> b ... out"
    kernel:  "in out"
    bias:    "out"

An axis name that a weight shares with the flow, or with another weight (`internal` ones), is a *role*: there are channels
behind it. Every other name is a *tap*: a position inside the kernel (`kh`, `kw`). Some names say more:

| name | meaning |
|---|---|
| `out/in`, `mid/in` | how many `out` (`mid`) channels each `in` channel makes: a per-channel (depthwise) weight |
| `in/groups` | the `in` channels of one group of a grouped convolution |
| `gate*out` | two axes stored as one, the first major: the gates of an LSTM |
| `...` | in a flow: any number of axes, aligned from the right, that pass through |

From `"kh kw in out"` follow the edges of the graph, their inverse, what to slice when a channel goes, and the MACs.
"""

import abc
import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np

from tfmetaprune._keras import keras, tf
from tfmetaprune.errors import ArgumentError


@dataclasses.dataclass(frozen=True)
class TensorIndex:
    """Stands in a call's arguments for the tensor of that index in the trace."""

    index: int


Shape = tuple[int | None, ...]


@dataclasses.dataclass(frozen=True)
class LayerCall:
    """One call of a layer; a shared layer has several.

    Attributes:
      layer: the Keras layer.
      path: its name, behind those of the models it is nested in: "backbone/conv1"; unique in the model.
      call_index: 0 for the layer's first call in the model, 1 for its second, ...
      args, kwargs: what the layer is called with; every tensor is replaced by its `TensorIndex`.
      inputs, outputs: indices of the tensors read and made.
      input_shapes, output_shapes: their shapes, the batch axis included (None where unknown).
    """

    layer: Any
    path: str
    call_index: int
    args: tuple
    kwargs: Mapping[str, Any]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    input_shapes: tuple[Shape, ...]
    output_shapes: tuple[Shape, ...]

    @property
    def title(self) -> str:
        """The layer as an error or a report names it: `'mix' (Lambda)`."""
        return f"{self.path!r} ({kind_of(self.layer).__name__})"


@dataclasses.dataclass(frozen=True)
class Axes:
    """The axes of what is read and made, by name; equal names are the same channels.

    A name that only outputs have makes channels of its own if a weight has it (`out`). A name that only inputs have is
    read by the weights that have it, or summed over, see `sums`; channels on any other are frozen.

    Attributes:
      pattern: inputs -> outputs, each a list of axis names, batch axis included: "b t c, b s c -> b t s".
      sums: names that the inputs have in common and the outputs have not, over whose positions products are summed.
      groups: into how many runs of equal length the axes `grouped` fall that are worked on apart. Whole runs can go, or
        the same position of every run, whichever leaves more to choose from; with the latter there is a role
        `{name}/groups`, the channels of the first run.
      grouped: names of these axes.
      tied: pairs of names whose channels live and die together, position by position.
      frozen: names whose channels have to stay -> why.
    """

    pattern: str
    sums: tuple[str, ...] = ()
    groups: int = 1
    grouped: tuple[str, ...] = ()
    tied: tuple[tuple[str, str], ...] = ()
    frozen: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Elementwise:
    """Number meets number, position by position: functions of one input; sums and products of several, broadcast."""


@dataclasses.dataclass(frozen=True)
class Concat:
    """The inputs lie one after the other along `axis` (counted with the batch axis, from either end)."""

    axis: int


@dataclasses.dataclass(frozen=True)
class Moves:
    """Every number of the outputs is a number of an input, or a 0: where each comes from is found by doing it once."""


@dataclasses.dataclass(frozen=True)
class Length:
    """The output is the shape of the input (or the length of the axes named): numbers that are known beforehand.

    Attributes:
      axis: None for the whole shape, a vector; the axis whose length is returned, a scalar; or several.
    """

    axis: int | tuple[int, ...] | None = None


@dataclasses.dataclass(frozen=True)
class Frozen:
    """The call reads and makes channels that must all stay, for the reason given."""

    reason: str


Flow = Axes | Elementwise | Concat | Moves | Length | Frozen


@dataclasses.dataclass(frozen=True, eq=False)
class Narrowing:
    """What is left of a call when channels have gone.

    Attributes:
      call: the call as it was.
      widths: role -> number of channels that remain.
      groups: number of groups that remain, where channels are worked on in groups.
      inputs, outputs: for each tensor read and made, axis -> int64 indices that remain; axes that keep all are left out.
    """

    call: LayerCall
    widths: Mapping[str, int]
    inputs: tuple[Mapping[int, np.ndarray], ...]
    outputs: tuple[Mapping[int, np.ndarray], ...]
    groups: int = 1

    @property
    def output_shapes(self) -> tuple[Shape, ...]:
        """The shapes of the outputs as they will be."""
        return tuple(
            tuple(len(kept[axis]) if axis in kept else length for axis, length in enumerate(shape))
            for shape, kept in zip(self.call.output_shapes, self.outputs, strict=True)
        )

    @property
    def input_shapes(self) -> tuple[Shape, ...]:
        """The shapes of the inputs as they will be."""
        return tuple(
            tuple(len(kept[axis]) if axis in kept else length for axis, length in enumerate(shape))
            for shape, kept in zip(self.call.input_shapes, self.inputs, strict=True)
        )


class LayerSpec(abc.ABC):
    """What tfmetaprune knows about one layer kind. Stateless; one instance serves every layer of the kind.

    Attributes:
      axes: weight name -> names of its axes, in order, see the module's docstring. The name is the layer's attribute, or
        a path of attributes: "cell.kernel".
      internal: axis names that occur in weights alone and have channels behind them.
      aliases: axis name -> the role it is another name of: {"state": "out"} for a kernel that reads what the layer made.
      columns: weight name -> column of the graph's per-channel parameters, where it is not the last part of its name.
      importance: names of the per-channel weights that count towards a channel's importance.
      width_arg: the config key that holds the number of `out` channels.
    """

    axes: ClassVar[Mapping[str, str]] = {}
    internal: ClassVar[tuple[str, ...]] = ("mid",)
    aliases: ClassVar[Mapping[str, str]] = {}
    columns: ClassVar[Mapping[str, str]] = {}
    importance: ClassVar[tuple[str, ...]] = ()
    width_arg: ClassVar[str | None] = None

    def weights(self, layer) -> dict[str, str]:
        """Maps the weights that this layer really has to the names of their axes."""
        return {name: axes for name, axes in self.axes.items() if get_weight(layer, name) is not None}

    @abc.abstractmethod
    def flow(self, call: LayerCall) -> Flow:
        """Tells how channels pass through this call."""

    def positions(self, call: LayerCall, weight: str, names: Mapping[str, int]) -> Mapping[str, int]:
        """Tells along which axes a weight is applied over and over; its MACs are counted for each position.

        Args:
          call: the call.
          weight: the weight's name.
          names: axis name -> length, of the flow's first output (axes that the weight has are left out).
        """
        del call, weight
        return names

    def narrow(self, config: dict, narrowing: Narrowing) -> dict:
        """Returns the layer's config for fewer channels; `config`, the layer's as it is, must not be modified."""
        return config if self.width_arg is None else {**config, self.width_arg: narrowing.widths["out"]}

    def narrow_call(self, args: tuple, kwargs: dict, narrowing: Narrowing) -> tuple[tuple, dict]:
        """Returns the call's arguments (with `TensorIndex`es) for fewer channels; most kinds have no lengths there."""
        del narrowing
        return args, kwargs

    def adjust_weights(self, layer, values: dict[str, np.ndarray], narrowing: Narrowing) -> dict[str, np.ndarray]:
        """Returns the weights of the narrower layer, already sliced, changed where a width stands in its formula too.

        Args:
          layer: the layer as it was.
          values: weight name -> what remains of it; not modified.
          narrowing: what is left of the call.
        """
        del layer, narrowing
        return values

    def products(self, call: LayerCall) -> tuple[tuple[str, ...], ...]:
        """Names the axes of matrix products between tensors inside the layer; each costs the product of their lengths."""
        del call
        return ()

    def call_masked(self, layer, masks: Mapping[str, tf.Tensor], *args, **kwargs):
        """Calls the layer as it would act if the channels with mask 0 were gone; most kinds need no care.

        Dead channels are already silent in kernels that read them, and in `sums`.

        Args:
          layer: the layer.
          masks: role -> float [length], 0 where the channel is gone; only roles with channels behind them are there.
          *args: of the call.
          **kwargs: of the call.
        """
        del masks
        return layer(*args, **kwargs)


_REGISTRY: dict[type, LayerSpec] = {}


def register(*layer_classes: type) -> Callable[[type[LayerSpec]], type[LayerSpec]]:
    """Registers the decorated `LayerSpec` for Keras layer classes; their subclasses are served too.

    Raises:
      ArgumentError: something decorated is no LayerSpec, or an axis name stands twice in one weight.

    Example:
      >>> from tfmetaprune._keras import keras
      >>> class Scale(keras.layers.Layer):
      ...     def build(self, shape):
      ...         self.scale = self.add_weight("scale", shape[-1:])
      ...     def call(self, x):
      ...         return x * self.scale
      >>> @register(Scale)
      ... class ScaleSpec(LayerSpec):
      ...     axes = {"scale": "io"}
      ...     def flow(self, call):
      ...         return Axes("b ... io -> b ... io")
      >>> type(spec_for(Scale())).__name__
      'ScaleSpec'
    """

    def decorate(spec_class):
        if not (isinstance(spec_class, type) and issubclass(spec_class, LayerSpec)):
            raise ArgumentError(f"register: expected a subclass of LayerSpec, got {spec_class!r}. Derive it from LayerSpec.")
        for weight, axes in spec_class.axes.items():
            names = axes.replace("*", " ").split()
            if len(set(names)) != len(names):
                raise ArgumentError(
                    f"{spec_class.__name__}: expected different axis names in weight {weight!r}, got {axes!r}. "
                    f"Give each axis a name of its own."
                )
        for layer_class in layer_classes:
            _REGISTRY[layer_class] = spec_class()
        return spec_class

    return decorate


def kind_of(layer) -> type:
    """Returns the class that a layer's spec is looked up by: its own, or that of what it carries (see `interop.py`)."""
    return getattr(layer, "carried_kind", None) or type(layer)


def spec_for(layer) -> LayerSpec | None:
    """Returns the spec of the layer's class or of its nearest registered base class; None for an unknown kind.

    A subclass that has a `call` of its own, or another method that computes, is another kind: what it does with the channels is not
    known.
    """
    kind = _registered_base(layer)
    return None if kind is None or _overriding_class(layer, kind) is not None else _REGISTRY[kind]


def why_unknown(layer) -> str:
    """Says why `spec_for` finds no spec for a layer."""
    kind = _registered_base(layer)
    if isinstance(layer, keras.Model):
        return "it is a subclassed model; call its layers one by one, functionally, and they can be pruned"
    if kind is not None:
        return f"it overrides what {kind.__name__} computes, and no LayerSpec is registered for it"
    return "no LayerSpec is registered for this kind"


_COMPUTING = {  # methods that layers of Keras compute by
    "call", "__call__", "convolution_op", "_compute_attention", "_masked_softmax", "_apply_scores", "_calculate_scores",
}  # fmt: skip


def _registered_base(layer) -> type | None:
    return next((kind for kind in kind_of(layer).__mro__ if kind in _REGISTRY), None)


def _overriding_class(layer, base) -> type | None:
    mro = kind_of(layer).__mro__
    return next((kind for kind in mro[: mro.index(base)] if _COMPUTING & set(vars(kind))), None)


def registered_kinds() -> dict[type, LayerSpec]:
    """Returns all registered layer classes with their specs."""
    return dict(_REGISTRY)


def get_weight(layer, name: str):
    """Returns the weight that a path of attributes leads to ("cell.kernel", "cells.0.kernel"); None if there is none."""
    for part in name.split("."):
        layer = layer[int(part)] if part.isdecimal() else getattr(layer, part, None)
    return layer


def is_channelwise(activation) -> bool:
    """Whether an activation function can be computed for some channels without the others.

    It is tried on numbers: functions of one channel at a time pass, softmax (which divides by a sum) does not.
    """
    if activation is None:
        return True
    try:
        return _passes_channelwise_trial(activation)
    except TypeError:  # cannot be hashed
        return _passes_channelwise_trial.__wrapped__(activation)


@functools.lru_cache(maxsize=256)
def _passes_channelwise_trial(activation) -> bool:
    x = tf.constant(np.random.default_rng(0).normal(scale=3.0, size=(2, 5, 6)), tf.float32)
    kept = [0, 2, 3]
    try:
        whole = activation(x)
        return whole.shape == x.shape and all(  # channels may lie on any axis
            np.allclose(tf.gather(whole, kept, axis=axis), activation(tf.gather(x, kept, axis=axis)), rtol=1e-6, atol=1e-7)
            for axis in (1, 2)
        )
    except Exception:  # whatever a user's function may raise on numbers it was not made for
        return False


def normalized_axes(axis, rank: int) -> tuple[int, ...]:
    """Returns an `axis` argument of Keras, a number or several, as a tuple of numbers in [0, rank)."""
    return tuple(int(one) % rank for one in (axis if isinstance(axis, (list, tuple)) else (axis,)))


def spatial_pattern(call: LayerCall, *, moved: bool = True, read: str = "in", made: str = "out") -> str:
    """Returns the pattern of a layer over a feature map with `data_format`.

    Args:
      call: the call; the rank of its input counts.
      moved: whether output positions are other positions than input positions (strides, borders).
      read: name of the input's channel axis.
      made: name of the output's.

    Example:
      for a 2-D convolution with channels last: "b s0 s1 in -> b p0 p1 out".
    """
    count = len(call.input_shapes[0]) - 2
    source, target = " ".join(f"s{i}" for i in range(count)), " ".join(f"{'p' if moved else 's'}{i}" for i in range(count))
    if getattr(call.layer, "data_format", None) == "channels_first":
        return f"b {read} {source} -> b {made} {target}"
    return f"b {source} {read} -> b {target} {made}"


def prod(lengths) -> int:
    """The product of axis lengths; an unknown one counts as 1."""
    return math.prod(length or 1 for length in lengths)
