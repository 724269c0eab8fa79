"""The numbers of a pilot, by hand from answers, likeness and gradients."""

import json
from dataclasses import replace

import pytest
import torch

from copd.measure.behaviour import Behaviour
from copd.measure.evaluate import Answers
from copd.measure.pilot import GradientSample, Pilot, mean_cosine, summary

RIGHT = {
    "base": {"text": 4, "image": 2, "video": 2},
    "text": {"text": 8, "image": 1, "video": 0},
    "image": {"text": 2, "image": 6, "video": 2},
    "video": {"text": 4, "image": 0, "video": 4},
    "merged": {"text": 5, "image": 3, "video": 4},
}
"""Right answers to ten problems."""
NAMES = ("text", "image", "video")


def answers_of(right):
    return [
        Answers(model, name, "digest", (torch.arange(10) < count).double(), 0, torch.zeros(0))
        for model, own in right.items()
        for name, count in own.items()
    ]


def sample(*gradients):
    rows = [[torch.tensor(row) for row in gradient] for gradient in gradients]
    total = [torch.stack(columns).sum(0) for columns in zip(*rows, strict=True)]
    return GradientSample(total, [float(sum(row.square().sum() for row in gradient)) for gradient in rows])


BEHAVIOUR = Behaviour(
    overlap={
        k: {s: {t: 1.0 if s == t else value for t in NAMES} for s in NAMES} for k, value in ((5, 0.9), (10, 0.95))
    },
    symmetric_kl={s: {t: 0.0 if s == t else 0.02 for t in NAMES} for s in NAMES},
)
GRADIENTS = {
    "text": sample([[1.0, 0.0], [0.0]], [[1.0, 0.0], [0.0]]),
    "image": sample([[0.0, 2.0], [0.0]], [[0.0, 2.0], [0.0]]),
    "video": sample([[-3.0, 0.0], [0.0]], [[-3.0, 0.0], [0.0]]),
}


@pytest.fixture
def pilot():
    return summary(20, answers_of(RIGHT), BEHAVIOUR, GRADIENTS, 0.25)


def test_the_gain_is_of_each_branch_in_its_own_capability(pilot):
    assert pilot.base == pytest.approx((0.4 + 0.2 + 0.2) / 3)
    assert pilot.gain.value == pytest.approx((0.4 + 0.4 + 0.2) / 3)


def test_the_harm_is_of_the_branches_that_trained_on_another_capability(pilot):
    text, image, video = 0.4 - (0.2 + 0.4) / 2, 0.2 - (0.1 + 0.0) / 2, 0.2 - (0.0 + 0.2) / 2
    assert pilot.harm.value == pytest.approx((text + image + video) / 3)


def test_the_gap_is_between_the_branches_and_their_mean(pilot):
    assert pilot.gap.value == pytest.approx((0.3 + 0.3 + 0.0) / 3)
    for estimate in (pilot.gain, pilot.harm, pilot.gap):
        assert estimate.low < estimate.value < estimate.high


def test_likeness_is_over_pairs_of_branches_at_the_smallest_k(pilot):
    assert pilot.overlap == pytest.approx(0.9)
    assert pilot.symmetric_kl == pytest.approx(0.02)


def test_the_cosine_is_the_mean_over_pairs_of_capabilities(pilot):
    assert pilot.cosine == pytest.approx((0 + 0 - 1) / 3)


def test_the_cosine_does_not_depend_on_the_number_of_batches():
    once = [[1.0, 2.0], [0.5]]
    pair = {"text": sample(once, once), "image": sample([[2.0, 1.0], [0.0]], [[2.0, 1.0], [0.0]])}
    more = {**pair, "image": sample(*[[[2.0, 1.0], [0.0]]] * 5)}
    by_hand = 4 / (5.25 * 5) ** 0.5
    assert mean_cosine(pair) == pytest.approx(by_hand)
    assert mean_cosine(more) == pytest.approx(by_hand)


def test_a_capability_whose_gradient_is_noise_is_left_out_of_the_cosine():
    noise = sample([[5.0, 0.0], [0.0]], [[-5.0, 0.0], [0.0]])
    assert mean_cosine({**GRADIENTS, "image": noise}) == pytest.approx(-1.0)
    assert mean_cosine({"text": GRADIENTS["text"], "image": noise}) is None


def test_without_gradients_there_is_no_cosine_and_all_else_is_the_same(pilot):
    assert summary(20, answers_of(RIGHT), BEHAVIOUR, None, 0.25) == replace(pilot, cosine=None)


def test_a_pilot_comes_back_from_json(pilot):
    for one in (pilot, replace(pilot, cosine=None)):
        assert Pilot.from_record(json.loads(json.dumps(one.as_record()))) == one
