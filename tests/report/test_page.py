"""The report: one page, escaped, whole."""

import json
from html.parser import HTMLParser

import pytest

from copd.report.page import write_report

HOSTILE = "<script>alert(1)</script>{{ 7 * 7 }}"


def cell(model, field, value=0.5):
    estimate = {"value": value, "low": value - 0.1, "high": value + 0.1}
    return {"model": model, "field": field, "problems": 10, "greedy": estimate, "pass_at": {"1": estimate}}


def behaviour(step, phase):
    square = {a: {b: 1.0 if a == b else 0.9 for b in ("text", "image")} for a in ("text", "image")}
    return {"event": "behaviour", "step": step, "phase": phase, "overlap": {"10": square}} | {
        "symmetric_kl": square,
        "accuracy": square,
    }


def update(step, branch):
    return {"event": "update", "step": step, "branch": branch, "native/reward": 0.25}


@pytest.fixture
def run(tmp_path):
    names, fields = ("base", "text", "image", "merged"), ("text", "image", "average")
    counts = dict.fromkeys(("rollouts", "tokens_generated", "tokens_scored", "tokens_trained"), 1234) | {
        "collect_seconds": 1.5,
        "score_seconds": 0.5,
        "update_seconds": 2.0,
    }
    records = [
        behaviour(-1, "start"),
        {"event": "accuracy", "step": -1, "table": [cell(b, f) for b in ("text", "image") for f in fields]},
        update(0, "text"),
        update(0, "image"),
        behaviour(0, "rlvr"),
        {"event": "ledger", "step": 0, "spent": {"text": {"rlvr": counts}}, "critical_path": {"rlvr": 4.0}}
        | {"planned_rollouts": 2468},
        {"event": "result", "step": 0, "table": [cell(m, f) for m in names for f in fields]},
    ]
    recipe = {"method": "copd", "seed": 3, "model": {"path": "builtin:digits"}}
    sample = {"step": 0, "branch": "text", "field": "text", "prompt": HOSTILE, "answer": "1", "response": HOSTILE}
    (tmp_path / "manifest.json").write_text(json.dumps({"recipe": recipe}))
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    (tmp_path / "samples.jsonl").write_text(json.dumps({**sample, "reward": 0.0}) + "\n")
    return tmp_path


class Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.seen = []

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))


def test_the_page_shows_every_model_with_interval_and_the_curves(run):
    page = write_report(run).read_text()
    for expected in ("base", "merged", "50.0", "40.0 to 60.0", "2,468", "one seed"):
        assert expected in page
    tags = Tags()
    tags.feed(page)
    assert [tag for tag, _ in tags.seen].count("svg") == 4


def test_model_text_is_escaped_and_never_evaluated(run):
    page = write_report(run).read_text()
    assert HOSTILE not in page
    assert "&lt;script&gt;" in page
    assert "{{ 7 * 7 }}" in page


def test_the_page_needs_no_network_and_runs_no_script(run):
    tags = Tags()
    tags.feed(write_report(run).read_text())
    assert "script" not in {tag for tag, _ in tags.seen}
    assert not any(name in ("src", "srcset") for _, attributes in tags.seen for name in attributes)
    assert not any(attributes.get("href", "#").startswith("http") for tag, attributes in tags.seen if tag == "link")
