"""Problems to tensors: left padding, positions, media."""

import copy
import re
import threading
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch

from copd.compute import encode
from copd.compute.encode import Encoder
from copd.compute.family import QwenVL, family_of
from copd.errors import DataError
from copd.types import Medium, Message, Pixels, Problem

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


@pytest.mark.parametrize("height", [1, 3, 4, 5])
def test_a_picture_of_few_rows_of_pixels_keeps_its_channels(encoder, processor, height):
    """Left to guess, the processor takes 1, 3 or 4 rows for as many channels."""
    pixels = np.random.default_rng(height).integers(0, 255, (height, 100, 3), dtype=np.uint8)
    right = processor.image_processor(images=[pixels], return_tensors="pt", input_data_format="channels_last")
    prompts = encoder.encode([Problem("p", "t", "q", "1", "integer", images=(pixels,))], CPU)
    assert torch.equal(prompts.media["image_grid_thw"], right["image_grid_thw"])
    assert torch.equal(prompts.media["pixel_values"], right["pixel_values"])
    frames = np.stack([pixels, pixels])
    video = processor.video_processor(
        videos=[frames], return_tensors="pt", input_data_format="channels_last", do_sample_frames=False
    )
    prompts = encoder.encode([Problem("p", "t", "q", "1", "integer", videos=(frames,), fps=2.0)], CPU)
    assert torch.equal(prompts.media["pixel_values_videos"], video["pixel_values_videos"])


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


def turn(role, *parts):
    return Message(role, parts)


IMAGE, VIDEO = Medium.IMAGE, Medium.VIDEO


def decoded(encoder, problem):
    return encoder.family.tokenizer.decode(encoder.encode([problem], CPU).ids_PS[0])


def test_messages_of_one_user_turn_are_the_prompt_itself(encoder, problems_of, kind):
    for problem in problems_of[kind]:
        media = [IMAGE] * len(problem.images) + [VIDEO] * len(problem.videos)
        spoken = replace(problem, prompt="shown to people", messages=(turn("user", *media, problem.prompt),))
        ours, theirs = (encoder.encode([each], CPU) for each in (spoken, problem))
        assert torch.equal(ours.ids_PS, theirs.ids_PS)
        assert torch.equal(ours.positions_APS, theirs.positions_APS)
        assert all(torch.equal(ours.media[name], value) for name, value in theirs.media.items())


def test_turns_and_media_stand_where_the_messages_have_them(encoder):
    messages = (turn("system", "be brief"), turn("user", "a", IMAGE, "b", VIDEO, "c", IMAGE), turn("assistant", "d"))
    problem = Problem(
        "i",
        "t",
        "",
        "1",
        "exact",
        images=(picture(1), picture(2, 48)),
        videos=(np.zeros((2, 16, 16, 3), np.uint8),),
        messages=(*messages, turn("user", "e")),
    )
    text = decoded(encoder, problem)
    shorter = (
        re.sub(r"(<\|(image|video)_pad\|>)+", r"<\2>", text)
        .replace("<|vision_start|>", "")
        .replace("<|vision_end|>", "")
    )
    assert re.sub(r"<[0-9.]+ seconds>", "", shorter) == (
        "<|im_start|>system\nbe brief<|im_end|>\n<|im_start|>user\na<image>b<video>c<image><|im_end|>\n"
        "<|im_start|>assistant\nd<|im_end|>\n<|im_start|>user\ne<|im_end|>\n<|im_start|>assistant\n"
    )
    pads = [len(run) // len("<|image_pad|>") for run in re.findall(r"(?:<\|image_pad\|>)+", text)]
    assert pads == [1, 3], "the first image is the narrow one"


def test_each_video_may_have_its_own_rate(encoder):
    frames = np.zeros((4, 16, 16, 3), np.uint8)
    problem = Problem("a", "t", "?", "1", "exact", videos=(frames, frames), fps=(1.0, 4.0))
    assert re.findall(r"<([0-9.]+) seconds>", decoded(encoder, problem)) == ["0.5", "2.5", "0.1", "0.6"]


def test_no_frame_is_left_out_at_a_high_rate(encoder):
    frames = np.zeros((8, 16, 16, 3), np.uint8)
    problem = Problem("a", "t", "?", "1", "exact", videos=(frames,), images=(picture(1),), fps=8.0)
    assert encoder.encode([problem], CPU).media["video_grid_thw"][0, 0] == 4


def test_variables_of_the_chat_template_belong_to_the_problem(processor, policy):
    thinking = copy.copy(processor)
    thinking.chat_template = processor.chat_template + "{% if enable_thinking %}<think>{% endif %}"
    encoder = Encoder(family_of(policy.model, thinking))
    plain = Problem("a", "t", "?", "1", "exact")
    loud = replace(plain, chat_template_kwargs={"enable_thinking": True})
    both = encoder.encode([plain, loud], CPU)
    texts = [thinking.tokenizer.decode(ids[mask]) for ids, mask in zip(both.ids_PS, both.mask_PS, strict=True)]
    assert [text.endswith("<think>") for text in texts] == [False, True]


def test_pixels_remembered_are_bounded_by_the_bytes_that_are_really_held(encoder, problems_of, monkeypatch):
    problems = problems_of["image"]
    media = encoder.encode(problems, CPU).media_of_P
    sizes = [
        problem.images[0].nbytes + sum(value.nbytes for value in own.values())
        for problem, own in zip(problems, media, strict=True)
    ]
    assert encoder._remembered_bytes == sum(sizes)
    tensors = [value for encoded in encoder._remembered.values() for value in encoded.media.values()]
    assert sum(value.untyped_storage().nbytes() for value in tensors) == sum(value.nbytes for value in tensors)
    monkeypatch.setattr(encode, "REMEMBERED_BYTES", max(sizes))
    for problem in problems:
        encoder.encode([replace(problem)], CPU)
        assert encoder._remembered_bytes <= max(sizes)
    monkeypatch.setattr(encode, "REMEMBERED_BYTES", 1)
    encoder.encode([replace(problem) for problem in problems], CPU)
    assert encoder._remembered_bytes <= max(sizes), "what is too large for it is not remembered"


def lazily(problem, decode=None):
    """The problem with media that are decoded when they are asked for."""

    def undecoded(array):
        return Pixels(array.shape, b"", (lambda: array.copy()) if decode is None else decode)

    media = {name: tuple(map(undecoded, getattr(problem, name))) for name in ("images", "videos")}
    return replace(problem, **media)


def fails():
    raise DataError("rows.jsonl:7: image 'a.png': has changed since it was first read")


def test_media_that_are_decoded_only_now_are_encoded_as_those_that_are_there(encoder, problems_of, kind):
    ours, theirs = (encoder.encode(three, CPU) for three in (list(map(lazily, problems_of[kind])), problems_of[kind]))
    assert torch.equal(ours.ids_PS, theirs.ids_PS)
    assert all(torch.equal(ours.media[name], value) for name, value in theirs.media.items())


def test_a_length_needs_no_pixel(encoder, problems_of, kind):
    without = [lazily(problem, fails) for problem in problems_of[kind]]
    assert encoder.lengths(without) == encoder.encode(problems_of[kind], CPU).mask_PS.sum(-1).tolist()


def batches_of(problems_of, count):
    """Problems in batches of two, which hold no pixels."""
    first, *_ = problems_of["image"]
    return [[lazily(first), lazily(first)] for _ in range(count)]


def test_while_a_batch_is_used_a_thread_makes_the_next_and_no_more(encoder, problems_of, monkeypatch):
    monkeypatch.setattr(encode, "REMEMBERED_BYTES", 0)
    pixels, most, made, plainly = [], [], [], encoder.family.encode

    def counting(problems):
        found = plainly(problems)
        pixels.extend(weakref.ref(encoded.media["pixel_values"]) for encoded in found)
        made.append((problems, threading.current_thread() is threading.main_thread()))
        most.append(sum(each() is not None for each in pixels))
        return found

    batches = batches_of(problems_of, 5)
    expected = Encoder(encoder.family).encode(batches[0], CPU).media["pixel_values"]
    monkeypatch.setattr(encoder.family, "encode", counting)
    encoder.expect(batches)
    for number, batch in enumerate(batches):
        found = encoder.encode(batch, CPU)
        assert torch.equal(found.media["pixel_values"], expected)
        encoder._thread.submit(int).result()
        assert [problems for problems, _ in made] == batches[: number + 2]
    assert [here for _, here in made] == [True, False, False, False, False]
    assert max(most) == 4, "two batches of two"


def test_batches_that_come_otherwise_than_expected_are_encoded_all_the_same(encoder, problems_of):
    first, second, third = ([problem] for problem in problems_of["image"])
    expected = {id(batch): Encoder(encoder.family).encode(batch, CPU) for batch in (first, second, third)}
    encoder.expect([first, second, third])
    for batch in (first, third, second, first, third):
        found = encoder.encode(batch, CPU)
        assert torch.equal(found.media["pixel_values"], expected[id(batch)].media["pixel_values"])


def test_what_the_thread_raises_names_the_file_and_the_next_batch_is_sound(encoder, problems_of):
    first, second, third = problems_of["image"]
    batches = [[first], [lazily(second, fails)], [third]]
    encoder.expect(batches)
    encoder.encode(batches[0], CPU)
    with pytest.raises(DataError, match=r"^rows\.jsonl:7: image 'a\.png': has changed"):
        encoder.encode(batches[1], CPU)
    assert encoder.encode(batches[2], CPU).media["image_grid_thw"].tolist() == [[1, 4, 4]]


def test_what_was_used_last_is_forgotten_last(encoder, problems_of, monkeypatch):
    monkeypatch.setattr(encode, "REMEMBERED_PROMPTS", 2)
    first, second, third = problems_of["text"]
    for problem in (first, second, first, third):
        encoder.encode([problem], CPU)
    assert list(encoder._remembered) == [first, third]
