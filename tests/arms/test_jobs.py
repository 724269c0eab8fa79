"""Jobs of a comparison: what each trains, at which budget, and whose experts it takes over."""

import json
from pathlib import Path

import pytest

from copd.arms.budgets import budget_of, critical_path, steps_of_a_model
from copd.arms.comparison import Comparison, read_comparison
from copd.arms.jobs import jobs_of, searches_of
from copd.arms.outcomes import finished_by, outcome_path, write_outcome
from copd.assemble.plan import make_plan
from copd.errors import RecipeError, RunFolderError
from copd.recipe.reading import load_recipe, recipe_text

DENSE = {"signal": "reverse_kl", "prompts_per_step": 32, "rollouts_per_prompt": 1}
ARMS = {
    "mixed": {"method": "mixed"},
    "one_cycle": {
        "opd": DENSE,
        "schedule": {"cycles": 1, "rl_steps": 150, "opd_steps": 0},
        "merge": {"method": "distil", "steps": 60},
    },
    "mopd": {"method": "mopd", "opd": DENSE, "schedule": {"cycles": 1, "rl_steps": 150, "opd_steps": 60}},
    "average": {"method": "merge_only"},
    "expert": {"method": "expert"},
    "copd": {},
}
SEARCH = {"seeds": [7, 8], "problems": 5, "candidates": {"mixed": [{}, {"optimizer.learning_rate": 2e-4}]}}


def comparison(**changes) -> Comparison:
    return Comparison.model_validate(
        {"recipe": "demo-paper", "rollouts": 92_160, "problems": 9, "arms": ARMS, **changes}
    )


@pytest.fixture(scope="module")
def jobs():
    return jobs_of(comparison(), (0, 1), {})


def test_every_arm_has_a_job_for_every_seed_with_one_core_and_the_tests_problems(jobs):
    own = [job for job in jobs if job.arm]
    assert [(job.arm, job.seed) for job in own] == [(arm, seed) for seed in (0, 1) for arm in ARMS]
    for job in own:
        recipe = job.recipe
        assert (recipe.seed, recipe.backend.kind, recipe.model.threads_per_branch) == (job.seed, "local", 1)
        assert (recipe.evaluation.problems, recipe.evaluation.models) == (9, "product")
        assert make_plan(recipe).rollouts == pytest.approx(92_160, rel=0.05)


def test_arms_of_a_seed_that_begin_with_the_same_experts_share_one_job_for_them(jobs):
    experts = [job for job in jobs if not job.arm]
    assert [job.seed for job in experts] == [0, 1]
    assert {job.arm for job in jobs if job.needs} == {"one_cycle", "mopd", "average", "expert", "copd"}
    assert all(job.needs.seed == job.seed for job in jobs if job.needs)
    for job in experts:
        place = jobs.index(job)
        assert all(jobs.index(other) > place for other in jobs if other.needs == job)


def test_shared_experts_are_kept_wherever_an_arm_takes_them_over(jobs):
    experts = next(job for job in jobs if not job.arm).recipe
    begins = {make_plan(job.recipe).schedule.steps_before_exchange for job in jobs if job.needs}
    assert set(experts.checkpoint.keep_at) == begins
    assert make_plan(experts).schedule.steps == max(begins)


def test_shared_experts_keep_as_many_batches_as_any_arm_replays():
    arms = {name: ARMS[name] for name in ("one_cycle", "expert")}
    arms["replay"] = {**arms["one_cycle"], "opd": {"signal": "forward_kl", "replay": 7}}
    (experts,) = {job.needs for job in jobs_of(comparison(arms=arms), (0,), {}) if job.arm}
    assert experts.recipe.opd.replay == 7


def test_an_arm_of_other_experts_shares_none():
    arms = {name: ARMS[name] for name in ("mixed", "one_cycle", "mopd")}
    arms["mopd"] = {**arms["mopd"], "optimizer.learning_rate": 2e-4}
    assert [job.needs for job in jobs_of(comparison(arms=arms), (0,), {})] == [None, None, None]


def test_a_job_is_a_command_that_a_reader_can_run(jobs):
    job = next(job for job in jobs if job.arm == "one_cycle")
    assert job.command.startswith("copd train demo-paper ")
    assert "experts.run" not in job.command
    assert "'opd={" in job.command


def test_a_job_is_finished_by_an_outcome_of_its_own_recipe_alone(jobs, make_outcome, tmp_path):
    job = next(job for job in jobs if job.arm)
    write_outcome(outcome_path(job, tmp_path), make_outcome(fingerprint="another"))
    assert finished_by(jobs, tmp_path) == {}
    own = make_outcome(fingerprint=job.fingerprint)
    write_outcome(outcome_path(job, tmp_path), own)
    assert finished_by(jobs, tmp_path) == {job.name: own}


@pytest.mark.parametrize("other", [{"seed": 1}, {"arm": "one_cycle"}, {"account": "steps"}])
def test_an_outcome_that_was_copied_to_another_jobs_place_is_refused(jobs, make_outcome, tmp_path, other):
    job = next(job for job in jobs if job.arm)
    write_outcome(outcome_path(job, tmp_path), make_outcome(**{"fingerprint": job.fingerprint, **other}))
    said = r"mixed/seed-0\.json: holds the outcome of .*; accepted: that of rollouts/mixed/seed-0$"
    with pytest.raises(RunFolderError, match=said):
        finished_by(jobs, tmp_path)


def test_a_total_that_some_arm_misses_is_refused_with_one_that_all_arms_can_make():
    def of(total):
        one = {"method": "mixed", "schedule.cycles": 1, "sampling.rollouts_per_prompt": 4}
        arms = {name: {**one, "sampling.prompts_per_step": prompts} for name, prompts in (("a", 15), ("b", 16))}
        return jobs_of(comparison(arms=arms, rollouts=total), (0,), {})

    said = r"^rollouts: is {}, which arm {} cannot make .* nearest .* is {}; all arms can with rollouts: 6[123]$"
    for total, arm, nearest in ((60, "b", 64), (64, "a", 60)):
        with pytest.raises(RecipeError, match=said.format(total, arm, nearest)):
            of(total)
    assert of(61)


def test_an_arm_of_other_capabilities_is_refused_and_one_with_another_hub_is_not():
    branches = {name: {"task": {"kind": "digits", "capability": name}} for name in ("image", "text", "video")}
    arms = {"mixed": {"method": "mixed"}, "other": {"branches": branches}}
    assert jobs_of(comparison(arms=arms), (0,), {})
    del branches["video"]
    with pytest.raises(
        RecipeError, match=r"^arm other: branches: are image, text, those of mixed text, image, video; "
    ):
        jobs_of(comparison(arms=arms), (0,), {})


def test_results_of_another_recipe_do_not_count_and_the_seed_is_no_part_of_it(jobs):
    first, second = (job for job in jobs if job.arm == "mixed")
    assert first.fingerprint == second.fingerprint
    assert len({job.fingerprint for job in jobs}) == len(ARMS) + 1
    (other, *_) = jobs_of(comparison(problems=10), (0,), {})
    assert other.fingerprint != first.fingerprint


WHOLE = {"prompts_per_step": 12, "rollouts_per_prompt": 8, "weight": 1.0}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (({}, {"opd": WHOLE, "opd.weight": 0.5}), ({}, {"opd.weight": 0.5, "opd": WHOLE})),
        (({"opd.weight": 0.5}, {"opd.weight": 1.5}), ({"opd.weight": 1.5}, {"opd.weight": 0.5})),
    ],
    ids=["a section after its field", "a field of all arms and of one"],
)
def test_the_same_overrides_in_an_order_that_makes_another_recipe_are_another_job(one, other):
    jobs = [jobs_of(comparison(changes=changes, arms={"a": arm}), (0,), {})[0] for changes, arm in (one, other)]
    assert len({job.recipe.opd.weight for job in jobs}) == 2
    assert sorted(jobs[0].overrides) == sorted(jobs[1].overrides)
    assert len({job.fingerprint for job in jobs}) == 2


def test_an_order_that_makes_no_other_recipe_does_not_count():
    arms = {"a": {"opd.weight": 0.5, "grpo.clip_low": 0.1}, "b": {"grpo.clip_low": 0.1, "opd.weight": 0.5}}
    assert len({job.fingerprint for job in jobs_of(comparison(arms=arms), (0,), {}) if job.arm}) == 1


def test_a_changed_job_has_a_run_of_its_own_and_every_seed_another(jobs):
    changed = jobs_of(comparison(problems=8), (0, 1), {})
    folders = [job.folder(Path("runs")) for job in (*jobs, *changed) if job.arm]
    assert len(set(folders)) == len(folders)
    assert {"--out", str(folders[0])} <= set(next(job for job in jobs if job.arm).arguments(Path("runs")))


def test_a_run_that_has_begun_keeps_its_experts_whichever_other_arms_share_by_now(tmp_path):
    arms = {name: ARMS[name] for name in ("one_cycle", "expert")}
    sharing = next(job for job in jobs_of(comparison(arms=arms), (0,), {}) if job.arm == "one_cycle")
    (alone,) = jobs_of(comparison(arms={"one_cycle": ARMS["one_cycle"]}), (0,), {})
    experts = f"experts.run={sharing.needs.folder(tmp_path)}"
    assert experts in sharing.arguments(tmp_path)
    assert not any(each.startswith("experts.run=") for each in alone.arguments(tmp_path))
    folder = alone.folder(tmp_path)
    assert folder == sharing.folder(tmp_path)
    folder.mkdir(parents=True)
    recorded = {"recipe": {"experts": {"run": str(sharing.needs.folder(tmp_path))}}}
    (folder / "manifest.json").write_text(json.dumps(recorded))
    assert experts in alone.arguments(tmp_path)
    (folder / "manifest.json").write_text(json.dumps({"recipe": {"experts": {"run": None}}}))
    assert not any(each.startswith("experts.run=") for each in sharing.arguments(tmp_path))


def test_what_a_search_has_chosen_changes_the_arm():
    chosen = {"mixed": {"optimizer.learning_rate": 2e-4}}
    job = next(job for job in jobs_of(comparison(search=SEARCH), (0,), chosen) if job.arm == "mixed")
    assert job.recipe.optimizer.learning_rate == 2e-4


def test_a_search_has_a_job_for_each_candidate_and_seed_on_validation_problems():
    jobs = searches_of(comparison(search=SEARCH))
    assert [(job.arm, job.seed) for job in jobs] == [(f"mixed.{n}", seed) for seed in (7, 8) for n in (0, 1)]
    assert {(job.recipe.evaluation.split, job.recipe.evaluation.problems) for job in jobs} == {("validation", 5)}
    assert [job.recipe.optimizer.learning_rate for job in jobs[:2]] == [1e-4, 2e-4]


def test_without_a_search_none_can_run():
    with pytest.raises(RecipeError, match="--search: the file has no search"):
        searches_of(comparison())


@pytest.mark.parametrize(
    ("arm", "said"),
    [
        ({"method": "mixed", "optimiser.learning_rate": 1}, "arm bad: optimiser: unknown key"),
        ({"method": "mopd", "schedule.opd_steps": 0}, "arm bad: schedule: method mopd needs"),
    ],
)
def test_a_fault_names_its_arm(arm, said):
    with pytest.raises(RecipeError, match=said):
        jobs_of(comparison(arms={"mixed": {"method": "mixed"}, "bad": arm}), (0,), {})


def planned(arm: str, account: str):
    """The plan of an arm under an account, the reference being `mixed`."""
    (job,) = (job for job in jobs_of(comparison(accounts=[account]), (0,), {}) if job.arm == arm)
    return make_plan(job.recipe)


@pytest.mark.parametrize("arm", ["one_cycle", "copd", "average"])
def test_under_equal_steps_a_model_gets_as_many_as_the_mixed_one(arm):
    mixed, own = planned("mixed", "steps"), planned(arm, "steps")
    assert steps_of_a_model(mixed) == mixed.schedule.steps
    assert steps_of_a_model(own) == pytest.approx(steps_of_a_model(mixed), rel=0.05)


def test_under_equal_steps_an_expert_gets_a_kth():
    mixed, experts = planned("mixed", "steps"), planned("expert", "steps")
    assert experts.schedule.steps == pytest.approx(mixed.schedule.steps / 3, rel=0.05)


@pytest.mark.parametrize("arm", ["one_cycle", "copd", "expert"])
def test_under_an_equal_critical_path_machines_are_busy_equally_long(arm):
    assert critical_path(planned(arm, "critical_path")) == pytest.approx(
        critical_path(planned("mixed", "critical_path")), rel=0.05
    )


def test_the_critical_path_by_hand():
    """`demo-paper`: 60 RLVR steps of 192, 40 OPD steps in which the hub answers 192 + 2 x 96 prompts."""
    plan = make_plan(load_recipe("demo-paper"))
    assert critical_path(plan) == 100 * 192 + 40 * 2 * 96
    mixed = make_plan(load_recipe("demo-paper", ["method=mixed"]))
    assert critical_path(mixed) == mixed.rollouts / 3


@pytest.mark.parametrize(("answers", "most"), [("student", 1), ("teacher", 2)])
def test_the_machine_that_is_busy_longest_is_that_of_whoever_answers_the_prompts_of_the_edges(answers, most):
    edges = "topology={kind: edges, edges: [{student: image, teacher: text}, {student: video, teacher: text}]}"
    taught = "opd={signal: forward_kl, prompts_per_step: 12, rollouts_per_prompt: 8, responses: %s}"
    plan = make_plan(load_recipe("demo-paper", [edges, taught % answers]))
    assert critical_path(plan) == 100 * 192 + 40 * most * 96


def test_equal_rollouts_are_taken_as_they_are():
    recipes = load_recipe("demo-paper"), load_recipe("demo-paper", ["method=mixed"])
    assert budget_of("rollouts", *recipes, 12_345) == 12_345


ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("path", ["studies/demo.yaml", "studies/conflict/main.yaml", "docs/compare.md"])
def test_the_comparisons_of_the_repository_are_sound(path, tmp_path):
    file = ROOT / path
    if file.suffix == ".md":
        text = file.read_text().partition("```yaml\n")[2].partition("```")[0]
        file = tmp_path / "study.yaml"
        file.write_text(text)
    found = read_comparison(file)
    assert {job.arm for job in jobs_of(found, (0,), {}) if job.arm} == set(found.arms)
    if found.search:
        assert searches_of(found)


@pytest.mark.parametrize("where", ["changes", "arms"])
def test_refills_of_batches_are_refused_since_what_they_cost_is_known_only_afterwards(where):
    refilled = {"sampling": {"refill": 2}}
    changes = {"arms": {**ARMS, "mixed": {**ARMS["mixed"], **refilled}}} if where == "arms" else {"changes": refilled}
    with pytest.raises(RecipeError, match=r"^arm mixed: sampling\.refill: is 2, .* at equal budgets; set 0$"):
        jobs_of(comparison(**changes), (0,), {})


@pytest.mark.parametrize("change", [{"backend": "ray"}, {"backend.kind": "ray"}, {"model.threads_per_branch": 4}])
def test_a_place_that_jobs_of_one_core_do_not_have_is_refused_with_what_to_write_instead(change):
    arms = {"one": {}}
    with pytest.raises(RecipeError, match=r"jobs of place: core train on one core each.*place: recipe.*--ray"):
        jobs_of(Comparison(rollouts=70000, arms=arms, changes=change), [0], {})
    assert jobs_of(Comparison(rollouts=70000, arms=arms, changes=change, place="recipe"), [0], {})


def test_a_recipe_that_asks_validation_problems_is_no_test(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text(recipe_text("demo-paper").replace("problems: 500,", "problems: 500, split: validation,"))
    comparison = Comparison.model_validate({"recipe": str(path), "rollouts": 92_160, "arms": {"mixed": {}}})
    with pytest.raises(RecipeError, match=r"arm mixed: evaluation\.split: is validation"):
        jobs_of(comparison, [0], {})
