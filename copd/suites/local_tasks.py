"""A task of a harness on rows of copd: the harness only generates, and copd grades what it has logged."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import yaml

from copd.errors import RecipeError, WriteError
from copd.runs.pictures import write_picture
from copd.suites.harness import generation
from copd.suites.suite import Sampling
from copd.types import Medium, Problem

MARK = "<image>"
"""Stands in the text where a picture is."""
UTILS = '''"""Written by copd. A harness asks these rows; copd grades the responses that it logs."""

from PIL import Image


class Whole(list):
    """The whole chat. lmms-eval would put a system message of its own in front of it."""

    def insert(self, index, item):
        pass


def pictures(doc):
    return [Image.open(path).convert("RGB") for path in doc["images"]]


def text(doc, lmms_eval_specific_kwargs=None):
    return doc["text"]


def chat(doc, lmms_eval_specific_kwargs=None):
    content, left = [], pictures(doc)
    for i, part in enumerate(doc["text"].split("<image>")):
        if i:
            content.append({"type": "image", "url": left[i - 1]})
        if part:
            content.append({"type": "text", "text": part})
    system = [{"role": "system", "content": [{"type": "text", "text": doc["system"]}]}] if doc["system"] else []
    return Whole([*system, {"role": "user", "content": content}])


def asked(doc, results):
    return {"asked": 1.0}
'''


class Code(str):
    """A function of the task's code."""


class Dumper(yaml.SafeDumper):
    """YAML in which a function has the tag that harnesses give it."""


Dumper.add_representer(Code, lambda dumper, name: dumper.represent_scalar("!function", str(name)))


def write_task(
    folder: Path, engine: str, name: str, problems: Sequence[Problem], sampling: Sampling, samples: int
) -> None:
    """Write a task NAME into an empty folder: YAML, code, rows and pictures.

    Raises RecipeError for a problem that a harness cannot be given, WriteError for a folder that cannot be written.
    """
    rows = [_row(folder, problem) for problem in problems]
    systems = {row["system"] for row in rows}
    if engine == "lm-eval" and len(systems) > 1:
        raise RecipeError(f"{name}: rows have {len(systems)} different system messages; lm-eval takes one a task")
    task = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(folder / "rows.jsonl")}},
        "test_split": "test",
        "output_type": "generate_until",
        "doc_to_text": Code("utils.text"),
        "doc_to_target": "{{id}}",
        "process_results": Code("utils.asked"),
        "metric_list": [{"metric": "asked", "aggregation": "mean", "higher_is_better": True}],
        "generation_kwargs": {"until": [], **generation(engine, sampling)},
        "repeats": samples,
    }
    if engine == "lmms-eval":
        task |= {"doc_to_visual": Code("utils.pictures"), "doc_to_messages": Code("utils.chat")}
        task["doc_to_target"] = "id"
    else:
        if any(row["images"] for row in rows):
            task["doc_to_image"] = Code("utils.pictures")
        if systems.pop():
            task["description"] = "{{system}}"  # the row's, as data: a text of a row must never be read as a template
    try:
        (folder / "utils.py").write_text(UTILS, encoding="utf-8")
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / "rows.jsonl").write_text(lines, encoding="utf-8")
        (folder / f"{name}.yaml").write_text(yaml.dump(task, Dumper=Dumper, sort_keys=False), encoding="utf-8")
    except OSError as error:
        raise WriteError(f"{folder}: cannot be written: {error.strerror or error}") from error


def _row(folder: Path, problem: Problem) -> dict:
    """A problem as one row: its system message, its text with a mark for each picture, and the pictures' files."""
    where = f"{problem.task}: {problem.id}"
    if problem.videos:
        raise RecipeError(f"{where}: holds a video; a harness is given texts and pictures; set engine: rows")
    if problem.chat_template_kwargs:
        raise RecipeError(f"{where}: has variables of the chat template; set engine: rows")
    system, text = "", MARK * len(problem.images) + problem.prompt
    if problem.messages:
        *before, last = problem.messages
        if last.role != "user" or len(before) > 1 or any(message.role != "system" for message in before):
            raise RecipeError(f"{where}: is a chat of several turns; a harness is given one; set engine: rows")
        system = str(before[0].content) if before else ""
        text = "".join(MARK if item is Medium.IMAGE else str(item) for item in last.items)
    if text.count(MARK) != len(problem.images):
        raise RecipeError(f"{where}: holds {MARK} as text; set engine: rows")
    images = [str(folder / write_picture(folder, image)) for image in problem.images]
    return {"id": problem.id, "system": system, "text": text, "images": images}
