"""Measures what each method of pruning buys on this machine, as TFLite files, and writes the tables of docs/device.md.

Every method prunes a MobileNetV2 and a ResNet-18 with random weights at 224 x 224, in one shot: latency and
sizes do not depend on the numbers in the weights, only on which are zero. Each is exported as float32, float16 and int8 (zeros
left out where the method makes zeros and the file then runs), and all files of a kind are measured in turns. Accuracy is measured on
networks that know scikit-learn's digits, pruned with the default fine-tuning. Prints a line of JSON for each row.
Usage: python benchmarks/device.py [--networks MobileNetV2 ResNet-18] [--runs 100] [--no-accuracy] [--out docs/device.md]
"""

import argparse
import json
import os
import pathlib
import platform
import tempfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

KINDS = (None, "float16", "int8")
ONE_SHOT = {"criterion": "group_l2", "metanetwork": None, "finetune": None, "repair": "bn"}  # or activations would fade away
# row -> arguments of prune; {} is the unpruned network
METHODS = {
    "dense": {},
    "structured, 2x": {"speedup": 2.0},
    "structured, 2x, round_to=8": {"speedup": 2.0, "round_to": 8},
    "structured, 2x, round_to=16": {"speedup": 2.0, "round_to": 16},
    "structured, 2x, round_to=16, traffic_weight=0.05": {"speedup": 2.0, "round_to": 16, "traffic_weight": 0.05},
    "structured, 4x": {"speedup": 4.0},
    "structured, 4x, round_to=8": {"speedup": 4.0, "round_to": 8},
    "structured, 4x, round_to=16": {"speedup": 4.0, "round_to": 16},
    "structured, 4x, round_to=16, traffic_weight=0.05": {"speedup": 4.0, "round_to": 16, "traffic_weight": 0.05},
    "unstructured, 80 %": {"method": "unstructured", "sparsity": 0.8},
    "2:4": {"method": "2:4"},
    "block (1, 4), 80 %": {"method": "block", "block_shape": (1, 4), "sparsity": 0.8},
    "structured 2x + unstructured 80 %": {"method": "structured+unstructured", "speedup": 2.0, "sparsity": 0.8},
    "xnnpack, 80 %": {"method": "xnnpack", "sparsity": 0.8},
}
HEADER = """# What pruning buys on the device

Made by `python benchmarks/device.py --out docs/device.md`. {versions}.
The networks of 224 x 224 have random weights.
Latency is that of one sample on one thread, median of {runs} rounds in each of which every file ran once; the ratio is
dense / pruned within rounds, its 10th to 90th percentile in brackets. *Held*: the latency ratio / the MACs ratio. *Left out*: the
size of the file with zeros left out (`sparse=True`); a dash where there are no zeros, *refused* where
XNNPACK does not load it or LiteRT crashes on it.

- **Whole channels** make files smaller and faster, at every precision. `round_to` matters where kernels work on blocks of
  channels: a width of 17 costs as much as one of 24 or 32; int8 kernels of wide CPUs work on 16 and more. What is left after that is
  memory: the first layers move much of it for few MACs, and `traffic_weight` lets their channels go first where importances are equal.
- **Single zeros** make downloads smaller, by gzip alone; leaving them out of the file gains little on top of that. XNNPACK's sparse
  kernels are for 1x1 convolutions of floating point numbers, in networks that consist of what TF-MOT's policy lists (method
  "xnnpack"), from a 3x3 stem to the global mean; the latency columns tell whether they are used.
- **N:M** (2:4) is a format of GPUs. TFLite has none: the file stores every such kernel as rows of single zeros.
- **Blocks** are stored as blocks in dense layers alone, along the inputs. XNNPACK loads 8-bit dense layers with zeros left out only
  in blocks of 1 x 16.

"""


def make_network(name, data):
    """Builds a network with random weights, logits out, and BN statistics of what runs through it."""
    import networks

    from tfmetaprune._keras import keras
    from tfmetaprune.data import as_dataset
    from tfmetaprune.pruning import reestimate_bn

    keras.utils.set_random_seed(0)
    own = {"ResNet-18": networks.resnet18}
    make = own.get(name) or (lambda: getattr(keras.applications, name)(weights=None, classifier_activation=None))
    return reestimate_bn(make(), as_dataset(data))


def prune(model, arguments, *data, **options):
    """Prunes a model; the unpruned one for no arguments. Returns the model, the MACs ratio."""
    import tfmetaprune

    if not arguments:
        return model, 1.0
    result = tfmetaprune.prune(model, *data, **arguments, **options)
    before, after = (result.report[step]["macs"] for step in ("before", "pruned"))
    return result.model, before / after


def export(model, path, kind, data):
    """Writes the file, and tries another with zeros left out; both are run, but not compared: without training, rounding is amplified.

    Returns:
      Bytes of the latter, "refused", or None without zeros.
    """
    from tfmetaprune.errors import ExportError
    from tfmetaprune.export.contents import read_contents, share_of_zeros
    from tfmetaprune.export.convert import Conversion, convert
    from tfmetaprune.export.running import run_file
    from tfmetaprune.export.trial import try_file

    path.write_bytes(convert(model, Conversion(kind), [data], None))
    run_file(path, [data[:1]], batch_size=1)
    if share_of_zeros(read_contents(path)) < 0.2:
        return None
    with tempfile.TemporaryDirectory() as folder:
        sparse = pathlib.Path(folder) / "sparse.tflite"
        sparse.write_bytes(convert(model, Conversion(kind, sparse=True), [data], None))
        try:
            try_file(sparse, "device", "")  # some crash LiteRT
            run_file(sparse, [data[:1]], batch_size=1)
        except (RuntimeError, ExportError):
            return "refused"
        return sparse.stat().st_size


def measure_network(name, runs, folder):
    """Yields one row (a dict) for each method and kind."""
    import tfmetaprune
    from tfmetaprune.errors import TFMetaPruneError

    data = np.random.default_rng(0).normal(size=(8, 224, 224, 3)).astype("float32")
    made, left_out = {}, {}
    for method, arguments in METHODS.items():
        try:
            model, ratio = prune(make_network(name, data), arguments, (data, None), **ONE_SHOT)
        except TFMetaPruneError as error:
            yield {"network": name, "method": method, "error": str(error)[:300]}
            continue
        for index, kind in enumerate(KINDS):
            path = pathlib.Path(folder) / f"{len(made)}_{index}.tflite"
            left_out[method, kind] = export(model, path, kind, data)
            made[method, kind] = (path, ratio)
    for kind in KINDS:
        rows = {method: value for (method, other), value in made.items() if other == kind}
        report = tfmetaprune.benchmark(*(path for path, _ in rows.values()), num_runs=runs)
        for (method, (_, ratio)), measured in zip(rows.items(), report.models):
            yield {
                "network": name, "method": method, "kind": kind or "float32", "macs_ratio": ratio,
                "latency_ms": measured.latency.median_ms, "min_ms": measured.latency.min_ms, "speedup": measured.speedup,
                "speedup_p10": measured.speedup_p10, "speedup_p90": measured.speedup_p90, "size_bytes": measured.size_bytes,
                "gzip_size_bytes": measured.gzip_size_bytes, "left_out_bytes": left_out[method, kind],
            }  # fmt: skip


def measure_accuracy(folder):
    """Yields one row for each method and kind: accuracy of the TFLite file on the digits' test split, agreement with Keras."""
    from tfmetaprune.data import load
    from tfmetaprune.errors import TFMetaPruneError
    from tfmetaprune.export.tflite import export_tflite, run_tflite
    from tfmetaprune.metatrain.zoo import dataset_arrays, make_zoo

    splits = load("digits")
    x, y = dataset_arrays(splits.test)
    (model,) = make_zoo(folder, splits, [0])
    options = {"validation_data": splits.validation, "criterion": "group_l2", "metanetwork": None}
    for method, arguments in METHODS.items():
        try:
            small, _ = prune(model, arguments, splits.train, **options)
            for kind in KINDS:
                path = f"{folder}/accuracy.tflite"
                export_tflite(small, path, quantize=kind, representative_data=splits.train)
                classes = run_tflite(path, x).argmax(1)
                shares = {"accuracy": np.mean(classes == y), "agreement": np.mean(classes == np.argmax(small(x, training=False), 1))}
                shares = {key: float(share) for key, share in shares.items()}
                yield {"network": "digits", "method": method, "kind": kind or "float32", **shares}
        except TFMetaPruneError as error:
            yield {"network": "digits", "method": method, "error": str(error)[:300]}


def network_table(rows) -> list[str]:
    """Returns the lines of the table of one network; the first row of each kind is the dense one."""
    lines = [
        "| method | kind | MACs ratio | latency, ms | latency ratio | held | bytes | gzip | left out |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    dense = {row["kind"]: row for row in rows if row["method"] == "dense"}
    for row in rows:
        if "error" in row:
            lines.append(f"| {row['method']} | | | | {row['error'].splitlines()[0]} | | | | |")
            continue
        whole, left_out = dense[row["kind"]], row["left_out_bytes"]
        shares = [f"{row[key] / 1e6:.2f} M ({row[key] / whole[key]:.2f})" for key in ("size_bytes", "gzip_size_bytes")]
        if isinstance(left_out, int):
            left_out = f"{left_out / 1e6:.2f} M ({left_out / whole['size_bytes']:.2f})"
        ratio = f"{row['speedup']:.2f} ({row['speedup_p10']:.2f} to {row['speedup_p90']:.2f})"
        lines.append(
            f"| {row['method']} | {row['kind']} | {row['macs_ratio']:.2f} | {row['latency_ms']:.2f} | {ratio} | "
            f"{row['speedup'] / row['macs_ratio']:.2f} | {shares[0]} | {shares[1]} | {left_out or '-'} |"
        )
    return lines


def accuracy_table(rows) -> list[str]:
    """Returns the lines of the table of accuracies."""
    kinds = [kind or "float32" for kind in KINDS]
    lines = [f"| method | {' | '.join(kinds)} |", "|---|" + "---|" * len(kinds)]
    for method in dict.fromkeys(row["method"] for row in rows):
        found = {row.get("kind"): row for row in rows if row["method"] == method}
        cells = [
            f"{100 * found[kind]['accuracy']:.1f} % ({100 * found[kind]['agreement']:.1f})" if kind in found else "-"
            for kind in kinds
        ]
        note = f": {found[None]['error'].splitlines()[0]}" if None in found else ""
        lines.append(f"| {method}{note} | {' | '.join(cells)} |")
    return lines


def main():
    """Measures, and writes the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="*", default=["MobileNetV2", "ResNet-18"])
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--no-accuracy", action="store_true")
    parser.add_argument("--out", type=pathlib.Path)
    arguments = parser.parse_args()

    import ai_edge_litert
    import tensorflow as tf

    def shown(rows):
        for row in rows:
            print(json.dumps(row), flush=True)
            yield row

    versions = f"TensorFlow {tf.__version__}, ai-edge-litert {ai_edge_litert.__version__}, {platform.machine()}"
    lines = HEADER.format(versions=versions, runs=arguments.runs).splitlines()
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.networks:
            lines += [f"## {name}, 224 x 224", "", *network_table(list(shown(measure_network(name, arguments.runs, folder)))), ""]
        if not arguments.no_accuracy:
            about = "A residual network (77.7 thousand parameters), test split, one network, the default fine-tuning: 75 steps. In "
            about += "brackets the share of the 898 images that the file and the Keras model put into the same class, in %."
            lines += ["## Accuracy on digits", "", about, ""]
            lines += [*accuracy_table(list(shown(measure_accuracy(folder)))), ""]
    if arguments.out:
        arguments.out.write_text("\n".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
