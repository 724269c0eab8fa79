"""Cut of a distribution of tokens before one is drawn: min_p, top_k, top_p (method.md section 3)."""

import math
from typing import NamedTuple

import torch
from torch import Tensor


class Cut(NamedTuple):
    """Which tokens may be drawn.

    top_p  the likeliest tokens, until their probability together is at least this; 1 = all
    top_k  this many of the likeliest tokens; None = all
    min_p  tokens at least this many times as likely as the likeliest; 0 = all
    """

    top_p: float = 1.0
    top_k: int | None = None
    min_p: float = 0.0


WHOLE = Cut()
"""No token is cut."""


def remaining(logp_MV: Tensor, cut: Cut) -> Tensor:
    """The log-probs that are left, renormalised; -inf on tokens that are cut. [M, V], given log-probs of M rows.

    The order is vLLM's: `min_p` first, then `top_k`, then `top_p` of what `top_k` has left. A token exactly as likely
    as the last that is left is left too, so that the result does not depend on the order of the vocabulary. The
    likeliest token is always left. A row of NaN stays one.
    """
    if cut == WHOLE:
        return logp_MV
    if cut.min_p > 0:
        least_M1 = logp_MV.amax(-1, keepdim=True) + math.log(cut.min_p)
        logp_MV = logp_MV.masked_fill(logp_MV < least_M1, -torch.inf)
    if cut.top_k is not None:
        last_M1 = logp_MV.topk(min(cut.top_k, logp_MV.shape[-1])).values[:, -1:]
        logp_MV = logp_MV.masked_fill(logp_MV < last_M1, -torch.inf)
    if cut.top_p < 1:
        sorted_MV = logp_MV.sort(-1, descending=True).values
        p_MV = sorted_MV.softmax(-1)
        left_M1 = (p_MV.cumsum(-1) - p_MV < cut.top_p).sum(-1, keepdim=True).clamp(min=1)
        logp_MV = logp_MV.masked_fill(logp_MV < sorted_MV.gather(-1, left_M1 - 1), -torch.inf)
    return logp_MV.log_softmax(-1)
