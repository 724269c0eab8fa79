"""The check at start: log-probs must equal those of the model's own forward, with and without a shared prefix."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from copd.compute.batching import take_rows
from copd.compute.encode import Responses
from copd.compute.family import folder_of
from copd.compute.forward import prompt_arguments
from copd.errors import ModelFolderError, first_line
from copd.maths.logprobs import masked_log_softmax
from copd.model.policy import Policy
from copd.types import Problem, Rollouts, SettledPath

TOLERANCE_NATS = {None: 1e-3, torch.bfloat16: 0.25}
"""Accepted difference of a log-prob by the type of autocast: rounding in bfloat16 is coarse."""
PROBE_TOKENS = 8
UNABLE = (AttributeError, LookupError, RuntimeError, TypeError, ValueError)
"""Errors that a model raises if its cache cannot be repeated."""


def largest_difference(policy: Policy, problems: Sequence[Problem]) -> float:
    """Greatest difference, in nats, between plain log-probs and those of the sampler and of the packed path.

    Raises ModelFolderError for a device whose memory does not hold that.
    """
    try:
        rollouts = _probe(policy, problems, rollouts_per_prompt=2)
        plain = plain_logp(policy, rollouts)
        packed = [policy.score(rollouts).logp_NT] if policy.packs else []
    except torch.OutOfMemoryError as error:
        raise ModelFolderError(
            f"{folder_of(policy.processor)}: the memory of {policy.device} does not hold the check at start: "
            f"{first_line(error)} `copd plan` tells what a recipe needs of it"
        ) from error
    return float((torch.stack([rollouts.logp_NT, *packed]) - plain).abs().max())


def settle_path(policy: Policy, problems: Sequence[Problem], *, allow_plain_path: bool) -> str | None:
    """Leave shared prefixes on if they agree with the plain path on `problems`; else turn them off for good.

    The packing of log-probs is turned off first, then sharing in sampling too. Returns a warning if one was turned off,
    else None. Raises ModelFolderError instead for a family that is known to share, unless `allow_plain_path`: a doubt
    there is a fault, and the plain path computes each prompt again for each of its responses. Raises ModelFolderError
    if the plain path differs from the model's own forward on each text alone. Such a model does not tolerate padding,
    or changes its logits after the output head.
    """
    accepted, family = TOLERANCE_NATS[policy.autocast], policy.encoder.family
    warning = None
    doubt = _doubt(policy, problems, accepted) if policy.shared_prefix else ""
    if doubt:
        policy.doubt = doubt
        instead, remains = "computing log-probs on the plain path", doubt
        if policy.packing:
            policy.packing = False
            remains = _doubt(policy, problems, accepted)
        if remains:
            policy.shared_prefix, instead = False, "sampling and computing log-probs on the plain path"
        warning = f"{doubt}; {instead}, which is slower"
    rollouts = _probe(policy, problems, rollouts_per_prompt=1)
    wrong = float((plain_logp(policy, rollouts) - logp_alone(policy, rollouts)).abs().max())
    folder = folder_of(policy.processor)
    if math.isnan(wrong):
        raise ModelFolderError(f"{folder}: the model's log-probs are not numbers: its weights are damaged")
    if not wrong <= accepted:
        raise ModelFolderError(
            f"{folder}: {type(policy.model).__name__} is not supported: log-probs of a padded batch differ by "
            f"{wrong:.2g} nats from those of each text alone (accepted: {accepted})"
        )
    if doubt and family.shares_prompts and not allow_plain_path:
        raise ModelFolderError(
            f"{folder}: {doubt} on {checked_on(policy)}; {family.model_type} is known to share prompts, so its "
            "weights, its arithmetic (model.dtype) or the installed packages are at fault. model.allow_plain_path=true "
            "goes on without sharing, and computes each prompt again for each response"
        )
    return warning


def settled_path(policy: Policy) -> SettledPath:
    """The path on which a policy computes."""
    return SettledPath(policy.shared_prefix, policy.packing, checked_on(policy), policy.doubt)


def checked_on(policy: Policy) -> str:
    """Device and type of a policy's arithmetic, as far as they decide how it rounds."""
    kind = policy.device.type
    if kind == "cuda":
        kind = torch.cuda.get_device_name(policy.device)
    elif kind == "cpu":
        kind = f"cpu with {torch.backends.cpu.get_cpu_capability()}"
    return f"{kind} in {str(policy.autocast or torch.float32).removeprefix('torch.')}"


def _doubt(policy: Policy, problems: Sequence[Problem], accepted: float) -> str:
    """The reason against using shared prefixes as they are; empty if there is none."""
    try:
        difference = largest_difference(policy, problems)
    except UNABLE as error:
        return f"a shared prefix does not work with this model ({error})"
    if difference <= accepted:
        return ""
    return f"shared-prefix log-probs differ from the plain forward's by {difference:.2g} nats (accepted: {accepted})"


def plain_logp(policy: Policy, rollouts: Rollouts) -> Tensor:
    """Log-probs by the plain path, whichever path the policy takes. [N, T]."""
    chosen, policy.packing = policy.packing, False
    try:
        return policy.score(rollouts).logp_NT
    finally:
        policy.packing = chosen


@torch.no_grad()
def logp_alone(policy: Policy, rollouts: Rollouts) -> Tensor:
    """Log-probs of each row alone, without padding or cache, from the logits of the model's own forward. [N, T]."""
    logp_NT = torch.zeros(rollouts.mask_NT.shape)
    for n in range(len(logp_NT)):
        row = take_rows(rollouts, torch.tensor([n]))
        prompts = policy.encoder.encode(row.problems, policy.device)
        tokens_1T = row.tokens_NT.to(policy.device)
        response = Responses(tokens_1T, row.mask_NT.to(policy.device), row.prompt_of_N.to(policy.device), prompts)
        length = tokens_1T.shape[1]
        with policy.computing():
            inputs = prompt_arguments(policy.encoder.family, prompts.with_responses(response))
            output = policy.model(**inputs, use_cache=False, logits_to_keep=length + 1)
        logp_TV = masked_log_softmax(output.logits[0, :-1], policy.banned_V, temperature=rollouts.temperature)
        logp_NT[n, :length] = logp_TV.gather(-1, tokens_1T[0, :, None])[:, 0].float().cpu()
    return logp_NT


def _probe(policy: Policy, problems: Sequence[Problem], rollouts_per_prompt: int) -> Rollouts:
    generator = torch.Generator().manual_seed(0)
    return policy.sample(
        problems, rollouts_per_prompt=rollouts_per_prompt, generator=generator, max_new_tokens=PROBE_TOKENS
    )
