"""EinsumDense."""

from tfmetaprune._keras import keras
from tfmetaprune.layers.spec import Axes, Frozen, LayerSpec, register


@register(keras.layers.EinsumDense)
class EinsumDenseSpec(LayerSpec):
    """The letters of the equation name the axes."""

    def weights(self, layer):
        _, kernel, made = _operands(layer.equation)
        result = {"kernel": " ".join(kernel)}
        if layer.bias is not None:
            letters = [letter for letter in made if letter != "..."]
            first = min(letters.index(letter) for letter in layer.bias_axes)
            names = [letter if letter in layer.bias_axes else f"tap_{letter}" for letter in letters[first:]]
            more = len(layer.bias.shape) - len(names)
            result["bias"] = " ".join([*names, *(f"tap_{axis}" for axis in range(more))])
        return result

    def flow(self, call):
        operands = read, kernel, made = _operands(call.layer.equation)
        if any(len(set(letters)) < len(letters) for letters in operands):
            return Frozen("takes a diagonal")
        if read[0] != made[0] or read[0] in kernel or (read[0] != "..." and read[0] in (call.layer.bias_axes or "")):
            return Frozen("its weights have the batch axis")
        return Axes(f"{' '.join(read)} -> {' '.join(made)}")

    def positions(self, call, weight, names):
        _, kernel, made = _operands(call.layer.equation)
        step = -1 if made[0] == "..." else 1  # count from the end that has no "..."
        lengths = dict(zip(made[::step], call.output_shapes[0][::step]))
        return {**names, **{letter: lengths[letter] for letter in made[1:] if letter not in [*kernel, "..."]}}

    def narrow(self, config, narrowing):
        lengths = narrowing.output_shapes[0]
        old = config["output_shape"]
        lengths = lengths[-len(old) :] if config["equation"].startswith("...") else lengths[1:]
        return {**config, "output_shape": [one if one is None else new for one, new in zip(old, lengths)]}


def _operands(equation):
    """The letters of what is read, of the kernel and of what is made; "..." counts as one."""
    read, _, rest = equation.replace(" ", "").partition(",")
    kernel, _, made = rest.partition("->")
    return tuple(
        ["..." if letter == "0" else letter for letter in text.replace("...", "0")] for text in (read, kernel, made)
    )
