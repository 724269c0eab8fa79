"""Whole runs on the embedded world: every method, resume from every phase, and what a run leaves behind."""

import io
import json
import shutil
from pathlib import Path

import merges
import numpy as np
import pytest
import torch
from checkpoints import tensors_of
from PIL import Image
from records import events
from rich.console import Console
from safetensors.torch import load_file
from small_base import EASY, easy
from tiny_kinds import tiny_of_kind
from transformers import AutoModelForImageTextToText, AutoProcessor

import copd
from copd.assemble.assembled import Assembled
from copd.assemble.tasks import conflict_warnings
from copd.commands.manifest import new_manifest
from copd.commands.train import train
from copd.errors import CheckpointError, ModelFolderError, NonFiniteError, RecipeError
from copd.measure.evaluate import Answers, tabulate
from copd.model.folders import model_folder
from copd.model.policy import Policy
from copd.recipe.reading import load_recipe
from copd.report.page import write_pages
from copd.runs.checkpoint import latest_checkpoint
from copd.runs.runlog import read_lines
from copd.runs.saved import result_of
from copd.runs.screen import Screen
from copd.tasks.digits import Digits
from copd.types import Split

SMALL = [
    "backend=local",
    "model.threads_per_branch=1",
    "schedule={cycles: 1, rl_steps: 2, opd_steps: 2}",
    "sampling={prompts_per_step: 2, rollouts_per_prompt: 4, max_new_tokens: 28}",
    "opd={prompts_per_step: 2, rollouts_per_prompt: 2}",
    "evaluation={problems: 2, validation_problems: 1, behaviour_problems: 1, pass_at: [1, 2]}",
    "checkpoint={every_steps: 1, keep_last: 20}",
]
HARDLY_MEASURED = (
    "evaluation={problems: 1, validation_problems: 1, behaviour_problems: 1, pass_at: [], every_cycles: 9}"
)
TWO_BRANCHES = (
    "branches={text: {task: {capability: text, conflict: 1.0}}, image: {task: {capability: image, conflict: %s}}}"
)
CLOCKS = ("seconds", "tokens_per_second", "critical_path")

pytestmark = pytest.mark.usefixtures("undrawn")


def without_clocks(value):
    if isinstance(value, dict):
        return {k: without_clocks(v) for k, v in value.items() if k not in CLOCKS and not k.endswith("_seconds")}
    return [without_clocks(v) for v in value] if isinstance(value, list) else value


def record(folder: Path) -> list:
    return [without_clocks(line) for line in read_lines(folder / "metrics.jsonl")]


@pytest.fixture(scope="module")
def small(small_base):
    changes = [easy("text", "image", "video"), f"model.path={small_base}", "sampling.max_new_tokens=12"]
    return load_recipe("demo-paper", [*SMALL, *changes])


@pytest.fixture(scope="module")
def finished(small, tmp_path_factory) -> Path:
    return copd.train(small, tmp_path_factory.mktemp("copd") / "run").folder


@pytest.fixture(scope="module")
def warned(tmp_path_factory) -> str:
    """What the screen says of a run whose base knows another share of conflict, and of which every response is cut."""
    said = io.StringIO()
    changes = [*SMALL, "branches.image.task.conflict=0.5", "method=mixed", "budget.rollouts=8", HARDLY_MEASURED]
    changes.append("sampling={prompts_per_step: 1, rollouts_per_prompt: 2, max_new_tokens: 3}")
    folder = tmp_path_factory.mktemp("warned") / "run"
    train(load_recipe("demo-paper", changes), folder, screen=Screen(Console(file=said, width=300)))
    return said.getvalue()


def test_a_base_warmed_up_at_another_share_of_conflict_is_warned_of(warned):
    changes = ["branches.image.task.conflict=0.5", "model.path=nowhere"]
    assert conflict_warnings(load_recipe("demo-paper", changes)) == conflict_warnings(load_recipe("demo-paper")) == []
    assert "branches.image.task.conflict: is 0.5, but builtin:digits was warmed up at 1.0" in warned
    assert "branches.text" not in warned


def test_a_run_of_a_text_only_model_says_what_loads_it_on_the_screen_and_in_its_cards(tmp_path):
    Policy(*tiny_of_kind("qwen3")).save(tmp_path / "base", "")
    task = "{task: {kind: digits, capability: text}}"
    changes = [f"branches={{one: {task}, two: {task}}}", f"model.path={tmp_path / 'base'}"]
    said = io.StringIO()
    recipe = load_recipe("demo-paper", [*SMALL, *changes, "schedule={cycles: 1, rl_steps: 1, opd_steps: 0}"])
    train(recipe, tmp_path / "run", screen=Screen(Console(file=said, width=300)))
    assert f"use it: AutoModelForCausalLM.from_pretrained('{tmp_path / 'run' / 'merged'}')" in said.getvalue()
    card = (tmp_path / "run" / "merged" / "README.md").read_text(encoding="utf-8")
    assert "pipeline_tag: text-generation" in card
    assert "AutoModelForCausalLM.from_pretrained(" in card


def test_a_run_folder_holds_what_readers_rely_on(finished):
    assert {path.name for path in finished.iterdir()} >= {
        "manifest.json",
        "metrics.jsonl",
        "samples.jsonl",
        "answers.jsonl",
        "media",
        "checkpoints",
        "branches",
        "merged",
        "report.html",
    }
    manifest = json.loads((finished / "manifest.json").read_text())
    schedule = manifest["recipe"]["schedule"]
    assert [schedule[name] for name in ("cycles", "rl_steps", "opd_steps")] == [1, 2, 2]
    assert set(manifest["versions"]) == {"copd", "torch", "transformers"}
    assert manifest["base_sha256"]


def test_the_merged_model_is_the_mean_of_the_branches(finished):
    merged = load_file(finished / "merged" / "model.safetensors")
    branches = [load_file(finished / "branches" / name / "model.safetensors") for name in ("text", "image", "video")]
    for name, tensor in merged.items():
        torch.testing.assert_close(tensor, sum(branch[name] for branch in branches) / 3, rtol=1e-6, atol=1e-7)


def test_validations_measure_the_branches_alone_unless_the_recipe_asks_for_more(finished):
    for event in events(finished, "accuracy"):
        assert {cell["model"] for cell in event["table"]} == {"text", "image", "video"}


DARE = [*SMALL, TWO_BRANCHES % 1.0, "schedule={cycles: 1, rl_steps: 1, opd_steps: 0}", HARDLY_MEASURED]
DARE.append("merge={method: dare, scale: 0.5, density: 0.6, seed: 4}")


@pytest.fixture(scope="module")
def dare(tmp_path_factory) -> Path:
    return copd.train(load_recipe("demo-paper", DARE), tmp_path_factory.mktemp("dare") / "run").folder


def test_a_run_merges_by_the_method_of_its_recipe_from_its_base(dare, assert_same):
    folder = dare
    base = load_file(model_folder("builtin:digits") / "model.safetensors")
    branches = [load_file(folder / "branches" / name / "model.safetensors") for name in ("text", "image")]
    expected = merges.merge(branches, method="dare", base=base, scale=0.5, density=0.6, seed=4)
    assert_same(load_file(folder / "merged" / "model.safetensors"), expected)
    assert any(not torch.equal(expected[name], tensor) for name, tensor in merges.mean(branches).items())


@pytest.mark.parametrize("capability", ["text", "image", "video"])
def test_the_merged_folder_answers_alike_through_plain_transformers(dare, capability):
    problem = Digits(capability, conflict=1.0).problem(Split.TEST, 3)
    policy = Policy.from_pretrained(dare / "merged")
    ours = policy.sample([problem], max_new_tokens=12)
    model = AutoModelForImageTextToText.from_pretrained(dare / "merged")
    processor = AutoProcessor.from_pretrained(dare / "merged")
    media = [{"type": kind} for kind in ("image", "video") if kind == capability]
    chat = [{"role": "user", "content": [*media, {"type": "text", "text": problem.prompt}]}]
    text = processor.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    inputs = {"text": [text], "return_tensors": "pt"}
    if problem.images:
        inputs["images"] = list(problem.images)
    if problem.videos:
        frames = len(problem.videos[0])
        inputs["videos"] = list(problem.videos)
        inputs["video_metadata"] = [
            {"fps": problem.fps, "total_num_frames": frames, "frames_indices": list(range(frames))}
        ]
    batch = processor(**inputs)
    theirs = model.generate(**batch, max_new_tokens=12, do_sample=False)[0, batch["input_ids"].shape[1] :]
    assert theirs.tolist() == ours.tokens_NT[0, : len(theirs)].tolist()


def test_every_step_logs_what_is_needed_to_judge_it(finished):
    updates = events(finished, "update")
    assert len(updates) == 4 * 3
    for update in updates:
        names = {"reward", "groups_with_signal", "response_length", "truncated_rate"}
        assert names <= {name.removeprefix("native/") for name in update}
        assert {"grad_norm", "tokens_per_second", "skipped"} <= set(update)
        if update["native/groups_with_signal"]:
            assert {"native/entropy", "native/clip_rate", "native/logp_mismatch"} <= set(update)
            assert update["native/logp_mismatch"] < 1e-4
    taught = [update for update in updates if update["phase"] == "opd" and update["branch"] == "text"]
    assert len(taught) == 2
    for update in taught:
        for teacher in ("image", "video"):
            assert {f"from_{teacher}/{n}" for n in ("delta", "delta_abs", "clamp_rate")} <= set(update)


def test_behaviour_and_teachers_are_measured_at_the_end_of_every_phase(finished):
    points = events(finished, "behaviour")
    assert [(point["step"], point["phase"]) for point in points] == [(-1, "start"), (1, "rlvr"), (3, "opd")]
    start, last = points[0], points[-1]
    assert start["overlap"]["5"]["text"]["video"] == 1.0
    assert start["symmetric_kl"]["image"]["video"] == 0.0
    assert last["symmetric_kl"]["image"]["video"] > 0
    assert set(last["accuracy"]["text"]) == {"text", "image", "video"}


def test_each_teacher_is_compared_with_its_student_on_the_teachers_capability(finished):
    points = events(finished, "teaching")
    assert len(points) == 3 * 4
    for point in points:
        (measured,) = (p for p in events(finished, "behaviour") if p["step"] == point["step"])
        assert point["teacher_accuracy"] == measured["accuracy"][point["teacher"]][point["teacher"]]
        assert point["student_accuracy"] == measured["accuracy"][point["student"]][point["teacher"]]
        assert point["lead"] == pytest.approx(point["teacher_accuracy"] - point["student_accuracy"])
        assert point["lead_low"] <= point["lead"] <= point["lead_high"]


def test_a_base_with_nan_is_refused_before_anything_runs(tmp_path):
    policy = Policy.from_pretrained(model_folder("builtin:digits"))
    policy.model.get_input_embeddings().weight.data.fill_(torch.nan)
    policy.save(tmp_path / "base", "")
    said = f"^{tmp_path / 'base'}: the model's log-probs are not numbers: its weights are damaged$"
    with pytest.raises(ModelFolderError, match=said):
        copd.train(load_recipe("demo-paper", [*SMALL, f"model.path={tmp_path / 'base'}"]), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_whose_weights_become_nan_stops_after_a_few_skipped_steps(tmp_path):
    changes = [TWO_BRANCHES % 1.0, "optimizer.learning_rate=1e38", "schedule.rl_steps=9", HARDLY_MEASURED]
    recipe = load_recipe("demo-paper", [*SMALL, *changes])
    with pytest.raises(NonFiniteError, match="5 optimizer steps in a row"):
        copd.train(recipe, tmp_path / "run")
    assert sum(update["skipped"] for update in events(tmp_path / "run", "update")) >= 4


def test_the_ledger_counts_exactly_the_planned_rollouts(finished):
    (ledger,) = events(finished, "ledger")
    total = sum(spent["rollouts"] for phases in ledger["spent"].values() for spent in phases.values())
    assert total == ledger["planned_rollouts"] == 4 * 3 * 8 + 2 * 4 * 4
    assert ledger["spent"]["text"]["opd"]["tokens_scored"] > 0
    assert ledger["spent"]["text"]["rlvr"]["tokens_scored"] == 0


def test_the_result_covers_base_branches_and_merge_with_intervals(finished):
    (result,) = events(finished, "result")
    assert {cell["model"] for cell in result["table"]} == {"base", "text", "image", "video", "merged"}
    assert {cell["capability"] for cell in result["table"]} == {"text", "image", "video", "average"}
    for cell in result["table"]:
        for estimate in (cell["greedy"], cell["pass_at"]["1"], cell["pass_at"]["2"]):
            assert 0 <= estimate["low"] <= estimate["value"] <= estimate["high"] <= 1
            assert estimate["low"] < estimate["high"]


def test_samples_hold_an_answer_of_every_branch_and_capability_token_by_token(finished):
    samples = list(read_lines(finished / "samples.jsonl"))
    names = ("text", "image", "video")
    assert [(s["step"], s["branch"], s["capability"]) for s in samples] == [
        *((-1, name, name) for name in names),
        *((step, branch, capability) for step in (1, 3) for branch in names for capability in names),
    ]
    assert not any(sample["delta"] for sample in samples[:3]), "at the start each branch is asked for its share alone"
    for sample in samples[3:]:
        assert "".join(sample["tokens"]).removesuffix("<|im_end|>") == sample["response"]
        assert len(sample["tokens"]) == sample["tokens_in_all"] == len(sample["logp"])
        assert set(sample["delta"]) == set(names) - {sample["branch"]}
        for peer, delta in sample["delta"].items():
            assert len(delta) == len(sample["tokens"])
            assert any(delta), peer


def test_the_pictures_of_the_samples_are_kept_once(finished):
    samples = list(read_lines(finished / "samples.jsonl"))
    image = Digits("image", **EASY).problem(Split.VALIDATION, 0).images[0]
    kept = {path for s in samples for path in [*s["images"], *(p for v in s["videos"] for p in v["frames"])]}
    assert kept == {f"media/{path.name}" for path in (finished / "media").iterdir()}
    (path,) = {path for s in samples if s["capability"] == "image" for path in s["images"]}
    assert (np.asarray(Image.open(finished / path)) == image).all()
    assert all(s["images"] == s["videos"] == [] for s in samples if s["capability"] == "text")


def test_the_answers_of_the_final_evaluation_make_the_final_table(finished):
    answers = [Answers.from_record(line) for line in read_lines(finished / "answers.jsonl")]
    assert {len(a.greedy_P) for a in answers} == {2}
    assert tabulate(answers, (1, 2)) == result_of(finished)


def test_the_report_of_a_run_can_be_written_again_by_the_command_as_it_was(finished):
    before = (finished / "report.html").read_bytes()
    assert write_pages([finished]).read_bytes() == before


@pytest.mark.parametrize("stop", [1, 2, 3, 4], ids=["in RLVR", "between phases", "in OPD", "before the merge"])
def test_resuming_is_bit_identical(small, finished, tmp_path, stop, stopped, assert_same):
    folder = tmp_path / "run"
    shutil.copytree(
        finished, folder, ignore=shutil.ignore_patterns("merged", "branches", "report.html", "answers.jsonl")
    )
    for checkpoint in (folder / "checkpoints").iterdir():
        if checkpoint.name != f"step-{stop:08d}":
            shutil.rmtree(checkpoint)
    stopped(folder)
    (folder / ".passing-left by a kill").mkdir()
    copd.train(small, folder, resume=True)
    assert not list(folder.glob(".passing*"))
    assert record(folder) == record(finished)
    for name in ("samples.jsonl", "answers.jsonl"):
        assert (folder / name).read_bytes() == (finished / name).read_bytes()
    ours, theirs = (latest_checkpoint(f / "checkpoints") for f in (folder, finished))
    for branch in theirs.branches:
        assert_same(tensors_of(ours, branch), tensors_of(theirs, branch))
    assert (folder / "merged/model.safetensors").read_bytes() == (finished / "merged/model.safetensors").read_bytes()


@pytest.mark.slow
def test_resuming_is_bit_identical_with_every_option_of_the_objectives(tmp_path, stopped):
    """From within OPD, from between the cycles, and from within OPD of the second cycle."""
    options = [
        "grpo={aggregation: token, normalize_std: false, kl_coefficient: 0.1, iterations: 2, mask_truncated: true}",
        "opd={prompts_per_step: 2, rollouts_per_prompt: 2, bound: proximal}",
        "schedule={cycles: 2, rl_steps: 1, opd_steps: 2}",
        HARDLY_MEASURED,
        "optimizer.learning_rate=1e-3",
    ]
    recipe = load_recipe("demo-paper", [*SMALL, *options])
    whole = copd.train(recipe, tmp_path / "whole").folder
    for stop in (2, 3, 5):
        resumed = tmp_path / f"resumed from {stop}"
        shutil.copytree(whole, resumed, ignore=shutil.ignore_patterns("merged", "branches", "report.html"))
        for checkpoint in (resumed / "checkpoints").iterdir():
            if checkpoint.name != f"step-{stop:08d}":
                shutil.rmtree(checkpoint)
        stopped(resumed)
        copd.train(recipe, resumed, resume=True)
        assert record(resumed) == record(whole)
        assert (resumed / "merged/model.safetensors").read_bytes() == (whole / "merged/model.safetensors").read_bytes()
    updates = events(whole, "update")
    assert max(update.get("native/kl", 0.0) for update in updates) > 0
    assert max(update.get("native/clip_rate", 0.0) for update in updates) > 0
    (ledger,) = events(whole, "ledger")
    assert all(ledger["spent"][name]["rlvr"]["tokens_scored"] > 0 for name in ("text", "image", "video"))


def test_a_finished_run_is_only_shown_when_resumed(small, finished):
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.is_file()}
    copd.train(small, finished, resume=True)
    assert before == {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.is_file()}


def test_a_page_about_an_unfinished_run_does_not_make_it_a_complete_one(dare, tmp_path, stopped):
    folder = tmp_path / "run"
    shutil.copytree(dare, folder, ignore=shutil.ignore_patterns("merged", "branches"))
    stopped(folder)
    write_pages([folder], folder / "report.html")
    unfinished = (folder / "report.html").read_text(encoding="utf-8")
    copd.train(load_recipe("demo-paper", DARE), folder, resume=True)
    assert result_of(folder) == result_of(dare)
    assert (folder / "report.html").read_text(encoding="utf-8") != unfinished


def test_a_finished_run_without_its_report_gets_it_and_nothing_else(small, finished, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(finished, folder, ignore=shutil.ignore_patterns("report.html"))
    before = (folder / "metrics.jsonl").read_bytes()
    copd.train(small, folder, resume=True)
    assert (folder / "report.html").is_file()
    assert (folder / "metrics.jsonl").read_bytes() == before


def test_a_base_that_changed_beside_its_weights_is_not_resumed(tmp_path):
    base = tmp_path / "base"
    shutil.copytree(model_folder("builtin:digits"), base)
    made = Assembled(load_recipe("demo-paper", [f"model.path={base}"]), print)
    before = new_manifest(made)
    template = base / "chat_template.jinja"
    template.write_text(template.read_text() + " ")
    assert new_manifest(made)["base_sha256"] != before["base_sha256"]
    assert {"model.safetensors", "tokenizer.json", "config.json", "generation_config.json"} <= set(
        before["base_sha256"]
    )


@pytest.mark.parametrize("capability", ["text", "image", "video"])
def test_a_base_whose_responses_are_truncated_is_warned_of_capability_by_capability(warned, capability):
    assert f"sampling.max_new_tokens=3 truncates 100% of the base's responses in {capability}, which then" in warned


def test_a_changed_recipe_is_not_resumed_and_the_difference_is_named(small, finished):
    with pytest.raises(CheckpointError, match=r"recipe.optimizer.learning_rate was 0.0001 and is now 0.001"):
        copd.train(load_recipe(small.model_dump(), ["optimizer.learning_rate=1e-3"]), finished, resume=True)


def test_a_folder_that_is_in_use_is_not_overwritten(small, finished):
    with pytest.raises(RecipeError, match="not empty"):
        copd.train(small, finished)


def test_prompts_longer_than_the_context_are_refused_before_anything_runs(tmp_path):
    with pytest.raises(RecipeError, match=r"branches.text.task: a prompt has \d+ tokens.*context of 512"):
        copd.train(load_recipe("demo-paper", [*SMALL, "sampling.max_new_tokens=600"]), tmp_path / "run")


@pytest.mark.parametrize(("method", "branches"), [("expert", ["text", "image"]), ("mixed", ["mixed"])])
def test_baselines_run_at_the_rollouts_of_copd(tmp_path, method, branches):
    changes = [f"method={method}", "checkpoint.every_steps=50", "sampling.max_new_tokens=6", HARDLY_MEASURED]
    folder = copd.train(load_recipe("demo-paper", [*SMALL, TWO_BRANCHES % 1.0, *changes]), tmp_path / "run").folder
    assert sorted(path.name for path in (folder / "branches").iterdir()) == sorted(branches)
    assert not (folder / "merged").exists()
    (ledger,) = events(folder, "ledger")
    total = sum(spent["rollouts"] for phases in ledger["spent"].values() for spent in phases.values())
    assert total == ledger["planned_rollouts"]
    assert abs(total - (4 * 2 * 8 + 2 * 2 * 4)) <= len(branches) * 8 / 2
    (result,) = events(folder, "result")
    assert {cell["model"] for cell in result["table"]} == {"base", *branches}
