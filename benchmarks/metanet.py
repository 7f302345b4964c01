"""Measures a pass of a metanetwork over the graphs of networks, at the sizes of the paper.

Each network and each kind of message passing is measured in a process of its own: seconds of the first pass (with tracing
and compiling) and of later ones (median); the seconds of copying the edge states once for every layer, in turn with those;
the peak of the process' memory above what it needed with the model and its encoded graph; the same for forward and backward
together. With --generic, one pass of TF-GNN's generic message passing on the same graph. Prints a line of JSON for each
and, with --out, puts it into a table in Markdown. With --identity, passes instead every architecture of Keras Applications through
one untrained metanetwork of the default size, which must change no bit.
Usage: python benchmarks/metanet.py [--models ResNet50 ...] [--repeats 3] [--generic ResNet50 ...] [--traced ResNet50 ...]
[--out FILE] | --identity [NAME ...]
"""

import argparse
import gc
import json
import multiprocessing
import os
import pathlib
import platform
import statistics
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from memory import PeakMemory

# num_layers, hidden, ratio as published; the sizes of ResNet-50 for what the paper does not have
SIZES = {
    "ResNet56": (8, 64), "VGG19": (8, 32), "MobileNetV2": (6, 16), "ResNet50": (6, 16), "ConvNeXtTiny": (6, 16),
    "ViT-B/16": (3, 4), "NASNetLarge": (6, 16), "EfficientNetV2L": (6, 16),
}  # fmt: skip
TABLE = ("ResNet56", "VGG19", "MobileNetV2", "ResNet50", "ConvNeXtTiny", "ViT-B/16")
HEADER = """# Speed and memory of the metanetwork

Made by `python benchmarks/metanet.py --out docs/metanet_speed.md`. {versions}, a shared machine. Rows are measured
one by one and kept in the file `.jsonl` beside; other work on the machine at that time makes seconds larger, and a long copy
column shows it.

*State*: the edge states in float32, edges x d x 4 bytes. *First*: the first pass of a process, tracing and compiling included;
*later*: the median of those that follow. *Copies*: copying the edge states once for each of the L layers by one thread, measured
in turn with the passes; *later / copies* is the ratio to that limit of the memory's bandwidth. *Peak*: memory above what the
process held with the model and its encoded graph. *Generic*: one pass of the same metanetwork by TF-GNN's broadcast and pool.
*Traced*: the same pass as one `tf.function`: first, later, later / copies, peak.
*bfloat16*: with edge states in bfloat16 and random variables, the RMS error of the changes of the weights, relative to their RMS.

"""
FORWARD_ONLY = ("NASNetLarge", "EfficientNetV2L")
KINDS = ("published", "sum_rms")


def make_model(name):
    """Builds a network with random weights."""
    import networks

    from tfmetaprune._keras import keras

    own = {"ResNet56": networks.resnet, "VGG19": networks.vgg19, "ViT-B/16": networks.vit}
    return own[name]() if name in own else getattr(keras.applications, name)(weights=None)


def copy_seconds(old, new, times):
    """Seconds of copying an array some times."""
    started = time.perf_counter()
    for _ in range(times):
        np.copyto(new, old)
    return time.perf_counter() - started


def bfloat16_error(metanet, graph, layout):
    """How far bfloat16 edge states move the changes of the weights: RMS of the difference over RMS of the changes.

    All variables are drawn anew, so that the metanetwork changes something; they stay that way.
    """
    from tfmetaprune.graph import schema

    rng = np.random.default_rng(0)
    for variable in metanet.weights:
        variable.assign(rng.normal(size=variable.shape) / np.sqrt(variable.shape[0]))
    found = {}
    for edge_state in ("float32", "bfloat16"):
        metanet.edge_state = edge_state
        edge_sets = metanet(graph, layout).edge_sets
        found[edge_state] = np.concatenate([
            np.ravel(edge_sets[name][schema.WEIGHT] - graph.edge_sets[name][schema.WEIGHT])
            for name in edge_sets if name != schema.IDENTITY
        ])  # fmt: skip
    metanet.edge_state = "auto"
    return float(np.std(found["bfloat16"] - found["float32"]) / np.std(found["float32"]))


def measure(name, kind, repeats, generic, traced, queue):
    """Measures one network with one kind of message passing, and puts the row into the queue."""
    from tfmetaprune._keras import keras, tf, tfgnn
    from tfmetaprune.graph import encode_graph, graph_layout, schema
    from tfmetaprune.metanet import MetaNetConfig, MetaNetwork
    from tfmetaprune.trace import trace_model

    tfgnn()
    num_layers, hidden = SIZES[name]
    keras.utils.set_random_seed(0)
    trace = trace_model(make_model(name))
    graph, layout = encode_graph(trace), graph_layout(trace)
    metanet = MetaNetwork(MetaNetConfig(hidden=hidden, num_layers=num_layers, message_passing=kind))
    num_edges = sum(int(edge_set.total_size) for edge_set in graph.edge_sets.values())
    row = {"model": name, "kind": kind, "layers": num_layers, "hidden": hidden, "edges": num_edges}
    row |= {"nodes": int(graph.node_sets[schema.CHANNEL].total_size), "state_gb": 4e-9 * num_edges * hidden}

    def forward_backward():
        with tf.GradientTape() as tape:
            found = metanet(graph, layout)
            values = [edges[schema.WEIGHT] for name, edges in found.edge_sets.items() if name != schema.IDENTITY]
            loss = tf.add_n([tf.reduce_sum(value) for value in (*values, found.node_sets[schema.CHANNEL][schema.SCORE])])
        tape.gradient(loss, metanet.trainable_variables)

    def timed(run, times):
        seconds, copies, peak = [], [], 0
        for _ in range(times):
            gc.collect()
            with PeakMemory() as memory:
                started = time.perf_counter()
                run()
                seconds.append(time.perf_counter() - started)
            peak = max(peak, memory.peak_gb)
            old = np.ones(min(num_edges * hidden, 2**30), np.float32)  # larger states: a part, and its share of the time
            new = np.ones_like(old)
            copies.append(copy_seconds(old, new, num_layers) * num_edges * hidden / old.size)
            del old, new
        return seconds, statistics.median(copies), peak

    (row["first_seconds"], *seconds), copied, row["peak_gb"] = timed(lambda: metanet(graph, layout), repeats + 1)
    row["seconds"], row["copy_seconds"] = statistics.median(seconds), copied
    row |= {"to_copy": row["seconds"] / copied, "edges_per_second": num_edges * num_layers / row["seconds"]}
    row["overhead_seconds"] = row["first_seconds"] - row["seconds"]
    if traced:
        function = tf.function(lambda: metanet(graph, layout), autograph=False)
        (row["traced_first_seconds"], *seconds), copied, row["traced_peak_gb"] = timed(function, repeats + 1)
        row |= {"traced_seconds": statistics.median(seconds), "traced_to_copy": statistics.median(seconds) / copied}
    if name not in FORWARD_ONLY:
        (first, *seconds), _, row["backward_peak_gb"] = timed(forward_backward, 2)
        row |= {"backward_first_seconds": first, "backward_seconds": statistics.median(seconds)}
    if row["state_gb"] < 2:
        row["bfloat16_error"] = bfloat16_error(metanet, graph, layout)
    if generic:
        (row["generic_seconds"],), _, _ = timed(lambda: metanet(graph, dense=False), 1)
        row["generic_to_tiles"] = row["generic_seconds"] / row["seconds"]
    queue.put(row)


def check_identity(name, queue):
    """Passes one architecture through an untrained metanetwork, and puts into the queue whether it came out as it was."""
    from tfmetaprune._keras import keras, tfgnn
    from tfmetaprune.graph import encode_graph, graph_layout, schema
    from tfmetaprune.metanet import MetaNetwork
    from tfmetaprune.trace import trace_model

    tfgnn()
    trace = trace_model(getattr(keras.applications, name)(weights=None))
    graph, metanet = encode_graph(trace), MetaNetwork()
    with PeakMemory() as memory:
        started = time.perf_counter()
        found = metanet(graph, graph_layout(trace))
        seconds = time.perf_counter() - started
    nodes, new = graph.node_sets[schema.CHANNEL], found.node_sets[schema.CHANNEL]
    same = np.array_equal(new[schema.PARAMETERS], nodes[schema.PARAMETERS]) and not np.any(new[schema.SCORE])
    num_edges = 0
    for edge_set, edges in graph.edge_sets.items():
        num_edges += int(edges.total_size)
        if edge_set != schema.IDENTITY:
            same &= np.array_equal(found.edge_sets[edge_set][schema.WEIGHT], edges[schema.WEIGHT])
    row = {"model": name, "edges": num_edges, "identity": bool(same), "first_seconds": round(seconds, 2)}
    queue.put(row | {"peak_gb": round(memory.peak_gb, 2)})


def in_process(function, *arguments):
    """Calls function(*arguments, queue) in a process of its own; returns what it puts into the queue."""
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=function, args=(*arguments, queue))
    process.start()
    process.join()
    if process.exitcode:
        raise SystemExit(f"{arguments[0]}: the process ended with exit code {process.exitcode}.")
    return queue.get()


def table(rows) -> str:
    """Writes rows as Markdown."""
    def cell(row, name, form="{:.2f}"):
        return form.format(row[name]) if name in row else "-"

    lines = [
        "| network | L, d | edges, M | state, GB | message passing | first, s | later, s | copies, s | later / copies "
        "| peak, GB | traced: first, later, later / copies, peak | edges x L / s, M | forward + backward, s | its peak, GB "
        "| generic, s | generic / later | bfloat16 |",
        "|---" * 17 + "|",
    ]
    for row in rows:
        lines.append("| " + " | ".join([
            row["model"], f"{row['layers']}, {row['hidden']}", f"{row['edges'] / 1e6:.2f}", cell(row, "state_gb"), row["kind"],
            cell(row, "first_seconds", "{:.1f}"), cell(row, "seconds"), cell(row, "copy_seconds", "{:.3f}"),
            cell(row, "to_copy", "{:.1f}"), cell(row, "peak_gb"),
            ", ".join(cell(row, f"traced_{key}", "{:.1f}") for key in ("first_seconds", "seconds", "to_copy", "peak_gb")),
            f"{row['edges_per_second'] / 1e6:.0f}",
            cell(row, "backward_seconds"), cell(row, "backward_peak_gb"), cell(row, "generic_seconds", "{:.1f}"),
            cell(row, "generic_to_tiles", "{:.0f}"), cell(row, "bfloat16_error", "{:.4f}"),
        ]) + " |")  # fmt: skip
    return "\n".join(lines) + "\n"


def write(path, row):
    """Puts a row in the place of an older one of the same network and kind, in the table and in a .jsonl file beside it."""
    kept = path.with_suffix(".jsonl")
    rows = [json.loads(line) for line in kept.read_text(encoding="utf-8").splitlines()] if kept.exists() else []
    rows = [other for other in rows if (other["model"], other["kind"]) != (row["model"], row["kind"])] + [row]
    rows.sort(key=lambda row: (list(SIZES).index(row["model"]), row["kind"]))
    kept.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    versions = f"Python {platform.python_version()}, {os.cpu_count()} cores, CPU only"
    path.write_text(HEADER.format(versions=versions) + table(rows), encoding="utf-8")


def main():
    """Measures what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="*", default=TABLE, choices=SIZES, metavar="NAME")
    parser.add_argument("--kinds", nargs="+", default=KINDS, choices=KINDS)
    parser.add_argument("--generic", nargs="*", default=["ResNet56", "MobileNetV2", "ResNet50"], metavar="NAME")
    parser.add_argument("--traced", nargs="*", default=["ResNet50"], metavar="NAME", help="networks to pass as one tf.function too")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=pathlib.Path)
    parser.add_argument("--identity", nargs="*", metavar="NAME", help="of these architectures, of all 40 without names")
    options = parser.parse_args()
    if options.identity is not None:
        from coverage import ARCHITECTURES

        rows = []
        for name in options.identity or ARCHITECTURES:
            rows.append(in_process(check_identity, name))
            print(json.dumps(rows[-1]), flush=True)
        print(json.dumps({"architectures": len(rows), "unchanged": sum(row["identity"] for row in rows)}))
        return
    for name in options.models:
        for kind in options.kinds:
            row = in_process(measure, name, kind, options.repeats, name in options.generic, name in options.traced)
            row = {key: round(value, 4) if isinstance(value, float) else value for key, value in row.items()}
            print(json.dumps(row), flush=True)
            if options.out:
                write(options.out, row)


if __name__ == "__main__":
    main()
