"""The notebook of the examples: a sound file without outputs, whose cells run from top to bottom and draw."""

import json
from pathlib import Path

import matplotlib as mpl
import pytest

NOTEBOOK = Path(__file__).parents[2] / "examples" / "demo.ipynb"
ASKED = {"markdown": {"cell_type", "id", "metadata", "source"}}
ASKED["code"] = ASKED["markdown"] | {"execution_count", "outputs"}


@pytest.fixture(scope="module")
def book() -> dict:
    return json.loads(NOTEBOOK.read_text(encoding="utf-8"))


def code_of(book: dict) -> list[str]:
    return ["".join(cell["source"]) for cell in book["cells"] if cell["cell_type"] == "code"]


def test_the_notebook_is_of_the_format_that_jupyter_reads_and_holds_no_outputs(book):
    assert (book["nbformat"], book["nbformat_minor"]) == (4, 5)
    assert set(book) == {"cells", "metadata", "nbformat", "nbformat_minor"}
    for cell in book["cells"]:
        assert set(cell) == ASKED[cell["cell_type"]]
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None
    assert len({cell["id"] for cell in book["cells"]}) == len(book["cells"])


def test_every_cell_of_code_is_python(book):
    for number, code in enumerate(code_of(book)):
        compile(code, f"cell {number}", "exec")


@pytest.mark.slow
def test_the_cells_run_in_order_and_draw_the_record_of_the_run(book, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    mpl.use("agg")
    names: dict = {"__name__": "notebook"}
    for number, code in enumerate(code_of(book)):
        exec(compile(code, f"cell {number}", "exec"), names)
    import matplotlib.pyplot as plt

    reward, accuracy, overlap = ({len(line.get_xdata()) for line in plt.figure(n).axes[0].lines} for n in (1, 2, 3))
    plt.close("all")
    assert (reward, accuracy) == ({6}, {3})
    assert overlap == {3}
    said = capsys.readouterr().out
    assert "final answer: " in said
    assert "merged " in said
    assert (tmp_path / "runs" / "notebook" / "report.html").is_file()
