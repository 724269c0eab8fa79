"""What to do about the base's responses: why they are not right, by the functions that the grader reads them with."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from enum import Enum

from copd.doctor.findings import LONGEST_TEXT, short
from copd.measure.health import MANY_TRUNCATED
from copd.rewards.answers import FORMS, MARKS, OPENING, THOUGHT, behind_thoughts, final_answer
from copd.rewards.grading import OURS
from copd.types import Problem

LEAST_SIGNAL = 0.1
"""Least share of groups with signal."""
SHAPE: Mapping[str, str] = {"boxed": "\\boxed{}", "tag": "<answer></answer>"}
"""A final answer in each form, without its content."""


class Cause(Enum):
    """Why a response is not right. Of causes that are equally frequent, the first decides the advice."""

    TRUNCATED = "truncated"
    SILENT = "empty"
    OPEN_THOUGHTS = "thoughts that are never closed"
    IN_THOUGHTS = "{shape} only in the thoughts"
    NO_ANSWER = "no {shape}"
    ECHO = "only the {shape} of the repeated prompt"
    SEVERAL = "more than one {shape}"
    UNCLOSED = "a {shape} that is never closed"
    EMPTY = "{shape} with nothing in it"
    FAILED = "a grader that fails"
    WRONG = "a wrong answer"


ADVICE: Mapping[Cause, str] = {
    Cause.TRUNCATED: "raise sampling.max_new_tokens",
    Cause.SILENT: "the model ends at once: see whether its chat template is the one that it was trained with",
    Cause.OPEN_THOUGHTS: f"ask in system_prompt for an answer behind {THOUGHT}, or let chat_template_kwargs turn the "
    "thoughts off",
    Cause.IN_THOUGHTS: f"say in system_prompt that the answer goes behind {THOUGHT}",
    Cause.NO_ANSWER: "say in system_prompt where the answer goes, or choose another reward.answer_form",
    Cause.ECHO: "ask in system_prompt for an answer that does not repeat the question",
    Cause.SEVERAL: "ask in system_prompt for exactly one {shape}",
    Cause.UNCLOSED: "look at the samples: the model ends within its answer, perhaps by a token that should end nothing",
    Cause.EMPTY: "say in system_prompt what goes into {shape}, with an example: models copy an empty one",
    Cause.FAILED: "see the line about grading",
    Cause.WRONG: "look at the samples: where a right answer counts as wrong, mend the reference or the verifier; else "
    "take easier problems, or another base",
}
GOES_ON = (
    "most of these go on behind their answer: look at the samples; perhaps the model ends by a token that neither "
    "generation_config, tokenizer nor chat template names"
)

NOT_HEARD = (
    "the prompt asks for it, and the model does not follow: show an example in system_prompt, or choose another "
    "reward.answer_form or base"
)


@dataclass(frozen=True)
class Answered:
    """A graded response of the base: its text, its problem, whether it was finished, and whether it is right."""

    text: str
    problem: Problem
    finished: bool
    correct: bool

    def answer(self, form: str) -> str | None:
        """The final answer that the grader sees in a finished response."""
        return final_answer(self.text, finished=True, form=form, prompt=self.problem.prompt)

    def is_asked(self, form: str) -> bool:
        """Whether the prompt, system prompt included, shows the form of the answer."""
        texts = [item for message in self.problem.messages for item in message.items]
        return any(OPENING[form] in text for text in (self.problem.prompt, *texts) if isinstance(text, str))

    def form_fault(self, form: str) -> Cause | None:
        """Why a finished response has no final answer in the form; None if it has one."""
        answer, spoken, opening = self.answer(form), behind_thoughts(self.text), OPENING[form]
        if answer is not None:
            return None if answer else Cause.EMPTY
        if not self.text.strip():
            return Cause.SILENT
        if spoken is None:
            return Cause.OPEN_THOUGHTS
        if opening not in spoken:
            return Cause.IN_THOUGHTS if opening in self.text else Cause.NO_ANSWER
        if FORMS[form](spoken) is not None:
            return Cause.ECHO
        return Cause.SEVERAL if any(spoken.count(mark) > 1 for mark in MARKS[form]) else Cause.UNCLOSED

    def cause(self, form: str) -> Cause:
        """Why this response, which is not right, is not. A user's verifier needs no final answer in the form."""
        if not self.finished:
            return Cause.TRUNCATED
        fault = self.form_fault(form) if self.problem.verifier in OURS else None
        return fault or Cause.WRONG


def advice_on(responses: Sequence[Answered], signal: float, form: str, failures: int = 0) -> list[str]:
    """What to do about the base's responses to the problems of a capability.

    If nothing is right, the most frequent cause decides. Else a cause is told if it spoils most responses, except that
    answers are wrong, which is what training is for. `failures`: how many responses could not be graded.
    """
    wrong = [response for response in responses if not response.correct]
    causes = _counted(wrong, form, failures)
    found = []
    if causes:
        first = min(causes, key=lambda cause: (-causes[cause], [*Cause].index(cause)))
        spoilt = first is not Cause.WRONG and causes[first] > MANY_TRUNCATED * len(responses)
        if len(wrong) == len(responses) or spoilt:
            found.append(_told(wrong, causes, first, len(responses), form))
    if not wrong:
        found.append("everything is right: take harder problems")
    elif len(wrong) < len(responses) and signal < LEAST_SIGNAL:
        found.append("hardly a group has signal: take problems nearer to half right, or larger groups")
    return found


def _counted(wrong: Sequence[Answered], form: str, failures: int) -> Counter[Cause]:
    """How often each cause occurs. A response that could not be graded had something to grade, and so seems wrong."""
    causes = Counter(response.cause(form) for response in wrong)
    failed = min(failures, causes[Cause.WRONG])
    causes.update({Cause.FAILED: failed, Cause.WRONG: -failed})
    return +causes


def _told(wrong: Sequence[Answered], causes: Counter[Cause], first: Cause, count: int, form: str) -> str:
    """All causes with their shares, and the advice of the first; if nothing is right, an answer and its reference."""
    shares = ", ".join(f"{number / count:.0%} {cause.value}" for cause, number in causes.most_common())
    told = f"{shares}; {_advice(wrong, first, form)}".replace("{shape}", SHAPE[form])
    if len(wrong) < count:
        return told
    return f"nothing is right: {told}{_nearest_pair(wrong, form)}"


def _advice(wrong: Sequence[Answered], first: Cause, form: str) -> str:
    """What to do about a cause, after a look at the responses and prompts that have it."""
    if first is Cause.TRUNCATED and _goes_on(wrong, form):
        return GOES_ON
    lacking = [each for each in wrong if each.cause(form) is first is Cause.NO_ANSWER]
    for other in FORMS:
        if sum(bool(each.answer(other)) for each in lacking) > len(lacking) / 2:
            return f"most of these answer in {SHAPE[other]}: set reward.answer_form={other}"
    return NOT_HEARD if sum(each.is_asked(form) for each in lacking) > len(lacking) / 2 else ADVICE[first]


def _goes_on(wrong: Sequence[Answered], form: str) -> bool:
    """Whether most truncated responses had given their answer before."""
    truncated = [response for response in wrong if not response.finished]
    answered = [response for response in truncated if response.form_fault(form) in (None, Cause.SEVERAL)]
    return len(answered) > len(truncated) / 2


def _nearest_pair(wrong: Sequence[Answered], form: str) -> str:
    """The wrong answer that is most like its reference, with it: so a reference that nobody can give is seen."""
    own = [each for each in wrong if each.finished and each.problem.verifier in OURS]
    pairs = [
        (answer[:LONGEST_TEXT], each.problem.answer[:LONGEST_TEXT]) for each in own if (answer := each.answer(form))
    ]
    if not pairs:
        return ""
    answer, reference = max(pairs, key=lambda pair: SequenceMatcher(None, *pair).ratio())
    return f"; the answer that comes nearest is {short(answer)} where the reference is {short(reference)}"
