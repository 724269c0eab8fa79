"""A row's prompt to messages: roles, texts, and the places of images and videos between them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from copd.errors import BadRow
from copd.types import Medium, Message

ROLES = ("system", "user", "assistant")
MARKS = {Medium.IMAGE: "<image>", Medium.VIDEO: "<video>"}
MEDIUM_OF_MARK = {mark: medium for medium, mark in MARKS.items()}
MARK = re.compile("(<image>|<video>)")
CONTROL_TOKEN = re.compile(r"<\|\w+\|>")

Turn = tuple[str, str]
"""A role, and a text with marks for media."""


def read_turns(prompt: Any) -> list[Turn]:
    """The turns of a prompt, which is a text or a list of messages. Raises BadRow.

    A message's content is a text, or a list of parts of type text, image and video.
    """
    if isinstance(prompt, str):
        turns = [("user", sound_text(prompt))]
    elif isinstance(prompt, list | tuple):
        turns = [_turn(message) for message in prompt]
    else:
        raise BadRow(f"the prompt is {kind_of(prompt)}; accepted: a text or a list of messages")
    if not turns or turns[-1][0] != "user":
        raise BadRow("the prompt does not end with a message of the user")
    if any(role == "system" for role, _ in turns[1:]):
        raise BadRow("a system message that is not the first")
    return turns


def sound_text(text: str) -> str:
    """The text. Raises BadRow if it would forge the structure of the chat or cannot be encoded."""
    if "<|" in text and (token := CONTROL_TOKEN.search(text)):
        raise BadRow(f"the text holds the control token {token[0]!r}")
    return sound_unicode(text)


def sound_unicode(text: str, what: str = "the text") -> str:
    """The text. Raises BadRow if it cannot be encoded; JSON can spell such texts."""
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise BadRow(f"{what} is not valid Unicode: half of a surrogate pair") from None
    return text


def place_media(turns: Sequence[Turn], images: int, videos: int) -> tuple[Message, ...]:
    """Split texts at their marks. Without any mark, all media stand before the text of the first user message.

    Raises BadRow if marks and media differ in number, or if the last message has no text.
    """
    if not MARK.sub("", turns[-1][1]).strip():
        raise BadRow("the prompt is empty")
    if not images and not videos and not any(mark in text for _, text in turns for mark in MEDIUM_OF_MARK):
        return tuple(Message(role, (text,)) for role, text in turns)
    messages = [Message(role, tuple(_cut(text))) for role, text in turns]
    media = {Medium.IMAGE: images, Medium.VIDEO: videos}
    marks = {medium: sum(message.parts.count(medium) for message in messages) for medium in Medium}
    if not any(marks.values()) and any(media.values()):
        first = next(i for i, message in enumerate(messages) if message.role == "user")
        places = tuple(medium for medium in Medium for _ in range(media[medium]))
        messages[first] = replace(messages[first], parts=(*places, *messages[first].parts))
    elif marks != media:
        raise BadRow(
            "; ".join(
                f"{marks[medium]} {mark} in the prompt but {media[medium]} {medium.value}s"
                for medium, mark in MARKS.items()
                if marks[medium] != media[medium]
            )
        )
    return tuple(messages)


def as_text(message: Message) -> str:
    """A message as one text, with marks at the places of media."""
    return "".join(part if isinstance(part, str) else MARKS[part] for part in message.parts)


def kind_of(value: Any) -> str:
    """The name of a value's type in error messages."""
    names = {
        dict: "a mapping",
        list: "a list",
        str: "a text",
        bytes: "bytes",
        bool: "a truth value",
        type(None): "null",
    }
    return names.get(type(value), f"of type {type(value).__name__}")


def _turn(message: Any) -> Turn:
    if not isinstance(message, Mapping) or message.get("role") not in ROLES:
        raise BadRow(f"a message is not a mapping with role ({', '.join(ROLES)}) and content")
    content = message.get("content")
    if isinstance(content, list | tuple):
        content = "".join(_part(part) for part in content)
    if not isinstance(content, str):
        raise BadRow(f"the content of a message is {kind_of(content)}; accepted: a text or a list of parts")
    return message["role"], sound_text(content)


def _part(part: Any) -> str:
    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind == "text" and isinstance(part.get("text"), str):
        return part["text"]
    if kind in ("image", "video"):
        return MARKS[Medium(kind)]
    raise BadRow("a part of a message is not of type text, image or video")


def _cut(text: str) -> list[str | Medium]:
    return [MEDIUM_OF_MARK.get(piece, piece) for piece in MARK.split(text) if piece]
