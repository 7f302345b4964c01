"""Random functional models over all layer kinds, as a hypothesis strategy.

A `Program` is a list of steps over a growing pool of tensors; `build` makes the model of any program. What a program
does stands in its repr, so a failure that hypothesis found can be pasted into a test: `build(Program(...))`.
"""

import dataclasses

from checks import floatx, randomize_weights
from hypothesis import strategies as st
from random_steps import STEPS, VOCABULARY, Choices, Maker

from tfmetaprune._keras import keras, tf

L = keras.layers
FIRST = "image_first"  # an image with its channels first
INPUTS = {
    "image": (6, 5, 3), "series": (6, 4), "vector": (5,), "volume": (3, 4, 3, 2), FIRST: (3, 6, 5), "tokens": (5,),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Step:
    """One step: its kind, which of the tensors that suit it is read (0: the last one), and numbers to choose with."""

    kind: str
    tensor: int
    numbers: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Program:
    """What a random model is made from.

    Attributes:
      inputs: names of `INPUTS`.
      stems: for each input, how many channels a first layer makes of it; 0 for no such layer.
      steps: the steps.
      ends: for each tensor that nobody reads, how it ends: dropped, with a head, or as it is.
      float64: whether the model computes in float64, where all its layers can.
      seed: draws the weights.
    """

    inputs: tuple[str, ...]
    stems: tuple[int, ...]
    steps: tuple[Step, ...]
    ends: tuple[int, ...] = ()
    float64: bool = True
    seed: int = 0


def _numbers(last, size):
    return st.lists(st.integers(0, last), min_size=size, max_size=size).map(tuple)


def runs_channels_first() -> bool:
    """Whether TensorFlow convolves images with channels first here; on CPUs oneDNN does it, which is not switched on for all of them."""
    try:
        tf.nn.conv2d(tf.zeros((1, 1, 2, 2)), tf.zeros((1, 1, 1, 1)), 1, "SAME", data_format="NCHW")
    except tf.errors.UnimplementedError:
        return False
    return True


def programs(kinds=None, max_steps: int = 10, inputs=tuple(INPUTS)):
    """Returns the strategy that draws programs.

    Args:
      kinds: names of the steps to draw from; None for all.
      max_steps: how many steps a program has at most.
      inputs: names of `INPUTS` to draw from, images and series the most often.
    """
    often = [name for name in ("image", "series", "vector", "image", "series") if name in inputs]
    step = st.builds(
        Step, st.sampled_from(sorted(kinds or STEPS)), st.sampled_from((0, 0, 0, 1, 2, 3)), _numbers(59, 10)
    )
    return st.builds(
        Program,
        st.lists(st.sampled_from((*often, *inputs)), min_size=1, max_size=3).map(tuple),
        st.lists(st.sampled_from((8, 6, 5, 4, 0)), min_size=3, max_size=3).map(tuple),
        st.integers(2, max_steps).flatmap(lambda size: st.lists(step, min_size=size, max_size=size)).map(tuple),
        _numbers(7, 6), st.sampled_from((True, True, True, False)), st.integers(0, 99),
    )  # fmt: skip


def build(program: Program):
    """Makes the model of a program, with random weights."""
    float64 = program.float64 and FIRST not in program.inputs
    with floatx("float64" if float64 else "float32"):
        return randomize_weights(_build(program), program.seed)


def _build(program):
    make, inputs = Maker(), []
    for index, kind in enumerate(program.inputs):
        inputs.append(_input(make, kind, program.stems[index % len(program.stems)], f"input{index}"))
    for one in program.steps:
        kind = STEPS[one.kind]
        suiting = [x for x in reversed(make.pool) if len(x.shape) - 1 in kind.ranks and x.shape[1:].num_elements() <= 4000]
        if not suiting:
            continue
        x = make.use(suiting[one.tensor % len(suiting)])
        made = kind.apply(make, x, Choices(one.numbers))
        for tensor in made if isinstance(made, list) else [made]:
            make.add(tensor, like=x)
    return keras.Model(inputs, _outputs(make, Choices(program.ends)), name="random_model")


def _input(make, kind, stem, name):
    """Adds an input and what a first layer makes of it."""
    if kind == "tokens":
        tensor = keras.Input(INPUTS[kind], dtype="int32", name=name)
        masked = bool(stem % 2)
        make.add(L.Embedding(VOCABULARY, stem or 3, mask_zero=masked, name=make.name("embedding"))(tensor))
        return tensor
    tensor = keras.Input(INPUTS[kind], name=name)
    first = kind == FIRST
    if first:
        make.channels_first.add(id(tensor))
    x = tensor
    if stem and first:
        x = L.Conv2D(stem, 3, padding="same", data_format="channels_first", name=make.name("stem"))(x)
    elif stem:
        x = L.Dense(stem, name=make.name("stem"))(x)
    make.add(x, like=tensor)
    return tensor


def _outputs(make, choices):
    """Ends the tensors that nobody reads; the last one always becomes an output."""
    outputs = []
    for tensor in [x for x in reversed(make.pool) if id(x) not in make.read]:
        how = choices.of("head", "head", "drop", "flat", "as it is", "head", "drop", "head")
        if how == "drop" and outputs:
            continue
        if how == "as it is":
            outputs.append(tensor)
        elif how == "flat" and len(tensor.shape) > 2:
            outputs.append(L.Dense(2, name=make.name("head"))(L.Flatten(name=make.name("flat"))(tensor)))
        else:
            outputs.append(L.Dense(3, name=make.name("head"))(tensor))
    unread = {id(output) for output in outputs}
    return outputs if len(unread) == len(outputs) else list({id(output): output for output in outputs}.values())
