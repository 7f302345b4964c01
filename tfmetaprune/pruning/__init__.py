"""Structured pruning: dependency groups -> importance -> plan -> smaller model -> repaired model."""

from tfmetaprune.pruning.cost import Cost, MacTerm, cost, mac_terms, total_macs
from tfmetaprune.pruning.data_free import fold_averages
from tfmetaprune.pruning.groups import ChannelGroup, channel_groups
from tfmetaprune.pruning.importance import (
    CRITERIA,
    GroupL2,
    needs_statistics,
    normalized_score,
    scorer,
    unit_importance,
)
from tfmetaprune.pruning.least_squares import Fitted, fit_least_squares
from tfmetaprune.pruning.masking import run_masked
from tfmetaprune.pruning.methods import NEEDING_DATA, REPAIRS, check_repair, repair_model
from tfmetaprune.pruning.plan import PruningPlan, make_plan, plan_from_keep
from tfmetaprune.pruning.rebuild import rebuild_model, replace_weights
from tfmetaprune.pruning.repair import reestimate_bn

__all__ = [
    "CRITERIA", "ChannelGroup", "Cost", "Fitted", "GroupL2", "MacTerm", "NEEDING_DATA", "PruningPlan", "REPAIRS",
    "channel_groups", "check_repair", "cost", "fit_least_squares", "fold_averages", "mac_terms", "make_plan", "normalized_score",
    "plan_from_keep", "rebuild_model", "reestimate_bn", "repair_model", "replace_weights", "run_masked",
    "needs_statistics", "scorer", "total_macs", "unit_importance",
]  # fmt: skip
