"""The shape of a model: the sizes that decide how much memory it takes. A model without values has it too."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from copd.errors import ModelFolderError


@dataclass(frozen=True)
class Tower:
    """A vision tower as in Qwen3-VL: layers, width D, inner width F, patches that make one token, numbers of a patch.

    `mergers` counts what turns patches into tokens: after the last layer, and after others for the first layers of the
    language model. `products` are the parameters that autocast casts.
    """

    layers: int
    width: int
    inner: int
    merged: int
    mergers: int
    numbers: int
    products: int


@dataclass(frozen=True)
class Shape:
    """A decoder: layers, width D, query width Q, key or value width K, inner width F, head size, vocabulary V.

    `normed` where queries and keys are normed (Qwen3, Qwen3-VL). `parameters` counts the whole model, tied ones once;
    `products` those of the decoder that autocast casts; `largest` those of the largest tensor. `tied`: the output head
    is the embeddings. `ends` is the sum of inputs and outputs of all linear layers with the same last name. `tower` is
    None if there is none, or one of another kind.
    """

    layers: int
    width: int
    query: int
    key: int
    inner: int
    head: int
    vocabulary: int
    normed: bool
    parameters: int
    products: int
    largest: int
    tied: bool
    ends: Mapping[str, int]
    tower: Tower | None = None


def shape_of(model: Any) -> Shape:
    """The shape of a model, whether its tensors have values or not.

    Raises ModelFolderError for a model that is no decoder of attention and one MLP a layer, or has none of something.
    """
    config = model.config.get_text_config()
    layers = getattr(config, "layer_types", None) or ()
    if getattr(config, "num_experts", None) or "linear_attention" in layers or not hasattr(config, "intermediate_size"):
        raise ModelFolderError(
            f"{type(model).__name__}: the formula of memory is that of a decoder whose layers have attention and one "
            "MLP; accepted: such as Qwen3-VL, Qwen3 and Llama"
        )
    _check_sizes(config)
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    output, modules = model.get_output_embeddings(), list(model.named_modules())
    linear = [(name, each) for name, each in modules if isinstance(each, nn.Linear) and each is not output]
    tower, ends = _tower_of(model), dict[str, int]()
    for name, each in linear:
        last = name.rpartition(".")[2]
        ends[last] = ends.get(last, 0) + each.in_features + each.out_features
    return Shape(
        layers=config.num_hidden_layers,
        width=config.hidden_size,
        query=config.num_attention_heads * head,
        key=config.num_key_value_heads * head,
        inner=config.intermediate_size,
        head=head,
        vocabulary=config.vocab_size,
        normed=any(name.endswith("q_norm") for name, _ in modules),
        parameters=sum(p.numel() for p in model.parameters()),
        products=_products(each for _, each in linear) - (tower.products if tower else 0),
        largest=max(p.numel() for p in model.parameters()),
        tied=output.weight is model.get_input_embeddings().weight,
        ends=ends,
        tower=tower,
    )


def _check_sizes(config: Any) -> None:
    """Raise ModelFolderError for sizes that no model has, from which transformers makes one nonetheless."""
    for name in ("num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads"):
        if getattr(config, name) < 1:
            raise ModelFolderError(f"config.json: {name}: found {getattr(config, name)}; accepted: 1 or more")
    if config.num_attention_heads % config.num_key_value_heads:
        raise ModelFolderError(
            f"config.json: num_attention_heads: found {config.num_attention_heads}; accepted: a multiple of "
            f"num_key_value_heads, which is {config.num_key_value_heads}"
        )


def _tower_of(model: Any) -> Tower | None:
    if model.config.model_type != "qwen3_vl":
        return None
    vision = model.config.vision_config
    return Tower(
        layers=vision.depth,
        width=vision.hidden_size,
        inner=vision.intermediate_size,
        merged=vision.spatial_merge_size**2,
        mergers=1 + len(vision.deepstack_visual_indexes),
        numbers=vision.in_channels * vision.temporal_patch_size * vision.patch_size**2,
        products=_products(each for each in model.model.visual.modules() if isinstance(each, nn.Linear)),
    )


def _products(layers: Iterable[nn.Linear]) -> int:
    """Parameters of linear layers."""
    return sum(p.numel() for each in layers for p in each.parameters())
