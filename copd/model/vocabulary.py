"""The one vocabulary mask: which tokens a policy may emit, and which of them end a response (method.md, trap 5).

Student and teacher exchange token ids, and so must share the mask; so must models that are merged
(`check_same_vocabulary`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, Protocol

import torch
from jinja2 import Environment, TemplateSyntaxError
from torch import Tensor

from copd.compute.family import folder_of, tokenizer_of
from copd.errors import ModelFolderError
from copd.model.differences import differences, shown

JINJA = Environment(trim_blocks=True, lstrip_blocks=True)
"""The rules by which transformers reads chat templates."""
ADDED = ("special", "normalized", "single_word", "lstrip", "rstrip")


class Speaker(Protocol):
    """The attributes of a policy that the check reads."""

    processor: Any
    banned_V: Tensor
    end_ids: Tensor


def end_tokens(model: Any, processor: Any) -> Tensor:
    """Ids of the tokens that end a response: all that the files of a model name.

    They are named by the generation config, by what config.json sets, by the tokenizer, and by the chat template, which
    writes one behind an answer. The model may have learned to emit any of them, so all are allowed.

    Raises ModelFolderError if none is named.
    """
    tokenizer, config = tokenizer_of(processor), model.config
    named = [
        model.generation_config.eos_token_id,
        config.to_diff_dict().get("eos_token_id"),
        config.get_text_config().to_diff_dict().get("eos_token_id"),
        tokenizer.eos_token_id,
        _end_of_turn(processor),
    ]
    ids = dict.fromkeys(i for each in named if each is not None for i in (each if isinstance(each, list) else [each]))
    if not ids:
        raise ModelFolderError(f"{folder_of(processor)}: no end token; set eos_token_id in generation_config.json")
    _check_ids(ids, model.get_output_embeddings().weight.shape[0], f"{folder_of(processor)}: eos_token_id")
    return torch.tensor(list(ids))


def _check_ids(ids: Iterable[int], vocabulary: int, given_as: str) -> None:
    if strange := [i for i in ids if not 0 <= i < vocabulary]:
        raise ModelFolderError(f"{given_as} {strange[0]} is no token; accepted: 0 to {vocabulary - 1}")


def _end_of_turn(processor: Any) -> int | None:
    """The control token that the chat template writes right behind an answer; None if it writes none there."""
    tokenizer = tokenizer_of(processor)
    asked, answered = "asked", "answered"
    for content in (asked, answered), ([{"type": "text", "text": asked}], [{"type": "text", "text": answered}]):
        chat = [{"role": role, "content": text} for role, text in zip(("user", "assistant"), content, strict=True)]
        try:
            text = processor.apply_chat_template(chat, tokenize=False)
        except Exception:  # a template's expressions can raise anything
            continue
        _, written, behind = text.rpartition(answered)
        after = behind.lstrip()
        if found := [token for token in control_tokens(tokenizer) if written and token and after.startswith(token)]:
            return int(tokenizer.convert_tokens_to_ids(max(found, key=len)))
    return None


def banned_tokens(model: Any, tokenizer: Any, end_ids: Tensor, spoken: Collection[str] = ()) -> Tensor:
    """True on tokens that the policy may not sample and that have no probability. [V] bool.

    These are the tokenizer's control tokens (of the chat, image and video placeholders), rows of the embedding beyond
    the tokenizer's length, and tokens that the generation config suppresses. End tokens and the tokens `spoken` are
    allowed: an answer in `<answer>` needs that token if the tokenizer has it as a control token.

    Raises ModelFolderError if the generation config suppresses what is no token.
    """
    vocabulary = model.get_output_embeddings().weight.shape[0]
    control = control_tokens(tokenizer)
    banned_V = torch.zeros(vocabulary, dtype=torch.bool)
    banned_V[len(tokenizer) :] = True
    banned_V[tokenizer.convert_tokens_to_ids(control)] = True
    suppressed = list(model.generation_config.suppress_tokens or [])
    _check_ids(suppressed, vocabulary, f"{folder_of(tokenizer)}: generation_config.json: suppress_tokens:")
    banned_V[suppressed] = True
    banned_V[tokenizer.convert_tokens_to_ids([token for token in control if token in spoken])] = False
    banned_V[end_ids] = False
    return banned_V


def control_tokens(tokenizer: Any) -> list[str]:
    """The texts that the tokenizer reads as special tokens wherever they stand, and so as structure of the chat."""
    added = getattr(tokenizer, "added_tokens_decoder", {}).values()
    return sorted({*tokenizer.all_special_tokens, *(token.content for token in added if token.special)})


def check_same_vocabulary(a: Speaker, b: Speaker, names: tuple[str, str] = ("base", "branch")) -> None:
    """Raise ModelFolderError unless two policies turn problems into the same ids and ids into the same text.

    The check compares the tokenizers (every token and id, special tokens, how text is split), the size of the
    vocabulary, the banned tokens, the end tokens, the chat templates and the picture processors. The message names the
    first difference, and calls the two policies by `names`.
    """
    if difference := difference_of_vocabulary(a, b, names):
        raise ModelFolderError(difference)


def difference_of_vocabulary(a: Speaker, b: Speaker, names: tuple[str, str]) -> str | None:
    """The first difference for which `check_same_vocabulary` would refuse the two; None if there is none."""
    return (
        first_difference(a.processor, b.processor, TOKENIZER, names)
        or first_difference(a, b, MASK, names)
        or first_difference(a.processor, b.processor, PROMPTS, names)
    )


def first_difference(a: Any, b: Any, views: Mapping[str, Callable[[Any], Any]], names: tuple[str, str]) -> str | None:
    """The first difference of two models in words, which calls the two by `names`; None if all views are equal.

    The views of `TOKENIZER` and `PROMPTS` take processors, or tokenizers in their place; the views of `MASK` take
    policies.
    """
    for what, view in views.items():
        for where, *found in differences(view(a), view(b)):
            told = zip(shown(*found), names, strict=True)
            place = what + "".join(f" {key!r}" for key in where)
            said = " and ".join(f"{value} in {name}" for value, name in told)
            return f"{names[0]} and {names[1]} do not share their vocabulary: {place} is {said}"
    return None


def _added(processor: Any) -> dict[str, dict[str, Any]]:
    """The tokens that are found in a text before it is split, and how they are matched."""
    added = getattr(tokenizer_of(processor), "added_tokens_decoder", {})
    return {token.content: {"id": i, **{how: getattr(token, how) for how in ADDED}} for i, token in added.items()}


def _pipeline(processor: Any) -> Any:
    """Normaliser, splitting, merges and template of a fast tokenizer; for a slow tokenizer, its class."""
    backend = getattr(tokenizer_of(processor), "backend_tokenizer", None)
    if backend is None:
        return type(tokenizer_of(processor)).__name__
    state = json.loads(backend.to_str())
    elsewhere = ("padding", "truncation", "added_tokens", "version")
    return {name: value for name, value in state.items() if name not in elsewhere}


def as_jinja_reads(template: Any) -> Any:
    """A chat template without what makes no difference to what it renders: comments, and white space that Jinja drops.

    It is only cut into tokens, and never rendered. What is no template is returned as it is.
    """
    if isinstance(template, Mapping):
        return {name: as_jinja_reads(text) for name, text in template.items()}
    try:
        tokens = list(JINJA.lex(template or ""))
    except TemplateSyntaxError:
        return template
    kept = (
        value if kind in ("data", "string") else value.strip() or " "
        for _, kind, value in tokens
        if not kind.startswith("comment")
    )
    return None if template is None else "".join(kept)


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
"""Views of what turns texts into ids and ids into texts, the most informative first."""
MASK: dict[str, Callable[[Speaker], Any]] = {
    "the size of the vocabulary": lambda policy: len(policy.banned_V),
    "the end token": lambda policy: dict.fromkeys(sorted(policy.end_ids.tolist()), "end"),
    "the banned id": lambda policy: dict.fromkeys(policy.banned_V.nonzero()[:, 0].tolist(), "banned"),
}
"""Views of which tokens may be emitted."""
PROMPTS: dict[str, Callable[[Any], Any]] = {
    "the chat template": lambda processor: as_jinja_reads(getattr(processor, "chat_template", None)),
    "the picture processor's": _pictures,
}
"""Views of what turns a problem into a prompt."""
