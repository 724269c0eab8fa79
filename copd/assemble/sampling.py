"""What samples: the policies themselves, or another engine."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from copd.maths.cut import WHOLE, Cut
from copd.model.engine import EngineSampler
from copd.model.objectives import Corrected, ReweightedObjective, as_it_is
from copd.model.vllm_sampler import VllmEngine, check_installed
from copd.recipe.model import Recipe
from copd.recipe.sampling_section import SamplingSection
from copd.types import Split, Task


def make_sampler(sampling: SamplingSection, tasks: Mapping[str, Task]) -> EngineSampler | None:
    """The engine of a recipe, which is checked on the first problem of each task; None: policies sample themselves.

    Raises RecipeError for an engine that is not installed here.
    """
    if sampling.engine == "builtin":
        return None
    probes = [task.problem(Split.TRAIN, 0) for task in tasks.values()]
    return EngineSampler(VllmEngine(sampling.vllm_cache_gib), probes, sampling.temperature)


def cut_of(sampling: SamplingSection) -> Cut:
    """What a recipe leaves of the distribution that tokens are drawn from."""
    return Cut(sampling.top_p, sampling.top_k, sampling.min_p)


def make_correction(sampling: SamplingSection) -> Corrected:
    """What makes an expectation over the trainer's tokens of one over the sampler's.

    A policy that samples itself from its whole distribution needs nothing: trainer and sampler are one.
    """
    if sampling.engine == "builtin" and cut_of(sampling) == WHOLE:
        return as_it_is
    return partial(ReweightedObjective, cap=sampling.importance_cap)


def versions_of_sampler(recipe: Recipe) -> dict[str, str]:
    """The version of the engine by its name; none if policies sample themselves.

    Raises RecipeError for an engine that is not installed here, or in a version that is not supported.
    """
    return {} if recipe.sampling.engine == "builtin" else {recipe.sampling.engine: check_installed()}
