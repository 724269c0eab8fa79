"""Memory that does not suffice, told from other errors. Each library has its own way to say it."""

from __future__ import annotations

import errno

SIGNS = ("out of memory", "not enough memory", "allocate memory", "alloc_failed", "bad_alloc")
"""What the errors of torch, of its devices and of C++ say of memory that does not suffice."""


def is_shortage(error: BaseException) -> bool:
    """Whether an error says that the machine or a card has no more memory."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    said = str(error).lower()
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and any(sign in said for sign in SIGNS))
