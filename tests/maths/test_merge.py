"""Every merge method by hand and by its identities, and what is refused by name."""

import math
from itertools import permutations

import pytest
import torch
from merges import mean, merge

from copd.maths.merge import (
    MERGES,
    NEED_BASE,
    Merged,
    dare,
    dare_mask,
    slerp,
    task_arithmetic,
    tensor_mean,
    ties,
    trim,
    weighted,
)
from copd.recipe.method_sections import DISTIL, MERGE_FIELDS, MergeSection

SETTINGS = {
    "mean": {},
    "weighted": {"weights": (3.0, 1.0)},
    "task_arithmetic": {"scale": 0.7},
    "ties": {"density": 0.5, "scale": 1.2, "weights": (3.0, 1.0)},
    "dare": {"density": 0.5, "scale": 0.7, "seed": 3},
    "slerp": {"weights": (3.0, 1.0)},
}
"""Settings of every method, for two branches."""
FIRST_KEPT = [9, 10, 11, 12, 15, 16]
"""The first entries of 64 that DARE keeps half of, for seed 0, branch 0 and the name "w": merges can be made again."""


def row(*values: float) -> torch.Tensor:
    return torch.tensor(values)


def noise(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def branch(seed: int, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "embed.weight": torch.randn(3, 2, generator=generator).to(dtype),
        "norm.bias": torch.randn(4, generator=generator).to(dtype),
    }


def test_mean_by_hand():
    merged = mean([{"w": torch.tensor([1.0, -2.0])}, {"w": torch.tensor([2.0, 4.0])}, {"w": torch.tensor([6.0, 4.0])}])
    assert merged["w"].tolist() == [3.0, 2.0]


def test_mean_matches_a_naive_loop():
    branches = [branch(seed) for seed in range(5)]
    merged = mean(branches)
    for name in ("embed.weight", "norm.bias"):
        flat = [b[name].flatten().tolist() for b in branches]
        expected = [math.fsum(values) / 5 for values in zip(*flat, strict=True)]
        assert merged[name].flatten().tolist() == pytest.approx(expected, rel=0, abs=1e-6)  # sums of numbers around 1


def test_the_mean_is_torchs_own_bit_for_bit():
    branches = [branch(seed, torch.bfloat16) for seed in range(3)]
    for name, tensor in mean(branches).items():
        assert torch.equal(tensor, torch.stack([b[name].float() for b in branches]).mean(0).bfloat16())


@pytest.mark.parametrize("copies", [1, 2, 3, 7])
def test_mean_of_equal_branches_is_the_branch(copies):
    merged = mean([branch(0)] * copies)
    for name, tensor in branch(0).items():
        torch.testing.assert_close(merged[name], tensor, rtol=1e-6, atol=0)


def test_order_of_the_branches_does_not_matter():
    branches = [branch(seed) for seed in range(3)]
    for name, tensor in mean(branches[::-1]).items():
        torch.testing.assert_close(tensor, mean(branches)[name])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_merge_keeps_the_branches_type_and_shape(dtype):
    merged = mean([branch(0, dtype), branch(1, dtype)])
    assert {name: (t.dtype, t.shape) for name, t in merged.items()} == {
        name: (dtype, t.shape) for name, t in branch(0).items()
    }


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_branches_of_several_types_make_the_type_that_holds_all(order):
    branches = [branch(0, torch.bfloat16), branch(1)]
    found, wide = mean([branches[k] for k in order]), mean([{n: t.float() for n, t in b.items()} for b in branches])
    for name, tensor in found.items():
        assert tensor.dtype == torch.float32
        torch.testing.assert_close(tensor, wide[name])
    halves = mean([branch(0, torch.bfloat16), branch(1, torch.float16)])
    assert {tensor.dtype for tensor in halves.values()} == {torch.float32}


def test_small_differences_survive_since_the_mean_is_taken_in_float32():
    branches = [{"w": torch.tensor([value], dtype=torch.bfloat16)} for value in (256.0, 1.0, 1.0)]
    assert mean(branches)["w"].item() == 86.0


def test_branches_are_left_as_they_were_and_share_no_memory_with_the_merge():
    branches = [branch(0), branch(1)]
    for tensor in mean(branches).values():
        tensor.fill_(9.0)
    for seed, kept in enumerate(branches):
        assert all(torch.equal(kept[name], tensor) for name, tensor in branch(seed).items())


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("k", [0, 2])
def test_a_value_that_is_not_finite_is_refused_with_tensor_and_branch(value, k):
    branches = [branch(seed) for seed in range(3)]
    branches[k]["norm.bias"][1] = value
    with pytest.raises(ValueError, match=rf"'norm\.bias' .*not finite in branch {k}"):
        mean(branches)


REFUSED = [
    pytest.param({"norm.bias": torch.zeros(5)}, r"'norm\.bias' is \[5\] in branch 1 and \[4\] in branch 0", id="shape"),
    pytest.param({"norm.bias": torch.zeros(1, 4)}, r"'norm\.bias' is \[1, 4\] in branch 1", id="rank"),
    pytest.param(
        {"head.weight": torch.zeros(2)}, r"branch 1 and branch 0 differ in tensor 'head\.weight'", id="untied"
    ),
]


@pytest.mark.parametrize(("changed", "message"), REFUSED)
def test_branches_that_do_not_match_are_refused_with_the_tensor_named(changed, message):
    with pytest.raises(ValueError, match=message):
        mean([branch(0), {**branch(1), **changed}, branch(2)])


def test_a_tensor_missing_in_a_later_branch_is_named():
    short = branch(2)
    del short["embed.weight"]
    with pytest.raises(ValueError, match=r"branch 2 and branch 0 differ in tensor 'embed\.weight'"):
        merge([branch(0), branch(1), short], method="mean")


def test_no_branches_are_refused():
    with pytest.raises(ValueError, match="no branches"):
        mean([])


def test_a_base_that_does_not_match_is_refused_by_name():
    with pytest.raises(ValueError, match=r"'norm\.bias' is \[5\] in base and \[4\] in branch 0"):
        merge([branch(0)], method="mean", base={**branch(1), "norm.bias": torch.zeros(5)})
    with pytest.raises(ValueError, match=r"base and branch 0 differ in tensor 'more': only base has it"):
        merge([branch(0)], method="mean", base={**branch(1), "more": torch.zeros(5)})
    infinite = {**branch(1), "norm.bias": torch.full((4,), math.inf)}
    with pytest.raises(ValueError, match=r"'norm\.bias' .*not finite in base"):
        merge([branch(0)], method="task_arithmetic", base=infinite, scale=0.5)


@pytest.mark.parametrize("method", MERGES)
@pytest.mark.parametrize(("base", "trained"), [(torch.bfloat16, torch.float32), (torch.float32, torch.bfloat16)])
def test_a_base_of_another_type_counts_in_float32_and_the_branches_type_is_kept(method, base, trained):
    start, branches = branch(7, base), [branch(0, trained), branch(1, trained)]
    wide = {name: tensor.float() for name, tensor in start.items()}
    merged = merge(branches, method=method, base=start, **SETTINGS[method])
    expected = merge(
        [{name: tensor.float() for name, tensor in model.items()} for model in branches],
        method=method,
        base=wide,
        **SETTINGS[method],
    )
    for name, tensor in merged.items():
        assert tensor.dtype == trained
        assert torch.equal(tensor, expected[name].to(trained)), name


@pytest.mark.parametrize("method", sorted(NEED_BASE))
def test_a_method_that_adds_to_the_base_says_so_where_there_is_none(method):
    with pytest.raises(ValueError, match=f"'{method}' needs the base"):
        merge([branch(0), branch(1)], method=method, **SETTINGS[method])


def test_the_methods_and_settings_of_a_recipe_are_those_of_the_table():
    assert set(MERGE_FIELDS) - {DISTIL} == set(MERGES) == set(SETTINGS)
    for method, settings in SETTINGS.items():
        assert MergeSection(method=method, **settings).settings == settings


@pytest.mark.parametrize("method", MERGES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_every_method_computes_in_float32_and_casts_once(method, dtype):
    base, branches = branch(7, dtype), [branch(0, dtype), branch(1, dtype)]
    wide = [{name: tensor.float() for name, tensor in model.items()} for model in (base, *branches)]
    merged = merge(branches, method=method, base=base, **SETTINGS[method])
    expected = merge(wide[1:], method=method, base=wide[0], **SETTINGS[method])
    for name, tensor in merged.items():
        assert torch.equal(tensor, expected[name].to(dtype)), name


@pytest.mark.parametrize("method", MERGES)
def test_no_method_changes_what_it_is_given(method):
    base, branches = branch(7), [branch(0), branch(1)]
    for tensor in merge(branches, method=method, base=base, **SETTINGS[method]).values():
        tensor.fill_(9.0)
    for kept, seed in zip((base, *branches), (7, 0, 1), strict=True):
        assert all(torch.equal(kept[name], tensor) for name, tensor in branch(seed).items())


@pytest.mark.parametrize("shape", [(), (1,), (0,), (2, 0), (2, 3, 4)])
@pytest.mark.parametrize("method", MERGES)
def test_every_method_takes_tensors_of_any_shape(method, shape):
    merged = merge(
        [{"w": noise(0, *shape)}, {"w": noise(1, *shape)}],
        method=method,
        base={"w": noise(2, *shape)},
        **SETTINGS[method],
    )
    assert merged["w"].shape == shape
    assert torch.isfinite(merged["w"]).all()


@pytest.mark.parametrize("method", ["mean", "weighted", "task_arithmetic", "ties"])
def test_no_order_of_the_branches_changes_the_merge(method):
    base, models, weights = noise(9, 40), [noise(k, 40) for k in range(3)], (1.0, 2.0, 5.0)
    merges = []
    for order in permutations(range(3)):
        settings = {
            **SETTINGS[method],
            **({"weights": [weights[k] for k in order]} if "weights" in SETTINGS[method] else {}),
        }
        merges.append(merge([{"w": models[k]} for k in order], method=method, base={"w": base}, **settings)["w"])
    for other in merges[1:]:
        torch.testing.assert_close(other, merges[0])


def test_weights_count_relative_to_their_sum_by_hand():
    merged = weighted([row(1.0, 0.0), row(5.0, 8.0)], weights=(1, 3))
    assert merged.tolist() == [4.0, 6.0]
    assert torch.equal(merged, weighted([row(1.0, 0.0), row(5.0, 8.0)], weights=(0.25, 0.75)))


def test_a_weight_of_zero_leaves_a_branch_out():
    assert torch.equal(weighted([noise(0, 5), noise(1, 5)], weights=(0, 2)), noise(1, 5))


@pytest.mark.parametrize("weight", [1.0, 1 / 3, 7.0])
def test_equal_weights_make_the_mean(weight):
    branches = [noise(k, 3, 5) for k in range(3)]
    torch.testing.assert_close(weighted(branches, weights=[weight] * 3), tensor_mean(branches))


@pytest.mark.parametrize("method", [weighted, lambda b, weights: ties(b[0], b, density=1, scale=1, weights=weights)])
def test_a_weight_per_branch_is_needed(method):
    with pytest.raises(ValueError, match=r"argument 2|weights for"):
        method([noise(0, 5), noise(1, 5)], weights=(1, 2, 3))


def test_task_arithmetic_by_hand():
    merged = task_arithmetic(row(1.0, 2.0), [row(2.0, 2.0), row(4.0, -2.0)], scale=0.5)
    assert merged.tolist() == [3.0, 0.0]


def test_task_arithmetic_at_one_over_k_is_the_mean_and_at_zero_the_base():
    base, branches = noise(9, 3, 5), [noise(k, 3, 5) for k in range(4)]
    torch.testing.assert_close(task_arithmetic(base, branches, scale=1 / 4), tensor_mean(branches))
    assert torch.equal(task_arithmetic(base, branches, scale=0.0), base)


TRIMMED = [
    pytest.param((3.0, -1.0, 2.0, -4.0), 0.5, [3.0, 0.0, 0.0, -4.0], id="the greatest by magnitude"),
    pytest.param((3.0, -1.0, 2.0, -4.0), 0.01, [0.0, 0.0, 0.0, -4.0], id="at least one"),
    pytest.param((3.0, -1.0, 2.0, -4.0), 0.74, [3.0, 0.0, 0.0, -4.0], id="the count is rounded down"),
    pytest.param((3.0, -1.0, 2.0, -4.0), 1.0, [3.0, -1.0, 2.0, -4.0], id="all"),
    pytest.param((2.0, -2.0, 1.0, 2.0), 0.25, [2.0, -2.0, 0.0, 2.0], id="equals stay together"),
    pytest.param((0.0, 0.0, 0.0, 0.0), 0.5, [0.0, 0.0, 0.0, 0.0], id="nothing has changed"),
]


@pytest.mark.parametrize(("delta", "density", "kept"), TRIMMED)
def test_trimming_by_hand(delta, density, kept):
    assert trim(row(*delta), density).tolist() == kept


def test_ties_by_hand_at_every_corner():
    """Columns: agreement; the stronger sign wins; only one moved; the sum is 0, plus wins; nobody moved."""
    branches = [row(1.0, 4.0, 2.0, 3.0, 0.0), row(3.0, -1.0, 0.0, -3.0, 0.0), row(2.0, -1.0, 0.0, 0.0, 0.0)]
    base = torch.full((5,), 10.0)
    merged = ties(base, [base + delta for delta in branches], density=1.0, scale=1.0)
    assert merged.tolist() == [12.0, 14.0, 12.0, 13.0, 10.0]
    scaled = ties(base, [base + delta for delta in branches], density=1.0, scale=0.5)
    assert scaled.tolist() == [11.0, 12.0, 11.0, 11.5, 10.0]


def test_ties_trims_before_it_elects():
    """Untrimmed, the second place of the first branch would win the election there."""
    merged = ties(row(0.0, 0.0), [row(9.0, 2.0), row(0.0, -1.0)], density=0.5, scale=1.0)
    assert merged.tolist() == [9.0, -1.0]


def test_weights_of_ties_count_in_the_election_and_in_the_mean():
    branches = [row(2.0, 4.0), row(-1.0, 1.0)]
    assert ties(row(0.0, 0.0), branches, density=1.0, scale=1.0).tolist() == [2.0, 2.5]
    assert ties(row(0.0, 0.0), branches, density=1.0, scale=1.0, weights=(1, 3)).tolist() == [-1.0, 1.75]
    assert ties(row(0.0, 0.0), branches, density=1.0, scale=1.0, weights=(0, 1)).tolist() == [-1.0, 1.0]


def test_ties_of_task_vectors_with_the_same_signs_is_the_mean():
    base, branches = noise(9, 30), [noise(9, 30) + noise(8, 30).sign() * noise(k, 30).abs() for k in range(3)]
    torch.testing.assert_close(ties(base, branches, density=1.0, scale=1.0), tensor_mean(branches))


def test_ties_of_one_branch_untrimmed_is_the_branch():
    torch.testing.assert_close(ties(noise(0, 30), [noise(1, 30)], density=1.0, scale=1.0), noise(1, 30))


def test_ties_matches_a_naive_loop():
    base, branches, weights, density = noise(9, 50), [noise(k, 50) for k in range(4)], (1.0, 2.0, 0.5, 3.0), 0.4
    deltas = [(branch - base).tolist() for branch in branches]
    for delta in deltas:
        least = sorted(map(abs, delta), reverse=True)[int(density * 50) - 1]
        delta[:] = [value if abs(value) >= least else 0.0 for value in delta]
    expected = []
    for start, *column in zip(base.tolist(), *deltas, strict=True):
        winner = 1 if sum(w * value for w, value in zip(weights, column, strict=True)) >= 0 else -1
        agreeing = [(w, value) for w, value in zip(weights, column, strict=True) if value * winner > 0]
        share = sum(w for w, _ in agreeing)
        expected.append(start + 0.8 * (sum(w * value for w, value in agreeing) / share if agreeing else 0.0))
    merged = ties(base, branches, density=density, scale=0.8, weights=weights)
    torch.testing.assert_close(merged, torch.tensor(expected))


def test_dares_mask_is_a_function_of_seed_branch_and_name_alone():
    first = dare_mask((64,), density=0.5, seed=0, branch=0, name="w")
    torch.manual_seed(5)
    assert torch.equal(first, dare_mask((64,), density=0.5, seed=0, branch=0, name="w"))
    assert first.nonzero()[:6, 0].tolist() == FIRST_KEPT
    others = [(1, 0, "w"), (0, 1, "w"), (0, 0, "v"), (11, 1, "w"), (1, 11, "w")]
    masks = [dare_mask((64,), density=0.5, seed=s, branch=b, name=n) for s, b, n in others]
    assert len({tuple(mask.tolist()) for mask in [first, *masks]}) == 6


@pytest.mark.parametrize("density", [0.1, 0.5, 0.8])
def test_dare_keeps_the_share_it_is_told_to(density):
    kept = dare_mask((200, 500), density=density, seed=1, branch=0, name="w").double().mean()
    assert abs(float(kept) - density) < 5 * math.sqrt(density * (1 - density) / 100_000)


def test_dare_drops_or_rescales_each_entry_by_its_branchs_mask():
    base, branches = noise(9, 64), [noise(0, 64), noise(1, 64)]
    masks = [dare_mask((64,), density=0.25, seed=4, branch=k, name="w") for k in range(2)]
    expected = base + 0.5 * sum(mask * (branch - base) / 0.25 for mask, branch in zip(masks, branches, strict=True))
    torch.testing.assert_close(dare(base, branches, density=0.25, scale=0.5, seed=4, name="w"), expected)
    dropped = ~masks[0] & ~masks[1]
    assert dropped.any()
    merged = dare(base, branches, density=0.25, scale=0.5, seed=4, name="w")
    assert torch.equal(merged[dropped], base[dropped])


def test_dare_is_task_arithmetic_in_expectation_and_at_density_one():
    base, branches = noise(9, 20), [noise(0, 20), noise(1, 20)]
    expected = task_arithmetic(base, branches, scale=0.4)
    assert torch.equal(dare(base, branches, density=1.0, scale=0.4, seed=0, name="w"), expected)
    draws = torch.stack([dare(base, branches, density=0.5, scale=0.4, seed=s, name="w") for s in range(4000)])
    error = draws.std(0) / math.sqrt(len(draws))
    assert ((draws.mean(0) - expected).abs() < 5 * error + 1e-6).all()


def test_slerp_between_right_angles_by_hand():
    third = [math.cos(math.pi / 6), math.sin(math.pi / 6)]
    torch.testing.assert_close(slerp(row(1.0, 0.0), row(0.0, 1.0), t=1 / 3), torch.tensor(third))
    torch.testing.assert_close(slerp(row(2.0, 0.0), row(0.0, 6.0), t=0.5), row(2.0, 6.0) * math.sqrt(0.5))


@pytest.mark.parametrize("other", [noise(1, 4, 5), noise(0, 4, 5) + 1e-3 * noise(1, 4, 5), -noise(0, 4, 5)])
def test_slerp_begins_and_ends_at_its_ends(other):
    assert torch.equal(slerp(noise(0, 4, 5), other, t=0.0), noise(0, 4, 5))
    torch.testing.assert_close(slerp(noise(0, 4, 5), other, t=1.0), other, rtol=0, atol=0)


@pytest.mark.parametrize("t", [0.1, 0.5, 0.9])
def test_slerp_keeps_the_length_and_shares_out_the_angle(t):
    x, y = (v / v.norm() * 3 for v in (noise(0, 200), noise(1, 200)))
    between = slerp(x, y, t=t)
    assert float(between.norm()) == pytest.approx(3, rel=1e-6)
    angle = math.acos(float(x @ y) / 9)
    assert math.acos(float(x @ between) / 9) == pytest.approx(t * angle, rel=1e-4)


LINES = [
    pytest.param(row(1.0, 2.0), row(3.0, 6.0), id="parallel"),
    pytest.param(row(1.0, 2.0), row(1.0, 2.0), id="equal"),
    pytest.param(row(1.0, 2.0), row(-1.0, -2.0), id="opposite"),
    pytest.param(row(0.0, 0.0), row(3.0, 6.0), id="from zero"),
    pytest.param(row(0.0, 0.0), row(0.0, 0.0), id="nothing but zero"),
    pytest.param(row(1e-30, 0.0), row(0.0, 0.0), id="to zero"),
]


@pytest.mark.parametrize(("x", "y"), LINES)
def test_slerp_without_a_determined_arc_is_the_straight_line(x, y):
    torch.testing.assert_close(slerp(x, y, t=0.25), 0.75 * x + 0.25 * y)


@pytest.mark.parametrize("step", [1e-6, 5e-5, 2e-4, 1e-2, 1.0])
def test_slerp_matches_the_formula_in_float64_down_to_the_smallest_angles(step):
    x, y = noise(0, 1000), noise(0, 1000) + step * noise(1, 1000)
    a, b = x.double(), y.double()
    angle = torch.acos((a @ b / a.norm() / b.norm()).clamp(-1, 1))
    expected = (torch.sin(0.7 * angle) * a + torch.sin(0.3 * angle) * b) / torch.sin(angle)
    torch.testing.assert_close(slerp(x, y, t=0.3).double(), expected, rtol=1e-5, atol=1e-6)


def test_weights_of_slerp_say_how_far_along_the_arc():
    first, second = {"w": row(1.0, 0.0)}, {"w": row(0.0, 1.0)}
    assert torch.equal(
        merge([first, second], method="slerp", weights=(1, 3))["w"], slerp(first["w"], second["w"], t=0.75)
    )
    assert torch.equal(merge([first, second], method="slerp")["w"], slerp(first["w"], second["w"], t=0.5))


def test_a_method_of_the_user_s_gets_float32_and_the_base_if_there_is_one_and_is_cast_once():
    seen = []

    def largest(name, branches, base):
        seen.append((name, {tensor.dtype for tensor in branches}, base))
        return torch.stack(branches).amax(0)

    halves = [{"w": torch.tensor([n, 2.0 - n], dtype=torch.bfloat16)} for n in (0.0, 1.0)]
    for base in (None, ("base", {"w": torch.zeros(2)})):
        named = [(str(i), half) for i, half in enumerate(halves)]
        merged = Merged(named, base, largest, {})["w"]
        assert merged.dtype == torch.bfloat16
        assert merged.tolist() == [1.0, 2.0]
    assert [(name, types) for name, types, _ in seen] == [("w", {torch.float32})] * 2
    assert seen[0][2] is None
    assert seen[1][2].tolist() == [0.0, 0.0]


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (lambda name, branches, base: 1 / 0, "'w' cannot be merged by a method of yours: ZeroDivisionError"),
        (lambda name, branches, base: 3.0, r"'w': the merge by a method of yours returned float; accepted: .* \[2\]"),
        (
            lambda name, branches, base: torch.ones(3),
            r"'w': .* returned a tensor of \[3\]; accepted: a tensor of \[2\]",
        ),
        (lambda name, branches, base: branches[0] / 0, "'w' has a value that is not finite in the merge by a method"),
    ],
)
def test_a_method_of_the_user_s_that_gives_no_such_tensor_is_told(method, message):
    with pytest.raises(ValueError, match=message):
        Merged([("a", {"w": torch.ones(2)}), ("b", {"w": torch.ones(2)})], None, method, {})["w"]
