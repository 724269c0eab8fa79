"""Group-relative advantages against hand-computed values, naive loops, and what must not change them."""

import math
import statistics

import pytest
import torch

from copd.maths.advantages import group_advantages, group_deviations, has_signal

HALF_ROOT_3 = 0.8660254037844386
HALF_ROOT_2 = 0.7071067811865476

BY_HAND = [
    pytest.param([1, 0, 0, 0], [0, 0, 0, 0], [1.5, -0.5, -0.5, -0.5], id="one of four right"),
    pytest.param([1, 1, 0, 0], [0, 0, 0, 0], [HALF_ROOT_3, HALF_ROOT_3, -HALF_ROOT_3, -HALF_ROOT_3], id="half right"),
    pytest.param([1, 0], [0, 0], [HALF_ROOT_2, -HALF_ROOT_2], id="a pair"),
    pytest.param([3, 1, 2], [0, 0, 0], [1.0, -1.0, 0.0], id="graded"),
    pytest.param([1, 5, 0, 5], [0, 1, 0, 1], [HALF_ROOT_2, 0, -HALF_ROOT_2, 0], id="interleaved, one without signal"),
    pytest.param([0, 1, 0, 2, 1, 0], [2, 2, 2, 0, 0, 0], [-1 / 3**0.5, 2 / 3**0.5, -1 / 3**0.5, 1, 0, -1], id="gap"),
    pytest.param([7, 1, 0], [0, 1, 1], [0, HALF_ROOT_2, -HALF_ROOT_2], id="a group of one"),
]


def rewards(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def naive(reward_N: torch.Tensor, prompt_of_N: torch.Tensor, eps_std: float) -> list[float]:
    groups: dict[int, list[float]] = {}
    for value, prompt in zip(reward_N.tolist(), prompt_of_N.tolist(), strict=True):
        groups.setdefault(prompt, []).append(value)
    return [
        0.0
        if len(groups[prompt]) == 1
        else (value - statistics.fmean(groups[prompt])) / (statistics.stdev(groups[prompt]) + eps_std)
        for value, prompt in zip(reward_N.tolist(), prompt_of_N.tolist(), strict=True)
    ]


def uneven_batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    prompt_of_N = torch.repeat_interleave(torch.arange(6), torch.tensor([1, 2, 3, 5, 8, 8]))
    prompt_of_N = prompt_of_N[torch.randperm(len(prompt_of_N), generator=generator)]
    return torch.rand(len(prompt_of_N), generator=generator, dtype=torch.float64), prompt_of_N


@pytest.mark.parametrize(("reward", "prompt_of", "expected"), BY_HAND)
def test_advantages_match_hand_computed_values(reward, prompt_of, expected):
    found_N = group_advantages(rewards(*reward), torch.tensor(prompt_of), eps_std=1e-15)
    assert found_N.tolist() == pytest.approx(expected, abs=1e-12)


def test_advantages_of_uneven_unordered_groups_match_a_naive_loop():
    reward_N, prompt_of_N = uneven_batch()
    found_N = group_advantages(reward_N, prompt_of_N, eps_std=1e-3)
    assert found_N.tolist() == pytest.approx(naive(reward_N, prompt_of_N, 1e-3), abs=1e-12)


def test_eps_is_added_to_the_deviation_and_not_to_the_variance():
    found_N = group_advantages(rewards(1, 0, 0, 0), torch.zeros(4, dtype=torch.long), eps_std=0.5)
    assert found_N.tolist() == pytest.approx([0.75, -0.25, -0.25, -0.25])


@pytest.mark.parametrize("value", [0.0, 1.0, 0.1, -2.7, 1e8])
@pytest.mark.parametrize("size", [1, 3, 7])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_group_without_signal_has_advantage_exactly_zero(value, size, dtype):
    reward_N = torch.full((size,), value, dtype=dtype)
    prompt_of_N = torch.zeros(size, dtype=torch.long)
    assert group_advantages(reward_N, prompt_of_N).tolist() == [0.0] * size
    assert not has_signal(reward_N, prompt_of_N).any()


def test_group_without_signal_is_exactly_zero_even_where_eps_is_zero():
    assert group_advantages(rewards(1, 1, 1, 0), torch.tensor([0, 0, 1, 1]), eps_std=0)[:2].tolist() == [0.0, 0.0]


def test_every_group_sums_to_zero():
    reward_N, prompt_of_N = uneven_batch()
    sum_P = torch.zeros(6, dtype=torch.float64).index_add(0, prompt_of_N, group_advantages(reward_N, prompt_of_N))
    assert sum_P.abs().max() < 1e-12


def test_permuting_rows_permutes_advantages():
    reward_N, prompt_of_N = uneven_batch()
    order_N = torch.randperm(len(reward_N), generator=torch.Generator().manual_seed(0))
    permuted_N = group_advantages(reward_N[order_N], prompt_of_N[order_N])
    torch.testing.assert_close(permuted_N, group_advantages(reward_N, prompt_of_N)[order_N])


def test_groups_do_not_see_one_another():
    reward_N, prompt_of_N = uneven_batch()
    alone_N = prompt_of_N == 4
    changed_N = torch.where(alone_N, reward_N, reward_N * 100 - 3)
    torch.testing.assert_close(
        group_advantages(changed_N, prompt_of_N)[alone_N], group_advantages(reward_N, prompt_of_N)[alone_N]
    )


def test_names_of_groups_do_not_matter():
    reward_N, prompt_of_N = uneven_batch()
    torch.testing.assert_close(group_advantages(reward_N, 3 * prompt_of_N + 2), group_advantages(reward_N, prompt_of_N))


def test_scale_and_offset_of_the_reward_do_not_matter():
    reward_N, prompt_of_N = uneven_batch()
    torch.testing.assert_close(
        group_advantages(5 * reward_N - 2, prompt_of_N, eps_std=1e-15),
        group_advantages(reward_N, prompt_of_N, eps_std=1e-15),
    )


def test_without_normalisation_rewards_are_only_centred():
    found_N = group_advantages(rewards(1, 0, 0, 0, 9), torch.tensor([0, 0, 0, 0, 1]), normalize_std=False)
    assert found_N.tolist() == [0.75, -0.25, -0.25, -0.25, 0.0]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("normalize_std", [True, False])
@pytest.mark.parametrize("others", [(), (0.0,), (1.0, 0.0)], ids=["alone", "beside one", "beside two"])
def test_a_reward_that_is_not_finite_is_never_an_advantage_of_zero(value, normalize_std, others):
    """And it is seen in its own group only."""
    reward_N = rewards(1, 0, *others, value)
    prompt_of_N = torch.tensor([0, 0, *[1] * len(others), 1])
    found_N = group_advantages(reward_N, prompt_of_N, normalize_std=normalize_std)
    assert not found_N[2:].isfinite().any()
    assert torch.equal(found_N[:2], group_advantages(rewards(1, 0), prompt_of_N[:2], normalize_std=normalize_std))


def test_an_empty_batch_has_no_advantages():
    empty_N = torch.zeros(0, dtype=torch.long)
    assert group_advantages(rewards(), empty_N).shape == (0,)
    assert has_signal(rewards(), empty_N).shape == (0,)


@pytest.mark.parametrize(
    ("reward", "prompt_of", "expected"),
    [
        ([1, 1, 1], [0, 0, 0], [False, False, False]),
        ([1, 0, 1], [0, 0, 1], [True, True, False]),
        ([0, 1, 1, 1], [1, 0, 1, 0], [True, False, True, False]),
        ([-5, -5, -4], [2, 2, 2], [True, True, True]),
    ],
)
def test_signal_is_two_different_rewards_in_one_group(reward, prompt_of, expected):
    assert has_signal(rewards(*reward), torch.tensor(prompt_of)).tolist() == expected


def test_deviations_are_unbiased_within_each_group_and_0_for_a_single_row():
    reward_N = torch.tensor([1.0, 0.0, 5.0, 1.0, 0.0, 2.0], dtype=torch.float64)
    prompt_of_N = torch.tensor([0, 0, 1, 0, 0, 2])
    expected = [float(torch.tensor([1.0, 0, 1, 0], dtype=torch.float64).std()), 0.0, 0.0]
    assert group_deviations(reward_N, prompt_of_N).tolist() == pytest.approx(expected)
