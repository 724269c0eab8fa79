"""What a run calls: branches, and models that are only evaluated, wherever they live. Every call is awaited."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from copd.types import Part, Rollouts, Score, SettledPath, Split, StateFile

if TYPE_CHECKING:  # reading a recipe needs no torch
    from torch import Tensor


class Answering(Protocol):
    """A model that can answer a task's problems: a branch, or a model that is only evaluated."""

    name: str

    async def answer_first(
        self, split: Split, task: str, count: int, rollouts_per_prompt: int, *, greedy: bool
    ) -> Rollouts:
        """Graded responses to the first problems of a task, the same at every call. The ledger does not count them."""
        ...


class Observed(Answering, Protocol):
    """A model that can also score responses and show them as text: a branch, or a model outside a run."""

    allowed_tokens: int
    """Number of tokens that the vocabulary mask allows."""

    async def inspect(self, rollouts: Rollouts, k: int, ids_NTK: Tensor | None = None) -> Score:
        """Log-probs of any model's rollouts, of the k most likely tokens and of `ids_NTK`.

        The ledger does not count them.
        """
        ...

    async def texts(self, rollouts: Rollouts) -> list[str]:
        """The responses as text."""
        ...

    async def pieces(self, rollouts: Rollouts, row: int) -> list[str]:
        """One response token by token, the end token included. Joined, the pieces are the response's text."""
        ...


class BranchHandle(Observed, Protocol):
    """A branch, wherever it lives. Every call is awaited, so that calls to different branches can run at once."""

    capability: str
    """Name of the task that the branch trains on and teaches its peers on."""

    async def collect(
        self, task: str, step: int, prompts: int, rollouts_per_prompt: int, *, visit: bool = False
    ) -> Rollouts:
        """Sample and grade responses to the task's next training problems, a function of (seed, branch, step).

        With `visit` a teacher will score them; the problems are others than those of native batches.
        """
        ...

    async def replay(self, place: int) -> Rollouts:
        """One of the last native batches that the branch kept, 0 the oldest, as if it had been sampled now."""
        ...

    async def score(self, rollouts: Rollouts) -> Score:
        """Log-probs of any rollouts under the weights that this branch teaches with. The ledger counts the tokens."""
        ...

    async def update(self, parts: Sequence[Part]) -> dict[str, float]:
        """Make one update; the metrics of each part. Raises NonFiniteError after several bad steps in a row."""
        ...

    async def native_gradients(
        self, steps: range, prompts: int, rollouts_per_prompt: int
    ) -> tuple[list[Tensor], list[float]]:
        """Gradients of native batches at the current weights: their sum by parameter, and the squared norm of each."""
        ...

    async def hold(self) -> None:
        """From now on, teach with the present weights, while training changes those of the branch."""
        ...

    async def release(self) -> None:
        """Teach with the current weights again."""
        ...

    async def settled_path(self) -> SettledPath:
        """The path on which the branch's model computes."""
        ...

    async def write_weights(self, folder: Path) -> None:
        """Write all weights by name into a new folder, tied ones once. An adapter's update is added to its weights."""
        ...

    async def load_weights(self, folder: Path) -> None:
        """Take over the weights in a folder and start a new optimizer."""
        ...

    async def counts(self) -> dict[str, float]:
        """The branch's ledger since the start of the run."""
        ...

    async def write_state(self, path: Path) -> Sequence[StateFile] | None:
        """Write the branch's part of a checkpoint, and tell its files. None if one of its values is not finite."""
        ...

    async def start_optimizer(self) -> None:
        """Forget the moments of Adam: what follows is another training."""
        ...

    async def read_state(self, path: Path, counts: Mapping[str, float]) -> None:
        """Go on from the branch's part of a checkpoint, and the result of `counts`."""
        ...

    async def save(self, folder: Path, card: str, export_dtype: str = "float32") -> None:
        """Write the model with processor, vocabulary mask and model card, loadable by plain transformers.

        `export_dtype` is the type of the weights in the folder.
        """
        ...
