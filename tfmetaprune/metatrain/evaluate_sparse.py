"""Judges a metanetwork on held-out data models: accuracy right after weights became zero."""

import numpy as np

from tfmetaprune._keras import tf
from tfmetaprune.graph import channel_statistics
from tfmetaprune.metanet.generate import generate
from tfmetaprune.metatrain.evaluate import Curve
from tfmetaprune.metatrain.zoo import accuracy
from tfmetaprune.pruning import reestimate_bn, replace_weights
from tfmetaprune.pruning.sparse import plan_zeros, planned_kernels, sparse_method, zero_out
from tfmetaprune.trace import trace_model

COLUMNS = ("0.8", "0.9", "0.95", "0.97", "2:4", "1:4")
BASELINES = ("global_magnitude", "layer_magnitude", "random")


def sparsity_curve(models, calibration, x, y, *, metanets=None, columns=COLUMNS, progress=None) -> Curve:
    """Measures the accuracy right after zeroing and BN re-estimation, with no fine-tuning.

    Args:
      models: held-out trained models, logits out.
      calibration: batched dataset of (images, labels) for the statistics and for BN; its labels are not used.
      x: images [n, ...] to measure on.
      y: int labels [n].
      metanets: name -> `MetaNetwork`; their weights and scores are used as `prune` does.
      columns: sparsities of single weights, or N:M, as text.
      progress: called with a line of text after each model.

    Returns:
      The `Curve`; for N:M "global_magnitude" and "layer_magnitude" are the same.
    """
    result = {name: [] for name in (*BASELINES, *(metanets or {}))}
    unpruned = []
    for number, model in enumerate(models):
        trace = trace_model(model)
        unpruned.append(accuracy(model, x, y))
        statistics = channel_statistics(trace, calibration) if metanets else None
        generated = {name: (*generate(metanet, trace, statistics), "global") for name, metanet in (metanets or {}).items()}
        generated |= {"global_magnitude": ({}, None, "global"), "layer_magnitude": ({}, None, "layer")}
        for name, rows in result.items():
            row = []
            for column in columns:
                if name == "random":
                    sparse = _randomly_zeroed(model, _method(column, "layer"), number)
                else:
                    weights, score, scope = generated[name]
                    rewritten = replace_weights(model, weights)
                    sparse, _ = zero_out(rewritten, plan_zeros(rewritten, _method(column, scope), score))
                row.append(accuracy(reestimate_bn(sparse, calibration), x, y))
            rows.append(row)
        if progress is not None:
            progress(f"{model.name} ({number + 1} of {len(models)}): unpruned {unpruned[-1]:.3f}")
    return Curve(tuple(columns), result, unpruned, "zeros", BASELINES)


def _method(column, scope):
    return sparse_method(column) if ":" in column else sparse_method("unstructured", sparsity=float(column), scope=scope)


def _randomly_zeroed(model, method, seed):
    """A copy of the model in which each kernel has random zeros, as many as the method makes."""
    rng, model = np.random.default_rng(seed), replace_weights(model, {})
    for kernel in planned_kernels(model, plan_zeros(model, method)):
        stays = rng.uniform(size=kernel.variable.shape) >= method.sparsity
        kernel.variable.assign(kernel.variable * tf.cast(stays, kernel.variable.dtype))
    return model
