"""The steps that random models are made of: one small function for every layer kind or TensorFlow operator.

`STEPS` maps a name to a `StepKind`. A step takes a `Maker`, a tensor that suits it and numbers to choose with, and returns
the tensors it makes. Every choice is a valid one, so that every list of steps makes a model.
"""

from random_steps import layers, mixing, operations, structures  # noqa: F401  (importing fills STEPS, in this order)
from random_steps.maker import STEPS, VOCABULARY, Choices, Maker

__all__ = ["STEPS", "VOCABULARY", "Choices", "Maker"]
