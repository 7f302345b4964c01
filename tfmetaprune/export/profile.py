"""Profiles a TFLite file: how long each operator takes, by LiteRT's own profiler.

The Python interface of LiteRT has no profiler, its C library has one. A process of its own loads the library, so that
nothing but an error comes of it should a release change that interface. Started as a program, this file is that process.
"""

import ctypes
import dataclasses
import json
import pathlib
import statistics
import subprocess
import sys

from tfmetaprune.errors import ExportError

_MAX_SECONDS = 600
_CPU, _NUM_DIMENSIONS = 1, 8
_ELEMENT_TYPES = {"float32": 1, "int32": 2, "uint8": 3, "int64": 4, "bool": 6, "int16": 7, "int8": 9, "float16": 10}
_OPERATOR = 2 | 4 | 8  # event types of the C library: an operator of the file; one inside a delegate (two kinds)


@dataclasses.dataclass(frozen=True)
class OperatorTime:
    """What one operator takes.

    Attributes:
      name: as XNNPACK or LiteRT calls it.
      median_ms: median over the runs, in milliseconds.
      share: of the sum over all operators, in [0, 1].
    """

    name: str
    median_ms: float
    share: float


def profile_file(path, *, num_threads=1, num_warmup=5, num_runs=20) -> tuple[OperatorTime, ...]:
    """Profiles a file whose inputs are of batch size 1, on zeros.

    Args:
      path: path of the file.
      num_threads: number of threads.
      num_warmup: number of runs that are not counted.
      num_runs: number of runs that are.

    Returns:
      The operators in the order in which they run. Operators that XNNPACK fuses are one.

    Raises:
      ExportError: this release of LiteRT cannot profile, or not this file.
    """
    numbers = [str(number) for number in (num_threads, num_warmup, num_runs)]
    command = [sys.executable, str(pathlib.Path(__file__)), str(path), *numbers]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_MAX_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise ExportError(_message(path, f"no end within {_MAX_SECONDS} seconds")) from error
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        raise ExportError(_message(path, (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1][:300]))
    medians = json.loads(lines[-1])
    total = sum(median for _, median in medians) or 1.0
    return tuple(OperatorTime(name, median, median / total) for name, median in medians)


def _message(path, reason):
    return (
        f"benchmark '{path}': expected LiteRT's profiler to run the file, got: {reason}. Leave profile=True out; "
        f"it was tried with ai-edge-litert 2.3."
    )


class _Layout(ctypes.Structure):
    _fields_ = [
        ("rank", ctypes.c_uint32), ("lengths", ctypes.c_int32 * _NUM_DIMENSIONS), ("strides", ctypes.c_uint32 * _NUM_DIMENSIONS)
    ]  # fmt: skip


class _TensorType(ctypes.Structure):
    _fields_ = [("element_type", ctypes.c_int32), ("layout", _Layout)]


class _Event(ctypes.Structure):
    _fields_ = [
        ("tag", ctypes.c_char_p), ("kind", ctypes.c_int32), ("start_us", ctypes.c_uint64), ("elapsed_us", ctypes.c_uint64),
        ("memory", ctypes.c_int64 * 6), ("operator", ctypes.c_uint64), ("subgraph", ctypes.c_uint64),
        ("source", ctypes.c_int32),
    ]  # fmt: skip


class _Library:
    """LiteRT's C library: every call is checked."""

    def __init__(self):
        import ai_edge_litert

        found = sorted(pathlib.Path(ai_edge_litert.__file__).parent.glob("libLiteRt.*"))
        if not found:
            raise OSError("ai_edge_litert holds no libLiteRt")
        self._library = ctypes.CDLL(str(found[0]))

    def __call__(self, name, *arguments):
        status = getattr(self._library, f"LiteRt{name}")(*arguments)
        if status:
            raise OSError(f"LiteRt{name} returned {status}")

    def make(self, name, *arguments):
        """Calls a function whose last argument is where the result goes."""
        result = ctypes.c_void_p()
        self(name, *arguments, ctypes.byref(result))
        return result


def _profile(path, num_threads, num_warmup, num_runs):
    """Returns (name, median milliseconds) of every operator, in order."""
    from tfmetaprune.export.contents import read_contents

    litert, none = _Library(), ctypes.c_size_t(0)
    environment = litert.make("CreateEnvironment", 0, None)
    model = litert.make("CreateModelFromFile", environment, str(path).encode())
    options = litert.make("CreateOptions")
    litert("SetOptionsHardwareAccelerators", options, _CPU)
    texts = {  # held here: the library does not copy them before the model is compiled
        b"runtime_options_string": ctypes.create_string_buffer(b"enable_profiling = true\n"),
        b"xnnpack": ctypes.create_string_buffer(f"num_threads = {num_threads}\n".encode()),
    }
    keeps = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(lambda text: None)
    for name, text in texts.items():
        litert("AddOpaqueOptions", options, litert.make("CreateOpaqueOptions", name, text, keeps))
    compiled = litert.make("CreateCompiledModel", environment, model, options)

    def buffers(kind, shapes):
        made = []
        for index, (element_type, shape) in enumerate(shapes):
            needs = litert.make(f"GetCompiledModel{kind}BufferRequirements", compiled, none, ctypes.c_size_t(index))
            tensor = _TensorType(element_type, _Layout(len(shape), (ctypes.c_int32 * _NUM_DIMENSIONS)(*shape)))
            made.append(litert.make("CreateManagedTensorBufferFromRequirements", environment, ctypes.byref(tensor), needs))
        return len(made), (ctypes.c_void_p * len(made))(*made)

    contents = read_contents(path)
    tensors = {"Input": contents.inputs, "Output": contents.outputs}
    arguments = [none]
    for kind, indices in tensors.items():
        shapes = [(_ELEMENT_TYPES[contents.tensors[i].dtype.name], contents.tensors[i].shape) for i in indices]
        count, made = buffers(kind, shapes)
        arguments += [ctypes.c_size_t(count), made]
    for _ in range(num_warmup):
        litert("RunCompiledModel", compiled, *arguments)
    profiler = litert.make("CompiledModelGetProfiler", compiled)
    times = {}
    for _ in range(num_runs):
        litert("StartProfiler", profiler)
        litert("RunCompiledModel", compiled, *arguments)
        litert("StopProfiler", profiler)
        count = ctypes.c_int()
        litert("GetNumProfilerEvents", profiler, ctypes.byref(count))
        events = (_Event * count.value)()
        litert("GetProfilerEvents", profiler, count, events)
        for event in events:
            if event.kind & _OPERATOR:
                times.setdefault((event.kind, event.operator, event.tag.decode()), []).append(event.elapsed_us / 1000)
        litert("ResetProfiler", profiler)
    return [(tag, statistics.median(values)) for (_, _, tag), values in times.items()]


if __name__ == "__main__":
    print(json.dumps(_profile(sys.argv[1], *map(int, sys.argv[2:]))))
