"""What is kept of a job: it is read as it was written, and a damaged file is named."""

import json
from dataclasses import asdict

import pytest
import torch

from copd.arms.outcomes import bits, hexadecimal, read_outcome, read_outcomes, write_outcome
from copd.errors import RunFolderError


@pytest.mark.parametrize(
    ("right", "digits"), [([1, 0, 1, 0], "a"), ([1], "8"), ([0, 0, 0, 1, 1], "18"), ([], ""), ([1] * 8, "ff")]
)
def test_right_answers_are_bits_the_first_one_first(right, digits):
    assert hexadecimal(torch.tensor(right, dtype=torch.float64)) == digits
    assert bits(digits, len(right)).tolist() == right


def test_an_outcome_is_read_as_it_was_written(make_outcome, tmp_path):
    outcome = make_outcome()
    write_outcome(tmp_path / "rollouts" / "mixed" / "seed-0.json", outcome)
    assert read_outcomes(tmp_path) == [outcome]


def test_accuracy_is_that_of_the_product_and_its_average_counts_capabilities_alike(make_outcome):
    outcome = make_outcome(right={"text": 0.5, "image": 0.25})
    assert [outcome.accuracy(name) for name in ("text", "image", "average")] == [0.5, 0.25, 0.375]


def test_experts_answer_each_in_its_own_capability(make_outcome):
    right = {"text": {"text": 0.75, "image": 0.0}, "image": {"text": 0.1, "image": 0.5}}
    outcome = make_outcome("expert", right=right, products=("text", "image"))
    assert [outcome.accuracy(name) for name in ("text", "image", "average")] == [0.75, 0.5, 0.625]


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"problems": 3, "curve": []}', "[" * 100_000, '{"curve": [], "problems": {"a": [1]}}']
)
def test_a_damaged_file_is_named(tmp_path, text):
    (tmp_path / "seed-0.json").write_text(text)
    with pytest.raises(RunFolderError, match=r"seed-0.json: cannot be read as the outcome of a job"):
        read_outcome(tmp_path / "seed-0.json")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"right": {}}, "'mixed' is missing"),
        ({"right": {"mixed": {"text": "z" * 10, "image": "f" * 10}}}, "right.mixed.text: accepted: a hexadecimal"),
        ({"right": {"mixed": {"text": "f" * 10, "image": "f"}}}, "right.mixed.image: accepted: a hexadecimal"),
        ({"sampled": {}}, "'mixed' is missing"),
        ({"products": []}, "no problems or no products"),
        ({"problems": {}}, "no problems or no products"),
        ({"spent": {}}, "'rollouts' is missing"),
        ({"behaviour": [{}]}, "'step' is missing"),
        ({"seed": "0"}, "accepted: whole numbers, found 0, 1000"),
        ({"rollouts": None}, "accepted: whole numbers, found 0, None"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_file_from_which_no_page_can_be_drawn_is_named_before_any_job_runs(make_outcome, tmp_path, changes, said):
    path = tmp_path / "seed-0.json"
    path.write_text(json.dumps({**asdict(make_outcome()), **changes}))
    with pytest.raises(RunFolderError, match=rf"seed-0\.json: cannot be read as the outcome of a job: .*{said}"):
        read_outcome(path)


def test_an_outcome_is_small(make_outcome, tmp_path):
    path = tmp_path / "seed-0.json"
    write_outcome(path, make_outcome(count=1000))
    assert path.stat().st_size < 5_000
    assert json.loads(path.read_text())["right"]["mixed"]["text"] == "f" * 125 + "0" * 125
