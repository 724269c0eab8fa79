"""The page that follows a run: what the server gives to whom, and what a browser makes of it."""

import json
import re
import socket
import threading
import time
from contextlib import ExitStack
from http.client import HTTPConnection

import pytest
from browser import browser_of
from test_page import HOSTILE, Tags

from copd.commands import watch
from copd.commands.watch import Server, Watched
from copd.errors import RecipeError, RunFolderError
from copd.recipe.reading import load_recipe
from copd.report.page import write_report
from copd.runs.lifecycle import LOCK, alone_in
from copd.runs.runlog import read_lines, write_lines

TASKS = "text: {task: {capability: text, conflict: 1.0}}, image: {task: {capability: image, conflict: 1.0}}"
CHANGES = [f"branches={{{TASKS}}}", "schedule={cycles: 1, rl_steps: 2, opd_steps: 2}"]


@pytest.fixture
def trainers():
    """Locks of the run folders in which a process trains."""
    with ExitStack() as locks:
        yield locks


@pytest.fixture
def running(make_run, monkeypatch, trainers):
    """Make a run folder of a real recipe, in which a process trains."""
    monkeypatch.setattr(watch, "LEAST_SECONDS", 0.05)
    monkeypatch.setattr(watch, "SHARE", 0)

    def make(*, finished=False, trains=True, **changes):
        run = make_run(finished=finished, **changes)
        manifest = json.loads((run / "manifest.json").read_text())
        manifest |= {
            "recipe": load_recipe("demo-paper", CHANGES).model_dump(mode="json"),
            "branch_order": ["text", "image"],
        }
        manifest |= {"data_sha256": {}, "verifier_sha256": {}}
        (run / "manifest.json").write_text(json.dumps(manifest))
        if trains:
            trainers.enter_context(alone_in(run))
        return run

    return make


@pytest.fixture
def serve():
    """Serve a run folder until the test ends."""
    servers = []

    def begin(run):
        servers.append(server := Server(run, 0))
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return server

    yield begin
    for server in servers:
        server.shutdown()
        server.server_close()


def asked(server, path="/", **head):
    connection = HTTPConnection("127.0.0.1", server.server_port, timeout=60)
    connection.request("GET", path, headers=head)
    answer = connection.getresponse()
    return answer, answer.read().decode()


def content_of(run) -> str:
    return Watched(run).page().content.decode()


def state(page: str) -> str:
    return re.sub(r"<[^>]*>", "", re.search(r'<p class="state">(.*?)</p>', page)[1])


@pytest.mark.parametrize(
    ("made", "said"),
    [
        ({}, r"training · cycle 1 of 1 · mutual OPD · step 4 of 4 · no guard has warned"),
        ({"trains": False}, r"stopped · cycle 1 of 1 · mutual OPD · step 4 of 4 · no guard has warned"),
        ({"finished": True}, r"finished · cycle 1 of 1 · mutual OPD · step 4 of 4 · no guard has warned"),
    ],
    ids=["training", "stopped", "finished"],
)
def test_the_page_says_where_the_run_stands(undrawn_here, running, made, said):
    page = Watched(running(**made)).page()
    assert re.match(said, state(page.content.decode()))
    assert (page.again is None) == ("finished" in made)


def test_the_time_left_is_told_while_a_process_trains(undrawn_here, running, trainers):
    run = running()
    write_lines(run / "metrics.jsonl", [r for r in read_lines(run / "metrics.jsonl") if r["step"] < 2])
    assert re.match(r"training · cycle 1 of 1 · RLVR · step 2 of 4 · about \d+ s left", state(content_of(run)))
    trainers.close()
    (run / LOCK).touch()  # as a process that was killed leaves it
    assert re.match(r"stopped · cycle 1 of 1 · RLVR · step 2 of 4 · no guard has warned", state(content_of(run)))


def test_its_figures_and_samples_are_those_of_the_report(running):
    run = running()
    report, page = write_report(run).read_text(), Watched(run).page().content.decode()
    main = re.compile(r"<main>.*</main>", re.DOTALL)
    assert main.search(page)[0] == main.search(report)[0]
    assert len(Tags(page).named("svg")) == 6


def test_the_last_update_of_each_branch_is_shown(undrawn_here, running):
    run = running()
    records = [{**r, "native/entropy": 0.04567} if r.get("step") == 3 else r for r in read_lines(run / "metrics.jsonl")]
    write_lines(run / "metrics.jsonl", records)
    page = Watched(run).page().content.decode()
    (row,) = re.findall(r'<tr><th scope="row">image</th><td>4</td>(.*?)</tr>', page)
    values = re.findall("<td>(.*?)</td>", row)
    assert values[:4] == ["0.25", "–", "0.75", "0.0457"]
    assert "0.05" in values


def test_a_young_run_is_waited_for(undrawn_here, running):
    run = running()
    metrics = (run / "metrics.jsonl").read_text()
    (run / "metrics.jsonl").write_text("")
    watched = Watched(run)
    early = watched.page()
    assert b"nothing has been measured yet" in early.content
    assert early.again
    (run / "metrics.jsonl").write_text(metrics)
    deadline = time.monotonic() + 30
    while b"nothing has been measured yet" in watched.page().content:
        assert time.monotonic() < deadline
    (run / "manifest.json").unlink()
    assert b"manifest.json is missing" in Watched(run).page().content, "a process has just begun to train into it"


def test_a_folder_of_no_run_and_a_port_in_use_are_refused(running, tmp_path):
    with pytest.raises(RunFolderError, match=r"not a run folder \(manifest\.json is missing\)"):
        Server(tmp_path, 0)
    run = running()
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(
            RecipeError, match=rf"^--port {port}: Address already in use; give another, or leave it out"
        ):
            Server(run, port)


def test_only_this_machine_gets_the_page_and_only_under_its_own_name(undrawn_here, running, serve):
    run = running()
    server = serve(run)
    assert server.server_address[0] == "127.0.0.1"
    assert asked(server)[0].status == 200
    for host in ("evil.example", f"evil.example:{server.server_port}", "127.0.0.1"):
        answer, text = asked(server, Host=host)
        assert (answer.status, text) == (403, "")
    for path in ("/manifest.json", "/../manifest.json", "//etc/passwd", "/watch.js/..", "/?x"):
        assert asked(server, path)[0].status == 404


def test_what_did_not_change_is_not_sent_again_and_nothing_is_written(undrawn_here, running, serve):
    run = running()
    before = sorted((path.name, path.stat().st_mtime_ns) for path in run.rglob("*"))
    server = serve(run)
    answer, text = asked(server)
    assert "script-src 'self'" in answer.headers["Content-Security-Policy"]
    assert "'unsafe-eval'" not in text
    again, nothing = asked(server, **{"If-None-Match": answer.headers["ETag"]})
    assert (again.status, nothing) == (304, "")
    assert float(again.headers["Retry-After"]) > 0
    assert sorted((path.name, path.stat().st_mtime_ns) for path in run.rglob("*")) == before


def test_text_of_models_is_escaped_and_no_script_stands_in_the_page(undrawn_here, running):
    page = Watched(running(prompt=HOSTILE, response=HOSTILE, tokens=[HOSTILE] * 6)).page().content.decode()
    assert list(Tags(page).named("script")) == [{"src": "/watch.js", "defer": None}]
    assert "<img src=x" not in page
    assert "&lt;script&gt;alert(1)" in page


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    browser = browser_of(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


def test_a_browser_follows_the_run_and_keeps_what_is_unfolded(browser, running, serve):
    run = running(prompt=HOSTILE)
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    half = next(i for i, line in enumerate(lines) if json.loads(line)["step"] == 2)
    (run / "metrics.jsonl").write_text("".join(lines[:half]))
    server = serve(run)
    browser.open(server.address, 1200)
    browser.wait_for("document.querySelector('.state').textContent.includes('step 2 of 4')")
    browser.value("document.querySelector('#samples ~ .problem details').open = true")
    (run / "metrics.jsonl").write_text("".join(lines))
    browser.wait_for("document.querySelector('.state').textContent.includes('step 4 of 4')")
    assert browser.value("document.querySelector('#samples ~ .problem details').open")
    assert browser.value("[...document.querySelectorAll('details')].filter(d => d.open).length") == 1
    assert browser.value("document.querySelector('#age').textContent").startswith("last record ")
    assert browser.value("document.querySelector('.progress i').getBoundingClientRect().width") > 300
    assert len(browser.value("[...document.querySelectorAll('figure svg')].map(e => e.tagName)")) == 6
    assert browser.complaints() == []
    own = {address for address in browser.requested() if not address.startswith("data:image/png")}
    assert own == {server.address, f"{server.address}watch.js"}


def test_the_browser_says_when_nobody_serves_the_page_any_more(browser, running):
    server = Server(running(), 0)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    browser.open(server.address, 360)
    assert browser.value("document.documentElement.scrollWidth") <= 360
    server.shutdown()
    server.server_close()
    browser.wait_for("document.querySelector('#age').textContent.includes('stands still')")
