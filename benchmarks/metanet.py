"""Measures a pass of a metanetwork over the graphs of six networks, at the sizes of the paper.

Each network and each kind of message passing is measured in a process of its own: seconds of the first pass (with tracing
and compiling) and of later ones (median); the seconds of copying the edge states once for every layer, in turn with those;
the peak of the process' memory above what it needed with the model and its encoded graph; the same for forward and backward
together. With --generic, one pass of TF-GNN's generic message passing on the same graph. Prints a line of JSON for each
and, with --out, writes a table in Markdown.
Usage: python benchmarks/metanet.py [--models ResNet50 ...] [--repeats 5] [--generic ResNet50 ...] [--out FILE]
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
from graph import PeakMemory

# num_layers, hidden, ratio of METHOD.md; the sizes of ResNet-50 for what the paper does not have
SIZES = {
    "ResNet56": (8, 64), "VGG19": (8, 32), "MobileNetV2": (6, 16), "ResNet50": (6, 16), "ConvNeXtTiny": (6, 16),
    "ViT-B/16": (3, 4), "NASNetLarge": (6, 16), "EfficientNetV2L": (6, 16),
}  # fmt: skip
TABLE = ("ResNet56", "VGG19", "MobileNetV2", "ResNet50", "ConvNeXtTiny", "ViT-B/16")
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


def measure(name, kind, repeats, generic, queue):
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
    if name not in FORWARD_ONLY:
        (first, *seconds), _, row["backward_peak_gb"] = timed(forward_backward, 2)
        row |= {"backward_first_seconds": first, "backward_seconds": statistics.median(seconds)}
    if generic:
        (row["generic_seconds"],), _, row["generic_peak_gb"] = timed(lambda: metanet(graph, dense=False), 1)
        row["generic_to_tiles"] = row["generic_seconds"] / row["seconds"]
    queue.put(row)


def table(rows) -> str:
    """Writes rows as Markdown."""
    def cell(row, name, form="{:.2f}"):
        return form.format(row[name]) if name in row else "-"

    lines = [
        "| network | L, d | edges, M | state, GB | message passing | first, s | later, s | copies, s | later / copies "
        "| peak, GB | edges x L / s, M | forward + backward, s | its peak, GB | generic, s | generic / later |",
        "|---" * 15 + "|",
    ]
    for row in rows:
        lines.append("| " + " | ".join([
            row["model"], f"{row['layers']}, {row['hidden']}", f"{row['edges'] / 1e6:.2f}", cell(row, "state_gb"), row["kind"],
            cell(row, "first_seconds", "{:.1f}"), cell(row, "seconds"), cell(row, "copy_seconds", "{:.3f}"),
            cell(row, "to_copy", "{:.1f}"), cell(row, "peak_gb"), f"{row['edges_per_second'] / 1e6:.0f}",
            cell(row, "backward_seconds"), cell(row, "backward_peak_gb"), cell(row, "generic_seconds", "{:.1f}"),
            cell(row, "generic_to_tiles", "{:.0f}"),
        ]) + " |")  # fmt: skip
    return "\n".join(lines) + "\n"


def main():
    """Measures what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="*", default=[*TABLE, *FORWARD_ONLY], choices=SIZES, metavar="NAME")
    parser.add_argument("--kinds", nargs="+", default=KINDS, choices=KINDS)
    parser.add_argument("--generic", nargs="*", default=["ResNet56", "MobileNetV2", "ResNet50"], metavar="NAME")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=pathlib.Path)
    options = parser.parse_args()
    context, rows = multiprocessing.get_context("spawn"), []
    for name in options.models:
        for kind in options.kinds:
            queue = context.Queue()
            process = context.Process(target=measure, args=(name, kind, options.repeats, name in options.generic, queue))
            process.start()
            process.join()
            if process.exitcode:
                raise SystemExit(f"{name}, {kind}: the process ended with exit code {process.exitcode}.")
            rows.append(queue.get())
            print(json.dumps({k: round(v, 4) if isinstance(v, float) else v for k, v in rows[-1].items()}), flush=True)
    if options.out:
        versions = f"{os.cpu_count()} cores, CPU only, Python {platform.python_version()}"
        options.out.write_text(f"<!-- made by benchmarks/metanet.py; {versions} -->\n{table(rows)}", encoding="utf-8")


if __name__ == "__main__":
    main()
