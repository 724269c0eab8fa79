"""A run folder of given numbers: two branches, two phases, answers, samples with a picture and a video."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from copd.measure.evaluate import Answers, tabulate
from copd.report.comparison import comparison
from copd.report.page import COMPARISON, write_comparison, write_report
from copd.report.reading import read_runs
from copd.runs.pictures import keep_media
from copd.runs.runlog import REPORT
from copd.types import Problem

CAPABILITIES = ("text", "image")
PROBLEMS = 100
RIGHT = {
    ("base", "text"): range(40),
    ("base", "image"): range(60),
    ("text", "text"): range(70),
    ("text", "image"): range(20, 70),
    ("image", "text"): range(10, 50),
    ("image", "image"): range(80),
    ("merged", "text"): range(60),
    ("merged", "image"): range(62),
    ("student", "text"): range(5, 70),
    ("student", "image"): range(65),
    ("mixed", "text"): range(75),
    ("mixed", "image"): range(75),
}
"""Which problems each model answers right."""
MODELS = {
    "copd": ("base", "text", "image", "merged"),
    "expert": ("base", "text", "image"),
    "mixed": ("base", "mixed"),
    "merge_only": ("base", "text", "image", "merged"),
    "static_opd": ("base", "text", "image"),
    "mopd": ("base", "text", "image", "student"),
}
PRODUCTS = {"copd": "merged", "mixed": "mixed", "merge_only": "merged", "static_opd": "image", "mopd": "student"}


def answered(model: str, capability: str) -> Answers:
    greedy_P = torch.zeros(PROBLEMS, dtype=torch.float64)
    greedy_P[list(RIGHT[model, capability])] = 1
    return Answers(model, capability, f"digest of {capability}", greedy_P, 1, greedy_P.flip(0))


def matrix(names: tuple[str, ...], apart: float, same: float) -> dict[str, dict[str, float]]:
    return {a: {b: same if a == b else apart for b in names} for a in names}


def behaviour(step: int, phase: str, names: tuple[str, ...], overlap: float) -> dict[str, Any]:
    accuracy = {name: dict.fromkeys(CAPABILITIES, 0.5 + 0.01 * step) for name in names}
    return {"event": "behaviour", "step": step, "seconds": 2.0 * step + 3, "phase": phase, "kl_is_exact": True} | {
        "overlap": {"5": matrix(names, overlap, 1.0), "10": matrix(names, overlap + 0.01, 1.0)},
        "chance": {"5": 0.05, "10": 0.1},
        "mass_overlap": matrix(names, 0.99, 1.0),
        "symmetric_kl": matrix(names, 1 - overlap, 0.0),
        "accuracy": accuracy,
    }


def accuracy(step: int, names: tuple[str, ...]) -> dict[str, Any]:
    known = {name: "merged" if name == "mixed" else name for name in names}
    answers = [answered(known[name], capability) for name in names for capability in CAPABILITIES]
    table = [cell.as_record() for cell in tabulate(answers, ())]
    back = {model: name for name, model in known.items()}
    table = [{**cell, "model": back[cell["model"]]} for cell in table]
    return {"event": "accuracy", "step": step, "seconds": 2.0 * step + 3, "table": table}


def updates(steps: range, phase: str, names: tuple[str, ...]) -> list[dict[str, Any]]:
    common = {"event": "update", "phase": phase, "native/reward": 0.25, "native/groups_with_signal": 0.75}
    taught = {"from_text/delta_abs": 0.05} if phase == "opd" else {}
    return [
        {**common, "step": step, "seconds": 2.0 * step + 2, "branch": name, **(taught if name == "image" else {})}
        for step in steps
        for name in names
    ]


def lessons(steps: range, student: str) -> list[dict[str, Any]]:
    """Updates of a student that frozen experts teach: no native part at all."""
    only = {"event": "update", "phase": "consolidation", "branch": student, "from_text/reward": 0.5}
    only |= {"from_text/delta_abs": 0.05}
    return [{**only, "step": step, "seconds": 2.0 * step + 2} for step in steps]


def ledger(names: tuple[str, ...], phases: dict[str, int]) -> dict[str, Any]:
    spent = {
        name: {
            phase: {"rollouts": 8 * steps, "tokens_generated": 1234, "tokens_scored": 0, "tokens_trained": 1000}
            | {"collect_seconds": 1.5 * steps, "score_seconds": 0.5, "update_seconds": 2.0}
            for phase, steps in phases.items()
        }
        for name in names
    }
    total = sum(counts["rollouts"] for by_phase in spent.values() for counts in by_phase.values())
    return {"event": "ledger", "step": 3, "seconds": 20.0, "spent": spent, "planned_rollouts": total} | {
        "critical_path": dict.fromkeys(phases, 4.0)
    }


def adopted(names: tuple[str, ...]) -> dict[str, Any]:
    """The event of experts that had been trained for two steps by another run."""
    cost = ledger(names, {"rlvr": 2})
    return {"event": "experts", "step": 1, "seconds": 4.5, "taken_from": "elsewhere"} | {
        key: cost[key] for key in ("spent", "critical_path")
    }


def sample(
    step: int, branch: str, capability: str, folder: Path, names: tuple[str, ...], **changes: Any
) -> dict[str, Any]:
    grey = np.arange(16 * 32 * 3, dtype=np.uint8).reshape(16, 32, 3)
    video = np.stack([np.roll(grey, 4 * i, axis=1) for i in range(4)])
    media = {"images": (grey,), "videos": (video,)} if capability == "image" else {}
    problem = Problem(f"{capability}/validation/0/0", capability, "usual sum: 3 8", "1", "integer", **media)
    peers = [name for name in names if name != branch]
    return {"step": step, "phase": "opd", "branch": branch, "capability": capability, "problem": problem.id} | {
        "prompt": problem.prompt,
        "answer": problem.answer,
        "response": "3 8;11",
        "reward": 0.0,
        "tokens": ["3", " ", "8", ";", "11", "<|im_end|>"],
        "tokens_in_all": 6,
        "logp": [-0.1, 0.0, -0.2, -0.01, -1.5, -0.3],
        "delta": {peer: [0.01, 0.0, -0.4, 0.0, 2.0, None] for peer in peers},
        **keep_media(folder, problem),
        **changes,
    }


def write(path: Path, records: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def make(
    root: Path,
    name: str = "run",
    method: str = "copd",
    *,
    finished: bool = True,
    answers: bool = True,
    seed: int = 3,
    experts: bool = False,
    **changes: Any,
) -> Path:
    folder = root / name
    folder.mkdir()
    names = tuple(model for model in MODELS[method] if model not in ("base", "merged"))
    frozen = method in ("static_opd", "mopd")
    phases = {"rlvr": 2, "consolidation": 2} if frozen else {"rlvr": 2, "opd": 2} if method == "copd" else {"rlvr": 4}
    second = list(phases)[-1]
    learners = tuple(name for name in names if name != "student")
    records = [
        behaviour(-1, "start", names, 1.0),
        accuracy(-1, names),
        *([adopted(learners)] if experts else updates(range(2), "rlvr", learners)),
        behaviour(1, "rlvr", names, 0.8),
        *(lessons(range(2, 4), PRODUCTS[method]) if frozen else updates(range(2, 4), second, names)),
        {"event": "teaching", "step": 3, "seconds": 9.0, "student": "image", "teacher": "text", "weight": 1.0}
        | {"teacher_accuracy": 0.3, "student_accuracy": 0.5, "lead": -0.2, "lead_low": -0.3, "lead_high": -0.1},
        behaviour(3, second, names, 0.9),
        accuracy(3, names),
    ]
    told = [answered(model, capability) for model in MODELS[method] for capability in CAPABILITIES]
    if finished:
        table = [cell.as_record() for cell in tabulate(told, (1,))]
        product = {"product": PRODUCTS[method]} if method in PRODUCTS else {}
        records += [
            {**ledger(names, phases), **product},
            {"event": "result", "step": 3, "seconds": 21.0, "table": table},
        ]
    recipe = {"method": method, "seed": seed, "model": {"path": "builtin:digits", "device": "cpu"}} | {
        "branches": {capability: {"task": {"length": [2, 4], "operators": None}} for capability in CAPABILITIES}
    }
    manifest = {"recipe": recipe, "base_sha256": {"model.safetensors": "ab" * 32}, "python": "3.11.0"} | {
        "versions": {"copd": "0.1.0", "torch": "2.10.0", "transformers": "5.17.0"},
        "machine": "a machine",
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    write(folder / "metrics.jsonl", records)
    steps = [1, 3]
    samples = [sample(s, b, f, folder, names, **changes) for s in steps for b in names for f in CAPABILITIES]
    write(folder / "samples.jsonl", samples)
    if finished and answers:
        write(folder / "answers.jsonl", [a.as_record() for a in told])
    return folder


@pytest.fixture
def make_run(tmp_path) -> Callable[..., Path]:
    """Write a run folder: `make_run(name, method, finished=, answers=, seed=, experts=, ...)`, the rest for samples."""
    return partial(make, tmp_path)


@pytest.fixture(scope="session")
def side_by_side(tmp_path_factory) -> dict[str, Any]:
    """What a page says of a run of copd, one of experts and a mixed one."""
    root = tmp_path_factory.mktemp("three runs")
    return comparison(read_runs([make(root, "mine"), make(root, "experts", "expert"), make(root, "mixed", "mixed")]))


@pytest.fixture(scope="session")
def every_page(made_once) -> dict[str, Path]:
    """A report of each method, and a comparison of them all."""
    names = {method: method for method in MODELS} | {"copd": "co-evolving", "expert": "experts-of-a-long-name"}

    def draw(root: Path) -> None:
        root.mkdir()
        runs = [make(root, name, method, experts=method == "mopd") for method, name in names.items()]
        for run in runs:
            write_report(run)
        write_comparison(runs)

    root = made_once("every_page", draw)
    return {method: root / name / REPORT for method, name in names.items()} | {"comparison": root / COMPARISON}
