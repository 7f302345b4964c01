"""From nothing to a shipped metanetwork: data models, meta-training, the verdict of held-out nets, the card."""

import dataclasses
import importlib.metadata
import pathlib
import platform

import numpy as np

from tfmetaprune._keras import keras
from tfmetaprune.data import load
from tfmetaprune.metanet import MetaNetConfig, MetaNetwork, load_metanetwork, save_metanetwork
from tfmetaprune.metatrain.distribution import gather, is_chief, make_strategy
from tfmetaprune.metatrain.evaluate import pruning_curve
from tfmetaprune.metatrain.evaluate_sparse import sparsity_curve
from tfmetaprune.metatrain.trainer import MetaTrainer, MetaTraining
from tfmetaprune.metatrain.zoo import WIDTHS, dataset_arrays, logged_seconds, make_zoo

BATCH_SIZE = 64  # of the data models' training
HELD_OUT_SEED = 1000  # data models with this seed and above are never trained on
PACKAGES = ("tensorflow", "tf_keras", "tensorflow-gnn", "tensorflow-datasets", "numpy")


def meta_train(out, *, objective="structured", steps=3000, seed=0, num_models=12, num_held_out=5, epochs=60, batches_per_step=1,
               models_per_step=1, strategy="none", resume=False, regularization=None, progress=None):  # fmt: skip
    """Trains a metanetwork on digits and measures it on networks it has never seen.

    Args:
      out: folder for the data models, the checkpoints, the metanetwork and its card, NAME.keras and NAME.json, where the name is
        "digits", with "_" and the objective behind it if that is another than "structured"; with several workers, a folder
        that all of them see.
      objective: a name of `prepared.OBJECTIVES` but for "searched", which is for zoos.
      steps: meta-steps.
      seed: of the metanetwork and of every choice in its training.
      num_models: data models to train on.
      num_held_out: data models to judge on.
      epochs: of each data model.
      batches_per_step: batches that each data model of a step is run on.
      models_per_step: data models that the loss of a step is the mean of, spread over the replicas.
      strategy: name of the distribution strategy, see `make_strategy`.
      resume: go on where an earlier run in `out` stopped.
      regularization: weight of the norm of a published objective; None for the published one.
      progress: called as `progress(stage, done, total)`.

    Returns:
      The card, a JSON-able dict; None on workers other than the chief, which trains the data models, judges and writes.
    """
    settings = MetaTraining(
        steps, objective=objective, seed=seed, batches_per_step=batches_per_step, models_per_step=models_per_step,
        regularization=regularization,
    )  # fmt: skip
    strategy = make_strategy(strategy)  # before anything else: workers have to meet before TensorFlow runs operations
    chief = is_chief(strategy)
    out = pathlib.Path(out)
    report = progress or (lambda *_: None)
    splits = load("digits", batch_size=BATCH_SIZE)
    made = iter(range(1, num_models + num_held_out + 1))

    def zoo(seeds):
        tick = lambda _: report("data models", next(made), num_models + num_held_out)  # noqa: E731
        return make_zoo(out / "zoo", splits, seeds, epochs=epochs, progress=tick)

    if not chief:
        gather(strategy, 0)  # the chief has trained the data models
    models = zoo(range(num_models))
    if chief:
        held_out = zoo(range(HELD_OUT_SEED, HELD_OUT_SEED + num_held_out))
        gather(strategy, 0)

    keras.utils.set_random_seed(seed)
    with strategy.scope():
        metanet = MetaNetwork(MetaNetConfig())
    train = load("digits", batch_size=BATCH_SIZE).train  # anew: its order depends on how often it has been read
    trainer = MetaTrainer(metanet, models, train, settings, out, strategy)
    trainer.train(resume=resume, progress=lambda step, _: report("meta-steps", step, steps))
    if not chief:
        gather(strategy, 0)  # the chief is done: a worker that leaves early would look like one that failed
        return None

    x, y = dataset_arrays(splits.test)
    judged = iter(range(1, num_held_out + 1))
    tick = lambda _: report("held-out nets", next(judged), num_held_out)  # noqa: E731
    if objective in ("structured", "published", "repaired"):
        curve = pruning_curve(held_out, splits.train, x, y, metanet=metanet, training_models=models, progress=tick)
    else:
        others = {"metanetwork": metanet, "digits": load_metanetwork("digits")}
        curve = sparsity_curve(held_out, splits.train, x, y, metanets=others, progress=tick)
    name = "digits" if objective == "structured" else f"digits_{objective.replace(':', '_of_')}"
    card = {
        "command": f"tfmetaprune meta-train --objective {objective} --steps {steps} --seed {seed} --num-models {num_models} "
        f"--batches-per-step {batches_per_step} --models-per-step {models_per_step} "
        f"{'' if regularization is None else f'--regularization {regularization:g} '}--out DIR",
        "data": {"name": "digits", "examples": splits.num_examples},
        "data_models": {
            "architecture": f"residual_cnn, widths {'/'.join(map(str, WIDTHS))}", "epochs": epochs,
            "seeds": [0, num_models - 1], "held_out_seeds": [HELD_OUT_SEED, HELD_OUT_SEED + num_held_out - 1],
        },
        "config": dataclasses.asdict(metanet.config),
        "parameters": int(sum(np.prod(v.shape) for v in metanet.trainable_variables)),
        "training": dataclasses.asdict(settings),
        "seconds": {
            "data_models": round(logged_seconds(out / "zoo" / "log.jsonl")),
            "meta_training": round(logged_seconds(out / "log.jsonl")),
        },
        "versions": {"python": platform.python_version(), **{p: importlib.metadata.version(p) for p in PACKAGES}},
        "measured": {
            "what": "accuracy on the test split right after pruning and BN re-estimation on the training split, no fine-tuning",
            **curve.summary(),
        },
    }  # fmt: skip
    save_metanetwork(metanet, out / f"{name}.keras", card)
    gather(strategy, 0)
    return card
