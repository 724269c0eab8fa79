"""K low-rank adapters on one frozen base: each branch trains its own (Hu et al., arXiv 2106.09685; peft).

An adapter changes a linear layer W to W + (alpha / rank) B A. A is random and B starts at zero, so that a new branch
equals the base. Every forward pass first activates its adapter. For a merge or an export the update is added to the
weights: a mean of A and of B would not be the mean of the updates (method.md, trap 13).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from copd.errors import RecipeError, WriteError
from copd.model.holding import at_least_float32, copied
from copd.system.files import with_usual_modes


@dataclass(frozen=True)
class LoraSettings:
    """`rank` of the update, its scale `alpha` / rank, and the last names of the linear layers that get an adapter."""

    rank: int
    alpha: float
    targets: Sequence[str]


def add_adapter(model: Any, name: str, settings: LoraSettings, seed: int) -> None:
    """Freeze the model and add an adapter called `name`, in float32 at least. Its random half is a function of `seed`.

    Raises RecipeError for a target that is not a linear layer of the model, or that is its output head.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise RecipeError("lora: needs peft: pip install peft") from error
    _check_targets(model, settings.targets)
    config = LoraConfig(
        r=settings.rank, lora_alpha=settings.alpha, target_modules=list(settings.targets), lora_dropout=0.0, bias="none"
    )
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Already found a `peft_config`", UserWarning)
        torch.manual_seed(seed)
        inject_adapter_in_model(config, model, adapter_name=name)
    for parameter in adapter_parameters(model, name).values():
        # peft gives an adapter the type of the weights that it is added to
        parameter.data = parameter.data.to(at_least_float32(parameter.dtype))
    activate(model, None)


def activate(model: Any, name: str | None) -> None:
    """Activate this adapter only; None: the base alone. Does nothing for a model without adapters."""
    for _, layer in _layers(model):
        if name is None:
            if not layer.disable_adapters:
                layer.enable_adapters(False)
        elif layer.disable_adapters or layer.active_adapters != [name]:
            layer.set_adapter(name)
            layer.enable_adapters(True)


def adapter_parameters(model: Any, name: str) -> dict[str, nn.Parameter]:
    """The parameters of one adapter by their name in the model."""
    return {
        f"{where}.{half}.{name}.weight": getattr(layer, half)[name].weight
        for where, layer in _layers(model)
        for half in ("lora_A", "lora_B")
    }


@torch.no_grad()
def full_weights(model: Any, name: str | None) -> dict[str, Tensor]:
    """Copies of the weights under their names in a model without adapters, with the update of adapter `name` added.

    They are on the CPU, those in half precision as float32 ones.
    """
    layers = dict(_layers(model))
    weights = {}
    for where, parameter in model.named_parameters():
        owner = next((layer for layer in layers if where.startswith(f"{layer}.")), None)
        rest = where if owner is None else where.removeprefix(f"{owner}.")
        if owner is None:
            weights[where] = _on_cpu(parameter)
        elif rest == "base_layer.weight" and name is not None:
            weights[f"{owner}.weight"] = (parameter + layers[owner].get_delta_weight(name)).cpu()
        elif rest.startswith("base_layer."):
            weights[f"{owner}.{rest.removeprefix('base_layer.')}"] = _on_cpu(parameter)
    return weights


def _on_cpu(parameter: Tensor) -> Tensor:
    return parameter.detach().to("cpu", at_least_float32(parameter.dtype), copy=True)


@torch.no_grad()
def materialised(model: Any, name: str | None, device: torch.device | str) -> Any:
    """An independent, fully trainable model without adapters, whose weights include the update of adapter `name`.

    It is on `device`, and none of it is in half precision.
    """
    twin = copied(model, device, whole=True)
    for where, layer in list(_layers(twin)):
        plain = layer.get_base_layer()
        if name is not None:
            plain.weight += layer.get_delta_weight(name)
        twin.set_submodule(where, plain)
    del twin.peft_config
    return twin.requires_grad_(True)


def save_adapter(model: Any, name: str, folder: Path) -> None:
    """Write one adapter in peft's format: `PeftModel.from_pretrained(base, folder)` loads it.

    Raises WriteError if the folder cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    tensors = {
        f"base_model.model.{where.replace(f'.{name}.weight', '.weight')}": parameter.detach().cpu().contiguous()
        for where, parameter in adapter_parameters(model, name).items()
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)  # if a file has the folder's name, peft raises an AssertionError
        model.peft_config[name].save_pretrained(folder)
        save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
        with_usual_modes(folder)
    except (OSError, SafetensorError) as error:
        raise WriteError(f"{folder.parent}: the adapter cannot be written: {error}") from error


def has_adapters(model: Any) -> bool:
    """Whether any adapter was added."""
    return bool(getattr(model, "peft_config", None))


def _layers(model: Any) -> Iterator[tuple[str, Any]]:
    """The layers that have adapters, with their names."""
    if not has_adapters(model):
        return
    from peft.tuners.lora import LoraLayer

    yield from ((where, module) for where, module in model.named_modules() if isinstance(module, LoraLayer))


def _check_targets(model: Any, targets: Sequence[str]) -> None:
    head = model.get_output_embeddings()
    linear = {
        where.removesuffix(".base_layer").rpartition(".")[2]
        for where, module in model.named_modules()
        if isinstance(module, nn.Linear) and module is not head and ".lora_" not in where
    }
    if strangers := [target for target in targets if target not in linear]:
        raise RecipeError(
            f"lora.targets: {strangers[0]!r} is no linear layer of {type(model).__name__} that can have an adapter; "
            f"accepted: {', '.join(sorted(linear))}"
        )
