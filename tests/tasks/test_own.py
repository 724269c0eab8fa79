"""A user's own task: called with its arguments and the recipe's seed, and checked before anything is trained."""

from dataclasses import dataclass, replace

import numpy as np
import pytest

from copd.errors import DataError, RecipeError
from copd.tasks.own import OwnTask, check_own, own_task
from copd.types import Problem, Split

READ = {"verifiers": {"integer"}, "misread": lambda verifier, answer: None if answer.isdigit() else "no number"}


@dataclass
class Sums:
    largest: int
    seed: int = 0

    def problem(self, split, index):
        return Problem(f"{split.value}/{index}", "sums", f"{index} + {self.largest} = ?", str(index), "integer")


def made_of(problem) -> OwnTask:
    class Other:
        pass

    Other.problem = staticmethod(problem)
    return own_task("a", "mine.py:Other", Other, {}, 0)


def test_the_class_gets_its_arguments_and_the_seed_of_the_recipe_unless_it_is_given_one():
    assert own_task("a", "mine.py:Sums", Sums, {"largest": 9}, 5).made_by == Sums(9, 5)
    assert own_task("a", "mine.py:Sums", Sums, {"largest": 9, "seed": 1}, 5).made_by == Sums(9, 1)


def test_a_class_that_refuses_its_arguments_or_makes_no_problems_is_named():
    with pytest.raises(RecipeError, match=r"^branches.a.task.arguments: mine.py:Sums fails with them: TypeError"):
        own_task("a", "mine.py:Sums", Sums, {"most": 9}, 0)
    with pytest.raises(RecipeError, match=r"^branches.a.task.source: mine.py:Few has no method problem"):
        own_task("a", "mine.py:Few", lambda: None, {}, 0)


def test_sound_problems_pass():
    check_own(own_task("a", "mine.py:Sums", Sums, {"largest": 9}, 0), **READ)


def changed(**changes):
    return lambda split, index: replace(Sums(9).problem(split, index), **changes)


CALLS = iter(range(1000))


@pytest.mark.parametrize(
    ("problem", "message"),
    [
        (lambda split, index: 1 / 0, "ZeroDivisionError: division by zero"),
        (lambda split, index: "1 + 1", "returned '1 \\+ 1'; accepted: a copd.types.Problem"),
        (changed(verifier="none"), "unknown verifier 'none'; accepted: integer"),
        (changed(answer="seven"), "the answer 'seven': no number"),
        (changed(images=(np.zeros((8, 8, 3)),)), r"images hold an array of \[8, 8, 3\]; accepted: .* of uint8"),
        (changed(videos=(np.zeros((8, 8, 3), np.uint8),)), r"videos hold an array of \[8, 8, 3\]; accepted: \[frames"),
        (lambda split, index: changed(prompt=f"{next(CALLS)}")(split, index), "is another problem the second time"),
    ],
    ids=["an error", "no problem", "a verifier", "an answer", "floats", "no frames", "chance"],
)
def test_a_problem_that_cannot_be_used_is_named_by_split_and_index(problem, message):
    with pytest.raises(DataError, match=rf"^mine.py:Other: problem\(Split.TRAIN, 0\): {message}"):
        check_own(made_of(problem), **READ)


def test_a_problem_of_validation_or_test_that_comes_twice_is_refused():
    same = Sums(9).problem(Split.TEST, 0)
    with pytest.raises(DataError, match=r"problem\(Split.VALIDATION, 0\): is the problem of problem\(Split.TRAIN, 0\)"):
        check_own(made_of(lambda split, index: same), **READ)
