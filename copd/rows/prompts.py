"""A row's prompt to messages: roles, texts, and the places of images and videos between them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from copd.errors import BadRow
from copd.rows.unread import unread_keys
from copd.types import Medium, Message

ROLES = ("system", "user", "assistant")
MARKS = {Medium.IMAGE: "<image>", Medium.VIDEO: "<video>"}
MEDIUM_OF_MARK = {mark: medium for medium, mark in MARKS.items()}
MARK = re.compile("(<image>|<video>)")
OTHER_MARK = re.compile(r"<(?:image|img|video)[ _-]?\d*>|\[(?:image|video)\]", re.IGNORECASE)
"""Marks of other libraries. They stay text."""
MEDIA_KEY = re.compile("image|video|picture|frame", re.IGNORECASE)
MESSAGES_AS_TEXT = re.compile(r"""\s*\[\s*\{\s*["'](?:role|content)["']\s*:""")
CONTROL_TOKEN = re.compile(r"<\|\w+\|>")

Turn = tuple[str, str]
"""A role, and a text with marks for media."""


def read_turns(prompt: Any, notes: list[str]) -> list[Turn]:
    """The turns of a prompt, which is a text or a list of messages. Raises BadRow.

    A message's content is a text, or a list of parts of type text, image and video.
    """
    if isinstance(prompt, str):
        turns = [("user", sound_text(prompt))]
        if MESSAGES_AS_TEXT.match(prompt):
            notes.append("the prompt is a list of messages written as a text, and is asked as that text")
    elif isinstance(prompt, list | tuple):
        if prompt and all(isinstance(text, str) for text in prompt):
            raise BadRow("the prompt is a list of texts; accepted: a text or a list of messages; a row is one problem")
        turns = [_turn(message, f"prompt[{i}]", notes) for i, message in enumerate(prompt)]
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


def place_media(turns: Sequence[Turn], images: int, videos: int, notes: list[str]) -> tuple[Message, ...]:
    """Split texts at their marks. Without any mark, all media stand before the text of the first user message.

    Marks of other libraries in a row with media are noted.
    Raises BadRow if marks and media differ in number, or if the last message has no text.
    """
    if not MARK.sub("", turns[-1][1]).strip():
        raise BadRow("the prompt is empty")
    if not images and not videos and not any(mark in text for _, text in turns for mark in MEDIUM_OF_MARK):
        return tuple(Message(role, (text,)) for role, text in turns)
    messages = [Message(role, tuple(_cut(text))) for role, text in turns]
    others = {mark for _, text in turns for mark in OTHER_MARK.findall(text) if mark not in MEDIUM_OF_MARK}
    notes += [f"{mark[:20]} in the prompt is asked as text; marks are <image> and <video>" for mark in sorted(others)]
    media = {Medium.IMAGE: images, Medium.VIDEO: videos}
    marks = {medium: sum(message.items.count(medium) for message in messages) for medium in Medium}
    if not any(marks.values()) and any(media.values()):
        first = next(i for i, message in enumerate(messages) if message.role == "user")
        places = tuple(medium for medium in Medium for _ in range(media[medium]))
        messages[first] = replace(messages[first], items=(*places, *messages[first].items))
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
    return "".join(item if isinstance(item, str) else MARKS[item] for item in message.items)


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


def _turn(message: Any, where: str, notes: list[str]) -> Turn:
    if not isinstance(message, Mapping):
        raise BadRow(f"{where} is {kind_of(message)}; accepted: a mapping with role and content")
    role, content = message.get("role"), message.get("content")
    if role not in ROLES:
        raise BadRow(f"{where}.role is {str(role)[:40]!r}; accepted: {', '.join(ROLES)}")
    if isinstance(content, list | tuple):
        content = "".join(_part(part, f"{where}.content[{i}]", notes) for i, part in enumerate(content))
    if not isinstance(content, str):
        raise BadRow(f"{where}.content is {kind_of(content)}; accepted: a text or a list of parts")
    notes += [_unread(key, "a message") for key in unread_keys(message, ("role", "content"))]
    return role, sound_text(content)


def _part(part: Any, where: str, notes: list[str]) -> str:
    if not isinstance(part, Mapping):
        raise BadRow(f"{where} is {kind_of(part)}; accepted: a mapping with type")
    kind = part.get("type")
    if kind in ("image", "video", "text"):
        read = ("type", "text") if kind == "text" else ("type",)
        notes += [_unread(key, f"a part of type {kind}") for key in unread_keys(part, read)]
    if kind in ("image", "video"):
        return MARKS[Medium(kind)]
    if kind != "text":
        raise BadRow(f"{where}.type is {str(kind)[:40]!r}; accepted: text, image, video")
    if not isinstance(part.get("text"), str):
        raise BadRow(f"{where}.text is {kind_of(part.get('text'))}; accepted: a text")
    return part["text"]


def _unread(key: str, where: str) -> str:
    held = "; pictures and videos are read from the columns images and videos" if MEDIA_KEY.search(key) else ""
    return f"the key `{key}` of {where} is not read{held}"


def _cut(text: str) -> list[str | Medium]:
    return [MEDIUM_OF_MARK.get(piece, piece) for piece in MARK.split(text) if piece]
