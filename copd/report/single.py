"""The contents of a page about each run by itself: likeness of branches, learning curves, samples."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from markupsafe import Markup

from copd.report import contents
from copd.report.figures import (
    draw_accuracy,
    draw_diagnostic,
    draw_divergence,
    draw_lessons,
    draw_merge,
    draw_overlap,
    draw_reward,
    draw_signal,
    figure_of,
)
from copd.report.reading import RunRecord

DIAGNOSTICS = (
    ("entropy", "Entropy", "Nats per token. Falls towards 0 while the reward does not rise: the policy has collapsed."),
    ("response_length", "Response length", "Tokens per response."),
    ("truncated_rate", "Truncated responses", "Share that the length limit ended; they earn 0 there."),
    ("grad_norm", "Gradient norm", "Of the step, before it is scaled to optimizer.max_grad_norm."),
    ("logp_mismatch", "Sampler against trainer", "Mean absolute difference of their log-probs, nats per token."),
)
"""Values of updates, with what they mean (docs/metrics.md)."""


def single(run: RunRecord, among: int = 1) -> dict[str, Any]:
    """The figures of a run, phases shaded, its matrices over time and its samples.

    On a page of `among` runs each has an equal share of the room for pictures, and its figures bear its label.
    """
    poor, looked = contents.poor_teachers(run)
    problems = contents.sampled_problems(run, contents.MOST_MEDIA_BYTES // among) if run.samples else []
    owner = f"{run.label}: " if among > 1 else ""
    warnings, more_warnings = contents.warnings(run)
    return {
        "run": run,
        "behaviour_figures": _behaviour_figures(run, owner),
        "training_figures": _training_figures(run, owner),
        "diagnostic_figures": _diagnostic_figures(run, owner),
        "matrices": contents.matrices(run),
        "warnings": warnings,
        "more_warnings": more_warnings,
        "poor": poor,
        "looked": looked,
        "problems": problems,
        "coloured": any(answer.get("teacher") for problem in problems for answer in problem["answers"]),
        "shaded": any(point["phase"] not in ("start", "rlvr") for point in run.events("behaviour")),
    }


def _behaviour_figures(run: RunRecord, owner: str) -> list[tuple[str, Markup, str]]:
    k = max(run.events("behaviour")[0]["overlap"], key=int)
    drawings = (
        (draw_overlap, f"Top-{k} overlap", "Both directions averaged. Higher is more alike."),
        (draw_divergence, "Symmetric KL", "Nats per token, both directions averaged. Lower is more alike."),
    )
    return _drawn(run, owner, drawings)


def _training_figures(run: RunRecord, owner: str) -> list[tuple[str, Markup, str]]:
    drawings = (
        (
            draw_accuracy,
            "Validation accuracy",
            "Greedy; each branch in its own capability, and on average over all. Level lines: the base.",
        ),
        (draw_merge, "Accuracy of the merge", "Greedy, on validation problems, of the branches' merge at that step."),
        (draw_reward, "Reward", "Of each branch's own rollouts, a mean over five steps."),
        (draw_signal, "Groups with signal", "Share of prompts whose responses differ in reward: only they teach."),
        (draw_lessons, "Lessons", "Mean absolute delta of teacher to student, within its bound, nats per token."),
    )
    return _drawn(run, owner, drawings)


def _diagnostic_figures(run: RunRecord, owner: str) -> list[tuple[str, Markup, str]]:
    drawings = [(partial(draw_diagnostic, name=name), title, text) for name, title, text in DIAGNOSTICS]
    return _drawn(run, owner, drawings)


def _drawn(run: RunRecord, owner: str, drawings: Sequence[tuple[Any, str, str]]) -> list[tuple[str, Markup, str]]:
    figures = [(title, figure_of(draw, run.records, f"{owner}{title}"), text) for draw, title, text in drawings]
    return [(title, drawing, text) for title, drawing, text in figures if drawing is not None]
