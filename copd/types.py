"""The only objects that travel between rooms. All are frozen; none knows how a model works or where a branch lives.

Dimensions in names: P prompts, N sequences (rows), T response tokens, K top-k entries.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:  # a recipe is read without them
    import numpy as np
    from torch import Tensor

BASE, MERGED = "base", "merged"
MIXED = "mixed"
"""The one branch of the method of that name, trained on all capabilities."""
STUDENT = "student"
"""The branch of `mopd` that only learns from the experts."""
RESERVED_NAMES = frozenset({BASE, MERGED, MIXED, STUDENT, "mean", "average"})
"""No branch of a recipe may be called so."""


class Split(Enum):
    """Which problems: to learn from, to measure during training, or to measure once at the end.

    What splits may share is the task's to say: in `tasks.digits` no picture and no canonical text; `rows.rows` takes
    the user's files as they are, or cuts one by hash.
    """

    TRAIN = "train"
    VALIDATION = "validation"
    TEST = "test"


class Medium(Enum):
    """In a message: the place of the problem's next image or video."""

    IMAGE = "image"
    VIDEO = "video"


@dataclass(frozen=True)
class Message:
    """One turn of a chat: who speaks (system, user, assistant), and texts with the places of media between them."""

    role: str
    parts: tuple[str | Medium, ...]

    @property
    def content(self) -> str | list[dict[str, str]]:
        """A text alone stays a string, which every chat template takes; with media it becomes a list of parts."""
        texts = [part for part in self.parts if isinstance(part, str)]
        if len(texts) == len(self.parts):
            return "".join(texts)
        return [{"type": "text", "text": p} if isinstance(p, str) else {"type": p.value} for p in self.parts]


@dataclass(frozen=True, eq=False)
class Problem:
    """One prompt with a verifiable answer.

    `images` are [H, W, 3] uint8, `videos` are [frames, H, W, 3] uint8 at `fps`, one rate for all or one for each.
    Without `messages` the prompt is one user message, in which all media stand before the text `prompt`. With them the
    messages are the whole prompt: they hold as many places as there are media, taken in order, and `prompt` is only
    shown to people. `chat_template_kwargs` are variables of the model's chat template. `verifier` names what grades a
    response against `answer` (`rewards.grading`), it never points at code. `solution` is a worked response, used only
    by the supervised warm-up. `columns` is a JSON object, for a user's reward function that wants more than the
    answer.
    """

    id: str
    task: str
    prompt: str
    answer: str
    verifier: str
    solution: str = ""
    images: tuple[np.ndarray, ...] = ()
    videos: tuple[np.ndarray, ...] = ()
    fps: float | tuple[float, ...] = 2.0
    messages: tuple[Message, ...] = ()
    chat_template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    columns: str = "{}"

    @property
    def chat(self) -> list[dict[str, Any]]:
        """The whole prompt as chat templates take it: role and content of every message."""
        if self.messages:
            return [{"role": message.role, "content": message.content} for message in self.messages]
        media = (*(Medium.IMAGE for _ in self.images), *(Medium.VIDEO for _ in self.videos))
        return [{"role": "user", "content": Message("user", (*media, self.prompt)).content}]

    @property
    def fps_of_videos(self) -> tuple[float, ...]:
        """Frames per second of each video."""
        return self.fps if isinstance(self.fps, tuple) else (self.fps,) * len(self.videos)

    @property
    def kind(self) -> str:
        """ "text", "image" or "video": a batch for the model holds one kind of prompt."""
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

    tokens_NT    token ids, right padded; the end token is part of the response
    mask_NT      True on response tokens
    finished_N   True where the response ends with an end token, False where the length limit truncated it
    logp_NT      the sampler's log-probs, at `temperature` and under the vocabulary mask; 0 on padding
    version      the number of updates the sampling policy had seen
    reward_N     what is trained on, None until graded
    correct_N    True where the answer is right, whatever else the reward counts; None until graded
    grader_failures  rows that could not be graded and earn 0 for it
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


@dataclass(frozen=True, eq=False)
class Score:
    """A policy's log-probs of given responses, as of weight version `version`.

    logp_NT       log-prob of each response token; 0 on padding
    topk_ids_NTK  the K most likely tokens, best first (None unless asked for)
    topk_logp_NTK their log-probs
    at_ids_NTK    log-probs at the ids the caller asked about (None unless asked for)
    """

    logp_NT: Tensor
    version: int
    topk_ids_NTK: Tensor | None = None
    topk_logp_NTK: Tensor | None = None
    at_ids_NTK: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Part:
    """One summand of an optimizer step's objective, with its own denominator (method.md, trap 1).

    Without a `teacher` it is native GRPO on graded rollouts; with one it is OPD towards the teacher's log-probs, which
    must be those of its version `teacher_version`.
    """

    name: str
    rollouts: Rollouts
    weight: float = 1.0
    teacher: Score | None = None
    teacher_version: int = 0


class Answering(Protocol):
    """Whatever can answer a task's problems: a branch, or a model that is only evaluated."""

    name: str

    async def answer_first(
        self, split: Split, task: str, count: int, rollouts_per_prompt: int, *, greedy: bool
    ) -> Rollouts:
        """Graded answers to the first problems of a task, the same at every call; not counted."""
        ...


class Observed(Answering, Protocol):
    """Whatever can also look at answers: a branch, or a model without a run."""

    allowed_tokens: int
    """Tokens that the vocabulary mask allows."""

    async def inspect(self, rollouts: Rollouts, k: int, ids_NTK: Tensor | None = None) -> Score:
        """Log-probs of anybody's rollouts, of the k most likely tokens and at `ids_NTK`; not counted."""
        ...

    async def texts(self, rollouts: Rollouts) -> list[str]:
        """The responses as text."""
        ...

    async def pieces(self, rollouts: Rollouts, row: int) -> list[str]:
        """One response token by token, the end token included; joined, the pieces are its text."""
        ...


class BranchHandle(Observed, Protocol):
    """A branch, wherever it lives: every call is awaited, so that calls to different branches can run at once."""

    capability: str
    """Name of the task the branch trains on; its peers are taught on it."""

    async def collect(self, task: str, step: int, prompts: int, rollouts_per_prompt: int) -> Rollouts:
        """Sample and grade the task's next training problems; which ones is a function of (seed, branch, step)."""
        ...

    async def score(self, rollouts: Rollouts) -> Score:
        """Log-probs of anybody's rollouts under this branch's weights as they are now, counted as teaching."""
        ...

    async def update(self, parts: Sequence[Part]) -> dict[str, float]:
        """One optimizer step; the metrics of each part. Raises NonFiniteError after several bad steps in a row."""
        ...

    async def weights(self) -> Mapping[str, Tensor]:
        """All weights by name, tied ones once, an adapter's update added to those it changes."""
        ...

    async def counts(self) -> dict[str, float]:
        """The branch's ledger since the start of the run."""
        ...

    async def state(self) -> dict[str, Tensor]:
        """What a checkpoint holds of the branch."""
        ...

    async def load_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Take over parameters by name; the optimizer begins anew."""
        ...

    async def load_state(self, tensors: dict[str, Tensor], counts: Mapping[str, float]) -> None:
        """Go on from a checkpoint: what `state` and `counts` gave."""
        ...

    async def save(self, folder: Path, card: str) -> None:
        """Write the model with processor, vocabulary mask and model card, loadable by plain transformers."""
        ...
