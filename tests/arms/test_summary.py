"""Accuracies and differences over seeds, by hand."""

import math

import pytest

from copd.arms.summary import arm_rows, contrasts


@pytest.fixture
def outcomes(make_outcome):
    """Two arms in three seeds: `one` is ahead in text by 10, 20 and 30 points of 40 problems, alike in image."""
    mixed = [make_outcome("mixed", seed, {"text": 0.4, "image": 0.5}) for seed in range(3)]
    one = [
        make_outcome("one", seed, {"text": 0.4 + gain, "image": 0.5}, products=("merged",))
        for seed, gain in enumerate((0.1, 0.2, 0.3))
    ]
    return [*mixed, *one]


def test_accuracy_is_the_mean_over_seeds_with_a_t_interval(outcomes):
    mixed, one = arm_rows(outcomes, {})
    assert (mixed.arm, mixed.seeds, one.arm) == ("mixed", (0, 1, 2), "one")
    assert one.accuracy["text"].value == pytest.approx(0.6)
    half = 4.30265 * 0.1 / math.sqrt(3)
    assert (one.accuracy["text"].low, one.accuracy["text"].high) == pytest.approx((0.6 - half, 0.6 + half), abs=1e-5)
    assert one.accuracy["average"].value == pytest.approx(0.55)
    assert one.pass_at["4"].value == 0.75


def test_a_difference_is_taken_seed_by_seed(outcomes):
    found = {c.capability: c for c in contrasts(outcomes, "mixed", {})}
    assert list(found) == ["text", "image", "average"]
    text = found["text"]
    assert (text.arm, text.reference, text.seeds, text.wins) == ("one", "mixed", 3, 1.0)
    assert text.over_seeds.value == pytest.approx(0.2)
    assert text.p == pytest.approx(0.0742, abs=1e-4)
    assert text.p == text.holm
    assert found["average"].over_seeds.value == pytest.approx(0.1)
    assert (found["image"].p, found["image"].wins) == (1.0, 0.5)


def test_a_seed_is_compared_with_itself_however_much_seeds_differ(make_outcome):
    shares = [0.2, 0.4, 0.6]
    mixed = [make_outcome("mixed", seed, {"text": share}) for seed, share in enumerate(shares)]
    one = [make_outcome("one", seed, {"text": share + 0.1}) for seed, share in enumerate(shares)]
    (found,) = contrasts([*mixed, *one], "mixed", {})
    assert (found.over_seeds.low, found.over_seeds.high) == pytest.approx((0.1, 0.1), abs=1e-9)
    assert found.wins == 1.0


def test_an_interval_over_problems_of_the_average_counts_capabilities_alike(outcomes):
    average = next(c for c in contrasts(outcomes, "mixed", {}) if c.capability == "average")
    low, high = average.over_problems
    assert low < 0.1 < high
    assert high < 0.25


def test_holm_corrects_over_the_arms_of_a_capability(outcomes, make_outcome):
    gains = (0.1, 0.2, 0.15)
    two = [make_outcome("two", seed, {"text": 0.4 + gain, "image": 0.5}) for seed, gain in enumerate(gains)]
    text = [c for c in contrasts([*outcomes, *two], "mixed", {}) if c.capability == "text"]
    least, other = sorted(text, key=lambda c: c.p)
    assert least.holm == pytest.approx(2 * least.p)
    assert other.holm == pytest.approx(max(other.p, 2 * least.p))


def test_only_seeds_and_problems_that_both_have_are_compared(outcomes, make_outcome):
    others = make_outcome("mixed", 3, count=20)
    alone = make_outcome("one", 3, count=40)
    late = make_outcome("one", 9)
    assert {c.seeds for c in contrasts([*outcomes, others, alone, late], "mixed", {})} == {3}
    assert contrasts(outcomes, "absent", {}) == []


def test_regret_is_against_the_expert_of_the_same_seed(outcomes, make_outcome):
    right = {"text": {"text": 0.9, "image": 0.0}, "image": {"text": 0.0, "image": 0.5}}
    experts = [make_outcome("expert", seed, right, products=("text", "image")) for seed in (0, 1)]
    rows = {row.arm: row for row in arm_rows([*outcomes, *experts], {})}
    assert rows["one"].regret["text"].value == pytest.approx((0.5 + 0.6) / 2 - 0.9)
    assert rows["one"].regret["image"].value == pytest.approx(0.0)
    assert rows["expert"].regret["average"].value == 0.0
    assert arm_rows(outcomes, {})[0].regret == {}


def test_regret_counts_only_seeds_in_which_both_answered_the_same_problems(outcomes, make_outcome):
    right = {"text": {"text": 0.9, "image": 0.0}, "image": {"text": 0.0, "image": 0.5}}
    experts = [make_outcome("expert", seed, right, products=("text", "image")) for seed in (0, 1)]
    others = make_outcome("expert", 2, right, products=("text", "image"), count=20)
    (one,) = (row for row in arm_rows([*outcomes, *experts, others], {}) if row.arm == "one")
    assert one.regret_seeds == 2
    assert one.regret["text"].value == pytest.approx((0.5 + 0.6) / 2 - 0.9)


def test_regret_of_one_seed_has_an_interval_over_problems(outcomes, make_outcome):
    right = {"text": {"text": 0.9, "image": 0.0}, "image": {"text": 0.0, "image": 0.5}}
    expert = make_outcome("expert", 1, right, products=("text", "image"))
    (one,) = (row for row in arm_rows([*outcomes, expert], {}) if row.arm == "one")
    assert (len(one.seeds), one.regret_seeds) == (3, 1)
    half = 1.96 * math.sqrt(0.3 * 0.7 / 40)
    found = one.regret["text"]
    assert (found.low, found.value, found.high) == pytest.approx((-0.3 - half, -0.3, -0.3 + half), abs=0.02)


def test_of_two_arms_of_experts_the_first_is_the_one_that_is_regretted(outcomes, make_outcome):
    def experts(arm, share):
        right = {"text": {"text": share, "image": 0.0}, "image": {"text": 0.0, "image": 0.5}}
        return [make_outcome(arm, seed, right, products=("text", "image")) for seed in range(3)]

    rows = {row.arm: row for row in arm_rows([*outcomes, *experts("expert", 0.9), *experts("longer", 0.95)], {})}
    assert rows["mixed"].regret["text"].value == pytest.approx(0.4 - 0.9)
    assert rows["longer"].regret["text"].value == pytest.approx(0.05)
