"""From responses to rewards. Users' functions, and code that parses responses, run in processes that can be killed."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TypeVar

from torch import Tensor

from copd.errors import RecipeError
from copd.rewards.adapters import Sample, UserVerifier
from copd.rewards.answers import final_answer
from copd.rewards.equality import judged
from copd.rewards.pool import Call, KillablePool
from copd.rewards.verifiers import VERIFIERS, Verdict
from copd.rewards.worker import Attempt, describe, verify_by_user, verify_mathematically
from copd.system.own_code import find_code
from copd.types import Problem

MATH = "math"
OURS = frozenset({*VERIFIERS, MATH})
"""The verifiers that ship with copd."""
LOADING_SECONDS = 60.0
"""Seconds within which a user's file must be imported."""
RIGHT, WRONG = Verdict(1.0, True), Verdict(0.0, False)

Self = TypeVar("Self", bound="Grader")
logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Response:
    """The text between prompt and end token, its token ids [T], and whether it ends with an end token."""

    text: str
    ids_T: Tensor
    finished: bool


@dataclass(frozen=True)
class Grades:
    """The reward of each response, whether its answer is right, and how many could not be graded and so earn 0."""

    rewards: list[float]
    correct: list[bool]
    failures: int


class Grader:
    """Grades batches of responses. Equal responses to a problem get equal grades, in whatever batch they are.

    reward = (1 - format_weight) * score + format_weight * formatted
    score = the problem's verifier's + sum of weight * score of each further verifier of the problem's branch

    `formatted` is 1 if a finished response has exactly one final answer, not empty, in the form `answer_form` (one of
    `answers.FORMS`), else 0. A verifier of ours gets that answer and scores 1 or 0. A user's function gets the
    problem's columns and the whole response, thoughts included, since functions of other libraries extract the answer
    themselves. Its score may be any number up to a million in magnitude, and 1 or more counts as correct. A truncated
    response earns 0, and so does one whose grader fails.

    Processes start with the first response that needs one, and end with `close` or the `with` block.
    """

    def __init__(
        self,
        verifiers: Mapping[str, str] | None = None,
        *,
        answer_form: str = "boxed",
        format_weight: float = 0.0,
        deadline_seconds: float = 10.0,
        workers: int = 2,
        memory_gib: float = 4.0,
        further: Mapping[str, Mapping[str, float]] | None = None,
        warn: Callable[[str], None] = logger.warning,
    ) -> None:
        """`verifiers`: a user's functions by name, as file.py:NAME. Raises RecipeError for an unusable one.

        Each function is loaded once in its own process, to check that it can be. `further`: by branch, the weights of
        further verifiers by name. Raises RecipeError for one that is unknown.
        """
        users = recognised(user_verifiers(verifiers or {}), memory_gib)
        self.functions = tuple((verifiers or {}).values())
        """The user's functions, in the form file.py:function."""
        self._conventions = {user.name: user.convention for user in users}
        self._further = further or {}
        self._check_further()
        self._pool = KillablePool(workers, deadline_seconds, memory_gib, users)
        self._form = answer_form
        self._format_weight = format_weight
        self._warn = warn
        self._warned: set[tuple[str, bool]] = set()

    def grade(self, problems_N: Sequence[Problem], responses_N: Sequence[Response]) -> Grades:
        """The grades of one batch. Raises RecipeError if a problem names an unknown verifier.

        Equal calls are made once: if all responses of a group give the same answer and grading it hangs, one deadline
        is lost.
        """
        answers = [
            final_answer(response.text, finished=response.finished, form=self._form, prompt=problem.prompt)
            for problem, response in zip(problems_N, responses_N, strict=True)
        ]
        rows = zip(problems_N, responses_N, answers, strict=True)
        plans_N = [[self._plan(name, *row) for name in self._graders(row[0])] for row in rows]
        calls = list(dict.fromkeys(plan for plans in plans_N for plan in plans if not isinstance(plan, Verdict)))
        attempts = dict(zip(calls, self._pool.run(calls), strict=True))
        rewards, correct, failures = [], [], 0
        asked: Counter[str] = Counter()
        failed_by: dict[str, list[str]] = {}
        for problem, answer, plans in zip(problems_N, answers, plans_N, strict=True):
            outcomes = [Attempt(plan) if isinstance(plan, Verdict) else attempts[plan] for plan in plans]
            weights = self._graders(problem)
            asked.update(weights.keys())
            failed = [(name, failure) for name, (_, failure) in zip(weights, outcomes, strict=True) if failure]
            for name, failure in failed:
                failed_by.setdefault(name, []).append(f"problem {problem.id!r}: {failure}")
            failures += bool(failed)
            if failed:
                rewards.append(0.0)
                correct.append(False)
                continue
            verdicts = [outcome.value for outcome in outcomes]
            score = sum(weight * verdict.score for weight, verdict in zip(weights.values(), verdicts, strict=True))
            rewards.append(self._reward(score, formatted=bool(answer)))
            correct.append(verdicts[0].correct)
        for name, told in failed_by.items():
            self._tell(name, told, asked[name])
        return Grades(rewards, correct, failures)

    def _graders(self, problem: Problem) -> dict[str, float]:
        """The weight of each verifier of a problem by name, first its own. Further ones are those of its branch."""
        branch = problem.address.capability if problem.address else problem.task
        further = self._further.get(branch, {})
        return {problem.verifier: 1.0 + further.get(problem.verifier, 0.0)} | {
            name: weight for name, weight in further.items() if name != problem.verifier
        }

    def _check_further(self) -> None:
        known = {*OURS, *self._conventions}
        for branch, weights in self._further.items():
            if strangers := sorted(weights.keys() - known):
                raise RecipeError(
                    f"branches.{branch}.rewards.{strangers[0]}: unknown verifier; accepted: {', '.join(sorted(known))}"
                )

    def _plan(self, name: str, problem: Problem, response: Response, answer: str | None) -> Verdict | Call:
        """The verdict of a verifier if no process is needed for it, else the call that gives it."""
        reference = problem.answer
        if name in self._conventions:
            convention = self._conventions[name]
            return (verify_by_user, name, convention, _sample(problem, response)) if response.finished else WRONG
        if name == MATH:
            return WRONG if not answer else _plan_math(answer, reference)
        if name in VERIFIERS:
            return RIGHT if answer and VERIFIERS[name](answer, reference) else WRONG
        known = ", ".join(sorted({*OURS, *self._conventions}))
        raise RecipeError(f"problem {problem.id}: unknown verifier {name!r}; accepted: {known}")

    def _reward(self, score: float, *, formatted: bool) -> float:
        return (1 - self._format_weight) * score + self._format_weight * formatted

    def _tell(self, verifier: str, failed: Sequence[str], asked: int) -> None:
        """Warn of the first batch with failures of a verifier, and of the first in which it fails on all responses."""
        kind = verifier, len(failed) == asked
        if kind not in self._warned:
            self._warned |= {kind, (verifier, False)}
            self._warn(
                f"verifier {verifier!r} failed on {len(failed)} of {asked} responses, first on one to {failed[0]}; "
                "such responses earn 0 and are counted (grader_failures)"
            )

    def close(self) -> None:
        """End all grading processes. A later batch would start new ones."""
        self._pool.close()

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _sample(problem: Problem, response: Response) -> Sample:
    return Sample(
        problem.prompt,
        response.text,
        problem.answer,
        problem.task,
        problem.id,
        tuple(response.ids_T.tolist()),
        problem.columns,
        json.dumps(problem.chat),
    )


def _plan_math(answer: str, reference: str) -> Verdict | Call:
    """Kinds decide where they can, or both sides are one text; a grading process gets what mathematics must decide."""
    right = judged(answer, reference)
    if right is not None:
        return RIGHT if right else WRONG
    return (verify_mathematically, answer, reference)


def user_verifiers(verifiers: Mapping[str, str]) -> list[UserVerifier]:
    """The files and functions that a recipe names as file.py:function, relative to the current directory, with hashes.

    Raises RecipeError for the name of a verifier of ours and for a missing file. Nothing is imported.
    """
    found = []
    for name, source in verifiers.items():
        if name in OURS:
            raise RecipeError(f"verifiers.{name}: is a verifier of copd; give yours another name")
        found.append(UserVerifier(name, *find_code(source, f"verifiers.{name}")))
    return found


def recognised(users: Sequence[UserVerifier], memory_gib: float) -> list[UserVerifier]:
    """The same verifiers with the convention of each function. Raises RecipeError for a function that follows none."""
    if not users:
        return []
    loading = KillablePool(1, LOADING_SECONDS, memory_gib)
    try:
        attempts = loading.run([(describe, user) for user in users])
    finally:
        loading.close()
    for user, attempt in zip(users, attempts, strict=True):
        if attempt.failure:
            raise RecipeError(f"verifiers.{user.name}: {user.path}:{user.function} cannot be used: {attempt.failure}")
    return [user._replace(convention=attempt.value) for user, attempt in zip(users, attempts, strict=True)]
