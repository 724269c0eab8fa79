"""Branches and tags of the Hugging Face Hub, resolved to commits."""

from __future__ import annotations

import logging
import re
from functools import cache
from pathlib import Path
from typing import Literal

from copd.errors import CopdError, first_line
from copd.system.files import COMMIT

logger = logging.getLogger(__name__)
OUTAGES = (429, *range(500, 600))
"""The statuses with which the hub says that it cannot answer now."""


@cache
def commit_of(repository: str, revision: str, kind: Literal["model", "dataset"]) -> str:
    """The commit of a model or data set of the hub that a branch or tag names now; a commit names itself.

    Where the hub cannot be reached, it is the commit that the cache has for the name. The process tells what a name
    stands for, once, and keeps to it. Raises CopdError if neither the hub nor the cache knows it.
    """
    if re.fullmatch(COMMIT, revision):
        return revision
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    where = ""
    try:
        commit = HfApi().repo_info(repository, revision=revision, repo_type=kind).sha or ""
    except HFValidationError as error:
        raise CopdError(f"{repository!r} is no id of the hub; accepted: OWNER/NAME") from error
    except Exception as error:  # network and client: each library beneath has its own errors
        if isinstance(error, HfHubHTTPError) and error.response.status_code not in OUTAGES:
            raise CopdError(f"{repository} has no revision {revision!r} for this user: {first_line(error)}") from error
        commit, where = _cached(repository, revision, kind), " in the cache, since the hub cannot be reached"
        if not commit:
            reason = first_line(error)
            raise CopdError(
                f"revision {revision!r} of {repository} is not known here, and the hub cannot be reached ({reason}); "
                "fetch it once where there is a network, or give a local path"
            ) from error
    if not re.fullmatch(COMMIT, commit):
        raise CopdError(f"{repository}: the hub names no commit for {revision!r}, found {commit[:80]!r}")
    logger.warning("%s of %s is commit %s%s", revision, repository, commit, where)
    return commit


def _cached(repository: str, revision: str, kind: str) -> str:
    """The commit that the cache on disk has for a branch or tag; empty if it has none."""
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    file = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repository, repo_type=kind) / "refs" / revision
    return file.read_text(encoding="utf-8").strip() if file.is_file() else ""
