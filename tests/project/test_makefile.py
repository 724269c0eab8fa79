"""What make would do, as it says itself; nothing is started but what pretends to be Python, and `make clean-runs`."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


def commands(*goal: str, folder: Path = ROOT, path: Path | None = None) -> list[str]:
    """What make would run for a goal, with a folder before the others of PATH."""
    command = ["make", "--no-print-directory", "-n", *goal]
    environment = {name: value for name, value in os.environ.items() if name not in ("MUTATIONS", "TORCH_INDEX")}
    if path:
        environment["PATH"] = f"{path}:{environment['PATH']}"
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def program(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/usr/bin/env bash\n{text}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def checkout(tmp_path):
    """A bare checkout that make can look at."""
    for name in ("Makefile", "requirements.lock", "requirements-dev.lock", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def test_every_goal_that_is_no_file_is_phony():
    text = (ROOT / "Makefile").read_text(encoding="utf-8").replace("\\\n", " ")
    phony = set(re.search(r"^\.PHONY: (.*)$", text, re.MULTILINE)[1].split())
    goals = set(re.findall(r"^([a-z][\w-]*):(?!=)", text, re.MULTILINE))
    assert goals == phony


def test_every_goal_says_what_it_is_for():
    for line in re.findall(r"^[a-z][\w-]*:(?!=).*$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE):
        assert re.search("  ## .", line), line


CPU = "TORCH_INDEX=https://download.pytorch.org/whl/cpu"


def installs(lines: list[str]) -> list[str]:
    return [line.split(" install --quiet ", 1)[1] for line in lines if " install --quiet " in line]


def test_the_environment_is_installed_with_pip_where_uv_is_not_on_the_path(checkout):
    lines = commands("demo", "UV=", folder=checkout)
    assert "python3 -m venv .venv" in lines
    assert installs(lines) == ["-r requirements.lock", "--no-deps --no-build-isolation -e ."]
    assert all(".venv/bin/python -m pip install" in line for line in lines if " install " in line)


def test_the_environment_is_installed_with_uv_where_that_is_on_the_path_and_has_pip_all_the_same(checkout, tmp_path):
    uv = program(tmp_path / "programs" / "uv", "exit 1")
    lines = commands("demo", folder=checkout, path=uv.parent)
    assert f"{uv} venv --quiet --allow-existing --seed --python python3 .venv" in lines
    of_the_environment = "--python .venv/bin/python"
    assert installs(lines) == [
        f"{of_the_environment} -r requirements.lock",
        f"{of_the_environment} --no-deps --no-build-isolation -e .",
    ]
    assert all(f"{uv} pip install" in line for line in lines if " install " in line)


def test_the_uv_of_the_environment_itself_is_not_taken_while_that_is_activated(checkout):
    uv = program(checkout / ".venv" / "bin" / "uv", "exit 1")
    assert not [line for line in commands("demo", folder=checkout, path=uv.parent) if f"{uv} " in line]


def test_one_line_says_how_many_packages_are_installed_with_what_and_how_to_do_without_cuda(checkout):
    said = [line for line in commands("demo", "UV=", folder=checkout) if line.startswith("echo ")]
    (text,) = (subprocess.run(["sh", "-c", line], cwd=checkout, capture_output=True, text=True).stdout for line in said)
    packages = int(re.match(r"copd: installing (\d+) packages into \.venv with pip; torch .* 5 GB", text)[1])
    lock = [line for line in (ROOT / "requirements.lock").read_text().splitlines() if "==" in line]
    assert len(lock) - 5 < packages < len(lock)
    assert CPU in text


@pytest.mark.parametrize("installer", ["UV=", "UV=/usr/bin/uv"])
def test_another_index_gives_torch_alone_and_no_cuda_library_of_the_lock(checkout, installer):
    lines = commands("test", CPU, installer, folder=checkout)
    torch, *others = [re.sub("^--python .venv/bin/python ", "", line) for line in installs(lines)]
    assert re.fullmatch(
        r"--no-deps --index(-url)? https://download.pytorch.org/whl/cpu torch==\S+ torchvision==\S+", torch
    )
    assert others == [
        "-r .venv/requirements.lock",
        "--no-deps --no-build-isolation -e .",
        "-r .venv/requirements-dev.lock",
    ]
    (checkout / ".venv").mkdir()
    for lock in ("requirements.lock", "requirements-dev.lock"):
        (filtered,) = (line for line in lines if line.endswith(f"> .venv/{lock}"))
        subprocess.run(["sh", "-c", filtered], cwd=checkout, check=True)
        kept, whole = ((checkout / folder / lock).read_text().splitlines() for folder in (".venv", "."))
        left_out = {line.partition("==")[0] for line in set(whole) - set(kept)}
        assert {"nvidia-cublas", "cuda-toolkit", "triton"} <= left_out
        assert all(name == "triton" or name.startswith(("nvidia-", "cuda-")) for name in left_out)


def test_the_index_is_remembered_for_what_the_environment_gets_later(checkout):
    assert "echo https://download.pytorch.org/whl/cpu > .venv/torch-index" in commands("demo", CPU, folder=checkout)
    (checkout / ".venv").mkdir()
    (checkout / ".venv" / "torch-index").write_text("https://download.pytorch.org/whl/cpu\n")
    assert "-r .venv/requirements-dev.lock" in commands("test", folder=checkout)[-3]


def test_clean_removes_environments_and_caches_and_keeps_runs():
    removed = " ".join(commands("clean"))
    assert {".venv", ".venv-bench", ".pytest_cache", ".mypy_cache", ".ruff_cache"} <= set(removed.split())
    assert "runs" not in removed


def test_clean_runs_removes_runs_alone_and_names_them(checkout):
    for folder in ("runs/demo", "runs/my run", ".venv"):
        (checkout / folder).mkdir(parents=True)
    make = ["make", "--no-print-directory", "-s", "clean-runs"]
    said = [subprocess.run(make, cwd=checkout, capture_output=True, text=True, check=True).stdout for _ in range(2)]
    assert said == ["removing runs/demo/\nremoving runs/my run/\n", ""]
    assert sorted(path.name for path in checkout.iterdir() if path.is_dir()) == [".venv"]


def test_the_slow_tests_take_the_mutations_that_the_commit_picks_and_say_how_to_repeat_them():
    said, run = commands("test-slow")[-2:]
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    pick = commit or "no-commit"
    assert run.startswith(f"MUTATIONS={pick} .venv/bin/python -m pytest")
    assert f"make mutations MUTATIONS={pick}" in said


def test_without_a_repository_the_slow_tests_take_always_the_same_mutations(checkout):
    assert commands("test-slow", folder=checkout)[-1].startswith("MUTATIONS=no-commit ")


def test_all_mutations_are_run_or_those_that_a_word_picks():
    assert commands("mutations")[-1].startswith("MUTATIONS=all ")
    assert commands("mutations", "MUTATIONS=73bcf83")[-1].startswith("MUTATIONS=73bcf83 ")
    assert commands("test-slow", "MUTATIONS=all")[-1].startswith("MUTATIONS=all ")


ROOMS = "tests/maths tests/model tests/compute"


@pytest.mark.parametrize(
    ("capability", "expected"),
    [
        ("AVX512", [f"avx2 AVX2 {ROOMS}", "default - tests/maths"]),
        ("AVX2", ["default - tests/maths"]),
        ("DEFAULT", []),
    ],
)
@pytest.mark.parametrize("status", [0, 1])
def test_what_computes_is_tested_on_the_processors_that_this_one_can_pretend_to_be(
    capability, expected, status, tmp_path
):
    log = tmp_path / "log"
    log.touch()
    python = program(
        tmp_path / "python",
        f"""[ "$1" = -c ] && echo {capability} && exit
echo "$ATEN_CPU_CAPABILITY ${{ONEDNN_MAX_CPU_ISA:--}} $*" >> {log}
exit {status}""",
    )
    done = subprocess.run([ROOT / ".ci" / "processors", python], capture_output=True, text=True)
    runs = [re.sub(r" +-m pytest .* slow ", " ", line) for line in log.read_text().splitlines()]
    assert runs == expected
    assert done.returncode == (status if expected else 0)
    assert ("no AVX-512" in done.stdout) == (capability == "AVX2")
