"""The benchmarks run, at a reduced size and without TRL, and print what they measured. They never test speed."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks import (
    grading,
    growth,
    jobs,
    measure,
    memory,
    ours,
    pixels,
    profile_rows,
    profile_step,
    sampling,
    theirs,
    vocabulary,
)
from benchmarks.ours import Lengthened, Size, digits, make_branches, problems_of
from benchmarks.responses import written

SMALL = Size(prompts=2, rollouts=2, max_new_tokens=24, short_tokens=4, repetitions=2)


@pytest.fixture(scope="module")
def branches():
    """Two branches of `demo-paper`, on text and on pictures."""
    return make_branches({kind: digits(kind) for kind in ("text", "image")}, SMALL.max_new_tokens)


def test_all_sides_take_turns_and_who_goes_first_moves_on():
    calls = []
    sides = {name: (lambda number, name=name: calls.append((number, name))) for name in "ab"}
    times = measure.interleave(sides, 2, warmups=1)
    assert calls == [(0, "a"), (0, "b"), (1, "b"), (1, "a"), (2, "a"), (2, "b")]
    assert {name: len(taken) for name, taken in times.items()} == {"a": 2, "b": 2}


def row(**changes):
    values = {"ours": [1.0, 2.0, 4.0], "theirs": [6.0, 8.0, 10.0], "required": 4.0}
    return measure.Row("a job", "another", "text", 2, "with", **(values | changes))


def test_a_row_says_medians_spread_ratio_and_whether_what_is_required_was_reached():
    assert row().ratio == 4.0
    assert row().paired == (3.25, 5.0)  # quartiles of 6/1, 8/2 and 10/4
    assert row().cells() == (
        *("a job", "another", "text", "2", "with"),
        *("2 [1, 4] s", "8 [6, 10] s", "**4.00** [3.25, 5.00]", "4.00", "yes"),
    )
    assert row(required=4.1).cells()[-2:] == ("4.10", "no")
    assert row(required=None).cells()[-2:] == ("-", "-")


def test_the_table_is_markdown_with_one_line_for_each_row():
    lines = measure.table([row(), row(unit="MiB")]).split("\n")
    assert [line.count("|") for line in lines] == [11] * 4
    assert "| 2 [1, 4] MiB |" in lines[3]


def test_the_page_keeps_all_but_what_stands_between_the_markers(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"before\n{measure.BEGIN}\nold\n{measure.END}\nafter\n")
    for text in ("first", "second"):
        measure.write_between_markers(page, text)
    assert page.read_text() == f"before\n{measure.BEGIN}\n\nsecond\n\n{measure.END}\nafter\n"
    page.write_text("none")
    with pytest.raises(ValueError, match="lacks the lines"):
        measure.write_between_markers(page, "text")


def test_the_page_of_the_documentation_has_the_markers():
    from benchmarks.run import PAGE

    text = PAGE.read_text()
    assert text.index(measure.BEGIN) < text.index(measure.END)


def test_without_shortcuts_samples_the_same_and_trains_on_all_rows_and_puts_everything_back(branches):
    branch = branches[0]
    originals = [getattr(owner, name) for owner, name, _ in ours.SHORTCUTS]
    assert originals
    collected = {}
    for way, side in jobs.both_ways(lambda number: collected.update(now=branch.collect("text", 0, 2, 2))).items():
        side(0)
        collected[way] = collected["now"]
    assert torch.equal(collected["with"].tokens_NT, collected["without"].tokens_NT)
    torch.testing.assert_close(collected["with"].logp_NT, collected["without"].logp_NT, atol=1e-5, rtol=0)
    alike = ours.GrpoObjective("native", collected["with"], 1.0, torch.zeros(4))
    assert len(alike.rows_with_gradient()) == 0
    with ours.without_shortcuts():
        assert len(alike.rows_with_gradient()) == 4
    assert [getattr(owner, name) for owner, name, _ in ours.SHORTCUTS] == originals


def test_rows_that_go_on_by_themselves_keep_their_parent_and_token_in_the_order_of_the_parents():
    prefix_R, token_R = torch.tensor([2, 0, 2, 1]), torch.tensor([7, 8, 7, 9])
    parent_M, token_M, place_R = ours.every_prefix(prefix_R, token_R, 100)
    assert parent_M.tolist() == [0, 1, 2, 2]
    assert torch.equal(parent_M[place_R], prefix_R)
    assert torch.equal(token_M[place_R], token_R)
    assert sorted(place_R.tolist()) == [0, 1, 2, 3]


@pytest.mark.parametrize("kind", ["text", "image", "video"])
def test_lengthened_prompts_have_about_the_length_asked_for(kind, branches):
    task = Lengthened(digits(kind), 120)
    lengths = branches[0].policy.encoder.lengths(problems_of(task, 0, Size(prompts=5)))
    assert all(117 <= length <= 123 for length in lengths), lengths


@pytest.mark.parametrize("kind", ["text", "image", "video"])
def test_the_other_side_reads_the_same_prompt_token_by_token(kind, branches):
    policy = branches[0].policy
    problem = digits(kind).problem(ours.Split.TRAIN, 0)
    ids_S = policy.encoder.encode([problem], policy.device).ids_PS[0].tolist()
    templated = policy.processor.apply_chat_template(
        [theirs.conversation(problem)], add_generation_prompt=True, tokenize=True, return_dict=True
    )
    processed = policy.processor(**theirs.arguments(policy, [problem]), return_tensors="pt")
    video, image = policy.tokenizer.convert_tokens_to_ids(["<|video_pad|>", "<|image_pad|>"])
    assert templated["input_ids"][0] == [image if token == video else token for token in ids_S]
    assert processed["input_ids"][0].tolist() == ids_S


def test_steps_run_and_are_undone(branches):
    student, teacher = branches
    restore = jobs.restoring(student)
    before = student.policy.weights()
    metrics = ours.grpo_step(student, 0, SMALL) | ours.opd_step(student, teacher, 0, SMALL)
    assert {"native/reward", "opd/delta"} <= metrics.keys()
    assert any(not torch.equal(before[name], weight) for name, weight in student.policy.weights().items())
    restore()
    assert all(torch.equal(before[name], weight) for name, weight in student.policy.weights().items())


@pytest.mark.parametrize("job", ["sampling", "long_training", "scoring"])
def test_the_jobs_without_trl_give_rows_with_all_repetitions(job):
    found = list(jobs.JOBS[job](SMALL) if job == "scoring" else jobs.JOBS[job](SMALL, ("text",)))
    assert len(found) == {"sampling": 2, "long_training": 1, "scoring": 2}[job]
    for each in found:
        assert len(each.ours) == len(each.theirs) == 2
        assert min(*each.ours, *each.theirs) > 0


def test_scoring_repeats_as_many_responses_as_it_says(branches):
    policy = branches[0].policy
    rollouts = written(policy, problems_of(digits("text"), 0, SMALL), 4, 6, distinct=2)
    groups = rollouts.tokens_NT.view(2, 4, 6)
    assert [len(group.unique(dim=0)) for group in groups] == [2, 2]
    assert torch.equal(groups[:, :2], groups[:, 2:])


@pytest.mark.parametrize("path", ["plain", "plain_tokens"])
def test_memory_of_a_step_is_measured_in_mib(path):
    assert memory.added_mib("text", path, SMALL) >= 0


def test_log_probs_in_chunks_are_measured_in_mib_and_seconds(monkeypatch):
    alone = jobs.told_by("benchmarks.vocabulary", 4, 64, 2048, 1)
    assert alone.keys() == {"seconds", "added_mib"}
    assert alone["seconds"] > 0

    def in_this_process(module, chunk, tokens, entries, threads):
        seconds, added = vocabulary.measured(tokens, entries, chunk)
        return {"seconds": seconds, "added_mib": added}

    monkeypatch.setattr(jobs, "told_by", in_this_process)
    found = list(jobs.vocabulary(SMALL, tokens=64, entries=2048))
    assert [(row.job, row.unit) for row in found] == [
        (f"log-probs of 64 tokens over 2,048, {chunk} at a time", unit) for chunk in (4, 16) for unit in ("MiB", "s")
    ]
    assert all(len(row.ours) == len(row.theirs) == 2 for row in found)


def test_growth_is_the_slope_in_logarithms():
    assert growth.Curve("rollouts", (1, 2, 4, 8), (3.0, 6.0, 12.0, 24.0)).exponent == pytest.approx(1.0)
    assert growth.Curve("rollouts", (1, 10, 100), (5.0, 5.0, 5.0)).exponent == pytest.approx(0.0)


def test_growth_is_measured_on_every_axis():
    axes = {"branches": (1, 2), "rollouts": (2, 3), "response": (3, 4), "prompt": (40, 50), "vocabulary": (128, 256)}
    assert axes.keys() == growth.AXES.keys()
    curves = growth.measure_all(axes, growth.Work(prompts=1, rollouts=2, response=3, prompt=40))
    assert [curve.axis for curve in curves] == list(growth.TOLD)
    assert curves[1].sizes == (2, 8)  # K native parts and 2 (K - 1) taught, of two rollouts each
    assert all(value > 0 for curve in curves for value in curve.seconds)
    assert growth.table(curves, 1).count("\n") == 1 + len(curves)


def test_places_that_are_refilled_take_fewer_steps_than_batches_and_less_room_than_one_batch():
    found = sampling.measure(sampling.Work(prompts=2, rollouts=4, prompt=30, limit=250, budget=300))
    batches, refilled, whole = (found[name] for name in sampling.SIDES)
    assert batches.tokens == refilled.tokens == whole.tokens
    assert whole.steps < refilled.steps < batches.steps
    assert refilled.bytes_held < whole.bytes_held
    assert sampling.table(found).count("\n") == 6


def test_a_profile_names_all_parts_of_a_step(branches):
    once = Size(prompts=1, rollouts=2, repetitions=1)
    parts = profile_step.by_clock(branches[1], once)
    assert tuple(parts) == profile_step.ORDER
    assert all(parts[name] > 0 for name in ("render", "encode", "prefill", "decode", "grade", "optimizer"))
    operators = profile_step.by_operator(lambda: ours.grpo_step(branches[1], 2, once))
    assert 0 < operators["products_share"] < 1
    assert operators["products_gflops"] > 0
    assert measure.gemm_peak(size=64, repetitions=2) > 0


def test_the_work_of_a_product_is_counted():
    matrix_MI, layer = torch.randn(64, 32), torch.nn.Linear(32, 16, bias=False)
    found = profile_step.by_operator(lambda: layer(matrix_MI))
    assert found["products_gflop"] == pytest.approx(2 * 64 * 32 * 16 / 1e9)
    assert found["products_share"] > 0


def test_a_row_is_explained_by_the_products_of_both_sides():
    (line, _) = profile_rows.profile_rows(["long_training"], replace(SMALL, repetitions=1))
    assert len(line) == len(profile_rows.HEADER)
    told = dict(zip(profile_rows.HEADER, line, strict=True))
    assert (told["kind"], told["shortcuts"]) == ("text", "-")
    assert 1.0 < float(told["ratio"]) < SMALL.rollouts
    assert 0 < float(told["their share of the time: ours"].rstrip("%")) < 100


def test_the_clock_gives_each_part_its_own_time_without_the_parts_inside(monkeypatch):
    now = iter([0.0, 1.0, 3.0, 6.0, 10.0])
    monkeypatch.setattr(profile_step.time, "perf_counter", lambda: next(now))
    clock = profile_step.Clock()
    with clock.part("outer"), clock.part("inner"):
        pass
    assert dict(clock.seconds) == {"all else": 1.0, "outer": 2.0 + 4.0, "inner": 3.0}


def test_grading_is_told_for_each_kind_of_answers_beside_the_floor(capsys):
    grading.main(workers=1, problems=2)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(", ")[1].partition(":")[0] for line in lines] == [
        *("all kinds of answer", "plain numbers", "no plain numbers", "all kinds of answer")
    ]
    for line in lines:
        rate, ratio = re.fullmatch(r" *(\d+) (?:responses|pairs) .*: ([\d.]+) x the floor of 500", line).groups()
        assert float(ratio) == pytest.approx(int(rate) / 500, abs=0.06)


def test_files_stay_short():
    for path in Path(measure.__file__).parent.glob("*.py"):
        assert path.read_text().count("\n") <= 350, path


def test_the_pixels_of_a_step_are_measured_with_and_without_the_thread(tmp_path):
    for alone in (True, False):
        found = pixels.measured(tmp_path, 3, 288, 2, 1, alone=alone)
        assert found["tokens"] == 3 * (9 * 9 + 11), "of 32 pixels each, and the chat around them"
        assert found["peak_mib"] >= found["drawn_mib"]
