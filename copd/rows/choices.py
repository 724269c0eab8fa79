"""The choices that a row gives beside its question: their letters, and whether question and answer agree with them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from string import ascii_uppercase
from typing import Any, NamedTuple

from copd.errors import BadRow, visible
from copd.rows.prompts import kind_of, sound_text
from copd.rows.unread import CHOICES, is_given

MAX_CHOICES = 26
LABELLED = re.compile(r"\s*[(\[]?([A-Za-z])\s?[.):\]]")
BEGUN = re.compile(r"[(\[]?(?:[A-Za-z]|\d{1,2})\s?[.):\]](?!\d)")
BEGIN = "begin with letters or numbers; the column's letters stand before them"
LETTER = re.compile(r"[(\[]?([A-Za-z])\s?[.):\]]?")
LETTERED_LINES = re.compile(r"^[ \t]*[(\[]?A\s?[.):\]].*\n[ \t]*[(\[]?B\s?[.):\]]", re.MULTILINE)


class Choice(NamedTuple):
    """A choice: its letter, its text, and the line by which a question shows both."""

    letter: str
    text: str
    line: str


class Choices(NamedTuple):
    """The column of a row's choices, and the choices. `notes` say how they are read, or why there are none."""

    column: str
    each: list[Choice]
    notes: tuple[str, ...] = ()

    @property
    def lines(self) -> list[str]:
        return [choice.line for choice in self.each]

    @property
    def letters(self) -> list[str]:
        return [choice.letter.upper() for choice in self.each]


def choices_of(raw: Mapping[str, Any]) -> Choices | None:
    """The choices of a row; None for a row without such a column.

    They are a list of texts, texts by letter, or texts and letters in two lists: `{"text": [...], "label": [...]}`.
    A text or number in the column is no list of choices. Raises BadRow for a choice that is no text, and for two
    columns that differ.
    """
    there = [name for name in CHOICES if raw.get(name) is not None]
    if not there:
        return None
    filled = [name for name in there if is_given(raw[name])]
    if not filled:
        return Choices(there[0], [], (f"the column {there[0]} is empty",))
    column, given = filled[0], raw[filled[0]]
    if any(raw[name] != given for name in filled[1:]):
        raise BadRow(f"both {' and '.join(filled)} are given, and differ; accepted: one of them")
    if isinstance(given, Mapping):
        return _told(_by_letter(column, given))
    if not isinstance(given, list | tuple):
        return Choices(column, [], (f"the column {column} is not read: it is no list of choices",))
    _check_count(len(given), column)
    return _told(_by_position(column, [_text(value, column, i) for i, value in enumerate(given)]))


def below(question: str, choices: Choices, notes: list[str]) -> str:
    """A question with the choices below it, unless it shows them.

    Raises BadRow if it shows them behind other letters than the row does.
    """
    if shows(question, choices):
        return question
    shown = [_letters_of(choice.text, question) & set(choices.letters) for choice in choices.each]
    if all(shown):
        choice, letters = next((c, s) for c, s in zip(choices.each, shown, strict=True) if c.letter.upper() not in s)
        raise BadRow(
            f"the question gives {choice.text[:40]!r} the letter {min(letters)}, {choices.column} the letter "
            f"{choice.letter}; accepted: the same letters in both"
        )
    has_letters = LETTERED_LINES.search(question)
    which = "a question that has letters of its own" if has_letters else "the question, which does not show it"
    notes.append(f"the column {choices.column} is put below {which}")
    return "\n".join([question, *choices.lines])


def shows(text: str, choices: Choices) -> bool:
    """Whether a text has all choices, each behind its letter."""
    return all(re.search(_pattern(re.escape(each.letter), each.text), text) for each in choices.each)


def check_answer(answer: str, letter: str | None, choices: Choices, notes: list[str]) -> None:
    """Check that an answer is among the choices. `letter`: the letter that it must be, if it must be one.

    Raises BadRow for a letter that no choice has. Any other answer is noted.
    """
    said = letter or answer
    texts = () if letter else {text.casefold() for each in choices.each for text in (each.text, each.line)}
    if said.upper() in choices.letters or said.casefold() in texts:
        return
    if letter or said in [*ascii_uppercase]:
        raise BadRow(
            f"the answer is {answer[:40]!r}; accepted: one of the letters in {choices.column}, "
            f"{visible(', '.join(choices.letters)[:80])}"
        )
    notes.append(f"the answer is neither a letter nor a text in the column {choices.column}")


def check_unread(column: str, given: Any, answer: str, question: str) -> None:
    """Raise BadRow for a letter as the answer to a question without letters, if a text beside it is no list."""
    if (
        isinstance(given, str)
        and is_given(given)
        and answer in [*ascii_uppercase]
        and not _has_letters(question, given)
    ):
        raise BadRow(
            f"the answer is {answer!r}, and {column} is a text, {visible(given[:40])!r}, which is not shown; accepted: "
            "a list of texts, or texts by letter"
        )


def _has_letters(question: str, given: str) -> bool:
    return bool(LETTERED_LINES.search(question)) or given.strip() in question


def _by_letter(column: str, given: Mapping[Any, Any]) -> Choices:
    texts, letters = given.get("text"), given.get("label")
    if isinstance(texts, list | tuple) and isinstance(letters, list | tuple) and len(texts) == len(letters):
        pairs = [*zip(letters, texts, strict=True)]
    else:
        pairs = [*given.items()]
    _check_count(len(pairs), column)
    found = [(str(letter).strip(), _text(text, column, letter)) for letter, text in pairs if is_given(text)]
    names = [match[1] if (match := LETTER.fullmatch(letter)) else letter for letter, _ in found]
    own = [match for match in (LABELLED.match(text) for _, text in found) if match]
    if [match[1].upper() for match in own] == [name.upper() for name in names]:
        return Choices(column, [Choice(m[1], t[m.end() :].strip(), t) for m, (_, t) in zip(own, found, strict=True)])
    each = [Choice(name, text, f"{name}. {text}") for name, (_, text) in zip(names, found, strict=True)]
    begun = any(BEGUN.match(choice.text) for choice in each)
    return Choices(column, each, (f"texts in the column {column} {BEGIN}",) if begun else ())


def _by_position(column: str, texts: list[str]) -> Choices:
    """Texts with their own letters, if these are the first of the alphabet in any order, else by position."""
    own = [match for match in map(LABELLED.match, texts) if match]
    letters = ascii_uppercase[: len(texts)]
    if sorted(match[1].upper() for match in own) == [*letters]:
        return Choices(column, [Choice(m[1], t[m.end() :].strip(), t) for m, t in zip(own, texts, strict=True)])
    each = [Choice(letter, text, f"{letter}. {text}") for letter, text in zip(letters, texts, strict=True)]
    begun = any(map(BEGUN.match, texts))
    return Choices(column, each, (f"texts in the column {column} {BEGIN}",) if begun else ())


def _told(choices: Choices) -> Choices:
    """The choices, with a note if there are none, or if two are alike. Raises BadRow for a letter that two have."""
    if not choices.each:
        return choices._replace(notes=(f"the column {choices.column} is empty",))
    if twice := next((name for name in choices.letters if choices.letters.count(name) > 1), None):
        raise BadRow(f"two of {choices.column} have the letter {twice[:20]}")
    if len({choice.text for choice in choices.each}) == len(choices.each):
        return choices
    return choices._replace(notes=(*choices.notes, f"two choices in the column {choices.column} are alike"))


def _check_count(count: int, column: str) -> None:
    if count > MAX_CHOICES:
        raise BadRow(f"{count} {column}; accepted: at most {MAX_CHOICES}")


def _letters_of(text: str, question: str) -> set[str]:
    """The letters behind which a question shows a text."""
    return {letter.upper() for letter in re.findall(_pattern("([A-Za-z])", text), question)}


def _pattern(letter: str, text: str) -> str:
    return rf"(?<!\w)[(\[]?{letter}\s?[.):\]]\s*{re.escape(text)}(?!\w)"


def _text(value: Any, column: str, where: Any) -> str:
    place = f"{column}[{visible(str(where)[:20])}]"
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise BadRow(f"{place} is {kind_of(value)}; accepted: a text or a number")
    text = sound_text(str(value)).strip()
    if not text:
        raise BadRow(f"{place} is empty")
    return text
