"""The documentation does what it says: its names exist, its commands are valid, and its pages run from top to bottom.

A block of code is run, in its page's order, in a folder with the examples; one that begins with a comment of nothing
but a path (`# my.yaml`) is that file. A block of YAML that is no file is a part of a recipe.
"""

import importlib.util
import io
import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import nullcontext, redirect_stdout
from pathlib import Path

import pytest
import typer

from copd.arms.comparison import read_comparison
from copd.cli import app, main
from copd.cli.arguments import is_change, models_and_changes
from copd.cli.plan import is_comparison
from copd.recipe.merges import make_merge, merge_grid
from copd.recipe.model import Recipe
from copd.recipe.reading import described, load_recipe, make_recipe
from copd.recipe.strict_yaml import parse_yaml
from copd.runs.experts import DECIDES_EXPERTS

ROOT = Path(__file__).parents[2]


def read(*paths: Path) -> dict[str, str]:
    """The text of each page by its path in the repository."""
    return {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in sorted(paths)}


PAGES = read(ROOT / "README.md", *(ROOT / "docs").glob("*.md"))
"""The pages whose blocks are run."""
PROSE = PAGES | read(ROOT / "CONTRIBUTING.md", ROOT / "benchmarks" / "README.md")
"""The pages whose names, commands and links are looked up."""
BLOCK = re.compile(r"^```(.*)\n((?:.*\n)*?)```$", re.MULTILINE)
FILE = re.compile(r"# (\S+\.\w+)\n")
SETTINGS = re.compile(r"^(\w+=\S+ +)+")
"""Variables of the environment before a command."""
NOT_RUN = {
    "make ": "makes an environment; what `make demo` leaves is made by the test, in fewer steps",
    "pip install ": "needs a network",
    "python3 -m venv ": "makes an environment",
    "python -m pip ": "needs a network",
    "python studies/": "only from the root of the checkout; tests/project/test_studies.py runs them at a reduced size",
    "python benchmarks/": "the same",
    "python -m benchmarks.": "likewise; tests/project/test_benchmarks.py runs them at a reduced size",
    ".harness/": "another environment, of a harness",
    "copd benchmark --suite paper": "needs public data sets; tests/commands/test_benchmark_command.py asks examples",
    ".venv-bench/": "another environment, which `make bench` makes",
    "copd advise ": "minutes; tests/commands/test_advise.py runs it at a reduced size",
    "copd train demo backend=ray": "a minute; tests/whole/test_lost_branch.py runs it at a reduced size",
    "copd train demo backend.kind=ray backend.ranks=2": "minutes; tests/branches/test_ray.py runs such a branch",
    "copd train my.yaml backend=ray": "needs a cluster",
    "copd train my.yaml sampling.engine=vllm": "needs vLLM; tests/model/test_vllm.py runs it at a reduced size",
    "copd train studies/": "minutes each, and only from the root of the checkout",
    "copd compare ": "hours; tests/commands/test_compare_arms.py runs it at a reduced size",
    "lm_eval ": "needs a package that copd does not depend on; the page says what a run of it gave",
    "vllm ": "needs a GPU, and a package that copd does not depend on",
}
"""How commands begin that the tests leave out, and why."""
GIVEN = {"my.yaml": (ROOT / "copd" / "recipe" / "builtin" / "demo-paper.yaml").read_text(encoding="utf-8")}
"""Files that a page takes for the reader's own."""
SHORT = [
    "schedule={cycles: 1, rl_steps: 1, opd_steps: 1}",
    "sampling.prompts_per_step=2",
    "opd.prompts_per_step=2",
    "evaluation={problems: 6, validation_problems: 4, behaviour_problems: 2}",
]
SHORTENED = {"train": SHORT, "eval": ["evaluation.problems=6"], "behaviour": ["--problems", "2"]}
"""What is added to the commands of README.md, which trains for minutes and evaluates on 500 problems."""
SMALL = {
    "docs/paper.md": (
        ("recipes/paper/t", "small/t"),
        ("--suite paper", "--suite small/suite.yaml"),
        (" --gpus 8 --gpu-memory 141", ""),
    ),
}
"""What a page's commands say otherwise where they are run on its stand-ins."""
DEMO = "runs/demo"
"""The run that pages take for granted after `make demo`."""
LONG = {"train", "eval", "behaviour", "merge", "warmup"}


def steps(page: str) -> Iterator[tuple[str, str]]:
    """What a reader does, in order: (language, block) or ("copd" or "sh", command). Comments of a command are kept."""
    for language, text in BLOCK.findall(PAGES[page]):
        if language != "sh":
            yield language, text
            continue
        for command in commands(text):
            plain = command.removeprefix(".venv/bin/")
            for large, small in SMALL.get(page, ()):
                plain = plain.replace(large, small)
            if page in SMALL or not SETTINGS.sub("", plain).startswith(tuple(NOT_RUN)):
                yield ("copd" if plain.startswith("copd ") else "sh"), plain


def commands(script: str) -> list[str]:
    """A command is a line, with those that it is continued on and the text that is handed to it (<<)."""
    found, end = [], None
    for line in script.replace("\\\n", " ").splitlines():
        if end:
            found[-1] += f"\n{line}"
            end = None if line == end else end
        elif line.strip() and not line.startswith("#"):
            found.append(line)
            here = re.search(r"<<\s*['\"]?(\w+)", line)
            end = here and here[1]
    return found


def arguments_of(command: str) -> list[str]:
    """The words behind `copd`, without a redirection."""
    return shlex.split(command.partition(" > ")[0], comments=True)[1:]


def reader_in(folder: Path) -> None:
    """What a reader has before the first command: files of their own, and the examples of the repository."""
    for name, text in GIVEN.items():
        (folder / name).write_text(text, encoding="utf-8")
    for name in ("examples", "recipes"):
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name)


def write_file(folder: Path, text: str) -> bool:
    """Write a block that is a file; whether it is one."""
    named = FILE.match(text)
    if named:
        path = folder / named[1]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return named is not None


def run_shell(command: str, folder: Path) -> None:
    env = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-euc", command], cwd=folder, capture_output=True, text=True, env=env)
    assert done.returncode == 0, f"{command}\n{done.stderr}"


def parsed(arguments: list[str]) -> dict[str, object]:
    """The parameters of a command line as typer reads them; raises where it would refuse them."""
    command, rest = typer.main.get_command(app), list(arguments)
    while hasattr(command, "commands"):
        assert rest, f"a command is missing: {', '.join(command.commands)}"
        assert rest[0] in command.commands, f"no command {rest[0]!r}"
        command = command.commands[rest.pop(0)]
    return command.make_context(command.name, rest).params


def check_command(command: str) -> None:
    """Whether the command exists, takes these options, and would accept the recipe and the merge that they make."""
    given = parsed(arguments_of(command))
    changes = [word for words in given.values() if isinstance(words, list) for word in words if is_change(str(word))]
    if given.get("recipe") or changes:
        recipe = given.get("recipe")
        if recipe is not None and is_comparison(recipe):
            read_comparison(Path(recipe))
            return
        load_recipe("demo" if recipe is None or is_change(recipe) else recipe, changes)
    if "branches" in given and "method" in given:
        names = ("method", "scale", "density", "seed")
        section = {**{name: given[name] for name in names}, "weights": given["weight"] or None}
        count = len(models_and_changes(given["branches"])[0])
        merge_grid(section, count, 6) if given["scan"] else make_merge(section, count)


@pytest.mark.parametrize("page", PAGES)
def test_every_command_is_valid(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    reader_in(tmp_path)
    for kind, text in steps(page):
        if kind == "copd":
            try:
                check_command(text)
            except Exception as error:
                raise AssertionError(f"{page}: {text}: {error}") from error
        elif kind == "sh" and ("<<" in text or text.startswith("python recipes/")):
            run_shell(text, tmp_path)
        else:
            write_file(tmp_path, text)


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("copd trian demo", "no command 'trian'"),
        ("copd recipe", "a command is missing: list, show"),
        ("copd train demo --outt runs/x", "--outt"),
        ("copd train demo schedule.cycels=2", "did you mean 'cycles'"),
        ("copd eval builtin:digits evaluation.problems=none", "evaluation.problems"),
        ("copd merge a b", "out"),
        ("copd merge a --out o --method slerp", "'slerp' merges two"),
    ],
)
def test_a_command_that_copd_would_refuse_is_not_valid(command, said):
    with pytest.raises(Exception, match=said):
        check_command(command)


def pages_to_run() -> Iterator[object]:
    for page, text in PAGES.items():
        kinds = list(steps(page))
        if {kind for kind, _ in kinds} & {"copd", "sh", "python"}:
            long = any(kind == "copd" and arguments_of(line)[0] in LONG for kind, line in kinds)
            heavy = long or DEMO in text
            yield pytest.param(page, marks=[pytest.mark.slow] * heavy)


def shortened(arguments: list[str]) -> list[str]:
    """What makes a command of README.md short."""
    consolidates = arguments[:2] == ["train", "demo"]
    return [*SHORTENED.get(arguments[0], []), *(["merge.steps=1"] if consolidates else [])]


@pytest.fixture(scope="module")
def demo(tmp_path_factory) -> Path:
    """What `make demo` leaves, in fewer steps."""
    folder = tmp_path_factory.mktemp("demo")
    with pytest.MonkeyPatch.context() as patch:
        run_copd(["train", "demo", "--out", str(folder / DEMO), *shortened(["train", "demo"])], patch)
    return folder / DEMO


def run_copd(arguments: list[str], monkeypatch, out: str = "") -> None:
    """The command in this process, which has loaded torch already. What it says goes to the file `out`, if given."""
    monkeypatch.setattr(sys, "argv", ["copd", *arguments])
    said = io.StringIO()
    with pytest.raises(SystemExit) as done, redirect_stdout(said) if out else nullcontext():
        main()
    if out:
        Path(out).write_text(said.getvalue(), encoding="utf-8")
    assert done.value.code == 0, f"copd {shlex.join(arguments)} ended with exit status {done.value.code}"


@pytest.mark.parametrize("page", pages_to_run())
def test_a_page_runs_from_top_to_bottom(page, tmp_path, monkeypatch, request):
    monkeypatch.chdir(tmp_path)
    reader_in(tmp_path)
    if DEMO in PAGES[page]:
        shutil.copytree(request.getfixturevalue("demo"), tmp_path / DEMO)
    namespace = {"__name__": "__main__"}
    for kind, text in steps(page):
        if kind == "copd":
            arguments = arguments_of(text)
            more = shortened(arguments) if page == "README.md" else []
            run_copd([*arguments, *more], monkeypatch, text.partition(" > ")[2].strip())
        elif kind == "sh":
            run_shell(text, tmp_path)
        elif not write_file(tmp_path, text) and kind == "python":
            exec(compile(text, page, "exec"), namespace)


@pytest.mark.parametrize("page", PAGES)
def test_every_other_block_is_what_it_says(page):
    for language, text in BLOCK.findall(PAGES[page]):
        assert language in ("sh", "python", "yaml", "json", ""), f"{page}: no test knows what to do with {language!r}"
        if language == "yaml" and not FILE.match(text):
            demo = load_recipe("demo").model_dump(mode="json")
            make_recipe({**demo, **parse_yaml(text, page)})
        elif language == "json":
            json.loads(text)
        elif not language:
            assert not re.search(r"^\s*(\$|copd|make|python)\s", text, re.MULTILINE), f"{page}: commands outside of sh"


def commands_with(metavar: str) -> set[str]:
    """The commands of copd of which an argument is shown with these words."""
    found = set()
    groups = [("copd", typer.main.get_command(app))]
    for name, command in groups:
        groups += [(f"{name} {word}", inner) for word, inner in getattr(command, "commands", {}).items()]
        if any(metavar in (parameter.metavar or "") for parameter in command.params):
            found.add(name)
    return found


def test_the_recipes_page_names_every_command_that_takes_overrides():
    page = " ".join(PAGES["docs/recipe.md"].split())
    told = re.search(r"Every command that reads a recipe takes them as arguments: (.*?):", page)[1]
    assert {name.partition(" --")[0] for name in re.findall("`(.*?)`", told)} == commands_with("section.key=value")


def test_the_methods_page_names_everything_that_experts_depend_on():
    page = " ".join(PAGES["docs/method.md"].split())
    told = re.search("One trajectory is one (.*?), and the same files of base, rows and verifiers;", page)[1]
    assert tuple(re.findall("`(.*?)`", told)) == DECIDES_EXPERTS


def prose_code(page: str) -> list[str]:
    return re.findall(r"`([^`\n]+)`", BLOCK.sub("", PROSE[page]))


@pytest.mark.parametrize("page", PROSE)
def test_commands_options_and_targets_that_the_prose_names_exist(page):
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for code in [
        *prose_code(page),
        *(command for _, block in BLOCK.findall(PROSE[page]) for command in commands(block)),
    ]:
        if code.startswith("make "):
            assert f"\n{code.split()[1]}: " in makefile, code
    for code in prose_code(page):
        if code.startswith("copd "):
            command = typer.main.get_command(app)
            for word in shlex.split(code)[1:]:
                if hasattr(command, "commands"):
                    assert word in command.commands, code
                    command = command.commands[word]
                elif word.startswith("--"):
                    assert any(word in parameter.opts for parameter in command.params), code
        elif code.startswith("python -m "):
            assert importlib.util.find_spec(code.split()[2]), code
        elif code.startswith("python "):
            assert (ROOT / code.split()[1]).is_file(), code


@pytest.mark.parametrize("page", PROSE)
def test_paths_that_the_prose_names_exist(page):
    for code in prose_code(page):
        if re.fullmatch(r"(copd|docs|tests|tools|studies|benchmarks|examples|recipes)/[\w./-]*", code):
            assert (ROOT / code).exists(), f"{page}: {code}"


FIELDS = set(re.findall(r"^(?:\| |## )`([^`]+)`", PAGES["docs/recipe.md"], re.MULTILINE))
DOTTED = re.compile(r"([a-z_]+(?:\.\w+(?:\[\])?)+)(?:=.*|\(.*\))?")


def is_there(name: str) -> bool:
    """Whether a dotted name is a field of the recipe or something in the package; files of a run are not looked for."""
    parts = name.removeprefix("copd.").split(".")
    if name in FIELDS or parts[-1] in ("html", "jsonl"):
        return True
    if parts[-1] == "py":
        return any((ROOT / "copd").rglob(name))
    for cut in range(len(parts), -1, -1):
        try:
            found = importlib.import_module(".".join(["copd", *parts[:cut]]))
        except ModuleNotFoundError:
            continue
        for part in parts[cut:]:
            found = getattr(found, part, None)
        return found is not None
    return False


@pytest.mark.parametrize("page", PROSE)
def test_dotted_names_are_fields_of_the_recipe_or_things_of_the_package(page):
    rooms = {path.stem for path in (ROOT / "copd").iterdir()} | {"copd"}
    for code in prose_code(page):
        name = DOTTED.fullmatch(code)
        if name and name[1].split(".")[0] in {*Recipe.model_fields, *rooms}:
            assert is_there(name[1]), f"{page}: `{code}`"


def anchor_of(heading: str) -> str:
    """How a page names a heading in links."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def anchors(text: str) -> set[str]:
    return {anchor_of(heading) for heading in re.findall(r"^#+ (.*)$", BLOCK.sub("", text), re.MULTILINE)}


@pytest.mark.parametrize("page", PROSE)
def test_links_lead_to_files_and_headings_that_exist(page):
    text = BLOCK.sub("", PROSE[page])
    for link in re.findall(r"""\]\(([^)\s]+)|(?:src|href)="([^"]+)\"""", text):
        path, _, anchor = "".join(link).partition("#")
        if path.startswith("https://"):
            continue
        target = (ROOT / page).parent / path if path else ROOT / page
        assert target.exists(), f"{page}: {path}"
        assert not anchor or anchor in anchors(target.read_text(encoding="utf-8")), f"{page}: {path}#{anchor}"


def test_the_readme_has_one_line_for_every_room():
    listed = re.findall(r"^\| \[`(\w+)/`\]\(copd/\w+\) \|", PAGES["README.md"], re.MULTILINE)
    rooms = {path.name for path in (ROOT / "copd").iterdir() if path.is_dir() and not path.name.startswith("__")}
    assert sorted(listed) == sorted(rooms)


def test_every_page_stands_in_the_list_of_pages():
    listed = set(re.findall(r"\]\(([\w-]+\.md)\)", PAGES["docs/README.md"]))
    assert listed == {page.removeprefix("docs/") for page in PAGES if page.startswith("docs/")} - {"README.md"}


def test_the_tables_of_the_recipe_are_those_of_its_sections():
    renewed = runpy.run_path(str(ROOT / "tools" / "recipe_reference.py"))["renewed"]
    page = PAGES["docs/recipe.md"]
    assert page == renewed(page), "docs/recipe.md is not what the sections say; `make docs` renews it"


def test_the_names_of_other_libraries_are_those_that_an_unknown_key_is_looked_up_in():
    renewed = runpy.run_path(str(ROOT / "tools" / "names_reference.py"))["renewed"]
    page = PAGES["docs/coming-from.md"]
    assert page == renewed(page), "`make docs` renews docs/coming-from.md"


def test_the_recipes_page_has_every_field_once_with_all_kinds_of_tasks():
    rows = "branches.video.task={kind: rows, train: a.jsonl}"
    own = "branches.video.task={kind: python, source: a.py:A}"
    recipes = [load_recipe("demo-paper", ["lora={rank: 4}", rows]), load_recipe("demo"), load_recipe("demo", [own])]
    fields = {
        ".".join("NAME" if part in recipe.branches else part for part in path.split("."))
        for recipe in recipes
        for path, _, _ in described(recipe)
    }
    lines = PAGES["docs/recipe.md"].splitlines()
    for field in fields - {"branches.NAME.task.kind"}:
        assert len([line for line in lines if line.startswith(f"| `{field}` |")]) == 1, field
    assert len([line for line in lines if line.startswith("| `branches.NAME.task.kind` |")]) == 3
