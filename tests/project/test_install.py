"""make installs into a new environment, for real: empty packages, from two indexes of a server on this machine."""

import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
import threading
import zipfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PYPI = [("torch", "2.14.1", "nvidia-cublas"), ("torchvision", "0.29.1", "torch"), ("nvidia-cublas", "13.1", "")]
PYPI += [("numpy", "2.4.6", ""), ("ruff", "0.12.0", ""), ("build-of-copd", "1.0", "")]
PYPI += [(name, "1.0", "") for name in ("pip", "setuptools", "wheel")]  # which uv puts into an environment
CPU = [("torch", "2.14.1+cpu", "numpy"), ("torchvision", "0.29.1+cpu", "torch"), ("numpy", "2.4.6", "")]
CUDA = "nvidia-cublas==13.1 ; sys_platform != 'nowhere'"
LOCK = ["# locked", "build-of-copd==1.0", "numpy==2.4.6", CUDA, "torch==2.14.1", "torchvision==0.29.1"]
BACKEND = """
import sys, zipfile
def build_editable(folder, settings=None, metadata=None):
    with zipfile.ZipFile(f"{folder}/copd-0.1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("copd-0.1.0.dist-info/METADATA", "Metadata-Version: 2.1\\nName: copd\\nVersion: 0.1.0\\n")
        wheel.writestr("copd-0.1.0.dist-info/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any")
        wheel.writestr("copd-0.1.0.dist-info/RECORD", "")
    return "copd-0.1.0-py3-none-any.whl"
"""


def add_wheel(index: Path, name: str, version: str, needs: str) -> None:
    """A package of nothing that needs another one, in an index of files as PEP 503 has them."""
    folder = index / name
    folder.mkdir(parents=True)
    path = folder / f"{name.replace('-', '_')}-{version}-py3-none-any.whl"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    with zipfile.ZipFile(path, "w") as wheel:
        inside = f"{name.replace('-', '_')}-{version}.dist-info"
        wheel.writestr(f"{inside}/METADATA", metadata + (f"Requires-Dist: {needs}\n" if needs else ""))
        wheel.writestr(f"{inside}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{inside}/RECORD", "")
    link = f"{path.name}#sha256={hashlib.sha256(path.read_bytes()).hexdigest()}".replace("+", "%2B")
    (folder / "index.html").write_text(f'<a href="{link}">{path.name}</a>')


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The address of two indexes: pypi/, with all packages, and cpu/, with a torch that needs no CUDA library."""
    folder = tmp_path_factory.mktemp("server")
    for index, packages in (("pypi", PYPI), ("cpu", CPU)):
        for package in packages:
            add_wheel(folder / index, *package)
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def checkout(tmp_path):
    folder = tmp_path / "checkout"
    folder.mkdir()
    shutil.copy(ROOT / "Makefile", folder)
    (folder / "requirements.lock").write_text("\n".join([*LOCK, ""]))
    (folder / "requirements-dev.lock").write_text("\n".join([*LOCK, "ruff==0.12.0", ""]))
    (folder / "pyproject.toml").write_text('[build-system]\nrequires = []\nbuild-backend = "b"\nbackend-path = ["."]\n')
    (folder / "b.py").write_text(BACKEND)
    return folder


def made(checkout: Path, server: str, with_uv: bool, *goal: str) -> str:
    """What make says, where packages come from the server alone."""
    keep = {name: value for name, value in os.environ.items() if not name.upper().startswith(("PIP_", "UV_", "TORCH_"))}
    keep = {name: value for name, value in keep.items() if not name.lower().endswith("_proxy")}
    indexes = {"PIP_CONFIG_FILE": os.devnull, "PIP_INDEX_URL": f"{server}/pypi", "UV_DEFAULT_INDEX": f"{server}/pypi"}
    caches = {"UV_NO_CONFIG": "1", "UV_CACHE_DIR": str(checkout / "cache"), "PIP_NO_CACHE_DIR": "1"}
    path = keep["PATH"]
    if with_uv:
        programs = checkout / "programs"
        programs.mkdir(exist_ok=True)
        if not (programs / "uv").exists():
            (programs / "uv").symlink_to(Path(sysconfig.get_path("scripts")) / "uv")
        path = f"{programs}:{path}"
    command = ["make", "--no-print-directory", f"PYTHON={sys.executable}", *([] if with_uv else ["UV="]), *goal]
    environment = {**keep, **indexes, **caches, "PATH": path}
    done = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def installed(checkout: Path) -> dict[str, str]:
    """Packages and versions, without pip and what environments have beside it."""
    (packages,) = (checkout / ".venv" / "lib").glob("python*/site-packages")
    named = (path.name.removesuffix(".dist-info").split("-") for path in packages.glob("*.dist-info"))
    return {name: version for name, version in named if name not in ("pip", "setuptools", "wheel")}


@pytest.mark.slow
@pytest.mark.parametrize("with_uv", [False, True], ids=["pip", "uv"])
def test_torch_comes_from_the_index_that_was_named_and_everything_else_from_pypi(checkout, server, with_uv):
    said = made(checkout, server, with_uv, ".venv/.installed", f"TORCH_INDEX={server}/cpu")
    assert (
        f"copd: installing 4 packages into .venv with {'uv' if with_uv else 'pip'}; torch comes from {server}/cpu"
        in said
    )
    run = {
        "copd": "0.1.0",
        "build_of_copd": "1.0",
        "numpy": "2.4.6",
        "torch": "2.14.1+cpu",
        "torchvision": "0.29.1+cpu",
    }
    assert installed(checkout) == run
    made(checkout, server, with_uv, ".venv/.tools")
    assert installed(checkout) == {**run, "ruff": "0.12.0"}
