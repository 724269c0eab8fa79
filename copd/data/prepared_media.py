"""The media of prepared rows: pictures that a set holds in its own files become files beside the rows."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from copd.errors import BadRow
from copd.rows.media import FORMATS, DataRoot, Reference, named
from copd.system.files import replace_bytes

PICTURES = {rb"\x89PNG\r\n\x1a\n": ".png", rb"\xff\xd8\xff": ".jpg", rb"(?s)RIFF....WEBP": ".webp"}
"""How the files of pictures that are accepted begin, as patterns, and what they are called."""


@dataclass(frozen=True)
class Store:
    """Where the media of rows are: paths in new rows start at `root`; pictures in rows become files in `folder`."""

    root: Path
    folder: Path

    def path(self, reference: Reference, root: DataRoot) -> str:
        """The path, in a new row, of a picture or video of a row of the set. Raises BadRow if it is not there."""
        try:
            if isinstance(reference, bytes):
                file = self._written(reference)
            else:
                root.find(reference)
                file = root.folder.resolve() / reference
            if not file.is_relative_to(self.root):
                raise BadRow(f"outside of {self.root}; give the folder of all files with --media")
        except BadRow as error:
            raise BadRow(f"{named(reference)}: {error}") from None
        return os.path.normpath(file.relative_to(self.root))

    def _written(self, picture: bytes) -> Path:
        """The file of a picture, named by its content. Raises BadRow if it is of no accepted format."""
        suffix = next((suffix for start, suffix in PICTURES.items() if re.match(start, picture)), None)
        if suffix is None:
            raise BadRow(f"not a picture of an accepted format; accepted: {', '.join(FORMATS)}")
        content = sha256(picture).hexdigest()
        file = self.folder / content[:2] / f"{content[:32]}{suffix}"
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            replace_bytes(file, picture)
        return file
