"""The file of a suite: public benchmarks, how each is asked and graded, and published numbers. Imports no torch."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from copd.errors import RecipeError, first_line
from copd.recipe.explain import explain
from copd.recipe.fields import Count, Positive, Section
from copd.recipe.strict_yaml import parse_yaml

SUITES = files("copd") / "assets" / "suites"
ROWS = "rows"
"""The engine that is copd itself. Every other engine is a harness."""
GROUPS = ("image", "text", "video")
OVERALL = "overall"
Engine = Literal["rows", "lmms-eval", "lm-eval"]
Group = Literal["image", "text", "video"]
Name = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]{0,31}$")]
UNFIT = {
    **dict.fromkeys(
        ("mathvision_test", "mathvision_testmini"),
        "its grader runs what the model wrote as Python; take mathvision_reason_test_reasoning",
    ),
    **dict.fromkeys(
        ("mathvista_testmini_cot", "mathvista_testmini_format", "mathvista_testmini_solution", "mathvista_testmini"),
        "without a judge its scores are silently 0; take mathvista_testmini_cot_reasoning",
    ),
    "mathverse_testmini": "without a judge its scores are silently 0; take mathverse_testmini_reasoning",
    "mathvision_reason_test": "it asks a judge; take mathvision_reason_test_reasoning",
}
"""Tasks of lmms-eval that are refused, and why."""


class Sampling(Section):
    """How every benchmark of a suite is sampled."""

    temperature: float = Field(ge=0, le=2, description="0 = greedy")
    top_p: float = Field(1.0, gt=0, le=1, description="as in a recipe's section sampling")
    top_k: Count | None = Field(None, description="as in a recipe's section sampling")
    max_new_tokens: Count = Field(description="a longer response is truncated and counts as wrong")

    @property
    def greedy(self) -> bool:
        return self.temperature == 0


class Harness(Section):
    """How a harness runs a model. Its version is pinned in `copd/assets/suites`."""

    model: str = Field(description="the harness's name for the kind of model, for instance qwen3_vl")
    model_args: dict[str, bool | int | float | str] = Field({}, description="further arguments of the model")


class Benchmark(Section):
    """One benchmark: where its problems are, who asks them, and how a response is scored."""

    group: Group = Field(description="the average that it counts in")
    engine: Engine = Field(description="rows: copd asks the rows of a file; else the harness that asks")
    problems: Count = Field(description="the number of problems of the whole benchmark")
    samples: Count = Field(1, description="responses to each problem, k of avg@k")
    rows: Name | None = Field(
        None, description="the file of rows in the folder of data is ROWS.jsonl; null = the benchmark's name"
    )
    verifier: str | None = Field(None, description="the verifier of rows that name none")
    system_prompt: str | None = Field(None, min_length=1, description="system message of rows that have none")
    prompt_template: str | None = Field(None, min_length=1, description="as in a recipe's task on rows")
    task: str | None = Field(None, description="the harness's task, scored by the harness; null = rows, scored by copd")
    metric: str | None = Field(None, description="with task: the key of a sample that holds its score")
    score: tuple[str, ...] = Field(
        (),
        max_length=2,
        description="with task: if the score is a record, the key that holds the number; of two keys, whether they are "
        "equal",
    )
    kept: str | None = Field(None, description="with task: only samples whose prompt holds this text count")
    steps: bool = Field(
        False,
        strict=True,
        description="with task: WeMath's strict score of each problem of several steps, from the samples of its steps",
    )

    @model_validator(mode="after")
    def _sound(self) -> Benchmark:
        if self.task is None:
            for field in ("metric", "score", "kept", "steps"):
                if getattr(self, field):
                    raise ValueError(f".{field}: is for a harness's own task; name it by task, or leave the field out")
            return self
        if self.engine == ROWS:
            raise ValueError(f".task: found {self.task!r}, but engine rows asks rows; choose a harness as engine")
        if self.engine == "lmms-eval" and self.task in UNFIT:
            raise ValueError(f".task: {self.task} is refused: {UNFIT[self.task]}")
        if self.samples > 1:
            raise ValueError(f".samples: is {self.samples}, but a harness scores one response of its own task")
        if self.metric is None:
            raise ValueError(".metric: missing; it names what a sample of the harness's task holds as its score")
        for field in ("rows", "verifier", "system_prompt", "prompt_template"):
            if getattr(self, field) is not None:
                raise ValueError(f".{field}: is for rows, but task names the harness's own problems; leave one out")
        return self


class Reference(Section):
    """Averages that others published, in per cent. They are shown beside ours, marked as theirs."""

    image: Positive | None = Field(None, description="over the benchmarks of images")
    text: Positive | None = Field(None, description="over those of text")
    video: Positive | None = Field(None, description="over those of videos")
    overall: Positive = Field(description="over all benchmarks")
    source: str = Field(min_length=1, description="where the numbers are printed")


class Suite(Section):
    """Benchmarks that models are measured on, in groups."""

    title: str = Field(min_length=1, description="what the page calls the suite")
    seed: int = Field(0, ge=0, description="seed of all samples")
    sampling: Sampling = Field(description="how every benchmark is sampled")
    harnesses: dict[Engine, Harness] = Field({}, description="the harnesses by name")
    benchmarks: dict[Name, Benchmark] = Field(min_length=1, description="the benchmarks by name")
    reference: dict[str, Reference] = Field({}, description="published averages by the name of their model")
    notes: tuple[str, ...] = Field((), description="what a reader of the table should know, a line each")

    @model_validator(mode="after")
    def _sound(self) -> Suite:
        if ROWS in self.harnesses:
            raise ValueError(f"harnesses: {ROWS} is copd itself, no harness")
        for name, each in self.benchmarks.items():
            if each.engine != ROWS and each.engine not in self.harnesses:
                raise ValueError(f"benchmarks.{name}.engine: {each.engine} is not described under harnesses")
            if self.sampling.greedy and each.samples > 1:
                raise ValueError(
                    f"benchmarks.{name}.samples: is {each.samples}, but at sampling.temperature 0 all are one response"
                )
        return self


def suites() -> list[str]:
    """Names of the suites that ship with copd."""
    return sorted(p.name.removesuffix(".yaml") for p in SUITES.iterdir() if p.name.endswith(".yaml"))


def load_suite(source: str) -> Suite:
    """Read a suite that ships with copd by its name, or a file. Raises RecipeError naming every faulty key."""
    return make_suite(parse_yaml(_text(source), source), source)


def make_suite(data: Any, source: str) -> Suite:
    """Validate a suite given as nested mappings. Raises RecipeError naming `source` and every faulty key."""
    if not isinstance(data, dict):
        found = "nothing" if data is None else type(data).__name__
        raise RecipeError(f"{source}: a suite is a mapping with benchmarks, found {found}")
    try:
        return Suite.model_validate(data)
    except ValidationError as error:
        raise RecipeError("\n".join(f"{source}: {line}" for line in explain(error.errors(), Suite))) from None


def _text(source: str) -> str:
    if source in suites():
        return (SUITES / f"{source}.yaml").read_text(encoding="utf-8")
    try:
        return Path(source).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        known = ", ".join(suites())
        raise RecipeError(
            f"--suite {source}: not a readable file ({first_line(error)}), nor a suite of copd: {known}"
        ) from error
