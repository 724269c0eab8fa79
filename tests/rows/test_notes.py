"""Notes are counted by row, and only so many different ones are kept."""

from collections import Counter

from copd.rows.formats import Row
from copd.rows.media import MediaRules
from copd.rows.notes import MAX_NOTES, OTHERS, count_notes


def row(*notes, **media):
    return Row((), "?", "1", "exact", notes=notes, **media)


def test_names_that_differ_in_every_row_do_not_fill_the_memory():
    counts = Counter()
    count_notes(counts, row("always"), MediaRules())
    for i in range(2 * MAX_NOTES):
        count_notes(counts, row("always", *(f"{i}/{j}" for j in range(30))), MediaRules())
    assert len(counts) == MAX_NOTES + 1
    assert counts["always"] == 2 * MAX_NOTES + 1
    assert counts[OTHERS] > MAX_NOTES


def test_a_video_of_more_frames_than_are_shown_is_told():
    counts = Counter()
    for frames in (2, 3, 4):
        count_notes(counts, row(videos=(("a.png",) * frames,)), MediaRules(max_frames=2))
    assert counts == {"of a video's frames only 2 are shown to the model (media.max_frames)": 2}
