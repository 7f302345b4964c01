"""Trains a network before it is pruned, so that less is lost: prune-aware, or with the published group norm."""

import math
import numbers

import numpy as np

from tfmetaprune._keras import keras, tf
from tfmetaprune.errors import ArgumentError
from tfmetaprune.finetuning import finetune_model
from tfmetaprune.pruning import normalized_score, reestimate_bn, replace_weights, run_masked, unit_importance
from tfmetaprune.pruning.group_norm import group_norm
from tfmetaprune.pruning.masking import is_batch_norm
from tfmetaprune.pruning.repair import model_inputs
from tfmetaprune.pruning.straight_through import NOISE, ChannelMasks
from tfmetaprune.pruning.traffic import traffic_score
from tfmetaprune.trace import trace_model

PREPARATIONS = ("prune_aware", "group_norm")
NORMALIZERS = {"group_l2": "mean", "group_l2_max": "max"}  # of the criteria that "prune_aware" can train
DEFAULT_EPOCHS = 10
LEARNING_RATES = {"prune_aware": 0.1, "group_norm": 0.02}  # with BatchNormalization; these three by benchmarks/preparation.py
LEARNING_RATES_WITHOUT_BN = {"prune_aware": 0.003, "group_norm": 0.005}
REGULARIZATION = 3.0  # weight of the group norm, times the number of steps
REACH = (0.0, 1.25)  # the speed-ups that are trained for, as powers of the one asked for; by benchmarks/prune_aware.py


def check_preparation(prepare, prepare_epochs, prepare_learning_rate, *, train_data, speedup, is_latency, criterion, metanetwork):
    """Checks the arguments of `prune` that go with a training before pruning.

    Args:
      prepare: as for `prune`.
      prepare_epochs: as for `prune`.
      prepare_learning_rate: as for `prune`.
      train_data: as for `prune`.
      speedup: as for `prune`.
      is_latency: whether a latency is asked for in place of a speed-up.
      criterion: as for `prune`.
      metanetwork: as for `prune`.

    Returns:
      The number of epochs and the learning rate, None for the default; (0, None) without a preparation.

    Raises:
      ArgumentError: an argument has a value that cannot be used, or that does not go with the others.
    """
    if prepare is None:
        for name, value in (("prepare_epochs", prepare_epochs), ("prepare_learning_rate", prepare_learning_rate)):
            if value is not None:
                raise ArgumentError(f"prune: expected no {name} without prepare, got {value!r}. Set prepare='prune_aware', say.")
        return 0, None
    if not isinstance(prepare, str) or prepare not in PREPARATIONS:
        raise ArgumentError(
            f"prune: expected prepare to be one of {', '.join(PREPARATIONS)} or None, got {prepare!r}. Use 'prune_aware'."
        )
    epochs = DEFAULT_EPOCHS if prepare_epochs is None else prepare_epochs
    if not isinstance(epochs, numbers.Integral) or isinstance(epochs, bool) or epochs < 1:
        raise ArgumentError(
            f"prune: expected prepare_epochs to be a number of epochs >= 1 or None, got {epochs!r}. Use prepare=None to leave it out."
        )
    rate = prepare_learning_rate
    if rate is not None and (not isinstance(rate, numbers.Real) or isinstance(rate, bool) or not 0 < rate < math.inf):
        raise ArgumentError(f"prune: expected prepare_learning_rate to be a number above 0 or None, got {rate!r}. Try 0.1.")
    if train_data is None:
        raise ArgumentError(f"prune: expected train_data for prepare={prepare!r}, got None. Pass train_data, or set prepare=None.")
    if metanetwork is not None:
        raise ArgumentError(
            f"prune: expected metanetwork=None with prepare={prepare!r}, which learns itself what goes, got one. Leave one of them out."
        )
    if prepare == "prune_aware":
        if is_latency or speedup == 1:
            got = "a latency" if is_latency else "1"
            raise ArgumentError(
                f"prune: expected a speedup above 1 with prepare='prune_aware', which trains for it, got {got}. Give speedup=2.0, say."
            )
        if not isinstance(criterion, str) or criterion not in NORMALIZERS:
            raise ArgumentError(
                f"prune: expected criterion to be one of {', '.join(NORMALIZERS)} with prepare='prune_aware', which trains what it "
                f"measures, got {criterion!r}. Use 'group_l2'."
            )
    return int(epochs), rate


def prepare_model(
    model, train, method, *, speedup, criterion="group_l2", losses=(None, None), epochs=DEFAULT_EPOCHS, learning_rate=None,
    traffic_weight=0.0, reach=REACH, distill=True, regularization=None,
):  # fmt: skip
    """Trains a copy of a model with what comes in mind: fewer channels.

    "prune_aware": each step draws a speed-up, log-uniform up to a little more than the one asked for, silences the channels
    that rank lowest by group L2 (some noise added), and takes the loss of what is left, with BatchNormalization in batch-statistics
    mode; gradients reach the ranking through the masks. "group_norm": the whole model is trained with the published regulariser added
    to the loss (see `group_norm`), which is what DepGraph calls sparsity learning. Statistics of BatchNormalization are estimated again
    at the end.

    Args:
      model: a functional or Sequential tf_keras model; it is not modified.
      train: batched, finite dataset of (x, y).
      method: one of `PREPARATIONS`.
      speedup: the MACs ratio that the model will be pruned to, above 1.
      criterion: "group_l2" or "group_l2_max", which ranks the channels for "prune_aware".
      losses: of `own_losses`.
      epochs: passes over `train`.
      learning_rate: of the first step of SGD with momentum, which did better than Adam with both; None for `LEARNING_RATES`, or
        `LEARNING_RATES_WITHOUT_BN` where there is no BatchNormalization.
      traffic_weight: as for `prune`.
      reach: for "prune_aware": the speed-ups drawn lie between `speedup ** reach[0]` and `speedup ** reach[1]`.
      distill: whether the outputs are drawn to those of the model as it was, beside the loss, for "prune_aware".
      regularization: weight of the group norm, for "group_norm"; None for `REGULARIZATION` over the number of steps, so that weights
        which the loss does not need have decayed equally at the end, however long the training is.

    Returns:
      The trained copy, and metric name -> values per epoch; the loss without distillation and group norm.

    Raises:
      DataError: the dataset is empty or endless.
      ArgumentError: the loss is no longer finite.
    """
    prepared = replace_weights(model, {})
    trace = trace_model(prepared)
    if learning_rate is None:
        has_batch_norm = any(is_batch_norm(channels) for channels in trace.channels.calls)
        learning_rate = LEARNING_RATES[method] if has_batch_norm else LEARNING_RATES_WITHOUT_BN[method]

    def what_runs_along(steps):
        if method == "group_norm":
            weight = REGULARIZATION / steps if regularization is None else regularization
            return _Regularized, {"penalty": lambda: weight * group_norm(trace)}, ()
        masked = MaskedOutputs(trace, np.power(speedup, reach), normalizer=NORMALIZERS[criterion], traffic_weight=traffic_weight)
        return _Masked, {"masked_outputs": masked}, ()

    teacher = model if method == "prune_aware" and distill else None
    history = finetune_model(
        prepared, train, losses=losses, epochs=epochs, learning_rate=learning_rate, teacher=teacher, prepare=what_runs_along,
        title="Training before pruning", optimizer=_momentum,
    )  # fmt: skip
    if not np.isfinite(history["loss"]).all():
        raise ArgumentError(
            f"prune: expected the training before pruning ({method}) to keep a finite loss, got {history['loss'][-1]} with a learning "
            f"rate of {learning_rate:g}. Lower prepare_learning_rate."
        )
    return reestimate_bn(prepared, train), history


def _momentum(learning_rate):
    return keras.optimizers.SGD(learning_rate, momentum=0.9)


class MaskedOutputs:
    """What a model puts out with channels silent, others in each call.

    Args:
      trace: the traced model, whose variables are read in each call.
      speedups: range of the log-uniform sample of the MACs ratio.
      normalizer: as for `normalized_score`.
      traffic_weight: as for `prune`.
    """

    def __init__(self, trace, speedups, *, normalizer="mean", traffic_weight=0.0):
        self.trace, self.speedups, self.normalizer = trace, speedups, normalizer
        self._masks = ChannelMasks(trace)
        self._added = -traffic_weight * traffic_score(trace) if traffic_weight else np.float32(0)

    def __call__(self, x):
        """Runs the model.

        Args:
          x: its inputs, as `fit` takes them.

        Returns:
          Its outputs, in its own structure; differentiable with respect to its variables, through the masks too.
        """
        low, high = map(math.log, self.speedups)
        speedup = tf.exp(tf.random.uniform([], low, high))
        score = normalized_score(unit_importance(self.trace), self.trace.channels.group_of_unit, self.normalizer)
        noise = NOISE * tf.random.normal([self._masks.num_units])
        mask = self._masks(score + self._added + noise, speedup)
        model = self.trace.model
        outputs = run_masked(self.trace, mask, model_inputs(model, (x,)), training_bn=True)
        return tf.nest.pack_sequence_as(model.output, outputs)


class _Masked:
    """Mixin of a model that puts out what is left of it while it is trained."""

    masked_outputs = None

    def call(self, inputs, training=None, mask=None):
        return self.masked_outputs(inputs) if training else super().call(inputs, training=training, mask=mask)


class _Regularized:
    """Mixin of a model with something added to its loss while it is trained."""

    penalty = None

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None):
        loss, penalty = super().compute_loss(x, y, y_pred, sample_weight), self.penalty()
        dtype = tf.float64 if tf.float64 in (loss.dtype, penalty.dtype) else tf.float32  # half precision would overflow
        return tf.cast(loss, dtype) + tf.cast(penalty, dtype)
