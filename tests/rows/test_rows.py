"""The user's rows as a task: order, splits, bad rows, media, and what a run remembers of the data."""

import base64
import io
import json
import os
from functools import partial

import numpy as np
import pytest
from PIL import Image

from copd.errors import BadRow, DataError
from copd.rewards.answers import final_answer
from copd.rows.formats import RowRules
from copd.rows.media import MediaRules
from copd.rows.opening import Settings, open_files
from copd.rows.rows import Rows, index_rows
from copd.tasks.mixture import Mixture
from copd.types import Medium, Message, Split

RULES = RowRules(frozenset({"exact", "integer"}), partial(final_answer, finished=True), verifier="exact")
SETTINGS = Settings(RULES)
SKIP = Settings(RULES, bad_rows="skip", max_bad_rows=2)
TRAIN, VALIDATION, TEST = Split


@pytest.fixture
def write(tmp_path):
    def write(name, rows):
        lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        (tmp_path / name).write_text("\n".join(lines), encoding="utf-8")
        return str(tmp_path / name)

    return write


@pytest.fixture
def picture(tmp_path):
    def draw(name, grey=0):
        Image.new("RGB", (16, 16), (grey,) * 3).save(tmp_path / name)
        return name

    return draw


def sums(count, start=0):
    return [{"id": i, "prompt": f"{i}+{i}?", "answer": 2 * i} for i in range(start, start + count)]


@pytest.fixture
def three(write):
    """Files of 10, 3 and 4 rows, ids 0 to 16."""
    return {TRAIN: [write("a.jsonl", sums(10))], VALIDATION: [write("b.jsonl", sums(3, 10))]} | {
        TEST: [write("c.jsonl", sums(4, 13))]
    }


def test_a_task_with_the_index_of_another_reads_no_row_at_its_start(three, write, monkeypatch):
    files = {**three, TRAIN: [write("a.jsonl", [*sums(10), "no row"])], VALIDATION: None}
    first = Rows("t", files, SKIP, shares={VALIDATION: 0.3})

    def refuse(*_):
        raise AssertionError("rows are read")

    monkeypatch.setattr("copd.rows.rows.index_rows", refuse)
    again = Rows("t", files, SKIP, shares={VALIDATION: 0.3}, index=first.index)
    assert again.skipped == first.skipped == 1
    for split in Split:
        assert ids(again, split, again.size(split)) == ids(first, split, first.size(split))


def test_a_file_that_has_changed_since_its_rows_were_indexed_is_refused(three, write):
    index = Rows("t", three, SETTINGS).index
    write("b.jsonl", sums(4, 10))
    with pytest.raises(DataError, match=r"b\.jsonl: has changed since it was first read; start again"):
        Rows("t", three, SETTINGS, index=index)


def ids(task, split, count):
    return [int(task.problem(split, i).id.rpartition("#")[2]) for i in range(count)]


def test_a_row_becomes_a_problem(three):
    problem = Rows("sums", three, SETTINGS).problem(TEST, 1)
    assert (problem.id, problem.task, problem.prompt, problem.answer) == ("14", "sums", "14+14?", "28")
    assert (problem.verifier, problem.kind) == ("exact", "text")
    assert problem.messages == (Message("user", ("14+14?",)),)


def test_every_epoch_brings_all_training_rows_in_an_order_of_its_own(three):
    task = Rows("sums", three, SETTINGS, seed=1)
    epochs = [ids(task, TRAIN, 30)[i : i + 10] for i in (0, 10, 20)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len(set(map(tuple, epochs))) == 3


def test_training_order_is_a_function_of_the_seed_and_needs_no_memory(three):
    task = Rows("sums", three, SETTINGS, seed=1)
    backwards = [int(task.problem(TRAIN, i).id) for i in reversed(range(40))][::-1]
    assert backwards == ids(Rows("sums", three, SETTINGS, seed=1), TRAIN, 40)
    assert backwards != ids(Rows("sums", three, SETTINGS, seed=2), TRAIN, 40)
    assert int(task.problem(TRAIN, 30_000_000).id) in range(10)


@pytest.mark.parametrize("seed", [0, 7])
def test_validation_and_test_come_in_the_order_of_their_files_and_start_again(three, seed):
    task = Rows("sums", three, SETTINGS, seed=seed)
    assert ids(task, VALIDATION, 7) == [10, 11, 12, 10, 11, 12, 10]
    assert ids(task, TEST, 5) == [13, 14, 15, 16, 13]
    assert [task.size(split) for split in Split] == [10, 3, 4]


def test_several_files_are_read_one_after_the_other(write, three):
    files = {**three, TEST: [write("d.jsonl", sums(2, 50)), *three[TEST]]}
    assert ids(Rows("sums", files, SETTINGS), TEST, 6) == [50, 51, 13, 14, 15, 16]


def test_splits_without_files_are_cut_from_the_training_file(write):
    files = {TRAIN: [write("a.jsonl", sums(200))], VALIDATION: None, TEST: None}
    task = Rows("sums", files, SETTINGS, shares={VALIDATION: 0.2, TEST: 0.1})
    parts = {split: set(ids(task, split, task.size(split))) for split in Split}
    assert set.union(*parts.values()) == set(range(200))
    assert sum(map(len, parts.values())) == 200
    assert 20 < len(parts[VALIDATION]) < 60 > len(parts[TEST]) > 5
    again = Rows("sums", files, SETTINGS, seed=9, shares={VALIDATION: 0.2, TEST: 0.1})
    assert ids(again, TEST, 10) == ids(task, TEST, 10)


def test_rows_of_the_same_only_picture_or_text_are_never_in_two_splits_cut_from_one_file(write, picture):
    for i in range(20):
        picture(f"{i}.png", i)
    pictures = [{"prompt": f"q{i}", "answer": "1", "images": [f"{i % 20}.png"]} for i in range(100)]
    texts = [{"prompt": f"Q  {i % 20}" if i % 2 else f"q {i % 20}", "answer": "1"} for i in range(100)]
    files = {TRAIN: [write("a.jsonl", pictures + texts)]}
    task = Rows("q", files, SETTINGS, shares={VALIDATION: 0.3, TEST: 0.3})
    shown = {}
    for split in Split:
        for i in range(task.size(split)):
            problem = task.problem(split, i)
            what = (
                int(np.asarray(problem.images[0]).max())
                if problem.images
                else " ".join(problem.prompt.casefold().split())
            )
            shown.setdefault(what, set()).add(split)
    assert len(shown) == 40
    assert all(len(splits) == 1 for splits in shown.values())


def test_a_split_without_a_row_is_refused(write, three):
    with pytest.raises(DataError, match=r"^branches\.sums\.task: no row is left for test; give more rows, test files"):
        Rows("sums", {TRAIN: three[TRAIN], VALIDATION: three[VALIDATION]}, SETTINGS)


BAD = [
    ('{"prompt": "?"', "not JSON"),
    ({"prompt": "?"}, "answer is missing"),
    ({"prompt": "?", "answer": None}, "answer is null"),
    ({"prompt": "?", "answer": ["2"]}, "the answer is a list"),
    ({"prompt": " ", "answer": "2"}, "the prompt is empty"),
    ({"prompt": "<image>?", "answer": "2"}, "1 <image> in the prompt but 0 images"),
    ({"prompt": "?", "answer": "2", "verifer": "exact"}, "did you mean 'verifier'"),
    ({"prompt": "?", "answer": "2", "verifier": "eval"}, "unknown verifier 'eval'; accepted: exact, integer"),
    ({"prompt": "?", "answer": "2", "images": ["../a.png"]}, "image '../a.png': '..' in a path"),
    ({"prompt": "?", "answer": "2", "images": ["/etc/passwd"]}, "image '/etc/passwd': an absolute path"),
    ({"prompt": "?", "answer": "2", "images": ["none.png"]}, "image 'none.png': not found in"),
    ({"prompt": "?", "answer": "2", "videos": ["http://h/a.mp4"]}, "video 'http://h/a.mp4': a URL"),
    ({"prompt": "?", "answer": "2", "videos": [["none.png"]]}, "video 'none.png': not found in"),
    ({"prompt": "?", "answer": "2", "id": 3}, "has the id of "),
    ({"prompt": "\ud800?", "answer": "2"}, "the text is not valid Unicode"),
    ({"prompt": "?", "answer": "\ud800"}, "the answer is not valid Unicode: half of a surrogate pair"),
    ({"prompt": "?", "answer": "2", "id": "\ud800"}, "the id is not valid Unicode"),
    ({"prompt": "?", "answer": "2", "images": ["\ud800.png"]}, r"image '\ud800.png': not found in"),
    ({"prompt": "?", "answer": "2", "videos": [["\ud800.png"]]}, r"video '\ud800.png': not found in"),
]


@pytest.mark.parametrize(("row", "reason"), BAD, ids=[reason for _, reason in BAD])
def test_a_bad_row_stops_the_start_with_file_line_and_reason_or_is_left_out(write, three, row, reason):
    path = write("a.jsonl", [*sums(5), row, *sums(5, 5)])
    with pytest.raises(DataError) as refusal:
        Rows("sums", three, SETTINGS)
    assert str(refusal.value).startswith(f"{path}:6: ")
    assert reason in str(refusal.value)
    assert "\n" not in str(refusal.value)
    task = Rows("sums", three, SKIP)
    assert (task.size(TRAIN), task.skipped) == (10, 1)
    assert sorted(ids(task, TRAIN, 10)) == list(range(10))


def test_more_bad_rows_than_the_limit_stop_the_start(write, three):
    path = write("a.jsonl", [*sums(5), "{", "{", "{"])
    with pytest.raises(DataError, match=rf"^{path}:8: not JSON.*this is bad row 3, and max_bad_rows is 2"):
        Rows("sums", three, SKIP)


@pytest.fixture
def damaged(write, three, picture, tmp_path):
    """A picture in the second row of train and of test, and what damages it."""
    for split, name, rows in ((TRAIN, "a.jsonl", sums(10)), (TEST, "c.jsonl", sums(4, 13))):
        rows[1]["images"] = [picture("a.png")]
        three[split] = [write(name, rows)]
    return lambda: os.truncate(tmp_path / "a.png", 20)


def test_a_picture_found_damaged_only_when_it_is_drawn_is_told_or_replaced_by_the_next_row_of_train(three, damaged):
    strict, lenient = Rows("sums", three, SETTINGS), Rows("sums", three, SKIP)
    (index,) = (i for i in range(10) if strict.problem(TRAIN, i).kind == "image")
    damaged()
    with pytest.raises(DataError, match=r"a.jsonl:2: image 'a.png': damaged or truncated.*copd data check"):
        strict.problem(TRAIN, index)
    drawn = ids(lenient, TRAIN, 10)
    assert (drawn[index], sorted(drawn)) == (2, [0, 2, 2, *range(3, 10)])
    assert drawn == ids(lenient, TRAIN, 10)
    assert lenient.skipped == 1


@pytest.mark.parametrize("settings", [SETTINGS, SKIP])
def test_no_other_row_of_test_is_counted_in_the_place_of_a_bad_one(three, damaged, settings):
    task = Rows("sums", three, settings)
    damaged()
    with pytest.raises(DataError, match=r"c.jsonl:2: image 'a.png': damaged or truncated"):
        task.problem(TEST, 1)


def test_bad_rows_among_the_problems_that_will_be_asked_are_found_before_and_leave_their_split(three, damaged):
    strict, lenient = (Rows("sums", three, settings, asked={TEST: 3}) for settings in (SETTINGS, SKIP))
    damaged()
    with pytest.raises(DataError, match=r"c.jsonl:2: image 'a.png': damaged or truncated"):
        strict.try_asked()
    lenient.try_asked()
    assert ids(lenient, TEST, 5) == [13, 15, 16, 13, 15]
    assert (lenient.size(TEST), lenient.skipped) == (3, 1)
    with pytest.raises(
        DataError,
        match=r"^branches\.sums\.task: 3 sound rows are left for test, 4 are asked for; .* in evaluation.problems$",
    ):
        Rows("sums", three, SKIP, asked={TEST: 4}).try_asked()


def test_a_prompt_that_does_not_fit_is_a_bad_row(three):
    strict, lenient = (Rows("sums", three, settings, asked={VALIDATION: 2}) for settings in (SETTINGS, SKIP))
    for task in (strict, lenient):
        task.reject(lambda problem: "too long" if problem.id == "11" else None)
    with pytest.raises(DataError, match=r"b.jsonl:2: too long"):
        strict.try_asked()
    lenient.try_asked()
    assert ids(lenient, VALIDATION, 3) == [10, 12, 10]


def test_where_every_row_is_bad_the_search_ends(three):
    task = Rows("sums", three, Settings(RULES, bad_rows="skip", max_bad_rows=100))
    task.reject(lambda problem: "too long")
    with pytest.raises(DataError, match=r"^branches\.sums\.task: every row of train is bad$"):
        task.problem(TRAIN, 0)


def test_rows_of_several_files_are_indexed_but_for_those_refused_and_repeated_ids_are_refused_last(write):
    first = write("a.jsonl", [*sums(2), "{", *sums(1, 2)])
    second = write("b.jsonl", [*sums(2, 2), *sums(1, 9), *sums(1, 3)])
    refused = []

    def look(row, root):
        if row.id == "9":
            raise BadRow("looks bad")

    opened = open_files([first, second], "train", SETTINGS)
    rows = index_rows(opened, RULES, lambda where, why: refused.append((where, str(why))), look)
    assert [where for where, _ in refused] == [f"{first}:3", f"{second}:3", f"{second}:4"]
    assert [why for _, why in refused[1:]] == ["looks bad", f"has the id of {second}:2"]
    places = [(0, 1), (0, 2), (0, 4), (1, 1), (1, 2)]
    assert list(zip(rows.file_n.tolist(), rows.line_n.tolist(), strict=True)) == places


def test_two_files_of_one_numbering_are_taken_and_their_problems_told_apart(write):
    files = {TRAIN: [write("a.jsonl", sums(30)), write("b.jsonl", sums(30))], VALIDATION: None, TEST: None}
    task = Rows("t", files, SETTINGS, shares={VALIDATION: 0.2, TEST: 0.2})
    found = {problem.id for split in Split for _, problem in task.in_file_order(split)}
    assert found == {f"{name}#{i}" for name in files[TRAIN] for i in range(30)}


def test_what_is_read_in_another_way_is_counted(write):
    rows = [{**row, "options": ["1", row["answer"]]} for row in sums(3)]
    task = Rows("t", {split: [write(f"{split.value}.jsonl", rows)] for split in Split}, SETTINGS)
    assert dict(task.notes) == {"the column options is put below the question, which does not show it": 9}


def test_media_are_decoded_in_the_order_of_their_marks(write, three, picture):
    file = io.BytesIO()
    Image.new("RGB", (16, 16), (3, 3, 3)).save(file, "PNG")
    frames = [picture("4.png", 4), picture("5.png", 5)]
    row = {
        "prompt": "<video>a<image>b<image>c<video>",
        "images": [picture("2.png", 2), {"bytes": base64.b64encode(file.getvalue()).decode()}],
        "videos": [frames, frames[:1]],
        "fps": 4,
        "answer": "1",
    }
    three[TEST] = [write("c.jsonl", [row])]
    problem = Rows("sums", three, SETTINGS).problem(TEST, 0)
    video, image = Medium.VIDEO, Medium.IMAGE
    assert problem.messages[0].items == (video, "a", image, "b", image, "c", video)
    assert [int(np.asarray(i).max()) for i in problem.images] == [2, 3]
    assert [np.asarray(v)[:, 0, 0, 0].tolist() for v in problem.videos] == [[4, 5], [4, 4]]
    assert problem.fps_of_videos == (4.0, 4.0)
    assert problem.id == f"{three[TEST][0]}:1"


def test_paths_start_at_the_data_root_where_one_is_given(write, three, picture, tmp_path):
    (tmp_path / "media").mkdir()
    Image.new("RGB", (16, 16)).save(tmp_path / "media" / "a.png")
    three[TEST] = [write("c.jsonl", [{"prompt": "?", "answer": "1", "images": ["a.png"]}])]
    with pytest.raises(DataError, match=r"'a.png': not found in"):
        Rows("sums", three, SETTINGS)
    task = Rows("sums", three, Settings(RULES, data_root=tmp_path / "media"))
    assert task.problem(TEST, 0).images[0].shape == (16, 16, 3)


def test_media_rules_and_template_variables_reach_the_problem(write, three, picture):
    picture("a.png")
    three[TEST] = [write("c.jsonl", [{"prompt": "?", "answer": "1", "images": ["a.png"]}])]
    settings = Settings(RULES, media=MediaRules(image_pixels=64), chat_template_kwargs={"enable_thinking": False})
    problem = Rows("sums", three, settings).problem(TEST, 0)
    assert problem.images[0].shape == (8, 8, 3)
    assert problem.chat_template_kwargs == {"enable_thinking": False}


def test_system_prompt_and_template_stand_around_every_row_that_brings_none(write, three):
    chat = [{"role": "system", "content": "own"}, {"role": "user", "content": "?"}]
    three[TEST] = [write("c.jsonl", [{"prompt": "?", "answer": "1"}, {"prompt": chat, "answer": "1"}])]
    rules = RowRules(RULES.verifiers, RULES.boxed_answer, "exact", "Be brief.", lambda text, row: f"{text} Box it.")
    task = Rows("sums", three, Settings(rules))
    first, second = (task.problem(TEST, i).messages for i in range(2))
    assert first == (Message("system", ("Be brief.",)), Message("user", ("? Box it.",)))
    assert second == (Message("system", ("own",)), Message("user", ("? Box it.",)))


def test_the_fingerprint_changes_with_the_content_of_a_file_and_names_it(write, three):
    before = Rows("sums", three, SETTINGS).fingerprint()
    assert set(before) == {"train", "validation", "test"}
    assert Rows("sums", three, SETTINGS, seed=5).fingerprint() == before
    path = write("b.jsonl", sums(4, 10))
    after = Rows("sums", three, SETTINGS).fingerprint()
    assert before["validation"][path] != after["validation"][path]
    assert {**after, "validation": None} == {**before, "validation": None}


def test_a_file_written_to_while_it_is_in_use_is_not_read_on(write, three):
    task = Rows("sums", three, SETTINGS)
    write("c.jsonl", sums(40, 13))
    with pytest.raises(DataError, match=r"c.jsonl: has changed since"):
        task.problem(TEST, 2)


def test_the_format_is_told_by_the_columns_of_each_file_or_by_the_recipe(write):
    native, trl = write("a.jsonl", sums(1)), write("b.jsonl", [{"prompt": "?", "solution": "1"}])
    assert [source.format for source in open_files([native, trl], "train", SETTINGS)] == ["native", "trl"]
    both = write("c.jsonl", [{"prompt": "?", "solution": "\\boxed{1}", "answer": "2"}])
    with pytest.raises(DataError, match=r"c.jsonl: the columns fit native and trl; say which with format"):
        open_files([both], "train", SETTINGS)
    (source,) = open_files([both], "train", Settings(RULES, format="trl"))
    (position,) = (position for _, position, _ in source.file.scan())
    assert source.row(source.file.read(position), RULES).answer == "1"


def test_rows_take_part_in_a_mixture(three):
    rows = Rows("sums", three, SETTINGS)
    mixed = Mixture("mixed", (rows, rows))
    assert [int(mixed.problem(VALIDATION, i).id) for i in range(4)] == [10, 10, 11, 11]


def test_parquet_rows_with_embedded_bytes_become_problems(tmp_path, three):
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    content = []
    for grey in range(40):
        file = io.BytesIO()
        Image.new("RGB", (16, 16), (grey,) * 3).save(file, "PNG")
        content.append(file.getvalue())
    rows = [
        {
            "data_source": "greys",
            "prompt": [{"role": "user", "content": "<image>How bright?"}],
            "images": [{"bytes": content[i], "path": f"{i}.png"}],
            "reward_model": {"style": "rule", "ground_truth": str(i)},
        }
        for i in range(40)
    ]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "t.parquet", row_group_size=7)
    three[TEST] = [str(tmp_path / "t.parquet")]
    task = Rows("greys", three, SETTINGS)
    problems = [task.problem(TEST, i) for i in np.random.default_rng(0).permutation(40)]
    assert all(int(np.asarray(problem.images[0]).max()) == int(problem.answer) for problem in problems)
    assert problems[0].messages[0].items == (Medium.IMAGE, "How bright?")
