"""Intervals and tests over seeds, against tables, scipy and simulation."""

import math

import pytest
import torch
from scipy import stats

from copd.maths.seeds import (
    crossed_intervals,
    holm,
    seeds_needed,
    t_below,
    t_interval,
    t_p_value,
    t_quantile,
)


def crossed_interval(difference_SP, sources_P, seed=0):
    (found,) = crossed_intervals([difference_SP], sources_P, seed=seed)
    return found


@pytest.mark.parametrize("degrees", [1, 2, 9, 30, 500])
@pytest.mark.parametrize("t", [-3.0, -0.2, 0.0, 0.7, 2.0, 12.0])
def test_students_distribution_is_scipys(t, degrees):
    assert t_below(t, degrees) == pytest.approx(stats.t.cdf(t, degrees), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize(
    ("degrees", "quantile"), [(1, 12.7062), (2, 4.3027), (9, 2.2622), (29, 2.0452), (1000, 1.9623)]
)
def test_quantiles_are_those_of_the_printed_tables(degrees, quantile):
    assert t_quantile(0.975, degrees) == pytest.approx(quantile, abs=1e-4)


def test_an_interval_by_hand():
    """Mean 2, deviation 1, three values: 4.3027 / sqrt(3) to each side."""
    assert t_interval([1.0, 2.0, 3.0]) == pytest.approx((2.0, 2 - 4.30265 / 3**0.5, 2 + 4.30265 / 3**0.5), abs=1e-4)


def test_one_seed_says_nothing_of_others():
    assert t_interval([0.3]) == (0.3, -math.inf, math.inf)
    assert t_p_value([0.3]) == 1.0
    assert seeds_needed([0.3], 0.01) is None


@pytest.mark.parametrize("values", [[0.1, 0.2, 0.05], [-0.3, 0.1, 0.2, 0.0], [1.0, 1.1]])
def test_p_values_are_those_of_scipys_paired_t_test(values):
    assert t_p_value(values) == pytest.approx(stats.ttest_1samp(values, 0).pvalue, rel=1e-9)


@pytest.mark.parametrize(("values", "p"), [([0.2, 0.2, 0.2], 0.0), ([0.0, 0.0], 1.0)])
def test_values_without_spread_have_a_p_value(values, p):
    assert t_p_value(values) == p


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([0.01, 0.04, 0.03], [0.03, 0.06, 0.06]),
        ([0.5, 0.9], [1.0, 1.0]),
        ([0.02], [0.02]),
        ([0.04, 0.001, 0.04], [0.08, 0.003, 0.08]),
        ([], []),
    ],
)
def test_holms_correction_by_hand(given, expected):
    assert holm(given) == pytest.approx(expected)


@pytest.mark.parametrize("values", [[0.01, 0.03, 0.02, 0.0], [0.1, 0.3, 0.2, 0.0]])
def test_the_seeds_that_a_difference_needs_are_the_least_that_do(values):
    spread, needed = torch.tensor(values).std().item(), seeds_needed(values, 0.01)
    halves = [stats.t.ppf(0.975, n - 1) * spread / n**0.5 for n in (needed - 1, needed)]
    assert halves[1] <= 0.01 < halves[0]


def test_values_alike_need_two_seeds_and_wild_ones_more_than_can_be_told():
    assert seeds_needed([0.1, 0.1], 0.01) == 2
    assert seeds_needed([-90.0, 90.0], 0.01) is None


def test_an_interval_over_problems_of_their_own_is_that_of_independent_problems():
    difference_SP = torch.where(torch.arange(400) % 4 == 0, 1.0, 0.0).expand(2, 400)
    low, high = crossed_interval(difference_SP, [()] * 400)
    half = 1.96 * (0.25 * 0.75 / 400) ** 0.5
    assert (low, high) == pytest.approx((0.25 - half, 0.25 + half), abs=0.006)


def test_problems_that_share_a_source_count_as_one():
    """Four problems of each picture, all alike: the interval is that of a hundred problems, not of 400."""
    difference_SP = torch.where(torch.arange(400) // 4 % 4 == 0, 1.0, 0.0).expand(2, 400)
    low, high = crossed_interval(difference_SP, [(f"picture {i // 4}",) for i in range(400)])
    half = 1.96 * (0.25 * 0.75 / 100) ** 0.5
    assert (low, high) == pytest.approx((0.25 - half, 0.25 + half), abs=0.015)


def test_a_source_that_a_problem_names_twice_counts_once():
    difference_SP = torch.rand(2, 50, generator=torch.Generator().manual_seed(0))
    once = crossed_interval(difference_SP, [(f"{i}",) for i in range(50)])
    assert crossed_interval(difference_SP, [(f"{i}", f"{i}") for i in range(50)]) == once


def test_seeds_that_differ_widen_the_interval():
    problems = [()] * 100
    alike, apart = torch.full((4, 100), 0.5), torch.tensor([0.2, 0.8, 0.3, 0.7])[:, None].expand(4, 100)
    assert crossed_interval(alike, problems) == pytest.approx((0.5, 0.5))
    low, high = crossed_interval(apart, problems)
    assert low < 0.35
    assert high > 0.65


def test_the_same_seed_gives_the_same_interval():
    difference_SP = torch.rand(3, 60, generator=torch.Generator().manual_seed(1))
    first, again, other = (crossed_interval(difference_SP, [()] * 60, seed=seed) for seed in (0, 0, 1))
    assert first == again != other


def test_an_interval_over_seeds_and_problems_is_as_wide_as_both_together():
    """Seeds alone: the t interval. Problems alone: 1.96 standard errors. Together: the root of both squared."""
    shift_S, own_P = torch.tensor([-0.1, 0.0, 0.1]), torch.where(torch.arange(400) % 4 == 0, 1.0, 0.0)
    _, low, high = t_interval((shift_S + 0.25).tolist())
    half = math.hypot((high - low) / 2, 1.96 * (0.25 * 0.75 / 400) ** 0.5)
    found = crossed_interval(shift_S[:, None] + own_P, [()] * 400)
    assert found == pytest.approx((0.25 - half, 0.25 + half), abs=0.003)


def test_draws_without_any_problem_are_left_out():
    low, high = crossed_interval(torch.tensor([[0.0, 1.0, 1.0]]), [("a", "b"), ("c", "d"), ("e", "f")])
    assert -1 < low < 2 / 3 < high < 2


def test_several_differences_have_the_intervals_that_each_has_alone():
    draw = torch.Generator().manual_seed(0)
    differences = [torch.rand(seeds, 60, generator=draw) for seeds in (1, 2, 4)]
    sources = [(f"{i // 3}", f"{i % 5}") for i in range(60)]
    alone = [crossed_interval(each, sources) for each in differences]
    assert crossed_intervals(differences, sources) == [pytest.approx(each) for each in alone]
