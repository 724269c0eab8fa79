"""`copd init`: columns, kinds, verifiers and splits of files are guessed, and the recipe is one that can be used."""

import json
import shutil

import pytest
from PIL import Image
from tiny_kinds import tiny_of_kind

from copd.assemble.tasks import make_tasks
from copd.commands.init import recipe_for
from copd.commands.plan import cards_of, examine
from copd.errors import DataError, ModelFolderError
from copd.model.folders import model_folder
from copd.recipe.reading import load_recipe, make_recipe
from copd.recipe.strict_yaml import parse_yaml
from copd.types import Split

TINY = "builtin:digits"


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def rows(here):
    """Write a file of 300 questions with answers, and say its name."""

    def write(answer, name="sums.jsonl", count=300, **columns):
        lines = [json.dumps({"question": f"What is {i}?", "answer": answer(i), **columns}) for i in range(count)]
        (here / name).write_text("\n".join(lines))
        return name

    return write


def made(*files, model=TINY):
    said = []
    text = recipe_for(model, files, said.append)
    return load_recipe(parse_yaml(text, "recipe")), said, text


@pytest.mark.parametrize(
    ("answer", "verifier"),
    [
        (lambda i: "ABCD"[i % 4], "choice"),
        (lambda i: i, "integer"),
        (lambda i: f"so it is\n#### {i}", "integer"),
        (lambda i: f"{i},000", "number"),
        (lambda i: f"{i}/7", "number"),
        (lambda i: f"\\frac{{{i}}}{{x}}", "math"),
        (lambda i: i if i % 2 else f"{i} apples", "math"),
        (lambda i: ["red", "green"][i % 2], "exact"),
    ],
)
def test_the_verifier_is_the_first_that_reads_the_answers(rows, answer, verifier):
    recipe, said, text = made(rows(answer))
    assert (recipe.branches["sums"].task.verifier, said) == (verifier, [])
    assert f"verifier: {verifier} " in text


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (lambda i: i if i % 3 else "a\tcat", r"100 of 300 answers are no whole numbers, the first: 'a\tcat'"),
        (lambda i: i if i % 3 else f"x^{i}", "100 of 300 answers look like formulas or quantities"),
        (lambda i: i, "answers are whole numbers"),
    ],
)
def test_what_decided_for_a_verifier_is_counted_and_named(rows, answer, why):
    _, _, text = made(rows(answer))
    assert f"# {why}\n" in text


def test_rows_that_name_their_verifier_are_left_to_it(rows):
    recipe, _, text = made(rows(str, verifier="number"))
    assert recipe.branches["sums"].task.verifier is None
    assert "verifier" not in text


def test_a_few_rows_that_do_not_fit_are_left_out_and_told_and_many_are_not(rows):
    recipe, said, _ = made(rows(lambda i: "a word" if i == 7 else "ABCD"[i % 4]))
    task = recipe.branches["sums"].task
    assert (task.verifier, task.bad_rows, task.max_bad_rows) == ("choice", "skip", 1)
    assert said == ["sums.jsonl: 1 of 300 rows are left out: verifier choice cannot read their answers"]
    rows(lambda i: "ABCD"[i % 4] if i < 290 else "")
    recipe, said, _ = made("sums.jsonl")
    assert recipe.branches["sums"].task.max_bad_rows == 10
    assert said == ["sums.jsonl: bad rows left out: 10, the first: sums.jsonl:291: the answer is empty"]
    with pytest.raises(
        DataError, match=r"^sums.jsonl: 290 of 300 rows are bad, the first: sums.jsonl:11: the answer is"
    ):
        made(rows(lambda i: "ABCD"[i % 4] if i < 10 else ""))


def test_splits_are_cut_so_that_none_is_empty_and_their_sizes_stand_in_a_comment(rows):
    for count in (6, 40, 8000):
        recipe, _, text = made(rows(str, count=count))
        task = make_tasks(recipe)["sums"]
        sizes = {split: task.size(split) for split in Split}
        counted = ", ".join(f"{size:,} {split.value}" for split, size in sizes.items())
        assert f"# rows: {count:,} of text; cut by hash into {counted}\n" in text
        assert min(sizes.values()) > 0
    assert 400 < sizes[Split.TEST] < 600
    with pytest.raises(DataError, match=r"^sums.jsonl: 2 sound rows cannot be cut into train, validation and test"):
        made(rows(str, count=2))


def test_a_word_that_yaml_takes_for_no_text_is_no_name_and_is_quoted(rows, here):
    (here / "on").mkdir()
    shutil.copytree(model_folder(TINY), here / "on", dirs_exist_ok=True)
    files = [rows(str, f"{word}.jsonl") for word in ("null", "on", "True", "yes")]
    recipe, _, text = made(*files, model="on")
    assert list(recipe.branches) == ["rows_null", "rows_on", "rows_True", "rows_yes"]
    assert (recipe.model.path, 'path: "on"' in text) == ("on", True)


def test_a_file_that_leaves_few_test_problems_is_told_in_one_line(rows):
    recipe, said, _ = made(rows(str), rows(str, "few.jsonl", count=60))
    count = make_tasks(recipe)["few"].size(Split.TEST)
    assert 5 < count < 20
    assert said == [
        f"few.jsonl: leaves {count} test problems, so one is {100 / count:.0f} points of an accuracy; give more "
        "rows, or write `test: FILE` into few"
    ]


def test_each_file_is_a_branch_named_after_it_and_kinds_are_told(rows, here):
    Image.new("RGB", (32, 32)).save(here / "a.png")
    files = [rows(str, "train.jsonl"), "My pictures_train.jsonl", rows(str, "base.jsonl")]
    for i in range(40):
        shutil.copy(here / "a.png", here / f"{i}.png")
    pictures = [{"question": "?", "answer": "B", "image": f"{i}.png"} for i in range(40)]
    (here / files[1]).write_text("\n".join(map(json.dumps, pictures)))
    (here / "gsm8k").mkdir()
    files.append(rows(str, "gsm8k/train-00000-of-00001.jsonl"))
    recipe, _, text = made(*files)
    assert list(recipe.branches) == ["rows", "My_pictures", "base_2", "gsm8k"]
    assert "# rows: 40 of image;" in text
    assert (recipe.method, recipe.merge.method, recipe.opd.prompts_per_step) == ("copd", "distil", 16)
    assert made(files[0])[0].method == "expert"


def test_a_model_that_ships_has_values_of_the_example_and_another_those_of_the_paper(rows, here):
    recipe, _, _ = made(rows(str))
    assert (recipe.optimizer.learning_rate, recipe.sampling.max_new_tokens) == (1e-4, 24)
    shutil.copytree(model_folder(TINY), here / "own", ignore=shutil.ignore_patterns("*.safetensors"))
    recipe, _, text = made(rows(str), rows(str, "more.jsonl", count=600), model="own")
    assert (recipe.optimizer.learning_rate, recipe.optimizer.betas) == (1e-6, (0.9, 0.999))
    assert (recipe.sampling.max_new_tokens, recipe.model.micro_batch_tokens) == (256, 4352)
    assert recipe.sampling.cache_tokens == 65_536
    assert recipe.sampling.prompts_per_step == make_tasks(recipe)["sums"].size(Split.TRAIN)
    assert "boxed" in recipe.branches["sums"].task.system_prompt
    assert "arXiv 2604.27083" in text
    assert (recipe.schedule.cycles, recipe.merge.method) == (4, "mean")
    led = [
        line.removeprefix("# ") for line in text.splitlines() if line.startswith(("# schedule:", "# opd:", "# merge:"))
    ]
    changed = make_recipe({**recipe.model_dump(mode="json"), **parse_yaml("\n".join(led), "the comments")})
    assert (changed.schedule.cycles, changed.merge.method, changed.opd.signal) == (1, "distil", "reverse_kl")
    assert examine(recipe, cards_of(2, 80)).most


def test_pictures_that_a_model_does_not_take_are_refused_in_one_line(rows, here):
    Image.new("RGB", (32, 32)).save(here / "a.png")
    model, tokenizer = tiny_of_kind("qwen3")
    model.save_pretrained(here / "text-only")
    tokenizer.save_pretrained(here / "text-only")
    with pytest.raises(ModelFolderError, match=r"^p.jsonl: its rows hold image; text-only takes text only$"):
        made(rows(str, "p.jsonl", image="a.png"), model="text-only")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--model", TINY, "gone.jsonl"], "gone.jsonl: no such file; accepted: a file, named .jsonl"),
        (["--model", "builtin:gone", "sums.jsonl"], "--model: no builtin model"),
        (["--model", "gone", "sums.jsonl"], "--model: no folder 'gone'"),
        (["--model", TINY, "odd.jsonl"], "odd.jsonl: no format fits the columns a"),
        (["--model", TINY, "empty.jsonl"], "empty.jsonl: no sound row; the first bad one is empty.jsonl:1: "),
        (["--model", TINY, "."], ".: a folder; accepted: a file, named .jsonl"),
        (["--model", TINY, "hub:a/b@main"], "hub:a/b@main: 'a/b@main' is no id of the hub; accepted: OWNER/NAME"),
        (["--model", TINY, "sums.jsonl", "sums.jsonl"], "sums.jsonl: is given twice; each file is a branch of its own"),
        (["--model", "./sums.jsonl", "sums.jsonl"], "--model: no folder './sums.jsonl'; give a folder"),
        (["sums.jsonl"], "Missing option '--model'"),
    ],
)
def test_a_mistake_is_one_line_on_stderr_and_nothing_on_stdout(command, rows, here, words, said):
    rows(str)
    rows(lambda i: "", "empty.jsonl")
    (here / "odd.jsonl").write_text('{"a": 1}')
    done = command("init", *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("file", "split"),
    [("test", "test"), ("val", "validation"), ("valid", "validation"), ("dev", "validation")],
)
def test_a_file_that_looks_like_a_split_of_another_is_told(rows, here, file, split):
    (here / "gsm8k").mkdir()
    files = [rows(str, "gsm8k/train.jsonl"), rows(str, f"gsm8k/{file}.jsonl")]
    recipe, said, text = made(*files)
    assert list(recipe.branches) == ["gsm8k", "gsm8k_2"]
    assert said == [
        f"gsm8k/{file}.jsonl: is a branch of its own, gsm8k_2, that learns; if its rows are for the {split} of gsm8k, "
        f"leave the file out and write `{split}: gsm8k/{file}.jsonl` into gsm8k"
    ]
    assert text.count("# columns: question as prompt, answer\n") == 2


def test_a_file_whose_answers_are_hidden_is_told(rows):
    _, said, _ = made(rows(lambda i: "?"))
    assert said == [
        "sums.jsonl: every answer is '?', which teaches nothing else; take a file whose answers are not hidden"
    ]


def test_pictures_and_videos_of_which_none_can_be_opened_are_refused_with_the_reason(here):
    first, *others = (Image.new("RGB", (32, 32), (i, 0, 0)) for i in range(3))
    for name in ("m.gif", "m.mp4", "m.png"):
        first.save(here / name, "GIF", save_all=True, append_images=others)
    for column, name, why in [
        ("video", "m.gif", "not a video of an accepted format; accepted: MP4, WEBM, Matroska"),
        ("video", "m.mp4", "not a video of an accepted format; accepted: MP4, WEBM, Matroska"),
        ("image", "m.png", "not a picture of an accepted format; accepted: PNG, JPEG, WEBP"),
    ]:
        lines = [json.dumps({"question": f"{i}?", "answer": i, column: name}) for i in range(40)]
        (here / "m.jsonl").write_text("\n".join(lines))
        with pytest.raises(DataError) as refused:
            made("m.jsonl")
        assert str(refused.value) == f"m.jsonl: no sound row; the first bad one is m.jsonl:1: {column} '{name}': {why}"


def test_rows_before_the_first_picture_that_can_be_opened_are_left_out_and_told(here):
    for i in range(250):
        Image.new("RGB", (32, 32), (i, 0, 0)).save(here / f"{i}.png")
    lines = [json.dumps({"question": "?", "answer": i, "image": f"{i}.png"}) for i in range(250)]
    (here / "p.jsonl").write_text("\n".join(lines))
    (here / "0.png").write_bytes(b"")
    recipe, said, _ = made("p.jsonl")
    assert said == ["p.jsonl: bad rows left out: 1, the first: p.jsonl:1: image '0.png': empty, 0 bytes"]
    assert recipe.branches["p"].task.bad_rows == "skip"


@pytest.mark.parametrize("broken", [("validation", 2), ("test", 2), ("train", 6)])
def test_pictures_that_prove_damaged_do_not_stop_what_init_wrote(here, broken):
    for i in range(250):
        Image.new("RGB", (32, 32), (i, 0, 0)).save(here / f"{i}.png")
    lines = [json.dumps({"question": "?", "answer": "AB"[i % 2], "image": f"{i}.png"}) for i in range(250)]
    (here / "p.jsonl").write_text("\n".join(lines))
    recipe, said, _ = made("p.jsonl")
    task = make_tasks(recipe)["p"]
    split, count = Split(broken[0]), broken[1]
    for i in range(count):
        number = int(task.where(split, i).rpartition(":")[2]) - 1
        (here / f"{number}.png").write_bytes(b"")
    task = make_tasks(recipe)["p"]
    task.try_asked()
    assert len([task.problem(Split.TRAIN, i) for i in range(task.size(Split.TRAIN))]) == task.size(Split.TRAIN)
    assert task.skipped == count
    assert said == []


def test_stdout_is_the_recipe_alone_and_doctor_passes_it(command, rows, here):
    done = command("init", "--model", TINY, rows(lambda i: i if i else "one"))
    assert "1 of 300 rows are left out" in done.stderr
    (here / "my.yaml").write_text(done.stdout)
    checked = command("doctor", "my.yaml", "sampling.prompts_per_step=2", "sampling.rollouts_per_prompt=2")
    assert (checked.returncode, checked.stdout.count("failed")) == (0, 1)
