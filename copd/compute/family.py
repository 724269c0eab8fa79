"""What depends on the kind of a model: prompts, positions and inputs. Loading a model chooses its family."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

from copd.errors import ChatRefused, ModelFolderError, first_line, visible
from copd.types import Pixels, Problem


@dataclass(frozen=True, eq=False)
class Encoded:
    """One prompt without padding: its S ids, their positions on A axes, and its media in the model's form."""

    ids_S: Tensor
    positions_AS: Tensor
    media: Mapping[str, Tensor]


class Family:
    """The base of all families, and that of causal language models of text.

    A prompt is a text through the tokenizer's chat template, and a token's position is its index; subclasses for models
    that see pictures change that. `kinds` are the kinds of prompts that the model takes. `axes` is A, the number of
    coordinates of a position. With `every_layer_sees_all`, attention is torch's own, and only the mask decides what a
    token attends to. With `shares_prompts`, tests run models of this kind with prompts that are computed once.
    """

    kinds: tuple[str, ...] = ("text",)
    axes = 1

    def __init__(self, model: Any, processor: Any) -> None:
        self.model_type = model.config.model_type
        self.processor = processor
        self.tokenizer = tokenizer_of(processor)
        text = model.config.get_text_config()
        layers = getattr(text, "layer_types", None)
        windowed = set(layers) != {"full_attention"} if layers else getattr(text, "sliding_window", None) is not None
        self.shares_prompts = self.model_type in KNOWN_TO_SHARE
        self.every_layer_sees_all = not windowed and model.config._attn_implementation == "sdpa"

    @property
    def pad_id(self) -> int:
        """The id in the padding. No token attends to padding."""
        pad, end = self.tokenizer.pad_token_id, self.tokenizer.eos_token_id
        return int(end if pad is None else pad)

    def encode(self, problems: Sequence[Problem]) -> list[Encoded]:
        """Encode problems of one kind.

        Raises ValueError naming a problem whose kind the model does not take. Raises ModelFolderError if the chat
        template fails, and ChatRefused if the template itself refuses the chat. Raises DataError naming a picture or
        video that is not what it was.
        """
        self._check_kinds(problems)
        return self._encode(problems)

    def lengths(self, problems: Sequence[Problem]) -> list[int]:
        """Number of tokens of each prompt of one kind, placeholders expanded. No pixel is made. Raises as `encode`."""
        self._check_kinds(problems)
        return self._lengths(problems)

    def _check_kinds(self, problems: Sequence[Problem]) -> None:
        for problem in problems:
            if problem.kind not in self.kinds:
                raise ValueError(
                    f"problem {problem.id!r} holds {problem.kind}; "
                    f"{self.model_type} takes {' and '.join(self.kinds)} only"
                )

    def unexpanded(self, problem: Problem) -> list[int]:
        """The ids of a prompt before a processor has put a placeholder in the place of each part of a picture.

        Raises ModelFolderError and ChatRefused as `encode` does.
        """
        text = _chat(self.processor, problem)
        return list(self.tokenizer(text, add_special_tokens=self._adds_special_tokens(text))["input_ids"])

    def position_ids(self, positions_ANT: Tensor) -> Tensor:
        """Positions in the form that the model's forward takes."""
        return positions_ANT[0]

    def prompt_inputs(self, ids_PS: Tensor) -> dict[str, Tensor]:
        """Further inputs that go with the tokens of prompts that are not yet in a cache."""
        return {}

    def placeholders(self, encoded: Encoded) -> tuple[int, int]:
        """Number of placeholder tokens in a prompt, and number of picture tokens that the model will put there."""
        return 0, 0

    def step_mask(self, mask_MS: Tensor, dtype: torch.dtype) -> Tensor:
        """The attention mask of one new token per row.

        If every layer sees all tokens, this is the tensor that is added to the attention's scores, in their `dtype`.
        """
        if not self.every_layer_sees_all:
            return mask_MS.long()
        added_MS = torch.zeros(mask_MS.shape, dtype=dtype, device=mask_MS.device).masked_fill_(~mask_MS, -torch.inf)
        return added_MS[:, None, None]

    def _adds_special_tokens(self, text: str) -> bool:
        """Whether the tokenizer puts its own tokens around the text of a chat."""
        return False

    def _encode(self, problems: Sequence[Problem]) -> list[Encoded]:
        texts = [_chat(self.tokenizer, problem) for problem in problems]
        ids = [torch.tensor(row) for row in self.tokenizer(texts, add_special_tokens=False)["input_ids"]]
        return [Encoded(ids_S, torch.arange(len(ids_S))[None], {}) for ids_S in ids]

    def _lengths(self, problems: Sequence[Problem]) -> list[int]:
        return [len(encoded.ids_S) for encoded in self._encode(problems)]


class _WithPictures(Family):
    """Run chat template and processor once for all problems, then split the batch and drop the padding."""

    def _encode(self, problems: Sequence[Problem]) -> list[Encoded]:
        batch = self._processed(problems, np.asarray)
        positions_APS = self._positions(batch)
        media_of_P = self._media(batch, [len(p.images) for p in problems], [len(p.videos) for p in problems])
        return [
            Encoded(batch["input_ids"][p, mask], positions_APS[:, p, mask], media_of_P[p])
            for p, mask in enumerate(batch["attention_mask"].bool())
        ]

    def _lengths(self, problems: Sequence[Problem]) -> list[int]:
        return self._processed(problems, _hollow)["attention_mask"].sum(-1).tolist()

    def _processed(self, problems: Sequence[Problem], pixels: Callable[[Any], Any]) -> Any:
        """The padded batch of the processor, which gets the `pixels` of each image and video."""
        images = [[pixels(image) for image in problem.images] for problem in problems]
        videos = [pixels(video) for problem in problems for video in problem.videos]
        media: dict[str, Any] = {"images": self._arranged(images)} if any(images) else {}
        if videos or media:
            media["input_data_format"] = "channels_last"  # else 1, 3 or 4 rows of pixels would be taken for channels
        if videos:
            media |= {"videos": videos, "do_sample_frames": False}  # frames were sampled when the video was read
            media["video_metadata"] = [
                _metadata(video.shape[0], fps)
                for problem in problems
                for video, fps in zip(problem.videos, problem.fps_of_videos, strict=True)
            ]
        texts = [_chat(self.processor, problem) for problem in problems]
        if not self._adds_special_tokens(texts[0]):
            media["add_special_tokens"] = False
        return self.processor(text=texts, padding=True, return_tensors="pt", **media)

    def _adds_special_tokens(self, text: str) -> bool:
        bos = self.tokenizer.bos_token
        return bos is None or not text.startswith(bos)

    def _arranged(self, images_of_P: Sequence[Sequence[Any]]) -> list[Any]:
        """Images as the processor takes them: one list of all."""
        return [image for images in images_of_P for image in images]

    def _positions(self, batch: Any) -> Tensor:
        """Positions [A, P, S] of the padded batch. Those of padding have no meaning."""
        raise NotImplementedError

    def _media(self, batch: Any, images_of_P: list[int], videos_of_P: list[int]) -> list[dict[str, Tensor]]:
        """The media of each prompt, taken from the tensors of the batch."""
        raise NotImplementedError


class QwenVL(_WithPictures):
    """Qwen-VL: a position is (time, height, width); pictures are patches with a grid."""

    kinds = ("text", "image", "video")
    axes = 3
    FIELDS = (("pixel_values", "image_grid_thw"), ("pixel_values_videos", "video_grid_thw"))

    def __init__(self, model: Any, processor: Any) -> None:
        super().__init__(model, processor)
        shell = copy.copy(model.model)
        shell._modules = {}
        self._rope_index = shell.get_rope_index  # needs the configuration only, so the weights can be freed
        self._picture_ids = torch.tensor([model.config.image_token_id, model.config.video_token_id])
        self._patches_per_token = model.config.vision_config.spatial_merge_size**2

    def position_ids(self, positions_ANT: Tensor) -> Tensor:
        return positions_ANT

    def placeholders(self, encoded: Encoded) -> tuple[int, int]:
        patches = sum(int(encoded.media[grid].prod(-1).sum()) for _, grid in self.FIELDS if grid in encoded.media)
        return int(torch.isin(encoded.ids_S, self._picture_ids).sum()), patches // self._patches_per_token

    def _positions(self, batch: Any) -> Tensor:
        names = ("image_grid_thw", "video_grid_thw", "second_per_grid_ts")
        timing = {name: torch.as_tensor(batch[name]) for name in names if name in batch}
        positions_3PS, _ = self._rope_index(
            batch["input_ids"], batch["mm_token_type_ids"], attention_mask=batch["attention_mask"], **timing
        )
        return positions_3PS

    def _media(self, batch: Any, images_of_P: list[int], videos_of_P: list[int]) -> list[dict[str, Tensor]]:
        media_of_P: list[dict[str, Tensor]] = [{} for _ in images_of_P]
        for (values, grid), counts in zip(self.FIELDS, (images_of_P, videos_of_P), strict=True):
            if grid not in batch:
                continue
            grids = batch[grid].split(counts)
            patches = batch[values].split([int(g.prod(-1).sum()) for g in grids])
            for media, own_grid, own_patches in zip(media_of_P, grids, patches, strict=True):
                media |= {values: own_patches, grid: own_grid}
        return media_of_P


class Gemma3(_WithPictures):
    """Gemma 3: a position is an index; all images have one size; tokens of an image attend to each other both ways."""

    kinds = ("text", "image")

    def __init__(self, model: Any, processor: Any) -> None:
        super().__init__(model, processor)
        self._image_id = model.config.image_token_id
        self._tokens_per_image = model.config.mm_tokens_per_image
        if getattr(processor.image_processor, "do_pan_and_scan", None):
            raise ModelFolderError(
                f"{folder_of(processor)}: do_pan_and_scan of the image processor is on; set it to false, copd takes an "
                "image whole"
            )

    def prompt_inputs(self, ids_PS: Tensor) -> dict[str, Tensor]:
        return {"token_type_ids": (ids_PS == self._image_id).long()}

    def placeholders(self, encoded: Encoded) -> tuple[int, int]:
        images = len(encoded.media.get("pixel_values", ()))
        return int((encoded.ids_S == self._image_id).sum()), images * self._tokens_per_image

    def _arranged(self, images_of_P: Sequence[Sequence[Any]]) -> list[Any]:
        return [list(images) for images in images_of_P]

    def _positions(self, batch: Any) -> Tensor:
        return (batch["attention_mask"].cumsum(-1) - 1)[None]

    def _media(self, batch: Any, images_of_P: list[int], videos_of_P: list[int]) -> list[dict[str, Tensor]]:
        if "pixel_values" not in batch:
            return [{} for _ in images_of_P]
        return [{"pixel_values": images} for images in batch["pixel_values"].split(images_of_P)]


FAMILIES: dict[str, type[Family]] = {
    "gemma3": Gemma3,
    "qwen2_5_vl": QwenVL,
    "qwen2_vl": QwenVL,
    "qwen3_vl": QwenVL,
}
"""Image-text models by the `model_type` of their configuration."""


KNOWN_TO_SHARE = frozenset({"gemma3", "gemma3_text", "llama", "qwen2_5_vl", "qwen3", "qwen3_vl"})
"""Models by `model_type` whose prompts are computed once for all responses, as the tests of tiny ones show."""


def family_of(model: Any, processor: Any, own: type[Family] | None = None) -> Family:
    """The family of a model: a user's `own`, else by its configuration.

    Raises ModelFolderError for an image-text model that is not listed, and for an `own` that makes no family.
    """
    if own is not None:
        if not (isinstance(own, type) and issubclass(own, Family)):
            raise ModelFolderError(f"model.family: {own.__name__} is no subclass of copd.compute.family.Family")
        return own(model, processor)
    kind = model.config.model_type
    if kind in FAMILIES:
        return FAMILIES[kind](model, processor)
    if kind in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        raise ModelFolderError(
            f"{folder_of(processor)}: {type(model).__name__} ({kind}) is not supported; accepted: causal language "
            f"models of text, {', '.join(FAMILIES)}, and those of a model.family of yours"
        )
    return Family(model, processor)


def tokenizer_of(processor: Any) -> Any:
    """The tokenizer of a processor; for a model of text only, the tokenizer that takes the processor's place."""
    return getattr(processor, "tokenizer", processor)


def folder_of(processor: Any) -> str:
    """The folder that a processor comes from, as messages name its model."""
    return tokenizer_of(processor).name_or_path or "model.path"


def _chat(processor: Any, problem: Problem) -> str:
    """The prompt by the model's chat template. transformers renders the template in a sandbox without files."""
    try:
        return processor.apply_chat_template(
            problem.chat, tokenize=False, add_generation_prompt=True, **problem.chat_template_kwargs
        )
    except Exception as error:  # a template's expressions can raise anything
        folder, reason = folder_of(processor), visible(first_line(error))
        if type(error).__name__ == "TemplateError":  # exactly this class, no subclass: the template itself raised it
            raise ChatRefused(f"{folder}: its chat template refuses a chat: {reason}") from error
        raise ModelFolderError(f"{folder}: its chat template fails: {type(error).__name__}: {reason}") from error


def _hollow(media: np.ndarray | Pixels) -> Tensor:
    """A tensor of the same shape without content, on which a processor computes shapes and nothing else."""
    return torch.empty(media.shape, dtype=torch.uint8, device="meta")


def _metadata(frames: int, fps: float) -> dict[str, Any]:
    return {"fps": fps, "total_num_frames": frames, "frames_indices": list(range(frames))}
