"""The only objects that travel between rooms. All are frozen. None knows how a model works or where a branch lives.

Dimensions in names: P prompts, N sequences (rows), T response tokens, K top-k entries.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from enum import Enum
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:  # reading a recipe needs none of these
    import numpy as np
    from torch import Tensor

BASE, MERGED = "base", "merged"
MIXED = "mixed"
"""The only branch of the method `mixed`, trained on all capabilities."""
STUDENT = "student"
"""The student of `mopd`: a branch that only the experts teach."""
RESERVED_NAMES = frozenset({BASE, MERGED, MIXED, STUDENT, "mean", "average"})
"""Names that no branch of a recipe may have."""


class Split(Enum):
    """The use of problems: to learn from, to measure during training, or to measure once at the end.

    Each task decides what its splits may share. In `tasks.digits` they share no picture and no canonical text.
    `rows.rows` takes the user's files as they are, or cuts the training files by hash.
    """

    TRAIN = "train"
    VALIDATION = "validation"
    TEST = "test"


class Medium(Enum):
    """The place in a message of the problem's next image or video."""

    IMAGE = "image"
    VIDEO = "video"


@dataclass(frozen=True)
class Message:
    """One turn of a chat: its role (system, user, assistant), and texts with the places of media between them."""

    role: str
    items: tuple[str | Medium, ...]

    @property
    def content(self) -> str | list[dict[str, str]]:
        """The content as chat templates take it: a string without media, else a list of items."""
        texts = [item for item in self.items if isinstance(item, str)]
        if len(texts) == len(self.items):
            return "".join(texts)
        return [{"type": "text", "text": i} if isinstance(i, str) else {"type": i.value} for i in self.items]


@dataclass(frozen=True, eq=False)
class Pixels:
    """An image or a video that holds no pixels: `numpy.asarray` decodes them, each time anew.

    `shape` and `digest` are those of the pixels, which are uint8. `decode` raises DataError naming the file if the
    pixels cannot be decoded any more, or are others.
    """

    shape: tuple[int, ...]
    digest: bytes
    decode: Callable[[], np.ndarray]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        pixels = self.decode()
        return pixels if dtype is None else pixels.astype(dtype)


def digest_of(pixels: np.ndarray | Pixels) -> bytes:
    """The sha256 of the pixels' bytes."""
    return pixels.digest if isinstance(pixels, Pixels) else hashlib.sha256(pixels.tobytes()).digest()


@dataclass(frozen=True)
class Address:
    """Where a problem comes from. In every process of a run the task of the capability makes the same problem of it."""

    capability: str
    split: Split
    index: int


@dataclass(frozen=True, eq=False)
class Problem:
    """One prompt with a verifiable answer.

    `images` are [H, W, 3] uint8, `videos` are [frames, H, W, 3] uint8 at `fps`, one rate for all or one for each. Both
    are arrays, or hold no pixels until they are decoded.
    Without `messages` the prompt is one user message, in which all media stand before the text `prompt`. With
    `messages` they are the whole prompt: they hold as many places as there are media, filled in order, and `prompt` is
    only shown to people. `chat_template_kwargs` are variables of the model's chat template. `verifier` is the name of
    the verifier that grades a response against `answer` (`rewards.grading`); it never points at code. `solution` is a
    worked response, used only by the supervised warm-up. `columns` is a JSON object, for a user's reward function that
    wants more than the answer. `sources` names what the problem was made of, such as pictures: problems that share a
    source are not independent. `address` is there if the problem was drawn from the tasks of a run (`at`); a changed
    copy has none.
    """

    id: str
    task: str
    prompt: str
    answer: str
    verifier: str
    solution: str = ""
    images: tuple[np.ndarray | Pixels, ...] = ()
    videos: tuple[np.ndarray | Pixels, ...] = ()
    fps: float | tuple[float, ...] = 2.0
    messages: tuple[Message, ...] = ()
    chat_template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    columns: str = "{}"
    sources: tuple[str, ...] = ()
    address: Address | None = field(default=None, init=False)

    def at(self, address: Address) -> Problem:
        """The same problem, as drawn at this address."""
        if self.address == address:
            return self
        drawn = copy.copy(self)
        object.__setattr__(drawn, "address", address)
        return drawn

    @cached_property
    def fingerprint(self) -> str:
        """The sha256 of everything in the problem but its address, in hex."""
        own = [field.name for field in fields(self) if field.name not in ("images", "videos", "address")]
        found = hashlib.sha256(repr([getattr(self, name) for name in own]).encode())
        for pixels in (*self.images, *self.videos):
            found.update(repr(pixels.shape).encode() + digest_of(pixels))
        return found.hexdigest()

    @property
    def chat(self) -> list[dict[str, Any]]:
        """The whole prompt as chat templates take it: the role and content of every message."""
        if self.messages:
            return [{"role": message.role, "content": message.content} for message in self.messages]
        media = (*(Medium.IMAGE for _ in self.images), *(Medium.VIDEO for _ in self.videos))
        return [{"role": "user", "content": Message("user", (*media, self.prompt)).content}]

    @property
    def held_bytes(self) -> int:
        """Bytes of the pixels that the problem holds."""
        return sum(media.nbytes for media in (*self.images, *self.videos) if not isinstance(media, Pixels))

    @property
    def fps_of_videos(self) -> tuple[float, ...]:
        """Frames per second of each video."""
        return self.fps if isinstance(self.fps, tuple) else (self.fps,) * len(self.videos)

    @property
    def kind(self) -> str:
        """ "text", "image" or "video". A batch for the model holds one kind of prompt."""
        return "video" if self.videos else "image" if self.images else "text"


class Task(Protocol):
    """A source of problems: a pure function of (split, index)."""

    @property
    def name(self) -> str:
        """The task's own name, which its problems carry."""
        ...

    def problem(self, split: Split, index: int) -> Problem:
        """The problem with this index; any index >= 0 is valid."""
        ...


@dataclass(frozen=True, eq=False)
class Rollouts:
    """Sampled responses. Row n answers `problems[prompt_of_N[n]]`, so that a group may have any number of rows.

    tokens_NT        token ids, right padded; the end token is part of the response
    mask_NT          True on response tokens
    finished_N       True where the response ends with an end token or a stop string, False where the length limit
                     truncated it
    logp_NT          log-probs of the distribution that the sampler drew from, at `temperature` and under the
                     vocabulary mask; 0 on padding
    version          the number of updates that the sampling policy had made
    reward_N         rewards, None until graded
    correct_N        True where the answer is right, whatever else the reward counts; None until graded
    grader_failures  number of rows that could not be graded and therefore earn 0
    likeliest_NTK    the sampling policy's K likeliest tokens at each place, if a teacher is to compare them
    cut              whether that distribution was cut (top_p, top_k, min_p), so that `logp_NT` are above the policy's
    groups           number of groups to learn on, where further ones were sampled for their signal; None: all
    """

    problems: tuple[Problem, ...]
    tokens_NT: Tensor
    mask_NT: Tensor
    finished_N: Tensor
    logp_NT: Tensor
    prompt_of_N: Tensor
    temperature: float
    version: int = 0
    reward_N: Tensor | None = None
    correct_N: Tensor | None = None
    grader_failures: int = 0
    likeliest_NTK: Tensor | None = None
    cut: bool = False
    groups: int | None = None


@dataclass(frozen=True, eq=False)
class Score:
    """A policy's log-probs of given responses, as of weight version `version`.

    logp_NT        log-prob of each response token; 0 on padding
    topk_ids_NTK   the K most likely tokens, best first (None unless asked for)
    topk_logp_NTK  their log-probs
    at_ids_NTK     log-probs of the ids that the caller gave (None unless asked for)
    whole_MV       log-probs of all tokens, for the M response tokens row by row (None unless asked for)
    """

    logp_NT: Tensor
    version: int
    topk_ids_NTK: Tensor | None = None
    topk_logp_NTK: Tensor | None = None
    at_ids_NTK: Tensor | None = None
    whole_MV: Tensor | None = None


@dataclass(frozen=True)
class Rated:
    """How often rows were answered rightly: the right answers by a row's place, and why other rows are bad.

    `failures` is the number of responses that could not be graded and count as wrong.
    """

    right: Mapping[int, int]
    bad: Mapping[int, str]
    failures: int


@dataclass(frozen=True)
class StateFile:
    """A file of a branch's part of a checkpoint, complete and on disk: its name there, size in bytes and sha256."""

    name: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class SettledPath:
    """The path on which a model computes, as the check at start has settled it.

    shared_prefix  a prompt is computed once for all of its responses
    packing        so it is for log-probs too: they are computed on prompts and responses in one sequence
    checked_on     device and type of the arithmetic of the check
    doubt          what the check found against sharing; empty if nothing
    """

    shared_prefix: bool
    packing: bool
    checked_on: str
    doubt: str = ""

    @property
    def described(self) -> str:
        """The path, the place of the check and what it found, in words."""
        path = "packed" if self.packing else "prompts shared in sampling alone"
        found = f": {self.doubt}" if self.doubt else ""
        return f"{path if self.shared_prefix else 'plain path'} ({self.checked_on}{found})"


@dataclass(frozen=True, eq=False)
class Part:
    """One summand of an optimizer step's objective, with its own denominator (method.md, trap 1).

    Without a `teacher` the part is native GRPO on graded rollouts. With a `teacher` it is OPD towards the teacher's
    log-probs, which must be of the teacher's version `teacher_version`. The responses are the student's own of now;
    with `by_teacher` they are the teacher's, which makes the distillation off-policy.
    """

    name: str
    rollouts: Rollouts
    weight: float = 1.0
    teacher: Score | None = None
    teacher_version: int = 0
    by_teacher: bool = False
