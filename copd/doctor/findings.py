"""Findings of `copd doctor` in words, and those that need no model: about the machine, and of log-probs."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import torch

from copd.runs.numbers import size
from copd.system.processes import usable_cores
from copd.types import Rollouts, Score

Verdict = Literal["ok", "warning", "failed"]
LONGEST_TEXT, LONGEST_REASON = 120, 300
"""Most characters shown of a prompt or response, and of an error that is not copd's own."""
MOST_NOISE = 0.1
"""Most noise per delta. Beyond, a warning follows."""


@dataclass(frozen=True)
class Finding:
    """One check: its name, its verdict and its result."""

    check: str
    verdict: Verdict
    found: str


def machine(threads: int) -> Iterator[Finding]:
    """Versions, usable cores, GPUs, memory and disk; a warning if a branch wants more threads than there are cores."""
    libraries = ", ".join(f"{name} {version(name)}" for name in ("copd", "torch", "transformers"))
    yield Finding("versions", "ok", f"Python {platform.python_version()}, {libraries}")
    gpus = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    cards = ", ".join(f"{gpu.name} with {size(gpu.total_memory)}" for gpu in gpus) or "no GPU"
    cores = usable_cores()
    enough = threads <= cores
    advice = "" if enough else f"; model.threads_per_branch={threads} is more"
    yield Finding("processors", "ok" if enough else "warning", f"{cores} cores{advice}; {cards}")
    memory, free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), shutil.disk_usage(Path.cwd()).free
    yield Finding("memory and disk", "ok", f"{size(memory)} of memory; {size(free)} free in {Path.cwd()}")


def noise(who: str, rollouts: Rollouts, own: Score, other: Score, what: str, *, skipped: bool) -> Finding:
    """Compare the difference between sampler and trainer with the signal `what`: `other` minus the trainer's `own`.

    Where the sampler cuts the distribution its log-probs are of another one, and nothing is compared.
    """
    tokens = int(rollouts.mask_NT.sum())
    mismatch = float((own.logp_NT - rollouts.logp_NT).abs().sum()) / tokens
    delta = float((other.logp_NT - own.logp_NT).abs().sum()) / tokens
    compared = "cut by sampling, not compared" if rollouts.cut else f"log-probs differ by {mismatch:.1e} nats per token"
    found = f"{compared}; {what} by {delta:.1e}"
    check = f"{who}: sampler against trainer"
    if skipped:
        return Finding(check, "failed", f"{found}; a log-prob, loss or gradient was not finite")
    if delta == 0:
        return Finding(check, "warning", f"{found}: there was no signal")
    drowned = mismatch > MOST_NOISE * delta and not rollouts.cut
    return Finding(check, "warning" if drowned else "ok", found + "; the noise is more than a tenth of that" * drowned)


def one_line(error: Exception) -> str:
    """The beginning of an error's message."""
    return " ".join(str(error).split())[:LONGEST_REASON]


def short(text: str) -> str:
    """The beginning of a text, quoted."""
    return repr(text if len(text) <= LONGEST_TEXT else f"{text[:LONGEST_TEXT]} ...")
