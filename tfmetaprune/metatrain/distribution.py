"""Meta-training on several devices and machines: the strategies, who writes files, and the joint update."""

from tfmetaprune._keras import tf
from tfmetaprune.errors import ArgumentError

STRATEGIES = ("none", "mirrored", "multi-worker")


def make_strategy(name: str = "none") -> tf.distribute.Strategy:
    """Makes a distribution strategy; for "multi-worker" before TensorFlow has run any other operation.

    Args:
      name: "none" for this process and its default device; "mirrored" for all the GPUs of this machine (the CPU without
        any); "multi-worker" for the processes that the environment variable TF_CONFIG lists.

    Raises:
      ArgumentError: the name is unknown.
    """
    if name == "none":
        return tf.distribute.get_strategy()
    if name == "mirrored":
        return tf.distribute.MirroredStrategy()
    if name == "multi-worker":
        return tf.distribute.MultiWorkerMirroredStrategy()
    raise ArgumentError(f"Strategy: expected one of {', '.join(STRATEGIES)}, got {name!r}. Use 'none' for one device.")


def is_chief(strategy) -> bool:
    """Whether this process writes the log, the checkpoints and the results; one of all workers does."""
    return strategy.extended.should_checkpoint


def gather(strategy, value) -> list[int]:
    """Returns an integer of every replica, in the same order everywhere; waits until all workers have called it."""

    @tf.function(autograph=False)
    def gather_everywhere():
        collected = strategy.run(lambda: tf.distribute.get_replica_context().all_gather(tf.constant([value]), 0))
        return strategy.experimental_local_results(collected)[0]

    return gather_everywhere().numpy().tolist()


def check_distribution(strategy, variables, num_items: int):
    """Checks that a metanetwork and the number of items a step fit the strategy.

    Args:
      strategy: the strategy to train under.
      variables: the metanetwork's.
      num_items: items a step.

    Raises:
      ArgumentError: they do not.
    """
    if not all(strategy.extended.variable_created_in_scope(variable) for variable in variables):
        raise ArgumentError(
            f"MetaTrainer: expected a metanetwork made under the strategy's scope, got variables that do not belong to "
            f"the {type(strategy).__name__}. Make it inside `with strategy.scope():`."
        )
    replicas = strategy.num_replicas_in_sync
    if num_items % replicas:
        raise ArgumentError(
            f"MetaTrainer: expected models_per_step to be a multiple of the {replicas} replicas of the strategy, got "
            f"{num_items}. Use {-(-num_items // replicas) * replicas}."
        )


def joint_update(strategy, optimizer, variables):
    """Makes the function that every step ends with.

    Args:
      strategy: the strategy that `optimizer` and `variables` were made under.
      optimizer: a built Keras optimizer.
      variables: the variables to update.

    Returns:
      A compiled function: (loss, gradients), one value a local replica -> the mean loss over all replicas. The variables
      of all replicas on all workers take the same step along the mean gradient.
    """

    def update(loss, gradients):
        context = tf.distribute.get_replica_context()
        values = tf.nest.map_structure(tf.identity, (loss, gradients))  # arguments lie on no device that TF could reduce to
        loss, gradients = context.all_reduce(tf.distribute.ReduceOp.MEAN, values)
        optimizer.apply_gradients(zip(gradients, variables), skip_gradients_aggregation=True)
        return loss

    @tf.function(autograph=False)
    def update_everywhere(loss, gradients):
        losses = strategy.run(update, args=(loss, gradients))
        return strategy.experimental_local_results(losses)[0]

    return update_everywhere
