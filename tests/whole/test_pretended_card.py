"""What a card computes, on one that the CPU pretends to be: no tensor was left on the CPU, and the values are equal."""

from weakref import WeakValueDictionary

import pytest
import torch
from pretended_card import CARD, pretended_card

from copd.compute import devices, flex
from copd.maths.divergences import reverse_kl
from copd.model.folders import model_folder
from copd.model.holding import copied
from copd.model.learner import Learner
from copd.model.objectives import AnchoredGrpoObjective, DenseObjective, GrpoObjective, ReweightedObjective
from copd.model.parity import largest_difference
from copd.model.policy import Policy


class Dense:
    """Attention of a packed sequence by the whole mask, in the place of a card's kernel."""

    def __init__(self, layout, device):
        owners = (each.to(device) for each in flex.owners(layout, layout.tokens))
        place_X = torch.arange(layout.tokens, device=device)
        self.mask = flex.sees(*owners)(None, None, place_X[:, None], place_X)

    def attend(self, query, key, value, scaling):
        key, value = (each.repeat_interleave(query.shape[1] // each.shape[1], 1) for each in (key, value))
        scores = (query @ key.mT * scaling).masked_fill(~self.mask, -torch.inf)
        return (scores.softmax(-1) @ value).transpose(1, 2)


@pytest.fixture
def on_card(policy, monkeypatch):
    """Makes a policy on the card with the weights of `policy`."""
    monkeypatch.setitem(devices.WAYS, "cuda", devices.CARD._replace(attention=Dense))

    def make(**options):
        model = copied(policy.model, CARD)
        return Policy(model, policy.processor, device=CARD, encoder=policy.encoder, **options)

    return make


@pytest.fixture
def problems(problems_of):
    return [problem for kind in ("text", "image", "video") for problem in problems_of[kind][:2]]


def test_a_tensor_that_was_left_on_the_cpu_is_an_error_there():
    with pretended_card():
        there = torch.ones(3, device="cuda")
        assert (there.device, (there + 1).device, (2 * there).cpu().device) == (CARD, CARD, torch.device("cpu"))
        with pytest.raises(RuntimeError, match="one device"):
            there + torch.ones(3)


def test_weights_are_loaded_onto_the_card_tensor_by_tensor():
    """The CPU never holds a whole model: of each tensor, what is there is let go before the next one is read."""
    folder = model_folder("builtin:digits")
    on_cpu, held, most = Policy.from_pretrained(folder), WeakValueDictionary(), [0]

    def noted(tensor, *args, **options):
        held[id(tensor)] = tensor
        most[0] = max(most[0], sum(each.nbytes for each in held.values() if each.device.type == "cpu"))
        return to(tensor, *args, **options)

    with pretended_card(), pytest.MonkeyPatch.context() as patch:
        to = torch.Tensor.to
        patch.setattr(torch.Tensor, "to", noted)
        patch.setenv("HF_DEACTIVATE_ASYNC_LOAD", "1")  # the pretended card is there in this thread only
        there = Policy.from_pretrained(folder, device=CARD)
    sizes = [each.nbytes for each in on_cpu.weights().values()]
    for mine, theirs in (
        (there.model.named_parameters(), on_cpu.model.named_parameters()),
        (there.model.named_buffers(), on_cpu.model.named_buffers()),
    ):
        for (name, tensor), (like, expected) in zip(mine, theirs, strict=True):
            assert (name, tensor.device) == (like, CARD)
            assert torch.equal(tensor.data.cpu(), expected), name
    assert 0 < most[0] < sum(sizes) / 4


def test_sampling_and_scores_are_those_of_the_cpu(policy, on_card, problems):
    def sampled(each, greedy=False):
        generator = None if greedy else torch.Generator().manual_seed(1)
        return each.sample(problems, rollouts_per_prompt=3, generator=generator, max_new_tokens=8)

    rollouts, likeliest = sampled(policy), sampled(policy, greedy=True)
    score = policy.score(rollouts, k=3)
    with pretended_card():
        there = on_card()
        found, best = sampled(there), sampled(there, greedy=True)
        given = there.score(rollouts, k=3)
        asked = there.score(rollouts, ids_NTK=given.topk_ids_NTK, whole=True)
        there.shared_prefix = False
        plain = there.score(rollouts)
        assert largest_difference(on_card(), problems[:2]) < 1e-4
    assert torch.equal(found.tokens_NT, rollouts.tokens_NT)
    assert torch.equal(best.tokens_NT, likeliest.tokens_NT)
    for mine in (given, asked, plain):
        torch.testing.assert_close(mine.logp_NT, score.logp_NT, atol=1e-4, rtol=0)


@pytest.mark.parametrize("checkpointing", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_step_of_all_objectives_is_that_of_the_cpu(policy, on_card, problems, written, checkpointing):
    rollouts = written(policy, problems[::2])
    score = policy.score(rollouts, k=8)
    advantage_N = torch.linspace(-1, 1, len(rollouts.tokens_NT))
    native = GrpoObjective("native", rollouts, 1.0, advantage_N)
    parts = [
        native,
        AnchoredGrpoObjective("anchored", rollouts, 1.0, advantage_N, score.logp_NT, 0.1),
        ReweightedObjective(native, 2.0),
        DenseObjective("dense", rollouts, 1.0, score, reverse_kl),
        DenseObjective("whole", rollouts, 1.0, policy.score(rollouts, whole=True), reverse_kl),
    ]

    def trained(each):
        learner = Learner(each, learning_rate=1e-3, kind="adamw_on_cpu")
        metrics = learner.step(parts, part_norms=True, iterations=2).metrics
        learner.load_state({name: tensor.cpu() for name, tensor in learner.state().items()})
        return metrics, each.weights()

    metrics, weights = trained(policy.clone(gradient_checkpointing=checkpointing))
    with pretended_card():
        there, moved = trained(on_card(gradient_checkpointing=checkpointing))
    assert there == pytest.approx(metrics, abs=1e-3, rel=1e-3)
    assert moved.keys() == weights.keys()
