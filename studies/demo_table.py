"""The README's tables and picture, from the runs of `make table`: every method at equal rollouts.

    python studies/demo_table.py [--runs runs] [--against LABEL ...]

After the table of accuracies come the sampled accuracy that the base starts from and, for each LABEL of that table, by
default CoPD's merge and the base, the paired differences of all other models to it.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from copd.commands.train import result_of
from copd.measure.compare import differences
from copd.measure.evaluate import Answers, Estimate
from copd.report.figures import draw_accuracy, draw_divergence, draw_overlap, plain_axes, shade_rlvr
from copd.runs.runlog import ANSWERS, read_lines

CAPABILITIES = ("text", "image", "video")
MODELS: tuple[tuple[str, dict[str, str]], ...] = (
    ("copd", {"base": "base"}),
    ("expert", {name: f"{name} expert" for name in CAPABILITIES}),
    ("merge_only", {"merged": "experts, merged"}),
    ("static_opd", {"text": "static OPD, image expert to text expert"}),
    ("mopd", {"student": "multi-teacher OPD (MOPD), from the base"}),
    ("mopd_mean", {"student": "MOPD, from the experts' mean"}),
    ("mixed", {"mixed": "mixed RLVR, K = 3 times the steps"}),
    ("mixed_batch", {"mixed": "mixed RLVR, K times the batch"}),
    ("copd", {name: f"CoPD, {name} branch" for name in CAPABILITIES} | {"merged": "CoPD, merged"}),
)
"""Run folder, and its models with their labels, in the order of the table."""


REFERENCES = ("CoPD, merged", "base")


def percent(e: Estimate) -> str:
    return f"{100 * e.value:.1f} [{100 * e.low:.1f}, {100 * e.high:.1f}]"


def points(e: Estimate) -> str:
    return f"{100 * e.value:+.1f} [{100 * e.low:+.1f}, {100 * e.high:+.1f}]"


def rows(runs: Path) -> list[tuple[str, dict[str, str]]]:
    """Label and per-capability "accuracy [low, high]" of every model that the runs have made."""
    table = []
    for run, models in MODELS:
        cells = result_of(runs / run)
        for model, label in models.items():
            own = {cell.capability: cell.greedy for cell in cells if cell.model == model}
            table.append((label, {capability: percent(estimate) for capability, estimate in own.items()}))
    return table


def markdown(runs: Path) -> str:
    """The table as Markdown, with each run's rollouts."""
    spent = []
    for run in dict.fromkeys(run for run, _ in MODELS):
        ledger = next(r for r in read_lines(runs / run / "metrics.jsonl") if r["event"] == "ledger")
        spent.append(f"{run} {ledger['planned_rollouts']:,}")
    return f"{grid(rows(runs))}\n\nRollouts: {', '.join(spent)}.\n"


def grid(table: list[tuple[str, dict[str, str]]]) -> str:
    """Rows of one label and cells by capability as Markdown."""
    capabilities = list(table[0][1])
    lines = ["| model | " + " | ".join(capabilities) + " |", "|---" * (len(capabilities) + 1) + "|"]
    lines += [
        f"| {label} | " + " | ".join(cells[capability] for capability in capabilities) + " |" for label, cells in table
    ]
    return "\n".join(lines)


def sampled(runs: Path) -> str:
    """What RLVR starts from: the base's accuracy in answers that are sampled, in each capability."""
    cells = [cell for cell in result_of(runs / "copd") if cell.model == "base"]
    return "Sampled answers of the base: " + ", ".join(f"{c.capability} {percent(c.pass_at[1])}" for c in cells) + ".\n"


def paired(runs: Path, against: str) -> str:
    """Points of greedy accuracy by which each model is above the one labelled `against`, on the same problems."""
    answers = []
    for run, models in MODELS:
        told = [Answers.from_record(record) for record in read_lines(runs / run / ANSWERS)]
        answers += [replace(a, model=models[a.model]) for a in told if a.model in models]
    table: dict[str, dict[str, str]] = {}
    for d in differences(answers, against):
        table.setdefault(d.model, {})[d.capability] = f"**{points(d.greedy)}**" if d.is_clear else points(d.greedy)
    said = f"Difference to {against}, points, paired 95 % intervals, bold where they leave out 0:"
    return f"{said}\n\n{grid(list(table.items()))}\n"


def picture(runs: Path, out: Path) -> None:
    """Overlap and divergence between the branches, and their accuracy, through the run of CoPD; experts dashed."""
    copd, expert = (list(read_lines(runs / run / "metrics.jsonl")) for run in ("copd", "expert"))
    figure = Figure(figsize=(13, 3.6), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    for axes, draw in ((left, draw_overlap), (middle, draw_divergence)):
        draw(axes, expert, label="experts: ", style="--")
        draw(axes, copd, label="CoPD: ")
    draw_accuracy(right, copd)
    for axes in (left, middle, right):
        plain_axes(axes)
        shade_rlvr(axes, copd)
        axes.legend(frameon=False, fontsize="x-small", handlelength=3.5)
    with matplotlib.rc_context({"svg.hashsalt": out.stem}):  # the same picture is the same file
        figure.savefig(out, facecolor="white", metadata={"Date": None})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--picture", type=Path, default=Path("docs/demo.svg"))
    labels = [label for _, models in MODELS for label in models.values()]
    parser.add_argument("--against", action="append", choices=labels, metavar="LABEL")
    arguments = parser.parse_args()
    picture(arguments.runs, arguments.picture)
    print(markdown(arguments.runs))
    print(sampled(arguments.runs))
    for label in arguments.against or REFERENCES:
        print(paired(arguments.runs, label))
