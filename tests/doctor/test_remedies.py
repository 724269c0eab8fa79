"""The advice of doctor: right for its cause, and not given for another."""

import pytest

from copd.doctor.remedies import ADVICE, NOT_HEARD, SHAPE, Answered, Cause, advice_on
from copd.rewards.answers import FORMS
from copd.types import Medium, Message, Problem

BOX, NONE = "so \\boxed{3}", "so it is three"
TAGGED = "<answer>3</answer>"
ON = BOX + " and 4 + 4 is"
QUESTION = "2 + 2? Answer in \\boxed{number}."
ENDS, TRUNCATED, FORM, HARD, EASY, SIGNAL = (
    "go on behind their answer",
    "raise sampling.max_new_tokens",
    "say in system_prompt where the answer goes",
    "take easier problems",
    "take harder problems",
    "hardly a group has signal",
)


def answered(text, finished=True, correct=False, verifier="integer", reference="4", prompt="2 + 2?"):
    return Answered(text, Problem("p", "t", prompt, reference, verifier), finished, correct)


@pytest.mark.parametrize(
    ("responses", "signal", "expected"),
    [
        ([answered(ON, False)] * 9 + [answered(BOX, correct=True)], 0.5, [ENDS]),
        ([answered(BOX + BOX, False)] * 9 + [answered(BOX, correct=True)], 0.5, [ENDS]),
        ([answered(NONE, False)] * 9 + [answered(BOX, correct=True)], 0.5, [TRUNCATED]),
        ([answered(NONE, False)] * 10, 0.0, [TRUNCATED]),
        ([answered(NONE)] * 10, 0.0, [FORM]),
        ([answered(BOX)] * 10, 0.0, [HARD]),
        ([answered(BOX, correct=True)] * 10, 0.0, [EASY]),
        ([answered(BOX, correct=True), answered(BOX)] * 5, 0.05, [SIGNAL]),
        ([answered(BOX, correct=True), answered(BOX)] * 5, 0.5, []),
        ([answered(BOX, correct=True)] * 4 + [answered(NONE)] * 6, 0.5, [FORM]),
        ([answered(BOX, correct=True)] * 4 + [answered(BOX)] * 6, 0.5, []),
        ([answered(BOX, correct=True)] * 5 + [answered(NONE)] * 5, 0.5, []),
        ([answered(NONE, False), answered(BOX)] * 5, 0.0, [TRUNCATED]),
    ],
)
def test_each_advice_is_given_for_its_own_signs(responses, signal, expected):
    found = advice_on(responses, signal, "boxed")
    assert len(found) == len(expected)
    assert all(said in advice for said, advice in zip(expected, found, strict=True))


CAUSES = [
    (NONE, "boxed", Cause.NO_ANSWER),
    ("", "boxed", Cause.SILENT),
    (" \n", "tag", Cause.SILENT),
    ("<think> 1 + 2 = 3 \\boxed{3}", "boxed", Cause.OPEN_THOUGHTS),
    ("<think>\\boxed{3}</think> three", "boxed", Cause.IN_THOUGHTS),
    ("<think>hm</think> three", "boxed", Cause.NO_ANSWER),
    ("\\boxed{3} so \\boxed{3}", "boxed", Cause.SEVERAL),
    (TAGGED + TAGGED, "tag", Cause.SEVERAL),
    ("<answer>3</answer></answer>", "tag", Cause.SEVERAL),
    ("\\boxed{3", "boxed", Cause.UNCLOSED),
    ("<answer>3", "tag", Cause.UNCLOSED),
    ("\\boxed{}", "boxed", Cause.EMPTY),
    ("<answer> </answer>", "tag", Cause.EMPTY),
    (QUESTION, "boxed", Cause.ECHO),
    (BOX, "boxed", Cause.WRONG),
    (TAGGED, "tag", Cause.WRONG),
]


@pytest.mark.parametrize(("text", "form", "cause"), CAUSES)
def test_the_cause_of_a_response_is_read_as_the_grader_reads_it_and_decides_the_advice(text, form, cause):
    (advice,) = advice_on([answered(text, prompt=QUESTION if cause is Cause.ECHO else "2 + 2?")] * 8, 0.0, form)
    said = f"nothing is right: 100% {cause.value}; {ADVICE[cause]}".replace("{shape}", SHAPE[form])
    assert advice.startswith(said)


def test_a_model_that_answers_in_another_form_is_no_reason_to_change_the_prompt():
    said = "most of these answer in {}: set reward.answer_form={}"
    (advice,) = advice_on([answered(TAGGED, prompt=QUESTION)] * 5 + [answered(NONE)] * 3, 0.0, "boxed")
    assert advice == f"nothing is right: 100% no \\boxed{{}}; {said.format(SHAPE['tag'], 'tag')}"
    (advice,) = advice_on([answered(BOX)] * 8, 0.0, "tag")
    assert advice == f"nothing is right: 100% no <answer></answer>; {said.format(SHAPE['boxed'], 'boxed')}"
    (advice,) = advice_on([answered(TAGGED)] * 3 + [answered(NONE)] * 5, 0.0, "boxed")
    assert FORM in advice


def test_a_prompt_that_shows_the_form_is_not_advised_to_say_it():
    (advice,) = advice_on([answered(NONE, prompt=QUESTION)] * 8, 0.0, "boxed")
    assert advice == f"nothing is right: 100% no \\boxed{{}}; {NOT_HEARD}"
    told = (Message("system", ("Put it in <answer></answer>.",)), Message("user", (Medium.IMAGE, "2 + 2?")))
    problem = Problem("p", "t", "2 + 2?", "4", "integer", messages=told)
    (advice,) = advice_on([Answered(NONE, problem, True, False)] * 8, 0.0, "tag")
    assert advice.endswith(NOT_HEARD)
    (advice,) = advice_on([Answered(NONE, problem, True, False)] * 8, 0.0, "boxed")
    assert FORM in advice


def test_every_cause_has_its_advice_and_every_form_its_shape():
    assert set(ADVICE) == set(Cause)
    assert set(SHAPE) == set(FORMS)
    assert all(FORMS[form](shape) == "" for form, shape in SHAPE.items())


def test_the_most_frequent_cause_decides_and_all_are_told_with_their_shares():
    responses = [answered(BOX + BOX)] * 5 + [answered(NONE)] * 3 + [answered(BOX)] * 2
    (advice,) = advice_on(responses, 0.0, "boxed")
    told = "50% more than one \\boxed{}, 30% no \\boxed{}, 20% a wrong answer; ask in system_prompt for exactly one"
    assert advice.startswith(f"nothing is right: {told} \\boxed{{}}; ")


def test_of_answers_none_of_which_is_right_the_one_nearest_to_its_reference_is_shown_with_it():
    near, far = answered("\\boxed{16}", reference="16<|im_end|>"), answered("\\boxed{3}", reference="12<|im_end|>")
    (advice,) = advice_on([far] * 5 + [near] * 2 + [answered(NONE)], 0.0, "boxed")
    assert "where a right answer counts as wrong, mend the reference" in advice
    assert advice.endswith("; the answer that comes nearest is '16' where the reference is '16<|im_end|>'")
    (advice,) = advice_on([answered(NONE)] * 8, 0.0, "boxed")
    assert "the reference is" not in advice


def test_a_verifier_of_the_user_needs_no_form():
    mine = [answered(NONE, verifier="mine")] * 10
    (advice,) = advice_on(mine, 0.0, "boxed")
    assert advice == f"nothing is right: 100% a wrong answer; {ADVICE[Cause.WRONG]}"


def test_responses_that_could_not_be_graded_are_not_called_wrong():
    (advice,) = advice_on([answered(BOX)] * 8, 0.0, "boxed", failures=6)
    assert advice.startswith(
        "nothing is right: 75% a grader that fails, 25% a wrong answer; see the line about grading"
    )
    (advice,) = advice_on([answered(NONE)] * 8, 0.0, "boxed", failures=0)
    assert "grader" not in advice


def test_long_answers_are_compared_at_once_and_shown_short():
    responses = [answered("\\boxed{" + "ab" * 50_000 + "}", verifier="exact", reference="ba" * 5_000)] * 200
    (advice,) = advice_on(responses, 0.0, "boxed")
    assert len(advice) < 700
