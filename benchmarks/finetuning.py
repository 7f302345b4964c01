"""Accuracy after fine-tuning what least squares has repaired: learning rates, with and without distillation.

    python benchmarks/finetuning.py --out docs/finetuning.md

Held-out residual networks on digits, pruned in one shot by group L2; accuracies on the validation split, on which the default
of `prune` was chosen.
"""

import argparse
import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

from tfmetaprune._keras import keras
from tfmetaprune.data import load
from tfmetaprune.finetuning import finetune_model
from tfmetaprune.metatrain.command import BATCH_SIZE, HELD_OUT_SEED
from tfmetaprune.metatrain.zoo import accuracy, dataset_arrays, make_zoo
from tfmetaprune.pruning import make_plan, rebuild_model, repair_model, replace_weights
from tfmetaprune.trace import trace_model

EPOCHS = (1, 15)
LEARNING_RATES = (1e-3, 1e-4)
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def measure(model, splits, speedup) -> dict:
    """Returns (learning rate, distilled, epochs) -> validation accuracy; (None, None, 0) before fine-tuning."""
    trace, validation = trace_model(model), dataset_arrays(splits.validation)
    plan = make_plan(trace, speedup=speedup, step=1.0)
    start, _ = repair_model(trace, plan, rebuild_model(trace, plan), splits.train, "least_squares")
    result = {(None, None, 0): accuracy(start, *validation)}
    for learning_rate in LEARNING_RATES:
        for distilled in (False, True):
            for epochs in EPOCHS:
                small = replace_weights(start, {})
                finetune_model(
                    small, splits.train, losses=(LOSS, None), epochs=epochs, learning_rate=learning_rate,
                    teacher=model if distilled else None,
                )  # fmt: skip
                result[learning_rate, distilled, epochs] = accuracy(small, *validation)
    return result


def main():
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("docs/finetuning.md"))
    parser.add_argument("--zoo", type=pathlib.Path, default=pathlib.Path("runs/digits/zoo"), help="where the networks are kept")
    parser.add_argument("--num-models", type=int, default=4)
    parser.add_argument("--speedups", type=float, nargs="+", default=(3.0, 6.0))
    options = parser.parse_args()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    splits = load("digits", batch_size=BATCH_SIZE)
    models = make_zoo(options.zoo, splits, range(HELD_OUT_SEED, HELD_OUT_SEED + options.num_models))
    results = {}
    for speedup in options.speedups:
        results[speedup] = []
        for model in models:
            results[speedup].append(measure(model, splits, speedup))
            print(f"{speedup:g}x: {len(results[speedup])} of {len(models)}", flush=True)

    def cell(speedup, *key):
        scores = 100 * np.array([result[key] for result in results[speedup]])
        return f"{scores.mean():.1f} ± {scores.std(ddof=1) if len(scores) > 1 else 0:.1f}"

    columns = [(speedup, epochs) for speedup in options.speedups for epochs in EPOCHS]
    rows = [
        f"| accuracy in % on validation, {len(models)} nets | "
        + " | ".join(f"{speedup:g}x, {epochs} epoch{'s' if epochs > 1 else ''}" for speedup, epochs in columns) + " |",
        "|---|" + "---|" * len(columns),
        "| before | " + " | ".join(cell(speedup, None, None, 0) for speedup, _ in columns) + " |",
    ]  # fmt: skip
    for learning_rate in LEARNING_RATES:
        for distilled in (False, True):
            cells = [cell(speedup, learning_rate, distilled, epochs) for speedup, epochs in columns]
            rows.append(f"| from {learning_rate:g}{', with distillation' if distilled else ''} | {' | '.join(cells)} |")
    options.out.write_text("\n".join([
        "# Fine-tuning after least squares", "",
        "Held-out residual networks on digits, pruned in one shot by group L2, repaired by least squares, then fine-tuned on the "
        "599 training images by Adam with a cosine schedule.", "", *rows, "",
        "Made by `python benchmarks/finetuning.py --out docs/finetuning.md`.", "",
    ]), encoding="utf-8")  # fmt: skip


if __name__ == "__main__":
    main()
