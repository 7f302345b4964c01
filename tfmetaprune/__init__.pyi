"""What type checkers see of `tfmetaprune`, whose public names are imported when they are first used.

`tests/test_typing.py` holds the signatures here to those of the functions.
"""

import os
from collections.abc import Callable
from typing import Any

from tfmetaprune.analysis import analyze as analyze
from tfmetaprune.callbacks import MetaPruning as MetaPruning
from tfmetaprune.errors import TFMetaPruneError as TFMetaPruneError
from tfmetaprune.export.benchmark import benchmark as benchmark
from tfmetaprune.export.tflite import export_tflite as export_tflite
from tfmetaprune.inspection import inspect as inspect
from tfmetaprune.metanet.config import MetaNetConfig as MetaNetConfig
from tfmetaprune.metanet.model import MetaNetwork as MetaNetwork
from tfmetaprune.metanet.pretrained import load_metanetwork as load_metanetwork
from tfmetaprune.pipeline import PruneResult as PruneResult

__version__: str

def prune(
    model: Any,
    train_data: Any = None,
    *,
    validation_data: Any = None,
    speedup: float | None = None,
    method: str = "structured",
    criterion: str | Callable[..., Any] = "default",
    metanetwork: str | os.PathLike[str] | Callable[..., Any] | None = "default",
    finetune: str | int | Callable[..., Any] | None = "default",
    repair: str | None = "default",
    distill: bool = False,
    round_to: int | None = None,
    traffic_weight: float = 0.0,
    latency_ms: float | None = None,
    latency_speedup: float | None = None,
    seed: int = 0,
    sparsity: float | None = None,
    block_shape: tuple[int, int] = (1, 4),
    scope: str = "global",
    schedule: str = "polynomial",
    prepare: str | None = None,
    prepare_epochs: int | None = None,
    prepare_learning_rate: float | None = None,
    search_steps: int = 0,
) -> PruneResult: ...
def encode(model: Any) -> Any: ...
def decode(graph: Any, model: Any) -> Any: ...
