"""Random models over all layer kinds: every invariant of pruning holds for each.

150 models here; `make random-models` (TFMETAPRUNE_RANDOM_MODELS=1000) draws a thousand.
"""

import collections
import os

import numpy as np
import pytest
from checks import check_model, kinds_of
from hypothesis import HealthCheck, Phase, given, settings
from random_models import INPUTS, Program, Step, build, programs
from random_steps import STEPS

from tfmetaprune.trace import trace_model

NUM_MODELS = int(os.environ.get("TFMETAPRUNE_RANDOM_MODELS", "150"))
MIN_PRUNABLE = 0.45  # mean share of the hidden units: models that are frozen test nothing
MIN_KINDS = 60
RANKS = {"vector": 1, "series": 2, "image": 3, "volume": 4}


def test_random_models(tmp_path_factory, capsys):
    kinds, shares, folder = collections.Counter(), [], tmp_path_factory.mktemp("random")

    @settings(
        max_examples=NUM_MODELS, derandomize=True, deadline=None, database=None, print_blob=False,
        suppress_health_check=list(HealthCheck), phases=(Phase.generate, Phase.shrink),
    )  # fmt: skip
    @given(programs())
    def check(program):
        model = build(program)
        single = model.outputs[0].dtype == "float32"  # tf_keras cannot load 0.5 * x in float64
        shares.append(check_model(model, program.seed, folder / "pruned.keras" if single else None))
        kinds.update(kinds_of(trace_model(model)).keys())

    check()
    with capsys.disabled():
        print(f"\n{len(shares)} random models, {np.mean(shares):.0%} of the hidden units prunable, {len(kinds)} kinds:")
        print(", ".join(f"{kind} {count}" for kind, count in kinds.most_common()))
    assert np.mean(shares) >= MIN_PRUNABLE
    assert len(kinds) >= MIN_KINDS


@pytest.mark.parametrize("kind", STEPS)
def test_step_alone(kind, tmp_path):
    """Each step between a first layer and a head, with two lists of choices, whatever hypothesis draws."""
    inputs = next(name for name, rank in RANKS.items() if rank in STEPS[kind].ranks[-2:])
    for float64, numbers in ((True, (0, 1, 2, 1, 3, 0, 1)), (False, (1, 2, 1, 3, 2, 1, 0))):
        model = build(Program((inputs,), (6,), (Step(kind, 0, numbers),), float64=float64))
        assert len(model.layers) > 3, f"step {kind!r} adds no layer"
        check_model(model, save_path=None if float64 else tmp_path / "pruned.keras")


def test_every_input_makes_a_model():
    for name in INPUTS:
        check_model(build(Program((name,), (5,), (Step("batch_norm", 0, (0,)),))))
