"""`copd ask`: questions to models, each prompted as in the training of the run that it lies in."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from copd.assemble.preflight import unfit_for
from copd.assemble.rows import rules_of, settings_of
from copd.commands.export import folders_of
from copd.errors import BadRow, DataError, RecipeError
from copd.model.folders import compute_on, model_folder
from copd.model.policy import Policy
from copd.recipe.model import Recipe
from copd.recipe.reading import load_recipe
from copd.recipe.task_sections import RowsTask
from copd.rewards.answers import MARKS, OPENING, final_answer
from copd.rows.formats import EXACT, RowRules, read_row
from copd.rows.media import DataRoot
from copd.rows.opening import Settings
from copd.rows.pixels import load_media
from copd.runs.saved import BRANCHES, recipe_of, reference_of, run_of
from copd.types import Problem

PLAIN_TOKENS = 512
"""Most tokens of a response where no recipe says how many, if the model's context allows them."""
UNKNOWN = "?"
"""Stands in a row for the right answer, which nobody knows."""


class Answer(NamedTuple):
    """A model's response: the text before its final answer, the final answer, and the text behind it.

    `final` is None, and all text stands in `before`, for a response without exactly one final answer. `finished` is
    False for a response that was truncated after `tokens`.
    """

    before: str
    final: str | None
    after: str
    finished: bool
    tokens: int


@dataclass(frozen=True)
class Manner:
    """How a model is asked. `max_new_tokens` is None where nothing says it. `told`: what a user should know of it."""

    settings: Settings
    answer_form: str = "boxed"
    dtype: str = "auto"
    max_new_tokens: int | None = None
    told: str = ""


def manner_of(model: str, recipe: str | None, branch: str | None, changes: Sequence[str] = ()) -> Manner:
    """How a model is asked: as the named recipe does, else that of the run that the model lies in, else plainly.

    Of a recipe's branches it is `branch`, else the one that the model is, else the first. Raises RecipeError for a
    recipe or a branch that is not there.
    """
    run = run_of(model)
    source = recipe if recipe is not None or run is None else recipe_of(run)
    if source is None:
        if branch is not None:
            raise RecipeError(f"--branch: {model} lies in no run; name a recipe by --recipe, or leave the branch out")
        if changes:
            raise RecipeError(f"{changes[0]}: {model} lies in no run; name the recipe to change by --recipe")
        said = (
            f"{model}: asked without a recipe, so without system prompt; its final answer should stand in \\boxed{{}}"
        )
        return Manner(_plain("boxed"), told=said)
    found = load_recipe(source, changes)
    chosen = branch or _own_branch(model, found) or next(iter(found.branches))
    if chosen not in found.branches:
        raise RecipeError(f"--branch: found {chosen!r}; accepted: {', '.join(found.branches)}")
    section, form = found.branches[chosen].task, found.reward.answer_form
    settings = _plain(form)
    if isinstance(section, RowsTask):
        settings = settings_of(section, f"branches.{chosen}.task", found.verifiers, form)
        settings = replace(settings, rules=_without_answers(settings.rules))
    guessed = not branch and not _own_branch(model, found) and len(_dresses(found)) > 1
    told = f"{model}: prompted as branch {chosen}; --branch chooses another" if guessed else ""
    return Manner(settings, form, found.model.dtype, found.sampling.max_new_tokens, told)


def _own_branch(model: str, recipe: Recipe) -> str | None:
    """The branch of the recipe that a model of a run is."""
    reference = reference_of(model)
    folder = Path(model).resolve()
    name = reference.branch if reference else folder.name if folder.parent.name == BRANCHES else None
    return name if name in recipe.branches else None


def _dresses(recipe: Recipe) -> set[str]:
    """The different ways in which branches put a question into a prompt."""
    shown = {"system_prompt", "prompt_template", "chat_template_kwargs", "media"}
    tasks = [branch.task for branch in recipe.branches.values()]
    return {task.model_dump_json(include=shown) if isinstance(task, RowsTask) else "" for task in tasks}


def _plain(form: str) -> Settings:
    return Settings(_without_answers(rules_of(form, verifiers=(EXACT,))))


def _without_answers(rules: RowRules) -> RowRules:
    """The same rules for rows whose answers nobody knows."""
    return replace(rules, verifiers=(EXACT,), verifier=EXACT, own=(), misread=lambda verifier, answer: None)


class Asked:
    """A model that is asked. It is loaded for its first question, and decodes greedily.

    It computes each prompt by itself, which any model can.
    """

    def __init__(self, name: str, folder: str, manner: Manner, max_new_tokens: int | None) -> None:
        self.name, self.manner = name, manner
        self._folder, self._most = folder, max_new_tokens or manner.max_new_tokens

    @cached_property
    def _policy(self) -> Policy:
        device, autocast = compute_on("auto", self.manner.dtype)
        marks = MARKS[self.manner.answer_form]
        policy = Policy.from_pretrained(model_folder(self._folder), device=device, autocast=autocast, spoken=marks)
        policy.shared_prefix = policy.packing = False
        return policy

    def leave(self) -> None:
        """Give back the memory of the model, which a further question would load again."""
        vars(self).pop("_policy", None)

    def answer(
        self,
        question: str,
        images: Sequence[bytes],
        videos: Sequence[bytes],
        tell: Callable[[str], None] = lambda what: None,
    ) -> Answer:
        """The response to a question with pictures and videos, which are the contents of files.

        `tell` is told what is being done. Raises DataError for a question that the recipe or the model does not take.
        """
        problem, form = self._problem(question, images, videos), self.manner.answer_form
        tell(f"{self.name}: {'answering' if '_policy' in vars(self) else 'loading'}")
        most = self._most or self._room(problem)
        if reason := unfit_for(self._policy, most)(problem):
            raise DataError(f"question to {self.name}: {reason}")
        tell(f"{self.name}: answering")
        rollouts = self._policy.sample([problem], max_new_tokens=most)
        (text,), finished = self._policy.texts(rollouts), bool(rollouts.finished_N[0])
        final = final_answer(text, finished=finished, form=form, prompt=problem.prompt)
        tokens = int(rollouts.mask_NT.sum())
        if final is None:
            return Answer(text, None, "", finished, tokens)
        begin = text.index(final, text.rindex(OPENING[form]) + len(OPENING[form]))
        return Answer(text[:begin], final, text[begin + len(final) :], finished, tokens)

    def _problem(self, question: str, images: Sequence[bytes], videos: Sequence[bytes]) -> Problem:
        settings = self.manner.settings
        raw = {"prompt": question, "answer": UNKNOWN, "images": list(images), "videos": list(videos)}
        try:
            row = read_row(raw, "native", settings.rules)
            pixels, frames, rates = load_media(row, DataRoot.at(Path()), settings.media, "question")
        except BadRow as error:
            raise DataError(f"question to {self.name}: {error}") from None
        return Problem(
            id="question",
            task="question",
            prompt=row.prompt,
            answer=row.answer,
            verifier=row.verifier,
            images=pixels,
            videos=frames,
            fps=rates,
            messages=row.messages,
            chat_template_kwargs=settings.chat_template_kwargs,
        )

    def _room(self, problem: Problem) -> int:
        """Tokens for a response of which nothing says how long it may be."""
        context = self._policy.context
        if context is None:
            return PLAIN_TOKENS
        (length,) = self._policy.encoder.lengths([problem])
        return max(1, min(PLAIN_TOKENS, context - length))


@contextmanager
def asking(
    models: Sequence[str],
    recipe: str | None = None,
    branch: str | None = None,
    max_new_tokens: int | None = None,
    changes: Sequence[str] = (),
    tell: Callable[[str], None] = lambda what: None,
) -> Iterator[list[Asked]]:
    """Models that can be asked within the block, in the order given. Each is in a form that `folders_of` takes.

    Raises ModelFolderError for a model that is not there, and what `manner_of` raises, before any is loaded.
    """
    with folders_of(dict.fromkeys(models, "MODEL"), tell) as folders:
        manners = {model: manner_of(model, recipe, branch, changes) for model in folders}
        yield [Asked(model, folder, manners[model], max_new_tokens) for model, folder in folders.items()]
