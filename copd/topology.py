"""Who teaches whom, and with what weight (method.md section 5).

A `weight` given to one of these functions is what all teachers of a student weigh together, so that one with many
teachers still hears its own RLVR.
"""

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
    from_spokes = to_one(centre, spokes, weight)
    return tuple(edge for back in from_spokes for edge in (back, Edge(back.teacher, centre, weight)))


def full(branches: Sequence[str], weight: float) -> tuple[Edge, ...]:
    """Every branch is taught by every other; with two branches this is the hub."""
    return tuple(
        edge for student in branches for edge in to_one(student, [name for name in branches if name != student], weight)
    )


def to_one(student: str, teachers: Sequence[str], weight: float) -> tuple[Edge, ...]:
    """Each of the teachers teaches this student."""
    return tuple(Edge(student, teacher, weight / len(teachers)) for teacher in teachers)
