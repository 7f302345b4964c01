"""What is recorded of a pruning for its page, and how it is drawn: every call, every channel, every weight counts once."""

import json

import numpy as np
import pytest
from zoo import ZOO

from tfmetaprune import pipeline
from tfmetaprune._keras import keras
from tfmetaprune.pruning import cost, make_plan, rebuild_model
from tfmetaprune.record import NUM_BINS, record_network
from tfmetaprune.report.page_graph import make_blocks, make_nodes
from tfmetaprune.report.page_layout import place
from tfmetaprune.trace import trace_model

MODELS = ["concat_then_add", "grouped", "layer_norm_mlp", "residual_projection", "shared_layer", "two_inputs_outputs", "unknown_layer"]


@pytest.mark.parametrize("name", MODELS)
def test_records_sum_up_to_the_model(name):
    trace = trace_model(ZOO[name]())
    plan = make_plan(trace, speedup=1.3, step=0.2)
    small = rebuild_model(trace, plan)
    network = json.loads(json.dumps(record_network(trace, small, keep=plan.keep, zeros=True)))
    assert len(network["calls"]) == len(trace.calls)
    for side, total in enumerate((cost(trace), cost(trace, plan.keep))):
        assert sum(call["macs"][side] for call in network["calls"]) == total.macs
        assert sum(call["parameters"][side] for call in network["calls"]) == total.parameters
    nonzero = sum(int(np.count_nonzero(weight)) for weight in small.get_weights())
    assert sum(call["nonzero"] or 0 for call in network["calls"]) == nonzero
    for call in network["calls"]:
        for made in call["made"]:
            assert len(made["norms"]) == len(made["kept"]) and len(made["zeros"]) == made["kept"].count("1")
        for histogram in call["histograms"].values():
            assert len(histogram["before"]) == len(histogram["after"]) == NUM_BINS
    layer = next(call for call in network["calls"] if any("0" in made["kept"] for made in call["made"]))
    assert sum(layer["histograms"]["weights"]["after"]) < sum(layer["histograms"]["weights"]["before"])


def test_norms_zeros_and_histograms_are_those_of_the_weights():
    model = keras.Sequential([keras.layers.Dense(4, input_shape=(10,), name="wide"), keras.layers.Dense(2)])
    kernel = np.zeros((10, 4), np.float32)
    kernel[0], kernel[1, 3] = [0.5, 1.0, 2.0, 4.0], 4.0
    model.layers[0].set_weights([kernel, np.zeros(4)])
    trace = trace_model(model)
    record = record_network(trace, model, weights={("wide", "kernel"): 2 * kernel}, zeros=True)["calls"][0]
    assert record["made"] == [{"weight": "kernel", "norms": "0139", "kept": "1111", "zeros": "9998", "sparsity": 35 / 40}]
    assert record["change"] == pytest.approx(1.0) and record["nonzero"] == 5
    histogram = record["histograms"]["weights"]
    assert histogram["before"] == histogram["after"] != histogram["metanetwork"]
    assert histogram["before"][NUM_BINS // 2] == 35 and sum(histogram["metanetwork"]) == 40


def test_a_result_can_be_saved(tmp_path):
    model = keras.Sequential([keras.layers.Dense(8, "relu", input_shape=(4,)), keras.layers.Dense(2)])
    result = pipeline.prune(model, speedup=1.5, metanetwork=None, finetune=None)
    result.save(tmp_path / "new" / "folder")
    assert sorted(path.name for path in (tmp_path / "new" / "folder").iterdir()) == [
        "model.keras", "network.json", "plan.json", "report.json",
    ]  # fmt: skip
    saved = json.loads((tmp_path / "new" / "folder" / "network.json").read_text())
    assert saved == json.loads(json.dumps(result.network)) and saved["inputs"] == [{"name": model.input_names[0], "width": [4, 4]}]


@pytest.mark.parametrize("name", MODELS)
def test_every_node_is_drawn_in_one_block(name):
    network = record_network(trace_model(ZOO[name]()), ZOO[name]())
    nodes = make_nodes(network)
    assert sum(len(node.calls) for node in nodes) == len(network["calls"]) + len(network["inputs"])
    blocks = make_blocks(nodes)
    assert [node for block in blocks for node in block.nodes] == list(range(len(nodes)))
    for block in blocks:  # nothing comes in but through the entry
        inside = {block.entry, *block.nodes}
        assert all(set(nodes[index].inputs) <= inside for index in block.nodes)


@pytest.mark.parametrize("seed", range(5))
def test_layout_has_room_for_everything(seed):
    rng = np.random.default_rng(seed)
    count = int(rng.integers(1, 25))
    edges = sorted({tuple(sorted(pair)) for pair in rng.integers(0, count, (2 * count, 2)).tolist() if pair[0] != pair[1]})
    sizes = [(float(rng.integers(10, 150)), 30.0) for _ in range(count)]
    placement = place(sizes, edges)
    boxes = [(x - w / 2, y - h / 2, x + w / 2, y + h / 2) for (x, y), (w, h) in zip(placement.centres, sizes)]
    assert min(box[0] for box in boxes) >= -1e-6 and max(box[2] for box in boxes) <= placement.width + 1e-6
    assert min(box[1] for box in boxes) >= 0 and max(box[3] for box in boxes) <= placement.height + 1e-6
    for index, one in enumerate(boxes):
        for other in boxes[index + 1 :]:
            assert one[2] <= other[0] + 1e-6 or other[2] <= one[0] + 1e-6 or one[3] <= other[1] or other[3] <= one[1]
    for (source, target), path in zip(edges, placement.paths):
        assert path[0] == pytest.approx((placement.centres[source][0], boxes[source][3]))
        assert path[-1] == pytest.approx((placement.centres[target][0], boxes[target][1]))
        assert all(upper[1] <= lower[1] for upper, lower in zip(path, path[1:]))
