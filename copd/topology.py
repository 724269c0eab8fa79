"""Who teaches whom, and with which weight (method.md section 5)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Edge:
    """`teacher` teaches `student` on the teacher's prompts; the part has weight `beta`."""

    student: str
    teacher: str
    beta: float


def hub(branches: Sequence[str], beta: float) -> tuple[Edge, ...]:
    """The first branch exchanges mutual OPD with each of the others."""
    centre, *spokes = branches
    return tuple(edge for spoke in spokes for edge in (Edge(centre, spoke, beta), Edge(spoke, centre, beta)))


def full(branches: Sequence[str], beta: float) -> tuple[Edge, ...]:
    """Every branch is taught by every other; with two branches this is the hub."""
    return tuple(Edge(student, teacher, beta) for student in branches for teacher in branches if student != teacher)
