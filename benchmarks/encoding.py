"""Prints what encoding and decoding cost beside a plain numpy copy of the weights, for architectures of Keras Applications.

One line of JSON for each model, measured in a process of its own: MB of weights, seconds of the copy, of the first encoding
of a trace, of later ones and of decoding (medians), their ratios to the copy, and the peak of the process' memory; then the
largest ratios of all models.
Usage: python benchmarks/encoding.py [--models NAME ...] [--repeats 7]
"""

import argparse
import gc
import json
import multiprocessing
import os
import resource
import statistics
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
RATIOS = ("encode_to_copy", "decode_to_copy", "first_encode_to_copy")


def timed(function):
    """Returns how long a call takes, and what it made."""
    gc.collect()  # TF-GNN leaves graphs in reference cycles
    started = time.perf_counter()
    made = function()
    return time.perf_counter() - started, made


def measure(name: str, repeats: int, queue):
    """Measures one architecture and puts its row into the queue."""
    import numpy as np

    from tfmetaprune._keras import keras
    from tfmetaprune.graph import decode_graph, encode_graph
    from tfmetaprune.trace import trace_model

    small = trace_model(keras.Sequential([keras.layers.Dense(2, input_shape=(2,))]))
    decode_graph(encode_graph(small), small)  # imports what is imported late
    model = getattr(keras.applications, name)(weights=None)
    trace = trace_model(model)

    def copy():
        return [np.array(variable.numpy(), copy=True) for variable in model.weights]

    num_bytes = sum(variable.numpy().nbytes for variable in model.weights)
    np.ones(3 * num_bytes, np.uint8)  # a virtual machine maps memory that nobody touched before slowly: not what is measured
    times = {"first_encode": [timed(lambda: encode_graph(trace))[0]], "copy": [], "encode": [], "decode": []}
    for _ in range(repeats):  # in turn, so that what else the machine does slows all of them
        times["copy"].append(timed(copy)[0])
        duration, graph = timed(lambda: encode_graph(trace))
        times["encode"].append(duration)
        times["decode"].append(timed(lambda graph=graph: decode_graph(graph, trace))[0])
        del graph
    times = {step: statistics.median(values) for step, values in times.items()}
    row = {"model": name, "weights": len(model.weights), "weights_mb": num_bytes / 1e6}
    row["peak_gb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    row.update({f"{step}_seconds": value for step, value in times.items()})
    row.update({ratio: times[ratio.removesuffix("_to_copy")] / times["copy"] for ratio in RATIOS})
    queue.put({key: round(value, 4) if isinstance(value, float) else value for key, value in row.items()})


def main():
    """Measures each architecture in turn."""
    from coverage import ARCHITECTURES

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=ARCHITECTURES, choices=ARCHITECTURES, metavar="NAME")
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args()
    context, rows = multiprocessing.get_context("spawn"), []
    for name in arguments.models:
        queue = context.Queue()
        process = context.Process(target=measure, args=(name, arguments.repeats, queue))
        process.start()
        process.join()
        if process.exitcode:
            raise SystemExit(f"{name}: the process ended with exit code {process.exitcode}.")
        rows.append(queue.get())
        print(json.dumps(rows[-1]), flush=True)
    largest = {ratio: max(rows, key=lambda row: row[ratio]) for ratio in RATIOS}
    print(json.dumps({f"largest_{ratio}": [row["model"], row[ratio]] for ratio, row in largest.items()}))


if __name__ == "__main__":
    main()
