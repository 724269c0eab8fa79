"""The pages: whole, escaped, self-contained, the same at every writing."""

import itertools
import json
import re
import shutil
from html.parser import HTMLParser

import pytest

from copd.errors import WriteError
from copd.report.page import write_comparison, write_pages, write_report
from copd.runs.runlog import read_lines, write_lines

HOSTILE = "<script>alert(1)</script>{{ 7 * 7 }}\"'><img src=x onerror=alert(2)>"
VOID = {"meta", "img", "br", "link", "input", "hr"}


class Tags(HTMLParser):
    """Start tags with their attributes; complains of an element that is not closed where it was opened."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(page)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        assert len(dict(attributes)) == len(attributes), f"an attribute of <{tag}> is given twice: {attributes}"
        self.seen.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.seen.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> closes another element"

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.seen if name == tag]


@pytest.fixture(scope="module")
def pages(every_page):
    return {name: page.read_text() for name, page in every_page.items()}


def test_the_page_shows_every_model_with_interval_and_the_curves(make_run):
    page = write_report(make_run()).read_text()
    for expected in ("base", "merged", "60.0", "50.2 to 69.1", "64 rollouts", "One run with one seed (3)"):
        assert expected in page
    titles = ["Top-10 overlap", "Symmetric KL", "Validation accuracy", "Reward", "Groups with signal", "Lessons"]
    assert "Diagnostics" not in page, "none was recorded"
    assert [figure["aria-label"] for figure in Tags(page).named("svg")] == titles


@pytest.mark.parametrize(
    ("method", "said"),
    [("copd", "2 branches (text, image) from base"), ("mopd", "2 branches (text, image) and a student from base")],
)
def test_a_student_is_told_apart_from_the_branches_that_teach_it(undrawn_here, make_run, method, said):
    assert said in write_report(make_run(method=method)).read_text()


def test_the_diagnostics_of_the_updates_are_drawn(undrawn_here, make_run):
    run = make_run()
    seen = {"native/entropy": 0.5, "native/response_length": 9.0, "native/truncated_rate": 0.125}
    seen |= {"grad_norm": 1.5, "native/logp_mismatch": 1e-6}
    records = [{**r, **seen} if r["event"] == "update" else r for r in read_lines(run / "metrics.jsonl")]
    write_lines(run / "metrics.jsonl", records)
    titles = [figure["aria-label"] for figure in Tags(write_report(run).read_text()).named("svg")]
    drawn = ["Entropy", "Response length", "Truncated responses", "Gradient norm", "Sampler against trainer"]
    assert titles[-5:] == drawn


def changed_manifest(run, **changes):
    manifest = json.loads((run / "manifest.json").read_text())
    (run / "manifest.json").write_text(json.dumps({**manifest, **changes}))


def test_the_command_that_began_the_run_is_shown_as_text(undrawn_here, make_run):
    run = make_run()
    assert "command that began" not in write_report(run).read_text()
    changed_manifest(run, command="copd train my.yaml 'a=<b>' --out runs/x")
    assert "<pre>copd train my.yaml &#39;a=&lt;b&gt;&#39; --out runs/x</pre>" in write_report(run).read_text()


@pytest.mark.parametrize("method", ["copd", "mixed", "expert"])
def test_the_page_leads_to_the_models_that_are_there(undrawn_here, make_run, tmp_path, method):
    run = make_run(method=method)
    made = {"copd": ["merged"], "mixed": ["branches/mixed"], "expert": ["branches/text", "branches/image"]}[method]
    for page in (write_report(run), write_report(run, tmp_path / "elsewhere.html")):
        assert not any(a["href"].endswith(tuple(made)) for a in Tags(page.read_text()).named("a"))
    for folder in made:
        (run / folder).mkdir(parents=True)
    links = [a["href"] for a in Tags(write_report(run).read_text()).named("a")]
    assert [link for link in links if not link.startswith("#")] == made
    (tmp_path / "aside").mkdir()
    for out, inside in ((tmp_path / "beside.html", True), (tmp_path / "aside" / "page.html", False)):
        links = [a["href"] for a in Tags(write_report(run, out).read_text()).named("a")]
        assert [f"{run.name}/{folder}" in links for folder in made] == [inside] * len(made)
        assert all(link.startswith("#") or inside for link in links)


@pytest.mark.parametrize("home", ["/home/o'neill", "/"], ids=["own", "root"])
def test_a_folder_of_the_user_s_machine_is_on_no_page(undrawn_here, monkeypatch, make_run, home):
    monkeypatch.setenv("HOME", home)
    run = make_run(prompt="/home/o'neill and /home/o'neills, at /srv/home/o'neill")
    recipe = json.loads((run / "manifest.json").read_text())["recipe"]
    named = {"data": ["/mnt/o'neill's/rows/x.jsonl"], "base": {"path": "/srv/models/qwen"}}
    changed_manifest(run, recipe={**recipe, **named}, command="copd train /opt/r/my.yaml model.path=/srv/models/qwen")
    samples = [{**each, "problem": "/mnt/o'neill's/rows/x.jsonl:3"} for each in read_lines(run / "samples.jsonl")]
    write_lines(run / "samples.jsonl", samples)
    for page in (write_report(run), write_comparison([run, make_run("beside")])):
        text = page.read_text()
        assert not re.search("/mnt|/srv/models|/opt", text)
        assert "x.jsonl" in text
        if home != "/":
            assert "~ and /home/o&#39;neills, at /srv/home/o&#39;neill" in text


def test_every_page_is_well_formed_with_unique_ids_and_working_links(pages):
    for name, page in pages.items():
        tags = Tags(page)
        ids = [attributes["id"] for _, attributes in tags.seen if "id" in attributes]
        assert len(ids) == len(set(ids)), name
        links = [a["href"] for a in tags.named("a")] + [u["xlink:href"] for u in tags.named("use")]
        links = [link for link in links if link.startswith("#")]
        assert {link.removeprefix("#") for link in links} <= set(ids), name
        clips = re.findall(r"url\(#([^)]*)\)", page)
        assert clips, name
        assert set(clips) <= set(ids), name


def test_model_text_is_escaped_and_never_evaluated(undrawn_here, make_run):
    changes = {"prompt": HOSTILE, "answer": HOSTILE, "response": HOSTILE, "tokens": [HOSTILE] * 6}
    plain, hostile = make_run("plain"), make_run("hostile", **changes)
    for write in (write_report, lambda run: write_comparison([run, make_run(f"beside-{run.name}")])):
        page = write(hostile).read_text()
        assert "<script" not in page
        assert "<img src=x" not in page
        assert "{{ 7 * 7 }}" in page
        assert [tag for tag, _ in Tags(page).seen] == [tag for tag, _ in Tags(write(plain).read_text()).seen]


def test_a_hostile_name_of_a_run_is_escaped(make_run):
    runs = [make_run("<b>x&"), make_run("_$a$")]
    for page in (write_report(runs[0]).read_text(), write_comparison(runs).read_text()):
        assert "<b>x" not in page
        assert "&lt;b&gt;x&amp;" in page
    assert page.count("_$a$</text>") == 5, "a label of each curve"


def test_the_page_needs_no_network_and_runs_no_script(pages):
    for page in pages.values():
        tags = Tags(page)
        assert not {"script", "link", "iframe", "object", "foreignobject"} & {tag for tag, _ in tags.seen}
        for _, attributes in tags.seen:
            assert not any(name.startswith("on") for name in attributes)
            assert (attributes.get("src") or "data:").startswith("data:image/png;base64,") or "src" not in attributes
            assert (attributes.get("href") or "#").startswith("#")
        addresses = set(re.findall(r"https?://[^\s\"'<)]+", page))
        assert addresses <= {"http://www.w3.org/1999/xlink"}
        (policy,) = [m for m in tags.named("meta") if m.get("http-equiv") == "Content-Security-Policy"]
        assert policy["content"] == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def test_tables_name_their_columns_and_rows_and_figures_have_names(pages):
    for page in pages.values():
        tags = Tags(page)
        assert all(cell.get("scope") in ("col", "row", "colgroup", "rowgroup") for cell in tags.named("th"))
        assert all(svg.get("aria-label") and svg.get("role") == "img" for svg in tags.named("svg"))
        assert all("alt" in image for image in tags.named("img"))
        scrolling = [d for d in tags.named("div") if d.get("class") == "wide"]
        assert scrolling
        assert all(d.get("tabindex") == "0" and d.get("aria-label") for d in scrolling)


def test_the_table_of_the_recipe_is_one_of_fields(pages):
    for page in pages.values():
        table = page.split('<table class="config">')[1]
        assert table.startswith('\n<thead><tr><th scope="col">field</th>')


def test_pictures_and_frames_stand_in_the_page(undrawn_here, make_run):
    run = make_run()
    images = Tags(write_report(run).read_text()).named("img")
    assert len(images) == 1 + 4
    shutil.rmtree(run / "media")
    page = write_report(run).read_text()
    assert not Tags(page).named("img")
    assert page.count("picture left out") == 1
    assert page.count("frame left out") == 4


def test_a_token_says_its_numbers_and_has_the_side_and_strength_of_its_colour(undrawn_here, make_run):
    spans = [a for a in Tags(write_report(make_run()).read_text()).named("span") if a.get("title")]
    first = spans[:5]
    assert first[2] == {"class": "less", "style": "--d:0.13", "title": "image -0.40 nats, itself -0.20"}
    assert first[4] == {"class": "more", "style": "--d:0.67", "title": "image +2.00 nats, itself -1.50"}
    assert first[0] == {"title": "image +0.01 nats, itself -0.10"}


def test_the_same_run_gives_the_same_page(make_run):
    run = make_run()
    assert write_report(run).read_bytes() == write_report(run).read_bytes()


def test_an_unfinished_run_has_a_progress_page_and_no_report(undrawn_here, make_run):
    run = make_run(finished=False)
    page = write_pages([run])
    assert page == run / "progress.html"
    assert not (run / "report.html").exists()
    text = page.read_text()
    assert "not finished: it stands after 4 steps" in text
    assert "on validation problems" in text
    assert "Where the time went" not in text


def test_the_report_of_a_finished_run_replaces_its_progress_page(undrawn_here, make_run):
    run = make_run()
    (run / "progress.html").write_text("old")
    assert write_pages([run]) == run / "report.html"
    assert not (run / "progress.html").exists()


def test_a_page_can_go_elsewhere(undrawn_here, make_run, tmp_path):
    run = make_run()
    assert write_pages([run], tmp_path / "here.html") == tmp_path / "here.html"
    assert not (run / "report.html").exists()
    with pytest.raises(WriteError, match=r"nowhere.*cannot be written"):
        write_pages([run], tmp_path / "nowhere" / "here.html")


def test_several_runs_go_beside_the_first(undrawn_here, make_run, tmp_path):
    assert write_pages([make_run("a"), make_run("b")]) == tmp_path / "comparison.html"


def test_a_page_of_several_shows_each_run_folded(undrawn_here, make_run):
    page = write_comparison([make_run("mine"), make_run("taught", "mopd")]).read_text()
    tags = Tags(page)
    assert len([d for d in tags.named("details") if d.get("class") == "run"]) == 2
    names = [svg["aria-label"] for svg in tags.named("svg")]
    assert {"mine: Top-10 overlap", "mine: Lessons", "taught: Reward", "taught: Symmetric KL"} <= set(names)
    assert len(names) == len(set(names))
    assert len(tags.named("img")) == 2 * 5
    titles = [span["title"] for span in tags.named("span") if span.get("title")]
    assert "image -0.40 nats, itself -0.20" in titles


def test_headings_never_skip_a_level(pages):
    for name, page in pages.items():
        levels = [int(tag[1]) for tag, _ in Tags(page).seen if re.fullmatch("h[1-6]", tag)]
        assert levels[0] == 1, name
        assert all(after <= before + 1 for before, after in itertools.pairwise(levels)), name


@pytest.mark.parametrize("method", ["copd", "mopd"])
def test_numbers_that_were_not_finite_have_a_dash(request, make_run, method):
    delta = [None, 0.0, -0.4, 0.0, 2.0, None]
    logp = [-0.1, 0.0, None, -0.01, None, -0.3]
    folder = make_run("run", method, logp=logp, delta={"text": delta, "image": delta})
    records = list(read_lines(folder / "metrics.jsonl"))
    points = [record for record in records if record["event"] == "behaviour"]
    for square in (points[1]["symmetric_kl"], points[1]["overlap"]["5"], points[1]["overlap"]["10"]):
        square["text"]["image"] = square["image"]["image"] = None
    for record in records:
        if record["event"] == "update" and record["step"] == 3:
            record.update({"native/reward": None, "from_text/delta_abs": None})
    write_lines(folder / "metrics.jsonl", records)
    assert "<td>\u2013</td>" in write_report(folder).read_text(encoding="utf-8")
    request.getfixturevalue("undrawn_here")
    assert write_comparison([folder, make_run("other")]).is_file()


def test_a_run_made_before_tokens_and_answers_were_recorded_has_a_report(undrawn_here, make_run):
    run = make_run(answers=False)
    old = ("step", "branch", "capability", "problem", "prompt", "answer", "response", "reward")
    samples = [{key: s[key] for key in old} for s in read_lines(run / "samples.jsonl")]
    write_lines(run / "samples.jsonl", samples)
    page = write_report(run).read_text()
    assert "not compared one by one" in page
    assert "3 8;11" in page
    assert "as image sees it" not in page
