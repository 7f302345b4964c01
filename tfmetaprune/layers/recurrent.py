"""Recurrent layers: LSTM, GRU, SimpleRNN, and RNN around one cell of these kinds."""

from tfmetaprune._keras import keras, tf
from tfmetaprune.layers.spec import Axes, Frozen, LayerSpec, TensorIndex, is_channelwise, register

# Cell -> its kernels' axes behind `in` or `state`; gates are stored one after the other.
_CELLS = {
    keras.layers.LSTMCell: "gate*out",
    keras.layers.GRUCell: "gate*out",
    keras.layers.SimpleRNNCell: "out",
}


@register(keras.layers.LSTM, keras.layers.GRU, keras.layers.SimpleRNN, keras.layers.RNN)
class RecurrentSpec(LayerSpec):
    """Every step reads the step's input and, as `state`, what the step before made."""

    aliases = {"state": "out"}

    def weights(self, layer, made="out", state="state"):
        """Maps the weights to their axes; a layer of two directions names what each makes."""
        axes = _cell_axes(layer.cell)
        if axes is None:
            return {}
        axes = axes.replace("out", made)
        result = {"cell.kernel": f"in {axes}", "cell.recurrent_kernel": f"{state} {axes}"}
        if layer.cell.bias is not None:
            kinds = len(layer.cell.bias.shape) - 1  # a GRU with reset_after has a bias for inputs and one for states
            result["cell.bias"] = "kind " * kinds + axes
        return result

    def flow(self, call):
        reason = why_frozen(call.layer)
        if reason is not None:
            return Frozen(reason)
        series, states, masks = inputs_of(call)
        if series is None:
            return Frozen("is called with constants")
        made = ["b out"] * len(call.output_shapes)
        if call.layer.return_sequences:
            made[0] = "b u out"
        return Axes(f"{', '.join([series, *['b out'] * states, *masks])} -> {', '.join(made)}")

    def positions(self, call, weight, names):
        return {"t": call.input_shapes[0][1]}

    def narrow(self, config, narrowing):
        return narrow_units(config, narrowing.widths["out"])


def why_frozen(layer) -> str | None:
    """Why the channels of a recurrent layer have to stay; None if they need not."""
    if _cell_axes(layer.cell) is None:
        return f"nothing is known about its cell, {type(layer.cell).__name__}"
    if layer.stateful:
        return "keeps its state from call to call"
    if layer.time_major:
        return "has the steps before the batch axis"
    functions = (getattr(layer.cell, name, None) for name in ("activation", "recurrent_activation"))
    return None if all(map(is_channelwise, functions)) else "its activation mixes the channels"


def inputs_of(call):
    """Tells apart what a recurrent layer is called with.

    Returns:
      The pattern of the series, the number of initial states, the patterns of masks; Nones if there are constants.
    """
    if call.layer._num_constants or call.kwargs.get("constants") is not None:
        return None, None, None
    given = [leaf for leaf in tf.nest.flatten(call.args[:1]) if isinstance(leaf, TensorIndex)]
    masks = [f"b m{number}" for number in range(len(call.inputs) - len(given))]
    return "b t in", len(given) - 1, masks


def narrow_units(config, units):
    """Returns the config of a recurrent layer with fewer units."""
    if "cell" in config:
        cell = config["cell"]
        return {**config, "cell": {**cell, "config": {**cell["config"], "units": units}}}
    return {**config, "units": units}


def _cell_axes(cell) -> str | None:
    kind = next((kind for kind in type(cell).__mro__ if kind in _CELLS), None)
    return None if kind is None or type(cell).call is not kind.call else _CELLS[kind]
