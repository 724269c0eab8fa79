"""The optimizer step: which gradient it takes, what it leaves out, and when it refuses to step."""

import math
from dataclasses import replace
from functools import partial

import pytest
import torch
from safetensors.torch import load, save

from copd.errors import CheckpointError, NonFiniteError
from copd.maths.distill import clamped_delta
from copd.model.learner import MAX_SKIPPED_IN_A_ROW, Learner
from copd.model.objectives import DistillObjective, GrpoObjective

ADVANTAGES = (1.5, -0.5, 0.0, 0.7, -2.0, 0.0)
"""One for each row of `UNEVEN`: both signs, and rows without a gradient."""


class WithoutSkipping(GrpoObjective):
    """The same objective, with a forward and a backward pass for rows of advantage 0 as well."""

    def rows_with_gradient(self):
        return torch.arange(len(self.rollouts.tokens_NT))


def one_step(policy, objectives, **options):
    """The gradient that one step took, read from AdamW's first moment (at beta1 = 0 it is the gradient); the report."""
    learner = Learner(
        policy.clone(), **{"learning_rate": 1e-3, "betas": (0.0, 0.99), "max_grad_norm": math.inf} | options
    )
    report = learner.step(objectives, part_norms=True)
    state = learner.state()
    return {name: state[f"exp_avg/{name}"] for name in learner.named_parameters}, report


def reinforce(policy, rollouts, advantage_NT):
    """- mean over responses of the mean over their tokens of advantage * log-prob (method.md eq. 2 at ratio 1)."""
    per_row_N = (policy.logp(rollouts) * advantage_NT).sum(-1) / rollouts.mask_NT.sum(-1)
    return -per_row_N.sum() / len(per_row_N)


def grpo(rollouts, advantages=ADVANTAGES, weight=1.0, name="grpo", made_by=GrpoObjective):
    return made_by(name, rollouts, weight, torch.tensor(advantages, dtype=torch.float64))


def distill(rollouts, teacher_logp_NT, clamp=5.0, weight=1.0):
    return DistillObjective("opd", rollouts, weight, teacher_logp_NT, partial(clamped_delta, bound=clamp))


def copied(learner):
    return {name: tensor.clone() for name, tensor in learner.state().items()}


@pytest.fixture
def rollouts(written, policy64, problems_of):
    return written(policy64, problems_of["text"])


@pytest.fixture
def mixed(written, policy64, problems_of):
    """Six rows that answer prompts of the three kinds."""
    return written(policy64, [problems_of[kind][2] for kind in problems_of])


@pytest.fixture
def pictures(written, policy64, problems_of):
    return written(policy64, problems_of["image"], seed=1)


def test_the_gradient_of_a_first_pass_is_reinforces(policy64, mixed, gradients, assert_same):
    found, report = one_step(policy64, [grpo(mixed)])
    advantage_NT = torch.tensor(ADVANTAGES, dtype=torch.float64)[:, None]
    expected = gradients(policy64, reinforce(policy64, mixed, advantage_NT))
    assert max(g.abs().max() for g in expected.values()) > 1e-2
    assert_same(found, expected, atol=1e-8)
    assert report.metrics["grpo/clip_rate"] == 0.0
    norm = math.sqrt(sum(float(g.square().sum()) for g in expected.values()))
    assert report.metrics["grad_norm"] == report.metrics["grpo/grad_norm"] == pytest.approx(norm)


def test_a_step_moves_the_weights_as_adamw_does_by_that_gradient(policy64, rollouts, gradients, assert_same):
    learner = Learner(policy64.clone(), learning_rate=1e-3, weight_decay=0.1, betas=(0.8, 0.9), max_grad_norm=math.inf)
    learner.step([grpo(rollouts)])
    twin = policy64.clone()
    by_hand = gradients(twin, reinforce(twin, rollouts, torch.tensor(ADVANTAGES, dtype=torch.float64)[:, None]))
    parameters = dict(twin.model.named_parameters())
    for name, parameter in parameters.items():
        parameter.grad = by_hand[name]
    torch.optim.AdamW(parameters.values(), lr=1e-3, weight_decay=0.1, betas=(0.8, 0.9)).step()
    found = {name: p.detach() for name, p in learner.named_parameters.items()}
    assert_same(found, {name: p.detach() for name, p in parameters.items()}, atol=1e-7)
    moved = torch.cat([(found[name] - p.detach()).abs().flatten() for name, p in policy64.model.named_parameters()])
    assert float(moved.mean()) > 1e-4


def test_rows_of_advantage_zero_are_left_out_of_the_passes_but_not_of_the_denominator(policy64, mixed, assert_same):
    skipped, report = one_step(policy64, [grpo(mixed)])
    everything, full_report = one_step(policy64, [grpo(mixed, made_by=WithoutSkipping)])
    assert_same(skipped, everything, atol=1e-8)
    assert full_report.tokens_trained == int(mixed.mask_NT.sum())
    assert report.tokens_trained == full_report.tokens_trained - 7 - 6


def test_a_part_without_any_advantage_has_no_gradient_and_costs_no_tokens(policy64, rollouts):
    gradient, report = one_step(policy64, [grpo(rollouts, (0.0,) * 6)])
    assert not any(g.any() for g in gradient.values())
    assert report.tokens_trained == 0
    assert report.metrics["grad_norm"] == 0.0


@pytest.mark.parametrize("budget", [1, 80])
def test_gradient_and_metrics_do_not_depend_on_the_token_budget(policy64, mixed, assert_same, budget):
    small = policy64.clone()
    small.micro_batch_tokens = budget
    teacher_NT = policy64.score(mixed).logp_NT + torch.linspace(-3, 3, mixed.tokens_NT.numel()).view(6, -1)
    parts = [grpo(mixed), distill(mixed, teacher_NT, clamp=2.0)]
    whole, report = one_step(policy64, parts)
    split, split_report = one_step(small, parts)
    assert_same(split, whole, atol=1e-8)
    assert split_report.tokens_trained == report.tokens_trained
    assert split_report.metrics == pytest.approx(report.metrics, abs=1e-6)


def test_parts_add_up_with_their_weights_and_their_own_denominators(policy64, mixed, pictures, gradients, assert_same):
    pictures = replace(
        pictures,
        problems=pictures.problems[:1],
        **{
            name: getattr(pictures, name)[:2]
            for name in ("tokens_NT", "mask_NT", "finished_N", "logp_NT", "prompt_of_N")
        },
    )
    found, report = one_step(
        policy64, [grpo(mixed, weight=1.0, name="native"), grpo(pictures, (1.0, -1.0), weight=0.3, name="other")]
    )
    native = gradients(policy64, reinforce(policy64, mixed, torch.tensor(ADVANTAGES, dtype=torch.float64)[:, None]))
    other = gradients(policy64, reinforce(policy64, pictures, torch.tensor([[1.0], [-1.0]], dtype=torch.float64)))
    assert_same(found, {name: native[name] + 0.3 * other[name] for name in native}, atol=1e-8)
    norm = math.sqrt(sum(float(g.square().sum()) for g in other.values()))
    assert report.metrics["other/grad_norm"] == pytest.approx(0.3 * norm)


def test_a_second_part_adds_to_the_gradient_of_the_first_and_nothing_is_copied(policy64, rollouts, monkeypatch):
    class Watching(GrpoObjective):
        def rows_with_gradient(self):
            held.append([p.grad for p in learner.named_parameters.values() if p.grad is not None])
            return super().rows_with_gradient()

    def copied(tensor, *arguments, to=torch.Tensor.to, **options):
        copies.extend(p for p in learner.named_parameters.values() if p.grad is tensor)
        return to(tensor, *arguments, **options)

    held, copies = [], []
    learner = Learner(policy64.clone(), learning_rate=1e-3)
    monkeypatch.setattr(torch.Tensor, "to", copied)
    learner.step([grpo(rollouts, name="first"), grpo(rollouts, name="second", made_by=Watching)])
    report = learner.step([grpo(rollouts, name=name, made_by=Watching) for name in ("first", "second")])
    assert held[1] == []
    assert all(any(gradient.any() for gradient in held[i]) for i in (0, 2))
    assert not {"first/grad_norm", "second/grad_norm"} & set(report.metrics)
    assert not copies


def test_measuring_the_norms_of_parts_changes_no_bit_of_the_step(policy64, rollouts, pictures, assert_same):
    states = []
    for part_norms in (False, True):
        learner = Learner(policy64.clone(), learning_rate=1e-3)
        learner.step([grpo(rollouts, name="text"), grpo(pictures, name="image")], part_norms=part_norms)
        states.append(learner.state())
    assert_same(*states)


def test_a_gradient_above_the_greatest_norm_is_scaled_down_to_it(policy64, rollouts, assert_same):
    free, report = one_step(policy64, [grpo(rollouts)])
    norm = report.metrics["grad_norm"]
    clipped, clipped_report = one_step(policy64, [grpo(rollouts)], max_grad_norm=norm / 4)
    assert_same(clipped, {name: g / 4 for name, g in free.items()}, atol=1e-6)
    assert clipped_report.metrics["grad_norm"] == pytest.approx(norm)
    below, _ = one_step(policy64, [grpo(rollouts)], max_grad_norm=norm * 4)
    assert_same(below, free)


def test_a_text_step_moves_the_vision_tower_as_an_explicit_gradient_of_zero_does(
    policy64, rollouts, pictures, gradients, assert_same
):
    learner = Learner(policy64.clone(), learning_rate=1e-3, max_grad_norm=math.inf)
    twin = policy64.clone()
    parameters = dict(twin.model.named_parameters())
    adamw = torch.optim.AdamW(parameters.values(), lr=1e-3, betas=(0.9, 0.99), weight_decay=0.0)
    after = []
    for batch in (pictures, rollouts):
        learner.step([grpo(batch)])
        by_hand = gradients(twin, reinforce(twin, batch, torch.tensor(ADVANTAGES, dtype=torch.float64)[:, None]))
        for name, parameter in parameters.items():
            parameter.grad = by_hand[name]
        adamw.step()
        after.append({name: p.detach().clone() for name, p in learner.named_parameters.items() if "visual" in name})
    assert not any(by_hand[name].any() for name in after[0]), "text has no gradient in the vision tower"
    assert all(bool((after[0][name] != after[1][name]).any()) for name in after[0] if name.endswith("qkv.weight"))
    assert_same(after[1], {name: parameters[name].detach() for name in after[1]}, atol=1e-7)
    state = learner.state()
    assert all(float(state[f"step/{name}"]) == 2 for name in parameters)


def test_no_gradient_is_left_behind(policy64, rollouts):
    learner = Learner(policy64.clone(), learning_rate=1e-3)
    learner.step([grpo(rollouts)])
    assert all(parameter.grad is None for parameter in learner.named_parameters.values())


@pytest.mark.parametrize("name", ["policy", "policy64"])
def test_a_teacher_that_is_the_student_gives_exactly_no_delta_and_no_gradient(request, name, written, problems_of):
    policy = request.getfixturevalue(name)
    rollouts = written(policy, [problems_of[kind][2] for kind in problems_of])
    gradient, report = one_step(policy, [distill(rollouts, policy.score(rollouts).logp_NT)])
    assert report.metrics["opd/delta_abs"] == 0.0
    assert report.metrics["grad_norm"] == 0.0
    assert not any(g.any() for g in gradient.values())
    assert report.tokens_trained == int(rollouts.mask_NT.sum())


def test_the_gradient_of_distillation_is_that_of_the_clamped_delta_times_the_log_prob(
    policy64, rollouts, gradients, assert_same
):
    delta_NT = torch.linspace(-4, 4, rollouts.tokens_NT.numel(), dtype=torch.float64).view(6, -1)
    teacher_NT = torch.where(rollouts.mask_NT, policy64.score(rollouts).logp_NT + delta_NT, torch.nan)
    found, report = one_step(policy64, [distill(rollouts, teacher_NT, clamp=2.5, weight=0.5)])
    expected = gradients(policy64, 0.5 * reinforce(policy64, rollouts, delta_NT.clamp(-2.5, 2.5)))
    assert_same(found, expected, atol=1e-8)
    present = delta_NT[rollouts.mask_NT]
    assert report.metrics["opd/delta"] == pytest.approx(float(present.clamp(-2.5, 2.5).mean()))
    assert report.metrics["opd/delta_abs"] == pytest.approx(float(present.clamp(-2.5, 2.5).abs().mean()))
    assert report.metrics["opd/clamp_rate"] == pytest.approx(float((present.abs() > 2.5).double().mean()))


def test_distillation_moves_the_student_towards_the_teacher(policy, ending, written, problems_of):
    student = policy.clone()
    rollouts = written(student, problems_of["text"])
    teacher_NT = ending.score(rollouts).logp_NT

    def distance():
        return float((student.score(rollouts).logp_NT - teacher_NT)[rollouts.mask_NT].abs().mean())

    before, learner = distance(), Learner(student, learning_rate=1e-4)
    for _ in range(5):
        learner.step([distill(rollouts, teacher_NT)])
    assert distance() < 0.8 * before


def test_metrics_are_means_over_the_tokens_of_a_part(policy64, rollouts):
    sampled_NT = policy64.score(rollouts).logp_NT
    _, report = one_step(policy64, [grpo(replace(rollouts, logp_NT=sampled_NT - 0.25), (1.0,) * 6)])
    assert report.metrics["grpo/logp_mismatch"] == pytest.approx(0.25)
    assert report.metrics["grpo/entropy"] == pytest.approx(float(policy64.token_stats(rollouts).entropy_M.mean()))


def poisoned(what, learner, rollouts):
    """Objectives of a step that has to be refused."""
    if what == "weights":
        with torch.no_grad():
            next(iter(learner.named_parameters.values())).view(-1)[0] = torch.nan
    if what == "teacher":
        teacher_NT = torch.zeros(rollouts.mask_NT.shape)
        teacher_NT[2, 1] = torch.nan
        return [grpo(rollouts), distill(rollouts, teacher_NT)]
    if what == "sampler":
        logp_NT = rollouts.logp_NT.clone()
        logp_NT[3, 0] = torch.nan
        return [grpo(replace(rollouts, logp_NT=logp_NT), (0.0,) * 6)]
    return [grpo(rollouts, (math.nan if what == "advantage" else 1.0, *ADVANTAGES[1:]))]


@pytest.mark.parametrize("what", ["weights", "teacher", "advantage", "sampler"])
def test_a_step_that_is_not_finite_changes_neither_weights_nor_optimizer(policy, pictures, assert_same, what):
    learner = Learner(policy.clone(), learning_rate=1e-3)
    assert not learner.step([grpo(pictures)]).skipped
    objectives = poisoned(what, learner, pictures)
    before = copied(learner)
    assert learner.step(objectives).skipped
    after = learner.state()
    assert (before.pop("skipped_in_a_row"), after.pop("skipped_in_a_row")) == (0, 1)
    assert_same(after, before)
    assert all(parameter.grad is None for parameter in learner.named_parameters.values())


def test_several_steps_in_a_row_that_are_not_finite_are_an_error(policy, rollouts):
    learner = Learner(policy.clone(), learning_rate=1e-3)
    bad = poisoned("advantage", learner, rollouts)
    for _ in range(MAX_SKIPPED_IN_A_ROW - 1):
        assert learner.step(bad).skipped
    with pytest.raises(NonFiniteError, match=f"{MAX_SKIPPED_IN_A_ROW} optimizer steps"):
        learner.step(bad)


def test_a_good_step_between_bad_ones_starts_the_count_anew(policy, rollouts):
    learner = Learner(policy.clone(), learning_rate=1e-3)
    bad = poisoned("advantage", learner, rollouts)
    for _ in range(3):
        for _ in range(MAX_SKIPPED_IN_A_ROW - 1):
            assert learner.step(bad).skipped
        assert not learner.step([grpo(rollouts)]).skipped


def test_state_through_a_file_goes_on_bit_identically(policy, rollouts, pictures, assert_same):
    learner = Learner(policy.clone(), learning_rate=1e-3, weight_decay=0.01)
    learner.step([grpo(pictures)])
    twin = Learner(policy.clone(), learning_rate=1e-3, weight_decay=0.01)
    twin.load_state(load(save(learner.state())))
    assert_same(twin.state(), learner.state())
    for _ in range(2):
        reports = [each.step([grpo(rollouts)]) for each in (learner, twin)]
        assert reports[0] == reports[1]
    assert_same(twin.state(), learner.state())


def test_state_handed_over_in_memory_is_the_new_learners_own(policy, rollouts, pictures, assert_same):
    learner = Learner(policy.clone(), learning_rate=1e-3)
    learner.step([grpo(pictures)])
    twin = Learner(policy.clone(), learning_rate=1e-3)
    twin.load_state(learner.state())
    before = copied(twin)
    learner.step([grpo(rollouts)])
    assert_same(twin.state(), before)


def test_state_of_a_learner_that_never_stepped_goes_on_from_there(policy, ending, rollouts, assert_same):
    learner = Learner(ending.clone(), learning_rate=1e-3)
    twin = Learner(policy.clone(), learning_rate=1e-3)
    twin.load_state(load(save(learner.state())))
    for each in (learner, twin):
        each.step([grpo(rollouts)])
    assert_same(twin.state(), learner.state())


def test_state_holds_tied_weights_once_and_a_missing_tensor_is_named(policy):
    learner = Learner(policy.clone(), learning_rate=1e-3)
    state = copied(learner)
    assert "weight/lm_head.weight" not in state
    name = "weight/model.language_model.norm.weight"
    del state[name]
    with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
        learner.load_state(state)
