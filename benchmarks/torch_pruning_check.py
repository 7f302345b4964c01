"""Compares the group norm with Torch-Pruning's `GroupNormPruner.regularize`, weight by weight, on the same networks.

    pip install '.[torch]'
    python benchmarks/torch_pruning_check.py                   # prints the largest difference for every network
    python benchmarks/torch_pruning_check.py --write tests/pruning/torch_pruning_gradients.json

Theirs adds reg x gamma_k x w to the gradient of the loss for every weight w of a channel k, once for each channel that the weight
belongs to; ours is the gradient of reg x 1/2 sum_k gamma_k ||w_k||^2. The networks are built in Keras and in torch and get the same
weights, drawn in the order of the Keras model's variables.

The same, to rounding: gamma, from norms over kernels (by their outputs and by their inputs) and BN scales, whatever mean or maximum
the importance is divided by; kernels between two channels get both gammas; biases, BN shifts and statistics get nothing.

What differs:
- Depthwise kernels: theirs neither counts them in the norms nor regularises them, ours does both. Compared with ours without them.
- The outputs of the last layer: theirs regularises them unless the layer is among `ignored_layers`; ours never, as they cannot go.
- Where all norms of a group are equal, theirs divides by zero (NaN), ours takes gamma = 1.
- The weight: theirs is added to the gradient of whatever loss was taken, that of a batch's mean in their examples (reg 5e-4, alpha 2^4).
  The paper's 10 goes with a cross-entropy summed over about 100 batches: 0.1 for the mean of a batch.
"""

import argparse
import json
import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

from tfmetaprune._keras import keras, tf
from tfmetaprune.layers import get_weight
from tfmetaprune.pruning.group_norm import ALPHA, group_norm
from tfmetaprune.trace import trace_model

L = keras.layers


def chain():
    """Three convolutions with BatchNormalization, their mean, a dense layer."""
    x = inputs = keras.Input((6, 6, 2))
    for width in (4, 5, 3):
        x = L.ReLU()(L.BatchNormalization()(L.Conv2D(width, 3, padding="same")(x)))
    return keras.Model(inputs, L.Dense(3)(L.GlobalAveragePooling2D()(x)), name="chain")


def residual():
    """A stem, a block with an identity shortcut, one with a projection."""
    x = inputs = keras.Input((6, 6, 2))
    x = L.ReLU()(L.BatchNormalization()(L.Conv2D(4, 3, padding="same", use_bias=False)(x)))
    for width in (4, 6):
        y = L.ReLU()(L.BatchNormalization()(L.Conv2D(width, 3, padding="same", use_bias=False)(x)))
        y = L.BatchNormalization()(L.Conv2D(width, 3, padding="same", use_bias=False)(y))
        if width != x.shape[-1]:
            x = L.BatchNormalization()(L.Conv2D(width, 1, use_bias=False)(x))
        x = L.ReLU()(L.Add()([x, y]))
    return keras.Model(inputs, L.Dense(3)(L.GlobalAveragePooling2D()(x)), name="residual")


def flattened():
    """A convolution whose channels a dense layer reads at every position."""
    x = inputs = keras.Input((3, 3, 2))
    x = L.ReLU()(L.Conv2D(4, 3, padding="same")(x))
    return keras.Model(inputs, L.Dense(3)(L.ReLU()(L.Dense(5)(L.Flatten()(x)))), name="flattened")


def concatenated():
    """Two branches side by side."""
    x = inputs = keras.Input((6, 6, 2))
    x = L.Concatenate()([L.ReLU()(L.BatchNormalization()(L.Conv2D(width, 3, padding="same")(x))) for width in (3, 4)])
    x = L.ReLU()(L.BatchNormalization()(L.Conv2D(5, 3, padding="same")(x)))
    return keras.Model(inputs, L.Dense(3)(L.GlobalAveragePooling2D()(x)), name="concatenated")


def depthwise():
    """A convolution, a depthwise one, a 1x1 one: the depthwise kernel is left out on both sides."""
    x = inputs = keras.Input((6, 6, 2))
    x = L.ReLU()(L.BatchNormalization()(L.Conv2D(4, 3, padding="same")(x)))
    x = L.ReLU()(L.BatchNormalization()(L.DepthwiseConv2D(3, padding="same", use_bias=False)(x)))
    x = L.ReLU()(L.BatchNormalization()(L.Conv2D(5, 1)(x)))
    return keras.Model(inputs, L.Dense(3)(L.GlobalAveragePooling2D()(x)), name="depthwise")


NETWORKS = {one.__name__: one for one in (chain, residual, flattened, concatenated, depthwise)}


def make_network(name):
    """Builds a network with weights that only its name tells; its layers are numbered in the order of their making."""
    keras.backend.clear_session()
    model, rng = NETWORKS[name](), np.random.default_rng(len(name))
    model.set_weights([
        rng.uniform(0.5, 1.5, value.shape) if "variance" in variable.name else rng.normal(0, 0.5, value.shape)
        for variable, value in zip(model.weights, model.get_weights())
    ])  # fmt: skip
    return model


def our_gradients(model, alpha=ALPHA) -> dict:
    """Returns "layer/weight" -> the gradient of the group norm without depthwise kernels, for every trainable weight; zeros elsewhere."""
    trace = trace_model(model)
    left_out = {
        (layer.name, "depthwise_kernel"): tf.zeros_like(layer.depthwise_kernel)
        for layer in model.layers if isinstance(layer, L.DepthwiseConv2D)
    }  # fmt: skip
    names = [(call.path, name) for call, channels in zip(trace.calls, trace.channels.calls) for name in channels.weights]
    variables = {key: get_weight(model.get_layer(key[0]), key[1]) for key in names}
    variables = {key: variable for key, variable in variables.items() if variable.trainable}
    with tf.GradientTape() as tape:
        norm = group_norm(trace, left_out, alpha=alpha)
    found = tape.gradient(norm, list(variables.values()), unconnected_gradients=tf.UnconnectedGradients.ZERO)
    return {"/".join(key): value.numpy() for key, value in zip(variables, found)}


def torch_gradients(model, alpha=ALPHA) -> dict:
    """Returns what Torch-Pruning adds to the gradients of the same network, in Keras' shapes."""
    import torch
    import torch_pruning

    network = _Torch(torch, model)
    shape = model.input_shape
    example = torch.randn(2, shape[3], *shape[1:3])
    output = torch.tensor(model(example.numpy().transpose(0, 2, 3, 1)).numpy())
    torch.testing.assert_close(network.eval()(example), output, atol=1e-4, rtol=1e-4)
    pruner = torch_pruning.pruner.GroupNormPruner(
        network, example, importance=torch_pruning.importance.GroupMagnitudeImportance(p=2), reg=1.0,
        ignored_layers=[network.modules_by_name[model.layers[-1].name]],
    )  # fmt: skip
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    pruner.regularize(network, alpha=alpha)
    found = {}
    for layer in model.layers:
        module = network.modules_by_name.get(layer.name)
        for variable in layer.trainable_weights if module is not None else ():
            name = variable.name.split("/")[-1].split(":")[0]
            value = (module.weight if name.endswith("kernel") or name == "gamma" else module.bias).grad.numpy()
            value = value.transpose(1, 0, 2, 3) if name == "depthwise_kernel" else value
            found[f"{layer.name}/{name}"] = _to_keras(value, network.flattened.get(layer.name))
    return found


def _to_keras(value, spatial):
    """A torch weight in Keras' order of axes; `spatial` is (height, width, channels) in front of a flattening."""
    if value.ndim == 4:
        return value.transpose(2, 3, 1, 0)
    if value.ndim == 2 and spatial:
        height, width, channels = spatial
        return value.reshape(-1, channels, height, width).transpose(2, 3, 1, 0).reshape(-1, len(value))
    return value.T


def _Torch(torch, model):
    """A torch module that runs the layers of a Keras model in the order in which they were made, channels first."""

    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.modules_by_name, self.flattened = {}, {}
            for layer in model.layers:
                module = self._module(layer)
                if module is not None:
                    self.modules_by_name[layer.name] = module
                    self.add_module(layer.name, module)

        def _module(self, layer):
            values = [torch.tensor(value) for value in layer.get_weights()]
            if isinstance(layer, L.DepthwiseConv2D):
                kernel = values[0].permute(2, 3, 0, 1)
                module = torch.nn.Conv2d(len(kernel), len(kernel), tuple(kernel.shape[2:]), padding="same", groups=len(kernel), bias=False)
                state = {"weight": kernel}
            elif isinstance(layer, L.Conv2D):
                kernel = values[0].permute(3, 2, 0, 1)
                module = torch.nn.Conv2d(kernel.shape[1], kernel.shape[0], tuple(kernel.shape[2:]), padding="same", bias=len(values) > 1)
                state = {"weight": kernel, "bias": values[-1]}
            elif isinstance(layer, L.Dense):
                before = layer.inbound_nodes[0].inbound_layers
                kernel = values[0].T
                if isinstance(before, L.Flatten):
                    self.flattened[layer.name] = spatial = before.input_shape[1:]
                    kernel = kernel.reshape(-1, *spatial).permute(0, 3, 1, 2).reshape(len(kernel), -1)
                module = torch.nn.Linear(kernel.shape[1], kernel.shape[0])
                state = {"weight": kernel, "bias": values[1]}
            elif isinstance(layer, L.BatchNormalization):
                module = torch.nn.BatchNorm2d(len(values[0]), eps=layer.epsilon)
                state = dict(zip(("weight", "bias", "running_mean", "running_var"), values))
            else:
                return None
            state = {name: value.contiguous() for name, value in state.items() if name in module.state_dict()}
            module.load_state_dict(state, strict=False)
            return module

        def forward(self, x):
            made = {}
            for layer in model.layers:
                before = layer.inbound_nodes[0].inbound_layers
                read = [made[one.name] for one in (before if isinstance(before, list) else [before])]
                if isinstance(layer, L.InputLayer):
                    value = x
                elif layer.name in self.modules_by_name:
                    value = self.modules_by_name[layer.name](*read)
                elif isinstance(layer, L.ReLU):
                    value = torch.relu(*read)
                elif isinstance(layer, L.Add):
                    value = read[0] + read[1]
                elif isinstance(layer, L.Concatenate):
                    value = torch.cat(read, 1)
                elif isinstance(layer, L.Flatten):
                    value = torch.flatten(*read, 1)
                else:
                    value = read[0].mean((2, 3))
                made[layer.name] = value
            return value

    return Network()


def difference(ours, theirs) -> float:
    """The largest difference of two dicts of gradients, relative to the largest number in them."""
    if set(ours) != set(theirs):
        raise AssertionError(f"weights: expected {sorted(theirs)}, got {sorted(ours)}")
    largest = max(np.max(np.abs(value)) for value in theirs.values())
    return max(float(np.max(np.abs(ours[name] - np.asarray(value)))) for name, value in theirs.items()) / largest


def main():
    """Runs the comparison."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", type=pathlib.Path, help="where to write what Torch-Pruning adds, as JSON")
    options = parser.parse_args()
    written = {}
    for name in NETWORKS:
        model = make_network(name)
        theirs = torch_gradients(model)
        print(f"{name}: {difference(our_gradients(model), theirs):.1e} of the largest gradient")
        written[name] = {key: np.round(value.ravel(), 4).tolist() for key, value in theirs.items()}
    if options.write:
        options.write.write_text(json.dumps({"alpha": ALPHA, "gradients": written}) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
