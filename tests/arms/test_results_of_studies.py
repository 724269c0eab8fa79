"""Every committed result of a study is one of the jobs that its files ask for today."""

import runpy
from dataclasses import replace
from pathlib import Path

import pytest

from copd.arms.comparison import read_comparison
from copd.arms.jobs import jobs_of, searches_of
from copd.arms.outcomes import read_outcome
from copd.arms.search import chosen_file, read_chosen

STUDIES = Path(__file__).parents[2] / "studies"
OF_VARIANTS = ("controls", "candidates")
"""The comparisons that studies/variants.py runs."""
FOLDERS = sorted(path.parent for path in STUDIES.glob("*/results"))
SEARCHES = sorted(path.parent.parent for path in STUDIES.glob("*/search/results"))


@pytest.fixture(scope="module")
def programs():
    """The hash of each variant's program."""
    variants = runpy.run_path(str(STUDIES / "variants.py"))
    return {arm: variants["program_of"](arm) for arm in variants["CHANGED"]}


def files_of(folder):
    """The comparisons in a folder: its other files are recipes, and choices of a search."""
    found = sorted(path for path in folder.glob("*.yaml") if "\narms:" in path.read_text())
    return {path: read_comparison(path) for path in found}


def strangers(results, jobs):
    """Results that are not in their place, or whose fingerprint is not that of each job of their arm."""
    asked = {}
    for job in jobs:
        asked.setdefault((job.account, job.arm), set()).add(job.fingerprint)
    found = []
    for path in sorted(results.rglob("seed-*.json")):
        outcome = read_outcome(path)
        place = results / outcome.account / outcome.arm / f"seed-{outcome.seed}.json"
        if path != place or asked.get((outcome.account, outcome.arm)) != {outcome.fingerprint}:
            found.append(str(path.relative_to(results)))
    return found


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_the_results_of_a_study_are_those_of_its_files(folder, programs):
    jobs = []
    for file, comparison in files_of(folder).items():
        chosen = read_chosen(file, comparison) if chosen_file(file).is_file() else {}
        own = programs if file.stem in OF_VARIANTS else {}
        jobs += [replace(job, program=own.get(job.arm, "")) for job in jobs_of(comparison, (0,), chosen)]
    assert strangers(folder / "results", jobs) == []


@pytest.mark.parametrize("folder", SEARCHES, ids=lambda folder: folder.name)
def test_the_results_of_a_search_are_those_of_its_candidates(folder):
    jobs = [job for comparison in files_of(folder).values() if comparison.search for job in searches_of(comparison)]
    assert strangers(folder / "search" / "results", jobs) == []
