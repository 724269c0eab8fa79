"""`copd doctor`: every check is made and can fail; what is broken is real: folders, processors, hooks, verifiers."""

import gc
import json
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_kinds import IMAGE, tiny_of_kind

from copd.assemble.assembled import assembled, load_policy
from copd.assemble.plan import make_plan
from copd.assemble.tasks import make_tasks
from copd.branches.local import finish
from copd.cli import main
from copd.doctor import examine as checks
from copd.doctor.examine import (
    Bench,
    equal_teacher,
    examine,
    lesson,
    noise,
    prompts,
    shared_prefix,
)
from copd.doctor.outlook import (
    Pace,
    branches_at_once,
    devices,
    disk,
    estimate,
    final_problems,
    sampled_together,
    seconds_to_save,
    shares,
    training_seconds,
)
from copd.errors import RecipeError
from copd.model.folders import load_family, model_folder
from copd.model.policy import Policy
from copd.recipe.evaluation import FEW, sized
from copd.recipe.reading import load_recipe, make_recipe
from copd.tasks.digits import Digits
from copd.types import Part, Rollouts, Score, Split

KINDS = ("text", "image", "video")
SMALL = [
    "backend=local",
    "model.threads_per_branch=1",
    "schedule={cycles: 1, rl_steps: 1, opd_steps: 1}",
    "sampling={prompts_per_step: 4, rollouts_per_prompt: 2, max_new_tokens: 30}",
    "opd={prompts_per_step: 1, rollouts_per_prompt: 2}",
]
MINE = """
def mine(response, answer):
    return 1.0 if answer == "any" or answer in response else 0.0
"""


def findings(recipe) -> dict[str, list]:
    found = {}
    for finding in examine(recipe):
        found.setdefault(finding.check, []).append(finding)
    return found


def verdicts(found) -> set[str]:
    return {finding.verdict for each in found.values() for finding in each}


def with_processor(folder: Path, **changes) -> Path:
    """The builtin base with other settings of its image processor."""
    shutil.copytree(model_folder("builtin:digits"), folder)
    path = folder / "processor_config.json"
    settings = json.loads(path.read_text())
    assert changes.keys() <= settings["image_processor"].keys()
    settings["image_processor"] |= changes
    path.write_text(json.dumps(settings))
    return folder


@pytest.fixture(scope="module")
def demo():
    return findings(load_recipe("demo-paper", [*SMALL, "sampling.rollouts_per_prompt=4"]))


@pytest.fixture(scope="module")
def few_of(problems_of):
    return {kind: problems_of[kind][:2] for kind in KINDS}


def test_every_check_is_made_of_the_demo_and_nothing_fails(demo):
    per_kind = ("prompts of sampler, student and teacher", "shared prefix against plain forward")
    per_capability = ("the base", "sample", "grading", "sampler against trainer")
    expected = ["versions", "processors", "memory and disk", "model, tokenizer, processor", "data", "verifiers"]
    expected += [f"{kind}: {check}" for check in (*per_kind, "a teacher equal to its student") for kind in KINDS]
    expected += [f"{kind}: {check}" for check in per_capability for kind in KINDS]
    expected += ["text taught by image: sampler against trainer", "estimate", "checkpoints"]
    expected += ["memory of each device", "rows sampled at once", "the whole run", "final table"]
    assert set(demo) == set(expected)
    assert verdicts(demo) == {"ok"}
    assert all(len(demo[f"{kind}: sample"]) == 2 for kind in KINDS)


def test_the_base_is_found_as_the_readme_has_it(demo):
    """128 sampled responses of each capability; 28, 44 and 39 % are right in sampled answers to test problems."""
    for kind, rate in zip(KINDS, (0.28, 0.44, 0.39), strict=True):
        (finding,) = demo[f"{kind}: the base"]
        assert float(re.match(r"pass rate ([\d.]+),", finding.found)[1]) == pytest.approx(rate, abs=0.15)


def test_a_machine_with_fewer_cores_than_threads_is_warned_of():
    found = examine(load_recipe("demo-paper", ["model.threads_per_branch=1000"]))
    assert [f.verdict for f in (next(found), next(found))] == ["ok", "warning"]


@pytest.mark.parametrize(
    "changes",
    [
        ["method=mixed"],
        pytest.param(["method=expert", "model.offload=true"], marks=pytest.mark.slow),
        pytest.param(["method=static_opd"], marks=pytest.mark.slow),
        pytest.param(["method=mopd", "mixed.batch=K_times"], marks=pytest.mark.slow),
        ["lora={rank: 2, alpha: 4, targets: [q_proj, down_proj]}"],
        pytest.param(["model.offload=true"], marks=pytest.mark.slow),
        pytest.param(["merge={method: distil, steps: 2}"], marks=pytest.mark.slow),
    ],
)
def test_every_method_and_kind_of_branch_is_examined_to_the_end(small_base, changes):
    few = ["sampling.max_new_tokens=12", f"model.path={small_base}"]
    found = findings(load_recipe("demo-paper", [*SMALL, *few, *changes]))
    assert list(found)[-1] == "checkpoints"
    assert "failed" not in verdicts(found)
    plan = make_plan(load_recipe("demo-paper", [*SMALL, *changes]))
    taught = [f"{edge.student} taught by {edge.teacher}" for edge in plan.taught[:1]]
    assert [name for name in found if name.endswith("sampler against trainer")] == [
        f"{name}: sampler against trainer" for name in [*plan.learners, *taught]
    ]


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """A recipe of text rows graded by a user's function: answers that are often right, never right, always right."""
    folder = tmp_path_factory.mktemp("rows")
    (folder / "mine.py").write_text(MINE)
    problems = [Digits("text").problem(Split.TRAIN, i) for i in range(40)]
    answers = {"sound": "boxed{{{}}}", "hopeless": "none", "solved": "any"}
    branches = {}
    for name, answer in answers.items():
        lines = [{"prompt": p.prompt, "answer": answer.format(p.answer), "verifier": "mine"} for p in problems]
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, lines)))
        branches[name] = {"task": {"kind": "rows", "train": str(folder / f"{name}.jsonl")}}
    return {
        "model": {"dtype": "float32", "device": "cpu"},
        "method": "expert",
        "branches": branches,
        "verifiers": {"mine": f"{folder / 'mine.py'}:mine"},
        "schedule": {"cycles": 1, "rl_steps": 1, "opd_steps": 0},
        "sampling": {"prompts_per_step": 2, "rollouts_per_prompt": 4, "max_new_tokens": 30},
        "evaluation": {"problems": 1, "validation_problems": 1, "behaviour_problems": 1},
    }


def test_a_capability_without_signal_is_warned_of_with_advice_and_one_with_signal_is_not(rows):
    found = findings(make_recipe(rows))
    base = {name: found[f"{name}: the base"][0] for name in rows["branches"]}
    assert [finding.verdict for finding in base.values()] == ["ok", "warning", "warning"]
    assert "nothing is right: 100% a wrong answer; " in base["hopeless"].found
    assert "take easier problems" in base["hopeless"].found
    assert "everything is right: take harder problems" in base["solved"].found
    assert all(finding.verdict == "ok" for name in rows["branches"] for finding in found[f"{name}: grading"])
    assert found["solved: sampler against trainer"][0].verdict == "warning"
    assert "there was no signal" in found["solved: sampler against trainer"][0].found
    assert re.fullmatch(r"(\w+: \d+ training rows(, )?){3}", found["data"][0].found)


@pytest.mark.parametrize(
    ("end", "said"),
    [
        ("", []),
        (
            " cm",
            ["nothing is right: ", "% a wrong answer", "the answer that comes nearest is ", " cm'"],
        ),
    ],
    ids=["an answer", "one that no response can give"],
)
def test_a_reference_that_cannot_be_given_is_shown_beside_an_answer(rows, tmp_path, end, said):
    problems = [Digits("text").problem(Split.TRAIN, i) for i in range(40)]
    lines = [{"prompt": p.prompt, "answer": p.answer + end, "verifier": "exact"} for p in problems]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, lines)))
    task = {"kind": "rows", "train": str(tmp_path / "rows.jsonl")}
    recipe = {**rows, "branches": {"a": {"task": task}}, "verifiers": {}}
    found = next(finding for finding in examine(make_recipe(recipe)) if finding.check == "a: the base").found
    assert all(part in found for part in said)
    assert ("nothing is right" in found) == bool(said)


def test_truncated_responses_are_warned_of(rows):
    changes = {"branches": {"sound": rows["branches"]["sound"]}, "sampling": {**rows["sampling"], "max_new_tokens": 3}}
    found = findings(make_recipe({**rows, **changes}))
    assert "100% truncated" in found["sound: the base"][0].found
    assert "raise sampling.max_new_tokens" in found["sound: the base"][0].found


def test_the_speed_of_grading_is_that_of_responses_that_were_never_graded(rows, tmp_path):
    """A verifier that takes 50 ms for what it has not seen, in one process: 20 a second, if all are finished."""
    remembering = "import time\nseen = set()\n\ndef mine(response, answer):\n"
    remembering += "    time.sleep(0.05 * (response not in seen))\n    seen.add(response)\n    return 1.0\n"
    (tmp_path / "mine.py").write_text(remembering)
    changes = {"verifiers": {"mine": f"{tmp_path / 'mine.py'}:mine"}, "reward": {"workers": 1}}
    sampling = {**rows["sampling"], "rollouts_per_prompt": 2}
    sound = {"sound": rows["branches"]["sound"]}
    found = findings(make_recipe({**rows, **changes, "sampling": sampling, "branches": sound}))
    assert 1 < int(found["sound: grading"][0].found.split()[0]) < 60


def test_a_grader_that_fails_is_warned_of_with_its_reason(rows, tmp_path):
    (tmp_path / "mine.py").write_text("def mine(response, answer):\n    return 'much'\n")
    found = findings(make_recipe({**rows, "verifiers": {"mine": f"{tmp_path / 'mine.py'}:mine"}}))
    for name in rows["branches"]:
        assert found[f"{name}: grading"][0].verdict == "warning"
    assert "returned 'much', not a number" in found["sound: grading"][0].found


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model": {"path": "nowhere"}}, "model.path: no folder 'nowhere'"),
        ({"verifiers": {"mine": "nowhere.py:mine"}}, "verifiers.mine: no file 'nowhere.py'"),
        ({"branches": {"a": {"task": {"kind": "rows", "train": "nowhere.jsonl"}}}}, "nowhere.jsonl"),
        ({"sampling": {"max_new_tokens": 510}}, "bad"),
    ],
)
def test_what_cannot_be_loaded_ends_the_examination_as_failed(rows, changes, said):
    *before, last = examine(make_recipe({**rows, **changes}))
    assert (last.check, last.verdict) == ("examination", "failed")
    assert said in last.found
    assert all(finding.verdict == "ok" for finding in before)


def test_weights_that_are_damaged_fail(tmp_path):
    folder = tmp_path / "base"
    shutil.copytree(model_folder("builtin:digits"), folder)
    (folder / "model.safetensors").write_bytes(b"nothing")
    *_, last = examine(load_recipe("demo-paper", [*SMALL, f"model.path={folder}"]))
    assert last.verdict == "failed"
    assert "the model cannot be loaded" in last.found


def test_a_model_with_the_processor_of_another_ends_the_examination_as_failed(tmp_path):
    folder = with_processor(tmp_path / "base", merge_size=1)
    *_, last = examine(load_recipe("demo-paper", [*SMALL, f"model.path={folder}"]))
    assert (last.check, last.verdict) == ("examination", "failed")
    assert "in the model or its processor: " in last.found


@pytest.mark.parametrize("kind", ["qwen3_vl", "qwen2_5_vl", "gemma3"])
def test_prompts_hold_as_many_placeholders_as_their_pictures_ask_for(kind, few_of):
    policy = Policy(*tiny_of_kind(kind))
    few = few_of["image"]
    family = policy.encoder.family
    assert prompts("image", family, family, few).verdict == "ok"
    assert all(found == asked > 0 for found, asked in map(family.placeholders, family.encode(few)))


def test_a_processor_that_writes_other_placeholders_than_the_model_wants_fails(few_of):
    model, processor = tiny_of_kind("gemma3")
    processor.image_seq_length, processor.full_image_sequence = 3, processor.full_image_sequence.replace(IMAGE, "", 1)
    family = Policy(model, processor).encoder.family
    finding = prompts("image", family, family, few_of["image"])
    assert finding.verdict == "failed"
    assert "placeholder tokens where the model wants" in finding.found


@pytest.mark.parametrize(
    "changes", [{"image_mean": [0.5] * 3}, {"size": {"shortest_edge": 4096, "longest_edge": 8192}}]
)
def test_a_teacher_whose_processor_has_other_pixel_settings_fails(tmp_path, few_of, changes):
    student = load_policy(load_recipe("demo-paper")).encoder.family
    teacher = load_family(with_processor(tmp_path / "other", **changes))
    judged = {kind: prompts(kind, student, teacher, few) for kind, few in few_of.items()}
    assert [finding.verdict for finding in judged.values()] == ["ok", "failed", "ok"]
    assert "two processors differ: " in judged["image"].found


def test_a_tracker_that_is_not_installed_fails_as_a_run_would(monkeypatch):
    monkeypatch.setitem(sys.modules, "mlflow", None)
    recipe = load_recipe("demo-paper", ["trackers=[tensorboard, mlflow]"])
    finding = next(finding for finding in examine(recipe) if finding.check == "trackers")
    assert (finding.verdict, finding.found) == ("failed", "mlflow is not installed: pip install 'copd[mlflow]'")


def test_a_final_table_of_few_problems_is_warned_of_with_the_field_that_gives_more(tmp_path):
    lines = [json.dumps({"prompt": f"{i}", "answer": i}) for i in range(60)]
    (tmp_path / "sums.jsonl").write_text("\n".join(lines))
    rows = {"task": {"kind": "rows", "train": str(tmp_path / "sums.jsonl"), "verifier": "integer"}}
    recipe = make_recipe({"method": "expert", "schedule": {"opd_steps": 0}, "branches": {"sums": rows}})
    tasks = make_tasks(recipe)
    there = tasks["sums"].size(Split.TEST)
    judged = [
        final_problems(sized(recipe.evaluation, {"problems": count}), each)
        for each, count in ((tasks, there), (tasks, there - 1), (tasks, FEW), ({"text": Digits("text")}, FEW - 1))
    ]
    assert [finding.verdict for finding in judged] == ["warning", "warning", "ok", "warning"]
    assert judged[0].found == (
        f"{there} test problems of each capability; one problem is {100 / there:.0f} points of an accuracy; raise "
        "branches.sums.task.test_share, or give more rows"
    )
    assert judged[1].found.endswith("raise branches.sums.task.test_share, or give more rows"), "one more is not enough"
    assert judged[3].found.endswith("; raise evaluation.problems")


def parameter_bytes() -> int:
    """Of all parameters of this process, those without values left out."""
    found = [part for part in gc.get_objects() if type(part) is torch.nn.Parameter and not part.is_meta]
    return sum({part.data_ptr(): part.nbytes for part in found}.values())


def test_processors_are_compared_with_one_model_in_memory():
    gc.collect()
    before, examined = parameter_bytes(), examine(load_recipe("demo-paper", SMALL))
    finding = next(finding for finding in examined if "prompts of sampler" in finding.check)
    gc.collect()
    assert finding.verdict == "ok"
    assert parameter_bytes() - before == 4 * 1_329_792
    examined.close()


def test_a_shared_prefix_that_disagrees_fails_and_a_cache_that_cannot_be_shared_is_a_warning(policy, few_of):
    displaced = policy.clone()

    def shift(module, args, inputs):
        cache = inputs["past_key_values"]
        moved = {**inputs, "position_ids": inputs["position_ids"] + 40}
        return (args, moved) if cache is not None and cache.get_seq_length() > 0 else None

    displaced.model.get_decoder().register_forward_pre_hook(shift, with_kwargs=True)
    recurrent = Policy(*tiny_of_kind("mamba"))
    judged = [shared_prefix("text", each, few_of["text"]) for each in (policy, displaced, recurrent)]
    assert [finding.verdict for finding in judged] == ["ok", "failed", "warning"]
    assert "the plain path is slower" in judged[-1].found


@pytest.fixture
def bench_of():
    """Base and branches of a recipe, the first branch after a step."""

    def make(*changes: str):
        recipe = load_recipe("demo-paper", [*SMALL, *changes])
        with assembled(recipe, print) as made:
            bench = Bench(made, make_plan(recipe))
        first = bench.branches["text"]
        finish(first.update([Part("native", finish(first.collect("text", 0, 2, 4)))]))
        return bench, make_plan(recipe)

    return make


@pytest.mark.parametrize("changes", [[], ["lora.rank=2"]])
def test_a_teacher_that_is_no_longer_its_student_fails(bench_of, few_of, changes):
    bench, _ = bench_of(*changes, "optimizer.learning_rate=0.001")
    rollouts = bench.actor.policy.sample(few_of["text"])
    assert equal_teacher("text", bench, rollouts).verdict == "failed"
    del bench.branches["text"]
    assert equal_teacher("text", bench, rollouts).verdict == "ok"


@pytest.mark.parametrize(
    ("changes", "trained", "held"),
    [
        ([], 1_329_792, 0),
        (["opd.teachers=phase_start"], 1_329_792, 1_329_792),
        (["lora={rank: 2, targets: [q_proj]}", "opd.teachers=phase_start"], 4 * 2 * 256, 1_329_792),
        (["lora={rank: 2, targets: [q_proj]}"], 4 * 2 * 256, 0),
    ],
)
def test_a_checkpoint_holds_what_is_trained_both_moments_and_the_copies_that_teach(bench_of, changes, trained, held):
    """Three branches; twice three checkpoints at once; at the end the branches and their merge, full weights."""
    bench, plan = bench_of(*changes)
    weights = sum(p.nbytes for name, p in bench.actor.policy.model.named_parameters() if ".lora_" not in name)
    assert weights == 4 * 1_329_792
    found = [disk(bench.learning, plan, kept, weights) for kept in (2, 10**9)]
    assert [finding.verdict for finding in found] == ["ok", "failed"]
    checkpoint, most = (float(mib) for mib in re.findall(r"([\d.]+) MiB", found[0].found))
    assert checkpoint == pytest.approx(3 * 4 * (3 * trained + held) / 2**20, rel=0.01, abs=0.1)
    assert most == pytest.approx(3 * checkpoint + 4 * weights / 2**20, abs=0.2)


def logp(*values: float) -> Score:
    return Score(torch.tensor([[*values, 0.0]]), 0)


@pytest.mark.parametrize(
    ("sampled", "before", "after", "verdict"),
    [
        ((-1.0, -1.0), (-1.009, -1.009), (-1.109, -1.109), "ok"),
        ((-1.0, -1.0), (-1.011, -1.011), (-1.111, -1.111), "warning"),
        ((-1.0, -1.0), (-1.0, -1.0), (-1.0, -1.0), "warning"),
    ],
)
def test_noise_of_more_than_a_tenth_of_what_a_step_changes_is_warned_of(few_of, sampled, before, after, verdict):
    rollouts = Rollouts(
        problems=few_of["text"][:1],
        tokens_NT=torch.zeros(1, 3, dtype=torch.long),
        mask_NT=torch.tensor([[True, True, False]]),
        finished_N=torch.tensor([True]),
        logp_NT=logp(*sampled).logp_NT,
        prompt_of_N=torch.tensor([0]),
        temperature=1.0,
    )
    measured = ("text", rollouts, logp(*before), logp(*after), "one step changes them")
    assert noise(*measured, skipped=False).verdict == verdict
    assert noise(*measured, skipped=True).verdict == "failed"


def test_log_probs_of_a_cut_distribution_are_not_held_against_the_trainers(bench_of):
    bench, plan = bench_of("sampling.top_k=2")
    (finding, *_) = checks._steps(bench, plan)
    assert finding.verdict == "ok"
    assert finding.found.startswith("cut by sampling, not compared; one step changes them by ")


def test_noise_of_a_lesson_is_held_against_the_teachers_delta(bench_of):
    """The teacher has made a step and the student has not, whose log-probs are those that it sampled with."""
    bench, plan = bench_of("optimizer.learning_rate=0.001")
    edge = replace(plan.edges[0], student="image", teacher="text")
    seconds, finding = lesson(bench, edge, plan.batches)
    assert (finding.check, finding.verdict) == ("image taught by text: sampler against trainer", "ok")
    assert seconds > 0
    mismatch, delta = (float(found) for found in re.findall(r"\d\.\de-\d+", finding.found))
    assert mismatch < 1e-6 < 1e-3 < delta


@pytest.mark.parametrize(("teachers", "expected"), [("moving", False), ("phase_start", True)])
def test_the_memory_of_the_estimate_has_the_copies_with_which_branches_teach(
    bench_of, small_base, monkeypatch, teachers, expected
):
    bench, plan = bench_of(f"opd.teachers={teachers}", "sampling.max_new_tokens=12", f"model.path={small_base}")

    def held() -> set[bool]:
        states = [branch.state() for branch in bench.learning.values()]
        return {"held_version" in state for state in states}

    during = []
    monkeypatch.setattr(checks, "lesson", lambda *_: (1.0, during.append(held())))
    list(checks._lesson_and_estimate(bench, plan, 1))
    assert (during, held()) == ([{expected}], {False})


@pytest.mark.parametrize("method", ["copd", "expert", "mixed", "merge_only", "static_opd", "mopd"])
def test_where_every_rollout_takes_a_second_a_plan_takes_as_many_seconds_as_it_has_rollouts(method):
    plan = make_plan(load_recipe("demo-paper", [f"method={method}"]))
    assert plan.seconds(1.0, 1.0, 1.0) == pytest.approx(plan.rollouts)


def test_visits_and_native_rollouts_are_timed_apart():
    """`demo-paper`: 4 cycles of 15 + 10 steps, 24 x 8 rollouts of 3 branches, in OPD 12 x 8 for each of 4 edges."""
    plan = make_plan(load_recipe("demo-paper"))
    assert plan.seconds(0.0, 1.0, 1.0) == 4 * 10 * 4 * 96
    assert plan.seconds(1.0, 0.0, 1.0) == 4 * 25 * 3 * 192


def test_branches_share_the_time_that_the_student_of_a_consolidation_has_alone():
    plan = make_plan(load_recipe("demo-paper", ["merge={method: distil, steps: 7}"]))
    assert plan.seconds(1.0, 0.0, 0.5) == 4 * 25 * 3 * 192 / 2
    assert plan.seconds(0.0, 1.0, 0.5) == 4 * 10 * 4 * 96 / 2 + 7 * 3 * 96


def test_a_recipe_that_has_no_plan_is_the_users_mistake():
    with pytest.raises(RecipeError, match="schedule: method static_opd needs rl_steps and opd_steps above 0"):
        next(examine(load_recipe("demo-paper", ["method=static_opd", "schedule.opd_steps=0"])))


@pytest.mark.parametrize(
    ("changes", "status", "said"),
    [
        ([], 0, "0 failed"),
        (["model.path=nowhere"], 1, "failed  examination: ends here: model.path: no folder 'nowhere'"),
        (["method=mopd", "schedule.opd_steps=0"], 2, "error: schedule: method mopd needs"),
    ],
)
def test_the_exit_status_tells_sound_failed_and_wrong_apart_and_nothing_is_written(
    changes, status, said, tmp_path, monkeypatch, capsys
):
    alone = ["branches={text: {task: {kind: digits, capability: text}}}", "method=expert"]
    monkeypatch.setattr(sys, "argv", ["copd", "doctor", "demo-paper", *SMALL, *alone, *changes])
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main()
    printed = "".join(capsys.readouterr())
    assert (ended.value.code, said in printed) == (status, True), printed
    assert not any(tmp_path.iterdir())


def test_branches_in_processes_are_estimated_as_many_at_once_as_there_are_usable_cores_for(monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 64)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)), raising=False)
    assert branches_at_once("local", 3, 1) == 1
    assert [branches_at_once("processes", 3, threads) for threads in (1, 3, 4, 8, 16)] == [3, 2, 2, 1, 1]
    plan = make_plan(load_recipe("demo-paper"))
    alone, together = (estimate(plan, training_seconds(plan, 0.6, 0.6, n), n).found for n in (1, 3))
    minutes = [float(re.search(r"about ([\d.]+) minutes", found)[1]) for found in (alone, together)]
    assert minutes[0] == pytest.approx(3 * minutes[1], rel=0.01)
    assert "one after the other" in alone
    assert "3 branches at once" in together


def test_rows_sampled_at_once_are_those_that_the_budget_of_tokens_lets_in(policy, few_of, monkeypatch):
    asked = {"text": few_of["text"], "image": few_of["image"]}
    whole = sampled_together(policy, asked, 8, 30)
    assert whole.verdict == "ok"
    assert "text 16 of 16, image 16 of 16; at most 16,384 tokens (sampling.cache_tokens, else" in whole.found
    tight = policy.clone()
    tight._cache_tokens = 4 * (30 + max(tight.encoder.lengths(few_of["text"])))
    assert sampled_together(tight, asked, 8, 30).found.startswith("text 4 of 16, image 4 of 16; at most ")
    monkeypatch.setattr("copd.doctor.outlook.refills", lambda device: True)
    tight._cache_tokens = 5 * (32 + max(tight.encoder.lengths(few_of["text"])))
    assert sampled_together(tight, {"text": few_of["text"]}, 8, 30).found.startswith("text 5 of 16;")


def test_the_bytes_of_each_device_are_held_against_what_it_has(monkeypatch):
    recipe = load_recipe("demo-paper", SMALL)
    found = devices(recipe)
    assert found.verdict == "ok"
    assert re.fullmatch(r"at most cpu [\d.]+ (MiB|GiB) of [\d.]+ GiB", found.found)
    monkeypatch.setattr("os.sysconf", lambda name: 4096 if name == "SC_PAGE_SIZE" else 1000)
    assert devices(recipe).verdict == "warning"
    assert devices(recipe).found.endswith("of 3.9 MiB; cpu: `copd plan` tells what would help")


def test_the_shares_of_a_run_are_those_of_all_that_it_does():
    """One cycle of two steps, three branches, five models at the end; every response takes a second."""
    recipe = load_recipe(
        "demo-paper",
        [*SMALL, "evaluation={problems: 10, validation_problems: 5, behaviour_problems: 2, pass_at: []}"],
    )
    plan = make_plan(recipe)
    answers, measures = 5 * 3 * 10 + (1 + 3) * 3 * 5, (1 + 2 * 3) * 2 * 2 * 3
    asked = sized(recipe.evaluation, {})
    found = shares(recipe, asked, plan, Pace(100.0, 1.0, 0.0, 20.0), 1).found
    total = 100 + answers + measures + 60
    assert f"training 2 min ({100 / total:.0%}), evaluation 5 min ({(answers + measures) / total:.0%})" in found
    assert f"checkpoints 60 s ({60 / total:.0%})" in found
    assert "evaluation.problems, " in found
    assert "raise checkpoint.every_steps" in found
    scored = shares(recipe, asked, plan, Pace(100.0, 0.0, 1.0, 0.0), 3).found
    assert f"evaluation {(12 + 2 * 36 * 3) / 3:.0f} s" in scored


def test_the_time_of_a_checkpoint_is_that_of_a_real_one_that_does_not_stay(bench_of, small_base, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    bench, _ = bench_of("sampling.max_new_tokens=12", f"model.path={small_base}")
    assert 0 < seconds_to_save(bench.learning["text"]) < 60
    assert not any(tmp_path.iterdir())
