"""The package as it is installed: nothing it needs stays behind in the repository."""

import subprocess
import sys
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
