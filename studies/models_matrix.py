"""The matrix of docs/models.md: tiny random models of each kind, the path they take, and what it differs by.

    python studies/models_matrix.py [KIND ...]

Everything is built offline. A row is a kind of model with a kind of prompt; columns: the path that the check at start
settles on for log-probs; the greatest difference of a log-prob, in nats, between that path and each text alone through
the model's own forward; how many times as much CPU time forward and backward take on the plain path as packed (8 rows
per prompt, medians of 5).
"""

from __future__ import annotations

import statistics
import sys
import time
import warnings
from pathlib import Path

import torch

from copd.model.parity import logp_alone, settle_path
from copd.model.policy import Policy
from copd.tasks.digits import Digits
from copd.types import Rollouts, Split

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from tiny_kinds import TINY_KINDS, tiny_of_kind

PROMPTS, ROWS, TOKENS, REPEATS = 4, 8, 24, 5


def main() -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    print("| model | class | prompts | path | differs by, nats | packed is faster by |")
    print("|---|---|---|---|---|---|")
    for name in sys.argv[1:] or TINY_KINDS:
        for kind in Policy(*tiny_of_kind(name)).encoder.family.kinds:
            print(row(name, kind), flush=True)


def row(name: str, kind: str) -> str:
    policy = Policy(*tiny_of_kind(name))
    problems = [Digits(kind).problem(Split.TRAIN, i) for i in range(PROMPTS)]
    settle_path(policy, problems, allow_plain_path=True)
    generator = torch.Generator().manual_seed(0)
    rollouts = policy.sample(problems, rollouts_per_prompt=ROWS, generator=generator, max_new_tokens=TOKENS)
    difference = float((policy.score(rollouts).logp_NT - logp_alone(policy, rollouts)).abs().max())
    path, gain = ("packed", f"{speedup(policy, rollouts):.1f}x") if policy.packs else ("plain", "—")
    return f"| {name} | {type(policy.model).__name__} | {kind} | {path} | {difference:.0e} | {gain} |"


def speedup(policy: Policy, rollouts: Rollouts) -> float:
    """CPU seconds of forward and gradient on the plain path over those of packed prompts and responses."""
    seconds = {}
    for packing in (True, False):
        policy.packing = packing
        seconds[packing] = statistics.median(passes(policy, rollouts) for _ in range(REPEATS))
    policy.packing = True
    return seconds[False] / seconds[True]


def passes(policy: Policy, rollouts: Rollouts) -> float:
    started = time.process_time()
    parameters = list(policy.model.parameters())
    torch.autograd.grad(policy.logp(rollouts).sum(), parameters, allow_unused=True)
    return time.process_time() - started


if __name__ == "__main__":
    main()
