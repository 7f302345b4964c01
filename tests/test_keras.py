"""Import order: TF-GNN and TF-MOT work whatever was imported first, and the caller's `tf.keras` stays what it was."""

import os
import subprocess
import sys

import pytest

USE = """
from tfmetaprune._keras import keras, tfgnn
graph = tfgnn().GraphTensor.from_pieces(
    node_sets={"a": tfgnn().NodeSet.from_fields(sizes=[3], features={"x": tf.zeros([3, 2])})})
inputs = keras.layers.Input(type_spec=graph.spec)
model = keras.Model(inputs, tfgnn().keras.layers.Readout(node_set_name="a", feature_name="x")(inputs))
assert model(graph).shape == (3, 2)
"""
SPARSE = """
import os
from tfmetaprune._keras import keras, tfmot
before = os.environ.get("TF_USE_LEGACY_KERAS")
prune = tfmot().sparsity.keras.prune_low_magnitude
model = prune(keras.Sequential([keras.layers.Dense(3, input_shape=(4,)), keras.layers.Dense(1)]))
model.compile("sgd", "mse")
model.fit(tf.zeros([2, 4]), tf.zeros([2, 1]), verbose=0, callbacks=[tfmot().sparsity.keras.UpdatePruningStep()])
prune(keras.layers.LSTM(2))
assert os.environ.get("TF_USE_LEGACY_KERAS") == before
"""
FIRST = {
    "tensorflow": ("import tensorflow as tf", "keras.src"),
    "tf.keras touched": ("import tensorflow as tf; tf.keras.layers.Dense", "keras.src"),
    "keras 3": ("import keras; import tensorflow as tf", "keras.src"),
    "tf_keras": ("import tf_keras; import tensorflow as tf", "keras.src"),
    "legacy switch": (
        "import os; os.environ['TF_USE_LEGACY_KERAS'] = '1'; import tensorflow as tf; tf.keras.layers.Dense",
        "tf_keras",
    ),
    "tensorflow_gnn": (
        "import os; os.environ['TF_USE_LEGACY_KERAS'] = '1'; import tensorflow as tf; import tensorflow_gnn",
        "tf_keras",
    ),
    "tensorflow_model_optimization": (
        "import os; os.environ['TF_USE_LEGACY_KERAS'] = '1'; import tensorflow as tf; import tensorflow_model_optimization",
        "tf_keras",
    ),
}


@pytest.mark.parametrize("use", [USE, SPARSE], ids=["TF-GNN", "TF-MOT"])
@pytest.mark.parametrize("first", FIRST)
def test_any_import_order(first, use):
    before, module = FIRST[first]
    after = f"assert tf.keras.layers.Dense.__module__.startswith({module!r}), tf.keras.layers.Dense.__module__"
    environment = {key: value for key, value in os.environ.items() if key != "TF_USE_LEGACY_KERAS"}
    subprocess.run([sys.executable, "-c", f"{before}\n{use}\n{after}"], check=True, env=environment)
