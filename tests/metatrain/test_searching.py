"""Searches for a zoo's channels, and metanetworks that learn to put out what the searches find."""

import json

import numpy as np
import pytest
from checks import relative_difference
from scipy import stats
from typer.testing import CliRunner

from tfmetaprune._keras import keras, tf
from tfmetaprune.cli import app
from tfmetaprune.errors import ArgumentError
from tfmetaprune.graph import channel_statistics
from tfmetaprune.metanet import MetaNetConfig, MetaNetwork
from tfmetaprune.metanet.generate import generate
from tfmetaprune.metatrain.data_models import BATCH_SIZE, DataModelFile, make_data_models
from tfmetaprune.metatrain.prepared import graph_arrays
from tfmetaprune.metatrain.repaired_objectives import RepairedObjective, SearchedObjective
from tfmetaprune.metatrain.searching import SearchSettings, load_searched, search_data_models, search_path
from tfmetaprune.metatrain.trainer import MetaTrainer, MetaTraining
from tfmetaprune.metatrain.zoo import dataset_arrays, residual_cnn
from tfmetaprune.pruning import fit_least_squares, make_plan, rebuild_model, scorer
from tfmetaprune.pruning.search import search_scores
from tfmetaprune.trace import trace_model


def _metanet(seed=0):
    keras.utils.set_random_seed(seed)
    return MetaNetwork(MetaNetConfig(hidden=8, num_layers=1))


@pytest.fixture(scope="module")
def dense():
    keras.utils.set_random_seed(1)
    return keras.Sequential([keras.Input([6]), keras.layers.Dense(12, "relu"), keras.layers.Dense(10, "relu"), keras.layers.Dense(3)])


def _noise(model):
    x = np.random.default_rng(0).normal(size=(64, *model.input_shape[1:])).astype(np.float32)
    return tf.data.Dataset.from_tensor_slices((x, np.zeros(64, np.int64))).batch(32)


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("zoo")
    make_data_models(folder, families=["mlp"], seeds=[0, 1, 1000], variants=[0], steps=40)
    return folder


def _run(*words, code=0):
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == code, (result.output, result.exception)
    return result


@pytest.mark.parametrize("criterion", ["group_l2", "group_l2_fisher"])
def test_what_is_found_for_a_zoo_is_what_is_found_for_each_model(zoo, criterion):
    from tfmetaprune.data import load

    settings = SearchSettings(criterion, steps=3, speedup=3.0, seed=1)
    files = search_data_models(zoo, settings=settings)
    assert [file.seed for file in files] == [0, 1]
    x, _ = dataset_arrays(load("digits").train)
    inputs = tf.data.Dataset.from_tensor_slices((x,)).batch(BATCH_SIZE)
    for file in files:  # the second one by what was compiled for the first
        searched = load_searched(zoo, file)
        trace = trace_model(file.load(zoo))
        statistics = channel_statistics(trace, inputs, seed=1) if criterion == "group_l2_fisher" else None
        start = scorer(trace, criterion, statistics=statistics)(np.ones(trace.channels.num_units, bool))
        np.testing.assert_allclose(searched.start, start, rtol=1e-5, atol=1e-5)
        found = search_scores(trace, start, inputs, speedup=3.0, steps=3, seed=1)
        np.testing.assert_allclose(searched.found, found, atol=1e-3)
        assert np.abs(found).max() > 0.03 and searched.settings == settings
        assert searched.found.dtype == searched.start.dtype == np.float32


def test_searches_that_are_there_stay(zoo):
    seen, settings = [], SearchSettings(steps=2)
    (first, second) = search_data_models(zoo, settings=settings)
    before, changed = (search_path(zoo, file) for file in (first, second))
    kept, lost = before.stat().st_mtime_ns, changed.read_bytes()
    changed.unlink()
    search_data_models(zoo, settings=settings, held_out=True, progress=lambda file, *numbers: seen.append((file.seed, *numbers)))
    assert seen == [(0, 1, 3), (1, 2, 3), (1000, 3, 3)]
    assert before.stat().st_mtime_ns == kept and changed.read_bytes() == lost
    search_data_models(zoo, settings=settings._replace(seed=5))
    assert before.stat().st_mtime_ns != kept and load_searched(zoo, first).settings.seed == 5
    with pytest.raises(ArgumentError, match="expected one of group_l2.*got 'l2'"):
        search_data_models(zoo, settings=SearchSettings("l2", steps=1))
    mine, other = zoo / first.file_name, zoo / second.file_name
    weights = mine.read_bytes()
    mine.write_bytes(other.read_bytes())
    with pytest.raises(ArgumentError, match=f"got none for {first.file_name} as it is"):
        load_searched(zoo, first)
    mine.write_bytes(weights)
    assert load_searched(zoo, first).settings.seed == 5


def test_the_loss_is_the_mean_squared_difference_whatever_is_added_to_all_scores(dense):
    trace, dataset = trace_model(dense), _noise(dense)
    objective, rng = SearchedObjective(trace), np.random.default_rng(0)
    rest, graph = np.setdiff1d(np.arange(objective.num_units), list(trace.channels.frozen)), graph_arrays(trace, dataset)
    assert 0 < len(rest) < objective.num_units
    ranking = rng.normal(size=objective.num_units).astype(np.float32)
    score = rng.normal(size=len(graph["parameters"])).astype(np.float32)
    base = scorer(trace, "group_l2")(np.ones(objective.num_units, bool))
    _, made = objective.decode((graph["parameters"], graph["weights"], tf.constant(score)), 1.0, 0.0)
    difference = (base + objective.unit_score(score) - ranking).numpy()[rest]
    for shift in (0.0, 5.0):
        moved = ranking + np.float32(shift)
        moved[list(trace.channels.frozen)] = 100
        loss = objective.batch_loss({}, made, None, None, objective.with_ranking({}, moved))
        np.testing.assert_allclose(loss, np.mean((difference - difference.mean()) ** 2), rtol=1e-4)
    with pytest.raises(ArgumentError, match=f"Searched scores: expected {objective.num_units} finite numbers"):
        objective.with_ranking({}, ranking[1:])


def test_the_metanetwork_learns_to_rank_as_the_search_did_and_leaves_the_weights(dense, tmp_path):
    trace, dataset = trace_model(dense), _noise(dense)
    base = scorer(trace, "group_l2")(np.ones(trace.channels.num_units, bool))
    found = np.random.default_rng(0).normal(size=len(base)).astype(np.float32)
    settings = MetaTraining(steps=40, objective="searched", learning_rate=0.05, warmup=5, weight_decay=0.0)
    trainer, losses = MetaTrainer(_metanet(), [dense], dataset, settings, tmp_path, rankings=[base + found]), []
    trainer.train(progress=lambda _, loss: losses.append(loss))
    weights, score = generate(trainer.metanet, trace, channel_statistics(trace, dataset))
    rest = np.setdiff1d(np.arange(len(found)), list(trace.channels.frozen))
    assert losses[0] == pytest.approx(np.var(found[rest]), rel=1e-3) and losses[-1] < 0.3 * losses[0]
    assert stats.spearmanr(score[rest], found[rest])[0] > 0.85
    for layer in dense.layers:
        np.testing.assert_array_equal(weights[layer.name, "kernel"], layer.kernel)


def test_the_loss_after_the_repair_falls(tmp_path):
    """Of 16 channels, 12 span what 4 do and most have the larger weights: what the repair can do without, weights do not tell."""
    rng = np.random.default_rng(0)
    model = keras.Sequential([keras.Input([8]), keras.layers.Dense(16), keras.layers.Dense(5)])
    first = rng.normal(size=(8, 16)).astype(np.float32)
    first[:, 4:12] = 2 * first[:, :4] @ rng.normal(size=(4, 8)).astype(np.float32)
    first[:, 12:] *= 0.7
    second = rng.normal(size=(16, 5)).astype(np.float32) * np.where(np.arange(16) < 12, 0.2, 2.0)[:, None]
    for layer, kernel in zip(model.layers, (first, second)):
        layer.kernel.assign(kernel)
    x = rng.normal(size=(300, 8)).astype(np.float32)
    dataset = tf.data.Dataset.from_tensor_slices((x, np.zeros(300, np.int64))).batch(50)
    settings = MetaTraining(
        steps=40, objective="repaired", learning_rate=0.05, warmup=5, weight_decay=0.0, batch_size=70, speedups=(1.9, 2.1)
    )
    trainer, losses = MetaTrainer(_metanet(), [model], dataset, settings, tmp_path), []
    trainer.train(progress=lambda _, loss: losses.append(loss))
    assert np.mean(losses[-10:]) < np.mean(losses[:5]) - 1
    trace = trace_model(model)
    weights, score = generate(trainer.metanet, trace, channel_statistics(trace, dataset))
    np.testing.assert_array_equal(weights[model.layers[0].name, "kernel"], first)
    errors = []
    for added in (None, score):
        plan = make_plan(trace, score=added, speedup=2.0, step=1.0)
        small = rebuild_model(trace, plan, fit_least_squares(trace, plan.keep, [x]).weights)
        errors.append(relative_difference(small(x), model(x)))
    assert errors[1] < 0.5 * errors[0]


def test_batches_of_the_repaired_objective_are_as_they_are():
    """Compared by a plain run: the fit on three sevenths of the batch, by the pruned network's own least squares."""
    model = residual_cnn((8, 8, 1), 3, widths=(6, 8), seed=1)
    trace = trace_model(model)
    objective, rng = RepairedObjective(trace), np.random.default_rng(0)
    x = rng.normal(size=(70, 8, 8, 1)).astype(np.float32)
    assert objective.prepare(x, None, rng)[0] is x
    plan = make_plan(trace, speedup=2.0, step=1.0)
    original = {key: tf.convert_to_tensor(value) for key, value in objective.weights_of(trace).items()}
    loss = objective.batch_loss({}, tf.cast(plan.keep, tf.float32), tf.constant(x), None, original)
    small = rebuild_model(trace, plan, fit_least_squares(trace, plan.keep, [x[:30]]).weights)
    wanted = model(x[30:]).numpy()
    error = np.mean((small(x[30:]) - wanted) ** 2) / np.mean((wanted - wanted.mean(0)) ** 2)
    np.testing.assert_allclose(loss, np.log(error + 1e-3), rtol=0.02)
    assert MetaTraining(objective="repaired").batch_size == 448 and MetaTraining().batch_size == 256


def test_a_trainer_needs_what_was_found_for_this_objective_alone(tmp_path):
    model = residual_cnn((8, 8, 1), 3, widths=(4, 8))
    dataset = tf.data.Dataset.from_tensors((np.zeros([4, 8, 8, 1], np.float32), np.zeros(4, np.int64)))
    for objective, rankings in (("searched", None), ("searched", [np.zeros(3)] * 2), ("structured", [np.zeros(3)])):
        with pytest.raises(ArgumentError, match=f"searched scores for each of the 1 models .* with '{objective}'"):
            MetaTrainer(_metanet(), [model], dataset, MetaTraining(objective=objective), tmp_path, rankings=rankings)


def test_from_searches_to_a_metanetwork_on_the_command_line(tmp_path):
    zoo, out = tmp_path / "zoo", tmp_path / "run"
    _run("zoo", "make", zoo, "--families", "mlp", "--seeds", 2, "--held-out", 1, "--variants", 1, "--steps", 40)
    train = [
        "meta-train", "--objective", "searched", "--zoo", zoo, "--out", out, "--steps", 3, "--hidden", 4, "--layers", 1,
        "--num-validation", 1, "--validate-every", 2, "--validation-repair", "least_squares",
    ]  # fmt: skip
    missing = _run(*train, code=2)
    assert "got none for mlp-0--digits--0.keras" in missing.stderr and "zoo search" in missing.stderr
    rows = json.loads(_run("zoo", "search", zoo, "--steps", 2, "--speedup", 4, "--json").stdout)
    assert [row["seed"] for row in rows] == [0, 1] and all(row["seconds"] > 0 for row in rows)
    assert sorted(path.name for path in zoo.glob("*.npz")) == ["mlp-0--digits--0.search.npz", "mlp-0--digits--1.search.npz"]
    assert "2 searches" in _run("zoo", "search", zoo, "--steps", 2, "--speedup", 4).stdout
    assert len((zoo / "search.jsonl").read_text().splitlines()) == 2
    (zoo / "search.jsonl").rename(zoo / "moved")
    assert "2 searches" in _run("zoo", "search", zoo, "--steps", 2, "--speedup", 4).stdout
    (zoo / "moved").rename(zoo / "search.jsonl")
    _run(*train)
    card = json.loads((out / "universal.json").read_text())
    assert card["search"] == {"criterion": "group_l2", "steps": 2, "speedup": 4.0, "seed": 0}
    assert card["data_models"]["trained_on"] == ["mlp-0--digits--0.keras", "mlp-0--digits--1.keras"]
    other = search_path(zoo, DataModelFile("mlp", 0, "digits", 1))
    np.savez(other, **{**np.load(other), "steps": 7})
    assert "the same settings for all data models, got 2 kinds" in _run(*train, code=2).stderr
