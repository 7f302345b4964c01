"""tf_keras layers that carry what only Keras 3 has: `CarriedLayer` for its layers, `CarriedOperation` for its operations."""

import functools
import importlib
import inspect
import tempfile

from tfmetaprune._keras import keras, tf
from tfmetaprune.errors import UnsupportedModelError
from tfmetaprune.interop.structures import Slot, fill_slots, map_leaves
from tfmetaprune.layers import get_weight

_ASSETS = "carried_assets"  # config key: the layer whose vocabulary and the like are copied
_OBJECT = "carried_object"  # config key: the operation to copy, where it has no config of its own


def keras3():
    """Imports Keras 3 and what is known about its layers; called when the first Keras 3 model is carried.

    Raises:
      UnsupportedModelError: Keras 3 does not run on TensorFlow.
    """
    module = importlib.import_module("keras")
    if module.backend.backend() != "tensorflow":
        raise UnsupportedModelError(
            f"Keras {module.__version__}: expected the backend 'tensorflow', got {module.backend.backend()!r}. "
            f"Set KERAS_BACKEND=tensorflow before importing keras."
        )
    _register_specs()
    return module


@functools.cache
def _register_specs():
    for name in ("keras3", "operations3"):
        importlib.import_module(f"tfmetaprune.layers.{name}")


def config_of(carried) -> dict:
    """Returns the config by which `make_again` makes another layer or operation of Keras 3.

    Raises:
      UnsupportedModelError: a layer has no config.
    """
    k3 = keras3()
    if isinstance(carried, k3.layers.Lambda):  # its config holds bytecode; the function itself is at hand
        config = {**k3.layers.Layer.get_config(carried), "function": carried.function, "arguments": carried.arguments}
        return {**config, "output_shape": carried._output_shape, "mask": carried.mask}
    try:
        config = carried.get_config()
    except NotImplementedError as error:
        if isinstance(carried, k3.layers.Layer):
            raise UnsupportedModelError(
                f"Layer {carried.name!r} ({type(carried).__name__}): expected a layer that can be made again from its "
                f"config, got none. Give its class a get_config that holds every argument of its constructor."
            ) from error
        return {"name": carried.name, _OBJECT: carried}
    return {**_without_build_configs(config), "name": carried.name}


def _without_build_configs(config):
    """A config in which layers inside are not serialised as built: they may have to be built for other shapes."""
    if isinstance(config, dict):
        inner = "class_name" in config and "config" in config
        return {key: _without_build_configs(one) for key, one in config.items() if not (inner and key == "build_config")}
    return [*map(_without_build_configs, config)] if type(config) is list else config


def make_again(kind: type, config: dict):
    """Makes a Keras 3 layer or operation from its config.

    Args:
      kind: its class.
      config: as `config_of` returns it, or changed; not modified.

    Raises:
      UnsupportedModelError: the class does not accept its own config.
    """
    k3 = keras3()
    config = dict(config)
    assets, prototype = config.pop(_ASSETS, None), config.pop(_OBJECT, None)
    name = config.get("name")
    try:
        if prototype is not None:
            made = object.__new__(type(prototype))  # copy.copy asks for the config that it has not
            made.__dict__.update(prototype.__dict__)
            made._inbound_nodes, made._outbound_nodes = [], []
        elif issubclass(kind, k3.layers.Lambda):
            made = kind(**{**config, "dtype": k3.dtype_policies.deserialize(config["dtype"])})
        else:
            if not issubclass(kind, k3.layers.Layer) and not _accepts_name(kind):
                config.pop("name", None)
            made = kind.from_config(config)
    except (NotImplementedError, TypeError, ValueError) as error:
        raise UnsupportedModelError(
            f"Layer {name!r} ({kind.__name__}): expected a layer that can be made again from its config, got {error}. "
            f"Give its class a get_config that holds every argument of its constructor."
        ) from error
    if name is not None and made.name != name:
        made.name = name
    if assets is not None:
        copy_assets(assets, made)
    return made


def _accepts_name(kind) -> bool:
    parameters = inspect.signature(kind.__init__).parameters.values()
    return any(parameter.name == "name" or parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)


def copy_assets(old, new) -> None:
    """Copies what a Keras 3 layer keeps beside its weights: vocabularies."""
    if hasattr(old, "save_assets"):
        with tempfile.TemporaryDirectory() as folder:
            old.save_assets(folder)
            new.load_assets(folder)


def weight_paths(layer) -> list[tuple[str, object, bool]]:
    """Lists the weights of a Keras 3 layer.

    Args:
      layer: a built Keras 3 layer.

    Returns:
      For every weight, in the layer's order: the path of attributes that leads to it ("gamma", "_query_dense.kernel",
      "blocks.0.bias"), the variable, and whether it is made to be trained.
    """
    k3 = keras3()
    found, trainable, seen = {}, set(), set()

    def visit(owner, prefix):
        if id(owner) in seen:
            return
        seen.add(id(owner))
        trainable.update(id(variable) for variable in getattr(owner, "_trainable_variables", ()))
        for key, value in vars(owner).items():
            if isinstance(value, k3.Variable):
                public = key.lstrip("_")
                name = public if public != key and getattr(owner, public, None) is value else key
                found.setdefault(id(value), prefix + name)
            elif isinstance(value, k3.layers.Layer):
                visit(value, f"{prefix}{key}.")
            elif isinstance(value, (list, tuple)) and key not in ("_layers", "_metrics", "_losses"):
                for index, element in enumerate(value):
                    if isinstance(element, k3.layers.Layer):
                        visit(element, f"{prefix}{key}.{index}.")

    visit(layer, "")
    for sublayer in layer._flatten_layers():
        trainable.update(id(variable) for variable in sublayer._trainable_variables)
    return [
        (found.get(id(variable), f"weight{index}"), variable, id(variable) in trainable)
        for index, variable in enumerate(layer.weights)
    ]


class _Arguments:
    """What a carrier is called with, opaque to tf_keras: `Slot`s stand for the tensors."""

    def __init__(self, args, kwargs):
        self.args, self.kwargs = args, kwargs


class _Holder(keras.layers.Layer):
    """Stands for a sublayer of a carried layer and holds its weights."""


class _Carrier(keras.layers.Layer):
    """Calls the carried thing; keeps constants, slices and None in its call arguments away from tf_keras."""

    carried_kind: type | None = None

    def __init__(self, carried, policy=None):
        super().__init__(name=carried.name, dtype=policy, autocast=False)
        self._self_setattr_tracking = False  # tf_keras must not see the variables inside
        self.carried = carried
        self._self_setattr_tracking = True
        self.supports_masking = True
        self._compute_output_and_mask_jointly = True

    def __call__(self, *args, **kwargs):
        tensors = []

        def take(leaf):
            if not (tf.is_tensor(leaf) or isinstance(leaf, tf.Variable) or hasattr(leaf, "_keras_history")):
                return leaf
            tensors.append(leaf)
            return Slot(len(tensors) - 1)

        arguments = _Arguments(*map_leaves(take, (args, kwargs)))
        self._prepare(arguments, tensors)
        return super().__call__(tensors, arguments)

    def call(self, inputs, arguments, training=None):
        return _plainly(self._compute, inputs, arguments, training)

    def _prepare(self, arguments, tensors):
        """Makes ready for the first call."""
        del arguments, tensors

    def _set_connectivity_metadata(self, args, kwargs, outputs):
        tensors, arguments = args[:2]
        return super()._set_connectivity_metadata(*fill_slots((arguments.args, arguments.kwargs), tensors), outputs)

    def get_config(self):
        config = config_of(self.carried)
        return {**config, _ASSETS: self.carried} if hasattr(self.carried, "save_assets") else config

    @classmethod
    def from_config(cls, config):
        return cls(make_again(cls.carried_kind, config))


class CarriedOperation(_Carrier):
    """A tf_keras layer that computes a `keras.Operation` of Keras 3: `x + y`, `keras.ops.reshape(x, ...)`, `x[:, 1:]`.

    Attributes:
      carried: the operation.
      carried_kind: its class.
    """

    def _compute(self, inputs, arguments, training):
        args, kwargs = fill_slots((arguments.args, arguments.kwargs), inputs)
        return self.carried(*args, **kwargs)


class CarriedLayer(_Carrier):
    """A tf_keras layer that computes a layer of Keras 3 and exposes its weights under the same attribute paths.

    Attributes:
      carried: the Keras 3 layer.
      carried_kind: its class.
      paths: attribute paths of the weights, in the order of the Keras 3 layer's.
    """

    def __init__(self, carried):
        policy = carried.dtype_policy
        super().__init__(carried, policy.name if policy.name.startswith("mixed_") else policy.compute_dtype)
        self.paths = ()

    def _prepare(self, arguments, tensors):
        if self.built:
            return
        with tf.init_scope():
            if not self.carried.built or not self.carried._called:
                k3 = keras3()
                symbolic = [k3.KerasTensor(tuple(x.shape), dtype=tf.as_dtype(x.dtype).name) for x in tensors]
                args, kwargs = fill_slots((arguments.args, arguments.kwargs), symbolic)
                self.carried(*args, **kwargs)
            self._variables = _Untracked(weight_paths(self.carried))
            self.paths = tuple(self._add(path, variable, trainable) for path, variable, trainable in self._variables.value)
        self.built = True

    def _add(self, path, variable, trainable) -> str:
        """Makes a weight of the carrier and sets it at the path; returns the path."""
        *parents, name = path.split(".")
        owner = self
        for index, part in enumerate(parents):
            if part.isdecimal():
                while len(owner) <= int(part):
                    owner.append(_Holder(name=f"{parents[index - 1]}_{len(owner)}"))
                owner = owner[int(part)]
                continue
            if part not in owner.__dict__:
                setattr(owner, part, [] if parents[index + 1 : index + 2] and parents[index + 1].isdecimal()
                        else _Holder(name=part.strip("_") or "part"))  # fmt: skip
            owner = getattr(owner, part)
        value = variable.numpy()
        weight = owner.add_weight(
            name=name, shape=value.shape, dtype=variable.dtype, trainable=trainable,
            initializer=lambda shape, dtype=None, **_: tf.constant(value, dtype),
        )  # fmt: skip
        owner.built = True
        setattr(owner, name, weight)
        return path

    def _compute(self, inputs, arguments, training):
        k3 = keras3()
        args, kwargs = fill_slots((arguments.args, arguments.kwargs), inputs)
        training = kwargs.get("training") if training is None else training  # the model's own comes first in Keras 3
        kwargs = {**kwargs, "training": training}
        mapping = [(variable, get_weight(self, path)) for path, variable, _ in self._variables.value]
        with k3.StatelessScope(mapping, collect_losses=True) as scope:
            before = dict(scope.state_mapping)
            outputs = self.carried(*args, **kwargs)
            losses = list(self.carried.losses)
        for loss in losses:
            self.add_loss(loss)
        for path, variable, trainable in self._variables.value:
            value = scope.get_current_value(variable)
            if training and not trainable and value is not before[id(variable)]:
                get_weight(self, path).assign(value)
        for variable in self.carried.non_trainable_variables:  # states of random generators
            value = scope.get_current_value(variable)
            if id(variable) not in before and value is not None:
                variable.assign(value)
        return outputs


class _Untracked:
    """Hides a list of Keras 3 variables from tf_keras."""

    def __init__(self, value):
        self.value = value


@tf.autograph.experimental.do_not_convert
def _plainly(function, *args):
    return function(*args)


@functools.cache
def _carrier_class(kind: type, base: type) -> type:
    return type(f"Carried{kind.__name__}", (base,), {"carried_kind": kind})


def carry_object(original):
    """Returns a carrier of a copy of a Keras 3 layer (not yet built) or operation.

    Raises:
      UnsupportedModelError: it cannot be made again from its config.
    """
    base = CarriedLayer if isinstance(original, keras3().layers.Layer) else CarriedOperation
    carried = make_again(type(original), config_of(original))
    copy_assets(original, carried)
    return _carrier_class(type(original), base)(carried)
