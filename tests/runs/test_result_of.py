"""The final table of a run folder, whatever has become of its record."""

import json

import pytest

from copd.errors import RunFolderError
from copd.runs.saved import result_of

ESTIMATE = {"value": 0.5, "low": 0.4, "high": 0.6}
CELL = {"model": "base", "capability": "text", "problems": 3, "greedy": ESTIMATE, "pass_at": {"1": ESTIMATE}}
RESULT = {"event": "result", "step": 9, "seconds": 1.0, "table": [CELL]}
DAMAGES = {
    "half a line within": '{"event": "upd\n',
    "not JSON": "\x00\x00\n",
    "endless lists": "[" * 100_000 + "\n",
    "a list": "[]\n",
    "a word": '"a word"\n',
    "no event": "{}\n",
    "no table": '{"event": "result"}\n',
    "a table of numbers": '{"event": "result", "table": [1]}\n',
    "a table without its cells' model": '{"event": "result", "table": [{}]}\n',
    "an unknown estimate": json.dumps({**RESULT, "table": [{**CELL, "greedy": {"mean": 1}}]}) + "\n",
    "pass@k as a list": json.dumps({**RESULT, "table": [{**CELL, "pass_at": [1]}]}) + "\n",
}


def test_a_run_without_a_result_has_an_empty_table(tmp_path):
    assert result_of(tmp_path) == []
    (tmp_path / "metrics.jsonl").write_text('{"event": "update"}\n{"event": "result", "ta')
    assert result_of(tmp_path) == []


def test_the_table_is_that_of_the_result(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"event": "update"}\n' + json.dumps(RESULT) + "\n")
    (cell,) = result_of(tmp_path)
    assert (cell.model, cell.capability, cell.greedy.value, cell.pass_at[1].high) == ("base", "text", 0.5, 0.6)


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_record_is_refused_by_name(tmp_path, damage):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"event": "update"}\n' + damage + json.dumps(RESULT) + "\n")
    with pytest.raises(RunFolderError, match="cannot be read as the record of a run") as refusal:
        result_of(tmp_path)
    assert str(refusal.value).startswith(f"{path}: ")
