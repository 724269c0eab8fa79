"""The file of a suite: what is accepted, and how a mistake is told."""

import pytest

from copd.errors import RecipeError
from copd.suites.suite import (
    GROUPS,
    UNFIT,
    Benchmark,
    Harness,
    Reference,
    Sampling,
    Suite,
    load_suite,
    make_suite,
    suites,
)

SOUND = {
    "title": "one",
    "sampling": {"temperature": 0, "max_new_tokens": 8},
    "benchmarks": {"sums": {"group": "text", "engine": "rows", "problems": 4}},
}


def with_benchmark(**fields):
    return {**SOUND, "benchmarks": {"sums": {**SOUND["benchmarks"]["sums"], **fields}}}


def test_the_suite_of_the_paper_averages_to_what_the_paper_prints():
    suite = load_suite("paper")
    counts = {group: sum(b.group == group for b in suite.benchmarks.values()) for group in GROUPS}
    assert counts == {"image": 7, "text": 5, "video": 4}
    assert suites() == ["paper"]
    for reference in suite.reference.values():
        mean = sum(counts[group] * getattr(reference, group) for group in counts) / 16
        assert mean == pytest.approx(reference.overall, abs=0.015)


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (with_benchmark(engine="lm-eval"), "benchmarks.sums.engine: lm-eval is not described under harnesses"),
        (with_benchmark(samples=2), "benchmarks.sums.samples: is 2, but at sampling.temperature 0"),
        (with_benchmark(metric="acc"), "benchmarks.sums.metric: is for a harness's own task"),
        (with_benchmark(task="x"), "benchmarks.sums.task: found 'x', but engine rows asks rows"),
        (with_benchmark(engine="lmms-eval", task="mmvu_val"), "benchmarks.sums.metric: missing"),
        (
            with_benchmark(engine="lmms-eval", task="t", metric="m", verifier="math"),
            "benchmarks.sums.verifier: is for rows",
        ),
        (with_benchmark(problem=4), "benchmarks.sums.problem: unknown key"),
        (with_benchmark(rows="../up"), "benchmarks.sums.rows: a file's name, without its ending, is a letter, then"),
        ({**SOUND, "benchmarks": {"../up": {}}}, "benchmarks.../up: a benchmark's name is a letter, then"),
        ([], "mine.yaml: a suite is a mapping with benchmarks, found list"),
        (None, "mine.yaml: a suite is a mapping with benchmarks, found nothing"),
    ],
)
def test_a_suite_that_contradicts_itself_is_refused_by_the_key(data, told):
    with pytest.raises(RecipeError) as error:
        make_suite(data, "mine.yaml")
    assert str(error.value).startswith("mine.yaml: ")
    assert told in str(error.value)


@pytest.mark.parametrize("task", sorted(UNFIT))
def test_tasks_that_run_what_a_model_wrote_or_score_0_without_a_judge_are_refused(task):
    with pytest.raises(RecipeError, match=f"task: {task} is refused: .*; take [a-z_]+_reasoning"):
        make_suite(with_benchmark(engine="lmms-eval", task=task, metric="m"), "mine.yaml")


def test_a_suite_that_is_not_there_is_told_with_those_that_ship(tmp_path):
    with pytest.raises(RecipeError, match=r"--suite papers: not a readable file .*, nor a suite of copd: paper"):
        load_suite("papers")


@pytest.mark.parametrize("section", [Suite, Sampling, Harness, Benchmark, Reference])
def test_every_field_of_a_suite_has_a_meaning(section):
    assert [name for name, field in section.model_fields.items() if not field.description] == []
