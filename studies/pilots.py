"""The pilots of a study, for the map of `copd advise`: the same world, one pilot a seed.

    python studies/pilots.py studies/conflict/main.yaml [--seeds 4] [--steps 20] [--problems 300]

Each is written beside the study, as pilots/seed-N.json. One that is there is not made again.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from copd.arms.comparison import as_overrides, read_comparison
from copd.arms.jobs import ALONE
from copd.commands.pilot import PilotSettings, run_pilot
from copd.recipe.reading import load_recipe
from copd.system.files import replace_text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--problems", type=int, default=300)
    asked = parser.parse_args()
    comparison, folder = read_comparison(asked.file), asked.file.parent / "pilots"
    folder.mkdir(exist_ok=True)
    for seed in range(asked.seeds):
        path = folder / f"seed-{seed}.json"
        if not path.is_file():
            recipe = load_recipe(comparison.recipe, [*as_overrides(comparison.changes), *ALONE, f"seed={seed}"])
            pilot, _ = run_pilot(recipe, PilotSettings(asked.steps, asked.problems, print))
            replace_text(path, json.dumps(pilot.as_record(), indent=1) + "\n")
        print(path)


if __name__ == "__main__":
    main()
