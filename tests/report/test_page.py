"""The HTML page of a pruning: what is on it, what it says of broken folders, how it looks in a browser."""

import html.parser
import json
import re
import shutil
import struct

import pytest
from browser import CHROMIUM, Browser
from typer.testing import CliRunner

from tfmetaprune import MetaNetConfig, MetaNetwork, data, pipeline, report_measurements, ways
from tfmetaprune._keras import keras
from tfmetaprune.cli import app
from tfmetaprune.errors import ArgumentError, NothingToPruneError
from tfmetaprune.metatrain.zoo import residual_cnn
from tfmetaprune.report.page import make_page, write_report
from tfmetaprune.report.page_html import VOID
from tfmetaprune.report_measurements import measure_curve, model_files

SECTIONS = ["figures", "curve", "latency", "network", "channels", "weights", "settings"]
CURVE = {"curves": {"metanetwork": [[1.0, 0.98], [2.0, 0.9]], "random": [[1.0, 0.98], [2.1, 0.42]]}, "note": "Right after pruning."}
LATENCY = {
    "num_threads": 1,
    "models": [
        {"name": "Original", "latency": {"median_ms": 3.0, "p10_ms": 2.9, "p90_ms": 3.4}},
        {"name": "Pruned", "latency": {"median_ms": 1.5, "p10_ms": 1.4, "p90_ms": 1.6}},
    ],
}  # fmt: skip


@pytest.fixture(scope="module")
def digits():
    return data.load("digits", batch_size=64, seed=0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, digits):
    """A folder with all that a page can show: a metanetwork that changes the weights, a curve, latencies."""
    keras.utils.set_random_seed(0)
    network = MetaNetwork(MetaNetConfig(hidden=4, num_layers=1))
    for variable in network.trainable_variables:  # an untrained one changes nothing
        variable.assign_add(keras.backend.random_normal(variable.shape, stddev=0.05, seed=1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ways, "STRENGTHS", (ways.FULL,))  # its weights are used
        result = pipeline.prune(
            residual_cnn((8, 8, 1), 10, widths=(8, 12)), digits.train, validation_data=digits.validation, speedup=2.0,
            metanetwork=network, finetune=1, repair="bn",
        )  # fmt: skip
    path = tmp_path_factory.mktemp("report") / "out"
    result.save(path)
    (path / "curve.json").write_text(json.dumps(CURVE))
    (path / "latency.json").write_text(json.dumps(LATENCY))
    return path


@pytest.fixture(scope="module")
def sparse_folder(tmp_path_factory):
    model = keras.Sequential([keras.layers.Dense(24, "relu", input_shape=(6,), name="wide"), keras.layers.Dense(3)])
    result = pipeline.prune(model, method="unstructured", sparsity=0.75, metanetwork=None, finetune=None)
    path = tmp_path_factory.mktemp("report") / "sparse"
    result.save(path)
    return path


class Page(html.parser.HTMLParser):
    """Reads a page and notes what does not fit: elements that are not closed, ids that come twice, pictures without words."""

    def __init__(self, text):
        super().__init__()
        self.open, self.problems, self.ids, self.links, self.words = [], [], [], [], []
        self.feed(text)
        self.close()
        self.problems += [f"{name} stays open" for name in self.open]
        self.problems += [f"no target of {link}" for link in self.links if link[1:] not in self.ids]
        self.problems += ["an id twice"] if len(set(self.ids)) < len(self.ids) else []
        self.text = " ".join(" ".join(self.words).replace("\u202f", " ").split())

    def handle_starttag(self, name, attributes):
        attributes = dict(attributes)
        self.ids += [attributes["id"]] if "id" in attributes else []
        self.links += [attributes["href"]] if name == "a" else []
        if any(key in attributes for key in ("src", "srcset", "xlink:href")) or name in ("img", "iframe", "object", "base"):
            self.problems.append(f"{name} loads something")
        if name == "svg" and not attributes.get("aria-label") and attributes.get("aria-hidden") != "true":
            self.problems.append("a picture without words")
        if name not in VOID:
            self.open.append(name)

    def handle_endtag(self, name):
        if not self.open or self.open.pop() != name:
            self.problems.append(f"{name} closed out of turn")

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "script"):
            self.words.append(data)


def read(name, folder):
    return json.loads((folder / name).read_text())


def test_page_is_whole_and_loads_nothing(folder, sparse_folder):
    for path in (folder, sparse_folder):
        text = make_page(path)
        page = Page(text)
        assert not page.problems
        assert not re.findall(r"(?:https?:)?//[a-z]|@import|url\(", text)
        assert "%%" not in text
    assert [name for name in Page(make_page(folder)).ids if name in SECTIONS] == SECTIONS


def test_figures_are_those_of_the_report(folder, sparse_folder):
    report, text = read("report.json", folder), Page(make_page(folder)).text
    before, after = report["before"], report["finetuned"]
    assert f"{report['speedup']['reached']:.2f}\u00d7 fewer" in text
    for accuracy in (before["accuracy"], report["pruned"]["accuracy"], report["repaired"]["accuracy"], after["accuracy"]):
        assert f"{100 * accuracy:.1f} %" in text
    assert f"{before['parameters'] / 1000:.2f} k \u2192 {report['pruned']['parameters'] / 1000:.2f} k" in text
    assert "2.00\u00d7 as fast" in text and "1.50 ms" in text
    for name, width in report["widths"].items():
        if any(call["name"] == name and call["made"] for call in read("network.json", folder)["calls"]):
            kept = f"{width['after']} of {width['before']}" if width["after"] < width["before"] else f"all {width['before']}"
            assert f"{name} {kept} channels stay" in text
    text = Page(make_page(sparse_folder)).text
    assert "75.0 % of 2 layers\u2019 weights are zero" in text
    assert f"wide all 24 channels stay, {read('report.json', sparse_folder)['sparsity']['layers']['wide']['sparsity']:.0%}"[:-1] in text


def test_pictures_show_what_the_plan_dropped(folder):
    dropped = {name: len(entry["dropped"]) for name, entry in read("plan.json", folder)["groups"].items()}
    made = {call["name"]: made for call in read("network.json", folder)["calls"] for made in call["made"]}
    assert dropped and all(made[name]["kept"].count("0") == number for name, number in dropped.items())
    assert "after the metanetwork" in make_page(folder)
    histograms = [call["histograms"]["weights"] for call in made_calls(folder)]
    assert all(sum(one["before"]) == sum(one["metanetwork"]) >= sum(one["after"]) for one in histograms)
    assert any(one["before"] != one["metanetwork"] for one in histograms)


def made_calls(folder):
    return [call for call in read("network.json", folder)["calls"] if call["made"]]


def test_text_is_escaped(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    evil = "<b>\"'&</script><script>alert(1)</script>%%STYLE%%"
    network, report, curve = (read(f"{name}.json", copy) for name in ("network", "report", "curve"))
    network["name"] = network["calls"][0]["name"] = network["calls"][-1]["name"] = evil
    network["calls"][1]["frozen"] = network["inputs"][0]["name"] = evil
    report |= {"data": evil, "method": evil, "unknown_layers": [evil], "frozen": {evil: 1}}
    curve["curves"][evil] = curve["curves"].pop("random")
    for name, values in (("network", network), ("report", report), ("curve", curve)):
        (copy / f"{name}.json").write_text(json.dumps(values))
    text = make_page(copy)
    assert not Page(text).problems
    assert evil in Page(text).text and text.count("<script") == 1 and '<b>"' not in text


def test_page_without_what_was_not_measured(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    for name in ("curve.json", "latency.json", "network.json"):
        (copy / name).unlink()
    page = Page(make_page(copy))
    assert not page.problems and "prune again" in page.text and "--curve --data" in page.text and "--latency" in page.text
    assert "curve" not in page.ids and "latency" not in page.ids


def test_demonstration_has_a_page(folder, tmp_path):
    report = read("report.json", folder)
    costs = {"macs": 1000, "parameters": 900}
    rows = [{"name": name, "accuracy": 0.9 - 0.01 * index, **costs} for index, name in enumerate(
        ["original", "pruned with metanetwork", "  ... and fine-tuned", "pruned without", "  ... and fine-tuned"]
    )]  # fmt: skip
    rows += [
        {"name": f"TFLite {kind}, {name}", "accuracy": 0.8, **costs, "size_bytes": 12_345, "gzip_size_bytes": 9_000, "latency_ms": latency}
        for kind, name, latency in (("float32", "original", 0.06), ("int8", "original", 0.05), ("float32", "pruned", 0.03))
    ]
    demo = {"data": "digits", "seed": 0, "rows": rows, "curves": CURVE["curves"], "prune": {"with metanetwork": report, "without": report}}
    (tmp_path / "report.json").write_text(json.dumps(demo))
    page = Page(make_page(tmp_path))
    assert not page.problems
    expected = ("90.0 %", "88.0 %", "86.0 %", "12.3 kB", "60.0 \u00b5s", "2.00\u00d7 as fast", "Pruned without, fine-tuned", "test split")
    for words in expected:
        assert words in page.text


BROKEN = {
    "report.json": ("", "[]", "{}", '{"speedup": 1}', '{"rows": []}', '{"prune": {}, "rows": [1]}', "{"),
    "network.json": ("nonsense", "7", '{"format": 99}', '{"format": 1}', '{"format": 1, "name": "x", "inputs": [], "calls": [{}]}'),
    "curve.json": ("{}", '{"curves": {"x": 3}, "note": ""}', '{"curves": {"x": [[1, 0]]}}'),
    "latency.json": ("{}", '{"models": [{"name": "x"}], "num_threads": 1}'),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_are_one_readable_error(folder, tmp_path, name):
    copy = shutil.copytree(folder, tmp_path / "copy")
    for text in BROKEN[name]:
        (copy / name).write_text(text)
        with pytest.raises(ArgumentError, match=rf"^File '.*{name}': expected .*, got .*\. Make the folder again") as caught:
            make_page(copy)
        assert "\n" not in str(caught.value)
    (copy / name).write_bytes(b"\xff\xfe\x00")
    result = CliRunner().invoke(app, ["report", str(copy)])
    assert result.exit_code == 2 and result.stderr.startswith("Error: File") and result.stderr.count("\n") == 1


def test_folders_that_are_none(folder, tmp_path):
    with pytest.raises(ArgumentError, match="found no folder. Check the path"):
        make_page(tmp_path / "none")
    with pytest.raises(ArgumentError, match="expected a report.json in it, found none"):
        make_page(tmp_path)
    with pytest.raises(ArgumentError, match="expected a file that can be written"):
        write_report(folder, tmp_path / "none" / "page.html")
    with pytest.raises(ArgumentError, match="expected to find the model that was pruned, found none. Name it by --model"):
        model_files(folder)


def test_files_are_those_that_the_report_is_of(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / "original.keras").touch()  # what a demonstration has left
    report = {**read("report.json", copy), "model": str(tmp_path / "mine.keras")}
    (copy / "report.json").write_text(json.dumps(report))
    with pytest.raises(ArgumentError, match="expected to find the model that was pruned"):
        model_files(copy)
    (tmp_path / "mine.keras").touch()
    assert model_files(copy) == (tmp_path / "mine.keras", copy / "model.keras")
    (copy / "report.json").write_text(json.dumps({"rows": []}))
    with pytest.raises(ArgumentError, match="expected pruned.keras in it, found none"):
        model_files(copy)
    (copy / "pruned.keras").touch()
    assert model_files(copy) == (copy / "original.keras", copy / "pruned.keras")


def test_command(folder, sparse_folder, tmp_path):
    before = sorted(path.name for path in folder.iterdir())
    printed = CliRunner().invoke(app, ["report", str(folder), "--out", str(tmp_path / "page.html")])
    assert printed.exit_code == 0 and str(tmp_path / "page.html") in printed.output.replace("\n", "")
    assert (tmp_path / "page.html").read_text() == make_page(folder)
    assert sorted(path.name for path in folder.iterdir()) == before and len(list(tmp_path.iterdir())) == 1
    printed = CliRunner().invoke(app, ["report", str(sparse_folder), "--json"])
    assert json.loads(printed.output) == {
        "page": str(sparse_folder / "report.html"), "size_bytes": (sparse_folder / "report.html").stat().st_size
    }  # fmt: skip


def test_command_measures_latency(sparse_folder, tmp_path):
    copy = shutil.copytree(sparse_folder, tmp_path / "copy")
    arguments = ["report", str(copy), "--latency", "--model", str(copy / "model.keras"), "--quiet"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0 and not result.output, (result.output, result.exception)
    measured = read("latency.json", copy)
    assert [model["name"] for model in measured["models"]] == ["Original", "Pruned"]
    assert "latency" in Page((copy / "report.html").read_text()).ids
    (copy / "report.json").write_text((copy / "report.json").read_text() + "\n")  # pruned anew into the same folder
    assert "latency" not in Page(make_page(copy)).ids


def test_curve_is_measured_against_the_baselines(folder, sparse_folder, digits, tmp_path, monkeypatch):
    asked = []

    def prune(*arguments, metanetwork, **options):
        asked.append(metanetwork)
        return pipeline.prune(*arguments, metanetwork=None, **options)  # quick

    monkeypatch.setattr(report_measurements, "prune", prune)
    copy = shutil.copytree(folder, tmp_path / "copy")
    report = read("report.json", copy)
    (copy / "report.json").write_text(json.dumps({**report, "metanetwork": "digits"}))
    model = residual_cnn((8, 8, 1), 10, widths=(8, 12))
    arguments = (model, digits.train.take(1), digits.validation)
    measured = measure_curve(copy, *arguments, speedups=(1.5, 900.0))
    assert list(measured["curves"]) == ["metanetwork digits", "group L2", "random"]
    for curve in measured["curves"].values():
        assert [round(speedup, 1) for speedup, _ in curve] == [1.0, pytest.approx(1.5, abs=0.2)]
    assert len({curve[0][1] for curve in measured["curves"].values()}) == 1
    assert "(bn)" in measured["note"] and asked == ["digits"] * 2 + [None] * 4
    with pytest.raises(ArgumentError, match="expected the result of a pruning of channels"):
        measure_curve(sparse_folder, *arguments)


def test_a_curve_is_of_prunings_like_the_folders(folder, digits, tmp_path, monkeypatch):
    asked = []

    def prune(*arguments, criterion, metanetwork, seed, validation_data, finetune, repair, speedup, **options):
        asked.append((criterion, metanetwork, options))
        raise NothingToPruneError("enough")

    monkeypatch.setattr(report_measurements, "prune", prune)
    copy = shutil.copytree(folder, tmp_path / "copy")
    changed = {"round_to": 8, "traffic_weight": 0.05, "search_steps": 3, "criterion": "mine", "metanetwork": None}
    (copy / "report.json").write_text(json.dumps({**read("report.json", copy), **changed, "prepare": {"method": "x"}}))
    measured = measure_curve(copy, None, digits.train, digits.validation, speedups=(2.0,))
    same = {"round_to": 8, "traffic_weight": 0.05}
    assert asked == [("group_l2", None, {**same, "search_steps": 3}), ("random", None, same)]
    assert "Not repeated: its criterion, a function and its training before pruning." in measured["note"]
    (copy / "report.json").write_text(json.dumps({**read("report.json", copy), "prepare": None, "history": {"loss": 0.3}}))
    assert make_page(copy)


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium is installed: apt-get install chromium")
def test_page_in_a_browser(folder, tmp_path):
    write_report(folder, tmp_path / "page.html")
    with Browser() as browser:
        backgrounds = set()
        for width, dark in ((375, False), (375, True), (1280, False), (1280, True)):
            browser.open(tmp_path / "page.html", width=width, dark=dark)
            assert browser.run("document.documentElement.scrollWidth") <= width
            browser.run("document.querySelectorAll('details').forEach(one => { one.open = true })")
            assert browser.run("document.documentElement.scrollWidth") <= width
            assert browser.run("[...document.querySelectorAll('svg')].filter(one => one.getBoundingClientRect().width > 1).length") > 10
            backgrounds.add(browser.run("getComputedStyle(document.body).backgroundColor"))
            browser.screenshot(tmp_path / "page.png")
            picture = (tmp_path / "page.png").read_bytes()
            assert picture.startswith(b"\x89PNG") and struct.unpack(">I", picture[16:20])[0] == width
        assert len(backgrounds) == 2
        x, y = browser.run(
            "new Promise(done => { const one = document.querySelector('.layer-bars g'); one.scrollIntoView({block: 'center'});"
            "requestAnimationFrame(() => requestAnimationFrame(() => { const box = one.getBoundingClientRect();"
            "done([box.x + box.width / 2, box.y + box.height / 2]); })); })"
        )
        browser.hover(x, y)
        assert "MACs" in browser.run("document.getElementById('tip').hidden ? '' : document.getElementById('tip').textContent")
        browser.pdf(tmp_path / "page.pdf")
        assert (tmp_path / "page.pdf").read_bytes().startswith(b"%PDF")
    assert not browser.problems
