"""Jobs as actors of a real Ray cluster: their status, what they say, and that they stop with a checkpoint."""

import time
from importlib.metadata import version

import pytest

from copd.arms.on_ray import RayJob, cores
from copd.system.cluster import cluster

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def here():
    """A cluster of this machine."""
    with cluster(3):
        yield


def status_of(job: RayJob) -> int:
    while (status := job.poll()) is None:
        time.sleep(0.05)
    return status


def test_a_job_has_the_status_of_its_command_and_adds_what_it_says_to_its_log(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    log = tmp_path / "job.log"
    log.write_text("before\n")
    assert status_of(RayJob(["--version"], log)) == 0
    assert status_of(RayJob(["train", "nothing.yaml"], log.relative_to(tmp_path))) == 2
    said = log.read_text().splitlines()
    assert said[:2] == ["before", f"copd {version('copd')}"]
    assert said[2].startswith("error: recipe nothing.yaml")


def test_as_many_jobs_run_at_once_as_the_cluster_has_cores():
    assert cores() >= 3


def test_a_job_that_is_told_to_stop_stops_with_a_checkpoint(tmp_path):
    run, log = tmp_path / "run", tmp_path / "run.log"
    quick = ["sampling={prompts_per_step: 2, rollouts_per_prompt: 2, max_new_tokens: 20}", "backend=local"]
    job = RayJob(
        ["train", "demo-paper", *quick, "schedule={cycles: 1, rl_steps: 2000, opd_steps: 0}", "--out", str(run)], log
    )
    while not log.is_file() or "before the first step" not in log.read_text():
        assert job.poll() is None, log.read_text()
        time.sleep(0.1)
    job.terminate()
    job.wait()
    assert "stopped by SIGTERM" in log.read_text()
    assert job.poll() == 143
    assert list((run / "checkpoints").glob("step-*"))
