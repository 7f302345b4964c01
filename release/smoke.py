"""What an installed tfmetaprune must be able to do; run in a fresh environment, from an empty folder.

`release/wheel_check.py` runs it with every Python; it needs nothing but the installed wheel.
"""

import importlib.metadata
import pathlib
import subprocess
import sys

import numpy as np

import tfmetaprune
from tfmetaprune.export.tflite import run_tflite
from tfmetaprune.metanet.pretrained import available_metanetworks, load_card


def small_network(keras):
    """A convolutional network of a few hundred parameters."""
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(8, 3, padding="same"),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.Conv2D(16, 3, strides=2, activation="relu"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(4, activation="softmax"),
        ]
    )


def check_installation():
    """The package is the installed one, typed, of one version everywhere, and says so on the command line."""
    folder = pathlib.Path(tfmetaprune.__file__).parent
    assert pathlib.Path.cwd() not in folder.parents, f"{folder}: expected the installed package, got the one in this folder"
    assert (folder / "py.typed").is_file()
    assert importlib.metadata.version("tfmetaprune") == tfmetaprune.__version__
    command = pathlib.Path(sys.executable).with_name("tfmetaprune")
    said = subprocess.run([command, "--version"], capture_output=True, text=True, check=True).stdout
    assert said.strip() == f"tfmetaprune {tfmetaprune.__version__}", said


def check_metanetworks():
    """Every shipped metanetwork is there with its card, and loads."""
    names = available_metanetworks()
    assert {"digits", "digits_sparse"} <= set(names), names
    for name in names:
        assert load_card(name)["config"] and tfmetaprune.load_metanetwork(name).count_params() > 0


def check_pruning(keras):
    """A network is pruned without data, comes back in its own Keras, and its file computes what it computes."""
    model = small_network(keras)
    small = tfmetaprune.prune(model, speedup=2.0, metanetwork=None, finetune=None)
    assert isinstance(small.model, keras.Model) and small.report["speedup"]["reached"] >= 2.0
    report = tfmetaprune.export_tflite(small.model, f"{keras.__name__}.tflite")
    x = np.random.default_rng(0).normal(size=(5, 8, 8, 1)).astype("float32")
    np.testing.assert_allclose(run_tflite(report.path, x), np.asarray(small.model(x)), atol=1e-5)


def check_metanetwork_pruning(keras):
    """A shipped metanetwork scores a network: TF-GNN and tf_keras work together here."""
    x = np.random.default_rng(0).normal(size=(64, 8, 8, 1)).astype("float32")
    small = tfmetaprune.prune(small_network(keras), (x,), speedup=2.0, metanetwork="digits", finetune=None)
    assert small.report["metanetwork"] == "digits" and small.report["speedup"]["reached"] >= 2.0


def main():
    """Runs all checks."""
    check_installation()
    check_metanetworks()
    import keras
    import tf_keras

    for module in (keras, tf_keras):
        check_pruning(module)
    check_metanetwork_pruning(keras)
    print(f"tfmetaprune {tfmetaprune.__version__} works on Python {sys.version.split()[0]}")


if __name__ == "__main__":
    main()
