"""The one place that imports Keras 2 (tf_keras) and TF-GNN, in any import order.

TF-GNN refuses to be imported unless `tf.keras` is Keras 2. Changing `tf.keras` would change it for the user as well, so
TF-GNN's modules alone are shown a view of the tensorflow module in which `keras` is tf_keras. Everybody else,
whatever they imported before or import afterwards, keeps the `tf.keras` they chose.
"""

import builtins
import functools
import importlib
import importlib.abc
import importlib.machinery
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

__all__ = ["keras", "tf", "tfgnn"]


class _TensorFlowWithKeras2(types.ModuleType):
    """The tensorflow module as TF-GNN shall see it: everything as it is, but `keras` is tf_keras."""

    keras = keras

    def __getattr__(self, name):
        return getattr(tf, name)


_view = _TensorFlowWithKeras2("tensorflow")
_view.__path__, _view.__version__ = tf.__path__, tf.__version__


def _import_with_view(name, globals=None, locals=None, fromlist=(), level=0):
    module = builtins.__import__(name, globals, locals, fromlist, level)
    return _view if module is tf else module


class _ViewLoader(importlib.machinery.SourceFileLoader):
    """Executes a module whose `import tensorflow` yields the view."""

    def exec_module(self, module):
        module.__dict__["__builtins__"] = {**builtins.__dict__, "__import__": _import_with_view}
        super().exec_module(module)


class _ViewFinder(importlib.abc.MetaPathFinder):
    """Finds the modules of TF-GNN, and of nobody else, and gives them the `_ViewLoader`."""

    def find_spec(self, fullname, path=None, target=None):
        if fullname.partition(".")[0] != "tensorflow_gnn":
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
    if not any(isinstance(finder, _ViewFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _ViewFinder())  # stays: TF-GNN imports some of its modules late
    try:
        return importlib.import_module("tensorflow_gnn")
    except ImportError as error:
        raise EnvironmentSetupError(
            f"tfmetaprune: expected a working tensorflow-gnn beside tensorflow {tf.__version__}, got: {error}. "
            f"Run `pip install 'tensorflow-gnn>=1.0.3'`; if that is installed, import tfmetaprune before tensorflow_gnn."
        ) from error
