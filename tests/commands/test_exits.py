"""How commands end: exit status, one line for an error, a traceback only where it is asked for, signals."""

import os
import resource
import shutil
import signal
import subprocess
import sys

import pytest
import typer

from copd import errors
from copd.commands.exits import status_of
from copd.model.folders import model_folder


@pytest.fixture
def failing(capsys):
    """Run a command that raises an error; its exit status and what it said on stderr."""

    def run(error: BaseException, *words: str) -> tuple[int, str]:
        app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

        @app.command()
        def fail() -> None:
            raise error

        return status_of(app, words), capsys.readouterr().err

    return run


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["trian"], "No such command 'trian'. Did you mean 'train'? (`copd --help` tells more)"),
        (["recipe", "sow"], "No such command 'sow'. Did you mean 'show'? (`copd recipe --help` tells more)"),
        (["train", "demo", "--outt", "x"], "No such option: --outt"),
        (["train", "demo", "--out"], "Option '--out' requires an argument"),
        (["merge", "--out", "o"], "Missing argument 'MODEL|section.key=value'. (`copd merge --help` tells more)"),
        (["behaviour", "builtin:digits"], "Missing argument 'teacher'. (`copd behaviour --help` tells more)"),
        (["warmup", "--steps", "many"], "Invalid value for '--steps': "),
        (["data", "check"], "FILE: missing; give a file of rows, or --recipe, whose branch names its files"),
        (["train", "demo", "--force"], "--force: found without --resume, which alone has a use for it"),
        (
            ["train", "--resume", "--out", "o"],
            "--out o: holds no run that could go on (manifest.json is missing); name",
        ),
        (["train", "demo", "sche\x1b[31mdule=1"], r"sche\x1b[31mdule: unknown key"),
    ],
)
def test_a_command_that_cannot_be_run_is_one_printable_line_and_exit_status_2(command, words, said, tmp_path):
    done = command(*words)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert said in done.stderr
    assert done.stderr.removesuffix("\n").isprintable()
    assert not any(tmp_path.iterdir())


def test_several_mistakes_of_a_recipe_are_a_line_each(command):
    done = command("train", "demo", "sede=1", "schedule.cycles=no", "opd.clamp=x")
    assert done.returncode == 2
    first, *others = done.stderr.splitlines()
    assert first.startswith("error: ")
    assert {line.removeprefix("error: ").split(":")[0] for line in (first, *others)} == {
        "sede",
        "schedule.cycles",
        "opd.clamp",
    }


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "branches:\n  a: {task: {kind: digits\n",
            "line 3, column 1: while parsing a flow mapping, expected ',' or '}'",
        ),
        ("seed: 1\n  method: copd\n", "line 2, column 9: mapping values are not allowed here"),
        ("seed: 1\nseed: 2\n", "line 2, column 1: key 'seed' is given twice"),
        ("seed: 012\n", "line 1, column 7: 012 is no decimal number"),
        ("seed: '\x07'\n", "unacceptable character #x0007"),
        ("seed: !!\n x &", "line 1"),
    ],
)
def test_a_yaml_that_cannot_be_read_is_told_with_its_place_in_one_line(command, tmp_path, text, said):
    (tmp_path / "my.yaml").write_text(text)
    done = command("train", "my.yaml")
    assert done.returncode == 2
    assert done.stderr.startswith("error: my.yaml: ")
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (errors.CopdError("what"), 1),
        (errors.RecipeError("what"), 2),
        (errors.DataError("what"), 2),
        (errors.ModelFolderError("what"), 2),
        (errors.RunFolderError("what"), 2),
        (errors.MergeError("what"), 2),
        (errors.CheckpointError("what"), 1),
        (errors.WriteError("what"), 1),
        (errors.NonFiniteError("what"), 1),
        (errors.ProcessError("what"), 1),
        (OSError(28, "what", "a file"), 1),
    ],
)
@pytest.mark.parametrize("words", [[], ["--debug"]])
def test_the_class_of_an_error_decides_its_status_and_only_debug_shows_where_it_was_raised(
    failing, error, status, words
):
    found, said = failing(error, *words)
    assert found == status
    assert said.endswith(f"error: {'a file: ' * (type(error) is OSError)}what\n")
    assert ("Traceback" in said) == bool(words)
    assert words or said.count("\n") == 1


@pytest.mark.parametrize(
    "error", [KeyError("a\nb"), ConnectionResetError(104, "reset\nby peer"), ValueError(), LookupError()]
)
def test_an_error_that_copd_does_not_know_is_one_line_with_the_way_to_its_traceback(failing, error):
    status, said = failing(error)
    assert status == 1
    assert said.startswith(f"error: {type(error).__name__}: ")
    assert said.endswith("; run again with --debug to see where it comes from\n")
    assert said.count("\n") == 1
    status, said = failing(error, "--debug")
    assert status == 1
    assert said.startswith("Traceback (most recent call last):\n")
    assert "in fail" in said


def test_what_an_error_holds_reaches_the_terminal_spelled_out(failing):
    _, said = failing(errors.DataError("row 3: \x1b]0;title\x07 \r[red]x[/] :smile: \u202e\nrow 4: \x00"))
    assert said == "error: row 3: \\x1b]0;title\\x07 \\r[red]x[/] :smile: \\u202e\nrow 4: \\x00\n"


@pytest.mark.parametrize("words", [["--debug", "eval", "nowhere"], ["eval", "--debug", "nowhere"]])
def test_debug_may_stand_before_the_command_or_in_it(command, words):
    done = command(*words)
    assert done.returncode == 2
    assert "Traceback" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: MODEL: no folder 'nowhere'")


def test_without_a_command_the_help_is_shown_and_no_error(command):
    done = command()
    assert done.returncode == 2
    assert "--debug" in done.stdout
    assert done.stderr == ""


def test_a_disk_that_is_full_is_a_failure_and_no_mistake(command, tmp_path, tmp_path_factory):
    other = tmp_path_factory.mktemp("other") / "base"
    shutil.copytree(model_folder("builtin:digits"), other)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
    try:
        done = command("merge", "builtin:digits", str(other), "--out", "o")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {tmp_path / 'o'}: the merge cannot be written: ")
    assert done.stderr.count("\n") == 1
    assert not any(tmp_path.iterdir())


@pytest.fixture
def reading(tmp_path):
    """Start `copd plan` with a file of speeds that is a pipe that nothing comes through; the process and the pipe."""
    speeds = tmp_path / "gpu.json"
    os.mkfifo(speeds)
    started = []

    def start(interrupt) -> tuple[subprocess.Popen, object]:
        process = subprocess.Popen(
            [sys.executable, "-m", "copd", "plan", "demo", "--tokens-per-second", str(speeds)],
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, interrupt),
        )
        started.append(process)
        return process, speeds.open("w")  # there is somebody at the other end once it is open

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_a_command_with_128_and_its_number(reading, number, status):
    process, pipe = reading(signal.SIG_DFL)
    with pipe:
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
    assert process.returncode == status
    assert said == f"error: ended by {number.name}\n"


def test_a_signal_that_the_caller_ignores_does_not_end_a_command(reading):
    process, pipe = reading(signal.SIG_IGN)
    process.send_signal(signal.SIGINT)
    with pipe:
        pipe.write("no speeds")
    _, said = process.communicate(timeout=60)
    assert process.returncode == 2
    assert said.startswith("error: --tokens-per-second: found ")


def test_handlers_of_signals_are_put_back(failing):
    before = signal.getsignal(signal.SIGTERM)
    failing(ValueError())
    assert signal.getsignal(signal.SIGTERM) is before


INTERRUPTED = """
import os, signal, sys

class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name == "transformers":
            os.kill(os.getpid(), signal.SIGINT)

signal.signal(signal.SIGINT, signal.default_int_handler)  # a caller in the background may ignore it
sys.meta_path.insert(0, Interrupting())
import copd.assemble.server
print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)
"""


def test_ctrl_c_while_the_server_of_branches_imports_its_libraries_prints_no_traceback():
    done = subprocess.run([sys.executable, "-c", INTERRUPTED], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "True\n", "")
