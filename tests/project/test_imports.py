"""Who may import whom: the rooms of the package, read from the source."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

import copd

PACKAGE = Path(copd.__file__).parent
EVERYBODY = {"copd.types", "copd.handles", "copd.errors", "copd.system"}
ROOMS = {
    "algorithm.py": {"copd.handles", "copd.schedule", "copd.topology", "copd.phases"},
    "phases.py": {"copd.types", "copd.handles", "copd.schedule", "copd.topology"},
    "schedule.py": set(),
    "topology.py": set(),
    "types.py": set(),
    "handles.py": {"copd.types"},
    "errors.py": set(),
    "system": {"copd.errors"},
    "maths": set(),
    "recipe": {"copd.types", "copd.errors", "copd.system"},
    "compute": EVERYBODY | {"copd.maths"},
    "model": EVERYBODY | {"copd.maths", "copd.compute"},
    "tasks": EVERYBODY,
    "rows": EVERYBODY,
    "sets": EVERYBODY | {"copd.rows.answers", "copd.rows.prompts", "copd.rewards.answers", "copd.rewards.verifiers"},
    "rewards": EVERYBODY,
    "rewards/answers.py": set(),
    "rewards/verifiers.py": set(),
    "rewards/adapters.py": {"copd.rewards.verifiers", "copd.system.own_code"},
    "rewards/equality.py": {
        f"copd.rewards.{module}" for module in ("kinds", "members", "spelling", "units", "verifiers")
    },
    "rewards/members.py": {"copd.rewards.kinds", "copd.rewards.spelling"},
    "rewards/kinds.py": {"copd.rewards.spelling", "copd.rewards.units", "copd.rewards.verifiers"},
    "rewards/spelling.py": set(),
    "rewards/units.py": set(),
    "rewards/mathematics.py": set(),
    "rewards/worker.py": {f"copd.rewards.{module}" for module in ("adapters", "equality", "mathematics", "verifiers")},
    "rewards/pool.py": {"copd.system.processes", "copd.rewards.adapters", "copd.rewards.worker"},
    "measure": EVERYBODY | {"copd.maths"},
    "branches": EVERYBODY
    | {
        "copd.maths.advantages",
        "copd.maths.cut",
        "copd.maths.divergences",
        "copd.compute.batching",
        "copd.compute.ranks",
        "copd.model",
        "copd.rewards.grading",
        "copd.tasks.asked",
    },
    "branches/handle.py": {"copd.types"},
    "report": EVERYBODY
    | {"copd.runs.numbers", "copd.runs.runlog"}
    | {f"copd.measure.{module}" for module in ("compare", "evaluate", "ledger")},
    "runs": EVERYBODY
    | {
        "copd.schedule",
        "copd.topology",
        "copd.measure",
        "copd.recipe.sections",
        "copd.recipe.evaluation",
        "copd.assemble.plan",
    },
    "arms": EVERYBODY
    | {
        "copd.schedule",
        "copd.recipe",
        "copd.assemble.plan",
        "copd.maths",
        "copd.runs.experts",
        "copd.runs.folder",
        "copd.runs.runlog",
        "copd.report",
    }
    | {"copd.measure.evaluate", "copd.measure.pilot"},
    "suites": EVERYBODY
    | {f"copd.recipe.{module}" for module in ("explain", "fields", "strict_yaml")}
    | {"copd.maths.intervals", "copd.measure.evaluate", "copd.runs.pictures"},
    "assemble": EVERYBODY
    | {"copd.schedule", "copd.topology", "copd.recipe", "copd.model", "copd.compute", "copd.maths", "copd.tasks"}
    | {"copd.rows", "copd.rewards", "copd.measure.health", "copd.branches"},
    "data": EVERYBODY
    | {"copd.__version__", "copd.assemble", "copd.branches", "copd.commands.export", "copd.measure.passrates"}
    | {"copd.model.folders", "copd.recipe", "copd.rewards", "copd.rows", "copd.runs", "copd.sets"},
    "doctor": EVERYBODY
    | {"copd.schedule", "copd.topology", "copd.assemble", "copd.branches", "copd.commands.plan", "copd.compute"}
    | {"copd.costs", "copd.measure", "copd.model", "copd.recipe", "copd.rewards", "copd.rows", "copd.runs"},
    "costs": EVERYBODY
    | {"copd.schedule", "copd.topology", "copd.recipe", "copd.model", "copd.compute"}
    | {"copd.assemble.branches", "copd.assemble.plan", "copd.runs.validations"},
}
"""What each room, or one file of it, may import of the package beside itself. What is not listed may import all."""
OUTSIDE = {
    "maths": {"mpmath", "torch"},
    "schedule.py": set(),
    "topology.py": set(),
    "types.py": {"numpy", "torch"},
    "recipe": {"pydantic", "yaml"},
    "system": {"huggingface_hub", "ray", "tqdm"},
    "rewards/answers.py": set(),
    "rewards/verifiers.py": set(),
    "rewards/adapters.py": set(),
    "rewards/equality.py": set(),
    "rewards/members.py": set(),
    "rewards/kinds.py": set(),
    "rewards/spelling.py": set(),
    "rewards/units.py": set(),
    "rewards/mathematics.py": {"antlr4", "latex2sympy2_extended", "math_verify", "sympy"},
    "rewards/worker.py": set(),
    "rewards/pool.py": {"pebble"},
}
STANDARD = __import__("sys").stdlib_module_names


@cache
def imports(path: Path) -> frozenset[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(found)


def sources(room: str) -> list[Path]:
    return [PACKAGE / room] if room.endswith(".py") else sorted((PACKAGE / room).rglob("*.py"))


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_the_rooms_it_may(room):
    for path in sources(room):
        own = {name for name in imports(path) if name.startswith("copd")}
        allowed = ROOMS[room] | ({f"copd.{room}"} if not room.endswith(".py") else set())
        strangers = {name for name in own if not any(name == a or name.startswith(a + ".") for a in allowed)}
        assert not strangers, f"{path.name} imports {strangers}"


@pytest.mark.parametrize("room", OUTSIDE)
def test_the_pure_rooms_import_no_other_library(room):
    for path in sources(room):
        roots = {name.split(".")[0] for name in imports(path)} - {"copd"} - set(STANDARD)
        assert roots <= OUTSIDE[room], f"{path.name} imports {roots - OUTSIDE[room]}"


def importers(*modules: str) -> set[str]:
    """Files of the package that import any of these modules, or something of them."""
    return {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        if any(name == module or name.startswith(f"{module}.") for name in imports(path) for module in modules)
    }


def test_only_the_command_line_commands_and_assembly_see_a_whole_recipe():
    doors = {"__init__.py"}
    of_commands = {"commands", "costs", "doctor", "data"}
    whole = importers("copd.recipe.model", "copd.recipe.reading", "copd.recipe.merges") - doors
    assert {Path(name).parts[0] for name in whole} <= {"recipe", "assemble", "cli", "arms"} | of_commands
    rooms = {Path(name).parts[0] for name in importers("copd.recipe.sections", "copd.recipe.task_sections")}
    assert rooms - {"recipe", "assemble"} - of_commands == {"runs"}


def modules() -> dict[str, Path]:
    return {
        ".".join(["copd", *path.relative_to(PACKAGE).with_suffix("").parts]).removesuffix(".__init__"): path
        for path in PACKAGE.rglob("*.py")
    }


def test_no_two_modules_import_each_other_however_far_around():
    found = modules()
    arrows = {
        module: {
            other
            for name in imports(path)
            for other in (name, name.rpartition(".")[0])
            if other in found and other not in (module, "copd")
        }
        for module, path in found.items()
    }
    for room in {module for module, path in found.items() if path.name == "__init__.py"}:
        arrows.pop(room, None)
    left = dict(arrows)
    while free := [module for module, others in left.items() if not others & left.keys()]:
        for module in free:
            del left[module]
    assert not left, f"a circle runs through {sorted(left)}"


@pytest.mark.parametrize("room", sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py")))
def test_a_room_tells_what_lives_there_file_by_file(room):
    told = set(re.findall(r"^- `([^`]+)`: ", (PACKAGE / room / "__init__.py").read_text(), re.MULTILINE))
    files = {path.stem for path in (PACKAGE / room).glob("*.py")} - {"__init__"}
    folders = {f"{path.name}/" for path in (PACKAGE / room).iterdir() if path.is_dir() and path.name == "builtin"}
    assert told == files | folders


@pytest.mark.parametrize(
    ("library", "modules"),
    [
        ("pyarrow", {"rows/parquet.py"}),
        ("av", {"rows/video.py"}),
        ("PIL", {"rows/media.py", "runs/pictures.py"}),  # the second writes pictures, and opens its own alone
    ],
)
def test_files_of_users_are_opened_by_one_module_for_each_library(library, modules):
    importers = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        if any(name.split(".")[0] == library for name in imports(path))
    }
    assert importers == modules


def test_only_pages_are_made_and_drawn_and_only_templates_of_prompts_are_read_beside_them():
    users = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        if {name.split(".")[0] for name in imports(path)} & {"jinja2", "markupsafe", "matplotlib"}
    }
    beside = {"arms/page.py", "model/vocabulary.py", "rows/template.py"}
    assert {name for name in users if not name.startswith("report/")} == beside


def test_only_the_rooms_of_the_model_call_models_and_tokenizers():
    users = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        if {name.split(".")[0] for name in imports(path)} & {"transformers", "tokenizers", "peft"}
    }
    assert {name for name in users if not name.startswith(("model/", "compute/"))} == {"assemble/server.py"}, (
        "it only imports"
    )


def test_only_one_module_imports_vllm():
    assert importers("vllm") == {"model/vllm_sampler.py"}


def test_only_the_learner_calls_backward():
    callers = {
        path.name for path in PACKAGE.rglob("*.py") if ".backward()" in path.read_text().replace("`.backward()`", "")
    }
    assert callers == {"learner.py"}


def test_files_and_functions_stay_short():
    for path in PACKAGE.rglob("*.py"):
        text = path.read_text()
        assert text.count("\n") <= (150 if path.name == "algorithm.py" else 350), path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert node.end_lineno - node.lineno < 60, f"{path}: {node.name}"
