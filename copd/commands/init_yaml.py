"""The YAML that `copd init` writes: each guess in a comment behind its line."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from copd.model.folders import BUILTIN
from copd.recipe.evaluation import MOST
from copd.recipe.strict_yaml import parse_yaml
from copd.rows.survey import Survey
from copd.types import Split

GUESSED = ("choice", "integer", "number")
"""Verifiers in the order in which they are tried. Each reads less than the next, but for choice."""
PLAIN = re.compile(r"[A-Za-z_./][\w./-]*")
"""Texts that YAML reads as texts, but for a few words such as null and on."""
READ = {
    "choice": "letters",
    "integer": "whole numbers",
    "number": "numbers",
    "exact": "texts, compared as they are written",
}
"""What each verifier reads answers as; math reads all of them, and formulas."""


class Model(NamedTuple):
    """A model as a recipe names it: path and commit, the kinds of prompts that it takes, the tokens of its context."""

    path: str
    commit: str | None
    kinds: Sequence[str]
    context: int | None


@dataclass(frozen=True)
class Branch:
    """A file as a branch of the recipe. `left_out`: how many rows the verifier cannot read, or are bad."""

    name: str
    found: Survey
    verifier: str | None
    left_out: int
    share: float
    sizes: dict[Split, int]
    commit: str | None

    @property
    def has_media(self) -> bool:
        return set(self.found.kinds) != {"text"}


def written(model: Model, branches: Sequence[Branch]) -> str:
    """The recipe that trains a model on these branches, as YAML."""
    toy = model.path.startswith(BUILTIN)
    alone = len(branches) == 1
    response = min(16_384, (model.context or 32_768) // 2)
    prompts = max(1, min(256, *(branch.sizes[Split.TRAIN] for branch in branches)))
    lines = [
        "# Written by `copd init`: what it guessed is told behind each line.",
        "# `copd doctor FILE` checks it, `copd plan FILE` says what fits, `copd train FILE --out runs/first` trains.",
        "seed: 0",
        "method: expert                              # GRPO on the only branch; with two files or more: copd"
        if alone
        else "method: copd",
        *_model_lines(model, response, toy),
        "branches:"
        if alone
        else "branches:                                   # with opd_steps, the first and each other teach one another",
        *(line for branch in branches for line in _branch_lines(branch, toy)),
        *(_toy_lines(prompts, alone) if toy else _real_lines(prompts, response, alone)),
        *_evaluation_lines(branches),
    ]
    return "\n".join(lines) + "\n"


def _model_lines(model: Model, response: int, toy: bool) -> list[str]:
    lines = ["model:", f"  path: {_text(model.path)}"]
    if model.commit is not None:
        lines.append(f"  revision: {model.commit}")
    if toy:
        return [*lines, "  device: cpu", "  dtype: float32"]
    return [
        *lines,
        "  dtype: auto                               # bfloat16 on a card; weights stay float32",
        f"  micro_batch_tokens: {response + 4096:<22} # a prompt and a response of full length",
        "  gradient_checkpointing: true              # less memory, more time",
        "# lora: {rank: 16}                          # adapters in place of all weights, on one base; a rate of 1.0e-5",
    ]


def _branch_lines(branch: Branch, toy: bool) -> list[str]:
    found, sizes = branch.found, branch.sizes
    kinds = ", ".join(f"{count:,} of {kind}" for kind, count in sorted(found.kinds.items()))
    counts = ", ".join(f"{sizes[split]:,} {split.value}" for split in Split)
    lines = [f"  {branch.name}:", "    task:", "      kind: rows", f"      train: {_text(found.file)}"]
    if branch.commit is not None:
        lines.append(f"      revision: {branch.commit}")
    lines.append(f"      # columns: {found.columns}")
    lines.append(f"      # rows: {kinds}; cut by hash into {counts}")
    lines += [f"      validation_share: {branch.share}", f"      test_share: {branch.share}"]
    if branch.verifier is not None:
        lines.append(f"      verifier: {branch.verifier:<26} # {_read_as(branch.verifier, found)}")
    if branch.left_out or branch.has_media:
        opened = "; pictures and videos are opened when they are drawn" if branch.has_media else ""
        lines.append(f"      bad_rows: skip                        # `copd data check` lists them{opened}")
        lines.append(f"      max_bad_rows: {branch.left_out + (_in_reserve(found.rows) if branch.has_media else 0)}")
    if not toy:
        lines.append('      system_prompt: "Think step by step. Put your final answer into \\\\boxed{}."')
    return lines


def _toy_lines(prompts: int, alone: bool) -> list[str]:
    """Values of the example in docs/own-data.md, in which a tiny model learns in minutes on a CPU."""
    few = min(16, prompts)
    return [
        "schedule: {cycles: 1, rl_steps: 20, opd_steps: 0}"
        + ("" if alone else "   # each branch alone; the paper: cycles with opd_steps"),
        f"sampling: {{prompts_per_step: {few}, rollouts_per_prompt: 8, max_new_tokens: 24}}",
        *([] if alone else _taught(few, 10, "3.0e-4")),
        "optimizer: {learning_rate: 1.0e-4, betas: [0.9, 0.99], weight_decay: 0.0}",
    ]


def _taught(prompts: int, steps: int, rate: str) -> list[str]:
    """A student that begins as the branches' mean, and that all of them teach."""
    return [
        f"opd: {{signal: reverse_kl, prompts_per_step: {prompts}, rollouts_per_prompt: 1, learning_rate: {rate}}}",
        f"merge: {{method: distil, steps: {steps}}}        # then all branches teach one student; the paper: mean",
    ]


def _real_lines(prompts: int, response: int, alone: bool) -> list[str]:
    """Values of the paper, arXiv 2604.27083."""
    return [
        "# From here on values of the paper, arXiv 2604.27083, but for the number of cycles and the prompts of opd.",
        f"schedule: {{cycles: 4, rl_steps: 15, opd_steps: {0 if alone else 10}}}",
        f"sampling: {{prompts_per_step: {prompts}, rollouts_per_prompt: 8, max_new_tokens: {response},",
        "  cache_tokens: 65536}                      # how many tokens are sampled side by side: as many as fit",
        *([] if alone else [f"opd: {{prompts_per_step: {max(1, prompts // 2)}, rollouts_per_prompt: 8}}"]),
        *([] if alone else _led(prompts)),
        "grpo: {clip_low: 0.2, clip_high: 0.28}",
        "optimizer:                                  # kind: adamw_on_cpu needs 8 bytes less of a card for each weight",
        "  {kind: adamw, learning_rate: 1.0e-6, betas: [0.9, 0.999], weight_decay: 0.01}",
        "backend: processes                          # a process for each branch; local: all in one",
    ]


def _led(prompts: int) -> list[str]:
    """The form that led the study, as comments."""
    return [
        "# For schedule and opd above, without lora: branches learn alone, then all of them teach one student.",
        "# This form led copd's study of a tiny model. These numbers are guesses.",
        "# schedule: {cycles: 1, rl_steps: 90, opd_steps: 0}",
        *(f"# {line}" for line in _taught(prompts, 90, "3.0e-6")),
    ]


def _in_reserve(rows: int) -> int:
    """How many of so many rows with pictures or videos may prove bad when they are opened."""
    return rows // 10 + 2


def _evaluation_lines(branches: Sequence[Branch]) -> list[str]:
    if not any(branch.has_media for branch in branches):
        return ["evaluation: {pass_at: [1]}                  # 500 problems each, or as many as there are"]
    return [
        "evaluation:                                 # a tenth and two rows are in reserve, if some cannot be opened",
        f"  {{{', '.join(f'{name}: {size}' for name, size in sizes_of(branches).items())}, pass_at: [1]}}",
    ]


def sizes_of(branches: Sequence[Branch]) -> dict[str, int]:
    """How many problems of each branch are asked, by field of evaluation: as many as the smallest branch has.

    Not all pictures and videos are opened here. Where there are some, sizes leave room for rows that prove bad.
    """
    there = {
        "problems": min(branch.sizes[Split.TEST] for branch in branches),
        "validation_problems": (least := min(branch.sizes[Split.VALIDATION] for branch in branches)),
        "behaviour_problems": least,
    }
    reserved = any(branch.has_media for branch in branches)
    return {
        name: max(1, min(MOST[name], count - (_in_reserve(count) if reserved else 0))) for name, count in there.items()
    }


def _text(value: str) -> str:
    """A text as YAML reads it."""
    return value if is_plain(value) else json.dumps(value, ensure_ascii=False)


def is_plain(value: str) -> bool:
    """Whether YAML reads a text without quotes as this text."""
    return PLAIN.fullmatch(value) is not None and parse_yaml(f"[{value}]", value) == [value]


def best_guess(found: Survey) -> str:
    """The guessed verifier that reads most answers, the first of equals."""
    return max(GUESSED, key=lambda name: found.readable[name])


def _read_as(verifier: str, found: Survey) -> str:
    """What a verifier that was chosen reads the answers as, or why no simpler one was."""
    if verifier != "math":
        return f"answers are {READ[verifier]}"
    if found.formulas:
        return f"{found.formulas} of {found.unnamed} answers look like formulas or quantities"
    best = best_guess(found)
    others = found.unnamed - found.readable[best]
    return f"{others} of {found.unnamed} answers are no {READ[best]}, the first: {found.unread[best][:40]!r}"
