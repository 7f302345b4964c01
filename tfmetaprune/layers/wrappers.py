"""Layers around a layer: TimeDistributed, SpectralNormalization, Bidirectional."""

import dataclasses

from tfmetaprune._keras import keras, tf
from tfmetaprune.layers.patterns import with_mask_of
from tfmetaprune.layers.recurrent import RecurrentSpec, inputs_of, narrow_units, why_frozen
from tfmetaprune.layers.spec import Axes, Concat, Frozen, LayerSpec, is_channelwise, register, spec_for

_PREFIX = "layer."


class _WrapperSpec(LayerSpec):
    """Does what the spec of the layer inside (`layer`) says; that layer sees a call without the wrapper's own axes."""

    internal = ("mid", "head", "qk", "v")
    aliases = {"state": "out"}
    importance = ("layer.gamma",)
    own_axes = 0  # axes behind the batch axis that the layer inside does not see

    def weights(self, layer):
        inner = spec_for(layer.layer)
        return {} if inner is None else {_PREFIX + name: axes for name, axes in inner.weights(layer.layer).items()}

    def flow(self, call):
        inner = spec_for(call.layer.layer)
        if inner is None:
            return Frozen(f"no LayerSpec is registered for the {type(call.layer.layer).__name__} inside")
        if len(call.inputs) > 1 or len(call.outputs) > 1:
            return Frozen("the layer inside has several inputs or outputs")
        if not is_channelwise(getattr(call.layer.layer, "activation", None)):
            return Frozen("the activation of the layer inside mixes the channels")
        flow = inner.flow(self.inside(call))
        if isinstance(flow, Concat):
            return Frozen("the layer inside joins its inputs")
        if isinstance(flow, Axes) and self.own_axes:
            sides = [side.split() for side in flow.pattern.split("->")]
            sides = [["b", "step", *(side if side[0] == "..." else side[1:])] for side in sides]
            return dataclasses.replace(flow, pattern=" -> ".join(map(" ".join, sides)))
        return flow

    def positions(self, call, weight, names):
        own = {name: length for name, length in names.items() if name == "step"}
        others = {name: length for name, length in names.items() if name != "step"}
        return {**own, **spec_for(call.layer.layer).positions(self.inside(call), weight.removeprefix(_PREFIX), others)}

    def products(self, call):
        steps = ("step",) * self.own_axes
        return tuple((*steps, *names) for names in spec_for(call.layer.layer).products(self.inside(call)))

    def narrow(self, config, narrowing):
        inner = spec_for(narrowing.call.layer.layer).narrow(config["layer"]["config"], self._narrowing(narrowing))
        return {**config, "layer": {**config["layer"], "config": inner}}

    def adjust_weights(self, layer, values, narrowing):
        inside = {name.removeprefix(_PREFIX): value for name, value in values.items() if name.startswith(_PREFIX)}
        inside = spec_for(layer.layer).adjust_weights(layer.layer, inside, self._narrowing(narrowing))
        return {**values, **{_PREFIX + name: value for name, value in inside.items()}}

    def inside(self, call):
        """The call of the layer inside, for one position of the wrapper's own axes."""
        cut = [tuple((*shape[:1], *shape[1 + self.own_axes :]) for shape in shapes)
               for shapes in (call.input_shapes, call.output_shapes)]  # fmt: skip
        return dataclasses.replace(call, layer=call.layer.layer, input_shapes=cut[0], output_shapes=cut[1])

    def _narrowing(self, narrowing):
        kept = [tuple({axis - self.own_axes: left for axis, left in tensor.items() if axis > self.own_axes} for tensor in side)
                for side in (narrowing.inputs, narrowing.outputs)]  # fmt: skip
        return dataclasses.replace(narrowing, call=self.inside(narrowing.call), inputs=kept[0], outputs=kept[1])


@register(keras.layers.TimeDistributed)
class TimeDistributedSpec(_WrapperSpec):
    """The same layer for every step of a series."""

    own_axes = 1

    def call_masked(self, layer, masks, x, *args, **kwargs):
        inner = spec_for(layer.layer)
        if type(inner).call_masked is LayerSpec.call_masked:
            return layer(x, *args, **kwargs)
        made = inner.call_masked(layer.layer, masks, tf.reshape(x, tf.concat([[-1], tf.shape(x)[2:]], 0)))
        return with_mask_of(x, tf.reshape(made, tf.concat([tf.shape(x)[:2], tf.shape(made)[1:]], 0)))


@register(keras.layers.SpectralNormalization)
class SpectralNormalizationSpec(_WrapperSpec):
    """Divides the kernel by its largest singular value, in training; else the layer inside works as ever."""

    def weights(self, layer):
        inner = super().weights(layer)
        kernel = inner.get("layer.kernel", inner.get("layer.embeddings", ""))
        return {**inner, "vector_u": f"one {kernel.split()[-1]}"} if kernel.endswith("out") else {}

    def flow(self, call):
        return (
            super().flow(call)
            if self.weights(call.layer)
            else Frozen("its kernel does not end in the channels it makes")
        )

    def call_masked(self, layer, masks, x, *args, **kwargs):
        return with_mask_of(x, spec_for(layer.layer).call_masked(layer.layer, masks, x))


@register(keras.layers.Bidirectional)
class BidirectionalSpec(LayerSpec):
    """One recurrent layer forwards (`fwd`) and one backwards (`bwd`); tied (`out`) where their outputs are added."""

    aliases = {"state": "out", "fwd_state": "fwd", "bwd_state": "bwd"}

    def weights(self, layer):
        result = {}
        for part, made in zip(("forward_layer", "backward_layer"), self._made(layer)):
            inner = spec_for(getattr(layer, part))
            if not isinstance(inner, RecurrentSpec):
                return {}
            state = "state" if made == "out" else f"{made}_state"
            weights = inner.weights(getattr(layer, part), made, state)
            result.update({f"{part}.{name}": axes for name, axes in weights.items()})
        return result

    def flow(self, call):
        layer = call.layer
        for part in (layer.forward_layer, layer.backward_layer):
            if not isinstance(spec_for(part), RecurrentSpec):
                return Frozen(f"nothing is known about {type(part).__name__} in two directions")
            if why_frozen(part) is not None:
                return Frozen(why_frozen(part))
        series, states, masks = inputs_of(call)
        if series is None:
            return Frozen("is called with constants")
        sides, steps = self._made(layer), "u " if layer.return_sequences else ""
        merged = {"concat": ["fwd+bwd"], None: [*sides]}.get(layer.merge_mode, ["out"])
        first = [f"b {steps}{made}" for made in merged]
        count = len(call.outputs) - len(first)
        read, made = ([f"b {side}" for side in sides for _ in range(number // 2)] for number in (states, count))
        return Axes(f"{', '.join([series, *read, *masks])} -> {', '.join([*first, *made])}")

    def positions(self, call, weight, names):
        return {"t": call.input_shapes[0][1]}

    def narrow(self, config, narrowing):
        forward, backward = (narrowing.widths[made] for made in self._made(narrowing.call.layer))
        inner = config["layer"]
        narrowed = {**config, "layer": {**inner, "config": narrow_units(inner["config"], forward)}}
        if forward == backward and "backward_layer" not in config:
            return narrowed
        inner = keras.saving.serialize_keras_object(narrowing.call.layer.backward_layer)
        own = {**inner["config"], "name": inner["config"]["name"].removeprefix("backward_")}
        return {**narrowed, "backward_layer": {**inner, "config": narrow_units(own, backward)}}

    @staticmethod
    def _made(layer):
        return ("fwd", "bwd") if layer.merge_mode in ("concat", None) else ("out", "out")
