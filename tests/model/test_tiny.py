"""The tiny Qwen3-VL: one token per character, real processors, weights from a seed."""

import numpy as np
import pytest
import torch

from copd.model.policy import Policy
from copd.model.tiny import CHARACTERS, MAX_CONTEXT, PATCH_SIZE, SPECIAL_TOKENS, WORDS, tiny_model
from copd.types import Problem


@pytest.fixture(scope="module")
def tokenizer(processor):
    return processor.tokenizer


def test_every_printable_character_is_one_token_and_survives_the_round_trip(tokenizer):
    ids = tokenizer(CHARACTERS).input_ids
    assert len(set(ids)) == len(ids) == len(CHARACTERS)
    assert tokenizer.decode(ids) == CHARACTERS


@pytest.mark.parametrize("word", [*WORDS, *SPECIAL_TOKENS])
def test_words_of_the_chat_format_and_special_tokens_are_one_token_each(tokenizer, word):
    assert len(tokenizer(word).input_ids) == 1


def test_text_gets_no_token_that_it_does_not_contain(tokenizer):
    assert tokenizer.decode(tokenizer("3+4=7").input_ids) == "3+4=7"


def test_a_character_outside_ascii_becomes_a_question_mark(tokenizer):
    assert tokenizer.decode(tokenizer("5 × 7").input_ids) == "5 ? 7"


def test_the_special_tokens_are_known_as_special(tokenizer):
    assert set(tokenizer.all_special_ids) == set(tokenizer.convert_tokens_to_ids(list(SPECIAL_TOKENS)))


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(processor, assert_same):
    first, again, other = (tiny_model(processor, seed).state_dict() for seed in (5, 5, 6))
    assert_same(first, again)
    assert not torch.equal(first["lm_head.weight"], other["lm_head.weight"])


def test_making_a_model_leaves_the_global_random_numbers_alone(processor):
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    tiny_model(processor)
    assert torch.equal(torch.rand(3), expected)


def test_the_model_is_tiny_and_its_output_head_is_its_embedding(processor):
    policy = Policy(tiny_model(processor), processor)
    assert 1e6 < sum(p.numel() for p in policy.model.parameters()) < 2e6
    assert policy.model.get_output_embeddings().weight is policy.model.get_input_embeddings().weight
    assert policy.context == MAX_CONTEXT


@pytest.mark.parametrize(("height", "width"), [(16, 16), (16, 64), (32, 48)])
def test_pictures_keep_their_size_and_cost_a_token_per_two_by_two_patches(processor, processed, height, width):
    picture = np.zeros((height, width, 3), dtype=np.uint8)
    inputs = processed(Problem("p", "t", "sum", "1", "integer", images=(picture,)))
    assert inputs["image_grid_thw"].tolist() == [[1, height // PATCH_SIZE, width // PATCH_SIZE]]
    placeholders = int((inputs["input_ids"] == processor.image_token_id).sum())
    assert placeholders == height * width // (2 * PATCH_SIZE) ** 2


def test_two_frames_of_a_video_cost_what_one_picture_costs(processor, processed):
    video = np.zeros((6, 16, 16, 3), dtype=np.uint8)
    inputs = processed(Problem("p", "t", "sum", "1", "integer", videos=(video,)))
    assert inputs["video_grid_thw"].tolist() == [[3, 2, 2]]
    assert int((inputs["input_ids"] == processor.video_token_id).sum()) == 3


@pytest.mark.parametrize(("kind", "field"), [("image", "pixel_values"), ("video", "pixel_values_videos")])
def test_pixels_of_the_embedded_world_reach_the_model_centred_and_of_unit_spread(processed, problems_of, kind, field):
    values = torch.cat([processed(problem)[field].flatten() for problem in problems_of[kind]])
    assert abs(float(values.mean())) < 0.5
    assert 0.5 < float(values.std()) < 1.5


def test_a_prompt_is_a_user_turn_and_the_head_of_an_answer(tokenizer, processed):
    ids = processed(Problem("p", "t", "sum: 1 2", "3", "integer"))["input_ids"][0]
    assert tokenizer.decode(ids) == "<|im_start|>user\nsum: 1 2<|im_end|>\n<|im_start|>assistant\n"
