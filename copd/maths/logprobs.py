"""Log-probs of tokens under the vocabulary mask (method.md, trap 5)."""

from typing import NamedTuple

import torch
from torch import Tensor

from copd.maths.divergences import Target


class TokenStats(NamedTuple):
    """The results of `token_stats` for M token positions. All but the first two are None unless asked for."""

    logp_M: Tensor
    entropy_M: Tensor
    topk_ids_MK: Tensor | None = None
    topk_logp_MK: Tensor | None = None
    at_ids_MK: Tensor | None = None
    whole_MV: Tensor | None = None
    divergence_M: Tensor | None = None


def masked_log_softmax(logits_MV: Tensor, banned_V: Tensor, *, temperature: float) -> Tensor:
    """log softmax(logits / temperature) over the tokens that are not banned; -inf on the banned ones. [M, V] float.

    Half-precision logits are cast to float32 first; float64 stays float64.
    """
    if logits_MV.dtype in (torch.float16, torch.bfloat16):
        logits_MV = logits_MV.float()
    return (logits_MV / temperature).masked_fill(banned_V, -torch.inf).log_softmax(-1)


def token_stats(
    logits_MV: Tensor,
    ids_M: Tensor,
    banned_V: Tensor,
    *,
    temperature: float,
    k: int = 0,
    at_ids_MK: Tensor | None = None,
    whole: bool = False,
    target: Target | None = None,
) -> TokenStats:
    """Statistics of the tokens `ids_M`, each from its own logits, under the vocabulary mask. [M] or [M, K], in nats.

    logp_M        log-prob of each token, of `masked_log_softmax`; it has a gradient
    entropy_M     H = -sum_v p_v log p_v over the tokens that are not banned
    topk_ids_MK   the k most likely tokens, best first (None for k = 0)
    topk_logp_MK  their log-probs
    at_ids_MK     log-probs of the given ids `at_ids_MK` (None without them)
    whole_MV      log-probs of all tokens (None unless `whole`)
    divergence_M  the divergence from `target`; it has a gradient (None without a target)
    """
    logp_MV = masked_log_softmax(logits_MV, banned_V, temperature=temperature)
    detached_MV = logp_MV.detach()
    entropy_M = -torch.where(banned_V, 0.0, detached_MV * detached_MV.exp()).sum(-1)
    topk = detached_MV.topk(k) if k else None
    return TokenStats(
        logp_M=logp_MV.gather(-1, ids_M[:, None])[:, 0],
        entropy_M=entropy_M,
        topk_ids_MK=topk.indices if topk else None,
        topk_logp_MK=topk.values if topk else None,
        at_ids_MK=None if at_ids_MK is None else detached_MV.gather(-1, at_ids_MK),
        whole_MV=detached_MV if whole else None,
        divergence_M=target.divergence_of(logp_MV) if target else None,
    )


def draw(logp_MV: Tensor, row_R: Tensor, uniform_R: Tensor) -> Tensor:
    """R draws, each from row `row_R[r]`: the token at which the cumulative probability passes `uniform_R` in [0, 1).

    One number per (row, position) decides the draw, so that a row that leaves the batch does not change the others
    (trap 9). Sums are taken in the precision of the numbers. A token of probability 0 is never drawn, whatever the
    rounding. A row of NaN gives the last token.
    """
    cumulative_MV = logp_MV.to(uniform_R.dtype).exp().cumsum(-1)
    total_R = cumulative_MV[row_R, -1]
    target_R = torch.minimum(uniform_R * total_R, torch.nextafter(total_R, torch.zeros_like(total_R)))
    token_R = torch.searchsorted(cumulative_MV[row_R], target_R[:, None], right=True)[:, 0]
    return token_R.clamp(max=logp_MV.shape[-1] - 1)
