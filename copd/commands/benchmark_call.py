"""What a call of `copd benchmark` asks for."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from copd.assemble.assembled import Assembled
from copd.errors import DataError, RecipeError
from copd.rows.rows import Rows
from copd.sets.published import SETS
from copd.suites.harness import pins
from copd.suites.results import Result
from copd.suites.suite import ROWS, Suite
from copd.system.files import sha256
from copd.types import Split

MACHINE = ("model.", "sampling.engine", "sampling.cache_tokens", "sampling.vllm_cache_gib", "reward.")
"""What the fields of a recipe begin with that a call may change: all else of a measurement is the suite's."""
NAMED = ("model.path=", "model.revision=")
"""Fields of the machine's section that MODEL gives."""


@dataclass(frozen=True)
class Call:
    """What a call asks for. Raises RecipeError for a mistake.

    `limit`: only the first problems of each benchmark. `tell` is told what is being done, `measured` gets each new
    result, which is written by then.
    """

    suite: Suite
    data: Path
    out: Path
    only: Sequence[str] = ()
    limit: int | None = None
    changes: Sequence[str] = ()
    harness_python: str | None = None
    tell: Callable[[str], None] = field(default=lambda what: None)
    measured: Callable[[Result], None] = field(default=lambda result: None)

    def __post_init__(self) -> None:
        for name in self.only:
            if name not in self.suite.benchmarks:
                raise RecipeError(f"--only {name}: unknown benchmark; accepted: {', '.join(self.suite.benchmarks)}")
        for change in self.changes:
            if change.startswith(NAMED):
                raise RecipeError(f"{change}: the models are named by MODEL; leave it out")
            if not change.startswith(MACHINE):
                raise RecipeError(
                    f"{change}: belongs to the suite; accepted are fields of the machine, which begin with "
                    f"{', '.join(MACHINE)}; for another measurement write a suite of your own"
                )

    @property
    def names(self) -> list[str]:
        """The benchmarks that are asked, in the order of the suite."""
        return [name for name in self.suite.benchmarks if not self.only or name in self.only]

    def by_copd(self, names: Sequence[str]) -> list[str]:
        """Those of these benchmarks that no harness asks."""
        return [name for name in names if self.suite.benchmarks[name].engine == ROWS]

    def change(self, name: str, default: str) -> str:
        """The value of a field that the call changes."""
        return dict(change.split("=", 1) for change in self.changes).get(name, default)

    def rows(self, name: str) -> Path | None:
        """The file of rows of a benchmark; None if a harness fetches its problems."""
        benchmark = self.suite.benchmarks[name]
        return None if benchmark.task is not None else self.data / f"{benchmark.rows or name}.jsonl"

    def sum_of_rows(self, name: str) -> str:
        """The digest of the file of rows, empty if there is none. Raises DataError if it is missing."""
        path = self.rows(name)
        if path is None:
            return ""
        if not path.is_file():
            there = [each for each in self.names if (rows := self.rows(each)) is None or rows.is_file()]
            leave = f"; --only asks some benchmarks alone: {', '.join(there)}" if there else ""
            made = f"`copd data prepare {path.stem} --out {self.data}` writes it"
            how = made if path.stem in SETS else "put your rows there, or name their folder by --data"
            raise DataError(f"{path}: no such file; {how}{leave}")
        return sha256(path)

    def settings(self, name: str) -> dict[str, Any]:
        """All that a result depends on, beside model and rows, as JSON holds it."""
        benchmark = self.suite.benchmarks[name]
        harness = self.suite.harnesses.get(benchmark.engine)
        found = {
            **benchmark.model_dump(exclude={"group", "problems"}),
            **self.suite.sampling.model_dump(),
            "seed": self.suite.seed,
            "harness": None if harness is None else {**harness.model_dump(), "versions": pins(benchmark.engine)},
            "limit": self.limit,
            "changes": sorted(self.changes),
        }
        return json.loads(json.dumps(found))

    def asked(self, made: Assembled, name: str) -> int:
        """How many problems of a benchmark on rows are asked. All of them are tried before the first is."""
        task = made.tasks[name]
        assert isinstance(task, Rows)
        there = task.size(Split.TEST)
        count = min(self.limit or there, there)
        task.ask({Split.TEST: count})
        return count
