"""What a person sees: the plan, the estimate, the tables."""

from io import StringIO
from pathlib import Path

import pytest
import torch
from rich.console import Console

from copd.config import load_recipe
from copd.measure.behaviour import Behaviour
from copd.measure.evaluate import Accuracy, Estimate
from copd.runs.display import Screen, accuracy_table
from copd.runs.plan import make_plan


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
    screen.planned(Path("runs/x"), "copd", make_plan(load_recipe("demo", sizes)))
    for expected in (
        "text, image, video",
        "video teaches text (beta 1)",
        "4 x (15 steps of RLVR + 10 of mutual OPD)",
        "48,640",
    ):
        assert expected in seen.getvalue()


def test_time_and_memory_are_estimated_after_three_steps(screen, seen):
    plan = make_plan(load_recipe("demo"))
    screen.planned(Path("runs/x"), "copd", plan)
    with screen:
        screen.started(0)
        for step in range(2):
            updated(screen, plan, step)
        assert "minutes of training left" not in seen.getvalue()
        updated(screen, plan, 2)
    assert "minutes of training left; memory so far" in seen.getvalue()
    assert "on GPUs" not in seen.getvalue()


def test_the_memory_of_gpus_in_use_is_told(screen, seen, monkeypatch):
    for name, value in {"is_initialized": True, "device_count": 2, "max_memory_allocated": 3 * 2**29}.items():
        monkeypatch.setattr(torch.cuda, name, lambda *_, value=value: value)
    plan = make_plan(load_recipe("demo"))
    screen.planned(Path("runs/x"), "copd", plan)
    with screen:
        screen.started(0)
        for step in range(3):
            updated(screen, plan, step)
    assert "GiB at most, on GPUs 1.5, 1.5 GiB" in seen.getvalue()


def test_the_live_view_shows_phase_step_reward_overlap_and_time_left(seen):
    screen = Screen(Console(file=seen, width=160, force_terminal=True, color_system=None))
    plan = make_plan(load_recipe("demo"))
    screen.planned(Path("runs/x"), "copd", plan)
    with screen:
        screen.started(0)
        matrix = {a: dict.fromkeys(plan.branches, 0.93) for a in plan.branches}
        screen.measured(Behaviour(overlap={5: matrix, 10: matrix}, chance={5: 0.05, 10: 0.1}))
        updated(screen, plan, 15)
    for expected in (
        "cycle 1/4 · opd",
        "step 16/100",
        "min left",
        "0.5",
        "overlap@10 (chance 0.10)",
        "text<-image 0.93",
    ):
        assert expected in seen.getvalue()


def test_a_table_has_a_row_per_model_in_per_cent_with_intervals(seen):
    cells = [
        Accuracy(model, field, 10, Estimate(0.5, 0.25, 0.75), {1: Estimate(0.125, 0.0, 0.25)})
        for model in ("base", "merged")
        for field in ("text", "average")
    ]
    Console(file=seen, width=160).print(accuracy_table(cells, "title"))
    lines = seen.getvalue().splitlines()
    for model in ("base", "merged"):
        (at,) = (i for i, line in enumerate(lines) if model in line)
        assert [cell.strip() for cell in lines[at].split("│")][2:5] == ["50.0", "50.0", "12.5"]
        assert [cell.strip() for cell in lines[at + 1].split("│")][2:5] == ["25.0-75.0", "25.0-75.0", "0.0-25.0"]
