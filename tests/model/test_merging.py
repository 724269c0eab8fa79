"""Model folders merged tensor by tensor: as in memory, in constant memory, and every refusal with its name."""

import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from merges import mean, merge
from safetensors.torch import load_file, save_file
from tiny_kinds import tiny_of_kind
from transformers import AutoModelForImageTextToText

from copd.errors import MergeError, ModelFolderError, WriteError
from copd.model.merging import MergedFolders, merge_weights, pass_on_weights, write_merged
from copd.model.policy import Policy
from copd.model.stored import ModelFolder, StoredTensors

SETTINGS = {
    "mean": {},
    "weighted": {"weights": (3.0, 1.0)},
    "task_arithmetic": {"scale": 0.7},
    "ties": {"density": 0.3, "scale": 1.2, "weights": None},
    "dare": {"density": 0.5, "scale": 0.7, "seed": 3},
    "slerp": {"weights": (3.0, 1.0)},
}
EMBEDDING, NORM = "model.language_model.embed_tokens.weight", "model.language_model.norm.weight"
ABSENT = object()
ROPE = {"mrope_interleaved": True, "mrope_section": [6, 5, 5], "rope_theta": 10000.0, "rope_type": "default"}
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"

MERGES_A_FEW_AND_MANY_TENSORS = """
import sys
from pathlib import Path
from copd.model.merging import MergedFolders, write_merged
from copd.model.stored import ModelFolder

def peak():
    line = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024

for root in sys.argv[1:]:
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    before = peak()
    folders = [ModelFolder(Path(root) / name, name) for name in ("a", "b", "base")]
    merged = MergedFolders(folders[:2], folders[2], "ties", {"density": 0.2, "scale": 1.0})
    write_merged(merged, Path(root) / "out", "", shard_bytes=8 * 2**20)
    print(peak() - before)
"""


@pytest.fixture(scope="module")
def folders(policy, tmp_path_factory) -> dict[str, Path]:
    """A base and two branches of it; not to be changed."""
    root = tmp_path_factory.mktemp("models")
    for k, name in enumerate(("base", "a", "b")):
        twin, generator = policy.clone(), torch.Generator().manual_seed(k)
        with torch.no_grad():
            for parameter in twin.model.parameters():
                parameter.add_(0.02 * bool(k) * torch.randn(parameter.shape, generator=generator))
        twin.save(root / name, f"# {name}\n")
    return {name: root / name for name in ("base", "a", "b")}


@pytest.fixture
def copies(folders, tmp_path) -> dict[str, Path]:
    """Copies that may be damaged."""
    return {name: shutil.copytree(folder, tmp_path / name) for name, folder in folders.items()}


def merged_of(folders: dict[str, Path], method: str = "mean", **settings) -> MergedFolders:
    opened = {name: ModelFolder(folder, name) for name, folder in folders.items()}
    branches = [folder for name, folder in opened.items() if name != "base"]
    return MergedFolders(branches, opened.get("base"), method, settings or SETTINGS[method])


def in_memory(folders: dict[str, Path], method: str) -> dict[str, torch.Tensor]:
    tensors = {name: load_file(folder / WEIGHTS) for name, folder in folders.items()}
    return merge([tensors["a"], tensors["b"]], method=method, base=tensors["base"], **SETTINGS[method])


def all_tensors(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for path in folder.glob("*.safetensors") for name, tensor in load_file(path).items()}


def change(folder: Path, changes: dict[str, torch.Tensor]) -> None:
    save_file({**load_file(folder / WEIGHTS), **changes}, folder / WEIGHTS, metadata={"format": "pt"})


def edit(path: Path, **changes) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **changes}), encoding="utf-8")


@pytest.mark.parametrize("method", SETTINGS)
def test_the_merge_of_folders_is_that_of_their_tensors_in_memory(folders, tmp_path, assert_same, method):
    write_merged(merged_of(folders, method), tmp_path / "out", "")
    assert_same(load_file(tmp_path / "out" / WEIGHTS), in_memory(folders, method))


@pytest.mark.parametrize("method", ["ties", "dare"])
def test_how_tensors_are_split_over_files_changes_nothing(folders, tmp_path, assert_same, method):
    sharded = dict(folders)
    for name, size in (("a", "2MB"), ("base", "1MB")):
        sharded[name] = shutil.copytree(folders[name], tmp_path / name, ignore=shutil.ignore_patterns(WEIGHTS))
        AutoModelForImageTextToText.from_pretrained(folders[name]).save_pretrained(sharded[name], max_shard_size=size)
        assert (sharded[name] / INDEX).is_file()
        assert not (sharded[name] / WEIGHTS).exists()
    out = tmp_path / "out"
    write_merged(merged_of(sharded, method), out, "", shard_bytes=1_000_000)
    files = sorted(path for path in out.iterdir() if path.suffix == ".safetensors")
    assert [path.name for path in files] == [f"model-{i + 1:05}-of-00004.safetensors" for i in range(4)]
    assert all(path.stat().st_size < 1_020_000 for path in files)
    assert_same(all_tensors(out), in_memory(folders, method))
    model = AutoModelForImageTextToText.from_pretrained(out)
    assert torch.equal(model.get_input_embeddings().weight, in_memory(folders, method)[EMBEDDING])


def test_the_merged_folder_loads_plainly_and_as_a_policy_and_answers_alike(folders, tmp_path, problems_of, processed):
    out = tmp_path / "deep" / "out"
    write_merged(merged_of(folders, "ties"), out, "# A merge\n")
    model, policy = AutoModelForImageTextToText.from_pretrained(out), Policy.from_pretrained(out)
    problem = problems_of["image"][0]
    inputs = processed(problem)
    answer = model.generate(**inputs, max_new_tokens=8)[0, inputs["input_ids"].shape[1] :]
    assert policy.sample([problem], max_new_tokens=8).tokens_NT[0].tolist() == answer.tolist()
    assert (out / "README.md").read_text(encoding="utf-8") == "# A merge\n"
    assert not [path for path in out.parent.iterdir() if path != out]


def test_all_but_weights_and_card_is_copied_from_the_first_branch(copies, tmp_path):
    edit(copies["a"] / "generation_config.json", max_new_tokens=7)
    for name in ("LICENSE", "pytorch_model.bin", "modeling.py", "SHA256SUMS", INDEX):
        (copies["a"] / name).write_text("x", encoding="utf-8")
    (copies["a"] / "checkpoints").mkdir()
    write_merged(merged_of(copies, "ties"), tmp_path / "out", "")
    own, left = {WEIGHTS, "README.md"}, {"pytorch_model.bin", "modeling.py", "SHA256SUMS", INDEX, "checkpoints"}
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {path.name for path in copies["a"].iterdir()} - left
    assert {"config.json", "tokenizer.json", "processor_config.json", "LICENSE"} <= names
    for name in names - own:
        assert (tmp_path / "out" / name).read_bytes() == (copies["a"] / name).read_bytes()


def test_head_and_embedding_are_merged_once_and_tied_again(folders, tmp_path):
    write_merged(merged_of(folders, "dare"), tmp_path / "out", "")
    assert "lm_head.weight" not in load_file(tmp_path / "out" / WEIGHTS)
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "out")
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


def test_a_tied_head_that_was_stored_all_the_same_is_left_out(copies, folders, tmp_path, assert_same):
    change(copies["b"], {"lm_head.weight": load_file(copies["b"] / WEIGHTS)[EMBEDDING].clone()})
    write_merged(merged_of(copies, "dare"), tmp_path / "out", "")
    assert_same(load_file(tmp_path / "out" / WEIGHTS), in_memory(folders, "dare"))


def test_heads_that_are_not_tied_are_merged_as_any_other_tensor(copies, tmp_path):
    for k, folder in enumerate(copies.values()):
        edit(folder / "config.json", tie_word_embeddings=False)
        change(folder, {"lm_head.weight": torch.full((128, 128), float(k))})
    write_merged(merged_of(copies), tmp_path / "out", "")
    assert load_file(tmp_path / "out" / WEIGHTS)["lm_head.weight"].unique().tolist() == [1.5]


@pytest.mark.parametrize("method", ["mean", "ties"])
def test_the_type_on_disk_is_kept(copies, tmp_path, method):
    for folder in copies.values():
        change(folder, {name: tensor.bfloat16() for name, tensor in load_file(folder / WEIGHTS).items()})
    write_merged(merged_of(copies, method), tmp_path / "out", "")
    expected = in_memory(copies, method)
    for name, tensor in load_file(tmp_path / "out" / WEIGHTS).items():
        assert tensor.dtype == torch.bfloat16
        assert torch.equal(tensor, expected[name]), name


@pytest.mark.parametrize("method", SETTINGS)
def test_a_base_of_another_type_counts_in_float32_and_the_branches_type_is_kept(copies, tmp_path, assert_same, method):
    halves = {name: tensor.bfloat16() for name, tensor in load_file(copies["base"] / WEIGHTS).items()}
    change(copies["base"], halves)
    write_merged(merged_of(copies, method), tmp_path / "out", "")
    merged = load_file(tmp_path / "out" / WEIGHTS)
    assert_same(merged, in_memory(copies, method))
    change(copies["base"], {name: tensor.float() for name, tensor in halves.items()})
    assert_same(merged, in_memory(copies, method))
    assert {tensor.dtype for tensor in merged.values()} == {torch.float32}


def test_folders_of_several_types_make_the_widest_and_the_configuration_says_so(copies, tmp_path, assert_same):
    edit(copies["a"] / "config.json", dtype="bfloat16")
    change(copies["a"], {name: tensor.bfloat16() for name, tensor in load_file(copies["a"] / WEIGHTS).items()})
    write_merged(merged_of(copies), tmp_path / "out", "")
    merged = load_file(tmp_path / "out" / WEIGHTS)
    assert {tensor.dtype for tensor in merged.values()} == {torch.float32}
    assert_same(merged, in_memory(copies, "mean"))
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "float32"


def test_folders_that_store_one_model_under_names_of_several_versions_are_merged(tmp_path):
    """transformers 5 stores Qwen2.5-VL as the hub has it; 4.52 and later stored it as the loaded model names it."""
    models, folders = [Policy(*tiny_of_kind("qwen2_5_vl", seed=seed)) for seed in (1, 2)], []
    for k, policy in enumerate(models):
        policy.save(tmp_path / str(k), "")
        folders.append(tmp_path / str(k))
    renamed = {
        ("model.visual" + name.removeprefix("visual") if name.startswith("visual") else name): tensor
        for name, tensor in load_file(folders[1] / WEIGHTS).items()
    }
    renamed = {
        (name if "visual" in name else name.replace("model.", "model.language_model.", 1)): tensor
        for name, tensor in renamed.items()
    }
    assert renamed.keys() != load_file(folders[0] / WEIGHTS).keys()
    save_file(renamed, folders[1] / WEIGHTS, metadata={"format": "pt"})
    merged = MergedFolders([ModelFolder(path, path.name) for path in folders], None, "mean", {})
    write_merged(merged, tmp_path / "out", "")
    expected = mean([model.weights() for model in models])
    found = Policy.from_pretrained(tmp_path / "out").weights()
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, expected[name])


def test_a_merge_is_read_by_name_without_being_written(folders, policy):
    twin = policy.clone()
    twin.load_weights(merged_of(folders, "slerp"))
    expected = in_memory(folders, "slerp")
    for name, parameter in twin.model.named_parameters():
        assert torch.equal(parameter, expected[name]), name
    merged = merged_of(folders, "slerp")
    assert set(merged) == set(expected)
    assert len(merged) == len(expected)
    with pytest.raises(KeyError, match="nothing"):
        merged["nothing"]


def test_weights_of_branches_are_merged_from_their_folders_into_a_new_one(folders, tmp_path):
    parts, settings = {name: folders[name] for name in ("a", "b")}, {"weights": (3.0, 1.0)}
    merge_weights(parts, tmp_path / "merged", "weighted", settings)
    expected = in_memory(folders, "weighted")
    found = StoredTensors(tmp_path / "merged", "the merge")
    assert found.keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in found.items())
    pass_on_weights(parts, tmp_path / "passed", of="b")
    assert (tmp_path / "passed" / WEIGHTS).read_bytes() == (folders["b"] / WEIGHTS).read_bytes()
    with pytest.raises(WriteError, match=f"{tmp_path / 'passed'}: the weights cannot be written"):
        pass_on_weights(parts, tmp_path / "passed", of="b")


def test_a_value_of_a_branch_that_is_not_finite_is_named_with_the_branch(copies, tmp_path):
    change(copies["b"], {NORM: torch.full((128,), torch.nan)})
    with pytest.raises(MergeError, match=rf"^merge: '{NORM}' has a value that is not finite in branch b$"):
        merge_weights({name: copies[name] for name in ("a", "b")}, tmp_path / "merged", "mean", {})


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak is read where Linux shows it")
def test_the_peak_of_memory_does_not_grow_with_the_model(folders, tmp_path):
    """Shards of 8 MiB; the second model, 128 MiB, is eight times the first."""
    for root, count in (("few", 8), ("many", 64)):
        for k, name in enumerate(("a", "b", "base")):
            ignored = shutil.ignore_patterns(WEIGHTS)
            folder = shutil.copytree(folders["a"], tmp_path / root / name, ignore=ignored)
            save_file({f"w{i}": torch.full((512, 1024), float(i + k)) for i in range(count)}, folder / WEIGHTS)
    command = [sys.executable, "-c", MERGES_A_FEW_AND_MANY_TENSORS, tmp_path / "few", tmp_path / "many"]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    few, many = map(float, done.stdout.split())
    assert len(list((tmp_path / "many" / "out").glob("*.safetensors"))) == 16
    assert len(all_tensors(tmp_path / "many" / "out")) == 64
    assert many < 96
    assert many - few < 48, "the second model is 112 MiB larger"


def damaged_shape(folders):
    change(folders["b"], {NORM: torch.zeros(64)})


def damaged_names(folders):
    tensors = load_file(folders["b"] / WEIGHTS)
    del tensors[NORM]
    save_file(tensors, folders["b"] / WEIGHTS, metadata={"format": "pt"})


def untied(folders):
    edit(folders["b"] / "config.json", tie_word_embeddings=False)
    change(folders["b"], {"lm_head.weight": torch.zeros(128, 128)})


def without_embeddings(folders):
    tensors = load_file(folders["b"] / WEIGHTS)
    (name,) = (name for name in tensors if name.endswith("embed_tokens.weight"))
    tensors["lm_head.weight"] = tensors.pop(name)
    save_file(tensors, folders["b"] / WEIGHTS, metadata={"format": "pt"})


def damaged_base(folders):
    change(folders["base"], {NORM: torch.zeros(64, dtype=torch.bfloat16)})


def retokenize(folder: Path, **changes) -> None:
    """Other parts of a tokenizer; a part that is a function changes what stands there."""
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text(encoding="utf-8"))
    for part, change in changes.items():
        tokenizer[part] = change(tokenizer[part]) if callable(change) else change
    path.write_text(json.dumps(tokenizer), encoding="utf-8")


def edit_text_config(folder: Path, **changes) -> None:
    """Other fields of the language model; `ABSENT` leaves one out."""
    path = folder / "config.json"
    settings = {**json.loads(path.read_text(encoding="utf-8"))["text_config"], **changes}
    edit(path, text_config={name: value for name, value in settings.items() if value is not ABSENT})


def edit_pictures(folder: Path, **changes) -> None:
    path = folder / "processor_config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))["image_processor"]
    edit(path, image_processor={**settings, **changes})


def swapped(model: dict) -> dict:
    vocabulary = {**model["vocab"], "a": model["vocab"]["b"], "b": model["vocab"]["a"]}
    return {**model, "vocab": vocabulary}


def unigram(model: dict, score: float) -> dict:
    """A model of the same tokens with a score each, that of the first given."""
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    return {"type": "Unigram", "unk_id": 0, "vocab": [[token, score * (i == 0)] for i, token in enumerate(tokens)]}


def byte_pairs(model: dict, merges: list[list[str]]) -> dict:
    return {
        "type": "BPE",
        "vocab": {**model["vocab"], "ab": 200, "ba": 201, "cd": 202},
        "merges": [["c", "d"], *merges],
    }


def other_merges(folders):
    for name, pair in (("base", ["a", "b"]), ("a", ["a", "b"]), ("b", ["b", "a"])):
        retokenize(folders[name], model=lambda model, pair=pair: byte_pairs(model, [pair]))


def other_scores(folders):
    for name, score in (("base", -1.0), ("a", -1.0), ("b", -2.0)):
        retokenize(folders[name], model=lambda model, score=score: unigram(model, score))


UNLIKE = [
    pytest.param(
        lambda folders: retokenize(folders["b"], model=swapped), r"the token \d+ is 'a' in a and 'b' in b", id="tokens"
    ),
    pytest.param(
        other_merges, r"the tokenizer's 'model' 'merges' 1 is \['a', 'b'\] in a and \['b', 'a'\] in b", id="merges"
    ),
    pytest.param(
        other_scores, r"the tokenizer's 'model' 'vocab' 0 is \['\\n', -1.0\] in a and \['\\n', -2.0\] in b", id="scores"
    ),
    pytest.param(
        lambda folders: retokenize(folders["b"], normalizer={"type": "Lowercase"}),
        "the tokenizer's 'normalizer' is absent in a and {'type': 'Lowercase'} in b",
        id="normalizer",
    ),
    pytest.param(
        lambda folders: retokenize(folders["b"], pre_tokenizer={"type": "Whitespace"}),
        r"the tokenizer's 'pre_tokenizer' 'behavior' is 'Isolated' in a and absent in b",
        id="pre-tokenizer",
    ),
    pytest.param(
        lambda folders: edit(folders["b"] / "tokenizer_config.json", eos_token="<|endoftext|>"),
        r"the special token 'eos_token' is '<\|im_end\|>' in a and '<\|endoftext\|>' in b",
        id="end token",
    ),
    pytest.param(
        lambda folders: edit(folders["b"] / "tokenizer_config.json", extra_special_tokens=["7"]),
        r"the special id \d+ is absent in a and 'special' in b",
        id="one special token more",
    ),
    pytest.param(
        lambda folders: (folders["b"] / "chat_template.jinja").write_text("{{ messages[0].content }}"),
        r"the chat template is .* in a and '{{ messages\[0\]\.content }}' in b",
        id="chat template",
    ),
    pytest.param(
        lambda folders: rewrite_template(folders["b"], lambda text: text.replace("video_pad", "film_pad")),
        r"the chat template is \.\.\.\".{20}video_pad.*\"\.\.\. in a and \.\.\.\".{20}film_pad.*\"\.\.\. in b",
        id="far inside the chat template",
    ),
    pytest.param(
        lambda folders: edit(folders["b"] / "generation_config.json", eos_token_id=[101, 5]),
        "the end token 5 is absent in a and 'end' in b",
        id="one end token more",
    ),
    pytest.param(
        lambda folders: edit(folders["b"] / "generation_config.json", suppress_tokens=[7]),
        "the banned id 7 is absent in a and 'banned' in b",
        id="one banned token more",
    ),
    pytest.param(
        lambda folders: edit_pictures(folders["b"], image_mean=[0.5] * 3),
        r"the picture processor's 'image_processor' 'image_mean' is \[0\.1, .* in a and \[0\.5, .* in b",
        id="pictures",
    ),
]


@pytest.mark.parametrize(("change", "difference"), UNLIKE)
def test_branches_that_read_or_write_text_otherwise_are_refused_with_the_first_difference(copies, change, difference):
    change(copies)
    with pytest.raises(MergeError, match=f"^a and b do not share their vocabulary: {difference}"):
        merged_of(copies)


def rewrite_template(folder: Path, change) -> None:
    path = folder / "chat_template.jinja"
    path.write_text(change(path.read_text(encoding="utf-8")), encoding="utf-8")


def written_by_another_version(folders):
    for name in ("_name_or_path", "transformers_version", "torch_dtype"):
        edit(folders["b"] / "config.json", **{name: "4.57.0"})
    edit(folders["b"] / "config.json", use_cache=False, architectures=None)


ALIKE = [
    pytest.param(lambda folders: rewrite_template(folders["b"], lambda text: text + "\n"), id="a final newline"),
    pytest.param(
        lambda folders: rewrite_template(folders["b"], lambda text: "{# made by us #}" + text), id="a comment"
    ),
    pytest.param(written_by_another_version, id="bookkeeping"),
    pytest.param(
        lambda folders: edit_text_config(folders["b"], rope_theta=10000.0, rope_parameters=None, rope_scaling=ROPE),
        id="rope as former versions wrote it",
    ),
    pytest.param(lambda folders: edit_text_config(folders["b"], attention_bias=ABSENT), id="a default left out"),
    pytest.param(
        lambda folders: edit(folders["b"] / "generation_config.json", suppress_tokens=None),
        id="a mask that follows from the tokenizer",
    ),
    pytest.param(lambda folders: edit_text_config(folders["base"], rms_norm_eps=1e-3), id="a base of its own"),
]


@pytest.mark.parametrize("change", ALIKE)
def test_branches_that_compute_and_speak_alike_are_merged_however_their_files_spell_it(copies, change):
    change(copies)
    merged_of(copies, "ties")


OTHERWISE = [
    pytest.param({"rms_norm_eps": 1e-3}, r"text_config\.rms_norm_eps is 1e-06 in a and 0\.001 in b", id="a number"),
    pytest.param(
        {"rope_parameters": {**ROPE, "rope_theta": 12345.0}},
        r"text_config\.rope_parameters\.rope_theta is 10000\.0 in a and 12345\.0 in b",
        id="a nested number",
    ),
    pytest.param({"hidden_act": "gelu"}, r"text_config\.hidden_act is 'silu' in a and 'gelu' in b", id="a word"),
    pytest.param({"attention_bias": True}, r"text_config\.attention_bias is False in a and True in b", id="a default"),
    pytest.param({"window": 8}, r"text_config\.window is absent in a and 8 in b", id="a field of one alone"),
]


@pytest.mark.parametrize(("changes", "difference"), OTHERWISE)
def test_branches_whose_configuration_computes_otherwise_are_refused_with_field_values_and_folders(
    copies, changes, difference
):
    edit_text_config(copies["b"], **changes)
    with pytest.raises(MergeError, match=rf"^config\.json: {difference}; branches of a merge must compute alike$"):
        merged_of(copies)


@pytest.mark.parametrize("again", ["a", "link"])
def test_one_folder_is_no_two_branches(copies, again):
    (copies["a"].parent / "link").symlink_to(copies["a"])
    twins = [ModelFolder(copies["a"], "a"), ModelFolder(copies["a"].parent / again, again)]
    with pytest.raises(MergeError, match=f"^BRANCHES: a and {again} are one folder; give each once"):
        MergedFolders(twins, None, "mean", {})


def test_a_base_needs_the_branches_tokenizer_and_not_their_way_to_ask(copies):
    """No prompt is made by the base: one that was never trained to chat has a template of its own, or none."""
    edit_pictures(copies["base"], image_mean=[0.5] * 3)
    (copies["base"] / "chat_template.jinja").unlink()
    merged_of(copies, "ties")
    retokenize(copies["base"], normalizer={"type": "Lowercase"})
    with pytest.raises(MergeError, match="a and base do not share their vocabulary: the tokenizer's 'normalizer'"):
        merged_of(copies, "ties")


REFUSED = [
    pytest.param(damaged_shape, MergeError, rf"'{NORM}' is \[64\] in b and \[128\] in a", id="a shape"),
    pytest.param(damaged_base, MergeError, rf"'{NORM}' is \[64\] in base and \[128\] in a", id="the base's shape"),
    pytest.param(damaged_names, MergeError, rf"b and a differ in tensor '{NORM}': only a has it", id="a name"),
    pytest.param(untied, MergeError, r"'lm_head\.weight' is tied to the embeddings in a and not in b", id="tied"),
    pytest.param(
        lambda folders: change(folders["b"], {NORM: torch.zeros(128, dtype=torch.int32)}),
        ModelFolderError,
        rf"b: '{NORM}' is stored as I32; accepted: F64, F32, F16, BF16",
        id="whole numbers",
    ),
    pytest.param(
        lambda folders: change(folders["b"], {"lm_head.weight": torch.zeros(128, 128)}),
        ModelFolderError,
        r"b: 'lm_head\.weight' is tied by config\.json, but is not equal to '.*embed_tokens",
        id="a tied head of its own",
    ),
    pytest.param(
        without_embeddings,
        ModelFolderError,
        r"b: 'lm_head\.weight' is tied by config\.json, but no tensor ends in 'embed_tokens\.weight'",
        id="a tied head without embeddings",
    ),
    pytest.param(
        lambda folders: os.truncate(folders["b"] / WEIGHTS, 5_000_000),
        ModelFolderError,
        r"b: model\.safetensors cannot be read",
        id="weights that were cut off",
    ),
    pytest.param(
        lambda folders: (folders["b"] / WEIGHTS).rename(folders["b"] / "pytorch_model.bin"),
        ModelFolderError,
        r"b: neither model\.safetensors nor model\.safetensors\.index\.json is there",
        id="other weights",
    ),
    pytest.param(
        lambda folders: (folders["b"] / "config.json").rename(folders["b"] / "adapter_config.json"),
        ModelFolderError,
        "b: no model here but a LoRA adapter: merge it into its base first",
        id="an adapter",
    ),
    pytest.param(
        lambda folders: (folders["b"] / "config.json").write_text("{"),
        ModelFolderError,
        r"b: config\.json",
        id="config",
    ),
    pytest.param(
        lambda folders: (folders["b"] / "tokenizer.json").unlink(),
        ModelFolderError,
        "b: the tokenizer or processor cannot be loaded",
        id="no tokenizer",
    ),
]


@pytest.mark.parametrize(("damage", "error", "message"), REFUSED)
@pytest.mark.parametrize("method", ["mean", "ties"])
def test_folders_that_do_not_match_are_refused_by_name_before_anything_is_written(
    copies, damage, error, message, method
):
    damage(copies)
    with pytest.raises(error, match=message):
        merged_of(copies, method)


INDICES = [
    pytest.param("{", "is not an index of tensors", id="not JSON"),
    pytest.param("[]", "is not an index of tensors", id="a list"),
    pytest.param('{"weight_map": 3}', "is not an index of tensors", id="a number"),
    pytest.param('{"weight_map": {"w": 3}}', "is not an index of tensors", id="a file that is a number"),
    pytest.param('{"weight_map": {"w": "../b.safetensors"}}', r"'\.\./b\.safetensors'.*not in the folder", id="a path"),
    pytest.param('{"weight_map": {"w": "/etc/passwd"}}', "'/etc/passwd'.*not in the folder", id="a path from the root"),
    pytest.param('{"weight_map": {"w": "gone.safetensors"}}', r"gone\.safetensors cannot be read", id="a missing file"),
    pytest.param(
        '{"weight_map": {"w": "part.safetensors"}}', r"part\.safetensors cannot be read", id="a missing tensor"
    ),
]


@pytest.mark.parametrize(("index", "message"), INDICES)
def test_an_index_that_makes_no_sense_is_refused(copies, index, message):
    folder = copies["b"]
    (folder / WEIGHTS).rename(folder / "part.safetensors")
    (folder / INDEX).write_text(index, encoding="utf-8")
    with pytest.raises(ModelFolderError, match=message) as caught:
        ModelFolder(folder, "b")
    assert str(caught.value).startswith("b: ")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["b", "base"])
def test_a_value_that_is_not_finite_is_refused_with_tensor_and_folder_and_leaves_nothing(copies, tmp_path, value, name):
    spoiled = load_file(copies[name] / WEIGHTS)[NORM].index_fill(0, torch.tensor([7]), value)
    change(copies[name], {NORM: spoiled})
    with pytest.raises(MergeError, match=rf"'{NORM}' has a value that is not finite in {name}"):
        write_merged(merged_of(copies, "ties"), tmp_path / "out", "", shard_bytes=100_000)
    assert {path.name for path in tmp_path.iterdir()} == set(copies)


@pytest.mark.parametrize("method", ["task_arithmetic", "ties", "dare"])
def test_a_method_that_adds_to_the_base_names_the_option_where_there_is_none(folders, method):
    with pytest.raises(MergeError, match=f"--base: missing; method '{method}'"):
        merged_of({name: folders[name] for name in ("a", "b")}, method)


def test_a_folder_that_is_not_empty_is_left_as_it_was(folders, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    write_merged(merged_of(folders), out, "first")
    with pytest.raises(WriteError, match="cannot be written"):
        write_merged(merged_of(folders), out, "second")
    assert (out / "README.md").read_text(encoding="utf-8") == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_full_disk_is_named_and_leaves_nothing(folders, tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
    try:
        with pytest.raises(WriteError, match=f"{tmp_path / 'out'}: the merge cannot be written: .*too large"):
            write_merged(merged_of(folders), tmp_path / "out", "")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(tmp_path.iterdir())


def test_what_a_killed_merge_left_is_in_nobodys_way(folders, tmp_path):
    left = tmp_path / ".out.writing"
    left.mkdir()
    (left / "model-00009-of-00009.safetensors").write_bytes(b"half")
    write_merged(merged_of(folders), tmp_path / "out", "")
    assert not left.exists()
    assert [path.name for path in (tmp_path / "out").glob("*.safetensors")] == [WEIGHTS]


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="open files are counted where Linux lists them")
def test_no_open_files_are_left_behind(folders, tmp_path):
    before = len(os.listdir("/proc/self/fd"))
    write_merged(merged_of(folders), tmp_path / "out", "")
    assert len(os.listdir("/proc/self/fd")) == before
