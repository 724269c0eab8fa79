"""The pilot of `copd advise`: some steps of each branch alone, measured and thrown away. No file is left."""

from __future__ import annotations

import time
from asyncio import gather
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean
from tempfile import gettempdir

from copd.assemble.assembled import Assembled, assembled
from copd.assemble.places import Place, placed
from copd.branches.local import finish
from copd.errors import RecipeError
from copd.handles import BranchHandle
from copd.measure.behaviour import measure_behaviour
from copd.measure.evaluate import Answers, answer
from copd.measure.pilot import GradientSample, Pilot, summary
from copd.model.merging import merge_weights
from copd.model.stored import StoredTensors
from copd.phases import merged
from copd.recipe.evaluation import sized
from copd.recipe.model import Recipe
from copd.system.files import passing_folder
from copd.types import BASE, MERGED, Part, Split

GRADIENT_BATCHES = 8
USUAL_PROBLEMS = 300
"""Native batches of each capability whose gradients are taken at the base."""


@dataclass(frozen=True)
class PilotSettings:
    """`steps` of RLVR of each branch; `problems` of validation in each capability; `tell` takes lines for the user.

    `problems`: None stands for 300, or all that there are.
    """

    steps: int
    problems: int | None
    tell: Callable[[str], None]


def cost_in_words(recipe: Recipe, settings: PilotSettings, problems: int) -> str:
    """What the pilot will sample, before any of it is sampled."""
    branches, sampling = len(recipe.branches), recipe.sampling
    batch = sampling.prompts_per_step * sampling.rollouts_per_prompt
    rollouts = branches * batch * (GRADIENT_BATCHES + settings.steps)
    answers = (branches + 2) * branches * problems
    compared = 2 * branches**2 * sized(recipe.evaluation, {}).behaviour_problems
    tokens = (rollouts + answers + compared) * sampling.max_new_tokens
    return (
        f"the pilot makes {rollouts:,} rollouts ({GRADIENT_BATCHES} batches of each branch for gradients, then "
        f"{settings.steps} steps), {answers:,} greedy answers to validation problems, and {compared:,} responses in "
        f"which branches are compared; {tokens:,} tokens at most"
    )


def run_pilot(recipe: Recipe, settings: PilotSettings) -> tuple[Pilot, list[Answers]]:
    """Make the pilot; return its numbers and the answers of base, branches and their mean to validation problems.

    Batches are not refilled, so that the share of groups without signal is that of all groups, as in the map's pilots.

    Raises RecipeError for a recipe of one branch, and where there are fewer validation problems than are asked for.
    """
    if len(recipe.branches) < 2:
        raise RecipeError(f"branches: found one, {next(iter(recipe.branches))}; advice needs two capabilities or more")
    changes = {
        "evaluation": recipe.evaluation.model_copy(update={"validation_problems": settings.problems}),
        "sampling": recipe.sampling.model_copy(update={"refill": 0}),
    }
    recipe, names = recipe.model_copy(update=changes), tuple(recipe.branches)
    with (
        assembled(recipe, lambda line: settings.tell(f"warning: {line}")) as made,
        ExitStack() as opened,
    ):
        problems = settings.problems or min(USUAL_PROBLEMS, made.evaluation.validation_problems)
        settings.tell(cost_in_words(recipe, settings, problems))
        place = opened.enter_context(closing(placed(made, names)))
        return finish(_measured(made, place, settings, problems))


async def _measured(
    made: Assembled, place: Place, settings: PilotSettings, problems: int
) -> tuple[Pilot, list[Answers]]:
    evaluation, branches = made.evaluation, place.branches
    gradients, no_signal = await _trained(made.recipe, place, settings)
    policy = made.base.clone()
    merge = partial(merge_weights, method="mean", settings={})
    async with merged(branches, merge, partial(passing_folder, _shared(made.recipe))) as weights:
        policy.load_weights(StoredTensors(weights, MERGED))
    models = [place.evaluated(BASE, made.base), *branches.values(), place.evaluated(MERGED, policy)]
    settings.tell("answering validation problems, and comparing the branches token by token")
    answers = await answer(models, list(branches), Split.VALIDATION, problems=problems, pass_at=())
    behaviour = await measure_behaviour(
        branches, list(branches), problems=evaluation.behaviour_problems, ks=evaluation.overlap_k
    )
    comparable = made.recipe.lora is None  # adapters begin in bases of their own, in which gradients cannot be compared
    return summary(settings.steps, answers, behaviour, gradients if comparable else None, no_signal), answers


def _shared(recipe: Recipe) -> Path:
    """Where weights travel: nodes of a cluster share the folder of the command."""
    return Path.cwd() if recipe.backend.kind == "ray" else Path(gettempdir())


async def _trained(recipe: Recipe, place: Place, settings: PilotSettings) -> tuple[dict[str, GradientSample], float]:
    """Gradients of every capability at the base, then the steps; and the share of groups without signal in these."""
    branches, sampling = place.branches, recipe.sampling
    batch = sampling.prompts_per_step, sampling.rollouts_per_prompt
    began = time.perf_counter()
    sampled = await gather(*(branch.native_gradients(range(GRADIENT_BATCHES), *batch) for branch in branches.values()))
    seconds = (time.perf_counter() - began) / GRADIENT_BATCHES * settings.steps
    settings.tell(f"gradients are taken; {settings.steps} steps of each branch take about {seconds / 60:.1f} minutes")

    async def train(branch: BranchHandle) -> list[float]:
        shares = []
        for step in range(GRADIENT_BATCHES, GRADIENT_BATCHES + settings.steps):
            metrics = await branch.update([Part("native", await branch.collect(branch.capability, step, *batch))])
            shares.append(1 - metrics["native/groups_with_signal"])
        return shares

    shares = await gather(*map(train, branches.values()))
    samples = {name: GradientSample(*found) for name, found in zip(branches, sampled, strict=True)}
    return samples, fmean(share for own in shares for share in own)
