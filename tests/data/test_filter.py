"""`copd data filter`: rows that a model answers rightly sometimes, neither always nor never, as they were written."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from copd.assemble.rows import make_rows
from copd.branches.actor import Actor
from copd.data.filter import filter_rows
from copd.errors import DataError, ModelFolderError, RecipeError
from copd.recipe.reading import make_recipe
from copd.types import Split

SAMPLES = 4
SUMS = [(a, b) for a in range(1, 8) for b in (2, 3, 5, 9)]
"""The base is right on each of them in about every second sample."""


def sum_row(a, b, **columns):
    return {"prompt": f"usual value: {a}+{b}", "answer": a + b, "verifier": "integer"} | columns


def recipe_of(train, seed=0, **task):
    task = {"kind": "rows", "train": train} | task
    data = {
        "seed": seed,
        "model": {"dtype": "float32", "device": "cpu"},
        "branches": {"text": {"task": task}},
        "schedule": {"opd_steps": 0},
        "sampling": {"prompts_per_step": 5, "rollouts_per_prompt": SAMPLES, "max_new_tokens": 20},
    }
    return make_recipe(data)


def write(path: Path, rows) -> str:
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return str(path)


@pytest.fixture(scope="module")
def others(tmp_path_factory) -> dict[str, str]:
    """Files for the other splits, so that no training row is cut off."""
    folder = tmp_path_factory.mktemp("others")
    return {name: write(folder / f"{name}.jsonl", [sum_row(8, 8)]) for name in ("validation", "test")}


@pytest.fixture(scope="module")
def filtered(others, tmp_path_factory):
    """Two files with a byte order mark, odd spelling, line ends of two kinds, an empty line and none at the end.

    Given are the lines of the rows, the bytes written, what was found, and each call of the model: prompts and how many
    answers to each were right.
    """
    folder = tmp_path_factory.mktemp("filter")
    lines = [json.dumps(sum_row(a, b, note="caf\u00e9"), ensure_ascii=i % 2 == 0) for i, (a, b) in enumerate(SUMS)]
    lines = [line.replace('": ', '":   ') + ("\r" if i % 3 == 0 else "") for i, line in enumerate(lines)]
    lines += [json.dumps(sum_row(a, a, answer=999)) for a in range(1, 4)]
    first, second = lines[::2], lines[1::2]
    (folder / "a.jsonl").write_bytes(b"\xef\xbb\xbf" + "\n\n".join(first).encode() + b"\n")
    (folder / "b.jsonl").write_bytes("\n".join(second).encode())
    calls, answer = [], Actor.answer

    def spy(self, problems, rollouts_per_prompt, generator):
        rollouts = answer(self, problems, rollouts_per_prompt, generator)
        assert rollouts.correct_N is not None
        right = [0] * len(problems)
        for p, correct in zip(rollouts.prompt_of_N.tolist(), rollouts.correct_N.tolist(), strict=True):
            right[p] += correct
        calls.append(([problem.prompt for problem in problems], right))
        return rollouts

    recipe = recipe_of([str(folder / "a.jsonl"), str(folder / "b.jsonl")], **others)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Actor, "answer", spy)
        found, passed_on = filter_rows(recipe, "text", folder / "new" / "out.jsonl")
    assert passed_on == 0
    return first + second, (folder / "new" / "out.jsonl").read_bytes(), found, calls


def test_rows_right_sometimes_are_kept_byte_for_byte_and_in_order(filtered):
    lines, written, found, calls = filtered
    right = [count for _, counts in calls for count in counts]
    assert [prompt for prompts, _ in calls for prompt in prompts] == [json.loads(line)["prompt"] for line in lines]
    kept = [line for line, count in zip(lines, right, strict=True) if 0 < count < SAMPLES]
    assert written == "".join(line + "\n" for line in kept).encode()
    assert (found.always, found.never) == (right.count(SAMPLES), right.count(0))
    assert found.always
    assert found.never >= 3
    assert len(kept) > 3


def test_rows_are_asked_a_few_at_a_time(filtered):
    sizes = [len(prompts) for prompts, _ in filtered[3]]
    assert sizes == [5] * (sum(sizes) // 5) + [1]


def test_the_summary_counts_and_names_some_of_those_left_out(filtered):
    _, written, found, _ = filtered
    rows, kept, always, never = found.summary()
    assert rows == f"{len(SUMS) + 3} rows, {SAMPLES} samples each"
    assert kept == f"  kept, sometimes right: {written.count(b'prompt')}"
    assert always.startswith(f"  left out, always right: {found.always}, such as ")
    assert f"  left out, never right: {found.never}, such as " in never
    assert found.always_at[0].split(":")[0].endswith(".jsonl")


def test_the_same_seed_keeps_the_same_rows_and_another_seed_others(others, tmp_path):
    path = write(tmp_path / "rows.jsonl", [sum_row(a, b) for a, b in SUMS[:12]])
    for name, seed in (("one", 0), ("two", 0), ("three", 1)):
        filter_rows(recipe_of(path, seed, **others), "text", tmp_path / f"{name}.jsonl", samples=2)
    one, two, three = ((tmp_path / f"{name}.jsonl").read_bytes() for name in ("one", "two", "three"))
    assert one == two
    assert one != three


def test_rows_cut_off_by_hash_stay_and_are_cut_off_again(tmp_path):
    path = write(tmp_path / "rows.jsonl", [sum_row(a, b, id=f"{a}+{b}") for a, b in SUMS])
    shares = {"validation_share": 0.3, "test_share": 0.2}
    recipe = recipe_of(path, **shares)
    before = rows_of(recipe)
    found, passed_on = filter_rows(recipe, "text", tmp_path / "out.jsonl", samples=8)
    after = rows_of(recipe_of(str(tmp_path / "out.jsonl"), **shares))
    assert after["validation"] == before["validation"]
    assert after["test"] == before["test"]
    assert passed_on == len(before["validation"]) + len(before["test"])
    assert found.rows == len(before["train"])
    assert len(after["train"]) == len(found.kept) < found.rows
    assert set(after["train"]) < set(before["train"])


def test_at_most_so_many_rows_are_kept_in_their_order_and_another_seed_keeps_others(others, tmp_path):
    path = write(tmp_path / "rows.jsonl", [sum_row(a, b) for a, b in SUMS])
    recipe, out = recipe_of(path, **others), tmp_path / "out.jsonl"
    all_of_them, _ = filter_rows(recipe, "text", tmp_path / "all.jsonl")
    found, _ = filter_rows(recipe, "text", out, at_most=5)
    every = (tmp_path / "all.jsonl").read_text().splitlines()
    chosen = out.read_text().splitlines()
    assert len(chosen) == len(found.kept) == 5
    assert [row for row in every if row in chosen] == chosen
    assert chosen != every[:5]
    assert found.summary()[0] == all_of_them.summary()[0]
    assert found.summary()[1] == f"  kept, sometimes right: 5 of {len(every)}, chosen by seed and place"
    again = replace(all_of_them, kept=all_of_them.kept[::-1])
    again.keep_at_most(5, 0)
    assert again.kept == found.kept
    again = replace(all_of_them)
    again.keep_at_most(5, 1)
    assert again.kept != found.kept
    again = replace(all_of_them)
    again.keep_at_most(1000, 0)
    assert again == all_of_them


def rows_of(recipe) -> dict[str, list[str]]:
    rows = make_rows("text", recipe.branches["text"].task, 0, {})
    return {split.value: [problem.id for _, problem in rows.in_file_order(split)] for split in Split}


def test_a_file_is_filtered_in_place_of_the_branchs_own_and_by_another_model(others, tmp_path):
    own, other = (write(tmp_path / f"{name}.jsonl", [sum_row(a, b) for a, b in SUMS[:6]]) for name in "ab")
    recipe = recipe_of(own, **others)
    out = tmp_path / "out.jsonl"
    with pytest.raises(ModelFolderError, match="--model: no folder 'nowhere'"):
        filter_rows(recipe, "text", out, model="nowhere")
    found, _ = filter_rows(recipe, "text", out, file=other, model="builtin:digits")
    assert found.rows == 6
    assert all(where.startswith(other) for where in (*found.always_at, *found.never_at))


def test_where_no_row_is_kept_nothing_is_written_and_the_counts_are_told(others, tmp_path):
    path = write(tmp_path / "rows.jsonl", [sum_row(a, b, answer=999) for a, b in SUMS[:3]])
    with pytest.raises(
        DataError, match=r"out.jsonl: not written, no row would be kept\n3 rows, .*\n.*\n.*never right: 3"
    ):
        filter_rows(recipe_of(path, **others), "text", tmp_path / "out.jsonl")
    assert [each.name for each in tmp_path.iterdir()] == ["rows.jsonl"]


def test_what_cannot_be_written_is_refused_before_any_model_is_loaded(others, tmp_path):
    Image.new("RGB", (16, 16)).save(tmp_path / "a.png")
    path = write(tmp_path / "rows.jsonl", [sum_row(1, 2), sum_row(1, 2, images=["a.png"])])
    recipe = recipe_of(path, **others)
    recipe = recipe.model_copy(update={"model": recipe.model.model_copy(update={"path": "nowhere"})})
    (tmp_path / "there.jsonl").write_text("precious")
    with pytest.raises(DataError, match=r"there.jsonl: exists already"):
        filter_rows(recipe, "text", tmp_path / "there.jsonl")
    with pytest.raises(DataError, match=r"name images or videos by paths that start at .*; write it into that folder"):
        filter_rows(recipe, "text", tmp_path / "elsewhere" / "out.jsonl")
    with pytest.raises(RecipeError, match="--branch sound: no branch of kind rows; there is text"):
        filter_rows(recipe, "sound", tmp_path / "out.jsonl")
    assert (tmp_path / "there.jsonl").read_text() == "precious"


def test_the_command_prints_the_summary(command, others, tmp_path):
    write(tmp_path / "rows.jsonl", [sum_row(a, b) for a, b in SUMS[:6]])
    (tmp_path / "recipe.yaml").write_text(recipe_of("rows.jsonl", **others).model_dump_json())
    arguments = ["--recipe", "recipe.yaml", "--branch", "text", "--out", "out.jsonl", "--samples", "6"]
    done = command("data", "filter", *arguments, "sampling.temperature=0.9")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("6 rows, 6 samples each\n  kept, sometimes right: ")
    kept = (tmp_path / "out.jsonl").read_text().count("\n")
    assert done.stdout.endswith(f"out.jsonl: {kept} rows, for branches.text.task.train\n")
