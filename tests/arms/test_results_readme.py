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
    worlds = [results_readme.Study(file) for file in results_readme.WORLDS]
    assert readme == results_readme.with_results(readme, study, worlds), "make docs"
    assert set(results_readme.LABELS) == set(study.comparison.arms)


def test_the_table_has_each_method_that_has_begun_the_best_first_with_its_lead_and_last_the_base(results_readme, study):
    said = results_readme.section(study)
    places = [said.index(f"(`{arm}`) |") for arm in ("expert", "one_cycle", "mixed")]
    assert places == sorted(places)
    assert said.rstrip().splitlines()[-1] == "| the base | 25.0 | 50.0 | 37.5 |  |  |"
    assert "(`expert`) | 90.0 [76.9, 96.0] | 80.0 [65.2, 89.5] | 85.0 [" in said
    assert (
        "(`one_cycle`) | 71.7 [64.5, 78.8] | 50.0 [50.0, 50.0] | 60.8 [57.2, 64.4] | **+23.3 [+19.7, +26.9]** | 3 |"
        in said
    )
    assert "`cycles`" not in said


def test_a_difference_is_bold_only_where_holms_correction_leaves_it_clear(results_readme, study, make_outcome):
    assert "end **+" in results_readme.lead(study)
    worse = make_outcome("one_cycle", 1, {"text": 0.1, "image": 0.1})
    write_outcome(study.file.parent / "results" / "rollouts" / "one_cycle" / "seed-1.json", worse)
    said = results_readme.lead(results_readme.Study(study.file))
    assert "experts that teach one student at the end +" in said
    assert said.count("**") == 2


def test_before_the_first_seed_of_the_study_no_lead_is_told(results_readme, study, tmp_path):
    assert results_readme.lead(study).startswith(
        "**Measured** on a toy world, at 1,000 rollouts each, in points of accuracy against mixed RLVR: experts"
    )
    for path in tmp_path.rglob("seed-*.json"):
        path.unlink()
    assert results_readme.lead(results_readme.Study(study.file)) == "No seed of the study has run yet."


def test_the_picture_is_the_same_file_each_time_and_names_the_arms(results_readme, study, tmp_path):
    drawn = []
    for _ in range(2):
        results_readme.picture(study, tmp_path / "results.svg")
        drawn.append((tmp_path / "results.svg").read_text())
    assert drawn[0] == drawn[1]
    assert "mixed RLVR" in drawn[0]
    assert results_readme.LABELS["cycles"] not in drawn[0]
