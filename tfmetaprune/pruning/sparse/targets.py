"""How many weights each kernel keeps: the counts that one magnitude threshold over all layers realises, or equal shares."""

import dataclasses
import json

import numpy as np

from tfmetaprune.errors import NothingToPruneError
from tfmetaprune.pruning.sparse.kernels import Kernel, find_kernels, kernel_units
from tfmetaprune.pruning.sparse.method import SparseMethod
from tfmetaprune.trace import trace_model

FLOOR = 0.1  # every kernel keeps this share of what it would keep if all were equally sparse, and one block in any case


@dataclasses.dataclass(frozen=True)
class KernelTarget:
    """What is to become of one kernel.

    Attributes:
      layer, weight: whose it is.
      num_blocks: of how many blocks (single weights, without a block shape) it consists.
      num_kept: how many of them stay.
    """

    layer: str
    weight: str
    num_blocks: int
    num_kept: int

    @property
    def key(self) -> tuple[str, str]:
        """(layer path, weight name)."""
        return self.layer, self.weight

    @property
    def sparsity(self) -> float:
        """The share of the kernel that becomes zero."""
        return 1 - self.num_kept / self.num_blocks


@dataclasses.dataclass(frozen=True)
class SparsePlan:
    """Which kernels of a model become sparse, and how much.

    Attributes:
      method: what was asked for.
      targets: one for each kernel.
      dense: layer path -> why it, or a kernel of it, stays dense.
    """

    method: SparseMethod
    targets: tuple[KernelTarget, ...]
    dense: dict[str, str]

    def to_json(self) -> str:
        """Returns the plan as JSON text."""
        return json.dumps(dataclasses.asdict(self))


def plan_zeros(model, method: SparseMethod, score: np.ndarray | None = None) -> SparsePlan:
    """Tells how many weights of each kernel stay.

    With scope "global" the blocks (single weights) of all kernels are ranked together by their mean magnitude, L1, and the
    largest stay; what that leaves of each kernel is its target. No kernel is emptied, see `FLOOR`.

    Args:
      model: a functional or Sequential tf_keras model; it is not modified.
      method: the method.
      score: float [num_units], a metanetwork's; with scope "global" a kernel's magnitudes are multiplied by the exponential of the
        mean over the units that it makes.

    Raises:
      NothingToPruneError: the method has no kernel to zero.
      UnsupportedModelError: the model cannot be traced, or XNNPACK's policy refuses it.
    """
    trace, allowed = trace_model(model), None
    if method.only_xnnpack:
        from tfmetaprune.pruning.sparse.xnnpack import check_policy  # needs TF-MOT

        allowed = check_policy(trace)
    kernels, dense = find_kernels(trace, method, allowed)
    if not kernels:
        reasons = "; ".join(f"{layer!r}: {reason}" for layer, reason in dense.items())
        raise NothingToPruneError(
            f"Model {model.name!r}: expected kernels that method={method.name!r} can zero, got none ({reasons[:300]}). "
            f"Use method='unstructured', or register a LayerSpec for the kinds named."
        )
    scores = [block_scores(kernel, method) for kernel in kernels]
    if score is not None:
        shifts = [score[units].mean() if len(units) else 0.0 for units in (kernel_units(trace, kernel) for kernel in kernels)]
        scores = [one * np.exp(shift) for one, shift in zip(scores, shifts)]
    kept = _global_counts(scores, method.sparsity) if method.scope == "global" else [
        max(1, round((1 - method.sparsity) * len(one))) for one in scores
    ]  # fmt: skip
    targets = tuple(
        KernelTarget(*kernel.key, len(one), count) for kernel, one, count in zip(kernels, scores, kept, strict=True)
    )
    return SparsePlan(method, targets, dense)


def block_scores(kernel: Kernel, method: SparseMethod, value: np.ndarray | None = None) -> np.ndarray:
    """Returns the mean magnitude of every block of a kernel, float [num_blocks]; of every weight without a block shape.

    Args:
      kernel: the kernel.
      method: the method.
      value: what to take in place of the kernel's weights, of their shape.
    """
    matrix = np.abs(kernel.to_matrix(kernel.variable.numpy() if value is None else value))
    outputs, inputs = method.block_shape
    if (outputs, inputs) == (1, 1):
        return matrix.reshape(-1)
    rows, columns = matrix.shape
    return matrix.reshape(rows // inputs, inputs, columns // outputs, outputs).mean((1, 3)).reshape(-1)


def _global_counts(scores, sparsity) -> list[int]:
    """How many blocks of each kernel one threshold over all of them leaves."""
    sizes = np.array([len(one) for one in scores])
    floors = np.maximum(1, np.floor(FLOOR * (1 - sparsity) * sizes)).astype(np.int64)
    left = round((1 - sparsity) * int(sizes.sum())) - int(floors.sum())
    if left <= 0:
        return floors.tolist()
    rest = [np.partition(one, len(one) - floor)[: len(one) - floor] for one, floor in zip(scores, floors)]
    owners = np.repeat(np.arange(len(rest)), [len(one) for one in rest])
    chosen = np.argpartition(-np.concatenate(rest), left - 1)[:left]
    return (floors + np.bincount(owners[chosen], minlength=len(rest))).tolist()
