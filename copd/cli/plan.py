"""The command `copd plan`: places, memory, work and time of a recipe or a comparison, before anything is loaded."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer
from rich.box import SIMPLE
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from copd.cli.arguments import Overrides, RecipeName, named_recipe
from copd.errors import RecipeError
from copd.recipe.strict_yaml import parse_yaml

if TYPE_CHECKING:  # torch is loaded only once the recipe is known to be sound
    from copd.commands.plan import Planned
    from copd.commands.plan_arms import ArmNeeds
    from copd.costs.refilled import Together
    from copd.costs.workload import Speed

MEASURED = ("sampling", "scoring", "training")
"""What benchmarks.gpu calls the speeds of sampling, reading and training."""


def plan(
    recipe: RecipeName = None,
    overrides: Overrides = None,
    gpus: Annotated[
        int | None, typer.Option(min=0, help="Cards that the run may use; default those of this machine.")
    ] = None,
    gpu_memory: Annotated[
        float | None, typer.Option(help="Memory of each card in GiB; default that of this machine's smallest card.")
    ] = None,
    tokens_per_second: Annotated[
        str | None,
        typer.Option(
            metavar="SAMPLING,READING,TRAINING|gpu.json",
            help="Tokens a second of one model on its device: sampled, read without a gradient, trained on; or the "
            "file with these numbers of your card that benchmarks.gpu writes.",
        ),
    ] = None,
) -> None:
    """Show what a recipe asks for: placement, memory of each process, rollouts and tokens, checkpoints, hours.

    Of a file of `copd compare` it shows one line for each job with one seed. No weights are read: the folder of the
    model needs its config.json, tokenizer and processor only.

    Exit status 1: a card would need more memory than it has. 2: the recipe, the data or the model cannot be used.
    """
    from copd.assemble.files import check_files
    from copd.recipe.reading import load_recipe

    speed = _speed(tokens_per_second)
    name, changes = named_recipe(recipe, overrides)
    settings = None if is_comparison(name) else load_recipe(name, changes)
    if settings is not None:
        check_files(settings)
    from copd.commands.plan import cards_of, examine
    from copd.commands.plan_arms import arms_planned

    console, cards = Console(), cards_of(gpus, gpu_memory)
    if settings is None:
        arms = arms_planned(Path(name), changes, cards, speed)
        console.print(arms_table(arms))
        raise typer.Exit(int(any(arm.overfull for arm in arms)))
    planned = examine(settings, cards)
    console.print(memory_table(planned))
    console.print(work_table(planned, speed))
    for line in lines(planned):
        console.print(line, markup=False, soft_wrap=True)
    raise typer.Exit(int(bool(planned.overfull)))


def is_comparison(name: str) -> bool:
    """Whether this is a file of `copd compare`: it has arms."""
    path = Path(name)
    if path.suffix not in (".yaml", ".yml") or not path.is_file():
        return False
    try:
        held = parse_yaml(path.read_text(encoding="utf-8-sig", errors="replace"), name)
    except (OSError, RecipeError):  # reading it as a recipe tells what is wrong
        return False
    return isinstance(held, dict) and "arms" in held


def arms_table(arms: Sequence[ArmNeeds]) -> Table:
    """What the jobs of a comparison ask for, one line each, and their sum."""
    timed = arms[0].hours is not None
    title = "jobs with one seed: cards, GiB of the fullest; rollouts of training; tokens at most, evaluation too"
    table = Table(Column("job", no_wrap=True), title=title, title_justify="left", box=SIMPLE, pad_edge=False)
    for name in ("cards", "GiB", "rollouts", "sampled", *(["hours", "of cards"] if timed else [])):
        table.add_column(name, justify="right", no_wrap=True)
    for arm in arms:
        fullest = f"{arm.most / 2**30:,.0f}{', does not fit' if arm.overfull else ''}" if arm.cards else ""
        hours = [_hours(value) for value in (arm.hours, arm.card_hours) if value is not None]
        table.add_row(arm.name, f"{arm.cards}", fullest, _count(arm.rollouts), _count(arm.sampled), *hours)
    table.add_section()
    totals = [sum(arm.hours or 0.0 for arm in arms), sum(arm.card_hours or 0.0 for arm in arms)] if timed else []
    sums = [_count(sum(arm.rollouts for arm in arms)), _count(sum(arm.sampled for arm in arms))]
    table.add_row("all", "", "", *sums, *map(_hours, totals))
    return table


def _hours(value: float) -> str:
    return f"{value:,.1f}" if value < 10 else f"{value:,.0f}"


def _speed(given: str | None) -> Speed | None:
    if given is None:
        return None
    try:
        if given.endswith(".json"):
            measured = json.loads(Path(given).read_text(encoding="utf-8"))["speed"]
            numbers = [float(measured[name]) for name in MEASURED]
        else:
            numbers = [float(number) for number in given.split(",")]
        if len(numbers) != len(MEASURED) or not all(0 < number < math.inf for number in numbers):
            raise ValueError
    except OSError as error:
        raise RecipeError(f"--tokens-per-second: {given}: cannot be read: {error.strerror}") from None
    except (KeyError, TypeError, ValueError):
        raise RecipeError(
            f"--tokens-per-second: found {given!r}; accepted: three numbers above 0, sampling,reading,training, or a "
            "file of benchmarks.gpu whose speed was measured"
        ) from None
    from copd.costs.workload import Speed

    return Speed(*numbers)


def memory_table(planned: Planned) -> Table:
    """Memory of each process on its device: what it always holds, what it adds in each stage, and at most."""
    needs, unit = planned.needs, unit_of(planned)
    table = Table(unit.name, title=_title(planned), title_justify="left")
    for need in needs:
        table.add_column(f"{need.process}\n{', '.join(dict.fromkeys((need.device, *need.alike)))}", justify="right")
    for term in dict.fromkeys(term for need in needs for term in need.held):
        table.add_row(term, *(unit.cell(need.held.get(term, 0)) for need in needs))
    terms = [(stage, term) for need in needs for stage, terms in need.stages.items() for term in terms]
    for stage in dict.fromkeys(stage for stage, _ in terms):
        table.add_section()
        for term in dict.fromkeys(term for own, term in terms if own == stage):
            sizes = [need.stages.get(stage, {}).get(term, 0) for need in needs]
            if any(sizes):
                table.add_row(f"{stage}: {term}", *map(unit.cell, sizes))
    table.add_section()
    table.add_row("at most", *(unit.cell(need.most) for need in needs))
    return table


class Unit(NamedTuple):
    """A unit of memory: its name and its bytes."""

    name: str
    size: int

    def cell(self, size: int) -> str:
        """So many bytes in this unit; nothing for none."""
        return f"{size / self.size:,.1f}" if size else ""

    def told(self, size: int) -> str:
        """The same with the unit."""
        return f"{size / self.size:,.1f} {self.name}"


def unit_of(planned: Planned) -> Unit:
    """GiB, or MiB for a run so small that its fullest process needs less than one GiB."""
    most = max(need.most for need in planned.needs)
    return Unit("GiB", 2**30) if most >= 2**30 else Unit("MiB", 2**20)


def _title(planned: Planned) -> str:
    recipe, shape = planned.recipe, planned.model.shape
    return f"method {recipe.method}, {escape(recipe.model.path)}: {shape.parameters:,} parameters"


def lines(planned: Planned) -> Iterator[str]:
    """Prompts, rows at once, disk, cards; and if a card would be overfull, what would help."""
    from copd.commands.plan import PROBED

    told = unit_of(planned).told
    prompts = [f"{name} {each.mean:,.0f}, at most {each.longest:,}" for name, each in planned.model.prompts.items()]
    yield f"tokens of the first {PROBED} prompts on average: {'; '.join(prompts)}"
    rows = [f"{name} {_rows(each)}" for name, each in planned.together.items()]
    if rows:
        yield f"rows sampled at once: {', '.join(rows)}"
    kept = f"{told(planned.checkpoint)} a checkpoint, {planned.kept} are kept"
    yield f"disk: {kept}; {told(planned.disk)} at most, with one that is being written and all models at the end"
    for card, most in planned.most.items():
        room = "" if planned.cards.gib is None else f" of {planned.cards.gib:g} GiB"
        yield f"{card}: {told(most)}{room}"
    if not planned.overfull:
        return
    fullest = max(planned.most.values())
    yield f"does not fit: {', '.join(planned.overfull)}. What would help, and what the fullest card would then need:"
    remedies = planned.remedies()
    for remedy in remedies:
        saved = f"{told(remedy.most)}, saves {told(fullest - remedy.most)}"
        yield f"  {' '.join(remedy.changes)}: {saved}{', fits' if remedy.fits else ''}"
    if not any(remedy.fits for remedy in remedies):
        yield "  none of these is enough: take larger cards, or a smaller model"


def _rows(found: Together) -> str:
    """Rows at once, and fewer of them when responses have grown."""
    fewer = "" if found.long == found.most else f" and {found.long:,} when all are long"
    return f"{found.most:,} of {found.of:,}{fewer}"


def work_table(planned: Planned, speed: Speed | None) -> Table:
    """Rollouts and tokens of each phase and of evaluation, and with a speed the hours."""
    table = Table("", title="rollouts, and tokens at most", title_justify="left")
    for name in ("steps", "rollouts", "sampled", "read", "trained", *(["hours"] if speed else [])):
        table.add_column(name, justify="right")
    for row in planned.rows(speed):
        counts = [_count(value) for value in vars(row.work).values()]
        hours = [] if row.hours is None else [f"{row.hours:,.2f}"]
        table.add_row(row.name, "" if row.steps is None else f"{row.steps:,}", *counts, *hours)
    return table


def _count(value: float) -> str:
    """A number, in millions (M) from ten millions on, in thousands of millions (G) from ten of those on."""
    if value >= 1e10:
        return f"{value / 1e9:,.1f} G"
    return f"{value / 1e6:,.0f} M" if value >= 1e7 else f"{value:,.0f}"
