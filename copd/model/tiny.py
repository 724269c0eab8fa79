"""A tiny but real Qwen3-VL: transformers' own classes, processors and chat template at 1-2 M parameters."""

from __future__ import annotations

from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2VLImageProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)

CHARACTERS = "\n !\"#$%&'()*+,-./0123456789:;<=>?@ABCDEFGHIJKLMNOPQRSTUVWXYZ[\\]^_`abcdefghijklmnopqrstuvwxyz{|}~"
WORDS = ("user", "assistant", " seconds>")
"""Words that the chat format and the timestamps of video frames repeat; each is one token."""
SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
CHAT_TEMPLATE = """{%- for message in messages -%}
{{- '<|im_start|>' + message.role + '\n' -}}
{%- if message.content is string -%}
{{- message.content -}}
{%- else -%}
{%- for content in message.content -%}
{%- if content.type == 'image' -%}
{{- '<|vision_start|><|image_pad|><|vision_end|>' -}}
{%- elif content.type == 'video' -%}
{{- '<|vision_start|><|video_pad|><|vision_end|>' -}}
{%- else -%}
{{- content.text -}}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
{{- '<|im_end|>\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|im_start|>assistant\n' -}}
{%- endif -%}
"""
PATCH_SIZE = 8
MAX_CONTEXT = 512


def tiny_tokenizer(**options: Any) -> PreTrainedTokenizerFast:
    """One token per character of printable ASCII, three words, and Qwen's special tokens.

    `options` are further options of the constructor, such as special tokens that a processor asks for by name.
    """
    vocabulary = {token: i for i, token in enumerate([*CHARACTERS, *WORDS, *SPECIAL_TOKENS])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="?"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex("|".join([*WORDS, r"[\s\S]"])), "isolated")
    backend.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=list(SPECIAL_TOKENS),
        model_max_length=MAX_CONTEXT,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        **options,
    )


def tiny_processor(patch_size: int = PATCH_SIZE, most_pixels: int = 512 * 512) -> Qwen3VLProcessor:
    """Qwen3-VL's processor with patches of so many pixels a side. Pictures of at most `most_pixels` keep their size."""
    pixels = {"shortest_edge": (2 * patch_size) ** 2, "longest_edge": most_pixels}
    shared = {
        "patch_size": patch_size,
        "merge_size": 2,
        "temporal_patch_size": 2,
        "image_mean": [0.1] * 3,
        "image_std": [0.3] * 3,
        "size": pixels,
    }
    return Qwen3VLProcessor(
        image_processor=Qwen2VLImageProcessor(**shared),
        tokenizer=tiny_tokenizer(),
        video_processor=Qwen3VLVideoProcessor(**shared, do_sample_frames=False, cap_pixels_per_frame=False),
        chat_template=CHAT_TEMPLATE,
    )


def tiny_config(processor: Qwen3VLProcessor) -> Qwen3VLConfig:
    """About 1.3 M parameters: 4 language layers of width 128, 3 vision layers of width 64, tied embeddings."""
    ids = processor.tokenizer.convert_tokens_to_ids
    return Qwen3VLConfig(
        text_config={
            "vocab_size": 128,
            "hidden_size": 128,
            "intermediate_size": 384,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 32,
            "max_position_embeddings": MAX_CONTEXT,
            "initializer_range": 0.05,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10_000.0,
                "mrope_section": [6, 5, 5],
                "mrope_interleaved": True,
            },
            "pad_token_id": ids("<|endoftext|>"),
            "eos_token_id": ids("<|im_end|>"),
            "tie_word_embeddings": True,
        },
        vision_config={
            "depth": 3,
            "initializer_range": 0.05,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_heads": 4,
            "patch_size": PATCH_SIZE,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "out_hidden_size": 128,
            "num_position_embeddings": 64,
            "deepstack_visual_indexes": [0, 1, 2],
        },
        image_token_id=ids("<|image_pad|>"),
        video_token_id=ids("<|video_pad|>"),
        vision_start_token_id=ids("<|vision_start|>"),
        vision_end_token_id=ids("<|vision_end|>"),
        tie_word_embeddings=True,
    )


def tiny_model(processor: Qwen3VLProcessor, seed: int = 0) -> Qwen3VLForConditionalGeneration:
    """A freshly initialised tiny Qwen3-VL. The same seed gives the same weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen3VLForConditionalGeneration(tiny_config(processor))
    model.generation_config.eos_token_id = processor.tokenizer.eos_token_id
    model.generation_config.pad_token_id = processor.tokenizer.pad_token_id
    return model
