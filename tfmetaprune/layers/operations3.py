"""Keras 3 operations on Keras tensors: `x + y`, `keras.ops.reshape(x, ...)`, `x[..., :4]` in a functional model.

A `CarriedOperation` (see `interop.py`) holds the operation. Imported only where Keras 3 is in use: this imports it.
"""

import functools
import inspect

import keras
from keras.src.ops import core, image, linalg, math, nn, numpy

from tfmetaprune.layers import operation_axes as axes
from tfmetaprune.layers import operation_moves as moves
from tfmetaprune.layers import operation_rules as rules
from tfmetaprune.layers.operations import OperationSpec
from tfmetaprune.layers.spec import register

_MODULES = (numpy, nn, core, math, image, linalg)
_PROTOTYPE = "carried_object"  # config key: the operation to copy, where it has no config of its own

_NUMBER_BY_NUMBER = """
    Abs Absolute Add Angle Arccos Arccosh Arcsin Arcsinh Arctan Arctan2 Arctanh Array BitwiseAnd BitwiseInvert
    BitwiseLeftShift BitwiseNot BitwiseOr BitwiseRightShift BitwiseXor Cast Cbrt Ceil Celu Clip Conj Conjugate
    ConvertToTensor Copy Cos Cosh Deg2rad Divide DivideNoNan Elu EmptyLike Equal Erf Erfc Erfinv Exp Exp2 Expm1 Fabs
    Floor FloorDivide Fmax Fmin Fmod FullLike Gcd Gelu Greater GreaterEqual HardShrink HardSigmoid HardSilu HardTanh
    Heaviside Hypot I0 Imag IsIn Isclose Isfinite Isinf Isnan Isneginf Isposinf Isreal Lcm Ldexp LeakyRelu LeftShift
    Less LessEqual Log Log10 Log1p Log2 LogSigmoid Logaddexp Logaddexp2 LogicalAnd LogicalNot LogicalOr LogicalXor
    Maximum Minimum Mod Multiply NanToNum Negative Nextafter NotEqual OnesLike Polar Power Rad2deg Real Reciprocal Relu
    Relu6 RightShift Round Rsqrt SaturateCast Selu Sigmoid Sign Signbit Silu Sin Sinc Sinh SoftShrink Softplus Softsign
    SparsePlus SparseSigmoid Sqrt Square Squareplus StopGradient Subtract Tan Tanh TanhShrink Threshold TrueDivide Trunc
    ZerosLike
""".split()  # fmt: skip
_REDUCTIONS = """
    All Amax Amin Any Argmax Argmin CountNonzero Logsumexp Max Mean Median Min Moments Nanargmax Nanargmin Nanmax Nanmean
    Nanmedian Nanmin Nanprod Nanstd Nanvar Norm Prod Ptp Std Var
""".split()  # fmt: skip
_MIXING = """
    Argsort Cumprod Cumsum Diff Glu LogSoftmax Nancumprod Nancumsum Normalize Roll Softmax Sort Sparsemax
""".split()  # fmt: skip
_MOVES = """
    ExpandDims Flip Moveaxis Ravel SpaceToDepth Squeeze Swapaxes Tile Transpose
""".split()  # fmt: skip
_SPATIAL = "AdaptiveAveragePool AdaptiveMaxPool AveragePool CropImages MaxPool PadImages Resize".split()

RULES: dict[str, rules.Rule] = {
    **dict.fromkeys(_NUMBER_BY_NUMBER, rules.Numbers()),
    **dict.fromkeys(_REDUCTIONS, axes.Reduce()),
    **dict.fromkeys(_MIXING, axes.Mixing()),
    **dict.fromkeys(_MOVES, moves.Move()),
    **dict.fromkeys(_SPATIAL, axes.Spatial()),
    **dict.fromkeys(("Sum", "Nansum"), axes.Reduce(total=True)),
    **dict.fromkeys(("Tril", "Triu"), axes.Mixing(axis=(), default=(-2, -1))),
    "TopK": axes.Mixing(axis=(), default=-1),
    "Where": rules.Where(),
    "Concatenate": moves.Join(),
    "Stack": axes.Stack(),
    "Unstack": axes.Reduce(default=0),
    "DepthToSpace": moves.Stay("it moves channels to positions"),
    "Split": moves.Split("indices_or_sections", cuts=True),
    "ArraySplit": moves.Split("indices_or_sections", cuts=True),
    "Reshape": moves.Reshape("newshape"),
    "BroadcastTo": moves.Reshape("shape"),
    "Repeat": moves.Repeat(),
    "Take": moves.Gather("x", flatten=True),
    "Slice": moves.Slice("inputs", "start_indices", "shape"),
    "GetItem": moves.GetItem("x", "key"),
    "OneHot": axes.OneHot(),
    "Pad": axes.Pad(),
    "Matmul": axes.Matmul("x1", "x2"),
    "Tensordot": axes.Tensordot("x1", "x2"),
    "Einsum": axes.Einsum(),
}


@functools.cache
def _parameters(kind) -> tuple[tuple[str, ...], str | None, tuple[str, ...]]:
    """Parameters of an operation's call, the one that takes any number of arguments, and those of its constructor."""
    parameters = list(inspect.signature(kind.call).parameters.values())[1:]
    rest = next((one.name for one in parameters if one.kind is one.VAR_POSITIONAL), None)
    named = tuple(one.name for one in parameters if one.kind is one.POSITIONAL_OR_KEYWORD)
    made = tuple(name for name in inspect.signature(kind.__init__).parameters if name not in ("self", "name"))
    return named, rest, made


_KINDS = tuple(
    kind for module in _MODULES for name, kind in sorted(vars(module).items())
    if inspect.isclass(kind) and issubclass(kind, keras.Operation) and kind.__module__ == module.__name__
)  # fmt: skip


@register(*_KINDS)
class Keras3OperationSpec(OperationSpec):
    """An operation of Keras 3; its arguments are those of the call and those of its constructor."""

    def rule(self, layer):
        return next((RULES[kind.__name__] for kind in layer.carried_kind.__mro__ if kind.__name__ in RULES), None)

    def operation(self, call):
        named, rest, made = _parameters(call.layer.carried_kind)
        carried = call.layer.carried
        return rules.Operation.of(call, named, rest, {name: getattr(carried, name, None) for name in made})

    def title(self, layer):
        return f"keras.ops {layer.carried_kind.__name__}"

    def narrow(self, config, narrowing):
        def apply(op, changes):
            changed = {name: value for name, value in changes.items() if name not in op.slots}
            if changed and _PROTOTYPE in config:
                prototype = object.__new__(type(config[_PROTOTYPE]))
                prototype.__dict__.update(config[_PROTOTYPE].__dict__ | changed)
                return {**config, _PROTOTYPE: prototype}
            return {**config, **changed}

        return self._changed(narrowing, apply, config)
