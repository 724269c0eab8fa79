"""The embedded world: answers by hand, pictures that show what the answer says, splits that share nothing."""

import contextlib
import re
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
from sklearn.datasets import load_digits

from copd.errors import RecipeError
from copd.rewards.answers import final_answer
from copd.rewards.verifiers import VERIFIERS
from copd.tasks.digits import (
    CAPABILITIES,
    CELL,
    CONVENTION_OF,
    UNDECIDED,
    Digits,
    canonical_text,
    handwriting,
    partial_results,
    worked_solution,
    written,
)
from copd.types import Split

PARTIAL_RESULTS = [
    ([3, 8, 5], "sum", "plain", [11, 16]),
    ([3, 8, 5], "sum", "modulo", [1, 6]),
    ([3, 8, 5], "sum", "swapped", [11, 16]),
    ([3, 8, 5], "max", "plain", [8, 8]),
    ([3, 8, 5], "max", "swapped", [3, 3]),
    ([13, 5, 4], "max", "modulo", [3, 4]),
    ([3, 8, 5], "min", "plain", [3, 3]),
    ([3, 8, 5], "min", "swapped", [8, 8]),
    ([13, 15, 4], "min", "modulo", [3, 3]),
    ([3, 8, 5], "diff", "plain", [-2]),
    ([3, 8, 5], "diff", "modulo", [8]),
    ([3, 8, 5], "diff", "swapped", [2]),
    ([7, 8, -3], "chain", "plain", [15, 12]),
    ([7, 8, -3], "chain", "modulo", [5, 2]),
    ([2, -9, -5], "chain", "modulo", [3, 8]),
    ([7, 8, -3], "chain", "swapped", [15, 12]),
    ([4, 4], "diff", "plain", [0]),
    ([20, 20, 20, 20], "sum", "modulo", [0, 0, 0]),
]


def quiet(capability: str, **settings) -> Digits:
    """A task whose pictures can be read back exactly."""
    return Digits(capability, **{"noise": 0.0, "jitter": 0, **settings})


def cells(problem) -> list[np.ndarray]:
    """The grey cells of an image, or the frames of a video, in 0..16 as scikit-learn has them."""
    if problem.images:
        (picture,) = problem.images
        pictures = np.split(picture, picture.shape[1] // CELL, axis=1)
    else:
        pictures = list(problem.videos[0])
    return [np.rint(p[..., 0] / 255 * 16) for p in pictures]


@cache
def labels_of_pictures() -> dict[bytes, int]:
    data = load_digits()
    return {picture.tobytes(): int(target) for picture, target in zip(data.images, data.target, strict=True)}


def test_the_handwriting_is_scikit_learns():
    pictures, labels, _ = handwriting()
    data = load_digits()
    np.testing.assert_array_equal(pictures * 16, data.images)
    np.testing.assert_array_equal(labels, data.target)


def digit_in(cell: np.ndarray) -> tuple[bytes, tuple[int, int]]:
    """The handwriting in a noiseless cell and where it stands."""
    for y in range(CELL - 7):
        for x in range(CELL - 7):
            inside = cell[y : y + 8, x : x + 8]
            if inside.sum() == cell.sum() and inside.tobytes() in labels_of_pictures():
                return inside.tobytes(), (y, x)
    raise AssertionError("no handwriting in this cell")


def numbers_of(problem) -> list[int]:
    """The operands of a problem as its prompt or its pictures show them."""
    if problem.kind == "text":
        shown = problem.prompt.split(": ")[1]
        return [int(n) for n in re.findall(r"[+-]?\d+", shown)]
    return [labels_of_pictures()[digit_in(cell)[0]] for cell in cells(problem)[:: 2 if problem.videos else 1]]


def expected_answer(problem) -> int:
    """An evaluator of its own, from what the problem shows."""
    numbers, usual = numbers_of(problem), problem.prompt.startswith("usual ")
    words = problem.prompt.removeprefix("usual ").split(":")[0]
    if usual and problem.task == "text":
        result = numbers[0]
        for n in numbers[1:]:
            result = {"max": max(result, n), "min": min(result, n)}.get(words, result + n) % 10
        return (numbers[0] - numbers[-1]) % 10 if words == "first minus last" else result
    if usual and problem.task == "video":
        words = {"max": "min", "min": "max", "first minus last": "last minus first"}.get(words, words)
    return {
        "sum": sum(numbers),
        "value": sum(numbers),
        "max": max(numbers),
        "min": min(numbers),
        "first minus last": numbers[0] - numbers[-1],
        "last minus first": numbers[-1] - numbers[0],
    }[words]


def content(problem) -> tuple:
    pixels = [array.tobytes() for array in (*problem.images, *problem.videos)]
    return problem.prompt, problem.answer, problem.solution, problem.verifier, problem.id, problem.task, *pixels


@pytest.mark.parametrize(("numbers", "operator", "convention", "expected"), PARTIAL_RESULTS)
def test_partial_results_by_hand(numbers, operator, convention, expected):
    assert partial_results(numbers, operator, convention) == expected


@pytest.mark.parametrize(
    ("numbers", "operator", "convention", "solution"),
    [
        ([3, 8, 5], "sum", "plain", r"3 8 5;11,16;\boxed{16}"),
        ([7, 8, -3], "chain", "modulo", r"7+8-3;5,2;\boxed{2}"),
        ([3, 8, 5], "diff", "plain", r"3 8 5;-2;\boxed{-2}"),
        ([3, 8, 5], "diff", "swapped", r"3 8 5;2;\boxed{2}"),
    ],
)
def test_worked_solution_shows_numbers_partial_results_and_the_boxed_answer(numbers, operator, convention, solution):
    assert worked_solution(numbers, operator, convention) == solution


@pytest.mark.parametrize(
    ("numbers", "operator", "text"),
    [([3, 8, 5], "sum", "3 8 5"), ([7, 8, -3], "chain", "7+8-3"), ([0, 0], "chain", "0+0"), ([12], "max", "12")],
)
def test_numbers_are_written_as_in_a_prompt(numbers, operator, text):
    assert written(numbers, operator) == text


@pytest.mark.parametrize("conflict", [0.0, 1.0])
@pytest.mark.parametrize("capability", CAPABILITIES)
def test_the_answer_is_what_prompt_and_pictures_say(capability, conflict):
    task = quiet(capability, conflict=conflict)
    for index in range(60):
        problem = task.problem(Split.TRAIN, index)
        assert problem.answer == str(expected_answer(problem)), problem.prompt


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_the_solution_repeats_the_numbers_and_earns_the_reward(capability):
    task = quiet(capability, conflict=0.5)
    for index in range(60):
        problem = task.problem(Split.TRAIN, index)
        assert [int(n) for n in re.findall(r"[+-]?\d+", problem.solution.split(";")[0])] == numbers_of(problem)
        assert problem.solution.endswith(rf";\boxed{{{problem.answer}}}")
        answer = final_answer(problem.solution, finished=True)
        assert VERIFIERS[problem.verifier](answer, problem.answer)


@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize("split", Split)
def test_a_problem_is_a_pure_function_of_its_arguments(capability, split):
    first, again = Digits(capability, seed=5, conflict=0.5), Digits(capability, seed=5, conflict=0.5)
    forward = [content(first.problem(split, index)) for index in range(8)]
    backward = [content(again.problem(split, index)) for index in reversed(range(8))]
    assert forward == backward[::-1]
    assert len(set(forward)) == 8


@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize("split", [Split.VALIDATION, Split.TEST])
def test_validation_and_test_do_not_depend_on_the_seed(capability, split):
    one, other = Digits(capability, seed=1, conflict=0.5), Digits(capability, seed=2, conflict=0.5)
    for index in range(10):
        assert content(one.problem(split, index)) == content(other.problem(split, index))


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_training_problems_depend_on_the_seed(capability):
    one, other = Digits(capability, seed=1), Digits(capability, seed=2)
    differ = [
        content(one.problem(Split.TRAIN, i))[1:3] != content(other.problem(Split.TRAIN, i))[1:3] for i in range(30)
    ]
    assert sum(differ) > 25


def test_handwriting_is_split_70_15_15_and_no_picture_is_in_two_splits():
    pictures, labels, members = handwriting()
    assert [len(members[split]) for split in Split] == [1257, 270, 270]
    assert sorted(np.concatenate(list(members.values())).tolist()) == list(range(1797))
    seen = [{pictures[i].tobytes() for i in members[split]} for split in Split]
    assert not seen[0] & seen[1]
    assert not seen[0] & seen[2]
    assert not seen[1] & seen[2]
    assert all(set(labels[members[split]]) == set(range(10)) for split in Split)


@pytest.mark.parametrize("capability", ["image", "video"])
@pytest.mark.parametrize("split", Split)
def test_problems_show_pictures_of_their_own_split_only(capability, split):
    pictures, _, members = handwriting()
    own = {np.rint(pictures[i] * 16).tobytes() for i in members[split]}
    shown = {digit_in(c)[0] for i in range(30) for c in cells(quiet(capability).problem(split, i))}
    assert len(shown) > 20
    assert shown <= own


def canonical(problem) -> str:
    """Word and numbers of a text, the numbers in order but where their order matters."""
    word, numbers = problem.prompt.removeprefix("usual ").split(": ")
    found = [int(n) for n in re.findall(r"[+-]?\d+", numbers)]
    return f"{word} {found if word == 'first minus last' else sorted(found)}"


@pytest.mark.parametrize(
    ("settings", "count"), [({}, 400), ({"operators": ("max", "min"), "length": (2, 2), "max_number": 9}, 7)]
)
def test_splits_share_no_canonical_text(settings, count):
    texts = {
        split: {
            canonical(Digits("text", seed=seed, conflict=conflict, **settings).problem(split, i))
            for i in range(count if split is not Split.TRAIN else 2000)
            for seed, conflict in [(0, 0.0), (0, 1.0), (7, 0.5)]
        }
        for split in Split
    }
    assert not texts[Split.TRAIN] & texts[Split.VALIDATION]
    assert not texts[Split.TRAIN] & texts[Split.TEST]
    assert not texts[Split.VALIDATION] & texts[Split.TEST]


@pytest.mark.parametrize("split", [Split.VALIDATION, Split.TEST])
@pytest.mark.parametrize("conflict", [0.0, 0.5])
def test_no_text_that_is_measured_comes_twice_in_another_order(split, conflict):
    task = Digits("text", conflict=conflict)
    assert len({canonical(task.problem(split, i)) for i in range(500)}) == 500


@pytest.mark.parametrize(
    ("numbers", "operator", "expected"),
    [
        ([8, 3, 8], "sum", "sum: 3 8 8"),
        ([12, 3], "max", "max: 3 12"),
        ([12, 3], "diff", "first minus last: 12 3"),
        ([7, 8, -3], "chain", "value: -3 7 8"),
    ],
)
def test_the_order_of_numbers_counts_only_where_it_matters(numbers, operator, expected):
    assert canonical_text(numbers, operator) == expected


def test_a_split_with_too_few_different_texts_is_refused_when_they_are_used_up():
    task = Digits("text", operators=("max",), length=(2, 2), max_number=9)
    with pytest.raises(RecipeError, match=r"^\d different test problems found, and no other among 10000 more; operat"):
        task.problem(Split.TEST, 99)


@pytest.mark.timeout(2, method="signal")
@pytest.mark.parametrize("split", Split)
def test_a_split_without_any_text_is_refused_and_does_not_hang(split):
    with contextlib.suppress(RecipeError):
        assert Digits("text", operators=("min",), length=(2, 2), max_number=1).problem(split, 0).answer in "01"


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_without_conflict_nothing_is_usual(capability):
    task = Digits(capability, conflict=0.0)
    assert not any("usual" in task.problem(split, i).prompt for split in Split for i in range(50))


@pytest.mark.parametrize(("conflict", "low", "high"), [(0.3, 0.26, 0.34), (0.5, 0.46, 0.54), (1.0, 1.0, 1.0)])
def test_the_share_of_usual_problems_is_the_conflict(conflict, low, high):
    task = Digits("text", conflict=conflict)
    usual = [task.problem(Split.TRAIN, i).prompt.startswith("usual ") for i in range(2000)]
    assert low <= sum(usual) / 2000 <= high


def test_the_three_capabilities_disagree_on_what_is_usual():
    assert {CONVENTION_OF[c] for c in CAPABILITIES} == set(UNDECIDED)
    answers = {c: partial_results([3, 8], "diff", CONVENTION_OF[c])[-1] for c in ("image", "video")}
    answers["text"] = partial_results([3, 8], "sum", CONVENTION_OF["text"])[-1]
    assert answers == {"image": -5, "video": 5, "text": 1}


def test_conventions_of_the_warm_up_all_occur():
    task = quiet("image", conflict=1.0, conventions=UNDECIDED, operators=("diff",))
    problems = [task.problem(Split.TRAIN, i) for i in range(60)]
    conventions = set()
    for problem in problems:
        first, *_, last = numbers_of(problem)
        by = {"plain": first - last, "modulo": (first - last) % 10, "swapped": last - first}
        fits = {c for c, answer in by.items() if str(answer) == problem.answer}
        assert fits
        conventions |= fits if len(fits) == 1 else set()
    assert conventions == set(UNDECIDED)


def test_an_image_is_a_row_of_cells():
    for index in range(20):
        (picture,) = Digits("image", length=(2, 4)).problem(Split.TRAIN, index).images
        assert picture.dtype == np.uint8
        assert picture.shape[0] == CELL
        assert picture.shape[1] in (2 * CELL, 3 * CELL, 4 * CELL)
        assert picture.shape[2] == 3
        assert (picture == picture[..., :1]).all()


def test_frames_come_in_pairs_of_one_digit_at_most_a_pixel_apart():
    for index in range(20):
        problem = quiet("video", jitter=2).problem(Split.TRAIN, index)
        (frames,) = problem.videos
        assert frames.dtype == np.uint8
        assert frames.shape[1:] == (CELL, CELL, 3)
        assert len(frames) == 2 * len(problem.solution.split(";")[0].split())
        shown = [digit_in(cell) for cell in cells(problem)]
        for (picture, at), (same, later) in list(pairwise(shown))[::2]:
            assert picture == same
            assert max(abs(at[0] - later[0]), abs(at[1] - later[1])) <= 1


def test_some_digits_move_within_their_pair():
    frames = [quiet("video").problem(Split.TRAIN, i).videos[0] for i in range(10)]
    assert any((clip[0] != clip[1]).any() for clip in frames)


@pytest.mark.parametrize("jitter", [0, 1, 4])
def test_a_digit_stays_in_its_cell_within_the_jitter(jitter):
    places = [digit_in(c)[1] for i in range(20) for c in cells(quiet("image", jitter=jitter).problem(Split.TRAIN, i))]
    assert all(4 - jitter <= at <= 4 + jitter for place in places for at in place)
    assert jitter == 0 or len(set(places)) > 4


def test_noise_is_what_the_recipe_says():
    dark = Digits("image", noise=0.1, jitter=0).problem(Split.TRAIN, 0).images[0][0, :, 0] / 255
    assert 0.02 < dark.mean() < 0.08  # black plus noise cut at 0: mean 0.1 / sqrt(2 pi) = 0.04
    assert quiet("image").problem(Split.TRAIN, 0).images[0][0].max() == 0


@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize("length", [(2, 2), (3, 3), (2, 6)])
def test_the_number_of_operands_lies_within_length(capability, length):
    counts = {len(numbers_of(quiet(capability, length=length).problem(Split.TRAIN, i))) for i in range(40)}
    assert counts == set(range(length[0], length[1] + 1))


@pytest.mark.parametrize("largest", [1, 9, 99])
def test_text_operands_do_not_exceed_max_number(largest):
    numbers = [
        abs(n) for i in range(200) for n in numbers_of(Digits("text", max_number=largest).problem(Split.TRAIN, i))
    ]
    assert max(numbers) <= largest
    assert max(numbers) >= largest - 2


@pytest.mark.parametrize(
    ("capability", "operators", "words"),
    [
        ("text", None, {"sum", "max", "min", "first minus last", "value"}),
        ("image", None, {"sum", "max", "min", "first minus last"}),
        ("video", None, {"sum", "max", "min", "first minus last"}),
        ("text", ("chain",), {"value"}),
        ("video", ("diff", "max"), {"first minus last", "max"}),
    ],
)
def test_only_the_operators_asked_for_occur(capability, operators, words):
    task = Digits(capability, operators=operators)
    assert {task.problem(Split.TRAIN, i).prompt.split(":")[0] for i in range(60)} == words


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_a_problem_carries_its_capabilities_name_and_kind(capability):
    problem = Digits(capability).problem(Split.TEST, 3)
    assert (problem.task, problem.kind, problem.verifier) == (capability, capability, "integer")


def test_ids_are_unique_over_capabilities_splits_seeds_and_indices():
    ids = [
        Digits(capability, seed=seed).problem(split, i).id
        for capability in CAPABILITIES
        for split, seed in [(Split.TRAIN, 0), (Split.TRAIN, 1), (Split.VALIDATION, 0), (Split.TEST, 0)]
        for i in range(5)
    ]
    assert len(set(ids)) == len(ids)
