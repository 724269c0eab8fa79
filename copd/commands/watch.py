"""`copd watch`: a page, for this machine only, that follows a run. It reads the run's files and writes nothing."""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from pathlib import Path

from copd.assemble.plan import handovers, make_plan, measures_merge
from copd.errors import CopdError, RecipeError, RunFolderError, first_line
from copd.recipe.evaluation import sized
from copd.recipe.model import Recipe
from copd.recipe.reading import load_recipe, reread
from copd.report.live import Standing, live_page, waiting_page
from copd.report.reading import RunRecord, read_run
from copd.runs.folder import saved_recipe
from copd.runs.lifecycle import LOCK, in_use
from copd.runs.remaining import Remaining
from copd.runs.runlog import ANSWERS, METRICS, RUN_MANIFEST, SAMPLES

LOOPBACK = "127.0.0.1"
LEAST_SECONDS = 3.0
"""Least time between two pages. A page that takes long to make is made less often, so that training loses little."""
SHARE = 4
"""The time between two pages is at least so many times what a page takes to make."""
SCRIPT = "/watch.js"
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'self'; connect-src 'self'"


@dataclass(frozen=True)
class Page:
    """A page, the tag of its content, and the seconds after which to ask again; None: it will not change."""

    content: bytes
    tag: str
    again: float | None


class Watched:
    """A run folder as a page. The page is made when it is asked for, if the run has written since."""

    def __init__(self, folder: Path) -> None:
        """Raises RunFolderError if the folder is none of a run, not even of one that just starts."""
        if not any((folder / name).is_file() for name in (RUN_MANIFEST, LOCK)):
            raise RunFolderError(f"{folder}: not a run folder ({RUN_MANIFEST} is missing); give one of copd train")
        self.folder = folder
        self._lock = threading.Lock()
        self._seen: list[object] = []
        self._page: Page | None = None
        self._due = 0.0

    def page(self) -> Page:
        """The page of now, or a moment ago."""
        with self._lock:
            files = (RUN_MANIFEST, METRICS, SAMPLES, ANSWERS)
            seen: list[object] = [in_use(self.folder), *(_stamp(self.folder / name) for name in files)]
            if self._page is None or (seen != self._seen and time.monotonic() >= self._due):
                began = time.monotonic()
                content, finished = self._made()
                pause = max(LEAST_SECONDS, SHARE * (time.monotonic() - began))
                self._seen, self._due = seen, time.monotonic() + pause
                tag = f'"{sha256(content).hexdigest()[:32]}"'
                self._page = Page(content, tag, None if finished else pause)
            return self._page

    def _made(self) -> tuple[bytes, bool]:
        """The page's content, and whether the run is finished."""
        try:
            run = read_run(self.folder)
            standing = standing_of(run)
            return live_page(run, standing).encode(), standing.state == "finished"
        except CopdError as error:  # nothing was measured yet, or a line is just being written
            return waiting_page(self.folder.resolve().name, str(error)).encode(), False


def standing_of(run: RunRecord) -> Standing:
    """Where a run stands, by its record and its lock.

    Raises RunFolderError or CheckpointError if its recipe cannot be read.
    """
    recipe: Recipe = load_recipe(saved_recipe(run.folder, reread))
    plan = make_plan(recipe)
    remaining = Remaining(
        plan, sized(recipe.evaluation, {}), recipe.checkpoint, handovers(recipe), merge=measures_merge(recipe, plan)
    )
    for record in run.records:
        remaining.heard(record)
    schedule = plan.schedule
    here = schedule.position(min(max(0, run.steps - 1), schedule.steps - 1))
    trains = in_use(run.folder)
    left = sum(remaining.seconds(run.steps).values()) if trains and not run.finished else 0.0
    return Standing(
        "finished" if run.finished else "training" if trains else "stopped",
        run.steps,
        schedule.steps,
        here.cycle + 1,
        schedule.cycles,
        here.phase.value,
        left or None,
        (run.folder / METRICS).stat().st_mtime,
    )


def _stamp(path: Path) -> tuple[int, int] | None:
    """When a file was written, and its size; None if it is not there."""
    with suppress(OSError):
        found = path.stat()
        return found.st_mtime_ns, found.st_size
    return None


class Server(ThreadingHTTPServer):
    """Serves the page of one run on the loopback address."""

    daemon_threads = True

    def __init__(self, folder: Path, port: int) -> None:
        """`port` 0: any free one. Raises RunFolderError for a folder of no run, RecipeError for a port in use."""
        self.watched = Watched(folder)
        try:
            super().__init__((LOOPBACK, port), _Handler)
        except (OSError, OverflowError) as error:
            said = getattr(error, "strerror", None) or first_line(error)
            raise RecipeError(f"--port {port}: {said}; give another, or leave it out to get a free one") from error
        self.hosts = {f"{name}:{self.server_port}" for name in (LOOPBACK, "localhost")}

    @property
    def address(self) -> str:
        return f"http://{LOOPBACK}:{self.server_port}/"


class _Handler(BaseHTTPRequestHandler):
    """Answers for the page and its script. Pages of other origins get nothing, by whatever name they come here."""

    server: Server
    server_version = "copd"
    sys_version = ""

    def do_GET(self) -> None:
        """Send what was asked for."""
        if self.headers.get("Host") not in self.server.hosts:
            self._send(HTTPStatus.FORBIDDEN)
        elif self.path == SCRIPT:
            script = files("copd").joinpath("report/templates/watch.js").read_bytes()
            self._send(HTTPStatus.OK, script, {"Content-Type": "text/javascript; charset=utf-8"})
        elif self.path == "/":
            self._send_page(self.server.watched.page())
        else:
            self._send(HTTPStatus.NOT_FOUND)

    def _send_page(self, page: Page) -> None:
        head = {"ETag": page.tag, **({"Retry-After": f"{page.again:.1f}"} if page.again else {})}
        if self.headers.get("If-None-Match") == page.tag:
            self._send(HTTPStatus.NOT_MODIFIED, b"", head)
        else:
            self._send(HTTPStatus.OK, page.content, {"Content-Type": "text/html; charset=utf-8", **head})

    def _send(self, status: HTTPStatus, content: bytes = b"", head: dict[str, str] | None = None) -> None:
        self.send_response(status)
        always = {"Content-Security-Policy": POLICY, "X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"}
        for name, value in {**always, "Content-Length": str(len(content)), **(head or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        with suppress(ConnectionError):  # the reader has gone
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Say nothing of each request."""
