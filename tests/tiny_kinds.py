"""Tiny random models of other kinds than the embedded one: transformers' own classes, built offline."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from tokenizers import processors
from transformers import (
    Gemma3Config,
    Gemma3ForCausalLM,
    Gemma3ForConditionalGeneration,
    Gemma3ImageProcessor,
    Gemma3Processor,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3NextConfig,
    Qwen3NextForCausalLM,
)

from copd.compute.family import tokenizer_of
from copd.model.tiny import CHAT_TEMPLATE, MAX_CONTEXT, PATCH_SIZE, tiny_model, tiny_processor, tiny_tokenizer

Pair = tuple[Any, Any]
BEGIN, IMAGE, IMAGE_BEGINS, IMAGE_ENDS = "<|endoftext|>", "<|image_pad|>", "<|vision_start|>", "<|vision_end|>"
GEMMA_TEMPLATE = CHAT_TEMPLATE.replace("<|vision_start|><|image_pad|><|vision_end|>", IMAGE_BEGINS)
IMAGE_SIZE, IMAGE_TOKENS = 32, 4


def _text(tokenizer: Any, **changes: Any) -> dict[str, Any]:
    """The configuration of a language model of about 100,000 parameters."""
    return {
        "vocab_size": 128,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": MAX_CONTEXT,
        "initializer_range": 0.1,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "tie_word_embeddings": True,
        **changes,
    }


def _tokenizer(template: str = CHAT_TEMPLATE) -> Any:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = template
    return tokenizer


def qwen3() -> Pair:
    """Qwen3: grouped attention, norms of queries and keys."""
    tokenizer = _tokenizer()
    return Qwen3ForCausalLM(Qwen3Config(**_text(tokenizer))), tokenizer


def llama() -> Pair:
    """Llama: untied head; the tokenizer and the template both put a begin token, without a padding token."""
    tokenizer = _tokenizer("{{ bos_token }}" + CHAT_TEMPLATE)
    tokenizer.bos_token, tokenizer.pad_token = BEGIN, None
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BEGIN} $A", special_tokens=[(BEGIN, tokenizer.bos_token_id)]
    )
    return LlamaForCausalLM(LlamaConfig(**_text(tokenizer, tie_word_embeddings=False))), tokenizer


def qwen2_5_vl() -> Pair:
    """Qwen2.5-VL: windows in the vision tower, positions in seconds for video."""
    pixels = {"shortest_edge": (2 * PATCH_SIZE) ** 2, "longest_edge": 512 * 512}
    shared = {"patch_size": PATCH_SIZE, "merge_size": 2, "temporal_patch_size": 2, "size": pixels}
    processor = Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(**shared),
        tokenizer=tiny_tokenizer(),
        video_processor=Qwen2VLVideoProcessor(**shared, do_sample_frames=False),
        chat_template=CHAT_TEMPLATE,
    )
    ids = processor.tokenizer.convert_tokens_to_ids
    rope = {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [4, 2, 2]}
    text = _text(processor.tokenizer, rope_parameters=rope)
    del text["head_dim"]
    config = Qwen2_5_VLConfig(
        text_config=text,
        vision_config={
            "depth": 2,
            "initializer_range": 0.1,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_heads": 4,
            "patch_size": PATCH_SIZE,
            "window_size": 4 * PATCH_SIZE,
            "fullatt_block_indexes": [1],
            "out_hidden_size": 64,
        },
        image_token_id=ids(IMAGE),
        video_token_id=ids("<|video_pad|>"),
        vision_start_token_id=ids(IMAGE_BEGINS),
        vision_end_token_id=ids(IMAGE_ENDS),
        tie_word_embeddings=True,
    )
    return Qwen2_5_VLForConditionalGeneration(config), processor


def _gemma_text(tokenizer: Any) -> dict[str, Any]:
    layers = ["sliding_attention", "full_attention"]
    return _text(tokenizer, sliding_window=8, layer_types=layers, query_pre_attn_scalar=16)


def gemma3() -> Pair:
    """Gemma 3 with a Siglip tower: images seen both ways, and a sliding window shorter than every prompt."""
    named = {"image_token": IMAGE, "boi_token": IMAGE_BEGINS, "eoi_token": IMAGE_ENDS}
    tokenizer = tiny_tokenizer(bos_token=BEGIN, model_specific_special_tokens=named)
    processor = Gemma3Processor(
        image_processor=Gemma3ImageProcessor(size={"height": IMAGE_SIZE, "width": IMAGE_SIZE}),
        tokenizer=tokenizer,
        chat_template="{{ bos_token }}" + GEMMA_TEMPLATE,
        image_seq_length=IMAGE_TOKENS,
    )
    config = Gemma3Config(
        text_config=_gemma_text(tokenizer),
        vision_config={
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "image_size": IMAGE_SIZE,
            "patch_size": PATCH_SIZE,
            "vision_use_head": False,
        },
        mm_tokens_per_image=IMAGE_TOKENS,
        image_token_index=tokenizer.image_token_id,
        boi_token_index=tokenizer.boi_token_id,
        eoi_token_index=tokenizer.eoi_token_id,
        tie_word_embeddings=True,
    )
    model = Gemma3ForConditionalGeneration(config)
    torch.nn.init.normal_(model.model.multi_modal_projector.mm_input_projection_weight, std=0.1)  # zero otherwise
    return model, processor


def gemma3_text() -> Pair:
    """The language model of Gemma 3 alone."""
    tokenizer = _tokenizer()
    return Gemma3ForCausalLM(Gemma3TextConfig(**_gemma_text(tokenizer))), tokenizer


def mamba() -> Pair:
    """Mamba: a recurrent state in the place of a cache of keys and values."""
    tokenizer = _tokenizer()
    config = MambaConfig(
        vocab_size=128,
        hidden_size=64,
        state_size=8,
        num_hidden_layers=2,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return MambaForCausalLM(config), tokenizer


def qwen3_next() -> Pair:
    """Qwen3-Next: every second layer is a linear attention with a recurrent state; mixture of experts."""
    tokenizer = _tokenizer()
    config = Qwen3NextConfig(
        **_text(tokenizer),
        layer_types=["linear_attention", "full_attention"],
        linear_key_head_dim=16,
        linear_value_head_dim=16,
        linear_num_key_heads=2,
        linear_num_value_heads=4,
        num_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=32,
        shared_expert_intermediate_size=32,
    )
    return Qwen3NextForCausalLM(config), tokenizer


def qwen3_vl() -> Pair:
    """The kind of the embedded world."""
    processor = tiny_processor()
    return tiny_model(processor), processor


TINY_KINDS: dict[str, Callable[[], Pair]] = {
    make.__name__: make for make in (qwen3_vl, qwen2_5_vl, gemma3, qwen3, llama, gemma3_text, qwen3_next, mamba)
}


def tiny_of_kind(name: str, seed: int = 0) -> Pair:
    """A freshly initialised tiny model of a kind by its `model_type`, and its processor or tokenizer."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model, processor = TINY_KINDS[name]()
    tokenizer = tokenizer_of(processor)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.convert_tokens_to_ids(BEGIN)
    return model.eval(), processor
