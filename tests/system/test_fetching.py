"""Downloads tell their bytes in lines, whatever the terminal and the hub's own settings are."""

import time

import pytest

from copd.system.fetching import Fetching, of


@pytest.mark.parametrize(
    ("count", "total", "said"),
    [(1.24e9, 8.9e9, "1.2 of 8.9 GB"), (5e5, 4e6, "0.5 of 4.0 MB"), (10, 20, "10.0 of 20.0 B")],
)
def test_bytes_are_told_in_the_unit_of_their_total(count, total, said):
    assert of(count, total) == said


def test_only_bytes_are_told_and_no_line_is_said_twice(caplog, capsys):
    with Fetching(total=4, desc="Fetching 4 files", unit="it") as files:
        files.update(1)
        files.refresh()
    with Fetching(total=4_000_000, unit="B", desc="Downloading bytes") as twin:
        twin.update(1)
        twin.refresh()
    with Fetching(total=4_000_000, unit="B", disable=True) as bar:
        bar.refresh()
        for _ in range(2):
            bar.refresh()
            bar.update(1_000_000)
            bar.refresh()
            bar.refresh()
    assert caplog.messages == ["fetched 1.0 of 4.0 MB", "fetched 2.0 of 4.0 MB"]
    assert capsys.readouterr() == ("", "")


def test_many_updates_make_few_lines(caplog):
    began = time.monotonic()
    with Fetching(total=1_000_000, unit="B") as bar:
        for _ in range(1000):
            bar.update(1000)
    assert len(caplog.messages) <= 2 + (time.monotonic() - began) / 10
