"""The ways to repair a pruned model, by name."""

from collections.abc import Mapping

from tfmetaprune.errors import ArgumentError
from tfmetaprune.pruning.data_free import fold_averages
from tfmetaprune.pruning.least_squares import Fitted, fit_least_squares
from tfmetaprune.pruning.plan import PruningPlan
from tfmetaprune.pruning.rebuild import rebuild_model
from tfmetaprune.pruning.repair import reestimate_bn
from tfmetaprune.trace import ModelTrace

REPAIRS = ("default", "least_squares", "bn", "data_free")
NEEDING_DATA = ("least_squares", "bn")


def repair_model(
    trace: ModelTrace, plan: PruningPlan, small, dataset, method: str, *, weights: Mapping | None = None, seed: int = 0
):
    """Repairs what a plan leaves of a model.

    Args:
      trace: the original.
      plan: which channels remain.
      small: of `rebuild_model`, not repaired; it is not modified.
      dataset: batches of inputs, or of (inputs, labels, ...); None for a method that needs none.
      method: one of `REPAIRS`; "default" is "least_squares", and "data_free" where there are no data.
      weights: the metanetwork's weights, as for `rebuild_model`. Least squares does not use them: it starts from the
        original's, which was measured to be as good.
      seed: of everything random.

    Returns:
      The repaired model, and what was done as a dict that `json.dumps` accepts.

    Raises:
      ArgumentError: there is no such method.
      DataError: the data do not fit the model.
    """
    check_repair(method)
    if method == "default":
        method = "data_free" if dataset is None else "least_squares"
    if method == "bn":
        return reestimate_bn(small, dataset), {"method": method}
    if method == "least_squares":
        fitted = fit_least_squares(trace, plan.keep, dataset, seed=seed)
        return rebuild_model(trace, plan, fitted.weights), _describe(method, fitted)
    fitted = fold_averages(trace, plan.keep, weights=weights, seed=seed)
    return rebuild_model(trace, plan, fitted.weights), _describe(method, fitted)


def check_repair(method):
    """Raises ArgumentError unless there is a repair of that name."""
    if method not in REPAIRS:
        raise ArgumentError(f"Repair: expected one of {', '.join(REPAIRS)}, got {method!r}. Use 'default'.")


def _describe(method, fitted: Fitted) -> dict:
    return {
        "method": method, "samples": fitted.num_samples, "layers": len(fitted.solved), "left_alone": list(fitted.left_alone)
    }  # fmt: skip
