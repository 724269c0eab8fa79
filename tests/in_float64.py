"""A tiny model that computes in float64 throughout, for tests that compare with many digits."""

from typing import Any

from torch import Tensor, nn


def _rotated(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """The rotation of the vision tower's queries and keys in the type of the weights."""
    from transformers.models.qwen3_vl.modeling_qwen3_vl import rotate_half

    cos, sin = cos.unsqueeze(-2).to(q), sin.unsqueeze(-2).to(q)
    return q * cos + rotate_half(q) * sin, k * cos + rotate_half(k) * sin


def in_float64(model: Any) -> Any:
    """RMS norm and the vision tower's rotation in the weights' type, where transformers computes in float32 always.

    The rotation is replaced for all models: in float32 it is the same.
    """
    from transformers.models.qwen3_vl import modeling_qwen3_vl

    modeling_qwen3_vl.apply_rotary_pos_emb_vision = _rotated
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child).__name__.endswith("RMSNorm"):
                norm = nn.RMSNorm(child.weight.shape, eps=child.variance_epsilon)
                norm.weight = child.weight
                setattr(module, name, norm)
    return model.double()
