"""What `copd compare --dry-run` counts: the jobs that would run, each with its own numbers."""

import json

import pytest
import yaml

from copd.arms.outcomes import outcome_path, write_outcome
from copd.commands.compare import Order, dry_run, plan_of
from copd.measure.evaluate import Accuracy, Estimate

SAMPLING = {"prompts_per_step": 2, "rollouts_per_prompt": 4, "max_new_tokens": 12}
FILE = {
    "recipe": "demo-paper",
    "rollouts": 48,
    "problems": 3,
    "place": "recipe",
    "changes": {"schedule": {"cycles": 1, "rl_steps": 2, "opd_steps": 1}, "sampling": SAMPLING},
    "arms": {
        "expert": {"method": "expert"},
        "average": {"method": "merge_only"},
        "longer": {"method": "mixed", "sampling": {**SAMPLING, "max_new_tokens": 24}},
    },
}


@pytest.fixture
def order(tmp_path):
    """Jobs place their branches themselves, so that no minutes are measured."""
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump(FILE, sort_keys=False))
    return Order(file, (0,), tmp_path / "out", 1, lambda _: None)


def rows_of(order):
    return {name: (jobs, rollouts, tokens) for name, jobs, rollouts, tokens, _ in dry_run(order, search=False)}


def test_each_job_counts_with_its_own_length_of_responses(order):
    rows = rows_of(order)
    assert rows["rollouts/longer"] == ("1", "48", f"{48 * 24:,}")
    assert rows["all"] == ("4", "96", f"{48 * 12 + 48 * 24:,}")


def test_experts_are_counted_as_long_as_their_run_has_not_ended_and_a_missing_arm_begins_with_them(order, make_outcome):
    _, jobs = plan_of(order, search=False)
    (experts,) = (job for job in jobs if not job.arm)
    assert experts.name.partition("/")[0] in rows_of(order)
    ended = {"event": "result", "table": [Accuracy("text", "text", 1, Estimate(1.0, 1.0, 1.0)).as_record()]}
    metrics = experts.folder(order.out / "runs") / "metrics.jsonl"
    metrics.parent.mkdir(parents=True)
    metrics.write_text(json.dumps(ended) + "\n")
    assert rows_of(order).keys() == {"rollouts/expert", "rollouts/average", "rollouts/longer", "all"}
    metrics.unlink()
    for job in jobs:
        if job.needs:
            done = make_outcome(job.arm, fingerprint=job.fingerprint)
            write_outcome(outcome_path(job, order.out / "results"), done)
    assert rows_of(order).keys() == {"rollouts/longer", "all"}
