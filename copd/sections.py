"""The sections of a recipe: every field with its meaning and default. Imports no torch."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Share = Annotated[float, Field(ge=0, le=1)]
Decay = Annotated[float, Field(ge=0, lt=1)]
Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]


class Section(BaseModel):
    """A part of a recipe: unknown keys are refused, values cannot change after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _no_truth_values(cls, data: Any) -> Any:
        """Few fields are truth values, but YAML reads yes, no, on and off as one, and Python takes it for a number."""
        truths = {name for name, field in cls.model_fields.items() if field.annotation is bool}
        for key, value in data.items() if isinstance(data, dict) else ():
            if key not in truths and any(
                isinstance(item, bool) for item in (value if isinstance(value, list) else [value])
            ):
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
    device: str | None = Field(
        None,
        pattern=r"^(cpu|mps|cuda(:\d{1,3})?)$",
        description="where this branch lives, e.g. cuda:1; null = model.device",
    )


class ModelSection(Section):
    """The base model and how it computes."""

    path: str = Field(
        "builtin:digits", description="a model folder, builtin:NAME for a base that ships with copd, or a hub id"
    )
    revision: str | None = Field(
        None, pattern=r"^[0-9a-f]{40}$", description="with a hub id: the commit, 40 hex digits; nothing else is fetched"
    )
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="of the arithmetic; weights stay float32. bfloat16 = autocast; auto = bfloat16 on cuda only"
    )
    device: Literal["auto", "cpu", "cuda", "mps"] = Field("auto", description="auto = cuda, else mps, else cpu")
    threads_per_branch: Count = Field(1, description="CPU threads; part of the recipe since it changes the rounding")
    micro_batch_tokens: Count = Field(
        16_384,
        description="padded tokens per batch in sampling, scoring and training, a prompt counted once for its rows",
    )
    gradient_checkpointing: bool = Field(
        False,
        strict=True,
        description="recompute layers in the backward pass: less memory; log-probs on the plain path",
    )
    offload: bool = Field(
        False,
        strict=True,
        description="branches on one device take turns; weights and optimizer of those that wait stay on the cpu",
    )


class LoraSection(Section):
    """Branches as low-rank adapters on one frozen base (`copd.model.lora`)."""

    rank: Count = Field(16, description="rank of the update of each adapted layer")
    alpha: Positive = Field(32.0, description="the update is scaled by alpha / rank")
    targets: tuple[str, ...] = Field(
        ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
        min_length=1,
        description="last names of the linear layers that get an adapter, wherever they stand in the model",
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
