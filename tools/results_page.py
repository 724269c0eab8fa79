"""docs/results.md, from the committed results of the study and from tools/results.md.jinja (`make docs`)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

import jinja2
from results_claims import EXPERT, ONE_CYCLE, claims, co_evolution, elsewhere, gained
from results_words import gain, markdown, percents, settings, share, spread

from copd.arms.comparison import Comparison, read_comparison
from copd.arms.jobs import candidate_name
from copd.arms.outcomes import Outcome, mean_of_pairs, read_outcomes
from copd.arms.page import verdict
from copd.arms.summary import ArmRow, Contrast, Sources, arm_rows, contrasts
from copd.commands.compare import PROBLEMS
from copd.maths.seeds import t_interval
from copd.measure.evaluate import AVERAGE, Estimate, columns_of
from copd.report.words import counted, within
from copd.types import MERGED, STUDENT

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "results.md"
MAIN = ROOT / "studies" / "conflict" / "main.yaml"
BESIDE = {"ablations.yaml": "Ablations", "controls.yaml": "Controls", "candidates.yaml": "Candidates"}
"""Comparisons beside the main one, in its folder, and their headings."""
WORLDS = sorted(file for file in (ROOT / "studies").glob("*/main.yaml") if file != MAIN)
TEMPLATE = Path(__file__).with_name("results.md.jinja")


@dataclass(frozen=True)
class Study:
    """The outcomes of a comparison as far as they are there, in the words and tables of the page."""

    file: Path

    @cached_property
    def comparison(self) -> Comparison:
        return read_comparison(self.file)

    @cached_property
    def outcomes(self) -> list[Outcome]:
        """Of the test, arms in the order of the file."""
        found = [o for o in read_outcomes(self.file.parent / "results") if o.arm in self.comparison.arms]
        order = list(self.comparison.arms)
        return sorted(found, key=lambda o: (order.index(o.arm), o.seed))

    @cached_property
    def sources(self) -> Sources:
        path = self.file.parent / "results" / PROBLEMS
        found: Sources = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        return found

    @cached_property
    def rows(self) -> dict[str, ArmRow]:
        return {row.arm: row for row in arm_rows(self.outcomes, self.sources)}

    @property
    def has_regrets(self) -> bool:
        """Whether an arm can be held against the experts of its seeds."""
        return any(row.regret and row.arm != EXPERT for row in self.rows.values())

    @property
    def candidates(self) -> int:
        """How many candidates each arm that searches has."""
        assert self.comparison.search
        return len(next(iter(self.comparison.search.candidates.values())))

    def verdict(self) -> list[str]:
        """What is best, and what can and cannot be told apart from each reference, each in a line of its own."""
        counts = sorted({len(row.seeds) for row in self.rows.values()})
        seeds = counted(counts[0], "seed") if len(counts) == 1 else f"{counts[0]} to {counts[-1]} seeds"
        best, *more = verdict(list(self.rows.values()), list(self.found.items()))
        return [f"After {seeds} of each arm, {best}", *more, " ".join(co_evolution(self))]

    @cached_property
    def found(self) -> dict[str, list[Contrast]]:
        """Every other arm against each reference that has begun."""
        references = [name for name in self.comparison.compared_with if name in self.rows]
        return {name: contrasts(self.outcomes, name, self.sources) for name in references}

    def accuracies(self) -> str:
        """Greedy accuracy of each arm."""
        names = columns_of(list(self.outcomes[0].problems))
        ks = list(next(iter(self.rows.values())).pass_at)
        header = ("arm", "seeds", *names, *(f"pass@{k}" for k in ks), "rollouts")
        lines = [
            (
                f"`{arm}`",
                f"{len(row.seeds)}",
                *(share(row.accuracy[name], len(row.seeds)) for name in names),
                *(f"{100 * row.pass_at[k].value:.1f}" for k in ks),
                f"{row.rollouts:,.0f}",
            )
            for arm, row in self.rows.items()
        ]
        return markdown(header, lines)

    def differences(self, reference: str) -> str:
        """Points more than a reference on average over capabilities."""
        header = (
            "arm",
            "points more",
            "over seeds and problems",
            "p by Holm",
            "seeds won",
            "seeds needed for ±1 point",
        )
        lines = [
            (
                f"`{c.arm}`",
                gain(c.over_seeds, c.seeds),
                within(*c.over_problems),
                "–" if c.seeds == 1 else f"{c.holm:.3f}" if c.holm >= 0.0005 else "< 0.001",
                f"{c.wins * c.seeds:g} of {c.seeds}",
                f"{c.seeds_needed or '–'}",
            )
            for c in self.found[reference]
            if c.capability == AVERAGE
        ]
        return markdown(header, lines)

    def brief(self) -> str:
        """Each arm's average over the capabilities, and how many points it is above each reference, bold if clear."""
        references = list(self.found)
        gains = {(c.arm, name): c for name in references for c in self.found[name] if c.capability == AVERAGE}
        lines = []
        for arm, row in self.rows.items():
            own = [gains.get((arm, name)) for name in references]
            cells = ["–" if c is None else gained(c) for c in own]
            lines.append((f"`{arm}`", f"{len(row.seeds)}", share(row.accuracy[AVERAGE], len(row.seeds)), *cells))
        return markdown(("arm", "seeds", "average", *(f"more than `{name}`" for name in references)), lines)

    @cached_property
    def averages(self) -> str:
        """What studies/averages.py found; empty if it has not run."""
        lines = []
        for path in sorted((self.file.parent / "averages").glob("*.json")):
            found = json.loads(path.read_text(encoding="utf-8"))
            of = {c["model"]: Estimate(**c["greedy"]) for c in found["accuracies"] if c["capability"] == AVERAGE}
            (lead,) = (Estimate(**d["greedy"]) for d in found["differences"] if d["capability"] == AVERAGE)
            lines.append((path.stem, f"{found['models']}", share(of["last"], 2), share(of["mean"], 2), gain(lead, 2)))
        return markdown(("mean of", "models", "last model", "mean", "points more"), lines) if lines else ""

    @cached_property
    def finishing(self) -> str:
        """What studies/finishing.py found, over seeds; empty if it has not run."""
        pieces: dict[str, list[dict[str, Any]]] = {}
        for path in sorted((self.file.parent / "finishing").glob("*.json")):
            pieces.setdefault(path.stem.rpartition("-")[0], []).append(json.loads(path.read_text(encoding="utf-8")))
        lines = []
        for name, found in pieces.items():
            own, reference = ([each[key][AVERAGE] for each in found] for key in ("accuracy", ONE_CYCLE))
            more = Estimate(*t_interval([a - b for a, b in zip(own, reference, strict=True)]))
            how = "; ".join(dict.fromkeys(each["how"] for each in found))
            lines.append(
                (f"`{name}`", how, f"{len(found)}", percents(own), percents(reference), gain(more, len(found)))
            )
        header = ("piece", "how", "seeds", "average", f"`{ONE_CYCLE}`", "points more")
        return markdown(header, lines) if lines else ""

    def regrets(self) -> str:
        """Points more than each capability's own expert; what has one seed in common with it is marked."""
        rows = [row for row in self.rows.values() if row.regret and row.arm != EXPERT]
        names = list(rows[0].regret)
        marks = {row.arm: " (1 seed: over problems)" if row.regret_seeds == 1 else "" for row in rows}
        lines = [(f"`{row.arm}`{marks[row.arm]}", *(gain(row.regret[name], 2) for name in names)) for row in rows]
        return markdown(("arm", *names), lines)

    def search(self) -> str:
        """Validation averages of the candidates over the search's seeds; the best of those that have run is bold."""
        assert self.comparison.search
        seeds, found = set(self.comparison.search.seeds), dict[str, list[float]]()
        for outcome in read_outcomes(self.file.parent / "search" / "results"):
            if outcome.seed in seeds:
                found.setdefault(outcome.arm, []).append(outcome.accuracy(AVERAGE))
        lines = []
        for arm, candidates in self.comparison.search.candidates.items():
            values = [found.get(candidate_name(arm, place), []) for place in range(len(candidates))]
            best = max((fmean(own) for own in values if len(own) == len(seeds)), default=None)
            for changes, own in zip(candidates, values, strict=True):
                cell = f"{100 * fmean(own):.1f}" if own else "not run yet"
                if own and len(own) < len(seeds):
                    cell += f" ({len(own)} of {len(seeds)} seeds)"
                is_best = len(own) == len(seeds) and fmean(own) == best
                lines.append((f"`{arm}`", settings(changes), f"**{cell}**" if is_best else cell))
        return markdown(("arm", "candidate", "validation average, %"), lines)

    def likeness(self) -> str:
        """Overlap and symmetric KL of the branches at the ends of phases, mean of all pairs and seeds."""
        lines = []
        for arm in self.rows:
            points: dict[tuple[int, str], list[tuple[float, float]]] = {}
            for outcome in (o for o in self.outcomes if o.arm == arm):
                for point in outcome.behaviour:
                    overlap, kl = (mean_of_pairs(point, measure) for measure in ("overlap", "symmetric_kl"))
                    if overlap is not None and kl is not None:
                        points.setdefault((point["step"] + 1, point["phase"]), []).append((overlap, kl))
            for (step, phase), own in points.items():
                overlaps, kls = zip(*own, strict=True)
                lines.append((f"`{arm}`", f"{step}", phase, spread(overlaps), spread(kls)))
        return markdown(("arm", "after step", "end of", "overlap", "symmetric KL, nats"), lines)

    def strength(self) -> str:
        """Validation accuracy of each branch in its own capability, and of the student, at the ends of cycles."""
        names = list(self.outcomes[0].problems)
        lines = []
        for arm in self.rows:
            curves = [o.curve for o in self.outcomes if o.arm == arm]
            for points in list(zip(*curves, strict=False))[1:]:
                own = [[values.get(f"{n}/{n}") for _, values in points] for n in names]
                if all(value is not None for each in own for value in each):
                    student = [
                        values.get(f"{MERGED}/{AVERAGE}", values.get(f"{STUDENT}/{AVERAGE}")) for _, values in points
                    ]
                    taught = "–" if None in student else percents(student)
                    so_far = fmean(rollouts for rollouts, _ in points)
                    lines.append((f"`{arm}`", f"{so_far:,.0f}", *map(percents, own), taught))
        return markdown(("arm", "rollouts", *names, "student, average of all"), lines) if lines else ""

    def commands(self) -> str:
        """One command for each arm."""
        first = {o.arm: o.command for o in reversed(self.outcomes)}
        return "\n\n".join(f"`{arm}`\n\n```sh\n{first[arm]}\n```" for arm in self.rows)


def page(main: Study, beside: Mapping[str, Study], worlds: Sequence[Study]) -> str:
    """The whole page, with studies beside the main one by their headings. Those without own arms are left out."""
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    return template.render(
        main=main,
        beside={heading: study for heading, study in beside.items() if study.rows.keys() - main.rows.keys()},
        worlds=[world for world in worlds if world.outcomes],
        claims=claims(main),
        elsewhere=elsewhere(worlds),
    )


def drawn() -> str:
    """The page about the studies of this repository."""
    beside = {heading: Study(MAIN.with_name(name)) for name, heading in BESIDE.items()}
    return page(Study(MAIN), beside, [Study(file) for file in WORLDS])


if __name__ == "__main__":
    PAGE.write_text(drawn(), encoding="utf-8")
