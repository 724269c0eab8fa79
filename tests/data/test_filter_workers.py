"""`copd data filter` by several copies of the model: the file of one, and what is left where one of them ends."""

import os
import signal

import pytest
from test_filter import SUMS, recipe_of, sum_row, write

from copd.assemble import raters
from copd.data.answered import Answered
from copd.data.filter import PROGRESS, filter_rows
from copd.errors import LostBranchError, RecipeError
from copd.recipe.sections import BackendSection


def recipe_on(kind, tmp_path):
    others = {name: write(tmp_path / f"{name}.jsonl", [sum_row(8, 8)]) for name in ("validation", "test")}
    recipe = recipe_of(write(tmp_path / "rows.jsonl", [sum_row(a, b) for a, b in SUMS]), **others)
    return recipe.model_copy(update={"backend": BackendSection(kind=kind)})


def test_several_workers_in_one_process_are_refused(tmp_path):
    with pytest.raises(RecipeError, match="--workers 2: backend is local, which has one; add backend=processes"):
        filter_rows(recipe_on("local", tmp_path), "text", tmp_path / "out.jsonl", workers=2)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "starter"), [("processes", "in_processes"), ("ray", "as_actors")])
def test_two_workers_write_the_file_of_one(kind, starter, tmp_path, monkeypatch):
    names, begin = [], getattr(raters, starter)
    monkeypatch.setattr(raters, starter, lambda made, makes, *rest: names.extend(makes) or begin(made, makes, *rest))
    found = {}
    for backend, workers in (("local", None), (kind, 2)):
        out = tmp_path / f"{backend}.jsonl"
        found[backend], _ = filter_rows(recipe_on(backend, tmp_path), "text", out, workers=workers)
    assert names == ["worker 1", "worker 2"]
    assert (tmp_path / f"{kind}.jsonl").read_bytes() == (tmp_path / "local.jsonl").read_bytes()
    assert found[kind] == found["local"]


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "starter"), [("processes", "in_processes"), ("ray", "as_actors")])
def test_where_a_worker_ends_the_answers_stay_and_others_go_on_from_them(kind, starter, tmp_path, monkeypatch, caplog):
    out, processes, written = tmp_path / "out.jsonl", [], []
    begin, add = getattr(raters, starter), Answered.add

    def started(*given):
        processes.extend(begin(*given))
        return processes

    def added(self, number, rated):
        add(self, number, rated)
        written.append(number)
        if len(written) == 2:
            os.kill(processes[0].process, signal.SIGKILL)

    monkeypatch.setattr(raters, starter, started)
    monkeypatch.setattr(Answered, "add", added)
    with pytest.raises(LostBranchError, match=r"worker 1: its (process|actor) has ended \(killed"):
        filter_rows(recipe_on(kind, tmp_path), "text", out, workers=2)
    assert "of 6 chunks of rows are answered; the same command goes on from there" in caplog.text
    assert not out.exists()
    assert (tmp_path / f"out.jsonl{PROGRESS}").exists()
    filter_rows(recipe_on("local", tmp_path), "text", out)
    assert sorted(written) == [*range(6)]
    filter_rows(recipe_on("local", tmp_path), "text", tmp_path / "alone.jsonl")
    assert out.read_bytes() == (tmp_path / "alone.jsonl").read_bytes()
