"""Makes trained Keras networks small enough for edge devices.

A trained tf_keras model is traced into its call events; the names of every weight's axes tell which channels hang
together. The traced model is encoded as a graph, one node a channel; a graph metanetwork, trained beforehand, reads it
and puts out changed weights and a score for every channel; the graph is decoded, the least important channels go, and
what remains is rebuilt as a plain, smaller Keras model, repaired, fine-tuned, and exported as a verified TFLite file:

    Keras model -> trace -> graph -> metanetwork -> graph -> plan -> smaller Keras model -> TFLite

Example (without data; with data, `tfmetaprune.prune(model, train_data, validation_data=..., speedup=2.0)`):
  >>> import tf_keras, tfmetaprune
  >>> layers = [tf_keras.layers.Dense(32, "relu", input_shape=(8,)), tf_keras.layers.Dense(3)]
  >>> model = tf_keras.Sequential(layers)
  >>> small = tfmetaprune.prune(model, speedup=2.0, metanetwork=None, finetune=None, repair=None)
  >>> [layer.units for layer in small.model.layers]
  [16, 3]

The names below are the public ones. They are imported when they are first used, so that `import tfmetaprune` is quick.
"""

import importlib

__version__ = "0.1.0"

_HOMES = {
    "prune": "pipeline",
    "PruneResult": "pipeline",
    "encode": "pipeline",
    "decode": "pipeline",
    "load_metanetwork": "metanet.pretrained",
    "MetaNetwork": "metanet.model",
    "MetaNetConfig": "metanet.config",
    "inspect": "inspection",
    "export_tflite": "export.tflite",
    "benchmark": "export.benchmark",
    "MetaPruning": "callbacks",
    "analyze": "analysis",
    "TFMetaPruneError": "errors",
}

__all__ = [*_HOMES, "__version__"]


def __getattr__(name):
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__():
    return sorted({*globals(), *__all__})
