"""The one vocabulary mask: which tokens a policy may emit, and which of them end a response (method.md, trap 5)."""

from typing import Any

import torch
from torch import Tensor


def end_tokens(model: Any, processor: Any) -> Tensor:
    """Ids of the tokens that end a response, from the generation config, else from the tokenizer."""
    ids = model.generation_config.eos_token_id
    ids = processor.tokenizer.eos_token_id if ids is None else ids
    return torch.tensor(ids if isinstance(ids, list) else [ids])


def same_tokens(policy: Any, other: Any) -> bool:
    """Whether two policies may emit the same tokens, with the same ids and the same text."""
    vocabularies = [p.processor.tokenizer.get_vocab() for p in (policy, other)]
    allowed = [(~p.banned_V).nonzero()[:, 0].cpu() for p in (policy, other)]
    return vocabularies[0] == vocabularies[1] and torch.equal(*allowed)


def banned_tokens(model: Any, processor: Any, end_ids: Tensor) -> Tensor:
    """True on tokens the policy may neither sample nor be given probability for. [V] bool.

    These are the tokenizer's special tokens except the end tokens (chat control, image and video placeholders), rows of
    the embedding beyond the tokenizer's length, and what the generation config already suppresses.
    """
    tokenizer = processor.tokenizer
    vocabulary = model.get_output_embeddings().weight.shape[0]
    banned_V = torch.zeros(vocabulary, dtype=torch.bool)
    banned_V[len(tokenizer) :] = True
    banned_V[tokenizer.all_special_ids] = True
    banned_V[list(model.generation_config.suppress_tokens or [])] = True
    banned_V[end_ids] = False
    return banned_V
