"""What a run folder holds, read for tests."""

from pathlib import Path

import torch
from checkpoints import tensors_of

from copd.runs.checkpoint import verify_checkpoint
from copd.runs.runlog import read_lines


def events(folder: Path, name: str) -> list[dict]:
    """The events of one kind, in order."""
    return [line for line in read_lines(folder / "metrics.jsonl") if line["event"] == name]


def weights_at(folder: Path, step: int, branch: str) -> dict[str, torch.Tensor]:
    """A branch's weights by name, from the checkpoint after so many steps."""
    tensors = tensors_of(verify_checkpoint(folder / "checkpoints" / f"step-{step:08d}"), branch)
    return {name.removeprefix("weight/"): tensor for name, tensor in tensors.items() if name.startswith("weight/")}


def rollouts_of(ledger: dict) -> int:
    """All rollouts that a ledger's event counts."""
    return sum(spent["rollouts"] for phases in ledger["spent"].values() for spent in phases.values())
