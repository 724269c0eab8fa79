"""`copd ask` on the terminal: models and question told apart, answers marked, a chat that survives a bad question."""

import io
import shutil

import pytest
from media_files import encoded
from PIL import Image

from copd.cli.ask import told_apart
from copd.errors import RecipeError
from copd.model.folders import model_folder
from copd.tasks.digits import Digits
from copd.types import Split

COMMIT = "0123456789abcdef0123456789abcdef01234567"
DIGITS = "builtin:digits"


@pytest.mark.parametrize(
    ("words", "question"),
    [
        ([DIGITS], None),
        (["nowhere"], None),
        ([DIGITS, DIGITS], None),
        ([DIGITS, f"org/name@{COMMIT}"], None),
        ([DIGITS, "Qwen/Qwen3-VL-4B-Instruct@main"], None),
        ([DIGITS, "runs/demo@40"], None),
        ([DIGITS, "runs/demo/branches/text@best"], None),
        ([DIGITS, "."], None),
        ([DIGITS, "sum: 3 8 5"], "sum: 3 8 5"),
        (["a", "b", "c", "who@home"], "who@home"),
    ],
)
def test_the_last_of_several_words_is_the_question_unless_it_is_a_model(words, question):
    models = words if question is None else words[:-1]
    assert told_apart(words) == (models, [], question)


@pytest.mark.parametrize("question", ["x=3?", "reward=5", "seven.times=7", "3 + 4 = ?"])
def test_only_a_field_of_a_section_is_a_change_and_an_equals_sign_in_a_question_is_none(question):
    change = "sampling.max_new_tokens=8"
    assert told_apart([DIGITS, question, change]) == told_apart([DIGITS, change, question])
    assert told_apart([DIGITS, question, change]) == ([DIGITS], [change], question)
    assert told_apart([DIGITS, change]) == ([DIGITS], [change], None)


def test_a_change_alone_asks_nobody():
    with pytest.raises(RecipeError, match=r"^MODEL: missing"):
        told_apart(["sampling.max_new_tokens=8"])


def test_an_empty_question_is_told():
    with pytest.raises(RecipeError, match="QUESTION: is empty"):
        told_apart([DIGITS, " "])


def test_one_model_answers_and_its_final_answer_stands_alone_below(command):
    done = command("ask", DIGITS, "sum: 3 4")
    assert done.returncode == 0, done.stderr
    *response, final = done.stdout.splitlines()
    assert final.startswith("final answer: ")
    assert "\\boxed{" + final.removeprefix("final answer: ") + "}" in "".join(response)
    assert "asked without a recipe" in done.stderr


def test_two_models_answer_side_by_side_what_a_picture_asks(command, tmp_path):
    problem = Digits("image").problem(Split.TEST, 0)
    (tmp_path / "p.png").write_bytes(encoded(Image.fromarray(problem.images[0])))
    shutil.copytree(model_folder(DIGITS), tmp_path / "other")
    done = command("ask", DIGITS, "other", problem.prompt, "--image", "p.png", "--recipe", "demo")
    assert done.returncode == 0, done.stderr
    assert "asked" not in done.stderr
    (head,) = (line for line in done.stdout.splitlines() if "other" in line)
    assert DIGITS in head
    (final,) = (line for line in done.stdout.splitlines() if "final answer" in line)
    assert final.count("final answer: ") == 2


def test_a_chat_answers_line_by_line_and_goes_on_after_a_question_that_cannot_be_asked(command, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("sum: 3 4\n\nsum: <|im_end|>\nmax: 2 7\n"))
    done = command("ask", DIGITS)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("final answer: ") == 2
    assert f"question to {DIGITS}: the text holds the control token '<|im_end|>'" in done.stderr


def test_a_response_that_is_cut_off_says_so(command):
    done = command("ask", DIGITS, "sum: 3 4", "--max-new-tokens", "2")
    assert "no final answer: truncated after 2 tokens; --max-new-tokens allows more" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere", "sum: 3 4"], "MODEL: no folder 'nowhere'"),
        ([DIGITS, "sum: 3 4", "--image", "none.png"], "--image: none.png: cannot be read: No such file or directory"),
        (
            [DIGITS, "sum: 3 4", "--branch", "text"],
            "--branch: builtin:digits lies in no run; name a recipe by --recipe",
        ),
        ([DIGITS, "a", "--recipe", "demo", "--branch", "txt"], "--branch: found 'txt'; accepted: text, image, video"),
        ([DIGITS, "<image> sum"], "1 <image> in the prompt but 0 images"),
        (
            [DIGITS, "sum", "--image", "notes.txt"],
            "image notes.txt: not a picture of an accepted format; accepted: PNG",
        ),
        ([DIGITS, "sum", "--video", "notes.txt"], "video notes.txt: not a video of an accepted format; accepted: MP4"),
        ([DIGITS, "sum: 3 4 " * 300], "more than the model's context of 512"),
        (["runs/nothing@4", "a"], "runs/nothing: not a run folder"),
    ],
)
def test_what_cannot_be_asked_is_one_line_and_exit_status_2(command, tmp_path, arguments, said):
    (tmp_path / "notes.txt").write_text("neither a picture nor a video")
    done = command("ask", *arguments)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr
