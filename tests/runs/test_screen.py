"""What a person sees: the plan, the estimate, the tables."""

import re
from io import StringIO
from pathlib import Path

import pytest
import torch
from rich.console import Console

from copd.assemble.plan import make_plan
from copd.cli.arguments import give
from copd.measure.behaviour import Behaviour, Likeness
from copd.measure.compare import Difference
from copd.measure.disputes import CapabilityBehaviour, Dispute
from copd.measure.evaluate import Accuracy, Estimate
from copd.recipe.evaluation import sized
from copd.recipe.reading import load_recipe
from copd.runs.remaining import Remaining
from copd.runs.screen import Screen, reward_of, steps_in_words
from copd.runs.tables import accuracy_table, behaviour_table, disputes_table
from copd.schedule import Schedule
from copd.system.processes import Memory


def remaining(*changes):
    recipe = load_recipe("demo-paper", changes)
    return Remaining(make_plan(recipe), sized(recipe.evaluation, {}), recipe.checkpoint)


@pytest.fixture
def seen():
    return StringIO()


@pytest.fixture(params=[False, True], ids=["file", "terminal"])
def screen(seen, request):
    return Screen(Console(file=seen, width=160, force_terminal=request.param, color_system=None))


def updated(screen, plan, step):
    for branch in plan.branches:
        metrics = {"native/reward": 0.5, "from_text/delta_abs": 0.25, "tokens_per_second": 100.0}
        screen.updated(branch, step, plan.schedule.position(step), metrics)


def test_the_plan_names_branches_edges_steps_and_rollouts(screen, seen):
    sizes = ["sampling.prompts_per_step=16", "opd.prompts_per_step=8"]
    screen.planned(Path("runs/x"), "copd", remaining(*sizes))
    for expected in (
        "text, image, video",
        "video teaches text (weight 0.5)",
        "4 x (15 steps of RLVR + 10 of OPD)",
        "48,640",
    ):
        assert expected in seen.getvalue()


@pytest.mark.parametrize(
    ("schedule", "words"),
    [
        (Schedule(4, 15, 10), "4 x (15 steps of RLVR + 10 of OPD)"),
        (Schedule(1, 1, 1), "1 x (1 step of RLVR + 1 of OPD)"),
        (Schedule(1, 9, 0, merge_steps=5), "1 x (9 steps of RLVR + 0 of OPD), then 5 of consolidation"),
        (
            Schedule(1, 9, 0, merge_steps=5, replay_steps=3),
            "1 x (9 steps of RLVR + 0 of OPD), then 3 of replay + 5 of consolidation",
        ),
        (
            Schedule(2, 4, 0, merge_steps=5, replay_steps=3, restart=True, first_rl_steps=8),
            "2 x (4 steps of RLVR + 0 of OPD + 3 of replay + 5 of consolidation), 8 of RLVR in the first",
        ),
    ],
)
def test_the_steps_of_all_phases_are_told_in_words(schedule, words):
    assert steps_in_words(schedule) == words


def test_the_time_before_the_first_step_and_after_the_last_is_told_by_stage_the_longest_first(screen, seen):
    screen.planned(Path("runs/x"), "copd", remaining())
    screen.spent("imports", 1.5)
    screen.spent("data", 2.0)
    screen.spent("imports", 1.5)
    with screen:
        screen.started(0)
        screen.spent("report", 4.0)
    screen.finished(Path("runs/x"), None)
    assert "before the first step: 5.0 s (imports 3.0, data 2.0)" in seen.getvalue()
    assert "after the last step: 4.0 s (report 4.0)" in seen.getvalue()


def test_a_run_that_does_not_begin_at_its_first_step_says_where_it_goes_on(screen, seen):
    """It was resumed, or took over experts."""
    screen.started(0)
    assert "goes on" not in seen.getvalue()
    screen.started(7)
    assert "goes on after step 7\n" in seen.getvalue()


def test_time_and_memory_are_estimated_after_three_steps(screen, seen):
    screen.planned(Path("runs/x"), "copd", times := remaining())
    plan = times.plan
    with screen:
        screen.started(0)
        for step in range(2):
            updated(screen, plan, step)
        assert "expected: about" not in seen.getvalue()
        updated(screen, plan, 2)
    assert re.search(r"expected: about \d+ s left \(.*evaluating .*\), memory about", seen.getvalue())
    assert "on GPUs" not in seen.getvalue()


def test_the_estimate_waits_for_the_slowest_branch_and_is_made_once(screen, seen):
    """Branches in their own processes, or taking turns, are not at one step at the same time."""
    screen.planned(Path("runs/x"), "copd", times := remaining())
    plan = times.plan
    with screen:
        screen.started(0, lambda: Memory(5 * 2**29))
        for branch, steps in (("video", range(7)), ("text", range(3)), ("image", range(2))):
            for step in steps:
                screen.updated(branch, step, plan.schedule.position(step), {"tokens_per_second": 1.0})
        assert "expected" not in seen.getvalue()
        for step in range(2, 7):
            screen.updated("image", step, plan.schedule.position(step), {"tokens_per_second": 1.0})
    assert seen.getvalue().count("expected: about") == 1
    assert "memory about 2.5 GiB" in seen.getvalue()


def test_the_memory_of_gpus_in_use_is_told(screen, seen, monkeypatch):
    for name, value in {"is_initialized": True, "device_count": 2, "max_memory_allocated": 3 * 2**29}.items():
        monkeypatch.setattr(torch.cuda, name, lambda *_, value=value: value)
    screen.planned(Path("runs/x"), "copd", times := remaining())
    plan = times.plan
    with screen:
        screen.started(0)
        for step in range(3):
            updated(screen, plan, step)
    assert "GiB, on GPUs 1.5, 1.5 GiB" in seen.getvalue()


def test_the_live_view_shows_phase_step_reward_overlap_and_time_left(seen):
    screen = Screen(Console(file=seen, width=160, force_terminal=True, color_system=None))
    screen.planned(Path("runs/x"), "copd", times := remaining())
    plan = times.plan
    with screen:
        screen.started(0)
        matrix = {a: dict.fromkeys(plan.branches, 0.93) for a in plan.branches}
        screen.measured(Behaviour(overlap={5: matrix, 10: matrix}, chance={5: 0.05, 10: 0.1}))
        for step in range(16):
            updated(screen, plan, step)
    for expected in (
        "cycle 1/4 opd",
        "step 16/100",
        " left",
        "0.5",
        "overlap@10 (chance 0.10)",
        "text<-image 0.93",
    ):
        assert expected in seen.getvalue()


def test_a_file_gets_one_unwrapped_line_for_each_step_of_all_branches(seen):
    screen = Screen(Console(file=seen, width=20))
    screen.planned(Path("runs/x"), "copd", times := remaining())
    with screen:
        screen.started(0)
        for step in range(16):
            updated(screen, times.plan, step)
        screen.updated("text", 16, times.plan.schedule.position(16), {"native/reward": 0.25, "tokens_per_second": 1.0})
    lines = [line for line in seen.getvalue().splitlines() if "  step " in line]
    assert len(lines) == 16
    said = r"\d\d:\d\d:\d\d  cycle 1/4 rlvr  step 3/100  reward text 0.5, image 0.5, video 0.5  [\d,.e+]+ tokens/s"
    assert re.fullmatch(said + r"  about (\d+ s|\d+ min|\d+ h \d+ min) left", lines[2])
    assert "cycle 1/4 opd  step 16/100" in lines[15]


def test_an_update_without_own_rollouts_tells_the_reward_of_its_lessons():
    assert reward_of({"from_a/reward": 0.25, "from_b/reward": 0.75, "grad_norm": 1.0}) == 0.5
    assert reward_of({"native/reward": 0.5, "from_b/reward": 0.75}) == 0.5
    assert reward_of({"grad_norm": 1.0}) is None


def test_a_stage_is_shown_with_its_count_while_it_lasts_and_timed(screen, seen):
    with screen.stage("starting processes", 3) as done:
        done()
        if screen.console.is_terminal:
            screen._live.refresh()
            assert "starting processes, 1 of 3 ..." in seen.getvalue()
        else:
            assert re.search(r"\d\d:\d\d:\d\d  starting processes, 3 parts\n", seen.getvalue())
    screen.started(0)
    assert "before the first step: 0.0 s (starting processes 0.0)" in seen.getvalue()


def test_stages_between_steps_are_no_time_before_or_after_training(screen, seen):
    screen.planned(Path("runs/x"), "copd", remaining())
    screen.started(0)
    with screen, screen.stage("measuring", 9):
        pass
    screen.trained()
    with screen.stage("merging"):
        pass
    screen.finished(Path("runs/x"), None)
    assert "after the last step: 0.0 s (merging 0.0)\n" in seen.getvalue()


def test_a_validation_in_a_file_is_a_line_for_each_model(seen):
    cells = [
        Accuracy(model, name, 10, Estimate(share, 0.0, 1.0))
        for model in ("text", "image")
        for name, share in (("text", 0.5), ("image", 0.25), ("average", 0.375))
    ]
    Screen(Console(file=seen, width=20)).evaluated(cells)
    first, _ = seen.getvalue().splitlines()
    assert first[10:] == "validation after step 0  text: text 50.0 %, image 25.0 %, average 37.5 %"


def test_a_table_has_a_row_per_model_in_per_cent_with_intervals(seen):
    cells = [
        Accuracy(model, capability, 10, Estimate(0.5, 0.25, 0.75), {1: Estimate(0.125, 0.0, 0.25)})
        for model in ("base", "merged")
        for capability in ("text", "image", "average")
    ]
    Console(file=seen, width=160).print(accuracy_table(cells, "title"))
    lines = seen.getvalue().splitlines()
    for model in ("base", "merged"):
        (at,) = (i for i, line in enumerate(lines) if model in line)
        assert [cell.strip() for cell in lines[at].split("│")][2:6] == ["50.0"] * 3 + ["12.5"]
        assert [cell.strip() for cell in lines[at + 1].split("│")][2:6] == ["25.0-75.0"] * 3 + ["0.0-25.0"]


def test_three_capabilities_their_differences_and_a_pass_at_k_stand_whole_in_80_columns(seen):
    one, two, names = "runs/first@5", "runs/first/branches/text@last", ("text", "image", "video", "average")
    whole = Estimate(1.0, 0.566, 1.0)
    cells = [Accuracy(model, name, 10, whole, {1: whole}) for model in (one, two) for name in names]
    compared = [Difference(two, one, name, Estimate(0.0, -0.283, 0.283)) for name in names]
    Console(file=seen, width=80).print(accuracy_table(cells, "title", compared=compared))
    lines = [line for line in seen.getvalue().splitlines() if line.startswith(("┃", "│"))]
    assert all(line.endswith(line[0]) and len(line) == 80 for line in lines)
    assert sum(line.count("56.6-100.0") for line in lines) == 2 * 5


@pytest.mark.parametrize("width", [40, 80])
def test_the_final_table_keeps_every_number_where_the_terminal_is_too_narrow_for_it(seen, width):
    names = [f"skill{number}" for number in range(6)]
    cells = [Accuracy("base", name, 10, Estimate(0.5, 0.237, 0.763), {}) for name in (*names, "average")]
    Screen(Console(file=seen, width=width)).result(cells, "test")
    assert seen.getvalue().count("23.7-76.3") == 7


def test_a_table_of_one_capability_has_no_average_beside_it(seen):
    cells = [Accuracy("base", name, 10, Estimate(0.5, 0.25, 0.75), {}) for name in ("text", "average")]
    Console(file=seen, width=160).print(accuracy_table(cells, "title"))
    assert "text" in seen.getvalue()
    assert "average" not in seen.getvalue()


def test_a_compared_model_has_its_difference_and_interval_below_and_bold_where_clear(seen):
    cells = [Accuracy(m, "text", 10, Estimate(0.5, 0.25, 0.75)) for m in ("base", "merged", "other")]
    compared = [
        Difference("merged", "base", "text", Estimate(0.125, 0.0625, 0.1875)),
        Difference("other", "base", "text", Estimate(-0.125, -0.25, 0.0625)),
    ]
    console = Console(file=seen, width=160, force_terminal=True, color_system="standard")
    console.print(accuracy_table(cells, "title", compared=compared))
    lines = seen.getvalue().splitlines()
    for model, value, interval in (("merged", "+12.5", "+6.2 to +18.8"), ("other", "-12.5", "-25.0 to +6.2")):
        (at,) = (i for i, line in enumerate(lines) if model in line)
        assert value in lines[at + 2]
        assert interval in lines[at + 3]
        assert ("\x1b[1m" in lines[at + 2]) == (model == "merged")
    assert "+" not in lines[next(i for i, line in enumerate(lines) if "base" in line) + 2]


@pytest.mark.parametrize("width", [80, 40])
def test_a_table_of_three_capabilities_fits_80_columns_and_a_wider_one_is_not_cut(monkeypatch, capsys, width):
    names = ("runs/first/branches/text@last", "runs/first@last")
    columns = ("text", "image", "video", "average")
    share = {1: Estimate(0.25, 0.125, 0.375)}
    cells = [Accuracy(m, name, 10, Estimate(0.5, 0.25, 0.75), share) for m in names for name in columns]
    compared = [Difference(names[1], names[0], name, Estimate(-0.125, -0.25, 0.125)) for name in columns]
    monkeypatch.setenv("COLUMNS", str(width))
    give([accuracy_table(cells, "title", compared=compared)], {}, False, None)
    lines = capsys.readouterr().out.splitlines()
    assert {line[-1] for line in lines[1:]} == set("┓┃┩│┤┘")
    assert max(map(len, lines)) <= 80
    assert width < 80 or sum("12.5-37.5" in line for line in lines) == len(names)


@pytest.mark.parametrize("auto_class", ["AutoModelForImageTextToText", "AutoModelForCausalLM"])
def test_a_finished_run_says_where_the_model_is_and_what_loads_it(screen, seen, auto_class):
    screen.finished(Path("runs/x"), auto_class)
    assert f"use it: {auto_class}.from_pretrained('runs/x/merged')" in seen.getvalue()


def test_a_run_without_a_merge_only_says_where_its_report_is(screen, seen):
    screen.finished(Path("runs/x"), None)
    assert seen.getvalue().split() == ["report:", "runs/x/report.html"]


def behaviour_of(capability: str, **changes) -> CapabilityBehaviour:
    alike = Likeness({5: 0.91, 10: 0.935}, 0.998, 0.0321)
    dispute = Dispute("text/0", "usual max: 1 2", "2", "1 2;", "9", ",2", -0.25, -3.5)
    values = {"tokens": 1330, "accuracy": 0.516, "chance": {5: 0.05, 10: 0.1}, "likeness": alike, "kl_is_exact": True}
    return CapabilityBehaviour(**{"capability": capability, **values, "disputes": [dispute], **changes})


def test_behaviour_has_a_row_per_capability_with_chance_beside_the_overlap(seen):
    Console(file=seen, width=160).print(behaviour_table([behaviour_of("text"), behaviour_of("image")], "title"))
    text = seen.getvalue()
    for expected in ("1,330", "51.6", "0.910", "0.935", "0.998", "0.0321", "chance 0.05", "chance 0.10", "image"):
        assert expected in text
    assert "approximate" not in text
    Console(file=seen, width=160).print(behaviour_table([behaviour_of("text", kl_is_exact=False)], "title"))
    assert "approximate" in seen.getvalue()


def test_disputed_tokens_stand_in_brackets_in_their_context(seen):
    Console(file=seen, width=160).print(disputes_table(behaviour_of("text")))
    text = seen.getvalue()
    for expected in ("-3.25", "-0.25", "-3.50", "usual max: 1 2", "1 2;[9],2"):
        assert expected in text
    Console(file=seen, width=160).print(disputes_table(behaviour_of("text", disputes=[])))
    assert "agree to the last bit" in seen.getvalue()


def test_what_a_model_says_cannot_command_the_terminal(seen):
    hostile = "\x1b]0;title\x07\x1b[2J[red]\r\n"
    dispute = Dispute("i", hostile, hostile, hostile, hostile, hostile, 0.0, -1.0)
    console = Console(file=seen, width=400, color_system=None)
    console.print(disputes_table(behaviour_of("text", disputes=[dispute])))
    assert "\x1b" not in seen.getvalue()
    assert "\x07" not in seen.getvalue()
    assert "\\x1b]0;title" in seen.getvalue()
    assert "[red]" in seen.getvalue()
