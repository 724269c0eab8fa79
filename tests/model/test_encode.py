"""Problems to tensors: left padding, positions, media."""

import numpy as np
import pytest
import torch

from copd.model import encode
from copd.model.encode import Encoder
from copd.model.family import QwenVL, family_of
from copd.types import Problem

CPU = torch.device("cpu")


@pytest.fixture
def encoder(policy):
    """One that remembers nothing yet."""
    return Encoder(family_of(policy.model, policy.processor))


def picture(value, width=16):
    return np.full((16, width, 3), value, dtype=np.uint8)


def test_prompts_are_what_chat_template_and_processor_make_of_each_problem(encoder, problems_of, processed, kind):
    prompts = encoder.encode(problems_of[kind], CPU)
    assert encoder.lengths(problems_of[kind]) == prompts.mask_PS.sum(-1).tolist()
    for p, problem in enumerate(problems_of[kind]):
        alone = processed(problem)
        assert torch.equal(prompts.ids_PS[p, prompts.mask_PS[p]], alone["input_ids"][0])
        assert prompts.media_of_P[p].keys() == alone.keys() & {name for names in QwenVL.FIELDS for name in names}
        for name, value in prompts.media_of_P[p].items():
            assert torch.equal(value, alone[name]), name


def test_padding_stands_on_the_left(encoder, problems_of, kind, processor):
    prompts = encoder.encode(problems_of[kind], CPU)
    assert not prompts.mask_PS.all(), "this test needs prompts of unequal length"
    assert bool((prompts.mask_PS.long().diff(dim=1) >= 0).all())
    assert set(prompts.ids_PS[~prompts.mask_PS].tolist()) == {processor.tokenizer.pad_token_id}
    assert not prompts.positions_APS[:, ~prompts.mask_PS].any()


def test_positions_are_the_models_own_for_the_padded_batch(encoder, problems_of, kind, policy):
    prompts = encoder.encode(problems_of[kind], CPU)
    types_PS = torch.zeros_like(prompts.ids_PS)
    types_PS[prompts.ids_PS == policy.processor.image_token_id] = 1
    types_PS[prompts.ids_PS == policy.processor.video_token_id] = 2
    grids = (
        {name: value for name, value in prompts.media.items() if name.endswith("grid_thw")} if kind != "text" else {}
    )
    positions_APS, delta_P1 = policy.model.model.get_rope_index(
        prompts.ids_PS, types_PS, attention_mask=prompts.mask_PS.long(), **grids
    )
    assert torch.equal(prompts.positions_APS[:, prompts.mask_PS], positions_APS[:, prompts.mask_PS])
    assert torch.equal(prompts.next_position_P, prompts.mask_PS.sum(-1) + delta_P1[:, 0])


def test_a_response_starts_right_after_the_last_position_of_its_prompt(encoder, problems_of, kind):
    prompts = encoder.encode(problems_of[kind], CPU)
    assert torch.equal(prompts.next_position_P, prompts.positions_APS[0, :, -1] + 1)
    if kind == "text":
        assert torch.equal(prompts.next_position_P, prompts.mask_PS.sum(-1))
    else:
        assert prompts.next_position_P[2] < prompts.mask_PS[2].sum(), "a picture two tokens high takes less room"


def test_rows_repeat_prompts_with_their_media(encoder, problems_of, kind):
    prompts = encoder.encode(problems_of[kind], CPU)
    rows = prompts.rows(torch.tensor([2, 0, 0]))
    for n, p in enumerate((2, 0, 0)):
        assert torch.equal(rows.ids_PS[n], prompts.ids_PS[p])
        assert torch.equal(rows.mask_PS[n], prompts.mask_PS[p])
        assert torch.equal(rows.positions_APS[:, n], prompts.positions_APS[:, p])
        assert rows.next_position_P[n] == prompts.next_position_P[p]
    for name, values in rows.media.items():
        assert torch.equal(values, torch.cat([prompts.media_of_P[p][name] for p in (2, 0, 0)])), name


def test_a_batch_of_two_kinds_is_refused(encoder, problems_of):
    with pytest.raises(ValueError, match="one kind"):
        encoder.encode([problems_of["text"][0], problems_of["image"][0]], CPU)


def test_a_problem_with_several_pictures_keeps_its_own_in_order(encoder, processed):
    many = Problem("a", "t", "sum", "1", "integer", images=(picture(10), picture(20, 48)))
    one = Problem("b", "t", "max", "1", "integer", images=(picture(30, 32),))
    prompts = encoder.encode([many, one], CPU)
    for p, problem in enumerate((many, one)):
        alone = processed(problem)
        for name, value in prompts.media_of_P[p].items():
            assert torch.equal(value, alone[name]), name


def test_a_picture_is_not_lost_where_only_some_videos_have_one_beside_them(encoder):
    frames = np.zeros((2, 16, 16, 3), dtype=np.uint8)
    plain = Problem("a", "t", "sum", "1", "integer", videos=(frames,))
    both = Problem("b", "t", "sum", "1", "integer", images=(picture(9),), videos=(frames,))
    alone = [encoder.encode([problem], CPU) for problem in (plain, both)][1]
    together = encoder.encode([plain, both], CPU)
    assert torch.equal(together.media["pixel_values"], alone.media["pixel_values"])


def test_the_frame_rate_of_a_video_reaches_the_prompt(encoder, processor):
    frames = np.zeros((4, 16, 16, 3), dtype=np.uint8)
    slow, fast = (Problem("a", "t", "sum", "1", "integer", videos=(frames,), fps=fps) for fps in (1.0, 4.0))
    texts = [processor.tokenizer.decode(encoder.encode([problem], CPU).ids_PS[0]) for problem in (slow, fast)]
    assert "<0.5 seconds>" in texts[0]
    assert "<0.1 seconds>" in texts[1]


def test_more_problems_than_are_remembered_are_all_encoded(encoder, problems_of, monkeypatch):
    monkeypatch.setattr(encode, "REMEMBERED_PROMPTS", 2)
    expected = [encoder.encode([problem], CPU).ids_PS[0] for problem in problems_of["text"]]
    for _ in range(2):
        prompts = encoder.encode(problems_of["text"], CPU)
        for p, ids in enumerate(expected):
            assert torch.equal(prompts.ids_PS[p, prompts.mask_PS[p]], ids)


def test_problems_with_one_id_are_not_taken_for_one_another(encoder):
    first, second = (Problem("same", "t", text, "1", "integer") for text in ("sum: 1 2", "max: 1 2 3"))
    lengths = encoder.lengths([first]) + encoder.lengths([second])
    assert lengths[1] == lengths[0] + len("max: 1 2 3") - len("sum: 1 2")
