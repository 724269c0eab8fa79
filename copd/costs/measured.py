"""What `copd plan` measures of model and data, without weights."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from copd.costs.shape import Shape


class PromptSizes(NamedTuple):
    """The first prompts of a capability: mean, least and most tokens of a prompt, and most patches."""

    mean: float
    shortest: int
    longest: int
    patches: int = 0


class Measured(NamedTuple):
    """What is known without weights: the model's shape, each capability's prompts, whether log-probs are packed.

    `there`: how many problems evaluation can ask, as of `copd.recipe.evaluation.sized`. `frozen`: how many of the
    parameters `model.freeze` takes from training.
    """

    shape: Shape
    prompts: Mapping[str, PromptSizes]
    packed: bool = True
    there: Mapping[str, int | None] = MappingProxyType({})
    frozen: int = 0
