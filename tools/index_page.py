"""README.pypi.md, the long description on a package index, from README.md (`make docs`).

An index shows neither files of the repository nor pictures within the page, and copd has no public address that links
could lead to. So pictures with their captions are left out, and links to files become plain text or go. The chapter
on how to start is one for an installed package.
"""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
HEAD = (
    "<!-- Written by `make docs` from README.md, without the pictures and links that an index page cannot show. -->\n"
)
START, AFTER, LAST = "## Start", "## What runs where", "## What is where"
"""The chapter that is replaced, the one behind it, and the one that is about the repository alone."""
INSTALLED = """## Start

```sh
pip install copd
copd train demo --out runs/demo                    # minutes on two CPU cores; needs no network
copd example own_data mine                         # rows of text, images and videos, and a recipe on them
copd train mine/recipe.yaml --out runs/rows
```

On Linux the install brings CUDA libraries; `--extra-index-url https://download.pytorch.org/whl/cpu` leaves them out.
Python 3.11 or later; Linux or macOS, and on Windows WSL. From Python, `copd.train("demo")` returns the run.

"""


def index_page(readme: str) -> str:
    """The README for an index: without pictures, their captions, links to files, and what needs a checkout."""
    text, _, rest = readme.partition(LAST)
    before, _, start = text.partition(START)
    text = before + INSTALLED + start[start.index(AFTER) :]
    text = re.sub(r"^!\[[^\]]*\]\([^)]*\)\n(?:\n\*[^*]+?\*\n)?\n?", "", text, flags=re.MULTILINE)
    text = re.sub(r" \(\[[^\]]+\]\((?!https://)[^)]*\)\)", "", text)
    text = re.sub(r"\[([^\]]+)\]\((?!https://)[^)]*\)", r"\1", text)
    return f"{HEAD}{text}{re.search('License: [^ ]+', rest)[0]}\n"


if __name__ == "__main__":
    (ROOT / "README.pypi.md").write_text(index_page((ROOT / "README.md").read_text("utf-8")), "utf-8")
