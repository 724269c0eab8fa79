"""A policy: a model with its processor, its vocabulary mask, and log-probs and samples of responses.

A prompt is computed once for all of its rows. Sampling continues from the prompt's cache; log-probs are computed on
prompts and responses in one sequence (`copd.compute.packing`).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from copd.compute.batching import (
    Held,
    answered,
    micro_batches,
    packed_tokens,
    plain_tokens,
    sampling_budget,
    take_rows,
    unflatten,
)
from copd.compute.encode import Encoder
from copd.compute.family import Family, family_of, tokenizer_of
from copd.compute.forward import Forward
from copd.compute.logprobs import response_score, response_stats
from copd.compute.packing import attention_as_now
from copd.compute.ranks import ALONE, Ranks, sampled, scored
from copd.errors import RecipeError
from copd.maths.cut import WHOLE, Cut
from copd.maths.logprobs import TokenStats
from copd.model import builtin_sampler
from copd.model.folders import EXPORTED, load_model, save_model
from copd.model.holding import WaitingRoom, copied, hold_in_half
from copd.model.lora import (
    LoraSettings,
    activate,
    adapter_parameters,
    add_adapter,
    full_weights,
    has_adapters,
    materialised,
    save_adapter,
)
from copd.model.vocabulary import banned_tokens, end_tokens
from copd.types import Problem, Rollouts, Score


class Policy:
    """A model that samples responses and gives log-probs of responses.

    The vocabulary mask `banned_V` applies to sampling and to every log-prob alike. A model that cannot share a prompt
    between rows takes the plain path: `copd.model.parity` then turns off `packing`, for log-probs, or `shared_prefix`,
    for sampling and log-probs, and notes its `doubt`. A micro-batch has at most `micro_batch_tokens`. The cache of
    sampling has at most `cache_tokens`, by default as many, off cards twice as many. With `gradient_checkpointing`,
    layers are recomputed in the backward pass. Several policies may share a model, each through its own `adapter`; None
    is the model without an adapter. The mask allows control tokens that are `spoken`, such as `<answer>`. `ranks` share
    sampling and scoring.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        *,
        device: torch.device | str = "cpu",
        autocast: torch.dtype | None = None,
        micro_batch_tokens: int = 16_384,
        cache_tokens: int | None = None,
        encoder: Encoder | None = None,
        gradient_checkpointing: bool = False,
        adapter: str | None = None,
        spoken: Collection[str] = (),
        family: type[Family] | None = None,
        ranks: Ranks = ALONE,
    ) -> None:
        self.ranks = ranks
        self.device = torch.device(device)
        self.model = model.to(self.device).eval()
        self.processor = processor
        self.tokenizer = tokenizer_of(processor)
        self.encoder = encoder or Encoder(family_of(model, processor, family))
        self.forward = Forward(self.model, self.encoder.family)
        self.autocast = autocast
        self.micro_batch_tokens = micro_batch_tokens
        self._cache_tokens = cache_tokens
        self.shared_prefix = True
        self.packing = self.encoder.family.every_layer_sees_all
        self.doubt = ""
        self.adapter = adapter
        self._room = WaitingRoom()
        self.sampler: Callable[..., Rollouts] | None = None
        """Another engine: called with the policy and the arguments of `sample`. None: the policy samples itself."""
        self.changes = 0
        """How often the weights have changed since the policy was made."""
        self.gradient_checkpointing = gradient_checkpointing
        if gradient_checkpointing:
            _enable_checkpointing(model)
        self.spoken = spoken
        self.end_ids = end_tokens(model, processor).to(self.device)
        self.banned_V = banned_tokens(model, self.tokenizer, self.end_ids.cpu(), spoken).to(self.device)

    @classmethod
    def from_pretrained(cls, folder: str | Path, *, dtype: torch.dtype = torch.float32, **options: Any) -> Policy:
        """Load a policy from a local folder of safetensors to its device. Raises ModelFolderError naming the fault.

        Weights are never unpickled, and code in the folder is never run.
        """
        return cls(*load_model(Path(folder), dtype, options.get("device", "cpu")), **options)

    def save(self, folder: Path, card: str, export_dtype: str = "float32") -> None:
        """Write a folder that plain transformers loads, with model card and vocabulary mask.

        `export_dtype` is the type of the weights in the folder; those of the policy stay as they are. With an adapter,
        the folder holds the full model with the adapter's update, and the adapter itself in `adapter/`, in float32.
        Raises WriteError if the folder cannot be written.
        """
        if self.adapter is not None:
            self.clone(device="cpu").save(folder, card, export_dtype)
            save_adapter(self.model, self.adapter, folder / "adapter")
            return
        save_model(
            self.model,
            self.processor,
            folder,
            card,
            suppressed=self.banned_V.nonzero()[:, 0].tolist(),
            end_ids=self.end_ids.tolist(),
            pad_id=self.encoder.family.pad_id,
            dtype=EXPORTED[export_dtype],
        )

    def clone(self, **changes: Any) -> Policy:
        """An independent policy with the same weights. Both share the encoder, which has no weights.

        An adapter becomes part of the copy's weights. `changes` are options of the constructor, such as another device.
        """
        device = changes.get("device", self.device)
        if has_adapters(self.model):
            return self._with(materialised(self.model, self.adapter, device), **changes)
        return self._with(copied(self.model, device), **changes)

    def duplicate(self) -> Policy:
        """An independent policy with the same weights; an adapter stays one."""
        return self._with(copied(self.model, self.device), adapter=self.adapter)

    def with_adapter(self, name: str, settings: LoraSettings, seed: int) -> Policy:
        """A policy on this same model, which is frozen from now on, with a new adapter.

        At first the adapter changes nothing. Under autocast the frozen weights are held in its type from now on.

        Raises RecipeError for targets that the model does not have.
        """
        if self.autocast is not None and not has_adapters(self.model):
            hold_in_half(self.model, self.autocast)
        add_adapter(self.model, name, settings, seed)
        return self._with(self.model, adapter=name)

    def _with(self, model: Any, **changes: Any) -> Policy:
        options = {
            "device": self.device,
            "autocast": self.autocast,
            "micro_batch_tokens": self.micro_batch_tokens,
            "cache_tokens": self._cache_tokens,
            "encoder": self.encoder,
            "gradient_checkpointing": self.gradient_checkpointing,
            "spoken": self.spoken,
            "ranks": self.ranks,
        }
        twin = Policy(model, self.processor, **(options | changes))
        twin.shared_prefix, twin.packing, twin.doubt = self.shared_prefix, self.packing, self.doubt
        return twin

    def to(self, device: torch.device | str) -> None:
        """Move the weights and everything else that this policy computes with."""
        self.device = torch.device(device)
        if self.device.type == "cpu":
            tensors = {**dict(self.model.named_parameters()), **dict(self.model.named_buffers())}
            for name, moved in self._room.moved(tensors, self.device).items():
                tensors[name].data = moved
        else:
            self.model.to(self.device, non_blocking=True)
        self.end_ids, self.banned_V = self.end_ids.to(self.device), self.banned_V.to(self.device)

    def trained_parameters(self) -> dict[str, nn.Parameter]:
        """The parameters that a learner changes, by name, tied ones once: the adapter's, or all of the model's."""
        if self.adapter is not None:
            return adapter_parameters(self.model, self.adapter)
        return {name: p for name, p in self.model.named_parameters() if p.requires_grad}

    def weights(self) -> dict[str, Tensor]:
        """Copies of all weights on the CPU by their name in a model without adapters, tied ones once."""
        if has_adapters(self.model):
            return full_weights(self.model, self.adapter)
        return {name: p.detach().to("cpu", copy=True) for name, p in self.model.named_parameters()}

    @torch.no_grad()
    def load_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Take over parameters by name, tied ones once. Raises KeyError naming a missing parameter.

        Raises ValueError for a model with adapters, since other policies share its base.
        """
        if has_adapters(self.model):
            raise ValueError("full weights cannot be loaded into a model with adapters")
        for name, parameter in self.model.named_parameters():
            parameter.copy_(weights[name])
        self.changes += 1

    @property
    def packs(self) -> bool:
        """Whether log-probs are computed on prompts and responses packed into one sequence."""
        return self.shared_prefix and self.packing

    @property
    def context(self) -> int | None:
        """Most tokens of prompt and response together; None if the model sets no limit."""
        return getattr(self.model.config.get_text_config(), "max_position_embeddings", None)

    @property
    def cache_tokens(self) -> int:
        """Most tokens of the cache while the policy's own model samples."""
        return self._cache_tokens or self.micro_batch_tokens

    @property
    def sampling_budget(self) -> tuple[Held, int]:
        """What counts the tokens of a batch that is sampled at once, off cards, and the most that it may have."""
        return sampling_budget(self.micro_batch_tokens, self._cache_tokens)

    @property
    def allowed_tokens(self) -> int:
        """Number of tokens that the vocabulary mask allows."""
        return int((~self.banned_V).sum())

    def sample(
        self,
        problems: Sequence[Problem],
        *,
        rollouts_per_prompt: int = 1,
        generator: torch.Generator | None = None,
        max_new_tokens: int = 36,
        temperature: float = 1.0,
        cut: Cut = WHOLE,
        stop: Sequence[str] = (),
    ) -> Rollouts:
        """Sample `rollouts_per_prompt` responses to each problem. Rows of one prompt are next to each other.

        The `sampler` samples, or the policy's own model (`copd.model.builtin_sampler`). Without a generator each token
        is the most likely one. With one, tokens are drawn from what `cut` leaves of the distribution, and their
        log-probs are of what is left. A response ends with an end token, or with the token that completes a string of
        `stop`. Problems may be of several kinds.
        """
        return sampled(
            self.ranks,
            partial(self.sampler or builtin_sampler.sample, self),
            problems,
            rollouts_per_prompt=rollouts_per_prompt,
            generator=generator,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            cut=cut,
            stop=stop,
        )

    def texts(self, rollouts: Rollouts) -> list[str]:
        """The responses as text, end tokens left out. [N]."""
        spoken_NT = rollouts.mask_NT & ~torch.isin(rollouts.tokens_NT, self.end_ids.cpu())
        rows = zip(rollouts.tokens_NT, spoken_NT, strict=True)
        return self.tokenizer.batch_decode([tokens[spoken].tolist() for tokens, spoken in rows])

    def logp(self, rollouts: Rollouts) -> Tensor:
        """Differentiable log-probs of the responses at the rollouts' temperature. [N, T], 0 on padding."""
        batches = self.micro_batches(rollouts, torch.arange(len(rollouts.tokens_NT)))
        flat = torch.cat([self.token_stats(take_rows(rollouts, rows)).logp_M for rows in batches])
        return unflatten(flat, rollouts.mask_NT.to(self.device), torch.cat(batches).to(self.device))

    def score(self, rollouts: Rollouts, *, version: int = 0, **asked: Any) -> Score:
        """Log-probs of the responses and of what else is asked; see `copd.compute.logprobs.response_score`."""
        return scored(self.ranks, partial(response_score, self), rollouts, version=version, **asked)

    def micro_batches(self, rollouts: Rollouts, rows_M: Tensor) -> list[Tensor]:
        """Split rows by this policy's token budget, for log-probs on its path."""
        held, rows = packed_tokens if self.packs else plain_tokens, rows_M.tolist()
        length_N = rollouts.mask_NT.sum(-1)
        return self.split(rows, rollouts.problems, rollouts.prompt_of_N, length_N, held, self.micro_batch_tokens)

    def token_stats(self, rollouts: Rollouts, **asked: Any) -> TokenStats:
        """Statistics of the M response tokens of one micro-batch; see `copd.compute.logprobs.response_stats`."""
        return response_stats(self, rollouts, **asked)

    def split(
        self,
        rows_M: Sequence[int],
        problems: Sequence[Problem],
        prompt_of_N: Tensor,
        length_N: Tensor,
        held: Held,
        token_budget: int,
    ) -> list[Tensor]:
        """Split rows of so many response tokens by a token budget. `held` counts the tokens that a batch holds."""
        batches = micro_batches(
            rows_M,
            prompt_of_N.tolist(),
            length_N.tolist(),
            kind_P=[problem.kind for problem in problems],
            prompt_length_P=self.encoder.lengths(problems),
            token_budget=token_budget,
            held=held,
        )
        self.encoder.expect(answered(problems, prompt_of_N, rows) for rows in batches)
        return batches

    @contextmanager
    def computing(self) -> Iterator[None]:
        """The context of every forward: the policy's adapter, its autocast, and checkpointing if a gradient is wanted.

        A layer checkpoints only in training mode. Only the layers are put into training mode, so no dropout becomes
        active.
        """
        activate(self.model, self.adapter)
        recomputed = self.gradient_checkpointing and torch.is_grad_enabled()
        layers = [m for m in self.model.modules() if recomputed and isinstance(m, GradientCheckpointingLayer)]
        for layer in layers:
            layer.training = True
        try:
            with torch.autocast(self.device.type, self.autocast or torch.bfloat16, enabled=self.autocast is not None):
                yield
        finally:
            for layer in layers:
                layer.training = False


def _enable_checkpointing(model: Any) -> None:
    if not model.supports_gradient_checkpointing:
        raise RecipeError(f"model.gradient_checkpointing: {type(model).__name__} has none; set it to false")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # transformers 5.20 renames what is called here
        again = {"use_reentrant": False, "context_fn": partial(attention_as_now, model)}
        model.gradient_checkpointing_enable(again)
