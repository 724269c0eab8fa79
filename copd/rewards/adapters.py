"""A user's reward function in the signature of TRL, verl, EasyR1 or our own, called as that library calls it.

Runs in grading processes only, and imports no torch.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import json
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from copd.rewards.verifiers import Verdict
from copd.system.own_code import OwnCode, load_code

LARGEST = 1e6
"""A score of greater magnitude is a mistake: the standard deviation of its group would overflow."""


class Sample(NamedTuple):
    """One response as a reward function gets it: unchanged, thoughts included, without the end token.

    `problem` is its id; `columns` and `chat` are JSON, those of `Problem`.
    """

    prompt: str
    response: str
    answer: str
    task: str
    problem: str
    tokens: tuple[int, ...]
    columns: str = "{}"
    chat: str = "[]"


class UserVerifier(NamedTuple):
    """A function of a user's file, the file's hash, and the name of the convention by which the function is called."""

    name: str
    path: str
    function: str
    sha256: str
    convention: str = ""


class Convention(NamedTuple):
    """How one library calls its reward functions: telling parameters, arguments offered, and how results are read.

    A function that has all parameters of one of the `marks` follows that library. With `columns`, any other parameter
    is a column of the problem's row.
    """

    marks: tuple[frozenset[str], ...]
    offer: Callable[[Sample], dict[str, Any]]
    read: Callable[[Any], Verdict]
    columns: bool = False


def as_score(value: Any) -> float:
    """A number as a score. Raises TypeError for what is no number, such as a text or None.

    Raises ValueError for NaN, infinity and magnitudes above `LARGEST`.
    """
    if isinstance(value, str | bytes) or not hasattr(type(value), "__float__"):
        raise TypeError(f"returned {_short(value)}, not a number")
    score = float(value)
    if not math.isfinite(score) or abs(score) > LARGEST:
        raise ValueError(f"returned {score}, not a number of at most {LARGEST:g}")
    return score


def from_score(value: Any) -> Verdict:
    """Reads a bare score; 1 or more counts as correct."""
    score = as_score(value)
    return Verdict(score, score >= 1)


def from_dict(score: str, accuracy: str) -> Callable[[Any], Verdict]:
    """Reads a mapping by two keys, or a bare score. An accuracy of 1 is correct; without one, a score of 1."""

    def read(value: Any) -> Verdict:
        if not isinstance(value, Mapping):
            return from_score(value)
        if score not in value:
            raise ValueError(f"returned a mapping without {score!r}: {_short(list(value))}")
        total = as_score(value[score])
        return Verdict(total, as_score(value.get(accuracy, total)) >= 1)

    return read


def of_one(read: Callable[[Any], Verdict]) -> Callable[[Any], Verdict]:
    """Reads the only entry of a list."""

    def read_list(value: Any) -> Verdict:
        values = value.tolist() if hasattr(value, "tolist") else value
        if not isinstance(values, list | tuple) or len(values) != 1:
            raise ValueError(f"returned {_short(value)}, not a list of one for one response")
        return read(values[0])

    return read_list


def _trl(sample: Sample, row: Mapping[str, Any], prompt: Any, completion: Any) -> dict[str, Any]:
    answers = dict.fromkeys(("answer", "solution", "ground_truth"), sample.answer)
    own = {"prompts": prompt, "completions": completion, "completion_ids": list(sample.tokens)}
    one = {"task": sample.task, **answers, **row, **own}
    lists = {name: [value] for name, value in one.items() if name not in ("prompt", "completion")}
    return {**lists, "log_extra": _log_nothing, "log_metric": _log_nothing}


def _trl_text(sample: Sample) -> dict[str, Any]:
    return _trl(sample, json.loads(sample.columns), sample.prompt, sample.response)


def _trl_chat(sample: Sample) -> dict[str, Any]:
    completion = [_Message(role="assistant", content=sample.response)]
    return _trl(sample, json.loads(sample.columns), json.loads(sample.chat), completion)


def _trl_as_row(sample: Sample) -> dict[str, Any]:
    in_messages = isinstance(json.loads(sample.columns).get("prompt"), list)
    return _trl_chat(sample) if in_messages else _trl_text(sample)


def _log_nothing(name: str, values: Any) -> None:
    """Takes the place of TRL's `log_extra` and `log_metric`."""


def _verl(sample: Sample) -> dict[str, Any]:
    row = json.loads(sample.columns)
    reward_model, source, extra = (row.get(name) for name in ("reward_model", "data_source", "extra_info"))
    truth = reward_model.get("ground_truth") if isinstance(reward_model, Mapping) else None
    if extra is None:
        extra = {"id": sample.problem, "prompt": sample.prompt}
    if isinstance(extra, Mapping):
        extra = {"num_turns": None, "rollout_reward_scores": {}, **extra}
    return {
        "data_source": sample.task if source is None else source,
        "solution_str": sample.response,
        "ground_truth": sample.answer if truth is None else truth,
        "extra_info": extra,
    }


def _easyr1(sample: Sample) -> dict[str, Any]:
    truth = json.loads(sample.columns).get("answer")
    return {
        "response": sample.response,
        "response_length": len(sample.tokens),
        "ground_truth": sample.answer if truth is None else truth,
    }


TRL, TRL_TEXT, TRL_CHAT = "trl", "trl text", "trl chat"
"""Forms of TRL's functions: they get text or messages like the row's prompt; always text; always messages."""
_MARKS_OF_TRL = tuple(frozenset({name}) for name in ("completions", "completion_ids", "prompts"))
CONVENTIONS: Mapping[str, Convention] = {
    "copd": Convention(
        (frozenset({"response", "answer"}),), lambda s: {"response": s.response, "answer": s.answer}, from_score
    ),
    TRL: Convention(_MARKS_OF_TRL, _trl_as_row, of_one(from_score), columns=True),
    TRL_TEXT: Convention(_MARKS_OF_TRL, _trl_text, of_one(from_score), columns=True),
    TRL_CHAT: Convention(_MARKS_OF_TRL, _trl_chat, of_one(from_score), columns=True),
    "verl": Convention((frozenset({"solution_str", "ground_truth"}),), _verl, from_dict("score", "acc")),
    "easyr1": Convention(
        (frozenset({"reward_input"}),), lambda s: {"reward_input": _easyr1(s)}, from_dict("overall", "accuracy")
    ),
    "easyr1 batch": Convention(
        (frozenset({"reward_inputs"}),),
        lambda s: {"reward_inputs": [_easyr1(s)]},
        of_one(from_dict("overall", "accuracy")),
    ),
}
ACCEPTED = (
    "(response, answer); TRL's (prompts, completions, **columns); verl's (data_source, solution_str, ground_truth, "
    "extra_info); EasyR1's (reward_input) or (reward_inputs)"
)
ONLY_IN_TRL = frozenset({"trainer_state", "environments"})
"""Arguments that TRL offers besides columns, and copd does not have."""
PROBE = Sample(
    "1 + 1 = ?",
    "<think>\n1 + 1 = 2\n</think>\n\\boxed{2}",
    "2",
    "probe",
    "probe",
    (1, 2, 3),
    chat='[{"role": "user", "content": "1 + 1 = ?"}]',
)


def load(verifier: UserVerifier) -> Callable[..., Any]:
    """Run the user's file and return the function. Raises ValueError if file or function have changed."""
    function: Callable[..., Any] = load_code(OwnCode(verifier.path, verifier.function, verifier.sha256))
    return function


def recognise(function: Callable[..., Any]) -> str:
    """The name of the convention that a function's parameters follow. Raises ValueError naming those accepted.

    The signature of a TRL function does not say whether it wants text or messages. So it is called once or twice, to
    see what it reads.
    """
    parameters = inspect.signature(function).parameters
    for name, convention in CONVENTIONS.items():
        if not any(marks <= parameters.keys() for marks in convention.marks):
            continue
        offered = convention.offer(PROBE)
        for parameter in parameters.values():
            needed = parameter.kind is parameter.POSITIONAL_ONLY and parameter.default is parameter.empty
            if not _by_name(parameter) and (needed or parameter.name in offered):
                raise ValueError(f"takes {parameter.name!r} by position only; accepted: parameters given by name")
        for wanted in _lacking(function, offered):
            if not convention.columns or wanted in ONLY_IN_TRL:
                columns = ", and columns of the row" if convention.columns else ""
                raise ValueError(f"wants {wanted!r}, but there is only {', '.join(offered)}{columns}")
        return _form_of_trl(function) if name == TRL else name
    raise ValueError(f"has the parameters ({', '.join(parameters)}); accepted: {ACCEPTED}")


def verdict(function: Callable[..., Any], convention: str, sample: Sample) -> Verdict:
    """Call a function by its convention on one response. Raises whatever it raises, or an error with its result."""
    how = CONVENTIONS[convention]
    return how.read(_call(function, how.offer(sample)))


def _call(function: Callable[..., Any], offered: Mapping[str, Any]) -> Any:
    if lacking := _lacking(function, offered):
        raise LookupError(f"wants the column {lacking[0]!r}, but there is only {', '.join(offered)}")
    parameters = inspect.signature(function).parameters
    takes_all = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    value = function(**{name: value for name, value in offered.items() if takes_all or name in parameters})
    return asyncio.run(value) if inspect.iscoroutine(value) else value


def _by_name(parameter: inspect.Parameter) -> bool:
    return parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)


def _lacking(function: Callable[..., Any], offered: Mapping[str, Any]) -> list[str]:
    """The parameters that a function needs and the library does not offer."""
    return [
        parameter.name
        for parameter in inspect.signature(function).parameters.values()
        if _by_name(parameter) and parameter.default is parameter.empty and parameter.name not in offered
    ]


def _form_of_trl(function: Callable[..., Any]) -> str:
    """Messages if the function reads a message, text if it takes text, else the form of the row's prompt.

    In this trial every column that the function wants holds the answer. The function may fail on it.
    """
    texts, chat = _trl_text(PROBE), _trl_chat(PROBE)
    columns = {name: [PROBE.answer] for name in _lacking(function, texts)}
    with contextlib.suppress(Exception):  # it may treat the message as text
        _call(function, {**chat, **columns})
    if chat["completions"][0][0].was_read:
        return TRL_CHAT
    try:
        _call(function, {**texts, **columns})
    except Exception:
        return TRL
    return TRL_TEXT


class _Message(dict[str, str]):
    """A chat message that knows whether its content was looked at."""

    was_read = False

    def __getitem__(self, key: str) -> str:
        self.was_read |= key == "content"
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        self.was_read |= key == "content"
        return super().get(key, default)


def _short(value: Any) -> str:
    return repr(value)[:80]
