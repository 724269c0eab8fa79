"""Overlap and KL between branches whose distributions are given tables, on the student's own tokens only."""

import asyncio
import math
from types import SimpleNamespace

import pytest
import scipy.stats
import torch

from copd.measure import behaviour
from copd.measure.behaviour import measure_behaviour, measure_one_model
from copd.types import Problem, Rollouts, Score, Split

POSITION_0 = {"a": [0.4, 0.3, 0.2, 0.1], "b": [0.5, 0.1, 0.3, 0.1 - 1e-9]}
POSITION_1 = {"a": [0.35, 0.45, 0.15, 0.05], "b": [0.1, 0.05, 0.6, 0.25]}


class Table:
    """A branch that answers with given tokens and whose distribution depends on the position alone.

    It can be asked to answer for validation and to look at answers, and for nothing that a ledger counts.
    """

    def __init__(self, name: str, table_TV, mask_NT, reward_N) -> None:
        self.name = name
        self.logp_TV = torch.as_tensor(table_TV, dtype=torch.float64).log().log_softmax(-1)
        self.mask_NT = torch.tensor(mask_NT)
        self.reward_N = torch.tensor(reward_N)
        self.allowed_tokens = self.logp_TV.shape[-1]
        self.asked: list[tuple[object, ...]] = []
        self.inspected: list[int] = []

    async def answer_first(self, split, task, count, rollouts_per_prompt, *, greedy) -> Rollouts:
        self.asked.append((split, task, count, rollouts_per_prompt, greedy))
        rows = len(self.mask_NT)
        return Rollouts(
            problems=(Problem("0", task, "sum: 3 8", "11", "integer"),),
            tokens_NT=torch.zeros(self.mask_NT.shape, dtype=torch.long),
            mask_NT=self.mask_NT,
            finished_N=torch.ones(rows, dtype=torch.bool),
            logp_NT=torch.zeros(self.mask_NT.shape),
            prompt_of_N=torch.zeros(rows, dtype=torch.long),
            temperature=1.0,
            reward_N=self.reward_N,
            correct_N=self.reward_N == 1,
        )

    async def inspect(self, rollouts, k, ids_NTK=None) -> Score:
        self.inspected.append(k)
        rows = len(rollouts.tokens_NT)
        logp_NTV = self.logp_TV.expand(rows, *self.logp_TV.shape)
        top = logp_NTV.topk(k)
        at = None if ids_NTK is None else logp_NTV.gather(-1, ids_NTK)
        return Score(logp_NTV[..., 0], 0, top.indices, top.values, at)

    async def texts(self, rollouts) -> list[str]:
        return [f"{self.name} answers row {n}" for n in range(len(rollouts.tokens_NT))]

    async def pieces(self, rollouts, row) -> list[str]:
        return [f"{self.name}{row}.{t}" for t in range(int(rollouts.mask_NT[row].sum()))]


def two_branches() -> dict[str, Table]:
    """a answers with tokens at positions 0, 1 and 0; b with one at 0 and one at 1."""
    return {
        name: Table(name, [POSITION_0[name], POSITION_1[name]], mask, rewards)
        for name, mask, rewards in [
            ("a", [[True, True], [True, False]], [1.0, 0.0]),
            ("b", [[True, True], [False, False]], [0.0, 0.0]),
        ]
    }


def measure(branches, ks=(2, 1), capabilities=("text",)):
    return asyncio.run(measure_behaviour(branches, capabilities, problems=5, ks=ks))


def both_ways(p, q) -> float:
    return float(scipy.stats.entropy(p, q) + scipy.stats.entropy(q, p))


KL_0 = both_ways(POSITION_0["a"], POSITION_0["b"])
KL_1 = both_ways(POSITION_1["a"], POSITION_1["b"])


@pytest.mark.parametrize(
    ("k", "student", "teacher", "expected"),
    [
        (2, "a", "b", (0.5 + 0.0 + 0.5) / 3),
        (2, "b", "a", (0.5 + 0.0) / 2),
        (1, "a", "b", (1.0 + 0.0 + 1.0) / 3),
        (1, "b", "a", (1.0 + 0.0) / 2),
        (2, "a", "a", 1.0),
        (1, "b", "b", 1.0),
    ],
)
def test_overlap_is_the_mean_over_the_students_own_tokens(k, student, teacher, expected):
    assert measure(two_branches()).overlap[k][student][teacher] == pytest.approx(expected)


def test_symmetric_kl_is_exact_on_a_small_vocabulary():
    found = measure(two_branches())
    assert found.kl_is_exact
    assert found.symmetric_kl["a"]["b"] == pytest.approx((2 * KL_0 + KL_1) / 3, rel=1e-6)
    assert found.symmetric_kl["b"]["a"] == pytest.approx((KL_0 + KL_1) / 2, rel=1e-6)


def test_a_branch_agrees_with_itself_and_with_its_copy_entirely():
    a = two_branches()["a"]
    copy = Table("copy", [POSITION_0["a"], POSITION_1["a"]], [[True, True]], [0.0])
    found = measure({"a": a, "copy": copy})
    for other in ("a", "copy"):
        assert found.overlap[2]["a"][other] == 1.0
        assert found.mass_overlap["a"][other] == pytest.approx(1.0)
        assert found.symmetric_kl["a"][other] == pytest.approx(0.0, abs=1e-12)


def test_mass_overlap_is_taken_at_the_smallest_k():
    found = measure(two_branches(), ks=(3, 2))
    # Position 0: common tokens of {0, 1} and {0, 2} hold 0.4 of a's 0.7. Position 1: {1, 0} and {2, 3} have none.
    assert found.mass_overlap["a"]["b"] == pytest.approx((0.4 / 0.7 + 0 + 0.4 / 0.7) / 3)


def test_what_stands_in_the_padding_does_not_matter():
    branches = two_branches()
    widened = {
        name: Table(
            name,
            [*branch.logp_TV.exp().tolist(), [0.7, 0.1, 0.1, 0.1] if name == "a" else [0.1, 0.1, 0.1, 0.7]],
            torch.nn.functional.pad(branch.mask_NT, (0, 1)).tolist(),
            branch.reward_N.tolist(),
        )
        for name, branch in branches.items()
    }
    found, wide = measure(branches), measure(widened)
    assert wide.overlap == found.overlap
    assert wide.symmetric_kl["a"]["b"] == pytest.approx(found.symmetric_kl["a"]["b"])


def test_several_capabilities_are_pooled_by_token():
    assert measure(two_branches(), capabilities=("text", "image")).overlap == measure(two_branches()).overlap


def test_chance_is_k_of_the_allowed_tokens():
    assert measure(two_branches()).chance == {2: 0.5, 1: 0.25}


def test_accuracy_is_the_share_of_right_answers_of_each_branch_on_each_capability_whatever_they_earn():
    branches = two_branches()
    branches["b"].reward_N += 0.25
    found = measure(branches, capabilities=("text", "image"))
    assert found.accuracy == {"a": {"text": 0.5, "image": 0.5}, "b": {"text": 0.0, "image": 0.0}}


def test_every_branch_answers_the_validation_problems_of_every_capability():
    branches = two_branches()
    measure(branches, capabilities=("text", "image"))
    for branch in branches.values():
        assert [asked[:3] for asked in branch.asked] == [
            (Split.VALIDATION, "text", 5),
            (Split.VALIDATION, "image", 5),
        ]
        assert not any(greedy for *_, greedy in branch.asked)


def copies(*names: str) -> dict[str, Table]:
    """Branches that are one model."""
    return {name: Table(name, [POSITION_0["a"], POSITION_1["a"]], [[True, True]] * 2, [1.0, 0.0]) for name in names}


@pytest.mark.parametrize("names", [("a",), ("a", "b"), ("a", "b", "c", "d")])
def test_of_branches_that_are_one_model_a_shared_measure_finds_what_the_whole_one_finds(names):
    asked = {"problems": 5, "ks": (2, 1)}
    shared = asyncio.run(measure_one_model(copies(*names), ("text", "image", "video"), **asked))
    whole = asyncio.run(measure_behaviour(copies(*names), ("text", "image", "video"), **asked))
    for name in ("overlap", "chance", "kl_is_exact", "accuracy", "truncated_rate"):
        assert getattr(shared, name) == getattr(whole, name), name
    for name in ("mass_overlap", "symmetric_kl"):
        for row, of_whole in zip(getattr(shared, name).values(), getattr(whole, name).values(), strict=True):
            assert row == pytest.approx(of_whole, abs=1e-12)
    assert shared.shown.keys() == whole.shown.keys()
    assert {where: right.tolist() for where, right in shared.right.items()} == {
        where: right.tolist() for where, right in whole.right.items()
    }


def test_branches_that_are_one_model_answer_each_capability_once_in_turn():
    branches = copies("a", "b", "c", "d")
    found = asyncio.run(measure_one_model(branches, ("text", "image", "video"), problems=5, ks=(2,)))
    assert [[task for _, task, *_ in branch.asked] for branch in branches.values()] == [
        ["text"],
        ["image"],
        ["video"],
        [],
    ]
    assert [(s["branch"], s["capability"]) for s in found.samples] == [("a", "text"), ("b", "image"), ("c", "video")]


def test_a_sample_of_every_branch_and_capability_is_kept():
    samples = measure(two_branches(), capabilities=("text", "image")).samples
    assert [(s["branch"], s["capability"]) for s in samples] == [
        ("a", "text"),
        ("a", "image"),
        ("b", "text"),
        ("b", "image"),
    ]
    assert samples[0] == {
        "branch": "a",
        "capability": "text",
        "problem": "0",
        "prompt": "sum: 3 8",
        "answer": "11",
        "response": "a answers row 0",
        "reward": 1.0,
        "tokens": ["a0.0", "a0.1"],
        "tokens_in_all": 2,
        "logp": [round(math.log(p), 4) for p in (0.4, 0.35)],
        "delta": {"b": [round(math.log(q / p), 4) for p, q in ((0.4, 0.5), (0.35, 0.1))]},
    }


def test_the_problems_of_the_samples_are_handed_on():
    found = measure(two_branches(), capabilities=("text", "image"))
    assert {(s["capability"], s["problem"]) for s in found.samples} == set(found.shown)
    assert set(found.shown) == {("text", "0"), ("image", "0")}
    assert found.shown["image", "0"].prompt == "sum: 3 8"


def test_of_a_long_sample_the_first_tokens_are_kept(monkeypatch):
    monkeypatch.setattr(behaviour, "SAMPLED_TOKENS", 1)
    sample = measure(two_branches()).samples[0]
    assert (len(sample["tokens"]), len(sample["logp"]), len(sample["delta"]["b"])) == (1, 1, 1)
    assert sample["tokens_in_all"] == 2
    assert sample["response"] == "a answers row 0"


def large_branches() -> dict[str, Table]:
    generator = torch.Generator().manual_seed(0)
    base_TV = torch.randn(2, 5000, generator=generator, dtype=torch.float64) * 3
    other_TV = base_TV + 0.5 * torch.randn(2, 5000, generator=generator, dtype=torch.float64)
    return {
        "a": Table("a", base_TV.exp(), [[True, True]], [1.0]),
        "b": Table("b", other_TV.exp(), [[True, True]], [1.0]),
    }


def test_on_a_large_vocabulary_the_kl_is_a_lower_bound_and_says_so():
    branches = large_branches()
    found = measure(branches)
    p_TV, q_TV = (branches[name].logp_TV.exp().numpy() for name in "ab")
    exact = sum(both_ways(p, q) for p, q in zip(p_TV, q_TV, strict=True)) / 2
    assert not found.kl_is_exact
    assert 0 < found.symmetric_kl["a"]["b"] < exact


def test_on_a_large_vocabulary_the_kl_is_over_the_students_likeliest_tokens_and_a_tail():
    branches = large_branches()
    p_TV, q_TV = (branches[name].logp_TV.exp() for name in "ab")
    expected = 0.0
    for p_V, q_V in zip(p_TV, q_TV, strict=True):
        ids = p_V.topk(64).indices
        buckets = [torch.cat([d_V[ids], 1 - d_V[ids].sum(0, keepdim=True)]).numpy() for d_V in (p_V, q_V)]
        expected += both_ways(*buckets) / 2
    assert measure(branches).symmetric_kl["a"]["b"] == pytest.approx(expected, rel=1e-6)
    assert (behaviour.WHOLE_VOCABULARY, behaviour.LIKELIEST) == (4096, 64)


def test_nobody_is_asked_for_more_tokens_than_needed():
    branches = large_branches()
    measure(branches, ks=(10, 5))
    assert {name: branch.inspected for name, branch in branches.items()} == {"a": [64, 10], "b": [64, 10]}


def test_a_handle_needs_no_more_than_to_answer_and_to_look():
    plain = {
        name: SimpleNamespace(
            name=name,
            allowed_tokens=branch.allowed_tokens,
            answer_first=branch.answer_first,
            inspect=branch.inspect,
            texts=branch.texts,
            pieces=branch.pieces,
        )
        for name, branch in two_branches().items()
    }
    assert measure(plain) == measure(two_branches())
