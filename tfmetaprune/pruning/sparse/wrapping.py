"""TF-MOT's pruning wrappers around the kernels of a model.

TF-MOT wraps layers, and refuses many kinds: everything with several inputs, a mask or a cell of its own, nested models,
wrappers, operators, and of the rest it knows one axis order and one sparsity a layer. Here its wrapper,
`PruneLowMagnitude`, gets one `PrunableKernel` each: a layer that does nothing and names one kernel of the model as its
prunable weight, as a matrix of TF-MOT's axis order. In every training step, before the model runs, the wrappers
update their masks by their schedule and set the masked weights to zero, as they do around a layer; the model itself stays as it is.
"""

import numpy as np

from tfmetaprune._keras import keras, tf, tfmot
from tfmetaprune.pruning.rebuild import replace_weights
from tfmetaprune.pruning.sparse.kernels import Kernel, find_kernels
from tfmetaprune.pruning.sparse.method import ONE_SHOT, SparseMethod
from tfmetaprune.pruning.sparse.targets import KernelTarget, SparsePlan, block_scores
from tfmetaprune.trace import trace_model

_NUM_UPDATES = 50  # of the masks, at most, in one training
_SHARE = 2 / 3  # of the steps; in the rest the masks stay as they are


class _MatrixView:
    """A kernel's variable as TF-MOT uses variables, in the shape of a matrix."""

    def __init__(self, kernel: Kernel):
        self._kernel, self._variable = kernel, kernel.variable
        self.shape = tf.TensorShape(kernel.matrix_shape)
        self.dtype, self.name, self.handle = self._variable.dtype, self._variable.name, self._variable.handle

    def get_shape(self):
        return self.shape

    def __tf_tensor__(self, dtype=None, name=None):
        value = self._kernel.to_matrix(tf.convert_to_tensor(self._variable))
        return value if dtype is None else tf.cast(value, dtype)

    def assign(self, value, name=None):
        return self._variable.assign(self._kernel.from_matrix(value))


class PrunableKernel(keras.layers.Layer):
    """A layer that passes on what it gets and, as a `tfmot.sparsity.keras.PrunableLayer`, names a kernel to prune."""

    def __init__(self, kernel: Kernel):
        super().__init__(name=f"{kernel.layer}_{kernel.weight}".replace("/", "_").replace(".", "_"), dtype="float32")
        self._self_setattr_tracking = False  # the kernel belongs to the model
        self.view = _MatrixView(kernel)

    def get_prunable_weights(self):
        """Returns what TF-MOT's wrapper masks."""
        return [self.view]

    def call(self, inputs):
        return inputs


class WrappedModel:
    """Mixin of a functional model in front of which TF-MOT's wrappers run, set as `wrappers`."""

    def call(self, inputs, training=None, mask=None):
        for wrapper in self.wrappers:
            wrapper(tf.zeros([1]), training=training)
        return super().call(inputs, training=training, mask=mask)


class SparseTraining:
    """Trains with TF-MOT's wrappers: makes ready what `finetune_model` needs, and tells the masks that came of it.

    Args:
      model: the tf_keras model that is trained in place.
      plan: of `plan_zeros`, for this model.
      masks: of `zero_out`: they stay as they are; None to find them while training.
      schedule: of `pruning_schedule`, the method's if None.
    """

    def __init__(self, model, plan: SparsePlan, masks=None, schedule=None):
        self.method, self.targets, self.masks = plan.method, {target.key: target for target in plan.targets}, masks
        self.schedule = ONE_SHOT if masks is not None else schedule or plan.method.schedule
        self.kernels = planned_kernels(model, plan)
        self.wrappers = []

    def __call__(self, num_steps: int):
        """Returns the mixin of the trained model, its attributes and the callbacks it needs.

        Args:
          num_steps: how many steps the training has in all.
        """
        self.wrappers = [
            _wrap(kernel, self.method, pruning_schedule(self.schedule, self.targets[kernel.key].sparsity, num_steps))
            for kernel in self.kernels
        ]
        if self.masks is not None:
            for kernel, wrapper in zip(self.kernels, self.wrappers):
                _set_mask(wrapper, kernel, self.masks[kernel.key])
                wrapper.pruning_step.assign(1)  # past the one step in which it would look for a mask
        return WrappedModel, {"wrappers": self.wrappers}, (tfmot().sparsity.keras.UpdatePruningStep(),)

    def finish(self) -> dict[tuple[str, str], np.ndarray]:
        """Sets what the wrappers mask to zero, and nothing else; returns the masks, exactly as many as were planned."""
        masks = {}
        for kernel, wrapper in zip(self.kernels, self.wrappers, strict=True):
            value = kernel.variable.numpy()
            mask = _exact(kernel, _mask(wrapper, kernel), value, self.targets[kernel.key], self.method)
            kernel.variable.assign(np.where(mask, value, 0).astype(value.dtype))
            masks[kernel.key] = mask
        return masks


def zero_out(model, plan: SparsePlan) -> tuple[keras.Model, dict[tuple[str, str], np.ndarray]]:
    """Zeroes the smallest weights at once, by one step of TF-MOT's wrappers without data.

    Args:
      model: a functional or Sequential tf_keras model; it is not modified.
      plan: of `plan_zeros`, for this model.

    Returns:
      A new model with the zeros, and the masks: (layer path, weight name) -> bool, True where a weight stays.
    """
    model = replace_weights(model, {})
    training = SparseTraining(model, plan, schedule=ONE_SHOT)
    training(1)
    for wrapper in training.wrappers:
        wrapper.pruning_step.assign(0)
        wrapper(tf.zeros([1]), training=True)
    return model, training.finish()


def planned_kernels(model, plan: SparsePlan) -> list[Kernel]:
    """Returns the kernels of a model that a plan names, in the plan's order."""
    kernels = {kernel.key: kernel for kernel in find_kernels(trace_model(model), plan.method)[0]}
    return [kernels[target.key] for target in plan.targets]


def pruning_schedule(name: str, sparsity: float, num_steps: int):
    """Makes TF-MOT's schedule, so that it reaches its sparsity however few the steps are.

    The masks are chosen again at most 50 times, the first time in the first step, the last time after about two thirds
    of the steps.

    Args:
      name: "polynomial" (from 0, by TF-MOT's `PolynomialDecay`), "constant" or "one_shot" (chosen once, in the first step).
      sparsity: share in [0, 1) at the end.
      num_steps: of the training.
    """
    schedules = tfmot().sparsity.keras
    last = 1 if name == ONE_SHOT else max(1, round(_SHARE * num_steps))
    frequency = max(1, (last - 1) // _NUM_UPDATES)
    last = 1 + (last - 1) // frequency * frequency
    if name == "polynomial" and last > 1:
        return schedules.PolynomialDecay(0.0, sparsity, begin_step=1, end_step=last, frequency=frequency)
    return schedules.ConstantSparsity(sparsity, begin_step=1, end_step=last, frequency=frequency)


def _wrap(kernel, method: SparseMethod, schedule):
    """TF-MOT's own wrapper around one kernel."""
    options = {}
    if method.n_of_m is not None and kernel.num_inputs > 1:
        count, length = method.n_of_m
        options["sparsity_m_by_n"] = (length - count, length)  # TF-MOT counts the zeros
    outputs, inputs = method.block_shape
    wrapper = tfmot().sparsity.keras.prune_low_magnitude(
        PrunableKernel(kernel), pruning_schedule=schedule, block_size=(inputs, outputs), dtype="float32", **options
    )
    wrapper.build([1])
    return wrapper


def _mask(wrapper, kernel) -> np.ndarray:
    """A wrapper's mask, bool in the kernel's shape."""
    return kernel.from_matrix(wrapper.pruning_vars[0][1].numpy() != 0)


def _set_mask(wrapper, kernel, mask):
    variable = wrapper.pruning_vars[0][1]
    variable.assign(kernel.to_matrix(mask).astype(variable.dtype.as_numpy_dtype))


def _exact(kernel, mask, value, target: KernelTarget, method: SparseMethod) -> np.ndarray:
    """The mask, with as many blocks as planned: TF-MOT keeps all weights that tie with its threshold, zeros above all."""
    if method.n_of_m is not None:
        return mask
    kept = block_scores(kernel, method, mask.astype(np.float64)) > 0
    excess = int(np.count_nonzero(kept)) - target.num_kept
    if excess <= 0:
        return mask
    scores = np.where(kept, block_scores(kernel, method, value), np.inf)
    kept[np.argsort(scores, kind="stable")[:excess]] = False
    outputs, inputs = method.block_shape
    rows, columns = kernel.matrix_shape
    kept = kept.reshape(rows // inputs, columns // outputs)
    return kernel.from_matrix(kept.repeat(inputs, 0).repeat(outputs, 1))
