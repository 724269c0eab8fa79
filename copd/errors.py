"""The few errors a user can meet. Each message says where, what was found and what is accepted."""


class CopdError(Exception):
    """Base of every error that is the user's to act on; the command line prints its message without a traceback."""

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
    """A chat that the model's chat template does not take, by its own word; a row that holds it is a bad row."""


class CheckpointError(CopdError):
    """A checkpoint that cannot be written, or that does not match its manifest or the recipe."""


class WriteError(CopdError):
    """A file or folder that the disk, or whoever owns it, does not let be written: the message names it."""


class RunFolderError(CopdError):
    """A run folder that is missing, or whose record cannot be read."""

    exit_status = 2


class MergeError(CopdError):
    """Branches that cannot be merged: the message names the tensor, the file or the option."""

    exit_status = 2


class NonFiniteError(CopdError):
    """Too many optimizer steps in a row had a NaN or infinite loss, gradient or log-prob."""


class ProcessError(CopdError):
    """The process of a branch has ended before the run has."""


def first_line(error: Exception) -> str:
    """What a library said, in one line of at most 200 characters; its name where it said nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


class BadRow(Exception):
    """Why a row cannot be used, in one printable line; whoever knows file and line puts them in front."""

    def __init__(self, why: str) -> None:
        super().__init__(visible(why))


def visible(text: str) -> str:
    """A text of data or a model for a terminal: line ends and control characters are spelled out, never obeyed."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
