"""The advice of doctor: right for its cause, and not given for another."""

import pytest

from copd.commands.findings import advice_on

BOX, NONE = "so \\boxed{3}", "so it is three"
ON = BOX + " and 4 + 4 is"
ENDS, TRUNCATED, FORM, HARD, EASY, SIGNAL = (
    "go on behind their answer",
    "raise sampling.max_new_tokens",
    "say in system_prompt where the answer goes",
    "take easier problems",
    "take harder problems",
    "hardly a group has signal",
)


@pytest.mark.parametrize(
    ("texts", "finished", "rate", "signal", "expected"),
    [
        ([ON] * 9 + [BOX], [False] * 9 + [True], 0.1, 0.5, [ENDS]),
        ([NONE] * 9 + [BOX], [False] * 9 + [True], 0.1, 0.5, [TRUNCATED]),
        ([NONE] * 10, [False] * 10, 0.0, 0.0, [TRUNCATED]),
        ([NONE] * 10, [True] * 10, 0.0, 0.0, [FORM]),
        ([f"<think>{BOX}</think> three"] * 10, [True] * 10, 0.0, 0.0, [FORM]),
        ([BOX] * 10, [True] * 10, 0.0, 0.0, [HARD]),
        ([BOX] * 10, [True] * 10, 1.0, 0.0, [EASY]),
        ([BOX] * 10, [True] * 10, 0.5, 0.05, [SIGNAL]),
        ([BOX] * 10, [True] * 10, 0.5, 0.5, []),
    ],
)
def test_each_advice_is_given_for_its_own_signs(texts, finished, rate, signal, expected):
    found = advice_on(texts, finished, [True] * 10, rate, signal, "boxed")
    assert len(found) == len(expected)
    assert all(said in advice for said, advice in zip(expected, found, strict=True))


def test_the_form_of_the_answer_is_the_recipes_and_a_verifier_of_the_user_needs_none():
    tagged = ["<answer>3</answer>"] * 10
    assert HARD in advice_on(tagged, [True] * 10, [True] * 10, 0.0, 0.0, "tag")[0]
    assert FORM in advice_on(tagged, [True] * 10, [True] * 10, 0.0, 0.0, "boxed")[0]
    assert HARD in advice_on(tagged, [True] * 10, [False] * 10, 0.0, 0.0, "boxed")[0]
