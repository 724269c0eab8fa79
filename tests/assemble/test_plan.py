"""A plan's branches, edges, steps and rollouts, for every method and topology."""

import re

import pytest

from copd.assemble.plan import handovers, make_plan
from copd.errors import RecipeError
from copd.recipe.reading import load_recipe
from copd.schedule import Phase
from copd.topology import Edge

SMALL = [
    "schedule={cycles: 2, rl_steps: 3, opd_steps: 2}",
    "sampling={prompts_per_step: 4, rollouts_per_prompt: 2}",
    "opd={prompts_per_step: 3, rollouts_per_prompt: 5, weight: 0.5}",
]


def plan_of(*overrides: str):
    return make_plan(load_recipe("demo-paper", [*SMALL, *overrides]))


def test_copd_has_a_branch_per_capability_and_the_recipes_schedule():
    plan = plan_of()
    assert plan.branches == plan.capabilities == ("text", "image", "video")
    assert (plan.schedule.cycles, plan.schedule.rl_steps, plan.schedule.opd_steps) == (2, 3, 2)
    assert (plan.batches.native, plan.batches.per_edge) == (8, 15)


@pytest.mark.parametrize(
    ("topology", "edges"),
    [
        (
            "{kind: hub}",
            [("text", "image", 0.25), ("image", "text", 0.5), ("text", "video", 0.25), ("video", "text", 0.5)],
        ),
        ("{kind: edges, edges: [{student: image, teacher: video, weight: 0.5}]}", [("image", "video", 0.5)]),
    ],
)
def test_edges_follow_the_topology(topology, edges):
    assert plan_of(f"topology={topology}").edges == tuple(Edge(*edge) for edge in edges)


def test_listed_edges_keep_their_own_beta():
    listed = "[{student: image, teacher: video, weight: 0.25}, {student: text, teacher: video}]"
    assert [edge.weight for edge in plan_of("topology={kind: edges}", f"topology.edges={listed}").edges] == [0.25, 1.0]


def test_the_full_topology_has_every_ordered_pair():
    assert len(set(plan_of("topology={kind: full}").edges)) == 6


# 10 steps of 3 x 8 native rollouts, 4 OPD steps of E x 15.
@pytest.mark.parametrize(
    ("topology", "rollouts"),
    [
        ("{kind: hub}", 240 + 4 * 4 * 15),
        ("{kind: full}", 240 + 4 * 6 * 15),
        ("{edges: [{student: text, teacher: image}]}", 240 + 4 * 15),
    ],
)
def test_rollouts_of_copd_by_hand(topology, rollouts):
    assert plan_of(f"topology={topology}").rollouts == rollouts


@pytest.mark.parametrize("method", ["copd", "expert", "mixed"])
@pytest.mark.parametrize("topology", ["{kind: hub}", "{kind: full}"])
def test_costs_of_all_steps_add_up_to_the_rollouts(method, topology):
    plan = plan_of(f"method={method}", f"topology={topology}")
    assert sum(plan.step_cost(step) for step in range(plan.schedule.steps)) == plan.rollouts


def test_without_native_batches_an_opd_step_of_copd_costs_its_visits_alone():
    plan = plan_of("opd.native=false")
    assert [plan.step_cost(step) for step in range(5)] == [24, 24, 24, 60, 60]
    assert plan.rollouts == 2 * (3 * 24 + 2 * 60)
    assert not plan.batches.native_in_opd


@pytest.mark.parametrize(
    ("changes", "native"),
    [(["method=mopd"], False), (["method=static_opd"], False), (["method=static_opd", "static_opd.native=true"], True)],
)
def test_frozen_teachers_teach_alone_whatever_copd_does(changes, native):
    assert plan_of(*changes).batches.native_in_opd == native


def test_an_anchor_costs_an_edge_of_each_branch_to_itself_and_is_no_teaching_between_two():
    plan = plan_of("opd.teachers=phase_start", "opd.anchor=0.25")
    assert plan.edges[4:] == tuple(Edge(name, name, 0.25) for name in ("text", "image", "video"))
    assert plan.taught == plan.edges[:4]
    assert plan.step_cost(3) == 84 + 3 * 15
    assert plan.batches.held_teachers


DISTILLED = ["merge={method: distil, steps: 5}", "schedule={cycles: 2, rl_steps: 3, opd_steps: 0}"]


def test_a_replay_costs_no_rollouts_and_stays_as_long_however_a_budget_scales_the_rest():
    opd = "opd={signal: forward_kl, prompts_per_step: 3, rollouts_per_prompt: 5, replay: 4}"
    plan, without = plan_of(*DISTILLED, opd), plan_of(*DISTILLED, opd, "opd.replay=0")
    assert plan.rollouts == without.rollouts
    assert plan.schedule.steps == without.schedule.steps + 4
    assert [plan.schedule.position(step).phase for step in (5, 6, 9, 10)] == [
        Phase.RLVR,
        Phase.REPLAY,
        Phase.REPLAY,
        Phase.CONSOLIDATION,
    ]
    assert [plan.step_cost(step) for step in (6, 10)] == [3 * 8, 3 * 15]
    twice = plan_of(*DISTILLED, opd, f"budget.rollouts={2 * plan.rollouts}").schedule
    assert (twice.replay_steps, twice.merge_steps) == (4, 10)
    assert plan.trained(Phase.REPLAY) == ("merged",)


@pytest.mark.parametrize("method", ["method=copd", "method=mopd", "method=static_opd"])
def test_a_replay_of_more_batches_than_there_are_is_refused(method):
    opd = "opd={signal: forward_kl, replay: 999}"
    schedule = ["schedule={cycles: 1, rl_steps: 6, opd_steps: 2, first_rl_steps: null}"]
    merge = ["merge={method: distil, steps: 5}"] if method == "method=copd" else []
    with pytest.raises(
        RecipeError, match=r"opd\.replay: is 999, but branches have \d+ batches of RLVR when they first"
    ):
        plan_of(method, opd, *schedule, *merge)


def test_without_a_consolidation_nothing_is_replayed():
    assert plan_of("opd={signal: forward_kl, replay: 3}").schedule.replay_steps == 0


@pytest.mark.parametrize(("responses", "answer"), [("student", False), ("teacher", True)])
def test_whoever_answers_an_edge_costs_the_same(responses, answer):
    plan = plan_of("opd={signal: forward_kl}", f"opd.responses={responses}")
    assert plan.batches.teachers_answer == answer
    assert plan.rollouts == plan_of("opd={signal: forward_kl}").rollouts


def test_an_opd_step_costs_the_visits_of_all_edges_more():
    plan = plan_of()
    assert [plan.step_cost(step) for step in range(5)] == [24, 24, 24, 84, 84]


@pytest.mark.parametrize(
    ("method", "branches", "steps"), [("expert", ("text", "image", "video"), 20), ("mixed", ("mixed",), 60)]
)
def test_baselines_are_rlvr_alone_at_copds_rollouts(method, branches, steps):
    plan = plan_of(f"method={method}")
    assert (plan.capabilities, plan.branches, plan.edges) == (("text", "image", "video"), branches, ())
    assert (plan.schedule.steps, plan.schedule.opd_steps, plan.schedule.cycles) == (steps, 0, 2)
    assert plan.rollouts == plan_of().rollouts == 480


@pytest.mark.parametrize("method", ["expert", "mixed"])
@pytest.mark.parametrize("topology", ["{kind: full}", "{edges: [{student: text, teacher: image}]}"])
def test_baselines_pay_for_the_edges_of_the_copd_they_are_compared_with(method, topology):
    plan, compared = plan_of(f"method={method}", f"topology={topology}"), plan_of(f"topology={topology}")
    half_a_step_of_each_cycle = len(plan.branches) * plan.batches.native * plan.schedule.cycles / 2
    assert abs(plan.rollouts - compared.rollouts) <= half_a_step_of_each_cycle


def test_one_branch_alone_has_no_edges():
    recipe = load_recipe("demo-paper", ["branches={solo: {task: {capability: text}}}", "schedule.opd_steps=0"])
    assert make_plan(recipe).edges == ()


@pytest.mark.parametrize(("method", "rollouts"), [("copd", 48_640), ("mixed", 48_640), ("expert", 49_152)])
def test_rollouts_of_every_method_by_hand(method, rollouts):
    sizes = [
        "schedule={cycles: 4, rl_steps: 15, opd_steps: 10}",
        "sampling={prompts_per_step: 16, rollouts_per_prompt: 8}",
        "opd={prompts_per_step: 8, rollouts_per_prompt: 8}",
    ]
    # copd: 4 (25 x 3 x 128 + 10 x 4 x 64); mixed: 4 x 95 steps of 128; expert: 4 x 32 steps of 3 x 128.
    assert plan_of("topology={kind: hub}", f"method={method}", *sizes).rollouts == rollouts


@pytest.mark.parametrize(
    ("changes", "steps", "rollouts"),
    [
        # S_E : S_O = 6 : 4 as in the recipe, scaled to 480 rollouts; K P G = 24, P' G' = 15
        (["method=static_opd"], (18, 12), 18 * 16 + 12 * 15),
        (["method=static_opd", "static_opd.native=true"], (15, 10), 15 * 16 + 10 * 23),
        (["method=mopd"], (9, 6), 9 * 24 + 6 * 45),
        (["method=merge_only"], (20, 0), 20 * 24),
        (["method=mixed", "mixed.batch=K_times"], (20, 0), 20 * 24),
    ],
)
def test_baselines_with_two_stages_or_other_batches_by_hand(changes, steps, rollouts):
    plan = plan_of(*changes)
    cycles = plan.schedule.cycles
    assert (cycles * plan.schedule.rl_steps, plan.schedule.merge_steps, plan.schedule.opd_steps) == (*steps, 0)
    assert plan.rollouts == rollouts


@pytest.mark.parametrize("method", ["copd", "expert", "mixed", "static_opd", "mopd", "merge_only"])
@pytest.mark.parametrize("budget", [5_000, 20_000])
def test_a_budget_scales_the_steps_of_any_method(method, budget):
    plan = plan_of(f"method={method}", f"budget.rollouts={budget}")
    assert abs(plan.rollouts - budget) <= 0.05 * budget


@pytest.mark.parametrize("method", ["copd", "expert", "mixed", "static_opd", "mopd", "merge_only"])
@pytest.mark.parametrize("budget", [1, 1_000])
def test_a_budget_that_whole_steps_miss_is_refused_with_one_that_they_meet(method, budget):
    said = (
        rf"budget.rollouts: method {method} cannot make {budget:,} rollouts within 5%: .* the nearest total is "
        r"([\d,]+). Set \1, or (lower schedule.cycles or )?lower the prompts and"
    )
    with pytest.raises(RecipeError, match=said) as refused:
        make_plan(load_recipe("demo-paper", [f"method={method}", f"budget.rollouts={budget}"]))
    at_best, fewer_cycles = re.match(said, str(refused.value)).groups()
    rollouts = int(at_best.replace(",", ""))
    assert abs(rollouts - budget) > 0.05 * budget
    assert plan_of(f"method={method}", f"budget.rollouts={rollouts}").rollouts == pytest.approx(rollouts, rel=0.05)
    assert (fewer_cycles is None) == (method in ("static_opd", "mopd"))


@pytest.mark.parametrize("method", ["copd", "expert", "mixed", "static_opd", "mopd", "merge_only"])
def test_with_refills_the_rollouts_are_the_most_that_there_can_be_and_a_budget_holds_for_them(method):
    native = "static_opd.native=true"
    once, thrice = (plan_of(f"method={method}", native, f"sampling.refill={refill}") for refill in (0, 2))
    assert (thrice.batches.native, thrice.batches.most_native) == (once.batches.native, 3 * once.batches.native)
    plan = plan_of(f"method={method}", native, "sampling.refill=2", "budget.rollouts=20000")
    per_step = plan.batches.most_native * len(plan.learners)
    assert plan.costs.rl_step == per_step
    assert 20_000 * 0.95 <= plan.rollouts <= 20_000 * 1.05


def test_a_small_budget_fits_where_cycles_and_prompts_are_lowered():
    budget = ["budget.rollouts=1000", "schedule.cycles=1"]
    small = ["sampling.prompts_per_step=4", "opd.prompts_per_step=2"]
    with pytest.raises(
        RecipeError, match=r"method copd cannot make 1,000 rollouts within 5%: .* nearest total is 1,536"
    ):
        make_plan(load_recipe("demo-paper", budget))
    assert make_plan(load_recipe("demo-paper", [*budget, *small])).rollouts == 960


@pytest.mark.parametrize(
    ("pair", "expected"),
    [
        ({}, ("text", "image")),
        ({"teacher": "text"}, ("image", "text")),
        ({"teacher": "video"}, ("text", "video")),
        ({"student": "text"}, ("text", "image")),
        ({"student": "video"}, ("video", "text")),
        ({"student": "video", "teacher": "image"}, ("video", "image")),
    ],
)
def test_static_opd_has_either_direction(pair, expected):
    plan = plan_of("method=static_opd", *(f"static_opd.{key}={name}" for key, name in pair.items()))
    assert plan.branches == plan.learners == expected
    assert (plan.edges, plan.lessons) == ((), (Edge(*expected, 0.5),))
    assert plan.product == expected[0]


def test_without_opd_steps_nobody_teaches():
    assert make_plan(load_recipe("demo-paper", ["schedule.opd_steps=0"])).edges == ()


@pytest.mark.parametrize(
    ("changes", "steps"),
    [
        (["method=expert"], (3, 9, 18)),  # the first phase of copd, then the experts of mopd and of static_opd
        (["method=merge_only"], (3, 9, 18)),
        (["method=expert", "static_opd.native=true"], (3, 9, 15)),
        (["method=expert", "schedule.opd_steps=0"], (6,)),
        (["method=expert", "budget.rollouts=100"], ()),
        (["method=copd"], ()),
        (["method=mopd"], ()),
    ],
)
def test_where_other_methods_would_take_over_experts_by_hand(changes, steps):
    assert handovers(load_recipe("demo-paper", [*SMALL, *changes])) == steps


@pytest.mark.parametrize(
    ("changes", "learners", "student"),
    [
        (["method=copd"], ("text", "image", "video"), None),
        (["merge={method: distil}"], ("text", "image", "video"), "merged"),
        (["method=static_opd"], ("text", "image"), "text"),
        (["method=mopd"], ("text", "image", "video"), "student"),
        (["method=expert"], ("text", "image", "video"), None),
        (["method=mixed"], ("mixed",), None),
    ],
)
def test_consolidation_trains_the_student_alone(changes, learners, student):
    plan = plan_of(*changes)
    assert plan.trained(Phase.RLVR) == plan.trained(Phase.OPD) == learners
    assert plan.student == student
    if student:
        assert plan.trained(Phase.CONSOLIDATION) == (student,)


def test_a_merge_by_distillation_has_a_student_whom_all_branches_teach():
    plan = plan_of("merge={method: distil, steps: 5}")
    assert plan.branches == ("text", "image", "video", "merged")
    assert plan.lessons == tuple(Edge("merged", name, 0.5 / 3) for name in ("text", "image", "video"))
    assert plan.taught == (*plan.edges, *plan.lessons)
    assert plan.product == "merged"
    assert [plan.step_cost(step) for step in range(10, 15)] == [45] * 5
    assert plan.rollouts == plan_of().rollouts + 5 * 45


def test_with_a_restart_every_cycle_ends_in_a_consolidation():
    plan = plan_of("merge={method: distil, steps: 5}", "schedule.restart=merge", "schedule.first_rl_steps=7")
    assert plan.rollouts == (7 + 3) * 24 + 2 * 2 * 84 + 2 * 5 * 45


@pytest.mark.parametrize(
    ("method", "expected"), [("static_opd", (7 + 3, 2 * 2 + 5)), ("mopd", (7 + 3, 2 * 2 + 5)), ("copd", None)]
)
def test_baselines_of_frozen_teachers_share_out_the_budget_as_the_schedule_does(method, expected):
    changes = ["merge={method: distil, steps: 5}", "schedule.first_rl_steps=7", "schedule.opd_steps=2"]
    plan, compared = plan_of(f"method={method}", *changes), plan_of(*changes)
    assert plan.rollouts == pytest.approx(compared.rollouts, rel=0.05)
    if expected:
        alone, taught = (plan.schedule.steps_in(phase) for phase in (Phase.RLVR, Phase.CONSOLIDATION))
        assert alone / taught == pytest.approx(expected[0] / expected[1], rel=0.1)
