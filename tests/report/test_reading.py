"""What is read of a run folder, and what is refused."""

import json
import os

import pytest

from copd.errors import RunFolderError
from copd.report.reading import read_run, read_runs


def test_a_run_knows_its_models_capabilities_and_what_it_was_made_for(make_run):
    run = read_run(make_run())
    assert (run.method, run.finished, run.steps) == ("copd", True, 4)
    assert run.models == ["base", "text", "image", "merged"]
    assert run.capabilities == ["text", "image"]
    assert run.branches == ["text", "image"]
    assert run.products == ["merged"]
    assert read_run(make_run("b", "expert")).products == ["text", "image"]
    assert read_run(make_run("c", "mixed")).products == ["mixed"]
    assert read_run(make_run("d", "static_opd")).products == ["image"]
    assert read_run(make_run("e", "mopd")).products == ["student"]
    assert read_run(make_run("f", "merge_only")).products == ["merged"]


def test_of_an_unfinished_run_the_last_validation_is_shown(make_run):
    run = read_run(make_run(finished=False))
    assert not run.finished
    assert run.models == ["text", "image"]
    assert run.compared_with("text") == {}
    assert run.ledger is None


def test_rollouts_after_a_step_are_those_of_all_branches_and_end_at_the_plan(make_run):
    run = read_run(make_run())
    after = run.rollouts_after()
    assert [after(step) for step in range(5)] == [0, 16, 32, 48, 64]
    assert after(run.steps) == run.ledger["planned_rollouts"]


def test_experts_that_were_taken_over_had_cost_their_rollouts_before_the_first_step_of_the_run(make_run):
    run = read_run(make_run("run", "merge_only", experts=True))
    after = run.rollouts_after()
    assert [after(step) for step in range(5)] == [0, 0, 32, 48, 64]
    assert after(run.steps) == run.ledger["planned_rollouts"]


def test_phases_of_unequal_cost_have_unequal_steps(make_run):
    folder = make_run()
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for record in records:
        if record["event"] == "ledger":
            record["spent"]["text"]["opd"]["rollouts"] = 48
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    after = read_run(folder).rollouts_after()
    assert [after(step) for step in range(5)] == [0, 16, 32, 32 + 24 + 8, 32 + 2 * (24 + 8)]


def test_the_clock_adds_up_over_the_processes_of_a_resumed_run(make_run):
    folder = make_run()
    text = (folder / "metrics.jsonl").read_text()
    more = [{"event": "note", "step": 3, "seconds": seconds} for seconds in (1.0, 5.0, 2.0, 4.0)]
    (folder / "metrics.jsonl").write_text(text + "".join(json.dumps(record) + "\n" for record in more))
    assert read_run(folder).seconds == 21.0 + 5.0 + 4.0


@pytest.mark.parametrize("missing", ["", "manifest.json"])
def test_a_folder_that_is_no_run_is_refused(make_run, tmp_path, missing):
    folder = make_run() if missing else tmp_path / "nothing"
    if missing:
        os.remove(folder / missing)
    with pytest.raises(RunFolderError, match=r"not a run folder \(manifest.json is missing\)"):
        read_run(folder)


@pytest.mark.parametrize("lost", ["is missing", "holds no measures"])
def test_a_complete_run_whose_record_was_removed_or_begun_anew_is_not_taken_for_a_young_one(make_run, lost):
    folder = make_run()
    (folder / "branches").mkdir(exist_ok=True)
    os.remove(folder / "metrics.jsonl")
    if lost != "is missing":
        (folder / "metrics.jsonl").write_text('{"event": "health"}\n')
    said = f"^{folder / 'metrics.jsonl'}: {lost}, so no report can be made; its models are there$"
    with pytest.raises(RunFolderError, match=said):
        read_run(folder)


def test_a_run_that_has_measured_nothing_is_refused(make_run):
    folder = make_run()
    (folder / "metrics.jsonl").write_text("")
    with pytest.raises(RunFolderError, match="nothing has been measured yet"):
        read_run(folder)


def test_a_file_is_not_a_run_folder(tmp_path):
    (tmp_path / "my.yaml").write_text("")
    with pytest.raises(RunFolderError, match=r"my\.yaml: not a run folder"):
        read_run(tmp_path / "my.yaml")


@pytest.mark.parametrize("name", ["manifest.json", "metrics.jsonl", "samples.jsonl", "answers.jsonl"])
@pytest.mark.parametrize(
    "text", ["{broken\n", '"a word"\n', "\xff\n", "[" * 100_000 + "\n"], ids=["broken", "no record", "no text", "deep"]
)
def test_a_damaged_file_is_named(make_run, name, text):
    folder = make_run()
    (folder / name).write_bytes(text.encode("latin-1"))
    with pytest.raises(RunFolderError, match=rf"{name}: cannot be read as the record of a run"):
        read_run(folder)


def test_labels_are_as_short_as_tells_the_runs_apart(make_run, tmp_path):
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    same = [make_run("one/demo"), make_run("two/demo")]
    assert [run.label for run in read_runs(same)] == ["one/demo", "two/demo"]
    assert [run.label for run in read_runs([same[0], make_run("other")])] == ["demo", "other"]


def test_a_run_that_is_given_twice_is_named_as_it_was_given(make_run, tmp_path):
    run, other = make_run("mine"), make_run("other")
    again = tmp_path / "other" / ".." / "mine"
    with pytest.raises(RunFolderError) as refused:
        read_runs([other, again, run])
    assert str(refused.value) == f"{again}: the run folder is given twice; give each once"
