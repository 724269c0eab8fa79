"""`copd init`: a recipe for files of rows and a model, with guesses that its comments tell."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

from copd.assemble.rows import rules_of, ungradable
from copd.assemble.tasks import make_tasks
from copd.errors import CopdError, DataError, ModelFolderError
from copd.model.folders import BUILTIN, SETTINGS, family_in, is_local, model_folder, without_weights
from copd.recipe.evaluation import FEW, MOST
from copd.recipe.reading import load_recipe
from copd.recipe.strict_yaml import parse_yaml
from copd.rewards.grading import OURS
from copd.rewards.verifiers import REFERENCES
from copd.rows.check import UNNAMED
from copd.rows.hub import NAMES_OF_SPLIT, repository_of
from copd.rows.opening import Settings
from copd.rows.survey import Survey, survey
from copd.system.files import HUB
from copd.system.hub import commit_of
from copd.types import RESERVED_NAMES, Split

FORM = "boxed"
GUESSED = ("choice", "integer", "number")
"""Verifiers in the order in which they are tried. Each reads less than the next, but for choice."""
NEARLY_ALL = 0.9
"""A verifier that reads so many of a file's answers is taken; the other rows are left out."""
MANY_BAD = 0.5
"""A file with a larger share of bad rows is refused."""
MAIN = "main"
HUB_ID = re.compile(r"(\w[\w.-]*/\w[\w.-]*)(?:@(.+))?")
SPLITS = "|".join(name for names in NAMES_OF_SPLIT.values() for name in names)
NO_NAME = re.compile(rf"(?:^|[-_])(?:\d+|of|data|\*|{SPLITS})(?=[-_]|$)")
"""The parts of file names that say nothing of what the rows ask."""
VALIDATION = re.compile(rf"(?:^|[-_])(?:{'|'.join(NAMES_OF_SPLIT['validation'])})(?=[-_]|$)")
TOLD = 3
"""Most notes on the rows of a file that are told."""
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


def recipe_for(model: str, files: Sequence[str], tell: Callable[[str], None]) -> str:
    """The YAML of a recipe that trains a model on files of rows, one branch for each. `tell` takes warnings.

    Raises DataError for a file that cannot be used, ModelFolderError for a model that cannot, or does not take a file's
    pictures.
    """
    about = _model(model)
    branches: list[Branch] = []
    for at, file in enumerate(files):
        if file in files[:at]:
            raise DataError(f"{file}: is given twice; each file is a branch of its own")
        branches.append(_branch(file, about, {each.name for each in branches}, tell))
    least, asked = min(branches, key=lambda branch: branch.sizes[Split.TEST]), _sizes(branches)["problems"]
    if asked < FEW:
        tell(
            f"{least.found.file}: leaves {asked} test problems, so one is {100 / asked:.0f} points of an accuracy; "
            f"give more rows, or write `test: FILE` into {least.name}"
        )
    text = _written(about, branches)
    make_tasks(load_recipe(parse_yaml(text, "the new recipe")))
    return text


def _model(given: str) -> Model:
    """Raises ModelFolderError for what is no model."""
    path, commit = given, None
    named = None if is_local(given) or Path(given).is_file() else HUB_ID.fullmatch(given)
    if named:
        path, revision = named[1], named[2] or MAIN
        try:
            commit = commit_of(path, revision, "model")
        except CopdError as error:
            raise ModelFolderError(f"--model: no folder {given!r} here; {error}") from error
    folder = model_folder(path, "--model", commit, SETTINGS)
    shell = without_weights(folder)
    context = getattr(shell.config.get_text_config(), "max_position_embeddings", None)
    return Model(path, commit, family_in(folder, shell).kinds, context)


def _branch(file: str, model: Model, taken: set[str], tell: Callable[[str], None]) -> Branch:
    commit = None
    if file.startswith(HUB):
        try:
            commit = commit_of(repository_of(file), MAIN, "dataset")
        except CopdError as error:
            raise DataError(f"{file}: {error}") from error
    settings = Settings(rules_of(FORM, verifiers=OURS, verifier=UNNAMED), revision=commit)
    readers = {name: partial(_reads, name) for name in REFERENCES}
    found = survey(file, settings, UNNAMED, readers)
    if found.bad > MANY_BAD * (found.bad + found.rows):
        raise DataError(f"{file}: {found.bad} of {found.bad + found.rows} rows are bad, the first: {found.first_bad}")
    if strangers := sorted(set(found.kinds) - set(model.kinds)):
        raise ModelFolderError(
            f"{file}: its rows hold {' and '.join(strangers)}; {model.path} takes {' and '.join(model.kinds)} only"
        )
    verifier = _verifier(found)
    misfits = found.unnamed - found.readable[verifier] if verifier is not None and verifier in GUESSED else 0
    if found.bad:
        tell(f"{file}: {found.bad} bad rows are left out, the first: {found.first_bad}")
    if misfits:
        tell(f"{file}: {misfits} of {found.rows} rows are left out: verifier {verifier} cannot read their answers")
    if len(found.answers) == 1 and found.rows > 1:
        tell(
            f"{file}: every answer is {next(iter(found.answers))[:40]!r}, which teaches nothing else; take a file "
            "whose answers are not hidden"
        )
    for note, count in found.notes.most_common(TOLD):
        tell(f"{file}: {count} rows: {note}")
    share, sizes = found.share(MOST["problems"])
    name, stem = _name(file, taken), _stem(file)
    if stem in taken:
        field = "validation" if VALIDATION.search(Path(file).stem) else "test"
        tell(
            f"{file}: is a branch of its own, {name}, that learns; if its rows are for the {field} of {stem}, leave "
            f"the file out and write `{field}: {file}` into {stem}"
        )
    return Branch(name, found, verifier, found.bad + misfits, share, sizes, commit)


def _reads(verifier: str, answer: str) -> bool:
    return ungradable(FORM, verifier, answer) is None


def _verifier(found: Survey) -> str | None:
    """The verifier of rows that name none: one that reads all or nearly all of their answers; None if all name one."""
    if not found.unnamed:
        return None
    shares = {name: found.readable[name] / found.unnamed for name in GUESSED}
    best = _best(found)
    if shares[best] >= NEARLY_ALL:
        return best
    return "math" if found.formulas or any(shares.values()) else "exact"


def _best(found: Survey) -> str:
    """The guessed verifier that reads most answers, the first of equals."""
    return max(GUESSED, key=lambda name: found.readable[name])


def _read_as(verifier: str, found: Survey) -> str:
    """What a verifier that was chosen reads the answers as, or why no simpler one was."""
    if verifier != "math":
        return f"answers are {READ[verifier]}"
    if found.formulas:
        return f"{found.formulas} of {found.unnamed} answers look like formulas or quantities"
    best = _best(found)
    others = found.unnamed - found.readable[best]
    return f"{others} of {found.unnamed} answers are no {READ[best]}, the first: {found.unread[best][:40]!r}"


def _name(file: str, taken: set[str]) -> str:
    """A free name for the branch of a file."""
    name = _stem(file)
    free = (each for each in (name, *(f"{name}_{i}" for i in range(2, 99))) if each not in taken | RESERVED_NAMES)
    return next(free)


def _stem(file: str) -> str:
    """A branch's name after its file's, or after its folder's or data set's if that is only train or test."""
    parts = [part for part in re.split(r"[/\\:]", file) if part]
    stems = [NO_NAME.sub("", part.partition(".")[0]) for part in parts]
    stem = next((stem for stem in reversed(stems) if re.search("[A-Za-z]", stem)), "rows")
    name = re.sub(r"[^A-Za-z0-9_-]+", "_", stem).strip("_-")[:28] or "rows"
    return name if name[0].isalpha() and _is_plain(name) else f"rows_{name}"


def _written(model: Model, branches: Sequence[Branch]) -> str:
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
        lines.append(f"      max_bad_rows: {branch.left_out + (in_reserve(found.rows) if branch.has_media else 0)}")
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


def in_reserve(rows: int) -> int:
    """How many of so many rows with pictures or videos may prove bad when they are opened."""
    return rows // 10 + 2


def _evaluation_lines(branches: Sequence[Branch]) -> list[str]:
    if not any(branch.has_media for branch in branches):
        return ["evaluation: {pass_at: [1]}                  # 500 problems each, or as many as there are"]
    return [
        "evaluation:                                 # a tenth and two rows are in reserve, if some cannot be opened",
        f"  {{{', '.join(f'{name}: {size}' for name, size in _sizes(branches).items())}, pass_at: [1]}}",
    ]


def _sizes(branches: Sequence[Branch]) -> dict[str, int]:
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
        name: max(1, min(MOST[name], count - (in_reserve(count) if reserved else 0))) for name, count in there.items()
    }


def _text(value: str) -> str:
    """A text as YAML reads it."""
    return value if _is_plain(value) else json.dumps(value, ensure_ascii=False)


def _is_plain(value: str) -> bool:
    """Whether YAML reads a text without quotes as this text."""
    return PLAIN.fullmatch(value) is not None and parse_yaml(f"[{value}]", value) == [value]
