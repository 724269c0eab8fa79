"""The last native batches of a branch, kept so that it can teach on them what it has become since."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from copd.tasks.asked import Asked
from copd.types import Address, Rollouts, Split

PREFIX = "kept/"


@dataclass(frozen=True, eq=False)
class KeptBatch:
    """A native batch: the places of its training problems in the task, and their graded responses without log-probs."""

    place_P: Tensor
    tokens_NT: Tensor
    length_N: Tensor
    finished_N: Tensor
    prompt_of_N: Tensor
    reward_N: Tensor
    correct_N: Tensor

    @classmethod
    def of(cls, rollouts: Rollouts) -> KeptBatch:
        """What is kept of graded rollouts to problems with an address."""
        assert rollouts.reward_N is not None
        assert rollouts.correct_N is not None
        return cls(
            torch.tensor([problem.address.index for problem in rollouts.problems if problem.address is not None]),
            rollouts.tokens_NT.to("cpu", torch.int32),
            rollouts.mask_NT.sum(-1).to("cpu", torch.int32),
            rollouts.finished_N.cpu(),
            rollouts.prompt_of_N.to("cpu", torch.int32),
            rollouts.reward_N.cpu(),
            rollouts.correct_N.cpu(),
        )

    def replayed(self, asked: Asked, capability: str, temperature: float, version: int) -> Rollouts:
        """The rollouts as if a policy of this version had sampled them; their log-probs are not known, and 0."""
        places_T = torch.arange(self.tokens_NT.shape[1])
        return Rollouts(
            problems=tuple(asked.at(Address(capability, Split.TRAIN, i)) for i in self.place_P.tolist()),
            tokens_NT=self.tokens_NT.long(),
            mask_NT=places_T < self.length_N[:, None],
            finished_N=self.finished_N,
            logp_NT=torch.zeros(self.tokens_NT.shape),
            prompt_of_N=self.prompt_of_N.long(),
            temperature=temperature,
            version=version,
            reward_N=self.reward_N,
            correct_N=self.correct_N,
        )

    def tensors(self) -> dict[str, Tensor]:
        """All that is kept, by name."""
        return dict(vars(self))


def as_tensors(batches: Iterable[KeptBatch]) -> dict[str, Tensor]:
    """The batches as the tensors of a checkpoint."""
    return {
        f"{PREFIX}{place}/{name}": tensor
        for place, batch in enumerate(batches)
        for name, tensor in batch.tensors().items()
    }


def from_tensors(tensors: Mapping[str, Tensor]) -> Iterator[KeptBatch]:
    """Copies of the batches in the tensors of a checkpoint, which may be parts of its file; the oldest first."""
    place = 0
    while f"{PREFIX}{place}/place_P" in tensors:
        prefix = f"{PREFIX}{place}/"
        own = {name.removeprefix(prefix): t.clone() for name, t in tensors.items() if name.startswith(prefix)}
        yield KeptBatch(**own)
        place += 1
