"""MetaPruning together with optimizers, ways to run the step, strategies and other callbacks, in both Keras."""

import pathlib
import subprocess
import sys

import keras as keras3
import numpy as np
import pytest
from callback_cases import ALONE, BOTH, Interrupt, Watch, assert_equal_outputs, digits, fit, make_net, outputs, scaling

from tfmetaprune import MetaPruning
from tfmetaprune._keras import keras
from tfmetaprune.errors import ArgumentError
from tfmetaprune.pruning.silencing_steps import SilencingSteps
from tfmetaprune.trace import trace_model

OPTIMIZERS = {
    "sgd": lambda k: k.optimizers.SGD(0.01, momentum=0.9, nesterov=True),
    "rmsprop": lambda k: k.optimizers.RMSprop(1e-3, momentum=0.5, centered=True),
    "adagrad": lambda k: k.optimizers.Adagrad(0.01),
    "adamw": lambda k: k.optimizers.AdamW(1e-3, weight_decay=0.01),
    "nadam": lambda k: k.optimizers.Nadam(1e-3),
    "ftrl": lambda k: k.optimizers.Ftrl(0.01),
    "lion": lambda k: k.optimizers.Lion(1e-4),
    "average": lambda k: k.optimizers.Adam(1e-3, use_ema=True, ema_momentum=0.5, ema_overwrite_frequency=2),
    "legacy": lambda k: keras.optimizers.legacy.Adam(1e-3),
}


@pytest.mark.parametrize(
    "k, name",
    [pytest.param(k, name, id=f"{name}-{k.__name__}") for k in (keras, keras3) for name in OPTIMIZERS if (k, name) != (keras3, "legacy")],
)
def test_any_optimizer(k, name):
    model = make_net(k, OPTIMIZERS[name](k), run_eagerly=name != "sgd")
    pruning = MetaPruning(speedup=1.5, start_epoch=1, data=digits()[0], metanetwork=scaling, repair=None)
    fit(model, pruning, epochs=2)  # its slots are full when the pruning begins
    assert_equal_outputs(pruning, model)
    assert not [note for note in pruning.report["notes"] if "optimizer" in note]


@BOTH
@pytest.mark.parametrize("options", [{"steps_per_execution": 2}, {"jit_compile": True}, {"run_eagerly": True}], ids=str)
def test_ways_to_run_the_step(k, options):
    model = make_net(k, **options)
    if "steps_per_execution" in options:
        fit(model, epochs=1)  # the step is compiled before there are constraints
    pruning = MetaPruning(speedup=2.0, end_epoch=1, **ALONE)
    watch = Watch(pruning)
    fit(model, pruning, watch, epochs=2)
    assert len(set(watch.silent)) > 1 or "steps_per_execution" in options
    assert_equal_outputs(pruning, model)


@BOTH
def test_mixed_precision(k):
    k.mixed_precision.set_global_policy("mixed_float16")
    try:
        model = make_net(k)
        pruning = MetaPruning(speedup=1.5, start_epoch=1, data=digits()[0], metanetwork=scaling, repair=None)
        fit(model, pruning, epochs=2)
        assert_equal_outputs(pruning, model, 1e-2)
        assert not [note for note in pruning.report["notes"] if "optimizer" in note]
    finally:
        k.mixed_precision.set_global_policy(None if k is keras else "float32")  # None follows floatx again


@BOTH
@pytest.mark.parametrize("is_first", [True, False], ids=["behind it", "before it"])
def test_early_stopping_that_restores_older_weights(k, is_first):
    model = make_net(k, run_eagerly=True)
    stopping = k.callbacks.EarlyStopping("accuracy", mode="min", patience=2, restore_best_weights=True)  # the first epoch is best
    pruning = MetaPruning(speedup=2.0, start_epoch=1, end_epoch=2, data=digits()[0], **ALONE)
    fit(model, *((pruning, stopping) if is_first else (stopping, pruning)), epochs=6)
    assert len(pruning.report["epochs"]) == 2
    small = pruning.model
    assert "silenced once more" in pruning.report["notes"][0]
    gamma = np.asarray(model.get_layer("bn0").gamma)
    assert set(np.asarray(small.get_layer("bn0").gamma)) <= set(gamma)  # of the restored weights; the statistics are repaired
    assert small.evaluate(*digits(), verbose=0)[0] < model.evaluate(*digits(), verbose=0)[0] * 1.5


@BOTH
def test_checkpoints_and_learning_rates(k, tmp_path):
    model, rates = make_net(k, run_eagerly=True), []
    checkpoint = k.callbacks.ModelCheckpoint(str(tmp_path / "{epoch}.keras"))
    schedule = k.callbacks.LearningRateScheduler(lambda epoch, rate: rates.append(rate) or 1e-3 / (epoch + 1))
    pruning = MetaPruning(speedup=2.0, start_epoch=1, end_epoch=1, data=digits()[0], metanetwork=scaling)
    fit(model, schedule, pruning, checkpoint, epochs=3)
    assert rates == pytest.approx([3e-3, 1e-3, 5e-4])  # new slots, the same rate
    last = k.models.load_model(tmp_path / "3.keras")
    np.testing.assert_allclose(outputs(last), outputs(pruning.model), atol=1e-5)


@BOTH
def test_an_interrupted_run_goes_on_to_the_same_result(k, tmp_path):
    def run(folder, epoch):
        model = make_net(k, run_eagerly=True)
        pruning = MetaPruning(
            speedup=2.0, start_epoch=1, end_epoch=2.5, data=digits()[0], metanetwork=scaling, state_path=folder / "plan.json"
        )
        backup = k.callbacks.BackupAndRestore(str(folder / "backup"))
        try:
            fit(model, pruning, backup, Interrupt(epoch), epochs=3)
        except KeyboardInterrupt:
            return None
        return pruning

    whole = run(tmp_path / "whole", None)
    if k is keras:
        assert run(tmp_path / "parts", 1) is None  # the plan is made, but nothing is trained with it
    assert run(tmp_path / "parts", 2) is None
    assert (tmp_path / "parts" / "plan.json").exists()
    resumed = run(tmp_path / "parts", None)
    assert not (tmp_path / "parts" / "plan.json").exists()
    assert resumed.plan.dropped == whole.plan.dropped
    np.testing.assert_allclose(outputs(resumed.model), outputs(whole.model), atol=1e-3, rtol=1e-3)


DISTRIBUTED = """
import sys
import numpy as np
import tensorflow as tf
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2)
import keras, tf_keras
import callback_cases as tests
from tfmetaprune import MetaPruning
for k in (tf_keras, keras):
    with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
        model = tests.make_net(k)
    assert model.distribute_strategy.num_replicas_in_sync == 2
    pruning = MetaPruning(speedup=1.5, start_epoch=1, end_epoch=2, data=tests.digits()[0], metanetwork=tests.scaling)
    watch = tests.Watch(pruning)
    tests.fit(model, pruning, watch, epochs=2)
    assert len(set(watch.silent)) > 1, watch.silent
    assert not pruning.report["notes"], pruning.report["notes"]
    tests.assert_equal_outputs(pruning, model)
    small = [w.value if k is keras else w for w in pruning.model.weights]
    assert not any("Mirrored" in type(weight).__name__ for weight in small)
print("done")
"""


def test_mirrored_on_two_devices():
    here = pathlib.Path(__file__).parent
    code = f"import sys; sys.path[:0] = [{str(here)!r}, {str(here.parent)!r}]\n{DISTRIBUTED}"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.stdout.strip().endswith("done"), run.stderr[-3000:]


def test_a_state_of_other_options_is_refused(tmp_path):
    model, given = make_net(keras), {"end_epoch": 2, "state_path": tmp_path / "plan.json", **ALONE}
    first = MetaPruning(speedup=1.5, **given)
    with pytest.raises(KeyboardInterrupt):
        fit(model, first, Interrupt(1), epochs=3)
    first.cancel()
    other = MetaPruning(speedup=2.0, **given)
    with pytest.raises(ArgumentError, match="got one that differs in speedup. Delete the file"):
        fit(model, other, epochs=3)
    other.cancel()
    again = MetaPruning(speedup=1.5, **given)
    fit(model, again, epochs=2)
    assert np.array_equal(again.plan.keep, first.plan.keep)
    assert_equal_outputs(again, model)


def test_a_state_of_another_model_is_refused(tmp_path):
    path = tmp_path / "plan.json"
    path.write_text('{"plan": {"groups": {"nobody": {"size": 3, "dropped": [1]}}}}')
    with pytest.raises(ArgumentError, match="expected group 'nobody' with 3 channels, got no such group"):
        fit(make_net(keras), MetaPruning(state_path=path, **ALONE))
    path.write_text("{}")
    with pytest.raises(ArgumentError, match="expected what a MetaPruning of this model wrote, got .*Delete the file"):
        SilencingSteps.load(path, trace_model(make_net(keras)), 5, {})
