"""Rows as a recipe reads them: what its form of answers and its template mean for them."""

import pytest

from copd.assemble.rows import rules_of, settings_of, ungradable
from copd.errors import BadRow
from copd.recipe.task_sections import RowsTask
from copd.rewards.grading import OURS
from copd.rows.formats import read_row


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        ("}7", "has the final answer ''"),
        ("a } b", "has the final answer 'a'"),
        ("{7", "has no final answer"),
        ("x<think>y", "has no final answer"),
    ],
)
@pytest.mark.parametrize("verifier", ["exact", "math"])
def test_an_answer_that_its_own_response_does_not_give_back_is_a_bad_row(verifier, answer, found):
    row = {"prompt": "?", "answer": answer, "verifier": verifier}
    with pytest.raises(BadRow) as refused:
        read_row(row, "native", rules_of("boxed", verifiers=OURS))
    assert str(refused.value) == f"the answer is {answer!r}; a response that ends like \\boxed{{{answer}}} {found}"


@pytest.mark.parametrize("answer", ["7", "\\{1,2\\}", "\\frac{1}{2}", "two words", "f(x) = {x}", "caf\u00e9"])
@pytest.mark.parametrize("form", ["boxed", "tag"])
def test_an_answer_that_its_own_response_gives_back_is_sound_in_each_form(form, answer):
    assert ungradable(form, "exact", answer) is None


def test_a_brace_too_many_is_no_fault_in_a_tag():
    assert ungradable("boxed", "exact", "a } b") is not None
    assert ungradable("tag", "exact", "a } b") is None


def test_a_verifier_of_the_user_gets_any_answer():
    rules = rules_of("boxed", verifiers=OURS | {"mine"}, own=frozenset({"mine"}))
    row = {"prompt": "?", "answer": "a } b", "verifier": "mine"}
    assert read_row(row, "native", rules).answer == "a } b"


def test_a_column_that_the_recipe_s_template_shows_is_not_told_as_unread():
    section = RowsTask(kind="rows", train="f.jsonl", verifier="exact", prompt_template="{{ context }} {{ prompt }}")
    rules = settings_of(section, "task", ()).rules
    row = {"prompt": "?", "answer": "1", "context": "c", "level": 3}
    assert list(read_row(row, "native", rules).notes) == [
        "the column `level` is not shown to the model; only reward functions of your own see it"
    ]
