"""Problems to tensors: one preprocessing for sampler, student and teacher (method.md, trap 6)."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from threading import Lock
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from copd.compute.family import Encoded, Family
from copd.types import Problem

REMEMBERED_PROMPTS, REMEMBERED_BYTES = 1024, 2**30
"""At most this many prompts are remembered, or as many as the present batch has, with at most these bytes of pixels."""


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
    """Encodes prompts for one family of models. Recently encoded prompts are remembered by problem.

    Pixels are made for one batch at a time: when it is encoded or, if it is expected, while the batch before it is
    computed with.
    """

    def __init__(self, family: Family) -> None:
        self.family = family
        self._remembered: OrderedDict[Problem, Encoded] = OrderedDict()
        self._remembered_bytes = 0
        self._length_of: WeakKeyDictionary[Problem, int] = WeakKeyDictionary()
        self._expected: deque[Sequence[Problem]] = deque()
        self._ahead: tuple[list[Problem], Future[list[Encoded]]] | None = None
        self._thread = ThreadPoolExecutor(1, "copd pixels")
        self._one_at_a_time = Lock()

    def lengths(self, problems: Sequence[Problem]) -> list[int]:
        """Number of tokens of each prompt, placeholders expanded. No pixel is made."""
        new: dict[str, list[Problem]] = {}
        for problem in dict.fromkeys(problems):
            if problem not in self._length_of:
                new.setdefault(problem.kind, []).append(problem)
        for kind, same_kind in new.items():
            self._length_of.update(zip(same_kind, self._measured(kind, same_kind), strict=True))
        return [self._length_of[problem] for problem in problems]

    def expect(self, batches: Iterable[Sequence[Problem]]) -> None:
        """These batches will be encoded next, in this order. A thread makes each while the one before it is used."""
        self._expected = deque(batches)

    def encode(self, problems: Sequence[Problem], device: torch.device) -> Prompts:
        """Encode problems of one kind as one left-padded batch on `device`.

        Raises DataError naming a picture or video that is not what it was.
        """
        if len({problem.kind for problem in problems}) != 1:
            raise ValueError("a batch holds one kind of prompt: text, image or video")
        parts = self._recall(problems)
        self._go_ahead(problems)
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

    def _measured(self, kind: str, problems: Sequence[Problem]) -> list[int]:
        if kind == "text":
            return [len(encoded.ids_S) for encoded in self._recall(problems)]
        with self._one_at_a_time:
            return self.family.lengths(problems)

    def _recall(self, problems: Sequence[Problem]) -> list[Encoded]:
        new = self._new(problems)
        ahead, self._ahead = self._ahead, None
        made = ahead[1].result() if ahead and ahead[0] == new else self._made(new)
        encoded_of = dict(zip(new, made, strict=True))
        found = [encoded_of.get(problem) or self._remembered[problem] for problem in problems]
        for problem, encoded in zip(problems, found, strict=True):
            self._remember(problem, encoded, max(REMEMBERED_PROMPTS, len(found)))
        return found

    def _remember(self, problem: Problem, encoded: Encoded, most: int) -> None:
        if problem in self._remembered:
            self._remembered.move_to_end(problem)
        elif (size := _bytes(problem, encoded)) <= REMEMBERED_BYTES:
            while self._remembered_bytes + size > REMEMBERED_BYTES or len(self._remembered) >= most:
                self._remembered_bytes -= _bytes(*self._remembered.popitem(last=False))
            own = {name: value.clone() for name, value in encoded.media.items()}  # a view would hold its whole batch
            self._remembered[problem] = replace(encoded, media=own)
            self._remembered_bytes += size

    def _new(self, problems: Sequence[Problem]) -> list[Problem]:
        return [problem for problem in dict.fromkeys(problems) if problem not in self._remembered]

    def _made(self, problems: Sequence[Problem]) -> list[Encoded]:
        with self._one_at_a_time:
            return self.family.encode(problems) if problems else []

    def _go_ahead(self, problems: Sequence[Problem]) -> None:
        """If `problems` are the batch that is expected now, have the thread make what is new in the following one."""
        if not self._expected or list(self._expected[0]) != list(problems):
            return
        self._expected.popleft()
        new = self._new(self._expected[0]) if self._expected else []
        if new and new[0].kind != "text":
            self._ahead = new, self._thread.submit(self._made, new)


def _bytes(problem: Problem, encoded: Encoded) -> int:
    """Bytes that the pixels of a remembered prompt take."""
    return problem.held_bytes + sum(tensor.nbytes for tensor in encoded.media.values())
