"""Meta-training over families and data sets, its end by the objective, and the choice among metanetworks."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from tfmetaprune._keras import keras, tf
from tfmetaprune.cli import app
from tfmetaprune.errors import ArgumentError
from tfmetaprune.metanet import MetaNetConfig, MetaNetwork, load_metanetwork, save_metanetwork
from tfmetaprune.metatrain import mixed
from tfmetaprune.metatrain import select as selecting
from tfmetaprune.metatrain.data_models import make_data_models
from tfmetaprune.metatrain.mixed import select_on_zoo, split_zoo
from tfmetaprune.metatrain.prepared import prepare_data_models
from tfmetaprune.metatrain.select import (
    NONE,
    accuracies,
    area,
    make_judge,
    paired,
    pruning_objective,
    select,
    summarize,
)
from tfmetaprune.metatrain.small_networks import mlp, plain_cnn, series_cnn
from tfmetaprune.metatrain.trainer import MetaTrainer, MetaTraining
from tfmetaprune.metatrain.zoo import dataset_arrays, logged_seconds, train_data_model
from tfmetaprune.pruning import repair_model


def _waves(shape, seed, count=96):
    """Three classes of inputs that differ in frequency."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 3, count)
    wave = np.sin((1 + y[:, None]) * np.linspace(0, 6, shape[0]))
    x = wave.reshape(count, shape[0], *(1,) * (len(shape) - 1)) + rng.normal(0, 0.3, (count, *shape))
    return tf.data.Dataset.from_tensor_slices((x.astype(np.float32), y.astype(np.int64))).batch(32)


@pytest.fixture(scope="module")
def images():
    return _waves((8, 8, 1), 0)


@pytest.fixture(scope="module")
def judge(images):
    model = plain_cnn((8, 8, 1), 3, widths=(6, 8), depth=1)
    train_data_model(model, images, epochs=12)
    return make_judge(model, images, *dataset_arrays(images), name="judge", family="plain_cnn")


def _metanet(seed=0):
    keras.utils.set_random_seed(seed)
    return MetaNetwork(MetaNetConfig(hidden=8, num_layers=1))


def test_each_data_model_reads_its_own_data_and_architectures_are_shared(images, tmp_path):
    series = _waves((24, 2), 1)
    cnns = [plain_cnn((8, 8, 1), 3, widths=(4, 6), depth=1, seed=seed) for seed in range(2)]
    others = [mlp((24, 2), 3, widths=(6, 6)), series_cnn((24, 2), 3, widths=(4, 4, 6))]
    datasets = [images, images, series, series]
    settings = MetaTraining(steps=2, batch_size=16, warmup=1, seed=1)
    trainer = MetaTrainer(_metanet(), [*cnns, *others], datasets, settings, tmp_path)
    shapes = [data_model.examples[0].shape[1:] for data_model in trainer.data_models]
    assert shapes == [(8, 8, 1)] * 2 + [(24, 2)] * 2
    gradients = [data_model.gradients[0] for data_model in trainer.data_models]
    assert gradients[0] is gradients[1] and len(set(map(id, gradients))) == 3
    seen = [next(trainer._draw(step, 0).batches)[0].shape for step in range(2)]
    assert seen == [(16, 8, 8, 1), (16, 24, 2)]  # what this seed draws
    trainer.train()
    with pytest.raises(ArgumentError, match="expected a dataset for each of the 4 models, got 2"):
        MetaTrainer(_metanet(), [*cnns, *others], datasets[:2], settings, tmp_path)


def test_trainings_share_what_is_prepared(images, tmp_path):
    """Data models are made ready once for trainings of several metanetworks, which end as they would have alone."""
    models = [mlp((8, 8, 1), 3, widths=(4, 6), seed=seed) for seed in range(2)]
    settings = MetaTraining(steps=3, batch_size=32, warmup=1)
    ready = prepare_data_models(models, images, settings)

    def trained(what, dataset, seed, folder):
        keras.utils.set_random_seed(seed)
        metanet = MetaNetwork(MetaNetConfig(hidden=8, num_layers=1))
        MetaTrainer(metanet, what, dataset, settings, tmp_path / folder).train()
        return metanet.get_weights()

    for seed in range(2):
        for got, want in zip(trained(ready, None, seed, f"shared{seed}"), trained(models, images, seed, f"alone{seed}"), strict=True):
            np.testing.assert_array_equal(got, want)
    other = MetaTraining(steps=3, batch_size=32, warmup=1, distillation=0.0)
    for dataset, changed in ((images, settings), (None, other)):
        with pytest.raises(ArgumentError, match="expected data models that were made ready to stand alone"):
            MetaTrainer(_metanet(), ready, dataset, changed, tmp_path)


def test_training_ends_by_the_objective_with_the_best_and_resumes_to_the_same(images, tmp_path):
    model, judged = mlp((8, 8, 1), 3, widths=(4, 6)), {}
    values = [0.1, 0.5, 0.2, 0.4, 0.9, 0.9]  # before any step, and after 2, 4, 6: two in a row without gain

    def trainer(folder):
        judged[folder] = []

        def validate(metanet):
            judged[folder].append([variable.numpy() for variable in metanet.trainable_variables])
            return values[int(this.step) // 2]

        settings = MetaTraining(steps=10, batch_size=32, warmup=2, checkpoint_every=1, validate_every=2, patience=2)
        this = MetaTrainer(_metanet(), [model], images, settings, tmp_path / folder, validate=validate)
        return this

    whole = trainer("whole")
    whole.train()
    assert (int(whole.step), whole.best.step, whole.best.value, len(judged["whole"])) == (6, 2, 0.5, 4)
    best = judged["whole"][1]
    for got, want in zip(whole.metanet.trainable_variables, best, strict=True):
        np.testing.assert_array_equal(got, want)
    assert any(np.any(last != want) for last, want in zip(judged["whole"][3], best))

    def interrupt(step, _):
        if step == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trainer("broken").train(progress=interrupt)
    resumed = trainer("broken")
    resumed.train(resume=True)
    assert (int(resumed.step), resumed.best.step, len(judged["broken"])) == (6, 2, 1)
    for got, want in zip(resumed.metanet.trainable_variables, best, strict=True):
        np.testing.assert_array_equal(got, want)
    resumed.train(resume=True)  # it is over
    assert int(resumed.step) == 6 and len(judged["broken"]) == 1

    (path,) = (tmp_path / "whole" / "tensorboard").iterdir()
    events = [tf.compat.v1.Event.FromString(record.numpy()) for record in tf.data.TFRecordDataset(str(path))]
    scalars = [(value.tag, event.step, tf.make_ndarray(value.tensor)) for event in events for value in event.summary.value]
    written = {(tag, step): float(number) for tag, step, number in scalars}
    np.testing.assert_allclose([written["meta/objective", step] for step in (0, 2, 4, 6)], values[:4])
    assert sum(tag == "meta/loss" for tag, _ in written) == 6


def test_area_is_the_mean_accuracy_over_the_logarithm():
    assert area((2.0, 3.0, 12.0), (0.8,) * 3, 0.8) == pytest.approx(0.8)
    x = np.array([2.0, 5.0, 12.0])
    assert area(x, 1 - np.log(x), 1.0) == pytest.approx(1 - np.log(12) / 2)
    assert paired(np.array([0.02]))["interval"] is None


def test_an_untrained_metanetwork_is_the_pipeline_without_one(judge):
    metanet = _metanet()
    for repair in ("bn", "least_squares"):
        options = {"repair": repair, "speedups": (4.0, 12.0)}
        alone = pruning_objective(None, [judge], **options)
        if repair == "least_squares":  # one ranking in either case
            assert pruning_objective(metanet, [judge], **options) == pytest.approx(alone)
        assert 0.3 < alone[0] < judge.unpruned
    before = judge.trace.model.get_weights()
    pruned, tuned = accuracies(judge, None, speedup=4.0, repair=None, budgets=(0, 10))
    assert tuned > pruned
    for got, want in zip(judge.trace.model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(got, want)
    assert accuracies(judge, None, speedup=1e6) == [0.0]
    assert accuracies(judge, None, speedup=4.0, repair="default") == accuracies(judge, None, speedup=4.0, repair="least_squares")


def test_selection_is_kept_and_pairs_by_model(judge, tmp_path, monkeypatch):
    better = {"good": 0.1, "bad": -0.1}
    judges = [judge._replace(name=f"m{number}", family=family) for number, family in enumerate(("a", "a", "b"))]

    def fake(judge, metanet, *, budgets, **_):
        calls.append(judge.name)
        return [0.5 + better.get(metanet[0], 0) + 0.01 * int(judge.name[1]) * (metanet[0] == "good") for _ in budgets]

    calls = []
    monkeypatch.setattr(selecting, "accuracies", fake)
    monkeypatch.setattr(selecting, "generated", lambda judge, metanet: (getattr(metanet, "label", None), None))
    metanets = {}
    for number, label in enumerate(better):
        metanets[label] = _metanet(number)
        metanets[label].label = label
    options = {"repairs": ("bn",), "budgets": (0, 1), "speedups": (12.0,)}
    result = select(metanets, judges, tmp_path, **options)
    assert result["winner"] == "good" and len(calls) == 9
    ways = result["results"][0]["ways"]
    assert ways["good"]["difference"]["mean"] == pytest.approx(0.055)
    assert ways["good"]["by_family"]["a"]["mean"] == pytest.approx(0.0525) and ways["bad"]["difference"]["won"] == 0
    low, high = ways["good"]["difference"]["interval"]
    assert low == pytest.approx(0.055 - 4.303 * 0.005 / 3**0.5, abs=2e-4) and high > 0.055
    assert select(metanets, judges, tmp_path, **options) == result and len(calls) == 9
    select({"good": metanets["good"]}, judges, tmp_path, **{**options, "budgets": (0, 3)})
    assert len(calls) == 15  # the new budget alone
    select(metanets, [judge._replace(x=judge.x[:-1], y=judge.y[:-1]) for judge in judges], tmp_path, **options)
    assert len(calls) == 24  # on another split everything
    values = {(j.name, way, "bn", 0, 12.0): 0.5 for j in judges for way in (NONE, "good")}
    assert summarize(values, judges, (NONE, "good"), ("bn",), (0,), [12.0])["winner"] == NONE
    with pytest.raises(ArgumentError, match="no metanetwork called 'none'"):
        select({NONE: None}, judges, tmp_path)
    keras.utils.set_random_seed(0)
    other = MetaNetwork(MetaNetConfig(hidden=8, num_layers=1, fisher_weight=1.0))  # of equal weights
    other.label = "good"
    assert select({"good": other}, judges, tmp_path, **options) and len(calls) == 27
    for wrong in ({"speedups": (1.0, 2.0)}, {"speedups": ()}, {"budgets": (-1,)}):
        with pytest.raises(ArgumentError, match="expected speed-ups above 1 and budgets of 0 epochs or more"):
            select(metanets, judges, tmp_path / "no", **{**options, **wrong})
    assert not (tmp_path / "no").exists()


def test_a_repair_of_no_such_name_is_refused_before_anything_runs(tmp_path):
    with pytest.raises(ArgumentError, match="expected one of default, least_squares, bn, data_free, got 'least-squares'"):
        select({}, [], tmp_path / "out", repairs=("bn", "least-squares"))
    with pytest.raises(ArgumentError, match="got 'none'"):
        mixed.meta_train_on_zoo(tmp_path / "out", tmp_path / "no zoo", validation_repair="none")
    with pytest.raises(ArgumentError, match="got 'BN'"):
        repair_model(None, None, None, None, "BN")
    assert not (tmp_path / "out").exists()


def test_a_training_writes_over_nothing_that_is_there(tmp_path):
    (tmp_path / "log.jsonl").write_text("of the zoo", encoding="utf-8")
    with pytest.raises(ArgumentError, match="another folder than the zoo's"):
        mixed.meta_train_on_zoo(tmp_path / "zoo" / "..", tmp_path)
    assert (tmp_path / "log.jsonl").read_text(encoding="utf-8") == "of the zoo"
    for name in ("training", "../mine"):
        with pytest.raises(ArgumentError, match=f"got '{name}'"):
            mixed.meta_train_on_zoo(tmp_path / "out", tmp_path, name=name)
    with pytest.raises(ArgumentError, match="no metanetwork called 'selection'"):
        select_on_zoo([tmp_path / "selection.keras"], tmp_path, tmp_path / "out")
    assert logged_seconds(tmp_path / "out" / "log.jsonl") == 0


def test_from_a_zoo_to_a_selection_on_the_command_line(tmp_path):
    def run(*words, code=0):
        result = CliRunner().invoke(app, [str(word) for word in words])
        assert result.exit_code == code, (result.output, result.exception)
        return result.stdout

    zoo, out = tmp_path / "zoo", tmp_path / "run"
    run("zoo", "make", zoo, "--families", "mlp", "--seeds", 1, "--held-out", 1, "--variants", 1, "--steps", 40)
    rows = json.loads(run("zoo", "list", zoo, "--json"))
    assert [row["seed"] for row in rows] == [0, 1000] and "mlp" in run("zoo", "list", zoo)
    small = ["--hidden", 4, "--layers", 1, "--num-validation", 1, "--validate-every", 1]
    assert "without a metanetwork" in run("meta-train", "--zoo", zoo, "--out", out, "--steps", 2, "--name", "mine", *small)
    card = json.loads((out / "mine.json").read_text())
    assert card["data_models"] == {"trained_on": ["mlp-0--digits--0.keras"], "validated_on": ["mlp-0--digits--1000.keras"]}
    assert card["validation"]["objective"] > 0.2 and "--hidden 4" in card["command"]
    options = ["--zoo", zoo, "--out", tmp_path / "chosen", "--budgets", "0", "--repairs", "bn", "--speedups", "2,4"]
    printed = json.loads(run("select", out / "mine.keras", *options, "--json"))
    assert printed == json.loads((tmp_path / "chosen" / "selection.json").read_text())
    assert (printed["winner"] == "mine") == (tmp_path / "chosen" / "mine.keras").exists()
    assert "Best: " in run("select", out / "mine.keras", *options)
    run("select", "digits", "--zoo", tmp_path / "none", "--out", out, code=2)


def test_the_winner_is_written_with_its_card_but_never_chosen_by_test(tmp_path, monkeypatch):
    zoo, metanet = tmp_path / "zoo", _metanet()
    make_data_models(zoo, families=["mlp"], seeds=[1000], variants=[0], steps=1)
    save_metanetwork(metanet, tmp_path / "mine.keras", {"command": "by hand"})
    monkeypatch.setattr(mixed, "select", lambda *_, **__: {"winner": "mine"})
    for split in ("validation", "test"):
        (tmp_path / split).mkdir()
        select_on_zoo([tmp_path / "mine.keras"], zoo, tmp_path / split, split=split)
    card = json.loads((tmp_path / "validation" / "mine.json").read_text())
    assert card["command"] == "by hand" and card["selection"] == {"split": "validation", "winner": "mine"}
    assert load_metanetwork(tmp_path / "validation" / "mine.keras").config == metanet.config
    assert [path.name for path in (tmp_path / "test").iterdir()] == ["selection.json"]


def test_few_held_out_networks_are_of_all_families(tmp_path):
    for name in ("concat_cnn-0--digits--1000", "mlp-0--digits--1000", "mlp-0--digits--1001", "mlp-0--waves--1000", "vit-0--waves--1000"):
        (tmp_path / f"{name}.keras").touch()
    order = [(file.family, file.data, file.seed) for file in split_zoo(tmp_path, held_out=True, number=4)]
    assert order == [("concat_cnn", "digits", 1000), ("mlp", "digits", 1000), ("vit", "waves", 1000), ("mlp", "waves", 1000)]
    assert split_zoo(tmp_path, held_out=True, number=9)[-1].seed == 1001 and len(split_zoo(tmp_path, held_out=True)) == 5


def test_only_the_same_training_goes_on(images, tmp_path):
    def trainer(seed=0, repair="bn", **settings):
        settings = {"steps": 2, "batch_size": 16, "warmup": 1, "checkpoint_every": 1, **settings}
        models, identity = [mlp((8, 8, 1), 3, widths=(4, 6), seed=seed)], {"validation": {"repair": repair}}
        return MetaTrainer(_metanet(), models, images, MetaTraining(**settings), tmp_path, identity=identity)

    trainer().train(resume=True)
    log = (tmp_path / "log.jsonl").read_text()
    with pytest.raises(ArgumentError, match="expected a folder without checkpoints.*--resume"):
        trainer().train()
    for other, name in (
        (trainer(perturbation=0.1), "settings perturbation"), (trainer(seed=1), "data_models weights"),
        (trainer(repair="least_squares"), "validation repair"),
    ):  # fmt: skip
        with pytest.raises(ArgumentError, match=f"one that differs in {name}. Start"):
            other.train(resume=True)
    with pytest.raises(ArgumentError, match="expected at least the 2 steps that are done, got 1"):
        trainer(steps=1).train(resume=True)
    assert (tmp_path / "log.jsonl").read_text() == log
    longer = trainer(steps=3)
    longer.train(resume=True)
    assert int(longer.step) == 3 and (tmp_path / "log.jsonl").read_text().startswith(log)


def test_networks_that_differ_in_an_activation_alone_share_nothing(images):
    def model(activation):
        inputs = keras.Input((8, 8, 1))
        x = keras.layers.Dense(6, activation)(keras.layers.Flatten()(inputs))
        return keras.Model(inputs, keras.layers.Dense(3)(x))

    settings = MetaTraining(steps=1, batch_size=16)
    relu, tanh, again = (each.gradients[0] for each in prepare_data_models([model("relu"), model("tanh"), model("relu")], images, settings))
    assert relu is again and relu is not tanh


def test_networks_that_differ_in_a_constant_or_in_what_they_share_have_objectives_of_their_own(images):
    def model(factor, layers):
        inputs = keras.Input((8, 8, 1))
        x = keras.layers.Dense(6, "relu")(keras.layers.Flatten()(inputs))
        for layer in layers:
            x = x + factor * layer(x)
        return keras.Model(inputs, keras.layers.Dense(3)(x))

    def dense():
        return keras.layers.Dense(6, "relu")

    models = [model(factor, [dense(), dense()]) for factor in (0.1, 0.1, 0.5)] + [model(0.1, 2 * [dense()])]
    prepared = prepare_data_models(models, images, MetaTraining(steps=1, batch_size=16))
    one, again, constant, shared = (each.gradients[0] for each in prepared)
    assert one is again and len({one, constant, shared}) == 3
