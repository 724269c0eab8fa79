"""The table of docs/coming-from.md, from copd/recipe/synonyms.py (`make docs`). What stands above the mark is kept."""

from collections.abc import Iterator
from pathlib import Path

from copd.recipe.synonyms import ROWS

PAGE = Path(__file__).parent.parent / "docs" / "coming-from.md"
MARK = "<!-- Below this line: written by `make docs` from copd/recipe/synonyms.py. -->\n"


def renewed(page: str) -> str:
    """The page with its table written anew."""
    return page.partition(MARK)[0] + MARK + "\n" + "".join(table())


def table() -> Iterator[str]:
    """A line for each field, with what three libraries call it."""
    yield "| copd | TRL | verl | EasyR1 | what differs |\n|---|---|---|---|---|\n"
    for row in ROWS:
        names = [", ".join(f"`{name}`" for name in names) for names in row.names.values()]
        yield f"| {' | '.join([f'`{row.here}`' if row.here else 'nothing', *names, row.note])} |\n"


if __name__ == "__main__":
    PAGE.write_text(renewed(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
