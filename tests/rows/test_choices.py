"""Choices in a column of their own: their letters agree with the question and the answer, or the row is bad."""

from functools import partial

import pytest

from copd.errors import BadRow
from copd.rewards.answers import final_answer
from copd.rewards.verifiers import letter, misread
from copd.rows.choices import choices_of
from copd.rows.formats import RowRules, read_row

BOXED = partial(final_answer, finished=True)
RULES = RowRules(
    frozenset({"choice", "exact", "integer"}), BOXED, "choice", misread=misread, letter=letter, own=frozenset({"mine"})
)
PUT_BELOW = "the column options is put below the question, which does not show it"


def notes_of(**columns):
    return read_row({"prompt": "Colour?", "answer": "B", **columns}, "native", RULES).notes


COLOURS = ["A. red", "B. blue", "C. green"]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (COLOURS, COLOURS),
        (["red", "blue", "green"], COLOURS),
        ({"A": "red", "B": "blue", "C": "green", "D": None}, COLOURS),
        (["(A) red", "(B) blue"], ["(A) red", "(B) blue"]),
        (["B. blue", "A. red"], ["B. blue", "A. red"]),
        ({"A": "red", "B": ""}, ["A. red"]),
        ({"A": "A. red", "B": "B. blue"}, ["A. red", "B. blue"]),
        ({"text": ["red", "blue"], "label": ["(A)", "(B)"]}, ["A. red", "B. blue"]),
        ([1, 2], ["A. 1", "B. 2"]),
        ({"text": ["red", "blue"], "label": ["A", "B"]}, ["A. red", "B. blue"]),
        (["A. Einstein", "I. Newton"], ["A. A. Einstein", "B. I. Newton"]),
    ],
)
def test_choices_have_letters(given, expected):
    for column in ("options", "choices"):
        found = choices_of({column: given})
        assert (found.column, found.lines) == (column, expected)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ([["a"]], r"options\[0\] is a list"),
        (["b", None], r"options\[1\] is null"),
        ({"A": ["a"]}, r"options\[A\] is a list"),
        (["b", " "], r"options\[1\] is empty"),
        ({"text": ["red", "blue"], "label": ["A", "A"]}, "two of options have the letter A"),
        ({"A": "red", "a": "blue"}, "two of options have the letter A"),
        ({str(i): "x" for i in range(27)}, "27 options; accepted: at most 26"),
        (["x"] * 27, "27 options; accepted: at most 26"),
    ],
)
def test_a_choice_that_is_no_text_is_refused_with_its_place(given, reason):
    with pytest.raises(BadRow, match=reason):
        choices_of({"options": given})


def test_a_column_that_is_no_list_of_choices_is_noted_and_not_read():
    row = read_row({"prompt": "?", "answer": "B", "choices": 4}, "native", RULES)
    assert (row.prompt, row.notes) == ("?", ("the column choices is not read: it is no list of choices",))


@pytest.mark.parametrize("given", ["cat; dog", "{'A': 'cat'}", "[cat, dog]"])
def test_a_letter_that_stands_for_a_choice_nobody_is_shown_is_refused(given):
    with pytest.raises(BadRow, match=r"the answer is 'B', and options is a text, .*, which is not shown; accepted: "):
        read_row({"prompt": "Which animal?", "answer": "B", "options": given}, "native", RULES)


@pytest.mark.parametrize(
    "row", [{"prompt": "One of cat; dog?"}, {"prompt": "?\nA. cat\nB. dog"}, {"answer": "2", "verifier": "integer"}]
)
def test_a_text_of_choices_that_the_question_shows_or_the_answer_spells_is_only_noted(row):
    found = read_row({"prompt": "Which animal?", "answer": "B", "options": "cat; dog", **row}, "native", RULES)
    assert found.notes == ("the column options is not read: it is no list of choices",)


def test_choices_that_the_question_does_not_show_are_put_below_it_and_noted():
    row = {"problem": "What colour?", "answer": "B", "verifier": "choice", "options": COLOURS}
    found = read_row(row, "easyr1", RULES)
    assert found.prompt == "What colour?\nA. red\nB. blue\nC. green"
    assert found.notes == ("the column options is put below the question, which does not show it",)
    shown = read_row({**row, "problem": "What colour? (A) red (B) blue (C) green"}, "easyr1", RULES)
    assert (shown.prompt, shown.notes) == ("What colour? (A) red (B) blue (C) green", ())
    hidden = read_row({**row, "problem": "2345 mod 7?", "options": ["2", "3", "4", "5"]}, "easyr1", RULES)
    assert hidden.prompt == "2345 mod 7?\nA. 2\nB. 3\nC. 4\nD. 5"


def test_a_template_has_the_choices_or_a_note_says_that_it_has_not():
    row = {"problem": "What colour?", "answer": "B", "verifier": "choice", "options": COLOURS}
    whole, half = (
        RowRules(
            RULES.verifiers, BOXED, "exact", template=lambda text, raw, n=n: "\n".join([text, *raw["options"][:n]])
        )
        for n in (3, 1)
    )
    assert read_row(row, "easyr1", whole).notes == ()
    found = read_row(row, "easyr1", half)
    assert found.prompt == "What colour?\nA. red"
    assert found.notes == ("the column options is not in the prompt that prompt_template makes",)


@pytest.mark.parametrize(
    ("columns", "note"),
    [
        ({"options": []}, "the column options is empty"),
        ({"options": {"A": None}}, "the column options is empty"),
        (
            {"options": "A. red", "answer": "7", "verifier": "integer"},
            "the column options is not read: it is no list of choices",
        ),
        ({"options": ["red", "red"]}, "two choices in the column options are alike"),
        (
            {"options": ["1) red", "2) blue"]},
            "texts in the column options begin with letters or numbers; the column's letters stand before them",
        ),
        (
            {"options": ["B. Russell", "D. Hume"]},
            "texts in the column options begin with letters or numbers; the column's letters stand before them",
        ),
        (
            {"options": {"A": "B. red", "B": "A. blue"}},
            "texts in the column options begin with letters or numbers; the column's letters stand before them",
        ),
        (
            {"prompt": "Colour?\nA. rouge\nB. bleu", "options": ["red", "blue"]},
            "the column options is put below a question that has letters of its own",
        ),
        (
            {"options": ["red", "blue"], "answer": "1", "verifier": "integer"},
            "the answer is neither a letter nor a text in the column options",
        ),
    ],
)
def test_whatever_is_guessed_of_choices_is_noted(columns, note):
    assert note in notes_of(**columns)


@pytest.mark.parametrize(
    "columns",
    [
        {"options": None},
        {"options": ["red", "blue"], "choices": ["red", "blue"]},
        {"options": ["2.5", "3.5"]},
        {"options": {"a": "red", "b": "blue"}},
        {"options": ["red", "blue"], "answer": "(b)"},
        {"options": ["red", "blue"], "answer": "Blue", "verifier": "exact"},
    ],
)
def test_of_choices_that_agree_nothing_is_noted_but_that_they_are_put_below(columns):
    assert set(notes_of(**columns)) <= {PUT_BELOW}


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        (
            {"options": ["red", "blue"], "answer": "D"},
            "the answer is 'D'; accepted: one of the letters in options, A, B",
        ),
        ({"options": ["red", "blue"], "answer": "D", "verifier": "exact"}, "the answer is 'D'; accepted: one of the"),
        ({"options": {"0": "red", "1": "blue"}}, "the answer is 'B'; accepted: one of the letters in options, 0, 1"),
        ({"choices": {"text": ["red"], "label": ["1"]}}, "accepted: one of the letters in choices, 1"),
        (
            {"options": {"A": "red", "B": "blue", "C": None}, "answer": "C"},
            "accepted: one of the letters in options, A",
        ),
        ({"options": ["red"], "choices": ["blue"]}, "both options and choices are given, and differ; accepted: one"),
        (
            {"prompt": "Colour?\nA. blue\nB. red", "options": ["red", "blue"]},
            "the question gives 'red' the letter B, options the letter A; accepted: the same letters in both",
        ),
    ],
)
def test_choices_that_contradict_the_question_or_the_answer_make_a_bad_row(columns, reason):
    with pytest.raises(BadRow, match=reason):
        notes_of(**columns)


def test_a_choice_behind_some_other_letter_of_the_question_is_no_contradiction():
    assert notes_of(prompt="Vitamin C: red or blue?", options=["blue", "red"]) == (PUT_BELOW,)
    assert notes_of(prompt="If a: 3, then x: 4?", options=["4", "3"]) == (PUT_BELOW,)


def test_a_verifier_of_the_user_s_own_may_want_any_answer():
    row = {"prompt": "?", "answer": "D", "verifier": "mine", "options": ["red", "blue"]}
    rules = RowRules(frozenset({"mine"}), BOXED, own=frozenset({"mine"}))
    assert read_row(row, "native", rules).notes == (PUT_BELOW,)
