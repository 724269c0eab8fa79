"""What grading processes run, called in this one; that they run it is seen in test_pool.py."""

import hashlib

import pytest

from copd.rewards import adapters, worker
from copd.rewards.adapters import Sample, UserVerifier

SAMPLE = Sample("p", "r", "a", "t", "id", ())
FILE = "def score(response, answer):\n    return 0.5\n"


@pytest.fixture
def loaded(tmp_path, monkeypatch):
    """Load `score` of a file as a grading process does, the file having the text `now` by then."""

    def load(now: str) -> None:
        path = tmp_path / "rewards.py"
        path.write_text(now)
        verifier = UserVerifier("mine", str(path), "score", hashlib.sha256(FILE.encode()).hexdigest(), "copd")
        monkeypatch.setitem(worker._loaded, "mine", worker.attempt(adapters.load, verifier))

    return load


def test_a_file_that_was_loaded_gives_its_score(loaded):
    loaded(FILE)
    assert worker.verify_by_user("mine", "copd", SAMPLE).score == 0.5


def test_each_call_of_a_file_that_could_not_be_loaded_says_why(loaded):
    loaded(FILE.replace("0.5", "1.0"))
    for _ in range(2):
        with pytest.raises(RuntimeError, match=r"rewards\.py has changed since the start of the run"):
            worker.verify_by_user("mine", "copd", SAMPLE)
