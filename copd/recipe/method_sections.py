"""The sections of what a method does between and after its RLVR: distillation, merge, baselines. Imports no torch."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from copd.recipe.fields import Amount, Count, CountFrom0, Positive, Section, Seed, one_of_or_code, schema_of

CLAMP, TEACHER_SHARE, TOP_K = 5.0, 0.9, 64
BOUND = {"bound": "clamp", "clamp": CLAMP, "teacher_share": TEACHER_SHARE}
"""The fields that only the sampled signal has, and their defaults."""
DISTIL = "distil"
"""The merge that is not computed from weights: the branches teach their mean, each on its own prompts."""


class OpdSection(Section):
    """The objective of OPD, in mutual OPD and in consolidation."""

    signal: Literal["sampled", "reverse_kl", "forward_kl", "jsd"] = Field(
        "sampled",
        description="sampled: the log-prob difference of each sampled token is its advantage, as in the paper; the "
        "others are direct losses on the whole distribution: KL(student || teacher), KL(teacher || student), "
        "Jensen-Shannon",
    )
    top_k: Amount = Field(
        TOP_K,
        description="with a direct loss, where the vocabulary has over 4,096 tokens: it compares so many likeliest "
        "tokens, the student's for reverse_kl, else the teacher's, and one bucket for the rest",
    )
    prompts_per_step: Count = Field(8, description="prompts of an edge in an OPD step; default of a direct loss: 64")
    rollouts_per_prompt: Count = Field(8, description="responses per such prompt; default of a direct loss: 1")
    responses: Literal["student", "teacher"] = Field(
        "student",
        description="who answers the prompts of an edge. student: on-policy distillation; teacher: off-policy, with "
        "signal forward_kl or jsd",
    )
    replay: CountFrom0 = Field(
        0,
        description="steps with which a consolidation begins, on the last RLVR batches of each branch, whose rollouts "
        "are counted already; with signal forward_kl or jsd",
    )
    native: bool = Field(
        True,
        strict=True,
        description="whether an OPD step of copd also has a batch of GRPO on each branch's own capability (the paper)",
    )
    teachers: Literal["moving", "phase_start"] = Field(
        "moving",
        description="weights with which branches teach in mutual OPD. moving: the current ones (the paper); "
        "phase_start: those at the beginning of the phase, in a copy of each branch's model",
    )
    anchor: float = Field(
        0.0,
        ge=0,
        description="with teachers phase_start: weight of one more lesson, in which a branch teaches itself its own "
        "capability; 0 = none. It costs as much as an edge",
    )
    learning_rate: Positive | None = Field(None, description="of steps with a teacher; null = optimizer.learning_rate")
    iterations: Count | None = Field(
        None, description="optimizer steps over each batch with a teacher; null = grpo.iterations"
    )
    weight: float = Field(
        1.0,
        ge=0,
        description="weight of all lessons of a student together, which share it equally; listed edges have their own",
    )
    bound: Literal["clamp", "mask", "proximal"] = Field(
        "clamp",
        description="with signal sampled: bound of the log-prob difference to the teacher. clamp: to [-clamp, clamp]; "
        "mask: a token beyond that counts as 0; proximal: the difference to a mixture of teacher and student",
    )
    clamp: Positive = Field(CLAMP, description="with bound clamp or mask: the greatest difference, in nats")
    teacher_share: float = Field(
        TEACHER_SHARE, gt=0, le=1, description="with bound proximal: share of the teacher in the mixture (a)"
    )

    @model_validator(mode="before")
    @classmethod
    def _sizes(cls, data: Any) -> Any:
        """A direct loss has no use for a group of responses, and gains from prompts."""
        if isinstance(data, dict) and data.get("signal", "sampled") != "sampled":
            return {"prompts_per_step": 64, "rollouts_per_prompt": 1, **data}
        return data

    @model_validator(mode="after")
    def _sound(self) -> OpdSection:
        if self.anchor and self.teachers == "moving":
            raise ValueError(
                f".anchor: is {self.anchor}, but teachers is 'moving', and a branch learns nothing from its own "
                "current weights; set teachers: phase_start"
            )
        for name, usual in (("responses", "student"), ("replay", 0)):
            found = getattr(self, name)
            if found != usual and self.signal not in ("forward_kl", "jsd"):
                raise ValueError(
                    f".{name}: is {found!r}, but signal {self.signal!r} compares what the student samples; set signal: "
                    "forward_kl or jsd"
                )
        if self.responses == "teacher" and self.teachers == "phase_start":
            raise ValueError(
                ".responses: is 'teacher', but with teachers 'phase_start' a branch samples with other weights than it "
                "teaches with; set teachers: moving"
            )
        if self.signal == "sampled" and self.top_k != TOP_K:
            raise ValueError(f".top_k: is {self.top_k}, but signal is 'sampled'; it belongs to the other signals")
        for name, default in BOUND.items():
            found = getattr(self, name)
            if self.signal != "sampled" and found != default:
                raise ValueError(f".{name}: is {found!r}, but signal {self.signal!r} has none; leave it out")
        if self.bound == "proximal" and self.clamp != CLAMP:
            raise ValueError(f".clamp: is {self.clamp}, but with bound 'proximal' there is none; leave it out")
        if self.bound != "proximal" and self.teacher_share != TEACHER_SHARE:
            raise ValueError(
                f".teacher_share: is {self.teacher_share}, but bound is {self.bound!r}; it belongs to bound 'proximal'"
            )
        return self


MERGE_FIELDS: dict[str, dict[str, Any]] = {
    "mean": {},
    "weighted": {"weights": None},
    "task_arithmetic": {"scale": 0.4},
    "ties": {"weights": None, "scale": 1.0, "density": 0.2},
    "dare": {"scale": 0.4, "density": 0.8, "seed": 0},
    "slerp": {"weights": None},
    DISTIL: {"steps": 100},
}
"""The fields of each merge method and their defaults; the method accepts no others."""


class MergeSection(Section):
    """The merge of the branches. Fields that the method does not use are null."""

    method: Annotated[str, one_of_or_code(*MERGE_FIELDS), schema_of(*MERGE_FIELDS)] = Field(
        "mean",
        description="how the K branches become one model; task_arithmetic, ties and dare add to the base; distil: all "
        "branches, frozen, teach one student that begins as their mean, with the settings of opd; R counts the "
        "rollouts; your own: a function of the name, the branches' tensors and the base's",
    )
    weights: tuple[Annotated[float, Field(ge=0)], ...] | None = Field(
        None, description="for weighted, ties, slerp: one per branch, relative to their sum; ties, slerp: null = equal"
    )
    scale: Positive | None = Field(
        None, description="for task_arithmetic, dare (0.4), ties (1): factor of the change that is added to the base"
    )
    density: Annotated[float, Field(gt=0, le=1)] | None = Field(
        None, description="for ties (0.2), dare (0.8): share of each branch's difference to the base that is kept"
    )
    seed: Seed | None = Field(None, description="for dare (0): decides which entries are kept")
    steps: Count | None = Field(None, description="for distil (100): steps of each consolidation")

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_the_method(cls, data: Any) -> Any:
        method = data.get("method", "mean") if isinstance(data, dict) else None
        if not isinstance(method, str) or method not in MERGE_FIELDS:
            return data
        given = {key: value for key, value in data.items() if value is not None or key not in cls.model_fields}
        return MERGE_FIELDS[method] | given

    @model_validator(mode="after")
    def _sound(self) -> MergeSection:
        fields = MERGE_FIELDS.get(self.method, {})
        for name in type(self).model_fields:
            if name not in ("method", *fields) and getattr(self, name) is not None:
                accepted = ", ".join(fields) or "no settings"
                raise ValueError(f".{name}: method {self.method!r} takes no {name}; it takes {accepted}")
        if self.method == "weighted" and self.weights is None:
            raise ValueError(".weights: missing; method 'weighted' needs one per branch")
        if self.weights is not None and sum(self.weights) <= 0:
            raise ValueError(f".weights: found {list(self.weights)}; at least one must be greater than 0")
        return self

    @property
    def settings(self) -> dict[str, Any]:
        """The fields of the method, by name."""
        return {name: getattr(self, name) for name in MERGE_FIELDS.get(self.method, {})}

    def check_count(self, branches: int) -> None:
        """Raise ValueError if the method or the weights do not fit this number of branches."""
        if self.method == "slerp" and branches != 2:
            raise ValueError(f"merge.method: 'slerp' merges two branches, found {branches}; others take any number")
        if self.weights is not None and len(self.weights) != branches:
            raise ValueError(f"merge.weights: {len(self.weights)} weights for {branches} branches; give one for each")


class MixedSection(Section):
    """The baseline `mixed`: one model on the union of all capabilities."""

    batch: Literal["same", "K_times"] = Field(
        "same", description="same: K times the steps of an expert; K_times: K times the prompts per step"
    )


class StaticOpdSection(Section):
    """The baseline `static_opd`: one finished expert, frozen, teaches another on the teacher's prompts."""

    teacher: str | None = Field(None, description="the branch that teaches; null = the first that is not the student")
    student: str | None = Field(None, description="the branch that learns; null = the first that is not the teacher")
    native: bool = Field(
        False, strict=True, description="whether the student also goes on with GRPO on its own capability"
    )


class MopdSection(Section):
    """The baseline `mopd`: all finished experts, frozen, teach one student, each on its own capability."""

    student: str = Field("base", description="first weights of the student: base, mean (of the experts), or a branch")


class BudgetSection(Section):
    """The rollouts of a method."""

    rollouts: Amount | None = Field(
        None,
        description="R; steps are scaled to meet it within 5 %; null = the schedule's own for copd, copd's R "
        "for all others",
    )


class ExpertsSection(Section):
    """Experts that exist already."""

    run: str | None = Field(
        None, description="a run folder of the same trajectory; the experts begin at its last checkpoint that fits"
    )
