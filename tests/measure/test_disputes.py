"""The most disputed tokens, and a student seen by a teacher capability by capability, on given distributions."""

import asyncio
from dataclasses import dataclass

import pytest
import torch

from copd.measure.behaviour import Scored, measure_behaviour
from copd.measure.disputes import CONTEXT, MOST_DISPUTES, disputes, observe
from copd.types import Problem, Rollouts, Score, Split

LENGTHS = [4, 2, 30]
OWN = -1.0


def rollouts(task="text", lengths=LENGTHS) -> Rollouts:
    mask_NT = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    problems = tuple(Problem(f"{task}/{i}", task, f"prompt {i}", f"answer {i}", "integer") for i in range(2))
    return Rollouts(
        problems=problems,
        tokens_NT=torch.zeros(mask_NT.shape, dtype=torch.long),
        mask_NT=mask_NT,
        finished_N=torch.ones(len(lengths), dtype=torch.bool),
        logp_NT=torch.zeros(mask_NT.shape),
        prompt_of_N=torch.tensor([0, 0, 1]),
        temperature=1.0,
        reward_N=torch.tensor([1.0, 0.0, 1.0]),
        correct_N=torch.tensor([True, False, True]),
    )


@dataclass
class Model:
    """Answers with `rollouts`; its log-probs are given per token, its distribution is the same at every position."""

    name: str
    logp_NT: torch.Tensor
    table_V: torch.Tensor
    allowed_tokens: int = 4

    async def answer_first(self, split, task, count, rollouts_per_prompt, *, greedy) -> Rollouts:
        assert (split, count, greedy) == (Split.VALIDATION, 7, False)
        return rollouts(task)

    async def inspect(self, given, k, ids_NTK=None) -> Score:
        shape = given.mask_NT.shape
        logp_NTV = self.table_V.log().log_softmax(-1).expand(*shape, 4)
        top = logp_NTV.topk(k)
        at = None if ids_NTK is None else logp_NTV.gather(-1, ids_NTK)
        return Score(self.logp_NT, 0, top.indices, top.values, at)

    async def texts(self, given) -> list[str]:
        return ["text"] * len(given.mask_NT)

    async def pieces(self, given, row) -> list[str]:
        return [f"<{row}.{t}>" for t in range(int(given.mask_NT[row].sum()))]


def pair(changes: dict[tuple[int, int], float]) -> tuple[Model, Model]:
    """A student, and a teacher whose log-probs differ from its at the given rows and positions."""
    own_NT = torch.full((3, 30), OWN)
    theirs_NT = own_NT.clone()
    for place, delta in changes.items():
        theirs_NT[place] += delta
    student = Model("student", own_NT, torch.tensor([0.4, 0.3, 0.2, 0.1]))
    return student, Model("teacher", theirs_NT, torch.tensor([0.1, 0.4, 0.3, 0.2]))


def found(changes: dict[tuple[int, int], float], count: int = MOST_DISPUTES):
    student, teacher = pair(changes)
    given = rollouts()
    own, theirs = (asyncio.run(model.inspect(given, 4)) for model in (student, teacher))
    return asyncio.run(disputes(student, Scored("text", given, own, {"teacher": theirs}), "teacher", count))


def test_the_largest_differences_come_first_whatever_their_sign():
    shown = found({(0, 1): 0.5, (1, 0): -2.0, (2, 7): 1.0})
    assert [(d.token, d.delta) for d in shown] == [
        ("<1.0>", pytest.approx(-2.0)),
        ("<2.7>", pytest.approx(1.0)),
        ("<0.1>", pytest.approx(0.5)),
    ]
    assert [(d.student_logp, d.teacher_logp) for d in shown[:1]] == [(OWN, pytest.approx(-3.0))]


def test_a_response_is_shown_once_with_its_largest_difference():
    assert [d.token for d in found({(0, 0): 1.0, (0, 2): -3.0, (0, 3): 2.0})] == ["<0.2>"]


def test_each_stands_in_its_context_with_its_problem():
    first, second = found({(2, 29): 3.0, (2, 0): 1.0, (1, 1): 2.0})
    assert (first.problem, first.prompt, first.answer) == ("text/1", "prompt 1", "answer 1")
    assert (first.before, first.token, first.after) == (
        "".join(f"<2.{t}>" for t in range(29 - CONTEXT, 29)),
        "<2.29>",
        "",
    )
    assert (second.problem, second.before, second.token, second.after) == ("text/0", "<1.0>", "<1.1>", "")


def test_padding_is_never_disputed():
    assert [d.token for d in found({(1, 2): 9.0, (1, 1): 0.1})] == ["<1.1>"]


def test_no_more_are_shown_than_asked_for():
    assert len(found({(0, 1): 0.5, (1, 0): -2.0, (2, 7): 1.0}, count=2)) == 2


def test_where_the_two_agree_nothing_is_disputed():
    assert found({}) == []


def test_a_capability_is_measured_as_in_the_loop():
    student, teacher = pair({(2, 7): 1.0})
    seen = asyncio.run(observe(student, teacher, "image", problems=7, ks=(1, 2)))
    models = {"student": student, "teacher": teacher}
    looped = asyncio.run(measure_behaviour(models, ["image"], problems=7, ks=(1, 2)))
    assert seen.likeness.overlap == {k: looped.overlap[k]["student"]["teacher"] for k in (1, 2)}
    assert seen.likeness.mass_overlap == looped.mass_overlap["student"]["teacher"]
    assert seen.likeness.symmetric_kl == looped.symmetric_kl["student"]["teacher"] > 0
    assert seen.chance == looped.chance == {1: 0.25, 2: 0.5}
    assert (seen.capability, seen.tokens, seen.kl_is_exact) == ("image", 36, True)
    assert seen.accuracy == looped.accuracy["student"]["image"] == pytest.approx(2 / 3)
    assert [d.token for d in seen.disputes] == ["<2.7>"]
