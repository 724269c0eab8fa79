"""Sampling by another engine than the policy's own: when it takes over the weights, and the check that it did.

An engine has a copy of the weights. It takes them over before it samples, if the policy has changed since. A check
compares its log-probs with the policy's own, so that an engine with stale or damaged weights is found and named.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple, Protocol

import torch

from copd.compute.logprobs import response_score
from copd.compute.stops import Stops
from copd.errors import RecipeError
from copd.maths.cut import WHOLE, Cut
from copd.model.parity import TOLERANCE_NATS
from copd.model.policy import Policy
from copd.types import Problem, Rollouts

CHECKED_EVERY = 25
"""The first time that an engine takes over weights is checked, and then each so-many-th time."""
CHECKED_TOKENS = 8
SEEDS = 2**62
"""Seeds are below this number; an engine may add the number of a response to that of its prompt."""


class Sampled(NamedTuple):
    """One response: its T token ids, end token included, their log-probs, and whether it ended by itself."""

    ids_T: Sequence[int]
    logp_T: Sequence[float]
    finished: bool


class Answers(NamedTuple):
    """What an engine made of one prompt: the ids that the model saw, placeholders expanded, and the responses."""

    prompt_ids: Sequence[int]
    responses: Sequence[Sampled]


class Engine(Protocol):
    """An engine that samples with weights of its own."""

    name: str
    """As recipes name it."""

    def take(self, policy: Policy) -> None:
        """Be awake and hold the policy's weights of now. Raises RecipeError if it does not take this policy."""
        ...

    def generate(
        self,
        policy: Policy,
        problems: Sequence[Problem],
        seeds_P: Sequence[int] | None,
        *,
        rollouts_per_prompt: int,
        max_new_tokens: int,
        temperature: float,
        cut: Cut,
        stop: Sequence[str],
    ) -> list[Answers]:
        """Sample, a function of each prompt's seed as far as the engine is one; without seeds the likeliest tokens.

        The policy gives vocabulary mask, end tokens and the form of prompts. A response may go on behind a string of
        `stop`. Nothing that was computed is kept.
        """
        ...

    def rest(self) -> bool:
        """Give memory back until the next `take`. Returns whether the weights are still held."""
        ...

    def close(self) -> None:
        """End. It samples nothing more."""
        ...


class EngineSampler:
    """Samples for the policies of this process, by one engine. It is what `Policy.sampler` calls.

    `probes` are the prompts of the check, which samples at `temperature` from the whole distribution, as the policy's
    own log-probs are of it.
    """

    def __init__(self, engine: Engine, probes: Sequence[Problem], temperature: float) -> None:
        self._engine, self._probes, self._temperature = engine, probes, temperature
        self._held: tuple[weakref.ref[Policy], int] | None = None
        self._taken = 0

    def __call__(
        self,
        policy: Policy,
        problems: Sequence[Problem],
        *,
        rollouts_per_prompt: int = 1,
        generator: torch.Generator | None = None,
        max_new_tokens: int = 36,
        temperature: float = 1.0,
        cut: Cut = WHOLE,
        stop: Sequence[str] = (),
    ) -> Rollouts:
        """`Policy.sample` by the engine. The generator gives one seed per prompt.

        Raises RecipeError naming the engine if its log-probs are not the policy's.
        """
        seeds_P = None if generator is None else torch.randint(SEEDS, (len(problems),), generator=generator).tolist()
        self._update(policy)
        answers = self._engine.generate(
            policy,
            problems,
            seeds_P,
            rollouts_per_prompt=rollouts_per_prompt,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            cut=cut,
            stop=stop,
        )
        self._rest()
        if stop:
            answers = ended_by(Stops(policy.tokenizer, stop), answers)
        return replace(rollouts_of(problems, answers, temperature), cut=generator is not None and cut != WHOLE)

    def prove(self, policy: Policy) -> None:
        """Take over the policy's weights and check the log-probs, before anything is trained.

        Raises RecipeError naming the engine.
        """
        self._take(policy)
        self._check(policy)
        self._rest()

    def close(self) -> None:
        """End the engine."""
        self._engine.close()

    def _update(self, policy: Policy) -> None:
        """Take over the weights if the engine does not hold them."""
        if self._held is not None and self._held[0]() is policy and self._held[1] == policy.changes:
            return
        self._take(policy)
        if self._taken % CHECKED_EVERY == 1:
            self._check(policy)

    def _take(self, policy: Policy) -> None:
        self._engine.take(policy)
        self._held = weakref.ref(policy), policy.changes
        self._taken += 1

    def _rest(self) -> None:
        if not self._engine.rest():
            self._held = None

    def _check(self, policy: Policy) -> None:
        """Each rank of a branch checks its own engine: others may have sampled other tokens, or nothing."""
        answers = self._engine.generate(
            policy,
            self._probes,
            range(len(self._probes)),
            rollouts_per_prompt=1,
            max_new_tokens=CHECKED_TOKENS,
            temperature=self._temperature,
            cut=WHOLE,
            stop=(),
        )
        for problem, answer in zip(self._probes, answers, strict=True):
            prompt = policy.encoder.encode([problem], policy.device)
            if list(answer.prompt_ids) != prompt.ids_PS[0].tolist():
                raise RecipeError(
                    f"sampling.engine: {self._engine.name} reads the prompt of {problem.id!r} as other tokens than the "
                    "trainer; set builtin"
                )
        rollouts = rollouts_of(self._probes, answers, self._temperature)
        accepted = TOLERANCE_NATS[policy.autocast]
        difference = float((rollouts.logp_NT - response_score(policy, rollouts).logp_NT).abs().max())
        if not difference <= accepted:
            raise RecipeError(
                f"sampling.engine: after taking over the weights, log-probs of {self._engine.name} differ from the "
                f"trainer's by {difference:.2g} nats (accepted: {accepted}); set builtin, and report it with the "
                "model's name"
            )


def ended_by(stops: Stops, answers: Sequence[Answers]) -> list[Answers]:
    """The answers, each response up to the token that completes a stop string, with which it is finished."""

    def ended(response: Sampled) -> Sampled:
        last = stops.first(response.ids_T, 0)
        if last is None:
            return response
        return Sampled(response.ids_T[: last + 1], response.logp_T[: last + 1], finished=True)

    return [answer._replace(responses=[ended(each) for each in answer.responses]) for answer in answers]


def rollouts_of(problems: Sequence[Problem], answers: Sequence[Answers], temperature: float) -> Rollouts:
    """The engine's answers as rollouts, right padded. Rows of one prompt are next to each other."""
    responses = [response for answer in answers for response in answer.responses]
    length_N = torch.tensor([len(response.ids_T) for response in responses])
    mask_NT = torch.arange(max(1, int(length_N.max()))) < length_N[:, None]
    tokens_NT = torch.zeros(mask_NT.shape, dtype=torch.long)
    logp_NT = torch.zeros(mask_NT.shape)
    tokens_NT[mask_NT] = torch.tensor([i for response in responses for i in response.ids_T])
    logp_NT[mask_NT] = torch.tensor([logp for response in responses for logp in response.logp_T])
    counts_P = torch.tensor([len(answer.responses) for answer in answers])
    return Rollouts(
        problems=tuple(problems),
        tokens_NT=tokens_NT,
        mask_NT=mask_NT,
        finished_N=torch.tensor([response.finished for response in responses]),
        logp_NT=logp_NT,
        prompt_of_N=torch.arange(len(answers)).repeat_interleave(counts_P),
        temperature=temperature,
    )
