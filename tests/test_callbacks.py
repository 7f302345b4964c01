"""Pruning inside `fit`, in both Keras: what is silent stays silent, and the smaller model computes what the trained one does."""

import json
import threading

import keras as keras3
import numpy as np
import pytest
from callback_cases import ALONE, BOTH, Interrupt, Watch, assert_equal_outputs, digits, fit, make_net, outputs, scaling

import tfmetaprune
from tfmetaprune import MetaPruning, callbacks
from tfmetaprune._keras import keras, tf
from tfmetaprune.errors import ArgumentError, DataError, NothingToPruneError, UnsupportedModelError
from tfmetaprune.interop.partners import reset_slots


@BOTH
def test_fit_silences_step_by_step_and_leaves_a_smaller_model(k, tmp_path):
    model = make_net(k)
    pruning = MetaPruning(speedup=2.0, start_epoch=1, end_epoch=2.5, **ALONE)
    watch = Watch(pruning)
    fit(model, pruning, watch, epochs=3)
    assert watch.silent == sorted(watch.silent) and len(set(watch.silent)) > 2 and len(watch.silent) == 6
    assert watch.silent[0] < watch.silent[-1] == np.count_nonzero(~pruning.plan.keep)
    assert_equal_outputs(pruning, model)
    assert type(pruning.model) is type(model) and pruning.model is pruning.model
    report = json.loads(json.dumps(pruning.report))
    assert report["pruned"]["parameters"] == pruning.model.count_params() < report["before"]["parameters"]
    assert report["notes"] == [] and report["approximate"] == []
    assert [entry["epoch"] for entry in report["epochs"]] == [1, 2]
    assert report["epochs"][-1]["speedup"] == report["speedup"]["reached"] >= 2
    assert 0 <= report["epochs"][0]["accuracy"] <= 1
    pruning.model.save(tmp_path / "small.keras")
    np.testing.assert_allclose(outputs(k.models.load_model(tmp_path / "small.keras")), outputs(pruning.model), atol=1e-6)
    tfmetaprune.export_tflite(pruning.model, tmp_path / "small.tflite")


@BOTH
def test_afterwards_the_trained_model_is_free(k):
    model = make_net(k, run_eagerly=True)
    constraints = [variable.constraint for variable in model.trainable_variables]
    pruning = MetaPruning(**ALONE)
    fit(model, pruning, epochs=1)
    assert [variable.constraint for variable in model.trainable_variables] == constraints
    before = np.count_nonzero(np.asarray(model.get_layer("hidden").kernel))
    fit(model, epochs=1)
    assert np.count_nonzero(np.asarray(model.get_layer("hidden").kernel)) > before
    fit(pruning.model, epochs=1)  # it is compiled as the caller's was


@BOTH
def test_a_model_whose_fit_broke_off_is_free_after_cancel(k):
    model = make_net(k)
    constraints = [variable.constraint for variable in model.trainable_variables]
    pruning = MetaPruning(end_epoch=1, **ALONE)
    with pytest.raises(KeyboardInterrupt):
        fit(model, pruning, Interrupt(2), epochs=3)
    kernel = model.get_layer("hidden").kernel
    silent = np.count_nonzero(np.asarray(kernel) == 0)
    pruning.cancel()
    assert [variable.constraint for variable in model.trainable_variables] == constraints
    fit(model, epochs=1)
    assert np.count_nonzero(np.asarray(kernel) == 0) < silent
    with pytest.raises(ArgumentError, match="expected to be used in one fit, got a second one"):
        fit(model, pruning, epochs=1)
    again = MetaPruning(**ALONE)
    fit(model, again, epochs=1)
    assert_equal_outputs(again, model)


def test_a_callback_outside_of_a_list_works_between_the_steps(monkeypatch):
    model, threads = make_net(keras3), set()
    silence = MetaPruning._silence
    monkeypatch.setattr(MetaPruning, "_silence", lambda self, *at: (threads.add(threading.get_ident()), silence(self, *at)))
    pruning = MetaPruning(end_epoch=1, **ALONE)
    model.fit(*digits(), batch_size=32, epochs=2, verbose=0, callbacks=pruning)
    assert threads == {threading.get_ident()}
    assert_equal_outputs(pruning, model)


@BOTH
def test_metanetwork_rewrites_once_and_slots_start_anew(k):
    model, seen = make_net(k, run_eagerly=True), []

    class Look(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            slots = [np.abs(np.asarray(one)).max() for one in self.model.optimizer.variables if len(one.shape) > 1]
            seen.append((np.asarray(self.model.get_layer("bn0").gamma), max(slots, default=0.0)))
            seen[-1] += (int(np.asarray(self.model.optimizer.iterations)), self.model.get_weights())

    first, second = Look(), Look()
    pruning = MetaPruning(speedup=1.5, start_epoch=1, data=digits()[0], metanetwork=scaling)
    fit(model, first, pruning, second, epochs=2)
    before, after = seen[2], seen[3]
    np.testing.assert_allclose(after[0], before[0] / 2, rtol=1e-6)
    assert before[1] > 0 and after[1] == 0 and before[2] == after[2] == 3
    assert_equal_outputs(pruning, model)
    assert pruning.report["metanetwork"] == "scaling" and pruning.report["repair"] == "bn"
    assert all(dropped == sorted(dropped) for dropped in pruning.plan.dropped.values())


@BOTH
def test_averages_of_weights_start_from_the_weights(k):
    model = make_net(k, k.optimizers.Adam(1e-3, use_ema=True, ema_momentum=0.99))
    fit(model, epochs=1)
    for variable in model.trainable_variables:
        variable.assign(2 * variable + 1)
    assert reset_slots(model)
    averages = model.optimizer._model_variables_moving_average
    for average, variable in zip(averages, model.trainable_variables, strict=True):
        np.testing.assert_array_equal(np.asarray(average), np.asarray(variable))


def test_what_a_class_holds_beside_its_graph_stays():
    class Weighted(keras.Model):
        def __init__(self, inputs, outputs, name=None):
            super().__init__(inputs, outputs, name=name)
            self.balance = self.add_weight(name="balance", shape=(2,), initializer="zeros", trainable=False)

    net = make_net(keras)
    model = Weighted(net.input, net.output)
    model.compile("adam", net.loss)
    model.balance.assign([1.0, 2.0])
    pruning = MetaPruning(speedup=1.5, start_epoch=1, data=digits()[0], metanetwork=scaling)
    fit(model, pruning, epochs=2)
    np.testing.assert_array_equal(model.balance, [1.0, 2.0])
    assert_equal_outputs(pruning, model)


def test_arrays_sorted_by_class_are_measured_in_another_order(monkeypatch):
    seen, rewrite = [], callbacks.rewrite
    monkeypatch.setattr(callbacks, "rewrite", lambda *given, **options: seen.append(given[2]) or rewrite(*given, **options))
    (x, y), order = digits(), np.argsort(digits()[1], kind="stable")
    fit(make_net(keras), MetaPruning(data=(x[order], y[order]), metanetwork=scaling), epochs=1)
    (first, *_), labels = next(iter(seen[0].unbatch().batch(24))), y[order][:24]
    assert len({*labels}) < 4
    assert len({int(y[order][(x[order] == one).all((1, 2, 3)).argmax()]) for one in first.numpy()}) > 5


def test_the_shipped_metanetwork_is_the_default():
    model = make_net(keras, run_eagerly=True)
    pruning = MetaPruning(speedup=1.5, data=digits())
    fit(model, pruning, epochs=1)
    assert pruning.report["metanetwork"] == "default" and pruning.report["notes"] == []
    assert_equal_outputs(pruning, model)


@BOTH
def test_a_fit_shorter_than_the_schedule(k):
    model = make_net(k, run_eagerly=True)
    pruning = MetaPruning(speedup=2.0, end_epoch=10, data=digits()[0], **ALONE)
    fit(model, pruning, epochs=1)
    assert "fit was shorter than the schedule" in pruning.report["notes"][0]
    assert pruning.model.count_params() < model.count_params()  # and BatchNormalization was repaired, so the outputs differ
    statistics = np.asarray(pruning.model.get_layer("bn1").moving_mean)
    kept = [index for index in range(12) if index not in pruning.plan.dropped.get("conv1", [])]
    assert np.abs(statistics - np.asarray(model.get_layer("bn1").moving_mean)[kept]).max() > 1e-3


def test_a_fit_that_ends_before_it_starts():
    model = make_net(keras, run_eagerly=True)
    pruning = MetaPruning(speedup=2.0, start_epoch=5, **ALONE)
    fit(model, pruning, epochs=1)
    assert "fit ended before epoch 5" in pruning.report["notes"][0]
    assert_equal_outputs(pruning, model)


def test_speedup_one_changes_no_width():
    model = make_net(keras, run_eagerly=True)
    pruning = MetaPruning(speedup=1, **ALONE)
    fit(model, pruning, epochs=1)
    np.testing.assert_array_equal(outputs(pruning.model), outputs(model))
    assert pruning.plan.keep.all()


def test_steps_of_unknown_number_and_frozen_layers():
    model = make_net(keras)
    model.get_layer("conv1").trainable = False
    model.compile("adam", model.loss)
    batches = tf.data.Dataset.from_tensor_slices(digits()).batch(32).filter(lambda x, y: True)
    pruning = MetaPruning(speedup=2.0, end_epoch=3, **ALONE)
    watch = Watch(pruning)
    model.fit(batches, epochs=3, verbose=0, callbacks=[pruning, watch])
    assert watch.silent[2] == 0 < watch.silent[3] < watch.silent[-1]
    assert_equal_outputs(pruning, model)


def test_layers_that_hear_silent_channels_are_named():
    inputs = keras.Input((8, 8, 1))
    x = keras.layers.Dense(12, name="a")(keras.layers.Flatten()(inputs))
    x = keras.layers.LayerNormalization(name="norm")(x)
    model = keras.Model(inputs, keras.layers.Dense(10, name="b")(keras.layers.ReLU()(x)))
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    pruning = MetaPruning(speedup=1.5, **ALONE)
    fit(model, pruning, epochs=1)
    assert pruning.report["approximate"] == ["'norm' (LayerNormalization)"]
    assert pruning.model.count_params() < model.count_params()


@BOTH
def test_tensorboard(k, tmp_path):
    pruning = MetaPruning(speedup=2.0, end_epoch=1, log_dir=tmp_path / "logs", **ALONE)
    fit(make_net(k, run_eagerly=True), pruning, epochs=2, validation_data=digits())
    events = {}
    for file in (tmp_path / "logs").iterdir():
        for record in tf.data.TFRecordDataset(str(file)):
            event = tf.compat.v1.Event.FromString(record.numpy())
            for value in event.summary.value:
                events.setdefault(value.tag, []).append((event.step, value.metadata.plugin_data.plugin_name, value.tensor))
    speedups = [(step, float(tf.make_ndarray(tensor))) for step, _, tensor in events["metaprune/macs_speedup"]]
    assert [step for step, _ in speedups] == [1, 2] and speedups[-1][1] == pytest.approx(pruning.plan.speedup)
    ((_, plugin, share),) = events["metaprune/silent_channels/hidden"][-1:]
    width = pruning.report["widths"]["hidden"]
    assert plugin == "scalars" and float(tf.make_ndarray(share)) == pytest.approx(1 - width["after"] / width["before"])
    by_speedup = events["metaprune/val_accuracy_by_speedup_percent"]
    assert by_speedup[-1][0] == round(100 * pruning.plan.speedup)
    assert float(tf.make_ndarray(by_speedup[-1][2])) == pytest.approx(pruning.report["epochs"][-1]["val_accuracy"])
    _, plugin, picture = events["metaprune/channels"][-1]
    decoded = tf.image.decode_png(tf.make_ndarray(picture)[2]).numpy()
    assert plugin == "images" and decoded.shape == (6 * 3, 6 * 16, 3)  # conv0, conv1 with short, hidden
    silent = decoded[..., 0].astype(int) > decoded[..., 2]  # orange
    assert silent.any(1).sum() // 6 == sum(bool(pruning.plan.dropped.get(name)) for name in ("conv0", "conv1", "hidden"))
    assert silent[::6, ::6].sum() == np.count_nonzero(~pruning.plan.keep)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"speedup": 0.5}, r"MetaPruning: expected speedup to be a number >= 1, got 0.5\. Try 2.0\."),
        ({"speedup": True}, "expected speedup to be a number >= 1, got True"),
        ({"start_epoch": -1}, "expected start_epoch to be an integer >= 0, got -1"),
        ({"start_epoch": 4, "end_epoch": 3}, "expected end_epoch to be a number of epochs >= start_epoch=4, got 3"),
        ({"criterion": "l7"}, "expected criterion to be one of group_l2, .* or a callable, got 'l7'"),
        ({"metanetwork": 3}, "expected metanetwork to be a name, a path, a MetaNetwork, a function of graphs or None, got 3"),
        ({"metanetwork": "digits"}, "expected data for metanetwork='digits', got None"),
        ({"criterion": "fisher"}, "expected data for criterion='fisher', got None"),
        ({"repair": "ridge"}, "expected repair to be 'bn' or None, got 'ridge'"),
        ({"seed": -1}, r"expected seed to be an integer in 0\.\.2\*\*32 - 1, got -1"),
    ],
)
def test_arguments_that_cannot_be_used(options, message):
    with pytest.raises(ArgumentError, match=message):
        MetaPruning(**{**ALONE, **options})


def test_without_data_there_is_no_metanetwork_and_it_says_so():
    with pytest.warns(UserWarning, match="expected data for the metanetwork, got none, so channels are chosen by the criterion"):
        pruning = MetaPruning(speedup=2.0)
    assert pruning.report["metanetwork"] is None and "Pass data=" in pruning.report["notes"][0]


@BOTH
def test_one_callback_serves_one_fit(k):
    model, pruning = make_net(k, run_eagerly=True), MetaPruning(**ALONE)
    fit(model, pruning, epochs=1)
    with pytest.raises(ArgumentError, match="MetaPruning: expected to be used in one fit, got a second one. Make a new"):
        fit(model, pruning, epochs=1)


@BOTH
def test_what_cannot_be_pruned_is_refused_before_the_first_step(k):
    class Subclassed(k.Model):
        def __init__(self):
            super().__init__()
            self.dense = k.layers.Dense(10)

        def call(self, inputs):
            return self.dense(k.layers.Flatten()(inputs))

    model = Subclassed()
    model(digits()[0][:1])
    model.compile("adam", k.losses.SparseCategoricalCrossentropy(from_logits=True))
    with pytest.raises(UnsupportedModelError, match="expected a functional"):
        fit(model, MetaPruning(**ALONE))
    model = make_net(k)
    before = model.get_weights()
    with pytest.raises(NothingToPruneError, match="expected a speed-up of 1000 to be reachable, got at most"):
        fit(model, MetaPruning(speedup=1000, **ALONE))
    with pytest.raises(DataError, match=r"expected|Data"):
        fit(model, MetaPruning(data=np.zeros((8, 5), "float32"), **ALONE))
    for weight, value in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, value)
