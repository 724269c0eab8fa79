"""How far a download from the hub is, told in lines: on a terminal and in a file alike."""

from __future__ import annotations

import io
import logging
from typing import Any

from tqdm import tqdm

logger = logging.getLogger(__name__)
EVERY = 10.0
"""Least seconds between two lines."""
RECEIVED = "Downloading bytes"
"""The bar of the bytes that came over the network, beside that of the bytes that are on disk, which is told."""
UNITS = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"))


class Fetching(tqdm):
    """The progress bar of huggingface_hub as lines, such as `fetched 1.2 of 8.9 GB`. Only bytes are told, not files."""

    def __init__(self, *given: Any, **options: Any) -> None:
        self._told = 0.0
        super().__init__(*given, **{**options, "disable": False, "file": io.StringIO(), "mininterval": EVERY})

    def display(self, *_: Any, **__: Any) -> None:
        """Say how much is there, if that is more than was said before."""
        if self.unit == "B" and self.desc != RECEIVED and self.total and self.n > self._told:
            self._told = self.n
            logger.warning("fetched %s", of(self.n, self.total))


def of(count: float, total: float) -> str:
    """Bytes of a total, in the unit of the total."""
    size, unit = next((pair for pair in UNITS if total >= pair[0]), (1.0, "B"))
    return f"{count / size:.1f} of {total / size:.1f} {unit}"
