"""The rankings and the checks of `benchmarks/universal.py`."""

import argparse
import json
import pathlib
import sys
import zipfile

import numpy as np
import pytest

sys.path.append(str(pathlib.Path(__file__).resolve().parents[2] / "benchmarks"))

import ablations  # noqa: E402
import budget  # noqa: E402
import over_families  # noqa: E402
from leads import family_means, lead_tables, plot  # noqa: E402
from rankings import bn_scale, same_widths, taylor  # noqa: E402
from rivals import Rival, check_card  # noqa: E402
from universal import KEY, UNPRUNED, Bench  # noqa: E402

from tfmetaprune._keras import keras, tf  # noqa: E402
from tfmetaprune.errors import ArgumentError  # noqa: E402
from tfmetaprune.graph import channel_statistics  # noqa: E402
from tfmetaprune.layers import get_weight  # noqa: E402
from tfmetaprune.metanet import MetaNetConfig  # noqa: E402
from tfmetaprune.metanet.generate import generate  # noqa: E402
from tfmetaprune.metatrain.data_models import DataModelFile  # noqa: E402
from tfmetaprune.metatrain.small_networks import concat_cnn, mlp, plain_cnn, residual_cnn, vit  # noqa: E402
from tfmetaprune.pruning import GroupL2, make_plan, reestimate_bn  # noqa: E402
from tfmetaprune.trace import trace_model  # noqa: E402


def _shapes(trace, keep):
    """What remains of every axis of every tensor."""
    kept = [trace.channels.kept(tensor, keep) for tensor in range(len(trace.shapes))]
    return [{axis: len(indices) for axis, indices in axes.items()} for axes in kept]


@pytest.mark.parametrize("build", [concat_cnn, residual_cnn, vit])
def test_widths_stay_and_the_highest_scores_fill_them(build):
    trace = trace_model(build((8, 8, 1), 10))
    theirs, ours = np.random.default_rng(0).normal(size=(2, trace.channels.num_units))
    plan = make_plan(trace, theirs, speedup=5, step=1.0)
    other = same_widths(trace, plan, ours)
    assert _shapes(trace, other.keep) == _shapes(trace, plan.keep)
    assert other.macs_after == plan.macs_after
    assert not np.array_equal(other.keep, plan.keep)
    assert ours[other.keep].mean() > ours[plan.keep].mean() + 0.5
    assert np.array_equal(same_widths(trace, plan, theirs).keep, plan.keep)


def test_taylor_is_the_squared_gradient_of_the_mean_loss_of_each_batch():
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.layers.Dense(5, "relu", input_shape=(4,)), keras.layers.Dense(3)])
    trace, rng = trace_model(model), np.random.default_rng(0)
    x, y = rng.normal(size=(10, 4)).astype(np.float32), rng.integers(0, 3, 10)
    got = taylor(trace, tf.data.Dataset.from_tensor_slices((x, y)).batch(6))
    hidden, kernel = model.layers[0](x).numpy(), model.layers[1].kernel.numpy()
    error = tf.nn.softmax(model(x)).numpy() - np.eye(3)[y]  # the gradient of each example's loss by its logits
    by_mask = hidden * (error @ kernel.T)
    wanted = (by_mask[:6].mean(0) ** 2 + by_mask[6:].mean(0) ** 2) / 2
    units = trace.channels.units(trace.channels.calls[0].roles["out"])
    np.testing.assert_allclose(got[units], wanted, rtol=1e-3, atol=1e-9)
    assert np.ptp(wanted) > 1e-3


def test_bn_scale_ranks_by_gamma_and_by_group_l2_where_there_is_none():
    model = plain_cnn((8, 8, 1), 3, widths=(4, 6), depth=1)
    norms = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    gammas = [np.array([3.0, -1.0, 0.5, 2.0]), np.array([0.1, -0.6, 0.5, 0.4, -0.3, 0.2])]
    for layer, gamma in zip(norms, gammas, strict=True):
        layer.gamma.assign(gamma)
    trace = trace_model(model)
    importance = bn_scale(trace)
    calls = [channels for channels in trace.channels.calls if channels.call.layer in norms]
    for channels, gamma in zip(calls, gammas, strict=True):
        units = trace.channels.units(channels.roles["io"])
        np.testing.assert_allclose(importance[units], gamma**2 / np.mean(gamma**2), rtol=1e-4)
    trace = trace_model(mlp((8, 8, 1), 3, widths=(8, 6)))
    importance, wanted = bn_scale(trace), GroupL2(trace)().numpy()
    for group in range(trace.channels.group_of_unit.max() + 1):
        units = trace.channels.group_of_unit == group
        if wanted[units].any():
            np.testing.assert_allclose(importance[units], wanted[units] / wanted[units].mean(), rtol=1e-3)


def test_cards_that_have_seen_what_is_to_be_unseen_are_refused():
    fine = {"trained_on": ["mlp-0--digits--3.keras"], "validated_on": ["vit-0--digits--1001.keras"]}
    check_card("fine", {"data_models": fine})
    check_card("of other make", {"data_models": {"architecture": "residual_cnn"}})
    with pytest.raises(ArgumentError, match="expected training and choice without mnist_5k/14, ucr/Italy.* got mnist_5k/14"):
        check_card("seen", {"data_models": {"trained_on": ["mlp-1--mnist_5k@14--3.keras"]}})
    for other, got in (
        ({"trained_on": ["mlp-1--mnist_5k--3.keras"]}, "mnist_5k"), ({"trained_on": ["mixer-1--digits--3.keras"]}, "mixer"),
        ({**fine, "validated_on": ["mlp-0--mnist_5k@14--1000.keras"]}, "mnist_5k/14"),
    ):  # fmt: skip
        with pytest.raises(ArgumentError, match=f"got {got}. Train it without"):
            check_card("seen", {"data_models": other})
    with pytest.raises(ArgumentError, match="got mnist_5k/14"):
        check_card("seen", {"data_models": fine, "selection": {"models": ["mlp-2--mnist_5k@14--1000"]}})
    with pytest.raises(ArgumentError, match="expected a choice by validation splits"):
        check_card("tested", {"data_models": fine, "selection": {"models": ["mlp-2--digits--1000"], "split": "test"}})
    check_card("chosen well", {"data_models": fine, "selection": {"models": ["mlp-2--digits--1000"], "split": "validation"}})
    with pytest.raises(ArgumentError, match="expected seeds below 1010 in its card, got vit-3--digits--1011.keras"):
        check_card("chosen", {"data_models": {**fine, "validated_on": ["vit-3--digits--1011.keras"]}})
    with pytest.raises(ArgumentError, match="got mlp-2--digits--1010.keras"):
        check_card("selected", {"data_models": fine, "selection": {"models": ["mlp-2--digits--1010"]}})


def _curves(**tests):
    """Curves that are the same on both splits, of two speed-ups and the objective."""
    return {way.replace("_with_", " with "): np.repeat(np.float64(rows)[:, :, None], 2, 2) for way, rows in tests.items()}


def test_seeds_of_one_recipe_are_told_as_their_mean_and_other_metanetworks_are_not():
    files = [DataModelFile("mlp", 0, "digits", 1010), DataModelFile("vit", 0, "digits", 1010)]
    curves = _curves(
        group_l2=[[90, 80, 85], [70, 60, 65]], a=[[91, 82, 87], [70, 61, 66]], b=[[93, 80, 87], [72, 65, 68]],
        choice=[[90, 80, 85], [70, 60, 65]], choice_with_a=[[91, 82, 87], [70, 60, 65]], choice_with_b=[[91, 80, 86], [70, 62, 67]],
    )  # fmt: skip
    networks = ["mlp-0--digits--0.keras", "vit-0--digits--0.keras"]
    rivals = {
        name: Rival(None, {"training": {"seed": seed, "steps": 5}, "data_models": {"trained_on": networks[:: 1 - 2 * seed]}}, name)
        for seed, name in enumerate("ab")
    }  # fmt: skip
    lines = list(lead_tables(curves, files, 97.0, (2.0, 4.0), rivals))
    assert lines[0] == "| 2 nets, unpruned 97.0 | 2x | 4x | objective |"
    assert "| a | 80.5 | 71.5 | 76.5 |" in lines
    means = lines[lines.index("| mean of a, b minus group_l2 | 2x | 4x | objective |") :]
    assert means[2].startswith("| all | +1.5 (") and means[2].count(" | +2.0 (") == 2
    assert "| mlp, 1 net | +2.0 | 4x: +1.0 |" in means
    tried = lines[lines.index("| choice with each, mean of a, b, minus choice | 2x | 4x | objective |") :]
    assert tried[2].startswith("| all | +0.5 (") and tried[2].split(" | ")[2].startswith("+1.0 (")
    assert tried[5:8] == ["|---|---|---|", "| mlp, 1 net | +1.5 | 2x: +1.0 |", "| vit, 1 net | +1.0 | 2x: +0.0 |"]
    assert tried[8] == "| each of 2 families once | +1.2 (+1.5, +1.0) | 2x: +0.5 (+1.0, +0.0) |"
    best = tried[tried.index("| choice with each, mean of a, b, minus group_l2 | 2x | 4x | objective |") :]
    assert best[2] == tried[2]  # the choice among criteria was group_l2 throughout
    alone = lines[lines.index("| choice with a minus | 2x | 4x | objective |") :]
    assert alone[2].startswith("| choice | +0.5 (") and alone[3] == alone[2].replace("choice", "group_l2 (the best criterion)")
    for part, other in {"training": {"seed": 1, "steps": 6}, "data_models": {"trained_on": networks[:1]}}.items():
        changed = {**rivals, "b": Rival(None, {**rivals["b"].card, part: other}, "b")}
        assert not any("mean of" in line for line in lead_tables(curves, files, 97.0, (2.0, 4.0), changed))


def test_families_count_once_each(tmp_path):
    leads = {"plain_cnn-2--digits--1010": (4.0, 2.0), "plain_cnn-3--digits--1011": (2.0, 2.0), "vit-2--digits--1010": (9.0, -1.0)}
    lines = []
    for net, (nearest, chosen) in leads.items():
        def line(way, repair, speedup, test, error, net=net):
            scores = {"validation": 0.0, "test": test, "error": error}
            return {"net": f"{net}.keras", "way": way, "repair": repair, "speedup": speedup, "budget": 0, **scores}

        lines.append(line("unpruned", None, 1.0, 0.9, None))
        for speedup in over_families.SPEEDUPS:
            ways = {"group_l2": (0.5, 3.0), "group_l2_fisher": (0.6, 2.0), "universal": (0.6 + nearest / 100, 4.0)}
            part = {f"universal, {name}": (0.6 + chosen / 100, 1.0) for name in over_families.STRENGTHS}
            lines += [line(way, "bn", speedup, *found) for way, found in {**ways, **part}.items()]
    lines.append({**lines[1], "net": "mlp-2--digits--1010.keras"})  # not complete
    (tmp_path / "page.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    for ours, theirs, wanted in (
        ("universal", "group_l2_fisher", (4, 2, 9)), ("universal at the nearest strength", "choice", (2, 2, -1)),
        ("choice with universal", "group_l2", (10, 10, 10)),
    ):  # fmt: skip
        families, lead = over_families.lead_of(tmp_path, over_families.Lead("page", "bn", (ours,), theirs))
        assert families == ["plain_cnn", "plain_cnn", "vit"]
        np.testing.assert_allclose(lead[:, :-1], np.tile(np.array(wanted)[:, None], 6), atol=1e-9)
        assert np.all(np.abs(lead[:, -1]) < np.abs(wanted))  # of 1x, where all are equal, a part
    np.testing.assert_allclose(family_means(families, [1.0, 3.0, 5.0])[1], [2.0, 5.0])
    (tmp_path / "page.jsonl").write_text("\n".join(map(json.dumps, [*lines, lines[1]])), encoding="utf-8")
    with pytest.raises(ValueError, match="stands there twice"):
        over_families.read(tmp_path / "page.jsonl")


def test_the_page_over_families_is_what_the_logs_tell():
    docs = pathlib.Path(__file__).resolve().parents[2] / "docs"
    page = (docs / "over_families.md").read_text(encoding="utf-8")
    assert over_families.report(docs, "python benchmarks/over_families.py --out docs/over_families.md") == page


def test_the_plot_lies_beside_the_page_that_shows_it(tmp_path):
    curves = _curves(group_l2=[[90, 80, 85]], choice=[[91, 80, 85]])
    line = plot(tmp_path / "page.md", curves, 97.0, (2.0, 4.0), "bn", 15)
    assert line.endswith("(plots/page-bn-15.svg)") and "15 epochs, mean over 1 net" in line
    drawn = (tmp_path / "plots" / "page-bn-15.svg").read_text(encoding="utf-8")
    assert drawn.count("<!-- group_l2 -->") == 1 and drawn.count("<!-- choice -->") == 1


def test_budgets_are_compared_on_the_networks_that_all_ways_have_been_measured_on():
    ways = ["group_l2", "from scratch"]
    scores = {"plain_cnn-2--mnist_5k@14--1010.keras": (0.9, 0.8), "mlp-2--mnist_5k@14--1010.keras": (0.7, 0.65)}
    lines = [
        {"net": net, "way": way, "test": test, "unpruned": 0.97, "seconds": 5.0}
        for net, tests in scores.items() for way, test in zip(ways, tests)
    ]  # fmt: skip
    lines.append({**lines[0], "net": "mlp-3--mnist_5k@14--1011.keras"})
    options = argparse.Namespace(ways=ways, speedup=8.0, num_models=2)
    names, sizes = [*scores, "mlp-3--mnist_5k@14--1011.keras"], {"train": 3000, "validation": 500, "test": 1500}
    page = budget.report(lines, names, sizes, options, "python benchmarks/budget.py")
    assert "(3000 examples to train on, 1500 to test on) at 8x" in page
    assert "| 2 nets, unpruned 97.0 | accuracy | minus group_l2 | mlp | plain_cnn | seconds |" in page
    assert "| group_l2 | 80.0 |  | 70.0 | 90.0 | 5 |" in page
    assert "| from scratch | 72.5 | -7.5 (-10.0, -5.0) | 65.0 | 80.0 | 5 |" in page
    assert "Made by `python benchmarks/budget.py`." in page and "**taylor**" not in page


def test_from_scratch_trains_the_widths_that_group_l2_leaves(monkeypatch):
    model, rng = plain_cnn((8, 8, 1), 3, widths=(8, 12), depth=1), np.random.default_rng(0)
    y = rng.integers(0, 3, 96)
    x = rng.normal(0, 0.1, (96, 8, 8, 1)).astype(np.float32)
    x += (np.arange(8) < 2 * y[:, None] + 2)[:, :, None, None]  # a class is a number of bright rows
    train, starts, run = tf.data.Dataset.from_tensor_slices((x, y)).batch(64), [], budget.Training.run

    def recorded(self, start, *arguments):
        starts.append(start.get_weights())
        run(self, start, *arguments)

    monkeypatch.setattr(budget, "STEPS", 200)
    monkeypatch.setattr(budget.Training, "run", recorded)
    small = budget.made(model, train, "from scratch", 2.0, 5, 0)
    plan = make_plan(trace_model(model), speedup=2.0, step=1.0)
    wanted = budget.rebuild_model(trace_model(model), plan)
    assert [weight.shape for weight in small.weights] == [weight.shape for weight in wanted.weights]
    assert not np.allclose(starts[0][0], wanted.get_weights()[0])
    monkeypatch.setattr(budget, "STEPS", 1)
    budget.made(model, train, "from scratch", 2.0, 1, 0)
    assert all(np.array_equal(first, second) for first, second in zip(*starts, strict=True))
    assert np.mean(small(x).numpy().argmax(1) == y) > 0.9


def _save(folder, file, weights):
    with zipfile.ZipFile(folder / file.file_name, "w") as archive:
        archive.writestr("model.weights.h5", weights)


def test_the_choice_takes_the_smallest_error_and_lines_serve_the_network_they_are_of(tmp_path):
    file = DataModelFile("mlp", 2, "digits", 1010)
    _save(tmp_path, file, "some weights")
    options = argparse.Namespace(
        out=tmp_path / "page.md", metanetworks=["u"], num_models=1, speedups=[4.0, 2.0], budgets=[0], repairs=["bn"],
        ways=["group_l2", "group_l2_fisher", "u"], settings=["five families, data that metanetworks train on"],
    )  # fmt: skip
    bench = Bench(options, {"u": Rival(None, {"command": "train"}, "abcd")}, tmp_path)
    scores = {"group_l2": (0.7, 0.5), "group_l2_fisher": (0.8, 0.4), "u": (0.9, None)}  # accuracy, and error at 2x; u cannot reach 4x
    keys = bench.keys(file)
    assert len(keys) == 7 and keys[0] == (file.file_name, file.digest(tmp_path), *UNPRUNED)
    for key in keys:
        line = dict(zip(KEY, key))
        way, speedup = line["way"], line["speedup"]
        if way == "unpruned":
            found = {"validation": 0.95, "test": 0.9}
        else:
            value, error = (0.0, None) if (way, speedup) == ("u", 4.0) else scores[way]
            found = {"validation": value, "test": value, "error": 0.3 if (way, speedup) == ("u", 2.0) else error}
        with bench.log.open("a", encoding="utf-8") as log:
            print(json.dumps({**line, **found}), file=log)
    done = bench.lines()
    assert all(key in done for key in keys)
    curves = bench.curves(done, [file], "bn", 0)
    assert curves["choice"][0, :2, 1].tolist() == [80.0, 80.0]
    assert curves["choice with u"][0, :2, 1].tolist() == [90.0, 80.0]
    assert curves["u"][0, -1, 1] == pytest.approx(100 * ((0.9 + 0.9) / 2 + (0.9 + 0.0) / 2) / 2)
    assert "choice with u" in bench.report({"mine": [file]}) and "--metanetworks u" in bench.command
    _save(tmp_path, file, "others")
    other = Bench(options, bench.rivals, tmp_path)
    assert not any(key in done for key in other.keys(file))
    assert "1 net" not in other.report({"mine": [file]})


def _made_by(without, trace, statistics, folder):
    """The weights and scores of a metanetwork with random numbers for its own, which is saved as a training saves it."""
    metanet = ablations.Blinded(without, MetaNetConfig(hidden=4, num_layers=2, fisher_weight=1.0))
    generate(metanet, trace, statistics)
    rng = np.random.default_rng(0)
    for variable in metanet.trainable_variables:
        variable.assign(rng.normal(size=variable.shape) / 4)
    weights, score = generate(metanet, trace, statistics)
    tf.train.Checkpoint(model=metanet).save(str(folder / "checkpoint"))
    return {key: value.numpy() for key, value in weights.items()}, score


def test_each_ablation_takes_away_what_it_says(tmp_path):
    data = [np.random.default_rng(0).normal(size=(8, 8, 8, 1)).astype(np.float32)]
    trace = trace_model(reestimate_bn(residual_cnn((8, 8, 1), 4, widths=(4, 6)), data))
    statistics = channel_statistics(trace, data)
    weights, score = _made_by("", trace, statistics, tmp_path)
    own = {key: get_weight(call.layer, key[1]).numpy() for call in trace.calls for key in weights if key[0] == call.path}
    parts = "statistics", "batch_norm", "parameters", "kernels", "residuals"
    blind = {each: _made_by(each, trace, statistics, tmp_path) for each in parts}
    for name, (made, scores) in blind.items():
        assert any(not np.allclose(made[key], weights[key]) for key in made) and not np.allclose(scores, score), name
    made, scores = _made_by("weights", trace, statistics, tmp_path)
    assert all(np.array_equal(made[key], own[key]) for key in made) and np.array_equal(scores, score)
    made, scores = _made_by("scores", trace, statistics, tmp_path)
    assert all(np.array_equal(made[key], weights[key]) for key in made) and not np.allclose(scores, score)
    others = channel_statistics(trace, [5 * data[0] + 1])
    for name in ("statistics", ""):  # what is not seen makes no difference, but for where the scores start
        made = _made_by(name, trace, others, tmp_path)[0]
        assert all(np.array_equal(made[key], (blind[name][0] if name else weights)[key]) for key in made) == bool(name)
    plain = trace_model(plain_cnn((8, 8, 1), 4))
    statistics = channel_statistics(plain, data)
    for one, other in zip(*(_made_by(each, plain, statistics, tmp_path)[0].values() for each in ("residuals", ""))):
        np.testing.assert_array_equal(one, other)


def test_networks_of_another_machine_have_a_table_of_their_own(tmp_path):
    bench = ablations.Bench.__new__(ablations.Bench)  # without its networks
    bench.log, bench.zoo, bench.judges = tmp_path / "log.jsonl", "here", [None, None]
    bench.files = [DataModelFile("mlp", 0, "digits", seed) for seed in range(3)]
    lines = [
        ("there", None, 0.5), ("there", "whole", 0.6), ("there", "hidden_8", 0.7), ("here", None, 0.4), ("here", "whole", 0.8),
        ("new", "whole", 0.9),
    ]  # fmt: skip
    text = [
        json.dumps({"zoo": zoo, "case": case, "accuracy": [[accuracy] * 6] * 2, "unpruned": [accuracy] * 2, "parameters": 9})
        for zoo, case, accuracy in lines
    ]  # fmt: skip
    bench.log.write_text("\n".join(text), encoding="utf-8")
    assert bench.zoos() == ["here", "there"]  # of a third one there is nothing to compare with
    first, second = bench.report("python benchmarks/ablations.py", ["hidden_8"]).split("Other cases, on networks that another machine")
    assert "trained for 1000 steps on 3 networks" in first and "| untrained | 40.0 |" in first and "| whole | 80.0 |" in first
    assert "| hidden_8 | 70.0 |" in second and "| +10.0 (+10.0, +10.0) | 9 |" in second and "| hidden_8 |" not in first
