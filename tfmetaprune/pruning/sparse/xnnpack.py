"""TF-MOT's policy of what XNNPACK's sparse inference runs, asked about a whole model, nested ones included."""

from tfmetaprune._keras import keras, tfmot
from tfmetaprune.errors import UnsupportedModelError
from tfmetaprune.trace import ModelTrace, run


def check_policy(trace: ModelTrace) -> frozenset[str]:
    """Asks TF-MOT's `PruneForLatencyOnXNNPack`.

    Args:
      trace: the traced model; it is not modified.

    Returns:
      The paths of the layers whose kernels XNNPACK runs sparsely.

    Raises:
      UnsupportedModelError: the policy refuses the model; the message names the layer.
    """
    flat, layers = _flatten(trace)
    policy = _naming_policy()()
    try:
        policy.ensure_model_supports_pruning(flat)
    except ValueError as error:
        raise UnsupportedModelError(_message(trace, layers, policy.refused, error)) from error
    return frozenset(call.path for call in trace.calls if policy.allow_pruning(layers[id(call.layer)]))


def _flatten(trace):
    """A model of the same layers with no models inside, untrained; and id of the old layer -> the new one."""
    layers = {}
    for call in trace.calls:
        if id(call.layer) not in layers:
            layers[id(call.layer)] = type(call.layer).from_config({**call.layer.get_config(), "name": call.path.replace("/", "_")})
    inputs = [keras.Input(batch_shape=tuple(tensor.shape), dtype=tensor.dtype) for tensor in trace.model.inputs]
    outputs = run(trace, inputs, lambda _, call, *args, **kwargs: layers[id(call.layer)](*args, **kwargs))
    return keras.Model(inputs, outputs), layers


def _naming_policy():
    """TF-MOT's policy, which tells the class of a layer it refuses, made to remember the layer."""

    class NamingPolicy(tfmot().sparsity.keras.PruneForLatencyOnXNNPack):
        refused = None

        def _check_layer_support(self, layer):
            supported = super()._check_layer_support(layer)
            if not supported:
                self.refused = layer
            return supported

    return NamingPolicy


def _message(trace, layers, refused, error) -> str:
    title = next((call.title for call in trace.calls if layers[id(call.layer)] is refused), None)
    if title is None:  # no start, or no end
        is_start = "input branches" in str(error)
        title = (trace.calls[0] if is_start else trace.calls[-1]).title
        where = "begins" if is_start else "ends"
        advice = (
            "Begin with ZeroPadding2D(1) and Conv2D(..., 3, strides=2, padding='valid') on an image of 3 channels"
            if is_start else "End with GlobalAveragePooling2D and what classifies behind it"
        )  # fmt: skip
        got = f"one that {where} with layer {title}"
    else:
        got = f"layer {title}, which XNNPACK's sparse inference does not run"
        advice = "Build it of 1x1 and depthwise 3x3 convolutions (padded by ZeroPadding2D where they stride)"
    return (
        f"Model {trace.model.name!r}: expected a network that TF-MOT's policy PruneForLatencyOnXNNPack accepts, got {got} "
        f"({error}). {advice}, or use method='unstructured', which needs no policy."
    )
