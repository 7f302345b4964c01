"""Random models over all layer kinds: every invariant of pruning holds for each.

150 models here; `make random-models` (TFMETAPRUNE_RANDOM_MODELS=1000) draws a thousand. Where TensorFlow convolves images with channels
first by oneDNN alone, models of these run in a process that has it switched on, and no others: on CPUs that it is not meant for, it
has wrong gradients.
"""

import collections
import os
import subprocess
import sys

import numpy as np
import pytest
from checks import check_model, kinds_of
from hypothesis import HealthCheck, Phase, given, settings
from random_models import FIRST, INPUTS, Program, Step, build, programs, runs_channels_first
from random_steps import STEPS

from tfmetaprune.trace import trace_model

NUM_MODELS = int(os.environ.get("TFMETAPRUNE_RANDOM_MODELS", "150"))
MIN_PRUNABLE = 0.45  # mean share of the hidden units: models that are frozen test nothing
MIN_KINDS = 60
NUM_CHANNELS_FIRST = 30
RANKS = {"vector": 1, "series": 2, "image": 3, "volume": 4}


def drawing(number):
    """The settings of hypothesis: so many examples, the same in every run."""
    return settings(
        max_examples=number, derandomize=True, deadline=None, database=None, print_blob=False,
        suppress_health_check=list(HealthCheck), phases=(Phase.generate, Phase.shrink),
    )  # fmt: skip


def inputs_here() -> list[str]:
    """The names of `INPUTS` whose models run in this process."""
    return [name for name in INPUTS if name != FIRST or runs_channels_first()]


def test_random_models(tmp_path_factory, capsys):
    kinds, shares, folder = collections.Counter(), [], tmp_path_factory.mktemp("random")

    @drawing(NUM_MODELS)
    @given(programs(inputs=inputs_here()))
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


def test_models_of_images_with_channels_first():
    if not runs_channels_first():
        assert os.environ.get("TF_ENABLE_ONEDNN_OPTS") != "1", "TensorFlow has no convolutions with channels first here"
        this = f"{__file__}::{test_models_of_images_with_channels_first.__name__}"
        run = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", this], env={**os.environ, "TF_ENABLE_ONEDNN_OPTS": "1"},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        assert run.returncode == 0, run.stdout
        return

    @drawing(NUM_CHANNELS_FIRST)
    @given(programs(inputs=[FIRST]))
    def check(program):
        check_model(build(program), program.seed)

    check()


def test_every_input_makes_a_model():
    for name in inputs_here():
        check_model(build(Program((name,), (5,), (Step("batch_norm", 0, (0,)),))))
