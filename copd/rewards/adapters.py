"""A user's reward function in the signature of TRL, verl, EasyR1 or our own, called as that library calls it.

Runs in grading processes only, and imports no torch.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import importlib.util
import inspect
import math
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from copd.rewards.verifiers import Verdict

LARGEST = 1e6
"""A score beyond it, in size, is a mistake: the spread of a group would overflow."""


class Sample(NamedTuple):
    """One response as a reward function is told of it: unchanged, thoughts included, end token left out."""

    prompt: str
    response: str
    answer: str
    task: str
    problem: str
    tokens: tuple[int, ...]


class UserVerifier(NamedTuple):
    """A function of a user's file, the hash of that file, and the name of the convention by which it is called."""

    name: str
    path: str
    function: str
    sha256: str
    convention: str = ""


class Convention(NamedTuple):
    """How one library calls its reward functions: the parameters it is known by, what it offers, what it reads back."""

    marks: frozenset[str]
    offer: Callable[[Sample], dict[str, Any]]
    read: Callable[[Any], Verdict]


def as_number(value: Any) -> float:
    """A score; raises TypeError or ValueError for None, text, NaN, infinity and what is larger than `LARGEST`."""
    if isinstance(value, str | bytes) or not hasattr(type(value), "__float__"):
        raise TypeError(f"returned {_short(value)}, not a number")
    score = float(value)
    if not math.isfinite(score) or abs(score) > LARGEST:
        raise ValueError(f"returned {score}, not a number of at most {LARGEST:g}")
    return score


def from_score(value: Any) -> Verdict:
    """A bare score; 1 and more counts as correct."""
    score = as_number(value)
    return Verdict(score, score >= 1)


def from_dict(score: str, accuracy: str) -> Callable[[Any], Verdict]:
    """Reads a mapping by two keys, or a bare score: correct is an accuracy of 1, where there is none a score of 1."""

    def read(value: Any) -> Verdict:
        if not isinstance(value, Mapping):
            return from_score(value)
        if score not in value:
            raise ValueError(f"returned a mapping without {score!r}: {_short(list(value))}")
        total = as_number(value[score])
        return Verdict(total, as_number(value.get(accuracy, total)) >= 1)

    return read


def of_one(read: Callable[[Any], Verdict]) -> Callable[[Any], Verdict]:
    """Reads the only entry of a list."""

    def read_list(value: Any) -> Verdict:
        values = value.tolist() if hasattr(value, "tolist") else value
        if not isinstance(values, list | tuple) or len(values) != 1:
            raise ValueError(f"returned {_short(value)}, not a list of one for one response")
        return read(values[0])

    return read_list


def _trl(sample: Sample, prompt: Any, completion: Any) -> dict[str, Any]:
    columns = {"answer": sample.answer, "solution": sample.answer, "ground_truth": sample.answer, "task": sample.task}
    one = {"prompts": prompt, "completions": completion, "completion_ids": list(sample.tokens), **columns}
    return {name: [value] for name, value in one.items()}


def _trl_chat(sample: Sample) -> dict[str, Any]:
    prompt = [{"role": "user", "content": sample.prompt}]
    return _trl(sample, prompt, [_Message(role="assistant", content=sample.response)])


def _easyr1(sample: Sample) -> dict[str, Any]:
    return {"response": sample.response, "response_length": len(sample.tokens), "ground_truth": sample.answer}


CONVENTIONS: Mapping[str, Convention] = {
    "copd": Convention(
        frozenset({"response", "answer"}), lambda s: {"response": s.response, "answer": s.answer}, from_score
    ),
    "trl": Convention(frozenset({"completions"}), lambda s: _trl(s, s.prompt, s.response), of_one(from_score)),
    "trl chat": Convention(frozenset({"completions"}), _trl_chat, of_one(from_score)),
    "verl": Convention(
        frozenset({"solution_str", "ground_truth"}),
        lambda s: {
            "data_source": s.task,
            "solution_str": s.response,
            "ground_truth": s.answer,
            "extra_info": {"id": s.problem, "prompt": s.prompt},
        },
        from_dict("score", "acc"),
    ),
    "easyr1": Convention(
        frozenset({"reward_input"}), lambda s: {"reward_input": _easyr1(s)}, from_dict("overall", "accuracy")
    ),
    "easyr1 batch": Convention(
        frozenset({"reward_inputs"}),
        lambda s: {"reward_inputs": [_easyr1(s)]},
        of_one(from_dict("overall", "accuracy")),
    ),
}
ACCEPTED = (
    "(response, answer); TRL's (prompts, completions, **columns); verl's (data_source, solution_str, ground_truth, "
    "extra_info); EasyR1's (reward_input) or (reward_inputs)"
)
PROBE = Sample("1 + 1 = ?", "<think>\n1 + 1 = 2\n</think>\n\\boxed{2}", "2", "probe", "probe", (1, 2, 3))


def load(verifier: UserVerifier) -> Callable[..., Any]:
    """Import the user's file and give the function; raises ValueError where file or function are not what they were."""
    path = Path(verifier.path)
    source = path.read_bytes()
    if hashlib.sha256(source).hexdigest() != verifier.sha256:
        raise ValueError(f"{path} has changed since the start of the run")
    module_name = f"copd_verifier_{verifier.sha256}"
    spec = importlib.util.spec_from_file_location(module_name, path)
    assert spec
    module = sys.modules[module_name] = importlib.util.module_from_spec(spec)
    code = compile(source, path, "exec", dont_inherit=True)  # the loader would read the file again, or compiled code
    exec(code, module.__dict__)
    function = getattr(module, verifier.function, None)
    if not callable(function):
        raise ValueError(f"{path} has no function {verifier.function!r}")
    return function


def recognise(function: Callable[..., Any]) -> str:
    """The name of the convention that a function follows, by its parameters; raises ValueError naming those accepted.

    Whether a TRL function wants text or messages is not in its signature: it is called once and watched.
    """
    parameters = inspect.signature(function).parameters
    for name, convention in CONVENTIONS.items():
        if not convention.marks <= parameters.keys():
            continue
        offered = convention.offer(PROBE)
        for parameter in parameters.values():
            named = parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
            needed = parameter.kind is parameter.POSITIONAL_ONLY and parameter.default is parameter.empty
            if not named and (needed or parameter.name in offered):
                raise ValueError(f"takes {parameter.name!r} by position only; accepted: parameters given by name")
            if named and parameter.default is parameter.empty and parameter.name not in offered:
                raise ValueError(f"wants {parameter.name!r}, but there is only {', '.join(offered)}")
        return "trl chat" if name == "trl" and _reads_messages(function) else name
    raise ValueError(f"has the parameters ({', '.join(parameters)}); accepted: {ACCEPTED}")


def verdict(function: Callable[..., Any], convention: str, sample: Sample) -> Verdict:
    """Call a function by its convention on one response; raises whatever it raises, or says what it returned."""
    how = CONVENTIONS[convention]
    return how.read(_call(function, how.offer(sample)))


def _call(function: Callable[..., Any], offered: Mapping[str, Any]) -> Any:
    parameters = inspect.signature(function).parameters
    takes_all = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    value = function(**{name: value for name, value in offered.items() if takes_all or name in parameters})
    return asyncio.run(value) if inspect.iscoroutine(value) else value


def _reads_messages(function: Callable[..., Any]) -> bool:
    offered = _trl_chat(PROBE)
    with contextlib.suppress(Exception):  # it may take the message for text
        _call(function, offered)
    return offered["completions"][0][0].was_read


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
