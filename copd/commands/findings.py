"""Findings of `copd doctor` in words, and those about the machine, which need no model."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import torch

from copd.measure.health import MANY_TRUNCATED
from copd.rewards.answers import OPENING, behind_thoughts
from copd.system.processes import usable_cores

Verdict = Literal["ok", "warning", "failed"]
LONGEST_TEXT, LONGEST_REASON = 120, 300
"""Most characters shown of a prompt or response, and of an error that is not copd's own."""
GIB = 2**30
LEAST_SIGNAL, FEW_ANSWERS = 0.1, 0.1
"""Least share of groups with signal, and least share of responses with a final answer."""


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


def advice_on(
    texts: Sequence[str],
    finished: Sequence[bool],
    ours: Sequence[bool],
    rate: float,
    signal: float,
    form: str,
    failures: int = 0,
) -> list[str]:
    """What to do about the base's responses to the problems of a capability, each by its own signs.

    `ours`: whether a verifier of copd grades the response, which needs a final answer in the `form`.
    """
    answered = [OPENING[form] in (behind_thoughts(text) or "") for text in texts]
    truncated = [has for has, whole in zip(answered, finished, strict=True) if not whole]
    graded = [has for has, whole, own in zip(answered, finished, ours, strict=True) if whole and own]
    found = []
    if len(truncated) > MANY_TRUNCATED * len(texts):
        if sum(truncated) > len(truncated) / 2:
            found.append(
                "most responses go on behind their answer until they are truncated: look at the samples; perhaps the "
                "model ends by a token that neither generation_config.json, tokenizer nor chat template names"
            )
        else:
            found.append("most responses are truncated: raise sampling.max_new_tokens")
    elif rate == 0 and graded and sum(graded) < FEW_ANSWERS * len(graded):
        found.append(
            f"hardly a response has a final answer in {OPENING[form]}: say in system_prompt where the answer goes, or "
            "choose another reward.answer_form"
        )
    elif rate == 0 and failures:
        found.append("nothing is right, and graders fail: see the line about grading")
    elif rate == 0:
        found.append("nothing is right: take easier problems, or another base")
    if rate == 1:
        found.append("everything is right: take harder problems")
    elif rate > 0 and signal < LEAST_SIGNAL:
        found.append("hardly a group has signal: take problems nearer to half right, or larger groups")
    return found


def one_line(error: Exception) -> str:
    """The beginning of an error's message."""
    return " ".join(str(error).split())[:LONGEST_REASON]


def size(count: float) -> str:
    """Bytes in words."""
    return f"{count / GIB:.1f} GiB" if count >= GIB else f"{count / 2**20:.1f} MiB"


def short(text: str) -> str:
    """The beginning of a text, quoted."""
    return repr(text if len(text) <= LONGEST_TEXT else f"{text[:LONGEST_TEXT]} ...")
