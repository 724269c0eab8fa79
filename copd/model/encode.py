"""Problems to tensors: one preprocessing for sampler, student and teacher (method.md, trap 6)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from copd.types import Message, Problem

MEDIA_FIELDS = ("pixel_values", "image_grid_thw", "pixel_values_videos", "video_grid_thw")
REMEMBERED_PROMPTS, REMEMBERED_BYTES = 1024, 2**30
"""At most so many prompts, and of their media so much, are remembered; all of the present batch are in any case."""


@dataclass(frozen=True, eq=False)
class Prompts:
    """P encoded prompts of one kind, left padded to S tokens.

    ids_PS           token ids, placeholders expanded
    mask_PS          True on tokens, False on padding
    positions_3PS    temporal, height and width position of each token; padding has 0
    media_of_P       pixel values and grids of each prompt
    """

    ids_PS: Tensor
    mask_PS: Tensor
    positions_3PS: Tensor
    media_of_P: list[dict[str, Tensor]]

    @property
    def media(self) -> dict[str, Tensor]:
        """The media of all prompts, concatenated, as the model's forward takes them."""
        present = {name: [media[name] for media in self.media_of_P if name in media] for name in MEDIA_FIELDS}
        return {name: torch.cat(values) for name, values in present.items() if values}

    @property
    def next_position_P(self) -> Tensor:
        """The position at which a response starts: the last of the prompt, plus one."""
        return self.positions_3PS.amax(dim=(0, 2)) + 1

    def rows(self, prompt_of_N: Tensor) -> Prompts:
        """Repeat prompts so that row n is prompt `prompt_of_N[n]`, media included; used by the plain path."""
        repeated = [self.media_of_P[p] for p in prompt_of_N.tolist()]
        return Prompts(
            self.ids_PS[prompt_of_N], self.mask_PS[prompt_of_N], self.positions_3PS[:, prompt_of_N], repeated
        )

    def append(self, token_P: Tensor) -> Prompts:
        """The same prompts with one more token each; used by the plain path of sampling."""
        position_3P1 = self.next_position_P.expand(3, -1)[..., None]
        return Prompts(
            torch.cat([self.ids_PS, token_P[:, None]], dim=1),
            torch.cat([self.mask_PS, torch.ones_like(token_P[:, None], dtype=torch.bool)], dim=1),
            torch.cat([self.positions_3PS, position_3P1], dim=2),
            self.media_of_P,
        )


class Responses:
    """The responses of a micro-batch on the model's device, and the positions [3, N, T] at which they stand."""

    def __init__(self, tokens_NT: Tensor, mask_NT: Tensor, prompt_of_N: Tensor, next_position_P: Tensor) -> None:
        self.tokens_NT, self.mask_NT, self.prompt_of_N = tokens_NT, mask_NT, prompt_of_N
        steps_T = torch.arange(tokens_NT.shape[1], device=tokens_NT.device)
        self.positions_3NT = (next_position_P[prompt_of_N][:, None] + steps_T).expand(3, -1, -1)


@dataclass(frozen=True, eq=False)
class _Encoded:
    ids_S: Tensor
    positions_3S: Tensor
    media: dict[str, Tensor]


class Encoder:
    """Chat template, processor and positions of one model. What was encoded lately is remembered by problem.

    `rope_index` is the model's own `get_rope_index`; it reads the configuration, never the weights.
    """

    def __init__(self, processor: Any, rope_index: Callable[..., tuple[Tensor, Tensor]]) -> None:
        self.processor = processor
        self._rope_index = rope_index
        self._pad_id = processor.tokenizer.pad_token_id
        self._remembered: OrderedDict[Problem, _Encoded] = OrderedDict()
        self._remembered_bytes = 0

    def lengths(self, problems: Sequence[Problem]) -> list[int]:
        """Tokens of each prompt, placeholders expanded."""
        return [len(encoded.ids_S) for encoded in self._recall(problems)]

    def encode(self, problems: Sequence[Problem], device: torch.device) -> Prompts:
        """Encode problems of one kind as one left-padded batch on `device`."""
        if len({problem.kind for problem in problems}) != 1:
            raise ValueError("a batch holds one kind of prompt: text, image or video")
        parts = self._recall(problems)
        longest = max(len(part.ids_S) for part in parts)
        ids_PS = torch.full((len(parts), longest), self._pad_id)
        mask_PS = torch.zeros(len(parts), longest, dtype=torch.bool)
        positions_3PS = torch.zeros(3, len(parts), longest, dtype=torch.long)
        for p, part in enumerate(parts):
            start = longest - len(part.ids_S)
            ids_PS[p, start:] = part.ids_S
            mask_PS[p, start:] = True
            positions_3PS[:, p, start:] = part.positions_3S
        media_of_P = [{name: value.to(device) for name, value in part.media.items()} for part in parts]
        return Prompts(ids_PS.to(device), mask_PS.to(device), positions_3PS.to(device), media_of_P)

    def _recall(self, problems: Sequence[Problem]) -> list[_Encoded]:
        new: dict[str, list[Problem]] = {}
        for problem in problems:
            if problem not in self._remembered:
                new.setdefault(problem.kind, []).append(problem)
        for same_kind in new.values():
            for problem, encoded in zip(same_kind, self._process(same_kind), strict=True):
                self._remembered[problem] = encoded
                self._remembered_bytes += _bytes(problem, encoded)
        found = [self._remembered[problem] for problem in problems]
        while len(self._remembered) > len(problems) and (
            len(self._remembered) > REMEMBERED_PROMPTS or self._remembered_bytes > REMEMBERED_BYTES
        ):
            self._remembered_bytes -= _bytes(*self._remembered.popitem(last=False))
        return found

    def _chat(self, problem: Problem) -> str:
        return self.processor.apply_chat_template(
            _messages(problem), tokenize=False, add_generation_prompt=True, **problem.chat_template_kwargs
        )

    def _process(self, problems: Sequence[Problem]) -> list[_Encoded]:
        """Chat template and processor, once for all `problems`, then taken apart again without the padding."""
        images = [image for problem in problems for image in problem.images]
        videos = [video for problem in problems for video in problem.videos]
        media: dict[str, Any] = {"images": images} if images else {}
        if videos:
            media |= {"videos": videos, "do_sample_frames": False}  # they were sampled where they were read
            media["video_metadata"] = [
                _metadata(len(video), fps)
                for problem in problems
                for video, fps in zip(problem.videos, problem.fps_of_videos, strict=True)
            ]
        texts = [self._chat(problem) for problem in problems]
        batch = self.processor(text=texts, padding=True, return_tensors="pt", **media)
        grids = {name: batch[name] for name in ("image_grid_thw", "video_grid_thw") if name in batch}
        positions_3PS, _ = self._rope_index(
            batch["input_ids"], batch["mm_token_type_ids"], attention_mask=batch["attention_mask"], **grids
        )
        media_of_P = _split_media(batch, [len(p.images) for p in problems], [len(p.videos) for p in problems])
        mask_PS = batch["attention_mask"].bool()
        return [
            _Encoded(batch["input_ids"][p, mask], positions_3PS[:, p, mask], media_of_P[p])
            for p, mask in enumerate(mask_PS)
        ]


def _messages(problem: Problem) -> list[dict[str, Any]]:
    if problem.messages:
        return [{"role": message.role, "content": _content(message)} for message in problem.messages]
    pictures = [{"type": "image"} for _ in problem.images] + [{"type": "video"} for _ in problem.videos]
    return [{"role": "user", "content": [*pictures, {"type": "text", "text": problem.prompt}]}]


def _content(message: Message) -> str | list[dict[str, str]]:
    """A text alone stays a string, which every chat template takes; with media it becomes a list of parts."""
    texts = [part for part in message.parts if isinstance(part, str)]
    if len(texts) == len(message.parts):
        return "".join(texts)
    return [{"type": "text", "text": p} if isinstance(p, str) else {"type": p.value} for p in message.parts]


def _split_media(batch: Any, images_of_P: list[int], videos_of_P: list[int]) -> list[dict[str, Tensor]]:
    """The media fields of each prompt, cut out of the fields of the batch."""
    media_of_P: list[dict[str, Tensor]] = [{} for _ in images_of_P]
    for (values, grid), counts in zip((MEDIA_FIELDS[:2], MEDIA_FIELDS[2:]), (images_of_P, videos_of_P), strict=True):
        if grid not in batch:
            continue
        grids = batch[grid].split(counts)
        patches = batch[values].split([int(g.prod(-1).sum()) for g in grids])
        for media, own_grid, own_patches in zip(media_of_P, grids, patches, strict=True):
            media |= {values: own_patches, grid: own_grid}
    return media_of_P


def _bytes(problem: Problem, encoded: _Encoded) -> int:
    """What the media of a remembered prompt take."""
    arrays = sum(array.nbytes for array in (*problem.images, *problem.videos))
    return arrays + sum(tensor.nbytes for tensor in encoded.media.values())


def _metadata(frames: int, fps: float) -> dict[str, Any]:
    return {"fps": fps, "total_num_frames": frames, "frames_indices": list(range(frames))}
