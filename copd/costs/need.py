"""What one process needs on one device, stage by stage, and what that comes to on each device."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

CPU = "cpu"
TRAINING, SCORING, SAMPLING = "training", "scoring", "sampling"
SAVING, MERGING, END = "saving", "merging", "the end"
VALIDATING = "validating"
"""Stages, of which a process is in one at a time. Validations may measure the merge; the end evaluates it and the base.

At the end branches sample at the same time on a CPU; on a card they have ended before."""
Terms = dict[str, int]
"""Bytes by what they hold."""


@dataclass(frozen=True)
class Need:
    """Bytes of one process on one device: what it always holds, and what it adds in each stage.

    `alike`: further devices, on each of which another rank of the same branch needs the same.
    """

    process: str
    device: str
    held: Terms
    stages: Mapping[str, Terms] = field(default_factory=dict)
    alike: tuple[str, ...] = ()

    def within(self, stage: str) -> int:
        """What is held and added in a stage."""
        return sum(self.held.values()) + sum(self.stages.get(stage, {}).values())

    @property
    def most(self) -> int:
        return max(self.within(stage) for stage in ("", *self.stages))


def on_each(needs: Iterable[Need]) -> dict[str, int]:
    """The most bytes on each device, whose processes may all be at their fullest at once.

    At the end no branch trains: on a CPU each samples, and on a card each has ended.
    """
    of: dict[str, list[Need]] = {}
    for need in needs:
        for device in (need.device, *need.alike):
            of.setdefault(device, []).append(need)
    most = {}
    for device, own in of.items():
        before = sum(max(need.within(s) for s in ("", *need.stages) if s != END) for need in own)
        at_end = own if device == CPU else [need for need in own if END in need.stages]
        end = sum(need.within(END if END in need.stages else SAMPLING) for need in at_end)
        most[device] = max(before, end)
    return most


def added(terms: Iterable[Terms]) -> Terms:
    """The sum, term by term."""
    total: Terms = {}
    for each in terms:
        for name, size in each.items():
            total[name] = total.get(name, 0) + size
    return total


def largest(stages: Iterable[Mapping[str, Terms]]) -> dict[str, Terms]:
    """The fullest of each stage, of branches that compute one after the other."""
    found: dict[str, Terms] = {}
    for each in stages:
        for stage, terms in each.items():
            if sum(terms.values()) > sum(found.get(stage, {}).values()):
                found[stage] = terms
    return found
