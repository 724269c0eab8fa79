"""The end of a command: its exit status, and one line for an error."""

from __future__ import annotations

import gc
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from inspect import cleandoc
from typing import Any, NoReturn

import typer
from rich.console import Console
from rich.text import Text

from copd.errors import CopdError, first_line, visible
from copd.system.shortage import is_shortage
from copd.system.signals import Ended, handled_by

DEBUG = "--debug"
"""The option that shows the traceback of an error. It may stand anywhere in a command."""
Misuse: Any = typer.BadParameter.__base__
"""The error of typer for a command line that it cannot parse. The module of the class depends on typer's version."""


def status_of(app: typer.Typer, words: Sequence[str]) -> int:
    """Run a command and return its exit status: that of the error's class, or 128 + N if signal N ended it.

    Each error is one line on stderr. With --debug a traceback stands before it.
    """
    given = [word for word in words if word != DEBUG]
    debug = len(given) < len(words)
    try:
        with _ended_by_signals():
            return _command_of(app)(given, prog_name="copd", standalone_mode=False) or 0
    except Ended as ended:
        return _failed(128 + ended.number, f"ended by {ended.name}")
    except Exception as error:
        if debug:
            traceback.print_exception(error)
        return _failed(
            *_status_and_message(error, "" if debug else f"; run again with {DEBUG} to see where it comes from")
        )


@cache
def _command_of(app: typer.Typer) -> Any:
    """What parses a command line. It is built once, as typer evaluates the annotations of all commands for it."""
    command = typer.main.get_command(app)
    _join_lines(command)
    return command


def _join_lines(command: Any) -> None:
    """Let each paragraph of the help of a command, and of all below it, be one line: typer breaks it where it must."""
    command.help = "\n\n".join(" ".join(each.split()) for each in cleandoc(command.help or "").split("\n\n"))
    for below in getattr(command, "commands", {}).values():
        _join_lines(below)


def leave(status: int) -> NoReturn:
    """Exit. Python would look for garbage once more, which takes two seconds with torch loaded; here it does not."""
    gc.freeze()
    sys.exit(status)


def _status_and_message(error: Exception, hint: str) -> tuple[int, str]:
    """Exit status and message of an error. The message of an error that copd does not know ends with `hint`."""
    if isinstance(error, CopdError):
        return error.exit_status, str(error)
    if isinstance(error, Misuse):
        found = error.format_message()  # empty if typer has shown the help instead
        where = f" (`{error.ctx.command_path} --help` tells more)" if found and error.ctx else ""
        return error.exit_code, found + _meant_as_field(error) + where
    if is_shortage(error):
        said = f"out of memory: {first_line(error)}; `copd plan RECIPE` tells what a recipe needs, and what lowers it"
        return CopdError.exit_status, said
    if isinstance(error, OSError) and error.filename is not None:
        return CopdError.exit_status, f"{error.filename}: {error.strerror or error}"
    return CopdError.exit_status, f"{type(error).__name__}: {first_line(error)}{hint}"


def _meant_as_field(error: Any) -> str:
    """How a field of a recipe is set, if an unknown option of a command that takes a recipe is named like one."""
    name = (getattr(error, "option_name", None) or "").lstrip("-").replace("-", "_")
    takes_fields = error.ctx and any(option.name == "overrides" for option in error.ctx.command.params)
    if not name or not takes_fields:
        return ""
    from copd.recipe.synonyms import fields_called

    fields = [field for field in fields_called().get(name, []) if "[]" not in field]
    named = " or ".join(f"{field}=VALUE" for field in ([name] if name in fields else fields))
    return f"; a field of the recipe is set as {named}" if named else ""


def _failed(status: int, message: str) -> int:
    """Print a message on stderr, whatever characters it holds, unless it is empty. Returns the status."""
    said = "\n".join(map(visible, message.split("\n")))
    if said:
        Console(stderr=True).print(Text.assemble(("error:", "red"), " ", said), soft_wrap=True)
    return status


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """SIGINT and SIGTERM end the command, which cleans up."""

    def end(number: int, _: object) -> NoReturn:
        raise Ended(number)

    with handled_by(end):
        yield
