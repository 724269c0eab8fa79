"""What a run goes on with: everything as it was, or by --force what has changed, which is recorded."""

import json
import shutil
from functools import partial
from pathlib import Path

import pytest
import torch

import copd
from copd.branches.actor import SamplingSettings
from copd.branches.branch import Branch, ObjectiveSettings
from copd.branches.signals import SampledToken
from copd.errors import CheckpointError, RecipeError, WriteError
from copd.maths.distill import clamped_delta
from copd.model.learner import Learner
from copd.recipe.reading import load_recipe, make_recipe, reread
from copd.runs.checkpoint import latest_checkpoint
from copd.runs.folder import check_folder, claim, record_forced, saved_recipe
from copd.runs.runlog import RUN_MANIFEST, read_lines
from copd.runs.saved import result_of

TINY = [
    "backend=local",
    "model.threads_per_branch=1",
    "branches={text: {task: {capability: text}}, image: {task: {capability: image}}}",
    "schedule={cycles: 1, rl_steps: 1, opd_steps: 1}",
    "sampling={prompts_per_step: 1, rollouts_per_prompt: 2, max_new_tokens: 4}",
    "opd={prompts_per_step: 1, rollouts_per_prompt: 1}",
    "evaluation={problems: 1, validation_problems: 1, behaviour_problems: 1, pass_at: [], every_cycles: 9}",
]
LONGER = "schedule.cycles=2"
LINES = ("metrics.jsonl", "samples.jsonl")

pytestmark = pytest.mark.usefixtures("undrawn")


def manifest_of(*changes: str, **others) -> dict:
    recipe = load_recipe("demo-paper", changes)
    return {
        "recipe": recipe.model_dump(mode="json"),
        "branch_order": list(recipe.branches),
        "base_sha256": {"tokenizer.json": "a", "model.safetensors": "b"},
        "data_sha256": {"text": "c"},
        "code_sha256": {"mine.py:f": "d"},
        "trajectory": "e",
        "versions": {"copd": "0.1.0", "torch": "2.10.0"},
        **others,
    }


def manifest_in(folder: Path) -> dict:
    return json.loads((folder / RUN_MANIFEST).read_text())


def differences(folder: Path, manifest: dict) -> list[str]:
    """What a refusal names, line by line; its last line is about --force."""
    with pytest.raises(CheckpointError) as refusal:
        check_folder(folder, manifest, True, reread)
    *lines, last = str(refusal.value).splitlines()
    assert last == (
        "--resume --force (from Python resume=True and force=True) goes on all the same, and records what changed"
    )
    assert all(line.startswith(f"{folder}: cannot resume: ") for line in lines)
    return [line.removeprefix(f"{folder}: cannot resume: ") for line in lines]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"versions": {"copd": "0.1.0", "torch": "2.11.0"}}, "versions.torch was '2.10.0' and is now '2.11.0'"),
        (
            {"base_sha256": {"tokenizer.json": "x", "model.safetensors": "b"}},
            "base_sha256.tokenizer.json was 'a' and is now 'x'",
        ),
        ({"code_sha256": {}}, "code_sha256.mine.py:f was 'd' and is now None"),
    ],
)
def test_other_versions_another_tokenizer_or_verifier_are_refused_by_name(tmp_path, change, said):
    claim(tmp_path, manifest_of())
    assert differences(tmp_path, manifest_of(**change)) == [said]


def test_every_difference_is_told_not_the_first_alone(tmp_path):
    claim(tmp_path, manifest_of())
    changed = manifest_of("seed=3", "opd.weight=0.5", "lora={rank: 2}", data_sha256={"text": "x", "image": "y"})
    assert [line.split(" was ")[0] for line in differences(tmp_path, changed)] == [
        "recipe.seed",
        "recipe.opd.weight",
        "recipe.lora",
        "data_sha256.text",
        "data_sha256.image",
    ]


def test_force_returns_what_it_lets_pass_and_changes_nothing_itself(tmp_path):
    claim(tmp_path, manifest_of())
    before = (tmp_path / RUN_MANIFEST).read_bytes()
    changes = check_folder(tmp_path, manifest_of("seed=3"), True, reread, force=True)
    assert changes == ["recipe.seed was 0 and is now 3"]
    assert check_folder(tmp_path, manifest_of(), True, reread, force=True) == []
    assert (tmp_path / RUN_MANIFEST).read_bytes() == before


def test_what_was_forced_is_kept_through_the_next_time_and_no_other_run_may_adopt_such_a_run(tmp_path):
    claim(tmp_path, manifest_of())
    record_forced(tmp_path, manifest_of("seed=3"), 5, ["recipe.seed was 0 and is now 3"])
    assert check_folder(tmp_path, manifest_of("seed=3"), True, reread) == []
    record_forced(tmp_path, manifest_of("seed=4"), 9, ["recipe.seed was 3 and is now 4"])
    found = manifest_in(tmp_path)
    assert found["forced"] == [
        {"after_step": 5, "changes": ["recipe.seed was 0 and is now 3"]},
        {"after_step": 9, "changes": ["recipe.seed was 3 and is now 4"]},
    ]
    assert found["recipe"]["seed"] == 4
    assert found["trajectory"] is None


def test_a_run_that_was_forced_before_its_first_step_has_the_trajectory_of_its_new_recipe(tmp_path):
    claim(tmp_path, manifest_of())
    record_forced(tmp_path, manifest_of("seed=3", trajectory="f"), 0, ["recipe.seed was 0 and is now 3"])
    assert manifest_in(tmp_path)["trajectory"] == "f"


def test_a_recipe_that_this_copd_cannot_read_goes_on_by_force_alone(tmp_path):
    claim(tmp_path, manifest_of(recipe={**manifest_of()["recipe"], "annealing": 3}))
    with pytest.raises(CheckpointError, match="annealing: unknown key"):
        check_folder(tmp_path, manifest_of(), True, reread)
    changes = check_folder(tmp_path, manifest_of(), True, reread, force=True)
    assert changes == ["recipe.annealing was 3 and is now None"]


def test_a_damaged_manifest_does_not_go_on_even_by_force(tmp_path):
    (tmp_path / RUN_MANIFEST).write_text("{")
    with pytest.raises(CheckpointError, match="damaged, cannot resume"):
        check_folder(tmp_path, manifest_of(), True, reread, force=True)


def test_the_recipe_of_a_run_is_read_from_its_manifest_and_what_prevents_it_is_named(tmp_path):
    with pytest.raises(RecipeError, match=rf"--out {tmp_path}: holds no run that could go on"):
        saved_recipe(tmp_path, reread)
    claim(tmp_path, manifest_of("seed=3", "optimizer.learning_rate=1e-5"))
    recipe = saved_recipe(tmp_path, reread)
    assert load_recipe(recipe, ["opd.weight=0.5"]) == load_recipe(
        "demo-paper", ["seed=3", "optimizer.learning_rate=1e-5", "opd.weight=0.5"]
    )
    assert make_recipe(recipe).opd.weight == load_recipe("demo-paper").opd.weight
    (tmp_path / RUN_MANIFEST).unlink()
    claim(tmp_path, manifest_of(recipe={"sede": 1}))
    with pytest.raises(CheckpointError, match=r"manifest\.json: .*cannot read the run's recipe: .*sede: unknown key"):
        saved_recipe(tmp_path, reread)


def test_a_folder_that_cannot_be_made_or_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(WriteError, match=f"--out {tmp_path / 'file' / 'run'}: cannot be written"):
        claim(tmp_path / "file" / "run", manifest_of())


def test_force_needs_resume(tmp_path):
    with pytest.raises(RecipeError, match="--force: found without --resume"):
        copd.train(load_recipe("demo-paper", TINY), tmp_path / "run", force=True)
    assert not (tmp_path / "run").exists()


def changed(learner: Learner, change) -> dict[str, torch.Tensor]:
    state = {name: tensor.clone() for name, tensor in learner.state().items()}
    change(state)
    return state


NORM = "model.language_model.norm.weight"
LONGER_BY_ONE = torch.zeros(1)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda s: s.pop(f"weight/{NORM}"), f"tensor 'weight/{NORM}' is missing"),
        (lambda s: s.pop(f"exp_avg_sq/{NORM}"), f"tensor 'exp_avg_sq/{NORM}' is missing"),
        (lambda s: s.pop("skipped_in_a_row"), "tensor 'skipped_in_a_row' is missing"),
        (
            lambda s: s.update({f"weight/{NORM}": torch.cat([s[f"weight/{NORM}"], LONGER_BY_ONE])}),
            rf"tensor 'weight/{NORM}' has shape \[\d+\], the model's has \[\d+\]",
        ),
        (
            lambda s: s.update({f"exp_avg/{NORM}": torch.cat([s[f"exp_avg/{NORM}"], LONGER_BY_ONE])}),
            rf"tensor 'exp_avg/{NORM}' has shape",
        ),
        (lambda s: s.update({"weight/adapter": LONGER_BY_ONE}), "tensor 'weight/adapter' is of no parameter"),
    ],
)
def test_a_state_that_does_not_fit_is_refused_by_tensor_and_changes_nothing(policy, change, said, assert_same):
    learner = Learner(policy.clone(), learning_rate=1e-3)
    for parameter in learner.named_parameters.values():
        parameter.grad = torch.ones_like(parameter)
    learner.optimizer.step()
    state = changed(learner, change)
    for tensor in state.values():
        tensor += 1
    before = changed(learner, lambda _: None)
    with pytest.raises(CheckpointError, match=said):
        learner.load_state(state)
    assert_same(learner.state(), before)


def test_a_state_of_a_branch_that_holds_nothing_is_refused_and_changes_nothing(policy, assert_same):
    twin = policy.clone()
    learner = Learner(twin, learning_rate=1e-3)
    settings = ObjectiveSettings(SampledToken(partial(clamped_delta, bound=5.0)))
    sampling = SamplingSettings(seed=0, max_new_tokens=4, temperature=1.0)
    branch = Branch("text", 0, twin, {}, sampling, capability="text", learner=learner, settings=settings)
    before = changed(learner, lambda _: None)
    with pytest.raises(CheckpointError, match=r"^tensor 'version' is missing$"):
        branch.load_state({}, {})
    assert_same(learner.state(), before)


@pytest.fixture(scope="module")
def finished(small_base, tmp_path_factory) -> Path:
    """A finished run on a base of its own."""
    folder = tmp_path_factory.mktemp("resume")
    shutil.copytree(small_base, folder / "base")
    return copd.train(load_recipe("demo-paper", [*TINY, f"model.path={folder / 'base'}"]), folder / "run").folder


@pytest.fixture
def again(finished, tmp_path) -> tuple[Path, list[str]]:
    """A copy of the finished run, and the changes of the demo by which it was made."""
    shutil.copytree(finished, tmp_path / "run")
    return tmp_path / "run", [*TINY, f"model.path={finished.parent / 'base'}"]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_resume_needs_no_recipe_and_changes_nothing_of_a_finished_run(again, command):
    folder, _ = again
    before = contents(folder)
    done = command("train", "--resume", "--out", str(folder))
    assert done.returncode == 0, done.stderr
    assert "text" in done.stdout
    assert contents(folder) == before


def test_resume_without_a_recipe_finishes_what_was_stopped(again, command, stopped, finished):
    folder, _ = again
    stopped(folder)
    assert result_of(folder) == []
    done = command("train", "--resume", "--out", str(folder))
    assert done.returncode == 0, done.stderr
    assert result_of(folder) == result_of(finished)
    assert "forced" not in manifest_in(folder)


def test_a_change_beside_resume_is_a_change_of_the_run_s_own_recipe(again, command):
    folder, _ = again
    done = command("train", "opd.weight=0.5", "--resume", "--out", str(folder))
    assert done.returncode == 2
    said = "cannot resume: recipe.opd.weight was 1.0 and is now 0.5"
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 2


def test_a_finished_run_is_made_longer_by_force_which_is_recorded_each_time(again, command):
    folder, changes = again
    before = [line["step"] for line in read_lines(folder / "metrics.jsonl") if line["event"] == "update"]
    done = command("train", LONGER, "--resume", "--force", "--out", str(folder))
    assert done.returncode == 0, done.stderr
    assert "--force: recipe.schedule.cycles was 1 and is now 2" in done.stdout.replace("\n", " ")
    steps = [line["step"] for line in read_lines(folder / "metrics.jsonl") if line["event"] == "update"]
    assert (max(before), max(steps)) == (1, 3)
    assert len([line for line in read_lines(folder / "metrics.jsonl") if line["event"] == "result"]) == 1
    assert latest_checkpoint(folder / "checkpoints").step == 4
    first = {"after_step": 2, "changes": ["recipe.schedule.cycles was 1 and is now 2"]}
    assert manifest_in(folder)["forced"] == [first]
    assert "After 2 steps it went on by" in (folder / "report.html").read_text(encoding="utf-8")
    after = contents(folder)
    copd.train(load_recipe("demo-paper", [*changes, LONGER]), folder, resume=True)
    copd.train(load_recipe("demo-paper", [*changes, LONGER]), folder, resume=True, force=True)
    assert contents(folder) == after, "nothing has changed since"
    copd.train(load_recipe("demo-paper", [*changes, LONGER, "opd.weight=0.5"]), folder, resume=True, force=True)
    second = {"after_step": 4, "changes": ["recipe.opd.weight was 1.0 and is now 0.5"]}
    assert manifest_in(folder)["forced"] == [first, second]


def test_a_run_of_another_tokenizer_is_refused_and_goes_on_by_force(again, small_base, tmp_path):
    folder, changes = again
    base = tmp_path / "base"
    shutil.copytree(small_base, base)
    with (base / "tokenizer.json").open("a") as file:
        file.write("\n")
    recipe = load_recipe("demo-paper", [*changes, f"model.path={base}"])
    with pytest.raises(CheckpointError, match=r"base_sha256\.tokenizer\.json was '\w{64}' and is now '\w{64}'"):
        copd.train(recipe, folder, resume=True)
    copd.train(recipe, folder, resume=True, force=True)
    (forced,) = manifest_in(folder)["forced"]
    assert [change.split(" was ")[0] for change in forced["changes"]] == [
        "recipe.model.path",
        "base_sha256.tokenizer.json",
    ]


@pytest.mark.parametrize(
    ("others", "said"),
    [
        (["branches.video.task.capability=video"], "holds the branches text, image; the run's are text, image, video"),
        (["branches={text: {task: {capability: text}}}", "schedule.opd_steps=0"], "text, image; the run's are text$"),
        (["schedule.opd_steps=0"], "step-00000002: is beyond the 1 steps of the run"),
        (["lora={rank: 2}"], r"branch text does not fit: tensor 'weight/\S+' is missing"),
    ],
)
def test_a_checkpoint_that_does_not_fit_the_forced_recipe_is_named_and_the_run_stays_as_it_was(again, others, said):
    folder, changes = again
    recipe = load_recipe("demo-paper", [*changes, *others])
    with pytest.raises(CheckpointError, match=r"recipe\.(branches|lora|schedule)\S* was .* and is now"):
        copd.train(recipe, folder, resume=True)
    before = {name: (folder / name).read_bytes() for name in (RUN_MANIFEST, *LINES)}
    with pytest.raises(CheckpointError, match=said):
        copd.train(recipe, folder, resume=True, force=True)
    assert {name: (folder / name).read_bytes() for name in before} == before
