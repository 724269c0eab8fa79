"""A decode step that only CPUs use: Qwen3's language model in few operators.

On a CPU a step of few rows costs mostly the overhead of its operators. This step makes the same arithmetic as
transformers' modules with a third of the operators. One product gives query, key and value, which are normalised and
rotated together. One tensor is the cache of all layers.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import Cache

from copd.compute.family import Family

DECODERS = ("Qwen3Model", "Qwen3VLTextModel")
BARE = (
    "torch.nn.modules.container.ModuleList",
    "torch.nn.modules.linear.Linear",
    "torch.nn.modules.sparse.Embedding",
    "transformers.activations.SiLUActivation",
    "transformers.models.qwen3.modeling_qwen3.",
    "transformers.models.qwen3_vl.modeling_qwen3_vl.",
)
"""The beginning of the full names of a decoder's classes. Classes of wrappers have other names."""


def can_be_lean(model: Any, family: Family) -> bool:
    """Whether `LeanStep` gives the same results as the language model in its current state.

    True in float32 on a CPU if nothing wraps the decoder: no hook, adapter, autocast or shard.
    """
    decoder = model.get_decoder()
    if type(decoder).__name__ not in DECODERS or not family.every_layer_sees_all:
        return False
    config, weight = decoder.config, decoder.embed_tokens.weight
    ordinary = not config.attention_bias and config.rope_parameters["rope_type"] == "default"
    computed = (weight.device.type, weight.dtype) == ("cpu", torch.float32) and not torch.is_autocast_enabled("cpu")
    return ordinary and computed and all(map(_is_bare, decoder.modules()))


def _is_bare(module: nn.Module) -> bool:
    name = f"{type(module).__module__}.{type(module).__qualname__}"
    hooked = bool(module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module))
    return name.startswith(BARE) and not hooked


class _Weights(NamedTuple):
    """The weights of a layer. `norm_HD` has one row for each query head and each key head.

    The other weights of norms are multiplied into the products that follow them.
    """

    query_key_value: Tensor
    norm_HD: Tensor
    attended: Tensor
    gate: Tensor
    up: Tensor
    down: Tensor


class LeanStep:
    """A step with the weights that the language model has when this object is made; see `can_be_lean`.

    The cache holds `room` prefixes of `columns` tokens, whose positions are below `end`.
    """

    def __init__(self, decoder: Any, family: Family, prefill: Cache, room: int, columns: int, end: int) -> None:
        self._family = family
        keys = prefill.layers[0].keys
        count, self._kv_heads, self._length, self._width = keys.shape
        self._cached = keys.new_empty(len(prefill.layers), 2, room, self._kv_heads, columns, self._width)
        for states, layer in zip(self._cached, prefill.layers, strict=True):
            for part, filled in zip(states, (layer.keys, layer.values), strict=True):
                part[:count, :, : self._length] = filled
        self._heads = decoder.config.num_attention_heads
        self._scale = self._width**-0.5
        self._eps = keys.new_tensor(decoder.config.rms_norm_eps)
        self._embedding, self._last_norm = decoder.embed_tokens.weight, decoder.norm.weight
        self._layers = [self._weights(layer) for layer in decoder.layers]
        positions = torch.arange(end, device=keys.device).expand(family.axes, 1, -1)
        cos, sin = (part[0, :, None] for part in decoder.rotary_emb(keys, family.position_ids(positions)))
        self._cos_E1D, (first, second) = cos, sin.chunk(2, dim=-1)
        self._sin_E1D = torch.cat([-first, second], dim=-1)

    def _weights(self, layer: Any) -> _Weights:
        attention, mlp = layer.self_attn, layer.mlp
        heads = ((attention.q_norm, self._heads), (attention.k_norm, self._kv_heads))
        into_attention = torch.cat([attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight])
        gate, up = (into.weight * layer.post_attention_layernorm.weight for into in (mlp.gate_proj, mlp.up_proj))
        return _Weights(
            (into_attention * layer.input_layernorm.weight).t(),
            torch.cat([norm.weight.expand(count, -1) for norm, count in heads]),
            attention.o_proj.weight.t(),
            gate.t(),
            up.t(),
            mlp.down_proj.weight.t(),
        )

    def move(self, source: Tensor, target: Tensor) -> None:
        filled = self._cached[..., : self._length, :]
        for here, there in zip(source.tolist(), target.tolist(), strict=True):
            filled[:, :, there] = filled[:, :, here]

    def __call__(self, ids_M: Tensor, position_M: Tensor, sees_MS: Tensor) -> Tensor:
        cos_M1D, sin_M1D = (part.index_select(0, position_M) for part in (self._cos_E1D, self._sin_E1D))
        added_M11S = self._family.step_mask(sees_MS, self._cached.dtype)
        added_B1S = added_M11S[:, 0].repeat_interleave(self._kv_heads, dim=0)
        hidden_MW = self._embedding.index_select(0, ids_M)
        for weights, cached in zip(self._layers, self._cached, strict=True):
            heads_MHD = torch.mm(self._normed(hidden_MW), weights.query_key_value)
            attended_MO = self._attend(heads_MHD, weights.norm_HD, cached, cos_M1D, sin_M1D, added_B1S)
            hidden_MW = torch.addmm(hidden_MW, attended_MO, weights.attended)
            normed_MW = self._normed(hidden_MW)
            gated_MI = F.silu(torch.mm(normed_MW, weights.gate)).mul_(torch.mm(normed_MW, weights.up))
            hidden_MW = torch.addmm(hidden_MW, gated_MI, weights.down)
        self._length += 1
        return self._normed(hidden_MW).mul_(self._last_norm)

    def _attend(
        self, heads_MO: Tensor, norm_HD: Tensor, cached: Tensor, cos_M1D: Tensor, sin_M1D: Tensor, added_B1S: Tensor
    ) -> Tensor:
        """Attention of each prefix's new token, whose queries, keys and values are the columns of `heads_MO`.

        B = M x key heads. The queries that share a key head are rows of one product.
        """
        count, width, kv_heads = len(heads_MO), self._width, self._kv_heads
        heads_MHD = heads_MO.view(count, -1, width)
        keyed = self._heads + kv_heads
        plain_MHD = self._normed(heads_MHD[:, :keyed]).mul_(norm_HD)
        turned_MHD = torch.addcmul(plain_MHD * cos_M1D, plain_MHD.roll(width // 2, -1), sin_M1D)
        keys, values = cached[:, :count, :, : self._length + 1]
        keys[:, :, -1] = turned_MHD[:, self._heads :]
        values[:, :, -1] = heads_MHD[:, keyed:]
        query_BGD = turned_MHD[:, : self._heads].reshape(count * kv_heads, -1, width)
        score_BGS = torch.baddbmm(added_B1S, query_BGD, keys.flatten(0, 1).mT, alpha=self._scale)
        return torch.bmm(score_BGS.softmax(-1), values.flatten(0, 1)).view(count, -1)

    def _normed(self, states: Tensor) -> Tensor:
        """RMS norm over the last axis, without its weight."""
        norm = torch.linalg.vector_norm(states, dim=-1, keepdim=True)
        return states * torch.addcmul(self._eps, norm, norm, value=1 / states.shape[-1]).rsqrt_()
