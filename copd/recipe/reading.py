"""The recipe: read from YAML and `section.key=value` overrides, checked as a whole.

Imports no torch, so that a typo is reported at once.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, Field, ValidationError, model_validator

from copd.errors import RecipeError
from copd.names import BASE, MERGED, MIXED, STUDENT
from copd.recipe.fields import Section
from copd.recipe.keys import check_no_key
from copd.recipe.sections import (
    MERGE_FIELDS,
    BranchSection,
    BudgetSection,
    CheckpointSection,
    EdgeSection,
    EvaluationSection,
    ExpertsSection,
    FunctionOfFile,
    GrpoSection,
    LoraSection,
    MergeSection,
    MixedSection,
    ModelSection,
    MopdSection,
    OpdSection,
    OptimizerSection,
    RewardSection,
    SamplingSection,
    ScheduleSection,
    StaticOpdSection,
    TopologySection,
    VerifierName,
)
from copd.recipe.strict_yaml import parse_yaml
from copd.recipe.task_sections import TASK_TAG, TASKS

RESERVED_NAMES = {BASE, MERGED, MIXED, STUDENT, "mean", "average"}

NAME_MEANT = {
    "branches": "a branch's name is a letter, then letters, digits, _ or -, at most 32 in all",
    "verifiers": "a verifier's name is letters, digits, _, / or -, at most 64 in all",
}


class Recipe(Section):
    """A run from base model to merged model."""

    seed: int = Field(0, ge=0, description="of problems and sampling; validation and test problems do not depend on it")
    method: Literal["copd", "expert", "mixed", "static_opd", "mopd", "merge_only"] = Field(
        "copd", description="copd, or a baseline at the same rollouts"
    )
    model: ModelSection = ModelSection()
    branches: dict[Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]{0,31}$")], BranchSection] = Field(
        min_length=1, description="by name; with topology hub the first is the hub"
    )
    topology: TopologySection = TopologySection()
    schedule: ScheduleSection = ScheduleSection()
    sampling: SamplingSection = SamplingSection()
    reward: RewardSection = RewardSection()
    verifiers: dict[VerifierName, FunctionOfFile] = Field(
        {}, description="your own reward functions by the name that problems call them: path/file.py:function"
    )
    grpo: GrpoSection = GrpoSection()
    opd: OpdSection = OpdSection()
    optimizer: OptimizerSection = OptimizerSection()
    merge: MergeSection = MergeSection()
    mixed: MixedSection = MixedSection()
    static_opd: StaticOpdSection = StaticOpdSection()
    mopd: MopdSection = MopdSection()
    experts: ExpertsSection = ExpertsSection()
    budget: BudgetSection = BudgetSection()
    evaluation: EvaluationSection = EvaluationSection()
    checkpoint: CheckpointSection = CheckpointSection()
    lora: LoraSection | None = Field(
        None, description="branches as adapters on one frozen base: {rank, alpha, targets}; null = full weights"
    )
    trackers: tuple[Literal["tensorboard", "wandb"], ...] = Field(
        (), description="where else the numbers of metrics.jsonl go; each is an extra of the package"
    )
    backend: Literal["local", "processes"] = Field(
        "local",
        description="local: all branches in this process; processes: each in its own with its own base, side by side",
    )

    @model_validator(mode="before")
    @classmethod
    def _without_keys(cls, data: Any) -> Any:
        check_no_key(data)
        return data

    @model_validator(mode="after")
    def _sound(self) -> Recipe:
        names = list(self.branches)
        if taken := sorted(RESERVED_NAMES & set(names)):
            raise ValueError(f"branches: {taken[0]!r} is a name that copd uses itself; give the branch another")
        if self.schedule.rl_steps + self.schedule.opd_steps == 0:
            raise ValueError("schedule: no steps at all: rl_steps and opd_steps are both 0")
        for i, edge in enumerate(self.topology.edges):
            for end in (edge.student, edge.teacher):
                if end not in names:
                    raise ValueError(f"topology.edges.{i}: no branch {end!r}; branches are {', '.join(names)}")
            if edge.student == edge.teacher:
                raise ValueError(f"topology.edges.{i}: branch {edge.student!r} cannot teach itself")
        if len({(edge.student, edge.teacher) for edge in self.topology.edges}) < len(self.topology.edges):
            raise ValueError("topology.edges: the same student and teacher are listed twice")
        if self.topology.edges and not self.schedule.opd_steps and self.method == "copd":
            raise ValueError("topology.edges: nobody teaches where schedule.opd_steps is 0; leave one of the two out")
        if self.method == "copd" and self.schedule.opd_steps and len(names) < 2:
            raise ValueError("branches: mutual OPD needs at least two; add one, or set schedule.opd_steps=0")
        if self.method in ("static_opd", "merge_only") and len(names) < 2:
            raise ValueError(f"branches: method {self.method} needs at least two")
        pair = {"static_opd.student": self.static_opd.student, "static_opd.teacher": self.static_opd.teacher}
        chosen = pair | {"mopd.student": self.mopd.student if self.mopd.student not in (BASE, "mean") else None}
        for field, name in chosen.items():
            if name is not None and name not in names:
                raise ValueError(f"{field}: no branch {name!r}; branches are {', '.join(names)}")
        if None not in pair.values() and len(set(pair.values())) == 1:
            raise ValueError(f"static_opd: branch {self.static_opd.student!r} cannot teach itself")
        if self.method in ("copd", "merge_only") and len(names) > 1:
            self.merge.check_count(len(names))
        if self.model.offload and self.grpo.kl_coefficient:
            raise ValueError(
                "model.offload: the base would score for grpo.kl_coefficient on the cpu; use one of the two"
            )
        if self.backend == "processes" and self.model.offload:
            raise ValueError("model.offload: branches take turns within one process; set backend: local")
        if self.lora is not None:
            if self.method == "mopd" and self.mopd.student != BASE:
                raise ValueError(f"mopd.student: is {self.mopd.student!r}, but an adapter begins as the base; set base")
            if self.model.offload:
                raise ValueError("model.offload: lora branches share one base, there is nothing to take turns with")
            for name, branch in self.branches.items():
                if branch.device is not None:
                    raise ValueError(f"branches.{name}.device: lora branches share one base, on model.device")
        return self


def load_recipe(source: str | Path | Mapping[str, Any], overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe file, or one that ships with copd by its name, and apply `section.key=value` overrides.

    The recipe may also be given as nested mappings, which are left as they are. Raises RecipeError with the path to the
    key, what was found and what is accepted.
    """
    data = parse_yaml(_recipe_text(source), str(source)) if isinstance(source, str | Path) else deepcopy(dict(source))
    if not isinstance(data, dict):
        raise RecipeError(f"{source}: a recipe is a mapping of sections, found {type(data).__name__}")
    for override in overrides:
        _apply(data, override)
    return make_recipe(data)


def make_recipe(data: Mapping[str, Any]) -> Recipe:
    """Validate a recipe given as nested mappings; raises RecipeError naming every faulty key."""
    try:
        return Recipe.model_validate(data)
    except ValidationError as error:
        raise RecipeError("\n".join(_explain(detail) for detail in error.errors())) from None


def reread(saved: Any) -> dict[str, Any]:
    """A recipe as the manifest of a run holds it, with defaults for the fields that it is older than.

    Raises RecipeError naming every key that this copd does not accept.
    """
    return make_recipe(saved).model_dump(mode="json")


def make_merge(data: Mapping[str, Any], branches: int) -> MergeSection:
    """Validate a merge section for so many branches; raises RecipeError naming every faulty key."""
    try:
        section = MergeSection.model_validate(data)
        section.check_count(branches)
    except ValidationError as error:
        details = [{**detail, "loc": ("merge", *detail["loc"])} for detail in error.errors()]
        raise RecipeError("\n".join(map(_explain, details))) from None
    except ValueError as error:
        raise RecipeError(str(error)) from None
    return section


def merge_grid(data: Mapping[str, Any], branches: int, steps: int) -> list[MergeSection]:
    """Every merge section to be tried: `data` with each point of the method's grid.

    Weights take the multiples of 1/steps that sum to 1, even ones first; a scale those from 1/steps to 2, small ones
    first. Raises RecipeError where the method has neither, or where `data` fixes what is to be found.
    """
    method = data.get("method", "mean")
    fields = MERGE_FIELDS.get(method, {})
    field = next((name for name in ("scale", "weights") if name in fields), None)
    if field is None:
        make_merge(data, branches)
        scanned = ", ".join(sorted(name for name, fields in MERGE_FIELDS.items() if fields))
        raise RecipeError(f"--scan: method {method!r} has no weights and no scale; there are {scanned}")
    if data.get(field) is not None:
        raise RecipeError(f"--scan: looks for merge.{field}, found {data[field]!r} given; leave one of the two out")
    points: list[Any] = [i / steps for i in range(1, 2 * steps + 1)]
    if field == "weights":
        counts = sorted(_shares(branches, steps), key=lambda shares: sum(n * n for n in shares))
        points = [tuple(n / steps for n in shares) for shares in counts]
    return [make_merge({**data, field: point}, branches) for point in points]


def _shares(parts: int, total: int) -> Iterator[tuple[int, ...]]:
    """All ways to share out `total` over `parts`, largest first share first."""
    if parts == 1:
        yield (total,)
        return
    for first in range(total, -1, -1):
        yield from ((first, *rest) for rest in _shares(parts - 1, total - first))


def builtin_recipes() -> list[str]:
    """Names of the recipes that ship with copd."""
    return sorted(
        p.name.removesuffix(".yaml") for p in files("copd.recipe.builtin").iterdir() if p.name.endswith(".yaml")
    )


def described(section: BaseModel, prefix: str = "") -> Iterator[tuple[str, str, str]]:
    """Path, value and meaning of every field of a recipe, sections opened."""
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        inner = (
            {f"{name}.{k}": item for k, item in value.items()} if value and isinstance(value, dict) else {name: value}
        )
        for path, item in inner.items():
            if isinstance(item, BaseModel):
                yield from described(item, f"{prefix}{path}.")
            else:
                yield f"{prefix}{path}", _as_yaml(item), field.description or ""


def _as_yaml(value: Any) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(_as_yaml(item) for item in value)}]"
    if isinstance(value, BaseModel):
        return str(value.model_dump())
    return "null" if value is None else _quoted_where_needed(value) if isinstance(value, str) else str(value)


def _quoted_where_needed(text: str) -> str:
    try:
        plain = parse_yaml(f"[{text}]", "") == [text]
    except RecipeError:
        plain = False
    return text if plain else json.dumps(text)


def _recipe_text(source: str | Path) -> str:
    path = Path(source)
    builtin = files("copd.recipe.builtin") / f"{source}.yaml"
    try:
        return path.read_text(encoding="utf-8-sig") if path.is_file() else builtin.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        known = ", ".join(builtin_recipes())
        raise RecipeError(f"recipe {source}: not a readable file, nor one of the recipes of copd: {known}") from error


def _apply(data: dict[str, Any], override: str) -> None:
    path, equals, value = override.partition("=")
    keys = path.split(".")
    if not equals or not all(keys):
        raise RecipeError(f"override {override!r}: write section.key=value, for instance schedule.cycles=2")
    target = data
    for key in keys[:-1]:
        if target.get(key) is None:
            target[key] = {}
        target = target[key]
        if not isinstance(target, dict):
            raise RecipeError(f"override {override!r}: {key!r} is a value, not a section")
    target[keys[-1]] = parse_yaml(value, f"override {override!r}")


def _explain(detail: Mapping[str, Any]) -> str:
    tagged = [str(key) for key in detail["loc"]]
    path = [key for key in tagged[:-1] if not key.startswith(TASK_TAG)]
    if detail["type"] == "extra_forbidden" or not tagged[-1:] or not tagged[-1].startswith(TASK_TAG):
        path += tagged[-1:]
    where = ".".join(path) or "recipe"
    if detail["type"] == "unknown_kind":
        return f"{where}.kind: {detail['msg']}, found {_short(detail['input']['kind'])}"
    if detail["type"] == "extra_forbidden":
        near = get_close_matches(path[-1], _known_names(tagged[:-1]), n=1)
        hint = f"; did you mean {near[0]!r}?" if near else f"; accepted: {', '.join(_known_names(tagged[:-1]))}"
        return f"{where}: unknown key{hint}"
    if detail["type"] == "missing":
        return f"{where}: missing; it has no default"
    if detail["type"] == "string_pattern_mismatch" and path[-1] == "[key]":
        where, detail = ".".join(path[:-1]), {**detail, "msg": NAME_MEANT[path[0]]}
    if detail["type"] == "tuple_type":
        detail = {**detail, "msg": f"a list is meant: write [{_short(detail['input'])[1:-1]}]"}
    message = detail["msg"].removeprefix("Value error, ")
    if message.startswith("."):
        return f"{'.'.join(path)}{message}".removeprefix(".")
    found = "" if detail["type"] == "value_error" else f", found {_short(detail['input'])}"
    return f"{message}{found}" if not path else f"{where}: {message}{found}"


def _short(value: Any) -> str:
    """A value as it may stand in a message, however large it is."""
    if isinstance(value, int) and value.bit_length() > 256:
        return "a number of very many digits"
    try:
        return repr(str(value)[:80])
    except ValueError:
        return "something with a number of very many digits"


def _known_names(parents: Sequence[str]) -> list[str]:
    section: Any = Recipe
    for parent in parents:
        if section is Recipe and parent == "branches":
            section = {"*": BranchSection}
        elif isinstance(section, dict):
            section = section["*"]
        elif parent == "edges" or parent.isdigit():
            section = EdgeSection
        elif parent.startswith(TASK_TAG):
            section = TASKS[parent.removeprefix(TASK_TAG)]
        else:
            section = section.model_fields[parent].annotation
            section = next((a for a in get_args(section) if isinstance(a, type) and issubclass(a, Section)), section)
    return list(section.model_fields) if isinstance(section, type) and issubclass(section, BaseModel) else []
