"""The sections of a recipe: every field with its meaning and default. Imports no torch."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from copd.recipe.fields import (
    Amount,
    CodeOfFile,
    Count,
    CountFrom0,
    Decay,
    Positive,
    Section,
    Share,
    one_of_or_code,
    schema_of,
)
from copd.system.files import REVISION

TRACKERS = ("tensorboard", "wandb", "mlflow", "trackio")
"""The trackers of copd, each by the name of its library."""


def _name_in_a_tracker(name: str) -> str:
    if not re.fullmatch(r"[\w .:+-]{1,128}", name):
        raise ValueError(f"accepted: letters, digits, spaces and . : + - _, 1 to 128 in all; found {name[:80]!r}")
    return name


TrackedName = Annotated[str, AfterValidator(_name_in_a_tracker)]


class ModelSection(Section):
    """The base model and how it computes."""

    path: str = Field(
        "builtin:digits", description="a model folder, builtin:NAME for a base that ships with copd, or a hub id"
    )
    revision: str | None = Field(
        None,
        pattern=REVISION,
        description="with a hub id: its commit, branch or tag; a run keeps the commit that this is at its start",
    )
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto",
        description="type of the arithmetic; weights stay float32. bfloat16 uses autocast; "
        "auto is bfloat16 on cuda, else float32",
    )
    device: Literal["auto", "cpu", "cuda", "mps"] = Field("auto", description="auto = cuda, else mps, else cpu")
    threads_per_branch: Count = Field(
        1, description="CPU threads; they belong to the recipe, as they change the rounding"
    )
    micro_batch_tokens: Amount = Field(
        16_384,
        description="most tokens per batch in scoring and training, and in sampling unless sampling.cache_tokens is "
        "set; a prompt counts once per batch, but with each of its rows for models that are not packed",
    )
    gradient_checkpointing: bool = Field(
        False,
        strict=True,
        description="recompute layers in the backward pass: less memory, more time",
    )
    allow_plain_path: bool = Field(
        False,
        strict=True,
        description="true: if a model of a kind that shares prompts fails the check of it, each response computes its "
        "prompt again, with a warning; false: the failure is an error",
    )
    freeze: tuple[str, ...] = Field(
        (),
        description="modules whose weights are not trained, by the end of their path in the model: [visual] is the "
        "vision tower; without gradients and moments",
    )
    family: CodeOfFile | None = Field(
        None,
        description="your own subclass of `copd.compute.family.Family`, for a kind of model that copd does not know or "
        "treats otherwise; null = by the model's configuration",
    )
    export_dtype: Literal["float32", "bfloat16"] = Field(
        "float32",
        description="type of the weights in the model folders of branches and merge; bfloat16 halves them, for "
        "serving. Training, checkpoints and the merge itself stay float32",
    )
    offload: bool = Field(
        False,
        strict=True,
        description="branches on one device take turns; a waiting branch keeps weights and optimizer on the cpu",
    )


class LoraSection(Section):
    """Branches as low-rank adapters on one frozen base (`copd.model.lora`)."""

    rank: Count = Field(16, description="rank of the update of each adapted layer")
    alpha: Positive = Field(32.0, description="the update is scaled by alpha / rank")
    targets: tuple[str, ...] = Field(
        ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
        min_length=1,
        description="last names of the linear layers that get an adapter, anywhere in the model",
    )


class EdgeSection(Section):
    """One direction of teaching."""

    student: str = Field(description="the branch that answers")
    teacher: str = Field(description="the branch that gives the prompts and scores the student's responses")
    weight: float = Field(1.0, ge=0, description="weight of this edge's part of the update")


class TopologySection(Section):
    """Who teaches whom."""

    kind: Literal["hub", "full", "edges"] = Field(
        "hub", description="hub: the first branch and each of the others, both ways; full: all pairs; edges: as listed"
    )
    edges: tuple[EdgeSection, ...] = Field((), description="with kind edges: the edges")

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

    cycles: Count = Field(4, description="number of cycles, each of both phases (N)")
    rl_steps: CountFrom0 = Field(15, description="RLVR steps per cycle (S_RL)")
    first_rl_steps: Count | None = Field(None, description="RLVR steps of the first cycle; null = rl_steps")
    opd_steps: CountFrom0 = Field(10, description="mutual OPD steps per cycle (S_OPD)")
    restart: Literal["none", "merge"] = Field(
        "none",
        description="what a branch begins the next cycle with. none: its own weights, as in the paper; merge: the "
        "merge of all branches, and an optimizer without moments",
    )


class RewardSection(Section):
    """How responses are graded: reward = (1 - format_weight) * score + format_weight * formatted."""

    answer_form: Literal["boxed", "tag"] = Field(
        "boxed",
        description="where the final answer stands, after the last </think>: in \\boxed{} or in <answer></answer>; "
        "a response with none or with several has no answer",
    )
    format_weight: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="share of the reward for exactly one final answer in a finished response, right or wrong; accuracy "
        "counts the answer alone",
    )
    deadline_seconds: Positive = Field(
        10.0,
        description="seconds to grade one response by math or your own function; then its process is killed, reward 0",
    )
    workers: Count = Field(
        2, description="number of grading processes for math and your own functions; other verifiers need none"
    )
    memory_gib: Positive = Field(
        4.0, description="most private memory of a grading process, if the system can limit it"
    )


class GrpoSection(Section):
    """The RLVR objective. Clips, aggregation and iterations also hold for the OPD parts."""

    clip_low: Share = Field(0.2, description="ratios are clipped at 1 - clip_low")
    clip_high: float = Field(0.28, ge=0, description="ratios are clipped at 1 + clip_high")
    aggregation: Literal["sequence", "token", "constant"] = Field(
        "sequence",
        description="sequence: mean over each response, then over responses; token: mean over all tokens; "
        "constant: sum / (responses x sampling.max_new_tokens) (Dr. GRPO)",
    )
    normalize_std: bool = Field(
        True, strict=True, description="divide advantages by the group's standard deviation; Dr. GRPO: false"
    )
    kl_coefficient: float = Field(0.0, ge=0, description="weight of the KL to the base (k3 estimate); 0 = none")
    iterations: Count = Field(
        1, description="optimizer steps over each batch; ratios refer to the log-probs of the first"
    )
    mask_truncated: bool = Field(
        False,
        strict=True,
        description="leave truncated responses out of the native part, as if they had not been sampled",
    )


class OptimizerSection(Section):
    """AdamW, and its learning rate over the updates of a branch."""

    kind: Literal["adamw", "adamw_8bit", "adamw_on_cpu"] = Field(
        "adamw",
        description="adamw: moments in float32, 8 bytes a weight; adamw_8bit: about 2 bytes a weight, by bitsandbytes; "
        "adamw_on_cpu: moments on the CPU, where every weight is updated",
    )
    learning_rate: Positive = Field(5.0e-5, description="the rate after the warm-up, before a decay")
    warmup_steps: CountFrom0 = Field(
        0, description="updates of a branch in which its rates, that of opd.learning_rate too, rise evenly"
    )
    decay: Literal["none", "linear", "cosine"] = Field(
        "none", description="how the rates fall after the warm-up; none: they stay"
    )
    decay_steps: Count | None = Field(None, description="with a decay: updates of a branch until the rates have fallen")
    decay_to: float = Field(0.1, ge=0, le=1, description="with a decay: share of a rate at which it then stays")
    betas: tuple[Decay, Decay] = Field((0.9, 0.99), description="decay of the two moments")
    weight_decay: float = Field(0.0, ge=0, description="decoupled decay")
    max_grad_norm: Positive = Field(1.0, description="a larger gradient of the whole step is scaled down to this norm")

    @model_validator(mode="after")
    def _decays_over_some_steps(self) -> OptimizerSection:
        if self.decay != "none" and self.decay_steps is None:
            raise ValueError(f".decay_steps: missing; decay {self.decay!r} needs the number of updates")
        if self.decay == "none" and self.decay_steps is not None:
            raise ValueError(".decay_steps: found without a decay; set optimizer.decay to linear or cosine")
        return self


class EvaluationSection(Section):
    """Measures: when, and on how many problems. Rollouts of evaluation do not count towards the method's R."""

    models: Literal["all", "product"] = Field(
        "all", description="models in the final table: base, branches and merge, or the one that the method makes alone"
    )
    split: Literal["test", "validation"] = Field(
        "test", description="problems of the final table; validation is for choosing settings"
    )
    problems: Count | None = Field(
        None, description="problems per capability in the final table; null = 500, or as many as there are"
    )
    validation_problems: Count | None = Field(
        None, description="validation problems per capability during training; null = 100, or as many as there are"
    )
    every_cycles: Count = Field(1, description="cycles between validations of every branch on every capability")
    every_steps: Count | None = Field(
        None,
        description="steps between further validations; every validation then measures the merge too, where it is "
        "computed from the branches' weights; null = at ends of cycles only, without the merge",
    )
    pass_at: tuple[Count, ...] = Field(
        (1,), description="values of k of pass@k; max(k) responses are sampled per problem"
    )
    behaviour_problems: Count | None = Field(
        None, description="validation prompts per capability for overlap and KL; null = 32, or as many as there are"
    )
    overlap_k: tuple[Count, ...] = Field((5, 10), min_length=1, description="values of k of the top-k overlap")


class BackendSection(Section):
    """Where the branches live. `backend: processes` is short for `backend: {kind: processes}`."""

    kind: Literal["local", "processes", "ray"] = Field(
        "local",
        description="local: all branches in this process; processes: each in its own process, with its own model; ray: "
        "each an actor of Ray, on this machine or on the cluster that RAY_ADDRESS names",
    )
    ranks: int = Field(
        1,
        ge=1,
        le=1024,
        description="processes of each branch, a card each: FSDP2 spreads weights, gradients and moments over them; "
        "more than 1 with ray only",
    )
    restarts: CountFrom0 = Field(
        3,
        description="how often in all a run goes on by itself from its last checkpoint after it has lost a branch",
    )
    place_minutes: float = Field(
        10.0,
        gt=0,
        le=1e6,
        description="with ray: so long the cluster may take to find room for a branch, as by starting nodes",
    )
    slow_minutes: float = Field(30.0, gt=0, description="after so long without an answer a branch is named as slow")
    give_up_minutes: float = Field(
        240.0,
        gt=0,
        le=1e6,
        description="after so long without an answer a branch counts as lost; more than slow_minutes",
    )

    @model_validator(mode="after")
    def _named_first(self) -> BackendSection:
        if self.ranks > 1 and self.kind != "ray":
            raise ValueError(f".ranks: found {self.ranks} with kind {self.kind}; accepted: 1, or kind ray")
        if self.give_up_minutes <= self.slow_minutes:
            raise ValueError(
                f".give_up_minutes: found {self.give_up_minutes:g}; accepted: more than slow_minutes, which is "
                f"{self.slow_minutes:g}"
            )
        return self


class TrackerSection(Section):
    """A tracker, which gets the numbers of metrics.jsonl, samples and their pictures. Its name alone stands for it."""

    kind: Annotated[str, one_of_or_code(*TRACKERS), schema_of(*TRACKERS)] = Field(
        description="each is an extra of the package, whose account and place come from its own environment; or code "
        "of yours that opens one"
    )
    project: TrackedName = Field("copd", description="project of the run; with mlflow its experiment")
    name: TrackedName | None = Field(None, description="name of the run; null = that of the run folder")
    tags: tuple[TrackedName, ...] = Field((), description="tags of the run")


def tracker_by_name(value: Any) -> Any:
    """The section that the name of a tracker stands for."""
    return {"kind": value} if isinstance(value, str) else value


def backend_by_name(value: Any) -> Any:
    """The section that the name of a kind stands for."""
    return {"kind": value} if isinstance(value, str) else value


class CheckpointSection(Section):
    """How often a checkpoint of all branches is written, and how many are kept."""

    every_steps: Count = Field(25, description="steps between checkpoints; one is also written at the end of a cycle")
    keep_last: Count = Field(
        2,
        description="how many checkpoints are kept; older ones are removed once a newer one is complete. Runs of "
        "expert and merge_only also keep the checkpoints that copd, static_opd and mopd start from",
    )
    keep_at: tuple[Count, ...] = Field(
        (), description="numbers of steps after which a checkpoint is also written, and kept for other runs"
    )
    keep_best: bool = Field(
        False,
        strict=True,
        description="also keep the checkpoint with the best validation average of the product, or of all branches "
        "where the method makes no single model; validations then measure the merge too",
    )
