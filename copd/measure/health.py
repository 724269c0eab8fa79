"""Guards against the known silent failures of the method (docs/metrics.md).

Guards read only the events and their order. So a resumed run, which reads its record again, gives the same warnings as
a run that never stopped.
"""

from __future__ import annotations

import math
from collections import defaultdict, deque
from collections.abc import Collection, Iterator, Mapping
from functools import partial
from statistics import fmean, median
from typing import Any, NamedTuple

WINDOW = 10
"""Number of updates over which a value is judged. A guard that has fired may fire again after as many good ones."""
COLLAPSED = 0.05
"""If a branch's entropy falls below this share of its first value and its reward does not rise, it has collapsed."""
SOLVED = 0.9
"""From this reward on, a low entropy is what learning leads to."""
MANY_TRUNCATED = 0.5
"""Accepted share of truncated responses, in a part or of the base in a capability."""
MANY_CLAMPED = 0.1
"""Accepted share of a teacher's deltas that the bound changes."""
MISMATCH, MISMATCH_IN_HALF = 1e-3, 0.05
"""Accepted mean difference of sampler and trainer in nats per token, in float32 and under autocast."""
FAR = 10.0
"""Accepted factor between a branch's gradient norm and the median of its peers' norms."""
UNEQUAL, COMPARED = 3.0, 4
"""Accepted factor between the gradient norms of the parts of a branch's update, their weights included; and the number
of updates over which they are compared, as not every update measures them."""


class Fault(NamedTuple):
    """A fault that a guard has found in a branch, in one line."""

    guard: str
    branch: str
    message: str


class _Look(NamedTuple):
    """One judgement of a guard: the value it judged, whether that is bad, and the warning.

    After `forgotten_after` good looks in a row the guard may fire again.
    """

    guard: str
    branch: str
    about: str
    is_bad: bool
    said: str
    forgotten_after: int = WINDOW


class Health:
    """Sees the events of a run in order and reports each fault, once until it has recovered.

    `edges` are pairs of student and teacher. `clamps`: whether deltas are clamped or masked; a proximal bound changes
    every delta. `in_half`: a branch computes under autocast.
    """

    def __init__(self, edges: Collection[tuple[str, str]] = (), *, clamps: bool = True, in_half: bool = False) -> None:
        self._edges = frozenset(edges)
        self._clamps = clamps
        self._mismatch = MISMATCH_IN_HALF if in_half else MISMATCH
        self._values: dict[tuple[str, str], deque[float]] = defaultdict(partial(deque, maxlen=2 * WINDOW))
        self._first_entropy: dict[str, float] = {}
        self._norms: dict[str, dict[int, float]] = defaultdict(dict)
        self._part_norms: dict[str, deque[Mapping[str, float]]] = defaultdict(partial(deque, maxlen=COMPARED))
        self._good_looks: dict[tuple[str, str, str], int] = {}

    def see(self, event: Mapping[str, Any]) -> list[Fault]:
        """The faults that this event reveals. In it, a number that is not finite may be None."""
        if event["event"] == "update":
            numbers = {name: value for name, value in event.items() if _is_finite(value)}
            looks = self._update(event["branch"], event["step"], numbers)
        elif event["event"] == "behaviour":
            looks = self._overlap(event["overlap"], event["chance"])
        elif event["event"] == "teaching" and event["step"] >= 0 and "lead" in event:
            looks = self._teaching(event)
        else:
            return []
        return [Fault(look.guard, look.branch, look.said) for look in looks if self._fires(look)]

    def _fires(self, look: _Look) -> bool:
        key = (look.guard, look.branch, look.about)
        has_fired = key in self._good_looks
        if look.is_bad:
            self._good_looks[key] = 0
        elif has_fired:
            self._good_looks[key] += 1
            if self._good_looks[key] >= look.forgotten_after:
                del self._good_looks[key]
        return look.is_bad and not has_fired

    def _update(self, branch: str, step: int, numbers: Mapping[str, float]) -> Iterator[_Look]:
        skipped = f"branch {branch}: a log-prob, loss or gradient was not finite; the step was skipped"
        yield _Look("skipped", branch, "", bool(numbers["skipped"]), skipped)
        for name, value in numbers.items():
            self._values[branch, name].append(value)
        for name in numbers:
            yield from self._bounds(branch, name)
        if "native/groups_with_signal" in numbers:
            yield from self._signal(branch)
        yield from self._graders(branch, step, numbers)
        if "native/entropy" in numbers:
            yield from self._entropy(branch, numbers["native/entropy"])
        if numbers.get("grad_norm"):
            yield from self._norm(branch, step, numbers["grad_norm"])
        split = {name: name.partition("/") for name in numbers}
        yield from self._parts(branch, {split[n][0]: numbers[n] for n in numbers if split[n][2] == "grad_norm"})

    def _recent(self, branch: str, name: str) -> float | None:
        """The mean over the last updates that had this value; None if there are too few."""
        values = [*self._values[branch, name]][-WINDOW:]
        return fmean(values) if len(values) == WINDOW else None

    def _bounds(self, branch: str, name: str) -> Iterator[_Look]:
        """Values of a part that only have to stay below a limit."""
        part, _, metric = name.partition("/")
        limit, guard, said = {
            "truncated_rate": (
                MANY_TRUNCATED,
                "length",
                "{:.0%} of the last responses were truncated; raise sampling.max_new_tokens",
            ),
            "clamp_rate": (
                MANY_CLAMPED if self._clamps else 1.0,
                "clamp",
                "{:.0%} of the deltas are out of bounds: teacher and student are far apart; use shorter RLVR phases",
            ),
            "logp_mismatch": (
                self._mismatch,
                "mismatch",
                "sampler and trainer differ by {:.2g} nats a token; see logp_mismatch in docs/metrics.md",
            ),
        }.get(metric, (math.inf, "", ""))
        if guard and (recent := self._recent(branch, name)) is not None:
            yield _Look(guard, branch, part, recent > limit, f"branch {branch}, {part}: {said.format(recent)}")

    def _graders(self, branch: str, step: int, numbers: Mapping[str, float]) -> Iterator[_Look]:
        """A grader that fails is told once by its own warning; here a step counts in which it left nothing."""
        if failures := numbers.get("native/grader_failures"):
            said = (
                f"branch {branch}: graders failed on {failures:.0f} responses of step {step + 1}, and no other earned "
            )
            said += "anything; `copd doctor` shows the error"
            yield _Look("grader", branch, "", numbers.get("native/reward") == 0, said)

    def _signal(self, branch: str) -> Iterator[_Look]:
        signal, accuracy = (self._recent(branch, f"native/{name}") for name in ("groups_with_signal", "accuracy"))
        if signal is None or accuracy is None:
            return
        why = "the responses to a prompt all earn the same; raise sampling.rollouts_per_prompt"
        if accuracy == 1:
            why = "all responses are right; take harder problems"
        elif accuracy == 0:
            why = f"no response is right; {self._why_none_is_right(branch)}"
        yield _Look("reward", branch, "", signal == 0, f"branch {branch}: nothing to learn in {WINDOW} steps: {why}")

    def _why_none_is_right(self, branch: str) -> str:
        """What to do where no response is right, by what the last updates say of the cause."""
        if (self._recent(branch, "native/grader_failures") or 0.0) >= 1:
            return "graders fail on some: see native/grader_failures, and the samples for the others"
        if (self._recent(branch, "native/truncated_rate") or 0.0) > MANY_TRUNCATED:
            return "most are truncated: raise sampling.max_new_tokens, or see whether they go on behind their answer"
        return (
            "look at the samples, and at the causes that copd doctor counts: a response needs one final answer in its "
            "form, closed and behind its thoughts (system_prompt can say so); where right answers count as wrong, mend "
            "the references; else take easier problems"
        )

    def _entropy(self, branch: str, entropy: float) -> Iterator[_Look]:
        first, recent = self._first_entropy.setdefault(branch, entropy), self._recent(branch, "native/entropy")
        rewards = [*self._values[branch, "native/reward"]]
        if recent is None or len(rewards) < 2 * WINDOW:
            return
        before, reward = fmean(rewards[:WINDOW]), fmean(rewards[WINDOW:])
        said = f"branch {branch}: entropy fell from {first:.2g} to {recent:.2g} nats and the reward does not rise: the "
        said += "policy has collapsed; lower optimizer.learning_rate or raise grpo.clip_high"
        yield _Look("entropy", branch, "", recent < COLLAPSED * first and reward <= min(before, SOLVED), said)

    def _norm(self, branch: str, step: int, norm: float) -> Iterator[_Look]:
        """Compare gradient norms with peers, over steps that both have made. Steps without a gradient are left out."""
        kept = {at: earlier for at, earlier in self._norms[branch].items() if at > step - WINDOW}
        own = self._norms[branch] = {**kept, step: norm}
        common = [[theirs[at] for at in own if at in theirs] for peer, theirs in self._norms.items() if peer != branch]
        medians = [median(norms) for norms in common if len(norms) >= WINDOW // 2]
        if medians:
            usual, theirs = median(own.values()), median(medians)
            said = f"branch {branch}: its gradient norm, {usual:.2g}, is far from its peers', {theirs:.2g}; "
            said += "one learning rate may not suit both"
            yield _Look("gradient", branch, "", not theirs / FAR <= usual <= FAR * theirs, said)

    def _parts(self, branch: str, norms: Mapping[str, float]) -> Iterator[_Look]:
        """Compare the gradient norms of parts, over the last updates of several parts that measured them."""
        if len(norms) < 2:
            return
        recent = self._part_norms[branch]
        recent.append(norms)
        means = {part: fmean(one.get(part, 0.0) for one in recent) for part in norms}
        if len(recent) < COMPARED or not all(means.values()):
            return
        great, small = max(means, key=means.__getitem__), min(means, key=means.__getitem__)
        said = f"branch {branch}: the gradient of {great} is {means[great] / means[small]:.1f} times that of {small}, "
        said += "their weights included: it decides the step; change opd.weight, or the weights of topology.edges"
        yield _Look("parts", branch, "", means[great] > UNEQUAL * means[small], said)

    def _overlap(self, overlap: Mapping[Any, Mapping], chance: Mapping[Any, float]) -> Iterator[_Look]:
        """The overlap of every edge at the largest k. The floor is halfway between chance and full agreement."""
        k = max(overlap, key=int)
        floor = (1 + chance[k]) / 2
        for student, teacher in sorted(self._edges):
            found = overlap[k][student][teacher]
            if _is_finite(found):
                said = f"branch {student}: overlap@{k} with its teacher {teacher} is {found:.2f}, below {floor:.2f}; "
                said += "use more OPD steps or shorter RLVR phases"
                yield _Look("overlap", student, teacher, found < floor, said, forgotten_after=1)

    def _teaching(self, event: Mapping[str, Any]) -> Iterator[_Look]:
        student, teacher = event["student"], event["teacher"]
        theirs, own = event["teacher_accuracy"], event["student_accuracy"]
        low, high = event["lead_low"], event["lead_high"]
        said = f"{teacher} teaches {student} but is worse on its own capability: {theirs:.2f} against {own:.2f}, "
        said += f"difference {event['lead']:+.2f} [{low:+.2f}, {high:+.2f}], in sampled answers to validation problems"
        yield _Look("teacher", student, teacher, high < 0, said, forgotten_after=1)


def _is_finite(value: Any) -> bool:
    return isinstance(value, float) and math.isfinite(value)
