"""Quantisation-aware training: the model learns to live with 8-bit numbers, and its zeros stay zeros."""

from tfmetaprune._keras import keras, tfmot
from tfmetaprune.data import check_data
from tfmetaprune.data.conversion import shuffled_dataset
from tfmetaprune.errors import ExportError
from tfmetaprune.export.running import muted, reason
from tfmetaprune.finetuning import finetune_model

LEARNING_RATE = 1e-4
_HANDLED_ELSEWHERE = (  # TF-MOT takes these together with their neighbours
    keras.layers.InputLayer, keras.layers.BatchNormalization, keras.layers.SeparableConv1D, keras.layers.SeparableConv2D
)  # fmt: skip


def train_quantized(model, training_data, *, losses, epochs):
    """Trains a copy of a model in which weights and activations are rounded to 8 bits (TF-MOT's pruning-preserving QAT).

    Args:
      model: the tf_keras model; it is not modified.
      training_data: batched dataset of (x, y), or arrays (x, y).
      losses: of `finetuning.own_losses`.
      epochs: passes over the data.

    Returns:
      The trained copy, which holds the ranges of its activations; and metric name -> values per epoch.

    Raises:
      DataError: the data do not fit the model.
      ExportError: TF-MOT cannot quantise a layer.
    """
    train = shuffled_dataset(training_data, seed=0)
    check_data(train, model, loss=losses[0])
    nested = [layer for layer in model.layers if isinstance(layer, keras.Model)]
    if nested:
        _refuse(model, f"layer '{nested[0].name}', a model inside the model")
    quantization = tfmot().quantization.keras
    scheme = tfmot().experimental.combine.Default8BitPrunePreserveQuantizeScheme()
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    try:
        with muted():
            quantized = quantization.quantize_apply(quantization.quantize_annotate_model(copy), scheme)
    except Exception as error:  # TF-MOT raises whatever its wrappers stumble upon
        named = [layer for layer in model.layers if not _is_known(layer, scheme.get_quantize_registry())]
        what = f"layer '{named[0].name}' ({type(named[0]).__name__})" if named else reason(error)
        _refuse(model, what, error)
    return quantized, finetune_model(quantized, train, losses=losses, epochs=epochs, learning_rate=LEARNING_RATE)


def _is_known(layer, registry):
    if isinstance(layer, _HANDLED_ELSEWHERE):
        return True
    try:
        registry.get_quantize_config(layer)
    except ValueError:
        return False
    return True


def _refuse(model, what, cause=None):
    raise ExportError(
        f"export_tflite: expected a model '{model.name}' that TF-MOT can train with 8-bit numbers, got {what}. Leave "
        f"training_data out: quantize='int8' after training takes this layer."
    ) from cause
