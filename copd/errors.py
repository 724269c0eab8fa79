"""The few errors that a user can meet. Each message says where it is, what was found and what is accepted."""


class CopdError(Exception):
    """Base of every error that the user can mend. The command line prints its message without a traceback."""

    exit_status = 1


class RecipeError(CopdError):
    """A recipe that cannot be run as written: the message starts with the path to the key."""

    exit_status = 2


class DataError(CopdError):
    """A file of the user's data, or a row of one, that cannot be used: the message starts with the file and line."""

    exit_status = 2


class ModelFolderError(CopdError):
    """A model folder that is missing, incomplete or corrupt."""

    exit_status = 2


class ChatRefused(ModelFolderError):
    """A chat that the model's chat template refuses by raising an error itself. A row with such a chat is a bad row."""


class CheckpointError(CopdError):
    """A checkpoint that cannot be written, or that does not match its manifest or the recipe."""


class ChangedRunError(CheckpointError):
    """A run that cannot be resumed because its recipe, data, base, code or versions have changed: a line for each."""

    exit_status = 2


class WriteError(CopdError):
    """A file or folder that cannot be written, because of the disk or of its permissions: the message names it."""


class RunFolderError(CopdError):
    """A run folder that is missing, or whose record cannot be read."""

    exit_status = 2


class MergeError(CopdError):
    """Branches that cannot be merged: the message names the tensor, the file or the option."""

    exit_status = 2


class NonFiniteError(CopdError):
    """Too many optimizer steps in a row had a NaN or infinite loss, gradient or log-prob."""


class ProcessError(CopdError):
    """Branches have no place to live, or the process of one ended before the run did."""


class OutOfMemoryError(CopdError):
    """Memory that did not suffice: the message names branch, activity, tokens and the fields that help."""


class LostBranchError(ProcessError):
    """A branch that was computing has ended, or answers no more. A run can go on from its last checkpoint."""


class JobError(CopdError):
    """Jobs of a comparison that did not come to their end, so that nothing can be said of the rest."""


def first_line(error: Exception) -> str:
    """A library's error message in one line of at most 200 characters; the error's name if the message is empty.

    A first line that ends with a colon says nothing alone: the next one goes with it.
    """
    lines = [line.strip() for line in str(error).strip().splitlines()] or [type(error).__name__]
    said = 2 if lines[0].endswith(":") else 1
    return " ".join(lines[:said])[:200]


def wrong_in(error: Exception) -> str:
    """What is wrong in a record or manifest, by the error that reading it raised, in one line."""
    return f"{error} is missing" if isinstance(error, KeyError) else first_line(error)


class BadRow(Exception):
    """Why a row cannot be used, in one printable line. The code that knows file and line puts them in front."""

    def __init__(self, why: str) -> None:
        super().__init__(visible(why))


def visible(text: str) -> str:
    """A text from data or a model, made safe for a terminal: line ends and control characters are spelled out."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
