"""Where a model comes from, and what it computes on."""

from fnmatch import fnmatch

import pytest
import torch
from huggingface_hub.utils import are_progress_bars_disabled
from tiny_kinds import tiny_of_kind
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText
from transformers.utils import logging as library

from copd.errors import ModelFolderError
from copd.model import folders as load
from copd.model.folders import builtin_models, compute_on, loader_of, model_folder, read_config, write_checksums
from copd.model.policy import Policy
from copd.system.files import sha256
from copd.system.hub import commit_of


@pytest.fixture
def assets(tmp_path, monkeypatch):
    """A package folder with one model in its assets."""
    monkeypatch.setattr(load, "files", lambda package: tmp_path)
    model = tmp_path / "assets" / "small"
    model.mkdir(parents=True)
    (model / "config.json").write_text("{}", encoding="utf-8")
    (model / "model.safetensors").write_bytes(bytes(range(256)))
    write_checksums(model)
    (tmp_path / "assets" / "unfinished").mkdir()
    return tmp_path / "assets"


def test_a_folder_is_taken_as_it_is(tmp_path):
    assert model_folder(str(tmp_path)) == tmp_path


def test_a_folder_that_is_not_there_is_named_with_what_there_is(assets, tmp_path):
    with pytest.raises(ModelFolderError, match=r"model\.path.*nowhere.*builtin:small"):
        model_folder(str(tmp_path / "nowhere"))


def test_a_builtin_model_is_found_by_its_name(assets):
    assert builtin_models() == ["builtin:small"]
    assert model_folder("builtin:small") == assets / "small"


def test_loading_and_saving_show_no_bars_and_leave_those_of_the_program_as_they_were(tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(library, "_tqdm_active", True)
    made = []
    before = library.set_tqdm_hook(lambda make, given, named: made.append(make) or make(*given, **named))
    hub = are_progress_bars_disabled()
    try:
        Policy.from_pretrained(model_folder("builtin:digits")).save(tmp_path / "copy", "")
        assert (made, capfd.readouterr().err) == ([], "")
        assert are_progress_bars_disabled() == hub
        library.tqdm(range(2), disable=True)
        assert len(made) == 1
    finally:
        library.set_tqdm_hook(before)
    assert (tmp_path / "copy" / "model.safetensors").is_file()


@pytest.mark.parametrize("name", ["builtin:large", "builtin:", "builtin:unfinished", "builtin:../assets/small"])
def test_an_unknown_builtin_model_is_refused(assets, name):
    with pytest.raises(ModelFolderError, match="no builtin model"):
        model_folder(name)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_builtin_model_that_was_changed_is_refused_by_its_sum(assets, name):
    path = assets / "small" / name
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    with pytest.raises(ModelFolderError, match=f"{name}: missing or damaged"):
        model_folder("builtin:small")


def test_a_builtin_model_that_lacks_a_file_is_refused(assets):
    (assets / "small" / "model.safetensors").unlink()
    with pytest.raises(ModelFolderError, match=r"model\.safetensors: missing or damaged"):
        model_folder("builtin:small")


def test_the_models_that_ship_with_the_package_are_whole():
    for name in builtin_models():
        assert (model_folder(name) / "config.json").is_file()


def test_checksums_are_those_of_sha256sum_and_leave_themselves_out(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    for _ in range(2):
        write_checksums(tmp_path)
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert sha256(tmp_path / "a") == digest
    assert (tmp_path / "SHA256SUMS").read_text(encoding="utf-8") == f"{digest}  a\n"


@pytest.mark.parametrize(
    ("kind", "auto_class", "tag"),
    [
        ("qwen3_vl", AutoModelForImageTextToText, "image-text-to-text"),
        ("gemma3", AutoModelForImageTextToText, "image-text-to-text"),
        ("gemma3_text", AutoModelForCausalLM, "text-generation"),
        ("qwen3", AutoModelForCausalLM, "text-generation"),
    ],
)
def test_a_model_of_text_only_is_loaded_by_another_class(tmp_path, kind, auto_class, tag):
    model, _ = tiny_of_kind(kind)
    model.config.save_pretrained(tmp_path)
    assert loader_of(model.config) == loader_of(read_config(tmp_path)) == (auto_class, tag)


@pytest.mark.parametrize(("dtype", "autocast"), [("auto", None), ("float32", None), ("bfloat16", torch.bfloat16)])
def test_a_cpu_computes_in_float32_unless_told_otherwise(dtype, autocast):
    assert compute_on("cpu", dtype) == (torch.device("cpu"), autocast)


@pytest.mark.parametrize(
    ("cuda", "mps", "device", "autocast"),
    [(True, False, "cuda:0", torch.bfloat16), (True, True, "cuda:0", torch.bfloat16), (False, True, "mps", None)],
)
def test_auto_takes_cuda_in_bfloat16_before_mps(monkeypatch, cuda, mps, device, autocast):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert compute_on("auto", "auto") == (torch.device(device), autocast)
    assert compute_on("auto", "float32") == (torch.device(device), None)


def test_a_card_has_one_name(monkeypatch):
    """So that branches given cuda and cuda:0 take turns on it."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert compute_on("cuda", "auto")[0] == compute_on("cuda:0", "auto")[0] == torch.device("cuda", 0)
    assert compute_on("cuda:1", "auto")[0] == torch.device("cuda", 1)


def test_a_device_that_is_not_there_is_named_with_those_that_are(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(ModelFolderError, match=r"model\.device: 'cuda' is not available here; there is cpu"):
        compute_on("cuda", "auto")


COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """The hub's cache without a network: one model, `org/small`, at one commit."""
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    snapshot = tmp_path / "models--org--small" / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}", encoding="utf-8")
    return snapshot


def test_a_hub_id_at_a_commit_is_the_snapshot_in_the_cache(hub):
    assert model_folder("org/small", revision=COMMIT) == hub


def test_the_commit_may_stand_in_the_path(hub):
    assert model_folder(f"org/small@{COMMIT}") == hub


@pytest.mark.parametrize("at", ["-main", "../main", "a b", ""])
def test_what_stands_behind_the_at_is_a_commit_branch_or_tag(hub, at):
    with pytest.raises(ModelFolderError, match=rf"MODEL: no folder 'org/small@{at}'; .*as ORGANISATION/NAME@main"):
        model_folder(f"org/small@{at}", "MODEL")


@pytest.mark.parametrize("at", ["main", COMMIT[:7], COMMIT.upper(), COMMIT + "0"])
def test_a_branch_that_neither_the_hub_nor_the_cache_knows_is_told(hub, at):
    with pytest.raises(ModelFolderError, match=rf"^MODEL: revision '{at}' of org/small is not known here, and the hub"):
        model_folder(f"org/small@{at}", "MODEL")


def test_a_branch_is_the_commit_that_the_cache_has_for_it(hub):
    refs = hub.parent.parent / "refs" / "release"
    refs.mkdir(parents=True)
    (refs / "one").write_text(COMMIT)
    commit_of.cache_clear()
    assert model_folder("org/small", revision="release/one") == model_folder("org/small@release/one") == hub


def test_a_commit_is_not_given_twice(hub):
    with pytest.raises(ModelFolderError, match="no folder"):
        model_folder(f"org/small@{COMMIT}", revision=COMMIT)


def test_a_hub_id_without_a_commit_is_refused_though_it_is_in_the_cache(hub):
    with pytest.raises(ModelFolderError, match=r"model\.path: no folder 'org/small'.*hub id with a commit, branch"):
        model_folder("org/small")


def test_a_commit_that_cannot_be_fetched_is_named_with_its_model(hub):
    other = COMMIT[::-1]
    with pytest.raises(ModelFolderError, match=rf"^MODEL: 'org/small' at {other} cannot be fetched: \S"):
        model_folder(f"org/small@{other}", "MODEL")
    with pytest.raises(ModelFolderError, match=rf"^model\.path: 'org/small' at {other} cannot be fetched: \S"):
        model_folder("org/small", revision=other)


def test_a_download_is_said_before_it_begins_and_what_is_there_is_not(hub, caplog):
    model_folder("org/small", revision=COMMIT)
    assert caplog.messages == []
    with pytest.raises(ModelFolderError):
        model_folder("org/other", revision=COMMIT)
    assert caplog.messages == [f"fetching org/other at {COMMIT} ..."]


def test_a_download_tells_how_far_it_is(hub, monkeypatch, caplog):
    def fetched(*_, tqdm_class, **__):
        with tqdm_class(total=0, unit="B", unit_scale=True, desc="Downloading", disable=True) as bar:
            bar.total = 8_900_000_000
            bar.update(1_200_000_000)
            bar.refresh()
        return str(hub)

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetched)
    model_folder("org/small", revision=COMMIT)
    assert caplog.messages == ["fetched 1.2 of 8.9 GB"]


def test_an_error_of_the_hub_that_says_nothing_is_named(hub, monkeypatch):
    def silent(*args, **given):
        raise TimeoutError

    monkeypatch.setattr("huggingface_hub.snapshot_download", silent)
    with pytest.raises(ModelFolderError, match=rf"at {COMMIT} cannot be fetched: TimeoutError$"):
        model_folder("org/small", revision=COMMIT)


@pytest.mark.parametrize("path", ["builtin:small", "folder"])
def test_a_commit_beside_a_folder_is_refused(assets, tmp_path, path):
    (tmp_path / "folder").mkdir()
    path = path if path.startswith("builtin") else str(tmp_path / path)
    with pytest.raises(ModelFolderError, match=r"model\.revision: .*no hub id"):
        model_folder(path, revision=COMMIT)


@pytest.mark.parametrize("path", ["small", "a/b/c", "../small", "https://host/org/small", "org/small@main"])
def test_what_is_neither_a_folder_nor_a_hub_id_is_refused(hub, path):
    with pytest.raises(ModelFolderError, match="no folder"):
        model_folder(path, revision=COMMIT)


def test_neither_pickled_weights_nor_code_are_asked_of_the_hub(hub, monkeypatch):
    asked = {}
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *args, **given: asked.update(given) or str(hub))
    model_folder("org/small", revision=COMMIT)
    names = ["model.safetensors", "config.json", "pytorch_model.bin", "model.pt", "weights.pkl", "modeling.py"]
    taken = [name for name in names if any(fnmatch(name, pattern) for pattern in asked["allow_patterns"])]
    assert taken == names[:2]
    assert asked["revision"] == COMMIT
