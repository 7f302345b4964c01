"""Zeros stay: masks in any Keras' training, exact zeros afterwards, and the count of what was reached."""

import contextlib

import numpy as np

from tfmetaprune._keras import tf
from tfmetaprune.pruning.rebuild import replace_weights
from tfmetaprune.pruning.sparse.targets import SparsePlan
from tfmetaprune.pruning.sparse.wrapping import planned_kernels


def model_of_masks(model, plan: SparsePlan, masks):
    """Returns a model of the same structure whose weights are 1, or -1 where `masks` has a zero.

    Carried to another Keras it tells which numbers there have to stay zero; weights that a model's class makes anew for itself start
    from other numbers than -1.

    Args:
      model: the sparse tf_keras model; it is not modified.
      plan: of `plan_zeros`.
      masks: (layer path, weight name) -> bool, True where a weight stays.
    """
    result = replace_weights(model, {})
    for variable in result.weights:
        variable.assign(tf.ones_like(variable))
    for kernel in planned_kernels(result, plan):
        kernel.variable.assign(np.where(masks[kernel.key], 1, -1).astype(kernel.variable.dtype.as_numpy_dtype))
    return result


@contextlib.contextmanager
def holding_zeros(model, mask_model):
    """Keeps zeros while somebody trains a model, whatever loop they use.

    An optimizer of Keras applies the constraint of a variable after each update: until the body ends, every masked
    variable has one (behind its own, if any) that sets the masked weights to zero. At the end they are set to zero once
    more, which makes a difference only for what was changed past the optimizer.

    Args:
      model: a model of either Keras; changed in place.
      mask_model: of `model_of_masks`, in the same Keras.
    """
    masks = [np.asarray(mask) != -1 for mask in mask_model.weights]
    held = [(variable, mask) for variable, mask in zip(model.weights, masks, strict=True) if not mask.all()]
    owners = [variable._variable if hasattr(variable, "true_dtype") else variable for variable, _ in held]  # mixed precision
    old = [owner._constraint for owner in owners]
    for owner, (_, mask) in zip(owners, held):
        owner._constraint = _Mask(mask, owner._constraint)
    try:
        yield
    finally:
        for owner, constraint in zip(owners, old):
            owner._constraint = constraint
        model.train_function = None  # compiled with the constraints
        for variable, mask in held:
            value = np.asarray(variable)
            variable.assign(np.where(mask, value, np.zeros_like(value)))


class _Mask:
    """A constraint that sets masked weights to zero, behind another one."""

    def __init__(self, mask, first):
        self.mask, self.first = tf.constant(mask), first

    def __call__(self, value):
        value = tf.convert_to_tensor(value if self.first is None else self.first(value))
        return tf.where(self.mask, value, tf.zeros_like(value))


def sparsity_report(model, plan: SparsePlan, original) -> dict:
    """Counts the zeros, a dict that `json.dumps` accepts.

    Args:
      model: the sparse tf_keras model.
      plan: of `plan_zeros`.
      original: the model before anything was done, a tf_keras model.

    Returns:
      "target" and "reached" (over the kernels that were to become sparse), "layers": {layer path: {"sparsity",
      "weights", "zeros"}}, "dense": {layer path: reason}, "scope", "schedule", and "nonzero_parameters" of the whole model,
      {"before", "after"}.
    """
    layers = {}
    for kernel in planned_kernels(model, plan):
        entry = layers.setdefault(kernel.layer, {"sparsity": 0.0, "weights": 0, "zeros": 0})
        entry["weights"] += kernel.size
        entry["zeros"] += kernel.size - int(np.count_nonzero(kernel.variable.numpy()))
        entry["sparsity"] = entry["zeros"] / entry["weights"]
    totals = [sum(entry[key] for entry in layers.values()) for key in ("zeros", "weights")]
    return {
        "target": plan.method.sparsity, "reached": totals[0] / totals[1], "scope": plan.method.scope,
        "schedule": plan.method.schedule, "layers": layers, "dense": dict(plan.dense),
        "nonzero_parameters": {"before": _nonzero(original), "after": _nonzero(model)},
    }  # fmt: skip


def _nonzero(model) -> int:
    return sum(int(np.count_nonzero(weight)) for weight in model.get_weights())
