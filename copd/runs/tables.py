"""Tables of results for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from rich.console import Group
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from copd.errors import visible
from copd.measure.compare import Difference
from copd.measure.disputes import CapabilityBehaviour
from copd.measure.evaluate import AVERAGE, Accuracy, Estimate, columns_of

MODEL_WIDTH = 10
"""Characters for the name of a model in a narrow terminal; a longer name is folded.

Beside it 80 columns hold three capabilities, their average and one pass@k.
"""
INTERVAL_WIDTH = len("56.6-100.0")


def _per_cent(estimate: Estimate, interval: bool) -> str:
    value, low, high = (f"{100 * share:.1f}" for share in (estimate.value, estimate.low, estimate.high))
    return f"{value}\n[dim]{low}-{high}[/]" if interval else value


def _points(difference: Difference) -> str:
    value, low, high = (f"{100 * share:+.1f}" for share in vars(difference.greedy).values())
    return f"\n{f'[bold]{value}[/]' if difference.is_clear else value}\n[dim]{low} to {high}[/]"


def accuracy_table(
    table: Sequence[Accuracy], title: str, *, intervals: bool = True, compared: Sequence[Difference] = ()
) -> Table:
    """Models by capabilities, in per cent: the value, below it the interval, then the difference to another model.

    A difference is bold if its interval leaves out zero.
    """
    below = {(d.model, d.capability): _points(d) for d in compared}
    capabilities = columns_of([cell.capability for cell in table])
    ks = sorted({k for cell in table for k in cell.pass_at})
    shown = Table(title=title, title_justify="left", show_lines=bool(compared))
    longest = max((len(cell.model) for cell in table), default=0)
    shown.add_column("model", overflow="fold", min_width=min(MODEL_WIDTH, longest))
    for name in (*capabilities, *(f"{capabilities[-1]} pass@{k}" for k in ks)):
        shown.add_column(name, justify="right", min_width=INTERVAL_WIDTH if intervals else None)
    for model in dict.fromkeys(cell.model for cell in table):
        cells = {cell.capability: cell for cell in table if cell.model == model}
        greedy = [_per_cent(cells[name].greedy, intervals) + below.get((model, name), "") for name in capabilities]
        sampled = [_per_cent(cells[AVERAGE].pass_at[k], intervals) for k in ks]
        shown.add_row(escape(model), *greedy, *sampled)
    return shown


def behaviour_table(found: Sequence[CapabilityBehaviour], title: str) -> Table:
    """Measures of a student and a teacher, a capability a row."""
    ks, first = list(found[0].chance), found[0]
    shown = Table(title=title, title_justify="left")
    kl = "symmetric\nKL, nats" + ("" if first.kl_is_exact else "\napproximate")
    overlaps = [f"overlap@{k}\nchance {first.chance[k]:.2f}" for k in ks]
    shown.add_column()  # the names of capabilities say what they are, and a header would not fit into 80 columns
    for name in ("tokens", "student's\naccuracy", *overlaps, f"overlap@{min(ks)}\nby mass", kl):
        shown.add_column(name, justify="right")
    for behaviour in found:
        alike = behaviour.likeness
        overlap = [f"{alike.overlap[k]:.3f}" for k in ks]
        numbers = (f"{behaviour.tokens:,}", f"{100 * behaviour.accuracy:.1f}", *overlap, f"{alike.mass_overlap:.3f}")
        shown.add_row(escape(behaviour.capability), *numbers, f"{alike.symmetric_kl:.4f}")
    return shown


def disputes_table(behaviour: CapabilityBehaviour) -> Table:
    """The tokens on which teacher and student differ most, in their context."""
    what = "most disputed tokens" if behaviour.disputes else "no disputed token: the two agree to the last bit"
    shown = Table(title=f"{escape(behaviour.capability)}: {what}", title_justify="left")
    for name in ("delta", "student", "teacher"):
        shown.add_column(name, justify="right", no_wrap=True)
    for name in ("prompt", "answer", "response around the token"):
        shown.add_column(name, overflow="fold")
    for dispute in behaviour.disputes:
        numbers = (f"{dispute.delta:+.2f}", f"{dispute.student_logp:.2f}", f"{dispute.teacher_logp:.2f}")
        prompt = visible(dispute.prompt if len(dispute.prompt) <= 80 else f"{dispute.prompt[:80]} ...")
        before, token, after = (visible(text) for text in (dispute.before, dispute.token, dispute.after))
        context = Text.assemble(before, (f"[{token}]", "bold reverse"), after)
        shown.add_row(*numbers, Text(prompt), Text(visible(dispute.answer)), context)
    return shown


class Answered(Protocol):
    """A response with its final answer marked; fields as in `copd.commands.ask.Answer`."""

    @property
    def before(self) -> str: ...

    @property
    def final(self) -> str | None: ...

    @property
    def after(self) -> str: ...

    @property
    def finished(self) -> bool: ...

    @property
    def tokens(self) -> int: ...


def answer_of_one(answer: Answered) -> Group:
    """A response, its final answer in colour, and below it that answer alone."""
    return Group(_response(answer), _final(answer))


def answers_side_by_side(answers: Mapping[str, Answered]) -> Table:
    """The responses of several models by their names."""
    shown = Table(show_lines=True)
    for name in answers:
        shown.add_column(escape(name), overflow="fold", ratio=1)
    shown.add_row(*map(_response, answers.values()))
    shown.add_row(*map(_final, answers.values()))
    return shown


def _response(answer: Answered) -> Text:
    before, final, after = (_lines(part) for part in (answer.before, answer.final or "", answer.after))
    return Text.assemble(before, (final, "bold green"), after)


def _final(answer: Answered) -> Text:
    if answer.final is not None:
        return Text.assemble("final answer: ", (_lines(answer.final), "bold green"))
    cut = "" if answer.finished else f": truncated after {answer.tokens} tokens; --max-new-tokens allows more"
    return Text(f"no final answer{cut}", style="yellow")


def _lines(text: str) -> str:
    """A text from a model, made safe for a terminal line by line."""
    return "\n".join(map(visible, text.split("\n")))
