"""Memory that one training step adds to a process that has made a smaller one: `python -m benchmarks.memory --help`.

Prompts are ten times longer than responses. Peak of resident memory in the step, less what was resident before it.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys

import torch

from benchmarks.ours import Lengthened, Size, digits, make_branches, problems_of, without_shortcuts
from benchmarks.responses import written
from copd.model.learner import Learner
from copd.model.objectives import GrpoObjective
from copd.system.processes import STATUS, peak
from copd.types import Rollouts

PATHS = ("packed", "plain", "plain_tokens")
"""Packed prompts and responses; the plain path with all rows in one micro-batch, which packed rows are too; the plain
path on micro-batches of the same budget, which counts the prompt of every row there."""


def memory_mib() -> tuple[float, float]:
    """Memory resident now, and the most that ever was; where the system does not tell, the latter for both."""
    held = peak().machine / 2**20
    if not STATUS.is_file():
        return held, held
    (now,) = (line.split()[1] for line in STATUS.read_text().splitlines() if line.startswith("VmRSS:"))
    return int(now) / 2**10, held


def train(learner: Learner, rollouts: Rollouts) -> None:
    """One optimizer step on all rows."""
    advantage_N = torch.linspace(-1, 1, len(rollouts.tokens_NT))
    with without_shortcuts():
        learner.step([GrpoObjective("native", rollouts, 1.0, advantage_N)])


def added_mib(kind: str, path: str, size: Size) -> float:
    """MiB that a training step adds."""
    task = Lengthened(digits(kind), 10 * size.short_tokens)
    (branch,) = make_branches({kind: task}, size.short_tokens)
    branch.policy.shared_prefix = path == "packed"
    if path == "plain":
        branch.policy.micro_batch_tokens = sys.maxsize
    rollouts = written(branch.policy, problems_of(task, 0, size), size.rollouts, size.short_tokens)
    branch.policy.encoder.lengths(rollouts.problems)
    train(branch.learner, written(branch.policy, rollouts.problems[:1], 2, 2))
    gc.collect()
    before, _ = memory_mib()
    train(branch.learner, rollouts)
    return memory_mib()[1] - before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=("text", "image", "video"))
    parser.add_argument("path", choices=PATHS)
    for name in ("threads", "prompts", "rollouts", "tokens"):
        parser.add_argument(name, type=int)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    size = Size(prompts=asked.prompts, rollouts=asked.rollouts, short_tokens=asked.tokens)
    print(json.dumps({"added_mib": added_mib(asked.kind, asked.path, size)}))


if __name__ == "__main__":
    main()
