"""What is known about a layer kind: `LayerSpec`, the ways channels pass through a call, and the registry.

The one central idea: *name the axes of every weight, derive the rest.* An axis name is a role or a tap:

| name | meaning |
|---|---|
| `in`, `out` | the channels that the call reads, the channels that it makes |
| `mid` | channels inside the layer, between two of its weights |
| `out/in`, `mid/in` | how many `out` (`mid`) channels each `in` channel makes: a per-channel (depthwise) weight |
| `io` | in and out are the same channel |
| anything else | a tap: a position inside the kernel (`kh`, `kw`) |

From `"kh kw in out"` follow the edges of the graph, their inverse, what to slice when a channel goes, and the MACs.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from tfmetaprune._keras import keras, tf
from tfmetaprune.errors import ArgumentError

ROLES = ("in", "mid", "out", "io")


@dataclasses.dataclass(frozen=True)
class TensorIndex:
    """Stands in a call's arguments for the tensor of that index in the trace."""

    index: int


@dataclasses.dataclass(frozen=True)
class LayerCall:
    """One call of a layer; a shared layer has several.

    Attributes:
      layer: the Keras layer.
      call_index: 0 for the layer's first call in the model, 1 for its second, ...
      args, kwargs: what the layer is called with; every tensor is replaced by its `TensorIndex`.
      inputs, outputs: indices of the tensors read and made.
      input_shapes, output_shapes: their shapes, the batch axis included (None where unknown).
    """

    layer: Any
    call_index: int
    args: tuple
    kwargs: Mapping[str, Any]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    input_shapes: tuple[tuple[int | None, ...], ...]
    output_shapes: tuple[tuple[int | None, ...], ...]

    @property
    def title(self) -> str:
        """The layer as an error or a report names it: `'mix' (Lambda)`."""
        return f"{self.layer.name!r} ({type(self.layer).__name__})"


@dataclasses.dataclass(frozen=True)
class Fresh:
    """The call makes channels of its own."""


@dataclasses.dataclass(frozen=True)
class Same:
    """Channel i of the output is channel i of the one input."""


@dataclasses.dataclass(frozen=True)
class Tie:
    """Channel i of the output joins channel i of every input (a residual sum): they live and die together."""


@dataclasses.dataclass(frozen=True)
class Concat:
    """The output's channels are those of the inputs, one input after the other."""


@dataclasses.dataclass(frozen=True)
class Repeat:
    """The positions of `taps` are moved into the channel axis, taps major (flatten)."""

    taps: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Unrepeat:
    """The inverse of `Repeat`: leading taps leave the channel axis, `keep` of its positions remain."""

    keep: int


@dataclasses.dataclass(frozen=True)
class Frozen:
    """The call reads and makes channels that must all stay, for the reason given."""

    reason: str


Flow = Fresh | Same | Tie | Concat | Repeat | Unrepeat | Frozen


class LayerSpec:
    """What tfmetaprune knows about one layer kind. Stateless; one instance serves every layer of the kind.

    Attributes:
      axes: weight name (the layer's attribute) -> names of its axes, in order, see the module's docstring.
      columns: weight name -> column of the graph's per-channel parameters, where it is not the weight's own name.
      importance: names of the per-channel weights that count towards a channel's importance.
      width_arg: the config key that holds the number of output channels.
    """

    axes: ClassVar[Mapping[str, str]] = {}
    columns: ClassVar[Mapping[str, str]] = {}
    importance: ClassVar[tuple[str, ...]] = ()
    width_arg: ClassVar[str | None] = None

    def weights(self, layer) -> dict[str, tuple[str, ...]]:
        """Maps the weights that this layer really has to the names of their axes."""
        return {name: tuple(axes.split()) for name, axes in self.axes.items() if getattr(layer, name, None) is not None}

    def flow(self, call: LayerCall) -> Flow:
        """Tells how channels pass through this call."""
        raise NotImplementedError(f"{type(self).__name__}.flow")

    def narrow(self, config: dict, call: LayerCall, widths: Mapping[str, int], output_width: int) -> dict:
        """Returns the layer's config for fewer channels.

        Args:
          config: the config of the layer as it is; not modified.
          call: the layer's first call.
          widths: role -> number of channels that remain.
          output_width: length of the channel axis that remains of the first output.
        """
        del call, output_width
        return config if self.width_arg is None else {**config, self.width_arg: widths["out"]}

    def call_masked(self, layer, mask: tf.Tensor, *args, **kwargs):
        """Calls the layer as it would act if the input channels with mask 0 were gone; most kinds need no care."""
        del mask
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
      ...         return Same()
      >>> type(spec_for(Scale())).__name__
      'ScaleSpec'
    """

    def decorate(spec_class):
        if not (isinstance(spec_class, type) and issubclass(spec_class, LayerSpec)):
            raise ArgumentError(f"register: expected a subclass of LayerSpec, got {spec_class!r}. Derive it from LayerSpec.")
        for weight, axes in spec_class.axes.items():
            names = axes.split()
            if len(set(names)) != len(names):
                raise ArgumentError(
                    f"{spec_class.__name__}: expected different axis names in weight {weight!r}, got {axes!r}. "
                    f"Give each axis a name of its own."
                )
        for layer_class in layer_classes:
            _REGISTRY[layer_class] = spec_class()
        return spec_class

    return decorate


def spec_for(layer) -> LayerSpec | None:
    """Returns the spec of the layer's class or of its nearest registered base class; None for an unknown kind."""
    return next((_REGISTRY[kind] for kind in type(layer).__mro__ if kind in _REGISTRY), None)


def registered_kinds() -> dict[type, LayerSpec]:
    """Returns all registered layer classes with their specs."""
    return dict(_REGISTRY)


def is_channelwise(activation) -> bool:
    """Whether an activation function treats channels one by one (softmax, which divides by their sum, does not)."""
    return activation not in (keras.activations.softmax, getattr(tf.nn, "log_softmax", None))
