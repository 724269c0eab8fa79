"""The signals of OPD: what a visitor asks, what the teacher answers, and what the answer becomes."""

from functools import partial

import pytest
import torch

from copd.branches.branch import ObjectiveSettings
from copd.branches.signals import SampledToken, StudentsLikeliest, TeachersLikeliest, WholeVocabulary
from copd.maths.distill import clamped_delta
from copd.maths.divergences import forward_kl, reverse_kl
from copd.model.objectives import DenseObjective, DistillObjective
from copd.types import Part

SIGNALS = {
    "sampled": SampledToken(partial(clamped_delta, bound=5.0)),
    "whole": WholeVocabulary(forward_kl),
    "teacher's": TeachersLikeliest(forward_kl, 4),
    "student's": StudentsLikeliest(reverse_kl, 4),
}
ALL = pytest.mark.parametrize("signal", SIGNALS.values(), ids=SIGNALS)


@pytest.fixture
def pair(make_branch, ending, signal):
    """A student and its teacher."""
    settings = ObjectiveSettings(signal)
    return make_branch(settings=settings), make_branch("image", 1, ending, settings=settings)


@ALL
def test_only_a_visitor_names_its_likeliest_tokens_and_only_where_the_signal_compares_them(make_branch, signal):
    branch = make_branch(settings=ObjectiveSettings(signal))
    assert branch.collect("text", 0, 2, 1).likeliest_NTK is None
    assert branch.ledger.tokens_scored == 0
    visit = branch.collect("image", 0, 2, 1)
    asks = signal is SIGNALS["student's"]
    assert branch.ledger.tokens_scored == asks * int(visit.mask_NT.sum())
    assert (visit.likeliest_NTK is not None) == asks
    if asks:
        assert torch.equal(visit.likeliest_NTK, branch.policy.score(visit, k=4).topk_ids_NTK)


@ALL
def test_a_student_nears_its_teacher_by_every_signal(pair, signal):
    student, teacher = pair
    distance = []
    for step in range(6):
        visit = student.collect("image", 0, 4, 4)
        divergence_M = reverse_kl(*(one.policy.score(visit, whole=True).whole_MV for one in (student, teacher)))
        distance.append(float(divergence_M.mean()))
        metrics = student.update([Part("from_image", visit, 1.0, teacher.score(visit))])
        assert ("from_image/divergence" in metrics) == (signal is not SIGNALS["sampled"]), step
        assert metrics["skipped"] == 0
    assert distance[-1] < 0.8 * distance[0]


@ALL
def test_a_visit_becomes_the_objective_of_its_signal(pair, signal):
    student, teacher = pair
    visit = student.collect("image", 0, 2, 1)
    objective = signal.objective(Part("from_image", visit, 0.5), teacher.score(visit))
    assert isinstance(objective, DistillObjective if signal is SIGNALS["sampled"] else DenseObjective)
    assert (objective.name, objective.weight, objective.rollouts) == ("from_image", 0.5, visit)
    target = objective.target(torch.tensor([1]))
    tokens = int(visit.mask_NT[1].sum())
    if target is not None:
        width = len(teacher.policy.banned_V) if signal is SIGNALS["whole"] else 4
        assert target.logp_MK.shape == (tokens, width)
