"""Several rewards of a branch: weighted scores beside that of the problem's own verifier."""

from dataclasses import replace

import pytest
import torch

from copd.errors import RecipeError
from copd.rewards.grading import Grader, Response
from copd.types import Address, Problem, Split

FILE = """
def short(response, answer):
    return 1.0 - len(response) / 100

def broken(response, answer):
    raise ValueError("no")
"""
PROBLEM = Problem("p", "sums", "1 + 1 = ?", "2", "integer")
TEXT = "\\boxed{2}"
SHORT = 1.0 - len(TEXT) / 100


@pytest.fixture
def grades_of(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(FILE)

    def grade(further, *texts, problem=PROBLEM, **settings):
        verifiers = {name: f"{path}:{name}" for name in ("short", "broken")}
        with Grader(verifiers, workers=1, further=further, warn=lambda _: None, **settings) as grader:
            responses = [Response(text, torch.tensor([1]), True) for text in texts]
            return grader.grade([problem] * len(texts), responses)

    return grade


def test_weighted_scores_are_added_to_that_of_the_problem_s_own_verifier(grades_of):
    grades = grades_of({"sums": {"short": 0.5, "exact": -0.25}}, TEXT, "\\boxed{3}")
    assert grades.rewards == pytest.approx([1 + 0.5 * SHORT - 0.25, 0.5 * SHORT])


def test_only_the_problem_s_own_verifier_says_whether_an_answer_is_right(grades_of):
    strict = replace(PROBLEM, verifier="exact")
    grades = grades_of({"sums": {"number": 5.0}}, TEXT, "\\boxed{2.0}", problem=strict)
    assert grades.correct == [True, False]
    assert grades.rewards == pytest.approx([6.0, 5.0])


def test_the_branch_is_that_which_the_problem_was_drawn_for(grades_of):
    drawn = replace(PROBLEM).at(Address("image", Split.TRAIN, 0))
    further = {"sums": {"exact": 9.0}, "image": {"short": 0.5}}
    assert grades_of(further, TEXT, problem=drawn).rewards == pytest.approx([1 + 0.5 * SHORT])


def test_the_format_has_its_share_of_the_whole_reward(grades_of):
    grades = grades_of({"sums": {"short": 0.5}}, TEXT, format_weight=0.25)
    assert grades.rewards == pytest.approx([0.75 * (1 + 0.5 * SHORT) + 0.25])


def test_a_response_earns_nothing_if_any_of_its_graders_fails_and_counts_once(grades_of):
    grades = grades_of({"sums": {"broken": 0.1, "short": 1.0}}, TEXT)
    assert grades == type(grades)([0.0], [False], 1)


def test_an_unknown_verifier_among_the_rewards_is_named():
    with pytest.raises(RecipeError, match=r"^branches.text.rewards.brevity: unknown verifier; accepted: choice, exact"):
        Grader(further={"text": {"brevity": 1.0}})
