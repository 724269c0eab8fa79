"""A chat template comes with a model and is not trusted: what it tries is not done, and the model's folder is named."""

import json
import shutil
from pathlib import Path

import pytest

from copd.model.folders import model_folder

CHANGES = [
    "branches={a: {task: {capability: text, conflict: 1.0}}}",
    "method=expert",
    "evaluation={problems: 1, validation_problems: 1, behaviour_problems: 1, pass_at: [1]}",
]
HOSTILE = {
    "subclasses": ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "SecurityError: access to attribute '__class__'"),
    "globals": (
        "{{ cycler.__init__.__globals__.os.system(COMMAND) }}",
        "SecurityError: access to attribute '__init__'",
    ),
    "globals of a function": ("{{ lipsum.__globals__.os.system(COMMAND) }}", "SecurityError: access to attribute"),
    "format": ("{{ '{0.__class__.__mro__}'.format(messages) }}", "SecurityError: access to attribute '__class__'"),
    "a change of the messages": ("{{ messages.append(1) }}", "SecurityError: access to attribute 'append'"),
    "a file": ("{% include '/etc/passwd' %}", "TypeError: no loader"),
    "a module": ("{% import 'os' as os %}{{ os.system(COMMAND) }}", "TypeError: no loader"),
    "a range without end": ("{% for i in range(10**12) %}{% endfor %}", "OverflowError: Range too big"),
    "more than there is memory": ("{{ 'a' * 10**15 }}", "MemoryError"),
    "no template": ("{% if %}", "TemplateSyntaxError: Expected an expression"),
    "a name that is not there": ("{{ nothing.a }}", "UndefinedError: 'nothing' is undefined"),
}
"""A template, and what becomes of it; COMMAND would make a file."""


def with_template(template: str, folder: Path) -> Path:
    shutil.copytree(model_folder("builtin:digits"), folder)
    (folder / "chat_template.jinja").write_text(template)
    return folder


@pytest.mark.parametrize(("template", "reason"), HOSTILE.values(), ids=HOSTILE)
def test_what_a_hostile_one_tries_is_not_done_and_one_line_names_the_folder(command, tmp_path, template, reason):
    witness = tmp_path / "witness"
    folder = with_template(template.replace("COMMAND", f"'touch {witness}'"), tmp_path / "model")
    for words in (
        ["train", "demo-paper", *CHANGES, f"model.path={folder}"],
        ["eval", str(folder), "--recipe", "demo-paper"],
    ):
        done = command(*words)
        assert done.returncode == 2, done.stderr
        (line,) = [each for each in done.stderr.splitlines() if each.startswith("error: ")]
        assert line.startswith(f"error: {folder}: its chat template fails: {reason}")
        assert "Traceback" not in done.stderr
        assert "root:" not in done.stdout + done.stderr
    assert not witness.exists()
    assert not (tmp_path / "runs" / "expert-seed0" / "manifest.json").exists()


def test_a_chat_that_the_template_itself_refuses_is_a_bad_row_and_a_model_error_of_a_task_without_rows(
    command, tmp_path
):
    template = "{% if messages[0].role == 'system' %}{{ raise_exception('no system message here') }}{% endif %}"
    original = (model_folder("builtin:digits") / "chat_template.jinja").read_text()
    folder = with_template(template + original, tmp_path / "model")
    asked = [{"role": "system", "content": "Add."}, {"role": "user", "content": "sum: 9 9"}]
    rows = [{"prompt": prompt, "answer": 18, "verifier": "integer"} for prompt in ("sum: 9 9", asked)]
    (tmp_path / "f.jsonl").write_text("\n".join(map(json.dumps, rows)))
    task = "branches={a: {task: {kind: rows, train: f.jsonl, validation: f.jsonl, test: f.jsonl}}}"
    done = command("train", "demo-paper", *CHANGES[1:], task, f"model.path={folder}")
    assert done.returncode == 2
    assert f"f.jsonl:2: the model's processor refuses it: {folder}: its chat template refuses a chat: " in done.stderr
    (folder / "chat_template.jinja").write_text("{{ raise_exception('no chat\x1b[2J') }}")
    done = command("train", "demo-paper", *CHANGES, f"model.path={folder}")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == f"error: {folder}: its chat template refuses a chat: no chat\\x1b[2J"
