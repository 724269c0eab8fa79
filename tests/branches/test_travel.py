"""What crosses between processes: problems by their address, made anew there, and never in the place of another."""

import pickle
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pytest
from PIL import Image

from copd.branches.branch import VISIT_STRIDE
from copd.branches.travel import from_bytes, to_bytes
from copd.errors import DataError
from copd.rewards.answers import final_answer
from copd.rows.formats import RowRules
from copd.rows.opening import Settings
from copd.rows.rows import Rows
from copd.tasks.asked import Asked
from copd.tasks.digits import Digits
from copd.tasks.mixture import Mixture
from copd.types import Address, Problem, Split

SIDE = 512


@dataclass(frozen=True)
class Noise:
    """Problems with one large picture each."""

    name = "noise"

    def problem(self, split, index):
        pixels = np.random.default_rng(index).integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8)
        return Problem(f"noise/{index}", self.name, "sum", "1", "integer", images=(pixels,))


def world():
    """The tasks of a process, made anew as every process of a run makes its own; two under other names."""
    tasks = {
        "sums": Digits("text", seed=3),
        "image": Digits("image", seed=3),
        "film": Digits("video"),
        "noise": Noise(),
    }
    return Asked({**tasks, "mixed": Mixture("mixed", tuple(tasks.values()))})


def crossed(value):
    return from_bytes(to_bytes(value), world().at)


@pytest.mark.parametrize("capability", ["sums", "image", "film", "mixed"])
@pytest.mark.parametrize("split", Split)
@pytest.mark.parametrize("index", [0, 5, 3 * VISIT_STRIDE + 7])
def test_a_problem_is_made_anew_at_its_address(capability, split, index):
    if split is not Split.TRAIN and index > 5:
        return  # texts of validation are drawn one after the other
    sent = world().at(Address(capability, split, index))
    found = crossed(sent)
    assert found is not sent
    assert found.address == Address(capability, split, index)
    assert (found.id, found.prompt, found.answer, found.task) == (sent.id, sent.prompt, sent.answer, sent.task)
    assert all(
        np.array_equal(a, b) for a, b in zip(found.images + found.videos, sent.images + sent.videos, strict=True)
    )
    assert len(to_bytes(sent)) < 300


def test_no_pixel_crosses_with_the_responses_to_pictures(make_branch):
    branch = make_branch("noise", tasks={"noise": Noise()})
    problems = [branch.asked.at(Address("noise", Split.TRAIN, i)) for i in range(8)]
    rollouts = replace(branch.collect("noise", 0, 1, 8), problems=tuple(problems))
    whole = to_bytes(replace(rollouts, problems=tuple(replace(problem) for problem in problems)))
    content = to_bytes(rollouts)
    assert len(whole) > 8 * SIDE * SIDE * 3
    assert len(content) < 8_000
    assert not any(problem.images[0].tobytes()[:64] in content for problem in problems)
    assert [found.fingerprint for found in crossed(rollouts).problems] == [problem.fingerprint for problem in problems]


def test_a_problem_of_no_task_and_a_changed_copy_of_another_cross_whole(problems_of):
    alone = problems_of["image"][2]
    assert alone.address is None
    changed = replace(world().at(Address("image", Split.TRAIN, 0)), prompt="max")
    assert changed.address is None
    for sent in (alone, changed):
        found = crossed(sent)
        assert (found.prompt, found.address) == (sent.prompt, None)
        assert np.array_equal(found.images[0], sent.images[0])


def test_the_fingerprint_is_of_everything_but_the_address(problems_of):
    (first, *_), (film, *_) = problems_of["image"], problems_of["video"]
    changes = {"id": "b", "task": "b", "prompt": "b", "answer": "b", "verifier": "b", "solution": "b", "fps": 1.0}
    changes |= {"columns": '{"a": 1}', "sources": ("b",), "chat_template_kwargs": {"b": 1}, "messages": ("b",)}
    changes |= {"images": (255 - first.images[0],), "videos": film.videos}
    others = [replace(first, **{name: value}).fingerprint for name, value in changes.items()]
    turned = replace(first, images=(first.images[0].reshape(-1, 8, 3),)).fingerprint
    assert len({first.fingerprint, turned, *others}) == len(others) + 2
    assert first.at(Address("image", Split.TEST, 1)).fingerprint == replace(first).fingerprint == first.fingerprint


def rows(folder):
    settings = Settings(RowRules(frozenset({"integer"}), partial(final_answer, finished=True), verifier="integer"))
    return Rows("seen", {split: [str(folder / "a.jsonl")] for split in Split}, settings)


def test_a_picture_that_changed_between_two_processes_is_an_error_that_names_the_row(tmp_path):
    Image.new("RGB", (16, 16), "red").save(tmp_path / "p.png")
    (tmp_path / "a.jsonl").write_text('{"id": "r-1", "prompt": "what?", "answer": "1", "images": ["p.png"]}\n')
    here, there = Asked({"seen": rows(tmp_path)}), Asked({"seen": rows(tmp_path)})
    sent = to_bytes(here.at(Address("seen", Split.TRAIN, 0)))
    assert from_bytes(sent, there.at).id == "r-1"
    Image.new("RGB", (16, 16), "blue").save(tmp_path / "p.png")
    with pytest.raises(
        DataError, match=r"^r-1: problem 0 of seen \(train\) is not the same in two processes .* changed"
    ):
        from_bytes(sent, there.at)


def test_tensors_and_all_else_cross_as_they_are(written, policy, problems_of, assert_same):
    rollouts = written(policy, problems_of["text"])
    found = crossed({"tokens": rollouts.tokens_NT, "deep": [1.5, ("a", None)], "bits": rollouts.mask_NT})
    assert_same({k: found[k] for k in ("tokens", "bits")}, {"tokens": rollouts.tokens_NT, "bits": rollouts.mask_NT})
    assert found["deep"] == [1.5, ("a", None)]
    with pytest.raises(pickle.UnpicklingError):
        pickle.loads(to_bytes(world().at(Address("sums", Split.TRAIN, 0))))
