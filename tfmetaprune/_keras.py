"""The one place that imports Keras 2 (tf_keras), TF-GNN and TF-MOT, in any import order.

TF-GNN refuses to be imported unless `tf.keras` is Keras 2, and TF-MOT makes it so for everybody who has not touched it yet.
Changing `tf.keras` would change it for the user as well, so the modules of these two alone are shown a view of the tensorflow
module in which `keras` is tf_keras. Everybody else, whatever they imported before or import afterwards, keeps the
`tf.keras` they chose.
"""

import builtins
import functools
import importlib
import importlib.abc
import importlib.machinery
import os
import sys
import types

from tfmetaprune.errors import EnvironmentSetupError

try:
    import tensorflow as tf
    import tf_keras as keras
except ImportError as error:
    raise EnvironmentSetupError(
        f"tfmetaprune: expected tensorflow and tf_keras (Keras 2) of the same release line, got: {error}. "
        f"Run `pip install 'tensorflow>=2.21,<2.22' 'tf_keras>=2.21,<2.22'`."
    ) from error

__all__ = ["keras", "tf", "tfgnn", "tfmot"]

_LEGACY_SWITCH = "TF_USE_LEGACY_KERAS"
_VIEWERS = ("tensorflow_gnn", "tensorflow_model_optimization")


class _View(types.ModuleType):
    """A module as TF-GNN and TF-MOT shall see it: everything as it is, but some of its names."""

    def __init__(self, module, **names):
        super().__init__(module.__name__)
        self.__dict__.update(names, _module=module, __path__=getattr(module, "__path__", []))

    def __getattr__(self, name):
        return getattr(self._module, name)


_view = _View(tf, keras=keras, __version__=tf.__version__)


def _import_with_view(name, globals=None, locals=None, fromlist=(), level=0):
    module = builtins.__import__(name, globals, locals, fromlist, level)
    return _view if module is tf else module


class _ViewLoader(importlib.machinery.SourceFileLoader):
    """Executes a module whose `import tensorflow` yields the view."""

    def exec_module(self, module):
        module.__dict__["__builtins__"] = {**builtins.__dict__, "__import__": _import_with_view}
        super().exec_module(module)


class _ViewFinder(importlib.abc.MetaPathFinder):
    """Finds the modules of TF-GNN and TF-MOT, and of nobody else, and gives them the `_ViewLoader`."""

    def find_spec(self, fullname, path=None, target=None):
        if fullname.partition(".")[0] not in _VIEWERS:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and isinstance(spec.loader, importlib.machinery.SourceFileLoader):
            spec.loader = _ViewLoader(spec.loader.name, spec.loader.path)
        return spec


@functools.cache
def tfgnn():
    """Imports TensorFlow GNN on Keras 2, once, and returns its module.

    Raises:
      EnvironmentSetupError: TF-GNN is missing or its import failed.
    """
    _show_views()
    try:
        return importlib.import_module("tensorflow_gnn")
    except ImportError as error:
        raise EnvironmentSetupError(
            f"tfmetaprune: expected a working tensorflow-gnn beside tensorflow {tf.__version__}, got: {error}. "
            f"Run `pip install 'tensorflow-gnn>=1.0.3'`; if that is installed, import tfmetaprune before tensorflow_gnn."
        ) from error


@functools.cache
def tfmot():
    """Imports TensorFlow Model Optimization on Keras 2, once, and returns its module.

    The caller's `tf.keras`, and the environment variable that it is chosen by, stay as they are.

    Raises:
      EnvironmentSetupError: TF-MOT is missing or its import failed.
    """
    _show_views()
    old = os.environ.get(_LEGACY_SWITCH)
    try:
        first = importlib.import_module("tf_keras.api._v1.keras")
        versions = {"v1": _View(tf.compat.v1, keras=first), "v2": _View(tf.compat.v2, keras=keras)}
        _view.compat = _View(tf.compat, **versions)
        return importlib.import_module("tensorflow_model_optimization")
    except ImportError as error:
        raise EnvironmentSetupError(
            f"tfmetaprune: expected a working tensorflow-model-optimization beside tensorflow {tf.__version__}, got: {error}. "
            f"Run `pip install 'tensorflow-model-optimization>=0.8.1'`."
        ) from error
    finally:
        if old is None:
            os.environ.pop(_LEGACY_SWITCH, None)  # TF-MOT sets it
        else:
            os.environ[_LEGACY_SWITCH] = old


def _show_views():
    """Makes TF-GNN and TF-MOT see the views; stays, because they import some of their modules late."""
    if not any(isinstance(finder, _ViewFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _ViewFinder())
