"""`copd compare` as a user runs it: real jobs, one that fails, a signal, and a call that runs what is missing."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from copd.arms.outcomes import read_outcome, read_outcomes, write_outcome
from copd.commands.compare import Order, dry_run, jobs_on_ray, plan_of, run_comparison
from copd.errors import JobError, RecipeError
from copd.system.processes import usable_cores

FILE = {
    "recipe": "demo-paper",
    "rollouts": 48,
    "problems": 3,
    "pass_at": [1],
    "changes": {
        "branches": {
            name: {"task": {"kind": "digits", "capability": name, "conflict": 1.0}} for name in ("text", "image")
        },
        "schedule": {"cycles": 1, "rl_steps": 2, "opd_steps": 1},
        "sampling": {"prompts_per_step": 2, "rollouts_per_prompt": 4, "max_new_tokens": 12},
        "opd": {"prompts_per_step": 1, "rollouts_per_prompt": 4},
        "evaluation": {"validation_problems": 1, "behaviour_problems": 1},
    },
    "arms": {
        "average": {"method": "merge_only"},
        "broken": {"method": "mixed", "model.path": "nowhere"},
        "expert": {"method": "expert"},
    },
}


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(FILE))
    return path


def asked(file, said, seeds=(0,)):
    return Order(file, seeds, file.parent / "out", 2, said.append)


def test_a_dry_run_shows_jobs_rollouts_tokens_and_minutes_and_trains_nothing(file):
    rows = {row[0]: row[1:] for row in dry_run(asked(file, [], (0, 1)), search=False)}
    assert rows["rollouts/average"] == ("2", "0", "0", "0"), "its experts are counted by themselves"
    assert rows["rollouts/broken"] == ("2", "96", "1,152", "less than 0.1")
    (experts,) = [row for name, row in rows.items() if name.startswith("experts-")]
    assert experts[:3] == ("2", "96", "1,152")
    assert rows["all"][:2] == ("8", "192")
    assert not (file.parent / "out").exists()


def test_jobs_have_one_core_or_the_backend_of_their_recipe(file):
    placed = {"backend": "processes", "model.threads_per_branch": 3}
    backends = {}
    for place, more in (("core", {}), ("recipe", placed)):
        file.write_text(yaml.safe_dump({**FILE, "changes": {**FILE["changes"], **more}, "place": place}))
        order = asked(file, [])
        comparison, jobs = plan_of(order, search=False)
        backends[place] = {(job.recipe.backend.kind, job.recipe.model.threads_per_branch) for job in jobs}
        assert replace(order, workers=None).at_once(comparison) == {"core": usable_cores(), "recipe": 1}[place]
    assert backends == {"core": {("local", 1)}, "recipe": {("processes", 3)}}
    assert {row[4] for row in dry_run(order, search=False)} == {""}, "minutes of other places are not known"
    with pytest.raises(RecipeError, match=r"--ray: .*study.yaml has place: recipe"), jobs_on_ray(order, None):
        pass


@pytest.mark.slow
def test_a_job_on_the_backend_of_its_recipe_comes_to_its_end(file, undrawn):
    changes = {**FILE["changes"], "backend": "processes"}
    file.write_text(
        yaml.safe_dump({**FILE, "arms": {"copd": {}}, "rollouts": 56, "place": "recipe", "changes": changes})
    )
    _, progress = run_comparison(asked(file, []))
    assert (progress.failed, [o.arm for o in read_outcomes(file.parent / "out" / "results")]) == ({}, ["copd"])


def test_seeds_of_the_search_are_refused_in_the_test(file):
    search = {"seeds": [1], "candidates": {"average": [{}, {"merge": {"method": "ties"}}]}}
    file.write_text(yaml.safe_dump({**FILE, "search": search}))
    with pytest.raises(RecipeError, match="--seeds: 1 is a seed of the search"):
        plan_of(asked(file, [], (0, 1)), search=False)
    with pytest.raises(RecipeError, match=r"study.chosen.yaml: missing"):
        plan_of(asked(file, []), search=False)


def test_a_choice_of_another_search_than_the_files_is_told(file):
    search = {"seeds": [1], "candidates": {"average": [{}, {"merge": {"method": "ties"}}]}}
    file.write_text(yaml.safe_dump({**FILE, "search": search}))
    file.with_suffix(".chosen.yaml").write_text(yaml.safe_dump({"average": {"changes": {}, "searched": "0123"}}))
    said: list[str] = []
    plan_of(asked(file, said), search=False)
    (told,) = said
    assert "study.chosen.yaml: chosen for average by a search of other settings than those of" in told


@pytest.mark.slow
def test_a_job_that_fails_is_told_the_others_go_on_and_nothing_is_run_twice(file, undrawn):
    said: list[str] = []
    path, progress = run_comparison(asked(file, said))
    assert path == file.parent / "out" / "comparison.html"
    assert "model.path: no folder" in progress.failed["rollouts/broken/seed-0"]
    assert any(line.startswith("rollouts/broken/seed-0: FAILED: exit status 2") for line in said)
    outcomes = read_outcomes(file.parent / "out" / "results")
    assert [o.arm for o in outcomes] == ["average", "expert"]
    assert all(o.rollouts == 48 and o.spent["rollouts"] == 48 for o in outcomes)
    assert outcomes[0].products == ("merged",)
    assert set(outcomes[1].right) == {"base", "text", "image"}
    assert len({o.made_of for o in outcomes}) == 1
    assert outcomes[0].made_of
    sources = json.loads((file.parent / "out" / "results" / "problems.json").read_text())
    assert [len(each) for each in sources.values()] == [3, 3]
    assert all(name.startswith("handwriting/") for problem in sources["image"] for name in problem)

    again: list[str] = []
    file.write_text(yaml.safe_dump({**FILE, "arms": {name: FILE["arms"][name] for name in ("average", "expert")}}))
    _, progress = run_comparison(asked(file, again))
    assert (progress.skipped, progress.failed, again) == (2, {}, [])

    arms = {"expert": FILE["arms"]["expert"], "average": {"method": "merge_only", "merge": {"method": "ties"}}}
    file.write_text(yaml.safe_dump({**FILE, "arms": arms}))
    _, progress = run_comparison(asked(file, again))
    assert (progress.skipped, progress.failed) == (1, {}), "only the arm that was changed is run again"
    assert again[0].startswith("1 result of other settings (first rollouts/average/seed-0) will be replaced")
    results = file.parent / "out" / "results" / "rollouts" / "average"
    kept = [path for path in results.iterdir() if path.name.startswith("former-")]
    assert [read_outcome(path) for path in kept] == [outcomes[0]], "a result is never lost"
    assert read_outcome(results / "seed-0.json").fingerprint != outcomes[0].fingerprint

    write_outcome(results.parent / "expert" / "seed-0.json", replace(outcomes[1], made_of="of other rows"))
    (results / "seed-0.json").unlink()
    run_comparison(asked(file, again))
    (warned,) = [line for line in again if line.startswith("warning: ")]
    assert "rows, model, code or versions are no longer those of its results (rollouts/expert/seed-0)" in warned


def test_if_no_job_comes_to_its_end_the_command_has_failed_rather_than_been_called_wrongly(file):
    file.write_text(yaml.safe_dump({**FILE, "arms": {"broken": FILE["arms"]["broken"]}}))
    with pytest.raises(JobError, match="no job came to its end") as raised:
        run_comparison(asked(file, []))
    assert raised.value.exit_status == 1


def jobs_of_folder(out: Path) -> list[str]:
    """Command lines of other processes that name a folder."""
    listed = subprocess.run(["ps", "-wweo", "pid,args"], capture_output=True, text=True, check=True).stdout
    return [line for line in listed.splitlines() if str(out) in line and line.split()[0] != str(os.getpid())]


def training(out: Path) -> list[Path]:
    """The runs of a comparison that have made a step."""
    return [path for path in out.glob("runs/rollouts/*/seed-0/metrics.jsonl") if '"update"' in path.read_text()]


@pytest.mark.slow
@pytest.mark.parametrize("how", ["asked to end", "Ctrl-C in its terminal", "killed"])
def test_however_a_comparison_ends_its_jobs_stop_with_a_checkpoint_and_the_same_command_goes_on(file, how):
    out = file.parent / "out"
    arms = {"mixed": {"method": "mixed"}, "expert": {"method": "expert"}}
    rarely = {**FILE["changes"], "checkpoint.every_steps": 1000}
    file.write_text(yaml.safe_dump({**FILE, "rollouts": 960, "arms": arms, "changes": rarely}))
    command = [sys.executable, "-m", "copd", "compare", str(file), "--seeds", "1", "--out", str(out)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    try:
        deadline = time.monotonic() + 240
        while len(training(out)) < 2 and time.monotonic() < deadline:
            time.sleep(0.2)
        if how == "asked to end":
            process.send_signal(signal.SIGTERM)
        elif how == "killed":
            process.kill()
        else:
            os.killpg(process.pid, signal.SIGINT)
        process.communicate(timeout=120)
    finally:
        process.kill()
    ends = {
        "asked to end": 128 + signal.SIGTERM,
        "killed": -signal.SIGKILL,
        "Ctrl-C in its terminal": 128 + signal.SIGINT,
    }
    assert process.returncode == ends[how]
    deadline = time.monotonic() + (60 if how == "killed" else 0)
    while (left := jobs_of_folder(out)) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not left
    assert len(list(out.glob("runs/rollouts/*/seed-0/checkpoints/step-*"))) == 2
    assert subprocess.run(command, capture_output=True, timeout=400).returncode == 0
    assert {o.arm: o.spent["rollouts"] for o in read_outcomes(out / "results")} == {"mixed": 960, "expert": 960}


def test_words_of_the_command_line_reach_every_arm_as_yaml_and_may_not_set_what_the_comparison_sets(file):
    words = ("opd.weight=0.5", "schedule={cycles: 1, rl_steps: 2, opd_steps: 1}", "model.revision=null")
    _, jobs = plan_of(replace(asked(file, []), changes=words), search=False)
    assert {job.recipe.opd.weight for job in jobs if job.arm} == {0.5}
    with pytest.raises(RecipeError, match=r"overrides: sets evaluation.problems, which the comparison sets"):
        plan_of(replace(asked(file, []), changes=("evaluation.problems=9",)), search=False)
    with pytest.raises(RecipeError, match=r"'lora': accepted: section.field=value"):
        plan_of(replace(asked(file, []), changes=("lora",)), search=False)
