"""Reward functions in the signatures of TRL, verl and EasyR1, and our own: called as their library calls them."""

import hashlib
import json
import math
import os
import py_compile
import re
from decimal import Decimal
from importlib.util import cache_from_source
from pathlib import Path

import numpy as np
import pytest
import torch

from copd.rewards.adapters import CONVENTIONS, LARGEST, Sample, UserVerifier, load, recognise, verdict

CHAT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is 2 + 3?"}]
SAMPLE = Sample(
    "What is 2 + 3?",
    "<think>2 + 3</think>\\boxed{5}",
    "5",
    "sums",
    "sums/7",
    (11, 12, 13),
    columns=json.dumps({"prompt": CHAT, "difficulty": 3}),
    chat=json.dumps(CHAT),
)


def ours(response: str, answer: str) -> float:
    return float(f"\\boxed{{{answer}}}" in response)


def trl_text(completions, answer, **kwargs):
    found = [re.search(r"\\boxed\{(.*?)\}", completion) for completion in completions]
    return [1.0 if match and match.group(1) == right else 0.0 for match, right in zip(found, answer, strict=True)]


def trl_messages(prompts, completions, solution, **kwargs):
    assert prompts[0][-1]["role"] == "user"
    contents = [completion[0]["content"] for completion in completions]
    return [float(right in content) for content, right in zip(contents, solution, strict=True)]


def trl_messages_that_hide_errors(completions, ground_truth):
    scores = []
    for completion, right in zip(completions, ground_truth, strict=True):
        try:
            scores.append(1.0 if right in completion[0].get("content") else 0.0)
        except Exception:
            scores.append(0.0)
    return scores


def trl_length(completions, completion_ids, **kwargs):
    return [float(len(ids)) / 10 for ids in completion_ids]


def trl_ids_alone(completion_ids, **kwargs):
    return [float(len(ids)) / 10 for ids in completion_ids]


def trl_with_a_column(completions, difficulty, **kwargs):
    return [float(level == 3 and "5" in text) for text, level in zip(completions, difficulty, strict=True)]


def trl_that_reads_prompts_only(prompts, **kwargs):
    return [float(prompt[0]["content"] == "Be brief." and kwargs["difficulty"][0] == 3) for prompt in prompts]


def trl_that_logs(completions, log_extra, log_metric, **kwargs):
    log_extra("length", [len(each) for each in completions])
    log_metric("mean", 1.0)
    return [1.0 for _ in completions]


async def trl_awaited(prompts, completions, **kwargs):
    return [0.25 for _ in completions]


def verl_number(data_source, solution_str, ground_truth, extra_info=None):
    assert (data_source, extra_info["id"]) in (("sums", "sums/7"), ("probe", "probe"))
    return 1 if ground_truth in solution_str else 0


def verl_mapping(data_source, solution_str, ground_truth, extra_info=None, **kwargs):
    right = ground_truth in solution_str
    return {"score": 1.0 if right else -1.0, "acc": right, "pred": "5"}


def easyr1_one(reward_input, format_weight=0.5):
    right = reward_input["ground_truth"] in reward_input["response"]
    return {"overall": (1 - format_weight) * right, "format": 0.0, "accuracy": float(right)}


def easyr1_batch(reward_inputs, format_weight=0.1):
    assert isinstance(reward_inputs, list)
    return [{**easyr1_one(each, format_weight), "length": each["response_length"]} for each in reward_inputs]


CASES = [
    (ours, "copd", (1.0, True)),
    (trl_text, "trl text", (1.0, True)),
    (trl_messages, "trl chat", (1.0, True)),
    (trl_messages_that_hide_errors, "trl chat", (1.0, True)),
    (trl_length, "trl text", (0.3, False)),
    (trl_ids_alone, "trl text", (0.3, False)),
    (trl_with_a_column, "trl text", (1.0, True)),
    (trl_that_reads_prompts_only, "trl", (1.0, True)),
    (trl_that_logs, "trl text", (1.0, True)),
    (trl_awaited, "trl text", (0.25, False)),
    (verl_number, "verl", (1.0, True)),
    (verl_mapping, "verl", (1.0, True)),
    (easyr1_one, "easyr1", (0.5, True)),
    (easyr1_batch, "easyr1 batch", (0.9, True)),
]


@pytest.mark.parametrize(("function", "convention", "expected"), CASES)
def test_a_function_is_recognised_by_its_parameters_and_runs_unchanged(function, convention, expected):
    assert recognise(function) == convention
    assert verdict(function, convention, SAMPLE) == expected


@pytest.mark.parametrize(
    ("function", "score"),
    [(ours, 0.0), (trl_text, 0.0), (trl_messages, 0.0), (verl_mapping, -1.0), (easyr1_one, 0.0), (easyr1_batch, 0.0)],
)
def test_a_wrong_answer_is_told_apart(function, score):
    wrong = SAMPLE._replace(answer="6")
    assert verdict(function, recognise(function), wrong) == (score, False)


def with_row(**columns):
    return SAMPLE._replace(columns=json.dumps(columns))


def test_a_trl_function_is_offered_exactly_what_trl_offers():
    def offered(convention, sample):
        found = CONVENTIONS[convention].offer(sample)
        assert found.pop("log_extra")("column", [1]) is found.pop("log_metric")("name", 1.0) is None
        return found

    columns = {name: ["5"] for name in ("answer", "solution", "ground_truth")} | {"difficulty": [3]}
    shared = {"completion_ids": [[11, 12, 13]], "task": ["sums"], **columns}
    text = {"prompts": [SAMPLE.prompt], "completions": [SAMPLE.response], **shared}
    chat = {"prompts": [CHAT], "completions": [[{"role": "assistant", "content": SAMPLE.response}]], **shared}
    assert offered("trl text", SAMPLE) == text
    assert offered("trl chat", SAMPLE) == offered("trl", SAMPLE) == chat
    assert offered("trl", with_row(prompt="What is 2 + 3?", difficulty=3)) == text


def test_a_trl_function_is_offered_columns_as_the_row_has_them_and_none_in_the_place_of_what_trl_says():
    row = {"solution": "It is $5$.", "answer": 5, "task": None, "levels": [1, 2], "completions": "a", "completion": "b"}
    offered = CONVENTIONS["trl text"].offer(with_row(**row))
    named = {name: offered[name] for name in ("solution", "answer", "task", "levels", "completions")}
    expected = {"solution": ["It is $5$."], "answer": [5], "task": [None], "levels": [[1, 2]]}
    assert named == {**expected, "completions": [SAMPLE.response]}
    assert "completion" not in offered


def test_a_column_that_the_row_lacks_is_named():
    with pytest.raises(
        LookupError, match="wants the column 'difficulty', but there is only task, answer, solution, gr"
    ):
        verdict(trl_with_a_column, "trl text", with_row(level=3))


def test_a_verl_function_is_told_of_the_row_and_of_the_problem_where_the_row_says_nothing():
    offer = CONVENTIONS["verl"].offer
    shared = {"solution_str": SAMPLE.response}
    of_verl = {"num_turns": None, "rollout_reward_scores": {}}
    row = {"data_source": "openai/gsm8k", "extra_info": {"index": 4}, "reward_model": {"ground_truth": 5}}
    assert offer(with_row(**row)) == {
        **shared,
        "data_source": "openai/gsm8k",
        "ground_truth": 5,
        "extra_info": {**of_verl, "index": 4},
    }
    for silent in (with_row(), with_row(data_source=None, extra_info=None, reward_model={"style": "rule"})):
        assert offer(silent) == {
            **shared,
            "data_source": "sums",
            "ground_truth": "5",
            "extra_info": {**of_verl, "id": "sums/7", "prompt": SAMPLE.prompt},
        }


def test_an_easyr1_function_is_offered_exactly_what_easyr1_offers():
    told = {"response": SAMPLE.response, "response_length": 3, "ground_truth": "5"}
    wrapped = {**told, "ground_truth": "<answer>5</answer>"}
    assert CONVENTIONS["easyr1"].offer(SAMPLE) == {"reward_input": told}
    assert CONVENTIONS["easyr1 batch"].offer(with_row(answer=wrapped["ground_truth"])) == {"reward_inputs": [wrapped]}


def anything(value):
    return lambda response, answer: value


@pytest.mark.parametrize(
    ("value", "score", "correct"),
    [
        (True, 1.0, True),
        (False, 0.0, False),
        (2, 2.0, True),
        (-0.5, -0.5, False),
        (np.float32(0.5), 0.5, False),
        (np.bool_(True), 1.0, True),
        (torch.tensor(1.0), 1.0, True),
        (Decimal("0.75"), 0.75, False),
        (LARGEST, LARGEST, True),
    ],
)
def test_any_number_is_a_score_and_one_or_more_is_correct(value, score, correct):
    assert verdict(anything(value), "copd", SAMPLE) == (score, correct)


@pytest.mark.parametrize(
    "value",
    [
        *(None, "1.0", b"1", math.nan, math.inf, -math.inf, 1e300, -2 * LARGEST, 10**400, 1j, [1.0], (), {}, object()),
        *(np.array([1.0, 2.0]), torch.tensor([1.0, 2.0]), Decimal("NaN"), {"score": 1.0}, Sample, anything),
    ],
)
def test_anything_else_is_refused_as_a_score(value):
    for convention, returned in {"copd": value, "trl": [value], "verl": {"score": value}}.items():
        with pytest.raises((TypeError, ValueError, OverflowError)):
            CONVENTIONS[convention].read(returned)
    with pytest.raises((TypeError, ValueError, OverflowError)):
        CONVENTIONS["easyr1"].read({"overall": 1.0, "accuracy": value})


@pytest.mark.parametrize("value", [[], [1.0, 1.0], None, 1.0, "1", {"a": 1.0}, np.ones(2), np.ones((1, 2))])
def test_a_batch_of_another_length_is_refused(value):
    for convention in ("trl", "easyr1 batch"):
        with pytest.raises((TypeError, ValueError)):
            CONVENTIONS[convention].read(value)


def test_a_list_may_be_an_array():
    assert CONVENTIONS["trl"].read(np.ones(1)) == CONVENTIONS["trl"].read(torch.ones(1)) == (1.0, True)


def test_a_mapping_without_the_score_is_refused_and_told():
    with pytest.raises(ValueError, match=r"without 'score': \['reward'\]"):
        CONVENTIONS["verl"].read({"reward": 1.0})


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda text: 1.0, r"has the parameters \(text\); accepted: \(response, answer\); TRL's"),
        (lambda: 1.0, r"has the parameters \(\); accepted"),
        (lambda *args: 1.0, r"accepted"),
        (lambda response, answer, weight: 1.0, "wants 'weight', but there is only response, answer"),
        (lambda completions, trainer_state: [1.0], "wants 'trainer_state', but there is only task, answer, .* columns"),
        (lambda reward_inputs, max_response_length: [1.0], "wants 'max_response_length'"),
        (lambda response, answer, /: 1.0, "takes 'response' by position only; accepted: parameters given by name"),
        (lambda response, /, answer: 1.0, "takes 'response' by position only"),
        (lambda response, answer="", /: 1.0, "takes 'response' by position only"),
        (lambda response, *answer: 1.0, "takes 'answer' by position only"),
        (lambda weight, /, *, response, answer: 1.0, "takes 'weight' by position only"),
    ],
)
def test_another_signature_is_refused_with_what_is_accepted(function, message):
    with pytest.raises(ValueError, match=message):
        recognise(function)


@pytest.mark.parametrize("form", ["methods", "partial"])
def test_whatever_can_be_called_by_name_is_a_function(form):
    from functools import partial

    class Strict:
        def __call__(self, response, answer, *, scale=1.0):
            return scale

    assert verdict(Strict() if form == "methods" else partial(Strict(), scale=1.0), "copd", SAMPLE).correct


def user_file(folder, text, function="score"):
    path = folder / "rewards.py"
    path.write_text(text)
    return UserVerifier("mine", str(path), function, hashlib.sha256(path.read_bytes()).hexdigest())


def test_a_file_is_imported_as_a_module_of_its_own(tmp_path):
    text = "from dataclasses import dataclass\n@dataclass\nclass One:\n    x: 'int' = 1\n"
    text += "def score(response: str, answer): return One().x * (score.__annotations__['response'] is str)"
    assert verdict(load(user_file(tmp_path, text)), "copd", SAMPLE) == (1.0, True)


def test_what_runs_is_the_file_whose_hash_is_known_whatever_compiled_code_lies_beside_it(tmp_path):
    user = user_file(tmp_path, "def score(response, answer): return 1.0")
    source, compiled = Path(user.path), Path(cache_from_source(user.path))
    status, true = source.stat(), source.read_bytes()
    source.write_bytes(true.replace(b"1.0", b"0.5"))
    os.utime(source, ns=(status.st_atime_ns, status.st_mtime_ns))
    compiled.parent.mkdir()
    py_compile.compile(user.path, compiled)
    source.write_bytes(true)
    os.utime(source, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert verdict(load(user), "copd", SAMPLE) == (1.0, True)


def test_a_file_that_has_changed_or_lacks_the_function_is_named(tmp_path):
    user = user_file(tmp_path, "def score(response, answer): return 1.0")
    with pytest.raises(ValueError, match=r"rewards\.py has no function or class 'other'"):
        load(user._replace(function="other"))
    with pytest.raises(ValueError, match=r"rewards\.py has changed since the start"):
        load(user._replace(sha256="0" * 64))
