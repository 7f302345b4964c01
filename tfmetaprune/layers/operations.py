"""TensorFlow functions on Keras tensors: `x + y`, `tf.reshape(x, ...)`, `x[..., :4]`, `tf.nn.relu(x)` in a functional model.

tf_keras wraps each into a layer that holds the function. `RULES` maps the function's public name (without "compat.v1.")
to what it does with channels; a function that is not there freezes the channels it touches.
"""

import abc
import functools
import inspect

from tfmetaprune._keras import keras
from tfmetaprune.layers import operation_axes as axes
from tfmetaprune.layers import operation_moves as moves
from tfmetaprune.layers import operation_rules as rules
from tfmetaprune.layers.spec import Axes, Frozen, LayerSpec, register

_NUMBER_BY_NUMBER = """
    __operators__.add __operators__.eq __operators__.ne add_n bitwise.bitwise_and bitwise.bitwise_or bitwise.bitwise_xor
    bitwise.invert cast clip_by_value complex debugging.check_numerics floor_div identity math.abs
    math.acos math.acosh math.add math.add_n math.angle math.asin math.asinh math.atan math.atan2 math.atanh
    math.bessel_i0 math.bessel_i0e math.bessel_i1 math.bessel_i1e math.ceil math.conj math.cos math.cosh math.digamma
    math.divide math.divide_no_nan math.equal math.erf math.erfc math.erfinv math.exp math.expm1 math.floor
    math.floordiv math.floormod math.greater math.greater_equal math.imag math.is_finite math.is_inf math.is_nan
    math.less math.less_equal math.lgamma math.log math.log1p math.log_sigmoid math.logical_and math.logical_not
    math.logical_or math.logical_xor math.maximum math.minimum math.mod math.multiply math.multiply_no_nan math.ndtri
    math.negative math.nextafter math.not_equal math.pow math.real math.reciprocal math.reciprocal_no_nan math.rint
    math.round math.rsqrt math.scalar_mul math.sigmoid math.sign math.sin math.sinh math.softplus math.sqrt math.square
    math.squared_difference math.subtract math.tan math.tanh math.truediv math.xdivy math.xlog1py math.xlogy nn.elu
    nn.gelu nn.leaky_relu nn.relu nn.relu6 nn.selu nn.silu nn.softsign ones_like realdiv saturate_cast
    sigmoid stop_gradient truncatediv truncatemod zeros_like nn.softplus nn.tanh nn.sigmoid nn.swish tanh abs
    grad_pass_through guarantee_const
""".split()  # fmt: skip
_REDUCTIONS = """
    math.reduce_all math.reduce_any math.reduce_euclidean_norm math.reduce_logsumexp math.reduce_max math.reduce_mean
    math.reduce_min math.reduce_prod math.reduce_std math.reduce_variance math.count_nonzero norm reduce_all reduce_any
    reduce_logsumexp reduce_max reduce_mean reduce_min reduce_prod
""".split()  # fmt: skip
_SPATIAL = """
    image.central_crop image.crop_to_bounding_box image.flip_left_right image.flip_up_down image.pad_to_bounding_box
    image.resize image.resize_bilinear image.resize_bicubic image.resize_area image.resize_nearest_neighbor
    image.resize_images image.resize_with_crop_or_pad image.resize_with_pad image.rot90 image.transpose nn.avg_pool
    nn.avg_pool1d nn.avg_pool2d nn.avg_pool3d nn.max_pool nn.max_pool1d nn.max_pool2d nn.max_pool3d nn.pool
""".split()  # fmt: skip
_AXIS = ("axis", "dim", "dimension", "reduction_indices")
_LAST = axes.Mixing(axis=_AXIS, default=-1)

RULES: dict[str, rules.Rule] = {
    **dict.fromkeys(_NUMBER_BY_NUMBER, rules.Numbers()),
    **dict.fromkeys(_REDUCTIONS, axes.Reduce(axis=_AXIS)),
    **dict.fromkeys(("math.reduce_sum", "reduce_sum"), axes.Reduce(axis=_AXIS, total=True)),
    **dict.fromkeys(_SPATIAL, axes.Spatial()),
    **dict.fromkeys(("math.argmax", "math.argmin"), axes.Reduce(axis=_AXIS, default=0)),
    **dict.fromkeys(("nn.softmax", "nn.log_softmax", "math.softmax", "argsort", "sort", "math.cumulative_logsumexp"), _LAST),
    **dict.fromkeys(("math.top_k", "nn.local_response_normalization"), axes.Mixing(axis=(), default=-1)),
    **dict.fromkeys(("math.cumsum", "math.cumprod"), axes.Mixing(axis=_AXIS, default=0)),
    **dict.fromkeys(("math.l2_normalize", "roll", "reverse_sequence"), axes.Mixing(axis=(*_AXIS, "seq_axis"))),
    **dict.fromkeys(("linalg.band_part", "linalg.set_diag"), axes.Mixing(axis=(), default=(-2, -1))),
    **dict.fromkeys(
        ("transpose", "linalg.matrix_transpose", "squeeze", "expand_dims", "reverse", "tile", "nn.space_to_depth",
         "space_to_depth"), moves.Move(),
    ),
    **dict.fromkeys(("nn.depth_to_space", "depth_to_space"), moves.Stay("it moves channels to positions")),
    **dict.fromkeys(("reshape", "broadcast_to"), moves.Reshape("shape")),
    "ensure_shape": rules.EnsureShape(),
    "where": rules.Where(),
    "shape": rules.Shape(),
    "concat": moves.Join(),
    "stack": axes.Stack(),
    "unstack": axes.Reduce(axis=_AXIS, default=0),
    "split": moves.Split(),
    "repeat": moves.Repeat(),
    "gather": moves.Gather(),
    "slice": moves.Slice(),
    "__operators__.getitem": moves.GetItem(),
    "one_hot": axes.OneHot(),
    "pad": axes.Pad(),
    "linalg.matmul": axes.Matmul(),
    "tensordot": axes.Tensordot(),
    "einsum": axes.Einsum(),
    "nn.bias_add": axes.BiasAdd(),
}  # fmt: skip


@functools.cache
def _parameters(function) -> tuple[tuple[str, ...], str | None]:
    """The parameters of a function in order, and the one that takes any number of arguments."""
    parameters = inspect.signature(function).parameters.values()
    rest = next((one.name for one in parameters if one.kind is one.VAR_POSITIONAL), None)
    return tuple(one.name for one in parameters if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)), rest


class OperationSpec(LayerSpec):
    """A function without weights; a `Rule` knows what it does."""

    @abc.abstractmethod
    def rule(self, layer) -> rules.Rule | None:
        """Returns the rule for what the layer computes; None if nothing is known about it."""

    @abc.abstractmethod
    def operation(self, call) -> rules.Operation:
        """Names the arguments of a call."""

    @abc.abstractmethod
    def title(self, layer) -> str:
        """Names the function."""

    def flow(self, call):
        rule = self.rule(call.layer)
        if rule is None:
            return Frozen(f"no rule for the operation {self.title(call.layer)}")
        return rule.flow(self.operation(call))

    def narrow_call(self, args, kwargs, narrowing):
        return self._changed(narrowing, lambda op, changes: op.replaced(changes), (args, kwargs))

    def products(self, call):
        flow = self.flow(call)
        if not isinstance(flow, Axes) or not flow.sums:
            return ()
        return (tuple(dict.fromkeys(flow.pattern.replace("->", " ").replace(",", " ").split())),)

    def _changed(self, narrowing, apply, unchanged):
        """What `apply(operation, changed arguments)` makes; `unchanged` where nothing is known about the function."""
        rule, op = self.rule(narrowing.call.layer), self.operation(narrowing.call)
        if rule is None or isinstance(rule.flow(op), Frozen):
            return unchanged
        return apply(op, rule.narrow(op, narrowing))


@register(keras.src.layers.core.tf_op_layer.TFOpLambda, keras.src.layers.core.tf_op_layer.SlicingOpLambda)
class TFOperationSpec(OperationSpec):
    """A TensorFlow function on Keras tensors."""

    def rule(self, layer):
        return RULES.get((layer.symbol or "").removeprefix("compat.v1."))

    def operation(self, call):
        return rules.Operation.of(call, *_parameters(call.layer.function), {})

    def title(self, layer):
        return f"tf.{layer.symbol}" if layer.symbol else layer.name
