"""Silences channels of a model that somebody trains: the weights that read a dead channel are zero, and stay so.

An optimizer of Keras applies the constraint of a variable after each update, inside the compiled step. A `Silencer` gives every
weight that reads channels such a constraint, whose mask is a variable: it can change between two steps of a loop that is
already compiled.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np

from tfmetaprune._keras import tf
from tfmetaprune.layers import Axes, LayerSpec, get_weight, spec_for
from tfmetaprune.pruning.masking import silenced_axes
from tfmetaprune.trace import ModelTrace


@dataclasses.dataclass(frozen=True, eq=False)
class ReadingWeight:
    """A weight that is set to 0 where the channels it reads are dead.

    Attributes:
      variable: the tf_keras variable.
      shape: the lengths of its axes, composite ones taken apart.
      units: axis (of `shape`) -> int64 [length], the unit at each position.
    """

    variable: object
    shape: tuple[int, ...]
    units: Mapping[int, np.ndarray]

    def mask(self, keep: np.ndarray) -> np.ndarray:
        """Returns the mask, bool, of the rank of `shape` and broadcast to it: False where the weight has to be 0.

        Args:
          keep: bool [num_units], which units are alive.
        """
        rank = len(self.shape)
        mask = np.ones((1,) * rank, bool)
        for axis, units in self.units.items():
            mask = mask & keep[units].reshape([-1 if other == axis else 1 for other in range(rank)])
        return mask


def reading_weights(trace: ModelTrace) -> tuple[ReadingWeight, ...]:
    """Lists the weights that `run_masked` sets to 0 where channels are dead, each once."""
    found = {}
    for channels in trace.channels.calls:
        for name, axes in channels.weights.items() if channels.is_first and channels.roles else ():
            units = {
                axis: trace.channels.units(channels.roles[role]) for axis, role in silenced_axes(channels, axes).items()
            }  # fmt: skip
            if units:
                variable = get_weight(channels.call.layer, name)
                found.setdefault(id(variable), ReadingWeight(variable, tuple(axes.shape), units))
    return tuple(found.values())


def approximate_layers(trace: ModelTrace, keep: np.ndarray) -> list[str]:
    """Names the layers in which a dead channel is heard although all weights that read it are zero, as "'norm' (LayerNormalization)".

    They normalise over channels, or multiply activations and sum the products: only a smaller model leaves the channel out.

    Args:
      trace: the traced model.
      keep: bool [num_units], which units remain.
    """
    found = []
    for channels in trace.channels.calls:
        dead = {role for role, layout in channels.roles.items() if not keep[trace.channels.units(layout)].all()}
        sums = channels.flow.sums if isinstance(channels.flow, Axes) else ()
        if dead & set(sums) or dead and _has_care(channels.spec, channels.call.layer):
            found.append(channels.call.title)
    return list(dict.fromkeys(found))


def _has_care(spec, layer) -> bool:
    """Whether a spec has to do more than silence weights; of a wrapper, whether the layer inside has to."""
    inner = getattr(layer, "layer", None)
    if inner is not None:
        spec = spec_for(inner)
    return spec is not None and type(spec).call_masked is not LayerSpec.call_masked


class Silencer:
    """Holds channels of a model silent while it is trained, by whatever loop and optimizer of Keras.

    Args:
      weights: of `reading_weights`.
      variables: for each of them the variable that is trained, of either Keras; of the same shape.
      strategy: the `tf.distribute` strategy that the model was made under.
    """

    def __init__(self, weights, variables, strategy):
        self._weights, self._variables, self._strategy = tuple(weights), tuple(variables), strategy
        self._masks, self._old, self._keep = [], [], True

    def install(self):
        """Gives the variables their constraints; all channels are alive. The training step has to be compiled after this."""
        with self._strategy.scope():
            for weight, variable in zip(self._weights, self._variables, strict=True):
                mask = tf.Variable(np.ones(weight.mask(_Everything()).shape, bool), trainable=False)
                self._masks.append(mask)
                for owner in _owners(variable):
                    first = owner._constraint
                    first = first.first if isinstance(first, _Silence) else first  # left behind by a run that broke off
                    self._old.append((owner, first))
                    owner._constraint = _Silence(mask, weight.shape, first)

    def silence(self, keep: np.ndarray, anew: bool = False) -> bool:
        """Silences dead channels, from now on.

        Args:
          keep: bool [num_units], which units are alive.
          anew: whether weights that are held at zero already may have got other values past the optimizer.

        Returns:
          Whether any weight was not zero that now is.
        """
        changed, different = False, keep != self._keep
        for weight, variable, mask in zip(self._weights, self._variables, self._masks):
            if not anew and not any(different[units].any() for units in weight.units.values()):
                continue
            wanted = weight.mask(keep)
            mask.assign(wanted)
            value = tf.convert_to_tensor(variable)
            silent = _silent(value, wanted, weight.shape)
            if bool(tf.reduce_any(value != silent)):
                variable.assign(silent)
                changed = True
        self._keep = np.array(keep)
        return changed

    def remove(self):
        """Takes the constraints away again; the weights stay as they are."""
        for owner, first in self._old:
            owner._constraint = first
        self._old = []


class _Everything:
    """Stands for `keep` where only shapes matter."""

    def __getitem__(self, units):
        return np.ones(len(units), bool)


class _Silence:
    """A constraint that sets the weights that read dead channels to 0, behind another one."""

    def __init__(self, mask, shape, first):
        self.mask, self.shape, self.first = mask, shape, first

    def __call__(self, value):
        return _silent(tf.convert_to_tensor(value if self.first is None else self.first(value)), self.mask, self.shape)


def _silent(value, mask, shape):
    apart = tf.reshape(value, shape)
    return tf.reshape(tf.where(mask, apart, tf.zeros_like(apart)), value.shape)


def _owners(variable) -> tuple:
    """What holds the constraint: the variable behind one of mixed precision, its copies on each device of a strategy."""
    variable = variable._variable if hasattr(variable, "true_dtype") else variable
    return tuple(getattr(variable, "_values", (variable,)))
