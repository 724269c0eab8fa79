"""The script for cards: what it asks for before it begins, how it judges, and the same code on a CPU."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from benchmarks import cards, gpu

ROOT = Path(__file__).parents[2]


def test_what_is_lacking_or_too_old_is_named_before_anything_begins(monkeypatch, capsys):
    monkeypatch.setattr(gpu, "NEEDED", {"torch": (99, 0), "no-such-package": (1, 2), "numpy": (1, 0)})
    monkeypatch.setattr(sys, "argv", ["gpu", "--dry-run"])
    assert gpu.main() == 1
    said = capsys.readouterr().err
    assert f"torch>=99.0 (found {gpu.version('torch')})" in said
    assert "no-such-package>=1.2" in said
    assert "numpy" not in said


def test_what_kernels_are_compiled_with_is_asked_for_before_a_card_computes(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(gpu, "find_spec", lambda name: None)
    monkeypatch.setattr(gpu.shutil, "which", lambda name: None)
    monkeypatch.setattr(gpu.sysconfig, "get_path", lambda name: str(tmp_path))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(sys, "argv", ["gpu"])
    assert gpu.main() == 1
    said = capsys.readouterr().err
    assert all(each in said for each in ("triton", "a C compiler", f"{tmp_path}/Python.h"))
    monkeypatch.undo()
    (tmp_path / "Python.h").touch()
    monkeypatch.setattr(gpu, "find_spec", lambda name: name)
    monkeypatch.setattr(gpu.shutil, "which", lambda name: name == "clang")
    monkeypatch.setattr(gpu.sysconfig, "get_path", lambda name: str(tmp_path))
    assert gpu.lacking_for_kernels() == []


def test_on_a_card_what_is_measured_is_kept_whatever_fails_or_ends_the_script_later(monkeypatch, tmp_path):
    def fails():
        raise IndexError("list index out of range")

    def ends():
        raise KeyboardInterrupt

    monkeypatch.setattr(gpu, "RESULTS", tmp_path / "gpu.json")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a card")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda card: SimpleNamespace(total_memory=80))
    monkeypatch.setattr(gpu, "of_the_small", lambda dry: {"attention": fails, "sampling": lambda: {"waits": 0.1}})
    monkeypatch.setattr(gpu, "of_the_large", lambda dry: {"speed": ends})
    with pytest.raises(KeyboardInterrupt):
        gpu.run(dry=False)
    found = json.loads(gpu.RESULTS.read_text())
    assert found["attention"] == {"left out": "IndexError: list index out of range"}
    assert found["sampling"] == {"waits": 0.1}
    assert "| waits | 0.1 |" in gpu.page(found)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a card")
def test_without_a_card_it_says_so(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["gpu"])
    assert gpu.main() == 1
    assert "torch sees no card; --dry-run" in capsys.readouterr().err


def test_the_page_is_that_of_the_numbers_there_are():
    found = json.loads(gpu.RESULTS.read_text()) if gpu.RESULTS.is_file() else None
    assert gpu.PAGE.read_text(encoding="utf-8") == gpu.page(found)


def test_goals_are_judged_by_the_numbers():
    found = {
        "card": "a card",
        "versions": {"torch": "2"},
        "speed": {"training": 300.0, "training, plain path": 101.0, "share of peak": 0.41},
        "memory": {"GRPO, 1 + 2": {"bytes": 111, "formula": 100}, "OPD, 1 + 2": {"bytes": None, "formula": 100}},
        "sampling": {"left out": "no room"},
    }
    page = gpu.page(found)
    assert "| training, share of the card's bfloat16 peak | 0.41 | at least 0.4 | yes |" in page
    assert "| training, packed over plain, prompt as long as 8 responses | 2.97 | at least 3.0 | no |" in page
    assert "| memory of a step, off the formula: GRPO, 1 + 2 | 0.11 | at most 0.1 | no |" in page
    assert "| memory of a step, off the formula: OPD, 1 + 2 | not measured | at most 0.1 | - |" in page
    assert "| left out | no room |" in page


def test_what_failed_for_want_of_memory_or_time_says_so_and_has_no_goal(monkeypatch):
    def greedy():
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate\nmore")

    said = {"left out": "OutOfMemoryError: CUDA out of memory. Tried to allocate"}
    assert gpu._done(greedy, began=gpu.time.monotonic()) == said
    assert gpu._done(greedy, began=gpu.time.monotonic() - gpu.SECONDS - 1) == {"left out": "420 seconds had passed"}
    left = {"left out": "420 seconds had passed"}
    lines = list(gpu._judged({"speed": left, "memory": left}))
    assert lines == []


def test_products_are_those_of_weights_and_pairs_and_a_card_has_the_peak_of_its_kind(monkeypatch):
    """A decoder of 10 weights beside an embedding of 8, 1 prompt of 2 tokens, 3 rows of 4: by hand."""
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H100 80GB")
    text = SimpleNamespace(vocab_size=4, hidden_size=2, num_hidden_layers=1, num_attention_heads=1, head_dim=2)
    decoder = torch.nn.ParameterList([torch.zeros(10), torch.zeros(4, 2)])
    model = SimpleNamespace(
        config=SimpleNamespace(get_text_config=lambda: text),
        get_decoder=lambda: SimpleNamespace(parameters=decoder.parameters),
    )
    policy = SimpleNamespace(device=torch.device("cuda"), model=model)
    forward = 2 * 10 * (2 + 12) + 2 * 8 * 12 + 4 * 2 * (2 + 3 * 4 * (2 + 2))
    assert cards.products(policy, 2, 3, 4) == forward
    assert cards.peak_of(policy) == 989e12
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "another card")
    assert cards.peak_of(policy) is None


@pytest.mark.parametrize("kind", cards.KINDS)
def test_prompts_have_about_as_many_tokens_as_are_asked_for(policy, kind):
    (problem,) = cards.problems(kind, 64, 1, side=16)
    assert problem.kind == kind
    assert 64 <= policy.encoder.lengths([problem])[0] <= 110


def test_sampled_responses_are_as_long_as_is_asked_for(policy):
    before = policy.end_ids
    rollouts = cards.sample(policy, cards.problems("text", 24, 1), cards.DRY)
    assert rollouts.mask_NT.sum(-1).tolist() == [cards.DRY.sampled] * cards.DRY.rows
    assert policy.end_ids is before


@pytest.mark.slow
def test_the_same_code_runs_on_a_cpu_with_the_tiny_model_and_writes_nothing():
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu", "--dry-run"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for name in ("log-probs", "attention", "sampling", "resume", "offload", "two branches", "speed", "memory"):
        assert f"### {name}" in done.stdout
    assert "| same bits | True |" in done.stdout
    assert "GRPO, 24 + 32" in done.stdout
