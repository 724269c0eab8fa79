"""Numbers and sentences of a page. A sentence claims no more than the intervals support."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from copd.measure.compare import Difference
from copd.measure.evaluate import AVERAGE, Estimate
from copd.report.reading import RunRecord
from copd.types import BASE, MERGED, MIXED, STUDENT

METHODS = {
    "copd": "Co-evolving policy distillation",
    "expert": "Independent experts",
    "mixed": "Mixed RLVR",
    "merge_only": "Merged experts",
    "static_opd": "OPD from one frozen expert",
    "mopd": "OPD from all frozen experts",
}
MINUS = "\u2212"
NOT_A_NUMBER = "\u2013"
PER_CENT = "\u00a0%"
"""With a space that keeps the sign on the line of its number."""


def method_name(method: str) -> str:
    return METHODS.get(method, method.replace("_", " "))


def per_cent(share: float) -> str:
    """A share in per cent to one decimal, without the sign."""
    return f"{100 * share:.1f}"


def points(share: float) -> str:
    """A difference of shares in points, with its sign."""
    return f"{100 * share:+.1f}".replace("-", MINUS)


def signed(value: float | None) -> str:
    """Any number to two decimals, with its sign; zero has none. None stands for a number that was not finite."""
    if value is None:
        return NOT_A_NUMBER
    return "0.00" if abs(value) < 0.005 else f"{value:+.2f}".replace("-", MINUS)


def interval(estimate: Estimate) -> str:
    """An interval in per cent."""
    return f"{per_cent(estimate.low)} to {per_cent(estimate.high)}"


def points_interval(estimate: Estimate) -> str:
    """An interval of a difference, in points."""
    return f"{points(estimate.low)} to {points(estimate.high)}"


def within(low: float, high: float) -> str:
    """The same beside the difference itself, in brackets."""
    return f"[{points(low)}, {points(high)}]"


def mark(reward: float) -> str:
    """A reward in a word and a sign."""
    return {1.0: "✓ right", 0.0: "✗ wrong"}.get(reward, f"reward {reward:.2f}")


def counted(number: int, thing: str) -> str:
    """`1 branch`, `3 branches`, `2 steps`, `2 capabilities`."""
    if thing.endswith("ty"):
        plural = f"{thing[:-1]}ies"
    else:
        plural = f"{thing}es" if thing.endswith(("s", "x", "ch", "sh")) else f"{thing}s"
    return f"{number:,} {thing if number == 1 else plural}"


def listed(items: Iterable[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    *most, last = [*items]
    return f"{', '.join(most)} and {last}" if most else last


def model_name(model: str) -> str:
    """The name of a run's model in a sentence."""
    known = {BASE: "the base", MERGED: "the merged model", MIXED: "the mixed model", STUDENT: "the student"}
    return known.get(model, f"branch {model}")


def model_label(model: str) -> str:
    """The name of a run's model in a table."""
    return model if model in (BASE, MERGED, MIXED, STUDENT) else f"branch {model}"


def verdict(run: RunRecord) -> list[str]:
    """The results of the final table in a few sentences."""
    if not run.finished:
        return [f"This run is not finished: it stands after {counted(run.steps, 'step')}. The table shows validation."]
    said = _one_product(run, run.products[0]) if len(run.products) == 1 else _several_products(run)
    return [
        *(sentence.replace(" %", PER_CENT) for sentence in said),
        f"One run with one seed ({run.recipe['seed']}): the intervals are 95 % over the {run.split} problems and say "
        "nothing about how another seed would come out.",
    ]


def _one_product(run: RunRecord, product: str) -> list[str]:
    own = run.cell(product).greedy
    compared = run.compared_with(BASE)
    where = f" on average over {counted(len(run.capabilities), 'capability')}" if len(run.capabilities) > 1 else ""
    name = model_name(product)
    first = f"{name[0].upper()}{name[1:]} answers {_share(own)} of the {run.split} problems right{where}"
    if BASE not in run.models:
        return [f"{first}. The other models of this run were not asked."]
    first += f", {model_name(BASE)} {_share(run.cell(BASE).greedy)}."
    if (product, AVERAGE) not in compared:
        return [f"{first} Which problems were answered was not recorded, so the two are not compared one by one."]
    average = compared[product, AVERAGE]
    said = [f"{first} On the same problems that is {_difference(average)}: {_judged(average)}."]
    if len(run.capabilities) > 1:
        said.append(
            _by_capability("Against the base it", [compared[product, capability] for capability in run.capabilities])
        )
    if product == MERGED:
        said += _against_its_branches(run)
    return said


def _several_products(run: RunRecord) -> list[str]:
    compared, said = run.compared_with(BASE), []
    own = [model for model in run.products if model in run.capabilities]
    for model in own:
        text = f"in {model} {per_cent(run.cell(model, model).greedy.value)} %"
        text += f" against {per_cent(run.cell(BASE, model).greedy.value)} % for the base"
        if (model, model) in compared:
            text += f" ({_difference(compared[model, model])}: {_judged(compared[model, model])})"
        said.append(text)
    averages = [f"{model} {per_cent(run.cell(model).greedy.value)} %" for model in run.products]
    first = [f"Each branch in its own capability: {'; '.join(said)}."] if said else []
    base = per_cent(run.cell(BASE).greedy.value)
    return [*first, f"On average over all capabilities: {listed(averages)}; the base {base} %."]


def _against_its_branches(run: RunRecord) -> list[str]:
    compared = run.compared_with(MERGED)
    own = [compared[capability, capability] for capability in run.capabilities if (capability, capability) in compared]
    ahead = [f"{d.capability} ({points(d.greedy.value)} points)" for d in own if d.greedy.low > 0]
    behind = [f"{d.capability} ({points(d.greedy.value)} points)" for d in own if d.greedy.high < 0]
    said = []
    if ahead:
        said.append(f"In its own capability a single branch is ahead of the merged model in {listed(ahead)}.")
    if behind:
        said.append(f"The merged model is ahead of the branch that was trained on the capability in {listed(behind)}.")
    if own and not said:
        said.append("No branch is clearly apart from the merged model in its own capability.")
    return said


def _by_capability(start: str, compared: Sequence[Difference]) -> str:
    gains = [f"{d.capability} ({points(d.greedy.value)})" for d in compared if d.greedy.low > 0]
    losses = [f"{d.capability} ({points(d.greedy.value)})" for d in compared if d.greedy.high < 0]
    unclear = [f"{d.capability} ({points(d.greedy.value)})" for d in compared if not d.is_clear]
    parts = [f"gains in {listed(gains)}"] if gains else []
    parts += [f"loses in {listed(losses)}"] if losses else []
    parts += [f"shows no clear difference in {listed(unclear)}"] if unclear else []
    return f"{start} {listed(parts)}."


def label_of(run: RunRecord, model: str) -> str:
    """A model's name among those of several runs."""
    return f"{run.label} ({model_label(model)})" if model_label(model) != run.label else run.label


def compared_runs(runs: Sequence[RunRecord], reference: str, differences: Sequence[Difference]) -> list[str]:
    """A comparison of several runs in sentences. `differences` are those of their products to `reference`."""
    unfinished = [run.label for run in runs if not run.finished]
    if unfinished:
        return [
            f"Not finished: {listed(unfinished)}. What stands there is validation, so nothing is compared one by one."
        ]
    averages = [(label_of(run, m), run.cell(m).greedy) for run in runs for m in run.products]
    found = "; ".join(f"{label} {_share(estimate)}" for label, estimate in averages)
    several = len({capability for run in runs for capability in run.capabilities}) > 1
    said = [f"{'On average over the capabilities' if several else 'Right answers'}: {found}."]
    capabilities = {label_of(run, m): m for run in runs if len(run.products) > 1 for m in run.products}
    said += _placed(
        "on average" if several else "in right answers", reference, [d for d in differences if d.capability == AVERAGE]
    )
    said += _placed(
        "each in its own capability", reference, [d for d in differences if d.capability == capabilities.get(d.model)]
    )
    seeds = listed(sorted({str(run.recipe["seed"]) for run in runs}))
    said.append(_budgets(runs))
    splits = listed(dict.fromkeys(run.split for run in runs))
    said.append(f"The intervals are 95 % over the {splits} problems; they say nothing about seeds other than {seeds}.")
    return [sentence.replace(" %", PER_CENT) for sentence in said]


def _placed(where: str, reference: str, compared: Sequence[Difference]) -> list[str]:
    """Sentences on which models are ahead, which are behind, and which show no clear difference."""
    places = {
        "Ahead of": [d for d in compared if d.greedy.low > 0],
        "Behind": [d for d in compared if d.greedy.high < 0],
        "Not clearly apart from": [d for d in compared if not d.is_clear],
    }
    return [
        f"{place} {reference} on the same problems, {where}: {'; '.join(f'{d.model} {_difference(d)}' for d in group)}."
        for place, group in places.items()
        if group
    ]


def _budgets(runs: Sequence[RunRecord]) -> str:
    budgets = {run.label: run.made_rollouts for run in runs if run.ledger}
    spent = listed(f"{label} {count:,}" for label, count in budgets.items())
    if max(budgets.values()) <= 1.02 * min(budgets.values()):
        return f"All runs were made with about equally many rollouts: {spent}."
    return f"The runs were not made with equally many rollouts: {spent}."


def _share(estimate: Estimate) -> str:
    return f"{per_cent(estimate.value)}{PER_CENT} [{interval(estimate)}]"


def _difference(difference: Difference) -> str:
    return f"{points(difference.greedy.value)} points [{points_interval(difference.greedy)}]"


def _judged(difference: Difference) -> str:
    if not difference.is_clear:
        return "no difference that these problems could show"
    return "a gain" if difference.greedy.low > 0 else "a loss"
