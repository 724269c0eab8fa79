"""What harnesses log, read from files that lmms-eval 0.7.3 and lm-eval 0.4.13 wrote.

`recorded/own_tasks` holds tasks of lmms-eval's own code, on invented problems and responses.
"""

from dataclasses import replace
from pathlib import Path

import pytest

from copd.errors import DataError
from copd.suites.samples import read_samples, scores_of, told_by, with_placeholders
from copd.suites.suite import Benchmark, load_suite

RECORDED = Path(__file__).parent / "recorded"
OF_PAPER = load_suite("paper").benchmarks


def recorded(task):
    return [sample for sample in read_samples(RECORDED / "own_tasks") if sample.task == task]


@pytest.mark.parametrize(
    ("task", "benchmark", "expected"),
    [
        ("rec_holmes", "video_holmes", [1, 0, 1]),
        ("rec_mathqa", "videomathqa", [1, 0, 1]),
        ("rec_mvbench", "mvbench", [1, 1, 0]),
    ],
)
def test_the_scores_of_a_task_are_read_as_the_suite_says_and_average_to_what_the_harness_prints(
    task, benchmark, expected
):
    ids, scores = scores_of(benchmark, OF_PAPER[benchmark], recorded(task))
    assert ids == [f"{task}/{i}" for i in range(3)]
    assert scores == [[score] for score in expected]
    told = told_by(RECORDED / "own_tasks", task, OF_PAPER[benchmark].metric)
    assert told == pytest.approx(100 * sum(expected) / 3)


def test_of_mmvu_only_multiple_choice_counts():
    ids, scores = scores_of("mmvu", OF_PAPER["mmvu"], recorded("rec_mmvu"))
    assert len(recorded("rec_mmvu")) == 5
    assert ids == ["rec_mmvu/0", "rec_mmvu/1", "rec_mmvu/2"]
    assert scores == [[1], [0], [1]]


def test_the_prompt_that_counts_is_found_with_its_quotes_line_ends_and_letters():
    counts = OF_PAPER["mmvu"].model_copy(update={"kept": 'W\u00e4hle "A"\nB'})
    asked = [replace(each, record={**each.record, "input": f"{counts.kept}?"}) for each in recorded("rec_mmvu")[:1]]
    assert scores_of("mmvu", counts, asked)[0] == ["rec_mmvu/0"]
    with pytest.raises(DataError, match="has the prompt that counts"):
        scores_of("mmvu", counts.model_copy(update={"kept": "other"}), asked)


def test_wemath_is_scored_by_problem_with_its_steps_as_the_harness_does():
    """Mastered, not generalized, learned by rote, not known; a mastered one of three steps."""
    ids, scores = scores_of("wemath", OF_PAPER["wemath"], recorded("rec_wemath"))
    assert dict(zip(ids, [score for (score,) in scores], strict=True)) == {
        "2steps/1": 1,
        "2steps/2": 0.5,
        "2steps/3": 0,
        "2steps/4": 0,
        "3steps/1": 1,
    }
    missed = 525 * (1 - float(told_by(RECORDED / "own_tasks", "rec_wemath", "wemath_strict").rstrip("%")) / 100)
    assert missed == pytest.approx(5 - 2.5, abs=0.03), "it counts the problems that were not asked as right"


@pytest.mark.parametrize("harness", ["lm-eval", "lmms-eval"])
def test_responses_are_read_in_the_order_of_the_problems(harness):
    samples = read_samples(RECORDED / harness)
    assert [(sample.task, sample.place) for sample in samples] == [("copd_digits", i) for i in range(4)]
    assert all(len(sample.responses) == 1 and sample.responses[0].startswith(("9 ", "3 ")) for sample in samples)


def test_a_score_that_is_not_there_is_told_with_what_is():
    wrong = Benchmark(group="video", engine="lmms-eval", problems=3, task="rec_holmes", metric="acc_score")
    with pytest.raises(DataError, match=r"rec_holmes/0 .* no score under acc_score: .*; a sample holds .*video_holmes"):
        scores_of("holmes", wrong, recorded("rec_holmes"))
    record = wrong.model_copy(update={"metric": "video_holmes_accuracy"})
    with pytest.raises(DataError, match="no score under video_holmes_accuracy: "):
        scores_of("holmes", record, recorded("rec_holmes"))
    none = OF_PAPER["mmvu"].model_copy(update={"kept": "no such prompt"})
    with pytest.raises(DataError, match="none of 5 samples"):
        scores_of("mmvu", none, recorded("rec_mmvu"))


def test_a_file_of_other_lines_is_told_by_name(tmp_path):
    (tmp_path / "x_samples_y.jsonl").write_text('{"doc": 1}\n')
    with pytest.raises(DataError, match=r"x_samples_y\.jsonl: no samples of a harness"):
        read_samples(tmp_path)


def test_responses_that_show_a_placeholder_are_counted(tmp_path):
    lines = [
        '{"doc_id": 0, "filtered_resps": "4<|image_pad|>"}',
        '{"doc_id": 1, "resps": [["4", "<|video_pad|>"]], "filtered_resps": ["4"]}',
        '{"doc_id": 2, "filtered_resps": "4"}',
    ]
    (tmp_path / "x_samples_y.jsonl").write_text("\n".join(lines))
    assert with_placeholders(read_samples(tmp_path)) == 2
