"""docs/results.md is what `make docs` draws from the results, and says what they say."""

import importlib
import json
import sys
from pathlib import Path

import pytest
import yaml

from copd.arms.outcomes import write_outcome
from copd.report.words import MINUS

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def results_page():
    sys.path.insert(0, str(ROOT / "tools"))
    yield importlib.import_module("results_page")
    sys.path.remove(str(ROOT / "tools"))


@pytest.fixture
def study(results_page, make_outcome, tmp_path):
    """A study of three arms, of which `mixed` and `one` have finished three seeds, and one of two candidates."""
    search = {"candidates": {"mixed": [{}, {"opd.weight": 3}]}}
    arms = {"mixed": {"method": "mixed"}, "one": {}, "late": {}}
    file = tmp_path / "main.yaml"
    file.write_text(yaml.safe_dump({"rollouts": 1000, "arms": arms, "problems": 40, "search": search}, sort_keys=False))
    for seed, gain in enumerate((0.2, 0.2, 0.25)):
        for outcome in (make_outcome(seed=seed), make_outcome("one", seed, {"text": 0.5 + gain, "image": 0.5})):
            write_outcome(tmp_path / "results" / "rollouts" / outcome.arm / f"seed-{seed}.json", outcome)
    searched = make_outcome("mixed.1", 1000, {"text": 0.5, "image": 0.3})
    write_outcome(tmp_path / "search" / "results" / "rollouts" / "mixed.1" / "seed-1000.json", searched)
    return results_page.Study(file)


def test_the_page_of_results_is_what_the_results_say(results_page):
    assert results_page.PAGE.read_text() == results_page.drawn(), "make docs"


def test_the_page_begins_with_what_can_be_told_apart(results_page, study):
    said = results_page.page(study, {}, [study])
    assert "- After 3 seeds of each arm, one has the best average: 60.8 %.\n- Clearly ahead of mixed" in said
    assert "| `mixed` | 3 | 50.0 [50.0, 50.0] | 25.0 [25.0, 25.0] | 37.5 [37.5, 37.5] | 50.0 | 75.0 | 1,000 |" in said
    assert "| `one` | +23.3 [+19.7, +26.9] |" in said
    assert "3 of 3" in said
    assert "copd train demo seed=0 --out runs/one" in said
    assert "`late`" not in said


def test_other_worlds_and_ablations_are_told_in_brief_once_a_run_of_theirs_has_ended(results_page, study, tmp_path):
    def of(*arms, **more):
        path = study.file.with_name("-".join(arms) + ".yaml")
        path.write_text(
            yaml.safe_dump({"title": "a world", "rollouts": 1000, "arms": {name: {} for name in arms}, **more})
        )
        return results_page.Study(path)

    brief = "| `one` | 3 | 60.8 [57.2, 64.4] | **+23.3 [+19.7, +26.9]** |"
    main = of("mixed", search={"candidates": {"mixed": [{}]}})
    said = results_page.page(
        main, {"Ablations": of("mixed", "one"), "Controls": main}, [of("mixed", "one"), of("late")]
    )
    assert said.count("### A world") == 1
    assert said.count(brief) == 2
    assert "## Ablations" in said
    assert "## Controls" not in said
    assert "## Ablations" not in results_page.page(study, {"Ablations": of("mixed", "one")}, [])


def test_averages_of_weights_are_shown_once_they_are_there(results_page, study):
    assert "Averages that cost" not in results_page.page(study, {}, [])
    cell = {"value": 0.5, "low": 0.4, "high": 0.6}
    found = {"models": 5, "accuracies": [], "differences": [{"capability": "average", "greedy": cell}]}
    found["accuracies"] = [{"model": name, "capability": "average", "greedy": cell} for name in ("last", "mean")]
    (study.file.parent / "averages").mkdir()
    (study.file.parent / "averages" / "trajectory-0.json").write_text(json.dumps(found))
    said = results_page.page(results_page.Study(study.file), {}, [])
    assert "| trajectory-0 | 5 | 50.0 [40.0, 60.0] | 50.0 [40.0, 60.0] | +50.0 [+40.0, +60.0] |" in said


def test_what_finished_models_become_is_told_over_seeds_once_it_is_there(results_page, study):
    assert "What more comes of finished models" not in results_page.page(study, {}, [])
    (study.file.parent / "finishing").mkdir()
    for seed, gained in enumerate((0.02, 0.02, 0.05)):
        found = {"how": "scale 0.7", "accuracy": {"average": 0.5 + gained}, "one_cycle": {"average": 0.5}}
        (study.file.parent / "finishing" / f"scaled-{seed}.json").write_text(json.dumps(found))
    said = results_page.page(results_page.Study(study.file), {}, [])
    found = "| `scaled` | scale 0.7 | 3 | 53.0 [48.7, 57.3] | 50.0 [50.0, 50.0] | +3.0 [-1.3, +7.3] |"
    assert found in said.replace(MINUS, "-")


def test_a_candidate_that_has_not_run_is_shown_as_such(results_page, study):
    said = results_page.page(study, {}, [study])
    assert "| `mixed` | as the arm | not run yet |" in said
    assert "| `mixed` | `opd.weight=3` | **40.0** |" in said


def test_a_candidate_of_several_seeds_has_their_mean_and_one_that_lacks_a_seed_is_not_the_best(
    results_page, make_outcome, tmp_path
):
    search = {"seeds": [7, 8], "candidates": {"mixed": [{}, {"opd.weight": 3}, {"opd.weight": 4}]}}
    file = tmp_path / "main.yaml"
    file.write_text(yaml.safe_dump({"rollouts": 1000, "arms": {"mixed": {}}, "search": search}))
    shares = [("mixed.0", 7, 0.5), ("mixed.0", 8, 0.1), ("mixed.1", 7, 0.4), ("mixed.1", 8, 0.4), ("mixed.2", 7, 0.9)]
    for arm, seed, share in [*shares, ("mixed.0", 1000, 0.95)]:
        outcome = make_outcome(arm, seed, {"text": share, "image": share})
        write_outcome(tmp_path / "search" / "results" / "rollouts" / arm / f"seed-{seed}.json", outcome)
    cells = [line.split(" | ")[-1] for line in results_page.Study(file).search().split("\n")]
    assert cells[2:] == ["30.0 |", "**40.0** |", "90.0 (1 of 2 seeds) |"]


def test_without_a_seed_of_the_test_the_page_claims_nothing(results_page, study):
    for path in (study.file.parent / "results").rglob("*.json"):
        path.unlink()
    said = results_page.page(study, {}, [study])
    assert "No seed of the test has run yet" in said
    assert "has the best" not in said


@pytest.fixture
def three_ways(results_page, make_outcome, tmp_path):
    """A study of `mixed`, experts, one cycle and the paper's form, three seeds each; the last by a share right."""

    def make(paper: float, known: float = 0.55):
        def curve(own: float) -> list:
            return [(0.0, {"text/text": 0.2, "image/image": 0.2}), (900.0, {"text/text": own, "image/image": own})]

        arms = {"mixed": {"method": "mixed"}, "one_cycle": {}, "copd_paper": {}, "expert": {"method": "expert"}}
        file = tmp_path / "main.yaml"
        references = ["mixed", "one_cycle"]
        file.write_text(
            yaml.safe_dump(
                {"title": "a world", "rollouts": 1000, "arms": arms, "problems": 400, "references": references},
                sort_keys=False,
            )
        )
        for seed, more in enumerate((0.0, 0.005, -0.005)):
            experts = {"text": {"text": 0.7, "image": 0.1}, "image": {"text": 0.1, "image": 0.7}}
            for outcome in (
                make_outcome("mixed", seed, {"text": 0.5, "image": 0.5}, count=400),
                make_outcome("one_cycle", seed, {"text": 0.6, "image": 0.6}, count=400, curve=curve(0.65)),
                make_outcome("copd_paper", seed, {"text": paper + more, "image": paper}, count=400, curve=curve(known)),
                make_outcome("expert", seed, experts, products=("text", "image"), count=400),
            ):
                write_outcome(tmp_path / "results" / "rollouts" / outcome.arm / f"seed-{seed}.json", outcome)
        return results_page.Study(file)

    return make


def test_the_first_lines_say_that_co_evolution_does_not_pay_and_that_its_teachers_are_weaker(three_ways):
    said = three_ways(0.4).verdict()[-1]
    assert "Co-evolution does not pay at a world: `copd_paper`, the best method whose branches learn on" in said
    assert "is 20.0 points below `one_cycle` [19.4, 20.6]." in said
    assert "weaker teachers: at the end the branches of `copd_paper` answer 55.0 % of the validation problems" in said
    assert "those of `one_cycle` 65.0 % (seed by seed -10.0 [-10.0, -10.0])." in said.replace(MINUS, "-")


def test_branches_that_are_not_clearly_weaker_are_not_called_so(three_ways):
    said = three_ways(0.4, known=0.65).verdict()[-1]
    assert "Co-evolution does not pay at a world" in said
    assert "weaker teachers" not in said


def test_the_first_lines_say_that_co_evolution_pays(three_ways):
    said = three_ways(0.7).verdict()[-1]
    assert "Co-evolution pays at a world" in said
    assert "weaker teachers" not in said


def test_the_first_lines_leave_open_what_is_not_clear(three_ways):
    assert "Whether co-evolution pays at a world is open" in three_ways(0.6).verdict()[-1]


def test_the_first_lines_tell_how_one_cycle_and_co_evolution_do_in_other_worlds(results_page, study, three_ways):
    world = three_ways(0.4)
    search = {"candidates": {"mixed": [{}]}}
    file = study.file.with_name("searching.yaml")
    file.write_text(yaml.safe_dump({**yaml.safe_load(world.file.read_text()), "search": search}))
    main = results_page.Study(file)
    said, _, _ = results_page.page(main, {}, [world]).partition("## ")
    assert "- In other worlds, in points against `mixed`, bold where clear by Holm's correction: at " in said
    told = said.replace(MINUS, "-")
    both = "`one_cycle` **+10.0 [+10.0, +10.0]** and `copd_paper` **-10.0 [-10.6, -9.4]**"
    assert f"(3 seeds), {both}" in told, "what contradicts it too"
    assert "In other worlds" not in results_page.page(main, {}, [])


def test_a_claim_of_the_paper_holds_only_where_the_intervals_say_so(three_ways):
    said = importlib.import_module("results_claims").claims(three_ways(0.55)).replace(MINUS, "-")
    assert "| CoPD is ahead of mixed RLVR | `copd_paper`: +5.0 [+4.4, +5.6] against `mixed` | yes |  |" in said
    assert "| CoPD is ahead of experts that teach one student once | `copd_paper`: -5.0 [-5.6, -4.4] against" in said
    assert "| `one_cycle`: text -10.0 [-10.0, -10.0], image -10.0 [-10.0, -10.0] | no | experts alone" in said


def test_the_strength_of_branches_is_told_at_the_ends_of_cycles(three_ways):
    assert "| `one_cycle` | 900 | 65.0 [65.0, 65.0] | 65.0 [65.0, 65.0] | – |" in three_ways(0.4).strength()
