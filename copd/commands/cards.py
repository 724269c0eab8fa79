"""The model cards of a run: what a stranger needs to judge, load, prompt and cite one of its models."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from copd import __version__
from copd.assemble.plan import Plan
from copd.measure.evaluate import AVERAGE, Accuracy, columns_of
from copd.model.folders import Loader
from copd.recipe.fields import Section
from copd.recipe.model import Recipe
from copd.recipe.publish import as_yaml, data_names, hub_data, hub_id, model_name
from copd.recipe.task_sections import RowsTask
from copd.runs.cards import CITATION, DIFFERENT, FRONT, LOADING, LOADING_TEXT, RECIPE_FILE, RUN_CARD, TEMPLATE
from copd.system.files import replace_text
from copd.types import BASE, MERGED

LEGAL = ("LICENSE*", "NOTICE*")
"""The files of a base that go with every model that is made of it."""
FORMS = {"boxed": "`\\boxed{}`", "tag": "`<answer></answer>`"}
PAPER = "2604.27083"
NO_WAY: tuple[None, Mapping[str, Any], None] = (None, {}, None)
"""Of a task that asks a question as it is."""


class Made(NamedTuple):
    """What a model of a checkpoint was made of: steps, and rollouts."""

    steps: int
    rollouts: int


@dataclass(frozen=True)
class Cards:
    """Writes the cards of a run's models. `base` is the folder of its base."""

    recipe: Recipe
    plan: Plan
    loader: Loader
    base: Path

    def card(self, name: str, table: Sequence[Accuracy] = (), made: Made | None = None) -> str:
        """The card of the model `name`: a branch, or MERGED. Without a table it has no results.

        `made`: of a model of a checkpoint.
        """
        recipe, licence = self.recipe, self.licence()
        how = f"Branch {name}" if name != MERGED else "Student" if MERGED in self.plan.branches else "Merged model"
        return RUN_CARD.format(
            front=yaml.safe_dump(self.front(licence), sort_keys=False).rstrip(),
            what=f"{how}, after {made.steps} of {self.plan.schedule.steps} steps," if made else how,
            recipe=recipe,
            base=model_name(recipe.model.path, recipe.model.revision),
            seed=recipe.seed,
            rollouts=f"{made.rollouts if made else self.plan.rollouts:,}",
            licence=licence or "not named by the base's own card; look it up before you publish this model",
            data="\n".join(f"- {branch}: {', '.join(names)}" for branch, names in data_names(recipe).items()),
            results=results(table, name, recipe.evaluation.split, recipe.seed),
            loading=self.loading(name),
            form=FORMS[recipe.reward.answer_form],
            limit=recipe.sampling.max_new_tokens,
            recipe_file=RECIPE_FILE,
            version=__version__,
            citation=CITATION,
        )

    def front(self, licence: str | None) -> dict[str, Any]:
        """The card's metadata, as the Hugging Face Hub reads it."""
        recipe, data = self.recipe, hub_data(self.recipe)
        base = hub_id(recipe.model.path, recipe.model.revision)
        tags = ["copd", "rlvr", "grpo", "on-policy-distillation", f"arxiv:{PAPER}"]
        return {
            "library_name": "transformers",
            "pipeline_tag": self.loader.pipeline_tag,
            **({"base_model": base, "base_model_relation": "finetune"} if base else {}),
            **({"license": licence} if licence else {}),
            **({"datasets": data} if data else {}),
            "tags": tags,
        }

    def licence(self) -> str | None:
        """The licence that the base's own card names; that of copd for a base that ships with it; None if unknown."""
        if self.recipe.model.path.startswith("builtin:"):
            return "apache-2.0"
        card = self.base / "README.md"
        front = FRONT.match(card.read_text(encoding="utf-8", errors="replace")) if card.is_file() else None
        try:
            named = yaml.safe_load(front[1]) if front else None
        except yaml.YAMLError:
            named = None
        licence = named.get("license") if isinstance(named, dict) else None
        return licence if isinstance(licence, str) else None

    def loading(self, name: str) -> str:
        """Code that loads the model and asks it as its branch was asked, or as all branches were if they agree."""
        own = [self.recipe.branches[name]] if name in self.recipe.branches else self.recipe.branches.values()
        asked = [_asked(branch.task) for branch in own]
        alike = all(each == asked[0] for each in asked)
        system, variables, template = asked[0] if alike else NO_WAY
        code = (LOADING if self.loader.pipeline_tag == "image-text-to-text" else LOADING_TEXT).format(
            auto_class=self.loader.auto_class.__name__,
            system=f'{{"role": "system", "content": {system!r}}}, ' if system else "",
            variables="".join(f", {key}={value!r}" for key, value in variables.items()),
            limit=self.recipe.sampling.max_new_tokens,
        )
        said = [DIFFERENT] if not alike else [TEMPLATE.format(template=template)] if template else []
        return "\n\n".join([code, *said])

    def write(self, folder: Path, name: str, table: Sequence[Accuracy] = (), *, made: Made | None = None) -> None:
        """Write card and recipe into a model's folder, and the base's licence. Raises WriteError."""
        replace_text(folder / "README.md", self.card(name, table, made))
        head = f"The recipe of this model, for copd {__version__}. Files and folders stand here by their names alone."
        replace_text(folder / RECIPE_FILE, as_yaml(self.recipe, head))
        for path in (path for pattern in LEGAL for path in self.base.glob(pattern)):
            shutil.copyfile(path, folder / path.name)


def _asked(task: Section) -> tuple[str | None, Mapping[str, Any], str | None]:
    """System prompt, variables of the chat template and prompt template of a task."""
    if not isinstance(task, RowsTask):
        return NO_WAY
    return task.system_prompt, task.chat_template_kwargs, task.prompt_template


def results(table: Sequence[Accuracy], name: str, split: str, seed: int) -> str:
    """The accuracies of base and model with their intervals as a table of Markdown; a sentence if there are none."""
    shown = [model for model in (BASE, name) if any(cell.model == model for cell in table)]
    if not shown:
        return "Not measured."
    columns = columns_of([cell.capability for cell in table])
    cells = {(cell.model, cell.capability): cell for cell in table}
    called = {BASE: "base", name: "this model"}
    lines = ["| model | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for model in shown:
        values = [_value(cells.get((model, column))) for column in columns]
        lines.append(f"| {called[model]} | " + " | ".join(values) + " |")
    counts = {cell.capability: cell.problems for cell in table if cell.model == shown[0] and cell.capability != AVERAGE}
    asked = ", ".join(f"{capability} {count}" for capability, count in counts.items())
    said = (
        f"Greedy accuracy in %, on {split} problems ({asked}), with 95 % intervals over the problems. All of it is one "
        f"run with seed {seed}: the intervals do not say how another seed would come out."
    )
    return "\n".join([*lines, "", said])


def _value(cell: Accuracy | None) -> str:
    if cell is None:
        return "-"
    value, low, high = (100 * share for share in (cell.greedy.value, cell.greedy.low, cell.greedy.high))
    return f"{value:.1f} [{low:.1f}, {high:.1f}]"
