"""Prompts and responses in one sequence: the tree of prefixes, its layout, and when it is less work."""

from dataclasses import replace

import pytest
import torch

from copd.model.packing import LONGEST, bins_of, pack, packed_size, pays, tree_of
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
    tree = tree_of(rollouts, 128)
    prefixes = {(p, *tokens[:t]) for p, tokens in ROWS for t in range(len(tokens) + 1)}
    assert sorted(path_to(tree, node) for node in range(len(tree.parent_K))) == sorted(prefixes)
    assert tree.depth_K.tolist() == sorted(tree.depth_K.tolist())


def test_each_response_token_has_the_node_that_ends_in_it(rollouts):
    tree = tree_of(rollouts, 128)
    expected = [(p, *tokens[: t + 1]) for p, tokens in ROWS for t in range(len(tokens))]
    assert [path_to(tree, node) for node in tree.node_M.tolist()] == expected


def test_only_what_something_follows_is_computed(rollouts, encoded):
    tree = tree_of(rollouts, 128)
    inner = {path_to(tree, node) for node in tree.inner_K.nonzero()[:, 0].tolist()}
    assert inner == {(0,), (1,), (0, 5), (0, 5, 6), (1, 5)}
    lengths = encoded.mask_PS.sum(-1).tolist()
    assert packed_size(encoded, tree) == [lengths[0] + 2, lengths[1] + 1]


def test_a_response_token_sees_its_prompt_and_the_tokens_before_it_and_nothing_else(rollouts, encoded):
    tree, packed = tree_of(rollouts, 128), pack(encoded, tree_of(rollouts, 128))
    ids_X, sees_XL = packed.prompts.ids_PS.flatten(), packed.sees_BLL.flatten(0, 1)
    for node in tree.responses_E.tolist():
        prompt, *tokens = path_to(tree, node)
        place = int(packed.before_K[node])
        start = place // packed.sees_BLL.shape[-1] * packed.sees_BLL.shape[-1]
        seen = ids_X[start : start + packed.sees_BLL.shape[-1]][sees_XL[place]].tolist()
        assert seen == [*encoded.ids_PS[prompt][encoded.mask_PS[prompt]].tolist(), *tokens[:-1]]


def test_a_response_goes_on_at_the_position_after_its_prompt(rollouts, encoded):
    tree, packed = tree_of(rollouts, 128), pack(encoded, tree_of(rollouts, 128))
    position_X = packed.prompts.positions_APS[0].flatten()
    for node in tree.responses_E.tolist():
        last = int(encoded.next_position_P[tree.prompt_K[node]]) - 1
        assert position_X[packed.before_K[node]] == last + int(tree.depth_K[node]) - 1


@pytest.mark.parametrize(
    ("sizes", "bins", "starts"),
    [
        ([5], [0], [0]),
        ([3, 7, 4, 2], [1, 0, 1, 2], [4, 0, 0, 0]),
        ([3, 8, 4, 1, 5], [1, 0, 2, 2, 1], [5, 0, 0, 4, 0]),
        ([6, 6], [0, 1], [0, 0]),
    ],
)
def test_sequences_are_as_long_as_the_largest_group_and_filled_the_largest_first(sizes, bins, starts):
    assert bins_of(sizes) == (bins, starts, max(sizes))


def test_packing_pays_where_responses_are_of_uneven_length_or_begin_alike(policy, written, problems_of):
    def judged(rollouts, width=1024, cached=True):
        prompts = policy.encoder.encode(rollouts.problems, torch.device("cpu"))
        return pays(prompts, rollouts, tree_of(rollouts, 128), width, cached=cached)

    problem = problems_of["text"][:1]
    even = written(policy, problem, [(9, 9, 9, 9)])
    assert judged(written(policy, problem, [(20, 2, 2, 2)]))
    assert judged(replace(even, tokens_NT=even.tokens_NT[:1].expand(4, -1)))
    assert not judged(written(policy, problem, [(90,) * 8]), width=16), "attention to all of a long sequence costs more"
    alike = written(policy, problem, [(20,) * 8])
    assert not judged(alike, width=256)
    assert judged(alike, width=256, cached=False), "without a cache the prompt would be computed again for each"
    assert not judged(written(policy, problem, [(LONGEST, 2, 2, 2, 2, 2)])), "a mask of that size is too large"
