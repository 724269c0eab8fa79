"""`copd plan`: what a recipe asks of its machines, before anything is loaded: places, memory, work, checkpoints, time.

No weights are read. Shapes come from the model's config.json, lengths of prompts from the first problems of each task.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from statistics import fmean
from typing import NamedTuple

import torch

from copd.assemble.plan import Plan, kept_checkpoints, make_plan
from copd.assemble.tasks import make_tasks, problems_there
from copd.compute.family import Family
from copd.costs.measured import Measured, PromptSizes
from copd.costs.need import CPU, Need, on_each
from copd.costs.needs import Needs, devices_of
from copd.costs.refilled import Together
from copd.costs.shape import Shape, shape_of
from copd.costs.workload import Speed, Work, Workload, Works
from copd.errors import CopdError, RecipeError
from copd.model.folders import SETTINGS, family_in, model_folder, without_weights
from copd.model.holding import freeze
from copd.recipe.model import Recipe
from copd.recipe.reading import load_recipe
from copd.runs.numbers import GIB
from copd.schedule import Phase
from copd.system.own_code import load_named
from copd.types import BASE, Split, Task

PROBED = 8
"""Training problems of each task whose prompts are measured."""
TOLD = 3
"""Remedies that a refusal tells, the best first."""
HOUR = 3600.0


class Cards(NamedTuple):
    """The cards that a run may use, and the GiB of memory of each; None: no bound is known."""

    gpus: int
    gib: float | None = None


@dataclass(frozen=True)
class Row:
    """One line of the work: a phase or a kind of evaluation, its steps, and the work of all its models.

    `hours` are those of the device that is busy longest; None if no speed was given.
    """

    name: str
    steps: int | None
    work: Work
    hours: float | None


@dataclass(frozen=True)
class Remedy:
    """Changes of the recipe, the most bytes that the fullest card then needs, and whether it has them."""

    changes: tuple[str, ...]
    most: int
    fits: bool


@dataclass(frozen=True)
class Planned:
    """What a recipe asks for, given its model and what cards there are."""

    recipe: Recipe
    cards: Cards
    model: Measured

    @cached_property
    def plan(self) -> Plan:
        return make_plan(self.recipe)

    @cached_property
    def devices(self) -> dict[str, str]:
        return devices_of(self.recipe, self.plan, self.cards.gpus)

    @cached_property
    def requirements(self) -> Needs:
        """What computes the needs of the processes."""
        return Needs(self.recipe, self.plan, self.model, self.devices)

    @cached_property
    def needs(self) -> list[Need]:
        """The processes of the run on their devices."""
        return self.requirements.all()

    @property
    def together(self) -> dict[str, Together]:
        """How many rows of a batch each branch samples at once; of none where vLLM decides that."""
        found = {name: self.requirements.together(name) for name in self.plan.branches}
        return {name: each for name, each in found.items() if each}

    @cached_property
    def most(self) -> dict[str, int]:
        """The most bytes on each card."""
        return {device: size for device, size in on_each(self.needs).items() if device != CPU}

    @property
    def overfull(self) -> dict[str, int]:
        """The cards that would need more than they have."""
        room = math.inf if self.cards.gib is None else self.cards.gib * GIB
        return {device: size for device, size in self.most.items() if size > room}

    @property
    def checkpoint(self) -> int:
        """Bytes of a checkpoint at its largest."""
        return self.requirements.checkpoint

    @property
    def kept(self) -> int:
        """The most checkpoints on disk, the one that is being written left out."""
        return kept_checkpoints(self.recipe)

    @property
    def disk(self) -> int:
        """The most bytes of checkpoints and of the models at the end."""
        return (self.kept + 1) * self.checkpoint + self.requirements.models

    def rows(self, speed: Speed | None) -> list[Row]:
        """The work of each phase and of evaluation, and the sum."""
        means = {name: each.mean for name, each in self.model.prompts.items()}
        workload = Workload(self.recipe, self.plan, means, self.model.there)
        steps = {phase.value: self.plan.schedule.steps_in(phase) for phase in Phase}
        rows = []
        for name, works in {**workload.phases(), **workload.evaluation()}.items():
            total = sum(works.values(), Work())
            rows.append(Row(name, steps.get(name), total, speed and self._hours(works, speed)))
        hours = sum(row.hours or 0.0 for row in rows) if speed else None
        return [*rows, Row("all", None, sum((row.work for row in rows), Work()), hours)]

    def _hours(self, works: Works, speed: Speed) -> float:
        """Hours of the device that is busy longest. In one process all models take turns."""
        local = self.recipe.backend.kind == "local"
        busy: dict[str, float] = {}
        for name, work in works.items():
            device = self.devices.get(name, self.devices[BASE])
            line = "" if local else name if device == CPU else device
            ranks = self.recipe.backend.ranks if name in self.plan.branches else 1
            busy[line] = busy.get(line, 0.0) + work.seconds(speed) / ranks
        return max(busy.values()) / HOUR

    def remedies(self) -> list[Remedy]:
        """Changes that make the fullest card need less, the best first; and several together if none alone suffices."""
        alone = [remedy for changes in _candidates(self.recipe) if (remedy := self._with(changes))]
        found = sorted((each for each in alone if each.most < max(self.most.values())), key=lambda each: each.most)
        together: Remedy | None = None
        for each in found:
            if any(remedy.fits for remedy in (*found, together) if remedy):
                break
            more = self._with((*(together.changes if together else ()), *each.changes))
            if more and (together is None or more.most < together.most):
                together = more
        return [*found, *([together] if together and len(found) > 1 else [])]

    def _with(self, changes: tuple[str, ...]) -> Remedy | None:
        """These changes as a remedy; None if the recipe does not allow them."""
        try:
            other = replace(self, recipe=load_recipe(self.recipe.model_dump(mode="json"), changes))
            return Remedy(changes, max(other.most.values(), default=0), not other.overfull)
        except RecipeError:
            return None


def _candidates(recipe: Recipe) -> Iterator[tuple[str, ...]]:
    """Changes of a recipe that may lower the memory of a card."""
    smaller = f"model.micro_batch_tokens={max(1, recipe.model.micro_batch_tokens // 2)}"
    shorter = f"sampling.max_new_tokens={max(1, recipe.sampling.max_new_tokens // 2)}"
    yield ("model.gradient_checkpointing=true",)
    yield (smaller,)
    yield smaller, shorter
    if recipe.sampling.cache_tokens is not None:
        yield (f"sampling.cache_tokens={max(1, recipe.sampling.cache_tokens // 2)}",)
    if recipe.lora is None:
        yield ("lora={rank: 16}",)
    yield ("model.dtype=bfloat16",)
    if recipe.optimizer.kind == "adamw":
        yield ("optimizer.kind=adamw_8bit",)
        yield ("optimizer.kind=adamw_on_cpu",)
    yield "opd.anchor=0", "opd.teachers=moving"
    yield ("grpo.kl_coefficient=0",)
    yield "backend=local", "model.offload=true"
    if recipe.backend.kind == "local":
        yield ("backend=processes",)


def cards_of(gpus: int | None, gib: float | None) -> Cards:
    """The cards that were given, else those of this machine, of which the smallest counts.

    Raises RecipeError for memory that no card has, and for memory of cards where there are none.
    """
    if gib is not None and not 0 < gib < math.inf:
        raise RecipeError(f"--gpu-memory: found {gib:g}; accepted: GiB above 0")
    here = [torch.cuda.get_device_properties(i).total_memory / GIB for i in range(torch.cuda.device_count())]
    count = len(here) if gpus is None else gpus
    if gib is not None and not count:
        raise RecipeError("--gpu-memory: found where there is no card; accepted: with --gpus, 1 or more")
    return Cards(count, gib or (min(here) if here and gpus is None else None))


def check_fit(recipe: Recipe, tasks: Mapping[str, Task]) -> None:
    """Raise RecipeError, with the plan's numbers and what would help, if cards of this machine have too little memory.

    Nothing is checked of the cards of a cluster, and of a recipe, data or model that cannot be planned.
    """
    cards = cards_of(None, None)
    if cards.gib is None or recipe.backend.kind == "ray":
        return
    try:
        planned = examine(recipe, cards, tasks)
    except CopdError:  # loading tells what is wrong, and there are sound models that the formula does not know
        return
    if not planned.overfull:
        return
    needed = ", ".join(f"{card} {size / GIB:,.1f} GiB" for card, size in planned.overfull.items())
    remedies = sorted(planned.remedies(), key=lambda each: not each.fits)[:TOLD]
    helps = ", ".join(f"{' '.join(each.changes)} ({each.most / GIB:,.1f} GiB)" for each in remedies)
    raise RecipeError(
        f"memory of cards: needed on {needed}; found {cards.gib:,.1f} GiB on the smallest; what would help, and what "
        f"the fullest card then needs: {helps or 'larger cards or a smaller model'}; `copd plan` shows every part; "
        "--resume --force begins all the same"
    )


def examine(recipe: Recipe, cards: Cards, tasks: Mapping[str, Task] | None = None) -> Planned:
    """What the recipe asks for. `tasks`: those of the recipe, if they are there already.

    Raises RecipeError, DataError or ModelFolderError if model, data or plan are unsound.
    """
    make_plan(recipe)
    folder = model_folder(recipe.model.path, revision=recipe.model.revision, fetched=SETTINGS)
    model = without_weights(folder)
    own = load_named(recipe.model.family, "model.family") if recipe.model.family else None
    shape, family = shape_of(model), family_in(folder, model, own)
    freeze(model, recipe.model.freeze)
    frozen = sum(p.numel() for p in model.parameters() if not p.requires_grad)
    tasks = make_tasks(recipe) if tasks is None else tasks
    there, prompts = problems_there(tasks), prompts_of(tasks, family, shape)
    return Planned(recipe, cards, Measured(shape, prompts, family.every_layer_sees_all, there, frozen))


def prompts_of(tasks: Mapping[str, Task], family: Family, shape: Shape) -> dict[str, PromptSizes]:
    """The lengths of the first training prompts of each task.

    Raises RecipeError for problems that the model does not take.
    """
    found = {}
    for name, task in tasks.items():
        try:
            encoded = [family.encode([task.problem(Split.TRAIN, i)])[0] for i in range(PROBED)]
        except ValueError as error:
            raise RecipeError(f"branches.{name}.task: {error}") from error
        lengths = [len(each.ids_S) for each in encoded]
        pictures = max(family.placeholders(each)[1] for each in encoded)
        patches = pictures * shape.tower.merged if shape.tower else 0
        found[name] = PromptSizes(fmean(lengths), min(lengths), max(lengths), patches)
    return found
