"""Problems to tensors: one preprocessing for sampler, student and teacher (method.md, trap 6)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from copd.compute.family import Encoded, Family
from copd.types import Problem

REMEMBERED_PROMPTS, REMEMBERED_BYTES = 1024, 2**30
"""At most this many prompts, with this many bytes of media, are remembered. The current batch always is."""


@dataclass(frozen=True, eq=False)
class Prompts:
    """P encoded prompts of one kind, left padded to S tokens.

    ids_PS           token ids, placeholders expanded
    mask_PS          True on tokens, False on padding
    positions_APS    position of each token: one axis, or three (time, height, width); padding has 0
    media_of_P       pixel values and grids of each prompt
    """

    ids_PS: Tensor
    mask_PS: Tensor
    positions_APS: Tensor
    media_of_P: Sequence[Mapping[str, Tensor]]

    @property
    def media(self) -> dict[str, Tensor]:
        """The media of all prompts, concatenated, as the model's forward takes them."""
        names = dict.fromkeys(name for media in self.media_of_P for name in media)
        return {name: torch.cat([media[name] for media in self.media_of_P if name in media]) for name in names}

    @property
    def next_position_P(self) -> Tensor:
        """The position at which a response starts: the position of the prompt's last token, plus one."""
        return self.positions_APS[0, :, -1] + 1

    def rows(self, prompt_of_N: Tensor) -> Prompts:
        """Repeat prompts, media included, so that row n is prompt `prompt_of_N[n]`. Only the plain path does this."""
        repeated = [self.media_of_P[p] for p in prompt_of_N.tolist()]
        return Prompts(
            self.ids_PS[prompt_of_N], self.mask_PS[prompt_of_N], self.positions_APS[:, prompt_of_N], repeated
        )

    def with_responses(self, rows: Responses) -> Prompts:
        """The prompt of each row followed by its response, in one sequence."""
        repeated = self.rows(rows.prompt_of_N)
        return Prompts(
            torch.cat([repeated.ids_PS, rows.tokens_NT], dim=1),
            torch.cat([repeated.mask_PS, rows.mask_NT], dim=1),
            torch.cat([repeated.positions_APS, rows.positions_ANT], dim=2),
            repeated.media_of_P,
        )

    def append(self, token_P: Tensor) -> Prompts:
        """The same prompts with one more token each. Only the plain path of sampling does this."""
        position_AP1 = self.next_position_P.expand(len(self.positions_APS), -1)[..., None]
        return Prompts(
            torch.cat([self.ids_PS, token_P[:, None]], dim=1),
            torch.cat([self.mask_PS, torch.ones_like(token_P[:, None], dtype=torch.bool)], dim=1),
            torch.cat([self.positions_APS, position_AP1], dim=2),
            self.media_of_P,
        )


class Responses:
    """The responses of a micro-batch on the model's device, and the positions [A, N, T] of their tokens."""

    def __init__(self, tokens_NT: Tensor, mask_NT: Tensor, prompt_of_N: Tensor, prompts: Prompts) -> None:
        self.tokens_NT, self.mask_NT, self.prompt_of_N = tokens_NT, mask_NT, prompt_of_N
        steps_T = torch.arange(tokens_NT.shape[1], device=tokens_NT.device)
        first_N = prompts.next_position_P[prompt_of_N]
        self.positions_ANT = (first_N[:, None] + steps_T).expand(len(prompts.positions_APS), -1, -1)


class Encoder:
    """Encodes prompts for one family of models. Recently encoded prompts are remembered by problem."""

    def __init__(self, family: Family) -> None:
        self.family = family
        self._remembered: OrderedDict[Problem, Encoded] = OrderedDict()
        self._remembered_bytes = 0

    def lengths(self, problems: Sequence[Problem]) -> list[int]:
        """Number of tokens of each prompt, placeholders expanded."""
        return [len(encoded.ids_S) for encoded in self._recall(problems)]

    def encode(self, problems: Sequence[Problem], device: torch.device) -> Prompts:
        """Encode problems of one kind as one left-padded batch on `device`."""
        if len({problem.kind for problem in problems}) != 1:
            raise ValueError("a batch holds one kind of prompt: text, image or video")
        parts = self._recall(problems)
        longest = max(len(part.ids_S) for part in parts)
        ids_PS = torch.full((len(parts), longest), self.family.pad_id)
        mask_PS = torch.zeros(len(parts), longest, dtype=torch.bool)
        positions_APS = torch.zeros(self.family.axes, len(parts), longest, dtype=torch.long)
        for p, part in enumerate(parts):
            start = longest - len(part.ids_S)
            ids_PS[p, start:] = part.ids_S
            mask_PS[p, start:] = True
            positions_APS[:, p, start:] = part.positions_AS
        media_of_P = [{name: value.to(device) for name, value in part.media.items()} for part in parts]
        return Prompts(ids_PS.to(device), mask_PS.to(device), positions_APS.to(device), media_of_P)

    def _recall(self, problems: Sequence[Problem]) -> list[Encoded]:
        new: dict[str, list[Problem]] = {}
        for problem in problems:
            if problem in self._remembered:
                self._remembered.move_to_end(problem)
            else:
                new.setdefault(problem.kind, []).append(problem)
        for same_kind in new.values():
            for problem, encoded in zip(same_kind, self.family.encode(same_kind), strict=True):
                self._remembered[problem] = encoded
                self._remembered_bytes += _bytes(problem, encoded)
        found = [self._remembered[problem] for problem in problems]
        while (
            new
            and len(self._remembered) > len(problems)
            and (len(self._remembered) > REMEMBERED_PROMPTS or self._remembered_bytes > REMEMBERED_BYTES)
        ):
            self._remembered_bytes -= _bytes(*self._remembered.popitem(last=False))
        return found


def _bytes(problem: Problem, encoded: Encoded) -> int:
    """Bytes that the media of a remembered prompt take."""
    arrays = sum(array.nbytes for array in (*problem.images, *problem.videos))
    return arrays + sum(tensor.nbytes for tensor in encoded.media.values())
