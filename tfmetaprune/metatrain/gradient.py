"""The meta-gradient in stages: batches add up dL/dweights, then one backward pass goes through the metanetwork."""

from tfmetaprune._keras import tf


class MetaGradient:
    """Computes the loss of a metanetwork on a data model of one architecture, and the gradient, over any number of batches.

    The metanetwork runs eagerly, once forward and once backward. What lies between its outputs and the loss is compiled,
    once for all data models of an architecture and all metanetworks: the decoding with the mask, the loss of a batch with its gradient, and
    the way back from decoded weights and mask to the metanetwork's outputs, which decodes again instead of keeping
    intermediate results while the batches run.

    Args:
      objective: the `Objective` of the architecture.
    """

    def __init__(self, objective):
        self.objective = objective
        self._decode = tf.function(objective.decode, autograph=False)
        self._add_batch = tf.function(self._totals_with_batch, autograph=False, reduce_retracing=True)
        self._pull_back = tf.function(self._gradient_of_decode, autograph=False)

    def __call__(self, metanet, graph, original, batches, target, noise):
        """Computes the mean loss over the batches and its gradient.

        Args:
          metanet: the `MetaNetwork`.
          graph: the data model as raw tensors, as `graph_arrays` makes them.
          original: the data model's own weights, (layer path, weight name) -> tensor; {} where there is no distillation.
          batches: iterable of (images [batch, ...], int labels [batch]), at least one.
          target: scalar of the objective's `draw_target`.
          noise: float32 [num_units], standard normal.

        Returns:
          The loss, a scalar, and the gradients for its `trainable_variables`, a list.
        """
        target, noise = tf.constant(target, tf.float32), tf.constant(noise, tf.float32)
        inputs = (graph[name] for name in ("parameters", "present", "statistics", "frozen", "weights"))
        with tf.GradientTape() as tape:
            generated = metanet.transform(*inputs, self.objective.layout)
        network = self._decode(generated, target, noise)
        totals, count = tf.nest.map_structure(tf.zeros_like, (tf.zeros([]), network)), 0
        for x, y in batches:
            totals = self._add_batch(totals, network, tf.constant(x), tf.constant(y), original)
            count += 1
        loss, gradient = totals
        gradient = self._pull_back(generated, target, noise, gradient, tf.constant(count, tf.float32))
        gradients = tape.gradient(
            tf.nest.flatten(generated), metanet.trainable_variables,
            output_gradients=tf.nest.flatten(gradient), unconnected_gradients=tf.UnconnectedGradients.ZERO,
        )  # fmt: skip
        return loss / count, gradients

    def _totals_with_batch(self, totals, network, x, y, original):
        """Adds a batch's loss, and its gradient with respect to decoded weights and mask, to the totals."""
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(network)
            loss = self.objective.batch_loss(*network, x, y, original)
        gradient = tape.gradient(loss, network, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        return tf.nest.map_structure(tf.add, totals, (loss, gradient))

    def _gradient_of_decode(self, generated, target, noise, gradient, count):
        """Carries the gradient with respect to decoded weights and mask, divided by `count`, back to what was generated."""
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(generated)
            network = self.objective.decode(generated, target, noise)
        gradient = tf.nest.map_structure(lambda value: value / tf.cast(count, value.dtype), gradient)
        return tape.gradient(
            network, generated, output_gradients=gradient, unconnected_gradients=tf.UnconnectedGradients.ZERO
        )
