"""Fine-tuning and evaluation that leave a model's own compile state alone."""

from tfmetaprune._keras import keras, tf
from tfmetaprune.data.checking import loss_name, sole_loss
from tfmetaprune.errors import DataError
from tfmetaprune.interop import CarriedLoss, carried_losses, is_keras3, loss_weights_of
from tfmetaprune.report.progress import progress_bar
from tfmetaprune.trace import activation_of

DEFAULT_EPOCHS = 15
LEARNING_RATE = 1e-3
TEMPERATURE = 2.0  # of the distillation


def own_losses(model):
    """Returns what a model was compiled with, (loss, loss weights) as tf_keras takes them; (None, None) if with no loss.

    Args:
      model: a tf_keras or a Keras 3 model.
    """
    if is_keras3(model):
        return carried_losses(model)
    if getattr(model, "optimizer", None) is None or not getattr(model, "loss", None):
        return None, None
    return model.loss, loss_weights_of(model)


def finetune_model(
    model, train, validation=None, *, losses=(None, None), epochs=DEFAULT_EPOCHS, learning_rate=LEARNING_RATE, teacher=None,
    prepare=None, title="Fine-tuning", optimizer=keras.optimizers.Adam,
) -> dict:
    """Trains a model in place with Adam and a cosine schedule to zero; its own compile state stays as it is.

    Args:
      model: a tf_keras model.
      train: batched, finite dataset of (x, y).
      validation: the same, reported on after every epoch; ignored if it has no labels.
      losses: of `own_losses`; without a loss one that fits the outputs and labels is used.
      epochs: passes over `train`.
      learning_rate: of the first step.
      teacher: a tf_keras model with the same inputs and outputs, to whose outputs those of the model are drawn as well (see
        `distillation`); None for the loss alone.
      prepare: a callable(number of steps) -> (a mixin in front of the trained model's `keras.Model`; the model's attributes, a
        dict; callbacks), for what has to run along.
      title: of the progress bar.
      optimizer: a callable(learning rate or schedule) -> optimizer.

    Returns:
      Metric name -> values per epoch.

    Raises:
      DataError: the dataset is empty or endless, as far as it tells.
    """
    check_finite(train)
    num_batches = int(train.cardinality())
    if num_batches == tf.data.UNKNOWN_CARDINALITY:
        num_batches = _counted(train)
    if not num_batches:
        raise DataError("finetune: expected a dataset with batches, got an empty one. Check where the data come from.")
    schedule = keras.optimizers.schedules.CosineDecay(learning_rate, epochs * num_batches)
    extra = None if prepare is None else prepare(epochs * num_batches)
    trained = _compiled_view(model, train, losses, optimizer(schedule), teacher, extra)
    validation = validation if validation is not None and is_labelled(validation) else None
    with progress_bar(title, epochs) as advance:
        bar = keras.callbacks.LambdaCallback(on_epoch_end=advance)
        callbacks = [*(extra[2] if extra else ()), bar]
        history = trained.fit(train, epochs=epochs, validation_data=validation, verbose=0, callbacks=callbacks).history
    return {name: [float(value) for value in values] for name, values in history.items()}


def evaluate_model(model, dataset, losses=(None, None)) -> dict:
    """Evaluates a model; its own compile state stays as it is.

    Args:
      model: a tf_keras model.
      dataset: batched dataset of (x, y).
      losses: of `own_losses`; without a loss one that fits the outputs and labels is used.

    Returns:
      {"loss": ..., "accuracy": ...}; the accuracy of classifiers alone; {} if the dataset has no labels.
    """
    if not is_labelled(dataset):
        return {}
    values = _compiled_view(model, dataset, losses).evaluate(dataset, verbose=0, return_dict=True)
    return {name: float(values[name]) for name in ("loss", "accuracy") if name in values}


def check_loss(model, dataset, losses):
    """Raises DataError if labels do not fit the loss in shape or dtype; nothing is computed, nor read.

    Args:
      model: a tf_keras model.
      dataset: batched dataset of (x, y).
      losses: of `own_losses`; without a loss one that fits the outputs and labels is used.
    """
    _, labels, sample_weight = keras.utils.unpack_x_y_sample_weight(dataset.element_spec)
    size = next((tensor.shape[0] for tensor in model.outputs if tensor.shape.rank and tensor.shape[0]), 2)  # of a batch, any but 1

    def of_one_size(tensor):
        if tensor is None or isinstance(tensor, (tf.RaggedTensorSpec, tf.SparseTensorSpec)):
            return tensor
        return tf.TensorSpec([size, *tensor.shape[1:]] if tensor.shape.rank else tensor.shape, tensor.dtype)

    try:
        loss = tf.function(_compiled_view(model, dataset, losses).compiled_loss)
        loss.get_concrete_function(*tf.nest.map_structure(of_one_size, (labels, model.output, sample_weight)))
    except (ValueError, TypeError) as error:
        shapes = [tuple(spec.shape) for spec in tf.nest.flatten(labels)]
        raise DataError(
            f"Data: expected labels that fit the loss of model {model.name!r}, got shapes {shapes}: "
            f"{str(error).strip().splitlines()[-1].strip().rstrip('.')}. Change the labels, or compile the model with another loss."
        ) from error


def _counted(dataset) -> int:
    """The number of batches of a dataset that does not tell it."""
    count = 0
    with progress_bar("Counting batches") as advance:
        for _ in dataset:
            count += 1
            advance()
    return count


def check_finite(dataset):
    """Raises DataError if a dataset repeats forever."""
    if int(dataset.cardinality()) == tf.data.INFINITE_CARDINALITY:
        raise DataError("Data: expected a finite dataset, got one that repeats forever. Call .take(num_batches) on it.")


def is_labelled(dataset) -> bool:
    """Whether a batched dataset has labels."""
    return len(dataset.element_spec) > 1


class _Distilled:
    """Mixin of a model whose training adds `distance(x, outputs)` to its loss."""

    distance = None

    def train_step(self, data):
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        with tf.GradientTape() as tape:
            outputs = self(x, training=True)
            loss = self.compute_loss(x, y, outputs, sample_weight)
            total = loss + tf.cast(self.distance(x, outputs), loss.dtype)
        self.optimizer.minimize(total, self.trainable_variables, tape=tape)
        return self.compute_metrics(x, y, outputs, sample_weight)


def distillation(teacher, losses):
    """Returns the function that tells how far a model's outputs are from a teacher's.

    For classes it is the Kullback-Leibler divergence at temperature 2, times 4; for sigmoids, and for logits that a binary loss takes,
    the binary cross-entropy; else the mean squared difference.

    Args:
      teacher: a tf_keras model.
      losses: what the outputs are trained with, one loss or one for each, by name perhaps; tells logits from other numbers.

    Returns:
      `distance(x, outputs)`, a scalar, summed over the outputs.
    """
    losses = _by_output(teacher, losses)
    activations = [_last_activation(output) for output in teacher.outputs]
    losses = losses * len(activations) if len(losses) == 1 else losses
    losses = losses if len(losses) == len(activations) else [None] * len(activations)

    def distance(x, outputs):
        wanted = [tf.stop_gradient(value) for value in tf.nest.flatten(teacher(x, training=False))]
        return tf.add_n([
            _distance(activation, loss, tf.cast(one, tf.float32), tf.cast(other, tf.float32))
            for activation, loss, one, other in zip(activations, losses, wanted, tf.nest.flatten(outputs))
        ])  # fmt: skip

    return distance


def _distance(activation, loss, wanted, got):
    if activation is keras.activations.sigmoid:
        return tf.reduce_mean(keras.losses.binary_crossentropy(wanted, got))
    if _is_binary(loss) and getattr(loss, "from_logits", False):
        return tf.reduce_mean(keras.losses.binary_crossentropy(tf.sigmoid(wanted), got, from_logits=True))
    if activation is keras.activations.softmax:
        wanted, got = (tf.math.log(tf.maximum(value, 1e-7)) for value in (wanted, got))
    elif not (_is_classification(loss) and wanted.shape[-1] > 1):
        return tf.reduce_mean(tf.math.squared_difference(wanted, got))
    wanted, got = (tf.nn.log_softmax(value / TEMPERATURE) for value in (wanted, got))
    return TEMPERATURE**2 * tf.reduce_mean(tf.reduce_sum(tf.exp(wanted) * (wanted - got), -1))


def _compiled_view(model, dataset, losses, optimizer="sgd", teacher=None, extra=None):
    """A model of the same layers with a compile state of its own, so that the model's own stays as it is."""
    loss, loss_weights = losses
    loss = _usual_loss(model, dataset) if loss is None else _for_labels(model, loss, dataset)
    mixins = ([] if teacher is None else [_Distilled]) + ([] if extra is None else [extra[0]])
    # A class of its own each time: Keras changes the bases of what is made from inputs and outputs, for good.
    view = type("Trained", (*mixins, keras.Model), {})(model.input, model.output)
    if teacher is not None:
        view.distance = distillation(teacher, loss)
    for name, value in ({} if extra is None else extra[1]).items():
        setattr(view, name, value)
    if isinstance(optimizer, keras.optimizers.Optimizer) and _computes_in_float16(model):
        optimizer = keras.mixed_precision.LossScaleOptimizer(optimizer)
    view.compile(optimizer, loss, loss_weights=loss_weights, metrics=_metrics(model, sole_loss(model, loss)))
    return view


def _metrics(model, loss):
    """The accuracy of a classifier; where every output is a class of its own, that of each, at the threshold that its loss implies."""
    if not _is_classification(loss):
        return None
    if _is_binary(loss) and _last_activation(model.outputs[0]) is not keras.activations.softmax:
        threshold = 0.0 if getattr(loss, "from_logits", False) else 0.5
        return [keras.metrics.BinaryAccuracy("accuracy", threshold=threshold)]
    return ["accuracy"]


def _computes_in_float16(model) -> bool:
    """Whether gradients underflow unless the loss is scaled; Keras sees to it only where the model itself has such a policy."""
    return any(getattr(module, "compute_dtype", None) == "float16" for module in model.submodules)


def _by_output(model, values) -> list:
    """What is given for each output, in order; None where it is given by name and the output's is missing."""
    if isinstance(values, dict) and not isinstance(model.output, dict):
        return [values.get(name) for name in model.output_names]
    return tf.nest.flatten(values)


def _for_labels(model, loss, dataset):
    """The same losses; those of Keras 3 are told what rank their labels have."""
    ranks = [None if label is None else label.shape.rank for label in _by_output(model, dataset.element_spec[1])]
    if isinstance(loss, dict) and not isinstance(model.output, dict):
        by_name = dict(zip(model.output_names, ranks))
        return {name: _for_rank(one, by_name.get(name)) for name, one in loss.items()}
    leaves = tf.nest.flatten(loss)
    ranks = ranks if len(ranks) == len(leaves) else [None] * len(leaves)
    return tf.nest.pack_sequence_as(loss, [_for_rank(leaf, rank) for leaf, rank in zip(leaves, ranks)])


def _for_rank(loss, rank):
    return loss.for_labels(rank) if isinstance(loss, CarriedLoss) else loss


def _usual_loss(model, dataset):
    """The loss that fits each output's last activation and its labels; one alone, not a list, for a single output."""
    labels = _by_output(model, dataset.element_spec[1])
    losses = [label if label is None else _loss_of_output(output, label) for output, label in zip(model.outputs, labels)]
    return losses[0] if len(losses) == 1 else losses


def _loss_of_output(output, label):
    activation = _last_activation(output)
    is_probability = activation in (keras.activations.softmax, keras.activations.sigmoid)
    rank = output.shape.rank
    num_outputs = (output.shape[-1] or 1) if rank and rank > 1 else 1
    is_index = num_outputs > 1 and (label.shape.rank == rank - 1 or (label.shape.rank == rank and label.shape[-1] == 1))
    if is_index:
        return keras.losses.SparseCategoricalCrossentropy(from_logits=not is_probability)
    if activation is keras.activations.sigmoid:
        return keras.losses.BinaryCrossentropy()
    if is_probability or (num_outputs > 1 and not label.dtype.is_floating):
        return keras.losses.CategoricalCrossentropy(from_logits=not is_probability)
    return keras.losses.MeanSquaredError()


def _last_activation(output):
    """The activation that an output's numbers come from, whatever only moves them behind it; None where there is none."""
    layer = output.node.layer
    while isinstance(layer, keras.Model) or _only_moves(layer):
        within = layer.outputs[output._keras_history.tensor_index] if isinstance(layer, keras.Model) else None
        output = output.node.keras_inputs[0] if within is None else within
        layer = output.node.layer
    return activation_of(layer)


def _only_moves(layer) -> bool:
    if isinstance(layer, keras.layers.Activation):
        return layer.activation is keras.activations.linear
    kind = getattr(layer, "carried_kind", None) or type(layer)  # of an operation of Keras 3
    return kind.__name__ in ("Reshape", "Flatten", "Squeeze")


def _is_classification(loss) -> bool:
    return "crossentropy" in loss_name(loss)


def _is_binary(loss) -> bool:
    return _is_classification(loss) and "binary" in loss_name(loss)
