"""Runs a TFLite file once in a process of its own: of the files with zeros left out, some do not raise an error in LiteRT but end
the process. Started as a program, this file is that process.
"""

import pathlib
import signal
import subprocess
import sys

from tfmetaprune.errors import ExportError

PROGRAM = pathlib.Path(__file__)
_MAX_SECONDS = 600


def try_file(path, where, advice):
    """Loads and runs a file on zeros, with the default delegate and without.

    Args:
      path: path of the file.
      where: what is being done, for the error.
      advice: what to do, for the error.

    Raises:
      ExportError: LiteRT crashes on the file, or does not come to an end. Errors that LiteRT raises itself are no matter here.
    """
    try:
        code = subprocess.run([sys.executable, str(PROGRAM), str(path)], capture_output=True, timeout=_MAX_SECONDS).returncode
    except subprocess.TimeoutExpired as error:
        raise ExportError(f"{where}: expected a file that runs, got no end within {_MAX_SECONDS} seconds. {advice}") from error
    if code < 0:
        name = signal.Signals(-code).name
        raise ExportError(f"{where}: expected a file that loads and runs, got: LiteRT crashes on it ({name}). {advice}")


def _run(path):
    import numpy as np
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    for resolver in (OpResolverType.AUTO, OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES):
        interpreter = Interpreter(path, experimental_op_resolver_type=resolver)
        interpreter.allocate_tensors()
        for details in interpreter.get_input_details():
            interpreter.set_tensor(details["index"], np.zeros(details["shape"], details["dtype"]))
        interpreter.invoke()


if __name__ == "__main__":
    _run(sys.argv[1])
