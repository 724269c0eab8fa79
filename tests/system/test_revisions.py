"""Branches and tags of the hub become commits. A local server stands in for the hub's interface."""

import json
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest
from huggingface_hub import constants

from copd.assemble.revisions import pinned
from copd.commands.compare import Order, plan_of
from copd.errors import CopdError, DataError, ModelFolderError
from copd.recipe.reading import make_recipe
from copd.system.hub import commit_of

FIRST, SECOND = "a" * 40, "b" * 40


class Api(BaseHTTPRequestHandler):
    """The part of the hub that says which commit a revision is."""

    def __init__(self, known, *args):
        self.known = known
        super().__init__(*args)

    def do_GET(self):
        sha = self.known.get(self.path)
        if isinstance(sha, int):
            self.send_error(sha)
            return
        self.send_response(200 if sha else 404)
        if not sha:
            self.send_header("X-Error-Code", "RevisionNotFound")
        self.end_headers()
        if sha:
            self.wfile.write(json.dumps({"id": "me/small", "sha": sha}).encode())

    def log_message(self, *_):
        pass


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """What the hub knows, by the path of a request. `hub.shutdown` ends it."""
    commit_of.cache_clear()
    known = {}
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Api, known))
    thread = Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    yield known
    server.shutdown()
    thread.join()
    server.server_close()
    commit_of.cache_clear()


def test_a_branch_is_the_commit_that_the_hub_has_for_it_and_that_is_told_once(hub, caplog):
    hub["/api/models/me/small/revision/main"] = FIRST
    hub["/api/datasets/me/small/revision/v1"] = SECOND
    assert commit_of("me/small", "main", "model") == commit_of("me/small", "main", "model") == FIRST
    assert commit_of("me/small", "v1", "dataset") == SECOND
    assert caplog.messages == [f"main of me/small is commit {FIRST}", f"v1 of me/small is commit {SECOND}"]


def test_a_process_keeps_to_what_it_found_though_the_branch_moves(hub):
    hub["/api/models/me/small/revision/main"] = FIRST
    commit_of("me/small", "main", "model")
    hub["/api/models/me/small/revision/main"] = SECOND
    assert commit_of("me/small", "main", "model") == FIRST


def test_a_revision_that_the_hub_does_not_have_is_not_taken_from_the_cache(hub, tmp_path):
    refs = tmp_path / "models--me--small" / "refs"
    refs.mkdir(parents=True)
    (refs / "gone").write_text(FIRST)
    with pytest.raises(CopdError, match=r"^me/small has no revision 'gone' for this user: ") as refusal:
        commit_of("me/small", "gone", "model")
    assert "\n" not in str(refusal.value)


def test_a_hub_that_cannot_answer_now_is_not_said_to_lack_the_revision_and_the_cache_tells(hub, tmp_path):
    hub["/api/models/me/small/revision/main"] = 503
    with pytest.raises(CopdError, match=r"^revision 'main' of me/small is not known here, and the hub .*503"):
        commit_of("me/small", "main", "model")
    refs = tmp_path / "models--me--small" / "refs"
    refs.mkdir(parents=True)
    (refs / "main").write_text(FIRST)
    assert commit_of("me/small", "main", "model") == FIRST


def test_where_the_hub_cannot_be_reached_the_cache_tells_and_that_is_said(monkeypatch, tmp_path, caplog):
    commit_of.cache_clear()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(
        CopdError, match=r"^revision 'main' of me/small is not known here, and the hub cannot be reached"
    ):
        commit_of("me/small", "main", "model")
    refs = tmp_path / "models--me--small" / "refs"
    refs.mkdir(parents=True)
    (refs / "main").write_text(FIRST)
    assert commit_of("me/small", "main", "model") == FIRST
    assert caplog.messages == [f"main of me/small is commit {FIRST} in the cache, since the hub cannot be reached"]


def test_a_commit_is_what_the_hub_must_name(hub):
    hub["/api/models/me/small/revision/main"] = "../x"
    with pytest.raises(CopdError, match=r"^me/small: the hub names no commit for 'main', found '../x'$"):
        commit_of("me/small", "main", "model")
    assert commit_of("me/small", SECOND, "model") == SECOND


def recipe(**model):
    task = {"kind": "rows", "train": "hub:me/small/a.jsonl", "revision": "v1"}
    branches = {"a": {"task": task}, "b": {"task": {"kind": "digits", "capability": "text"}}}
    return make_recipe({"model": {"path": "me/small", **model}, "branches": branches})


def test_a_recipe_is_pinned_to_the_commits_of_its_model_and_of_its_rows(hub):
    hub["/api/models/me/small/revision/main"] = FIRST
    hub["/api/datasets/me/small/revision/v1"] = SECOND
    found = pinned(recipe(revision="main"))
    assert (found.model.revision, found.branches["a"].task.revision) == (FIRST, SECOND)
    assert found.branches["b"] == recipe().branches["b"]
    assert pinned(found) is found


def test_a_model_that_is_here_is_not_looked_up(hub):
    at = recipe(path="builtin:digits", revision="main").model_copy(update={"branches": {}})
    assert pinned(at) is at
    with pytest.raises(CopdError, match=r"^'a/b@main' is no id of the hub; accepted: OWNER/NAME$"):
        commit_of("a/b@main", "main", "model")


def test_what_cannot_be_resolved_is_told_by_its_field(hub):
    with pytest.raises(DataError, match=r"^branches\.a\.task\.revision: me/small has no revision 'v1'"):
        pinned(recipe())
    hub["/api/datasets/me/small/revision/v1"] = SECOND
    with pytest.raises(ModelFolderError, match=r"^model\.revision: me/small has no revision 'main'"):
        pinned(recipe(revision="main"))


def test_all_jobs_of_a_comparison_train_on_the_commits_of_its_start(hub, tmp_path):
    hub["/api/datasets/me/small/revision/v1"] = SECOND
    (tmp_path / "r.yaml").write_text(recipe().model_dump_json(include={"branches"}))
    (tmp_path / "c.yaml").write_text("recipe: r.yaml\nrollouts: 9000\narms: {mixed: {method: mixed}, own: {}}")
    _, jobs = plan_of(Order(tmp_path / "c.yaml", range(2), tmp_path, 1, print), search=False)
    arms = [job for job in jobs if job.arm]
    assert [job.recipe.branches["a"].task.revision for job in arms] == [SECOND] * 4
    assert {f"branches.a.task.revision={SECOND}" in job.overrides for job in arms} == {True}


def test_an_arm_that_names_a_model_itself_has_the_commit_of_that_model(hub, tmp_path):
    hub["/api/datasets/me/small/revision/v1"] = SECOND
    hub["/api/models/me/small/revision/main"], hub["/api/models/me/other/revision/main"] = FIRST, SECOND
    (tmp_path / "r.yaml").write_text(recipe(revision="main").model_dump_json(include={"branches", "model"}))
    arms = "{all: {}, same: {model.revision: main}, other: {model.path: me/other}}"
    (tmp_path / "c.yaml").write_text(f"recipe: r.yaml\nrollouts: 9000\narms: {arms}")
    _, jobs = plan_of(Order(tmp_path / "c.yaml", (0,), tmp_path, 1, print), search=False)
    found = {job.arm: job.recipe.model for job in jobs if job.arm}
    assert {arm: (model.path, model.revision) for arm, model in found.items()} == {
        "all": ("me/small", FIRST),
        "same": ("me/small", FIRST),
        "other": ("me/other", SECOND),
    }
