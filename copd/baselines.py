"""What CoPD is compared with, made of the same phases and the same handles (method.md section 1)."""

from __future__ import annotations

from collections.abc import Mapping

from copd.algorithm import Observer, copd
from copd.schedule import Batches, Schedule
from copd.types import BranchHandle


async def independent(
    branches: Mapping[str, BranchHandle], schedule: Schedule, batches: Batches, observer: Observer, start: int = 0
) -> None:
    """RLVR without any exchange: CoPD without edges and without phase II.

    `expert`: one branch per field, each on its own. `mixed`: a single branch whose field is the union of all.
    """
    await copd(branches, [], schedule, batches, observer, start)
