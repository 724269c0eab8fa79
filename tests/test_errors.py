import json

import pytest

from copd.errors import first_line, wrong_in


@pytest.mark.parametrize(
    ("read", "said"),
    [
        (lambda: {}["seed"], "'seed' is missing"),
        (lambda: json.loads("{,"), "Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"),
        (lambda: [].get("seed"), "'list' object has no attribute 'get'"),
    ],
    ids=["lacking", "no JSON", "a list"],
)
def test_what_is_wrong_in_a_record_is_told_without_the_name_of_a_class(read, said):
    with pytest.raises((KeyError, ValueError, AttributeError)) as raised:
        read()
    assert wrong_in(raised.value) == said


def test_a_message_of_many_lines_is_told_by_its_first_and_by_two_if_that_ends_with_a_colon():
    assert first_line(ValueError("\n one\n two")) == "one"
    assert first_line(ValueError("in this file:\n two\n three")) == "in this file: two"
    assert first_line(ValueError()) == "ValueError"
