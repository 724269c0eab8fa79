"""Who teaches whom, and with what weight (method.md section 5)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Edge:
    """`teacher` teaches `student` on the teacher's prompts. The part of the update has weight `weight`."""

    student: str
    teacher: str
    weight: float


def hub(branches: Sequence[str], weight: float) -> tuple[Edge, ...]:
    """The first branch teaches each of the others and is taught by each of them."""
    centre, *spokes = branches
    return tuple(edge for spoke in spokes for edge in (Edge(centre, spoke, weight), Edge(spoke, centre, weight)))


def full(branches: Sequence[str], weight: float) -> tuple[Edge, ...]:
    """Every branch is taught by every other; with two branches this is the hub."""
    return tuple(Edge(student, teacher, weight) for student in branches for teacher in branches if student != teacher)
