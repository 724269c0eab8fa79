"""The commands from Python: light to import, and with a program's own rows and functions."""

import json
import subprocess
import sys

import pytest
from own_rewards import short

import copd
from copd.commands.python import source_of
from copd.errors import DataError, RecipeError, RunFolderError
from copd.measure.evaluate import AVERAGE
from copd.runs.given import write_rows
from copd.runs.lifecycle import alone_in

pytestmark = pytest.mark.usefixtures("undrawn")

TINY = [
    "backend=local",
    "schedule={cycles: 1, rl_steps: 1, opd_steps: 0}",
    "sampling={prompts_per_step: 1, rollouts_per_prompt: 2, max_new_tokens: 4}",
    "evaluation={problems: 2, validation_problems: 1, behaviour_problems: 1, pass_at: []}",
]
ROWS = [{"prompt": f"sum: {n} 1", "answer": n + 1} for n in range(40)]
RECIPE = {"branches": {"sums": {"task": {"kind": "rows", "verifier": "mine"}}}}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("python") / "run"
    return copd.train(RECIPE, folder, overrides=TINY, rows={"sums": ROWS}, rewards={"mine": short}, quiet=True)


def test_importing_copd_loads_no_library():
    heavy = "{'torch', 'pydantic', 'transformers', 'rich'}"
    code = f"import sys, copd; assert callable(copd.train); assert not {heavy} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True)
    code = "import sys, copd; copd.load_recipe('demo'); copd.Recipe; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_exported_name_is_there_and_no_room_hides_one():
    import copd.arms.jobs

    assert all(callable(getattr(copd, name)) for name in copd.__all__)
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        copd.trian  # noqa: B018


def test_a_run_on_rows_and_a_function_of_the_program_has_table_metrics_models_and_page(run):
    assert {cell.capability for cell in run.table} == {"sums", "average"}
    assert [record["branch"] for record in run.metrics("update")] == ["sums"]
    assert len(run.metrics()) > len(run.metrics("update"))
    assert run.branches.keys() == {"sums"}
    assert run.merged is None, "one branch is not merged"
    assert not (run / "merged").exists()
    assert run.report == run / "report.html"
    assert copd.Run(run).table == run.table


def test_rows_are_files_of_the_run_that_the_manifest_hashes(run):
    manifest = json.loads((run / "manifest.json").read_text())
    given = str(run / "given" / "sums-train.jsonl")
    assert manifest["recipe"]["branches"]["sums"]["task"]["train"] == [given]
    assert list(manifest["data_sha256"]["sums"]["train"]) == [given]
    assert [*manifest["code_sha256"]] == [source_of("mine", short)]


def test_a_run_goes_on_with_the_same_rows_and_not_with_others(run):
    again = {"overrides": TINY, "rewards": {"mine": short}, "quiet": True, "resume": True}
    assert copd.train(RECIPE, run, rows={"sums": ROWS}, **again).table == run.table
    with pytest.raises(RecipeError, match=r"^rows.sums.train: the run began with others"):
        copd.train(RECIPE, run, rows={"sums": ROWS[1:]}, **again)
    with pytest.raises(RecipeError, match=r"is not empty; give another folder"):
        copd.train(RECIPE, run, rows={"sums": ROWS}, **{**again, "resume": False})


def test_a_quiet_run_prints_nothing_and_a_folder_without_a_run_is_told(capsys, tmp_path, run):
    copd.train(RECIPE, run, overrides=TINY, rows={"sums": ROWS}, rewards={"mine": short}, quiet=True, resume=True)
    assert capsys.readouterr().out == ""
    with pytest.raises(RunFolderError, match="is no run folder"):
        copd.Run(tmp_path)


def test_models_of_a_run_are_evaluated_and_merged(run, tmp_path):
    model = run.branches["sums"]
    found = copd.evaluate(["builtin:digits", model], "demo", overrides=["evaluation={problems: 2, pass_at: []}"])
    assert {cell.model for cell in found.table} == {"builtin:digits", str(model)}
    assert {each.against for each in found.differences} == {"builtin:digits"}
    own = copd.evaluate([model], overrides=["evaluation={problems: 2, pass_at: []}"])
    assert {cell.capability for cell in own.table} == {"sums", AVERAGE}, "the recipe is that of the run"
    merged = copd.merge(["builtin:digits", model], tmp_path / "both", method="weighted", weights=(1, 3))
    assert (merged / "model.safetensors").is_file()


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: copd.evaluate([], "demo"), "models: found '[]'; accepted: a list of one or more"),
        (lambda: copd.evaluate("builtin:digits", "demo"), "models: found 'builtin:digits'; accepted: a list of one or"),
        (lambda: copd.compare("study.yaml", "out", seeds=[]), "seeds: found '[]'; accepted: a list of one or more"),
        (lambda: copd.compare("study.yaml", "out", seeds=3), "seeds: found '3'; accepted: a list of one or more"),
        (lambda: copd.merge([], "out"), "branches: found '[]'; accepted: a list of one or more"),
        (lambda: copd.train("demo", "out", overrides="seed=1"), "overrides: found 'seed=1'; accepted: a list$"),
        (lambda: copd.train("demo", "out", overrides={"seed": 1}), "overrides: found .*; accepted: a list$"),
        (lambda: copd.train("demo", "out", rows=ROWS), "rows: found list; accepted: a mapping of branch to rows, such"),
        (lambda: copd.train("demo", "out", rows=[]), "rows: found list; accepted: a mapping of branch to rows, such"),
        (lambda: copd.train("demo", "out", rewards=[short]), "rewards: found list; accepted: a mapping of name to"),
    ],
    ids=[
        "no model",
        "one model alone",
        "no seed",
        "one seed alone",
        "no branch",
        "one override alone",
        "overrides by name",
        "rows without branches",
        "no rows without branches",
        "rewards without names",
    ],
)
def test_a_list_or_a_mapping_in_the_place_of_the_other_is_told(call, said):
    with pytest.raises(RecipeError, match="^" + said.replace("[", r"\[")):
        call()


def test_the_page_of_a_comparison_is_returned(tmp_path, monkeypatch):
    from copd.commands import python

    asked = []
    monkeypatch.setattr(python, "run_comparison", lambda order: asked.append(order) or (tmp_path / "page.html", Done()))
    assert copd.compare("arms.yaml", tmp_path, seeds=(3, 4)) == tmp_path / "page.html"
    assert list(asked[0].seeds) == [3, 4]


class Done:
    failed = ()


def test_a_function_is_named_by_its_file_relative_to_the_current_folder_where_it_lies_in_it(monkeypatch, request):
    folder = request.path.parent.parent
    monkeypatch.chdir(folder)
    assert source_of("mine", short) == "own_rewards.py:short"
    assert source_of("mine", "any/file.py:f") == "any/file.py:f"


@pytest.mark.parametrize(
    "function", [lambda response, answer: 1.0, len, Done().__init__, 3], ids=["lambda", "len", "method", "3"]
)
def test_a_function_that_no_file_has_at_its_top_level_is_refused(function):
    with pytest.raises(RecipeError, match=r"^rewards.mine: .* is not at the top level of a .py file"):
        source_of("mine", function)


def test_a_call_that_failed_before_its_run_began_is_made_again_with_mended_rows(tmp_path):
    asked = {"overrides": TINY, "rewards": {"mine": short}, "quiet": True}
    with pytest.raises(DataError, match=r"sums-train.jsonl:1: "):
        copd.train(RECIPE, tmp_path / "run", rows={"sums": [{"prompt": "", "answer": 1}, *ROWS]}, **asked)
    assert copd.train(RECIPE, tmp_path / "run", rows={"sums": ROWS}, **asked).table


def test_a_second_start_into_a_folder_leaves_the_rows_of_the_first_one_alone(tmp_path):
    with alone_in(tmp_path / "run"):
        path = write_rows(tmp_path / "run", "sums", "train", ROWS)
        before = path.read_bytes()
        with pytest.raises(RecipeError, match=r"run: another process trains into it; let it end, or give another"):
            copd.train(RECIPE, tmp_path / "run", overrides=TINY, rows={"sums": ROWS[1:]}, rewards={"mine": short})
        assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({"other": ROWS}, "^rows.other: no branch of this name; branches are sums"),
        ({"sums": {"dev": ROWS}}, "^rows.sums: unknown split 'dev'"),
        ({"sums": [3]}, r"^rows.sums.train\[0\]: found int"),
    ],
)
def test_rows_that_have_no_place_are_refused(rows, message, tmp_path):
    with pytest.raises(RecipeError, match=message):
        copd.train(RECIPE, tmp_path / "run", overrides=TINY, rows=rows, rewards={"mine": short}, quiet=True)
