"""Models against one another, problem by problem."""

import pytest
import torch

from copd.maths.intervals import paired_difference
from copd.measure.compare import differences
from copd.measure.evaluate import AVERAGE, Answers

RIGHT = {
    ("base", "text"): [1, 1, 0, 0, 0, 0],
    ("base", "image"): [0, 0, 0, 1],
    ("merged", "text"): [1, 0, 1, 1, 1, 0],
    ("merged", "image"): [1, 0, 0, 0],
    ("other", "text"): [1, 1, 1, 1, 1, 1],
    ("other", "image"): [1, 1, 1, 1],
}


def answers(**digests: str) -> list[Answers]:
    return [
        Answers(
            model,
            capability,
            digests.get(f"{model}_{capability}", capability),
            torch.tensor(right).double(),
            0,
            torch.zeros(0),
        )
        for (model, capability), right in RIGHT.items()
    ]


def scores(model: str, capability: str) -> torch.Tensor:
    return torch.tensor(RIGHT[model, capability]).double()


def test_every_model_is_compared_with_the_one_in_each_capability_and_on_average():
    found = differences(answers(), "base")
    assert [(d.model, d.against, d.capability) for d in found] == [
        (model, "base", capability) for model in ("merged", "other") for capability in ("text", "image", AVERAGE)
    ]
    assert [d.greedy.value for d in found] == pytest.approx([2 / 6, 0.0, 1 / 6, 4 / 6, 3 / 4, (4 / 6 + 3 / 4) / 2])


def test_intervals_are_paired_and_of_the_average_stratified():
    text, image, average, *_ = differences(answers(), "base")
    pairs = {capability: (scores("base", capability), scores("merged", capability)) for capability in ("text", "image")}
    for difference, expected in ((text, [pairs["text"]]), (image, [pairs["image"]]), (average, list(pairs.values()))):
        estimate = difference.greedy
        assert (estimate.value, estimate.low, estimate.high) == pytest.approx(paired_difference(expected))


def test_capabilities_of_other_problems_are_not_compared_and_then_there_is_no_average():
    found = differences(answers(merged_image="other pictures"), "base")
    assert [(d.model, d.capability) for d in found] == [
        ("merged", "text"),
        ("other", "text"),
        ("other", "image"),
        ("other", AVERAGE),
    ]


def test_a_model_that_answered_fewer_capabilities_has_no_average():
    found = differences([a for a in answers() if (a.model, a.capability) != ("merged", "image")], "base")
    assert [d.capability for d in found if d.model == "merged"] == ["text"]


def test_against_a_model_that_is_not_there_nothing_is_compared():
    assert differences(answers(), "nobody") == []
