"""A learner whose weights, gradients and moments are spread over the ranks of its branch: FSDP2 of torch.

Only the learner's forward and backward pass use the sharded model. Every rank also holds a whole copy of the weights,
that of the branch's policy: it samples, teaches, and is saved. It follows the sharded weights after every update.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers.modeling_layers import GradientCheckpointingLayer

from copd.compute.batching import answered
from copd.model.learner import Learner, Means, StepReport
from copd.model.objectives import Objective
from copd.model.policy import Policy
from copd.types import Rollouts


class ShardedLearner(Learner):
    """A `Learner` on one of the ranks of its branch. It makes the updates that one rank makes, up to rounding.

    All ranks compute the same list of micro-batches and take turns. A turn has micro-batches of one kind of prompt, so
    that all ranks use the same modules in it, and none waits for ever. Where a kind leaves ranks without a micro-batch,
    they compute that of another, which does not count there.
    """

    def __init__(self, policy: Policy, **options: Any) -> None:
        """`options` are those of `Learner`; of its kinds, `adamw` keeps moments beside sharded weights."""
        self._ranks, self._copy = policy.ranks, policy
        sharded = policy.duplicate()
        shard(sharded.model, policy.ranks.mesh)
        super().__init__(sharded, **options)

    def step(self, parts: Sequence[Objective], **options: Any) -> StepReport:
        before = self.policy.changes
        report = super().step(parts, **options)
        if self.policy.changes != before:
            self._follow()
        return report

    def gradient(self, part: Objective) -> list[Tensor]:
        parameters = self.named_parameters.values()
        pairs = zip(super().gradient(part), parameters, strict=True)
        return [_whole(_as_sharded(local, parameter)) for local, parameter in pairs]

    @torch.no_grad()
    def load_weights(self, weights: Mapping[str, Tensor]) -> None:
        self._copy.load_weights(weights)
        for name, parameter in self._copy.trained_parameters().items():
            self.named_parameters[name].copy_(_spread(parameter, self.named_parameters[name]))
        self.forget()

    def shards(self) -> dict[str, Tensor]:
        return {name: tensor for name, tensor in super().state().items() if isinstance(tensor, DTensor)}

    def state(self) -> dict[str, Tensor]:
        return {name: tensor for name, tensor in super().state().items() if not isinstance(tensor, DTensor)}

    @torch.no_grad()
    def load_state(self, tensors: dict[str, Tensor]) -> None:
        like = {
            name: self.named_parameters.get(name.partition("/")[2]) for name, tensor in tensors.items() if tensor.ndim
        }
        super().load_state({name: _spread(tensor, like.get(name)) for name, tensor in tensors.items()})
        self._follow()

    def _turns(self, rollouts: Rollouts, batches: Sequence[Tensor]) -> list[tuple[Tensor, float]]:
        alike: dict[tuple[bool, bool], list[Tensor]] = defaultdict(list)
        for rows_M in batches:
            asked = answered(rollouts.problems, rollouts.prompt_of_N, rows_M)
            alike[any(p.images for p in asked), any(p.videos for p in asked)].append(rows_M)
        rank, count = self._ranks.rank, self._ranks.count
        rounds = [same[i : i + count] for _, same in sorted(alike.items()) for i in range(0, len(same), count)]
        turns = [(each[rank], 1.0) if rank < len(each) else (each[0], 0.0) for each in rounds]
        self.policy.encoder.expect(answered(rollouts.problems, rollouts.prompt_of_N, rows_M) for rows_M, _ in turns)
        return turns

    def _of_all(self, means: Means) -> Means:
        found = self._ranks.gathered(means)
        names = dict.fromkeys(name for each in found for name in each.sums)
        sums = {name: sum(each.sums.get(name, 0.0) for each in found) for name in names}
        return Means(sums, sum(each.tokens for each in found))

    def _together(self, norms: Sequence[Tensor]) -> float:
        return math.hypot(*self._ranks.gathered(super()._together(norms)))

    def _gradients(self) -> list[Tensor]:
        """This rank's part of each gradient."""
        return [gradient.to_local() for gradient in super()._gradients() if isinstance(gradient, DTensor)]

    @torch.no_grad()
    def _follow(self) -> None:
        """Bring the whole copy up to the sharded weights."""
        for name, parameter in self._copy.trained_parameters().items():
            parameter.copy_(_whole(self.named_parameters[name]))
        self._copy.changes += 1


def shard(model: Any, mesh: DeviceMesh | None) -> None:
    """Spread a model over the ranks of a mesh. Gradients are summed: their denominators are those of all ranks.

    Layers are gathered one at a time. What is outside of them is gathered for a whole pass.
    """
    for module in reversed(list(model.modules())):
        if isinstance(module, GradientCheckpointingLayer):
            fully_shard(module, mesh=mesh)
    fully_shard(model, mesh=mesh)
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)  # gloo has no sum of multiples


def _spread(tensor: Tensor, like: Tensor | None) -> Tensor:
    """A whole tensor, which all ranks hold, spread as `like` is. A sharded one stays as it is."""
    if isinstance(tensor, DTensor) or not isinstance(like, DTensor):
        return tensor
    whole = tensor.detach().to(like.device)
    return distribute_tensor(whole, like.device_mesh, like.placements, src_data_rank=None)


def _whole(tensor: Tensor) -> Tensor:
    """A sharded tensor, gathered from all ranks."""
    assert isinstance(tensor, DTensor)
    return tensor.full_tensor()


def _as_sharded(local: Tensor, like: Tensor) -> DTensor:
    assert isinstance(like, DTensor)
    return DTensor.from_local(
        local, like.device_mesh, like.placements, run_check=False, shape=like.shape, stride=like.stride()
    )
