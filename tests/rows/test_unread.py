"""What of a row is not read is told, and a misspelt column that would be missed is refused."""

from functools import partial

import pytest

from copd.errors import BadRow
from copd.rewards.answers import final_answer
from copd.rows.formats import REQUIRED, RowRules, read_row
from copd.rows.unread import BOOKKEEPING, MAX_NAME, strangers

RULES = RowRules(
    frozenset({"exact", "choice", "mine"}), partial(final_answer, finished=True), "exact", own=frozenset({"mine"})
)
UNSEEN = "is not shown to the model; only reward functions of your own see it"
LIKELY = "is not shown to the model, which may be a mistake:"
FULL = {"prompt": "?", "problem": "?", "answer": "1", "solution": "1", "reward_model": {"ground_truth": "1"}}


def notes_of(format_name="native", rules=RULES, **columns):
    needed = {name: FULL[name] for name in REQUIRED[format_name]}
    return list(read_row({**needed, **columns}, format_name, rules).notes)


@pytest.mark.parametrize("name", REQUIRED)
@pytest.mark.parametrize("column", ["system", "context", "input", "tools", "audio", "ID"])
def test_a_column_that_no_model_sees_is_told_in_every_format(name, column):
    assert notes_of(name, **{column: ["x"]}) == [f"the column `{column}` {UNSEEN}"]


@pytest.mark.parametrize(
    ("column", "held", "meant"),
    [
        *((name, "pictures", "images") for name in ("img", "imgs", "image_path", "imagePaths", "image_a", "pictures")),
        *((name, "videos", "videos") for name in ("frames", "clips", "video_path")),
        *((name, "choices", "options") for name in ("candidates", "endings", "option_a", "A", "D")),
    ],
)
def test_a_column_by_which_others_call_media_or_choices_is_told_as_a_likely_mistake(column, held, meant):
    assert notes_of(**{column: "x"}) == [f"the column `{column}` {LIKELY} {held} are read from `{meant}`"]
    given = {"images": ["a.png"], "videos": ["a.mp4"], "options": ["1", "2"]}[meant]
    assert f"the column `{column}` {UNSEEN}" in notes_of(**{column: "x", meant: given})


@pytest.mark.parametrize("name", REQUIRED)
@pytest.mark.parametrize(
    ("column", "meant"),
    [("Images", "images"), ("IMAGES", "images"), ("Videos", "videos"), ("Options", "options"), ("choice", "choices")],
)
def test_a_misspelt_column_is_refused_whatever_its_case_unless_it_says_nothing(name, column, meant):
    with pytest.raises(BadRow, match=f"unknown column '{column}'; did you mean '{meant}'"):
        notes_of(name, **{column: ["x"]})
    assert notes_of(name, **{column: []}) == notes_of(name, **{column: None}) == []


def test_one_choice_or_a_number_of_images_is_no_missing_column():
    assert notes_of(choice="B") == [f"the column `choice` {LIKELY} choices are read from `options`"]
    assert notes_of(num_images=3, x=4) == [f"the column `num_images` {UNSEEN}", f"the column `x` {UNSEEN}"]


def test_bookkeeping_columns_and_columns_of_the_template_are_not_told():
    assert notes_of(**dict.fromkeys(BOOKKEEPING, "x")) == []
    rules = RowRules(
        RULES.verifiers,
        RULES.boxed_answer,
        "exact",
        template=lambda text, row: text + row["context"],
        shown={"context"},
    )
    assert notes_of(rules=rules, context="c", level="3") == [f"the column `level` {UNSEEN}"]


def test_what_does_not_reach_a_reward_function_either_is_told():
    assert notes_of(made=b"x") == ["the column `made` is not read"]
    assert notes_of(images=["a.png"], image="a.png") == ["the column `image` is not read"]
    assert notes_of(verifier="mine", made={"x": b"x"}) == [
        f"the column `made` {UNSEEN}",
        "the column `made` does not reach the reward function: JSON cannot hold it, or the row is too large",
    ]


def test_long_names_of_columns_are_told_and_not_remembered():
    strangers.cache_clear()
    assert notes_of(**{"x" * 2**20: 1}) == [
        f"a column with a name of more than {MAX_NAME} characters is not shown to the model"
    ]
    assert strangers(("prompt", "answer"), frozenset({"prompt", "answer"})) == ()
    assert strangers.cache_info().currsize == 2


def test_a_name_cannot_move_the_cursor():
    assert notes_of(**{"\x1b[2J\n": 1}) == [rf"the column `\x1b[2J\n` {UNSEEN}"]


@pytest.mark.parametrize(
    ("message", "note"),
    [
        ({"tool_calls": [1]}, "the key `tool_calls` of a message is not read"),
        (
            {"images": ["a.png"]},
            "the key `images` of a message is not read; pictures and videos are read from the columns images and "
            "videos",
        ),
        (
            {"content": [{"type": "text", "text": "?", "image": "a.png"}]},
            "the key `image` of a part of type text is not read; pictures and videos are read from the columns images "
            "and videos",
        ),
    ],
)
def test_keys_of_messages_and_parts_that_are_not_read_are_told(message, note):
    assert notes_of(prompt=[{"role": "user", "content": "?", **message}]) == [note]
    nothing = [{"role": "user", "content": [{"type": "text", "text": "?", "image": None}], "name": None}]
    assert notes_of(prompt=nothing) == []


def test_a_picture_named_in_its_part_beside_the_column_is_told():
    parts = [{"type": "image", "image": "b.png"}, {"type": "text", "text": "?"}]
    (note,) = notes_of(prompt=[{"role": "user", "content": parts}], images=["a.png"])
    assert note.startswith("the key `image` of a part of type image is not read; pictures and videos are read from")


def test_a_prompt_that_is_messages_as_text_is_told():
    told = ["the prompt is a list of messages written as a text, and is asked as that text"]
    assert notes_of(prompt='[{"role": "user", "content": "2+2?"}]') == told
    assert notes_of(prompt="[{'content': '2+2?', 'role': 'user'}]") == told
    assert notes_of(prompt="[1, 2] or {3}?") == []


@pytest.mark.parametrize("mark", ["<image 1>", "<image1>", "<img>", "[image]", "<IMAGE>"])
def test_a_mark_of_another_library_is_told(mark):
    told = [f"{mark} in the prompt is asked as text; marks are <image> and <video>"]
    assert notes_of(prompt=f"Is {mark} it?", images=["a.png"]) == told
    assert notes_of(prompt=f"Is {mark} it?") == []


def test_what_stands_beside_a_picture_and_rates_that_no_video_takes_are_told():
    assert notes_of(images=[{"path": "a.png", "image": "b.png"}]) == ["image beside path in images is not read"]
    assert notes_of(images=[{"bytes": b"x", "path": "b.png"}]) == []
    assert notes_of(fps=2) == ["fps is not read in a row without videos"]
    assert notes_of(fps=2, videos=["a.mp4"]) == [
        "fps beside a video file is not read; media.fps in the recipe samples it"
    ]
    assert notes_of(fps=2, videos=[{"video": ["a.png"], "fps": 2}]) == []


def test_a_number_that_exact_compares_as_a_text_is_told():
    (note,) = notes_of(answer=3.10)
    assert note.startswith("the answer is a number in its shortest form")
    assert notes_of(answer=3) == notes_of(answer="3.10") == []
