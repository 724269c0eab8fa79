"""Prompts and responses in one sequence: trees of prefixes, their layout, who sees what, and which is less work."""

from dataclasses import replace

import pytest
import torch

from copd.compute.packing import ALIKE, FULL, LONGEST, alike, chains_of, layout_of, pack, tree_of, tree_pays
from copd.types import Rollouts

ROWS = ((0, (5, 6, 7)), (1, (5, 6)), (0, (5, 6, 8)), (0, (9,)), (0, (5, 6, 7)))
"""Prompt and tokens of each response: two are equal, three begin alike, one prompt's beginning is another's."""


@pytest.fixture
def rollouts(problems_of):
    """`ROWS` as answers to two problems."""
    longest = max(len(tokens) for _, tokens in ROWS)
    tokens_NT = torch.tensor([[*tokens, *[3] * (longest - len(tokens))] for _, tokens in ROWS])
    mask_NT = torch.arange(longest) < torch.tensor([len(tokens) for _, tokens in ROWS])[:, None]
    return Rollouts(
        problems=problems_of["text"][:2],
        tokens_NT=tokens_NT,
        mask_NT=mask_NT,
        finished_N=torch.ones(len(ROWS), dtype=torch.bool),
        logp_NT=torch.zeros(mask_NT.shape),
        prompt_of_N=torch.tensor([p for p, _ in ROWS]),
        temperature=1.0,
    )


@pytest.fixture
def encoded(policy, problems_of):
    """The two problems' prompts."""
    return policy.encoder.encode(problems_of["text"][:2], torch.device("cpu"))


def path_to(tree, node: int) -> tuple[int, ...]:
    """A prompt and the tokens on the way from it to a node."""
    if tree.depth_K[node] == 0:
        return (int(tree.prompt_K[node]),)
    return (*path_to(tree, int(tree.parent_K[node])), int(tree.token_K[node]))


def test_each_distinct_prefix_is_one_node(rollouts):
    tree = tree_of(rollouts)
    prefixes = {(p, *tokens[:t]) for p, tokens in ROWS for t in range(len(tokens) + 1)}
    assert sorted(path_to(tree, node) for node in range(len(tree.parent_K))) == sorted(prefixes)
    assert tree.depth_K.tolist() == sorted(tree.depth_K.tolist())


def test_the_tree_of_any_rows_has_each_of_their_prefixes_once(rollouts):
    draw = torch.Generator().manual_seed(0)
    for _ in range(20):
        tokens_NT = torch.randint(2, (9, 4), generator=draw)
        mask_NT = torch.arange(4) < torch.randint(5, (9, 1), generator=draw)
        prompt_of_N = torch.randint(2, (9,), generator=draw)
        tree = tree_of(replace(rollouts, tokens_NT=tokens_NT, mask_NT=mask_NT, prompt_of_N=prompt_of_N))
        rows = [
            (p, *tokens[mask].tolist())
            for p, tokens, mask in zip(prompt_of_N.tolist(), tokens_NT, mask_NT, strict=True)
        ]
        expected = [row[:t] for row in rows for t in range(2, len(row) + 1)]
        prefixes = {(0,), (1,), *expected}
        assert sorted(path_to(tree, node) for node in range(len(tree.parent_K))) == sorted(prefixes)
        assert [path_to(tree, node) for node in tree.node_M.tolist()] == expected
        assert tree.depth_K.tolist() == sorted(tree.depth_K.tolist())


def test_each_response_token_has_the_node_that_ends_in_it(rollouts):
    tree = tree_of(rollouts)
    expected = [(p, *tokens[: t + 1]) for p, tokens in ROWS for t in range(len(tokens))]
    assert [path_to(tree, node) for node in tree.node_M.tolist()] == expected


def test_each_token_of_each_row_is_a_node_of_a_chain(rollouts):
    tree = chains_of(rollouts)
    expected = [(p, *tokens[: t + 1]) for p, tokens in ROWS for t in range(len(tokens))]
    assert [path_to(tree, node) for node in tree.node_M.tolist()] == expected
    assert tree.node_M.tolist() == list(range(2, 2 + len(expected)))


def test_only_what_something_follows_is_computed(rollouts, encoded):
    tree = tree_of(rollouts)
    inner = {path_to(tree, node) for node in tree.inner_K.nonzero()[:, 0].tolist()}
    assert inner == {(0,), (1,), (0, 5), (0, 5, 6), (1, 5)}
    lengths = encoded.mask_PS.sum(-1).tolist()
    assert layout_of(encoded, tree).size_P.tolist() == [lengths[0] + 2, lengths[1] + 1]
    assert layout_of(encoded, chains_of(rollouts)).size_P.tolist() == [lengths[0] + 2 + 2 + 0 + 2, lengths[1] + 1]


def seen(windows, token: int) -> list[int]:
    """Where in the sequence the tokens stand that this one attends to."""
    for window, sees_BTS, after_B in zip(windows.each, windows.sees, windows.after, strict=True):
        for b, t in ((window.token_BT == token) & window.real_BT).nonzero().tolist():
            first = windows.each[0].token_BT[after_B[b]] if after_B is not None else window.token_BT[b][:0]
            return torch.cat([first, window.token_BT[b]])[sees_BTS[b, t]].tolist()
    raise AssertionError(f"nobody has token {token}")


@pytest.mark.parametrize("packing", ["trees", "rows"])
def test_a_response_token_sees_its_prompt_and_the_tokens_before_it_and_nothing_else(rollouts, encoded, packing):
    tree, packed = pack(encoded, rollouts, 128, packing)
    ids_X = packed.prompts.ids_PS[0]
    for node in tree.responses_E.tolist():
        prompt, *tokens = path_to(tree, node)
        found = ids_X[seen(packed.windows, int(packed.before_K[node]))].tolist()
        assert found == [*encoded.ids_PS[prompt][encoded.mask_PS[prompt]].tolist(), *tokens[:-1]]


@pytest.mark.parametrize("packing", ["trees", "rows"])
def test_a_prompt_token_sees_those_before_it_and_itself(rollouts, encoded, packing):
    _, packed = pack(encoded, rollouts, 128, packing)
    for last, length in zip(packed.before_K[:2].tolist(), encoded.mask_PS.sum(-1).tolist(), strict=True):
        first = last - length + 1
        assert all(seen(packed.windows, t) == list(range(first, t + 1)) for t in range(first, last + 1))


@pytest.mark.parametrize("packing", ["trees", "rows"])
def test_a_response_goes_on_at_the_position_after_its_prompt(rollouts, encoded, packing):
    tree, packed = pack(encoded, rollouts, 128, packing)
    for node in tree.responses_E.tolist():
        last = int(encoded.next_position_P[tree.prompt_K[node]]) - 1
        assert packed.prompts.positions_APS[0, 0, packed.before_K[node]] == last + int(tree.depth_K[node]) - 1


def test_a_sequence_is_filled_up_with_tokens_that_are_no_placeholders(rollouts, encoded):
    encoded.ids_PS[0, -1] = 77
    _, packed = pack(encoded, rollouts, 128, "rows")
    tokens = int(layout_of(encoded, chains_of(rollouts)).size_P.sum())
    ids_X = packed.prompts.ids_PS[0]
    assert len(ids_X) == -(-tokens // FULL) * FULL > tokens
    assert set(ids_X[tokens:].tolist()) == {77}


@pytest.mark.parametrize(
    ("sizes", "groups"),
    [
        ([5], [[0]]),
        ([3, 10, 7, 6, 7], [[1, 2, 4], [3], [0]]),
        ([4, 4], [[0, 1]]),
        ([0, 2, 0], [[1], [0, 2]]),
    ],
)
def test_groups_hold_what_is_about_as_large_the_largest_first(sizes, groups):
    assert ALIKE == 0.7
    assert [group.tolist() for group in alike(torch.tensor(sizes))] == groups


def test_trees_pay_where_responses_begin_alike_and_attention_is_cheap(policy, written, problems_of):
    def judged(rollouts, width=1024):
        prompts = policy.encoder.encode(rollouts.problems, torch.device("cpu"))
        layouts = (layout_of(prompts, tree) for tree in (tree_of(rollouts), chains_of(rollouts)))
        return tree_pays(*layouts, rollouts, width)

    problem = problems_of["text"][:1]
    different = replace(written(policy, problem, [(9,) * 4]), tokens_NT=torch.arange(5, 41).reshape(4, 9))
    equal = replace(different, tokens_NT=different.tokens_NT[:1].expand(4, -1))
    assert judged(equal)
    assert not judged(different), "no token less, and more to look through"
    long = written(policy, problem, [(90,) * 8])
    alike = replace(long, tokens_NT=torch.cat([long.tokens_NT[:1, :20].expand(8, -1), long.tokens_NT[:, 20:]], dim=1))
    assert judged(alike)
    assert not judged(alike, width=16), "attention to all of a long sequence costs more"
    for length, expected in ((LONGEST // 2, True), (LONGEST, False)):
        two = written(policy, problem, [(length, length)])
        same = replace(two, tokens_NT=two.tokens_NT[:1].expand(2, -1))
        assert judged(same, width=1 << 20) == expected, "a mask of that size is too large"


def test_a_row_of_no_tokens_has_no_windows(policy, rollouts, encoded):
    empty = replace(rollouts, mask_NT=rollouts.mask_NT & (torch.arange(len(ROWS)) != 3)[:, None])
    for packing in ("trees", "rows", "either"):
        tree, packed = pack(encoded, empty, 128, packing)
        assert len(tree.node_M) == int(empty.mask_NT.sum())
        assert packed.prompts.ids_PS.shape == (1, FULL)
