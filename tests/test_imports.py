"""Who may import whom: the rooms of the package, read from the source."""

import ast
from pathlib import Path

import pytest

import copd

PACKAGE = Path(copd.__file__).parent
EVERYBODY = {"copd.types", "copd.errors", "copd.files"}
ROOMS = {
    "maths": set(),
    "model": EVERYBODY | {"copd.maths", "copd.model"},
    "tasks": EVERYBODY | {"copd.maths", "copd.tasks"},
    "rewards": EVERYBODY | {"copd.maths", "copd.rewards"},
    "measure": EVERYBODY | {"copd.maths", "copd.measure"},
    "backends": EVERYBODY | {"copd.branch"},
    "report": EVERYBODY
    | {"copd.report", "copd.runs.runlog"}
    | {f"copd.measure.{module}" for module in ("compare", "evaluate", "ledger")},
    "algorithm.py": EVERYBODY | {"copd.schedule", "copd.topology"},
    "baselines.py": EVERYBODY | {"copd.schedule", "copd.topology", "copd.algorithm"},
    "schedule.py": set(),
    "topology.py": set(),
    "types.py": set(),
    "errors.py": set(),
    "files.py": set(),
    "config.py": {"copd.errors", "copd.sections", "copd.strict_yaml"},
    "sections.py": set(),
    "strict_yaml.py": {"copd.errors"},
}
OUTSIDE = {
    "maths": {"torch"},
    "schedule.py": set(),
    "topology.py": set(),
    "config.py": {"pydantic"},
    "sections.py": {"pydantic"},
    "strict_yaml.py": {"yaml"},
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
        for module in ("copd.config", "copd.sections")
    )
    assert whole <= {"__init__.py", "cli.py", "run.py", "assemble.py", "models.py", "runs/plan.py"}
    assert sections <= {"config.py", "runs/observer.py"}


def test_only_the_report_makes_pages_and_draws():
    users = {
        path.relative_to(PACKAGE).parts[0]
        for path in PACKAGE.rglob("*.py")
        if {name.split(".")[0] for name in imports(path)} & {"jinja2", "markupsafe", "matplotlib"}
    }
    assert users == {"report"}


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
