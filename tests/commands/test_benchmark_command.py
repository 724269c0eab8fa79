"""`copd benchmark` on the tiny model: what it measures, goes on with, and refuses."""

import json
import shutil
import sys
from pathlib import Path

import pytest

from copd.commands.benchmark import PAGE, benchmark_models
from copd.commands.benchmark_call import Call
from copd.commands.evaluate import evaluate_models
from copd.errors import DataError, ModelFolderError, RecipeError, WriteError
from copd.recipe.reading import load_recipe
from copd.sets.published import SETS
from copd.suites.harness import HarnessError
from copd.suites.suite import make_suite

OWN_DATA = Path(__file__).parents[2] / "examples" / "own_data"
MODEL = "builtin:digits"
FLOAT32 = ("model.device=cpu", "model.dtype=float32")
TEMPLATE = "usual value: {{ prompt }}"


def suite(**sampling):
    samples = 1 if sampling.get("temperature") == 0 else 3
    return make_suite(
        {
            "title": "Two of the examples",
            "sampling": {"max_new_tokens": 24, **sampling},
            "benchmarks": {
                "sums": {
                    "group": "text",
                    "engine": "rows",
                    "problems": 4,
                    "samples": samples,
                    "prompt_template": TEMPLATE,
                },
                "pictures": {"group": "image", "engine": "rows", "problems": 4, "rows": "digits"},
            },
        },
        "two",
    )


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    for name, file in (("sums", "text.jsonl"), ("digits", "image_test.jsonl")):
        lines = (OWN_DATA / file).read_text().splitlines(keepends=True)[:4]
        (folder / f"{name}.jsonl").write_text("".join(lines))
    shutil.copytree(OWN_DATA / "pictures", folder / "pictures")
    return folder


def call(data, *, made=None, **fields):
    return Call(made or suite(temperature=0), data, **{"out": data.parent / "out", "changes": FLOAT32, **fields})


def stamps(data):
    return {path.name: path.stat().st_mtime_ns for path in (data.parent / "out").rglob("*.json*")}


def test_greedy_scores_are_those_of_copd_eval_on_the_same_rows(data):
    found = benchmark_models([MODEL], call(data))[MODEL]
    task = {"kind": "rows", "verifier": "integer"}
    files = {name: str(data / f"{name}.jsonl") for name in ("sums", "digits")}
    recipe = load_recipe(
        {
            "method": "expert",
            "model": {"path": MODEL},
            "branches": {
                "sums": {
                    "task": {**task, **dict.fromkeys(("train", "test", "validation"), files["sums"])}
                    | {"prompt_template": TEMPLATE}
                },
                "pictures": {"task": {**task, **dict.fromkeys(("train", "test", "validation"), files["digits"])}},
            },
            "sampling": {"max_new_tokens": 24},
        },
        FLOAT32,
    )
    shares = {cell.capability: cell.greedy.value for cell in evaluate_models(recipe, [MODEL])[0]}
    assert {name: sum(result.means) / 4 for name, result in found.items()} == {
        name: shares[name] for name in ("sums", "pictures")
    }
    assert 0 < shares["average"] < 1, "else nothing is compared"


def test_each_result_has_all_that_tells_what_was_measured_and_its_responses_beside_it(data):
    benchmark_models([MODEL], call(data, made=suite(temperature=0.7, top_p=0.8)))
    folder = data.parent / "out" / "builtin_digits"
    result = json.loads((folder / "sums.json").read_text())
    responses = [json.loads(line) for line in (folder / "sums.responses.jsonl").read_text().splitlines()]
    assert [len(scores) for scores in result["scores"]] == [3] * 4
    assert result["ids"] == [f"sum-{i}" for i in range(4)]
    assert result["settings"]["samples"] == 3
    assert result["settings"]["temperature"] == 0.7
    assert result["versions"].keys() == {"copd", "torch", "transformers"}
    assert all(len(result[name]) == 64 for name in ("rows_sha256", "model_sha256"))
    assert [[r["score"] for r in responses if r["id"] == i] for i in result["ids"]] == result["scores"]
    assert len({r["response"] for r in responses}) > 4, "samples of one problem differ"


def test_what_is_written_is_not_measured_again_and_the_page_shows_all_of_it(data):
    told = []
    benchmark_models([MODEL], call(data, only=["sums"], measured=lambda result: told.append(result.benchmark)))
    before = stamps(data)
    assert "1 of 2" in (data.parent / "out" / PAGE).read_text()
    found = benchmark_models([MODEL], call(data, measured=lambda result: told.append(result.benchmark)))[MODEL]
    assert told == ["sums", "pictures"]
    assert found.keys() == {"sums", "pictures"}
    assert {name: stamp for name, stamp in stamps(data).items() if name in before} == before
    assert "1 of 2" not in (data.parent / "out" / PAGE).read_text()


def test_other_settings_other_rows_and_another_model_are_refused_beside_an_earlier_result(data):
    benchmark_models([MODEL], call(data, only=["sums"]))
    with pytest.raises(RecipeError, match=r"sums\.json: was made with limit null, now it is 2; move the file away"):
        benchmark_models([MODEL], call(data, only=["sums"], limit=2))
    with pytest.raises(RecipeError, match=r"was made with top_p 1\.0, now it is 0\.9"):
        benchmark_models([MODEL], call(data, only=["sums"], made=suite(temperature=0, top_p=0.9)))
    rows = data / "sums.jsonl"
    rows.write_text(rows.read_text().replace("13+10", "13+11"))
    with pytest.raises(RecipeError, match=r"was made with rows_sha256"):
        benchmark_models([MODEL], call(data, only=["sums"]))


def test_a_limit_asks_the_first_problems_and_the_page_says_so(data):
    found = benchmark_models([MODEL], call(data, limit=3))[MODEL]
    assert found["sums"].ids == ["sum-0", "sum-1", "sum-2"]
    assert "not the whole benchmark: sums has 4 problems, 3 were asked" in (data.parent / "out" / PAGE).read_text()


def test_mistakes_are_told_before_anything_is_loaded(data, tmp_path, monkeypatch):
    with pytest.raises(RecipeError, match="--only sum: unknown benchmark; accepted: sums, pictures"):
        call(data, only=["sum"])
    with pytest.raises(RecipeError, match=r"sampling\.temperature=1: belongs to the suite"):
        call(data, changes=["sampling.temperature=1"])
    with pytest.raises(ModelFolderError, match="MODEL: no folder 'nowhere'"):
        benchmark_models(["nowhere"], call(data))
    with pytest.raises(RecipeError, match="have one folder below --out"):
        benchmark_models(["a/b", "a_b"], call(data))
    (data / "digits.jsonl").unlink()
    told = (
        r"digits\.jsonl: no such file; put your rows there, or .* by --data; --only asks some benchmarks alone: sums$"
    )
    with pytest.raises(DataError, match=told):
        benchmark_models([MODEL], call(data))
    monkeypatch.setitem(SETS, "digits", SETS["aime24"])
    with pytest.raises(
        DataError, match=r"digits\.jsonl: no such file; `copd data prepare digits --out .*` writes it; "
    ):
        benchmark_models([MODEL], call(data))
    assert not (tmp_path / "out").exists()


def test_a_file_that_is_no_result_is_told_by_name(data):
    path = data.parent / "out" / "builtin_digits" / "sums.json"
    path.parent.mkdir(parents=True)
    path.write_text("{}")
    with pytest.raises(DataError, match=r"sums\.json: no result of copd benchmark"):
        benchmark_models([MODEL], call(data))


def by_harness():
    benchmark = {"engine": "lm-eval", "problems": 4, "group": "text"}
    return make_suite(
        {
            "title": "Rows by a harness, and a task of its own",
            "sampling": {"temperature": 0, "max_new_tokens": 24},
            "harnesses": {"lm-eval": {"model": "hf-multimodal"}},
            "benchmarks": {
                "sums": {**benchmark, "prompt_template": TEMPLATE},
                "theirs": {**benchmark, "task": "aime24", "metric": "exact_match"},
                "pictures": {"group": "image", "engine": "rows", "problems": 4, "rows": "digits"},
            },
        },
        "theirs",
    )


def test_a_harness_that_is_not_there_is_told_before_anything_is_asked(data):
    with pytest.raises(RecipeError, match="--harness-python: missing; lm-eval runs in an environment of its own"):
        benchmark_models([MODEL], call(data, made=by_harness()))
    with pytest.raises(RecipeError, match="lm-eval is missing, accepted"):
        benchmark_models([MODEL], call(data, made=by_harness(), harness_python=sys.executable))
    assert not list((data.parent / "out").rglob("*.json"))


def test_failed_harnesses_are_told_when_all_else_is_measured(data, monkeypatch):
    monkeypatch.setattr("copd.commands.benchmark.check_versions", lambda python, engine: {engine: "0"})
    with pytest.raises(HarnessError) as error:
        benchmark_models([MODEL], call(data, made=by_harness(), harness_python="/bin/true"))
    assert [line.partition(" wrote")[0] for line in str(error.value).splitlines() if "wrote" in line] == [
        f"{MODEL}: sums: lm-eval: task copd_sums",
        f"{MODEL}: theirs: lm-eval: task aime24",
    ]
    assert [path.name for path in (data.parent / "out" / "builtin_digits").glob("*.json")] == ["pictures.json"]
    assert "1 of 3" in (data.parent / "out" / PAGE).read_text()


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"scores": [[]] * 4}, "its scores are not a table of samples for each id"),
        ({"scores": [[1.0]] * 3}, "its scores are not a table of samples for each id"),
        ({"scores": [["right"]] * 4}, r"scores\.0\.0: Input should be a valid number"),
        ({"scores": [[100.0]] * 4}, r"scores\.0\.0: Input should be less than or equal to 1"),
        ({"scores": [[float("nan")]] * 4}, "no result of copd benchmark"),
    ],
    ids=["empty", "short", "text", "percent", "nan"],
)
def test_a_result_whose_scores_no_mean_can_be_made_of_is_told_by_name(data, wrong, told):
    benchmark_models([MODEL], call(data, only=["sums"]))
    path = data.parent / "out" / "builtin_digits" / "sums.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | wrong))
    with pytest.raises(DataError, match=told) as error:
        benchmark_models([MODEL], call(data))
    assert str(error.value).startswith(f"{path}: no result of copd benchmark: ")


def test_one_table_never_mixes_settings(data):
    benchmark_models([MODEL], call(data, only=["sums"], limit=2))
    page = data.parent / "out" / PAGE
    before = page.read_text()
    with pytest.raises(RecipeError, match=r"sums\.json: was made with top_p 1\.0, now it is 0\.9"):
        benchmark_models([MODEL], call(data, only=["pictures"], made=suite(temperature=0, top_p=0.9)))
    assert page.read_text() == before
    assert benchmark_models([MODEL], call(data, only=["pictures"]))[MODEL].keys() == {"sums", "pictures"}


def test_the_model_is_named_by_its_argument_alone(data):
    with pytest.raises(RecipeError, match=r"model\.path=other: the models are named by MODEL; leave it out"):
        call(data, changes=["model.path=other"])


def test_a_folder_for_results_that_is_a_file_is_told_before_anything_is_asked(data, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(WriteError, match="file: cannot be written: File exists"):
        benchmark_models([MODEL], call(data, out=tmp_path / "file"))


def test_samples_of_an_earlier_run_that_cannot_be_removed_are_never_read(data, monkeypatch):
    def refuse(path, *_, **given):
        if not given.get("ignore_errors"):
            raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("copd.commands.benchmark.check_versions", lambda python, engine: {engine: "0"})
    samples = data.parent / "out" / "builtin_digits" / "theirs.harness" / "out" / "samples_aime24.jsonl"
    samples.parent.mkdir(parents=True)
    samples.write_text('{"doc_id": 0, "resps": [["4"]], "exact_match": 1}\n')
    monkeypatch.setattr("copd.commands.by_harness.shutil.rmtree", refuse)
    with pytest.raises(WriteError, match=r"theirs\.harness: cannot be removed: Permission denied"):
        benchmark_models([MODEL], call(data, made=by_harness(), only=["theirs"], harness_python="/bin/true"))
    assert not [*(data.parent / "out").rglob("theirs.json")]
