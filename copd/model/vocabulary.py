"""The one vocabulary mask: which tokens a policy may emit, and which of them end a response (method.md, trap 5).

Policies that exchange token ids, as student and teacher or to be merged, must share it: `check_same_vocabulary`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from copd.errors import ModelFolderError


class Speaker(Protocol):
    """What the check needs of a policy."""

    processor: Any
    tokenizer: Any
    banned_V: Tensor
    end_ids: Tensor


def end_tokens(model: Any, tokenizer: Any) -> Tensor:
    """Ids of the tokens that end a response, from the generation config, else from the tokenizer."""
    ids = model.generation_config.eos_token_id
    ids = tokenizer.eos_token_id if ids is None else ids
    return torch.tensor(ids if isinstance(ids, list) else [ids])


def banned_tokens(model: Any, tokenizer: Any, end_ids: Tensor) -> Tensor:
    """True on tokens the policy may neither sample nor be given probability for. [V] bool.

    These are the tokenizer's special tokens except the end tokens (chat control, image and video placeholders), rows of
    the embedding beyond the tokenizer's length, and what the generation config already suppresses.
    """
    vocabulary = model.get_output_embeddings().weight.shape[0]
    banned_V = torch.zeros(vocabulary, dtype=torch.bool)
    banned_V[len(tokenizer) :] = True
    banned_V[tokenizer.all_special_ids] = True
    banned_V[list(model.generation_config.suppress_tokens or [])] = True
    banned_V[end_ids] = False
    return banned_V


def control_tokens(tokenizer: Any) -> list[str]:
    """The texts that the tokenizer takes for a special token wherever they stand, and so for structure of the chat."""
    added = getattr(tokenizer, "added_tokens_decoder", {}).values()
    return sorted({*tokenizer.all_special_tokens, *(token.content for token in added if token.special)})


def check_same_vocabulary(a: Speaker, b: Speaker, names: tuple[str, str] = ("base", "branch")) -> None:
    """Raise ModelFolderError unless two policies turn problems into the same ids and ids into the same text.

    Compared are the tokenizers (every token and id, special tokens, how text is cut), chat templates, picture
    processors, the size of the vocabulary, the tokens banned and those that end a response. The message names the
    first difference, with what `names` calls the two.
    """
    for what, view in VIEWS.items():
        for where, found_a, found_b in _differences(view(a), view(b)):
            raise ModelFolderError(
                f"{names[0]} and {names[1]} do not share their vocabulary: {what}{where} is {_short(found_a)} in "
                f"{names[0]} and {_short(found_b)} in {names[1]}"
            )


def _pipeline(policy: Speaker) -> Any:
    """Normaliser, splitting, merges and template of a fast tokenizer; None of a slow one, which has only a class."""
    backend = getattr(policy.tokenizer, "backend_tokenizer", None)
    if backend is None:
        return type(policy.tokenizer).__name__
    state = json.loads(backend.to_str())
    passing = ("padding", "truncation", "added_tokens", "version")
    return {name: value for name, value in state.items() if name not in passing}


def _pictures(policy: Speaker) -> dict[str, Any]:
    parts = {name: getattr(policy.processor, name, None) for name in ("image_processor", "video_processor")}
    return {name: json.loads(part.to_json_string()) for name, part in parts.items() if part is not None}


VIEWS: dict[str, Callable[[Speaker], Any]] = {
    "the size of the vocabulary": lambda policy: len(policy.banned_V),
    "the token": lambda policy: {i: token for token, i in policy.tokenizer.get_vocab().items()},
    "the special token": lambda policy: dict(policy.tokenizer.special_tokens_map),
    "the special id": lambda policy: dict.fromkeys(sorted(policy.tokenizer.all_special_ids), "special"),
    "the end token": lambda policy: dict.fromkeys(sorted(policy.end_ids.tolist()), "end"),
    "the banned id": lambda policy: dict.fromkeys(policy.banned_V.nonzero()[:, 0].tolist(), "banned"),
    "the tokenizer's": _pipeline,
    "the chat template": lambda policy: getattr(policy.processor, "chat_template", None),
    "the picture processor's": _pictures,
}
"""What has to be the same, the telling first."""


def _differences(a: Any, b: Any, where: str = "") -> Iterator[tuple[str, Any, Any]]:
    """The places, in order, at which two nested values differ, and what stands there."""
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        for key in sorted({**a, **b}, key=lambda key: (isinstance(key, str), key)):
            yield from _differences(a.get(key), b.get(key), f"{where} {key!r}")
    elif a != b:
        yield where, a, b


def _short(value: Any) -> str:
    text = repr(value)
    return "absent" if value is None else text if len(text) <= 60 else f"{text[:57]}..."
