"""The file of a comparison: what it may hold, and what is refused by name."""

import pytest
from pydantic import ValidationError

from copd.arms.comparison import Comparison, as_overrides, read_comparison
from copd.errors import RecipeError
from copd.recipe.reading import load_recipe
from copd.recipe.strict_yaml import parse_yaml

SOUND = """
rollouts: 1000
arms:
  mixed: {method: mixed}
  one: {merge: {method: distil}, opd.signal: reverse_kl}
search:
  seeds: [7]
  candidates: {mixed: [{}, {optimizer.learning_rate: 1.0e-3}], one: [{}, {opd.weight: 0.5}]}
"""


@pytest.fixture
def read(tmp_path):
    def from_text(text):
        path = tmp_path / "file.yaml"
        path.write_text(text)
        return read_comparison(path)

    return from_text


def test_the_first_arm_is_the_reference_unless_others_are_named(read):
    assert read(SOUND).compared_with == ("mixed",)
    assert read(f"references: [one, mixed]\n{SOUND}").compared_with == ("one", "mixed")


def test_a_recipe_is_found_beside_the_file(read, tmp_path):
    assert read(SOUND).recipe == "demo-paper"
    (tmp_path / "mine.yaml").write_text("{}")
    assert read(f"recipe: mine.yaml\n{SOUND}").recipe == str(tmp_path / "mine.yaml")


def test_changes_are_written_as_the_command_line_takes_them():
    changes = {"method": "copd", "opd": {"weight": 0.5}, "lora": None, "evaluation.pass_at": [1, 4], "a.b": True}
    assert as_overrides(changes) == [
        "method=copd",
        'opd={"weight": 0.5}',
        "lora=null",
        "evaluation.pass_at=[1, 4]",
        "a.b=true",
    ]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("rollouts: 1000", "", "rollouts: missing"),
        ("rollouts: 1000", "rollouts: 1000\nreferences: [two]", "references: no arm 'two'; arms are mixed, one"),
        (
            "{mixed: [{}, {optimizer.learning_rate: 1.0e-3}],",
            "{mixed: [{}],",
            "every arm searches as often as the others; found mixed 1, one 2",
        ),
        ("candidates: {mixed", "candidates: {two", "search.candidates: no arm 'two'"),
        ("mixed: {method", "mi xed: {method", "an arm's name is a letter, then letters"),
        ("arms:", "army:", "army: unknown key; did you mean 'arms'"),
        ("rollouts: 1000", "rollouts: 1000\naccounts: [time]", "accounts.0: accepted: 'rollouts', 'steps' or"),
        ("rollouts: 1000", "rollouts: 0", "rollouts: accepted: 1 or more, found '0'"),
        (SOUND, "[1, 2]", "a comparison is a mapping with arms, found list"),
        (SOUND, "branches: {text: {}}", r"a recipe; accepted: a file with `recipe: \S+`, rollouts and arms"),
        ("arms:", "arms: {", "not valid YAML: line"),
    ],
)
def test_what_makes_no_sense_is_refused_by_file_and_key(read, old, new, said):
    assert old in SOUND
    with pytest.raises(RecipeError, match=rf"file.yaml.*({said})"):
        read(SOUND.replace(old, new))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(RecipeError, match=r"nowhere.yaml: cannot be read"):
        read_comparison(tmp_path / "nowhere.yaml")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"arms": {"mixed": {"method": "mixed", "seed": 5}}}, "arms.mixed: sets seed, which the comparison sets"),
        ({"arms": {"mixed": {"budget.rollouts": 9}}}, "arms.mixed: sets budget.rollouts"),
        ({"arms": {"mixed": {"budget": {"rollouts": 9}}}}, "arms.mixed: sets budget"),
        ({"arms": {"mixed": {"evaluation": {"overlap_k": [5]}}}}, "arms.mixed: sets evaluation,"),
        ({"arms": {"mixed": {"experts.run": "runs/x"}}}, "arms.mixed: sets experts.run"),
        ({"changes": {"evaluation": {"split": "validation"}}}, "changes: sets evaluation.split"),
        (
            {"search": {"candidates": {"mixed": [{}, {"evaluation.split": "test"}]}}},
            "search.candidates.mixed.1: sets evaluation.split",
        ),
    ],
)
def test_what_the_comparison_sets_for_all_arms_no_arm_sets_for_itself(changes, said):
    with pytest.raises(ValidationError, match=said):
        Comparison.model_validate({"rollouts": 1000, "arms": {"mixed": {"method": "mixed"}}, **changes})


@pytest.mark.parametrize(
    "text", ["a # b", "null", "Answer: yes", "{{ prompt }}", "two\nlines", "1e3", "plain words", ""]
)
def test_a_text_reaches_the_recipe_as_the_file_has_it(text):
    (override,) = as_overrides({"branches.a.task.system_prompt": text})
    assert parse_yaml(override.partition("=")[2], "") == text


def test_a_value_that_yaml_takes_for_a_date_is_the_text_that_was_written():
    (override,) = as_overrides({"model.revision": parse_yaml("2024-01-01", "")})
    assert load_recipe("demo-paper", [override, "model.path=someone/model"]).model.revision == "2024-01-01"
