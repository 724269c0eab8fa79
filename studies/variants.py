"""Arms that no recipe can express, since they change the program: controls of mutual OPD, and candidates.

    python studies/variants.py studies/conflict/controls.yaml [--seeds 4] [--workers 2] [--out studies/conflict]

An arm of the file that has one of these names is trained by a changed program; the others by copd as it is.

base_teaches     control: the base scores each student's tokens, not the teacher
self_teaches     control: each student's own weights at the beginning of the phase do
random_sign      control: each token's bounded delta has a random sign
fixed_negative   control: the advantage is -1 on tokens to which the student gives a probability below 0.1, and 0
                 elsewhere (after arXiv 2608.31046)
only_wrong       candidate: a direct loss is taken on responses with a wrong answer alone
hybrid           candidate: visits are learned from by GRPO too, by the rewards that they are graded with anyway
delta_over_std   candidate: a lesson's deltas are divided by their standard deviation
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from copd.arms.running import command_of, one_thread, started
from copd.branches.branch import Branch
from copd.branches.signals import SampledToken
from copd.commands.compare import Order, run_comparison
from copd.maths.distill import sampled_delta
from copd.model.objectives import DenseObjective, Objective
from copd.model.policy import Policy
from copd.types import Part, Score

UNLIKELY = 0.1
"""Probability below which `fixed_negative` lowers a token."""

objective_of = Branch._objective


def taught_by(teacher: Callable[[Branch], Policy]) -> Callable[[Branch, Part], Objective]:
    """`Branch._objective` with another model's scores in the place of the teacher's."""

    def objective(branch: Branch, part: Part) -> Objective:
        if part.teacher is not None:
            score = branch.settings.signal.score(teacher(branch), part.rollouts, part.teacher_version)
            part = replace(part, teacher=score)
        return objective_of(branch, part)

    return objective


def base_teaches() -> None:
    began = Branch.__init__

    def begin(branch: Branch, *arguments: Any, **options: Any) -> None:
        began(branch, *arguments, **options)
        vars(branch)["base"] = branch.policy.clone()

    Branch.__init__ = begin  # type: ignore[method-assign]
    Branch._objective = taught_by(lambda branch: vars(branch)["base"])  # type: ignore[method-assign]


def self_teaches() -> None:
    """The recipe's `opd.teachers: phase_start` makes each branch hold its weights of the phase's beginning."""
    Branch._objective = taught_by(lambda branch: branch._held.policy)  # type: ignore[method-assign,union-attr]


def with_random_sign(delta_MT: Tensor, logp_MT: Tensor) -> Tensor:
    """Deltas with random signs, which are a function of the student's log-probs: a resumed run draws the same."""
    seed = zlib.crc32(logp_MT.numpy().tobytes())
    return delta_MT * torch.randint(0, 2, delta_MT.shape, generator=torch.Generator().manual_seed(seed)).mul(2).sub(1)


def below_unlikely(logp_MT: Tensor) -> Tensor:
    """-1 on unlikely tokens, 0 elsewhere."""
    return -(logp_MT.exp() < UNLIKELY).to(logp_MT)


def advantages(of: Callable[[Tensor, Tensor], Tensor]) -> None:
    """Advantages that are a function of the bounded delta and of the student's log-probs."""
    objective = SampledToken.objective

    def changed(signal: SampledToken, part: Part, score: Score) -> Objective:
        delta = signal.delta
        return objective(replace(signal, delta=lambda logp, teacher: of(delta(logp, teacher), logp)), part, score)

    SampledToken.objective = changed  # type: ignore[method-assign]


def only_wrong() -> None:
    """The other rows count in the denominator alone, as rows without gradient do."""
    rows_of = DenseObjective.rows_with_gradient

    def rows(objective: DenseObjective) -> Tensor:
        assert objective.rollouts.correct_N is not None
        rows_M = rows_of(objective)
        return rows_M[~objective.rollouts.correct_N[rows_M]]

    DenseObjective.rows_with_gradient = rows  # type: ignore[method-assign]


def hybrid() -> None:
    update = Branch.update

    def with_rewards(branch: Branch, parts: Sequence[Part]) -> dict[str, float]:
        visits = [replace(part, name=f"{part.name}_rlvr", teacher=None) for part in parts if part.teacher is not None]
        return update(branch, [*parts, *visits])

    Branch.update = with_rewards  # type: ignore[method-assign]


def delta_over_std() -> None:
    objective = SampledToken.objective

    def scaled(signal: SampledToken, part: Part, score: Score) -> Objective:
        delta, mask_NT = signal.delta, part.rollouts.mask_NT
        std = max(1e-3, float(sampled_delta(part.rollouts.logp_NT, score.logp_NT)[mask_NT].std()))
        return objective(replace(signal, delta=lambda logp, teacher: delta(logp, teacher) / std), part, score)

    SampledToken.objective = scaled  # type: ignore[method-assign]


CHANGED: dict[str, Callable[[], None]] = {
    "base_teaches": base_teaches,
    "self_teaches": self_teaches,
    "random_sign": lambda: advantages(with_random_sign),
    "fixed_negative": lambda: advantages(lambda _, logp_MT: below_unlikely(logp_MT)),
    "only_wrong": only_wrong,
    "hybrid": hybrid,
    "delta_over_std": delta_over_std,
}


def program_of(arm: str) -> str:
    """A hash of the code of an arm's variant, with all that it names in this file, but for comments and docstrings."""
    named = dict(_named(ast.parse(Path(__file__).read_text(encoding="utf-8"))))
    table = named.pop("CHANGED").value
    used = {"": table.values[[ast.literal_eval(key) for key in table.keys].index(arm)]}
    while more := _words(used.values()) & named.keys() - used.keys():
        used |= {name: named[name] for name in more}
    return hashlib.sha256("\n".join(_code(used[name]) for name in sorted(used)).encode()).hexdigest()[:16]


def _named(tree: ast.Module) -> Iterator[tuple[str, Any]]:
    """What a module defines at its top, by name."""
    for node in tree.body:
        match node:
            case ast.FunctionDef(name=name) | ast.AnnAssign(target=ast.Name(id=name)):
                yield name, node
            case ast.Assign(targets=[ast.Name(id=name)]):
                yield name, node


def _words(nodes: Iterable[ast.AST]) -> set[str]:
    return {inner.id for node in nodes for inner in ast.walk(node) if isinstance(inner, ast.Name)}


def _code(node: ast.AST) -> str:
    """The code without docstrings."""
    for inner in ast.walk(node):
        if isinstance(inner, ast.FunctionDef) and ast.get_docstring(inner) is not None:
            inner.body = inner.body[1:] or [ast.Pass()]
    return ast.unparse(node)


def launch(arguments: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
    """Start a job. The folder above its seed says which arm it is: NAME-FINGERPRINT."""
    arm = log.parent.name.rpartition("-")[0]
    program = [sys.executable, __file__, "--arm", arm, "--", *arguments] if arm in CHANGED else command_of(arguments)
    return started(program, log, one_thread())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, nargs="?", help="the comparison")
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, help="default: the folder of the comparison")
    parser.add_argument("--arm", choices=CHANGED, help=argparse.SUPPRESS)
    words = sys.argv[1:]
    own, command = (words[: words.index("--")], words[words.index("--") + 1 :]) if "--" in words else (words, [])
    asked = parser.parse_args(own)
    if asked.arm:
        from copd.cli import main as copd

        CHANGED[asked.arm]()
        sys.argv = ["copd", *command]
        copd()
    out = asked.out or asked.file.parent
    programs = {arm: program_of(arm) for arm in CHANGED}
    order = Order(asked.file, range(asked.seeds), out, asked.workers, print, launch, programs=programs)
    path, progress = run_comparison(order)
    print(f"{progress.skipped} jobs were done before, {len(progress.failed)} failed: {path}")
    sys.exit(int(bool(progress.failed)))


if __name__ == "__main__":
    main()
