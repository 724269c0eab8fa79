"""README's table and picture of results are what `make docs` draws from the results, and say what they say."""

import importlib
import sys
from pathlib import Path

import pytest
import yaml

from copd.arms.outcomes import write_outcome

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def results_readme():
    sys.path.insert(0, str(ROOT / "tools"))
    yield importlib.import_module("results_readme")
    sys.path.remove(str(ROOT / "tools"))


@pytest.fixture
def study(results_readme, make_outcome, tmp_path):
    """A study in which experts and two arms have finished seeds, and one arm has not begun."""
    file = tmp_path / "main.yaml"
    arms = {"mixed": {"method": "mixed"}, "one_cycle": {}, "cycles": {}, "expert": {"method": "expert"}}
    file.write_text(yaml.safe_dump({"rollouts": 1000, "arms": arms, "problems": 40}, sort_keys=False))
    own = {name: {"text": 0.9, "image": 0.8} for name in ("text", "image")}
    base = {"text": 0.25, "image": 0.5}
    outcomes = [make_outcome("expert", 0, {**own, "base": base}, products=("text", "image"))]
    for seed, gain in enumerate((0.2, 0.2, 0.25)):
        outcomes += [make_outcome(seed=seed), make_outcome("one_cycle", seed, {"text": 0.5 + gain, "image": 0.5})]
    for outcome in outcomes:
        write_outcome(tmp_path / "results" / "rollouts" / outcome.arm / f"seed-{outcome.seed}.json", outcome)
    return results_readme.Study(file)


def test_the_results_of_the_readme_are_what_the_results_say(results_readme, tmp_path):
    readme, study = results_readme.README.read_text(), results_readme.Study(results_readme.MAIN)
    assert readme == results_readme.with_results(readme, study), "make docs"
    assert set(results_readme.LABELS) == set(study.comparison.arms)


def test_the_table_has_the_base_each_arm_that_has_begun_and_its_lead(results_readme, study):
    said = results_readme.section(study)
    assert "| base | 25.0 | 50.0 | 37.5 |  |  |" in said
    assert "(`expert`) | 90.0 [76.9, 96.0] | 80.0 [65.2, 89.5] | 85.0 [" in said
    assert (
        "(`one_cycle`) | 71.7 [64.5, 78.8] | 50.0 [50.0, 50.0] | 60.8 [57.2, 64.4] | +23.3 [+19.7, +26.9] | 3 seeds |"
        in said
    )
    assert "`cycles`" not in said


def test_the_picture_is_the_same_file_each_time_and_names_the_arms(results_readme, study, tmp_path):
    drawn = []
    for _ in range(2):
        results_readme.picture(study, tmp_path / "results.svg")
        drawn.append((tmp_path / "results.svg").read_text())
    assert drawn[0] == drawn[1]
    assert "mixed RLVR" in drawn[0]
    assert "two cycles" not in drawn[0]
