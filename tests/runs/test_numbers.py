"""Numbers as people write them."""

import pytest

from copd.runs.numbers import duration, number, roughly


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.04, "0.0 s"),
        (42.4, "42 s"),
        (99.4, "99 s"),
        (100, "1 min 40 s"),
        (3599.7, "60 min 0 s"),
        (6000, "1 h 40 min"),
        (7265, "2 h 1 min"),
    ],
)
def test_a_duration_is_told_in_the_unit_a_person_would_use(seconds, said):
    assert duration(seconds) == said


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.2, "1 s"), (42.4, "42 s"), (100, "2 min"), (5970, "1 h 40 min"), (90_000, "25 h 0 min")]
)
def test_an_estimate_is_told_no_finer_than_it_is(seconds, said):
    assert roughly(seconds) == said


@pytest.mark.parametrize(
    ("value", "said"),
    [(1234.5, "1,234"), (123456.0, "123,456"), (99.94, "99.9"), (0.5, "0.5"), (0.04567, "0.0457"), (-2345.6, "-2,346")],
)
def test_a_number_has_three_digits_and_its_thousands_apart(value, said):
    assert number(value) == said
