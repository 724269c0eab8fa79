"""The section of sampling: every field with its meaning and default. Imports no torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from copd.recipe.fields import Amount, Count, CountFrom0, Positive, Section


class SamplingSection(Section):
    """Rollouts of a branch on its own capability."""

    prompts_per_step: Count = Field(16, description="prompts of the branch's own capability per step (P)")
    rollouts_per_prompt: int = Field(8, ge=2, le=10**6, description="responses per prompt, the group of GRPO (G)")
    refill: CountFrom0 = Field(
        0,
        description="how often a native batch may sample prompts_per_step more prompts, until prompts_per_step groups "
        "have rewards that vary (DAPO's dynamic sampling); R counts the most that there can be",
    )
    max_new_tokens: Amount = Field(36, description="longer responses are truncated at this length and get reward 0")
    temperature: Positive = Field(1.0, description="temperature of sampling and of every log-prob")
    top_p: float = Field(
        1.0,
        gt=0,
        le=1,
        description="tokens are drawn from the likeliest ones that have this probability together; 1 = all. With a cut "
        "by top_p, top_k or min_p, tokens have importance weights (docs/method.md, section 3)",
    )
    top_k: Amount | None = Field(None, description="tokens are drawn from this many of the likeliest; null = all")
    min_p: float = Field(
        0.0, ge=0, lt=1, description="tokens are drawn from those at least this many times as likely as the likeliest"
    )
    stop: tuple[Annotated[str, Field(min_length=1)], ...] = Field(
        (),
        description='strings that end a response, such as ["</answer>"]: it ends with the token that completes one, '
        "which stays part of it, and counts as finished",
    )
    cache_tokens: Amount | None = Field(
        None,
        description="with builtin: most tokens in the cache at once, each response with its prompt, and so how many "
        "are sampled side by side; null: model.micro_batch_tokens on cards, twice as many elsewhere",
    )
    engine: Literal["builtin", "vllm"] = Field(
        "builtin",
        description="what samples. builtin: the model as it is trained; vllm: vLLM in each branch's process "
        "(docs/vllm.md), with temperature at most 2",
    )
    importance_cap: float = Field(
        2.0,
        ge=1,
        description="with vllm, and where top_p, top_k or min_p cut: largest importance weight of a sampled token, "
        "min(exp(trainer's - sampler's log-prob), cap); not with a direct loss",
    )
    vllm_cache_gib: Positive = Field(
        4.0, description="with vllm: memory for the keys and values of what is sampled, while it is sampled"
    )

    @model_validator(mode="after")
    def _takes_the_temperature(self) -> SamplingSection:
        if self.engine == "vllm" and self.temperature > 2:
            raise ValueError(f".temperature: is {self.temperature:g}; engine vllm takes at most 2")
        return self
