"""The recipe as a whole: its sections, and the rules between them. Imports no torch."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from copd.recipe.fields import CodeOfFile, Section, Seed, VerifierName, is_code
from copd.recipe.keys import check_no_key
from copd.recipe.method_sections import (
    DISTIL,
    BudgetSection,
    ExpertsSection,
    MergeSection,
    MixedSection,
    MopdSection,
    OpdSection,
    StaticOpdSection,
)
from copd.recipe.sampling_section import SamplingSection
from copd.recipe.sections import (
    BackendSection,
    CheckpointSection,
    EvaluationSection,
    GrpoSection,
    LoraSection,
    ModelSection,
    OptimizerSection,
    RewardSection,
    ScheduleSection,
    TopologySection,
    TrackerSection,
    backend_by_name,
    tracker_by_name,
)
from copd.recipe.task_sections import BranchSection, PythonTask
from copd.types import BASE, RESERVED_NAMES

MOST_STEPS = 10**7


class Recipe(Section):
    """A run from base model to merged model."""

    seed: Seed = Field(
        0, description="seed of training problems and sampling; validation and test problems do not depend on it"
    )
    method: Literal["copd", "expert", "mixed", "static_opd", "mopd", "merge_only"] = Field(
        "copd", description="copd, or a baseline with the same number of rollouts"
    )
    model: ModelSection = ModelSection()
    branches: dict[Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]{0,31}$")], BranchSection] = Field(
        min_length=1, description="the branches by name; with topology hub the first is the hub"
    )
    topology: TopologySection = TopologySection()
    schedule: ScheduleSection = ScheduleSection()
    sampling: SamplingSection = SamplingSection()
    reward: RewardSection = RewardSection()
    verifiers: dict[VerifierName, CodeOfFile] = Field(
        {}, description="your own reward functions, path/file.py:NAME, under the names that problems use"
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
    trackers: tuple[Annotated[TrackerSection, BeforeValidator(tracker_by_name)], ...] = Field(
        (), description="trackers that also get the numbers of metrics.jsonl, and samples: names, or sections"
    )
    backend: Annotated[BackendSection, BeforeValidator(backend_by_name)] = BackendSection()

    @property
    def own_code(self) -> dict[str, str]:
        """The code of the user's that the recipe names, as path/file.py:NAME, by field. Copd runs no other."""
        of_branches = {
            f"branches.{name}.task.source": branch.task.source
            for name, branch in self.branches.items()
            if isinstance(branch.task, PythonTask)
        }
        named = {"model.family": self.model.family, "merge.method": self.merge.method}
        named |= {f"trackers.{i}": tracker.kind for i, tracker in enumerate(self.trackers)}
        others = {field: source for field, source in named.items() if source is not None and is_code(source)}
        return {f"verifiers.{name}": source for name, source in self.verifiers.items()} | of_branches | others

    @model_validator(mode="before")
    @classmethod
    def _without_keys(cls, data: Any) -> Any:
        check_no_key(data)
        return data

    @model_validator(mode="after")
    def _merges_soundly(self) -> Recipe:
        if self.method == "merge_only" and self.merge.method == DISTIL:
            raise ValueError(
                "merge.method: method merge_only computes a model from the experts' weights; set merge.method=mean or "
                "another, or train experts and then distil them by method=copd schedule.cycles=1 schedule.opd_steps=0"
            )
        if self.method in ("copd", "merge_only") and len(self.branches) > 1:
            self.merge.check_count(len(self.branches))
        if self.method == "copd" and self.merge.method == DISTIL and len(self.branches) < 2:
            raise ValueError("merge.method: 'distil' needs at least two branches")
        if self.method == "copd" and self.merge.method == DISTIL and self.lora is not None:
            raise ValueError(
                "merge.method: 'distil' begins with the branches' mean, but an adapter can only begin as the base; "
                "set merge.method=mean or another, or leave lora out"
            )
        if self.method == "copd" and self.schedule.restart != "none" and self.lora is not None:
            raise ValueError(
                f"schedule.restart: is {self.schedule.restart!r}, but an adapter can only begin as the base; set none, "
                "or leave lora out"
            )
        return self

    @model_validator(mode="after")
    def _has_steps(self) -> Recipe:
        if self.schedule.rl_steps + self.schedule.opd_steps + (self.schedule.first_rl_steps or 0) == 0:
            raise ValueError("schedule: no steps at all: rl_steps and opd_steps are both 0")
        steps = self.schedule.cycles * (self.schedule.rl_steps + self.schedule.opd_steps)
        if steps > MOST_STEPS:
            raise ValueError(f"schedule: cycles x (rl_steps + opd_steps) = {steps:,}; accepted: at most {MOST_STEPS:,}")
        return self

    @model_validator(mode="after")
    def _sound(self) -> Recipe:
        names = list(self.branches)
        if taken := sorted(RESERVED_NAMES & set(names)):
            raise ValueError(f"branches: {taken[0]!r} is a name that copd uses itself; give the branch another")
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
        taught = {edge.student for edge in self.topology.edges}
        if self.method == "copd" and not self.opd.native and taught and (idle := [n for n in names if n not in taught]):
            raise ValueError(
                f"opd.native: is false, but no edge teaches branch {idle[0]!r}, which would have nothing to do in OPD "
                "steps; add an edge to it, or set opd.native=true"
            )
        if self.method in ("static_opd", "merge_only") and len(names) < 2:
            raise ValueError(f"branches: method {self.method} needs at least two")
        pair = {"static_opd.student": self.static_opd.student, "static_opd.teacher": self.static_opd.teacher}
        chosen = pair | {"mopd.student": self.mopd.student if self.mopd.student not in (BASE, "mean") else None}
        for field, name in chosen.items():
            if name is not None and name not in names:
                raise ValueError(f"{field}: no branch {name!r}; branches are {', '.join(names)}")
        if None not in pair.values() and len(set(pair.values())) == 1:
            raise ValueError(f"static_opd: branch {self.static_opd.student!r} cannot teach itself")
        if self.model.offload and self.grpo.kl_coefficient:
            raise ValueError(
                "model.offload: the base would score for grpo.kl_coefficient on the cpu; use one of the two"
            )
        if self.backend.kind != "local" and self.model.offload:
            raise ValueError("model.offload: branches take turns within one process; set backend: local")
        if self.backend.ranks > 1 and self.optimizer.kind != "adamw":
            raise ValueError(f"optimizer.kind: found {self.optimizer.kind} with backend.ranks above 1; accepted: adamw")
        if self.backend.kind == "ray":
            for name, branch in self.branches.items():
                if branch.device is not None and ":" in branch.device:
                    raise ValueError(
                        f"branches.{name}.device: is {branch.device!r}, but Ray chooses the card of each branch; leave "
                        "it out, or set cuda"
                    )
        if self.lora is not None:
            if self.method == "mopd" and self.mopd.student != BASE:
                raise ValueError(f"mopd.student: is {self.mopd.student!r}, but an adapter begins as the base; set base")
            if self.model.offload:
                raise ValueError("model.offload: lora branches share one base, there is nothing to take turns with")
            if self.model.freeze:
                raise ValueError("model.freeze: lora trains no weight of the base; leave it out, and set lora.targets")
            for name, branch in self.branches.items():
                if branch.device is not None:
                    raise ValueError(f"branches.{name}.device: lora branches share one base, on model.device")
        return self
