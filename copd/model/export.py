"""Writing a policy as a folder that plain transformers loads, its vocabulary mask included."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError

from copd.errors import WriteError
from copd.model.lora import save_adapter
from copd.model.policy import Policy


def save_policy(policy: Policy, folder: Path, card: str) -> None:
    """Save weights (safetensors), processor, generation config and model card into `folder`.

    A policy with an adapter is saved as the full model that it amounts to, and the adapter beside it in `adapter/`.

    The generation config carries the vocabulary mask as `suppress_tokens` and decodes greedily, so that `generate`
    answers as `Policy.sample` does. Raises WriteError where the disk refuses.
    """
    if policy.adapter is not None:
        save_policy(policy.clone(), folder, card)
        try:
            save_adapter(policy.model, policy.adapter, folder / "adapter")
        except (OSError, SafetensorError) as error:
            raise WriteError(f"{folder}: the adapter cannot be written: {error}") from error
        return
    config = policy.model.generation_config
    config.suppress_tokens = policy.banned_V.nonzero()[:, 0].tolist()
    config.eos_token_id = policy.end_ids.tolist()
    config.pad_token_id = policy.encoder.family.pad_id
    config.do_sample = False
    config.temperature = config.top_p = config.top_k = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        policy.model.save_pretrained(folder)
        policy.processor.save_pretrained(folder)
        (folder / "README.md").write_text(card, encoding="utf-8")
    except (OSError, SafetensorError) as error:
        raise WriteError(f"{folder}: the model cannot be written: {error}") from error
