"""Trains and fine-tunes as a recipe says; the models themselves stay uncompiled."""

import math

from tfmetaprune._keras import keras, tf
from tfmetaprune.data import augment, load
from tfmetaprune.recipes.recipe import Augmentation, Training


class CoupledSGD(keras.optimizers.SGD):
    """SGD whose weight decay is part of the gradient, and so of the momentum, as in PyTorch and in the published recipes.

    Args:
      coupled_decay: factor of the weights that is added to their gradients.
      **kwargs: as for `SGD`.
    """

    def __init__(self, *, coupled_decay=0.0, **kwargs):
        super().__init__(**kwargs)
        self.coupled_decay = coupled_decay

    def compute_gradients(self, loss, var_list, tape=None):
        """Returns the pairs of gradient and variable, as `SGD` does, with the decay added."""
        pairs = super().compute_gradients(loss, var_list, tape)
        return [(gradient if gradient is None else gradient + self.coupled_decay * variable, variable) for gradient, variable in pairs]


def learning_rate(training: Training, steps_per_epoch: int):
    """Returns the learning rate as a number or a Keras schedule of the step."""
    rate = training.learning_rate
    if training.schedule == "milestones":
        steps = [epoch * steps_per_epoch - 1 for epoch in training.milestones]  # the first step of these epochs is the first that is lower
        values = [rate * training.factor**power for power in range(len(steps) + 1)]
        return keras.optimizers.schedules.PiecewiseConstantDecay(steps, values)
    if training.schedule == "cosine":
        warmup = training.warmup_epochs * steps_per_epoch
        total = training.epochs * steps_per_epoch - warmup
        if not warmup:
            return keras.optimizers.schedules.CosineDecay(rate, total)
        return keras.optimizers.schedules.CosineDecay(0.0, total, warmup_target=rate, warmup_steps=warmup)
    return rate


def optimizer(training: Training, steps_per_epoch: int):
    """Returns the Keras optimizer of a training."""
    rate = learning_rate(training, steps_per_epoch)
    if training.optimizer == "sgd":
        return CoupledSGD(learning_rate=rate, momentum=training.momentum, coupled_decay=training.weight_decay)
    if training.optimizer == "adamw":
        return keras.optimizers.AdamW(rate, weight_decay=training.weight_decay)
    return keras.optimizers.Adam(rate)


def splits_for(data, training: Training, *, seed, data_dir=None):
    """Loads the data of a recipe in the batches of a training.

    Args:
      data: a recipe's `Data`.
      training: its `Training`.
      seed: of order and augmentation.
      data_dir: as for `load`.

    Returns:
      The `DataSplits`, its train split with the augmentation, and the number of batches of that.
    """
    splits = load(
        data.name, data_dir=data_dir, batch_size=training.batch_size, seed=seed, image_size=data.image_size, scaling=data.scaling
    )
    steps = math.ceil(splits.num_examples["train"] / training.batch_size)
    augmentation = data.augmentation or Augmentation()
    if not (augmentation.max_shift or augmentation.noise or augmentation.flip):
        return splits, splits.train, steps
    changed = augment(
        splits.train, max_shift=augmentation.max_shift, noise=augmentation.noise, flip=augmentation.flip, seed=seed
    )
    return splits, changed, steps


def fit(model, training: Training, train, steps_per_epoch, *, progress=None, backup=None, eager=False) -> dict:
    """Trains a classifier that puts out logits, in place.

    Args:
      model: the tf_keras model; it stays uncompiled.
      training: the `Training`; its batch size is that of `train`.
      train: batched dataset of (x, int labels).
      steps_per_epoch: batches of `train`.
      progress: called as `progress(epochs done, epochs)` after each.
      backup: folder for a backup after every epoch, from which an interrupted training goes on, and a finished one is read; it is
        the caller's to remove. None for none.
      eager: whether to run operation by operation, which for a few steps takes less time than compiling them.

    Returns:
      Metric name -> values per epoch; of the epochs since it was interrupted, if it was.
    """
    trained = keras.Model(model.input, model.output)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    trained.compile(optimizer(training, steps_per_epoch), loss, ["accuracy"], run_eagerly=eager)
    callbacks = []
    if progress is not None:
        callbacks.append(keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, _: progress(epoch + 1, training.epochs)))
    if backup is not None:
        callbacks.append(keras.callbacks.BackupAndRestore(str(backup), delete_checkpoint=False))
    history = trained.fit(train, epochs=training.epochs, verbose=0, callbacks=callbacks).history
    return {name: [float(value) for value in values] for name, values in history.items()}


def evaluate(model, dataset, *, eager=False) -> dict:
    """Returns the loss and accuracy of a classifier that puts out logits on a batched dataset; `eager` as for `fit`."""
    viewed = keras.Model(model.input, model.output)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    viewed.compile("sgd", loss, ["accuracy"], run_eagerly=eager)
    values = viewed.evaluate(dataset, verbose=0, return_dict=True)
    return {name: float(values[name]) for name in ("loss", "accuracy")}


def kernel_rms(models) -> float:
    """Returns the median over all kernels (weights of two axes and more) of some models of their root mean squares."""
    kernels = [weight for model in models for weight in model.trainable_weights if weight.shape.rank > 1]
    return float(sorted(float(tf.sqrt(tf.reduce_mean(tf.square(kernel)))) for kernel in kernels)[len(kernels) // 2])
