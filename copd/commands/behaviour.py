"""`copd behaviour`: one model as the teacher of another, without a run."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from copd.assemble.assembled import assembled
from copd.assemble.preflight import check_overlap
from copd.branches.local import finish, local_handle
from copd.commands.export import folders_of
from copd.measure.disputes import CapabilityBehaviour, observe
from copd.model.vocabulary import check_same_vocabulary
from copd.recipe.model import Recipe

logger = logging.getLogger(__name__)
ROLES = ("student", "teacher")


def compare_behaviour(
    recipe: Recipe,
    student: str,
    teacher: str,
    problems: int | None = None,
    tell: Callable[[str], None] = lambda what: None,
) -> list[CapabilityBehaviour]:
    """Compare a teacher's model with a student's: measures and most disputed tokens in each capability of a recipe.

    Both models are given in a form that `folders_of` takes. The student answers `problems` validation problems of
    each capability (default as in the recipe), twice each.
    `tell` is told what is being done. Raises ModelFolderError for a model that does not exist, and for two models whose
    tokens differ.
    """
    named = {student: "STUDENT", teacher: "TEACHER"}
    with folders_of(named, tell) as folders, assembled(recipe, logger.warning) as made:
        settings = made.evaluation
        count = problems or settings.behaviour_problems
        tell("loading both models")
        policies = [made.model(folders[path], path) for path in (student, teacher)]
        check_overlap(recipe, policies[0])
        check_same_vocabulary(policies[0], policies[1], (f"STUDENT {student}", f"TEACHER {teacher}"))
        learns, teaches = (local_handle(made.actor(name, policy)) for name, policy in zip(ROLES, policies, strict=True))
        found = []
        for task in made.tasks:
            tell(f"{task}: {student} answers, {teacher} scores")
            found.append(finish(observe(learns, teaches, task, problems=count, ks=settings.overlap_k)))
        return found


def as_record(student: str, teacher: str, found: Sequence[CapabilityBehaviour]) -> dict[str, Any]:
    """What `compare_behaviour` found, as JSON can hold it. Log-probs and KL are in nats."""
    return {"student": student, "teacher": teacher, "capabilities": [asdict(each) for each in found]}
