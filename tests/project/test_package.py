"""The package as it is installed: nothing it needs stays behind in the repository."""

import re
import runpy
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_wheel_holds_recipes_base_model_and_template(tmp_path):
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(tmp_path),
    ]
    subprocess.run([*command, str(ROOT)], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    base = {
        f"copd/assets/digits/{name}" for name in ("model.safetensors", "config.json", "tokenizer.json", "SHA256SUMS")
    }
    assert names >= base | {"copd/recipe/builtin/demo.yaml", "copd/report/templates/run.html", "copd/py.typed"}
    assert wheel.stat().st_size < 8 * 2**20
    shipped = {name.partition("/share/copd/")[2] for name in names if "/share/copd/" in name}
    example = {path for path in (ROOT / "examples").rglob("*") if path.is_file() and path.suffix != ".pyc"}
    assert shipped == {path.relative_to(ROOT).as_posix() for path in example}
    metadata = zipfile.ZipFile(wheel).read(next(name for name in names if name.endswith("/METADATA"))).decode()
    for said in ("Operating System :: POSIX :: Linux", "Project-URL: Paper, ", "Keywords: "):
        assert said in metadata


@pytest.mark.slow
def test_the_example_is_copied_out_of_an_installed_wheel(tmp_path):
    pip = [sys.executable, "-m", "pip"]
    subprocess.run([*pip, "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", tmp_path, ROOT], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    subprocess.run([*pip, "install", "-q", "--no-deps", "-I", "--prefix", tmp_path / "there", wheel], check=True)
    (site,) = (tmp_path / "there").glob("lib/*/site-packages")
    code = f"import sys; sys.path[:0] = {[str(site), *sys.path]!r}; from copd.cli import main; main()"
    command = [sys.executable, "-S", "-c", code, "example", "own_data", "mine"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "mine" / "recipe.yaml").is_file()
    assert len(list((tmp_path / "mine" / "pictures").iterdir())) > 100


def test_the_page_of_an_index_is_made_of_the_readme_and_has_no_link_that_leads_nowhere():
    made = runpy.run_path(str(ROOT / "tools" / "index_page.py"))["index_page"]
    page = (ROOT / "README.pypi.md").read_text(encoding="utf-8")
    assert page == made((ROOT / "README.md").read_text(encoding="utf-8")), "`make docs` renews README.pypi.md"
    assert "![" not in page
    assert all(link.startswith("https://") for link in re.findall(r"\]\(([^)]*)\)", page))


def test_the_image_is_built_of_files_that_are_there_and_of_the_lock():
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    copied = {name for line in re.findall(r"^COPY (.*) \S+$", text, re.MULTILINE) for name in line.split()}
    let_in = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert copied == let_in
    assert all((ROOT / name).exists() for name in copied)
    assert "requirements.lock" in copied
    readme = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["readme"]
    assert readme in copied
