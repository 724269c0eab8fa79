"""A recipe's branches: policy, learner and objectives of each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial

import torch

from copd.assemble.assembled import Assembled, Home, Inheritance, assembled
from copd.assemble.sampling import make_correction
from copd.branches.actor import generator_of
from copd.branches.branch import Branch
from copd.branches.settings import ObjectiveSettings, Reference
from copd.branches.signals import SampledToken, Signal, StudentsLikeliest, TeachersLikeliest, WholeVocabulary
from copd.compute.ranks import ALONE, Meeting, joined
from copd.maths.distill import WHOLE_VOCABULARY, clamped_delta, masked_delta, proximal_delta
from copd.maths.divergences import Divergence, forward_kl, jensen_shannon, reverse_kl
from copd.measure.health import Health
from copd.model.folders import compute_on
from copd.model.learner import Learner
from copd.model.lora import LoraSettings
from copd.model.objectives import Aggregate, Delta, over_constant, over_sequences, over_tokens
from copd.model.parity import checked_on
from copd.model.policy import Policy
from copd.model.rates import Rate, constant, cosine, linear, warmed
from copd.model.sharded import ShardedLearner
from copd.recipe.model import Recipe
from copd.recipe.sections import OptimizerSection
from copd.topology import Edge
from copd.types import Rollouts

DIVERGENCES: dict[str, Divergence] = {
    "reverse_kl": reverse_kl,
    "forward_kl": forward_kl,
    "jsd": jensen_shannon,
}
DECAYS: dict[str, Callable[..., float]] = {"linear": linear, "cosine": cosine}
OF_THE_RATE = {"warmup_steps", "decay", "decay_steps", "decay_to"}


def device_of(recipe: Recipe, name: str) -> tuple[str, str]:
    """The device that the recipe gives a branch, its own or that of the model; and the field that says so."""
    own = recipe.branches[name].device if name in recipe.branches else None
    return (recipe.model.device, "model.device") if own is None else (own, f"branches.{name}.device")


def home_of(recipe: Recipe, name: str, index: int) -> Home:
    """Where the branch computes: on its own device, else on that of the recipe.

    Where the recipe names no card of a machine with several, branch i gets the i-th, and the first again after the
    last. Raises ModelFolderError for a device that the machine lacks.
    """
    named, field = device_of(recipe, name)
    device, autocast = compute_on(named, recipe.model.dtype, field)
    if device.type == "cuda" and ":" not in named and not recipe.model.offload:
        device = torch.device("cuda", index % torch.cuda.device_count())
    return device, autocast


def branch_policy(recipe: Recipe, base: Policy, name: str, index: int = 0) -> Policy:
    """The policy of a new branch: an adapter on the base itself, or a copy of the base on the branch's device.

    Raises RecipeError for targets of the adapter that the model lacks, ModelFolderError for a device that the machine
    lacks.
    """
    if recipe.lora is not None:
        settings = LoraSettings(**recipe.lora.model_dump())
        return base.with_adapter(name, settings, generator_of(recipe.seed, name, "lora", 0).initial_seed())
    device, autocast = home_of(recipe, name, index)
    return base.clone(device=device, autocast=autocast)


def make_learner(recipe: Recipe, policy: Policy) -> Learner:
    """The optimizer of a branch, with the clips, the aggregation and the iterations of the recipe.

    If the branch has several ranks, it is spread over them.
    """
    aggregations: dict[str, Callable[[Rollouts], Aggregate]] = {
        "sequence": over_sequences,
        "token": over_tokens,
        "constant": partial(over_constant, max_new_tokens=recipe.sampling.max_new_tokens),
    }
    kind = Learner if policy.ranks.count == 1 else ShardedLearner
    return kind(
        policy,
        **recipe.optimizer.model_dump(exclude=OF_THE_RATE),
        clip_low=recipe.grpo.clip_low,
        clip_high=recipe.grpo.clip_high,
        iterations=recipe.grpo.iterations,
        aggregate=aggregations[recipe.grpo.aggregation],
    )


def make_objectives(recipe: Recipe, base: Policy) -> ObjectiveSettings:
    """The settings of an update's parts. The base, which is never trained, is the reference of the KL."""
    grpo = recipe.grpo
    return ObjectiveSettings(
        signal=make_signal(recipe, base),
        corrected=make_correction(recipe.sampling),
        normalize_std=grpo.normalize_std,
        mask_truncated=grpo.mask_truncated,
        reference=Reference(base, grpo.kl_coefficient) if grpo.kl_coefficient else None,
        opd_learning_rate=recipe.opd.learning_rate,
        rate=make_rate(recipe.optimizer),
        opd_iterations=recipe.opd.iterations,
    )


def make_rate(settings: OptimizerSection) -> Rate:
    """The learning rate over the updates of a branch, as a share."""
    if settings.decay_steps is None:
        decay = constant
    else:
        decay = partial(DECAYS[settings.decay], steps=settings.decay_steps, to=settings.decay_to)
    return warmed(decay, settings.warmup_steps)


def make_signal(recipe: Recipe, base: Policy) -> Signal:
    """The signal of OPD. A divergence is over the whole vocabulary unless the vocabulary is large."""
    opd = recipe.opd
    deltas: dict[str, Delta] = {
        "clamp": partial(clamped_delta, bound=opd.clamp),
        "mask": partial(masked_delta, bound=opd.clamp),
        "proximal": partial(proximal_delta, teacher_share=opd.teacher_share),
    }
    if opd.signal == "sampled":
        return SampledToken(deltas[opd.bound], make_correction(recipe.sampling))
    divergence = DIVERGENCES[opd.signal]
    if base.allowed_tokens <= WHOLE_VOCABULARY:
        return WholeVocabulary(divergence)
    likeliest = StudentsLikeliest if opd.signal == "reverse_kl" else TeachersLikeliest
    return likeliest(divergence, min(opd.top_k, base.allowed_tokens))


def computes_in_half(recipe: Recipe) -> bool:
    """Whether a branch computes under autocast, if the branches are on this machine."""
    devices = [device_of(recipe, name) for name in recipe.branches]
    return any(compute_on(device, recipe.model.dtype, field)[1] is not None for device, field in devices)


def make_health(recipe: Recipe, edges: Sequence[Edge], *, in_half: bool) -> Health:
    """The guards of a run whose branches teach each other along these edges. `in_half`: one is under autocast."""
    taught = [(edge.student, edge.teacher) for edge in edges]
    return Health(taught, clamps=recipe.opd.bound != "proximal", in_half=in_half)


def make_branch(made: Assembled, name: str, index: int, *, alone: bool = False) -> Branch:
    """A new branch `name`, the `index`-th of its method. It starts from the base and learns the task of its name.

    The branch of the method `mixed` learns all tasks in turn. A branch that is `alone` trains the base itself, unless
    an adapter or the KL to a reference needs the base as it is.

    Raises RecipeError if another engine samples and does not compute as the policy does.
    """
    recipe = made.recipe
    itself = alone and recipe.lora is None and not recipe.grpo.kl_coefficient
    policy = made.base if itself else branch_policy(recipe, made.base, name, index)
    made.check_elsewhere(policy, checked_on(made.base))
    policy.sampler = made.sampler
    if made.sampler is not None:
        made.sampler.prove(policy)
    return Branch(
        name,
        index,
        policy,
        made.asked.tasks,
        made.sampling,
        capability=name,
        learner=make_learner(recipe, policy),
        settings=make_objectives(recipe, made.base),
        keep=recipe.opd.replay,
        grader=made.grader,
        asked=made.asked,
    )


@contextmanager
def lone_branch(
    recipe: Recipe,
    name: str,
    index: int,
    inherited: Inheritance | None,
    warn: Callable[[str], None],
    meeting: Meeting | None = None,
) -> Iterator[Branch]:
    """The only branch of a process, with its own model, tasks and grader. The model is loaded onto its device.

    If nothing is `inherited`, the process checks model and data itself, and warns. Where the process is to meet others,
    it is one rank of the branch.
    """
    home = home_of(recipe, name, index)
    with ExitStack() as life:
        ranks = life.enter_context(joined(meeting, home[0], recipe.backend.give_up_minutes)) if meeting else ALONE
        made = life.enter_context(assembled(recipe, warn, inherited=inherited, home=home))
        made.base.ranks = ranks
        yield make_branch(made, name, index, alone=True)
