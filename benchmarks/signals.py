"""What a step of OPD costs with each signal, against the sampled token.

    python -m benchmarks.signals

A student answers its teacher's prompts, the teacher answers the student, and the student makes one update. The models
are tiny and have random weights; no response ends before its full length. One thread.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable

import torch

from benchmarks.growth import Work, make_branch, make_policy
from benchmarks.measure import interleave, markdown, spread
from benchmarks.ours import Lengthened
from copd.assemble.branches import make_signal
from copd.recipe.reading import load_recipe
from copd.tasks.digits import Digits
from copd.types import Part

SIGNALS = ("sampled", "reverse_kl", "forward_kl", "jsd")
SIZES = {
    1.25: Work(prompts=32, rollouts=1, response=32, vocabulary=128),
    1.6: Work(prompts=2, rollouts=1, response=16, vocabulary=151_936),
}
"""The work of a step, by how many times the seconds of the sampled token a signal may take."""
REPETITIONS = 7


def step_of(work: Work, signal: str) -> Callable[[int], object]:
    """One step of OPD of one student with one teacher."""
    base = make_policy(work.vocabulary)
    chosen = make_signal(load_recipe("demo-paper", [f"opd.signal={signal}"]), base)
    tasks = {name: Lengthened(Digits("text", seed=k), work.prompt) for k, name in enumerate(("own", "peers"))}
    student, teacher = (make_branch(base, name, k, tasks, work, chosen) for k, name in enumerate(tasks))

    def step(number: int) -> None:
        visit = student.collect(teacher.name, number, work.prompts, work.rollouts)
        student.update([Part("from_peers", visit, 1.0, teacher.score(visit))])

    return step


def main() -> None:
    torch.set_num_threads(1)
    header = ("tokens of vocabulary", "signal", "seconds of a step", "times the sampled token's", "at most", "kept")
    lines = []
    for most, work in SIZES.items():
        times = interleave({signal: step_of(work, signal) for signal in SIGNALS}, REPETITIONS)
        for signal, taken in times.items():
            pairs = [mine / sampled for mine, sampled in zip(taken, times["sampled"], strict=True)]
            low, middle, high = statistics.quantiles(pairs, n=4, method="inclusive")
            ratio = f"{middle:.2f} [{low:.2f}, {high:.2f}]"
            cells = (f"{work.vocabulary:,}", f"`{signal}`", spread(taken, "s"), ratio, str(most))
            lines.append((*cells, "yes" if middle <= most else "no"))
    print(markdown(header, lines))


if __name__ == "__main__":
    main()
