"""Where the branches of a run live: all in this process, each in its own process, or each an actor of Ray."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from types import ModuleType
from typing import TYPE_CHECKING, Protocol, TypeVar

import torch

from copd.assemble import SERVER
from copd.assemble.assembled import Assembled
from copd.assemble.branches import computes_in_half, device_of, lone_branch, make_branch
from copd.assemble.preflight import check_one_path
from copd.branches.actor import Actor
from copd.branches.local import Turns, finish, local_handle, threaded_handle
from copd.branches.patience import Patience
from copd.branches.processes import BranchProcess, Make
from copd.errors import RecipeError
from copd.handles import Answering, BranchHandle
from copd.model.folders import compute_on
from copd.model.policy import Policy
from copd.system.processes import Memory, begin_to_import, peak, summed

if TYPE_CHECKING:  # Ray is an extra
    from copd.branches.ray import RayBranch

A = TypeVar("A", bound=Actor)


class Place(Protocol):
    """The new branches by name, and handles for models that are only evaluated."""

    @property
    def branches(self) -> Mapping[str, BranchHandle]: ...

    @property
    def in_half(self) -> bool:
        """Whether a branch computes under autocast."""
        ...

    def evaluated(self, name: str, policy: Policy) -> Answering:
        """A model that only answers problems, on the base's device."""
        ...

    def rounds(self, models: Sequence[Answering]) -> Iterator[Sequence[Answering]]:
        """The models, branches among them, as they are evaluated last: those of a round at once, then the next ones.

        When a round is asked for, branches of earlier rounds may end.
        """
        ...

    def peak(self) -> Memory:
        """The sum, over all processes, of the most memory that each has held so far."""
        ...

    def close(self) -> None:
        """End the branches, which are no longer needed."""
        ...


class ThisProcess:
    """All branches in this process. They take turns on their device if the recipe says so."""

    def __init__(self, made: Assembled, names: Sequence[str], started: Callable[[], None] = lambda: None) -> None:
        self._made = made
        self.in_half = computes_in_half(made.recipe)
        self._turns = Turns() if made.recipe.model.offload else None
        self._home = made.base.device
        self.branches: dict[str, BranchHandle] = {}
        for index, name in enumerate(names):
            self.branches[name] = local_handle(self._waiting(make_branch(made, name, index)), self._turns)
            started()

    def _waiting(self, actor: A) -> A:
        if self._turns is not None:
            self._turns.wait(actor)
        return actor

    def evaluated(self, name: str, policy: Policy) -> Answering:
        actor = self._made.actor(name, policy)
        actor.home = self._home
        return local_handle(self._waiting(actor), self._turns)

    def rounds(self, models: Sequence[Answering]) -> Iterator[Sequence[Answering]]:
        yield models

    def peak(self) -> Memory:
        return peak()

    def close(self) -> None:
        pass


class _Evaluating:
    """Models that are only evaluated, in this process: on the base's device while they answer, on the CPU before.

    `_life` ends the branches, which live elsewhere.
    """

    branches: dict[str, BranchHandle]

    def __init__(self, made: Assembled) -> None:
        self._made, model = made, made.recipe.model
        self._home, _ = compute_on(model.device, model.dtype)
        self._line, self._turns, self._life = ThreadPoolExecutor(1), Turns(), ExitStack()
        self._inherited = made.inheritance
        made.base.to("cpu")
        torch.cuda.empty_cache()  # what this process keeps of a card is no other's, and a branch is on this one too

    def evaluated(self, name: str, policy: Policy) -> Answering:
        actor = self._made.actor(name, policy)
        actor.home = self._home
        self._turns.wait(actor)
        return threaded_handle(actor, self._line, self._turns)

    def rounds(self, models: Sequence[Answering]) -> Iterator[Sequence[Answering]]:
        """On a card first the branches, which then end and leave their cards, and then one model after the other."""
        if self._home.type == "cpu":
            yield models
            return
        yield [model for model in models if model.name in self.branches]
        self._life.close()
        for model in models:
            if model.name not in self.branches:
                yield [model]

    def close(self) -> None:
        self._life.close()
        self._line.shutdown()


class OwnProcesses(_Evaluating):
    """A process for each branch; all start at the same time."""

    def __init__(self, made: Assembled, names: Sequence[str], started: Callable[[], None] = lambda: None) -> None:
        super().__init__(made)
        self.in_half = computes_in_half(made.recipe)
        makes = {n: partial(lone_branch, made.recipe, n, index, self._inherited) for index, n in enumerate(names)}
        try:
            self._processes = in_processes(made, makes, self._life)
            self.branches = {}
            for process in self._processes:
                self.branches[process.name] = process.handle(patience_of(made))
                started()
        except BaseException:
            self.close()
            raise

    def peak(self) -> Memory:
        return summed([peak(), *(process.peak for process in self._processes)])


class RayActors(_Evaluating):
    """An actor of Ray for each branch."""

    def __init__(self, made: Assembled, names: Sequence[str], started: Callable[[], None] = lambda: None) -> None:
        cluster = cluster_module()
        super().__init__(made)
        recipe, ranks = made.recipe, made.recipe.backend.ranks
        self.in_half = recipe.model.dtype == "bfloat16"
        try:
            self._life.enter_context(cluster.cluster(recipe.model.threads_per_branch * ranks * len(names)))
            makes = {n: partial(lone_branch, recipe, n, index, self._inherited) for index, n in enumerate(names)}
            cards = {name: cluster.cards_for(device_of(recipe, name)[0]) for name in names}
            self.in_half |= recipe.model.dtype == "auto" and any(cards.values())
            self._actors = as_actors(made, makes, cards, ranks, self._life)
            self.branches = {}
            for actor in self._actors:
                self.branches[actor.name] = actor.handle(patience_of(made))
                started()
        except BaseException:
            self.close()
            raise

    def peak(self) -> Memory:
        return summed([peak(), *(actor.peak for actor in self._actors)])


def in_processes(made: Assembled, makes: Mapping[str, Make], life: ExitStack) -> list[BranchProcess]:
    """A process for each maker by its name. All start at the same time, and end with `life`."""
    begin_to_import(SERVER)
    processes = []
    for name, make in makes.items():
        processes.append(process := BranchProcess(name, make, warn_of(made, name), made.asked.at))
        life.callback(process.close)
    return processes


def cluster_module() -> ModuleType:
    """`copd.system.cluster`. Raises RecipeError if Ray is not installed."""
    try:
        from copd.system import cluster
    except ModuleNotFoundError as error:
        raise RecipeError(
            f"backend: ray needs a package that is not installed ({error.name}); pip install 'copd[ray]'"
        ) from error
    return cluster


def as_actors(
    made: Assembled, makes: Mapping[str, Make], cards: Mapping[str, int], ranks: int, life: ExitStack
) -> list[RayBranch]:
    """An actor of Ray for each maker by its name, with so many cards for each of its ranks. They end with `life`."""
    from copd.branches import ray

    actors, recipe = [], made.recipe
    for name, make in makes.items():
        resources = ray.Resources(
            recipe.model.threads_per_branch, cards[name], ranks, minutes=recipe.backend.place_minutes
        )
        actors.append(actor := ray.RayBranch(name, make, warn_of(made, name), resources, made.asked.at))
        life.callback(actor.close)
    return actors


def warn_of(made: Assembled, branch: str) -> Callable[[str], None]:
    """Warns with the name of a branch."""
    return lambda message: made.warn(f"branch {branch}: {message}")


def patience_of(made: Assembled) -> Patience:
    """How long a run waits for a branch."""
    backend = made.recipe.backend
    return Patience(backend.slow_minutes, backend.give_up_minutes, made.warn)


def placed(made: Assembled, names: Sequence[str], started: Callable[[], None] = lambda: None) -> Place:
    """The new branches, where the recipe wants them to live. `started` is called after each that is ready.

    Raises ModelFolderError if the checks of their models settled on different paths.
    """
    place = PLACES[made.recipe.backend.kind](made, names, started)
    try:
        finish(check_one_path(place.branches))
    except BaseException:
        place.close()
        raise
    return place


PLACES: Mapping[str, Callable[[Assembled, Sequence[str], Callable[[], None]], Place]] = {
    "local": ThisProcess,
    "processes": OwnProcesses,
    "ray": RayActors,
}
