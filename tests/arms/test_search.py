"""The search: what is chosen, written down, and read again."""

import pytest

from copd.arms.comparison import Comparison
from copd.arms.jobs import searches_of
from copd.arms.search import choose, chosen_file, read_chosen, searched_otherwise, write_chosen
from copd.errors import RecipeError

FAST = {"optimizer.learning_rate": 2e-4}


@pytest.fixture
def comparison():
    search = {"seeds": [7, 8], "candidates": {"mixed": [{}, FAST]}}
    return Comparison.model_validate({"rollouts": 92_160, "arms": {"mixed": {}, "one": {}}, "search": search})


def outcomes(make_outcome, *shares):
    """Two candidates in two seeds: right shares of candidate 0 with seeds 7 and 8, then of candidate 1."""
    names = [("mixed.0", 7), ("mixed.0", 8), ("mixed.1", 7), ("mixed.1", 8)]
    return [make_outcome(arm, seed, {"text": share}) for (arm, seed), share in zip(names, shares, strict=True)]


@pytest.mark.parametrize(
    ("shares", "changes"), [((0.5, 0.1, 0.2, 0.6), FAST), ((0.5, 0.5, 0.5, 0.5), {}), ((0.9, 0.1, 0.4, 0.4), {})]
)
def test_the_best_mean_over_the_seeds_is_chosen_and_of_equals_the_first(comparison, make_outcome, shares, changes):
    (choice,) = choose(comparison, outcomes(make_outcome, *shares))
    assert (choice.arm, choice.changes) == ("mixed", changes)


def test_a_choice_is_read_as_it_was_written(comparison, make_outcome, tmp_path):
    file = tmp_path / "study.yaml"
    chosen = choose(comparison, outcomes(make_outcome, 0.1, 0.1, 0.2, 0.2))
    write_chosen(chosen_file(file), chosen, searches_of(comparison))
    assert chosen_file(file) == tmp_path / "study.chosen.yaml"
    assert read_chosen(file, comparison) == {"mixed": FAST}
    assert "averages:\n  - 0.1\n  - 0.2" in chosen_file(file).read_text()


def test_a_choice_of_a_search_that_was_changed_since_is_known_and_one_that_does_not_tell_is_taken(
    comparison, make_outcome, tmp_path
):
    file = tmp_path / "study.yaml"
    chosen = choose(comparison, outcomes(make_outcome, 0.1, 0.1, 0.2, 0.2))
    write_chosen(chosen_file(file), chosen, searches_of(comparison))
    assert searched_otherwise(file, comparison) == []
    assert searched_otherwise(file, comparison.model_copy(update={"problems": 7})) == [], "the test's problems"
    assert comparison.search
    for changed in ({"seeds": (9,)}, {"problems": 7}, {"candidates": {"mixed": ({"opd.weight": 0.1}, FAST)}}):
        other = comparison.model_copy(update={"search": comparison.search.model_copy(update=changed)})
        assert read_chosen(file, other) == {"mixed": FAST}
        assert searched_otherwise(file, other) == ["mixed"], changed
    assert searched_otherwise(file, comparison.model_copy(update={"changes": {"opd.weight": 0.1}})) == ["mixed"]
    text = "".join(line for line in chosen_file(file).read_text().splitlines(True) if "searched" not in line)
    chosen_file(file).write_text(text)
    assert searched_otherwise(file, comparison) == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "study.chosen.yaml: missing; run `copd compare .* --search` first"),
        ("mixed: {changes: {optimizer.learning_rate: 1}}", "mixed: .* is no candidate of"),
        ("{}", "mixed: None is no candidate"),
        ("[]", "mixed: None is no candidate"),
        ("mixed: 3", "mixed: None is no candidate"),
    ],
)
def test_no_test_runs_on_a_choice_that_was_not_made(comparison, tmp_path, text, said):
    if text is not None:
        (tmp_path / "study.chosen.yaml").write_text(text)
    with pytest.raises(RecipeError, match=said):
        read_chosen(tmp_path / "study.yaml", comparison)
