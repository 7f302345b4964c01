"""Measures a meta-training step against the plain forward/backward passes of the network itself, and its first call.

Random images. Every batch of the step is preceded by one plain pass (a compiled function: loss, and gradients of all
trainable variables, training=True), so that whatever slows the machine hits both. Prints JSON lines; `ratio` is the
seconds of the step over those of the plain passes.
Usage: python benchmarks/meta_step.py [--batches 100] [--batch-size 32] [--depth 56] [--hidden 64] [--layers 8]
"""

import argparse
import json
import os
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from networks import resnet

from tfmetaprune._keras import keras, tf
from tfmetaprune.metanet import MetaNetConfig, MetaNetwork
from tfmetaprune.metatrain.distribution import joint_update
from tfmetaprune.metatrain.gradient import MetaGradient
from tfmetaprune.metatrain.objective import PruneAwareObjective
from tfmetaprune.metatrain.prepared import graph_arrays
from tfmetaprune.metatrain.zoo import residual_cnn
from tfmetaprune.trace import trace_model

NUM_CLASSES = 10
SPEEDUP = 2.0


def plain_pass(model):
    """Returns the compiled function (x, y) -> loss and gradients of a model."""

    @tf.function
    def run(x, y):
        with tf.GradientTape() as tape:
            loss = keras.losses.sparse_categorical_crossentropy(y, model(x, training=True), from_logits=True)
            loss = tf.reduce_mean(loss)
        return loss, tape.gradient(loss, model.trainable_variables)

    return run


class Interleaved:
    """Yields batches, runs a plain pass before each of them, and keeps the seconds of everything apart."""

    def __init__(self, plain, x, y, num_batches):
        self.plain, self.x, self.y, self.num_batches = plain, x, y, num_batches
        self.plain_seconds, self.first, self.last = [], None, None

    def __iter__(self):
        self.first = time.perf_counter()
        for _ in range(self.num_batches):
            started = time.perf_counter()
            self.plain(self.x, self.y)[0].numpy()
            self.plain_seconds.append(time.perf_counter() - started)
            yield self.x, self.y
        self.last = time.perf_counter()


class Step:
    """A whole meta-step of one model: gradient and update.

    Args:
      model: the data model.
      metanet: the `MetaNetwork`.
      dataset: batches of (images, labels), for the channel statistics.
      distillation: weight of the term that needs the teacher's pass.
    """

    def __init__(self, model, metanet, dataset, distillation):
        trace = trace_model(model)
        objective = PruneAwareObjective(trace, distillation=distillation)
        self.metanet, self.gradient, self.graph = metanet, MetaGradient(objective), graph_arrays(trace, dataset)
        self.original = tf.nest.map_structure(tf.convert_to_tensor, objective.weights_of(trace))
        self.original = self.original if distillation else {}
        self.noise = np.random.default_rng(0).normal(size=objective.num_units)
        optimizer = keras.optimizers.AdamW(1e-3, global_clipnorm=1.0)
        optimizer.build(metanet.trainable_variables)
        self.update = joint_update(tf.distribute.get_strategy(), optimizer, metanet.trainable_variables)

    def __call__(self, batches):
        """Runs the step; returns its loss once everything is done."""
        return float(self.update(*self.gradient(self.metanet, self.graph, self.original, batches, SPEEDUP, self.noise)))


def measure_first_call(metanet, x, y, dataset):
    """Returns the seconds of the first and of the second meta-step, one batch each, of a ResNet-8."""
    step, seconds = Step(residual_cnn(x.shape[1:], NUM_CLASSES), metanet, dataset, 1.0), []
    for _ in range(2):
        started = time.perf_counter()
        step([(x, y)])
        seconds.append(time.perf_counter() - started)
    return {"first_seconds": seconds[0], "second_seconds": seconds[1], "overhead_seconds": seconds[0] - seconds[1]}


def measure_step(model, metanet, x, y, dataset, distillation, num_batches):
    """Returns the seconds of one meta-step and of as many plain passes as it has batches."""
    step, plain = Step(model, metanet, dataset, distillation), plain_pass(model)
    step(Interleaved(plain, x, y, 2))  # traces everything
    batches = Interleaved(plain, x, y, num_batches)
    started = time.perf_counter()
    step(batches)
    ended = time.perf_counter()
    plain_seconds = sum(batches.plain_seconds)
    step_seconds = ended - started - plain_seconds
    return {
        "plain_seconds": plain_seconds, "step_seconds": step_seconds, "ratio": step_seconds / plain_seconds,
        "generate_seconds": batches.first - started, "batches_seconds": batches.last - batches.first - plain_seconds,
        "backward_and_update_seconds": ended - batches.last,
        "plain_median_seconds": float(np.median(batches.plain_seconds)),
    }  # fmt: skip


def main():
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("batches", 100), ("batch-size", 32), ("depth", 56), ("hidden", 64), ("layers", 8)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    x = tf.constant(rng.normal(size=(options.batch_size, 32, 32, 3)), tf.float32)
    y = tf.constant(rng.integers(0, NUM_CLASSES, options.batch_size))
    dataset = tf.data.Dataset.from_tensors((x, y))
    config = MetaNetConfig(hidden=options.hidden, num_layers=options.layers)

    def report(what, **values):
        values = {name: round(value, 4) if isinstance(value, float) else value for name, value in values.items()}
        print(json.dumps({"what": what, **vars(options), **values}), flush=True)

    keras.utils.set_random_seed(0)
    report("first call, ResNet-8", **measure_first_call(MetaNetwork(config), x, y, dataset))
    model = resnet(options.depth)
    for distillation in (0.0, 1.0):
        values = measure_step(model, MetaNetwork(config), x, y, dataset, distillation, options.batches)
        report(f"meta-step, {model.name}", distillation=distillation, **values)


if __name__ == "__main__":
    main()
