"""Who may import whom: the rooms of the package, read from the source."""

import ast
from pathlib import Path

import pytest

import copd

PACKAGE = Path(copd.__file__).parent
EVERYBODY = {"copd.types", "copd.errors", "copd.system.files", "copd.names", "copd.system.processes"}
ROOMS = {
    "maths": set(),
    "model": EVERYBODY | {"copd.maths", "copd.model"},
    "tasks": EVERYBODY | {"copd.maths", "copd.tasks"},
    "rewards": EVERYBODY | {"copd.maths", "copd.rewards"},
    "rewards/answers.py": set(),
    "rewards/verifiers.py": set(),
    "rewards/adapters.py": {"copd.rewards.verifiers"},
    "rewards/mathematics.py": set(),
    "rewards/worker.py": {"copd.rewards.adapters", "copd.rewards.mathematics", "copd.rewards.verifiers"},
    "rewards/pool.py": {"copd.system.processes", "copd.rewards.adapters", "copd.rewards.worker"},
    "measure": EVERYBODY | {"copd.maths", "copd.measure"},
    "backends": EVERYBODY | {"copd.branches.branch"},
    "report": EVERYBODY
    | {"copd.report", "copd.runs.runlog"}
    | {f"copd.measure.{module}" for module in ("compare", "evaluate", "ledger")},
    "algorithm.py": EVERYBODY | {"copd.schedule", "copd.topology"},
    "baselines.py": EVERYBODY | {"copd.schedule", "copd.topology", "copd.algorithm"},
    "schedule.py": set(),
    "topology.py": set(),
    "types.py": set(),
    "names.py": set(),
    "errors.py": set(),
    "files.py": set(),
    "keys.py": set(),
    "processes.py": set(),
    "signals.py": set(),
    "config.py": {
        "copd.errors",
        "copd.recipe.fields",
        "copd.recipe.keys",
        "copd.names",
        "copd.recipe.sections",
        "copd.recipe.task_sections",
        "copd.recipe.strict_yaml",
    },
    "fields.py": set(),
    "task_sections.py": {"copd.recipe.fields", "copd.system.files"},
    "sections.py": {"copd.recipe.fields", "copd.system.files", "copd.recipe.task_sections"},
    "strict_yaml.py": {"copd.errors"},
}
OUTSIDE = {
    "maths": {"torch"},
    "schedule.py": set(),
    "topology.py": set(),
    "config.py": {"pydantic"},
    "sections.py": {"pydantic"},
    "task_sections.py": {"pydantic"},
    "fields.py": {"pydantic"},
    "names.py": set(),
    "strict_yaml.py": {"yaml"},
    "rewards/answers.py": set(),
    "rewards/verifiers.py": set(),
    "rewards/adapters.py": set(),
    "rewards/mathematics.py": {"antlr4", "latex2sympy2_extended", "math_verify"},
    "rewards/worker.py": set(),
    "rewards/pool.py": {"pebble"},
}
STANDARD = __import__("sys").stdlib_module_names


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


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


def test_only_the_front_of_the_package_and_the_plan_see_a_whole_recipe():
    whole, sections = (
        {
            path.relative_to(PACKAGE).as_posix()
            for path in PACKAGE.rglob("*.py")
            if any(name.startswith(f"{module}.") or name == module for name in imports(path))
        }
        for module in ("copd.recipe.reading", "copd.recipe.sections")
    )
    front = {"__init__.py", "cli.py", "run.py", "assemble.py", "places.py", "data.py", "models.py", "doctor.py"}
    assert whole <= {*front, "runs/plan.py"}
    assert sections <= {"config.py", "models.py", "data.py", "runs/observer.py"}


@pytest.mark.parametrize(
    ("library", "modules"),
    [
        ("pyarrow", {"tasks/parquet.py"}),
        ("av", {"tasks/video.py"}),
        ("PIL", {"tasks/media.py", "runs/media.py"}),  # the second writes pictures that it was given, and opens none
    ],
)
def test_files_of_users_are_opened_by_one_module_for_each_library(library, modules):
    importers = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        if any(name.split(".")[0] == library for name in imports(path))
    }
    assert importers == modules


def test_only_the_report_makes_pages_and_draws_and_only_a_prompt_template_is_rendered_beside_it():
    users = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        if {name.split(".")[0] for name in imports(path)} & {"jinja2", "markupsafe", "matplotlib"}
    }
    assert {name for name in users if not name.startswith("report/")} == {"tasks/template.py"}


def test_only_the_model_room_calls_models_and_tokenizers():
    users = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        if {name.split(".")[0] for name in imports(path)} & {"transformers", "tokenizers", "peft"}
    }
    assert {name for name in users if not name.startswith("model/")} == set()


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
