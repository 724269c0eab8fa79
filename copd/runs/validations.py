"""When a run validates its models, and which of these steps was the best."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from statistics import fmean
from typing import Any

from copd.measure.evaluate import AVERAGE, Accuracy, accuracies
from copd.recipe.sections import EvaluationSection
from copd.schedule import Position, Schedule


def validation_due(settings: EvaluationSection, here: Position, steps_done: int) -> bool:
    """Whether models are validated after the step at position `here`, with which so many steps are done."""
    ends = here.ends_cycle and (here.cycle + 1) % settings.every_cycles == 0
    return ends or (settings.every_steps is not None and steps_done % settings.every_steps == 0)


def every_steps(settings: EvaluationSection, schedule: Schedule) -> Collection[int]:
    """The numbers of steps after which models are validated although no cycle may end there."""
    every = settings.every_steps
    return () if every is None else range(every, schedule.steps + 1, every)


def validation_average(table: Sequence[Accuracy], product: str | None) -> float | None:
    """The product's average over the capabilities; the mean of all models' averages where there is no product.

    None for a merge that could not be made, and so is not in the table.
    """
    averages = {cell.model: cell.greedy.value for cell in table if cell.capability == AVERAGE}
    return fmean(averages.values()) if product is None else averages.get(product)


class Best:
    """The number of steps after which the validation average was the highest so far; of equal ones the first."""

    def __init__(self, product: str | None) -> None:
        self.steps: int | None = None
        self._product, self._value = product, -1.0

    def see(self, event: Mapping[str, Any]) -> None:
        """Learn of an event of `metrics.jsonl`. Of the base, before the first step, there is no checkpoint."""
        if event["event"] != "accuracy" or event["step"] < 0:
            return
        value = validation_average(accuracies(event["table"]), self._product)
        if value is not None and value > self._value:
            self.steps, self._value = event["step"] + 1, value
