"""Prompts and the responses to them in one sequence without padding, so that a prompt is computed once for its rows.

Responses to a prompt form a tree: a node is a prompt and the tokens after it that some row has, its parent is the same
without the last token. Either each distinct prefix is one node, and a token attends to the nodes on its way from the
root among all tokens of its prompt; or each token of each row is a node of its own, and attends to the prompt and its
row. The first computes fewer tokens, the second has less to look through. No cache is needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from copd.compute.encode import Prompts
from copd.compute.products import ROWS
from copd.compute.windows import Window, Windows
from copd.types import Rollouts

Packing = Literal["never", "trees", "rows", "either"]
LONGEST = 2048
"""Tokens of a prompt and its tree that may look through one another: 16 MiB of mask per query head of a key head."""
ALIKE = 0.7
"""Least size of what is computed with the largest of a window, as a part of it: the rest is padding of attention."""
FULL = ROWS
"""The length of a sequence is a multiple of it, so that products need not fill it up."""


class Tree(NamedTuple):
    """K prefixes, of which the first P are the bare prompts; parents stand before their children.

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


def chains_of(rollouts: Rollouts) -> Tree:
    """Every response token of every row as a node of its own, row by row; on the CPU."""
    mask_NT = rollouts.mask_NT.cpu()
    row_M, t_M = mask_NT.nonzero(as_tuple=True)
    prompt_M, roots_P = rollouts.prompt_of_N.cpu()[row_M], torch.arange(len(rollouts.problems))
    node_M, none_P = len(roots_P) + torch.arange(len(row_M)), torch.zeros_like(roots_P)
    return Tree(
        torch.cat([roots_P, torch.where(t_M == 0, prompt_M, node_M - 1)]),
        torch.cat([none_P, rollouts.tokens_NT.cpu()[mask_NT]]),
        torch.cat([roots_P, prompt_M]),
        torch.cat([none_P, t_M + 1]),
        node_M,
    )


def tree_of(rollouts: Rollouts) -> Tree:
    """The tree of the distinct prefixes, by depth and there by their tokens; on the CPU.

    In the rows in the order of their tokens, a prefix is new where something in it is another than in the row before.
    """
    mask_NT, prompt_of_N = rollouts.mask_NT.cpu(), rollouts.prompt_of_N.cpu()
    spoken_NT = torch.where(mask_NT, rollouts.tokens_NT.cpu(), -1)
    rows_DC, row_N = torch.unique(torch.cat([prompt_of_N[:, None], spoken_NT], dim=1), dim=0, return_inverse=True)
    prompt_D, token_TD = rows_DC[:, 0], rows_DC[:, 1:].t()
    other_DC = torch.ones_like(rows_DC, dtype=torch.bool)
    other_DC[1:] = rows_DC[1:] != rows_DC[:-1]
    new_TD = other_DC.cummax(dim=1).values[:, 1:].t() & (token_TD >= 0)
    roots_P = torch.arange(len(rollouts.problems))
    number_TD = len(roots_P) - 1 + new_TD.flatten().cumsum(0).view_as(new_TD)
    node_TD = torch.where(new_TD, number_TD, 0).cummax(dim=1).values
    t_E, d_E = new_TD.nonzero(as_tuple=True)
    none_P = torch.zeros_like(roots_P)
    return Tree(
        torch.cat([roots_P, torch.cat([prompt_D[None], node_TD[:-1]])[t_E, d_E]]),
        torch.cat([none_P, token_TD[t_E, d_E]]),
        torch.cat([roots_P, prompt_D[d_E]]),
        torch.cat([none_P, t_E + 1]),
        node_TD.t()[row_N][mask_NT],
    )


class Packed(NamedTuple):
    """One sequence of X tokens: prompts, each followed by the inner nodes of its tree, and a few that nobody sees.

    prompts    token ids, positions and media, as of one prompt
    windows    which tokens each attends to
    before_K   where in the sequence the token stands after which each node's token comes; on the CPU
    """

    prompts: Prompts
    windows: Windows
    before_K: Tensor


class Layout(NamedTuple):
    """Where the tokens of a micro-batch stand, on the CPU.

    origin_P, length_P  where each prompt begins, and its tokens
    size_P              tokens of each prompt with its inner nodes
    place_K             where each inner node stands; of a prompt, its last token
    """

    origin_P: Tensor
    length_P: Tensor
    size_P: Tensor
    place_K: Tensor


def layout_of(prompts: Prompts, tree: Tree) -> Layout:
    """Prompts one after the other, each before its inner nodes in their order."""
    length_P = prompts.mask_PS.sum(-1).cpu()
    inner_I = _inner_nodes(tree)
    owner_I = tree.prompt_K[inner_I]
    size_P = length_P + torch.bincount(owner_I, minlength=len(length_P))
    origin_P = size_P.cumsum(0) - size_P
    place_K = torch.zeros_like(tree.parent_K)
    place_K[: len(origin_P)] = origin_P + length_P - 1
    place_K[inner_I] = origin_P[owner_I] + length_P[owner_I] + _rank(owner_I)
    return Layout(origin_P, length_P, size_P, place_K)


def pack(prompts: Prompts, rollouts: Rollouts, width: int, packing: Packing) -> tuple[Tree, Packed]:
    """Prompts and responses as `packing` says, "either" being what is less work in a model of this width.

    Trees of more than `LONGEST` tokens are too much work: their masks grow with the square.
    """
    tree, chains = tree_of(rollouts), chains_of(rollouts)
    by_tree, by_row = layout_of(prompts, tree), layout_of(prompts, chains)
    if packing == "trees" or (packing == "either" and tree_pays(by_tree, by_row, rollouts, width)):
        return tree, _packed(prompts, tree, by_tree, tree_windows(by_tree, tree))
    return chains, _packed(prompts, chains, by_row, row_windows(by_row, chains, rollouts))


def tree_pays(by_tree: Layout, by_row: Layout, rollouts: Rollouts, width: int) -> bool:
    """Whether trees are less work than rows.

    Counted are the products of layers, about 12 width^2 a token, and of attention, 2 width for each token in sight or
    masked out.
    """
    seen_by_tree = sum(len(group) * int(by_tree.size_P[group].max()) ** 2 for group in alike(by_tree.size_P))
    longest = int(by_row.length_P.max())
    seen_by_row = len(by_row.length_P) * longest**2
    inner_R = rollouts.mask_NT.cpu().sum(-1).sub(1).clamp(min=0)
    for group in alike(inner_R):
        length = int(inner_R[group].max())
        seen_by_row += len(group) * length * (longest + length)

    def work(tokens: int, seen: int) -> int:
        return tokens * 12 * width**2 + 2 * width * seen

    less = work(int(by_tree.size_P.sum()), seen_by_tree) < work(int(by_row.size_P.sum()), seen_by_row)
    return less and int(by_tree.size_P.max()) <= LONGEST


def tree_windows(layout: Layout, tree: Tree) -> list[Window]:
    """All tokens of a prompt look through one another."""
    own_X = torch.arange(int(layout.size_P.sum())) - layout.origin_P.repeat_interleave(layout.size_P)
    of_prompt_X = own_X < layout.length_P.repeat_interleave(layout.size_P)
    columns_L = torch.arange(int(layout.size_P.max()))
    sees_XL = (columns_L <= own_X[:, None]) & of_prompt_X[:, None]
    inner_I = _inner_nodes(tree)
    for level in inner_I.split(torch.bincount(tree.depth_K[inner_I])[1:].tolist()) if len(inner_I) else ():
        place_L = layout.place_K[level]
        sees_XL[place_L] = sees_XL[layout.place_K[tree.parent_K[level]]]
        sees_XL[place_L, own_X[place_L]] = True
    windows = []
    for group in alike(layout.size_P):
        token_BT, real_BT = _spread(layout.origin_P[group], layout.size_P[group])
        itself_TT = torch.eye(token_BT.shape[1], dtype=torch.bool)
        sees_BTT = torch.where(real_BT[..., None], sees_XL[token_BT, : len(itself_TT)], itself_TT)
        windows.append(Window(token_BT, real_BT, sees_BTT))
    return windows


def row_windows(layout: Layout, chains: Tree, rollouts: Rollouts) -> list[Window]:
    """A prompt's tokens look through the prompt, those of a row through the prompt and the row."""
    token_PS, real_PS = _spread(layout.origin_P, layout.length_P)
    windows = [Window(token_PS, real_PS, _causal(*token_PS.shape))]
    mask_NT, prompt_of_N = rollouts.mask_NT.cpu(), rollouts.prompt_of_N.cpu()
    inner_N = mask_NT.sum(-1) - 1
    first_N = torch.zeros_like(inner_N).masked_scatter_(
        inner_N >= 0, layout.place_K[chains.node_M[chains.depth_K[chains.node_M] == 1]]
    )
    rows_R = (inner_N > 0).nonzero()[:, 0]
    for group in alike(inner_N[rows_R]):
        row_B = rows_R[group]
        token_BT, real_BT = _spread(first_N[row_B], inner_N[row_B])
        before_BTS = real_PS[prompt_of_N[row_B], None].expand(-1, token_BT.shape[1], -1)
        sees_BTS = torch.cat([before_BTS, _causal(*token_BT.shape)], dim=-1)
        windows.append(Window(token_BT, real_BT, sees_BTS, prompt_of_N[row_B]))
    return windows


def alike(size_N: Tensor) -> list[Tensor]:
    """Which are about as large as one another, the largest first: none below `ALIKE` of the largest of its group."""
    rest, groups = size_N.argsort(descending=True, stable=True), list[Tensor]()
    while len(rest):
        count = int((size_N[rest] >= ALIKE * size_N[rest[0]]).sum())
        groups.append(rest[:count])
        rest = rest[count:]
    return groups


def _packed(prompts: Prompts, tree: Tree, layout: Layout, windows: Sequence[Window]) -> Packed:
    total, device = int(layout.size_P.sum()), prompts.ids_PS.device
    tokens = total + -total % FULL
    mask_PS, positions_APS = prompts.mask_PS.cpu(), prompts.positions_APS.cpu()
    first_P = layout.origin_P + layout.length_P - mask_PS.shape[1]
    at_M = (first_P[:, None] + torch.arange(mask_PS.shape[1]))[mask_PS]
    inner_I = _inner_nodes(tree)
    ids_X = prompts.ids_PS[0, -1].cpu().repeat(tokens)
    positions_AX = torch.zeros(len(positions_APS), tokens, dtype=torch.long)
    ids_X[at_M], positions_AX[:, at_M] = prompts.ids_PS.cpu()[mask_PS], positions_APS[:, mask_PS]
    ids_X[layout.place_K[inner_I]] = tree.token_K[inner_I]
    next_P = prompts.next_position_P.cpu()
    positions_AX[:, layout.place_K[inner_I]] = next_P[tree.prompt_K[inner_I]] + tree.depth_K[inner_I] - 1
    laid = Prompts(
        ids_X[None].to(device),
        torch.ones(1, tokens, dtype=torch.bool, device=device),
        positions_AX[:, None].to(device),
        prompts.media_of_P,
    )
    return Packed(laid, Windows(windows, tokens, device), layout.place_K[tree.parent_K])


def _inner_nodes(tree: Tree) -> Tensor:
    """The nodes that are computed, without the prompts."""
    return (tree.inner_K & (tree.depth_K > 0)).nonzero()[:, 0]


def _spread(first_B: Tensor, size_B: Tensor) -> tuple[Tensor, Tensor]:
    """Where tokens stand one after the other from `first_B` on, 0 in the padding; and what is none. [B, T]."""
    steps_T = torch.arange(int(size_B.max()))
    real_BT = steps_T < size_B[:, None]
    return torch.where(real_BT, first_B[:, None] + steps_T, 0), real_BT


def _causal(count: int, length: int) -> Tensor:
    return torch.ones(length, length, dtype=torch.bool).tril().expand(count, -1, -1)


def _rank(group_I: Tensor) -> Tensor:
    """How many of the same group stand before each."""
    order_I = group_I.argsort(stable=True)
    counts_P = torch.bincount(group_I) if len(group_I) else group_I
    first_P = counts_P.cumsum(0) - counts_P
    rank_I = torch.empty_like(group_I)
    rank_I[order_I] = torch.arange(len(group_I)) - first_P[group_I[order_I]]
    return rank_I
