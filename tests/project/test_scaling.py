"""studies/scaling.py: cycles whose critical path can be computed by hand."""

import json
import runpy
from pathlib import Path

import pytest

from copd.assemble.plan import make_plan
from copd.recipe.reading import load_recipe
from copd.schedule import Batches, Schedule
from copd.topology import full, hub

STUDY = runpy.run_path(str(Path(__file__).parents[2] / "studies" / "scaling.py"))
Times, measured, simulated = STUDY["Times"], STUDY["measured"], STUDY["simulated"]
ONE = Batches(1, 1, 1, 1)
"""Each batch and each lesson is one rollout."""
ALONE, TAUGHT = Schedule(1, 5, 0), Schedule(1, 0, 1)


def names(count):
    return [f"branch {i}" for i in range(count)]


def seconds(collect, score, update):
    found = {"collect_seconds": collect, "score_seconds": score, "update_seconds": update}
    return {f"{phase}/{name}": value for phase in ("rlvr", "opd") for name, value in found.items()}


def waits(found):
    return [found.share(part) for part in (found.work, found.scores, found.barrier)]


def test_experts_of_equal_times_never_wait():
    found = simulated(names(4), (), Times([seconds(2, 0, 1)]), ALONE, ONE)
    assert found.path == {"rlvr": 15}
    assert waits(found) == [1, 0, 0]


def test_all_wait_for_a_straggler_at_the_barrier():
    found = simulated(names(4), (), Times([seconds(1, 0, 1)] * 3 + [seconds(2, 0, 2)]), ALONE, ONE)
    assert found.path == {"rlvr": 20}
    assert waits(found) == pytest.approx([(3 * 10 + 20) / 80, 0, 3 * 10 / 80])


def test_branches_that_are_slow_by_chance_wait_for_each_other_the_less_the_rarer_they_meet():
    often, rarely = (
        simulated(names(4), (), Times([seconds(1, 0, 1)], 0.5), Schedule(1, 40, 0), ONE, meet) for meet in (1, 40)
    )
    assert 80 < rarely.seconds < often.seconds
    assert 0 < waits(rarely)[2] < waits(often)[2]
    assert often.work == pytest.approx(rarely.work)


@pytest.mark.parametrize("count", [2, 3, 4, 8])
def test_the_hub_collects_scores_and_learns_once_for_every_spoke(count):
    """It samples `count` batches of 1 s, scores `count` - 1 of 2 s, and learns on `count` of 1 s; a spoke needs 6 s."""
    found = simulated(names(count), hub(names(count), 1.0), Times([seconds(1, 2, 1)]), TAUGHT, ONE)
    path = 4 * count - 2
    assert found.path == {"opd": path}
    assert waits(found)[0] == pytest.approx((path + 6 * (count - 1)) / (count * path))
    assert waits(found)[1] > 0 or count == 2


@pytest.mark.parametrize(("count", "path"), [(2, 20), (3, 20), (4, 21), (5, 23), (6, 26), (11, 42)])
def test_from_four_branches_on_slow_spokes_wait_for_the_queue_of_the_hub(count, path):
    """Spokes sample until 10 s and learn for 10 s. The hub scores from max(count, 5) s on, 2 s a spoke."""
    kinds = [seconds(1, 2, 1), *[seconds(5, 0, 5)] * (count - 1)]
    assert path == max(10, max(count, 5) + 2 * (count - 1)) + max(10, count)
    assert simulated(names(count), hub(names(count), 1.0), Times(kinds), TAUGHT, ONE).seconds == path


def test_where_all_teach_all_everybody_has_the_work_of_a_hub_and_neighbours_have_that_of_three():
    times = Times([seconds(1, 2, 1)])
    for topology, paths in ((full, [14, 30]), (STUDY["neighbours"], [10, 10])):
        found = [simulated(names(n), topology(names(n), 1.0), times, TAUGHT, ONE) for n in (4, 8)]
        assert [each.seconds for each in found] == paths
        assert [waits(each) for each in found] == [[1, 0, 0]] * 2


def test_more_ranks_shorten_every_call():
    of_one, of_four = (
        simulated(names(3), hub(names(3), 1.0), Times([seconds(1, 2, 1)], 0.3), ranks=ranks) for ranks in (1, 4)
    )
    assert of_four.seconds == pytest.approx(of_one.seconds / 1.7**2)
    assert waits(of_four) == pytest.approx(waits(of_one))


def test_times_are_those_that_the_checkpoints_of_a_run_tell(tmp_path):
    changes = ["schedule={cycles: 1, rl_steps: 2, opd_steps: 2}", "checkpoint.every_steps=1", "topology.kind=hub"]
    recipe = load_recipe("demo-paper", changes)
    plan, (batch, lesson) = make_plan(recipe), (24 * 8, 12 * 8)
    manifest = {"recipe": recipe.model_dump(mode="json"), "command": "copd train demo-paper --out there backend=local"}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    counts = {
        name: dict.fromkeys(("collect_seconds", "score_seconds", "update_seconds"), 0.0) for name in plan.learners
    }
    for step, phase in enumerate(("rlvr", "rlvr", "opd", "opd"), 1):
        for k, name in enumerate(plan.learners, 1):
            lessons = (2 if name == "text" else 1) * lesson * (phase == "opd")
            for kind, rollouts in zip(counts[name], (batch + lessons, lessons, batch + lessons), strict=True):
                counts[name][kind] += k * step * rollouts * {"score_seconds": 0.5}.get(kind, 1)
        notes = {"counts": counts, "ledger": {"critical_path": {"rlvr": 7.0}}}
        (tmp_path / "checkpoints" / f"step-{step:08}").mkdir(parents=True)
        (tmp_path / "checkpoints" / f"step-{step:08}" / "manifest.json").write_text(json.dumps({"notes": notes}))
    times, ledger, predicted = measured(tmp_path)
    for k, found in enumerate(times.branches, 1):
        assert found == pytest.approx(
            {
                **{f"rlvr/{kind}_seconds": k * 1.5 for kind in ("collect", "update")},
                "rlvr/score_seconds": 0,
                **{f"opd/{kind}_seconds": k * 3.5 for kind in ("collect", "update")},
                "opd/score_seconds": k * 3.5 / 2,
            }
        )
    assert (times.spread, times.command) == (pytest.approx(0, abs=1e-6), "copd train demo-paper backend=local")
    assert ledger == {"rlvr": 7.0}
    assert predicted.path["rlvr"] == pytest.approx(2 * 3 * 1.5 * 2 * batch, rel=1e-4)
    assert [len(predicted.branches), predicted.meet_every] == [3, 1]
