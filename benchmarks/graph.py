"""Prints what the graph of tf_keras ResNet50 costs: encoding, decoding, and one pass of a metanetwork (L=6, d=16).

Seconds and the peak of the process' memory above what the model itself needed; each step in a process of its own.
Usage: python benchmarks/graph.py
"""

import json
import multiprocessing
import os
import threading
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
STEPS = ("encode", "decode", "metanetwork sum_rms", "metanetwork published")


def resident_bytes():
    """Returns the resident memory of this process in bytes."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class PeakMemory:
    """Samples the resident memory every 5 ms while the context lasts; `peak_gb` is the largest growth seen."""

    def __enter__(self):
        self._base = self._peak = resident_bytes()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def _watch(self):
        while not self._stop.wait(0.005):
            self._peak = max(self._peak, resident_bytes())

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join()
        self.peak_gb = (max(self._peak, resident_bytes()) - self._base) / 1e9


def measure(step, queue):
    """Measures one step and puts its row into the queue."""
    from tfmetaprune._keras import keras, tfgnn
    from tfmetaprune.graph import decode_graph, encode_graph, graph_layout
    from tfmetaprune.metanet import MetaNetConfig, MetaNetwork
    from tfmetaprune.trace import trace_model

    tfgnn()
    trace = trace_model(keras.applications.ResNet50(weights=None))
    graph = None if step == "encode" else encode_graph(trace)
    metanet = MetaNetwork(MetaNetConfig(hidden=16, num_layers=6, message_passing=step.split()[-1])) if "meta" in step else None
    layout = graph_layout(trace) if metanet else None
    with PeakMemory() as memory:
        started = time.perf_counter()
        if step == "encode":
            graph = encode_graph(trace)
        elif step == "decode":
            decode_graph(graph, trace)
        else:
            metanet(graph, layout)
        seconds = time.perf_counter() - started
    edges = sum(int(edge_set.total_size) for edge_set in graph.edge_sets.values())
    queue.put({"step": step, "seconds": round(seconds, 2), "peak_gb": round(memory.peak_gb, 2), "edges": edges})


def main():
    """Measures each step and prints one line of JSON for it."""
    context = multiprocessing.get_context("spawn")
    for step in STEPS:
        queue = context.Queue()
        process = context.Process(target=measure, args=(step, queue))
        process.start()
        process.join()
        if process.exitcode:
            raise SystemExit(f"{step}: the process ended with exit code {process.exitcode}.")
        print(json.dumps(queue.get()), flush=True)


if __name__ == "__main__":
    main()
