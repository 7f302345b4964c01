"""Reads what a TFLite file holds: its operators, and its weights as they are stored."""

import dataclasses
import functools
import math
import pathlib

import numpy as np

_DTYPES = {
    "FLOAT32": np.float32, "FLOAT16": np.float16, "FLOAT64": np.float64, "INT8": np.int8, "UINT8": np.uint8, "INT16": np.int16,
    "INT32": np.int32, "INT64": np.int64, "BOOL": np.bool_,
}  # fmt: skip
_PASSING = ("DEQUANTIZE", "DENSIFY")  # operators that only change how a weight is stored


@dataclasses.dataclass(frozen=True)
class Operator:
    """One operation of a file.

    Attributes:
      kind: its name in the format, "CONV_2D" say.
      inputs, outputs: indices of tensors; -1 for an input that is left out.
    """

    kind: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Tensor:
    """One tensor of a file.

    Attributes:
      name: made of the names of the Keras layers and operations that it comes from.
      shape: its lengths, with 1 for an unknown batch.
      dtype: of its numbers; None for kinds that are not read.
      values: the numbers that are stored, flat, in the order of the file; None if it holds none, because it is computed.
      is_sparse: whether zeros are left out of `values`.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype | None
    values: np.ndarray | None
    is_sparse: bool

    @property
    def size(self) -> int:
        """How many numbers it has."""
        return math.prod(self.shape)

    @property
    def num_zeros(self) -> int:
        """How many of them are exactly zero, whether stored or left out; 8-bit weights are symmetric: 0 stands for 0."""
        return self.size - int(np.count_nonzero(self.values))


@dataclasses.dataclass(frozen=True, eq=False)
class Contents:
    """The main graph of a file.

    Attributes:
      operators: in the order in which they run.
      tensors: by index.
      inputs, outputs: indices of the tensors.
    """

    operators: tuple[Operator, ...]
    tensors: tuple[Tensor, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


def read_contents(path) -> Contents:
    """Reads a TFLite file that is known to be one.

    Args:
      path: path of the file.
    """
    schema, kinds = _schema()
    model = schema.Model.GetRootAs(pathlib.Path(path).read_bytes(), 0)
    graph = model.Subgraphs(0)
    tensors = tuple(_tensor(model, graph.Tensors(index)) for index in range(graph.TensorsLength()))
    operators = []
    for index in range(graph.OperatorsLength()):
        operator = graph.Operators(index)
        code = model.OperatorCodes(operator.OpcodeIndex())
        number = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())  # the first codes were one byte
        inputs, outputs = _indices(operator, "Inputs"), _indices(operator, "Outputs")
        operators.append(Operator(kinds.get(number, str(number)), inputs, outputs))
    return Contents(tuple(operators), tensors, _indices(graph, "Inputs"), _indices(graph, "Outputs"))


@functools.cache
def _schema():
    """LiteRT's schema, which takes a while to import, and its operators: number -> name."""
    from ai_edge_litert import schema_py_generated as schema

    return schema, {code: name for name, code in vars(schema.BuiltinOperator).items() if name.isupper()}


def weights_of(contents: Contents) -> dict[int, tuple[Operator, Tensor]]:
    """Finds the kernels: stored tensors of at least 2 axes and a number for every output, that an operator reads.

    Args:
      contents: of a file.

    Returns:
      Index of the stored tensor -> the operator that computes with it, and the tensor.
    """
    source, found = _unpacked(contents), {}
    for operator in contents.operators:
        for index in () if operator.kind in _PASSING else operator.inputs:
            index = source.get(index, index)
            tensor = contents.tensors[index]
            numbers = tensor.dtype in (np.float32, np.float16, np.int8)
            if index >= 0 and tensor.values is not None and numbers and sum(length > 1 for length in tensor.shape) >= 2:
                found.setdefault(index, (operator, tensor))
    return found


def _unpacked(contents) -> dict[int, int]:
    """Tensors that are made of a stored one alone, by changing its form -> the stored one."""
    source = {}
    for operator in contents.operators:
        stored = source.get(operator.inputs[0], operator.inputs[0]) if operator.kind in _PASSING else -1
        if stored >= 0 and contents.tensors[stored].values is not None:
            source[operator.outputs[0]] = stored
    return source


def layer_of(contents: Contents, operator: Operator, paths) -> str | None:
    """Names the Keras layer that an operator with a kernel comes from; TF-MOT calls it `quant_` and its name.

    Args:
      contents: of the file.
      operator: one of its operators.
      paths: paths of the layers that have kernels, as in "backbone/conv1".

    Returns:
      One of `paths`; None where the names in the file tell nothing.
    """
    indices = [index for index, (reader, _) in weights_of(contents).items() if reader is operator] + [*operator.outputs]
    parts = [f"/{part}/" for index in indices for part in contents.tensors[index].name.split(";")]
    found = [path for path in paths if any(f"/{name}/" in part for name in (path, f"quant_{path}") for part in parts)]
    return max(found, key=len, default=None)


def zeros_by_layer(contents: Contents, paths) -> dict[str, float]:
    """Layer -> share in [0, 1] of its kernel's numbers that are exactly zero, as stored.

    The converter drops the names of the layer at the output; it is told by being the only one left.

    Args:
      contents: of the file.
      paths: as for `layer_of`.
    """
    named, unnamed = {}, []
    for operator, tensor in weights_of(contents).values():
        path = layer_of(contents, operator, paths)
        named.setdefault(path, []).append(tensor) if path else unnamed.append([tensor])
    left = [path for path in paths if path not in named]
    named |= dict(zip(left, unnamed)) if len(left) == len(unnamed) == 1 else {}
    return {
        path: sum(tensor.num_zeros for tensor in named[path]) / sum(tensor.size for tensor in named[path])
        for path in paths if path in named
    }  # fmt: skip


def share_of_zeros(contents: Contents) -> float:
    """Share in [0, 1] of the kernels' numbers that are exactly zero; 0 without kernels."""
    tensors = [tensor for _, tensor in weights_of(contents).values()]
    return sum(tensor.num_zeros for tensor in tensors) / max(1, sum(tensor.size for tensor in tensors))


def peak_activation_bytes(contents: Contents) -> int:
    """The most memory that computed tensors take at any one time, at batch 1, run in order; no arena can be smaller.

    Inputs are held until the end, as LiteRT does, and so are outputs once they are made. Weights that are unpacked at the
    start are not counted.
    """
    unpacked = _unpacked(contents)
    last_use = {index: step for step, operator in enumerate(contents.operators) for index in operator.inputs}
    last_use |= dict.fromkeys((*contents.inputs, *contents.outputs), len(contents.operators))
    alive = set(contents.inputs)
    peak = _bytes(contents, alive)
    for step, operator in enumerate(contents.operators):
        alive |= {index for index in operator.outputs if index not in unpacked}
        peak = max(peak, _bytes(contents, alive))
        alive = {index for index in alive if last_use.get(index, step) > step}
    return peak


def _bytes(contents, indices) -> int:
    tensors = [contents.tensors[index] for index in indices]
    return sum(tensor.size * np.dtype(tensor.dtype).itemsize for tensor in tensors if tensor.dtype is not None)


def _tensor(model, tensor) -> Tensor:
    dtype = {getattr(_schema()[0].TensorType, name): dtype for name, dtype in _DTYPES.items()}.get(tensor.Type())
    data = model.Buffers(tensor.Buffer()).DataAsNumpy()
    holds = isinstance(data, np.ndarray) and len(data) > 0 and dtype is not None
    shape = tensor.ShapeAsNumpy()
    return Tensor(
        tensor.Name().decode(), tuple(int(length) for length in shape) if isinstance(shape, np.ndarray) else (),
        None if dtype is None else np.dtype(dtype), np.frombuffer(data.tobytes(), dtype) if holds else None,
        tensor.Sparsity() is not None,
    )  # fmt: skip


def _indices(table, name) -> tuple[int, ...]:
    values = getattr(table, f"{name}AsNumpy")()
    return tuple(int(index) for index in values) if isinstance(values, np.ndarray) else ()
