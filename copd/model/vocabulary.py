"""The one vocabulary mask: which tokens a policy may emit, and which of them end a response (method.md, trap 5).

Policies that exchange token ids, as student and teacher or to be merged, must share it: `check_same_vocabulary`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from copd.compute.family import tokenizer_of
from copd.errors import ModelFolderError

ADDED = ("special", "normalized", "single_word", "lstrip", "rstrip")


class Speaker(Protocol):
    """What the check needs of a policy."""

    processor: Any
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

    Compared are the tokenizers (every token and id, special tokens, how text is cut), the size of the vocabulary, the
    tokens banned and those that end a response, chat templates and picture processors. The message names the first
    difference, with what `names` calls the two.
    """
    difference = (
        first_difference(a.processor, b.processor, TOKENIZER, names)
        or first_difference(a, b, MASK, names)
        or first_difference(a.processor, b.processor, PROMPTS, names)
    )
    if difference:
        raise ModelFolderError(difference)


def first_difference(a: Any, b: Any, views: Mapping[str, Callable[[Any], Any]], names: tuple[str, str]) -> str | None:
    """What two models do not share, in words, with what `names` calls the two; None where all views are the same.

    The views of `TOKENIZER` and `PROMPTS` are of processors, or tokenizers in their place; those of `MASK` of policies.
    """
    for what, view in views.items():
        for where, found_a, found_b in _differences(view(a), view(b)):
            return (
                f"{names[0]} and {names[1]} do not share their vocabulary: {what}{where} is {_short(found_a)} in "
                f"{names[0]} and {_short(found_b)} in {names[1]}"
            )
    return None


def _added(processor: Any) -> dict[str, dict[str, Any]]:
    """The tokens that are found in a text before it is cut, and how."""
    added = getattr(tokenizer_of(processor), "added_tokens_decoder", {})
    return {token.content: {"id": i, **{how: getattr(token, how) for how in ADDED}} for i, token in added.items()}


def _pipeline(processor: Any) -> Any:
    """Normaliser, splitting, merges and template of a fast tokenizer; a slow one has only a class."""
    backend = getattr(tokenizer_of(processor), "backend_tokenizer", None)
    if backend is None:
        return type(tokenizer_of(processor)).__name__
    state = json.loads(backend.to_str())
    elsewhere = ("padding", "truncation", "added_tokens", "version")
    return {name: value for name, value in state.items() if name not in elsewhere}


def _pictures(processor: Any) -> dict[str, Any]:
    parts = {name: getattr(processor, name, None) for name in ("image_processor", "video_processor")}
    return {name: json.loads(part.to_json_string()) for name, part in parts.items() if part is not None}


TOKENIZER: dict[str, Callable[[Any], Any]] = {
    "the token": lambda processor: {i: token for token, i in tokenizer_of(processor).get_vocab().items()},
    "the special token": lambda processor: dict(tokenizer_of(processor).special_tokens_map),
    "the special id": lambda processor: dict.fromkeys(sorted(tokenizer_of(processor).all_special_ids), "special"),
    "the added token": _added,
    "the tokenizer's": _pipeline,
}
"""What turns a text into ids and ids into a text, the telling first."""
MASK: dict[str, Callable[[Speaker], Any]] = {
    "the size of the vocabulary": lambda policy: len(policy.banned_V),
    "the end token": lambda policy: dict.fromkeys(sorted(policy.end_ids.tolist()), "end"),
    "the banned id": lambda policy: dict.fromkeys(policy.banned_V.nonzero()[:, 0].tolist(), "banned"),
}
"""What may be emitted."""
PROMPTS: dict[str, Callable[[Any], Any]] = {
    "the chat template": lambda processor: getattr(processor, "chat_template", None),
    "the picture processor's": _pictures,
}
"""What turns a problem into a prompt."""


def _differences(a: Any, b: Any, where: str = "") -> Iterator[tuple[str, Any, Any]]:
    """The places, in order, at which two nested values differ, and what stands there."""
    if _nested(a) and _nested(b):
        a, b = dict(enumerate(a)), dict(enumerate(b))
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        for key in sorted({**a, **b}, key=lambda key: (isinstance(key, str), key)):
            yield from _differences(a.get(key), b.get(key), f"{where} {key!r}")
    elif a != b:
        yield where, a, b


def _nested(value: Any) -> bool:
    """A list of pairs or mappings, such as merges; numbers and words are looked at together."""
    return isinstance(value, list) and any(isinstance(part, list | Mapping) for part in value)


def _short(value: Any) -> str:
    text = repr(value)
    return "absent" if value is None else text if len(text) <= 60 else f"{text[:57]}..."
