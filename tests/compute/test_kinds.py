"""Other models than the embedded one, tiny and random: the same log-probs, gradients and answers as transformers."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_kinds import TINY_KINDS, tiny_of_kind
from transformers import AutoProcessor, AutoTokenizer, LlavaConfig

from copd.compute.family import Family, family_of
from copd.errors import ModelFolderError
from copd.model.folders import TEXT_ONLY, WITH_PICTURES, load_family
from copd.model.learner import Learner
from copd.model.objectives import GrpoObjective
from copd.model.parity import logp_alone, settle_path
from copd.model.policy import Policy
from copd.model.vocabulary import check_same_vocabulary
from copd.types import Problem

WITHOUT_SHARED_PREFIX = {"mamba", "qwen3_next"}
OTHERS = [name for name in TINY_KINDS if name != "qwen3_vl"]
PICTURES = {"qwen2_5_vl": ("text", "image", "video"), "gemma3": ("text", "image")}
CASES = [(name, kind) for name in OTHERS for kind in PICTURES.get(name, ("text",))]
PACKED_CASES = [case for case in CASES if case[0] not in (*WITHOUT_SHARED_PREFIX, "gemma3")]
"""Layers of Gemma 3 that see a window are not packed."""
WORLD = [("qwen3_vl", "image"), ("qwen3_vl", "video")]
NEW_TOKENS = 10


@pytest.fixture(scope="module")
def policies():
    """A policy of each kind on the path that suits it; not to be changed."""
    policies = {}
    for name in OTHERS:
        policies[name] = Policy(*tiny_of_kind(name, seed=1))
        policies[name].shared_prefix = name not in WITHOUT_SHARED_PREFIX
    return policies


def processed(processor, problem):
    """One problem through chat template and tokenizer or processor as the manual of transformers has it."""
    template = {"add_generation_prompt": True, "tokenize": True, "return_dict": True, "return_tensors": "pt"}
    if not hasattr(processor, "tokenizer"):
        return dict(processor.apply_chat_template([{"role": "user", "content": problem.prompt}], **template))
    if problem.videos:
        chat = [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": problem.prompt}]}]
        text = processor.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        frames = len(problem.videos[0])
        metadata = {"fps": problem.fps, "total_num_frames": frames, "frames_indices": list(range(frames))}
        videos = {"videos": list(problem.videos), "video_metadata": [metadata]}
        return dict(processor(text=[text], **videos, return_tensors="pt"))
    content = [{"type": "image", "image": image} for image in problem.images]
    content.append({"type": "text", "text": problem.prompt})
    return dict(processor.apply_chat_template([{"role": "user", "content": content}], **template))


@torch.no_grad()
def transformers_logp(policy, inputs, response):
    """Log-probs of a response by transformers alone: one text, no padding, no cache, positions left to the model."""
    length = inputs["input_ids"].shape[1]
    inputs = inputs | {"input_ids": torch.cat([inputs["input_ids"], response[None]], dim=1)}
    for name, value in (("attention_mask", 1), ("mm_token_type_ids", 0), ("token_type_ids", 0)):
        if name in inputs:
            inputs[name] = torch.cat([inputs[name], torch.full((1, len(response)), value)], dim=1)
    logits = policy.model(**inputs, use_cache=False).logits[0, length - 1 : -1].float()
    logits[:, policy.banned_V] = -torch.inf
    return logits.log_softmax(-1)[torch.arange(len(response)), response]


@pytest.mark.parametrize("path", ["its own", "plain"])
@pytest.mark.parametrize(("name", "kind"), CASES)
def test_log_probs_are_those_of_each_text_run_alone_through_transformers(
    policies, written, problems_of, name, kind, path
):
    policy = policies[name]
    if path == "plain":
        policy = policy.clone()
        policy.shared_prefix = False
    rollouts = written(policy, problems_of[kind])
    found = policy.score(rollouts).logp_NT
    for n, p in enumerate(rollouts.prompt_of_N.tolist()):
        response = rollouts.tokens_NT[n, rollouts.mask_NT[n]]
        expected = transformers_logp(policy, processed(policy.processor, rollouts.problems[p]), response)
        torch.testing.assert_close(found[n, : len(response)], expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_greedy_answers_are_those_of_generate_token_for_token(policies, problems_of, name, kind):
    policy = policies[name]
    found = policy.sample(problems_of[kind], max_new_tokens=NEW_TOKENS)
    suppressed = policy.banned_V.nonzero()[:, 0].tolist()
    for tokens, mask, problem in zip(found.tokens_NT, found.mask_NT, problems_of[kind], strict=True):
        inputs = processed(policy.processor, problem)
        output = policy.model.generate(**inputs, do_sample=False, max_new_tokens=NEW_TOKENS, suppress_tokens=suppressed)
        assert tokens[mask].tolist() == output[0, inputs["input_ids"].shape[1] :].tolist()


@pytest.mark.parametrize(("name", "kind"), PACKED_CASES)
def test_packed_log_probs_have_the_gradients_of_the_plain_path(
    policies, written, problems_of, gradients, assert_same, name, kind
):
    policy, plain = policies[name].clone(), policies[name].clone()
    plain.shared_prefix = False
    rollouts = written(policy, problems_of[kind])
    found = gradients(policy, policy.logp(rollouts).mean())
    assert max(float(g.abs().max()) for g in found.values()) > 1e-3
    assert_same(found, gradients(plain, plain.logp(rollouts).mean()), atol=1e-5)


def noise(rng, *shape):
    return rng.integers(0, 255, (*shape, 3), dtype=np.uint8)


def seen(rng, kind, count):
    """A problem with some images or videos of any size that the rules for rows allow, and more than a cap."""
    media = []
    for _ in range(count):
        height = int(np.exp(rng.uniform(np.log(4), np.log(600))))
        width = min(int(np.exp(rng.uniform(np.log(4), np.log(600)))), 150 * height)
        media.append(noise(rng, *([] if kind == "image" else [rng.integers(2, 6)]), max(height, width // 150), width))
    return Problem("p", "t", "sum", "1", "integer", **{f"{kind}s": tuple(media)}, fps=float(rng.uniform(0.5, 8)))


@pytest.mark.parametrize(
    ("name", "kind", "capped"),
    [(*case, capped) for case in CASES + WORLD for capped in {False, case[1] == "video"} if case[1] != "text"],
)
def test_the_length_by_the_sizes_is_that_of_the_encoded_prompt(name, kind, capped):
    model, processor = tiny_of_kind(name)
    if capped:
        processor.video_processor.cap_pixels_per_frame, processor.video_processor.max_video_tokens = True, 64
    family = family_of(model, processor)
    rng = np.random.default_rng(int(capped))
    problems = [seen(rng, kind, 1 + number % 2) for number in range(4)]
    found = family.lengths(problems)
    assert found == [len(encoded.ids_S) for encoded in family.encode(problems)]
    assert found == [family.lengths([problem])[0] for problem in problems]
    assert len(set(found)) > 1


@pytest.mark.parametrize("name", ["qwen2_5_vl", "gemma3"])
def test_a_picture_changes_the_answers_log_probs_and_has_a_gradient(policies, written, problems_of, gradients, name):
    policy = policies[name]
    rollouts = written(policy, problems_of["image"][:2], [(4,), (4,)])
    found = gradients(policy, policy.logp(rollouts).mean())
    tower = [g.abs().max() for key, g in found.items() if "vision_tower" in key or "visual" in key]
    assert max(tower) > 1e-5


@pytest.mark.parametrize("name", OTHERS)
def test_the_check_at_start_keeps_the_shared_prefix_where_the_cache_is_one_of_keys_and_values(
    policies, problems_of, name
):
    policy = policies[name].clone()
    policy.shared_prefix = True
    warning = settle_path(policy, problems_of["text"], allow_plain_path=False)
    assert policy.shared_prefix == (name not in WITHOUT_SHARED_PREFIX)
    assert (warning is None) == policy.shared_prefix
    assert warning is None or "on the plain path" in warning
    assert settle_path(policy, problems_of["text"], allow_plain_path=False) is None, "one warning is enough"
    assert policy.shared_prefix == (name not in WITHOUT_SHARED_PREFIX)


def test_a_model_with_a_window_and_no_list_of_layers_is_not_packed():
    model, tokenizer = tiny_of_kind("llama")
    assert Family(model, tokenizer).every_layer_sees_all
    model.config.sliding_window = 8
    assert not Family(model, tokenizer).every_layer_sees_all


def test_a_model_that_changes_its_logits_after_the_head_is_refused(problems_of):
    model, tokenizer = tiny_of_kind("gemma3_text")
    model.config.final_logit_softcapping = 0.5
    policy = Policy(model, tokenizer)
    tokenizer.name_or_path = "models/mine"
    with pytest.raises(ModelFolderError, match=r"^models/mine: Gemma3ForCausalLM is not supported: log-probs of a"):
        settle_path(policy, problems_of["text"], allow_plain_path=True)


def test_a_model_that_sees_its_padding_is_refused(problems_of):
    policy = Policy(*tiny_of_kind("qwen3"))
    policy.model.register_forward_pre_hook(
        lambda module, args, inputs: (args, {**inputs, "attention_mask": torch.ones_like(inputs["attention_mask"])}),
        with_kwargs=True,
    )
    with pytest.raises(ModelFolderError, match="padded batch"):
        settle_path(policy, problems_of["text"], allow_plain_path=True)


def test_a_response_alone_is_scored_as_transformers_does(policies, written, problems_of):
    policy = policies["llama"]
    rollouts = written(policy, problems_of["text"])
    response = rollouts.tokens_NT[2, rollouts.mask_NT[2]]
    expected = transformers_logp(policy, processed(policy.processor, problems_of["text"][0]), response)
    torch.testing.assert_close(logp_alone(policy, rollouts)[2, : len(response)], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", OTHERS)
def test_without_pictures_an_unexpanded_prompt_is_the_prompt(policies, problems_of, name):
    family = policies[name].encoder.family
    encoded = family.encode(problems_of["text"])
    assert [family.unexpanded(problem) for problem in problems_of["text"]] == [each.ids_S.tolist() for each in encoded]


def test_an_unexpanded_prompt_has_one_placeholder_for_each_picture(policies, problems_of):
    policy = policies["qwen2_5_vl"]
    placeholder = policy.tokenizer.convert_tokens_to_ids("<|image_pad|>")
    problem = replace(problems_of["image"][0], images=problems_of["image"][0].images * 2)
    (encoded,) = policy.encoder.family.encode([problem])
    ids = policy.encoder.family.unexpanded(problem)
    assert ids.count(placeholder) == 2 < encoded.ids_S.tolist().count(placeholder)
    kept = encoded.ids_S[(encoded.ids_S != placeholder) | (encoded.ids_S.roll(1) != placeholder)]
    assert ids == kept.tolist()


@pytest.mark.parametrize(("name", "kind"), [("qwen3", "image"), ("gemma3", "video"), ("mamba", "video")])
def test_a_problem_with_pictures_that_the_model_does_not_take_is_named(policies, problems_of, name, kind):
    with pytest.raises(ValueError, match=rf"problem '{problems_of[kind][0].id}' holds {kind}; {name} takes text"):
        policies[name].sample(problems_of[kind])


def test_an_image_text_model_of_another_kind_is_refused_by_name(policies):
    model = policies["qwen3"].clone().model
    model.config = LlavaConfig()
    with pytest.raises(ModelFolderError, match=r"^model\.path: .*llava.*accepted: causal language models of text, "):
        family_of(model, policies["qwen3"].processor)


def test_an_image_processor_that_cuts_images_up_is_refused(policies):
    model, processor = tiny_of_kind("gemma3")
    processor.image_processor.do_pan_and_scan = True
    processor.tokenizer.name_or_path = "models/mine"
    with pytest.raises(ModelFolderError, match=r"^models/mine: do_pan_and_scan of the image processor is on"):
        family_of(model, processor)


def test_a_prompt_begins_once_although_template_and_tokenizer_both_put_a_begin_token(policies, problems_of):
    policy = policies["llama"]
    prompts = policy.encoder.encode(problems_of["text"], policy.device)
    begin = policy.tokenizer.bos_token_id
    assert policy.tokenizer("1").input_ids[0] == begin, "this test needs a tokenizer that puts one itself"
    for ids, mask in zip(prompts.ids_PS, prompts.mask_PS, strict=True):
        assert ids[mask][0] == begin
        assert int((ids[mask] == begin).sum()) == 1


def test_positions_of_ordinary_models_have_one_axis_and_count_tokens(policies, problems_of):
    prompts = policies["qwen3"].encoder.encode(problems_of["text"], torch.device("cpu"))
    assert len(prompts.positions_APS) == 1
    for positions, mask in zip(prompts.positions_APS[0], prompts.mask_PS, strict=True):
        assert positions[mask].tolist() == list(range(int(mask.sum())))


def test_the_answer_to_a_slow_video_stands_after_the_last_token_and_not_after_the_last_second(
    policies, written, problems_of
):
    policy = policies["qwen2_5_vl"]
    slow = replace(problems_of["video"][0], fps=0.5)
    inputs = processed(policy.processor, slow)
    options = {"suppress_tokens": policy.banned_V.nonzero()[:, 0].tolist(), "max_new_tokens": 6, "do_sample": False}
    output = policy.model.generate(**inputs, **options, return_dict_in_generate=True, output_logits=True)
    logits = torch.cat(output.logits).masked_fill(policy.banned_V, -torch.inf)
    expected = logits.log_softmax(-1).amax(-1)
    found = policy.sample([slow], max_new_tokens=6)
    assert found.tokens_NT[0].tolist() == output.sequences[0, inputs["input_ids"].shape[1] :].tolist()
    torch.testing.assert_close(policy.score(found).logp_NT[0], expected, atol=2e-5, rtol=0)
    rollouts = written(policy, [slow], [(6,)])
    whole = transformers_logp(policy, inputs, rollouts.tokens_NT[0])
    torch.testing.assert_close(policy.score(rollouts).logp_NT[0], whole, atol=2e-5, rtol=0)
    usual = policy.score(replace(found, problems=problems_of["video"][:1])).logp_NT[0]
    assert float((usual - expected).abs().max()) > 1e-3


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_a_step_makes_rewarded_answers_likelier_and_the_others_less_likely(policies, problems_of, name, kind):
    policy = policies[name].clone()
    generator = torch.Generator().manual_seed(0)
    rollouts = policy.sample(problems_of[kind], rollouts_per_prompt=2, generator=generator, max_new_tokens=4)
    advantage_N = torch.tensor([1.0, -1.0] * 3)
    before = policy.score(rollouts).logp_NT.sum(-1) @ advantage_N
    Learner(policy, learning_rate=1e-4).step([GrpoObjective("grpo", rollouts, 1.0, advantage_N)])
    assert policy.score(rollouts).logp_NT.sum(-1) @ advantage_N > before


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_a_saved_model_is_loaded_by_plain_transformers_and_comes_back_the_same(
    policies, written, problems_of, tmp_path, name, kind
):
    policy = policies[name].clone()
    policy.save(tmp_path / "model", "card")
    again = Policy.from_pretrained(tmp_path / "model")
    again.shared_prefix = policy.shared_prefix
    rollouts = written(policy, problems_of[kind])
    assert torch.equal(again.score(rollouts).logp_NT, policy.score(rollouts).logp_NT)
    check_same_vocabulary(policy, again)
    loader = WITH_PICTURES if name in PICTURES else TEXT_ONLY
    model = loader.auto_class.from_pretrained(tmp_path / "model")
    processor = (AutoProcessor if name in PICTURES else AutoTokenizer).from_pretrained(tmp_path / "model")
    inputs = processed(processor, problems_of[kind][0])
    output = model.generate(**inputs, max_new_tokens=6)[0, inputs["input_ids"].shape[1] :]
    answer = policy.sample(problems_of[kind][:1], max_new_tokens=6)
    assert output.tolist() == answer.tokens_NT[0, answer.mask_NT[0]].tolist()


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_prompts_are_made_the_same_without_weights(policies, problems_of, tmp_path, name, kind):
    policies[name].clone().save(tmp_path / "model", "card")
    for weights in (tmp_path / "model").glob("*.safetensors"):
        weights.unlink()
    family = load_family(tmp_path / "model")
    expected = policies[name].encoder.family.encode(problems_of[kind])
    for found, prompt in zip(family.encode(problems_of[kind]), expected, strict=True):
        assert torch.equal(found.ids_S, prompt.ids_S)
        assert torch.equal(found.positions_AS, prompt.positions_AS)
        assert found.media.keys() == prompt.media.keys()
        assert all(torch.equal(found.media[key], prompt.media[key]) for key in prompt.media)
    (tmp_path / "model" / "tokenizer.json").write_text("{")
    with pytest.raises(ModelFolderError, match="model: the processor cannot be loaded"):
        load_family(tmp_path / "model")


def test_a_folder_without_a_chat_template_is_refused(tmp_path):
    model, tokenizer = tiny_of_kind("qwen3")
    tokenizer.chat_template = None
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ModelFolderError, match="chat template"):
        Policy.from_pretrained(tmp_path)


def test_a_model_without_a_limit_of_context_has_none(policies):
    assert policies["mamba"].context is None
    assert policies["qwen3"].context == 512
