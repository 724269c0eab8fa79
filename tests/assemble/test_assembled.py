"""From a recipe's names to the functions and numbers that they stand for."""

import asyncio
from dataclasses import replace
from importlib.util import find_spec

import pytest
import torch

from copd.assemble import branches as assembly
from copd.assemble.assembled import Assembled, assembled
from copd.assemble.branches import make_branch, make_learner, make_objectives, make_rate, make_signal
from copd.assemble.preflight import check_one_path
from copd.assemble.sampling import versions_of_sampler
from copd.branches.signals import StudentsLikeliest, TeachersLikeliest, WholeVocabulary
from copd.errors import ModelFolderError, RecipeError
from copd.maths.divergences import forward_kl, jensen_shannon, reverse_kl
from copd.model.objectives import DenseObjective, DistillObjective, GrpoObjective, ReweightedObjective
from copd.recipe.reading import load_recipe
from copd.types import Part, SettledPath


@pytest.fixture
def graded(written, policy, problems_of):
    return written(policy, problems_of["text"])


MASK_NT = torch.tensor([[True, True, True], [True, False, False]])
VALUE_NT = torch.tensor([[1.0, 2.0, 3.0], [4.0, 50.0, 60.0]])
BAD_ROW = "branches.sums.task: bad rows left out: 1; `copd data check` lists them"


def recipe(*changes: str):
    return load_recipe("demo-paper", [*changes])


@pytest.mark.parametrize(
    ("aggregation", "expected"), [("sequence", 6 / 6), ("token", 10 / 26), ("constant", 10 / (6 * 20))]
)
def test_the_aggregation_named_is_the_learners(policy, written, problems_of, aggregation, expected):
    """Of six responses of 26 tokens in all; the constant length is that of sampling.max_new_tokens."""
    learner = make_learner(recipe(f"grpo.aggregation={aggregation}", "sampling.max_new_tokens=20"), policy)
    aggregate = learner.aggregate(written(policy, problems_of["text"]))
    assert aggregate(VALUE_NT, MASK_NT).item() == pytest.approx(expected)


def test_optimizer_clips_and_iterations_are_the_recipes(policy):
    changes = [
        "grpo={clip_low: 0.1, clip_high: 0.3, iterations: 4}",
        "optimizer={learning_rate: 2e-3, max_grad_norm: 3}",
    ]
    learner = make_learner(recipe(*changes), policy)
    assert (learner.clip_low, learner.clip_high, learner.iterations, learner.max_grad_norm) == (0.1, 0.3, 4, 3.0)
    assert learner.optimizer.param_groups[0]["lr"] == 2e-3


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ([], [5.0, 0.5, -5.0]),
        (["opd.clamp=2"], [2.0, 0.5, -2.0]),
        (["opd.bound=mask"], [0.0, 0.5, 0.0]),
        (["opd.bound=mask", "opd.clamp=8"], [6.0, 0.5, 0.0]),
        (["opd.bound=proximal", "opd.teacher_share=1"], [6.0, 0.5, -9.0]),
        (["opd.bound=proximal", "opd.teacher_share=0.5"], [5.30933, 0.28093, -0.69302]),
    ],
)
def test_the_bound_named_is_that_of_the_delta(policy, changes, expected):
    delta = make_objectives(recipe(*changes), policy).signal.delta
    found = delta(torch.tensor([-7.0, -1.0, -1.0]), torch.tensor([-1.0, -0.5, -10.0]))
    assert found.tolist() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    ("signal", "divergence", "likeliest"),
    [
        ("reverse_kl", reverse_kl, StudentsLikeliest),
        ("forward_kl", forward_kl, TeachersLikeliest),
        ("jsd", jensen_shannon, TeachersLikeliest),
    ],
)
def test_a_direct_loss_is_over_the_whole_vocabulary_unless_that_is_large(
    policy, monkeypatch, signal, divergence, likeliest
):
    asked = recipe(f"opd.signal={signal}", "opd.top_k=9")
    assert make_signal(asked, policy) == WholeVocabulary(divergence)
    monkeypatch.setattr(assembly, "WHOLE_VOCABULARY", policy.allowed_tokens - 1)
    assert make_signal(asked, policy) == likeliest(divergence, 9)
    assert make_signal(recipe(f"opd.signal={signal}", "opd.top_k=9999"), policy).k == policy.allowed_tokens


def test_the_rate_rises_and_falls_as_the_recipe_says():
    def shares(*changes):
        rate = make_rate(recipe(*changes).optimizer)
        return [round(rate(update), 3) for update in (0, 1, 2, 4, 6, 9)]

    assert shares() == [1.0] * 6
    assert shares("optimizer.warmup_steps=2") == [0.5, 1.0, 1.0, 1.0, 1.0, 1.0]
    linear = ("optimizer.warmup_steps=2", "optimizer.decay=linear", "optimizer.decay_steps=4")
    assert shares(*linear) == [0.5, 1.0, 1.0, 0.55, 0.1, 0.1]
    assert shares("optimizer={decay: cosine, decay_steps: 4, decay_to: 0}") == [1.0, 0.854, 0.5, 0.0, 0.0, 0.0]


def test_without_a_kl_there_is_no_reference_and_with_one_it_is_the_base(policy):
    assert make_objectives(recipe(), policy).reference is None
    reference = make_objectives(recipe("grpo.kl_coefficient=0.02"), policy).reference
    assert reference.policy is policy
    assert reference.kl_coefficient == 0.02


def test_advantages_and_truncated_responses_are_treated_as_the_recipe_says(policy):
    default = make_objectives(recipe(), policy)
    assert (default.normalize_std, default.mask_truncated) == (True, False)
    changed = make_objectives(recipe("grpo={normalize_std: false, mask_truncated: true}"), policy)
    assert (changed.normalize_std, changed.mask_truncated) == (False, True)


def test_a_policy_that_samples_itself_has_objectives_without_weights(policy, graded):
    settings = make_objectives(recipe("sampling.importance_cap=3"), policy)
    part = Part("native", graded)
    objective = GrpoObjective("native", graded, 1.0, torch.zeros(6))
    assert settings.corrected(objective) is objective
    assert isinstance(settings.signal.objective(part, policy.score(graded)), DistillObjective)


@pytest.mark.parametrize("other", ["engine: vllm", "top_p: 0.9", "top_k: 20", "min_p: 0.1"])
def test_where_the_samplers_distribution_is_another_its_tokens_are_weighted_up_to_the_cap(policy, graded, other):
    settings = make_objectives(recipe(f"sampling={{{other}, importance_cap: 3}}"), policy)
    part = Part("native", graded)
    native = settings.corrected(GrpoObjective("native", graded, 1.0, torch.zeros(6)))
    sampled = settings.signal.objective(part, policy.score(graded))
    assert [type(each) for each in (native, sampled)] == [ReweightedObjective] * 2
    assert (native.cap, sampled.cap) == (3.0, 3.0)
    assert isinstance(sampled.objective, DistillObjective)


def test_a_direct_loss_is_never_weighted(policy, graded):
    settings = make_objectives(recipe("sampling.engine=vllm", "opd.signal=reverse_kl"), policy)
    whole = policy.score(graded, whole=True)
    assert isinstance(settings.signal.objective(Part("opd", graded), whole), DenseObjective)


@pytest.mark.skipif(find_spec("vllm") is not None, reason="vLLM is installed here")
def test_without_vllm_nothing_is_built_that_it_would_sample_for():
    with assembled(recipe("sampling.engine=vllm"), print) as made, pytest.raises(RecipeError, match="vllm is not inst"):
        make_branch(made, "text", 0)
    with assembled(recipe(), print) as made:
        assert made.sampler is None
        assert versions_of_sampler(made.recipe) == {}


def test_a_branch_is_not_made_for_an_engine_that_does_not_compute_as_its_policy(policy):
    class Elsewhere:
        proven = ()

        def prove(self, policy):
            self.proven += (policy,)
            if len(self.proven) == 2:
                raise RecipeError("sampling.engine: differs")

    with assembled(recipe(), print) as made:
        made.sampler = Elsewhere()
        first = make_branch(made, "text", 0)
        assert made.sampler.proven == (first.policy,)
        assert first.policy.sampler is made.sampler
        assert made.actor("base", policy.clone()).policy.sampler is made.sampler
        with pytest.raises(RecipeError, match="differs"):
            make_branch(made, "image", 1)


def test_a_part_is_made_when_it_is_first_asked_for_and_then_kept():
    made = Assembled(load_recipe("demo-paper", ["model.path=nowhere"]), print)
    assert made.tasks is made.tasks
    assert made.grader is made.grader
    made.close()
    with pytest.raises(ModelFolderError, match="nowhere"):
        _ = made.base


def test_what_is_inherited_is_not_looked_at_again(monkeypatch):
    recipe, told = load_recipe("demo-paper"), []
    first = Assembled(recipe, told.append)
    first.base.packing = False

    def refuse(*_, **__):
        raise AssertionError("looked at again")

    monkeypatch.setattr("copd.assemble.assembled.settle_paths", refuse)
    monkeypatch.setattr("copd.assemble.assembled.check_prompts", refuse)
    second = Assembled(recipe, told.append, inherited=first.inheritance)
    assert (second.base.shared_prefix, second.base.packing) == (True, False)
    assert told == []


def test_a_process_that_computes_elsewhere_than_the_check_was_made_checks_for_itself(monkeypatch):
    recipe, told = load_recipe("demo-paper"), []
    inherited = Assembled(recipe, print).inheritance
    elsewhere = replace(inherited, path=replace(inherited.path, checked_on="another card in bfloat16"))
    asked = []

    def doubt(policy, tasks, *, allow_plain_path):
        policy.packing = False
        asked.append(allow_plain_path)
        return ["log-probs on the plain path"]

    monkeypatch.setattr("copd.assemble.assembled.settle_paths", doubt)
    assert Assembled(recipe, told.append, inherited=inherited).base.packing
    assert not Assembled(recipe, told.append, inherited=elsewhere).base.packing
    assert (told, asked) == (["log-probs on the plain path"], [False])


def test_branches_that_settled_on_different_paths_are_refused_with_both_and_what_was_found():
    class Settled:
        def __init__(self, *path):
            self.path = SettledPath(*path)

        async def settled_path(self):
            return self.path

    text, image = Settled(True, True, "cpu"), Settled(True, True, "a card")
    asyncio.run(check_one_path({"text": text, "image": image}))
    video = Settled(False, True, "a card", "log-probs differ by 2 nats")
    said = r"branch text: packed \(cpu\); branch image: packed \(a card\); branch video: plain path \(a card: log-probs"
    with pytest.raises(ModelFolderError, match=said):
        asyncio.run(check_one_path({"text": text, "image": image, "video": video}))
    sampling = Settled(True, False, "a card")
    with pytest.raises(ModelFolderError, match="prompts shared in sampling alone"):
        asyncio.run(check_one_path({"text": text, "image": sampling}))


@pytest.fixture
def with_a_bad_row(tmp_path):
    """A recipe of one branch on rows, one of which is bad and left out."""
    row = '{{"prompt": "{}+1", "answer": 2, "verifier": "integer"}}\n'
    for name, texts in {
        "train": [row.format(1), "{\n"],
        "validation": [row.format(2)],
        "test": [row.format(3)],
    }.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(texts))
    files = {name: str(tmp_path / f"{name}.jsonl") for name in ("train", "validation", "test")}
    return load_recipe(
        {
            "branches": {"sums": {"task": {"kind": "rows", "bad_rows": "skip", **files}}},
            "schedule": {"opd_steps": 0},
            "evaluation": {"problems": 1, "validation_problems": 1, "behaviour_problems": 1},
        }
    )


@pytest.mark.parametrize("answers", [False, True])
def test_bad_rows_that_were_left_out_are_told_at_the_end_if_a_model_was_made_to_answer(policy, with_a_bad_row, answers):
    """Also where that model is no base, as in `copd eval`, `behaviour`, `merge --scan` and `data filter`."""
    told = []
    with assembled(with_a_bad_row, told.append) as made:
        assert made.tasks["sums"].skipped == 1
        if answers:
            made.actor("model", policy)
        assert told == []
    assert told == [BAD_ROW] * answers


def test_bad_rows_that_were_told_with_the_base_are_not_told_again(policy, with_a_bad_row, monkeypatch):
    monkeypatch.setattr("copd.assemble.assembled.load_policy", lambda recipe, **_: policy.clone())
    told = []
    with assembled(with_a_bad_row, told.append) as made:
        made.actor("base", made.base)
        assert told.count(BAD_ROW) == 1
    assert told.count(BAD_ROW) == 1


def test_torch_has_its_threads_back_after_the_block():
    before = torch.get_num_threads()
    with assembled(recipe("model.threads_per_branch=3"), print, tasks={}):
        assert torch.get_num_threads() == 3
    assert torch.get_num_threads() == before
