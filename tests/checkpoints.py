"""Checkpoints written and read as a run does it: each branch writes its part, then the whole is sealed."""

from copd.branches.state import read_state, write_state
from copd.runs.checkpoint import complete, new_checkpoint, part_of


def save_checkpoint(root, step, states, notes, keep_last, beside=()):
    """The folder of a new checkpoint with the tensors of each branch by its name."""
    with new_checkpoint(root, step) as folder:
        parts = {name: [write_state(tensors, part_of(folder, name))] for name, tensors in states.items()}
        return complete(folder, step, parts, notes, keep_last, beside)


def tensors_of(checkpoint, branch):
    """The tensors of one branch."""
    return read_state(checkpoint.part(branch))
