"""The task of a harness on rows of copd."""

import json

import numpy as np
import pytest
import yaml
from PIL import Image

from copd.errors import RecipeError
from copd.suites.local_tasks import write_task
from copd.suites.suite import Sampling
from copd.types import Medium, Message, Problem

GREEDY = Sampling(temperature=0, max_new_tokens=9)
PICTURE = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)


class Reader(yaml.SafeLoader):
    """As harnesses read a task."""


Reader.add_constructor("!function", lambda loader, node: f"function {loader.construct_scalar(node)}")


def problem(**fields):
    return Problem(**{"id": "p", "task": "t", "prompt": "What?", "answer": "4", "verifier": "integer", **fields})


def chat(*messages):
    return tuple(Message(role, items) for role, items in messages)


ONE = problem(
    id="one",
    images=(PICTURE,),
    messages=chat(("system", ("Be {{brief}}.",)), ("user", ("Look: ", Medium.IMAGE, " what?"))),
)


def written(tmp_path, engine, problems, samples=1):
    write_task(tmp_path, engine, "mine", problems, GREEDY, samples)
    task = yaml.load((tmp_path / "mine.yaml").read_text(), Reader)
    return task, [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]


def test_a_row_keeps_its_words_the_places_of_its_pictures_and_every_pixel(tmp_path):
    _, (row,) = written(tmp_path, "lmms-eval", [ONE])
    assert row["text"] == "Look: <image> what?"
    assert row["system"] == "Be {{brief}}."
    assert (np.asarray(Image.open(row["images"][0])) == PICTURE).all()


def test_without_a_chat_all_pictures_stand_before_the_text(tmp_path):
    _, (row,) = written(tmp_path, "lm-eval", [problem(images=(PICTURE, PICTURE + 1))])
    assert row["text"] == "<image><image>What?"
    assert len(set(row["images"])) == 2


def test_each_harness_gets_the_task_in_its_own_words(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    lm, _ = written(tmp_path / "a", "lm-eval", [ONE], samples=3)
    lmms, _ = written(tmp_path / "b", "lmms-eval", [ONE])
    assert lm["generation_kwargs"] == {"until": [], "max_gen_toks": 9, "do_sample": False, "temperature": 0}
    assert lm["repeats"] == 3
    assert lm["doc_to_image"] == "function utils.pictures"
    assert lm["description"] == "{{system}}", "the text of a row is not part of a template"
    assert lmms["generation_kwargs"]["max_new_tokens"] == 9
    assert lmms["doc_to_messages"] == "function utils.chat"


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"videos": (np.zeros((2, 4, 4, 3), np.uint8),)}, "t: p: holds a video"),
        ({"chat_template_kwargs": {"enable_thinking": False}}, "has variables of the chat template"),
        ({"messages": chat(("user", ("a",)), ("assistant", ("b",)), ("user", ("c",)))}, "is a chat of several turns"),
        ({"prompt": "What is <image>?"}, "holds <image> as text"),
    ],
)
def test_what_a_harness_cannot_be_given_is_refused(tmp_path, wrong, told):
    with pytest.raises(RecipeError, match=told):
        written(tmp_path, "lm-eval", [problem(**wrong)])


def test_lm_eval_takes_one_system_message_for_all_rows(tmp_path):
    other = problem(messages=chat(("user", ("What?",))))
    with pytest.raises(RecipeError, match="rows have 2 different system messages"):
        written(tmp_path, "lm-eval", [ONE, other])
