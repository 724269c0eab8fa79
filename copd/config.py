"""The recipe: every field with its meaning and default, read from YAML and `section.key=value` overrides.

Imports no torch, so that a typo is reported at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from copd.errors import RecipeError
from copd.strict_yaml import parse_yaml

Share = Annotated[float, Field(ge=0, le=1)]
Decay = Annotated[float, Field(ge=0, lt=1)]
Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]


RESERVED_NAMES = {"base", "merged", "mixed", "average"}


class Section(BaseModel):
    """A part of a recipe: unknown keys are refused, values cannot change after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _no_truth_values(cls, data: Any) -> Any:
        """No field is a truth value, but YAML reads yes, no, on and off as one, and Python takes it for a number."""
        for key, value in data.items() if isinstance(data, dict) else ():
            if any(isinstance(item, bool) for item in (value if isinstance(value, list) else [value])):
                raise ValueError(f".{key}: holds yes, no, on, off, true or false; quote it if it is meant as a word")
        return data


class DigitsTask(Section):
    """The embedded world (`copd.tasks.digits`)."""

    kind: Literal["digits"] = Field("digits", description="which source of problems")
    capability: Literal["text", "image", "video"] = Field(
        description="typed numbers, handwriting, or moving handwriting"
    )
    conflict: Share = Field(
        1.0,
        description="share of problems on which the capability's own convention holds; "
        "builtin:digits was warmed up at 1, for other values see `copd warmup --conflict`",
    )
    operators: tuple[Literal["sum", "max", "min", "diff", "chain"], ...] | None = Field(
        None, min_length=1, description="which operators occur; null = all that the capability has"
    )
    length: tuple[Count, Count] = Field((2, 4), description="least and greatest number of operands")
    max_number: int = Field(12, ge=1, le=999, description="greatest operand of a text problem")
    noise: float = Field(0.1, ge=0, le=1, description="standard deviation of the pixel noise; black to white is 1")
    jitter: int = Field(2, ge=0, le=4, description="pixels by which a digit may stand off the centre of its cell")

    @model_validator(mode="after")
    def _sound(self) -> DigitsTask:
        if not 2 <= self.length[0] <= self.length[1] <= 6:
            raise ValueError("length must be [least, greatest] with 2 <= least <= greatest <= 6")
        if self.capability != "text" and self.operators and "chain" in self.operators:
            raise ValueError("operator 'chain' exists for text only; accepted: sum, max, min, diff")
        return self


class BranchSection(Section):
    """One branch: the field it trains on."""

    task: DigitsTask = Field(description="its problems and their verifiable answers")


class ModelSection(Section):
    """The base model and how it computes."""

    path: str = Field("builtin:digits", description="a model folder, or builtin:NAME for a base that ships with copd")
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="of the arithmetic; weights stay float32. bfloat16 = autocast; auto = bfloat16 on cuda only"
    )
    device: Literal["auto", "cpu", "cuda", "mps"] = Field("auto", description="auto = cuda, else mps, else cpu")
    threads_per_branch: Count = Field(1, description="CPU threads; part of the recipe since it changes the rounding")
    micro_batch_tokens: Count = Field(
        16_384,
        description="padded tokens per batch in sampling, scoring and training, a prompt counted once for its rows",
    )


class EdgeSection(Section):
    """One direction of teaching."""

    student: str = Field(description="the branch that answers")
    teacher: str = Field(description="the branch whose prompts are answered and that scores the answers")
    beta: float = Field(1.0, ge=0, description="weight of this part of the update")


class TopologySection(Section):
    """Who teaches whom."""

    kind: Literal["hub", "full", "edges"] = Field(
        "hub", description="hub: the first branch and each other; full: all pairs; edges: as listed"
    )
    edges: tuple[EdgeSection, ...] = Field((), description="with kind edges: the list")

    @model_validator(mode="before")
    @classmethod
    def _edges_imply_their_kind(cls, value: Any) -> Any:
        return {"kind": "edges", **value} if isinstance(value, dict) and value.get("edges") else value

    @model_validator(mode="after")
    def _sound(self) -> TopologySection:
        if self.edges and self.kind != "edges":
            raise ValueError(f"edges are listed but kind is {self.kind!r}; use kind: edges, or leave the list out")
        if self.kind == "edges" and not self.edges:
            raise ValueError("kind is 'edges' but no edges are listed")
        return self


class ScheduleSection(Section):
    """N cycles of RLVR and mutual OPD."""

    cycles: Count = Field(4, description="how often the two phases alternate (N)")
    rl_steps: int = Field(15, ge=0, description="RLVR steps per cycle (S_RL)")
    opd_steps: int = Field(10, ge=0, description="mutual OPD steps per cycle (S_OPD)")


class SamplingSection(Section):
    """Rollouts of a branch on its own field."""

    prompts_per_step: Count = Field(16, description="prompts of the branch's own field per step (P)")
    rollouts_per_prompt: int = Field(8, ge=2, description="responses per prompt, the group of GRPO (G)")
    max_new_tokens: Count = Field(36, description="responses are cut here, and then have reward 0")
    temperature: Positive = Field(1.0, description="of sampling, and of every log-prob")


class GrpoSection(Section):
    """The RLVR objective."""

    clip_low: Share = Field(0.2, description="ratios are clipped at 1 - clip_low")
    clip_high: float = Field(0.28, ge=0, description="ratios are clipped at 1 + clip_high")


class OpdSection(Section):
    """The mutual OPD objective."""

    prompts_per_step: Count = Field(8, description="prompts per incoming edge and OPD step")
    rollouts_per_prompt: Count = Field(8, description="responses per such prompt")
    beta: float = Field(1.0, ge=0, description="weight of each incoming edge in hub and full topologies")
    clamp: Positive = Field(5.0, description="the log-prob difference to the teacher is bounded to [-clamp, clamp]")


class OptimizerSection(Section):
    """AdamW at a constant rate."""

    learning_rate: Positive = Field(5.0e-5, description="constant")
    betas: tuple[Decay, Decay] = Field((0.9, 0.99), description="decay of the two moments")
    weight_decay: float = Field(0.0, ge=0, description="decoupled decay")
    max_grad_norm: Positive = Field(1.0, description="the gradient of the whole step is scaled down to this norm")


class MergeSection(Section):
    """The merge at the end."""

    method: Literal["mean"] = Field("mean", description="plain mean of the K branches")


class EvaluationSection(Section):
    """What is measured, when, on how many problems; not counted as rollouts of the method."""

    problems: Count = Field(500, description="test problems per capability in the final table")
    validation_problems: Count = Field(100, description="validation problems per capability during training")
    every_cycles: Count = Field(1, description="accuracy of every branch on every capability each so many cycles")
    pass_at: tuple[Count, ...] = Field((1,), description="k of pass@k; max(k) samples are drawn per problem")
    behaviour_problems: Count = Field(32, description="validation prompts per capability for overlap and KL")
    overlap_k: tuple[Count, ...] = Field((5, 10), min_length=1, description="k of the top-k overlap")


class CheckpointSection(Section):
    """When all branches are saved at one step."""

    every_steps: Count = Field(25, description="steps between checkpoints; one is also written at the end of a cycle")
    keep_last: Count = Field(2, description="older ones are removed once a newer one is complete")


class Recipe(Section):
    """A run from base model to merged model."""

    seed: int = Field(0, ge=0, description="of problems and sampling; validation and test problems do not depend on it")
    method: Literal["copd", "expert", "mixed"] = Field("copd", description="copd, or a baseline at the same rollouts")
    model: ModelSection = ModelSection()
    branches: dict[Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]{0,31}$")], BranchSection] = Field(
        min_length=1, description="by name; with topology hub the first is the hub"
    )
    topology: TopologySection = TopologySection()
    schedule: ScheduleSection = ScheduleSection()
    sampling: SamplingSection = SamplingSection()
    grpo: GrpoSection = GrpoSection()
    opd: OpdSection = OpdSection()
    optimizer: OptimizerSection = OptimizerSection()
    merge: MergeSection = MergeSection()
    evaluation: EvaluationSection = EvaluationSection()
    checkpoint: CheckpointSection = CheckpointSection()
    backend: Literal["local"] = Field("local", description="local: all branches in this process")

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
        if self.method == "copd" and self.schedule.opd_steps and len(names) < 2:
            raise ValueError("branches: mutual OPD needs at least two; add one, or set schedule.opd_steps=0")
        return self


def load_recipe(source: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe file, or one that ships with copd by its name, and apply `section.key=value` overrides.

    Raises RecipeError with the path to the key, what was found and what is accepted.
    """
    data = parse_yaml(_recipe_text(source), str(source))
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


def builtin_recipes() -> list[str]:
    """Names of the recipes that ship with copd."""
    return sorted(p.name.removesuffix(".yaml") for p in files("copd.recipes").iterdir() if p.name.endswith(".yaml"))


def described(section: BaseModel, prefix: str = "") -> Iterator[tuple[str, str, str]]:
    """Path, value and meaning of every field of a recipe, sections opened."""
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        inner = {f"{name}.{key}": item for key, item in value.items()} if isinstance(value, dict) else {name: value}
        for path, item in inner.items():
            if isinstance(item, BaseModel):
                yield from described(item, f"{prefix}{path}.")
            else:
                yield f"{prefix}{path}", _as_yaml(item), field.description or ""


def _as_yaml(value: Any) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(str(getattr(item, 'model_dump', lambda item=item: item)()) for item in value)}]"
    return "null" if value is None else str(value)


def _recipe_text(source: str | Path) -> str:
    path = Path(source)
    builtin = files("copd.recipes") / f"{source}.yaml"
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
        target = target.setdefault(key, {})
        if not isinstance(target, dict):
            raise RecipeError(f"override {override!r}: {key!r} is a value, not a section")
    target[keys[-1]] = parse_yaml(value, f"override {override!r}")


def _explain(detail: Mapping[str, Any]) -> str:
    path = [str(key) for key in detail["loc"]]
    where = ".".join(path) or "recipe"
    if detail["type"] == "extra_forbidden":
        near = get_close_matches(path[-1], _known_names(path[:-1]), n=1)
        hint = f"; did you mean {near[0]!r}?" if near else f"; accepted: {', '.join(_known_names(path[:-1]))}"
        return f"{where}: unknown key{hint}"
    if detail["type"] == "missing":
        return f"{where}: missing; it has no default"
    message = detail["msg"].removeprefix("Value error, ")
    if message.startswith("."):
        return f"{'.'.join(path)}{message}".removeprefix(".")
    found = "" if detail["type"] == "value_error" else f", found {_short(detail['input'])}"
    return f"{message}{found}" if not path else f"{where}: {message}{found}"


def _short(value: Any) -> str:
    """A value as it may stand in a message, however large it is."""
    return (
        "a number of very many digits" if isinstance(value, int) and value.bit_length() > 256 else repr(str(value)[:80])
    )


def _known_names(parents: Sequence[str]) -> list[str]:
    section: Any = Recipe
    for parent in parents:
        if section is Recipe and parent == "branches":
            section = {"*": BranchSection}
        elif isinstance(section, dict):
            section = section["*"]
        elif parent == "edges" or parent.isdigit():
            section = EdgeSection
        else:
            section = section.model_fields[parent].annotation
    return list(section.model_fields) if isinstance(section, type) and issubclass(section, BaseModel) else []
