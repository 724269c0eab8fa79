"""Counts what of rows is not read, or is read in another way than it stands there."""

from __future__ import annotations

from collections import Counter

from copd.rows.formats import Row
from copd.rows.media import MediaRules

MAX_NOTES = 50
"""Most different notes that are kept. Names in them come from the rows, and may differ in each."""
OTHERS = "more is not read, or is read in another way, than is listed here"


def count_notes(counts: Counter[str], row: Row, rules: MediaRules) -> None:
    """Add the notes of a row to their counts."""
    notes = row.notes
    if any(isinstance(video, tuple) and len(video) > rules.max_frames for video in row.videos):
        notes = (*notes, f"of a video's frames only {rules.max_frames} are shown to the model (media.max_frames)")
    for note in notes:
        counts[note if note in counts or len(counts) < MAX_NOTES else OTHERS] += 1
