"""The map that ships is what `make docs` draws from the studies; a study's pilots are made once."""

import importlib.util
import json
import runpy
import sys
from pathlib import Path

import pytest
import yaml

from copd.arms.advice_map import MAP, read_map
from copd.arms.comparison import as_overrides
from copd.arms.outcomes import write_outcome
from copd.assemble.plan import make_plan
from copd.commands import pilot
from copd.commands.advise import fitted
from copd.measure.evaluate import Estimate
from copd.measure.pilot import Pilot
from copd.recipe.reading import load_recipe, recipe_data

ROOT = Path(__file__).parents[2]
OTHERS = "branches={a: {task: {kind: digits, capability: text}}, b: {task: {kind: digits, capability: image}}}"
MADE = Pilot(20, 0.4, *[Estimate(0.1, 0.0, 0.2)] * 3, -0.1, 0.9, 0.01, 0.25)


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("advice_map_tool", ROOT / "tools" / "advice_map.py")
    module = sys.modules["advice_map_tool"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def study(tmp_path, make_outcome):
    """A study in which one_cycle leads by ten points in one seed and by none in another, without pilots."""
    file = tmp_path / "main.yaml"
    arms = {"mixed": {"method": "mixed"}, "one_cycle": {"merge.method": "distil"}, "expert": {"method": "expert"}}
    file.write_text(yaml.safe_dump({"rollouts": 1000, "arms": arms, "problems": 40}, sort_keys=False))
    for seed, gain in enumerate((0.1, 0.0)):
        right = {"text": 0.5 + gain, "image": 0.25 + gain}
        for outcome in (make_outcome(seed=seed), make_outcome("one_cycle", seed, right)):
            write_outcome(tmp_path / "results" / "rollouts" / outcome.arm / f"seed-{seed}.json", outcome)
    write_outcome(tmp_path / "results" / "rollouts" / "one_cycle" / "seed-7.json", make_outcome("one_cycle", 7))
    for outcome in (make_outcome(seed=8), make_outcome("one_cycle", 8, count=20)):
        write_outcome(tmp_path / "results" / "rollouts" / outcome.arm / "seed-8.json", outcome)
    return file


def test_the_map_that_ships_is_drawn_from_the_studies(tool):
    assert MAP.read_text() == tool.drawn(tool.STUDIES), "make docs"


def test_a_study_becomes_a_point_once_it_has_pilots(tool, study, tmp_path):
    assert json.loads(tool.drawn({"one": study})) == {"overrides": {}, "points": []}
    (tmp_path / "pilots").mkdir()
    (tmp_path / "pilots" / "seed-0.json").write_text(json.dumps(MADE.as_record()))
    (tmp_path / "map.json").write_text(tool.drawn({"one": study}))
    found = read_map(tmp_path / "map.json")
    world, made = recipe_data("demo-paper"), found.overrides["one_cycle"]
    sections = ("method", "schedule", "merge", "opd", "topology")
    assert made == {**{name: world[name] for name in sections}, "merge.method": "distil"}
    (point,) = found.points
    assert (point.name, point.rollouts, point.pilots) == ("one", 1000, (MADE,))
    assert point.leads["one_cycle"] == pytest.approx((0.1, 0.0))


def test_a_method_has_no_learning_rates_since_those_are_of_the_studys_model(tool, tmp_path):
    opd = {"prompts_per_step": 3, "learning_rate": 1.0}
    arm = {"opd": opd, "opd.learning_rate": 2.0, "optimizer.learning_rate": 3.0}
    file = tmp_path / "main.yaml"
    file.write_text(yaml.safe_dump({"rollouts": 1000, "arms": {"one_cycle": arm}}))
    made = tool.overrides(file)["one_cycle"]
    assert made["opd"] == {"prompts_per_step": 3}
    assert not [path for path in made if path.endswith("learning_rate")]


def test_every_method_of_the_studies_fits_a_recipe_of_other_branches(tool):
    recipe = load_recipe("demo-paper", [OTHERS, "method=mixed", "schedule.cycles=1"])
    for method, made in tool.overrides(ROOT / "studies" / "conflict" / "main.yaml").items():
        changes = as_overrides({**fitted(made, list(recipe.branches)), "budget.rollouts": 150_000})
        plan = make_plan(load_recipe(recipe.model_dump(mode="json"), changes))
        assert plan.rollouts == pytest.approx(150_000, rel=0.05)
        assert plan.learners == ("a", "b"), method


def test_pilots_of_a_study_are_made_once_for_each_seed_in_its_world(study, tmp_path, monkeypatch):
    asked = []

    def run_pilot(recipe, settings):
        asked.append((recipe.seed, recipe.backend.kind, settings.steps))
        return MADE, []

    monkeypatch.setattr(pilot, "run_pilot", run_pilot)
    for seeds in ("1", "2"):
        monkeypatch.setattr(sys, "argv", ["pilots.py", str(study), "--seeds", seeds, "--steps", "5"])
        runpy.run_path(str(ROOT / "studies" / "pilots.py"), run_name="__main__")
    assert asked == [(0, "local", 5), (1, "local", 5)]
    written = json.loads((tmp_path / "pilots" / "seed-1.json").read_text())
    assert Pilot.from_record(written) == MADE
