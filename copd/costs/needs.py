"""Memory of each process of a run, on each device, term by term, by the formula of `copd.costs.memory`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from copd.assemble.branches import device_of
from copd.assemble.plan import Plan, measures_merge
from copd.compute.batching import Held, packed_tokens, plain_tokens, sampled_tokens, sampling_budget
from copd.costs import memory, refilled
from copd.costs.equal_rows import EqualRows, batches_of
from copd.costs.measured import Measured
from copd.costs.memory import Batch, Way
from copd.costs.need import (
    CPU,
    END,
    MERGING,
    SAMPLING,
    SAVING,
    SCORING,
    TRAINING,
    VALIDATING,
    Need,
    Terms,
    added,
    largest,
)
from copd.costs.refilled import Refilled, Together
from copd.errors import RecipeError
from copd.model.optimizers import KINDS
from copd.recipe.evaluation import sized
from copd.recipe.model import Recipe
from copd.types import BASE, MIXED

RUN = "the run"
"""The process of `copd train` itself, where branches have processes of their own."""
BRANCHES = "branches"
"""The processes of all branches on cards, where they hold something on the CPU."""
ACTIVATIONS = "activations"
"""Of a micro-batch, with logits, and under autocast with weights in bfloat16."""


def devices_of(recipe: Recipe, plan: Plan, cards: int) -> dict[str, str]:
    """The device of the base and of each branch with so many cards, those of one machine or for Ray of the cluster.

    Of a branch of several ranks it is that of the first; the others have the cards behind it. Raises RecipeError for a
    card that is not there, and for Ray with fewer cards than ranks of branches.
    """
    found = {BASE: _device(recipe.model.device, "model.device", 0, cards)}
    ray = recipe.backend.kind == "ray"
    for index, name in enumerate(plan.branches):
        spread = index * recipe.backend.ranks if ray or not recipe.model.offload else 0
        found[name] = _device(*device_of(recipe, name), spread, cards)
        if recipe.lora is not None and recipe.backend.kind == "local":
            found[name] = found[BASE]
    ranks, wanting = recipe.backend.ranks, sum(found[name] != CPU for name in plan.branches)
    if ray and wanting * ranks > cards:
        other = "fewer backend.ranks" if ranks > 1 else "backend: processes, which shares them out"
        raise RecipeError(
            f"backend: ray gives each rank of a branch a card of its own, and {wanting} branches of {ranks} want one; "
            f"found {cards}; accepted: a card for each, or {other}"
        )
    return found


def _device(asked: str, given_as: str, index: int, cards: int) -> str:
    """The card with this index, and the first again after the last, unless the recipe names one or wants none."""
    kind, _, number = asked.partition(":")
    if kind in (CPU, "mps") or (asked == "auto" and not cards):
        return CPU
    if int(number or 0) >= cards:
        raise RecipeError(f"{given_as}: is {asked!r}, but --gpus is {cards}; accepted: a card that is there, or cpu")
    return f"cuda:{number or index % cards}"


class Needs:
    """The needs of a recipe's processes on their devices."""

    def __init__(self, recipe: Recipe, plan: Plan, model: Measured, devices: Mapping[str, str]) -> None:
        self.recipe, self.plan, self.devices = recipe, plan, devices
        self.shape, self.prompts, self.packed, there, frozen = model
        self.evaluation = sized(recipe.evaluation, there)
        shape = self.shape
        lora = recipe.lora
        self.trained = shape.parameters - frozen if lora is None else memory.adapter(shape, lora.rank, lora.targets)
        self._whole = memory.weights(shape)
        self._split: dict[tuple[EqualRows, Held], list[Batch]] = {}

    def all(self) -> list[Need]:
        """The processes of the run: one for all, or one for the run and one for each branch."""
        if self.recipe.backend.kind != "local":
            alone = [self._on_ranks(self._alone(name)) for name in self.plan.branches]
            return [*self._of_the_run(), *alone, *self._beside_cards()]
        places = dict.fromkeys([*self.devices.values(), CPU])
        return [need for need in map(self._together, places) if need.most]

    @property
    def checkpoint(self) -> int:
        """Bytes of a checkpoint of all branches, at its largest."""
        trained = memory.checkpoint(self.trained, self.recipe.optimizer.kind)
        held = self._whole if self._holds else 0
        kept = memory.kept_batch(self.plan.batches.native, self.recipe.sampling.max_new_tokens)
        beside = held + self.recipe.opd.replay * kept
        return len(self.plan.branches) * trained + len(self.plan.learners) * beside

    @property
    def models(self) -> int:
        """Bytes of the model folders at the end."""
        return len({*self.plan.branches, self.plan.product or self.plan.branches[0]}) * self._whole

    @property
    def _trained_here(self) -> int:
        """Trained parameters of which a process has gradients and moments: a rank of several has those of its share."""
        return self.trained // self.recipe.backend.ranks

    @property
    def _holds(self) -> bool:
        return self.plan.batches.held_teachers and bool(self.plan.edges)

    @property
    def _merges(self) -> bool:
        return self.plan.merges

    def _own(self, name: str) -> Terms:
        """What a branch holds for good; a base that adapters share is left out."""
        weights = {"weights": self._whole} if self.recipe.lora is None else {"adapters": memory.WIDE * self.trained}
        held = {"held copies": self._whole} if self._holds and name in self.plan.learners else {}
        return {**weights, **self._moments(self.devices[name]), **held}

    def _moments(self, device: str) -> Terms:
        kind = self.recipe.optimizer.kind
        follow = memory.moments if device == CPU else memory.moments_on_the_card
        return {"moments of AdamW": follow(self._trained_here, kind)}

    def _base(self, device: str) -> int:
        """The base where branches compute, held in half precision where nobody trains it."""
        frozen = self.recipe.lora is not None and self._way(device).half
        return memory.frozen_weights(self.shape) if frozen else self._whole

    def _alone(self, name: str) -> Need:
        """A branch in a process of its own, where a base is held only if an adapter or a KL needs it."""
        device = self.devices[name]
        base = {"base": self._base(device)} if self.recipe.lora or self.recipe.grpo.kl_coefficient else {}
        return Need(name, device, base | self._own(name), self._stages(name))

    def _on_ranks(self, alone: Need) -> Need:
        """Each of the ranks of a branch: it has the whole weights, and once more a share of them, which it trains."""
        count, lora = self.recipe.backend.ranks, self.recipe.lora
        if count == 1:
            return alone
        adapter = memory.WIDE * self.trained if lora else 0
        held = {**alone.held, "sharded weights": (self._base(alone.device) + adapter) // count}
        gathered = {
            "gathered weights": memory.gathered(self.shape),
            "gathered gradients": 0 if lora else memory.gathered_gradients(self.shape),
        }
        stages = {**alone.stages, TRAINING: alone.stages[TRAINING] | gathered}
        kind, _, first = alone.device.partition(":")
        others = (f"{kind}:{int(first) + rank}" if first else kind for rank in range(1, count))
        return Need(f"{alone.process}, {count} ranks", alone.device, held, stages, tuple(others))

    def _beside_cards(self) -> Iterator[Need]:
        """What the processes of branches on cards have on the CPU, all together."""
        names = [name for name in self.plan.branches if self.devices[name] != CPU]
        held = 0 if KINDS[self.recipe.optimizer.kind].follows else self._moments(CPU)["moments of AdamW"]
        stages = [self._copied_from_a_card(name) for name in names]
        merging = [{MERGING: {"weights to merge": self._whole}} for _ in names if self._merges]
        together = {stage: added(each.get(stage, {}) for each in stages) for stage in (TRAINING, SAVING)}
        together[MERGING] = added(each[MERGING] for each in merging)
        if names:
            yield Need(BRANCHES, CPU, {"moments of AdamW": len(names) * held}, together)

    def _copied_from_a_card(self, name: str) -> dict[str, Terms]:
        """What a branch copies from its card to the CPU: for the norms of its parts, and to be written."""
        moves = KINDS[self.recipe.optimizer.kind].follows
        state = memory.WIDE * self.trained + (memory.moments(self.trained, self.recipe.optimizer.kind) if moves else 0)
        state += self._whole if self._holds and name in self.plan.learners else 0
        norms = memory.gradients(self.trained) if self._parts(name) > 1 else 0
        return {TRAINING: {"gradient of other parts": norms}, SAVING: {"state to write": state}}

    def _of_the_run(self) -> list[Need]:
        """The process of the run beside those of branches. Its base waits on the CPU until it is evaluated."""
        home = self.devices[BASE]
        merging = {"merge": memory.merging(self.shape, len(self.plan.learners))}
        stages = {MERGING: merging} if self._merges else {}
        evaluated = self._sampled(self._evaluated(), home)
        if home == CPU:
            merged = {"merge": self._whole} if self._merges else {}
            return [Need(RUN, CPU, {"base": self._whole}, {**stages, END: {**merged, **evaluated}})]
        there = {END: {"base or merge": self._whole, **evaluated}}
        if measures_merge(self.recipe, self.plan):
            there[VALIDATING] = {"merge": self._whole, **evaluated}
        return [Need(RUN, CPU, {"base": self._whole}, stages), Need(RUN, home, {}, there)]

    def _together(self, device: str) -> Need:
        """What the one process of a local run has on a device. Branches compute one after the other.

        Where they take turns a device has one of them, and the CPU has places for all and the base.
        """
        home, names = self.devices[BASE], list(self.plan.branches)
        here = [name for name in names if self.devices[name] == device]
        stages = largest([self._stages(name) for name in here])
        if self.recipe.model.offload and home != CPU:
            base, here = device == CPU, names if device == CPU else here[:1]
        else:
            base = device == home
        if self._merges and device == CPU:
            merging = memory.merging(self.shape, len(self.plan.learners))
            stages[MERGING] = {"merge": max(merging, self._whole)}  # a branch writes its weights from a copy
        if self._merges and device == home:
            stages[END] = {"merge": self._whole, **self._sampled(self._evaluated(), device)}
        if device == CPU:
            cards = [name for name in names if self.devices[name] != CPU]
            stages |= largest([stages, *map(self._copied_from_a_card, cards)])
        held = added([{"base": self._base(device)} if base else {}, *map(self._own, here)])
        if device == CPU and home != CPU and not KINDS[self.recipe.optimizer.kind].follows:
            held = added([held, *(self._moments(CPU) for name in names if self.devices[name] != CPU)])
        return Need(RUN, device, held, stages)

    def _stages(self, name: str) -> dict[str, Terms]:
        sampled = [*self._native(name), *self._taught(name), *self._evaluated()]
        stages = {
            TRAINING: self._trained(name),
            SCORING: self._scored(name),
            SAMPLING: self._sampled(sampled, self.devices[name]),
        }
        awake = {} if self._way(self.devices[name]).card else self._engine(self.devices[name])
        return {**stages, TRAINING: stages[TRAINING] | awake, SCORING: stages[SCORING] | awake}

    def _engine(self, device: str) -> Terms:
        """What vLLM holds while it is awake, if it samples: on a card it sleeps in other stages."""
        sampling = self.recipe.sampling
        if sampling.engine == "builtin":
            return {}
        wide = memory.NARROW if self._way(device).half else memory.WIDE
        cache = int(sampling.vllm_cache_gib * 2**30)
        return {"weights of vLLM": wide * self.shape.parameters, "cache of vLLM": cache}

    def _parts(self, name: str) -> int:
        """Most parts of an update, of which one may be native."""
        return len(self._taught(name)) + bool(self._native(name))

    def _native(self, name: str) -> list[EqualRows]:
        """A learner's batches of GRPO; the one of `mixed` has prompts of all capabilities."""
        batches = self.plan.batches
        capabilities = self.plan.capabilities if name == MIXED else [name] if name in self.plan.learners else []
        return [EqualRows(each, batches.prompts, batches.rollouts_per_prompt) for each in capabilities]

    def _taught(self, name: str) -> list[EqualRows]:
        """Batches on the way to a student, with those of a replay."""
        batches, plan = self.plan.batches, self.plan
        edges = [edge for edge in (*plan.edges, *plan.lessons) if edge.student == name]
        visits = [EqualRows(edge.teacher, batches.opd_prompts, batches.opd_rollouts_per_prompt) for edge in edges]
        replayed = [EqualRows(edge.teacher, batches.prompts, batches.rollouts_per_prompt) for edge in plan.lessons]
        return [*visits, *(replayed if plan.schedule.replay_steps and name == plan.student else [])]

    def _evaluated(self) -> list[EqualRows]:
        """Batches of evaluation, on all capabilities."""
        asked = self.evaluation
        sizes = [(asked.problems, 1), (asked.problems, max(asked.pass_at, default=1)), self._measured]
        return [EqualRows(name, *size) for name in self.plan.capabilities for size in sizes]

    @property
    def _measured(self) -> tuple[int, int]:
        return self.evaluation.behaviour_problems, 2

    def _way(self, device: str) -> Way:
        """How log-probs are computed on a device."""
        dtype, model = self.recipe.model.dtype, self.recipe.model
        half = dtype == "bfloat16" or (dtype == "auto" and device != CPU)
        return Way(half, self.packed, model.gradient_checkpointing, self.recipe.lora is not None, card=device != CPU)

    def _trained(self, name: str) -> Terms:
        way, taught, native = self._way(self.devices[name]), self._taught(name), self._native(name)
        batches = self._batches([*native, *taught], self._held_by_log_probs)
        copies = 2 if self._parts(name) > 1 and not way.card else 1  # the norms of parts need the one before
        return {
            "gradients": copies * memory.gradients(self._trained_here),
            ACTIVATIONS: max(memory.step(self.shape, batch, way) for batch in batches),
        }

    def _scored(self, name: str) -> Terms:
        """As a teacher of its own capability, as a reference, and in measures of all capabilities."""
        way, sizes = self._way(self.devices[name]), self.plan.batches
        taught = EqualRows(name, sizes.opd_prompts, sizes.opd_rollouts_per_prompt)
        lessons = [taught for edge in self.plan.taught if edge.teacher == name]
        measured = [EqualRows(each, *self._measured) for each in self.plan.capabilities]
        batches = self._batches([*self._native(name), *lessons, *measured], self._held_by_log_probs)
        return {ACTIVATIONS: max(memory.scoring(self.shape, batch, way) for batch in batches)}

    def _sampled(self, asked: Iterable[EqualRows], device: str) -> Terms:
        if engine := self._engine(device):
            return engine
        way, shape, asked = self._way(device), self.shape, list(asked)
        batches = self._batches(asked, sampled_tokens)
        if way.card:
            calls = list(map(self.refilled, asked))
            cached = max(refilled.cache(shape, call, half=way.half) for call in calls)
            rest = max(refilled.beside_cache(shape, call, half=way.half) for call in calls)
        else:
            parts = [
                (memory.cached(shape, b, half=way.half), memory.sampling(shape, b, half=way.half)) for b in batches
            ]
            cached, rest = max(parts, key=sum)
        joined = memory.joined_weights(shape) if device == CPU and not way.half and shape.normed else 0
        return {"cache": cached, "prompts or logits": rest, "weights joined": joined, **self._narrow(way, batches)}

    def refilled(self, asked: EqualRows) -> Refilled:
        """A call of sampling on a card."""
        sampling, micro = self.recipe.sampling, self.recipe.model.micro_batch_tokens
        cache = sampling.cache_tokens or micro
        return refilled.refilled(asked, self.prompts[asked.capability], sampling.max_new_tokens, cache, micro)

    def together(self, name: str) -> Together | None:
        """How many rows of a branch's first batch, or of its first visit, are sampled at once; None with vLLM."""
        asked = next(iter([*self._native(name), *self._taught(name)]), None)
        if asked is None or self._engine(self.devices[name]):
            return None
        if self.devices[name] != CPU:
            call = self.refilled(asked)
            return Together(call.rows, call.long_rows, asked.prompts * asked.rows)
        most = max(batch.rows for batch in self._batches([asked], sampled_tokens))
        return Together(most, most, asked.prompts * asked.rows)

    def _narrow(self, way: Way, batches: Sequence[Batch]) -> Terms:
        """Copies of weights in bfloat16, of which a frozen base needs none."""
        return {"weights in bfloat16": max(memory.cast_weights(self.shape, batch, way) for batch in batches)}

    @property
    def _held_by_log_probs(self) -> Held:
        return packed_tokens if self.packed else plain_tokens

    def _counted(self, held: Held) -> tuple[Held, int]:
        """What counts the tokens of a batch, where a cache may have a budget of its own, and the most that it has."""
        micro = self.recipe.model.micro_batch_tokens
        return sampling_budget(micro, self.recipe.sampling.cache_tokens) if held is sampled_tokens else (held, micro)

    def _batches(self, asked: Iterable[EqualRows], held: Held) -> list[Batch]:
        """The micro-batches of rows of full length to the longest prompts, each size once."""
        for each in asked:
            if (each, held) not in self._split:
                prompts = self.prompts[each.capability]
                response = self.recipe.sampling.max_new_tokens
                counted, budget = self._counted(held)
                self._split[each, held] = list(batches_of(each, prompts, response, budget, counted))
        return [batch for each in asked for batch in self._split[each, held]]
