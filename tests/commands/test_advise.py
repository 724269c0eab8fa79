"""`copd advise`: the pilot's cost, its numbers, and what is said where the map has points or none."""

import json
import shlex

import pytest

from copd.arms.advice_map import AdviceMap, Point
from copd.assemble.plan import make_plan
from copd.commands import advise, pilot
from copd.commands.advise import fitted, told_advice
from copd.commands.pilot import PilotSettings, run_pilot
from copd.errors import RecipeError
from copd.measure.evaluate import Estimate
from copd.measure.pilot import Pilot
from copd.recipe.reading import load_recipe

SMALL = [
    "backend=local",
    "model.threads_per_branch=1",
    "sampling={prompts_per_step: 2, rollouts_per_prompt: 4, max_new_tokens: 36}",
    "evaluation.behaviour_problems=2",
    "optimizer.learning_rate=1e-3",
]
SAID: list[str] = []
SETTINGS = PilotSettings(2, 3, SAID.append)


@pytest.fixture(scope="module")
def made():
    SAID.clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pilot, "GRADIENT_BATCHES", 2)
        return run_pilot(load_recipe("demo-paper", SMALL), SETTINGS)


def test_the_cost_is_told_before_anything_is_sampled(made):
    assert "makes 96 rollouts (2 batches of each branch for gradients, then 2 steps), 45 greedy answers" in SAID[0]
    assert f"{(96 + 45 + 36) * 36:,} tokens at most" in SAID[0]
    assert SAID[1].startswith("gradients are taken; 2 steps of each branch take about ")


def test_base_branches_and_their_mean_answer_every_capability(made):
    _, answers = made
    models = ("base", "text", "image", "video", "merged")
    assert {(a.model, a.capability) for a in answers} == {(m, c) for m in models for c in ("text", "image", "video")}
    assert len({a.problems for a in answers if a.capability == "text"}) == 1


def test_the_branches_have_learned_apart(made):
    found, _ = made
    assert found.steps == 2
    assert 0 < found.overlap < 1
    assert found.symmetric_kl > 0
    assert 0 <= found.no_signal <= 1
    assert found.cosine is None or -1 <= found.cosine <= 1


def test_batches_of_the_pilot_are_not_refilled_so_that_groups_without_signal_are_counted(made, monkeypatch):
    monkeypatch.setattr(pilot, "GRADIENT_BATCHES", 2)
    told: list[str] = []
    found, _ = run_pilot(load_recipe("demo-paper", [*SMALL, "sampling.refill=3"]), PilotSettings(2, 3, told.append))
    assert (found.no_signal, told[0]) == (made[0].no_signal, SAID[0])
    assert found.no_signal > 0


def test_one_capability_needs_no_advice():
    one = load_recipe(
        "demo-paper", [*SMALL, "branches={text: {task: {kind: digits, capability: text}}}", "method=expert"]
    )
    with pytest.raises(RecipeError, match="branches: found one, text; advice needs two capabilities or more"):
        run_pilot(one, SETTINGS)


def test_more_validation_problems_than_there_are_are_refused_before_anything_is_sampled():
    few = "branches.text.task={capability: text, operators: [max], length: [2, 2], max_number: 3}"
    with pytest.raises(RecipeError, match=r"branches\.text\.task: 300 validation problems are asked for: "):
        run_pilot(load_recipe("demo-paper", [*SMALL, few]), PilotSettings(1, 300, SAID.append))


def test_without_a_number_the_pilot_asks_300_problems_or_all_there_are(tmp_path):
    for name in ("text", "image"):
        rows = [{"prompt": f"{i} + 1", "answer": str(i + 1)} for i in range(60)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    tasks = {
        name: {"task": {"kind": "rows", "verifier": "integer", "train": str(tmp_path / f"{name}.jsonl")}}
        for name in ("text", "image")
    }

    def stop_at_the_cost(line):
        if "greedy answers" in line:
            raise KeyboardInterrupt(line)

    recipe = load_recipe("demo-paper", [*SMALL, f"branches={json.dumps(tasks)}", "evaluation={behaviour_problems: 2}"])
    with pytest.raises(KeyboardInterrupt, match=", 56 greedy answers to validation problems"):
        run_pilot(recipe, PilotSettings(1, None, stop_at_the_cost))


def numbers(harm: float, steps: int = 20) -> Pilot:
    gain, costs = Estimate(0.1, 0.05, 0.15), Estimate(harm, harm - 0.02, harm + 0.02)
    return Pilot(steps, 0.4, gain, costs, gain, 0.1, 0.9, 0.01, 0.2)


MERGED_BY = {"merge.method": "distil", "merge.steps": 80, "schedule": {"cycles": 1, "rl_steps": 20, "opd_steps": 0}}
KNOWN = AdviceMap(
    (
        Point("peace", 1000, (numbers(0.0),), {"distil": (-0.02, -0.03), "average": (-0.1, -0.1)}),
        Point("war", 1000, (numbers(0.2),), {"distil": (0.07, 0.08), "average": (-0.2, -0.2)}),
    ),
    {"distil": MERGED_BY, "average": {"method": "merge_only"}},
)


def told(known, harm, steps=20):
    return list(told_advice(known, numbers(harm, steps), load_recipe("demo-paper"), 92_160))


def test_the_favoured_method_is_told_with_its_interval_and_the_overrides_that_make_it():
    lines = told(KNOWN, 0.2)
    assert lines[0].startswith("favoured: distil; expected +")
    assert "over mixed at equal rollouts" in lines[0]
    changes = shlex.split(lines[1])[3:]
    assert load_recipe("demo-paper", changes).merge.steps == 80
    plan = make_plan(load_recipe("demo-paper", changes))
    assert plan.rollouts == pytest.approx(92_160, rel=0.05), "as many as the recipe has"
    assert plan.schedule.rl_steps / plan.schedule.merge_steps == pytest.approx(20 / 80, rel=0.05)
    assert any(line.startswith("  average: -") for line in lines)
    assert any(line.startswith("by the map's points: war (") for line in lines)
    assert lines[-1].startswith("what would change the answer: mixed with harm to other capabilities of ")
    assert "; mixed in peace (harm to other capabilities 0.0 points, gap " in lines[-1]


def test_where_nothing_is_better_mixed_is_favoured():
    lines = told(KNOWN, 0.0)
    assert lines[0] == "favoured: mixed; no method of the map is expected to be better"
    assert lines[1] == "  copd train RECIPE method=mixed budget.rollouts=92160"


def edges_of(changes, *branches):
    made = fitted(changes, branches)["topology"]["edges"]
    return {(edge["student"], edge["teacher"], edge["weight"]) for edge in made}


def test_edges_of_the_map_become_those_of_the_recipes_branches_around_its_first():
    def around(to_hub):
        pairs = [("text", "image", to_hub), ("text", "video", to_hub), ("image", "text", 1.0), ("video", "text", 1.0)]
        edges = [{"student": s, "teacher": t, "weight": w} for s, t, w in pairs]
        return {"topology": {"kind": "edges", "edges": edges}}

    assert edges_of(around(0.5), "a", "b") == {("a", "b", 1.0), ("b", "a", 1.0)}, "the hub's teachers weigh 1 together"
    both = {(student, teacher, 1.0) for other in "bcd" for student, teacher in (("a", other), (other, "a"))}
    assert edges_of(around(1.0), "a", "b", "c", "d") == both, "each lesson weighs 1"
    assert fitted({"method": "mopd"}, ["a", "b"]) == {"method": "mopd"}


def test_where_the_recipe_cannot_take_the_advice_the_reason_is_told():
    few = load_recipe("demo-paper", ["schedule={cycles: 1, rl_steps: 1, opd_steps: 1}"])
    lines = list(told_advice(KNOWN, numbers(0.2), few, make_plan(few).rollouts))
    assert lines[2].startswith("  this recipe does not take it as it stands: budget.rollouts: method copd cannot make ")


def test_where_one_method_is_best_on_the_whole_map_nothing_would_change_the_answer():
    one = AdviceMap((Point("one", 1000, (numbers(0.1),), {"distil": (0.2, 0.1)}),), {"distil": MERGED_BY})
    assert told(one, 0.1)[-1] == "what would change the answer: nothing on the map, where distil is best"


def test_a_lead_that_may_be_nothing_is_told_as_such():
    wide = AdviceMap((Point("one", 1000, (numbers(0.1),), {"distil": (0.2, -0.1)}),), {"distil": MERGED_BY})
    assert "the interval holds 0, and mixed is simpler" in told(wide, 0.1)[0]
    assert "interval holds 0" not in told(KNOWN, 0.5)[0]


def test_far_from_the_map_and_after_other_steps_the_advice_is_called_a_guess():
    assert any("take the advice for a guess" in line for line in told(KNOWN, 3.0))
    assert not any("guess" in line for line in told(KNOWN, 0.2))
    assert any(
        "the map's pilots had 20 steps, this one 5: not comparable" in line for line in told(KNOWN, 0.2, steps=5)
    )


def test_without_points_nothing_is_advised():
    assert told(AdviceMap((), {}), 0.1) == ["the map has no points yet, so nothing is advised"]


def test_the_command_prints_accuracies_numbers_and_advice(monkeypatch, made):
    monkeypatch.setattr(advise, "run_pilot", lambda recipe, settings: made)
    monkeypatch.setattr(advise, "read_map", lambda: KNOWN)
    table, lines = advise.advise(load_recipe("demo-paper", SMALL), SETTINGS)
    assert {cell.model for cell in table} == {"base", "text", "image", "video", "merged"}
    starts = (
        "gain: ",
        "harm: ",
        "gap: ",
        "cosine of gradients: ",
        "overlap: ",
        "groups without signal: ",
        "favoured: ",
    )
    assert [line.split(":")[0] for line in lines[:7]] == [start.split(":")[0] for start in starts]
