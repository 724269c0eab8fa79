"""Build the base of the embedded world again, and compare its skill with that of the one that ships (`make base`).

To be run after a change of the warm-up, of the learner or of the tasks. It takes 1,000 steps, 20 minutes. Exits with 1
if an accuracy differs by `TOLERATED` or more.
"""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from copd.commands.evaluate import evaluate_models
from copd.commands.warmup import build_base
from copd.recipe.reading import load_recipe

TOLERATED = 0.15
RECIPE = load_recipe("demo", ["evaluation.problems=200", "evaluation.pass_at=[1]"])


def main() -> int:
    with TemporaryDirectory() as folder:
        rebuilt = Path(folder) / "base"
        build_base(rebuilt, conflict=1.0)
        again, shipped = accuracies(str(rebuilt)), accuracies("builtin:digits")
    for capability, accuracy in shipped.items():
        print(f"{capability}: built again {again[capability]:.1%}, shipped {accuracy:.1%}")
    return int(any(abs(again[capability] - accuracy) >= TOLERATED for capability, accuracy in shipped.items()))


def accuracies(model: str) -> dict[str, float]:
    return {cell.capability: cell.pass_at[1].value for cell in evaluate_models(RECIPE, [model])[0]}


if __name__ == "__main__":
    sys.exit(main())
