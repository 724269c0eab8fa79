"""The passes through a model: packed, which compute a prompt once for all of its rows, or plain; and prefills.

Prefill and log-probs go through the model's root forward. Positions are always explicit: a response starts at the last
position of its prompt plus one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, DynamicCache

from copd.compute.cpu import LeanStep, can_be_lean
from copd.compute.decode import CachedPrefixes, ModelStep, PlainPrefixes, Prefixes, Step, placed_layers
from copd.compute.devices import computing_on
from copd.compute.encode import Prompts, Responses
from copd.compute.family import Family
from copd.compute.packing import ATTENTION, Packed, attention

Head = Callable[[Tensor], Tensor]
Finish = Callable[[Tensor, Head], Any]
"""Takes a forward's hidden states and the output head, and gives what takes the place of the logits."""


class NarrowCache(DynamicCache):
    """A cache in the type that attention uses: under autocast it takes half the bytes, with the same result."""

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any) -> Any:
        kind = key_states.device.type
        if torch.is_autocast_enabled(kind):
            narrow = torch.get_autocast_dtype(kind)
            key_states, value_states = key_states.to(narrow), value_states.to(narrow)
        return super().update(key_states, value_states, layer_idx, *args, **kwargs)


def in_float32(head: Head) -> Head:
    """The output head outside of autocast: bfloat16 would round logits by more than most deltas of OPD.

    Cards take its products in TF32, whose error is a small part of that of the layers before it (docs/models.md).
    """

    def logits(hidden: Tensor) -> Tensor:
        kind = hidden.device.type
        if not torch.is_autocast_enabled(kind):
            return head(hidden)
        with torch.autocast(kind, enabled=False), computing_on(hidden.device).head():
            return head(hidden.float())

    return logits


class Forward:
    """Calls a model's root forward with the inputs of its family."""

    def __init__(self, model: Any, family: Family) -> None:
        self.model = model
        self.family = family

    def packed(self, packed: Packed, finish: Finish) -> Any:
        """`finish` applied to all hidden states of packed prompts and responses, [1, X, D]; no cache."""
        arguments = prompt_arguments(self.family, packed.prompts)
        with attention(self.model, ATTENTION):
            return self._root(finish, **arguments, seen=packed.seen, use_cache=False).logits

    def plain(self, prompts: Prompts, rows: Responses, finish: Finish) -> Any:
        """`finish` applied to the hidden states of responses. Each row's prompt and response are one sequence."""
        whole = prompts.with_responses(rows)
        length = rows.tokens_NT.shape[1] + 1
        output = self._prompts(whole, lambda hidden, head: finish(hidden[:, :-1], head), length, use_cache=False)
        return output.logits

    def prefill(self, prompts: Prompts) -> tuple[Cache, Tensor]:
        """A cache of the prompts, and the logits of the tokens after them. [P, V]."""
        output = self._prompts(prompts, _logits, 1, past_key_values=NarrowCache(), use_cache=True)
        return output.past_key_values, output.logits[:, -1]

    def start_shared(self, prompts: Prompts, rows: int, max_new_tokens: int) -> tuple[Prefixes, Tensor]:
        """The prefilled prompts, with room for `rows` prefixes, and the logits of the first tokens. [P, V]."""
        cache, logits_PV = self.prefill(prompts)
        room, columns = max(rows, len(prompts.mask_PS)), prompts.mask_PS.shape[1] + max_new_tokens
        step: Step
        if can_be_lean(self.model, self.family):
            end = int(prompts.next_position_P.max()) + max_new_tokens
            step = LeanStep(self.model.get_decoder(), self.family, cache, room, columns, end)
        else:
            step = ModelStep(self.model, self.family, placed_layers(cache, room, columns))
        head = in_float32(self.model.get_output_embeddings())
        return CachedPrefixes(step, prompts, room, max_new_tokens, head), logits_PV

    def start_plain(self, prompts: Prompts, rows: int, max_new_tokens: int) -> tuple[Prefixes, Tensor]:
        """The same without a cache."""
        return PlainPrefixes(self._next_logits, prompts), self._next_logits(prompts)

    def _next_logits(self, prompts: Prompts) -> Tensor:
        return self._prompts(prompts, _logits, 1, use_cache=False).logits[:, -1]

    def _prompts(self, prompts: Prompts, finish: Finish, logits_to_keep: int, **options: Any) -> Any:
        return self._root(finish, **prompt_arguments(self.family, prompts), logits_to_keep=logits_to_keep, **options)

    def _root(self, finish: Finish, **inputs: Any) -> Any:
        """The root forward with `finish(hidden, head)` in place of the output head; its result is `.logits`.

        So the logits [N, T, V] need not exist, and hooks on the root and on the head still run.
        """
        head = self.model.get_output_embeddings()
        original = head.forward
        head.forward = lambda hidden: finish(hidden, in_float32(original))
        try:
            return self.model(**inputs)
        finally:
            del head.forward


def _logits(hidden: Tensor, head: Head) -> Tensor:
    """The `Finish` of a forward whose logits are wanted."""
    return head(hidden)


def prompt_arguments(family: Family, prompts: Prompts) -> dict[str, Tensor]:
    """Encoded prompts, or prompts with their responses, as the arguments of a model's forward."""
    return {
        "input_ids": prompts.ids_PS,
        "attention_mask": prompts.mask_PS.long(),
        "position_ids": family.position_ids(prompts.positions_APS),
        **family.prompt_inputs(prompts.ids_PS),
        **prompts.media,
    }
