"""`copd plan`: where everything lives, what it holds, how much there is to do, and what is refused; no weights read."""

import json
import shutil
from types import SimpleNamespace

import pytest
import yaml

from copd.assemble.assembled import Assembled
from copd.assemble.plan import make_plan
from copd.assemble.tasks import make_tasks
from copd.cli.plan import is_comparison, lines
from copd.commands.plan import Cards, Planned, cards_of, check_fit, examine
from copd.commands.plan_arms import arms_planned
from copd.commands.train import train
from copd.compute.batching import packed_tokens, plain_tokens, sampled_tokens
from copd.costs import memory
from copd.costs.equal_rows import EqualRows, batches_of
from copd.costs.measured import Measured, PromptSizes
from copd.costs.memory import Way
from copd.costs.need import CPU, END, SAMPLING, SAVING, SCORING, TRAINING, VALIDATING, Need, on_each
from copd.costs.needs import ACTIVATIONS, BRANCHES, RUN, Needs, devices_of
from copd.costs.refilled import Together
from copd.costs.shape import shape_of
from copd.costs.workload import Speed, Work, Workload
from copd.errors import ModelFolderError, RecipeError
from copd.model.folders import model_folder, without_weights
from copd.recipe.reading import load_recipe
from copd.types import BASE

SMALL = [
    "schedule={cycles: 2, rl_steps: 3, opd_steps: 2}",
    "sampling={prompts_per_step: 4, rollouts_per_prompt: 2, max_new_tokens: 10}",
    "opd={prompts_per_step: 3, rollouts_per_prompt: 2}",
    "evaluation={problems: 50, validation_problems: 20, behaviour_problems: 5, pass_at: [4], every_cycles: 2}",
]
CUDA = ["model.device=auto", "model.dtype=auto"]
PROMPTS = {
    "text": PromptSizes(5.0, 4, 6),
    "image": PromptSizes(7.0, 5, 9, 4),
    "video": PromptSizes(9.0, 6, 12, 8),
}
TOKENS = {name: each.mean for name, each in PROMPTS.items()}


@pytest.fixture(scope="module")
def shape():
    return shape_of(without_weights(model_folder("builtin:digits")))


def recipe_of(*changes: str):
    return load_recipe("demo-paper", [*SMALL, *changes])


def workload_of(*changes: str) -> Workload:
    recipe = recipe_of(*changes)
    return Workload(recipe, make_plan(recipe), TOKENS)


@pytest.fixture
def planned_of(shape):
    """What the small recipe asks for on so many cards."""

    def make(*changes: str, cards: Cards | None = None) -> Planned:
        return Planned(recipe_of(*changes), cards or Cards(0), Measured(shape, PROMPTS))

    return make


@pytest.fixture
def folder(tmp_path):
    """The folder of the builtin base without its weights, and with only the files that a plan needs."""
    found = tmp_path / "model"
    found.mkdir()
    for name in (
        "config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "processor_config.json",
        "chat_template.jinja",
    ):
        shutil.copy(model_folder("builtin:digits") / name, found)
    return found


@pytest.mark.parametrize("method", ["copd", "expert", "mixed", "static_opd", "mopd", "merge_only"])
def test_the_rollouts_of_all_phases_are_those_of_the_methods_plan(method):
    load = workload_of(f"method={method}")
    done = [work for works in load.phases().values() for work in works.values()]
    assert sum(done, Work()).rollouts == load.plan.rollouts


def test_a_step_of_rlvr_samples_reads_prompts_once_and_trains_on_both_for_each_iteration():
    assert workload_of("grpo.iterations=3").phases()["rlvr"]["text"] == Work(6 * 8, 6 * 80, 6 * 20, 6 * 3 * 100)
    anchored = workload_of("grpo.kl_coefficient=0.1").phases()["rlvr"]["text"]
    assert anchored.read == 6 * (20 + 100), "the reference scores the batch"


def test_a_step_of_opd_adds_what_students_answer_and_teachers_score():
    """Text exchanges lessons with image and video: 3 prompts, 2 responses each of 10 tokens."""
    step = {name: work.times(1 / 4) for name, work in workload_of().phases()["opd"].items()}
    lesson = {"text": 60 + 3 * 5, "image": 60 + 3 * 7, "video": 60 + 3 * 9}
    assert step["image"] == Work(8 + 6, 80 + 60, 4 * 7 + 3 * 5 + lesson["image"], 80 + 4 * 7 + lesson["text"])
    assert step["text"].trained == 80 + 4 * 5 + lesson["image"] + lesson["video"]
    assert step["text"].read == 4 * 5 + (3 * 7 + 3 * 9) + 2 * lesson["text"]


def test_a_replay_samples_nothing_and_a_teacher_that_answers_samples_in_its_students_place():
    off_policy = ["opd.signal=forward_kl", "merge={method: distil, steps: 5}"]
    replayed = workload_of(*off_policy, "opd.replay=2").phases()
    assert {name: work.sampled for name, work in replayed["replay"].items()} == dict.fromkeys(
        ("text", "image", "video", "merged"), 0
    )
    assert replayed["replay"]["merged"].trained == 2 * (3 * 80 + 4 * (5 + 7 + 9))
    answered = workload_of(*off_policy, "opd.responses=teacher").phases()["consolidation"]
    assert (answered["merged"].sampled, answered["text"].sampled) == (0, 5 * 60)
    assert workload_of(*off_policy).phases()["consolidation"]["merged"].sampled == 5 * 3 * 60


def test_evaluation_is_counted_measure_by_measure():
    """Two cycles of two phases: four measures, validation after the second cycle; at the start a share of the base."""
    found = workload_of().evaluation()
    measured = found["measures"]["text"]
    answers = 4 + 1 / 3
    assert (measured.rollouts, measured.sampled) == pytest.approx((answers * 3 * 10, answers * 3 * 100))
    assert measured.read == pytest.approx(answers * 5 * 21 + (4 * 3 + 1 / 3) * (300 + 5 * 21)), (
        "each branch scores the responses of all three, and at the start its own"
    )
    assert found["validation"]["image"].rollouts == pytest.approx((1 + 1 / 3) * 3 * 20)
    assert set(found["final table"]) == {"base", "text", "image", "video", "merged"}
    assert found["final table"]["base"].rollouts == 3 * 50 * (1 + 4)
    only = workload_of("evaluation.models=product").evaluation()["final table"]
    assert set(only) == {"merged"}
    often = workload_of("evaluation.every_steps=1").evaluation()["validation"]
    assert often["text"].rollouts == pytest.approx((10 + 1 / 3) * 3 * 20)
    assert often["merged"].rollouts == (10 + 1) * 3 * 20


@pytest.mark.parametrize(
    ("changes", "cards", "devices"),
    [
        ([], 8, ["cpu"] * 4),
        (CUDA, 0, ["cpu"] * 4),
        (CUDA, 2, ["cuda:0", "cuda:0", "cuda:1", "cuda:0"]),
        ([*CUDA, "backend=ray"], 3, ["cuda:0", "cuda:0", "cuda:1", "cuda:2"]),
        ([*CUDA, "backend={kind: ray, ranks: 2}"], 6, ["cuda:0", "cuda:0", "cuda:2", "cuda:4"]),
        ([*CUDA, "branches.image.device=cuda:1"], 2, ["cuda:0", "cuda:0", "cuda:1", "cuda:0"]),
        ([*CUDA, "backend=local", "model.offload=true"], 2, ["cuda:0"] * 4),
        ([*CUDA, "backend=local", "lora={rank: 2}"], 2, ["cuda:0"] * 4),
    ],
)
def test_branches_stand_where_the_run_would_put_them(changes, cards, devices):
    recipe = recipe_of(*changes)
    found = devices_of(recipe, make_plan(recipe), cards)
    assert found == dict(zip((BASE, "text", "image", "video"), devices, strict=True))


@pytest.mark.parametrize(
    ("changes", "cards", "said"),
    [
        (
            [*CUDA, "backend=ray"],
            2,
            "backend: ray gives each rank of a branch a card of its own, and 3 branches of 1 want one; found 2",
        ),
        (
            [*CUDA, "backend={kind: ray, ranks: 2}"],
            5,
            "3 branches of 2 want one; found 5; accepted: a card for each, or fewer backend.ranks",
        ),
        (["branches.image.device=cuda:2"], 2, r"branches\.image\.device: is 'cuda:2', but --gpus is 2"),
        (["model.device=cuda"], 0, r"model\.device: is 'cuda', but --gpus is 0"),
    ],
)
def test_a_card_that_is_not_there_is_told(changes, cards, said):
    recipe = recipe_of(*changes)
    with pytest.raises(RecipeError, match=said):
        devices_of(recipe, make_plan(recipe), cards)


def need(planned: Planned, process: str, device: str) -> Need:
    return next(each for each in planned.needs if (each.process, each.device) == (process, device))


def test_a_branch_holds_weights_and_moments_and_what_the_recipe_adds(planned_of, shape):
    whole = memory.weights(shape)
    alone = need(planned_of(), "text", CPU)
    assert alone.held == {"weights": whole, "moments of AdamW": 2 * whole}
    assert alone.stages[TRAINING]["gradients"] == 2 * memory.gradients(shape.parameters)
    more = need(planned_of("grpo.kl_coefficient=0.1", "opd.teachers=phase_start"), "text", CPU)
    assert more.held == {"base": whole, **alone.held, "held copies": whole}
    adapter = need(planned_of("lora={rank: 2, targets: [q_proj]}"), "text", CPU)
    assert adapter.held == {"base": whole, "adapters": 4 * 4 * 2 * 256, "moments of AdamW": 8 * 4 * 2 * 256}
    lonely = need(planned_of("method=expert"), "text", CPU)
    assert lonely.stages[TRAINING]["gradients"] == memory.gradients(shape.parameters)


def test_vllm_holds_weights_and_a_cache_while_it_is_awake(planned_of, shape):
    """It sleeps on a card while the branch trains, and on a CPU it does not. Branches of one process share it."""
    changes, weights, cache = ["sampling.engine=vllm", "sampling.vllm_cache_gib=0.5"], shape.parameters, 2**29
    card = need(planned_of(*changes, *CUDA, cards=Cards(3)), "text", "cuda:0").stages
    assert card[SAMPLING] == {"weights of vLLM": 2 * weights, "cache of vLLM": cache}
    assert card[TRAINING] == need(planned_of(*CUDA, cards=Cards(3)), "text", "cuda:0").stages[TRAINING]
    awake = {"weights of vLLM": 4 * weights, "cache of vLLM": cache}
    (only,) = planned_of(*changes, "backend=local").needs
    for stage in (TRAINING, SAMPLING, END):
        assert awake.items() <= only.stages[stage].items()
    run = need(planned_of(*changes), RUN, CPU)
    assert run.stages[END] == {"merge": memory.weights(shape), **awake}


def test_in_one_process_branches_share_a_base_and_compute_in_turn(planned_of, shape):
    whole = memory.weights(shape)
    planned = planned_of("backend=local")
    (only,) = planned.needs
    assert only.held == {"base": whole, "weights": 3 * whole, "moments of AdamW": 6 * whole}
    assert only.stages[TRAINING] == max(
        (need(planned_of(), name, CPU).stages[TRAINING] for name in PROMPTS), key=lambda terms: sum(terms.values())
    )
    turns = planned_of(*CUDA, "backend=local", "model.offload=true", cards=Cards(1))
    assert need(turns, RUN, "cuda:0").held == {"weights": whole, "moments of AdamW": 2 * whole}
    assert need(turns, RUN, CPU).held == {"base": whole, "weights": 3 * whole, "moments of AdamW": 6 * whole}


def test_the_cpu_has_room_for_what_branches_on_cards_copy_to_it_all_at_once(planned_of, shape):
    """To be written: weights and moments, and a held copy; for the norms of parts a gradient; weights to merge."""
    whole = memory.weights(shape)
    beside = need(planned_of(*CUDA, cards=Cards(3)), BRANCHES, CPU)
    assert (beside.within(""), beside.within(TRAINING), beside.within(SAVING)) == (0, 3 * whole, 3 * 3 * whole)
    assert beside.within("merging") == 3 * whole
    held = need(planned_of(*CUDA, "opd.teachers=phase_start", cards=Cards(3)), BRANCHES, CPU)
    assert held.within(SAVING) == 3 * 4 * whole
    stays = need(planned_of(*CUDA, "optimizer.kind=adamw_on_cpu", cards=Cards(3)), BRANCHES, CPU)
    assert (stays.within(""), stays.within(SAVING)) == (3 * 2 * whole, 3 * 3 * whole)
    expert = need(planned_of(*CUDA, "method=expert", cards=Cards(3)), BRANCHES, CPU)
    assert (expert.within(TRAINING), expert.within("merging")) == (0, 0)
    one = need(planned_of(*CUDA, "backend=local", cards=Cards(1)), RUN, CPU)
    assert one.within(SAVING) == 3 * whole, "one branch after the other"


@pytest.mark.parametrize(("budget", "prompts", "rows"), [(60, 2, 4), (30, 1, 2), (16, 1, 1)])
def test_a_micro_batch_is_one_that_the_token_budget_allows(shape, budget, prompts, rows):
    """Groups of 6 or 9 and 2 x 10 tokens: two fit into 60 tokens, one into 30, and one row alone into 16."""
    recipe = recipe_of("method=expert", f"model.micro_batch_tokens={budget}")
    needs = Needs(recipe, make_plan(recipe), Measured(shape, PROMPTS), dict.fromkeys([BASE, *PROMPTS], CPU))
    found = {each.process: each.stages for each in needs.all()}
    for name, batch in (
        ("text", memory.Batch(prompts, rows, 6, 10)),
        ("image", memory.Batch(prompts, rows, 9, 10, 4 * prompts)),
    ):
        assert found[name][TRAINING][ACTIVATIONS] == memory.step(shape, batch, Way())


@pytest.mark.parametrize("held", [packed_tokens, plain_tokens, sampled_tokens])
@pytest.mark.parametrize("budget", [16, 30, 60, 100, 333])
def test_a_huge_batch_is_counted_by_its_first_micro_batches(budget, held):
    """That of as many prompts as one can count, with the same fullest micro-batch, and in no time."""

    def fullest(prompts, rows):
        found = batches_of(EqualRows("text", prompts, rows), PROMPTS["text"], 10, budget, held)
        return max(batch.prompts * batch.prompt + batch.rows * batch.response for batch in found)

    assert fullest(10**9, 8) == fullest(1000, 8)
    assert fullest(1, 2**40) == fullest(1, 2**10)
    assert fullest(10**9, 10**9) > 0


def test_on_a_card_logits_are_counted_for_as_many_rows_as_begin_however_long_responses_may_become(planned_of, shape):
    """Text has prompts of 4 to 6 tokens; a row begins if there is room for its prompt and 32 tokens."""
    asked = EqualRows("text", 40, 8)
    sizes = ["sampling={prompts_per_step: 40, rollouts_per_prompt: 8, max_new_tokens: 1000, cache_tokens: 9000}"]
    few = ["evaluation={problems: 1, validation_problems: 1, behaviour_problems: 1, pass_at: []}"]
    planned = planned_of(*CUDA, *sizes, *few, "model.micro_batch_tokens=60", "method=expert", cards=Cards(3))
    call = planned.requirements.refilled(asked)
    assert (call.rows, call.long_rows, call.cached) == (9000 // (4 + 32), 9000 // (6 + 1000 + 32), 9000)
    assert call.prefilled == 1006, "a row that waits is read again with all that it has said"
    terms = need(planned, "text", "cuda:0").stages[SAMPLING]
    logits = memory.WIDE * call.rows * shape.vocabulary
    assert terms["prompts or logits"] >= 2 * logits
    assert planned.together["text"] == Together(250, 8, 320)
    assert terms["cache"] == memory.cache(shape, 9000, half=True) * 9 // 8, "one part of 8 to spare"
    short = planned_of(*CUDA, "model.micro_batch_tokens=60", "sampling.cache_tokens=90000", cards=Cards(3))
    assert short.requirements.refilled(asked)[:4] == (320, 320, 320 * (6 + 10 + 32), 60)


def test_the_plan_tells_how_many_rows_of_a_batch_are_sampled_at_once(planned_of):
    """Elsewhere than on a card a batch has as many rows as have room if all responses reach the limit."""
    assert planned_of().together == dict.fromkeys(PROMPTS, Together(8, 8, 8))
    narrow = planned_of("model.micro_batch_tokens=42").together
    assert narrow["text"] == Together(2, 2, 8), "a group takes 6 + 2 x 10 of 42 tokens"
    assert planned_of("sampling.engine=vllm").together == {}
    mixed = planned_of("method=mixed").together
    assert list(mixed) == ["mixed"]
    assert "rows sampled at once: text 2 of 8, image 2 of 8" in "".join(
        lines(planned_of("model.micro_batch_tokens=42"))
    )


def test_on_a_card_processes_are_added_and_at_the_end_branches_have_left_it():
    first = Need("a", "cuda:0", {"weights": 100}, {TRAINING: {"x": 50}, SAMPLING: {"y": 10}})
    second = Need("b", "cuda:0", {"weights": 100}, {TRAINING: {"x": 60}, SAMPLING: {"y": 10}})
    run = Need(RUN, "cuda:0", {}, {END: {"base": 30}})
    assert on_each([first, second]) == {"cuda:0": 310}
    assert on_each([first, run]) == {"cuda:0": 150}, "the base is not there while the branch trains"
    assert on_each([first, Need(RUN, "cuda:0", {}, {END: {"base": 190}})]) == {"cuda:0": 190}
    assert on_each([first, Need(RUN, "cuda:0", {}, {VALIDATING: {"merge": 90}})]) == {"cuda:0": 240}
    here = Need("a", CPU, {"weights": 100}, {TRAINING: {"x": 50}, SAMPLING: {"y": 10}})
    assert on_each([here, Need(RUN, CPU, {"base": 30}, {END: {"merge": 30}})]) == {CPU: 180}
    assert on_each([here, Need(RUN, CPU, {"base": 30}, {END: {"merge": 90}})]) == {CPU: 230}, "all sample at once"


def test_a_merge_that_validations_measure_is_on_the_first_card_beside_its_branch(planned_of, shape):
    often = planned_of(*CUDA, "evaluation.every_steps=1", cards=Cards(3))
    beside = need(often, RUN, "cuda:0").stages
    assert beside[VALIDATING]["merge"] == memory.weights(shape)
    assert often.most["cuda:0"] == need(often, "text", "cuda:0").most + sum(beside[VALIDATING].values())
    seldom = planned_of(*CUDA, cards=Cards(3))
    assert VALIDATING not in need(seldom, RUN, "cuda:0").stages
    assert seldom.most["cuda:0"] == need(seldom, "text", "cuda:0").most


def test_each_rank_of_a_branch_has_the_whole_weights_and_a_share_of_what_is_trained(planned_of, shape):
    alone = planned_of(*CUDA, "backend=ray", cards=Cards(3))
    ranks = planned_of(*CUDA, "backend={kind: ray, ranks: 2}", cards=Cards(6))
    assert list(ranks.most) == [f"cuda:{i}" for i in range(6)]
    one, two = need(alone, "text", "cuda:0"), need(ranks, "text, 2 ranks", "cuda:0")
    whole = memory.weights(shape)
    assert one.held == {"weights": whole, "moments of AdamW": 2 * whole}
    assert two.held == {"weights": whole, "moments of AdamW": whole, "sharded weights": whole // 2}
    assert two.stages[TRAINING]["gradients"] == one.stages[TRAINING]["gradients"] // 2
    outside = memory.gathered_gradients(shape) - memory.WIDE * (shape.products // shape.layers)
    assert 0 < outside < whole
    assert memory.gathered(shape) > outside
    assert {name: two.stages[name] for name in (SCORING, SAMPLING)} == {
        name: one.stages[name] for name in (SCORING, SAMPLING)
    }
    assert on_each([two])["cuda:1"] == two.most


@pytest.mark.parametrize(("changes", "cards", "frozen"), [([], 0, memory.weights), (CUDA, 6, memory.frozen_weights)])
def test_each_rank_has_a_share_of_an_adapter_and_of_the_base_as_it_is_held(planned_of, shape, changes, cards, frozen):
    changes = [*changes, "lora={rank: 2, targets: [q_proj]}", "backend={kind: ray, ranks: 2}"]
    held = need(planned_of(*changes, cards=Cards(cards)), "text, 2 ranks", "cuda:0" if cards else CPU).held
    adapter = memory.WIDE * memory.adapter(shape, 2, ["q_proj"])
    assert held == {
        "base": frozen(shape),
        "adapters": adapter,
        "moments of AdamW": adapter,
        "sharded weights": (frozen(shape) + adapter) // 2,
    }


def test_hours_are_those_of_the_busiest_device(planned_of):
    speed = Speed(1.0, 1e9, 1e9)

    def hours(*changes: str, cards: int = 0) -> float:
        return planned_of(*changes, cards=Cards(cards)).rows(speed)[0].hours

    assert hours() == pytest.approx(6 * 80 / 3600, rel=1e-3), "each process has cores of its own"
    assert hours("backend=local") == pytest.approx(3 * 6 * 80 / 3600, rel=1e-3)
    assert hours(*CUDA, cards=3) == pytest.approx(6 * 80 / 3600, rel=1e-3)
    ranks = "backend={kind: ray, ranks: 2}"
    assert hours(*CUDA, ranks, cards=6) == pytest.approx(6 * 80 / 3600 / 2, rel=1e-3), "ranks share the work"
    assert hours(*CUDA, cards=2) == pytest.approx(2 * 6 * 80 / 3600, rel=1e-3), "two branches share the first card"


def test_a_checkpoint_holds_what_the_branches_train_hold_and_keep(planned_of, shape):
    whole = memory.weights(shape)
    assert planned_of().checkpoint == 3 * 3 * whole
    assert planned_of("opd.teachers=phase_start").checkpoint == 3 * 4 * whole
    distilled = planned_of("opd.signal=forward_kl", "merge={method: distil, steps: 2}", "opd.replay=2")
    assert distilled.checkpoint == 4 * 3 * whole + 3 * 2 * memory.kept_batch(8, 10), "a student keeps none"
    assert planned_of("checkpoint.keep_last=3").disk == 4 * 9 * whole + 4 * whole
    assert planned_of("checkpoint.keep_last=2", "checkpoint.keep_best=true").disk == 4 * 9 * whole + 4 * whole


def test_what_cannot_fit_names_fields_and_what_each_saves(planned_of):
    room = planned_of(*CUDA, cards=Cards(3))
    assert not room.overfull
    least = min(room.most.values()) / 2**30
    small = planned_of(*CUDA, "grpo.kl_coefficient=0.1", "opd.teachers=phase_start", cards=Cards(3, least))
    assert set(small.overfull) == set(small.most)
    found = {remedy.changes: remedy for remedy in small.remedies()}
    unanchored = ("grpo.kl_coefficient=0",)
    assert {("lora={rank: 16}",), unanchored, ("opd.anchor=0", "opd.teachers=moving")} <= found.keys()
    assert all(remedy.most < max(small.most.values()) for remedy in found.values())
    whole = memory.weights(small.model.shape)
    assert max(small.most.values()) - found[unanchored].most == whole


def test_where_no_change_suffices_alone_several_together_are_tried(planned_of):
    tight = planned_of(*CUDA, "grpo.kl_coefficient=0.1", "opd.teachers=phase_start", cards=Cards(3))
    best = min(remedy.most for remedy in tight.remedies())
    tighter = planned_of(
        *CUDA, "grpo.kl_coefficient=0.1", "opd.teachers=phase_start", cards=Cards(3, 0.99 * best / 2**30)
    )
    *alone, together = tighter.remedies()
    assert not any(remedy.fits for remedy in alone)
    assert together.fits
    assert together.most < best
    assert len(together.changes) > 1


def test_memory_of_cards_is_checked():
    assert cards_of(8, 80.0) == Cards(8, 80.0)
    for gpus, gib, said in (
        (1, 0.0, "--gpu-memory: found 0; accepted: GiB above 0"),
        (1, -8.0, "--gpu-memory: found -8"),
        (1, float("nan"), "--gpu-memory: found nan"),
        (0, 80.0, "--gpu-memory: found where there is no card"),
    ):
        with pytest.raises(RecipeError, match=said):
            cards_of(gpus, gib)


def changes_of_arms() -> dict:
    """SMALL as a comparison takes it, which sets the sizes of the test itself."""
    changes = {name: yaml.safe_load(value) for name, value in (change.split("=", 1) for change in SMALL)}
    asked = {name: value for name, value in changes["evaluation"].items() if name not in ("problems", "pass_at")}
    return {**changes, "evaluation": asked}


def test_a_comparison_is_planned_job_by_job_and_experts_are_counted_once(tmp_path):
    arms = {"copd": {}, "expert": {"method": "expert"}, "mixed": {"method": "mixed"}}
    changes = changes_of_arms()
    path = tmp_path / "study.yaml"
    path.write_text(
        yaml.safe_dump(
            {"recipe": "demo-paper", "rollouts": 480, "problems": 10, "pass_at": [], "changes": changes, "arms": arms}
        )
    )
    found = {each.name: each for each in arms_planned(path, (), Cards(0), Speed(100.0, 1e9, 1e9))}
    assert list(found) == [next(iter(found)), "copd", "expert", "mixed"]
    experts = found[next(iter(found))]
    assert experts.name.startswith("experts-")
    plan = make_plan(load_recipe("demo-paper", [*SMALL, "budget.rollouts=480"]))
    before = plan.schedule.steps_before_exchange * plan.costs.rl_step
    rollouts = {name: each.rollouts for name, each in found.items()}
    assert rollouts["copd"] == pytest.approx(plan.rollouts - before)
    assert (
        rollouts["mixed"]
        == make_plan(load_recipe("demo-paper", [*SMALL, "budget.rollouts=480", "method=mixed"])).rollouts
    )
    assert rollouts["expert"] == 0, "all of its training is the experts' job's, and evaluation is counted in tokens"
    assert found["expert"].sampled > 0
    assert all(each.hours > 0 and each.card_hours == each.hours and not each.overfull for each in found.values())


def test_a_comparison_whose_search_has_the_first_seeds_is_planned_with_another(tmp_path):
    path, chosen = tmp_path / "study.yaml", {"opd.weight": 0.5}
    search = {"seeds": [0, 1], "candidates": {"copd": [chosen]}}
    changes = changes_of_arms()
    path.write_text(
        yaml.safe_dump(
            {"recipe": "demo-paper", "rollouts": 480, "changes": changes, "arms": {"copd": {}}, "search": search}
        )
    )
    (tmp_path / "study.chosen.yaml").write_text(yaml.safe_dump({"copd": {"changes": chosen}}))
    assert [each.name for each in arms_planned(path, (), Cards(0), None)] == ["copd"]


@pytest.mark.parametrize("written", ["arms: {copd: {}}\n", '{"arms": {"copd": {}}}\n', '\ufeff"arms":\n  copd: {}\n'])
def test_a_comparison_is_known_by_its_arms_however_yaml_is_written(tmp_path, written):
    path = tmp_path / "study.yaml"
    path.write_text(written, encoding="utf-8")
    assert is_comparison(str(path))


@pytest.mark.parametrize("written", ["method: copd\n", "[arms]\n", "notes: |\n arms:\n", "arms: {}\narms: {}\n", ""])
def test_another_file_is_no_comparison(tmp_path, written):
    path = tmp_path / "study.yaml"
    path.write_text(written, encoding="utf-8")
    assert not is_comparison(str(path))


def test_a_folder_without_weights_can_be_planned_and_one_without_its_settings_is_named(folder):
    recipe = recipe_of(f"model.path={folder}")
    planned = examine(recipe, Cards(0))
    assert planned.model.shape.parameters == 1_329_792
    assert planned.model.prompts["image"].patches > 0
    assert planned.model.prompts["text"].mean <= planned.model.prompts["text"].longest
    for name, said in (
        ("chat_template.jinja", "no chat template"),
        ("tokenizer.json", "the processor cannot be loaded"),
        ("config.json", "no model here"),
    ):
        (folder / name).unlink()
        with pytest.raises(ModelFolderError, match=said):
            examine(recipe, Cards(0))


def test_a_folder_without_any_tokenizer_is_named(folder):
    """Where both files are missing transformers makes a tokenizer that has no tokens."""
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").unlink()
    with pytest.raises(ModelFolderError, match=r"processor cannot be loaded: its tokenizer makes no tokens of a text"):
        examine(recipe_of(f"model.path={folder}"), Cards(0))


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("num_hidden_layers", 0, "num_hidden_layers: found 0; accepted: 1 or more"),
        ("hidden_size", 0, "hidden_size: found 0; accepted: 1 or more"),
        ("num_attention_heads", 7, "num_attention_heads: found 7; accepted: a multiple of num_key_value_heads"),
        ("hidden_size", "wide", "'hidden_size': TypeError: Field 'hidden_size' expected int, got str"),
    ],
)
def test_a_size_that_no_model_has_is_named(folder, name, value, said):
    config = json.loads((folder / "config.json").read_text())
    config["text_config"][name] = value
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelFolderError, match=said):
        examine(recipe_of(f"model.path={folder}"), Cards(0))


def test_prompts_that_the_model_does_not_take_are_named(tmp_path):
    """A model of text, on pictures."""
    from tiny_kinds import tiny_of_kind

    model, tokenizer = tiny_of_kind("qwen3")
    model.config.save_pretrained(tmp_path / "qwen3")
    tokenizer.save_pretrained(tmp_path / "qwen3")
    with pytest.raises(RecipeError, match=r"branches\.image\.task: .*qwen3 takes text only"):
        examine(recipe_of(f"model.path={tmp_path / 'qwen3'}"), Cards(0))


def test_the_command_shows_memory_work_and_disk_and_reads_no_weights(command, folder):
    done = command("plan", "demo-paper", *SMALL, f"model.path={folder}", "--tokens-per-second", "100,1000,500")
    assert done.returncode == 0, done.stderr
    for said in ("1,329,792 parameters", "moments of AdamW", "final table", "hours", "a checkpoint, 2 are kept"):
        assert said in done.stdout


def test_frozen_modules_have_no_gradients_no_moments_and_no_place_in_a_checkpoint():
    whole, less = (
        examine(recipe_of("backend=local", *changes), Cards(0)) for changes in ([], ["model.freeze=[visual]"])
    )
    model = without_weights(model_folder("builtin:digits"))
    tower = sum(weight.numel() for name, weight in model.named_parameters() if "visual" in name)
    (before,), (after,) = whole.needs, less.needs
    assert after.held["weights"] == before.held["weights"]
    assert before.held["moments of AdamW"] - after.held["moments of AdamW"] == 3 * 8 * tower
    copies = 2  # one for the norm of a part
    assert before.stages[TRAINING]["gradients"] - after.stages[TRAINING]["gradients"] == copies * 4 * tower
    assert whole.checkpoint - less.checkpoint == 3 * 12 * tower


def test_the_cache_has_a_budget_of_its_own(shape):
    def cached(*changes, device=CPU):
        recipe = recipe_of("method=expert", "model.micro_batch_tokens=60", *changes)
        needs = Needs(recipe, make_plan(recipe), Measured(shape, PROMPTS), dict.fromkeys([BASE, *PROMPTS], device))
        return {stage: terms for each in needs.all() for stage, terms in each.stages.items() if each.process == "text"}

    for device in (CPU, "cuda:0"):
        usual, more = (cached(*changes, device=device) for changes in ((), ("sampling.cache_tokens=600",)))
        assert more[SAMPLING]["cache"] > 5 * usual[SAMPLING]["cache"]
        assert more[TRAINING] == usual[TRAINING]
        assert more[SCORING] == usual[SCORING]


@pytest.mark.parametrize(
    ("changes", "rows"), [([], 4), (["sampling.cache_tokens=110"], 2), (["sampling.cache_tokens=320"], 8)]
)
def test_a_cache_on_a_cpu_has_the_rows_that_its_budget_allows_with_their_prompts(shape, changes, rows):
    """Eight responses of 10 tokens to one prompt of 30. Without a budget the cache has at most two micro-batches."""
    one = "evaluation={problems: 1, validation_problems: 1, behaviour_problems: 1, pass_at: []}"
    asked = ("sampling.prompts_per_step=1", "sampling.rollouts_per_prompt=8", "model.micro_batch_tokens=110")
    recipe = recipe_of("method=expert", one, *asked, *changes)
    sizes = dict.fromkeys(PROMPTS, PROMPTS["text"]._replace(longest=30))
    needs = Needs(recipe, make_plan(recipe), Measured(shape, sizes), dict.fromkeys([BASE, *PROMPTS], CPU))
    held = memory.cached(shape, memory.Batch(1, rows, 30, 10), half=False)
    assert all(each.stages[SAMPLING]["cache"] == held for each in needs.all() if each.process in PROMPTS)


def test_hours_come_from_the_speeds_that_the_benchmark_for_cards_measured(command, tmp_path):
    def rows(speeds):
        done = command("plan", "demo-paper", *SMALL, "--tokens-per-second", speeds)
        return done.returncode, done.stdout, done.stderr

    (tmp_path / "gpu.json").write_text(json.dumps({"speed": {"sampling": 1, "scoring": 10.0, "training": 5.0, "x": 9}}))
    assert rows("gpu.json") == rows("1,10,5")
    for content in ('{"speed": {"left out": "out of memory"}}', "[]", "{", '{"speed": {"sampling": null}}'):
        (tmp_path / "gpu.json").write_text(content)
        status, _, said = rows("gpu.json")
        assert (status, "a file of benchmarks.gpu whose speed was measured" in said) == (2, True)


def test_the_command_refuses_what_a_card_cannot_hold(command):
    done = command("plan", "demo-paper", *SMALL, *CUDA, "--gpus", "1", "--gpu-memory", "0.01")
    assert done.returncode == 1
    assert "does not fit: cuda:0" in done.stdout
    assert "lora={rank: 16}: " in done.stdout
    less = command("plan", "demo-paper", *SMALL, *CUDA, "--gpus", "1", "--gpu-memory", "0.00001")
    assert "none of these is enough: take larger cards, or a smaller model" in less.stdout
    assert "none of these is enough" not in done.stdout or ", fits" not in done.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nothing.yaml"], "recipe nothing.yaml: not a readable file"),
        (["demo-paper", "model.path=nowhere"], "model.path: no folder 'nowhere'"),
        (["demo-paper", "--gpus", "1", "--gpu-memory", "-1"], "--gpu-memory: found -1"),
        (
            ["demo-paper", "--tokens-per-second", "1,2"],
            "--tokens-per-second: found '1,2'; accepted: three numbers above 0",
        ),
        (["demo-paper", "--tokens-per-second", "1,2,0"], "--tokens-per-second: found '1,2,0'"),
        (
            ["demo-paper", "--tokens-per-second", "gpu.json"],
            "--tokens-per-second: gpu.json: cannot be read: No such file",
        ),
    ],
)
def test_a_mistake_is_one_line(command, arguments, said):
    done = command("plan", *arguments)
    assert done.returncode == 2
    assert said in done.stderr


def test_a_recipe_or_a_configuration_that_cannot_be_read_is_told(command, folder, tmp_path):
    (tmp_path / "bad.yaml").write_text("seed: [")
    assert command("plan", "bad.yaml").returncode == 2
    (folder / "config.json").write_text(json.dumps({"model_type": "nothing"}))
    (tmp_path / "my.yaml").write_text(
        yaml.safe_dump({**load_recipe("demo-paper").model_dump(mode="json"), "model": {"path": str(folder)}})
    )
    done = command("plan", "my.yaml")
    assert done.returncode == 2
    assert "config.json is not that of a model" in done.stderr


@pytest.fixture
def cards_with(monkeypatch):
    """Pretends that this machine has three cards with so many bytes each."""

    def pretend(size: float) -> None:
        monkeypatch.setattr("torch.cuda.device_count", lambda: 3)
        monkeypatch.setattr("torch.cuda.get_device_properties", lambda index: SimpleNamespace(total_memory=int(size)))

    return pretend


def test_a_recipe_that_the_cards_of_this_machine_are_too_small_for_is_refused_with_numbers_and_fields(cards_with):
    recipe = recipe_of(*CUDA)
    tasks = make_tasks(recipe)
    check_fit(recipe, tasks)  # there is no card here
    cards_with(2**34)
    check_fit(recipe, tasks)
    cards_with(2**24)
    numbers = r"cuda:0 0\.\d GiB, cuda:1 0\.\d GiB, cuda:2 0\.\d GiB; found 0\.0 GiB"
    with pytest.raises(RecipeError, match=rf"memory of cards: needed on {numbers}.*lora={{rank: 16}} \(0\.0 GiB\)"):
        check_fit(recipe, tasks)
    check_fit(recipe_of(), tasks)  # computes on the CPU
    check_fit(recipe_of(*CUDA, "backend=ray"), tasks)  # on the cards of a cluster
    check_fit(recipe_of(*CUDA, "model.path=no/model"), tasks)  # loading tells that


def test_training_is_refused_before_a_model_is_loaded_and_begins_by_force_or_after_a_checkpoint(
    cards_with, tmp_path, monkeypatch
):
    class Loading(Exception):
        pass

    def loaded(self):
        raise Loading

    monkeypatch.setattr(Assembled, "loaded", property(loaded))
    recipe, folder = recipe_of(*CUDA), tmp_path / "run"
    cards_with(2**24)
    with pytest.raises(RecipeError, match=r"memory of cards: .*; --resume --force begins all the same"):
        train(recipe, folder)
    with pytest.raises(Loading):
        train(recipe, folder, resume=True, force=True)
    monkeypatch.setattr("copd.commands.train.check_folder", lambda *given, **options: [])
    (folder / "checkpoints").mkdir(parents=True)
    with pytest.raises(Loading):
        train(recipe, folder, resume=True)
