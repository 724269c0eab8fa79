"""How long a run waits for a branch: a slow one is named, and a silent one is given up."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from copd.branches.handle import Carry
from copd.errors import LostBranchError


@dataclass(frozen=True)
class Patience:
    """Minutes after which a branch that has not answered is named, and after which the run waits no longer."""

    named_after: float
    given_up_after: float
    warn: Callable[[str], None]

    def built(self, name: str, is_built: Callable[[float], bool]) -> None:
        """Wait until the branch `name` is built, or its building has failed; a slow branch is named.

        `is_built` tells whether that is so, after so many seconds at most. Raises LostBranchError if it is not so in
        time.
        """
        if is_built(60 * self.named_after):
            return
        self.warn(f"branch {name}: has been in building for {self.named_after:g} minutes so far")
        if not is_built(60 * (self.given_up_after - self.named_after)):
            raise LostBranchError(
                f"branch {name}: has not been built within {self.given_up_after:g} minutes; where that is normal, "
                "raise backend.give_up_minutes"
            )

    def applied(self, name: str, carry: Carry) -> Carry:
        """The carrier of the branch `name`, with this patience.

        A branch answers one call after the other: the time of a call begins when the one before it has ended. A call
        that is given up raises LostBranchError. What the branch does goes on until it is closed.
        """
        latest: list[asyncio.Future[Any]] = []

        async def patient(method: str, *arguments: Any, **options: Any) -> Any:
            call = asyncio.ensure_future(carry(method, *arguments, **options))
            before = [each for each in latest if not each.done()]
            latest[:] = [call]
            try:
                if before:
                    await asyncio.wait(before)
                if not await _is_done(call, self.named_after):
                    self.warn(f"branch {name}: `{method}` has taken {self.named_after:g} minutes so far")
                    if not await _is_done(call, self.given_up_after - self.named_after):
                        raise LostBranchError(
                            f"branch {name}: `{method}` has given no answer for {self.given_up_after:g} minutes; "
                            "where that is normal, raise backend.give_up_minutes"
                        )
                return call.result()
            finally:
                call.cancel()

        return patient


async def _is_done(call: asyncio.Future[Any], minutes: float) -> bool:
    done, _ = await asyncio.wait({call}, timeout=60 * minutes)
    return bool(done)
