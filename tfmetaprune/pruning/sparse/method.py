"""What is asked for: the method's name and its options, checked and put into one `SparseMethod`."""

import dataclasses
import math
import numbers
import re

from tfmetaprune.errors import ArgumentError

ONE_SHOT = "one_shot"
SCHEDULES = ("polynomial", "constant", ONE_SHOT)
SCOPES = ("global", "layer")
DEFAULT_SPARSITY, DEFAULT_BLOCK_SHAPE = 0.8, (1, 4)
_NAMED = ("structured", "unstructured", "block", "structured+unstructured", "xnnpack")
_N_OF_M = re.compile(r"(\d+):(\d+)")


@dataclasses.dataclass(frozen=True)
class SparseMethod:
    """A way to zero weights.

    Attributes:
      name: "unstructured", "2:4" or the like, "block", "structured+unstructured", "xnnpack".
      sparsity: share in [0, 1) of the weights that become zero.
      scope: "global" (one magnitude threshold over all layers) or "layer" (the same sparsity in each).
      schedule: "polynomial", "constant" or "one_shot".
      n_of_m: (N, M) where N of every M weights in a row along the input axis may stay; else None.
      block_shape: (outputs, inputs) of the blocks that become zero together; (1, 1) for single weights.
    """

    name: str
    sparsity: float
    scope: str = "global"
    schedule: str = "polynomial"
    n_of_m: tuple[int, int] | None = None
    block_shape: tuple[int, int] = (1, 1)

    @property
    def is_structured(self) -> bool:
        """Whether channels go first."""
        return self.name.startswith("structured")

    @property
    def only_xnnpack(self) -> bool:
        """Whether only those layers are zeroed that XNNPACK's sparse inference runs."""
        return self.name == "xnnpack"


def sparse_method(
    method, *, sparsity=None, block_shape=DEFAULT_BLOCK_SHAPE, scope="global", schedule="polynomial"
) -> SparseMethod | None:
    """Reads the arguments of `prune` that are about zeros.

    Args:
      method: "structured", "unstructured", "N:M", "block", "structured+unstructured" or "xnnpack".
      sparsity: share in [0, 1); None for 0.8, or what N:M makes.
      block_shape: (outputs, inputs), for "block".
      scope: "global" or "layer".
      schedule: "polynomial", "constant" or "one_shot".

    Returns:
      The method; None for "structured", which zeroes nothing.

    Raises:
      ArgumentError: an argument has a value that cannot be used, or that the method has no use for.

    Example:
      >>> sparse_method("2:4").sparsity, sparse_method("unstructured").sparsity, sparse_method("structured")
      (0.5, 0.8, None)
    """
    n_of_m = _N_OF_M.fullmatch(method) if isinstance(method, str) else None
    if n_of_m is None and method not in _NAMED:
        raise ArgumentError(
            f"prune: expected method to be one of {', '.join(_NAMED)} or N:M, got {method!r}. "
            f"Use 'structured' to remove channels, 'unstructured' or '2:4' to zero single weights."
        )
    if scope not in SCOPES:
        raise ArgumentError(f"prune: expected scope to be one of {', '.join(SCOPES)}, got {scope!r}. Use 'global'.")
    if schedule not in SCHEDULES:
        raise ArgumentError(
            f"prune: expected schedule to be one of {', '.join(SCHEDULES)}, got {schedule!r}. Use 'polynomial'."
        )
    shape = tuple(block_shape) if isinstance(block_shape, list) else block_shape
    unused = {} if method == "block" else {"block_shape": (shape, DEFAULT_BLOCK_SHAPE)}
    unused |= {"scope": (scope, "global"), "schedule": (schedule, "polynomial")} if method == "structured" else {}
    for name, (value, default) in unused.items():
        if value != default:
            raise ArgumentError(f"prune: expected no {name} with method={method!r}, got {value!r}. Leave it out.")
    if sparsity is not None and (n_of_m is not None or method == "structured"):
        raise ArgumentError(
            f"prune: expected no sparsity with method={method!r}, got {sparsity!r}. "
            + ("Use speedup." if method == "structured" else "N:M tells it: N of every M weights stay.")
        )
    if n_of_m is not None:
        count, length = map(int, n_of_m.groups())
        if not 1 <= count < length:
            raise ArgumentError(
                f"prune: expected N of M weights to stay, 1 <= N < M, got {method!r}. Use '2:4' or '1:4', say."
            )
        return SparseMethod(method, 1 - count / length, "layer", ONE_SHOT, (count, length))
    if method == "structured":
        return None
    sparsity = DEFAULT_SPARSITY if sparsity is None else sparsity
    is_number = isinstance(sparsity, numbers.Real) and not isinstance(sparsity, bool) and math.isfinite(sparsity)
    if not is_number or not 0 <= sparsity < 1:
        raise ArgumentError(f"prune: expected sparsity to be a share in [0, 1), got {sparsity!r}. Try 0.8.")
    shape = _block_shape(block_shape) if method == "block" else (1, 1)
    return SparseMethod(method, float(sparsity), scope, schedule, None, shape)


def _block_shape(shape) -> tuple[int, int]:
    is_pair = isinstance(shape, (tuple, list)) and len(shape) == 2
    if not is_pair or not all(isinstance(one, numbers.Integral) and not isinstance(one, bool) and one > 0 for one in shape):
        raise ArgumentError(
            f"prune: expected block_shape to be two numbers >= 1, outputs and inputs, got {shape!r}. Use (1, 4)."
        )
    if tuple(shape) == (1, 1):
        raise ArgumentError(
            "prune: expected block_shape of more than one weight, got (1, 1). Use method='unstructured' for single weights."
        )
    return int(shape[0]), int(shape[1])
