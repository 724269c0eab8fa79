"""`copd warmup`: a base of partial skill for the embedded world."""

from __future__ import annotations

from pathlib import Path

from copd.errors import RecipeError
from copd.model.folders import write_checksums
from copd.model.policy import Policy
from copd.model.tiny import tiny_model, tiny_processor
from copd.model.warmup import WarmupPlan, warm_up
from copd.runs.cards import BASE_CARD
from copd.runs.folder import occupied
from copd.runs.screen import Screen
from copd.tasks.digits import CAPABILITIES, UNDECIDED, Digits


def build_base(folder: Path, *, conflict: float, steps: int | None = None) -> None:
    """Initialise a tiny Qwen3-VL, warm it up on all three capabilities and all conventions, and save it with checksums.

    Raises RecipeError if `folder` is a file or not empty.
    """
    if occupied(folder):
        raise RecipeError(f"OUT {folder}: is not empty; give another folder")
    processor = tiny_processor()
    policy = Policy(tiny_model(processor), processor)
    plan = WarmupPlan() if steps is None else WarmupPlan(steps=steps)
    tasks = [Digits(c, seed=plan.seed, conflict=conflict, conventions=UNDECIDED) for c in CAPABILITIES]
    warm_up(policy, tasks, plan, Screen().warmed)
    policy.save(folder, BASE_CARD.format(conflict=conflict, plan=plan))
    write_checksums(folder)
