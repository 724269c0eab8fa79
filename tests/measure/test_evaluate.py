"""Accuracy tables from given rewards: greedy shares, pass@k, averages over tasks, and what is asked of a model."""

import asyncio
import json
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import scipy.stats
import torch

from copd.maths.intervals import stratified_mean
from copd.measure.evaluate import (
    AVERAGE,
    Answers,
    answer,
    answer_as_one,
    answer_in_rounds,
    columns_of,
    digest,
    evaluate,
    tabulate,
)
from copd.types import Medium, Message, Problem, Rollouts, Split

GREEDY = {"text": [1, 1, 1, 0], "image": [0, 0, 1, 0]}
SAMPLED = {
    "text": [[1, 0, 0], [1, 1, 1], [0, 0, 0], [0, 1, 1]],
    "image": [[0, 0, 0], [0, 0, 1], [0, 0, 0], [1, 0, 0]],
}


class Graded:
    """A model whose graded answers are given; it notes what it was asked. `order` is the order of its rows."""

    def __init__(self, name: str = "model", order: list[int] | None = None) -> None:
        self.name = name
        self.order = order
        self.asked: list[tuple[object, ...]] = []

    async def answer_first(self, split, task, count, rollouts_per_prompt, *, greedy):
        self.asked.append((split, task, count, rollouts_per_prompt, greedy))
        rewards = [[r] for r in GREEDY[task]] if greedy else SAMPLED[task]
        reward_N = torch.tensor([r for row in rewards for r in row], dtype=torch.float32)
        prompt_of_N = torch.tensor([p for p, row in enumerate(rewards) for _ in row])
        order_N = torch.arange(len(reward_N)) if self.order is None or greedy else torch.tensor(self.order)
        empty_NT = torch.zeros(len(reward_N), 0)
        return Rollouts(
            problems=tuple(Problem(str(p), task, "", "", "exact") for p in range(len(rewards))),
            tokens_NT=empty_NT.long(),
            mask_NT=empty_NT.bool(),
            finished_N=torch.ones(len(reward_N), dtype=torch.bool),
            logp_NT=empty_NT,
            prompt_of_N=prompt_of_N[order_N],
            temperature=1.0,
            reward_N=0.5 * reward_N[order_N] + 0.25,
            correct_N=reward_N[order_N] == 1,
        )


def table(models=None, tasks=("text", "image"), pass_at=(1, 2, 3), split=Split.TEST):
    models = models or [Graded()]
    cells = asyncio.run(evaluate(models, tasks, split, problems=4, pass_at=pass_at))
    return {(cell.model, cell.capability): cell for cell in cells}


def test_models_that_answer_in_rounds_give_the_answers_of_all_at_once_in_the_order_of_the_models():
    models, events = [Graded("base"), Graded("text"), Graded("merged")], []

    def rounds():
        for together in (models[1:2], [], models[:1], models[2:]):
            yield together
            events.append([model.name for model in models if model.asked])

    asked = {"problems": 4, "pass_at": (2,)}
    found = asyncio.run(answer_in_rounds(models, rounds(), ("text", "image"), Split.TEST, **asked))
    assert events == [["text"], ["text"], ["base", "text"], ["base", "text", "merged"]]
    whole = asyncio.run(answer(models, ("text", "image"), Split.TEST, **asked))
    assert [each.as_record() for each in found] == [each.as_record() for each in whole]


def test_models_that_are_one_model_share_the_tasks_out_and_give_the_answers_of_all():
    models, asked = [Graded("text"), Graded("image"), Graded("merged")], {"problems": 4, "pass_at": ()}
    found = asyncio.run(answer_as_one(models, ("text", "image"), Split.VALIDATION, **asked))
    assert [[task for _, task, *_ in model.asked] for model in models] == [["text"], ["image"], []]
    whole = asyncio.run(answer(models, ("text", "image"), Split.VALIDATION, **asked))
    assert [each.as_record() for each in found] == [each.as_record() for each in whole]


def any_of(task: str, k: int) -> float:
    """Pass@k by trying every choice of k samples."""
    by_problem = [[any(choice) for choice in combinations(samples, k)] for samples in SAMPLED[task]]
    return sum(sum(hits) / len(hits) for hits in by_problem) / len(by_problem)


@pytest.mark.parametrize(("task", "right"), [("text", 3), ("image", 1)])
def test_greedy_accuracy_is_the_share_of_right_answers_with_wilsons_interval(task, right):
    greedy = table()["model", task].greedy
    expected = scipy.stats.binomtest(right, 4).proportion_ci(method="wilson")
    assert (greedy.value, greedy.low, greedy.high) == pytest.approx((right / 4, expected.low, expected.high))


def test_the_average_counts_each_task_alike():
    cell = table()["model", AVERAGE]
    assert cell.greedy.value == 0.5
    assert cell.problems == 8
    expected = stratified_mean([torch.tensor(GREEDY["text"]), torch.tensor(GREEDY["image"])])
    assert (cell.greedy.value, cell.greedy.low, cell.greedy.high) == pytest.approx(expected)


@pytest.mark.parametrize("k", [1, 2, 3])
def test_pass_at_k_matches_trying_every_choice_of_samples(k):
    found = table()
    for task in ("text", "image"):
        assert found["model", task].pass_at[k].value == pytest.approx(any_of(task, k))
    average = found["model", AVERAGE].pass_at[k].value
    assert average == pytest.approx((any_of("text", k) + any_of("image", k)) / 2)


def test_pass_at_k_by_hand():
    text = table()["model", "text"].pass_at
    assert [text[k].value for k in (1, 2, 3)] == pytest.approx(
        [(1 / 3 + 1 + 0 + 2 / 3) / 4, (2 / 3 + 1 + 0 + 1) / 4, 0.75]
    )


def test_every_estimate_lies_in_its_interval():
    for cell in table().values():
        for estimate in (cell.greedy, *cell.pass_at.values()):
            assert 0 <= estimate.low <= estimate.value <= estimate.high <= 1


def test_order_of_the_rows_does_not_matter():
    shuffled = torch.randperm(12, generator=torch.Generator().manual_seed(0)).tolist()
    assert table([Graded(order=shuffled)]) == table()


def test_a_model_is_asked_greedily_once_and_sampled_as_often_as_the_largest_k_needs():
    model = Graded()
    table([model], pass_at=(1, 3), split=Split.VALIDATION)
    assert model.asked == [
        (Split.VALIDATION, "text", 4, 1, True),
        (Split.VALIDATION, "text", 4, 3, False),
        (Split.VALIDATION, "image", 4, 1, True),
        (Split.VALIDATION, "image", 4, 3, False),
    ]


def test_without_pass_at_nothing_is_sampled():
    model = Graded()
    cells = table([model], pass_at=())
    assert [greedy for *_, greedy in model.asked] == [True, True]
    assert all(cell.pass_at == {} for cell in cells.values())


def test_the_table_has_a_row_per_model_and_task_and_their_average():
    assert list(table([Graded("base"), Graded("merged")])) == [
        ("base", "text"),
        ("base", "image"),
        ("base", AVERAGE),
        ("merged", "text"),
        ("merged", "image"),
        ("merged", AVERAGE),
    ]


def test_a_cell_can_be_written_as_json():
    record = json.loads(json.dumps(table()["model", "text"].as_record()))
    assert (record["model"], record["capability"], record["problems"]) == ("model", "text", 4)
    assert record["greedy"]["value"] == 0.75
    assert set(record["pass_at"]) == {"1", "2", "3"}


def answered(models=None, pass_at=(1, 2)):
    return asyncio.run(answer(models or [Graded()], ("text", "image"), Split.TEST, problems=4, pass_at=pass_at))


def test_answers_say_which_problems_were_right():
    text, image = answered()
    assert (text.model, text.capability, text.samples) == ("model", "text", 2)
    assert text.greedy_P.tolist() == GREEDY["text"]
    assert image.greedy_P.tolist() == GREEDY["image"]
    assert text.sampled_P.tolist() == [sum(row) for row in SAMPLED["text"]]
    assert len(answered(pass_at=())[0].sampled_P) == 0


def test_the_table_is_made_of_the_answers_and_of_nothing_else():
    records = json.loads(json.dumps([a.as_record() for a in answered([Graded("base"), Graded("merged")], (1, 2, 3))]))
    made = tabulate([Answers.from_record(record) for record in records], (1, 2, 3))
    assert made == list(table([Graded("base"), Graded("merged")]).values())


def test_a_digest_tells_problems_apart_by_all_that_is_asked():
    grey = np.zeros((4, 4, 3), np.uint8)
    first = Problem("a/0", "a", "sum", "3", "integer", images=(grey,))
    others = [
        replace(first, prompt="max"),
        replace(first, answer="4"),
        replace(first, verifier="exact"),
        replace(first, images=(grey + 1,)),
        replace(first, images=(grey.reshape(2, 8, 3),)),
        replace(first, images=(), videos=(grey[None],)),
        replace(first, images=(grey, grey)),
        replace(first, messages=(Message("user", (Medium.IMAGE, "sum")),)),
        replace(first, messages=(Message("user", ("sum", Medium.IMAGE)),)),
        replace(first, messages=(Message("system", ("be brief",)), Message("user", (Medium.IMAGE, "sum")))),
        replace(first, chat_template_kwargs={"enable_thinking": False}),
        replace(first, chat_template_kwargs={"enable_thinking": True}),
    ]
    found = {digest([problem]) for problem in [first, *others]}
    assert len(found) == 1 + len(others)
    assert digest([first, others[0]]) != digest([others[0], first])
    assert digest([replace(first, id="b/7", task="b")]) == digest([first])


def test_one_capability_alone_is_not_repeated_as_the_average():
    assert columns_of(["text", "average"]) == ["text"]
    assert columns_of(["text", "image", "average", "text"]) == ["text", "image", "average"]
