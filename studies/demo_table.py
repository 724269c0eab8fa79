"""The README's table and picture, from the runs of `make table`: every method at equal rollouts."""

import argparse
from pathlib import Path

from matplotlib.figure import Figure

from copd.report.figures import draw_accuracy, draw_divergence, draw_overlap, plain_axes, shade_rlvr
from copd.run import result_of
from copd.runs.runlog import read_lines

FIELDS = ("text", "image", "video")
MODELS: tuple[tuple[str, dict[str, str]], ...] = (
    ("demo", {"base": "base"}),
    ("expert", {name: f"{name} expert" for name in FIELDS}),
    ("merge_only", {"merged": "experts, merged"}),
    ("static_opd", {"text": "static OPD, image expert to text expert"}),
    ("mopd", {"student": "multi-teacher OPD, from the base"}),
    ("mopd_mean", {"student": "multi-teacher OPD, from the experts' mean"}),
    ("mixed", {"mixed": "mixed RLVR, K times the steps"}),
    ("mixed_batch", {"mixed": "mixed RLVR, K times the batch"}),
    ("demo", {name: f"CoPD, {name} branch" for name in FIELDS} | {"merged": "CoPD, merged"}),
)
"""Run folder, and its models with their labels, in the order of the table."""


def rows(runs: Path) -> list[tuple[str, dict[str, str]]]:
    """Label and per-field "accuracy [low, high]" of every model that the runs have made."""
    table = []
    for run, models in MODELS:
        cells = result_of(runs / run)
        for model, label in models.items():
            own = {cell.field: cell.greedy for cell in cells if cell.model == model}
            texts = {f: f"{100 * e.value:.1f} [{100 * e.low:.1f}, {100 * e.high:.1f}]" for f, e in own.items()}
            table.append((label, texts))
    return table


def markdown(runs: Path) -> str:
    """The table as Markdown, with each run's rollouts."""
    table = rows(runs)
    fields = list(table[0][1])
    lines = ["| model | " + " | ".join(fields) + " |", "|---" * (len(fields) + 1) + "|"]
    lines += [f"| {label} | " + " | ".join(cells[field] for field in fields) + " |" for label, cells in table]
    spent = []
    for run in dict.fromkeys(run for run, _ in MODELS):
        ledger = next(r for r in read_lines(runs / run / "metrics.jsonl") if r["event"] == "ledger")
        spent.append(f"{run} {ledger['planned_rollouts']:,}")
    return "\n".join(lines) + f"\n\nRollouts: {', '.join(spent)}.\n"


def picture(runs: Path, out: Path) -> None:
    """Overlap and divergence between the branches, and their accuracy, through the demo run; experts dashed."""
    copd, expert = (list(read_lines(runs / run / "metrics.jsonl")) for run in ("demo", "expert"))
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
    figure.savefig(out, facecolor="white", metadata={"Date": None})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--picture", type=Path, default=Path("docs/demo.svg"))
    arguments = parser.parse_args()
    picture(arguments.runs, arguments.picture)
    print(markdown(arguments.runs))
