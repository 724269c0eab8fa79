"""Intervals against scipy and exact coverage; pass@k against enumeration."""

import math
from itertools import combinations, product

import pytest
import scipy.stats
import torch

from copd.maths.intervals import Z95, mean_of_scores, paired_difference, pass_at_k, stratified_mean, wilson

COUNTS = [(0, 1), (1, 1), (0, 20), (20, 20), (7, 10), (250, 500), (499, 500), (1, 1000)]


def scores(right: int, problems: int) -> torch.Tensor:
    return torch.cat([torch.ones(right), torch.zeros(problems - right)])


def test_z_is_the_97_5_percent_point_of_the_normal():
    assert pytest.approx(scipy.stats.norm.ppf(0.975), abs=1e-14) == Z95


@pytest.mark.parametrize(("successes", "trials"), COUNTS)
def test_wilson_matches_scipy(successes, trials):
    expected = scipy.stats.binomtest(successes, trials).proportion_ci(method="wilson")
    assert wilson(successes, trials) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_wilson_by_hand():
    assert wilson(5, 10) == pytest.approx((0.2365931, 0.7634069), abs=1e-7)


@pytest.mark.parametrize(("successes", "trials"), COUNTS)
def test_wilson_mirrors_when_right_and_wrong_are_exchanged(successes, trials):
    low, high = wilson(successes, trials)
    assert wilson(trials - successes, trials) == pytest.approx((1 - high, 1 - low), abs=1e-12)
    assert 0 <= low <= successes / trials <= high <= 1


def test_without_trials_nothing_is_known():
    assert wilson(0, 0) == (0.0, 1.0)


def test_each_group_counts_alike_however_large():
    assert stratified_mean([scores(1, 1), scores(0, 99)])[0] == 0.5
    assert stratified_mean([scores(3, 4), scores(10, 20), scores(1, 4)])[0] == pytest.approx(0.5)


def test_one_group_has_wilsons_interval_and_four_alike_half_as_far_limits():
    low, high = wilson(6, 8)
    assert stratified_mean([scores(6, 8)]) == pytest.approx((0.75, low, high))
    assert stratified_mean([scores(6, 8)] * 4) == pytest.approx((0.75, (0.75 + low) / 2, (0.75 + high) / 2))


def test_distances_of_limits_add_up_by_their_squares():
    groups = [(1, 10), (9, 10), (3, 5)]
    means, limits = [n / of for n, of in groups], [wilson(n, of) for n, of in groups]
    mean = sum(means) / 3
    below = math.sqrt(sum((m - low) ** 2 for m, (low, _) in zip(means, limits, strict=True))) / 3
    above = math.sqrt(sum((high - m) ** 2 for m, (_, high) in zip(means, limits, strict=True))) / 3
    assert stratified_mean([scores(*each) for each in groups]) == pytest.approx((mean, mean - below, mean + above))


def test_shares_are_worth_as_many_problems_as_their_variance_says():
    shares = [0.0, 0.75, 0.75, 1.0, 0.5]
    padded = [*shares, 0.0, 0.0, 1.0, 1.0]
    centre = sum(padded) / 9
    variance = sum((x - centre) ** 2 for x in padded) / 9
    worth = 5 * centre * (1 - centre) / variance
    assert worth > 5
    assert mean_of_scores(torch.tensor(shares)) == pytest.approx((0.6, *wilson(0.6 * worth, worth)))


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_one_problem_says_little_whatever_its_score(share):
    mean, low, high = mean_of_scores(torch.tensor([share]))
    assert mean == share
    assert high - low > 0.7


@pytest.mark.parametrize("right", [0, 50])
def test_a_group_all_right_or_all_wrong_still_has_an_interval(right):
    mean, low, high = stratified_mean([scores(right, 50)])
    assert mean == right / 50
    assert high - low > 0.02
    assert 0 <= low <= mean <= high <= 1


@pytest.mark.parametrize("share", [0.05, 0.3, 0.5, 0.9])
def test_stratified_interval_covers_the_truth_in_95_percent_of_samples(share):
    problems = 60
    intervals = [stratified_mean([scores(right, problems)]) for right in range(problems + 1)]
    covered = sum(
        scipy.stats.binom.pmf(right, problems, share)
        for right, (_, low, high) in enumerate(intervals)
        if low <= share <= high
    )
    assert 0.93 <= covered <= 0.995


@pytest.mark.parametrize("problems", [1, 3, 5, 10])
@pytest.mark.parametrize("shares", [(0.3, 0.3, 0.3), (0.1, 0.5, 0.9), (0.6, 0.7, 0.8)])
def test_the_interval_of_an_average_of_few_problems_covers_the_truth(shares, problems):
    covered = 0.0
    for right in product(range(problems + 1), repeat=3):
        _, low, high = stratified_mean([scores(each, problems) for each in right])
        if low <= sum(shares) / 3 <= high:
            covered += math.prod(scipy.stats.binom.pmf(n, problems, p) for n, p in zip(right, shares, strict=True))
    assert covered > 0.88


def pair(gained: int, lost: int, problems: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Two models' scores: the second gains some problems and loses others; of the rest both have every second one."""
    alike = torch.arange(problems - gained - lost) % 2
    first_P = torch.cat([torch.zeros(gained), torch.ones(lost), alike])
    return first_P, torch.cat([torch.ones(gained), torch.zeros(lost), alike])


def test_paired_difference_by_hand():
    # 5 gained and 2 lost of 20. With half a problem in each cell: 5.5 and 2.5 of 22, so centre 3 / 22,
    # variance (8 / 22 - (3 / 22)^2) / 22.
    half = 1.959963984540054 * math.sqrt((8 / 22 - (3 / 22) ** 2) / 22)
    assert paired_difference([pair(5, 2, 20)]) == pytest.approx((0.15, 3 / 22 - half, 3 / 22 + half))
    assert paired_difference([pair(5, 2, 20)] * 4) == pytest.approx((0.15, 3 / 22 - half / 2, 3 / 22 + half / 2))


def test_paired_difference_counts_each_group_alike():
    assert paired_difference([pair(1, 0, 1), pair(0, 90, 90)])[0] == pytest.approx(0.0)
    assert paired_difference([pair(3, 0, 4), pair(0, 10, 20)])[0] == pytest.approx((0.75 - 0.5) / 2)


def test_paired_difference_of_shares_matches_a_naive_loop():
    first, second = [0.25, 1.0, 0.5, 0.0], [0.5, 0.25, 1.0, 1.0]
    weighted = [(b - a, 1.0) for a, b in zip(first, second, strict=True)] + [(1.0, 0.5), (-1.0, 0.5), (0.0, 1.0)]
    weight = sum(w for _, w in weighted)
    centre = sum(x * w for x, w in weighted) / weight
    half = 1.959963984540054 * math.sqrt(sum(w * (x - centre) ** 2 for x, w in weighted) / weight / weight)
    found = paired_difference([(torch.tensor(first), torch.tensor(second))])
    assert found == pytest.approx((0.25, centre - half, centre + half))


def test_paired_difference_changes_sign_when_the_models_are_exchanged():
    first_P, second_P = pair(7, 3, 40)
    mean, low, high = paired_difference([(first_P, second_P)])
    assert paired_difference([(second_P, first_P)]) == pytest.approx((-mean, -high, -low))


def test_paired_difference_is_narrower_than_that_of_two_samples_where_the_models_are_alike():
    first_P, second_P = pair(6, 2, 200)
    _, low, high = paired_difference([(first_P, second_P)])
    separate = math.sqrt(sum((stratified_mean([s])[2] - stratified_mean([s])[1]) ** 2 for s in (first_P, second_P)))
    assert high - low < separate / 2


@pytest.mark.parametrize(("gained", "lost"), [(0, 0), (50, 0), (0, 50)])
@pytest.mark.parametrize("groups", [1, 3])
def test_paired_difference_has_an_interval_around_it_even_where_all_problems_agree(gained, lost, groups):
    mean, low, high = paired_difference([pair(gained, lost, 50)] * groups)
    assert mean == pytest.approx((gained - lost) / 50)
    assert high - low > 0.02
    assert -1 <= low <= mean <= high <= 1


@pytest.mark.parametrize(("gain", "loss"), [(0.05, 0.05), (0.1, 0.02), (0.3, 0.1), (0.5, 0.3), (0.9, 0.02)])
def test_paired_interval_covers_the_truth_in_95_percent_of_samples(gain, loss):
    problems, generator = 60, torch.Generator().manual_seed(0)
    chances = torch.tensor([gain, loss, 1 - gain - loss])
    covered, tables = 0, 4000
    for outcome_P in torch.multinomial(chances, problems * tables, True, generator=generator).view(tables, problems):
        lost_P, gained_P = (outcome_P == 1).float(), (outcome_P == 0).float()
        _, low, high = paired_difference([(lost_P, gained_P)])
        covered += low <= gain - loss <= high
    assert 0.935 <= covered / tables <= 0.98


@pytest.mark.parametrize("lengths", [(3, 4), (0, 0)])
def test_scores_of_different_problems_are_not_paired(lengths):
    with pytest.raises(ValueError, match=f"paired scores of {lengths[0]} and {lengths[1]} problems"):
        paired_difference([tuple(torch.ones(length) for length in lengths)])


@pytest.mark.parametrize(("samples", "k"), [(1, 1), (4, 1), (4, 2), (4, 4), (6, 3)])
def test_pass_at_k_matches_counting_all_subsets(samples, k):
    expected = []
    for right in range(samples + 1):
        draws = list(combinations([True] * right + [False] * (samples - right), k))
        expected.append(sum(any(d) for d in draws) / len(draws))
    assert pass_at_k(torch.arange(samples + 1), samples, k).tolist() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("right", "samples", "k", "expected"),
    [(0, 8, 8, 0.0), (1, 8, 8, 1.0), (1, 2, 1, 0.5), (2, 4, 2, 5 / 6), (7, 8, 2, 1.0), (1, 200, 100, 0.5)],
)
def test_pass_at_k_by_hand(right, samples, k, expected):
    assert pass_at_k(torch.tensor([right]), samples, k).tolist() == pytest.approx([expected])


def test_pass_at_1_is_the_share_of_right_samples():
    right_P = torch.tensor([0.0, 3.0, 8.0], dtype=torch.float64)
    assert pass_at_k(right_P, 8, 1).tolist() == pytest.approx([0.0, 3 / 8, 1.0])


@pytest.mark.parametrize("k", [0, -1, 5])
def test_k_outside_the_number_of_samples_is_refused(k):
    with pytest.raises(ValueError, match=rf"^pass@{k}: found 4 samples a problem; accepted: k from 1 to"):
        pass_at_k(torch.tensor([1]), 4, k)
