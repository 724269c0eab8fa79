"""How long a run waits for a branch: a slow one is named, and a silent one is given up."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from copd.branches.handle import Carry
from copd.errors import ProcessError


@dataclass(frozen=True)
class Patience:
    """Minutes after which a branch that has not answered is named, and after which the run waits no longer."""

    named_after: float
    given_up_after: float
    warn: Callable[[str], None]

    def applied(self, name: str, carry: Carry) -> Carry:
        """The carrier of the branch `name`, with this patience.

        A call that is given up raises ProcessError. What the branch does goes on until it is closed.
        """

        async def patient(method: str, *arguments: Any, **options: Any) -> Any:
            call = asyncio.ensure_future(carry(method, *arguments, **options))
            try:
                if not await _is_done(call, self.named_after):
                    self.warn(f"branch {name}: `{method}` has taken {self.named_after:g} minutes so far")
                    if not await _is_done(call, self.given_up_after - self.named_after):
                        raise ProcessError(
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
