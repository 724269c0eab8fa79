"""The saved folder: plain transformers answers as the policy does; what is broken, missing or unsafe is refused."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText, AutoProcessor, GenerationConfig

from copd.errors import ModelFolderError, WriteError
from copd.model.folders import stored_type
from copd.model.lora import LoraSettings
from copd.model.policy import Policy


@pytest.fixture(scope="module")
def folder(solver, tmp_path_factory):
    """A saved policy; not to be changed."""
    folder = tmp_path_factory.mktemp("saved") / "deep" / "model"
    solver.clone().save(folder, "# A card\n")
    return folder


@pytest.fixture
def damaged(folder, tmp_path):
    """A copy to be damaged."""
    return shutil.copytree(folder, tmp_path / "damaged")


def refused(path, match):
    """Loading raises the user's error, which names the folder and says what is wrong."""
    with pytest.raises(ModelFolderError, match=match) as caught:
        Policy.from_pretrained(path)
    assert str(path) in str(caught.value)


def test_plain_generate_of_the_saved_folder_answers_as_the_policy_does(solver, folder, problems_of, processed, kind):
    model, processor = AutoModelForImageTextToText.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    found = solver.sample(problems_of[kind], max_new_tokens=24)
    for text, problem in zip(solver.texts(found), problems_of[kind], strict=True):
        inputs = processed(problem)
        output = model.generate(**inputs, max_new_tokens=24)[0, inputs["input_ids"].shape[1] :]
        assert processor.decode(output, skip_special_tokens=True) == text
    assert solver.texts(found)[:2] == [problem.solution for problem in problems_of[kind][:2]]


def test_the_saved_processor_makes_the_same_tensors(folder, problems_of, processed, kind):
    processor = AutoProcessor.from_pretrained(folder)
    again = Policy.from_pretrained(folder).encoder
    assert processor.tokenizer.padding_side == "left"
    prompts = again.encode(problems_of[kind], torch.device("cpu"))
    for p, problem in enumerate(problems_of[kind]):
        inputs = processed(problem)
        assert torch.equal(prompts.ids_PS[p, prompts.mask_PS[p]], inputs["input_ids"][0])
        for name, value in prompts.media_of_P[p].items():
            assert torch.equal(value, inputs[name]), name


def test_a_saved_policy_comes_back_with_equal_log_probs_vocabulary_and_end(solver, folder, written, problems_of):
    """In memory of its own, as tensors that lie in the file at odd places may be added up in another order."""
    again = Policy.from_pretrained(folder).clone()
    rollouts = written(solver, [problems_of[kind][2] for kind in problems_of])
    assert torch.equal(again.score(rollouts).logp_NT, solver.score(rollouts).logp_NT)
    assert torch.equal(again.banned_V, solver.banned_V)
    assert torch.equal(again.end_ids, solver.end_ids)


def test_head_and_embedding_are_saved_once_and_tied_again(folder):
    assert "lm_head.weight" not in load_file(folder / "model.safetensors")
    model = AutoModelForImageTextToText.from_pretrained(folder)
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


def test_an_export_in_bfloat16_is_the_policy_rounded_says_its_type_and_leaves_the_policy_in_float32(
    solver, folder, tmp_path
):
    policy = solver.clone()
    policy.save(tmp_path, "card", "bfloat16")
    found, whole = load_file(tmp_path / "model.safetensors"), load_file(folder / "model.safetensors")
    assert found.keys() == whole.keys()
    assert all(torch.equal(tensor, whole[name].bfloat16()) for name, tensor in found.items())
    assert {p.dtype for p in policy.model.parameters()} == {torch.float32}
    assert (stored_type(tmp_path), stored_type(folder)) == ("bfloat16", "float32")
    model = AutoModelForImageTextToText.from_pretrained(tmp_path)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


def test_the_generation_config_carries_the_vocabulary_mask_and_the_end(solver, folder):
    config = GenerationConfig.from_pretrained(folder)
    assert config.suppress_tokens == solver.banned_V.nonzero()[:, 0].tolist()
    assert config.eos_token_id == solver.end_ids.tolist()
    assert config.pad_token_id == solver.processor.tokenizer.pad_token_id


def test_the_suppressed_tokens_are_needed_and_act(folder, processed, problems_of):
    model = AutoModelForImageTextToText.from_pretrained(folder)
    suppressed = model.generation_config.suppress_tokens
    with torch.no_grad():
        model.get_output_embeddings().weight[suppressed] *= 50
    inputs = processed(problems_of["text"][0])
    output = model.generate(**inputs, max_new_tokens=3)[0, inputs["input_ids"].shape[1] :]
    assert not set(output.tolist()) & set(suppressed)
    with torch.no_grad():
        assert int(model(**inputs).logits[0, -1].argmax()) in suppressed


def test_a_saved_model_decodes_greedily_even_if_its_base_sampled_by_default(solver, tmp_path):
    policy = solver.clone()
    policy.model.generation_config.update(do_sample=True, temperature=0.7, top_p=0.8, top_k=20)
    policy.save(tmp_path / "model", "card")
    assert not GenerationConfig.from_pretrained(tmp_path / "model").do_sample


def test_the_folder_holds_the_card_and_no_pickle(folder):
    assert (folder / "README.md").read_text(encoding="utf-8") == "# A card\n"
    assert not [path for path in folder.iterdir() if path.suffix in (".bin", ".pt", ".pkl")]


@pytest.mark.parametrize("name", ["README.md", "model.safetensors"])
def test_a_file_that_cannot_be_written_is_an_error_that_names_the_folder(policy, tmp_path, name):
    (tmp_path / name).mkdir()
    with pytest.raises(WriteError, match="cannot be written") as caught:
        policy.clone().save(tmp_path, "card")
    assert str(tmp_path) in str(caught.value)


def test_a_folder_that_cannot_be_made_is_one_too(policy, tmp_path):
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    with pytest.raises(WriteError, match="cannot be written"):
        policy.clone().save(tmp_path / "file" / "model", "card")


def test_a_missing_folder_and_one_without_a_model_are_refused(tmp_path):
    refused(tmp_path / "nowhere", "config.json is missing")
    (tmp_path / "model.safetensors").write_bytes(b"")
    refused(tmp_path, "config.json is missing")


@pytest.mark.parametrize("left", [0, 7, 1000, -1000])
def test_weights_that_were_cut_off_are_refused(damaged, left):
    path = damaged / "model.safetensors"
    path.write_bytes(path.read_bytes()[:left])
    refused(damaged, "cannot be loaded")


@pytest.mark.parametrize("content", ["", "{", '{"model_type": "no such model"}', "[]"])
def test_a_config_that_makes_no_sense_is_refused(damaged, content):
    (damaged / "config.json").write_text(content, encoding="utf-8")
    refused(damaged, "cannot be loaded")


@pytest.mark.parametrize("content", ["", "{", "[]"])
def test_the_type_of_weights_whose_config_cannot_be_read_is_refused(damaged, content):
    (damaged / "config.json").write_text(content, encoding="utf-8")
    with pytest.raises(ModelFolderError, match=r": config\.json cannot be read: "):
        stored_type(damaged)
    (damaged / "config.json").unlink()
    with pytest.raises(
        ModelFolderError, match=r": no model here \(config\.json is missing\); give a folder with a saved"
    ):
        stored_type(damaged)


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "processor_config.json"])
def test_a_folder_that_lacks_a_file_is_refused(damaged, name):
    (damaged / name).unlink()
    refused(damaged, "cannot be loaded")


def test_weights_that_lack_a_tensor_are_refused_and_not_made_up(damaged):
    path = damaged / "model.safetensors"
    tensors = load_file(path)
    del tensors["model.language_model.layers.1.mlp.down_proj.weight"]
    save_file(tensors, path, metadata={"format": "pt"})
    refused(damaged, r"layers\.1\.mlp\.down_proj")


def test_pickled_weights_are_never_opened(damaged):
    weights = damaged / "model.safetensors"
    torch.save(load_file(weights), damaged / "pytorch_model.bin")
    weights.unlink()
    refused(damaged, "cannot be loaded")


def test_code_in_a_folder_is_never_run_even_if_somebody_agrees_to_it(damaged, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    config = json.loads((damaged / "config.json").read_text(encoding="utf-8"))
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.Own", "AutoModelForImageTextToText": "own.Own"}}
    (damaged / "config.json").write_text(json.dumps(config), encoding="utf-8")
    trace = damaged / "trace"
    (damaged / "own.py").write_text(
        f"open({str(trace)!r}, 'w').close()\n"
        "from transformers import PretrainedConfig\n"
        "class Own(PretrainedConfig):\n    model_type = 'own'\n",
        encoding="utf-8",
    )
    refused(damaged, "cannot be loaded")
    assert not trace.exists()


@pytest.mark.parametrize(
    ("file", "folder", "said"),
    [
        ("adapter", None, "File exists: '{}/adapter'"),
        (None, "adapter/adapter_config.json", "Is a directory: '{}/adapter/adapter_config.json'"),
        (None, "adapter/adapter_model.safetensors", "Is a directory"),
    ],
)
def test_an_adapter_that_cannot_be_written_is_named(policy, tmp_path, file, folder, said):
    if file:
        (tmp_path / file).write_text("no folder")
    if folder:
        (tmp_path / folder).mkdir(parents=True)
    branch = policy.clone().with_adapter("text", LoraSettings(1, 1.0, ("q_proj",)), 0)
    with pytest.raises(WriteError, match=f"^{tmp_path}: the adapter cannot be written: .*{said.format(tmp_path)}"):
        branch.save(tmp_path, "# card\n")
