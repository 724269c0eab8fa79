"""Rows of four libraries come out in one form; what cannot be used is refused with its reason."""

import random
from functools import partial

import pytest

from copd.errors import BadRow, DataError
from copd.rewards.answers import final_answer
from copd.rows.formats import REQUIRED, RowRules, detect, read_row
from copd.types import Medium, Message

RULES = RowRules(frozenset({"exact", "integer"}), partial(final_answer, finished=True), verifier="exact")
NATIVE = {"prompt": "1+1?", "answer": "2"}
PNG = {"bytes": b"\x89PNG", "path": "ignored.png"}


def user(*parts):
    return (Message("user", parts),)


def test_a_native_row_needs_a_prompt_and_an_answer_only():
    row = read_row(NATIVE, "native", RULES)
    assert (row.messages, row.answer, row.verifier, row.id) == (user("1+1?"), "2", "exact", None)
    assert (row.kind, row.prompt, row.question) == ("text", "1+1?", "1+1?")


def test_a_native_row_may_say_everything():
    raw = {
        "id": 7,
        "prompt": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "this?"}]},
            {"role": "assistant", "content": "A dog."},
            {"role": "user", "content": "And <video>?"},
        ],
        "images": ["dog.png"],
        "videos": [["a.png", {"bytes": "iVBORw=="}]],
        "fps": 4,
        "answer": 3,
        "verifier": "integer",
        "difficulty": "hard",
    }
    row = read_row(raw, "native", RULES)
    assert row.messages == (
        Message("system", ("Be brief.",)),
        Message("user", (Medium.IMAGE, "this?")),
        Message("assistant", ("A dog.",)),
        Message("user", ("And ", Medium.VIDEO, "?")),
    )
    assert (row.id, row.answer, row.verifier, row.fps, row.kind) == ("7", "3", "integer", 4.0, "video")
    assert (row.images, row.videos) == (("dog.png",), (("a.png", b"\x89PNG"),))


def test_a_verl_row_has_its_answer_in_the_reward_model():
    raw = {
        "data_source": "openai/gsm8k",
        "prompt": [{"role": "user", "content": "<image>How many?"}],
        "ability": "math",
        "reward_model": {"style": "rule", "ground_truth": "72"},
        "extra_info": {"index": 0, "split": "train"},
        "images": [PNG],
    }
    row = read_row(raw, "verl", RULES)
    assert (row.messages, row.answer, row.images) == (user(Medium.IMAGE, "How many?"), "72", (b"\x89PNG",))
    named = {**raw, "images": [{"image": "a.png"}]}
    assert read_row(named, "verl", RULES).images == ("a.png",)


@pytest.mark.parametrize(
    ("solution", "answer"),
    [
        ("34", "34"),
        (" $\\frac{1}{2}$ ", "$\\frac{1}{2}$"),
        ("First 3 + 4.\nThen \\boxed{\\frac{7}{2}} it is.", "\\frac{7}{2}"),
        ("<answer> B </answer>", "B"),
        ("<answer>so \\boxed{4}</answer>", "4"),
        (5, "5"),
    ],
)
def test_the_answer_of_a_trl_row_is_the_box_of_its_solution_else_all_of_it(solution, answer):
    assert read_row({"prompt": "?", "solution": solution}, "trl", RULES).answer == answer


@pytest.mark.parametrize(
    "column",
    [
        {"image": PNG},
        {"images": [PNG]},
        {"image": None, "images": [PNG]},
        {"image": PNG, "images": None},
        {"image": PNG, "images": []},
    ],
)
def test_a_trl_row_has_one_image_or_a_list_of_them(column):
    prompt = [{"role": "user", "content": "what?"}]
    row = read_row({"prompt": prompt, "solution": "4", **column}, "trl", RULES)
    assert (row.images, row.messages) == ((b"\x89PNG",), user(Medium.IMAGE, "what?"))


def test_a_row_of_easyvideor1_is_read_with_its_data_type():
    raw = {
        "problem_id": "v-1",
        "problem": "<video>Which?",
        "answer": "<answer>B</answer>",
        "problem_type": "multiple choice",
        "data_type": "video",
        "videos": ["clips/1.mp4"],
        "images": [],
    }
    row = read_row(raw, "easyr1", RULES)
    assert (row.id, row.answer, row.videos) == ("v-1", "B", ("clips/1.mp4",))
    assert row.messages == user(Medium.VIDEO, "Which?")


@pytest.mark.parametrize(("column", "identity"), [({"id": 3}, "3"), ({"id": None}, "v-1"), ({}, "v-1")])
def test_an_id_that_is_null_leaves_the_problem_id(column, identity):
    raw = {"problem_id": "v-1", "problem": "?", "answer": "B", **column}
    assert read_row(raw, "easyr1", RULES).id == identity


@pytest.mark.parametrize("name", REQUIRED)
@pytest.mark.parametrize("column", ["image", "video"])
def test_no_picture_is_lost_for_the_name_of_its_column(name, column):
    raw = {"prompt": "?", "problem": "?", "answer": "1", "solution": "1", "reward_model": {"ground_truth": "1"}}
    row = read_row({**raw, column: "a.png"}, name, RULES)
    assert (row.kind, row.references) == (column, ["a.png"])
    if (name, column) != ("trl", "image"):
        both = read_row({**raw, column: "a.png", f"{column}s": ["b.png"]}, name, RULES)
        assert both.references == ["b.png"]
        assert f"the column `{column}` is not read" in both.notes
    with pytest.raises(BadRow, match=f"unknown column '{column}ss'; did you mean '{column}s'"):
        read_row({**raw, f"{column}ss": "a.png"}, name, RULES)


def test_an_empty_id_is_none():
    assert read_row({**NATIVE, "id": ""}, "native", RULES).id is None
    assert read_row({**NATIVE, "id": 0}, "native", RULES).id == "0"


@pytest.mark.parametrize("name", REQUIRED)
def test_a_format_is_told_by_its_columns(name):
    assert detect({*REQUIRED[name], "level"}, "f.jsonl") == name


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"prompt", "answer", "solution"}, "f.jsonl: the columns fit native and trl; say which with format"),
        ({"prompt", "solution", "reward_model"}, "fit verl and trl"),
        ({"prompt", "promt"}, "no format fits the columns prompt, promt: native has prompt and answer; verl has"),
        (set(), r"no format fits the columns \(none\)"),
    ],
)
def test_columns_that_fit_several_formats_or_none_are_refused_with_the_candidates(columns, said):
    with pytest.raises(DataError, match=said):
        detect(columns, "f.jsonl")


HOSTILE = "\x1b[2J\nf.jsonl:2: all is well"


def test_names_of_columns_are_spelled_out_and_cannot_forge_a_line_or_move_the_cursor():
    with pytest.raises(DataError) as refusal:
        detect({"promt", HOSTILE}, "f.jsonl")
    assert r"the columns \x1b[2J\nf.jsonl:2: all is well, promt" in str(refusal.value)
    with pytest.raises(BadRow) as refused:
        read_row({"prompt": "?", HOSTILE: 1, "x" * 1000: 2}, "native", RULES)
    assert str(refused.value) == rf"answer is missing; columns are prompt, \x1b[2J\nf.jsonl:2: all is well, {'x' * 40}"


@pytest.mark.parametrize(
    ("name", "columns"),
    [
        ("native", {"fps": HOSTILE}),
        ("native", {"verifier": HOSTILE}),
        ("native", {"images": [{"bytes": HOSTILE}]}),
        ("native", {"prompt": [{"role": HOSTILE}]}),
        ("easyr1", {"data_type": HOSTILE}),
    ],
)
def test_whatever_a_row_holds_its_reason_is_one_printable_line(name, columns):
    with pytest.raises(BadRow) as refused:
        read_row({**NATIVE, "problem": "?", **columns}, name, RULES)
    assert str(refused.value).isprintable()


def test_a_reason_is_printable_whatever_it_is_made_of():
    assert str(BadRow(HOSTILE)) == r"\x1b[2J\nf.jsonl:2: all is well"


BAD = [
    ("native", {"prompt": "?"}, "answer is missing; columns are prompt"),
    ("native", {"prompt": None, "answer": "1"}, "prompt is null"),
    ("native", {**NATIVE, "answer": "  "}, "the answer is empty"),
    ("native", {**NATIVE, "answer": ["2"]}, "the answer is a list; accepted: a text or a number"),
    ("native", {**NATIVE, "answer": True}, "the answer is a truth value"),
    ("native", {**NATIVE, "answer": float("nan")}, "the answer is nan"),
    ("native", {**NATIVE, "prompt": 3}, "the prompt is of type int; accepted: a text or a list of messages"),
    ("native", {**NATIVE, "images": "a.png"}, "images is a text; accepted: a list"),
    ("native", {**NATIVE, "images": [3]}, r"images\[0\] is of type int"),
    ("native", {**NATIVE, "images": [{"bytes": None, "path": None}]}, r"images\[0\] holds none of bytes, path,"),
    ("native", {**NATIVE, "images": [None]}, r"images\[0\] is null; accepted: a path, or bytes"),
    ("native", {**NATIVE, "images": [{"url": "a.png"}]}, r"images\[0\] holds none of bytes, .*; its keys: url$"),
    ("native", {**NATIVE, "images": ["b'iVBORw0KGgo'"]}, r"images\[0\] is bytes as Python prints them"),
    (
        "native",
        {**NATIVE, "prompt": ["q1", "q2"], "answer": ["1", "2"]},
        "^the prompt is a list of texts; accepted: .*",
    ),
    ("native", {**NATIVE, "images": [{"bytes": "?"}]}, r"images\[0\].bytes is not base64"),
    ("native", {**NATIVE, "images": ["a.png"] * 129}, "129 images; accepted: at most 128"),
    ("native", {**NATIVE, "videos": [["a.png", None]]}, r"videos\[0\]\[1\] is null"),
    ("native", {**NATIVE, "videos": ["a.mp4", []]}, r"^videos\[1\] holds no frames$"),
    ("native", {**NATIVE, **{f"c{i}": 1 for i in range(999)}}, "^1001 columns; accepted: at most 1000$"),
    ("native", {**NATIVE, "verifier": "os.system"}, "unknown verifier 'os.system'; accepted: exact, integer"),
    ("native", {**NATIVE, "verifier": ["exact"]}, "unknown verifier"),
    ("native", {**NATIVE, "id": 1.5}, "id is of type float"),
    ("native", {**NATIVE, "fps": 0}, "^fps is 0; accepted: a number above 0$"),
    ("native", {**NATIVE, "fps": "2"}, "^fps is a text, '2'; accepted: a number above 0$"),
    (
        "native",
        {**NATIVE, "fps": 8, "videos": [{"video": ["a.png"], "fps": 2}]},
        "^fps is 8, beside its videos 2; accepted: one for all$",
    ),
    ("native", {**NATIVE, "verifer": "exact"}, "unknown column 'verifer'; did you mean 'verifier'"),
    ("native", {**NATIVE, "imagess": "a.png"}, "unknown column 'imagess'; did you mean 'images'"),
    ("verl", {"prompt": "?", "reward_model": "72"}, "reward_model.ground_truth is missing, reward_model is a text"),
    ("verl", {"prompt": "?", "reward_model": {"style": "rule"}}, "reward_model.ground_truth is missing"),
    ("trl", {"prompt": "?", "solution": "\\boxed{1} or \\boxed{2}"}, r"no single answer: 2 \\boxed"),
    ("trl", {"prompt": "?", "solution": "\\boxed{1"}, "not closed"),
    ("trl", {"prompt": "?", "solution": "We add.\nIt is 4."}, "a solution of several lines without"),
    (
        "trl",
        {"prompt": "?", "solution": "1", "image": "a", "images": ["b"]},
        "^both image and images are given; accepted:",
    ),
    (
        "easyr1",
        {"problem": "?", "answer": "1", "data_type": "x" * 999},
        "^data_type is 'x{40}' but the row holds text$",
    ),
    ("easyr1", {"problem": "?", "answer": "1", "data_type": "video"}, "data_type is 'video' but the row holds text"),
    ("easyr1", {"problem": "?", "answer": "1", "data_type": "text", "images": ["a"]}, "'text' but the row holds image"),
    (
        "trl",
        {"prompt": "?", "solution": "1", "data_type": "video"},
        "^data_type is 'video', but the row holds no picture",
    ),
]


@pytest.mark.parametrize(("name", "raw", "reason"), BAD, ids=[reason[:40] for _, _, reason in BAD])
def test_a_row_that_cannot_be_used_is_refused_with_its_reason(name, raw, reason):
    with pytest.raises(BadRow, match=reason) as refusal:
        read_row(raw, name, RULES)
    assert "\n" not in str(refusal.value)


def test_a_row_that_names_no_verifier_is_bad_where_the_task_has_no_default():
    with pytest.raises(BadRow, match="names no verifier"):
        read_row(NATIVE, "native", RowRules(RULES.verifiers, RULES.boxed_answer))


def test_an_extra_column_is_welcome_even_beside_the_one_it_looks_like():
    assert read_row({**NATIVE, "answers": ["2", "two"], "prompt_id": 3}, "native", RULES).answer == "2"


def anything(rng: random.Random, depth: int = 0):
    leaves = [None, True, 0, -1.5, "", "x", "<image>", b"\x00", "a/b.png", "\ud800", "\\boxed{"]
    if depth > 2 or rng.random() < 0.6:
        return rng.choice(leaves)
    if rng.random() < 0.5:
        return [anything(rng, depth + 1) for _ in range(rng.randrange(4))]
    keys = ["role", "content", "type", "text", "bytes", "path", "ground_truth", "image"]
    return {rng.choice(keys): anything(rng, depth + 1) for _ in range(rng.randrange(4))}


def test_whatever_a_row_holds_it_is_read_or_refused_but_nothing_crashes():
    rng = random.Random(0)
    columns = ["prompt", "answer", "solution", "problem", "reward_model", "images", "videos", "id", "fps", "image"]
    read = 0
    for _ in range(5000):
        raw = {"prompt": "?", "problem": "?", "answer": "1", "solution": "1", "reward_model": {"ground_truth": "1"}}
        raw |= {rng.choice(columns): anything(rng) for _ in range(rng.randrange(4))}
        for name in REQUIRED:
            try:
                row = read_row(raw, name, RULES)
            except BadRow:
                continue
            assert isinstance(row.answer, str)
            assert sum(part is Medium.IMAGE for message in row.messages for part in message.items) == len(row.images)
            read += 1
    assert read > 1000
