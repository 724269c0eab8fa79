"""Prompts with the responses to them in one sequence, each distinct prefix once, several prompts beside one another.

Responses to a prompt form a tree: a node is a prompt and the tokens after it that some row has, its parent is the same
without the last token. A token attends to the nodes on its way from the root and to nothing else, so that each is
computed as if its row stood alone. No cache is needed, and hardly any padding.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from copd.model.decode import distinct_prefixes
from copd.model.encode import Prompts
from copd.types import Rollouts

LONGEST = 4096
"""Tokens of a prompt and its responses that may be packed: their mask then has 16 MiB."""


class Tree(NamedTuple):
    """K distinct prefixes, of which the first P are the bare prompts; parents stand before their children.

    parent_K, token_K  the node without the last token, and that token; a prompt is its own parent, its token is 0
    prompt_K, depth_K  the prompt, and the number of tokens after it
    node_M             the node that ends in each response token, row by row
    """

    parent_K: Tensor
    token_K: Tensor
    prompt_K: Tensor
    depth_K: Tensor
    node_M: Tensor

    @property
    def responses_E(self) -> Tensor:
        """The nodes that are no bare prompts."""
        return (self.depth_K > 0).nonzero()[:, 0]

    @property
    def inner_K(self) -> Tensor:
        """The nodes that something follows; the others need not be computed. [K] bool, True for prompts."""
        inner_K = self.depth_K == 0
        inner_K[self.parent_K] = True
        return inner_K


def tree_of(rollouts: Rollouts, vocabulary: int) -> Tree:
    """The tree of the responses, whose tokens are below `vocabulary`; on the CPU."""
    tokens_NT, mask_NT, prompt_of_N = (
        each.cpu() for each in (rollouts.tokens_NT, rollouts.mask_NT, rollouts.prompt_of_N)
    )
    node_N, node_NT = prompt_of_N.clone(), torch.zeros_like(tokens_NT)
    roots_P = torch.arange(count := len(rollouts.problems))
    parents, tokens, owners = [roots_P], [torch.zeros_like(roots_P)], [roots_P]
    for t in range(tokens_NT.shape[1]):
        row_R = mask_NT[:, t].nonzero()[:, 0]
        parent_L, token_L, place_R = distinct_prefixes(node_N[row_R], tokens_NT[row_R, t], vocabulary)
        parents.append(parent_L)
        tokens.append(token_L)
        owners.append(prompt_of_N[row_R].new_zeros(len(parent_L)).scatter_(0, place_R, prompt_of_N[row_R]))
        node_N[row_R] = node_NT[row_R, t] = count + place_R
        count += len(parent_L)
    depth_K = torch.arange(len(parents)).repeat_interleave(torch.tensor([len(level) for level in parents]))
    return Tree(torch.cat(parents), torch.cat(tokens), torch.cat(owners), depth_K, node_NT[mask_NT])


def bins_of(size_P: list[int]) -> tuple[list[int], list[int], int]:
    """First fit, the largest first, into sequences as long as the largest: the bin of each, its start, that length."""
    length = max(size_P)
    bin_P, start_P, filled = [0] * len(size_P), [0] * len(size_P), list[int]()
    for p in sorted(range(len(size_P)), key=lambda p: -size_P[p]):
        b = next((b for b, used in enumerate(filled) if used + size_P[p] <= length), len(filled))
        if b == len(filled):
            filled.append(0)
        bin_P[p], start_P[p] = b, filled[b]
        filled[b] += size_P[p]
    return bin_P, start_P, length


class Packed(NamedTuple):
    """Sequences [B, L] that hold prompts and the inner nodes of their trees.

    prompts     token ids, positions and media in the order in which they stand
    sees_BLL    which tokens each attends to; padding sees itself
    before_K    where in the flattened sequences the token stands after which each node's token comes
    """

    prompts: Prompts
    sees_BLL: Tensor
    before_K: Tensor


def packed_size(prompts: Prompts, tree: Tree) -> list[int]:
    """Tokens of each prompt with its inner nodes."""
    nodes_P = torch.bincount(tree.prompt_K[tree.inner_K], minlength=len(prompts.ids_PS)) - 1
    return (prompts.mask_PS.sum(-1).cpu() + nodes_P).tolist()


def pays(prompts: Prompts, rollouts: Rollouts, tree: Tree, width: int, *, cached: bool) -> bool:
    """Whether packing is less work than the alternative, in a model of this width.

    That is a prompt's cache repeated for its rows, or where nothing can be `cached` the prompt again for each. Counted
    are the products of layers, about 12 width^2 a token, and of attention, 2 width for each token in sight or masked
    out. Sequences longer than `LONGEST` are never packed: their masks would grow with the square.
    """
    sizes_P = packed_size(prompts, tree)
    longest = max(sizes_P)
    bins = max(bins_of(sizes_P)[0]) + 1
    (count, prompt), (rows, response) = prompts.ids_PS.shape, rollouts.tokens_NT.shape

    def work(tokens: int, seen: int) -> int:
        return tokens * (12 * width**2 + 2 * width * seen)

    again = 0 if cached else rows * prompt
    otherwise = work(count * prompt * cached, prompt) + work(again + rows * (response - 1), prompt + response)
    return longest <= LONGEST and work(bins * longest, longest) < otherwise


def pack(prompts: Prompts, tree: Tree) -> Packed:
    """Lay out prompts and trees, where the prompts are; `before_K` stays on the CPU."""
    length_P = prompts.mask_PS.sum(-1).cpu()
    bin_P, start_P, longest = (torch.tensor(each) for each in bins_of(packed_size(prompts, tree)))
    origin_P = bin_P * longest + start_P
    bins, total = int(bin_P.max()) + 1, (int(bin_P.max()) + 1) * int(longest)
    inner_K, is_node_K = tree.inner_K, tree.depth_K > 0
    node_I = (inner_K & is_node_K).nonzero()[:, 0]
    place_K = torch.zeros_like(tree.parent_K)
    place_K[: len(origin_P)] = origin_P + length_P - 1
    place_K[node_I] = origin_P[tree.prompt_K[node_I]] + length_P[tree.prompt_K[node_I]] + _rank(tree.prompt_K[node_I])

    mask_PS, positions_APS = prompts.mask_PS.cpu(), prompts.positions_APS.cpu()
    at_M = (origin_P - (mask_PS.shape[1] - length_P))[:, None].add(torch.arange(mask_PS.shape[1]))[mask_PS]
    ids_X = torch.zeros(total, dtype=torch.long)
    positions_AX = torch.zeros(len(positions_APS), total, dtype=torch.long)
    ids_X[at_M], positions_AX[:, at_M] = prompts.ids_PS.cpu()[mask_PS], positions_APS[:, mask_PS]
    ids_X[place_K[node_I]] = tree.token_K[node_I]
    next_P = prompts.next_position_P.cpu()
    positions_AX[:, place_K[node_I]] = next_P[tree.prompt_K[node_I]] + tree.depth_K[node_I] - 1

    sees_XL = torch.eye(int(longest), dtype=torch.bool).repeat(bins, 1)
    for origin, start, length in zip(origin_P.tolist(), start_P.tolist(), length_P.tolist(), strict=True):
        sees_XL[origin : origin + length, start : start + length] = torch.ones(length, length, dtype=torch.bool).tril()
    for level in node_I.split(torch.bincount(tree.depth_K[node_I])[1:].tolist()) if len(node_I) else ():
        sees_XL[place_K[level]] |= sees_XL[place_K[tree.parent_K[level]]]

    shape, device = (bins, int(longest)), prompts.ids_PS.device
    order = sorted(range(len(origin_P)), key=lambda p: int(origin_P[p]))
    laid = Prompts(
        ids_X.reshape(shape).to(device),
        torch.ones(shape, dtype=torch.bool, device=device),
        positions_AX.reshape(-1, *shape).to(device),
        [prompts.media_of_P[p] for p in order],
    )
    return Packed(laid, sees_XL.reshape(*shape, -1).to(device), place_K[tree.parent_K])


def _rank(group_I: Tensor) -> Tensor:
    """How many of the same group stand before each."""
    order_I = group_I.argsort(stable=True)
    counts_P = torch.bincount(group_I) if len(group_I) else group_I
    first_P = counts_P.cumsum(0) - counts_P
    rank_I = torch.empty_like(group_I)
    rank_I[order_I] = torch.arange(len(group_I)) - first_P[group_I[order_I]]
    return rank_I
