"""Meta-trains a tiny metanetwork under a strategy, in a process of its own; started by `test_distribution.py`.

Usage: python worker.py none|mirrored|multi-worker FOLDER RESULT.npz INTERRUPTION
The run is broken off after step INTERRUPTION, and then a new trainer goes on from the checkpoint; 0 for no interruption.
"""

import sys

import numpy as np

from tfmetaprune._keras import keras, tf
from tfmetaprune.metanet import MetaNetConfig, MetaNetwork
from tfmetaprune.metatrain.distribution import gather, make_strategy
from tfmetaprune.metatrain.trainer import MetaTrainer, MetaTraining
from tfmetaprune.metatrain.zoo import residual_cnn

SETTINGS = MetaTraining(steps=3, batch_size=16, warmup=1, batches_per_step=2, models_per_step=2, checkpoint_every=1)


class Interruption(Exception):
    """Stands for whatever ends a run too early."""


def main(name, folder, result, interruption):
    """Trains, and writes the losses and every replica's copy of the variables, those of a replica one after the other."""
    if name == "mirrored":
        cpu = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
        strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    else:
        strategy = make_strategy(name)
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 64)
    images = rng.normal(size=(64, 8, 8, 1)).astype(np.float32)
    dataset = tf.data.Dataset.from_tensor_slices((images, labels)).batch(32)
    models = [residual_cnn((8, 8, 1), 3, widths=(4, 8), seed=seed) for seed in range(2)]
    losses = []

    def train(resume):
        with strategy.scope():
            keras.utils.set_random_seed(0)
            metanet = MetaNetwork(MetaNetConfig(hidden=8, num_layers=1))
        MetaTrainer(metanet, models, dataset, SETTINGS, folder, strategy).train(resume=resume, progress=progress)
        return metanet

    def progress(step, loss):
        losses.append(loss)
        if step == len(losses) == int(interruption):
            raise Interruption

    try:
        metanet = train(resume=False)
    except Interruption:
        gather(strategy, 0)  # the chief has written its checkpoint
        losses.append(np.nan)
        metanet = train(resume=True)
    copies = [strategy.experimental_local_results(variable) for variable in metanet.trainable_variables]
    replicas = [np.concatenate([value.numpy().reshape(-1) for value in values]) for values in zip(*copies)]
    np.savez(result, losses=losses, replicas=replicas)


if __name__ == "__main__":
    main(*sys.argv[1:])
