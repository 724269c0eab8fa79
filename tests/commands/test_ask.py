"""A question is asked as the problems of training are: prompt, media, answer form, length."""

import json
import shutil

import numpy as np
import pytest
from media_files import encoded, film
from PIL import Image

from copd.assemble.assembled import load_policy
from copd.assemble.tasks import make_tasks
from copd.commands.ask import Answer, asking, manner_of
from copd.errors import DataError
from copd.model.folders import model_folder
from copd.recipe.reading import load_recipe
from copd.tasks.digits import Digits
from copd.types import Split

ROWS = (
    "{{kind: rows, train: {folder}/rows.jsonl, validation: {folder}/rows.jsonl, test: {folder}/rows.jsonl, "
    "verifier: integer, {dress}}}"
)
DRESS = "system_prompt: Reckon., prompt_template: 'usual {{ prompt }}', chat_template_kwargs: {deep: true}"


@pytest.fixture
def run(tmp_path):
    """A run folder whose branches dress their prompts differently, with the base in the place of all models."""
    (tmp_path / "rows.jsonl").write_text(json.dumps({"prompt": "sum: 3 8 5", "answer": "6"}) + "\n")
    plain, dressed = (ROWS.format(folder=tmp_path, dress=dress) for dress in ("system_prompt: Read.", DRESS))
    recipe = load_recipe(
        "demo",
        [
            f"branches={{plain: {{task: {plain}}}, dressed: {{task: {dressed}}}}}",
            "sampling.max_new_tokens=20",
            "evaluation={problems: 1, validation_problems: 1, behaviour_problems: 1}",
        ],
    )
    for model in ("branches/plain", "branches/dressed", "merged"):
        shutil.copytree(model_folder("builtin:digits"), tmp_path / "run" / model)
    (tmp_path / "run" / "manifest.json").write_text(json.dumps({"recipe": recipe.model_dump(mode="json")}))
    return tmp_path / "run"


def asked_problem(model, question, **options):
    with asking([str(model)], **options) as (asked,):
        return asked._problem(question, [], [])


@pytest.mark.parametrize("name", ["plain", "dressed"])
def test_a_branch_is_asked_as_its_rows_were(run, name):
    recipe = load_recipe(json.loads((run / "manifest.json").read_text())["recipe"])
    trained = make_tasks(recipe)[name].problem(Split.TRAIN, 0)
    asked = asked_problem(run / "branches" / name, "sum: 3 8 5")
    assert asked.chat == trained.chat
    assert asked.chat_template_kwargs == trained.chat_template_kwargs
    assert asked.chat[0]["role"] == "system"


def test_a_merge_is_asked_as_the_first_branch_which_is_told_or_as_another(run):
    merged = run / "merged"
    assert asked_problem(merged, "a").chat == asked_problem(run / "branches" / "plain", "a").chat
    assert asked_problem(merged, "a", branch="dressed").chat == asked_problem(run / "branches" / "dressed", "a").chat
    assert manner_of(str(merged), None, None).told == f"{merged}: prompted as branch plain; --branch chooses another"
    assert (
        manner_of(str(merged), None, "plain").told == manner_of(str(run / "branches" / "plain"), None, None).told == ""
    )


def test_a_recipe_that_is_named_goes_before_that_of_the_run_and_without_either_it_is_plain(run):
    assert manner_of(str(run / "merged"), None, None).max_new_tokens == 20
    assert manner_of(str(run / "merged"), "demo", None).max_new_tokens == 36
    assert manner_of("builtin:digits", None, None).max_new_tokens is None
    assert [each["role"] for each in asked_problem("builtin:digits", "a").chat] == ["user"]


@pytest.mark.parametrize("kind", ["text", "image"])
def test_answers_are_the_greedy_ones_of_evaluation(kind):
    problems = [Digits(kind, conflict=1.0).problem(Split.TEST, i) for i in range(3)]
    policy = load_policy(load_recipe("demo"))
    expected = policy.texts(policy.sample(problems, max_new_tokens=36))
    with asking(["builtin:digits"], recipe="demo") as (asked,):
        for problem, text in zip(problems, expected, strict=True):
            images = [encoded(Image.fromarray(image)) for image in problem.images]
            answer = asked.answer(problem.prompt, images, [])
            assert f"{answer.before}{answer.final or ''}{answer.after}" == text
            assert answer.finished


def test_a_video_file_is_sampled_as_the_recipe_says(tmp_path):
    content = film(tmp_path / "f.mp4")
    with asking(["builtin:digits"], recipe="demo") as (asked,):
        (video,) = asked._problem("sum", [], [content]).videos
        assert np.asarray(video).shape[1:] == (48, 64, 3)
        assert isinstance(asked.answer("sum", [], [content]), Answer)


def test_the_final_answer_is_marked_where_it_stands_not_where_its_text_came_before():
    with asking(["builtin:digits"], recipe="demo") as (asked,):
        answer = asked.answer("usual sum: 3 8 5", [], [])
    assert answer.before.endswith("\\boxed{")
    assert answer.after == "}"
    assert answer.final in answer.before


def test_a_picture_that_is_none_is_told():
    with asking(["builtin:digits"]) as (asked,), pytest.raises(DataError, match=r"^question to builtin:digits: image"):
        asked.answer("sum", [b"no picture"], [])
