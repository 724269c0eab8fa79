"""A branch: which problems it reads, what it counts, how rewards become advantages, which teachers it refuses."""

import math
from dataclasses import replace
from functools import partial

import pytest
import torch

from copd.branches.actor import Actor, SamplingSettings, generator_of
from copd.branches.branch import VISIT_STRIDE
from copd.branches.settings import ObjectiveSettings, Reference
from copd.branches.signals import SampledToken, WholeVocabulary
from copd.compute.batching import take_rows
from copd.errors import NonFiniteError, WriteError
from copd.maths.cut import Cut
from copd.maths.distill import clamped_delta
from copd.maths.divergences import forward_kl
from copd.model.learner import MAX_SKIPPED_IN_A_ROW, Learner
from copd.model.objectives import (
    DistillObjective,
    GrpoObjective,
    ReweightedObjective,
    over_constant,
    over_sequences,
    over_tokens,
)
from copd.model.policy import Policy
from copd.model.stored import StoredTensors
from copd.tasks.digits import Digits
from copd.types import Part, Split

SAMPLING = SamplingSettings(seed=3, max_new_tokens=6, temperature=1.0)
SETTINGS = ObjectiveSettings(SampledToken(partial(clamped_delta, bound=5.0)))
REWARDS = (1.0, 0.0, 0.0, 1.0, 1.0, 1.0)
ADVANTAGES = (2 / math.sqrt(3), -1 / math.sqrt(3), -1 / math.sqrt(3), 0.0, 0.0, 0.0)
"""Of `REWARDS` in groups of three, one and two: mean 1/3 and unbiased standard deviation 1/sqrt(3) in the first."""


@pytest.fixture
def graded(written, policy, problems_of):
    reward_N = torch.tensor(REWARDS)
    return replace(written(policy, problems_of["text"]), reward_N=reward_N, correct_N=reward_N == 1)


def weights_of(branch):
    return {name: p.detach().clone() for name, p in branch.learner.named_parameters.items()}


def ids(rollouts):
    return [problem.id for problem in rollouts.problems]


def test_the_same_seed_branch_and_step_collect_the_same_rollouts(make_branch):
    first, again = make_branch().collect("text", 4, 2, 3), make_branch().collect("text", 4, 2, 3)
    assert ids(first) == ids(again)
    for name in ("tokens_NT", "mask_NT", "finished_N", "logp_NT", "prompt_of_N", "reward_N"):
        assert torch.equal(getattr(first, name), getattr(again, name)), name


def test_collecting_depends_on_no_call_before_it(make_branch):
    branch = make_branch()
    for task, step in (("text", 0), ("image", 3)):
        branch.collect(task, step, 2, 2)
    branch.answer_first(Split.TEST, "text", 2, 2, greedy=False)
    assert torch.equal(branch.collect("text", 4, 2, 3).tokens_NT, make_branch().collect("text", 4, 2, 3).tokens_NT)


def test_seed_branch_task_and_step_each_give_other_random_numbers():
    keys = [(3, "text", "text", 4), (5, "text", "text", 4), (3, "image", "text", 4), (3, "text", "image", 4)]
    drawn = [torch.rand(3, generator=generator_of(*key)).tolist() for key in [*keys, (3, "text", "text", 5)]]
    assert len({tuple(numbers) for numbers in drawn}) == 5
    assert torch.rand(3, generator=generator_of(*keys[0])).tolist() == drawn[0]


def test_branch_task_and_step_each_draw_other_responses_to_one_problem(make_branch, few, problems_of):
    tasks = {name: few(name, problems_of["text"][:1]) for name in ("text", "image")}
    calls = [("text", "text", 0), ("text", "text", 1), ("text", "image", 0), ("image", "text", 0)]
    drawn = [make_branch(name, tasks=tasks).collect(task, step, 1, 4).tokens_NT for name, task, step in calls]
    assert len({str(tokens_NT.tolist()) for tokens_NT in drawn}) == len(calls)


def test_the_steps_go_through_the_own_capabilities_problems_in_order(make_branch):
    branch = make_branch()
    assert [ids(branch.collect("text", step, 2, 1)) for step in (0, 1, 2)] == [
        [f"text/train/3/{i}" for i in pair] for pair in ((0, 1), (2, 3), (4, 5))
    ]


def test_visits_to_a_capability_use_other_problems_than_its_own_branch_and_than_each_other(make_branch):
    own = ids(make_branch("image", 1).collect("image", 2, 2, 1))
    first = ids(make_branch("text", 0).collect("image", 2, 2, 1))
    second = ids(make_branch("video", 2).collect("image", 2, 2, 1))
    assert own == ["image/train/3/4", "image/train/3/5"]
    assert first == [f"image/train/3/{VISIT_STRIDE + i}" for i in (4, 5)]
    assert not set(own) & set(first) | set(own) & set(second) | set(first) & set(second)


def test_rollouts_carry_reward_and_the_version_of_the_policy(make_branch, graded):
    branch = make_branch()
    assert branch.collect("text", 0, 1, 2).version == 0
    branch.update([Part("native", graded)])
    rollouts = branch.collect("text", 1, 1, 2)
    assert rollouts.version == branch.score(rollouts).version == branch.inspect(rollouts).version == 1
    assert rollouts.reward_N.shape == (2,)


def test_a_right_and_finished_answer_is_rewarded(solver, problems_of, few):
    """The solver knows the first two of three problems by heart."""
    tasks = {"known": few("known", problems_of["image"])}
    actor = Actor("solver", solver, tasks, replace(SAMPLING, max_new_tokens=30))
    rollouts = actor.answer_first(Split.TEST, "known", 3, 2, greedy=True)
    assert rollouts.reward_N.tolist()[:4] == [1.0] * 4
    cut = Actor("solver", solver, tasks, replace(SAMPLING, max_new_tokens=19))
    length_P = [len(problem.solution) + 1 for problem in problems_of["image"]]
    assert cut.answer_first(Split.TEST, "known", 2, 1, greedy=True).reward_N.tolist() == [
        float(length <= 19) for length in length_P[:2]
    ]


def test_responses_graded_again_keep_their_grades(solver, problems_of, few):
    actor = Actor("solver", solver, {"text": few("text", problems_of["text"])}, SamplingSettings(0, 36, 1.0))
    rollouts = actor.answer_first(Split.TRAIN, "text", 3, 2, greedy=False)
    again = actor.grade(replace(rollouts, reward_N=None, correct_N=None))
    assert len(rollouts.reward_N.unique()) == 2
    assert torch.equal(again.reward_N, rollouts.reward_N)
    assert torch.equal(again.correct_N, rollouts.correct_N)


def test_a_right_answer_to_another_problem_is_not_rewarded(solver, problems_of, few):
    first, second = problems_of["text"][:2]
    swapped = (replace(first, answer=second.answer), replace(second, answer=first.answer))
    actor = Actor("solver", solver, {"t": few("t", swapped)}, replace(SAMPLING, max_new_tokens=30))
    assert actor.answer_first(Split.TEST, "t", 2, 1, greedy=True).reward_N.tolist() == [0.0, 0.0]


def test_validation_is_the_same_at_every_call_and_for_every_actor(make_branch, policy):
    branch = make_branch()
    first = branch.answer_first(Split.VALIDATION, "text", 2, 2, greedy=False)
    branch.collect("text", 0, 1, 1)
    again = branch.answer_first(Split.VALIDATION, "text", 2, 2, greedy=False)
    other = Actor("other", policy, {"text": Digits("text")}, SAMPLING).answer_first(
        Split.VALIDATION, "text", 2, 2, greedy=False
    )
    assert ids(first) == ids(other) == ["text/validation/0/0", "text/validation/0/1"]
    assert first.tokens_NT.tolist() == again.tokens_NT.tolist() == other.tokens_NT.tolist()


def test_greedy_validation_gives_the_most_likely_answer_to_every_copy(make_branch):
    branch = make_branch()
    rollouts = branch.answer_first(Split.TEST, "text", 2, 2, greedy=True)
    assert torch.equal(rollouts.tokens_NT[0::2], rollouts.tokens_NT[1::2])
    assert torch.equal(rollouts.tokens_NT[0::2], branch.policy.sample(rollouts.problems, max_new_tokens=6).tokens_NT)


def test_an_update_turns_rewards_into_advantages_within_each_group(make_branch, graded, policy, assert_same):
    branch = make_branch()
    metrics = branch.update([Part("native", graded, weight=0.5)])
    learner = Learner(policy.clone(), learning_rate=1e-3)
    report = learner.step([GrpoObjective("native", graded, 0.5, torch.tensor(ADVANTAGES))])
    assert metrics["native/grad_norm"] == pytest.approx(report.metrics["grad_norm"], rel=1e-4)
    found, expected = branch.learner.state(), learner.state()
    moments = [name for name in found if name.startswith("exp_avg/")]
    assert_same({name: found[name] for name in moments}, {name: expected[name] for name in moments}, atol=1e-6)


def test_an_update_adds_grpo_and_distillation_in_one_step(make_branch, graded, policy, ending, assert_same):
    branch, teacher = make_branch(), make_branch("image", policy=ending)
    visit = replace(graded, reward_N=torch.zeros(6))
    branch.update([Part("native", graded), Part("opd/image", visit, 0.7, teacher.score(visit))])
    learner = Learner(policy.clone(), learning_rate=1e-3)
    learner.step(
        [
            GrpoObjective("native", graded, 1.0, torch.tensor(ADVANTAGES)),
            DistillObjective("opd/image", visit, 0.7, ending.score(visit).logp_NT, SETTINGS.signal.delta),
        ]
    )
    found, expected = branch.learner.state(), learner.state()
    moments = [name for name in found if name.startswith("exp_avg/")]
    assert_same({name: found[name] for name in moments}, {name: expected[name] for name in moments}, atol=1e-6)


def test_the_norms_of_several_parts_are_measured_in_every_fourth_update(make_branch, graded, ending):
    branch, teacher = make_branch(), make_branch("image", policy=ending)
    measured = []
    for version in range(5):
        batch = replace(graded, version=version)
        metrics = branch.update([Part("native", batch), Part("opd", batch, 1.0, teacher.score(batch))])
        measured.append({"native/grad_norm", "opd/grad_norm"} <= set(metrics))
    assert measured == [True, False, False, False, True]


@pytest.mark.parametrize(("rate", "shares"), [(None, 1.0), (2e-3, 2.0)])
def test_a_step_with_a_teacher_has_its_own_rate_and_the_next_one_the_learners_again(
    make_branch, graded, ending, rate, shares
):
    settings = replace(SETTINGS, opd_learning_rate=rate)
    branch, teacher = make_branch(settings=settings), make_branch("image", policy=ending)
    before = weights_of(branch)
    branch.update([Part("opd", graded, 1.0, teacher.score(graded))])
    moved = max(float((weight - before[name]).abs().max()) for name, weight in weights_of(branch).items())
    assert moved == pytest.approx(1e-3 * shares, rel=0.01)  # Adam's first step is as long as the rate
    branch.update([Part("native", replace(graded, version=1))])
    assert [group["lr"] for group in branch.learner.optimizer.param_groups] == [1e-3]


@pytest.mark.parametrize(("asked", "made"), [(None, 1), (3, 3)])
def test_a_batch_with_a_teacher_has_its_own_iterations_and_the_next_one_the_learners_again(
    make_branch, graded, ending, asked, made
):
    settings = replace(SETTINGS, opd_iterations=asked)
    branch, teacher = make_branch(settings=settings), make_branch("image", policy=ending)
    branch.update([Part("opd", graded, 1.0, teacher.score(graded))])
    steps = {int(state["step"]) for state in branch.learner.optimizer.state.values()}
    branch.update([Part("native", replace(graded, version=1))])
    again = {int(state["step"]) for state in branch.learner.optimizer.state.values()}
    assert (steps, again, branch.version) == ({made}, {made + 1}, 2)


def test_the_rate_of_an_update_is_its_share_of_the_native_or_the_opd_rate(make_branch, ending, graded):
    settings = replace(SETTINGS, opd_learning_rate=0.5, rate=lambda update: update / 2)
    branch, teacher = make_branch(settings=settings), make_branch("image", policy=ending)
    before, native = weights_of(branch), branch.learner.learning_rate
    first = branch.update([Part("native", graded)])
    assert first["learning_rate"] == 0.0
    assert all(torch.equal(weight, before[name]) for name, weight in weights_of(branch).items())
    second = branch.update([Part("native", replace(graded, version=1))])
    assert second["learning_rate"] == native / 2
    graded = replace(graded, version=2)
    assert branch.update([Part("opd", graded, 1.0, teacher.score(graded))])["learning_rate"] == 0.5


def test_a_teachers_score_of_another_version_is_refused_and_nothing_changes(make_branch, graded, assert_same):
    branch, teacher = make_branch(), make_branch("image", 1)
    branch.update([Part("native", graded)])
    before, counts = weights_of(branch), branch.counts()
    fresh = replace(graded, version=1)
    with pytest.raises(ValueError, match="opd was scored at version 0, due is 1"):
        branch.update([Part("native", fresh), Part("opd", fresh, 1.0, teacher.score(fresh), 1)])
    assert_same(weights_of(branch), before)
    assert (branch.version, branch.counts()) == (1, counts)
    teacher.update([Part("native", graded)])
    branch.update([Part("opd", fresh, 1.0, teacher.score(fresh), 1)])
    assert branch.version == 2


@pytest.mark.parametrize("taught", [False, True])
def test_responses_of_an_earlier_version_are_refused_and_nothing_changes(make_branch, graded, taught, assert_same):
    branch = make_branch()
    branch.update([Part("native", graded)])
    before = weights_of(branch)
    stale = Part("opd", graded, 1.0, branch.inspect(graded), 1) if taught else Part("native", graded)
    with pytest.raises(ValueError, match=f"{stale.name} was sampled at version 0, due is 1"):
        branch.update([stale])
    assert_same(weights_of(branch), before)


def test_a_student_learns_on_its_teachers_responses_however_often_it_was_updated_itself(make_branch, graded, ending):
    settings = replace(SETTINGS, signal=WholeVocabulary(forward_kl))
    branch, teacher = make_branch(settings=settings), make_branch("image", policy=ending, settings=settings)
    branch.version = 5
    score = teacher.score(graded)
    metrics = branch.update([Part("from_image", graded, 0.7, score, by_teacher=True)])
    assert metrics["from_image/divergence"] > 0
    assert "from_image/logp_mismatch" not in metrics, "nobody else's log-probs are those of the student"
    assert branch.version == 6
    with pytest.raises(ValueError, match="from_image was sampled at version 0, due is 1"):
        branch.update([Part("from_image", graded, 0.7, score, 1, by_teacher=True)])


def test_the_metrics_of_an_update_describe_its_rollouts(make_branch, graded):
    metrics = make_branch().update([Part("native", graded)])
    assert metrics["native/reward"] == pytest.approx(4 / 6)
    assert metrics["native/reward_std"] == pytest.approx(1 / math.sqrt(3) / 3)
    assert metrics["native/groups_with_signal"] == pytest.approx(1 / 3)
    assert metrics["native/response_length"] == pytest.approx(26 / 6)
    assert metrics["native/truncated_rate"] == pytest.approx(0.5)
    assert metrics["skipped"] == 0.0


def test_a_step_that_is_not_finite_is_told_and_the_version_moves_on(make_branch, graded, assert_same):
    branch = make_branch()
    before = weights_of(branch)
    score = branch.score(graded)
    metrics = branch.update([Part("opd", graded, 1.0, replace(score, logp_NT=score.logp_NT * math.nan))])
    assert metrics["skipped"] == 1.0
    assert branch.version == 1
    assert_same(weights_of(branch), before)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("normalize_std", [True, False])
def test_a_reward_that_is_not_finite_costs_the_step_and_several_in_a_row_the_run(
    make_branch, graded, assert_same, value, normalize_std
):
    """Also in a group whose other rewards are all equal, and in one of a single row."""
    branch = make_branch(settings=replace(SETTINGS, normalize_std=normalize_std))
    before = weights_of(branch)
    for version in range(MAX_SKIPPED_IN_A_ROW - 1):
        rewards_N = torch.tensor(REWARDS)
        rewards_N[3 + version % 3] = value
        metrics = branch.update([Part("native", replace(graded, reward_N=rewards_N, version=version))])
        assert (metrics["skipped"], branch.version) == (1.0, version + 1)
    assert_same(weights_of(branch), before)
    with pytest.raises(NonFiniteError, match=f"branch text: {MAX_SKIPPED_IN_A_ROW} optimizer steps in a row"):
        branch.update([Part("native", replace(graded, reward_N=rewards_N, version=branch.version))])


@pytest.mark.parametrize("aggregate", [over_sequences, over_tokens, partial(over_constant, max_new_tokens=6)])
@pytest.mark.parametrize("reference", [False, True])
def test_a_batch_of_nothing_but_padding_is_a_step_of_nothing(make_branch, graded, policy, aggregate, reference):
    """Native and taught, with and without a reference: all means are finite, no weight has a gradient."""
    held = Reference(policy, 0.1) if reference else None
    branch = make_branch(settings=replace(SETTINGS, reference=held), aggregate=aggregate)
    nothing = replace(graded, mask_NT=torch.zeros_like(graded.mask_NT), finished_N=torch.zeros(6, dtype=torch.bool))
    metrics = branch.update([Part("native", nothing), Part("opd", nothing, 1.0, branch.score(nothing))])
    assert metrics["skipped"] == metrics["grad_norm"] == metrics["native/response_length"] == 0.0
    assert all(math.isfinite(value) for value in metrics.values())
    assert branch.ledger.tokens_trained == 0


def test_the_ledger_counts_rollouts_and_tokens_of_training_and_of_teaching(make_branch, graded):
    branch = make_branch()
    rollouts = [branch.collect("text", 0, 2, 3), branch.collect("image", 0, 1, 2)]
    branch.score(graded)
    branch.update([Part("native", graded), Part("opd", graded, 1.0, branch.inspect(graded))])
    assert branch.ledger.rollouts == 8
    assert branch.ledger.tokens_generated == sum(int(each.mask_NT.sum()) for each in rollouts)
    assert branch.ledger.tokens_scored == 26
    assert branch.ledger.tokens_trained == (5 + 3 + 7) + 26
    assert min(branch.ledger.collect_seconds, branch.ledger.score_seconds, branch.ledger.update_seconds) > 0


def test_validation_and_inspection_are_not_counted(make_branch, graded):
    branch = make_branch()
    branch.answer_first(Split.TEST, "text", 2, 2, greedy=False)
    branch.inspect(graded, k=3)
    assert set(branch.counts().values()) == {0}


def test_weights_travel_by_a_folder_tied_ones_once_and_what_is_loaded_is_trained_anew(
    make_branch, graded, policy, assert_same, tmp_path
):
    branch = make_branch()
    branch.write_weights(tmp_path / "weights")
    weights = dict(StoredTensors(tmp_path / "weights", "those of the branch"))
    assert "lm_head.weight" not in weights
    assert_same(weights, {name: p.detach() for name, p in policy.model.named_parameters()})
    branch.update([Part("native", graded)])
    branch.load_weights(tmp_path / "weights")
    assert_same(dict(branch.policy.model.named_parameters()), weights)
    assert not branch.learner.optimizer.state


def test_weights_that_cannot_be_written_are_named_with_their_folder(make_branch, tmp_path):
    (tmp_path / "taken").mkdir()
    with pytest.raises(WriteError, match=rf"^{tmp_path / 'taken'}: the weights cannot be written"):
        make_branch().write_weights(tmp_path / "taken")


def test_a_branch_goes_on_from_a_state_as_if_it_had_never_stopped(make_branch, graded, assert_same):
    branch, resumed = make_branch(), make_branch()
    branch.update([Part("native", graded)])
    resumed.load_state({name: tensor.clone() for name, tensor in branch.state().items()}, branch.counts())
    for each in (branch, resumed):
        visit = replace(graded, version=1)
        each.update([Part("native", each.collect("text", 1, 2, 2)), Part("opd", visit, 1.0, each.inspect(visit), 1)])
    assert_same(resumed.learner.state(), branch.learner.state())
    assert resumed.version == branch.version == 2


def test_once_a_branch_is_saved_it_gives_back_what_steps_took_of_a_card(make_branch, tmp_path, monkeypatch):
    """Base and merge are then evaluated there, by another process."""
    done = []
    branch = make_branch()
    monkeypatch.setattr(branch.policy, "save", lambda *arguments: done.append("saved"))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: done.append("given back"))
    branch.save(tmp_path / "branch", "card")
    assert done == ["saved", "given back"]


def test_a_saved_branch_loads_as_the_same_policy(make_branch, graded, tmp_path):
    branch = make_branch()
    branch.update([Part("native", graded)])
    branch.save(tmp_path / "branch", "card")
    again = Policy.from_pretrained(tmp_path / "branch")
    assert torch.equal(again.score(graded).logp_NT, branch.inspect(graded).logp_NT)


def moments(branch):
    """AdamW's first moment after an update, by parameter; after one update it is a tenth of the gradient."""
    return {name: tensor for name, tensor in branch.learner.state().items() if name.startswith("exp_avg/")}


def test_without_the_deviation_advantages_are_the_centred_rewards(make_branch, graded, policy, assert_same):
    branch = make_branch(settings=replace(SETTINGS, normalize_std=False), max_grad_norm=math.inf)
    branch.update([Part("native", graded)])
    other = make_branch(max_grad_norm=math.inf)
    centred_N = torch.tensor([2 / 3, -1 / 3, -1 / 3, 0.0, 0.0, 0.0])
    other.learner.step([GrpoObjective("native", graded, 1.0, centred_N)])
    assert_same(moments(branch), moments(other), atol=1e-6)


def test_masked_truncated_responses_are_as_if_they_had_not_been_drawn(make_branch, graded, assert_same):
    """In the loss, in the denominator, and in the mean and deviation of their group."""
    rewards_N = torch.tensor([0.0, 1.0, 0.0, 0.0, 0.0, 1.0])
    finished_N = torch.tensor([True, True, False, True, True, True])
    batch = replace(graded, reward_N=rewards_N, finished_N=finished_N)
    masked, without, trained = (
        make_branch(settings=replace(SETTINGS, mask_truncated=True)),
        make_branch(),
        make_branch(),
    )
    metrics = masked.update([Part("native", batch)])
    fewer = without.update([Part("native", take_rows(batch, finished_N.nonzero()[:, 0]))])
    trained.update([Part("native", batch)])
    assert_same(moments(masked), moments(without))
    assert metrics["native/grad_norm"] == fewer["native/grad_norm"] > 0
    difference = [float((moments(masked)[name] - moments(trained)[name]).abs().max()) for name in moments(masked)]
    assert max(difference) > 1e-3
    assert metrics["native/reward"] == pytest.approx(2 / 6)
    assert metrics["native/truncated_rate"] == pytest.approx(1 / 6)


def test_a_signal_that_only_a_cut_response_makes_is_none_when_cut_responses_are_masked(make_branch, graded):
    """Rows 0, 2 and 4 are cut: what is left of the first group, one row, has nothing to compare with."""
    metrics = make_branch(settings=replace(SETTINGS, mask_truncated=True)).update([Part("native", graded)])
    assert metrics["native/groups_with_signal"] == 0.0
    assert metrics["native/grad_norm"] == 0.0
    assert make_branch().update([Part("native", graded)])["native/groups_with_signal"] == pytest.approx(1 / 3)


@pytest.mark.parametrize("held", [False, True])
def test_where_all_are_truncated_and_masked_nothing_is_trained_and_nothing_fails(make_branch, graded, policy, held):
    reference = Reference(policy, 0.1) if held else None
    branch = make_branch(settings=replace(SETTINGS, mask_truncated=True, reference=reference))
    metrics = branch.update([Part("native", replace(graded, finished_N=torch.zeros(6, dtype=torch.bool)))])
    assert metrics["skipped"] == metrics["native/grad_norm"] == metrics["native/groups_with_signal"] == 0.0
    assert branch.ledger.tokens_trained == 0
    assert metrics["native/truncated_rate"] == 1.0


def test_cut_responses_are_taught_on_even_where_the_native_part_masks_them(make_branch, graded, ending, assert_same):
    teacher = make_branch("image", policy=ending)
    taught = [make_branch(settings=replace(SETTINGS, mask_truncated=masked)) for masked in (True, False)]
    for branch in taught:
        branch.update([Part("opd", graded, 1.0, teacher.score(graded))])
        assert branch.ledger.tokens_trained == 26
    assert_same(moments(taught[0]), moments(taught[1]))


def test_a_branch_that_is_its_own_reference_has_no_kl_and_the_gradient_of_the_rewards_alone(
    make_branch, graded, policy, assert_same
):
    held, free = make_branch(settings=replace(SETTINGS, reference=Reference(policy, 0.5))), make_branch()
    metrics = held.update([Part("native", graded)])
    free.update([Part("native", graded)])
    assert metrics["native/kl"] == pytest.approx(0.0, abs=1e-9)
    assert_same(moments(held), moments(free), atol=1e-5)


def test_the_kl_holds_a_branch_near_its_reference(make_branch, graded, policy):
    """The same updates with and without the term; the reference itself never moves."""
    before = {name: p.detach().clone() for name, p in policy.model.named_parameters()}
    branches = {
        weight: make_branch(settings=replace(SETTINGS, reference=Reference(policy, weight))) for weight in (0.01, 10)
    }
    for branch in branches.values():
        for version in range(6):
            metrics = branch.update([Part("native", replace(graded, version=version))])
        assert metrics["native/kl"] > 0
    distance = {
        weight: float((branch.inspect(graded).logp_NT - policy.score(graded).logp_NT).abs().sum())
        for weight, branch in branches.items()
    }
    assert distance[10] < 0.5 * distance[0.01]
    assert all(torch.equal(p, before[name]) for name, p in policy.model.named_parameters())


def test_the_reference_scores_a_batch_once_whatever_the_passes_and_its_tokens_are_counted(make_branch, graded, policy):
    branch = make_branch(settings=replace(SETTINGS, reference=Reference(policy, 0.1)), iterations=3)
    branch.update([Part("native", graded)])
    assert branch.ledger.tokens_scored == 26
    assert branch.ledger.tokens_trained == 3 * 26
    assert branch.version == 1


def test_the_reward_of_each_task_is_told_where_a_batch_holds_several(make_branch, written, policy, problems_of):
    mixed = [problems_of["text"][0], problems_of["image"][0], problems_of["text"][1]]
    reward_N = torch.tensor([1.0, 0.0, 1.0, 0.25, 0.0, 1.0])
    rollouts = replace(written(policy, mixed), reward_N=reward_N, correct_N=reward_N == 1)
    metrics = make_branch().update([Part("native", rollouts)])
    assert metrics["native/reward/text"] == pytest.approx(3 / 5)
    assert metrics["native/reward/image"] == 0.25
    assert metrics["native/reward"] == pytest.approx(3.25 / 6)


def test_the_reward_of_a_single_task_is_told_once(make_branch, graded):
    metrics = make_branch().update([Part("native", graded)])
    assert [name for name in metrics if "reward" in name] == ["native/reward", "native/reward_std"]


def rewarded(branch):
    """The branch, which rewards every second response of a batch, whatever it says."""
    collect = branch.collect

    def collected(*asked, **options):
        rollouts = collect(*asked, **options)
        reward_N = torch.arange(len(rollouts.tokens_NT)).remainder(2).float()
        return replace(rollouts, reward_N=reward_N, correct_N=reward_N == 1)

    branch.collect = collected
    return branch


def test_native_gradients_are_summed_at_the_same_weights_and_change_nothing_but_the_ledger(make_branch):
    branch, twin = rewarded(make_branch()), rewarded(make_branch())
    before = weights_of(branch)
    total, squares = branch.native_gradients(range(2, 4), 2, 4)
    assert all(torch.equal(p, before[name]) for name, p in branch.learner.named_parameters.items())
    assert branch.version == 0
    assert not branch.learner.optimizer.state
    assert branch.counts()["rollouts"] == 16
    each = [twin.native_gradients(range(step, step + 1), 2, 4) for step in (2, 3)]
    assert squares == pytest.approx([each[0][1][0], each[1][1][0]])
    for summed, first, second in zip(total, each[0][0], each[1][0], strict=True):
        torch.testing.assert_close(summed, first + second)


def test_a_native_gradient_is_that_of_the_update_on_the_same_batch(make_branch):
    branch, twin = rewarded(make_branch()), rewarded(make_branch())
    _, (square,) = branch.native_gradients(range(2, 3), 2, 4)
    metrics = twin.update([Part("native", twin.collect("text", 2, 2, 4))])
    assert math.sqrt(square) == pytest.approx(metrics["native/grad_norm"], rel=1e-5)
    assert square > 0


def test_tokens_of_a_cut_distribution_are_weighted_by_the_share_that_is_left_and_have_no_mismatch(make_branch):
    corrected = partial(ReweightedObjective, cap=2.0)
    branch = make_branch(settings=ObjectiveSettings(SampledToken(partial(clamped_delta, bound=5.0), corrected)))
    branch.sampling = replace(branch.sampling, cut=Cut(top_k=5))
    rollouts = branch.collect("image", 0, 2, 2)
    shares_M = branch.policy.score(rollouts, k=5).topk_logp_NTK[rollouts.mask_NT].exp().sum(-1)
    metrics = branch.update([Part("from_image", rollouts, 1.0, branch.policy.score(rollouts))])
    assert metrics["from_image/importance"] == pytest.approx(float(shares_M.mean()), rel=1e-4)
    assert metrics["from_image/importance"] < 0.5
    assert "from_image/logp_mismatch" not in metrics, "the cut would hide what sampler and trainer differ by"


def test_a_corrected_branch_tells_the_effective_share_of_each_parts_tokens(make_branch, graded):
    corrected = partial(ReweightedObjective, cap=2.0)
    settings = ObjectiveSettings(SampledToken(partial(clamped_delta, bound=5.0), corrected), corrected)
    branch = make_branch(settings=settings)
    own = replace(graded, logp_NT=branch.policy.score(graded).logp_NT)
    skewed = replace(own, logp_NT=own.logp_NT - torch.linspace(-1, 1, own.logp_NT.shape[1]) * own.mask_NT)
    parts = [Part("native", own), Part("from_image", skewed, 1.0, branch.policy.score(skewed))]
    metrics = branch.update(parts)
    assert metrics["native/effective_share"] == pytest.approx(1.0, abs=1e-6)
    assert 0.5 < metrics["from_image/effective_share"] < 0.99
    assert not any("squared" in name for name in metrics)
    assert not any("importance" in name for name in make_branch().update([Part("native", graded)]))
