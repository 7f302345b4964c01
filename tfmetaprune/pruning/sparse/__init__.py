"""Zeros in place of weights: kernels -> targets -> TF-MOT's wrappers -> masks that stay."""

from tfmetaprune.pruning.sparse.keeping import holding_zeros, model_of_masks, sparsity_report
from tfmetaprune.pruning.sparse.kernels import Kernel, find_kernels, kernel_units
from tfmetaprune.pruning.sparse.method import ONE_SHOT, SparseMethod, sparse_method
from tfmetaprune.pruning.sparse.steps import SparseSteps
from tfmetaprune.pruning.sparse.targets import FLOOR, KernelTarget, SparsePlan, plan_zeros
from tfmetaprune.pruning.sparse.wrapping import (
    PrunableKernel,
    SparseTraining,
    planned_kernels,
    pruning_schedule,
    zero_out,
)

__all__ = [
    "FLOOR", "ONE_SHOT", "Kernel", "KernelTarget", "PrunableKernel", "SparseMethod", "SparsePlan", "SparseSteps", "SparseTraining",
    "find_kernels", "holding_zeros", "kernel_units", "model_of_masks", "plan_zeros", "planned_kernels", "pruning_schedule", "sparse_method",
    "sparsity_report", "zero_out",
]  # fmt: skip
